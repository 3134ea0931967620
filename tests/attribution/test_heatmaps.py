"""Grids, scales and methods; colour; and that a lit cell lands where the network looked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from ais.attribution import colors, grids, importance, methods
from ais.attribution.methods.ablation import ablation
from ais.attribution.methods.gradcam import gradcam
from ais.attribution.methods.occlusion import occlusion
from ais.backbones.frozen import FrozenBackbone
from ais.heads.regression import RegressionHead
from ais.images.preprocessing import Preprocessing
from helpers.heads import make_head
from helpers.networks import PREPROCESSING, TinyNetwork, forward_pass, randomise


class Window(nn.Module):
    """A "network" whose 7 x 7 maps are the picture's own brightness, seen through 32-pixel cells."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.Conv2d(3, 2, 32, 32, bias=False)
        self.cells.weight.data.fill_(1 / 3072)

    def forward(self, x: Tensor) -> Tensor:
        return self.cells(x).mean((2, 3))


@pytest.mark.parametrize("seed", range(5))
def test_points_sum_to_the_importances(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(20, 7, 9, generator=generator, dtype=torch.float64)
    maps[3], maps[4] = 0, -1  # silent maps: spread evenly
    weights = torch.randn(20, generator=generator, dtype=torch.float64)
    grid = grids.points_grid(maps, weights)
    assert grid.sum().item() == pytest.approx(weights.sum().item(), abs=1e-12)
    oracle = torch.zeros(7, 9, dtype=torch.float64)
    for weight, values in zip(weights, maps.relu(), strict=True):
        oracle += weight * (values / values.sum() if values.sum() > 0 else torch.full_like(values, 1 / 63))
    torch.testing.assert_close(grid, oracle)


def test_relative_is_the_weighted_sum_with_its_sign() -> None:
    maps = torch.tensor([[[1.0, 0.0]], [[0.0, 2.0]], [[-5.0, -5.0]]])
    grid = grids.relative_grid(maps, torch.tensor([3.0, -2.0, 9.0]))
    torch.testing.assert_close(grid, torch.tensor([[0.75, -1.0]]))
    assert (grids.relative_grid(maps, torch.zeros(3)) == 0).all()


def test_gradcam_is_the_gradient_times_the_maps(tiny: FrozenBackbone, tiny_head: RegressionHead) -> None:
    """The paper's formula by autograd alone, without its ReLU; the frozen trunk needs no gradient."""
    picture = torch.randn(1, 3, 64, 64)
    features = tiny(picture)
    maps = features.maps.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(tiny_head.score(tiny.tail(maps, *features.side_inputs)).sum(), maps)
    oracle = (gradient.mean((2, 3), keepdim=True) * maps).sum(1)[0].detach()
    drawn = gradcam(forward_pass(tiny, tiny_head, picture), torch.zeros(1, 12))
    torch.testing.assert_close(drawn.points.mean(0), oracle)
    assert grids.to_unit(drawn.points).mean(0).abs().max() == 1
    assert not features.maps.requires_grad
    assert not any(module._forward_hooks for module in tiny.modules())


def test_occlusion_finds_the_only_place_that_counts() -> None:
    """A score that is the brightness of one corner: covering it with grey loses it, with the right sign."""
    backbone = FrozenBackbone(Window(), "window", "cells", PREPROCESSING, range(2))
    head = make_head(dim=2, channels=2, hidden=1, variants=1)
    head.load_state_dict(
        head.state_dict()
        | {"weight1": torch.ones(1, 1, 2), "bias1": torch.full((1, 1), 10.0), "weight2": torch.ones(1, 1)}
    )
    picture = torch.zeros(1, 3, 224, 224)
    picture[..., :48, :48] = 1
    points = occlusion(forward_pass(backbone, head, picture), torch.zeros(1, 2)).points.mean(0)
    assert points.shape == (14, 14)
    assert points[0, 0] > 0
    assert points[8:, 8:].abs().max() == pytest.approx(0, abs=1e-5)
    picture = -picture
    points = occlusion(forward_pass(backbone, head, picture), torch.zeros(1, 2)).points.mean(0)
    assert points[0, 0] / points.abs().max() == pytest.approx(-1, abs=0.2)


@settings(max_examples=40, deadline=None)
@example(width=81, aspect=4.0, view="resize", u=0.5, v=0.8)
@example(width=45, aspect=0.125, view="resize", u=0.5, v=0.03125)
@given(
    width=st.integers(8, 1200),
    aspect=st.floats(0.1, 10),
    view=st.sampled_from(["crop", "resize"]),
    u=st.floats(0.02, 0.98),
    v=st.floats(0.02, 0.98),
)
def test_a_lit_place_is_found_again(width: int, aspect: float, view: str, u: float, v: float) -> None:
    """Light one place of a black picture: the heatmap's strongest point is within a cell of what is lit."""
    height = min(4000, max(8, round(width / aspect)))
    preprocessing = Preprocessing(view, 224, 256, "bilinear", (0.0,) * 3, (1.0,) * 3)  # type: ignore[arg-type]
    placement = preprocessing.geometry(width, height)
    x0, y0, x1, y1 = placement.box
    x, y = x0 + u * (x1 - x0), y0 + v * (y1 - y0)
    lit_w, lit_h = max(1, (x1 - x0) / 28), max(1, (y1 - y0) / 28)
    ys, xs = np.mgrid[0:height, 0:width] + 0.5
    bright = (np.abs(xs - x) <= lit_w) & (np.abs(ys - y) <= lit_h)
    picture = Image.fromarray(np.repeat(np.uint8(255 * bright)[..., None], 3, axis=2))
    backbone = FrozenBackbone(Window(), "window", "cells", PREPROCESSING, range(2))
    tensor = preprocessing(picture)
    maps = backbone(tensor[None]).maps[0]
    seen_y, seen_x = (32 * cells / side for cells, side in zip(maps.shape[1:], tensor.shape[1:], strict=True))
    assume(u <= seen_x and v <= seen_y)  # what falls off the last whole cell is seen by none
    heatmap = placement.upsample(grids.relative_grid(maps, torch.ones(2)).numpy())
    row, column = np.unravel_index(np.nanargmax(heatmap), heatmap.shape)
    cells_y, cells_x = maps.shape[1:]
    assert (
        abs(column + 0.5 - x) <= (x1 - x0) / cells_x + lit_w + 1.5
    )  # a long strip has cells smaller than it
    assert abs(row + 0.5 - y) <= (y1 - y0) / cells_y + lit_h + 1.5


def test_ablation_uses_the_importance(tiny: FrozenBackbone, tiny_head: RegressionHead) -> None:
    seen = forward_pass(tiny, tiny_head, torch.randn(1, 3, 64, 64))
    weights = importance.variant_predictions(tiny, seen.features, tiny_head)[0]
    drawn = ablation(seen, weights)
    assert drawn.relative is not None
    for n, own in enumerate(weights):  # each variant's by its own importances
        torch.testing.assert_close(drawn.points[n], grids.points_grid(seen.features.maps[0], own))
        assert drawn.points[n].sum().item() == pytest.approx(own.sum().item(), abs=1e-12)
    torch.testing.assert_close(
        grids.to_unit(drawn.relative).mean(0), grids.relative_grid(seen.features.maps[0], weights.mean(0))
    )


def test_other_networks_keep_no_state() -> None:
    backbone = FrozenBackbone(randomise(TinyNetwork()), "tiny", "inner", PREPROCESSING, range(12))
    head, picture = make_head(), torch.randn(1, 3, 64, 64)
    seen = forward_pass(backbone, head, picture)
    before = backbone(picture).embedding
    for method in methods.METHODS.values():
        method.draw(seen, torch.ones(1, 12))
    assert torch.equal(backbone(picture).embedding, before)


def test_colours_diverge_from_a_true_zero() -> None:
    blue, nothing, red = colors.colorize(np.array([-1.0, 0.0, 1.0]))
    assert blue[2] > blue[0]
    assert red[0] > red[2]
    assert len(set(nothing.tolist())) == 1
    luminance = colors.colorize(np.linspace(-1, 1, 101)) @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(luminance[:51]) > 0).all()  # readable without colour, too: darker is stronger
    assert (np.diff(luminance[50:]) < 0).all()


