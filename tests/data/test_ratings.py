from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ais.data import ratings
from ais.data.columns import RatingColumns
from ais.data.ratings import RatedSet, read_ratings
from ais.data.splits import grouped_folds, grouped_split
from ais.errors import DataError
from helpers.pictures import encoded, photo

JPEG = encoded(photo(16, 12), "JPEG")


def folder(tmp_path: Path, table: str, pictures: str = "a.jpg b.jpg c.jpg") -> Path:
    for name in pictures.split():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"no picture" if name.startswith("bad") else JPEG)
    (tmp_path / "metadata.csv").write_text(table, encoding="utf-8")
    return tmp_path


def test_reads_ratings_their_spread_and_groups(tmp_path: Path) -> None:
    table = (
        "\ufefffile_name, beauty_mean,beauty_sd,beauty_n,theme\n"
        'images/a.jpg,4.5,1.2,30,"lake, still"\n\nb.jpg , 3 ,0.9,31,dog\n'
    )
    data = read_ratings(
        folder(tmp_path, table, "images/a.jpg b.jpg"), RatingColumns("beauty_mean", group="theme")
    )
    assert data.files == [tmp_path / "images/a.jpg", tmp_path / "b.jpg"]
    assert data.ratings.dtype == np.float64
    assert data.ratings.tolist() == [4.5, 3.0]
    assert data.sd is not None
    assert data.sd.tolist() == [1.2, 0.9]
    assert data.n is not None
    assert data.n.tolist() == [30, 31]
    assert data.groups == ["lake, still", "dog"]
    assert (len(data), data.target, data.folder) == (2, "beauty_mean", tmp_path)


def test_spread_and_groups_are_optional(tmp_path: Path) -> None:
    data = read_ratings(folder(tmp_path, "file_name,mos\na.jpg,1\nb.jpg,2\n"), "mos")
    assert data.sd is data.n is data.groups is data.categories is data.split is None
    assert data.skipped == []


def test_columns_by_other_names(tmp_path: Path) -> None:
    table = (
        "file_name,mos,mos_sd,mos_n,spread,raters,kind,part\n"
        "a.jpg,1,0.5,10,0.7,20,sea,Training\nb.jpg,2,0.5,10,0,1,,VAL\nc.jpg,3,0.5,10,0.9,22,land,test\n"
    )
    place = folder(tmp_path, table)
    data = read_ratings(place, RatingColumns("mos", sd="spread", n="raters", category="kind", split="part"))
    assert data.sd is not None
    assert data.sd.tolist() == [0.7, 0, 0.9]
    assert data.n is not None
    assert data.n.tolist() == [20, 1, 22]
    assert data.categories == ["sea", "", "land"]
    assert data.split == ["train", "validation", "test"]
    with pytest.raises(DataError, match=r"no column 'x', 'y', 'z'\."):
        read_ratings(place, RatingColumns("mos", sd="x", n="y", category="z", split="y"))


@pytest.mark.parametrize(
    ("words", "split"),
    [
        ("train Train TRAINING training", "train"),
        ("validation val Valid VAL", "validation"),
        ("test testing Test", "test"),
    ],
)
def test_the_words_for_a_split(tmp_path: Path, words: str, split: str) -> None:
    rows = "".join(f"{i}.jpg,1,{word}\n" for i, word in enumerate(words.split()))
    pictures = " ".join(f"{i}.jpg" for i in range(len(words.split())))
    data = read_ratings(
        folder(tmp_path, "file_name,mos,split\n" + rows, pictures), RatingColumns("mos", split="split")
    )
    assert data.split == [split] * len(words.split())


MIXED = (
    "file_name,mos,mos_sd,mos_n,theme,kind,split\n"
    "a.jpg,1,0.5,3,x,u,train\n"
    "bad.jpg,2,0.5,3,x,v,test\n"
    "b.jpg,3,0.5,0,x,v,dev\n"
    "a.jpg,4,0.5,3,x,v,test\n"
    "c.jpg,5,0.25,4,y,w,test\n"
)

MIXED_PROBLEMS = [
    'line 3: "bad.jpg" is not a picture that is read here: give a JPEG, PNG, WebP, GIF, BMP or TIFF picture',
    "line 4: mos_n is 0, below one",
    "line 4: split is 'dev', not train, validation or test",
    "line 5: 'a.jpg' is named in line 2 already",
]


