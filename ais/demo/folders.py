"""The owner's own heads: folders that ``AIS_HEADS`` names. The page knows them by a name; their paths stay here."""

from __future__ import annotations

import logging
import os
from collections.abc import Container
from pathlib import Path

from ais.errors import HubError
from ais.heads.config import CONFIG
from ais.io.hub import parse_repository

logger = logging.getLogger(__name__)

_folders: dict[str, Path] = {}  # by name, absolute


def folder_in(word: str) -> Path | None:
    """The folder that a word of ``AIS_HEADS`` names; None for what is not a path.

    A path begins with ``.``, ``~`` or ``/``, or has a separator and is no id on the Hub; one word without a separator
    is a path if such a head is there.
    """
    path = Path(word).expanduser()
    if word.startswith((".", "~")) or path.is_absolute():
        return path.resolve()
    if "://" in word or _is_id(word):
        return None
    return path.resolve() if os.sep in word or (path / CONFIG).is_file() else None


def register(name: str, path: Path, taken: Container[str]) -> str:
    """Let a folder be known by a name: the one given, or where it is another's the same with a number."""
    chosen, number = name, 1
    while not is_free(chosen, path, taken):
        number += 1
        chosen = f"{name} ({number})"
    _folders[chosen] = path
    return chosen


def is_free(name: str, path: Path, taken: Container[str]) -> bool:
    """Whether a folder can be known by this name."""
    return os.sep not in name and name not in taken and _folders.get(name, path) == path


def registered(name: str) -> Path | None:
    """The folder of this name."""
    return _folders.get(name)


def hide_paths(text: str) -> str:
    """A sentence for visitors: folders by their names. The owner finds the sentence as it was in the log."""
    shown = text
    for name, path in sorted(_folders.items(), key=lambda item: -len(str(item[1]))):
        shown = shown.replace(str(path), name)
    for path in _folders.values():  # of a stack's members, which lie beside it
        if path.parent != path.parent.parent:
            shown = shown.replace(f"{path.parent}{os.sep}", "")
    if shown != text:
        logger.warning("%s", text)
    return shown


def _is_id(word: str) -> bool:
    try:
        return parse_repository(word) is not None
    except HubError:
        return True
