"""The `ais` command: results on stdout, everything else on stderr."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from tqdm import tqdm

from ais.backbones import BACKBONES, load_backbone
from ais.datasets import columns, read_ratings
from ais.errors import AISError, ImageError
from ais.explain import Kind, Score, explain, pick_device, score
from ais.files import write_atomically
from ais.heads import EMBEDDED, RegressionHead, Target, list_heads, load_head, read_config
from ais.heatmaps import METHODS, MethodName, Scale
from ais.hub import model_card
from ais.training import train_head
from ais.version import __version__
from ais.views import ViewName

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})

app = typer.Typer(
    name="ais",
    help="The score people would give a picture, and where in the picture it comes from.",
    epilog="Results go to stdout, all else to stderr. Exit status 2 means a wrong call or bad input.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Device = Literal["auto", "cpu", "cuda"]

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
OnDevice = Annotated[
    Device, typer.Option("--device", help="Where to compute; auto takes a GPU if there is one.")
]
HeadName = Annotated[str, typer.Option("--head", help="A head by name (see `ais heads`), or its folder.")]


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


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


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
        _print_json({"head": loaded.config.name, "target": target, "level": level, "pictures": rows})
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
            "match this picture's --rating (residual, dual), or how it did so over a validation set (alignment)."
        ),
    ] = "prediction",
    scale: Annotated[
        Scale,
        typer.Option(help="Of heatmap.npy and overlay.png: a share of the largest, or points of the score."),
    ] = "relative",
    rating: Annotated[
        float | None, typer.Option(help="What people said of this picture, on the head's scale.")
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
        device=device,
    )
    files = [str(file) for file in explanation.save(out)]
    if as_json:
        _print_json({"path": str(path), **explanation.to_dict(), "files": files})
        return
    values = Score(explanation.score, *explanation.interval, explanation.percentile)
    typer.echo(_in_words(loaded, values._asdict()))
    low, high = float(explanation.grid.min()), float(explanation.grid.max())
    typer.echo(
        f"{METHODS[method].label} heatmap of the {kind} by {explanation.head}: cells from {low:+.3g} to {high:+.3g} "
        f"{explanation.unit}"
    )
    for file in files:
        typer.echo(f"  {file}")


@app.command("heads")
def heads_command(as_json: AsJson = False) -> None:
    """The heads that come with AIS, what they predict and how well."""
    configs = [load_head(name).config for name in list_heads()]
    if as_json:
        _print_json([asdict(config) for config in configs])
        return
    rows = [
        (
            c.name,
            f"{c.target.name}, {c.target.low:g} to {c.target.high:g}",
            c.backbone,
            c.view,
            _quality(c.metrics),
        )
        for c in configs
    ]
    _print_table(("head", "predicts", "backbone", "view", "measured on held-out pictures"), rows)


@app.command("backbones")
def backbones_command(as_json: AsJson = False) -> None:
    """The backbones, and which weights this machine has."""
    entries = [
        {
            "name": name,
            "layer": spec.layer,
            "layers": list(spec.channelwise),
            "maps": len(spec.channelwise[spec.layer]),
            "size": spec.size,
            "source": spec.source,
            "file": str(spec.weights_file),
            "available": spec.weights_file.is_file(),
            "note": spec.note,
        }
        for name, spec in BACKBONES.items()
    ]
    if as_json:
        _print_json(entries)
        return
    rows = [
        (
            e["name"],
            e["layer"],
            f"{e['maps']} at {e['size']} px",
            "yes" if e["available"] else "no",
            e["note"],
        )
        for e in entries
    ]
    _print_table(("backbone", "target layer", "maps", "here", "note"), rows)
    if not all(e["available"] for e in entries):
        typer.echo("\nWeights that are not here are fetched at first use. To place one by hand:", err=True)
        for e in entries:
            if not e["available"]:
                typer.echo(f"  {e['source']}\n    -> {e['file']}", err=True)


@app.command("train")
def train_command(
    data: Annotated[
        Path, typer.Argument(help="A folder with pictures and a metadata.csv that names them (file_name).")
    ],
    target: Annotated[str, typer.Option(help="The column of the ratings, such as beauty_mean.")],
    out: Annotated[
        Path, typer.Option(help="The head's folder, made or written over; its name is the head's.")
    ],
    backbone: Annotated[
        str, typer.Option(help="A backbone by name (see `ais backbones`).")
    ] = "efficientnet_lite0",
    view: Annotated[
        ViewName, typer.Option(help="What the network sees: a square in the middle, or the whole picture.")
    ] = "whole",
    group: Annotated[
        str | None,
        typer.Option(
            help="A column; pictures that share its value are never split between training and testing."
        ),
    ] = None,
    low: Annotated[
        float | None,
        typer.Option(help="Low end of the rating scale [default: the lowest rating, rounded down]."),
    ] = None,
    high: Annotated[
        float | None, typer.Option(help="High end [default: the highest rating, rounded up].")
    ] = None,
    dataset: Annotated[str, typer.Option(help="The name of the rated pictures, for the model card.")] = "",
    about: Annotated[
        str, typer.Option(help="Whose ratings of which pictures these are, for the model card.")
    ] = "",
    variants: Annotated[
        int,
        typer.Option(
            min=1, max=100, help="How many MLPs to fit on different splits; their mean is the score."
        ),
    ] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same head, on the same machine.")] = 0,
    device: OnDevice = "auto",
    as_json: AsJson = False,
) -> None:
    """Train a head on a folder of rated pictures, test it by cross-validation, and write it with its model card.

    The backbone looks at every picture once, and what it saw is kept in ~/.cache/ais (or $AIS_CACHE). The
    folder's `theme` column, if it has one and --group is not given, says which pictures belong together.
    """
    if group is None and "theme" in columns(data):
        group = "theme"
    rated = read_ratings(data, target, group=group)
    scale = Target(
        name=target.removesuffix("_mean"),
        low=float(math.floor(rated.ratings.min())) if low is None else low,
        high=float(math.ceil(rated.ratings.max())) if high is None else high,
        dataset=dataset,
    )
    if low is None or high is None:
        typer.echo(
            f"The rating scale is taken to be {scale.low:g} to {scale.high:g}, by the ratings. If people were given "
            "another, say so with --low and --high.",
            err=True,
        )
    frozen = load_backbone(backbone, device=pick_device(device), progress=True)
    with _Bars() as bars:
        head, _ = train_head(
            rated,
            frozen,
            view,
            name=out.resolve().name,
            target=scale,
            variants=variants,
            seed=seed,
            progress=bars,
        )
    recipe = {"command": _command_of(data, out), **head.config.recipe, "group": group}
    head.config = replace(head.config, about=about, recipe=recipe)
    files = head.save(out, model_card(head.config))
    if as_json:
        _print_json({**asdict(read_config(out)), "files": [str(file) for file in files]})
        return
    typer.echo(f"{head.config.name}: {_quality(head.config.metrics)}")
    for file in files:
        typer.echo(f"  {file}")


class _Bars:
    """A progress bar on stderr for every stage that reports."""

    def __init__(self) -> None:
        self._bars: dict[str, tqdm[Any]] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage not in self._bars:
            self._bars[stage] = tqdm(desc=stage, total=total, file=sys.stderr, leave=False, disable=None)
        bar = self._bars[stage]
        bar.update(done - bar.n)

    def __enter__(self) -> _Bars:
        return self

    def __exit__(self, *error: object) -> None:
        for bar in self._bars.values():
            bar.close()


def _command_of(data: Path, out: Path) -> str:
    """The command line as it was given, fit for a public card: the two folders by their names alone, and
    without what changes no weight."""
    given = {str(data): data.resolve().name, str(out): out.resolve().name}
    words = [
        given.get(word, word) for word in sys.argv[1:] if word != "--json" and not word.startswith("--about=")
    ]
    if "--about" in words:
        at = words.index("--about")
        del words[at : at + 2]
    return shlex.join(["ais", *words])


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


def _in_words(head: RegressionHead, row: dict[str, Any]) -> str:
    target, level = head.config.target, head.config.interval.level
    return (
        f"{target.name} {row['score']:.2f} on a scale of {target.low:g} to {target.high:g} "
        f"({level:.0%} interval {row['low']:.2f} to {row['high']:.2f}), "
        f"higher than {row['percentile']:.0f} % of the rated pictures"
    )


def _quality(metrics: dict[str, Any]) -> str:
    if "plcc" not in metrics:
        return "not measured"
    low, high = metrics["plcc_low"], metrics["plcc_high"]
    return f"PLCC {metrics['plcc']:.3f} ({low:.3f} to {high:.3f}), RMSE {metrics['rmse']:.2f}"


def _print_json(document: Any) -> None:
    typer.echo(json.dumps(document, indent=2, ensure_ascii=True, allow_nan=False))


def _print_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _printable(text: str) -> str:
    """A file's name without what a terminal would obey."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
