"""One visitor's things: what the page keeps for them, for how long, and what it says when something fails."""

from __future__ import annotations

import logging
import secrets
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from ais.demo.catalog import BROKEN
from ais.demo.cohorts import Compared, Pictures
from ais.demo.folders import hide_paths
from ais.errors import AISError
from ais.explanation import Explanation

logger = logging.getLogger(__name__)

KEEP = 3600  # seconds that a person's pictures and results are kept


def new_folder() -> Path:
    """A folder with an unguessable name among Gradio's own files, which are what it serves."""
    folder = Path(get_upload_folder()) / f"ais-{secrets.token_hex(16)}"
    folder.mkdir(parents=True)
    return folder


@dataclass
class Session:
    """One person's current picture and its explanation, and the folder with what was made of them.

    Attributes:
        own: the cohort that this person uploaded. cohort: the one compared.
    """

    folder: Path = field(default_factory=new_folder)
    picture: Path | None = None
    name: str = ""
    explanation: Explanation | None = None
    own: Pictures | None = None
    cohort: Compared | None = None

    def discard(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def sentence(error: Exception) -> str:
    """What to tell a person about an error; whatever is not theirs to put right goes to the log."""
    if isinstance(error, AISError):
        return hide_paths(str(error))
    if isinstance(error, gr.Error):  # of the Space itself: no GPU is to be had now
        return str(error.message)
    logger.exception("the page failed", exc_info=error)
    return BROKEN


def problem(error: Exception) -> dict[str, Any]:
    """The error as a part's value; never equal to the one before, which the browser would not notice."""
    return {"error": sentence(error), "run": secrets.token_hex(4)}
