from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ais.datasets import grouped_folds, grouped_split, read_ratings
from ais.errors import DataError


def folder(tmp_path: Path, table: str, pictures: str = "a.jpg b.jpg c.jpg") -> Path:
    for name in pictures.split():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"not opened here")
    (tmp_path / "metadata.csv").write_text(table, encoding="utf-8")
    return tmp_path


def test_reads_ratings_their_spread_and_groups(tmp_path: Path) -> None:
    table = (
        "\ufefffile_name, beauty_mean,beauty_sd,beauty_n,theme\n"
        'images/a.jpg,4.5,1.2,30,"lake, still"\n\nb.jpg , 3 ,0.9,31,dog\n'
    )
    data = read_ratings(folder(tmp_path, table, "images/a.jpg b.jpg"), "beauty_mean", group="theme")
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
    assert data.sd is data.n is data.groups is None


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
        read_ratings(folder(tmp_path, table), "mos", group="theme")
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
    table = "file_name,mos\n" + "".join(f"{i}.jpg,1\n" for i in range(1000))
    with pytest.raises(DataError, match="and 980 more") as caught:
        read_ratings(folder(tmp_path, table), "mos")
    assert len(str(caught.value)) < 3000


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/passwd", "images/../../secret.jpg", ".."])
def test_nothing_outside_the_folder_is_touched(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.jpg").write_bytes(b"x")
    inner = tmp_path / "set"
    inner.mkdir()
    with pytest.raises(DataError, match="lies outside the folder"):
        read_ratings(folder(inner, f"file_name,mos\n{name},1\n"), "mos")


def test_missing_columns_are_named_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no column 'beauty', 'theme'\. Its columns are: 'file_name', 'mos'"):
        read_ratings(folder(tmp_path, "file_name,mos\na.jpg,1\n"), "beauty", group="theme")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "no column 'file_name', 'mos'"),
        (b"file_name,mos\n", "names no pictures"),
        (b"file_name,mos,mos\na.jpg,1,1\n", "two columns of one name"),
        (b"file_name,mos\n\xff\xfe,1\n", "not UTF-8"),
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
