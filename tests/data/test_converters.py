from __future__ import annotations

import csv
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from ais.data.columns import RatingColumns
from ais.data.converters import CONVERTERS, Converter
from ais.data.converters.aigciqa2023 import convert_aigciqa2023
from ais.data.converters.oasis import convert_oasis
from ais.data.ratings import columns, read_ratings
from ais.errors import DataError
from helpers.commands import call
from helpers.sets import BEAUTY, JPEG, OASIS, SCALES, oasis


def test_aigciqa2023(generated: tuple[Path, dict[str, np.ndarray]], tmp_path: Path) -> None:
    source, vectors = generated
    assert convert_aigciqa2023(source, tmp_path / "new" / "out") == 2400
    out = tmp_path / "new" / "out"
    assert sorted(p.name for p in out.iterdir()) == ["images", "metadata.csv"]
    for scale in SCALES:
        data = read_ratings(
            out, RatingColumns(f"{scale}_mean", sd=f"{scale}_raw_sd", group="prompt", category="block")
        )
        assert data.files == [out / f"images/{i}.png" for i in range(2400)]
        np.testing.assert_allclose(data.ratings, vectors[f"{scale}_mean"], atol=5e-5)
        assert data.sd is not None
        np.testing.assert_allclose(data.sd, vectors[f"{scale}_raw_sd"], atol=5e-5)
    # The deviations are on another scale than the means: nobody takes them for the ratings' by their name.
    assert read_ratings(out, "quality_mean").sd is None
    # Six blocks of a hundred prompts of four pictures.
    assert data.groups == [f"prompt {j}" for _ in range(6) for j in range(100) for _ in range(4)]
    assert data.categories == [str(block) for block in range(1, 7) for _ in range(400)]


