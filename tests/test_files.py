"""Writing several files: all of them, or none."""

from __future__ import annotations

from pathlib import Path

import pytest

from ais.errors import AISError
from ais.files import write_atomically


def test_writes_and_overwrites(tmp_path: Path) -> None:
    paths = write_atomically(tmp_path / "new", {"a": b"1", "b": b"2"})
    assert [p.read_bytes() for p in paths] == [b"1", b"2"]
    write_atomically(tmp_path / "new", {"a": b"3"})
    assert sorted((p.name, p.read_bytes()) for p in (tmp_path / "new").iterdir()) == [
        ("a", b"3"),
        ("b", b"2"),
    ]


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
    with pytest.raises(AISError, match=r"Nothing was written.*no room left"):
        write_atomically(tmp_path, {"a": b"new a", "b": b"new b", "c": b"new c"})
    assert sorted((p.name, p.read_bytes()) for p in tmp_path.iterdir()) == [("a", b"old a"), ("b", b"old b")]


def test_no_room_for_a_folder_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AISError, match="Nothing was written"):
        write_atomically(tmp_path / "file" / "below", {"a": b""})
