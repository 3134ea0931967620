"""Writing files so that a reader, or the next run, never meets half of one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ais.errors import AISError


def write_atomically(directory: str | os.PathLike[str], files: Mapping[str, bytes]) -> list[Path]:
    """Write files into a directory: all of them, or none.

    They are written beside their places first and moved there at the end; if a move fails, what was moved is
    taken back and what stood there before is put back.

    Raises:
        AISError: the directory cannot be written.
    """
    directory = Path(directory)
    if directory.exists() and not directory.is_dir():
        raise AISError(f"Nothing was written to {directory}: it is a file, and a folder is needed.")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory, prefix=".saving-") as staging:
            new, old = Path(staging, "new"), Path(staging, "old")
            new.mkdir()
            old.mkdir()
            for name, data in files.items():
                (new / name).write_bytes(data)
            _move_all(new, old, directory)
    except OSError as error:
        raise AISError(f"Nothing was written to {directory}: {error.strerror or error}.") from error
    return [directory / name for name in files]


def _move_all(new: Path, old: Path, directory: Path) -> None:
    moved: list[str] = []
    try:
        for file in sorted(new.iterdir()):
            place = directory / file.name
            if place.exists():
                place.replace(old / file.name)
            moved.append(file.name)
            file.replace(place)
    except OSError:
        for name in moved:
            (directory / name).unlink(missing_ok=True)
            if (old / name).exists():
                (old / name).replace(directory / name)
        raise
