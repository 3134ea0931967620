"""Stacks: their score and importances against every member's whole network, and how their members are found."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import ais
from ais.attribution.drawing import Drawing
from ais.attribution.explanation import FILES, Explanation
from ais.attribution.kinds import KINDS
from ais.attribution.methods import METHODS
from ais.backbones import loading
from ais.backbones.registry import BACKBONES
from ais.errors import HeadError
from ais.heads import shipped
from ais.heads.loading import load_head
from ais.heads.regression import RegressionHead
from ais.heads.stack import StackedHead
from helpers.heads import (
    CHANNELS,
    INTERCEPT,
    WEIGHTS,
    change_head,
    edit,
    fingerprint_of,
    make_head,
    save_stack,
    small_members,
)
from helpers.networks import add_backbone, naive_score, tiny_network

SEEDS = {"tiny12": (12, 0), "tiny20": (20, 1)}


@pytest.fixture(scope="module", autouse=True)
def backbones(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        cache = tmp_path_factory.mktemp("torch")
        add_backbone(patch, cache, "tiny12", *(12, 64, 0))
        add_backbone(patch, cache, "tiny20", *(20, 50, 1))
        yield


@pytest.fixture(scope="module")
def stack(backbones: None, tmp_path_factory: pytest.TempPathFactory) -> StackedHead:
    head = load_head(save_stack(tmp_path_factory.mktemp("heads"), small_members(), WEIGHTS))
    assert isinstance(head, StackedHead)
    return head


def naive(stack: StackedHead, picture: Image.Image, member: str = "", silent: Sequence[int] = ()) -> float:
    """The stack's score, with some maps of one of its members set to 0."""
    total = stack.intercept.item()
    for head, weight in zip(stack.members, stack.weight.tolist(), strict=True):
        network = tiny_network(*SEEDS[head.config.backbone])
        own = silent if head.config.name == member else ()
        total += weight * naive_score(head, network, picture, own).mean().item()
    return total


@pytest.fixture(scope="module")
def drops(stack: StackedHead) -> np.ndarray:
    """What every map of every member adds to the stack's score, (40,), one whole pass each."""
    picture = cat()
    score = naive(stack, picture)
    return np.array([score - naive(stack, picture, m, [c]) for m, n in CHANNELS.items() for c in range(n)])


def cat() -> Image.Image:
    from skimage import data

    return Image.fromarray(data.chelsea())


def test_score_interval_and_percentile(stack: StackedHead, photograph: Image.Image) -> None:
    result = ais.explain(photograph, stack)
    variants = np.full(3, INTERCEPT)
    for head, weight in zip(stack.members, WEIGHTS, strict=True):
        network = tiny_network(*SEEDS[head.config.backbone])
        variants += weight * naive_score(head, network, photograph).numpy()
    assert result.score == pytest.approx(variants.mean(), abs=1e-5)
    half = 1.5 * math.sqrt(0.25**2 + variants.var())
    assert result.interval == pytest.approx((result.score - half, result.score + half), abs=1e-5)
    assert result.level == 0.8
    assert result.percentile == pytest.approx((result.score + 10) * 5, abs=1e-3)
    assert ais.score(photograph, stack) == (result.score, *result.interval, result.percentile)
    assert (result.head, result.backbone) == ("stack", "tiny12 + tiny20 + tiny12")
    assert result.layer == "inner + stem.0"


def test_importance_is_what_ablation_does_to_the_stacks_score(
    stack: StackedHead, drops: np.ndarray, photograph: Image.Image
) -> None:
    result = ais.explain(photograph, stack)
    np.testing.assert_allclose(result.importance, drops, atol=1e-5)
    assert not result.importance[[12 + 3, 12 + 7]].any()  # pruned
    assert (np.abs(drops) > 1e-3).sum() > 10


