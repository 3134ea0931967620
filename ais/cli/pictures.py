"""`ais score` and `ais explain`."""

from __future__ import annotations

import csv
import io
import os
import stat
import sys
import unicodedata
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ais.attribution.explain import explain
from ais.attribution.explanation import FILES, Explanation, Kind, Score
from ais.attribution.grids import Scale
from ais.attribution.methods import METHODS, MethodName
from ais.backbones.embeddings import NamedBytes, Picture
from ais.cli.common import AsJson, Bars, HeadName, OnDevice, Stopped, app, from_home, head_files, print_json
from ais.errors import NO_MEMORY, AISError, DataError, ImageError, UnwritableError, out_of_memory
from ais.heads.base import Head
from ais.heads.config import EMBEDDED
from ais.heads.loading import load_head
from ais.heads.stack import StackedHead
from ais.images.folders import find_pictures, left_out_line, printable
from ais.images.guards import MAX_BYTES
from ais.io.files import GrowingFile, check_outputs
from ais.workflows.score import score_pictures

STANDARD_INPUT = "-"
_COLUMNS = ("path", *Score._fields, "error")
_HEADER = ",".join(_COLUMNS).encode()  # how a table of scores begins

Paths = Annotated[
    list[str],
    typer.Argument(
        metavar="PATH...", help="Pictures, or folders of pictures; - reads one from standard input."
    ),
]


@dataclass(frozen=True)
class Named:
    """A picture of a call: what it is called, where it is, and in which of the call's folders it was found."""

    path: str
    source: Picture
    folder: Path | None = None


@app.command("score")
def score_command(
    paths: Paths,
    head: HeadName = EMBEDDED,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", metavar="FILE", help="Write a table, scores.csv, instead of a line for each."
        ),
    ] = None,
    cache: Annotated[
        bool,
        typer.Option(
            " /--no-cache",
            help="Do not keep what the network sees in ~/.cache/ais (or $AIS_CACHE), nor look there.",
        ),
    ] = True,
    device: OnDevice = "auto",
    as_json: AsJson = False,
) -> None:
    """The score of every picture, with its 90 % interval and its percentile among the rated pictures.

    Each line is printed, and each row of the table written, as soon as it is known. A picture that cannot be read gets
    a sentence instead of a score, and the exit status is 2.
    """
    with Bars("loading the head"):
        loaded = load_head(head)
    pictures, problems = _named(paths)
    rows: list[dict[str, Any]] = []
    document: dict[str, Any] = {}
    with ExitStack() as opened:
        if as_json:
            opened.callback(_print_rows, document, rows)
        table = None
        if output:
            inputs = [*_files(pictures), *head_files(head)]
            with suppress(UnwritableError):  # which `GrowingFile` tells of
                check_outputs(output.parent, [output.name], inputs)
            _check_table(output)
            try:
                table = opened.enter_context(GrowingFile(output, inputs))
            except UnwritableError as error:
                problems.append(str(error))
                typer.echo(f"ais: {error} The scores are printed instead.", err=True)
        bars = opened.enter_context(Bars("loading the network"))
        config = loaded.config
        document |= {"head": config.name, "target": asdict(config.target), "level": config.interval.level}
        bars("pictures", 0, len(pictures))
        scored = opened.enter_context(
            closing(score_pictures(_sources(pictures), loaded, device=device, cache=cache))
        )
        try:
            for named, one in zip(pictures, scored, strict=True):
                row = {"path": named.path} | (one.score._asdict() if one.score else {"error": one.error})
                rows.append(row)
                line = f"{printable(named.path)}: {row.get('error') or _in_words(loaded, row)}"
                try:
                    if table:
                        table.write(_csv_lines(row, header=len(rows) == 1))
                except UnwritableError as error:
                    problems.append(f"{error}{_kept(len(rows) - 1, table)}")
                    typer.echo(
                        f"ais: {problems[-1]} The {'others' if len(rows) > 1 else 'scores'} are printed.",
                        err=True,
                    )
                    table = None
                if table is None and not as_json:
                    bars.echo(line)
                elif "error" in row:
                    bars.echo(line, err=True)
                bars("pictures", len(rows), len(pictures))
            if table:
                table.complete()
        except UnwritableError as error:
            assert table is not None
            problems.append(f"{error} All rows are in {table.place}.")
        except Stopped as stopped:
            where = f", and in {table.place}" if table and rows else ", and printed" if rows else ""
            stopped.kept = f"{len(rows)} of {len(pictures)} pictures are done{where}."
            raise
    failed = sum("error" in row for row in rows)
    if table and not as_json:
        typer.echo(f"{output}: {len(rows) - failed} of {len(rows)} pictures scored")
    if failed:
        problems.append(f"{failed} of {len(rows)} pictures could not be scored.")
    if problems:
        raise AISError(" ".join(problems))


