"""The pictures of a folder, and what is left out of it, in words."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from ais.errors import DataError
from ais.images.folders import find_images

LEFT_BEHIND = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", ".git", ".Trash-1000")


def plant(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def names_of(folder: Path) -> list[str]:
    return [file.relative_to(folder).as_posix() for file in find_images(folder)[0]]


def test_pictures_of_a_folder_and_those_below_in_the_order_of_their_paths(tmp_path: Path) -> None:
    plant(tmp_path, "b.JPG", "a.png", "sub/c.jpeg", "sub/d.tif", "a/z.webp", "metadata.csv", "notes.txt")
    assert find_images(tmp_path) == (
        [tmp_path / name for name in ("a/z.webp", "a.png", "b.JPG", "sub/c.jpeg", "sub/d.tif")],
        [],
    )
    assert find_images(str(tmp_path))[0] == sorted(find_images(tmp_path)[0])


def test_what_systems_leave_in_folders_is_no_picture(tmp_path: Path) -> None:
    plant(tmp_path, "a.jpg", "._a.jpg", ".b.jpg", "Thumbs.db", "desktop.ini", ".DS_Store")
    plant(tmp_path, *(f"{name}/c.jpg" for name in LEFT_BEHIND), "sub/__MACOSX/._d.jpg")
    assert (names_of(tmp_path), find_images(tmp_path)[1]) == (["a.jpg"], [])
    plant(tmp_path, ".hidden/e.jpg")
    assert names_of(tmp_path / ".hidden") == ["e.jpg"]  # asked for by name


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    plant(tmp_path, "a.jpg", "b.psd", "c.CR2", "d.cr2", "e", "sub/f.xyz", "g.csv")
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    (tmp_path / "sub" / "gone").symlink_to("nowhere")
    (tmp_path / "pipe.png").parent.joinpath("pipe.png").unlink(missing_ok=True)
    os.mkfifo(tmp_path / "pipe.png")
    plant(tmp_path, "seen/overlay.png", "seen/explanation.json", "seen/heatmap.npy", "overlay.png")
    found, left_out = find_images(tmp_path)
    assert [file.name for file in found] == ["a.jpg", "overlay.png"]
    line = " ".join(left_out)
    assert "5 files of other kinds are left out: 2 .cr2, " in line
    for words in ("1 .psd", "1 without an ending", "1 .xyz", "2 links lead nowhere: gone.jpg, sub/gone.",
                  "1 pipe or device is no picture: pipe.png.",
                  "1 picture is a heatmap of AIS: seen/overlay.png."):  # fmt: skip
        assert words in line
    assert "\n" not in line
    assert ".csv" not in line


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look everywhere")
def test_a_folder_that_may_not_be_read(tmp_path: Path) -> None:
    plant(tmp_path, "a.jpg", "shut/b.jpg")
    (tmp_path / "shut").chmod(0)
    try:
        found, left_out = find_images(tmp_path)
        with pytest.raises(DataError, match="cannot be looked into: Permission denied"):
            find_images(tmp_path / "shut")
    finally:
        (tmp_path / "shut").chmod(0o755)
    assert [file.name for file in found] == ["a.jpg"]
    assert left_out == ["1 folder cannot be looked into: shut."]


def test_a_folder_that_fails_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tmp_path, "a.jpg", "shut/b.jpg")
    scandir = os.scandir

    def failing(path: Path) -> object:
        if Path(path).name == "shut":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)
    found, left_out = find_images(tmp_path)
    assert [file.name for file in found] == ["a.jpg"]
    assert left_out == ["1 folder cannot be looked into: shut."]


def test_links_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    plant(tmp_path, "a/b.jpg", "z/c.jpg", "elsewhere.jpg")
    outside = tmp_path.parent / f"{tmp_path.name} outside"
    plant(outside, "d.jpg", "deep/e.jpg")
    (tmp_path / "a" / "up").symlink_to("..")
    (tmp_path / "a" / "self").symlink_to(".")
    (tmp_path / "aa").symlink_to("z")  # whose own path counts
    (tmp_path / "out").symlink_to(outside)
    (outside / "back").symlink_to(tmp_path)
    (tmp_path / "f.jpg").symlink_to("elsewhere.jpg")
    assert names_of(tmp_path) == [
        "a/b.jpg", "elsewhere.jpg", "f.jpg", "out/d.jpg", "out/deep/e.jpg", "z/c.jpg",
    ]  # fmt: skip


def test_names_may_be_anything(tmp_path: Path) -> None:
    names = ["🦓 z.jpg", "two\nlines.jpg", " lead.jpg", "=1+1.jpg", "--json.jpg", "\udcff.jpg"]
    plant(tmp_path, *names, "trail .jpg ", "\x1b[31m.\x1b[0m")
    found, left_out = find_images(tmp_path)
    assert {file.name for file in found} == set(names)
    assert all(c.isprintable() for c in " ".join(left_out))
    assert "2 files of other kinds are left out" in left_out[0]


@pytest.mark.parametrize("name", ["gone", "x" * 300, "a.jpg", "a\0b"])
def test_what_is_no_folder_is_a_sentence(name: str, tmp_path: Path) -> None:
    plant(tmp_path, "a.jpg")
    with pytest.raises(DataError, match="cannot be looked into"):
        find_images(tmp_path / name)


def test_random_trees(tmp_path: Path) -> None:
    """Whatever links, hidden and strange things a tree holds: each picture in the open is found once or more, by
    paths that exist, and the walk ends."""
    chance = random.Random(0)
    for number in range(20):
        root = tmp_path / str(number)
        folders, shown, open_to_all = [root], set(), {root}
        root.mkdir()
        for step in range(40):
            parent = chance.choice(folders)
            hidden = chance.random() < 0.2
            path = parent / f"{'.' if hidden else ''}{step}"
            kind = chance.choice(["folder", "picture", "picture", "link", "text"])
            if kind == "folder":
                path.mkdir()
                folders.append(path)
                if parent in open_to_all and not hidden:
                    open_to_all.add(path)
            elif kind == "link":
                path.symlink_to(chance.choice([*folders, root / "nowhere"]))
            elif kind == "picture":
                path.with_suffix(".png").touch() if not hidden else (parent / f".{step}.png").touch()
                if parent in open_to_all and not hidden:
                    shown.add(path.with_suffix(".png"))
            else:
                (parent / f"{step}.txt").touch()
        found, _ = find_images(root)
        assert len(found) == len(set(found))
        assert shown <= set(found)
        assert len({file.resolve() for file in found}) == len(found)
        assert not any(part.startswith(".") for file in found for part in file.relative_to(root).parts)
