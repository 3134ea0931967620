"""The `ais` command: results on stdout, everything else on stderr."""

from __future__ import annotations

import logging
import os
import sys

import typer

from ais.cli import (  # noqa: F401  each adds its commands
    cards,
    data,
    judging,
    listing,
    pictures,
    publishing,
    similarity,
    training,
)
from ais.cli.common import app
from ais.errors import AISError

__all__ = ["app", "main"]


def main() -> None:
    """Run the command; whatever goes wrong is one sentence on stderr."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("ais").setLevel(logging.INFO)
    try:
        app()
    except AISError as error:
        _stop(str(error), 2)
    except BrokenPipeError:  # the reader of a pipe has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except MemoryError:
        _stop("There is not enough memory for this. Try a smaller picture, or fewer at once.", 1)
    except Exception as error:
        if os.environ.get("AIS_DEBUG"):
            raise
        _stop(
            f"Something unexpected went wrong ({type(error).__name__}: {error}). AIS_DEBUG=1 shows where.", 1
        )


def _stop(sentence: str, status: int) -> None:
    typer.echo(f"ais: {sentence}", err=True)
    raise SystemExit(status) from None
