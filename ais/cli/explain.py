"""`ais explain`: heatmaps of pictures."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ais.cli._choices import Choice
from ais.cli._inputs import InputImage, Paths, files_on_disk, input_images
from ais.cli._options import AsJson, HeadName, OnDevice, app, head_files
from ais.cli._output import ProgressBars, Stopped, print_json, print_rows, score_sentence
from ais.errors import NO_MEMORY, AISError, ImageError, UnwritableError, out_of_memory
from ais.heads.config import EMBEDDED

if TYPE_CHECKING:
    from ais.attribution.explanation import Explanation
    from ais.heads.base import Head


def _methods() -> Mapping[Any, Any]:
    from ais.attribution.methods import METHODS

    return METHODS


def _kinds() -> Mapping[Any, Any]:
    from ais.attribution.kinds import KINDS

    return KINDS


def _baselines() -> Mapping[Any, Any]:
    from ais.attribution.baselines import BASELINES

    return BASELINES


def _scales() -> Mapping[Any, Any]:
    from ais.attribution.grids import IMAGE_SCALES

    return dict.fromkeys(IMAGE_SCALES)


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
    method: Annotated[str, Choice("--method", _methods, "How to make the heatmap.")] = "ais",
    kind: Annotated[
        str,
        Choice("--kind", _kinds, "What counts as a feature map's importance."),
    ] = "prediction",
    baseline: Annotated[
        str | None,
        Choice(
            "--baseline",
            _baselines,
            "For methods that ablate feature maps: what an ablated map becomes [default: the method's own; zero for "
            "ais].",
        ),
    ] = None,
    scale: Annotated[
        str,
        Choice(
            "--scale",
            _scales,
            "Of heatmap.npy and overlay.png: a share of the largest (relative); points of the score, in each "
            "pixel what a whole cell there is worth (points); or points per pixel, which add up to the total "
            "(density).",
        ),
    ] = "relative",
    fine: Annotated[
        bool,
        typer.Option(
            "--fine",
            help="A finer heatmap, on the scale relative: the mean of those at one and at two times the network's "
            "input size. It takes five times as long.",
        ),
    ] = False,
    rating: Annotated[
        float | None, typer.Option(help="What people said of this picture, on the head's scale.")
    ] = None,
    alignment: Annotated[
        Path | None, typer.Option(help="For --kind alignment: the file that `ais align` wrote.")
    ] = None,
    device: OnDevice = "auto",
    as_json: AsJson = False,
) -> None:
    """A picture's score, and where in the picture it comes from: blue lowers it, red raises it.

    Of several pictures, one that cannot be read gets a sentence, the others go on, and the exit status is 2.
    """
    from ais.attribution.explain import explain
    from ais.attribution.methods import METHODS
    from ais.heads.loading import load_head, rating_head
    from ais.images.folders import printable
    from ais.io.files import check_outputs

    images, problems = input_images(paths)
    alone = len(paths) == 1 and images[0].folder is None
    if rating is not None and not alone:
        raise AISError("--rating is what people said of one picture: name that picture alone.")
    _check_used(kind, rating=rating, alignment=alignment)
    folders = [out] if alone else [out / name for name in folder_names(images)]
    rows: list[dict[str, Any]] = []
    with ExitStack() as opened:
        if as_json and not alone:
            opened.callback(print_rows, {}, rows)
        bars = opened.enter_context(ProgressBars("loading the head and its network"))
        loaded = rating_head(load_head(head))
        inputs = [*files_on_disk(images), *head_files(head), *filter(None, [alignment])]
        files = _explanation_files(loaded)
        check_outputs(out, [str(f.relative_to(out) / file) for f in folders for file in files], inputs)
        bars("pictures", 0, len(images))
        try:
            for named, folder in zip(images, folders, strict=True):
                try:
                    explanation = explain(
                        named.source,
                        loaded,
                        method,
                        kind=kind,
                        baseline=baseline,
                        scale=scale,  # type: ignore[arg-type]
                        fine=fine,
                        rating=rating,
                        alignment=alignment,
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
                bars("pictures", len(rows), len(images))
        except Stopped as stopped:
            stopped.kept = f"{len(rows)} of {len(images)} pictures are done, and in {out}."
            raise
    failed = sum("error" in row for row in rows)
    if failed:
        problems.append(f"{failed} of {len(rows)} pictures could not be explained.")
    if problems:
        raise AISError(" ".join(problems))


def _check_used(kind: str, **given: object) -> None:
    """That the kind needs what is given for it.

    Raises:
        AISError: it does not.
    """
    kinds = _kinds()
    for name, value in given.items():
        if value is not None and kinds[kind].needs != name:
            those = " or ".join(other for other, entry in kinds.items() if entry.needs == name)
            raise AISError(
                f"--{name} changes nothing with --kind {kind}: leave it out, or choose --kind {those}."
            )


def folder_names(images: Sequence[InputImage]) -> list[str]:
    """A folder's name for each picture: its own without the ending, longer where that is not enough to tell them
    apart, whatever the case of the letters."""

    from ais.backbones.embeddings import NamedBytes

    def key(name: str) -> str:
        return unicodedata.normalize("NFC", name).casefold()

    names, longer, longest = [], [], []
    for named in images:
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


def _explanation_files(head: Head) -> list[str]:
    """What `Explanation.save` writes into its folder."""
    from ais.attribution.explanation import FILES

    members = [f"{part.head}/" for part in head.config.parts]
    return [f"{folder}{file}" for folder in ("", *members) for file in FILES]


def _print_explanation(
    bars: ProgressBars, head: Head, explanation: Explanation, named: InputImage, files: list[str], alone: bool
) -> None:
    import numpy as np

    from ais.attribution.explanation import Score
    from ais.attribution.kinds import KINDS
    from ais.attribution.methods import METHODS
    from ais.images.folders import printable

    values = Score(explanation.score, *explanation.interval, explanation.percentile)
    words = score_sentence(head, values._asdict())
    bars.echo(words if alone else f"{printable(named.path)}: {words}")
    for line in filter(None, [explanation.sum_in_words, explanation.sum_of_places]):
        bars.echo(f"  {line}")
    if not alone:
        bars.echo(f"  {printable(str(Path(files[0]).parent))}")
        return
    density = explanation.scale == "density"
    shown = explanation.density if density else explanation.grid
    low, high = float(np.nanmin(shown)), float(np.nanmax(shown))
    kind = KINDS[explanation.kind].label.lower()
    bars.echo(
        f"{METHODS[explanation.method].label} heatmap of the {kind} by {explanation.head}: "
        f"{'pixels' if density else 'cells'} from "
        f"{low:+.3g} to {high:+.3g} {explanation.unit}"
    )
    for file in files:
        bars.echo(f"  {printable(file)}")