def test_unreadable_pictures_are_said_with_the_rest(tmp_path: Path) -> None:
    place = folder(tmp_path, MIXED, "a.jpg bad.jpg b.jpg c.jpg")
    with pytest.raises(DataError) as caught:
        read_ratings(place, RatingColumns("mos", group="theme", split="split"))
    assert str(caught.value).splitlines() == [
        f"{place / 'metadata.csv'} cannot be used as it is, 4 problems:",
        *(f"  {problem}" for problem in MIXED_PROBLEMS),
    ]


def test_bad_rows_are_left_out_where_asked(tmp_path: Path) -> None:
    place = folder(tmp_path, MIXED, "a.jpg bad.jpg b.jpg c.jpg")
    data = read_ratings(
        place, RatingColumns("mos", group="theme", category="kind", split="split"), skip_bad=True
    )
    assert data.skipped == MIXED_PROBLEMS
    assert data.files == [place / "a.jpg", place / "c.jpg"]
    assert data.ratings.tolist() == [1, 5]
    assert data.sd is not None
    assert data.sd.tolist() == [0.5, 0.25]
    assert data.n is not None
    assert data.n.tolist() == [3, 4]
    assert (data.groups, data.categories, data.split) == (["x", "y"], ["u", "w"], ["train", "test"])


def test_what_no_skipping_mends(tmp_path: Path) -> None:
    place = folder(tmp_path, "file_name,mos\nbad.jpg,1\nb.jpg,x\n", "bad.jpg b.jpg")
    with pytest.raises(DataError, match=r"No row of .* can be used, 2 problems:\n  line 2: .*\n  line 3:"):
        read_ratings(place, "mos", skip_bad=True)
    with pytest.raises(DataError, match="no column 'beauty'"):
        read_ratings(place, "beauty", skip_bad=True)


def test_pictures_are_not_opened_without_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    monkeypatch.setattr(ratings, "read_image", opened.append)
    place = folder(tmp_path, "file_name,mos\nbad.jpg,1\nb.jpg,2\n", "bad.jpg b.jpg")
    assert len(read_ratings(place, "mos")) == 2
    assert opened == []
    read_ratings(place, "mos", skip_bad=True)
    assert sorted(opened) == [place / "b.jpg", place / "bad.jpg"]


@given(places=st.lists(st.integers(0, 5)), mask=st.lists(st.booleans(), min_size=6, max_size=6))
def test_rows_are_those_of_every_column(places: list[int], mask: list[bool]) -> None:
    words = list("uvwxyz")
    numbers = np.arange(6.0)
    data = RatedSet(
        folder=Path("f"),
        target="mos",
        files=[Path("f", word) for word in words],
        ratings=numbers,
        sd=numbers + 10,
        n=None,
        groups=words,
        categories=None,
        split=words,
        skipped=["line 9: gone"],
    )
    for index, chosen in (
        (np.array(places, dtype=int), places),
        (np.array(mask), [i for i, kept in enumerate(mask) if kept]),
    ):
        some = data.rows(index)
        assert some.files == [Path("f", words[i]) for i in chosen]
        assert some.ratings.tolist() == chosen
        assert some.ratings.dtype == np.float64
        assert some.sd is not None
        assert some.sd.tolist() == [i + 10 for i in chosen]
        assert some.groups == some.split == [words[i] for i in chosen]
        assert some.n is some.categories is None
        assert some.skipped == ["line 9: gone"]


def test_everything_wrong_is_said_at_once(tmp_path: Path) -> None:
    table = (
        "file_name,mos,mos_sd,theme\n"
        "a.jpg,1,0.5,x\n"
        "b.jpg,good,0.5,x\n"
        "missing.jpg,2,0.5,x\n"
        "./a.jpg,2,0.5,x\n"
        "c.jpg,nan,-1,\n"
        ",inf,0.5,x\n"
        "../a.jpg,3,0.5,x\n"
        "short.jpg\n"
    )
    with pytest.raises(DataError) as caught:
        read_ratings(folder(tmp_path, table), RatingColumns("mos", group="theme"))
    message = str(caught.value)
    for part in (
        "13 problems",
        "line 3: mos is 'good', not a number",
        "line 4: there is no file 'missing.jpg'",
        "line 5: './a.jpg' is named in line 2 already",
        "line 6: mos is 'nan', not a number",
        "line 6: mos_sd is -1, below zero",
        "line 6: the group theme is empty",
        "line 7: file_name is empty",
        "line 7: mos is 'inf', not a number",
        "line 8: '../a.jpg' lies outside the folder",
        "line 9: there is no file 'short.jpg'",
        "line 9: mos is '', not a number",
        "line 9: the group theme is empty",
    ):
        assert part in message


