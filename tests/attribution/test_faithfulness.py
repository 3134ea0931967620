"""Deletion and insertion against a loop over pixels, on networks whose truth is known; the sanity check."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur

from ais.attribution import faithfulness as attribution_faithfulness
from ais.attribution import methods
from ais.attribution.faithfulness import (
    COMPARED,
    STEPS,
    blur,
    deletion_insertion,
    faithfulness,
    randomised,
    rank_similarity,
)
from ais.backbones.frozen import FrozenBackbone
from ais.errors import DataError
from ais.heads.regression import RegressionHead
from ais.images.preprocessing import Placement, Preprocessing
from helpers.heads import make_head
from helpers.networks import PREPROCESSING, forward_pass


class Brightness(nn.Module):
    """Two maps, the brightness of 8 x 8 cells; the embedding is their mean, and so linear in every pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.Conv2d(3, 2, 8, 8, bias=False)
        self.cells.weight.data.fill_(1 / 192)

    def forward(self, x: Tensor) -> Tensor:
        return self.cells(x).mean((2, 3))


@pytest.fixture
def linear() -> tuple[FrozenBackbone, RegressionHead]:
    """The score is the input's mean and a constant."""
    head = make_head(dim=2, channels=2, hidden=1, variants=1)
    head.load_state_dict(
        head.state_dict()
        | {
            "weight1": torch.full((1, 1, 2), 0.5),
            "bias1": torch.full((1, 1), 10.0),
            "weight2": torch.ones(1, 1),
            "rating_std": torch.tensor(1.0),
        }
    )
    return FrozenBackbone(
        Brightness().double(), "brightness", "cells", PREPROCESSING, range(2)
    ), head.double()


@pytest.fixture
def small_view(linear: tuple[FrozenBackbone, RegressionHead], tiny: FrozenBackbone) -> Preprocessing:
    preprocessing = Preprocessing("resize", 64, 64, "bilinear", (0.0,) * 3, (1.0,) * 3)
    linear[0].preprocessing = tiny.preprocessing = preprocessing
    return preprocessing


@pytest.fixture
def lamps(tmp_path: Path) -> list[Path]:
    """Dark pictures, each with a bright rectangle somewhere."""
    rng = np.random.default_rng(0)
    files = []
    for n in range(6):
        pixels = rng.integers(0, 30, (64, 80, 3)).astype(np.uint8)
        top, left = 8 * rng.integers(0, 6), 8 * rng.integers(0, 7)
        pixels[top : top + 16, left : left + 24] += 200
        files.append(tmp_path / f"{n}.png")
        Image.fromarray(pixels).save(files[-1])
    return files


