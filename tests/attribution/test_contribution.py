"""The method contribution: shares that add up; the baseline of a typical picture; what the variants of a head say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

import ais
from ais.attribution.baselines import BASELINES
from ais.attribution.importance import path_gradient
from ais.attribution.kinds import KINDS
from ais.attribution.methods import METHODS
from ais.attribution.methods.contribution import contribution
from ais.backbones.frozen import FrozenBackbone
from ais.heads.loading import load_head, single_head
from ais.heads.regression import RegressionHead
from helpers.heads import change_head, make_head, save_stack, small_members
from helpers.networks import PREPROCESSING, add_backbone, forward_pass, make_backbone


@contextmanager
def places_of(backbone: FrozenBackbone) -> Iterator[list[Tensor]]:
    """What the tiny network pools, caught on its way."""
    caught: list[Tensor] = []
    handle = backbone.network.pool.register_forward_hook(
        lambda module, inputs, output: caught.append(inputs[0])
    )
    yield caught
    handle.remove()


def naive(head: RegressionHead, places: Tensor, steps: int = 20_000) -> Tensor:
    """Every place's share by the gradient at many points of the line from the typical embedding: (h, w)."""
    start, end = head.typical, places.mean((1, 2))
    total = torch.zeros_like(start)
    for part in ((torch.arange(steps, dtype=start.dtype) + 0.5) / steps).split(1000):
        line = (start + part[:, None] * (end - start)).requires_grad_()
        total += torch.autograd.grad(head.score(line).sum(), line)[0].sum(0)
    away = places - start[:, None, None]
    return torch.einsum("d,dhw->hw", total / steps, away) / away[0].numel()


def test_a_place_has_its_share_of_the_way(tiny: FrozenBackbone, tiny_head: RegressionHead) -> None:
    picture = torch.randn(1, 3, 64, 80, dtype=torch.float64)
    drawn = contribution(forward_pass(tiny, tiny_head, picture), torch.zeros(0, 0))
    with places_of(tiny) as caught:
        tiny.network(picture)
    oracle = naive(tiny_head, caught[0][0])
    torch.testing.assert_close(drawn.points.mean(0), oracle, rtol=1e-3, atol=1e-4 * oracle.abs().max().item())
    difference = tiny_head(tiny.network(picture)) - tiny_head(tiny_head.typical[None])
    torch.testing.assert_close(
        drawn.points.sum((1, 2)), difference[0], rtol=1e-12, atol=1e-12
    )  # of each variant
    assert drawn.importance is not None
    torch.testing.assert_close(drawn.importance.sum(1), difference[0], rtol=1e-12, atol=1e-12)


def test_it_is_integrated_gradients_of_the_embedding(tiny_head: RegressionHead) -> None:
    embedding = torch.randn(1, 12, dtype=torch.float64)
    gradient = path_gradient(
        tiny_head.hidden(tiny_head.typical[None]), tiny_head.hidden(embedding), tiny_head
    )
    shares = gradient.mean(1) * (embedding - tiny_head.typical)
    oracle = IntegratedGradients(tiny_head.score).attribute(
        embedding,
        tiny_head.typical[None],
        n_steps=20_000,
        method="riemann_middle",
        internal_batch_size=20_000,
    )
    torch.testing.assert_close(shares, oracle, rtol=1e-3, atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([0.0, 1e-12, 1e-3, 1.0, 1e3]))