def test_the_list_of_problems_is_bounded(tmp_path: Path) -> None:
    table = "file_name,mos\na.jpg,1\n" + "".join(f"{i}.jpg,1\n" for i in range(1000))
    with pytest.raises(DataError, match="and 800 more") as caught:
        read_ratings(folder(tmp_path, table), "mos")
    assert len(str(caught.value).splitlines()) == 1 + 200 + 1


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/passwd", "images/../../secret.jpg", ".."])
def test_nothing_outside_the_folder_is_touched(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.jpg").write_bytes(b"x")
    inner = tmp_path / "set"
    inner.mkdir()
    with pytest.raises(DataError, match="lies outside the folder"):
        read_ratings(folder(inner, f"file_name,mos\n{name},1\n"), "mos")


def test_missing_columns_are_named_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no column 'beauty', 'theme'\. Its columns are: 'file_name', 'mos'"):
        read_ratings(folder(tmp_path, "file_name,mos\na.jpg,1\n"), RatingColumns("beauty", group="theme"))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "no column 'file_name', 'mos'"),
        (b"file_name,mos\n", "names no pictures"),
        (b"file_name,mos,mos\na.jpg,1,1\n", "two columns of one name"),
        (b"file_name,mos\n\x81\xfe,1\n", "save it as CSV, in UTF-8"),
        (b"file_name,mos\na\0.jpg,1\n", "line 2 has the byte 0"),
        (b'file_name,mos\n"a.jpg,1\n', "not a CSV table"),
    ],
)
def test_tables_that_are_none(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "metadata.csv").write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        read_ratings(tmp_path, "mos")


def test_no_table(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"There is no .*metadata\.csv"):
        read_ratings(tmp_path / "nowhere", "mos")


GROUPS = st.lists(st.sampled_from("abcdefghijkl"), min_size=8, max_size=60).filter(lambda g: len(set(g)) >= 4)


@given(groups=GROUPS, folds=st.integers(2, 4), seed=st.integers(0, 1000))
@settings(max_examples=100, deadline=None)
def test_no_group_is_shared(groups: list[str], folds: int, seed: int) -> None:
    assigned = grouped_folds(groups, folds, seed)
    assert set(assigned) == set(range(folds))
    for fold in range(folds):
        rest = [g for g, f in zip(groups, assigned, strict=True) if f != fold]
        tested = {g for g, f in zip(groups, assigned, strict=True) if f == fold}
        if len(set(rest)) < 2:
            continue
        held = grouped_split(rest, 0.2, seed)
        validated = {g for g, h in zip(rest, held, strict=True) if h}
        trained = {g for g, h in zip(rest, held, strict=True) if not h}
        assert validated
        assert trained
        assert tested.isdisjoint(validated | trained)
        assert validated.isdisjoint(trained)


def test_folds_are_of_about_one_size() -> None:
    groups = [str(int(i**0.7)) for i in range(600)]
    sizes = np.bincount(grouped_folds(groups, 10, 0))
    assert sizes.max() - sizes.min() <= 5
    assert not np.array_equal(grouped_folds(groups, 10, 0), grouped_folds(groups, 10, 1))


def test_split_holds_about_the_share() -> None:
    groups = [str(i // 3) for i in range(300)]
    assert 30 <= grouped_split(groups, 0.1, 0).sum() <= 32


@given(
    sizes=st.lists(st.integers(3, 5), min_size=34, max_size=60),
    seed=st.integers(0, 1000),
)
@settings(max_examples=100, deadline=None)
def test_small_groups_are_drawn_until_the_share_is_held(sizes: list[int], seed: int) -> None:
    """Groups of at most half the share, here 5 % of the pictures: in the order drawn, none passed over."""
    groups = [f"{name:02d}" for name, size in enumerate(sizes) for _ in range(size)]
    order = np.random.default_rng(seed).permutation(len(sizes))
    drawn: set[str] = set()
    held = 0
    for name in order:
        if held < 0.1 * len(groups):
            drawn.add(f"{name:02d}")
            held += sizes[name]
    assert grouped_split(groups, 0.1, seed).tolist() == [group in drawn for group in groups]


@pytest.mark.parametrize("seed", range(20))
def test_a_large_group_is_passed_over(seed: int) -> None:
    groups = ["large"] * 120 + [str(i // 4) for i in range(180)]
    held = grouped_split(groups, 0.1, seed)
    assert 30 <= held.sum() <= 33
    assert not held[:120].any()


def test_large_groups_only() -> None:
    groups = list("aabbccdd")
    drawn = [grouped_split(groups, 0.1, seed) for seed in range(40)]
    assert {held.sum() for held in drawn} == {2}
    assert len({held.tobytes() for held in drawn}) == 4
