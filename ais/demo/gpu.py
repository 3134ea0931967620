"""The page's one call that needs a GPU, made so that it also runs where a Space is lent one for a call alone (ZeroGPU).

There the function that is decorated runs in a process forked from this one: it takes words and gives values of the CPU.
In this process torch only acts as if it had a GPU, and only in the main thread. So `prepare` puts the default head's
backbone there before the first call, and the threads that answer requests leave the GPU alone. Elsewhere the decorator
is none.
"""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from PIL import Image

from ais.demo.catalog import head_source, members
from ais.errors import AISError, HeadError
from ais.explain import backbone_of, explain, load_head_cached
from ais.explanation import Explanation
from ais.loading import load_head

logger = logging.getLogger(__name__)

LENT = os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")  # a GPU, for a call alone
SECONDS = 30  # the most that a call takes of it; occlusion with several backbones does

F = TypeVar("F", bound=Callable[..., object])

# Cutting a network in two by torch.fx, as its first use does, changes modules for all threads: none may compute then.
slot = threading.Lock()


def _on_gpu(function: F) -> F:
    try:
        import spaces  # type: ignore[import-not-found]  # there on a Space alone
    except ImportError:
        return function
    return spaces.GPU(duration=SECONDS)(function)


@_on_gpu
def _explain(picture: str, head: str, method: str, public: bool) -> Explanation | AISError:
    """Errors are given back, since ZeroGPU keeps no more of one that is raised than its class."""
    try:
        return explain(picture, load_head_cached(head_source(head), public=public), method)
    except AISError as error:
        return error


def explain_picture(picture: Path, head: str, method: str, *, public: bool) -> Explanation:
    """`ais.explain` on the GPU, if there is one; one picture at a time.

    Args:
        head: as `ais.demo.catalog.head_source` takes it; one of the Hub has been fetched already.
        public: as it was fetched.

    Raises:
        AISError: with a sentence that says what is wrong.
    """
    with slot:
        made = _explain(str(picture), head, method, public)
    if isinstance(made, AISError):
        raise made
    if not all(map(math.isfinite, (made.score, *made.interval))):
        raise HeadError(f"The head {made.head!r} gives no finite score for this picture: choose another.")
    return made


def prepare(head: str) -> None:
    """Load a head and its backbone before the first picture comes; to be called in the main thread."""
    if LENT:  # of a head of its own: the threads need theirs on the CPU
        for member in members(load_head(head)):
            backbone_of(member)
    else:
        threading.Thread(target=_rehearse, args=(head,), name="ais-warm", daemon=True).start()


def _rehearse(head: str) -> None:
    try:
        with slot:
            explain(Image.new("RGB", (64, 64)), head)
    except AISError as error:
        logger.warning("%s", error)
    except Exception:
        logger.exception("the default head could not be loaded")