def test_aigciqa2023_with_the_authors_table(
    generated: tuple[Path, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    source = tmp_path / "source"
    shutil.copytree(generated[0], source, copy_function=os.link)
    for scale in ("1", "2", "3"):
        (source / f"DATA/STD/SD{scale}.mat").unlink()
    with (source / "AIGCIQA2023.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["", "name", "prompt", "style", "class", "quality_mos"])
        for i in reversed(range(2400)):  # the name says which it is, not the line
            k = i % 400 // 4
            writer.writerow([i, f"{i}.png", f"a dog, {k} cats", f"Style {k % 10}", f"Class {k // 10}", 50])
    convert_aigciqa2023(source, tmp_path / "out")
    assert columns(tmp_path / "out") == [
        *("file_name", "quality_mean", "authenticity_mean", "correspondence_mean"),
        *("prompt", "category", "style", "block"),
    ]
    data = read_ratings(tmp_path / "out", RatingColumns("quality_mean", group="prompt", category="category"))
    assert data.groups is not None
    assert data.categories is not None
    assert [data.groups[i] for i in (0, 3, 4, 399, 400, 2399)] == [
        f"a dog, {k} cats" for k in (0, 0, 1, 99, 0, 99)
    ]
    assert [data.categories[i] for i in (0, 40, 399, 400)] == ["Class 0", "Class 1", "Class 9", "Class 0"]

    table = source / "AIGCIQA2023.csv"
    table.write_text("\n".join(table.read_text().splitlines()[:-2]))
    with pytest.raises(DataError, match=r"2 problems:\n  0\.png is not named\n  1\.png is not named"):
        convert_aigciqa2023(source, tmp_path / "again")


Damage = Callable[[Path], None]


def remove(*names: str) -> Damage:
    def damage(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return damage


def save(name: str, content: dict[str, np.ndarray]) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink()  # it is a hard link
        savemat(folder / name, content)

    return damage


def write(name: str, data: bytes) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)

    return damage


HDF5 = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(400)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (remove("DATA/MOS/mosz2.mat"), r"There is no file mosz2\.mat in "),
        (remove("Image/allimg/7.png", "Image/allimg/2399.png"), r"2 problems:\n.*no picture of 7\n.* 2399$"),
        (
            save("DATA/MOS/mosz1.mat", {"MOSz": np.ones(2399)}),
            "does not hold 2400 numbers under the name MOSz",
        ),
        (save("DATA/MOS/mosz1.mat", {"MOSz": np.full(2400, np.nan)}), "does not hold 2400 numbers"),
        (save("DATA/MOS/mosz1.mat", {"other": np.ones(2400)}), "under the name MOSz"),
        (write("DATA/MOS/mosz3.mat", HDF5), r"version 7\.3.*save\('mosz3\.mat', 'MOSz', '-v7'\)"),
        (write("DATA/STD/SD1.mat", b"x" * 500), r"SD1\.mat cannot be read as a MATLAB file"),
        (write("copy/MOSZ1.mat", b""), r"several files mosz1\.mat, .* and .*: leave one"),
        (write("AIGCIQA2023.csv", b"name,prompt\n0.png,a\n"), "has no column class, style"),
    ],
)
def test_downloads_that_are_not_whole(
    generated: tuple[Path, dict[str, np.ndarray]],
    tmp_path: Path,
    damage: Damage,
    sentence: str,
) -> None:
    source = tmp_path / "source"
    shutil.copytree(generated[0], source, copy_function=os.link)
    damage(source)
    with pytest.raises(DataError, match=sentence):
        convert_aigciqa2023(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


CONVERTED = """\
file_name,beauty_mean,beauty_sd,beauty_n,valence_mean,valence_sd,valence_n,arousal_mean,arousal_sd,arousal_n,category,theme,source
images/acorns_1.jpg,4.86,1.4799,140,4.6863,0.9542,102,2.3465,1.6027,101,object,acorns,Pixabay
images/angry_face_10.jpg,2.21,1.4624,368,2.5,1.0601,101,3,1.7904,101,person,angry face,Flickr/Jan Tik
images/war_2.jpg,3.15,1.8263,104,2.396,1.5171,101,4.5825,1.8762,103,scenery,war,"Wikipedia, ""A\"""
"""


def test_oasis(tmp_path: Path) -> None:
    source, out = oasis(tmp_path / "source"), tmp_path / "out"
    assert convert_oasis(source, out, source / "beauty.csv") == 3
    assert (out / "metadata.csv").read_text() == CONVERTED
    assert (out / "images/war_2.jpg").samefile(source / "Images/War 2.JPG")
    data = read_ratings(out, RatingColumns("beauty_mean", group="theme", category="category"), skip_bad=True)
    assert data.skipped == []
    assert data.ratings.tolist() == [4.86, 2.21, 3.15]
    assert data.n is not None
    assert data.n.tolist() == [140, 368, 104]
    assert (data.groups, data.categories) == (
        ["acorns", "angry face", "war"],
        ["object", "person", "scenery"],
    )


def test_oasis_without_beauty(tmp_path: Path) -> None:
    convert_oasis(oasis(tmp_path / "source"), tmp_path / "out")
    assert columns(tmp_path / "out")[:3] == ["file_name", "valence_mean", "valence_sd"]
    assert read_ratings(tmp_path / "out", "arousal_mean").ratings.tolist() == [2.3465, 3, 4.5825]


@pytest.mark.parametrize("key", ["item", "Theme"])
@pytest.mark.parametrize("mark", [",", "\t", ";"])
def test_beauty_from_one_row_a_rating(tmp_path: Path, key: str, mark: str) -> None:
    ratings = {"1": ["4", "NaN", "7", "5"], "2": ["1", "", "-99"], "3": ["2", "NA", "3"]}
    names = {"1": "Acorns 1", "2": "angry_face_10", "3": "War2"}
    rows = [
        mark.join([str(person), k if key == "item" else names[k], rating])
        for k, given in ratings.items()
        for person, rating in enumerate(given)
    ]
    table = tmp_path / "depthDat.csv"
    table.write_text("\n".join([mark.join(["subjID", key, "beauty"]), *rows]))
    convert_oasis(oasis(tmp_path / "source"), tmp_path / "out", table)
    data = read_ratings(tmp_path / "out", "beauty_mean")
    assert data.sd is not None
    assert data.n is not None
    given = [[4, 7, 5], [1], [2, 3]]
    np.testing.assert_allclose(data.ratings, [np.mean(g) for g in given], atol=5e-5)
    np.testing.assert_allclose(data.sd, [np.std([4, 7, 5], ddof=1), 0, np.sqrt(0.5)], atol=5e-5)
    assert data.n.tolist() == [3, 1, 2]


def test_oasis_names_everything_that_is_missing(tmp_path: Path) -> None:
    source = oasis(tmp_path / "source")
    (source / "Images/Acorns 1.jpg").unlink()
    (source / "Images/War 2.JPG").unlink()
    with pytest.raises(DataError, match=r"2 problems:\n  .*no picture of acorns_1\n  .*no picture of war_2$"):
        convert_oasis(source, tmp_path / "out")
    (source / "beauty.csv").write_text("\n".join(BEAUTY.splitlines()[:2]))
    with pytest.raises(DataError, match=r"2 problems:\n  'Acorns 1' has no rating .*\n  'Angry face 10' has"):
        convert_oasis(source, tmp_path / "out", source / "beauty.csv")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (
            OASIS.replace("Valence_N", "Raters"),
            r"has no column valence_n\. Its columns are: , theme, category",
        ),
        (OASIS.replace("0.954202712", "-"), "'Acorns 1' has the valence_sd '-', not a number"),
        (OASIS + OASIS.split("\r")[1], "'Acorns 1' is there twice"),
        (OASIS.split("\r")[0], "has no rows"),
        ("", "has no rows"),
    ],
)
def test_oasis_tables_that_are_none(tmp_path: Path, table: str, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        convert_oasis(oasis(tmp_path / "source", table), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("old", ["metadata.csv", "images/mine.jpg"])
def test_nothing_is_overwritten(tmp_path: Path, old: str) -> None:
    file = tmp_path / "out" / old
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    with pytest.raises(DataError, match=r"exists already, and is not overwritten: give a new folder\."):
        convert_oasis(oasis(tmp_path / "source"), tmp_path / "out")
    assert [p for p in (tmp_path / "out").rglob("*") if p.is_file()] == [file]
    assert file.read_text() == "mine"


def test_pictures_are_copied_where_they_cannot_be_linked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("another disk")

    monkeypatch.setattr(os, "link", refuse)
    source, out = oasis(tmp_path / "source"), tmp_path / "out"
    convert_oasis(source, out)
    assert not (out / "images/acorns_1.jpg").samefile(source / "Images/Acorns 1.jpg")
    assert (out / "images/acorns_1.jpg").read_bytes() == JPEG


def test_links_are_followed(tmp_path: Path) -> None:
    """The Hub's cache keeps every file as a link to elsewhere."""
    source, out = oasis(tmp_path / "source"), tmp_path / "out"
    picture = source / "Images/Acorns 1.jpg"
    picture.rename(tmp_path / "blob")
    picture.symlink_to("../../blob")
    convert_oasis(source, out)
    assert not (out / "images/acorns_1.jpg").is_symlink()
    assert (out / "images/acorns_1.jpg").read_bytes() == JPEG


@pytest.mark.parametrize("when", ["copy", "move"])
def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    source, out = oasis(tmp_path / "source"), tmp_path / "out"
    out.mkdir()
    if when == "copy":
        monkeypatch.setattr(os, "link", refuse)
        monkeypatch.setattr(shutil, "copyfile", refuse)
    else:
        replace = Path.replace
        monkeypatch.setattr(
            Path, "replace", lambda p, to: refuse() if to.name == "metadata.csv" else replace(p, to)
        )
    with pytest.raises(DataError, match=r"Nothing was written to .*: No space left on device"):
        convert_oasis(source, out)
    assert list(out.iterdir()) == []


def test_no_source(tmp_path: Path) -> None:
    for convert in (convert_oasis, convert_aigciqa2023):
        with pytest.raises(DataError, match=r"There is no folder .*nowhere"):
            convert(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(DataError, match=r"There is no file OASIS\.csv in "):
        convert_oasis(tmp_path, tmp_path / "out")
    with pytest.raises(DataError, match=r"There is no file .*beauty2\.csv"):
        convert_oasis(oasis(tmp_path / "source"), tmp_path / "out", tmp_path / "beauty2.csv")


def test_a_converter_is_one_entry_in_the_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(source: Path, out: Path, names_file: Path | None) -> int:
        assert names_file is not None
        out.mkdir()
        (out / "metadata.csv").write_text(f"file_name,rating\n{names_file.read_text()},{source.name}\n")
        return 1

    added = Converter("Dummy", "Nothing, rated by nobody.", convert, {"names_file": "The names."})
    monkeypatch.setitem(CONVERTERS, "dummy", added)
    assert re.search(r"dummy +Dummy: Nothing, rated by nobody\.", call("data", "--help").stdout)
    assert re.search(r"--names-file .*The names\.", call("data", "dummy", "--help").stdout)
    (tmp_path / "names.txt").write_text("a.png")
    arguments = ["data", "dummy", "source", "--out", tmp_path / "out", "--names-file", tmp_path / "names.txt"]
    assert call(*arguments, "--json").json["columns"] == ["file_name", "rating"]
    assert (tmp_path / "out" / "metadata.csv").read_text().endswith("a.png,source\n")
    monkeypatch.delitem(CONVERTERS, "dummy")
    assert "dummy" not in call("data", "--help").stdout
    assert (
        "There is no data set 'dummy'. Choose one of: oasis, aigciqa2023."
        in call(*arguments, status=2).stderr
    )
