"""What an explanation says of itself, and what its files hold and take."""

from __future__ import annotations

import copy
import json
import pickle
import re
import tracemalloc
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import ais
from ais.attribution.explanation import FILES
from ais.errors import AISError
from ais.images.preprocessing import Preprocessing
from helpers.heads import make_head


@pytest.fixture(scope="module")
def stacked() -> ais.Explanation:
    from skimage import data

    return ais.explain(data.chelsea(), "beauty-stack")


@settings(max_examples=60, deadline=None)
@given(
    st.integers(8, 700),
    st.integers(8, 700),
    st.integers(1, 30),
    st.integers(1, 30),
    st.sampled_from(["crop", "resize"]),
    st.sampled_from([None, 1, 50, 5000]),
)
def test_a_density_sums_to_the_grid(
    width: int, height: int, h: int, w: int, view: str, pixels: int | None
) -> None:
    place = (
        Preprocessing(view, 224, 256, "bilinear", (0.0,) * 3, (1.0,) * 3)
        .geometry(width, height)
        .within(pixels)
    )  # type: ignore[arg-type]
    grid = np.random.default_rng(h * w).normal(size=(h, w)).astype(np.float32)
    shared = place.share(grid)
    assert pixels is None or shared.size <= pixels
    assert np.nansum(shared, dtype=np.float64) == pytest.approx(
        grid.sum(), abs=1e-5 * float(np.abs(grid).sum())
    )
    assert np.array_equal(np.isnan(shared), np.isnan(place.upsample(grid)))


@pytest.mark.parametrize("method", ["ais", "gradcam"])
def test_points_per_pixel_sum_to_the_total(method: str, photograph: Image.Image) -> None:
    made = ais.explain(photograph, method=method, scale="density")
    assert made.total is not None
    assert made.heatmap.sum(dtype=np.float64) == pytest.approx(made.total, rel=1e-4)
    assert np.array_equal(made.density, made.heatmap)
    if method == "ais":
        assert made.total == pytest.approx(made.importance.sum(), rel=1e-4)
    assert made.unit == "points per pixel"
    points = replace(made, scale="points")
    assert "all pixels of a cell repeat it" in points.pixel_unit
    assert np.array_equal(points.density, made.heatmap)


def test_what_is_a_level_has_no_density(photograph: Image.Image) -> None:
    with pytest.raises(AISError, match="Occlusion do not"):
        ais.explain(photograph, method="occlusion", scale="density")


def test_a_stacks_sum_is_its_score(stacked: ais.Explanation) -> None:
    document = stacked.to_dict()
    total = sum(member["contribution"] for member in document["members"]) + document["intercept"]
    assert total == pytest.approx(stacked.score, abs=1e-5)
    for member, weight, shown in zip(stacked.members, stacked.weights, document["members"], strict=True):
        assert (shown["head"], shown["score"], shown["weight"]) == (member.head, member.score, weight)
        assert f"{weight:.3f} x {member.score:.2f} ({member.head})" in stacked.sum_in_words
    assert stacked.sum_in_words.startswith(f"{stacked.score:.2f} = ")


def test_the_printed_sum_of_places_adds_up(photograph: Image.Image) -> None:
    made = ais.explain(photograph, method="contribution")
    points = made.grids["points"]
    for typical, total in ((3.994, 0.624), (3.996, 0.6149), (4.005, -0.0049), (4.0, -1.2351)):
        grids = dict(made.grids, points=np.full_like(points, total / points.size))
        other = replace(made, typical_score=typical, score=typical + total, grids=grids)
        found = re.fullmatch(
            r"(.+) = (.+) \(a typical picture\) ([+-]) (.+) \(the places of this one\)", other.sum_of_places
        )
        assert found
        score, first, rest = Decimal(found[1]), Decimal(found[2]), Decimal(found[3] + found[4])
        assert first + rest == score == Decimal(f"{other.score:.2f}")
        assert abs(float(first) - typical) < 0.01
        assert abs(float(rest) - total) < 0.01
    for silent in (replace(made, typical_score=None), replace(made, method="ais")):
        assert silent.sum_of_places == ""
    assert ais.explain(photograph, method="contribution", fine=True).sum_of_places == ""


