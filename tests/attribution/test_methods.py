"""The methods from the field, each against its formula in a naive loop, and what all of them must keep."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum.attr import NoiseTunnel, Occlusion, Saliency
from PIL import Image
from torch import Tensor, nn

import ais
from ais.attribution import passes
from ais.attribution.faithfulness.deletion import step_scores
from ais.attribution.forward import ForwardPass, forward
from ais.attribution.methods import METHODS, integrated_gradients, rise, scorecam, smoothgrad
from ais.backbones.frozen import FrozenBackbone
from ais.heads.loading import load_head_cached, single_head
from ais.heads.regression import RegressionHead
from helpers.heads import change_head, make_head
from helpers.networks import forward_pass

FIELD = ("layercam", "integrated_gradients", "smoothgrad", "scorecam", "rise")

PER_VARIANT = ("gradcam", "layercam", "occlusion", "scorecam", "rise")

PRUNED = [1, 4, 6]


@pytest.fixture(params=["square", "wide", "pruned", "general"])
def seen(
    request: pytest.FixtureRequest,
    tiny: FrozenBackbone,
    tiny_general: FrozenBackbone,
    tiny_head: RegressionHead,
) -> ForwardPass:
    size = (40, 72) if request.param == "wide" else (64, 64)
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    if request.param == "pruned":
        tiny_head = change_head(tiny_head, pruned=PRUNED).double()
    if request.param == "general":
        tiny_head.keep = torch.ones(8, dtype=torch.bool)
        return forward_pass(tiny_general, tiny_head, image)
    return forward_pass(tiny, tiny_head, image)


def draw(method: str, seen: ForwardPass) -> Tensor:
    points: Tensor = METHODS[method].draw(seen, torch.zeros(1, seen.features.maps.shape[1])).points
    return points


def naive_scores(seen: ForwardPass, image: Tensor) -> Tensor:
    """(K,) of one input, by the whole network."""
    maps, *side_inputs = seen.backbone.trunk(image)
    kept = maps * seen.head.keep[:, None, None]
    return seen.head(seen.backbone.tail(kept, *side_inputs))[0]


def naive_cells(pixels: Tensor) -> Tensor:
    """Sums over cells of the tiny inputs, whose sides are 2 pixels at 64 and 1 at 40."""
    side = max(1, min(pixels.shape) // 28)
    height, width = (length // side for length in pixels.shape)
    return pixels.view(height, side, width, side).sum((1, 3))


def difference(scores: list[Tensor], masks: list[Tensor]) -> Tensor:
    """The mean score where a place is shown less the one where it is hidden: (K, h, w)."""
    shown = sum(m * s[:, None, None] for s, m in zip(scores, masks, strict=True)) / sum(masks)
    hidden = sum((1 - m) * s[:, None, None] for s, m in zip(scores, masks, strict=True))
    return shown - hidden / sum(1 - m for m in masks)


@pytest.mark.parametrize("method", ["gradcam", "layercam"])
def test_gradients_at_the_maps_are_each_variants_own(method: str, seen: ForwardPass) -> None:
    found = draw(method, seen)
    for k, grid in enumerate(found):
        maps = seen.features.maps.clone().requires_grad_()
        score = seen.head(seen.backbone.tail(maps, *seen.features.side_inputs))[0, k]
        (gradient,) = torch.autograd.grad(score, maps)
        if method == "gradcam":
            gradient = gradient.mean((2, 3), keepdim=True)
        torch.testing.assert_close(grid, (gradient * maps).sum(1)[0].detach())
    assert found.min() < 0 < found.max()


def test_occlusion_is_captums_for_every_variant(seen: ForwardPass) -> None:
    found = draw("occlusion", seen)
    step = max(1, min(seen.image.shape[-2:]) // 14)
    for k, grid in enumerate(found):
        change = Occlusion(
            lambda images, k=k: torch.stack([naive_scores(seen, one[None])[k] for one in images])
        ).attribute(
            seen.image,
            sliding_window_shapes=(3, 2 * step, 2 * step),
            strides=(3, step, step),
            perturbations_per_eval=8,
        )
        cells = F.adaptive_avg_pool2d(change.mean(1, keepdim=True), grid.shape)[0, 0].detach()
        torch.testing.assert_close(grid, cells.double(), atol=1e-5, rtol=1e-5)


def test_integrated_gradients_add_up_to_the_score_less_that_of_grey(seen: ForwardPass) -> None:
    found = draw("integrated_gradients", seen)
    with torch.no_grad():
        grey = naive_scores(seen, torch.zeros_like(seen.image)).mean()
        expected = naive_scores(seen, seen.image).mean() - grey
    assert found.sum().item() == pytest.approx(expected.item(), abs=1e-9)
    pixels = torch.zeros_like(seen.image)
    for n in range(300):  # the middles of 300 steps, one at a time
        image = (seen.image * (n + 0.5) / 300).requires_grad_()
        (gradient,) = torch.autograd.grad(naive_scores(seen, image).mean(), image)
        pixels += gradient * seen.image / 300
    oracle = naive_cells(pixels.sum(1)[0])
    torch.testing.assert_close(found[0], oracle, atol=0.02 * oracle.abs().max().item(), rtol=0)
    assert found.min() < 0 < found.max()


@pytest.mark.parametrize("name", ["coffee", "chelsea"])
def test_integrated_gradients_add_up_on_photographs(name: str) -> None:
    """With real weights and the shipped steps: 32 equal ones missed 1 point of the coffee's."""
    import skimage.data

    head = single_head(load_head_cached("beauty-efficientnet-lite0")).on("cpu")
    seen = forward(Image.fromarray(getattr(skimage.data, name)()), head, "cpu")
    found = draw("integrated_gradients", seen)
    grey, score = passes.variant_scores(seen, torch.cat([0 * seen.image, seen.image])).mean(1).double()
    assert found.sum().item() == pytest.approx((score - grey).item(), abs=1e-4)
    assert found.abs().sum() > 5


