"""Files of a folder by the names that tables have for them, which other systems may have written."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path, PureWindowsPath

from ais.data.tables import folded
from ais.images.reading import SUFFIXES


class FileFinder:
    """Finds files of one folder.

    A name is taken as it is if there is such a file. Else backslashes may stand for slashes, and a part of the path
    may differ in how its accents are stored (NFC, NFD) or in case, if only one file is meant: on the system that
    wrote the name, these are no differences.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._listed: dict[Path, dict[str, list[str]]] = {}

    def is_outside(self, name: str) -> bool:
        """The name leads out of the folder.

        It is judged by itself: the Hub's cache, for one, keeps every file as a link to elsewhere.
        """
        path, slashed = _spellings(name)
        if path.is_absolute() or path.parts[:1] == (os.pardir,) or "\0" in name:
            return True
        if self._is_file(path):
            return False
        windows = PureWindowsPath(name)
        home = slashed.parts[:1] != slashed.parts and slashed.parts[0].startswith("~")
        return bool(windows.drive or windows.root) or slashed.parts[:1] == (os.pardir,) or home

    def find(self, name: str) -> Path | None:
        """The path in the folder of the file that is meant, as it is written there; None if there is none."""
        for path in _spellings(name):
            if self._is_file(path):
                return path
        for path in _spellings(name):
            found = self._follow(path)
            if found is not None and self._is_file(found):
                return found
        return None

    def with_ending(self, name: str) -> Path | None:
        """The only image whose name is this one and an ending."""
        path = _spellings(name)[1]
        inside = self._follow(path.parent)
        if inside is None:
            return None
        found = [n for suffix in SUFFIXES for n in self._list(inside).get(folded(path.name + suffix), [])]
        return inside / found[0] if len(found) == 1 else None

    def _follow(self, path: Path) -> Path | None:
        """The path with each part as the folder has it."""
        place = Path()
        for part in path.parts:
            there = self._list(place).get(folded(part), [])
            if part not in there:
                same = [name for name in there if _composed(name) == _composed(part)] or there
                if len(same) != 1:
                    return None
                part = same[0]
            place /= part
        return place

    def _list(self, place: Path) -> dict[str, list[str]]:
        """The names there, by what they have in common with other spellings."""
        if place not in self._listed:
            found: dict[str, list[str]] = {}
            try:
                for file in (self._folder / place).iterdir():
                    found.setdefault(folded(file.name), []).append(file.name)
            except (OSError, ValueError):
                pass
            self._listed[place] = found
        return self._listed[place]

    def _is_file(self, path: Path) -> bool:
        try:
            return (self._folder / path).is_file()
        except (OSError, ValueError):  # a name too long, or with a character that no name has
            return False


def _spellings(name: str) -> tuple[Path, Path]:
    """The path as it is, and with slashes for backslashes."""
    return Path(os.path.normpath(name)), Path(os.path.normpath(name.replace("\\", "/")))


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)