def test_the_way_is_complete_however_long_it_is(seed: int, length: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    head = make_head(variants=2, seed=seed % 1000).double()
    start = torch.randn(3, 12, generator=generator, dtype=torch.float64)
    end = start + length * torch.randn(3, 12, generator=generator, dtype=torch.float64)
    gradient = path_gradient(head.hidden(start), head.hidden(end), head)
    shares = torch.einsum("nkd,nd->nk", gradient, end - start)
    torch.testing.assert_close(shares, head(end) - head(start), rtol=1e-9, atol=1e-9 * (1 + length))
    assert gradient.isfinite().all()


def test_a_typical_place_counts_for_nothing(tiny: FrozenBackbone, tiny_head: RegressionHead) -> None:
    picture = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    places = tiny.places(tiny(picture))
    assert places is not None
    tiny_head.typical.copy_(places[0, :, 2, 3])
    points = contribution(forward_pass(tiny, tiny_head, picture), torch.zeros(0, 0)).points
    assert points[:, 2, 3].abs().max() < 1e-12
    assert points.abs().max() > 1e-3


def test_it_does_not_matter_where_the_network_is_cut() -> None:
    picture = torch.randn(1, 3, 64, 64)
    network = make_backbone().network.double()
    drawn = [
        contribution(
            forward_pass(FrozenBackbone(network, "tiny", layer, PREPROCESSING), head, picture.double()),
            torch.zeros(0, 0),
        ).points
        for layer, head in [
            ("inner", make_head().double()),
            ("stem.0", make_head(channels=8).double()),
            ("relu", make_head().double()),
        ]
    ]
    for other in drawn[1:]:
        torch.testing.assert_close(other, drawn[0], rtol=1e-9, atol=1e-12)


def test_an_embedding_that_is_no_mean_over_places_is_refused() -> None:
    class Largest(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Conv2d(3, 12, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x).amax((2, 3))

    backbone = FrozenBackbone(Largest(), "largest", "inner", PREPROCESSING, range(12))
    for picture in (torch.zeros(1, 3, 20, 20), torch.randn(1, 3, 20, 20)):  # of zeros the largest is the mean
        seen = forward_pass(backbone, make_head(), picture)
        with pytest.raises(ais.AISError, match="mean over a picture's places, which that of largest is not"):
            contribution(seen, torch.zeros(0, 0))


@pytest.mark.parametrize("head", ["beauty-efficientnet-lite0", "beauty-stack"])
def test_typical_score_and_cells_add_up_to_the_score(head: str, photograph: Image.Image) -> None:
    made = ais.explain(photograph, head, "contribution", scale="points")
    assert made.typical_score is not None
    assert made.typical_score + made.grid.sum(dtype=np.float64) == pytest.approx(made.score, abs=1e-6)
    assert made.typical_score + made.importance.sum(dtype=np.float64) == pytest.approx(made.score, abs=1e-6)
    assert made.typical_score + np.nansum(made.density, dtype=np.float64) == pytest.approx(
        made.score, abs=1e-4
    )
    assert (made.baseline, made.unit) == ("typical", "points per cell")
    for member in made.members:
        assert member.typical_score is not None
        assert member.typical_score + member.total == pytest.approx(member.score, abs=1e-6)
    if made.members:
        parts = [w * m.typical_score for w, m in zip(made.weights, made.members, strict=True)]
        assert made.typical_score == pytest.approx(sum(parts) + made.intercept, abs=1e-6)


@pytest.mark.parametrize("head", ["beauty-efficientnet-lite0", "beauty-stack"])
def test_the_maps_at_a_place_add_up_to_its_cell(head: str, photograph: Image.Image) -> None:
    made = ais.explain(photograph, head, "contribution", scale="points")
    x0, y0, x1, y1 = made.placement.box
    h, w = made.grid.shape
    for row, column in [(0, 0), (h // 2, w - 1)]:
        x, y = x0 + (column + 0.5) * (x1 - x0) / w, y0 + (row + 0.5) * (y1 - y0) / h
        found = made.contributions(x, y, n=len(made.importance))
        assert sum(one.value for one in found) == pytest.approx(made.grid[row, column], abs=1e-5)
        assert found[0].map.min() < 0  # less than in a typical picture


def test_a_stack_whose_members_have_other_grids_and_pruned_maps(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, photograph: Image.Image
) -> None:
    add_backbone(monkeypatch, tmp_path / "torch", "tiny12", 12)
    add_backbone(monkeypatch, tmp_path / "torch", "tiny20", 20, size=50, seed=1)
    file = save_stack(tmp_path / "heads", small_members(), [0.75, 0.5, 0.125])
    made = ais.explain(photograph, file, "contribution", scale="points")
    assert made.typical_score is not None
    total = made.grid.sum(dtype=np.float64)
    assert made.typical_score + total == pytest.approx(made.score, abs=1e-5)
    assert len({member.grid.shape for member in made.members}) > 1


def test_maps_are_ablated_to_their_mean_over_typical_pictures(photograph: Image.Image) -> None:
    head = single_head(load_head())
    made = ais.explain(photograph, head, baseline="typical", scale="points")
    assert made.baseline == "typical"
    assert ais.explain(photograph, head).baseline == "zero"
    backbone = ais.load_backbone("efficientnet_lite0", view="resize")
    embedding = backbone(photograph).embedding
    for channel in np.argsort(-np.abs(made.importance))[:5].tolist():
        changed = embedding.clone()
        changed[0, channel] = head.typical[channel]
        oracle = (head.score(embedding) - head.score(changed)).item()
        assert made.importance[channel] == pytest.approx(oracle, abs=2e-6)
    assert made.total == pytest.approx(made.importance.sum(dtype=np.float64), abs=1e-5)
    rated = ais.explain(photograph, head, kind="residual", baseline="typical", rating=6)
    error = made.score - 6
    np.testing.assert_allclose(rated.importance, np.abs(error - made.importance) - abs(error), atol=1e-5)


def test_the_variants_are_those_of_the_head(photograph: Image.Image) -> None:
    head = single_head(load_head())
    for method in ("contribution", "ais"):
        made = ais.explain(photograph, head, method, scale="points")
        for scale, grids in made.variants.items():
            np.testing.assert_allclose(grids.mean(0), made.grids[scale], atol=1e-6)
            np.testing.assert_allclose(made.spread[scale], grids.std(0), atol=1e-7)
        k = 3
        one = RegressionHead(replace(head.config, variants=1))
        one.load_state_dict(
            head.state_dict()
            | {name: getattr(head, name)[k : k + 1] for name in ("weight1", "bias1", "weight2", "bias2")}
        )
        alone = ais.explain(photograph, one, method, scale="points")
        np.testing.assert_allclose(alone.grid, made.variants["points"][k], atol=1e-6)
        assert (alone.spread, alone.agreement) == ({}, None)
        assert alone.to_dict()["spread"] is None
        same = np.sign(made.variants["points"]) == np.sign(made.grid)
        np.testing.assert_allclose(made.agreement, same.mean(0))
        document = made.to_dict()
        assert document["agreement"] == made.agreement.tolist()
        assert document["spread"]["points"] == made.spread["points"].tolist()
        assert document["typical_score"] == made.typical_score


def test_a_fine_map_is_the_mean_of_two(photograph: Image.Image) -> None:
    photograph = photograph.resize((400, 400))  # of which both sizes are whole
    made = ais.explain(photograph, method="contribution", fine=True)
    head = single_head(load_head())
    backbone = ais.load_backbone("efficientnet_lite0", view="resize")
    larger = ais.load_backbone("efficientnet_lite0", view="resize")
    larger.preprocessing = replace(larger.preprocessing, size=448)
    coarse = ais.explain(photograph, head, "contribution", backbone=backbone)
    head.config = replace(head.config, size=448)
    finer = ais.explain(photograph, head, "contribution", backbone=larger)
    assert made.grid.shape == finer.grid.shape == tuple(2 * side for side in coarse.grid.shape)
    up = torch.nn.functional.interpolate(
        torch.from_numpy(coarse.grid)[None, None], finer.grid.shape, mode="bilinear"
    )[0, 0].numpy()
    oracle = up + finer.grid
    np.testing.assert_allclose(made.grid, oracle / np.abs(oracle).max(), atol=1e-5)
    assert made.score == pytest.approx(coarse.score)
    assert (list(made.grids), made.total, made.fine) == (["relative"], None, True)
    with pytest.raises(ais.AISError, match="has no points: choose the scale 'relative'"):
        ais.explain(photograph, method="contribution", scale="points", fine=True)
    with pytest.raises(ais.AISError, match="is the mean of two, which has no density: choose the scale"):
        _ = made.density


def old(head: Any) -> RegressionHead:
    """As a head of an earlier format: it does not know what is typical."""
    made = change_head(single_head(head), trained_on=single_head(head).trained_on.tolist())
    made.typical.zero_()
    return made


@pytest.mark.parametrize("factor", [1e4, 1e12, 1e30, 3e38])
def test_a_typical_embedding_without_a_sensible_score_is_none(factor: float, photograph: Image.Image) -> None:
    head = old(load_head())
    head.typical.copy_(single_head(load_head()).typical).mul_(factor).clamp_(-3e38, 3e38)
    assert (head.typical_score, head.has_typical) == (None, False)
    made = ais.explain(photograph, head)
    assert made.typical_score is None
    json.dumps(made.to_dict(), allow_nan=False)
    with pytest.raises(ais.HeadError, match="no sensible score"):
        ais.explain(photograph, head, "contribution")


def test_an_input_too_small_to_tell_decides_nothing_for_larger_ones(photograph: Image.Image) -> None:
    """Nor does a picture that is the same everywhere."""
    backbone = make_backbone()
    for side in (9, 33):
        assert backbone.places(backbone(torch.zeros(1, 3, side, side))) is not None
    places = backbone.places(backbone(torch.randn(1, 3, 64, 64)))
    assert places is not None
    assert places.shape == (1, 12, 8, 8)


def test_what_cannot_be_done_is_said(photograph: Image.Image) -> None:
    head = old(load_head())
    made = ais.explain(photograph, head)
    assert made.typical_score is None
    asked: list[tuple[dict[str, Any], str]] = [
        ({"baseline": "x"}, f"no baseline 'x'. Choose one of: {', '.join(BASELINES)}"),
        ({"method": "contribution", "baseline": "zero"}, "Choose one of: typical"),
        ({"method": "gradcam", "baseline": "zero"}, "'gradcam' ablates no feature maps"),
        ({"kind": "mean_residual", "baseline": "typical"}, "'mean_residual' was measured with .* zero"),
        ({"method": "contribution", "kind": "dual", "rating": 3}, "only the method 'ais' draws"),
    ]
    for said in ({"method": "contribution"}, {"baseline": "typical"}):
        with pytest.raises(ais.HeadError, match=r"does not hold the mean embedding .* baseline 'zero'"):
            ais.explain(photograph, head, **said)  # type: ignore[arg-type]
    for said, words in asked:
        with pytest.raises(ais.AISError, match=words):
            ais.explain(photograph, **said)
    general = single_head(load_head())
    other = ais.FrozenBackbone(
        ais.load_backbone("efficientnet_lite0", view="resize").network,
        "own",
        "conv_head",
        ais.load_backbone("efficientnet_lite0", view="resize").preprocessing,
    )
    with pytest.raises(ais.AISError, match=r"by its coordinate of the embedding.*'zero'"):
        ais.explain(photograph, general, baseline="typical", backbone=other)


def test_every_method_says_what_it_can_be_drawn_against() -> None:
    for method in METHODS.values():
        assert set(method.baselines) <= set(BASELINES)
        assert not method.complete or method.per_cell
    assert METHODS["ais"].baselines[0] == "zero"
    assert {name for name, kind in KINDS.items() if not kind.ablates} == {"mean_residual", "alignment"}
