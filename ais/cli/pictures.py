"""`ais score` and `ais explain`."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from tqdm import tqdm

from ais.cli.common import AsJson, HeadName, OnDevice, app, print_json
from ais.errors import AISError, ImageError
from ais.explain import explain, score
from ais.explanation import Kind, Score
from ais.files import write_atomically
from ais.heads import EMBEDDED, Head
from ais.heatmaps import METHODS, MethodName, Scale
from ais.images import SUFFIXES
from ais.loading import load_head


@app.command("score")
def score_command(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Pictures, or folders of pictures.")],
    head: HeadName = EMBEDDED,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="Also write a table: scores.csv.")
    ] = None,
    device: OnDevice = "auto",
    as_json: AsJson = False,
) -> None:
    """The score of every picture, with its 90 % interval and its percentile among the rated pictures.

    A picture that cannot be read gets a sentence instead of a score, and the exit status is 2.
    """
    loaded = load_head(head)
    rows: list[dict[str, Any]] = []
    for path in tqdm(_pictures(paths), unit="picture", file=sys.stderr, disable=None, leave=False):
        try:
            rows.append({"path": str(path), **score(path, loaded, device=device)._asdict()})
        except ImageError as error:
            rows.append({"path": str(path), "error": str(error)})
    if output:
        _write_table(output, rows)
    if as_json:
        target = asdict(loaded.config.target)
        level = loaded.config.interval.level
        print_json({"head": loaded.config.name, "target": target, "level": level, "pictures": rows})
    else:
        for row in rows:
            typer.echo(f"{_printable(row['path'])}: {row.get('error') or _in_words(loaded, row)}")
    failed = sum("error" in row for row in rows)
    if failed:
        raise AISError(f"{failed} of {len(rows)} pictures could not be scored.")


@app.command("explain")
def explain_command(
    path: Annotated[Path, typer.Argument(help="A picture.")],
    out: Annotated[
        Path, typer.Option("--out", help="Folder for heatmap.npy, overlay.png and explanation.json.")
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
        typer.Option(help="Of heatmap.npy and overlay.png: a share of the largest, or points of the score."),
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
    """A picture's score, and where in the picture it comes from: blue lowers it, red raises it."""
    loaded = load_head(head)
    explanation = explain(
        path,
        loaded,
        method,
        kind=kind,
        scale=scale,
        rating=rating,
        similarity=similarity,
        device=device,
    )
    files = [str(file) for file in explanation.save(out)]
    if as_json:
        print_json({"path": str(path), **explanation.to_dict(), "files": files})
        return
    values = Score(explanation.score, *explanation.interval, explanation.percentile)
    typer.echo(_in_words(loaded, values._asdict()))
    for member in explanation.members:
        typer.echo(f"  {member.head}: {member.score:.2f}")
    low, high = float(explanation.grid.min()), float(explanation.grid.max())
    typer.echo(
        f"{METHODS[method].label} heatmap of the {kind} by {explanation.head}: cells from {low:+.3g} to {high:+.3g} "
        f"{explanation.unit}"
    )
    for file in files:
        typer.echo(f"  {file}")


def _pictures(paths: Sequence[Path]) -> list[Path]:
    """The files named, and those below the folders named that look like pictures by their suffix."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(
                file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file()
            )
            if not inside:
                raise AISError(f"There are no pictures in the folder {path}.")
            found += inside
        else:
            found.append(path)
    return found


def _write_table(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ("path", *Score._fields, "error"), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(file.parent, {file.name: text.getvalue().encode("utf-8", "surrogateescape")})


def _in_words(head: Head, row: dict[str, Any]) -> str:
    target, level = head.config.target, head.config.interval.level
    return (
        f"{target.name} {row['score']:.2f} on a scale of {target.low:g} to {target.high:g} "
        f"({level:.0%} interval {row['low']:.2f} to {row['high']:.2f}), "
        f"higher than {row['percentile']:.0f} % of the rated pictures"
    )


def _printable(text: str) -> str:
    """A file's name without what a terminal would obey."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