@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if kind.needs != "alignment"])
def test_every_kind_is_that_of_the_stacks_score(
    kind: str, stack: StackedHead, drops: np.ndarray, photograph: Image.Image
) -> None:
    """The rating lies where some maps carry the score beyond it."""
    score = naive(stack, photograph)
    rating = float(np.clip(score + drops.max() / 2, 1, 7))
    result = ais.explain(photograph, stack, kind=kind, rating=rating, scale="points")
    residual = np.abs(score - drops - rating) - abs(score - rating)
    size = np.abs(drops)
    pairs = zip(stack.members, WEIGHTS, strict=True)
    expected = {
        "prediction": drops,
        "residual": residual,
        "dual": (size - size.min()) / (size.max() - size.min()) * np.sign(residual),
        "mean_residual": np.concatenate(
            [weight * (head.mean_residual * head.keep).numpy() for head, weight in pairs]
        ),
    }[kind]
    sure = np.abs(residual) > 1e-4 if kind == "dual" else slice(None)  # else rounding decides the sign
    np.testing.assert_allclose(result.importance[sure], expected[sure], atol=1e-4)
    assert result.grid.sum() == pytest.approx(result.importance.sum(), abs=1e-4)
    assert np.abs(result.grids["relative"]).max() == pytest.approx(1)
    assert result.grid.shape == (16, 24)  # the finest of its members'


def test_a_rating_off_the_stacks_scale_is_refused(stack: StackedHead, photograph: Image.Image) -> None:
    with pytest.raises(ais.AISError, match="not on the scale of the head 'stack', 1 to 7"):
        ais.explain(photograph, stack, kind="residual", rating=8)


