"""`ais train`, `find-rate`, `advise` and `combine`: making heads."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer
from safetensors.torch import save

from ais.backbones.loading import load_backbone, pick_device
from ais.cli.common import (
    SD,
    AsJson,
    Bars,
    Data,
    Group,
    ImageColumn,
    N,
    OnDevice,
    SkipBad,
    Split,
    TableFile,
    Target,
    app,
    check_head_folder,
    command_of,
    group_column,
    head_from_home,
    inputs_of,
    print_json,
    quality,
    read_set,
    say_ungrouped,
)
from ais.errors import AISError
from ais.heads.base import Head
from ais.heads.config import BACKBONE
from ais.heads.config import Target as HeadTarget
from ais.heads.format import read_config
from ais.heads.loading import heads_directory, load_head
from ais.heads.regression import RegressionHead
from ais.images.preprocessing import ViewName
from ais.io.files import check_outputs, write_atomically
from ais.metrics.regression import ceiling
from ais.plots import training
from ais.publish.card import CURVE, model_card
from ais.training.cross_validation import look, rate_curve
from ais.training.plan import Plan
from ais.training.strategies import STRATEGIES, Tuning, untrained
from ais.workflows.advise import advise
from ais.workflows.combine import combine_heads
from ais.workflows.train import train_head

BackboneName = Annotated[
    str,
    typer.Option(
        "--backbone", help="A backbone by name (see `ais backbones`), or timm:NAME for one of timm's."
    ),
]
View = Annotated[
    ViewName,
    typer.Option("--view", help="What the network sees: a square in the middle, or the whole picture."),
]
StrategyName = Literal["head", "head-then-all", "layerwise", "last-k", "scratch"]  # the keys of STRATEGIES
Strategy = Annotated[
    StrategyName,
    typer.Option(
        "--strategy", help="What learns: " + " ".join(f"{k}: {s.about}" for k, s in STRATEGIES.items())
    ),
]
Dataset = Annotated[
    str, typer.Option("--dataset", help="The name of the rated pictures, for the model card.")
]
About = Annotated[
    str, typer.Option("--about", help="Whose ratings of which pictures these are, for the model card.")
]
Out = Annotated[
    Path, typer.Option("--out", help="The head's folder, made or written over; its name is the head's.")
]
_TUNING = Tuning()


@app.command("train")
def train_command(
    data: Data,
    target: Target,
    out: Out,
    backbone: BackboneName = "efficientnet_lite0",
    view: View = "whole",
    strategy: Strategy = "head",
    table: TableFile = None,
    image: ImageColumn = None,
    group: Group = None,
    split: Split = None,
    sd: SD = None,
    n: N = None,
    weighted: Annotated[
        bool,
        typer.Option("--weighted", help="Count a picture the more, the surer its rating is (by SD and N)."),
    ] = False,
    skip_bad: SkipBad = False,
    low: Annotated[
        float | None,
        typer.Option(help="Low end of the rating scale [default: the lowest rating, rounded down]."),
    ] = None,
    high: Annotated[
        float | None, typer.Option(help="High end [default: the highest rating, rounded up].")
    ] = None,
    dataset: Dataset = "",
    about: About = "",
    variants: Annotated[
        int,
        typer.Option(
            min=1, max=100, help="How many MLPs to fit on different splits; their mean is the score."
        ),
    ] = 10,
    folds: Annotated[int, typer.Option(min=2, max=100, help="Of the cross-validation.")] = 10,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Of the backbone's last block, by the strategies that train it (see `ais find-rate`) [default: the "
            "strategy's own].",
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1, help=f"At most, by the strategies that train the backbone [default: {_TUNING.epochs}]."
        ),
    ] = None,
    last_k: Annotated[
        int | None,
        typer.Option(
            "--last-k", min=1, help=f"Blocks that learn in the strategy last-k [default: {_TUNING.last_k}]."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same head, on the same machine.")] = 0,
    device: OnDevice = "auto",
    as_json: AsJson = False,
) -> None:
    """Train a head on a folder of rated pictures, test it by cross-validation, and write it with its model card.

    The backbone looks at every picture once, and what it saw is kept in ~/.cache/ais (or $AIS_CACHE), fold by fold,
    too: started again, an interrupted training goes on where it was.
    """
    asked = group
    group = group_column(data, group, table=table)
    rated = read_set(
        data, target, group, sd=sd, n=n, split=split, skip_bad=skip_bad, table=table, image=image
    )
    if group is None and asked is None:
        say_ungrouped(data, table)
    scale = HeadTarget(
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
    plan = Plan(
        variants=variants,
        seed=seed,
        folds=folds,
        weighted=weighted,
        strategy=strategy,
        tuning=_tuning(strategy, learning_rate=learning_rate, epochs=epochs, last_k=last_k),
    )
    check_head_folder(out, inputs_of(rated))
    with Bars() as bars:
        # What is trained from scratch needs no pretrained weights.
        frozen = (
            load_backbone(backbone, device=pick_device(device), progress=True)
            if STRATEGIES[strategy].pretrained
            else untrained(backbone, seed, device=pick_device(device))
        )
        head, report = train_head(
            rated, frozen, view, name=out.resolve().name, target=scale, plan=plan, progress=bars
        )
    extra = {CURVE: training.learning_curve(report.curves, report.epochs)}
    if report.tuned is not None:
        extra[BACKBONE] = save(report.tuned)
    recipe = {"command": command_of(data, out, table), **head.config.recipe, "group": group, "curve": CURVE}
    head.config = replace(head.config, about=about, recipe=recipe)
    _write(head, out, extra, as_json)


@app.command("find-rate")
def find_rate_command(
    data: Data,
    target: Target,
    out: Annotated[Path, typer.Option("--out", help="The picture to write, such as rate.png.")],
    backbone: BackboneName = "efficientnet_lite0",
    view: View = "whole",
    strategy: Strategy = "head-then-all",
    table: TableFile = None,
    image: ImageColumn = None,
    group: Group = None,
    split: Split = None,
    skip_bad: SkipBad = False,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same rate, on the same machine.")] = 0,
    device: OnDevice = "auto",
    as_json: AsJson = False,
) -> None:
    """Try rising learning rates on the backbone, and suggest one for `ais train --strategy … --learning-rate`."""
    if STRATEGIES[strategy].trains == "nothing":
        raise AISError("The strategy head does not train the backbone: there is no rate to find.")
    group = group_column(data, group, table=table)
    rated = read_set(data, target, group, split=split, skip_bad=skip_bad, table=table, image=image)
    check_outputs(out.parent, [out.name], inputs_of(rated))
    if out.suffix.lower() != ".png":
        raise AISError(f"{out}: the figure is a PNG picture. Give --out a name that ends in .png.")
    rated = rated.part(test=False)
    where = pick_device(device)
    with Bars() as bars:
        frozen = (
            load_backbone(backbone, device=where, progress=True)
            if STRATEGIES[strategy].pretrained
            else untrained(backbone, seed, device=where)
        )
        curve = rate_curve(
            look(rated, frozen, view, bars), frozen, view, Plan(seed=seed, strategy=strategy), bars
        )
    write_atomically(out.parent, {out.name: training.rate_curve(curve)})
    if as_json:
        print_json(
            {
                "suggested": curve.suggested,
                "reason": curve.reason,
                "rates": curve.rates.tolist(),
                "losses": _finite(curve.losses),
                "trials": [_finite(losses) for losses in curve.curves],
                "file": str(out),
            }
        )
        return
    if curve.suggested is None:
        own = STRATEGIES[strategy].learning_rate
        typer.echo(f"No rate can be suggested: {curve.reason}. Without --learning-rate, {own:.1e} is used.")
    else:
        typer.echo(f"Suggested: --learning-rate {curve.suggested:.1e}")
    typer.echo(f"  {out}")


def _finite(losses: np.ndarray) -> list[float | None]:
    return [loss if math.isfinite(loss) else None for loss in losses.tolist()]


@app.command("advise")
def advise_command(
    data: Data,
    target: Target,
    backbone: BackboneName = "efficientnet_lite0",
    view: View = "whole",
    table: TableFile = None,
    image: ImageColumn = None,
    group: Group = None,
    split: Split = None,
    sd: SD = None,
    n: N = None,
    skip_bad: SkipBad = False,
    device: OnDevice = "auto",
    as_json: AsJson = False,
) -> None:
    """Which --strategy fits the set: by its size, and by how well the frozen backbone predicts its ratings."""
    group = group_column(data, group, table=table)
    rated = read_set(
        data, target, group, sd=sd, n=n, split=split, skip_bad=skip_bad, table=table, image=image
    )
    rated = rated.part(test=False)
    with Bars() as bars:
        frozen = load_backbone(backbone, device=pick_device(device), progress=True)
        pictures = look(rated, frozen, view, bars)
    highest = None if rated.sd is None or rated.n is None else ceiling(rated.ratings, rated.sd, rated.n)
    advice = advise(pictures.embedding, rated.ratings, rated.groups, highest)
    if as_json:
        print_json(asdict(advice))
        return
    typer.echo(f"--strategy {advice.strategy}")
    for reason in advice.reasons:
        typer.echo(f"  {reason}")


@app.command("combine")
def combine_command(
    data: Data,
    heads: Annotated[
        list[str],
        typer.Option(
            "--head",
            callback=head_from_home,
            help="A head by name or folder; give two or more, each with --head.",
        ),
    ],
    out: Out,
    target: Annotated[
        str | None,
        typer.Option("--target", help="The column of the ratings [default: that of the first head]."),
    ] = None,
    table: TableFile = None,
    image: ImageColumn = None,
    group: Group = None,
    split: Split = None,
    sd: SD = None,
    n: N = None,
    skip_bad: SkipBad = False,
    device: OnDevice = "auto",
    as_json: AsJson = False,
) -> None:
    """Combine heads on several backbones into one that weighs them by their held-out predictions.

    DATA holds the pictures that all of them were trained on, or pictures that none has seen. The stack names its
    members: keep their folders beside its own.
    """
    loaded = [load_head(head) for head in heads]
    members = [head for head in loaded if isinstance(head, RegressionHead)]
    if len(members) < len(loaded):
        raise AISError("A stack cannot be a member: combine heads on single backbones.")
    column = target or members[0].config.recipe.get("target")
    if not column:
        raise AISError("The first head does not say which column it learned: name it with --target.")
    beside = (out.resolve().parent, heads_directory().resolve())
    for member in members:
        if member.repository is not None:
            place = beside[0] / member.config.name
            raise AISError(
                f"A stack finds its members beside its own folder: `ais pull {member.repository} --out {place}` puts "
                "this one there."
            )
        if member.folder is None or member.folder.resolve().parent not in beside:
            raise AISError(
                f"A stack finds its members beside its own folder: choose an --out beside {member.folder}, or copy "
                f"that folder into {beside[0]}."
            )
    group = group_column(data, group, members[0], table)
    rated = read_set(
        data, column, group, sd=sd, n=n, split=split, skip_bad=skip_bad, table=table, image=image
    )
    check_head_folder(out, inputs_of(rated))
    rated = rated.part(test=False)
    with Bars() as bars:
        stack = combine_heads(rated, members, name=out.resolve().name, device=device, progress=bars)
    given = [Path(head) for head in heads if Path(head).is_dir()]  # the others are names, or ids on the Hub
    recipe = {"command": command_of(data, out, table, *given), **stack.config.recipe, "group": group}
    stack.config = replace(stack.config, recipe=recipe)
    _write(stack, out, {}, as_json)


def _write(head: Head, out: Path, extra: dict[str, bytes], as_json: bool) -> None:
    files = head.save(out, model_card(head.config), extra)
    if as_json:
        print_json({**asdict(read_config(out)), "files": [str(file) for file in files]})
        return
    typer.echo(f"{head.config.name}: {quality(head.config.metrics)}")
    for file in files:
        typer.echo(f"  {file}")


def _tuning(strategy: str, **given: float | int | None) -> Tuning:
    """The settings of the tuning; those that this strategy would not heed are refused."""
    chosen = {name: value for name, value in given.items() if value is not None}
    deaf = [name for name in chosen if strategy == "head" or (name == "last_k" and strategy != "last-k")]
    if deaf:
        raise AISError(
            f"--{deaf[0].replace('_', '-')} changes nothing with --strategy {strategy}: leave it out, or choose a "
            "strategy that it is for."
        )
    return replace(_TUNING, **chosen)  # type: ignore[arg-type]