def test_it_says_what_it_is_of(photograph: Image.Image, tmp_path: Path) -> None:
    photograph.save(tmp_path / "a cat.png")
    head = ais.load_head()
    document = ais.explain(tmp_path / "a cat.png").to_dict()
    assert document["picture"] == "a cat.png"
    assert document["version"] == ais.__version__
    assert document["head_sha256"] == head.config.weights_sha256
    assert document["heatmap_size"] == [300, 451]
    assert ais.explain(photograph).picture == ""
    with (tmp_path / "a cat.png").open("rb") as stream:
        assert ais.explain(stream).picture == "a cat.png"
    odd = tmp_path / "odd \udcff.png"
    photograph.save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(odd)
    ais.explain(odd).save(tmp_path / "out", files=["explanation.json"])
    assert json.loads((tmp_path / "out/explanation.json").read_bytes())["picture"].startswith("odd ")


@pytest.mark.parametrize("mean", [0.9, 1.2, 6.8, 9.0])
def test_the_interval_ends_where_the_scale_does(mean: float, photograph: Image.Image) -> None:
    head = make_head("efficientnet_lite0", "conv_head", dim=1280, channels=1280, view="resize")
    head.rating_std.fill_(1e-3)
    head.rating_mean.fill_(mean)
    score = ais.score(photograph, head)
    assert score.score == pytest.approx(mean, abs=0.1)  # as the head computes it
    assert 1 <= score.low <= score.high <= 7
    assert 1 <= score.score <= 7 or score.low == score.high or score.low == 1 or score.high == 7
    assert ais.explain(photograph, head).interval == (score.low, score.high)
    half = head.config.interval.error * head.config.interval.factor
    for rating in np.linspace(1, 7, 61):  # none that people can give is lost
        inside = abs(rating - mean) <= half - 0.1
        assert not inside or score.low <= rating <= score.high


def test_only_the_files_asked_for_and_no_larger(stacked: ais.Explanation, tmp_path: Path) -> None:
    made = stacked.save(tmp_path, files=["overlay.png", "explanation.json"], max_pixels=1000)
    assert [file.name for file in made] == list(FILES[1:]) * 4
    assert all(file.is_file() for file in made)
    h, w = json.loads((tmp_path / "explanation.json").read_bytes())["heatmap_size"]
    assert 900 < h * w <= 1000
    stacked.save(tmp_path, files=["heatmap.npy"], max_pixels=1000)
    assert np.load(tmp_path / "heatmap.npy").shape == (h, w)
    assert Image.open(tmp_path / "overlay.png").width == w
    for wrong in ({"files": ["x"]}, {"max_pixels": 0}):
        with pytest.raises(AISError):
            stacked.save(tmp_path, **wrong)  # type: ignore[arg-type]


def test_a_large_pictures_files_are_made_in_strips(stacked: ais.Explanation, tmp_path: Path) -> None:
    picture = Image.new("RGB", (4000, 3000))
    place = Preprocessing("resize", 224, 256, "bilinear", (0.0,) * 3, (1.0,) * 3).geometry(4000, 3000)
    large = replace(stacked, image=picture, placement=place, members=(), weights=())
    tracemalloc.start()
    large.save(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4000 * 3000 * 4 * 2.5  # the heatmap's file as it grows, and a strip; it was 4.6 times
    assert np.array_equal(np.load(tmp_path / "heatmap.npy"), large.heatmap)


def test_explanations_are_compared_by_content(stacked: ais.Explanation) -> None:
    from skimage import data

    again = ais.explain(data.chelsea(), "beauty-stack")
    assert again == stacked
    assert hash(again) == hash(stacked)
    assert len({again, stacked, replace(stacked, seconds=0.0)}) == 1
    for sent in (pickle.loads(pickle.dumps(stacked)), copy.copy(stacked), copy.deepcopy(stacked)):
        assert sent == stacked
        assert hash(sent) == hash(stacked)
    grids = {name: grid.copy() for name, grid in stacked.grids.items()}
    grids["points"][0, 0] += 1
    member = replace(stacked.members[0], importance=stacked.members[0].importance + 1)
    for changed in (
        {"scale": "points"},
        {"grids": grids},
        {"grids": {}},
        {"image": Image.new("RGB", stacked.image.size)},
        {"importance": stacked.importance[1:]},
        {"members": (member, *stacked.members[1:])},
    ):
        assert replace(stacked, **changed) != stacked  # type: ignore[arg-type]
    assert stacked != "something else"
