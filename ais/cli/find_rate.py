"""`ais find-rate`: a learning rate for the strategies that train the backbone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ais.cli._options import (
    AsJson,
    Data,
    Group,
    ImageColumn,
    OnDevice,
    SkipBad,
    Split,
    TableFile,
    Target,
    app,
    group_column,
    inputs_of,
    read_set,
    warn_ungrouped,
)
from ais.cli._output import ProgressBars, print_json
from ais.cli._training import BackboneName, Size, Strategy, View
from ais.errors import AISError

if TYPE_CHECKING:
    import numpy as np


@app.command("find-rate")
def find_rate_command(
    data: Data,
    target: Target,
    out: Annotated[Path, typer.Option("--out", help="The picture to write, such as rate.png.")],
    backbone: BackboneName = "efficientnet_lite0",
    view: View = "resize",
    size: Size = None,
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
    from ais.backbones.loading import load_backbone, pick_device, random_backbone
    from ais.data.columns import RatingColumns
    from ais.io.files import check_outputs, write_atomically
    from ais.plots import training
    from ais.training.plan import FitContext, Plan
    from ais.training.strategies import STRATEGIES
    from ais.workflows.find_rate import find_rate

    if not STRATEGIES[strategy].trains_backbone:
        raise AISError(f"The strategy {strategy} does not train the backbone: there is no rate to find.")
    asked = group
    group = group_column(data, group, table=table)
    if group is None and asked is None:
        warn_ungrouped(data, table)
    columns = RatingColumns(target, group=group, split=split, image=image)
    rated = read_set(data, columns, table=table, skip_bad=skip_bad)
    check_outputs(out.parent, [out.name], inputs_of(rated))
    if out.suffix.lower() != ".png":
        raise AISError(f"{out}: the figure is a PNG picture. Give --out a name that ends in .png.")
    rated = rated.part(test=False)
    where = pick_device(device)
    with ProgressBars() as bars:
        frozen = (
            load_backbone(backbone, view=view, size=size, device=where, progress=True)
            if STRATEGIES[strategy].pretrained
            else random_backbone(backbone, seed, view=view, size=size, device=where)
        )
        curve = find_rate(rated, FitContext(frozen, Plan(seed=seed, strategy=strategy), bars))
    figure = training.rate_curve(curve.rates, curve.curves, curve.losses, curve.suggested, curve.reason)
    write_atomically(out.parent, {out.name: figure})
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