def naive(
    backbone: FrozenBackbone, head: RegressionHead, picture: Tensor, grid: Tensor, steps: int
) -> tuple[float, float]:
    """One pixel after the other, one forward pass for each step; the grid is as large as the picture."""

    def score(x: Tensor) -> float:
        return head.score(backbone(x, head.keep).embedding).item()

    height, width = grid.shape
    pixels = sorted(np.ndindex(height, width), key=lambda p: (-grid[p].item(), p))
    hidden = blur(picture)
    falls, rises = [], []
    for k in range(1, steps + 1):
        without, alone = picture.clone(), hidden.clone()
        for y, x in pixels[: k * height * width // steps]:
            without[0, :, y, x] = hidden[0, :, y, x]
            alone[0, :, y, x] = picture[0, :, y, x]
        falls.append(score(picture) - score(without))
        rises.append(score(alone) - score(hidden))
    return float(np.mean(falls)), float(np.mean(rises))


@pytest.mark.parametrize("steps", [5, 14])
def test_they_are_the_loop_over_pixels(tiny: FrozenBackbone, tiny_head: RegressionHead, steps: int) -> None:
    generator = torch.Generator().manual_seed(0)
    picture = torch.randn(1, 3, 24, 33, generator=generator, dtype=torch.float64)
    grid = torch.randn(24, 33, generator=generator).round(decimals=1)  # many places are equal
    expected = naive(tiny, tiny_head, picture, grid, steps)
    assert deletion_insertion(tiny, tiny_head, picture, grid, steps) == pytest.approx(expected, abs=1e-12)
    tiny_head.keep[::2] = False
    pruned = naive(tiny, tiny_head, picture, grid, steps)
    assert pruned != pytest.approx(expected, abs=1e-3)
    assert deletion_insertion(tiny, tiny_head, picture, grid, steps) == pytest.approx(pruned, abs=1e-12)


def test_grid_is_laid_over_the_input_as_it_is_shown(tiny: FrozenBackbone, tiny_head: RegressionHead) -> None:
    generator = torch.Generator().manual_seed(1)
    picture = torch.randn(1, 3, 48, 64, generator=generator, dtype=torch.float64)
    grid = torch.randn(3, 4, generator=generator)
    shown = Placement(64, 48, (0.0, 0.0, 64.0, 48.0), (48, 64)).upsample(grid.numpy())
    expected = deletion_insertion(tiny, tiny_head, picture, torch.from_numpy(shown))
    assert deletion_insertion(tiny, tiny_head, picture, grid) == pytest.approx(expected, abs=1e-3)


def test_nothing_beats_the_truth(linear: tuple[FrozenBackbone, RegressionHead]) -> None:
    """Of a linear score, what each pixel adds is known: the change from hidden to shown."""
    backbone, head = linear
    generator = torch.Generator().manual_seed(0)
    picture = torch.randn(1, 3, 32, 40, generator=generator, dtype=torch.float64)
    truth = (picture - blur(picture))[0].sum(0)
    best = deletion_insertion(backbone, head, picture, truth)
    assert best[0] == pytest.approx(best[1], abs=1e-12)  # hiding takes away just what showing adds
    lowest = deletion_insertion(backbone, head, picture, -truth)
    for _ in range(5):
        chance = deletion_insertion(backbone, head, picture, torch.randn(32, 40, generator=generator))
        assert lowest[0] < chance[0] < best[0]
        assert lowest[1] < chance[1] < best[1]


def test_changes_are_points(linear: tuple[FrozenBackbone, RegressionHead]) -> None:
    """A scale with another origin gives the same; one with units half as large gives twice as much."""
    backbone, head = linear
    picture = torch.rand(1, 3, 32, 40, dtype=torch.float64)
    grid = picture[0].mean(0)
    one = deletion_insertion(backbone, head, picture, grid)
    head.rating_mean += 100
    head.rating_std *= 2
    assert deletion_insertion(backbone, head, picture, grid) == pytest.approx([2 * v for v in one])


@pytest.mark.parametrize("size", [(48, 64), (150, 40), (8, 9)])
def test_hidden_is_a_gaussian_blur_of_an_eighth(size: tuple[int, int]) -> None:
    picture = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    width = 2 * (3 * min(size) // 8) + 1
    torch.testing.assert_close(blur(picture), gaussian_blur(picture, [width] * 2, [min(size) / 8] * 2))
    assert blur(picture).std() < 0.5 * picture.std()
    torch.testing.assert_close(blur(torch.ones_like(picture)), torch.ones_like(picture))


def test_bright_places_are_found(
    linear: tuple[FrozenBackbone, RegressionHead], small_view: Preprocessing, lamps: list[Path]
) -> None:
    seen: list[tuple[int, int]] = []
    found = faithfulness(lamps, *linear, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(n, 6) for n in range(1, 7)]
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["pictures"], found["steps"], list(found["methods"])) == (6, STEPS, list(COMPARED))
    for what in ("deletion", "insertion"):
        ours, chance = found["methods"]["ais"][what], found["methods"]["random"][what]
        assert found["differences"]["random"][what] == pytest.approx(ours - chance)
        assert found["differences"]["random"][f"{what}_low"] > 0
        # Of a linear score, Grad-CAM's map ranks the places the same.
        assert found["differences"]["gradcam"][what] == pytest.approx(0, abs=1e-9)


def test_means_are_those_of_the_pictures(
    tiny: FrozenBackbone, tiny_head: RegressionHead, small_view: Preprocessing, lamps: list[Path]
) -> None:
    state = torch.get_rng_state()
    found = faithfulness(lamps, tiny, tiny_head, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert faithfulness(lamps, tiny, tiny_head, seed=3) == found
    other = faithfulness(lamps, tiny, tiny_head, seed=4)
    assert other["methods"]["random"] != found["methods"]["random"]
    assert other["methods"]["gradcam"] == found["methods"]["gradcam"]
    each = []
    for file in lamps:
        picture = small_view(Image.open(file))[None]
        seen = forward_pass(tiny, tiny_head, picture)
        drawn = methods.METHODS["gradcam"].draw(seen, torch.zeros(1, 12))
        each.append(deletion_insertion(tiny, tiny_head, picture, drawn.points.mean(0)))
    gradcam = found["methods"]["gradcam"]
    assert (gradcam["deletion"], gradcam["insertion"]) == pytest.approx(np.mean(each, axis=0))
    assert gradcam["deletion_low"] < gradcam["deletion"] < gradcam["deletion_high"]


def test_one_picture_is_too_few(
    tiny: FrozenBackbone, tiny_head: RegressionHead, small_view: Preprocessing, lamps: list[Path]
) -> None:
    with pytest.raises(DataError, match="more pictures"):
        faithfulness(lamps[:1], tiny, tiny_head)


def test_sanity_tells_a_map_that_follows_the_head_from_one_that_does_not(
    tiny: FrozenBackbone,
    tiny_head: RegressionHead,
    small_view: Preprocessing,
    lamps: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = faithfulness(lamps, tiny, tiny_head)
    assert 0 < found["sanity"] < 0.9
    assert 0 < found["sanity_chance"] < 0.9
    monkeypatch.setattr(attribution_faithfulness, "randomised", lambda head, generator: head)
    same = faithfulness(lamps, tiny, tiny_head)
    assert same["sanity"] == same["sanity_chance"] == pytest.approx(1)


def test_a_randomised_head_has_the_same_weights_elsewhere(tiny_head: RegressionHead) -> None:
    before = {name: value.clone() for name, value in tiny_head.state_dict().items()}
    other = randomised(tiny_head, torch.Generator().manual_seed(0)).state_dict()
    for name, value in before.items():
        assert torch.equal(tiny_head.state_dict()[name], value)
        assert other[name].dtype == value.dtype
        assert torch.equal(other[name], value) == (name not in ("weight1", "weight2"))
        assert torch.equal(other[name].flatten().sort().values, value.flatten().sort().values)


def test_rank_similarity_is_of_the_ranks() -> None:
    grid = torch.randn(7, 9, generator=torch.Generator().manual_seed(0))
    assert rank_similarity(grid, grid.exp()) == pytest.approx(1)
    assert rank_similarity(grid, -grid) == pytest.approx(1)
    assert rank_similarity(grid, torch.zeros(7, 9)) == 0
    assert rank_similarity(grid, torch.randn(7, 9, generator=torch.Generator().manual_seed(1))) < 0.3
