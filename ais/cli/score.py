"""`ais score`: the score of every picture."""

from __future__ import annotations

import csv
import io
import stat
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ais.cli._inputs import Paths, files_on_disk, input_images, rows_written, sources
from ais.cli._options import AsJson, HeadName, OnDevice, app, head_files
from ais.cli._output import ProgressBars, Stopped, print_rows, score_sentence
from ais.errors import AISError, UnwritableError
from ais.heads.config import EMBEDDED

_COLUMNS = ("path", "score", "low", "high", "percentile", "error")

_HEADER = ",".join(_COLUMNS).encode()  # how a table of scores begins


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
            show_default=False,
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
    from ais.heads.loading import load_head, rating_head
    from ais.images.folders import printable
    from ais.io.files import GrowingFile, check_outputs
    from ais.workflows.score import score_images

    with ProgressBars("loading the head"):
        loaded = rating_head(load_head(head))
    images, problems = input_images(paths)
    rows: list[dict[str, Any]] = []
    document: dict[str, Any] = {}
    with ExitStack() as opened:
        if as_json:
            opened.callback(print_rows, document, rows)
        table = None
        if output:
            inputs = [*files_on_disk(images), *head_files(head)]
            with suppress(UnwritableError):  # which `GrowingFile` tells of
                check_outputs(output.parent, [output.name], inputs)
            _check_table(output)
            try:
                table = opened.enter_context(GrowingFile(output, inputs))
            except UnwritableError as error:
                problems.append(str(error))
                typer.echo(f"ais: {error} The scores are printed instead.", err=True)
        bars = opened.enter_context(ProgressBars("loading the network"))
        config = loaded.config
        document |= {"head": config.name, "target": asdict(config.target), "level": config.interval.level}
        bars("pictures", 0, len(images))
        scored = opened.enter_context(
            closing(score_images(sources(images), loaded, device=device, cache=cache))
        )
        try:
            for named, one in zip(images, scored, strict=True):
                row = {"path": named.path} | (one.score._asdict() if one.score else {"error": one.error})
                rows.append(row)
                line = f"{printable(named.path)}: {row.get('error') or score_sentence(loaded, row)}"
                try:
                    if table:
                        table.write(_csv_lines(row, header=len(rows) == 1))
                except UnwritableError as error:
                    problems.append(f"{error}{rows_written(len(rows) - 1, table)}")
                    typer.echo(
                        f"ais: {problems[-1]} The {'others' if len(rows) > 1 else 'scores'} are printed.",
                        err=True,
                    )
                    table = None
                if table is None and not as_json:
                    bars.echo(line)
                elif "error" in row:
                    bars.echo(line, err=True)
                bars("pictures", len(rows), len(images))
            if table:
                table.complete()
        except UnwritableError as error:
            assert table is not None
            problems.append(f"{error} All rows are in {table.place}.")
        except Stopped as stopped:
            where = f", and in {table.place}" if table and rows else ", and printed" if rows else ""
            stopped.kept = f"{len(rows)} of {len(images)} pictures are done{where}."
            raise
    failed = sum("error" in row for row in rows)
    if table and not as_json:
        typer.echo(f"{output}: {len(rows) - failed} of {len(rows)} pictures scored")
    if failed:
        problems.append(f"{failed} of {len(rows)} pictures could not be scored.")
    if problems:
        raise AISError(" ".join(problems))


def _check_table(file: Path) -> None:
    """A table is written over a table of scores and over nothing else, and not under the name of another kind.

    Raises:
        AISError: it would be.
    """
    from ais.images.folders import printable

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


def _csv_lines(row: dict[str, Any], header: bool) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerow(row)
    return text.getvalue()
