"""`ais evaluate`: how good a head is."""

from __future__ import annotations

import csv
import io
import json
import time
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
from ais.cli._output import ProgressBars, duration, print_json, print_table
from ais.errors import AISError, check_choice
from ais.heads.config import EMBEDDED

if TYPE_CHECKING:
    from ais.attribution.faithfulness.measure import Comparison
    from ais.data.ratings import RatedSet
    from ais.heads.base import Head
    from ais.heads.regression import RatingHead
    from ais.progress import StageProgress
    from ais.workflows.evaluate import HeldOut

EVALUATION = ("evaluation.json", "predictions.csv", "scatter.png", "worst.jpg")

_TIMED = 4  # pictures, from which the time for all is told

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
            help="Also measure how good the heatmaps are: deletion, insertion, stability, randomised heads …",
        ),
    ] = False,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            help="A heatmap to measure, METHOD or METHOD:BASELINE, each also with +fine; again for more, which are "
            "compared with the first [default: contribution, ais, ais:typical, gradcam, random].",
        ),
    ] = None,
    hide: Annotated[
        list[str] | None,
        typer.Option("--hide", help="What hidden places show, blur or grey; again for both [default: blur]."),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps",
            min=2,
            max=100,
            help="In how many steps --heatmaps hides and shows places [default: 14].",
        ),
    ] = None,
    pictures: Annotated[
        int | None,
        typer.Option(
            "--pictures", help="How many pictures --heatmaps takes, drawn by chance [default: all]."
        ),
    ] = None,
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
    from ais.workflows.heatmaps import judge_heatmaps

    loaded = rating_head(load_head(head))
    if not heatmaps and (method or hide or steps is not None or pictures is not None):
        raise AISError(
            "--method, --hide, --steps and --pictures say how --heatmaps measures: give --heatmaps, too."
        )
    if pictures is not None and pictures < 2:
        raise AISError("Heatmaps are compared over pictures: give --pictures at least 2.")
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
        comparison = _comparison(rated, loaded, method, hide, steps, device, bars) if heatmaps else None
        held = score_held_out(rated, loaded, device=device, progress=bars)
        report = evaluate_head(held, loaded)
        if comparison:
            told = _with_estimate(bars, comparison)
            report["heatmaps"] = judge_heatmaps(
                held, loaded, comparison, pictures=pictures, device=device, progress=told
            )
    if out is not None:
        report["files"] = [str(file) for file in write_atomically(out, _files(held, loaded, report))]
    if as_json:
        print_json(report)
    else:
        _print_report(report)


def _comparison(
    rated: RatedSet,
    head: RatingHead,
    method: list[str] | None,
    hide: list[str] | None,
    steps: int | None,
    device: str,
    bars: ProgressBars,
) -> Comparison:
    """What --heatmaps measures, refused or said before anything takes long."""
    from ais.attribution.faithfulness.deletion import STEPS
    from ais.attribution.faithfulness.hiding import HIDINGS
    from ais.attribution.faithfulness.measure import Comparison
    from ais.workflows.heatmaps import choose_heatmaps

    for way in hide or ():
        check_choice("way of hiding", way, HIDINGS)
    methods, left_out = choose_heatmaps(rated, head, method, device=device)
    for line in left_out:
        bars.echo(line, err=True)
    return Comparison(methods, tuple(dict.fromkeys(hide or ["blur"])), steps or STEPS)


def _with_estimate(bars: ProgressBars, comparison: Comparison) -> StageProgress:
    """The bars; and how long the heatmaps will take, as soon as that can be told by the first few."""
    start = 0.0

    def told(stage: str, done: int, total: int) -> None:
        nonlocal start
        bars(stage, done, total)
        if stage == "heatmaps" and done == 1:  # the first is slow: all is loaded
            start = time.monotonic()
        if stage == "heatmaps" and done == _TIMED and total > _TIMED:
            left = (time.monotonic() - start) / (_TIMED - 1) * (total - done)
            many = len(comparison.methods)
            what = "1 heatmap" if many == 1 else f"{many} heatmaps"
            bars.echo(f"Measuring {what} of {total} pictures will take about {duration(left)}.", err=True)

    return told


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
        _print_heatmaps(report["heatmaps"], report["how"])
    for file in report.get("files", []):
        typer.echo(f"  {file}")


def _print_heatmaps(report: dict[str, Any], how: str) -> None:
    from ais.attribution.faithfulness.summary import CHANGES, MEASURES

    by = "the head of its fold, which has not seen it" if how == "cross-validation" else "the head"
    groups = "" if report["groups"] == report["pictures"] else f" in {report['groups']} groups"
    typer.echo(f"Heatmaps of {report['pictures']} pictures{groups}, each explained by {by}; 95 % intervals")
    typer.echo(
        "By how many points the score changes while the highest places are hidden (deletion), or alone shown "
        "(insertion); higher is better:"
    )
    header = ("heatmap", *(f"{change}, {way}" for way in report["hide"] for change in CHANGES))
    print_table(header, [(name, *_changes(report, one)) for name, one in report["methods"].items()])
    print_table(
        ("difference", *header[1:]),
        [(f"{one['of']} less {one['less']}", *_changes(report, one)) for one in report["differences"]],
    )
    typer.echo(
        "One-sided: share of pictures with nearly all of the map on one side of zero. Stable: correlation with the map "
        "of the picture saved as a JPEG, moved by 2 pixels, resized. Agreed: share of cells whose sign 80 % of the "
        "head's variants agree on. Blind: likeness to the map of a randomised head, which follows the head if that is "
        "about as low as by chance, the likeness of two of those. Passes: of the network, by their pixels."
    )
    rows = []
    for name, one in report["methods"].items():
        if one["passes"] is not None:
            passes = f"{one['passes']:,.0f}" + (f" + {one['backward']:,.0f} back" if one["backward"] else "")
            measured = [_cell(one, key, ".2f") for key in MEASURES]
            rows.append((name, *measured, passes, f"{one['seconds']:.2f} s"))
    print_table(("heatmap", "one-sided", "agreed", "stable", "blind", "chance", "passes", "time"), rows)
    few = {one["checked"] for one in report["methods"].values() if 0 < one["checked"] < report["pictures"]}
    for checked in few:
        typer.echo(f"Stable, blind and chance of slow methods are of {checked} of the pictures.")


def _changes(report: dict[str, Any], one: dict[str, Any]) -> list[str]:
    from ais.attribution.faithfulness.summary import CHANGES

    return [_cell(one[way], change, "+.3f") for way in report["hide"] for change in CHANGES]


def _cell(values: dict[str, Any], key: str, form: str) -> str:
    if values[key] is None:
        return "-"
    value, low, high = (format(values[name], form) for name in (key, f"{key}_low", f"{key}_high"))
    return f"{value} ({low} to {high})"
