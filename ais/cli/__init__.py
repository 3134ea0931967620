"""The `ais` command: results on stdout, everything else on stderr."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

import typer

from ais.cli import (  # noqa: F401  each adds its command
    advise,
    align,
    backbones,
    card,
    combine,
    data,
    evaluate,
    explain,
    find_rate,
    heads,
    prune,
    pull,
    push,
    score,
    train,
)
from ais.cli._options import app
from ais.cli._output import Stopped
from ais.errors import AISError, out_of_memory

__all__ = ["app", "main"]


_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def main() -> None:
    """Run the command; whatever goes wrong is one sentence on stderr."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("ais").setLevel(logging.INFO)
    # A name that the terminal cannot show is no reason to lose the results.
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors in ("strict", "surrogateescape"):
        sys.stdout.reconfigure(errors="replace")
    try:
        with _stopped_by_signals():
            app(prog_name="ais")  # also as `python -m ais`: shells know the completion by this name
    except Stopped as stopped:
        why = "Ctrl-C" if stopped.number == signal.SIGINT else signal.Signals(stopped.number).name
        _stop(f"Stopped by {why}. {stopped.kept}".rstrip(), 128 + stopped.number)
    except AISError as error:
        _stop(str(error), 2)
    except BrokenPipeError:  # whoever reads the pipe has stopped
        _close_stdout()
        raise SystemExit(1) from None
    except Exception as error:
        if out_of_memory(error):
            _stop("There is not enough memory for this. Try a smaller picture, or fewer at once.", 1)
        if isinstance(error, OSError) and error.errno in _FULL:
            _close_stdout()
            _stop(f"The results could not be printed: {error.strerror}.", 1)
        if os.environ.get("AIS_DEBUG"):
            raise
        _stop(
            f"Something unexpected went wrong ({type(error).__name__}: {error}). AIS_DEBUG=1 shows where.", 1
        )


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Ctrl-C, and being told to end, as an exception; the second time the process ends at once."""
    # Where a signal is ignored, as by nohup, it stays so; and only the main thread may say what one does.
    main_thread = threading.current_thread() is threading.main_thread()
    before = {
        number: signal.getsignal(number)
        for number in _SIGNALS
        if main_thread and signal.getsignal(number) is not signal.SIG_IGN
    }

    def stop(number: int, frame: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.SIG_DFL)
        raise Stopped(number)

    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _close_stdout() -> None:
    """What is still to be printed goes nowhere, so that the end of the process does not try again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _stop(sentence: str, status: int) -> None:
    typer.echo(f"ais: {sentence}", err=True)
    raise SystemExit(status) from None
