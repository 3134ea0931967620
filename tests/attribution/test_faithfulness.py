"""Deletion and insertion against a loop over pixels, on networks whose truth is known; the sanity check."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur

from ais.attribution import methods
from ais.attribution.explain import explain
from ais.attribution.faithfulness import measure
from ais.attribution.faithfulness.compared import COMPARED, compared
from ais.attribution.faithfulness.deletion import STEPS, changes, deletion_insertion, step_scores
from ais.attribution.faithfulness.hiding import HIDINGS, blur, grey
from ais.attribution.faithfulness.measure import Comparison, faithfulness, undrawable
from ais.attribution.faithfulness.measures import (
    agreed,
    correlation,
    disturbed,
    one_sided,
    randomised,
    rank_similarity,
)
from ais.attribution.faithfulness.member_passes import member_passes
from ais.backbones.frozen import FrozenBackbone
from ais.errors import AISError, DataError
from ais.heads.loading import load_head
from ais.heads.regression import RatingHead, RegressionHead
from ais.images.preprocessing import Placement, Preprocessing
from ais.images.reading import read_image
from ais.metrics.bootstrap import bootstrap_ci
from helpers.heads import change_head, make_head, save_stack, small_members
from helpers.networks import PREPROCESSING, add_backbone, forward_pass

FEW = Comparison(("ais", "gradcam", "random"))


def judged(
    files: list[Path],
    backbone: FrozenBackbone,
    head: RegressionHead,
    comparison: Comparison = FEW,
    **others: Any,
) -> dict[str, Any]:
    return faithfulness(files, [head] * len(files), [backbone], comparison, **others)


def difference(report: dict[str, Any], of: str, less: str) -> dict[str, Any]:
    (found,) = [one for one in report["differences"] if (one["of"], one["less"]) == (of, less)]
    return found


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
    backbone: FrozenBackbone,
    head: RegressionHead,
    picture: Tensor,
    grid: Tensor,
    steps: int,
    hide: str = "blur",
) -> tuple[float, float]:
    """One pixel after the other, one forward pass for each step; the grid is as large as the picture."""

    def score(x: Tensor) -> float:
        return head.score(backbone(x, head.keep).embedding).item()

    height, width = grid.shape
    pixels = sorted(np.ndindex(height, width), key=lambda p: (-grid[p].item(), p))
    hidden = blur(picture) if hide == "blur" else torch.zeros_like(picture)
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


@pytest.mark.parametrize("hide", ["blur", "grey"])
def test_several_heatmaps_share_their_passes(
    tiny: FrozenBackbone, tiny_head: RegressionHead, hide: str
) -> None:
    generator = torch.Generator().manual_seed(2)
    picture = torch.randn(1, 3, 20, 24, generator=generator, dtype=torch.float64)
    grids = [torch.randn(20, 24, generator=generator) for _ in range(3)]
    passes: list[int] = []
    handle = tiny.trunk.register_forward_pre_hook(lambda _, given: passes.append(len(given[0])))
    found = changes(step_scores(tiny, tiny_head, picture, grids, hide, 5))
    handle.remove()
    assert sum(passes) == 2 + 3 * 2 * 4
    expected = [naive(tiny, tiny_head, picture, grid, 5, hide) for grid in grids]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


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


def test_grey_is_what_the_preprocessing_makes_nothing_of() -> None:
    mean = Image.new("RGB", (40, 30), (127, 128, 127))
    assert PREPROCESSING(mean).abs().max() < 0.01
    assert not grey(torch.ones(1, 3, 4, 5)).any()
    assert list(HIDINGS) == ["blur", "grey"]


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
    found = judged(lamps, *linear, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(n, 6) for n in range(1, 7)]
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["pictures"], found["steps"], list(found["methods"])) == (6, STEPS, list(FEW.methods))
    for what in ("deletion", "insertion"):
        ours, chance = (found["methods"][name]["blur"][what] for name in ("ais", "random"))
        assert difference(found, "ais", "random")["blur"][what] == pytest.approx(ours - chance)
        assert difference(found, "ais", "random")["blur"][f"{what}_low"] > 0
        # Of a linear score, Grad-CAM's map ranks the places the same.
        assert difference(found, "ais", "gradcam")["blur"][what] == pytest.approx(0, abs=1e-9)
        assert difference(found, "random", "gradcam")["blur"][what] == pytest.approx(chance - ours)
    assert len(found["differences"]) == 3


def test_means_are_those_of_the_pictures(
    tiny: FrozenBackbone, tiny_head: RegressionHead, small_view: Preprocessing, lamps: list[Path]
) -> None:
    state = torch.get_rng_state()
    found = without_times(judged(lamps, tiny, tiny_head, Comparison(FEW.methods, seed=3)))
    assert torch.equal(torch.get_rng_state(), state)
    assert without_times(judged(lamps, tiny, tiny_head, Comparison(FEW.methods, seed=3))) == found
    other = without_times(judged(lamps, tiny, tiny_head, Comparison(FEW.methods, seed=4)))
    assert other["methods"]["random"] != found["methods"]["random"]
    assert other["methods"]["gradcam"]["blur"] == found["methods"]["gradcam"]["blur"]
    each = []
    for file in lamps:
        picture = small_view(Image.open(file))[None]
        seen = forward_pass(tiny, tiny_head, picture)
        drawn = methods.METHODS["gradcam"].draw(seen, torch.zeros(1, 12))
        each.append(deletion_insertion(tiny, tiny_head, picture, drawn.points.mean(0)))
    gradcam = found["methods"]["gradcam"]["blur"]
    assert (gradcam["deletion"], gradcam["insertion"]) == pytest.approx(np.mean(each, axis=0))
    assert gradcam["deletion_low"] < gradcam["deletion"] < gradcam["deletion_high"]
    groups = ["a", "a", "b", "b", "b", "c"]
    low, high = bootstrap_ci(lambda rows: np.array(each)[rows].mean(0), groups)
    grouped = judged(lamps, tiny, tiny_head, FEW, groups=groups)
    assert grouped["groups"] == 3
    gradcam = grouped["methods"]["gradcam"]["blur"]
    assert (gradcam["deletion_low"], gradcam["insertion_low"]) == pytest.approx(low)
    assert (gradcam["deletion_high"], gradcam["insertion_high"]) == pytest.approx(high)


def without_times(report: dict[str, Any]) -> dict[str, Any]:
    for one in report["methods"].values():
        del one["seconds"]
    return report


def test_every_picture_has_its_head_and_every_hiding_its_figures(
    tiny: FrozenBackbone, tiny_head: RegressionHead, small_view: Preprocessing, lamps: list[Path]
) -> None:
    heads = [tiny_head, make_head(seed=1).double()] * 3
    comparison = Comparison(("contribution", "ais:typical"), hide=("grey", "blur"), steps=4)
    found = faithfulness(lamps, heads, [tiny], comparison)
    assert (found["hide"], found["steps"]) == (["grey", "blur"], 4)
    for name, one in found["methods"].items():
        way = compared([name])[0]
        for hide in comparison.hide:
            expected = []
            for file, head in zip(lamps, heads, strict=True):
                grid = way.draw(member_passes(read_image(file), head, [tiny])).mean(0)
                picture = small_view(Image.open(file))[None]
                expected.append(deletion_insertion(tiny, head, picture, grid, 4, hide))
            assert (one[hide]["deletion"], one[hide]["insertion"]) == pytest.approx(
                np.mean(expected, axis=0), abs=1e-6
            )


def test_one_picture_is_too_few(
    tiny: FrozenBackbone, tiny_head: RegressionHead, small_view: Preprocessing, lamps: list[Path]
) -> None:
    with pytest.raises(DataError, match="more pictures"):
        judged(lamps[:1], tiny, tiny_head)
    with pytest.raises(DataError, match="two groups"):
        judged(lamps[:2], tiny, tiny_head, groups=["a", "a"])
    with pytest.raises(AISError, match=r"no way of hiding 'black'. Choose one of: blur, grey"):
        judged(lamps, tiny, tiny_head, Comparison(hide=("black",)))


def test_sanity_tells_a_map_that_follows_the_head_from_one_that_does_not(
    tiny: FrozenBackbone,
    tiny_head: RegressionHead,
    small_view: Preprocessing,
    lamps: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = judged(lamps, tiny, tiny_head, Comparison(("ais", "contribution+fine")))
    for one in found["methods"].values():
        assert 0 < one["sanity_low"] < one["sanity"] < one["sanity_high"] < 0.99
        assert 0 < one["sanity_chance"] < 0.99
    monkeypatch.setattr(measure, "randomised", lambda head, generator: head)
    same = judged(lamps, tiny, tiny_head, Comparison(("ais", "contribution+fine")))
    for one in same["methods"].values():
        assert one["sanity"] == one["sanity_chance"] == pytest.approx(1)


def test_passes_are_counted_by_their_pixels(
    tiny: FrozenBackbone,
    tiny_head: RegressionHead,
    small_view: Preprocessing,
    lamps: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ("occlusion", "gradcam", "contribution+fine", "ais", "random")
    found = judged(lamps[:3], tiny, tiny_head, Comparison(names, steps=2))["methods"]
    windows = 15 * 19  # of 64 x 80 pixels: a seventh wide, and half of that further each time
    assert [found[name]["passes"] for name in names[1:]] == [1, 5, 1, None]
    assert found["occlusion"]["passes"] == pytest.approx(1 + windows, rel=0.2)
    assert all(found[name]["backward"] == 0 for name in names[:4])
    for name in ("one_sided", "stability", "sanity", "agreement", "seconds"):
        assert found["random"][name] is None
    assert found["gradcam"]["seconds"] > 0
    # A slow method is drawn again for some of the pictures only.
    monkeypatch.setattr(measure, "_CHECKED", 2)
    found = judged(lamps, tiny, tiny_head, Comparison(("occlusion", "ais"), steps=2))["methods"]
    assert (found["occlusion"]["checked"], found["ais"]["checked"]) == (2, 6)
    two = judged([lamps[0], lamps[-1]], tiny, tiny_head, Comparison(("occlusion",), steps=2))
    assert found["occlusion"]["stability"] == pytest.approx(two["methods"]["occlusion"]["stability"])


def test_stability_is_the_correlation_with_the_maps_of_what_looks_the_same(
    tiny: FrozenBackbone, tiny_head: RegressionHead, small_view: Preprocessing, lamps: list[Path]
) -> None:
    found = judged(lamps[:2], tiny, tiny_head, Comparison(("contribution",), steps=2))["methods"]
    each = []
    for file in lamps[:2]:
        image = read_image(file)
        maps = [
            forward_and_draw(tiny, tiny_head, small_view(one)[None]) for one in (image, *disturbed(image))
        ]
        each += [np.corrcoef(maps[0].flatten(), one.flatten())[0, 1] for one in maps[1:]]
    assert found["contribution"]["stability"] == pytest.approx(np.mean(each))


def forward_and_draw(backbone: FrozenBackbone, head: RegressionHead, picture: Tensor) -> np.ndarray:
    drawn = methods.METHODS["contribution"].draw(forward_pass(backbone, head, picture), torch.zeros(0, 0))
    return drawn.points.mean(0).numpy()


def test_disturbed_pictures_look_the_same(photograph: Image.Image) -> None:
    saved, moved, resized = disturbed(photograph)
    pixels = np.asarray(photograph).astype(float)
    for one in (saved, moved, resized):
        assert (one.size, one.mode) == (photograph.size, "RGB")
        assert 0.1 < np.abs(np.asarray(one) - pixels).mean() < 12
    assert (np.asarray(moved)[2:, 2:] == pixels[:-2, :-2]).all()
    assert (np.asarray(moved)[0] == np.asarray(moved)[2]).all()
    assert disturbed(Image.new("RGB", (8, 1)))[2].size == (8, 1)


def test_one_sided_maps_have_all_but_a_twentieth_on_one_side() -> None:
    assert one_sided(torch.tensor([[1.0, 96.0], [0.0, -3.0]]))
    assert not one_sided(torch.tensor([[1.0, 93.0], [0.0, -6.0]]))
    assert one_sided(torch.tensor([[-1.0, -96.0], [0.0, 3.0]]))
    assert not one_sided(torch.zeros(2, 2))


def test_agreement_is_the_share_of_cells_with_one_sign() -> None:
    cells = torch.tensor(
        [[1.0, 1, 1, 1, 1], [1, 1, 1, 1, -0.1], [1, 1, 1, -0.1, -0.1], [-1, -1, -1, -1, 4.5]]
    )
    variants = cells.T[:, :, None]  # five variants of four cells
    assert agreed(variants) == 0.5  # all and four of five; not three, nor one against all others
    assert agreed(-variants) == 0.5
    assert agreed(variants[:1]) is None


def test_names_of_heatmaps() -> None:
    found = compared(["ais:typical+fine", "ais", "random", "gradcam+fine", "contribution"])
    assert [(one.method, one.baseline, one.fine) for one in found] == [
        ("ais", "typical", True),
        ("ais", "zero", False),
        ("random", "", False),
        ("gradcam", "", True),
        ("contribution", "typical", False),
    ]
    assert [one.name for one in compared(COMPARED)] == list(COMPARED)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["nosuch"], "no method 'nosuch'. Choose one of: contribution, ais, .*random"),
        (["ais:grey"], "'ais' has no baseline 'grey'. Choose one of: zero, typical"),
        (["gradcam:zero"], "'gradcam' has no baseline"),
        (["random+fine"], "no fine heatmap"),
        (["ais", "gradcam", "ais:zero"], "'ais' and 'ais:zero' are the same heatmap"),
    ],
)
def test_wrong_names_are_refused(names: list[str], sentence: str) -> None:
    with pytest.raises(AISError, match=sentence):
        compared(names)


def test_what_a_head_cannot_draw(
    tiny: FrozenBackbone, tiny_general: FrozenBackbone, tiny_head: RegressionHead, lamps: list[Path]
) -> None:
    names = (*COMPARED, "contribution+fine")
    assert not undrawable(names, lamps[0], tiny_head, [tiny])
    untyped = make_head().double()
    untyped.typical.zero_()
    found = undrawable(names, lamps[0], untyped, [tiny])
    assert list(found) == ["contribution", "ais:typical", "contribution+fine"]
    assert "mean embedding of the pictures" in found["contribution"]
    mixing = make_head(layer="stem.0", channels=8).double()
    assert list(undrawable(names, lamps[0], mixing, [tiny_general])) == ["ais:typical"]


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RatingHead:
    add_backbone(monkeypatch, tmp_path / "torch", "tiny12", 12)
    add_backbone(monkeypatch, tmp_path / "torch", "tiny20", 20, size=50)
    members = [change_head(head) for head in small_members()[:2]]
    made = load_head(save_stack(tmp_path / "heads", members, [0.75, 0.5]))
    assert isinstance(made, RatingHead)
    return made


@pytest.mark.parametrize("name", ["contribution", "ais", "gradcam+fine", "occlusion"])
def test_heatmaps_are_those_of_explain(stack: RatingHead, lamps: list[Path], name: str) -> None:
    (way,) = compared([name])
    for head in (stack, stack.members[0], stack.members[1]):
        backbones = [measured_backbone(member) for member in head.members]
        drawn = way.draw(member_passes(read_image(lamps[0]), head, backbones))
        shown = explain(lamps[0], head, way.method, fine=way.fine, device="cpu")
        np.testing.assert_allclose(drawn.mean(0), shown.grids["relative"], atol=1e-5)
        if len(drawn) > 1:
            assert agreed(drawn) == pytest.approx((shown.agreement >= 0.8 - 1e-6).mean())


def measured_backbone(member: RegressionHead) -> FrozenBackbone:
    from ais.heads.loading import backbone_of

    return backbone_of(member, "cpu")


def test_a_stack_is_judged_by_its_own_score(stack: RatingHead, lamps: list[Path]) -> None:
    backbones = [measured_backbone(member) for member in stack.members]
    comparison = Comparison(("ais", "random"), steps=3)
    found = faithfulness(lamps[:2], [stack] * 2, backbones, comparison)
    (way,) = compared(["ais"])
    each = []
    for file in lamps[:2]:
        grid = way.draw(member_passes(read_image(file), stack, backbones)).mean(0)
        parts = [
            deletion_insertion(backbone, member, backbone.preprocessing(read_image(file))[None], grid, 3)
            for backbone, member in zip(backbones, stack.members, strict=True)
        ]
        each.append(np.array([0.75, 0.5]) @ np.array(parts))
    values = found["methods"]["ais"]["blur"]
    assert (values["deletion"], values["insertion"]) == pytest.approx(np.mean(each, axis=0), abs=1e-6)
    other = randomised(stack, torch.Generator().manual_seed(0))
    assert [type(one) for one in (other, *other.members)] == [type(one) for one in (stack, *stack.members)]
    assert other.member_weights == stack.member_weights
    assert not torch.equal(other.members[1].weight1, stack.members[1].weight1)


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
    assert correlation(grid, -2 * grid + 1) == pytest.approx(-1)
    assert rank_similarity(grid, -grid) == pytest.approx(1)
    assert rank_similarity(grid, torch.zeros(7, 9)) == 0
    assert rank_similarity(grid, torch.randn(7, 9, generator=torch.Generator().manual_seed(1))) < 0.3