@app.command("explain")
def explain_command(
    paths: Paths,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            help="Folder for heatmap.npy, overlay.png and explanation.json; of several pictures, for a folder of "
            "each one's name with them.",
        ),
    ],
    head: HeadName = EMBEDDED,
    method: Annotated[
        MethodName,
        typer.Option(help="How to make the heatmap; occlusion takes longer."),
    ] = "ais",
    kind: Annotated[
        Kind,
        typer.Option(
            help="What counts as a feature map's importance: what it adds to the score (prediction), how it helps to "
            "match this picture's --rating (residual, dual), how it did so over a validation set (alignment), or how "
            "it helps to match people's comparisons of pictures (similarity)."
        ),
    ] = "prediction",
    scale: Annotated[
        Scale,
        typer.Option(
            help="Of heatmap.npy and overlay.png: a share of the largest (relative); points of the score, in each "
            "pixel what a whole cell there is worth (points); or points per pixel, which add up to the total (density)."
        ),
    ] = "relative",
    rating: Annotated[
        float | None, typer.Option(help="What people said of this picture, on the head's scale.")
    ] = None,
    similarity: Annotated[
        Path | None, typer.Option(help="For --kind similarity: the file that `ais align` wrote.")
    ] = None,
    device: OnDevice = "auto",
    as_json: AsJson = False,
) -> None:
    """A picture's score, and where in the picture it comes from: blue lowers it, red raises it.

    Of several pictures, one that cannot be read gets a sentence, the others go on, and the exit status is 2.
    """
    pictures, problems = _named(paths)
    alone = len(paths) == 1 and pictures[0].folder is None
    if rating is not None and not alone:
        raise AISError("--rating is what people said of one picture: name that picture alone.")
    folders = [out] if alone else [out / name for name in folder_names(pictures)]
    rows: list[dict[str, Any]] = []
    with ExitStack() as opened:
        if as_json and not alone:
            opened.callback(_print_rows, {}, rows)
        bars = opened.enter_context(Bars("loading the head and its network"))
        loaded = load_head(head)
        inputs = [*_files(pictures), *head_files(head), *filter(None, [similarity])]
        files = _explanation_files(loaded)
        check_outputs(out, [str(f.relative_to(out) / file) for f in folders for file in files], inputs)
        bars("pictures", 0, len(pictures))
        try:
            for named, folder in zip(pictures, folders, strict=True):
                try:
                    explanation = explain(
                        named.source,
                        loaded,
                        method,
                        kind=kind,
                        scale=scale,
                        rating=rating,
                        similarity=similarity,
                        device=device,
                        progress=partial(bars, METHODS[method].label),
                    )
                    written = [str(file) for file in explanation.save(folder)]
                except Exception as error:
                    no_memory = out_of_memory(error)
                    if alone or not (no_memory or isinstance(error, (ImageError, UnwritableError))):
                        raise
                    sentence = NO_MEMORY if no_memory else str(error)
                    rows.append({"path": named.path, "error": sentence})
                    bars.echo(f"{printable(named.path)}: {sentence}", err=as_json)
                else:
                    rows.append({"path": named.path, **explanation.to_dict(), "files": written})
                    if alone and as_json:
                        print_json(rows[0])
                    elif not as_json:
                        _print_explanation(bars, loaded, explanation, named, written, alone)
                bars("pictures", len(rows), len(pictures))
        except Stopped as stopped:
            stopped.kept = f"{len(rows)} of {len(pictures)} pictures are done, and in {out}."
            raise
    failed = sum("error" in row for row in rows)
    if failed:
        problems.append(f"{failed} of {len(rows)} pictures could not be explained.")
    if problems:
        raise AISError(" ".join(problems))


# Which pictures -----------------------------------------------------------------------------------------------


def _named(paths: Sequence[str]) -> tuple[list[Named], list[str]]:
    """The pictures of a call: files as they are named, the pictures of folders, and standard input; and a sentence for
    each folder that gives none, which is printed, too.

    Raises:
        AISError: there are no pictures at all.
    """
    if paths.count(STANDARD_INPUT) > 1:
        raise AISError(f"{STANDARD_INPUT} is standard input, which can be read once: name it once.")
    found: list[Named] = []
    problems: list[str] = []
    for path in paths:
        place = from_home(path)
        if path == STANDARD_INPUT:
            found.append(Named(path, _standard_input()))
        elif os.path.isdir(place):  # noqa: PTH112  a Path raises for a name that is too long
            try:
                inside, left_out = find_pictures(place)
            except DataError as error:
                problems.append(str(error))
                continue
            if not inside:
                problems.append(
                    " ".join([f"There are no pictures in the folder {printable(place)}.", *left_out])
                )
            elif left_out:
                typer.echo(left_out_line(Path(place), left_out), err=True)
            found += [Named(str(file), file, Path(place)) for file in inside]
        else:
            found.append(Named(place if "://" in place else str(Path(place)), place))
    if problems and not found:
        raise AISError(" ".join(problems))
    for problem in problems:
        typer.echo(f"ais: {problem} The others go on.", err=True)
    return found, problems