def test_overlay_is_clear_at_zero_and_dim_where_not_seen() -> None:
    picture = Image.new("RGB", (4, 1), (200, 100, 50))
    heatmap = np.array([[0.0, 1.0, -1.0, np.nan]], dtype=np.float32)
    clear, red, blue, unseen = np.asarray(colors.overlay(picture, heatmap, opacity=1.0))[0]
    assert clear.tolist() == [200, 100, 50]
    assert red.tolist() == list(colors.COLORS[-1])
    assert blue.tolist() == list(colors.COLORS[0])
    assert np.ptp(unseen.astype(int)) < np.ptp([200, 100, 50])
    flat = colors.overlay(picture, np.zeros((1, 4), np.float32))
    assert np.array_equal(np.asarray(flat), np.asarray(picture))


@pytest.mark.parametrize("size", [(8, 8), (30, 400), (2000, 100)])
def test_colour_bar_fits_any_picture(size: tuple[int, int]) -> None:
    picture = Image.new("RGB", size, "green")
    result = colors.with_color_bar(picture, 0.0123, "points per cell")
    assert result.width == picture.width
    assert result.height > picture.height
    assert result.crop((0, 0, *size)).tobytes() == picture.tobytes()


def test_members_with_and_without_variants_are_added() -> None:
    """The finest grid is the one with the most cells, however many variants a grid is of."""
    one, other = np.ones((4, 7, 7)), np.full((1, 14, 14), 0.5)
    combined = grids.combine_points([one, other], [1.0, 2.0], per_cell=True)
    assert combined.shape == (4, 14, 14)
    np.testing.assert_allclose(combined.sum((1, 2)), 49 + 2 * 98)
    np.testing.assert_allclose(grids.combine_points([one, other], [1.0, 2.0], per_cell=False), 2)


@pytest.mark.parametrize("size", [(3000, 30), (30, 3000), (500, 400)])
@pytest.mark.parametrize("view", ["resize", "crop"])
def test_twice_the_input_is_twice_on_both_sides(view: str, size: tuple[int, int]) -> None:
    preprocessing = replace(PREPROCESSING, view=view)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), dtype=np.uint8))
    height, width = preprocessing(picture).shape[1:]
    assert preprocessing(picture, 2).shape == (3, 2 * height, 2 * width)
