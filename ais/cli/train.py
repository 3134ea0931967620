"""`ais train`: from a folder of rated pictures to a head."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from ais.cli._options import (
    SD,
    AsJson,
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
    group_column,
    inputs_of,
    read_set,
    warn_ungrouped,
)
from ais.cli._output import ProgressBars, command_of
from ais.cli._training import About, BackboneName, Dataset, Out, Size, Strategy, View, save_head
from ais.errors import AISError

if TYPE_CHECKING:
    from ais.training.strategies import FineTuneConfig


@app.command("train")
def train_command(
    data: Data,
    target: Target,
    out: Out,
    backbone: BackboneName = "efficientnet_lite0",
    view: View = "resize",
    size: Size = None,
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
            min=1, help="At most, by the strategies that train the backbone [default: the strategies' own]."
        ),
    ] = None,
    last_k: Annotated[
        int | None,
        typer.Option(
            "--last-k", min=1, help="Blocks that learn in the strategy last-k [default: the strategy's own]."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same head, on the same machine.")] = 0,
    device: OnDevice = "auto",
    as_json: AsJson = False,
) -> None:
    """Train a head on a folder of rated pictures, test it by cross-validation, and write it with its model card.

    The backbone runs once on every picture, and its output is kept in ~/.cache/ais (or $AIS_CACHE), and so is each
    fold: started again, an interrupted training goes on where it was.
    """
    from safetensors.torch import save

    from ais.backbones.loading import load_backbone, pick_device, random_backbone
    from ais.data.columns import RatingColumns
    from ais.heads.config import BACKBONE
    from ais.heads.config import Target as HeadTarget
    from ais.plots import training
    from ais.publish.card import CURVE
    from ais.training.plan import Plan
    from ais.training.strategies import STRATEGIES
    from ais.workflows.train import train_head

    asked = group
    group = group_column(data, group, table=table)
    columns = RatingColumns(target, sd=sd, n=n, group=group, split=split, image=image)
    rated = read_set(data, columns, table=table, skip_bad=skip_bad)
    if group is None and asked is None:
        warn_ungrouped(data, table)
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
    with ProgressBars() as bars:
        # What is trained from scratch needs no pretrained weights.
        frozen = (
            load_backbone(backbone, view=view, size=size, device=pick_device(device), progress=True)
            if STRATEGIES[strategy].pretrained
            else random_backbone(backbone, seed, view=view, size=size, device=pick_device(device))
        )
        head, report = train_head(
            rated,
            frozen,
            name=out.resolve().name,
            target=scale,
            plan=plan,
            progress=bars,
        )
    extra = {CURVE: training.learning_curve(report.curves, report.epochs)}
    if report.tuned is not None:
        extra[BACKBONE] = save(report.tuned)
    recipe = {"command": command_of(data, out, table), **head.config.recipe, "group": group, "curve": CURVE}
    head.config = replace(head.config, about=about, recipe=recipe)
    save_head(head, out, extra, as_json)


def _tuning(strategy: str, **given: float | int | None) -> FineTuneConfig:
    """The settings of the tuning; those that this strategy does not use are refused."""
    from ais.training.strategies import STRATEGIES, FineTuneConfig

    chosen = {name: value for name, value in given.items() if value is not None}
    unused = [name for name in chosen if not STRATEGIES[strategy].uses(name)]
    if unused:
        raise AISError(
            f"--{unused[0].replace('_', '-')} changes nothing with --strategy {strategy}: leave it out, or choose a "
            "strategy that it is for."
        )
    return replace(FineTuneConfig(), **chosen)  # type: ignore[arg-type]
