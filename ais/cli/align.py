"""`ais align`: which feature maps of a network carry people's comparisons of pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ais.cli._choices import Choice
from ais.cli._options import AsJson, ImageColumn, OnDevice, TableFile, app
from ais.cli._output import ProgressBars, print_json, print_table
from ais.cli._training import View
from ais.errors import AISError

if TYPE_CHECKING:
    from ais.backbones.frozen import FrozenBackbone
    from ais.plots.rsa import HeatmapRow
    from ais.workflows.align import RSAReport, StimulusHeatmap, StimulusSet

FIGURES = ("rdms.png", "importance.png", "saliency.png", "pruning.png", "report.json")

_RESAMPLES = 10_000

SHOWN = 4  # pictures of the sheet on which heatmap and saliency differ most


def _metrics() -> Mapping[Any, Any]:
    from ais.rsa.rdm import METRICS

    return dict.fromkeys(METRICS)


@app.command("align")
def align_command(
    data: Annotated[
        Path, typer.Argument(help="A folder of pictures; a metadata.csv in it gives their order (file_name).")
    ],
    rdm: Annotated[
        Path,
        typer.Option(
            "--rdm",
            help="People's dissimilarities: an .npy, .mat, .csv, .tsv, .txt or .xlsx file with a matrix, its upper "
            "triangle, or one a person; or a folder of such files. Names in it are matched with the pictures'.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            help="Folder for report, figures and scores of the maps, in a folder named after each backbone.",
        ),
    ],
    table: TableFile = None,
    image: ImageColumn = None,
    backbone: Annotated[
        list[str] | None, typer.Option("--backbone", help="A backbone; may be given several times.")
    ] = None,
    view: View = "resize",
    metric: Annotated[str, Choice("--metric", _metrics, "How far two embeddings are apart.")] = "correlation",
    average: Annotated[
        bool, typer.Option("--average", help="Compare with the mean of the people's matrices, not with each.")
    ] = False,
    splits: Annotated[
        int, typer.Option(min=0, help="Random splits of the pictures to test map selection on; 0 for none.")
    ] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Of the splits and random maps.")] = 0,
    device: OnDevice = "auto",
    as_json: AsJson = False,
) -> None:
    """Which feature maps match people's comparisons of pictures, and which regions of a picture matter.

    The Alignment Importance Score as published (Truong, Pesenti & Hasson, arXiv 2409.16292), with a noise ceiling;
    whether keeping only the best maps helps on pictures that had no part in the choice; and AIS heatmaps beside a
    saliency baseline.
    """
    from ais.attribution.map_importance import FILE
    from ais.backbones.loading import load_backbone, pick_device
    from ais.data.ratings import METADATA
    from ais.io.files import check_outputs
    from ais.workflows.align import align, read_stimulus_set

    if splits == 1:
        raise AISError("One split says nothing about chance: ask for at least two, or for none.")
    stimuli = read_stimulus_set(data, rdm, average=average, table=table, image=image)
    names = list(dict.fromkeys(backbone or ["efficientnet_lite0"]))
    folders = {name: name.replace(":", "-").replace("/", "-") for name in names}
    tables = [data / METADATA] if table is None else [data / table, table]  # both places are looked at
    matrices = list(rdm.iterdir()) if rdm.is_dir() else [rdm]
    check_outputs(
        out,
        [f"{folder}/{file}" for folder in folders.values() for file in (FILE, *FIGURES)],
        [*stimuli.files, *tables, *matrices],
    )
    documents = []
    with ProgressBars() as bars:
        for name in names:
            loaded = load_backbone(name, view=view, device=pick_device(device))
            report = align(stimuli, loaded, metric=metric, splits=splits, seed=seed, progress=bars)  # type: ignore[arg-type]
            documents.append(_write(report, stimuli, loaded, out / folders[name], bars))
    if as_json:
        print_json(documents)
        return
    _print_report(documents)


def _write(
    report: RSAReport, stimuli: StimulusSet, backbone: FrozenBackbone, folder: Path, bars: ProgressBars
) -> dict[str, Any]:
    import numpy as np

    from ais.attribution.map_importance import FILE
    from ais.io.files import write_atomically
    from ais.metrics.bootstrap import mean_ci
    from ais.plots import rsa
    from ais.workflows.align import stimulus_heatmap

    heatmaps = []
    for n, (file, importance) in enumerate(zip(stimuli.files, report.image_importance, strict=True), start=1):
        heatmaps.append(stimulus_heatmap(file, backbone, importance))
        bars("heatmaps", n, len(stimuli.files))
    likeness = [one.saliency_correlation for one in heatmaps]
    names = [file.name for file in stimuli.files]
    least = np.argsort(likeness, kind="stable")[:SHOWN].tolist()
    many = report.n_averaged or report.people
    people = "people" if many == 1 else f"{many} people, mean"
    files = {
        FILE: report.scores.to_bytes(),
        "rdms.png": rsa.rdm_pair(report.model_rdm, report.human_rdm, (report.backbone, people)),
        "importance.png": rsa.importances(report.importance),
        "saliency.png": rsa.heatmap_sheet(
            [_row(heatmaps[n], f"{names[n]}, correlation {likeness[n]:+.2f}") for n in least]
        ),
    }
    chosen = report.selection
    if chosen:
        files["pruning.png"] = rsa.selection_curve(
            chosen.sizes,
            chosen.curve,
            chosen.random_curve,
            float(chosen.rdm_correlation_all.mean()),
            report.ceiling,
        )
    low, high = mean_ci(likeness, resamples=_RESAMPLES)
    saliency = {
        "mean": float(np.mean(likeness)),
        "low": low,
        "high": high,
        "pictures": {name: round(value, 4) for name, value in zip(names, likeness, strict=True)},
    }
    document = report.to_dict() | {"saliency": saliency}
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    again = (folder / FILE).is_file()
    written = write_atomically(folder, files | {"report.json": text.encode()})
    if again and not chosen:
        (folder / "pruning.png").unlink(missing_ok=True)  # of a run before, which would contradict this one
    return document | {"files": [str(file) for file in written]}


def _row(one: StimulusHeatmap, caption: str) -> HeatmapRow:
    import numpy as np

    from ais.plots.rsa import HeatmapRow

    heatmap, saliency = (
        one.placement.upsample(values.astype(np.float32)) for values in (one.grid, one.saliency)
    )
    return HeatmapRow(caption, one.image, heatmap, saliency)


def _print_report(documents: list[dict[str, Any]]) -> None:
    first = documents[0]
    people = "one matrix" if first["people"] == 1 else f"{first['people']} people"
    if first["averaged"]:
        people = f"{first['averaged']} people, whose matrices were averaged"
    typer.echo(f"{first['pictures']} pictures compared by {people}, {first['metric']} distance")
    if first["ceiling"]:
        low, high = first["ceiling"]
        typer.echo(
            f"  noise ceiling, the highest correlation that a model can be expected to reach: {low:.3f} to {high:.3f}"
        )
    else:
        typer.echo("  no noise ceiling: that takes the matrices of several people, not averaged")
    typer.echo("")
    rows = [
        (
            d["backbone"],
            f"{d['rdm_correlation']:.3f}",
            f"{d['rdm_correlation_with_mean']:.3f}",
            f"{d['maps_that_help']:.0%} of {d['maps']:,}",
            "{mean:+.2f} ({low:+.2f} to {high:+.2f})".format(**d["saliency"]),
        )
        for d in documents
    ]
    print_table(
        ("backbone", "RDM correlation", "with the mean", "maps that help", "heatmap-saliency correlation"),
        rows,
    )
    if first["gain"]:
        gain = first["gain"]
        typer.echo(
            f"\nKeeping the best maps by AIS, on {gain['held_out']} held-out pictures "
            f"({len(gain['kept'])} splits):\n"
        )
        print_table(
            ("backbone", "kept", "all maps", "kept maps", "gain (95 %)", "over random"), _gains(documents)
        )
        typer.echo("")
        for d in documents:
            typer.echo(f"  {d['backbone']}: {_verdict(d['gain'])}")
    typer.echo("")
    for d in documents:
        for file in d["files"]:
            typer.echo(f"  {file}")


def _gains(documents: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    import numpy as np

    rows: list[tuple[str, ...]] = []
    for d in documents:
        gain = d["gain"]
        rows.append(
            (
                d["backbone"],
                f"{np.median(gain['kept']):.0f}",
                f"{np.mean(gain['rdm_correlation_all']):.3f}",
                f"{np.mean(gain['rdm_correlation_kept']):.3f}",
                "{mean:+.3f} ({low:+.3f} to {high:+.3f})".format(**gain["gain"]),
                "{mean:+.3f} ({low:+.3f} to {high:+.3f})".format(**gain["over_random"]),
            )
        )
    return rows


def _verdict(gain: dict[str, Any]) -> str:
    low, high, share = gain["gain"]["low"], gain["gain"]["high"], gain["gain"]["share"]
    said = (
        "a gain beyond chance" if low > 0 else "a loss beyond chance" if high < 0 else "no gain beyond chance"
    )
    return (
        f"{said} over all maps, better in {share:.0%} of the splits; against as many random maps p = "
        f"{gain['p_value']:.3f}"
    )
