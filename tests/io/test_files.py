"""Writing files: all of them or none, over nothing that was not meant, and nothing left of a killed run."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import resource
import signal
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ais.errors import AISError, UnwritableError
from ais.io.files import GrowingFile, check_outputs, write_atomically


def content(folder: Path) -> dict[str, bytes | None]:
    """All that a folder holds, hidden files too."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def in_a_child(action: Callable[[], None]) -> int:
    """Run in a process of its own, which ends by status 0 if nothing is raised; its number."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            action()
            status = 0
        finally:
            os._exit(status)
    return child


def test_writes_and_overwrites(tmp_path: Path) -> None:
    paths = write_atomically(tmp_path / "new", {"a": b"1", "b": b"2"})
    assert [p.read_bytes() for p in paths] == [b"1", b"2"]
    write_atomically(tmp_path / "new", {"a": b"3"})
    assert sorted((p.name, p.read_bytes()) for p in (tmp_path / "new").iterdir()) == [
        ("a", b"3"),
        ("b", b"2"),
    ]


def test_names_may_hold_folders(tmp_path: Path) -> None:
    written = write_atomically(tmp_path / "new", {"a": b"1", "deep/er/a": b"2"})
    assert written == [tmp_path / "new" / "a", tmp_path / "new/deep/er/a"]
    assert content(tmp_path / "new") == {"a": b"1", "deep": None, "deep/er": None, "deep/er/a": b"2"}
    for name in ("../a", "/a", "", ".", "a/../../b", "\0"):
        with pytest.raises(AISError, match="not the name of a file"):
            write_atomically(tmp_path, {name: b""})


@pytest.mark.parametrize("fails_at", range(1, 4))
def test_failure_at_any_move_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    write_atomically(tmp_path, {"a": b"old a", "b": b"old b"})
    moves, replace = 0, Path.replace

    def failing(source: Path, place: Path) -> Path:
        nonlocal moves
        moves += 1
        if moves == fails_at:
            raise OSError(28, "No space left on device")
        return replace(source, place)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(AISError, match=r"Nothing was written.*No space left"):
        write_atomically(tmp_path, {"a": b"new a", "deep/c": b"new c", "b": b"new b"})
    assert content(tmp_path) == {"a": b"old a", "b": b"old b"}


def test_no_room_for_a_folder_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for act in (check_outputs, write_atomically):
        with pytest.raises(AISError, match="Nothing was written"):
            act(tmp_path / "file" / "below", {"a": b""})
        with pytest.raises(AISError, match="a folder is needed"):
            act(tmp_path, {"file/a": b""})


def make_folder(place: Path) -> None:
    place.mkdir()
    (place / "mine").write_text("mine")


def make_socket(place: Path) -> None:
    here = Path.cwd()
    os.chdir(place.parent)  # the name of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(place.name)
    finally:
        os.chdir(here)


TAKEN = {
    "a folder": make_folder,
    "a pipe": os.mkfifo,
    "a socket": make_socket,
    "a link to a device": lambda place: place.symlink_to("/dev/null"),
    "a link to a file": lambda place: (place.parent / "a file").touch() or place.symlink_to("a file"),
    "a link to a folder": lambda place: place.symlink_to(place.parent),
    "a link to nothing": lambda place: place.symlink_to("nothing"),
}


@pytest.mark.parametrize("kind", TAKEN)
def test_only_plain_files_are_replaced(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "a"
    TAKEN[kind](place)
    before, state = content(tmp_path), place.lstat()

    def grow(folder: Path, files: dict[str, bytes]) -> None:
        with GrowingFile(folder / "a") as file:
            file.write("1")

    for act in (check_outputs, write_atomically, grow):
        with pytest.raises(AISError) as caught:
            act(tmp_path, {"b": b"", "a": b""})  # type: ignore[operator]
        assert str(caught.value).endswith((".", "it."))
        assert "\n" not in str(caught.value)
    assert (content(tmp_path), place.lstat()) == (before, state)


def test_an_input_is_not_replaced_under_any_of_its_names(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("mine")
    (tmp_path / "link").symlink_to(file)
    os.link(file, tmp_path / "twin")
    (tmp_path / "folder").symlink_to(tmp_path)
    for read in (file, tmp_path / "link", tmp_path / "twin", f"{tmp_path}/folder/./a"):
        for act in (check_outputs, write_atomically):
            for folder, name in ((tmp_path, "a"), (tmp_path / "folder", "a"), (tmp_path, "twin")):
                with pytest.raises(AISError, match="is read by this call"):
                    act(folder, {name: b""}, inputs=["https://a.b/c", "\0", tmp_path / "gone", read])
        with pytest.raises(AISError, match="is read by this call"):
            GrowingFile(file, [read])
    assert file.read_text() == "mine"


def test_what_cannot_be_written_is_known_before(tmp_path: Path) -> None:
    for folder, name in (
        ("/proc", "a"),
        ("/proc/new/one", "a"),
        (tmp_path, "x" * 300),
        (tmp_path / ("x" * 300), "a"),
    ):
        with pytest.raises(UnwritableError, match="Nothing was written"):
            check_outputs(folder, [name])
    assert not list(tmp_path.iterdir())
    check_outputs(tmp_path / "new" / "er", ["deep/a"])
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_permissions_are_heeded(tmp_path: Path) -> None:
    write_atomically(tmp_path, {"a": b"old"})
    (tmp_path / "a").chmod(0o444)
    with pytest.raises(UnwritableError, match="write-protected"):
        check_outputs(tmp_path, ["a"])
    tmp_path.chmod(0o555)
    with pytest.raises(UnwritableError):
        check_outputs(tmp_path, ["b"])
    tmp_path.chmod(0o755)


def test_modes(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path, {"a": b"1", "b": b"1"})
        (tmp_path / "b").chmod(0o604)
        write_atomically(tmp_path, {"a": b"2", "b": b"2"})
        for name in ("b", "c"):
            with GrowingFile(tmp_path / name) as file:
                file.write("3")
                file.complete()
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"a": 0o640, "b": 0o604, "c": 0o640}


def test_a_killed_run_leaves_what_was_there_and_the_next_tidies_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_atomically(tmp_path, {"a": b"old a", "b": b"old b"})
    replace = Path.replace

    def slow(source: Path, place: Path) -> Path:
        if place.name == "b":
            (tmp_path / "here").touch()
            time.sleep(60)
        return replace(source, place)

    monkeypatch.setattr(Path, "replace", slow)
    child = in_a_child(lambda: write_atomically(tmp_path, {"a": b"new a", "b": b"new b"}) and None)
    deadline = time.monotonic() + 30
    while not (tmp_path / "here").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    monkeypatch.undo()
    monkeypatch.setattr("ais.io.files._PATIENCE", 0.1)
    write_atomically(tmp_path, {"c": b"c"})  # while the other is at work, its files are not touched
    assert len(list(tmp_path.glob(".ais-saving-*"))) == 1
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert (tmp_path / "a").read_bytes() == b"new a"
    assert (tmp_path / "b").read_bytes() == b"old b"
    check_outputs(tmp_path, ["d"])
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "c", "here"}


def limit_file_size(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    write_atomically(tmp_path, {"a": b"old"})

    def fill() -> None:
        limit_file_size(1000)
        with pytest.raises(UnwritableError, match="Nothing was written"):
            write_atomically(tmp_path, {"a": b"new", "b": bytes(2000)})

    assert os.waitpid(in_a_child(fill), 0)[1] == 0
    assert content(tmp_path) == {"a": b"old"}


# A table that grows -----------------------------------------------------------------------------------------


def test_a_new_table_grows_in_its_place(tmp_path: Path) -> None:
    place = tmp_path / "new" / "scores.csv"
    with GrowingFile(place) as table:
        for n, text in enumerate(("a\n", "\udcff\n", "c\n"), start=1):
            table.write(text)
            assert len(place.read_bytes().splitlines()) == n
        table.complete()
    assert place.read_bytes() == b"a\n\xff\nc\n"


def test_one_that_is_there_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    place = tmp_path / "scores.csv"
    place.write_text("old")
    stopped = GrowingFile(place)
    with stopped:
        stopped.write("new\n")
        assert stopped.place.read_text() == "new\n"
    assert (place.read_text(), stopped.place.read_text()) == ("old", "new\n")
    with GrowingFile(place) as table:
        table.write("newer\n")
        table.complete()
    assert content(tmp_path) == {"scores.csv": b"newer\n", "scores.csv.partial": b"new\n"}


@pytest.mark.parametrize("there", [False, True])
def test_of_two_runs_at_once_the_second_is_refused(there: bool, tmp_path: Path) -> None:
    place = tmp_path / "scores.csv"
    if there:
        place.write_text("old")
    with GrowingFile(place) as table:
        for n in range(3):
            with pytest.raises(UnwritableError, match="Another run is writing"):
                GrowingFile(place)
            table.write(f"{n}\n")
        table.complete()
    assert content(tmp_path) == {"scores.csv": b"0\n1\n2\n"}
    with GrowingFile(place) as table:
        table.write("3\n")
        table.complete()
    assert content(tmp_path) == {"scores.csv": b"3\n"}


@pytest.mark.parametrize("there", [False, True])
def test_many_processes_leave_a_whole_table(there: bool, tmp_path: Path) -> None:
    place = tmp_path / "scores.csv"
    if there:
        place.write_text("old")

    def grow(number: int) -> None:
        for _ in range(10):
            with contextlib.suppress(UnwritableError), GrowingFile(place) as table:
                for row in range(20):
                    table.write(f"{number} {row}\n")
                    time.sleep(0.0005 * number)
                table.complete()
                written = table.target.read_text().splitlines()
                assert written in ([f"{n} {row}" for row in range(20)] for n in range(4))

    children = [in_a_child(functools.partial(grow, number)) for number in range(4)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert [path.name for path in tmp_path.iterdir()] == ["scores.csv"]


def test_where_nothing_can_be_locked_nobodys_file_is_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ais.io.files.fcntl", None)
    place = tmp_path / "scores.csv"
    place.write_text("old")
    with GrowingFile(place) as first, GrowingFile(place) as second:
        for table in (first, second):
            table.write("a\n")
            table.write("b\n")
        assert first.place != second.place
        first.complete()
    assert content(tmp_path) == {"scores.csv": b"a\nb\n", "scores.csv.partial-2": b"a\nb\n"}


def test_two_results_at_once_are_not_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"folder {n}/file" for n in range(5)]

    replace = Path.replace

    def slow(source: Path, place: Path) -> Path:
        time.sleep(random.random() * 0.02)
        return replace(source, place)

    def write(number: int) -> None:
        random.seed(number)
        write_atomically(tmp_path / "out", dict.fromkeys(names, str(number).encode()))

    monkeypatch.setattr(Path, "replace", slow)

    children = [in_a_child(functools.partial(write, number)) for number in range(4)]
    for child in children:
        assert os.waitpid(child, 0)[1] == 0
    found = content(tmp_path / "out")
    assert len({found[name] for name in names}) == 1
    assert len(found) == 2 * len(names)


def test_nothing_is_left_of_a_table_without_rows(tmp_path: Path) -> None:
    with pytest.raises(AISError), GrowingFile(tmp_path / "new" / "scores.csv"):
        raise AISError("There is no such head.")
    assert not list(tmp_path.iterdir())


def test_a_row_that_does_not_fit_is_taken_back_whole(tmp_path: Path) -> None:
    def fill() -> None:
        limit_file_size(25)
        with GrowingFile(tmp_path / "scores.csv") as table:
            table.write("0123456789\n")
            table.write("0123456789\n")
            for _ in range(2):
                with pytest.raises(UnwritableError, match="No more could be written"):
                    table.write("0123456789\n")
        with GrowingFile(tmp_path / "none.csv") as table, pytest.raises(UnwritableError, match="Nothing was"):
            table.write("0123456789\n" * 3)

    assert os.waitpid(in_a_child(fill), 0)[1] == 0
    assert content(tmp_path) == {"scores.csv": b"0123456789\n" * 2}
