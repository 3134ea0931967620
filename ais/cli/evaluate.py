"""`ais evaluate`: how good a head is."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ais.cli._options import (
    SD,
    AsJson,
    Data,
    Group,
    HeadName,
    ImageColumn,
    N,
    OnDevice,
    SkipBad,
    Split,
    TableFile,
    TrainedTarget,
    app,
    group_column,
    head_files,
    inputs_of,
    read_set,
    target_column,
)
from ais.cli._output import ProgressBars, print_json, print_table
from ais.errors import AISError
from ais.heads.config import EMBEDDED

if TYPE_CHECKING:
    from ais.data.ratings import RatedSet
    from ais.heads.base import Head
    from ais.heads.regression import RegressionHead
    from ais.workflows.evaluate import HeldOut

EVALUATION = ("evaluation.json", "predictions.csv", "scatter.png", "worst.jpg")

_HOW = {
    "unseen": "pictures that the head has not seen",
    "cross-validation": "the pictures it was trained on, each scored by variants that have {}",
    "unknown": "but the head does not say which pictures it was trained on: if these are among them, the metrics are "
    "too good",
}


@app.command("evaluate")
def evaluate_command(
    data: Data,
    head: HeadName = EMBEDDED,
    target: TrainedTarget = None,
    table: TableFile = None,
    image: ImageColumn = None,
    group: Group = None,
    category: Annotated[
        str | None,
        typer.Option("--category", help="A column to report errors by [default: category, if there is one]."),
    ] = None,
    split: Split = None,
    sd: SD = None,
    n: N = None,
    skip_bad: SkipBad = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Folder for evaluation.json, predictions.csv, scatter.png and worst.jpg, the ten worst pictures.",
        ),
    ] = None,
    heatmaps: Annotated[
        bool,
        typer.Option(
            "--heatmaps",
            help="Also measure how faithful the heatmaps are (insertion, deletion, randomised head).",
        ),
    ] = False,
    pictures: Annotated[
        int, typer.Option("--pictures", min=2, help="How many pictures --heatmaps takes, drawn by chance.")
    ] = 20,
    device: OnDevice = "auto",
    as_json: AsJson = False,
) -> None:
    """How well a head predicts people's ratings of pictures that it has not seen.

    A picture is known by its content. Those that the head was trained on are left out; but if they are exactly those
    that it was trained on, they are scored by cross-validation with the head's own recipe.
    """
    from ais.data.columns import RatingColumns
    from ais.heads.loading import load_head, rating_head
    from ais.io.files import check_outputs, write_atomically
    from ais.workflows.evaluate import evaluate_head, score_held_out

    loaded = rating_head(load_head(head))
    if heatmaps and loaded.config.parts:
        raise AISError("--heatmaps measures heads on a single backbone: name a member of this stack.")
    columns = RatingColumns(
        target_column(loaded, target),
        sd=sd,
        n=n,
        group=group_column(data, group, loaded, table),
        category=category,
        split=split,
        image=image,
    )
    rated = read_set(data, columns, table=table, skip_bad=skip_bad)
    rated = rated.part(test=True)
    if out is not None:
        check_outputs(out, EVALUATION, [*inputs_of(rated), *head_files(head)])
    with ProgressBars() as bars:
        held = score_held_out(rated, loaded, device=device, progress=bars)
        report = evaluate_head(held, loaded)
        if heatmaps:
            report["heatmaps"] = _faithfulness(held.data, loaded.members[0], pictures, device, bars)
    if out is not None:
        report["files"] = [str(file) for file in write_atomically(out, _files(held, loaded, report))]
    if as_json:
        print_json(report)
    else:
        _print_report(report)


def _faithfulness(
    data: RatedSet, head: RegressionHead, count: int, device: str, bars: ProgressBars
) -> dict[str, Any]:
    import numpy as np

    from ais.attribution.faithfulness import faithfulness
    from ais.heads.loading import backbone_of

    drawn = np.sort(np.random.default_rng(0).permutation(len(data))[:count])
    return faithfulness(
        [data.files[i] for i in drawn],
        backbone_of(head, device),
        head,
        progress=lambda done, total: bars("heatmaps", done, total),
    )


def _files(held: HeldOut, head: Head, report: dict[str, Any]) -> dict[str, bytes]:
    from ais.plots import evaluation, sheets

    data, predicted = held.data, held.scores.mean(1)
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["file_name", "rated", "predicted", "group"])
    names = [file.relative_to(data.folder).as_posix() for file in data.files]
    writer.writerows(zip(names, data.ratings.tolist(), predicted.tolist(), held.groups, strict=True))
    target = head.config.target
    captions = [f"rated {w['rated']:.1f}, predicted {w['predicted']:.1f}" for w in report["worst"]]
    files = (
        (json.dumps(report, indent=2, allow_nan=False) + "\n").encode(),
        table.getvalue().encode("utf-8", "surrogateescape"),
        evaluation.scatter(predicted, data.ratings, target.low, target.high, target.name, report["metrics"]),
        sheets.contact_sheet([Path(w["file"]) for w in report["worst"]], captions),
    )
    return dict(zip(EVALUATION, files, strict=True))


def _print_report(report: dict[str, Any]) -> None:
    grouped = report["grouped"] and report["groups"] < report["pictures"]
    groups = f" in {report['groups']} groups" if grouped else ", each a group of its own"
    how = _HOW[report["how"]].format("seen neither it nor its group" if grouped else "not seen it")
    typer.echo(f"{report['head']}: {report['pictures']} pictures{groups}, {how}")
    if report["left_out"]:
        typer.echo(f"  {report['left_out']} more were left out: the head was trained on them")
    measures = report["metrics"]
    rows = [
        (
            key.upper(),
            f"{measures[key]:.3f}",
            f"{measures[f'{key}_low']:.3f} to {measures[f'{key}_high']:.3f}",
        )
        for key in ("plcc", "srcc", "krcc", "rmse", "mae")
    ]
    print_table(("measure", "value", "95 % interval"), rows)
    if report["ceiling"] is not None:
        typer.echo(f"The ratings' own noise allows a PLCC of {report['ceiling']:.3f} at most.")
    interval = report["interval"]
    typer.echo(
        f"{interval['inside']:.0%} of the ratings lie inside the score's {interval['level']:.0%} interval."
    )
    if report["categories"]:
        by_category = [
            (
                c["name"] or "(none)",
                str(c["pictures"]),
                "" if c["plcc"] is None else f"{c['plcc']:.3f}",
                f"{c['rmse']:.3f}",
                f"{c['bias']:+.3f}",
            )
            for c in report["categories"]
        ]
        print_table(("category", "pictures", "PLCC", "RMSE", "mean error"), by_category)
    if "heatmaps" in report:
        _print_faithfulness(report["heatmaps"])
    for file in report.get("files", []):
        typer.echo(f"  {file}")


def _print_faithfulness(report: dict[str, Any]) -> None:
    def cell(values: dict[str, float], key: str) -> str:
        return f"{values[key]:+.3f} ({values[f'{key}_low']:+.3f} to {values[f'{key}_high']:+.3f})"

    typer.echo(
        f"Heatmaps of {report['pictures']} pictures: points of score, with 95 % intervals; higher is better."
    )
    lines = {
        **report["methods"],
        **{f"ais less {name}": values for name, values in report["differences"].items()},
    }
    print_table(
        ("method", "deletion", "insertion"),
        [(name, cell(values, "deletion"), cell(values, "insertion")) for name, values in lines.items()],
    )
    typer.echo(
        f"Another head's map resembles the head's by {cell(report, 'sanity')}, and two other heads' maps each other by "
        f"{cell(report, 'sanity_chance')}: the map follows the head if the first is about as low, and far from 1."
    )
