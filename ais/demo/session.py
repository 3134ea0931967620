"""One visitor's things: what the page keeps for them, for how long, and what it says when something fails."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import secrets
import shutil
import site
import sys
import tempfile
import threading
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import gradio as gr
import torch
from huggingface_hub import constants

from ais.attribution.explanation import Explanation
from ais.demo import storage, values
from ais.demo.catalog import BROKEN
from ais.demo.folders import hide_paths
from ais.errors import AISError

logger = logging.getLogger(__name__)

T = TypeVar("T")

KEEP = 3600  # seconds that a person's images and results are kept
FOLDERS = 6  # results of one person that are kept on disk: what the browser may still ask for
MEMORY = 512 << 20  # bytes of all people's explanations
FULL = "The server's disk is full. Try again later."
AILING = (
    "The server cannot do this now: a file is missing or damaged there. Try again later, or tell its owner."
)


@dataclass(eq=False)
class Session:
    """One person's current image and its explanation, and the folders with what was made of them.

    When it is forgotten, by whom and why ever, its folders are removed.

    Attributes:
        states: what tabs keep of their own, by its class.
    """

    image: Path | None = None
    name: str = ""
    explanation: Explanation | None = None
    states: dict[type, Any] = field(default_factory=dict)
    folders: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        weakref.finalize(self, _remove, self.folders)

    def new_folder(self) -> Path:
        """An empty one for a result; the oldest goes."""
        made = storage.new_folder()
        self.folders.append(made)
        _remove(self.folders, FOLDERS)
        return made

    def state(self, kind: type[T]) -> T:
        """What a tab keeps for this person: an object of a class of its own, made when it is first asked for."""
        found: T = self.states.setdefault(kind, kind())
        return found

    def keep(self, explanation: Explanation) -> None:
        """Take an explanation as the current one, and drop the oldest of others where there are too many."""
        self.explanation = _without_image(explanation)
        shelf.put(self)

    def discard(self) -> None:
        """Remove what was made."""
        _remove(self.folders)


class Shelf:
    """The sessions whose explanations are in memory, oldest first."""

    def __init__(self, limit: int = MEMORY) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._sessions: OrderedDict[int, weakref.ref[Session]] = OrderedDict()

    def put(self, session: Session) -> None:
        """Its explanation is the newest; the oldest are dropped until all are within the limit."""
        with self._lock:
            self._sessions[id(session)] = weakref.ref(session)
            self._sessions.move_to_end(id(session))
            kept = [(key, found) for key, found in self._here() if found.explanation is not None]
            self._sessions = OrderedDict((key, weakref.ref(found)) for key, found in kept)
            total = sum(_bytes(found.explanation) for _, found in kept)
            for _, found in kept[:-1]:
                if total <= self.limit:
                    break
                total -= _bytes(found.explanation)
                found.explanation = None

    def _here(self) -> list[tuple[int, Session]]:
        return [(key, found) for key, ref in self._sessions.items() if (found := ref()) is not None]


shelf = Shelf()


def _without_image(explanation: Explanation) -> Explanation:
    """The same with no more of the image than its size: a large one takes 150 MB, and is not needed any more."""
    width, height = explanation.image.size
    frame: Any = SimpleNamespace(width=width, height=height, size=(width, height))
    members = tuple(replace(member, image=frame) for member in explanation.members)
    return replace(explanation, image=frame, members=members)


def _bytes(explanation: Explanation | None) -> int:
    if explanation is None:
        return 0
    sizes = [
        each.maps.nbytes + each.importance.nbytes + sum(grids.nbytes for grids in each.variants.values())
        for each in (explanation, *explanation.members)
    ]
    return sum(sizes)


def _remove(folders: list[Path], but: int = 0) -> None:
    """All but the last few."""
    while len(folders) > but:
        shutil.rmtree(folders.pop(0), ignore_errors=True)


def error_message(error: Exception, said: Any = None) -> str:
    """What to tell a person about an error; whatever is not theirs to put right goes to the log.

    No sentence names a place of this server, but for what the person said.

    Args:
        said: the head that was asked for, which may look like a place.
    """
    causes = [cause for cause in (error, error.__cause__, error.__context__) if isinstance(cause, OSError)]
    if any(cause.errno in (errno.ENOSPC, errno.EDQUOT) for cause in causes):
        logger.error("the disk is full: %s", error)
        return FULL
    if isinstance(error, AISError):
        return _without_places(hide_paths(str(error)), said if isinstance(said, str) else "")
    if isinstance(error, gr.Error):  # of the Space itself: no GPU is free now
        return str(error.message)
    logger.exception("the page failed", exc_info=error)
    return BROKEN


def problem(error: Exception) -> dict[str, Any]:
    """The error as a component's value; never equal to the one before, which the browser would not notice."""
    return {"error": error_message(error), "run": secrets.token_hex(4)}


def fields(event: gr.EventData) -> Mapping[str, Any]:
    """What a component of the page said with an event."""
    return event._data if isinstance(event._data, Mapping) else {}


def text_field(said: Any, name: str, example: str) -> str:
    """A text among what a visitor sent.

    Raises:
        AISError: it is missing, or no text.
    """
    if not isinstance(said, Mapping) or said.get(name) is None:
        raise AISError(f"{name} is missing: it should be text, such as {example!r}.")
    value = said[name]
    if not isinstance(value, str):
        raise AISError(f"{name} should be text, such as {example!r}, not {json.dumps(value)[:40]}.")
    return values.valid_unicode(value)


def _without_places(text: str, said: str) -> str:
    """The sentence, unless it names a file or folder of this server: that is its owner's business."""
    if not _places().search(text.replace(said, "") if said else text):
        return text
    logger.error("%s", text)
    return FULL if os.strerror(errno.ENOSPC) in text else AILING


def _places() -> re.Pattern[str]:
    """Whatever begins with one of the folders that this server works in."""
    here = [
        Path(__file__).parents[2],
        Path.cwd(),
        storage.folder(),
        tempfile.gettempdir(),
        torch.hub.get_dir(),
    ]
    here += [constants.HF_HOME, constants.HF_HUB_CACHE, sys.prefix, *site.getsitepackages()]
    with_home = {str(place) for place in (*here, Path("~").expanduser())}
    names = {name.rstrip("/\\") for place in with_home for name in (place, os.path.realpath(place))} - {""}
    return re.compile("|".join(rf"(?<![\w.:/-]){re.escape(name)}(?![\w-])" for name in sorted(names)))