def wild(seen: ForwardPass, images: Tensor) -> Tensor:
    """A score that turns quickly near grey, where each pixel also counts by its place."""
    weights = torch.linspace(-1, 2, images[0].numel(), dtype=images.dtype).view(images.shape[1:])
    way = (images * weights).sum((1, 2, 3)) / (seen.image * weights).sum()
    return torch.sin(3 / (way + 0.05)) + way


@pytest.mark.parametrize(("most", "steps"), [(8, 8), (16, 16), (512, 128)])
def test_steps_are_halved_until_little_is_missing(
    most: int,
    steps: int,
    tiny: FrozenBackbone,
    tiny_head: RegressionHead,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The trapezoidal rule on ``t ** 3``; no pass twice; what is missing is shared out, or said if it is much."""
    image = torch.randn(1, 3, 56, 56, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    seen = forward_pass(tiny, tiny_head, image)
    given: list[Tensor] = []
    monkeypatch.setattr(integrated_gradients, "STEPS", 8)
    monkeypatch.setattr(integrated_gradients, "MOST_STEPS", most)
    monkeypatch.setattr(
        integrated_gradients, "differentiable_score", lambda *a: given.append(a[1].detach()) or wild(*a)
    )
    found = draw("integrated_gradients", seen)[0]
    shares = (torch.cat(given) / seen.image).mean((1, 2, 3))
    ends = (torch.arange(steps + 1, dtype=torch.float64) / steps) ** 3
    torch.testing.assert_close(shares.sort().values, ends)
    cells = []
    for share in ends:
        image = (share * seen.image).requires_grad_()
        (gradient,) = torch.autograd.grad(wild(seen, image).sum(), image)
        cells.append(naive_cells((gradient * seen.image).sum(1)[0]))
    oracle = sum((b - a) * (cells[n] + cells[n + 1]) / 2 for n, (a, b) in enumerate(itertools.pairwise(ends)))
    missing = (wild(seen, seen.image) - wild(seen, 0 * seen.image)).item() - oracle.sum().item()
    if most == 512:
        assert abs(missing) < 0.02
        oracle += missing * oracle.abs() / oracle.abs().sum()
        assert not caplog.messages
    else:
        assert abs(missing) > 0.02
        assert f"after {steps} steps {missing:+.2f} points are missing" in caplog.text
    torch.testing.assert_close(found, oracle)


def test_smoothgrad_is_captums_with_the_same_noise(
    seen: ForwardPass, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = draw("smoothgrad", seen)
    generator = torch.Generator().manual_seed(0)
    noise = [torch.randn(seen.image.shape[1:], generator=generator) for _ in range(smoothgrad.SAMPLES)]

    def add_noise(image: Tensor, deviation: float, count: int) -> Tensor:
        return image + deviation * torch.stack(noise).double()

    monkeypatch.setattr(NoiseTunnel, "_add_noise_to_input", staticmethod(add_noise))
    gradient = NoiseTunnel(
        Saliency(lambda images: torch.stack([naive_scores(seen, one[None]).mean() for one in images]))
    ).attribute(
        seen.image,
        nt_samples=smoothgrad.SAMPLES,
        stdevs=0.15 * (seen.image.max() - seen.image.min()).item(),
        abs=False,
    )
    torch.testing.assert_close(found[0], naive_cells((gradient * seen.image).sum(1)[0].detach()))
    assert found.min() < 0 < found.max()


def test_scorecam_is_what_each_map_shows(seen: ForwardPass, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorecam, "MAPS", 5)
    made = METHODS["scorecam"].draw(seen, torch.zeros(1, 12))
    active = seen.features.maps[0].relu()
    varied = sorted(active, key=lambda own: -own.std(correction=0).item())[:5]
    scores, shown = [], []
    for own in varied:
        mask = F.interpolate(own[None, None], seen.image.shape[-2:], mode="bilinear")[0, 0]
        mask = (mask - mask.min()) / (mask.max() - mask.min())
        scores.append(naive_scores(seen, seen.image * mask).detach())
        shown.append(F.adaptive_avg_pool2d(mask[None], own.shape)[0])
    torch.testing.assert_close(made.points, difference(scores, shown))
    mean = torch.stack(scores).mean(0)
    weighted = sum((score - mean)[:, None, None] * own for score, own in zip(scores, varied, strict=True))
    torch.testing.assert_close(made.relative, weighted)
    assert made.points.min() < 0 < made.points.max()


def test_rise_is_shown_less_hidden(seen: ForwardPass, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rise, "MASKS", 40)
    found = draw("rise", seen)
    drawn = rise.random_masks(*seen.image.shape[-2:])
    masks = [next(drawn).double() for _ in range(40)]
    scores = [naive_scores(seen, seen.image * mask).detach() for mask in masks]
    side = max(1, min(seen.image.shape[-2:]) // 28)
    torch.testing.assert_close(found, difference(scores, [naive_cells(m) / side**2 for m in masks]))
    assert found.min() < 0 < found.max()


def test_masks_show_half_of_the_picture_smoothly() -> None:
    drawn = rise.random_masks(56, 100)
    masks = torch.stack([next(drawn) for _ in range(400)])
    assert masks.shape == (400, 56, 100)
    assert 0 <= masks.min() < masks.max() <= 1
    np.testing.assert_allclose(masks.mean(0), 0.5, atol=0.12)
    assert masks.diff(dim=1).abs().max() < 0.2  # a cell has 8 pixels


def test_shown_less_hidden_finds_the_sign_and_knows_no_constant() -> None:
    masks = torch.tensor([[[1.0, 0.0, 1.0]], [[0.0, 1.0, 1.0]]])
    scores = torch.tensor([[5.0], [2.0]])
    wanted = torch.tensor([[[3.0, -3.0, 0.0]]], dtype=torch.float64)  # the last is never hidden
    torch.testing.assert_close(passes.shown_less_hidden(scores, masks), wanted)
    torch.testing.assert_close(passes.shown_less_hidden(scores + 100, masks), wanted)


def test_cells_of_any_input_keep_the_sum() -> None:
    values = torch.randn(2, 61, 145, dtype=torch.float64)
    sums = passes.cell_sums(values)
    assert sums.shape == (2, 30, 72)
    torch.testing.assert_close(sums.sum((1, 2)), values.sum((1, 2)))
    assert passes.cell_sums(torch.ones(224, 224)).shape == (28, 28)


@pytest.mark.parametrize("method", METHODS)
def test_variants_progress_and_passes(
    method: str, tiny: FrozenBackbone, tiny_head: RegressionHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The map of a head is the mean of its variants'; a slow method says how far it is, and stops when told."""
    seen = forward_pass(tiny, tiny_head, torch.randn(1, 3, 64, 64, dtype=torch.float64))
    entry = METHODS[method]
    importance = torch.randn(3, 12, dtype=torch.float64)
    told: list[tuple[int, int]] = []
    last = [lambda done, total: told.append((done, total))] if entry.slow else []
    made = entry.draw(seen, importance, *last).points
    assert torch.isfinite(made).all()
    if method in PER_VARIANT:
        assert len(made) == 3
    assert entry.slow == bool(told)
    assert all(0 <= done < total for done, total in told)
    assert told == sorted(told)
    if entry.slow:

        def stop(done: int, total: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            entry.draw(seen, importance, stop)
        assert entry.passes > 1
    again = entry.draw(seen, importance).points
    assert torch.equal(again, made)
    assert not made.requires_grad
    assert not any(module._forward_hooks or module._backward_hooks for module in tiny.modules())
    assert all(parameter.grad is None for parameter in tiny.parameters())
    assert not seen.image.requires_grad
    assert not seen.features.maps.requires_grad


class Measured(nn.Module):
    """A part of a network that notes the most pixels it was handed at once, and what it passes through."""

    def __init__(self, part: nn.Module, pixels: int) -> None:
        super().__init__()
        self.part, self.pixels = part, pixels
        self.most = self.most_back = 0

    def forward(self, images: Tensor, *rest: Tensor) -> Any:
        back = torch.is_grad_enabled() and images.requires_grad
        name = "most_back" if back else "most"
        setattr(self, name, max(getattr(self, name), len(images) * self.pixels))
        return self.part(images, *rest)


@pytest.mark.parametrize("size", [(56, 56), (56, 224), (112, 448)])
@pytest.mark.parametrize("method", [*METHODS, "deletion"])
def test_the_network_is_never_handed_more_pixels_than_the_bound(
    method: str, size: tuple[int, int], tiny_general: FrozenBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However large the input is: one at a time, if there is no room for two."""
    monkeypatch.setattr(passes, "_USUAL", 56 * 56)  # all is a quarter as long as it would be
    tiny_general.float()
    head = make_head(variants=20, dim=12, channels=8, layer=tiny_general.layer)
    image = torch.randn(1, 3, *size)
    seen = forward_pass(tiny_general, head, image)
    tiny_general.places(seen.features)  # it looks into the tail, once
    pixels = size[0] * size[1]
    trunk, tail = Measured(tiny_general.trunk, pixels), Measured(tiny_general.tail, pixels)
    monkeypatch.setattr(tiny_general, "trunk", trunk)
    monkeypatch.setattr(tiny_general, "tail", tail)
    if method == "deletion":
        step_scores(tiny_general, head, image, [torch.randn(7, 7)], "grey", 30)
    else:
        METHODS[method].draw(seen, torch.zeros(1, 8))
    for part in (trunk, tail):
        assert part.most <= max(pixels, 16 * 56 * 56)
        assert part.most_back <= max(pixels, 8 * 56 * 56)
    if method in ("deletion", "gradcam", "layercam") or METHODS[method].slow:
        assert max(tail.most, 2 * tail.most_back) >= 8 * 56 * 56  # and not needlessly few


@pytest.mark.parametrize(
    ("height", "width", "fit"), [(224, 224, 16), (260, 260, 11), (448, 448, 4), (448, 1792, 1)]
)
def test_as_many_inputs_as_have_the_pixels_of_sixteen(height: int, width: int, fit: int) -> None:
    assert passes.batch_size(torch.empty(1, 3, height, width)) == fit
    assert passes.batch_size(torch.empty(1, 3, height, width), 8) == max(1, fit // 2)
    assert passes.batch_size(torch.empty(1, 3, 2 * height, 2 * width), 8) == max(1, fit // 8)


@pytest.mark.parametrize("method", FIELD)
def test_batches_and_the_worlds_random_numbers_change_nothing(
    method: str, seen: ForwardPass, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_rng_state()
    made = draw(method, seen)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(5)
    for module in (integrated_gradients, smoothgrad, rise, scorecam):
        monkeypatch.setattr(module, "batch_size", lambda *_: 3)
    torch.testing.assert_close(draw(method, seen), made)


@pytest.mark.parametrize("method", ["scorecam", "rise", "occlusion", "smoothgrad", "integrated_gradients"])
def test_a_head_that_knows_nothing_has_an_empty_map(method: str, seen: ForwardPass) -> None:
    seen.head.weight2.zero_()
    hidden = seen.head.hidden(seen.features.embedding)
    assert draw(method, dataclasses.replace(seen, hidden=hidden)).abs().max() == pytest.approx(0, abs=1e-12)


def test_scorecam_of_silent_maps_is_empty(tiny: FrozenBackbone, tiny_head: RegressionHead) -> None:
    head = change_head(tiny_head, pruned=list(range(12))).double()
    seen = forward_pass(tiny, head, torch.randn(1, 3, 64, 64, dtype=torch.float64))
    assert not draw("scorecam", seen).any()


@pytest.mark.parametrize("method", FIELD)
def test_the_number_of_passes_is_what_the_network_is_given(
    method: str, photograph: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []

    def counting(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(seen: ForwardPass, images: Tensor) -> Any:
            counts.append(len(images))
            return torch.zeros(len(images), 2) + images.mean((1, 2, 3))[:, None]

        def scalar(seen: ForwardPass, images: Tensor) -> Any:
            return call(seen, images).mean(1)

        return scalar if function is passes.differentiable_score else call

    for module in (integrated_gradients, rise, scorecam, passes):
        for name in ("variant_scores", "differentiable_score"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, counting(getattr(passes, name)))
    ais.explain(photograph, method=method)
    assert sum(counts) == (METHODS[method].passes if METHODS[method].slow else 0)
