"""The page's one call that needs a GPU, made so that it also runs where a Space is lent one for a call alone (ZeroGPU).

There the function that is decorated runs in a process forked from this one: it takes words and gives values of the CPU.
In this process torch only acts as if it had a GPU, and only in the main thread. So `prepare` puts the default head's
backbone there before the first call, and the threads that answer requests leave the GPU alone. Elsewhere the decorator
is none.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import TypeVar

from PIL import Image

from ais.attribution.explain import explain
from ais.attribution.explanation import Explanation
from ais.attribution.methods import METHODS
from ais.demo.catalog import check_backbones, head_source
from ais.demo.turns import Turns
from ais.errors import AISError
from ais.heads.loading import backbone_of, load_head, load_head_cached
from ais.progress import Progress

logger = logging.getLogger(__name__)

ZERO_GPU = os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")  # a GPU, for a call alone
SECONDS = 30  # of it that a call may take; RISE, the slowest, runs every backbone of a stack 512 times


@dataclass(frozen=True)
class Choices:
    """How a heatmap is made: arguments of `ais.explain`, which checks them; no baseline is the method's own."""

    method: str
    kind: str = "prediction"
    baseline: str = ""
    scale: str = "relative"


F = TypeVar("F", bound=Callable[..., object])

# Cutting a network in two by torch.fx, as its first use does, changes modules for all threads: none may compute then.
turns = Turns()
saves = Turns()  # making files of what has been computed, which waits for no computing


def _on_gpu(function: F) -> F:
    try:
        import spaces  # type: ignore[import-not-found]  # there on a Space alone
    except ImportError:
        return function
    return spaces.GPU(duration=SECONDS)(function)


def _explain(
    image: str, head: str, choices: Choices, public: bool, progress: Progress | None = None
) -> Explanation | AISError:
    """Errors are given back, since ZeroGPU keeps no more of one that is raised than its class."""
    try:
        loaded = load_head_cached(head_source(head), public=public)
        return explain(
            image, loaded, **asdict(choices) | {"baseline": choices.baseline or None}, progress=progress
        )
    except AISError as error:
        return error


@_on_gpu
def _explain_on_zero_gpu(image: str, head: str, public: bool, *choices: str) -> Explanation | AISError:
    return _explain(image, head, Choices(*choices), public)


def explain_image(
    image: Path,
    head: str,
    choices: Choices,
    *,
    public: bool,
    progress: Progress | None = None,
    finish: Callable[[Explanation], None] | None = None,
) -> Explanation:
    """`ais.explain` on the GPU, if there is one; one image at a time, in turn (see `ais.demo.turns`).

    Args:
        head: as `ais.demo.catalog.head_source` takes it; one of the Hub has been fetched already.
        choices: how it is made.
        public: as it was fetched.
        progress: told how far a slow method is.
        finish: makes files of it in the same turn, so that no more than one large image is in memory.

    Raises:
        AISError: with a sentence that says what is wrong.
    """
    slow = choices.method in METHODS and METHODS[choices.method].slow
    with turns.admitted(slow=slow) as turn:
        check_backbones(load_head_cached(head_source(head), public=public), public=public)

        def between(done: int, total: int) -> None:
            if progress is not None:
                progress(done, total)
            turn.progress(done, total)

        def compute() -> Explanation:
            if ZERO_GPU:
                # Its time is bounded by `SECONDS`, and nothing comes out of its process before the end.
                made = _explain_on_zero_gpu(str(image), head, public, *astuple(choices))
            else:
                made = _explain(str(image), head, choices, public, between)
            if isinstance(made, AISError):
                raise made
            if finish is not None:
                finish(made)
            return made

        if ZERO_GPU:  # in the thread of the request, by which the Space knows whose GPU it is
            with turn.go():
                return compute()
        return turn.run(compute)


def prepare(head: str) -> None:
    """Load a head and its backbone before the first image comes; to be called in the main thread."""
    if ZERO_GPU:  # of a head of its own: the threads need theirs on the CPU
        for member in load_head(head_source(head)).members:
            backbone_of(member)
    else:
        threading.Thread(target=_warm_up, args=(head,), name="ais-warm", daemon=True).start()


def _warm_up(head: str) -> None:
    try:
        with turns.admitted() as turn:
            turn.run(lambda: explain(Image.new("RGB", (64, 64)), head))
    except AISError as error:
        logger.warning("%s", error)
    except Exception:
        logger.exception("the default head could not be loaded")