def _standard_input() -> NamedBytes:
    if sys.stdin is None:
        raise AISError("There is no standard input to read a picture from.")
    if sys.stdin.isatty():
        typer.echo("Reading a picture from standard input.", err=True)
    return NamedBytes(sys.stdin.buffer.read(MAX_BYTES + 1), "standard input")


def _sources(pictures: Sequence[Named]) -> list[Picture]:
    return [named.source for named in pictures]


def _files(pictures: Sequence[Named]) -> list[str | Path]:
    """Those that are on the disk, and must stay as they are."""
    return [named.source for named in pictures if not isinstance(named.source, NamedBytes)]


def folder_names(pictures: Sequence[Named]) -> list[str]:
    """A folder's name for each picture: its own without the ending, longer where that is not enough to tell them
    apart, whatever the case of the letters."""

    def key(name: str) -> str:
        return unicodedata.normalize("NFC", name).casefold()

    names, longer, longest = [], [], []
    for named in pictures:
        path = Path("standard input" if isinstance(named.source, NamedBytes) else named.path)
        inside = path.relative_to(named.folder) if named.folder else Path(path.name)
        above = (named.folder or path.parent).resolve().name
        names.append(path.stem.lstrip(".") or "picture")
        longer.append("-".join(inside.parts))
        longest.append("-".join([above, *inside.parts]))
    for better in (longer, longest):
        taken = Counter(map(key, names))
        names = [other if taken[key(name)] > 1 else name for name, other in zip(names, better, strict=True)]
    used: set[str] = set()
    for number, name in enumerate(names):
        count = 1
        while key(names[number]) in used:
            count += 1
            names[number] = f"{name}-{count}"
        used.add(key(names[number]))
    return names


# What is printed ------------------------------------------------------------------------------------------------


def _print_rows(document: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """One document of what was done, also if not all of it was; none if nothing was."""
    if rows:
        print_json({**document, "pictures": rows})


def _check_table(file: Path) -> None:
    """A table is written over a table of scores and over nothing else, and not under the name of another kind.

    Raises:
        AISError: it would be.
    """
    if file.suffix.lower() not in ("", ".csv", ".txt"):
        raise AISError(
            f"{printable(str(file))}: the scores are a table in CSV. Give --output a name that ends in .csv."
        )
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            return  # whoever writes it says why it cannot be
        with file.open("rb") as stream:
            begin = stream.read(len(_HEADER))
    except OSError:  # it is new, or cannot be written either
        return
    if begin and begin != _HEADER:
        raise AISError(
            f"{printable(str(file))} is not a table of scores, so it is not written over: choose another --output."
        )


def _kept(count: int, table: GrowingFile | None) -> str:
    """What of a table that cannot grow any more is there."""
    if not table or not count:
        return ""
    return f" The first {'picture is' if count == 1 else f'{count} pictures are'} in {table.place}."


def _csv_lines(row: dict[str, Any], header: bool) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerow(row)
    return text.getvalue()


def _explanation_files(head: Head) -> list[str]:
    """What `Explanation.save` writes into its folder."""
    members = [f"{member.config.name}/" for member in head.members] if isinstance(head, StackedHead) else []
    return [f"{folder}{file}" for folder in ("", *members) for file in FILES]


def _print_explanation(
    bars: Bars, head: Head, explanation: Explanation, named: Named, files: list[str], alone: bool
) -> None:
    values = Score(explanation.score, *explanation.interval, explanation.percentile)
    words = _in_words(head, values._asdict())
    if not alone:
        bars.echo(f"{printable(named.path)}: {words}\n  {printable(str(Path(files[0]).parent))}")
        return
    bars.echo(words)
    if explanation.members:
        bars.echo(f"  {explanation.sum_in_words}")
    density = explanation.scale == "density"
    shown = explanation.density if density else explanation.grid
    low, high = float(np.nanmin(shown)), float(np.nanmax(shown))
    bars.echo(
        f"{METHODS[explanation.method].label} heatmap of the {explanation.kind} by {explanation.head}: "
        f"{'pixels' if density else 'cells'} from "
        f"{low:+.3g} to {high:+.3g} {explanation.unit}"
    )
    for file in files:
        bars.echo(f"  {printable(file)}")


def _in_words(head: Head, row: dict[str, Any]) -> str:
    target, level = head.config.target, head.config.interval.level
    where = "on a" if target.low <= row["score"] <= target.high else "beyond the"
    return (
        f"{target.name} {row['score']:.2f} {where} scale of {target.low:g} to {target.high:g} "
        f"({level:.0%} interval {row['low']:.2f} to {row['high']:.2f}), "
        f"higher than {row['percentile']:.0f} % of the rated pictures"
    )
