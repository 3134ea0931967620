"""What the commands share: progress on stderr, and ways to print."""

from __future__ import annotations

import json
import logging
import shlex
import sys
import threading
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from tqdm import tqdm

from ais.cli._options import path_from_home
from ais.heads.shipped import list_heads

if TYPE_CHECKING:
    from ais.heads.base import Head

logger = logging.getLogger(__name__)

_PATIENCE = 0.5  # seconds until something is shown on a terminal

_SHORT_PAUSE, _LONG_PAUSE = 5, 30  # seconds between the lines in a log: for each tenth, and in any case


class Stopped(BaseException):
    """A signal asks the command to end, such as Ctrl-C's. It is no `Exception`, so that only `main` ends it.

    Attributes:
        number: the signal's.
        kept: a sentence of what has been done until now, and where it is.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
        self.kept = ""


class ProgressBars:
    """What a command is at, on stderr: on a terminal a bar within a second, elsewhere a line now and then.

    Args:
        doing: what it does before a stage reports how far it is, such as loading the network.
    """

    def __init__(self, doing: str = "loading") -> None:
        self._doing = doing
        self._bars: dict[str, tqdm[Any]] = {}
        self._terminal = sys.stderr is not None and sys.stderr.isatty()
        self._last_lines: dict[str, tuple[float, int]] = {}  # when, and how much was done then
        self._reported = threading.Event()
        self._waiting: threading.Thread | None = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        self._end_waiting()
        if not self._terminal:
            self._log(stage, done, total)
            return
        if stage not in self._bars:
            self._bars[stage] = tqdm(desc=stage, total=total, file=sys.stderr, leave=False)
        bar = self._bars[stage]
        bar.total = total
        bar.update(done - bar.n)

    def echo(self, line: str, err: bool = False) -> None:
        """Print a line, of the results or on stderr, at once, and above the bars."""
        self._end_waiting()
        if self._terminal:
            with tqdm.external_write_mode(file=sys.stdout):
                typer.echo(line, err=err)
        else:
            typer.echo(line, err=err)

    def __enter__(self) -> ProgressBars:
        if self._terminal:
            self._waiting = threading.Thread(target=self._wait, daemon=True)
            self._waiting.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end_waiting()
        for bar in self._bars.values():
            bar.close()

    def _wait(self) -> None:
        """Until a stage reports: what is being done, and for how long."""
        if self._reported.wait(_PATIENCE):
            return
        with tqdm(desc=self._doing, bar_format="{desc} {elapsed}", file=sys.stderr, leave=False) as bar:
            while not self._reported.wait(_PATIENCE):
                bar.refresh()

    def _end_waiting(self) -> None:
        self._reported.set()
        if self._waiting is not None:
            self._waiting.join()
            self._waiting = None

    def _log(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        when, before = self._last_lines.setdefault(stage, (now, done))
        tenth = now - when >= _SHORT_PAUSE and done - before >= total / 10
        if done < total and (tenth or now - when >= _LONG_PAUSE):
            typer.echo(f"{stage}: {done} of {total}", err=True)
            self._last_lines[stage] = (now, done)


def command_of(*folders: Path | None) -> str:
    """The command line as it was given, fit for a public card: these folders and files by their names alone, and
    without what changes no weight."""
    words = [word for word in sys.argv[1:] if word != "--json" and not word.startswith("--about=")]
    if "--about" in words:
        at = words.index("--about")
        del words[at : at + 2]

    def named(word: str, before: str) -> str:
        option, equals, value = word.rpartition("=") if word.startswith("-") else ("", "", word)
        path = path_from_home(Path(value))
        if not value or path not in folders:
            return word
        name = path.resolve().name
        of_head = "--head" in (option, before) and name in list_heads()  # the name alone would mean that one
        return option + equals + (f"./{name}" if of_head else name)

    return shlex.join(["ais", *(named(word, before) for before, word in pairwise(["", *words]))])


def quality(metrics: dict[str, Any]) -> str:
    """How good a head is by its config, which may be anybody's."""
    plcc, low, high, rmse = (metrics.get(name) for name in ("plcc", "plcc_low", "plcc_high", "rmse"))
    if not all(isinstance(value, float) for value in (plcc, low, high, rmse)):
        return "not measured"
    return f"PLCC {plcc:.3f} ({low:.3f} to {high:.3f}), RMSE {rmse:.2f}"


def duration(seconds: float) -> str:
    """How long something takes, in words, as exactly as an estimate is."""
    if seconds < 90:
        return f"{max(2, round(seconds))} seconds"
    minutes = round(seconds / 60)
    return f"{minutes} minutes" if minutes < 90 else f"{seconds / 3600:.1f} hours"


def print_json(document: Any) -> None:
    typer.echo(json.dumps(document, indent=2, ensure_ascii=True, allow_nan=False))


def print_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


# What is printed ------------------------------------------------------------------------------------------------


def print_rows(document: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """One document of what was done, also if not all of it was; none if nothing was."""
    if rows:
        print_json({**document, "pictures": rows})


def score_sentence(head: Head, row: dict[str, Any]) -> str:
    target, level = head.config.target, head.config.interval.level
    where = "on a" if target.low <= row["score"] <= target.high else "beyond the"
    return (
        f"{target.name} {row['score']:.2f} {where} scale of {target.low:g} to {target.high:g} "
        f"({level:.0%} interval {row['low']:.2f} to {row['high']:.2f}), "
        f"higher than {row['percentile']:.0f} % of the rated pictures"
    )