@pytest.mark.parametrize("method", METHODS)
def test_members_are_explained_as_on_their_own(
    method: str, stack: StackedHead, photograph: Image.Image
) -> None:
    result = ais.explain(photograph, stack, method)
    assert [member.head for member in result.members] == ["one", "two", "three"]
    for member, head in zip(result.members, stack.members, strict=True):
        alone = ais.explain(photograph, head, method)
        assert (member.score, member.interval, member.percentile) == (
            alone.score,
            alone.interval,
            alone.percentile,
        )
        assert np.array_equal(member.importance, alone.importance)
        assert np.array_equal(member.maps, alone.maps)
        assert all(np.array_equal(member.grids[s], alone.grids[s]) for s in ("points", "relative"))
        assert not member.members


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_worked_out_twice(
    method: str, stack: StackedHead, photograph: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member's importances, and what is drawn without them, serve the stack too."""
    ablated, drawn = [], []

    def prediction(*arguments: Any) -> torch.Tensor:
        ablated.append(arguments)
        return importance(*arguments)

    def draw(*arguments: Any) -> Drawing:
        drawn.append(arguments)
        made: Drawing = original.draw(*arguments)
        return made

    importance, original = ais.attribution.importance.variant_predictions, METHODS[method]
    monkeypatch.setattr(ais.attribution.importance, "variant_predictions", prediction)
    monkeypatch.setitem(METHODS, method, replace(original, draw=draw))
    ais.explain(photograph, stack, method)
    assert len(ablated) == (0 if original.own_maps else 3)
    assert len(drawn) == (6 if original.uses_importance else 3)


def spread(grid: np.ndarray, shape: tuple[int, int], per_cell: bool) -> np.ndarray:
    """The naive way to another number of cells: by a grid so fine that the cells of both are whole in it."""
    rows, columns = (math.lcm(old, new) for old, new in zip(grid.shape, shape, strict=True))
    fine = grid.repeat(rows // grid.shape[0], 0).repeat(columns // grid.shape[1], 1)
    cells = fine.reshape(shape[0], rows // shape[0], shape[1], columns // shape[1])
    return cells.sum((1, 3)) * grid.size / fine.size if per_cell else cells.mean((1, 3))


@pytest.mark.parametrize("method", METHODS)
def test_heatmap_is_the_weighted_sum_of_the_members(
    method: str, stack: StackedHead, photograph: Image.Image
) -> None:
    result = ais.explain(photograph, stack, method, scale="points")
    per_cell = METHODS[method].per_cell
    grids = [member.grids["points"] for member in result.members]
    assert len({grid.shape for grid in grids}) > 1
    expected = sum(
        weight * spread(grid, result.grid.shape, per_cell)
        for weight, grid in zip(WEIGHTS, grids, strict=True)
    )
    np.testing.assert_allclose(result.grid, expected, atol=1e-6)
    if per_cell:
        total = sum(weight * grid.sum() for weight, grid in zip(WEIGHTS, grids, strict=True))
        assert result.grid.sum() == pytest.approx(total, abs=1e-5)
    relative = result.grids["relative"]
    np.testing.assert_allclose(relative * np.abs(result.grid).max(), result.grid, atol=1e-6)
    assert np.abs(relative).max() == pytest.approx(1)
    assert result.unit == ("points per cell" if per_cell else "points")


@pytest.mark.parametrize("place", [(0, 0), (225, 150), (450, 299), (100.5, 31.2)])
def test_contributions_are_the_cells_share(
    place: tuple[float, float], stack: StackedHead, photograph: Image.Image
) -> None:
    result = ais.explain(photograph, stack, scale="points")
    for shown in (result, *result.members):
        everything = shown.contributions(*place, n=100)
        assert sorted(c.index for c in everything) == list(range(len(shown.importance)))
        h, w = shown.grid.shape
        cell = shown.grids["points"][int(place[1] / 300 * h), int(place[0] / 451 * w)]
        assert sum(c.value for c in everything) == pytest.approx(cell, abs=1e-5)
        assert all(c.importance == shown.importance[c.index] for c in everything)
        assert all(c.map.shape == (h, w) for c in everything)


def test_saving_writes_the_members_too(stack: StackedHead, photograph: Image.Image, tmp_path: Path) -> None:
    result = ais.explain(photograph, stack)
    files = result.save(tmp_path / "out")
    folders = ("", "one", "two", "three")
    assert files == [tmp_path / "out" / folder / name for folder in folders for name in FILES]
    for shown, first in zip((result, *result.members), files[::3], strict=True):
        assert np.array_equal(np.load(first), shown.heatmap)
    written = json.loads((tmp_path / "out/explanation.json").read_text())
    assert written["members"] == [
        {
            "head": m.head,
            "source": "",
            "revision": "",
            "head_sha256": m.head_sha256,
            "score": m.score,
            "weight": weight,
            "contribution": weight * m.score,
            "maps": CHANNELS[m.head],
        }
        for m, weight in zip(result.members, result.weights, strict=True)
    ]
    assert written["importance"] == result.importance.tolist()
    alone = json.loads((tmp_path / "out/two/explanation.json").read_text())
    assert (alone["head"], alone["score"], alone["members"]) == ("two", result.members[1].score, [])


@pytest.fixture(scope="module")
def sizes(backbones: None, tmp_path_factory: pytest.TempPathFactory) -> StackedHead:
    """Three heads on one backbone: at its own size, a larger and a smaller one."""
    heads = [
        change_head(make_head("tiny12", size=size, view="resize", seed=size), name=name)
        for name, size in (("own", 64), ("large", 160), ("larger", 96))
    ]
    head = load_head(save_stack(tmp_path_factory.mktemp("sizes"), heads, WEIGHTS))
    assert isinstance(head, StackedHead)
    return head


@pytest.mark.parametrize("method", METHODS)
def test_one_backbone_at_several_sizes(
    method: str, sizes: StackedHead, photograph: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weighted sum of the scores; grids added in points on the finest; one network; members told apart."""
    loaded, load = [], loading.load_backbone
    monkeypatch.setattr(loading, "load_backbone", lambda *a, **k: loaded.append(a) or load(*a, **k))
    loading._backbone.cache_clear()
    result = ais.explain(photograph, sizes, method, scale="points")
    assert len(loaded) == 1
    assert result.score == pytest.approx(naive(sizes, photograph), abs=1e-5)
    assert result.backbone == "tiny12 + tiny12 at 160 px + tiny12 at 96 px"
    assert [member.backbone for member in result.members] == ["tiny12", "tiny12 at 160 px", "tiny12 at 96 px"]
    assert {c.backbone for c in result.contributions(9, 9, 36)} == {m.backbone for m in result.members}
    grids = [member.grids["points"] for member in result.members]
    own_cells = method in {"integrated_gradients", "smoothgrad", "rise"}  # as many at all of these sizes
    assert (len({grid.shape for grid in grids}) > 1) != own_cells
    assert result.grid.size == max(grid.size for grid in grids)
    if METHODS[method].per_cell and not own_cells:  # occlusion's windows are its own, too
        assert result.grid.shape == grids[1].shape == (20, 30)
    expected = sum(
        weight * spread(grid, result.grid.shape, METHODS[method].per_cell)
        for weight, grid in zip(WEIGHTS, grids, strict=True)
    )
    np.testing.assert_allclose(result.grid, expected, atol=1e-6)
    picture = result.placement
    assert picture.box == (0, 0, photograph.width, photograph.height)


def test_importance_over_sizes_is_what_ablation_does(sizes: StackedHead, photograph: Image.Image) -> None:
    result, score = ais.explain(photograph, sizes, scale="points"), naive(sizes, photograph)
    drops = [score - naive(sizes, photograph, m.config.name, [c]) for m in sizes.members for c in range(12)]
    np.testing.assert_allclose(result.importance, drops, atol=1e-5)
    assert result.grid.sum() == pytest.approx(sum(drops), abs=1e-4)


def test_two_real_backbones(photograph: Image.Image, tmp_path: Path) -> None:
    """For each member's strongest maps, against its network with the convolution's own weights set to 0."""
    members = []
    for seed, (name, size) in enumerate((("efficientnet_lite0", 224), ("efficientnet_lite1", 240))):
        head = make_head(
            name, "conv_head", dim=1280, channels=1280, hidden=32, view="resize", size=size, seed=seed
        )
        members.append(change_head(head, name=name))
    result: Explanation = ais.explain(photograph, save_stack(tmp_path, members, [0.5, 0.25]), scale="points")
    assert result.importance.shape == (2560,)
    assert result.grid.sum() == pytest.approx(result.importance.sum(), abs=1e-4)
    scores = []
    for m, (head, weight) in enumerate(zip(members, (0.5, 0.25), strict=True)):
        name = head.config.backbone
        network = ais.load_backbone(name).network
        picture = BACKBONES[name].preprocessing("resize")(photograph)[None]
        convolution = network.get_submodule("conv_head").weight.data
        with torch.no_grad():
            score = head.score(network(picture)).item()
            own = result.importance[1280 * m : 1280 * (m + 1)]
            for channel in np.argsort(-np.abs(own))[:3]:
                kept = convolution[channel].clone()
                convolution[channel] = 0
                ablated = head.score(network(picture)).item()
                convolution[channel] = kept
                assert own[channel] == pytest.approx(weight * (score - ablated), abs=1e-5)
        scores.append(score)
    assert result.score == pytest.approx(0.5 * scores[0] + 0.25 * scores[1] - 1, abs=1e-5)


def test_saved_and_loaded_it_is_the_same(stack: StackedHead, photograph: Image.Image, tmp_path: Path) -> None:
    path = save_stack(tmp_path, small_members(), WEIGHTS)
    loaded = load_head(path)
    assert isinstance(loaded, StackedHead)
    assert loaded.config == stack.config
    assert loaded.folder == path
    assert [member.folder for member in loaded.members] == [path.resolve().parent / name for name in CHANNELS]
    state = stack.state_dict()
    assert state.keys() == loaded.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
    assert torch.equal(loaded.members[1].keep, stack.members[1].keep)
    assert ais.score(photograph, loaded) == ais.score(photograph, stack)
    loaded.save(tmp_path / "again")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("stack", "again")]
    assert weights[0] == weights[1]
    assert len(weights[0]) < 2000  # its members' tensors are theirs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_stack(tmp_path / "heads", small_members(), WEIGHTS)


def test_members_that_come_with_ais_are_found(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "installed"
    installed.mkdir()
    (folder.parent / "two").rename(installed / "two")
    with pytest.raises(HeadError, match="member 'two' is unavailable"):
        load_head(folder)
    monkeypatch.setattr(shipped, "heads_directory", lambda: installed)
    assert load_head(folder).config.name == "stack"


def test_members_are_not_looked_for_where_one_happens_to_stand(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder.parent / "two").rename(tmp_path / "two")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HeadError, match="member 'two' is unavailable"):
        load_head(folder)


@pytest.mark.parametrize("source", [".", "../stack", "../one/../stack"])
def test_members_are_found_from_within_the_folder(
    source: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    head = load_head(source)
    assert isinstance(head, StackedHead)
    assert [member.config.name for member in head.members] == ["one", "two", "three"]


def _member_pruned_since(folder: Path) -> None:
    edit(folder.parent / "two", pruned=[3])  # the weights are the same, the scores are not


def _rename_member(folder: Path) -> None:
    (folder.parent / "two").rename(folder.parent / "somewhere")


def _member_trained_anew(folder: Path) -> None:
    head = small_members()[1]
    head.bias2[0] += 1
    head.save(folder.parent / "two")


def _member_damaged(folder: Path) -> None:
    file = folder.parent / "two/model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")


def _replace_member(folder: Path, head: RegressionHead) -> None:
    """Another head in the member's place, which the stack believes to be the one that it was made with."""
    head.save(folder.parent / "two")
    _name_members(folder, "one", "two", "three")


def _name_members(folder: Path, *names: object) -> None:
    def fingerprint(name: object) -> str:
        place = folder.parent / name if isinstance(name, str) and name.isalnum() else folder
        return fingerprint_of(place)

    edit(folder, members=[{"head": name, "fingerprint": fingerprint(name)} for name in names])


def _member_is_a_stack(folder: Path) -> None:
    inner = save_stack(folder.parent / "inner", small_members(), WEIGHTS)
    inner.rename(folder.parent / "nested")
    _name_members(folder, "one", "two", "nested")


def _member_is_itself(folder: Path) -> None:
    edit(folder, name="another")  # its folder is still the one that it names
    _name_members(folder, "one", "two", "stack")


def _two_stacks_in_a_ring(folder: Path) -> None:
    other = save_stack(folder.parent / "x", small_members(), WEIGHTS).rename(folder.parent / "other")
    edit(
        other,
        name="other",
        members=[{"head": n, "fingerprint": fingerprint_of(folder)} for n in ("one", "two", "stack")],
    )
    _name_members(folder, "one", "two", "other")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (_rename_member, "Put its folder into .*heads, beside the stack's"),
        (_member_trained_anew, "differs from the one that the stack was made with: get that one"),
        (_member_pruned_since, "differs from the one that the stack was made with: get that one"),
        (_member_damaged, "damaged"),
        (
            lambda folder: _replace_member(
                folder, change_head(make_head("tiny12", variants=4, view="resize"), name="two")
            ),
            "on one backbone, of 3 variants",
        ),
        (
            lambda folder: _replace_member(folder, change_head(small_members()[1], view="crop")),
            "sees the whole picture",
        ),
        (_member_is_a_stack, "'nested' is unavailable.*on one backbone"),
        (_member_is_itself, "'stack' is unavailable.*on one backbone"),
        (_two_stacks_in_a_ring, "'other' is unavailable.*on one backbone"),
    ],
)
def test_member_that_is_not_to_be_had_is_a_sentence(
    spoil: Callable[[Path], None], sentence: str, folder: Path
) -> None:
    assert isinstance(load_head(folder), StackedHead)
    spoil(folder)
    with pytest.raises(HeadError, match=sentence) as caught:
        load_head(folder)
    assert "is a stack, and its member" in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "../heads/two",
        "/etc",
        "two/",
        "two/.",
        "./two",
        "",
        ".",
        "..",
        "a\\b",
        "two\n",
        "\0",
        "~",
        " two",
        3,
        None,
        [],
    ],
)
def test_member_that_is_not_a_name_is_a_sentence(name: object, folder: Path) -> None:
    _name_members(folder, "one", name)
    with pytest.raises(HeadError, match="a member should be named as its folder is"):
        load_head(folder)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"members": []}, "2 to 8 members"),
        ({"members": [{"head": "one", "fingerprint": "x"}]}, "2 to 8 members"),
        ({"members": [{"head": f"h{n}", "fingerprint": "x"} for n in range(9)]}, "2 to 8 members"),
        ({"members": None}, "not a head's config"),
        ({"members": 3}, "not a head's config"),
        ({"members": ["one", "two"]}, "not a head's config"),
        ({"members": [{"head": "one"}, {"head": "two"}]}, "not a head's config.*fingerprint"),
        ({"members": [{"head": "one", "fingerprint": 1}] * 2}, "fingerprint should be text"),
        ({"members": [{"head": "one", "fingerprint": "x"}] * 2}, "each of its members once"),
        ({"name": "two"}, "a stack cannot be a member of itself"),
        ({"name": "../two"}, "name should be that of a folder"),
        ({"variants": 0}, "variants should be a positive whole number"),
        ({"variants": 4}, "of 4 variants"),
    ],
)
def test_config_that_is_wrong_is_a_sentence(changes: dict[str, object], sentence: str, folder: Path) -> None:
    edit(folder, **changes)
    with pytest.raises(HeadError, match=sentence):
        load_head(folder)


def test_a_stack_of_fewer_weights_than_members_is_a_sentence(folder: Path) -> None:
    _name_members(folder, "one", "two")
    with pytest.raises(HeadError, match=r"weight is F32 \[3\].*should be F32 \[2\]"):
        load_head(folder)


def test_combine_is_the_weighted_sum_of_each_variant(stack: StackedHead) -> None:
    scores = [torch.randn(5, 3, dtype=torch.float64) for _ in range(3)]
    expected = sum(w * s for w, s in zip(WEIGHTS, scores, strict=True)) + INTERCEPT
    torch.testing.assert_close(stack.double().combine(scores), expected)
    stack.float()
