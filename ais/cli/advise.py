"""`ais advise`: which strategy fits a set."""

from __future__ import annotations

from dataclasses import asdict

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
    group_column,
    read_set,
    warn_ungrouped,
)
from ais.cli._output import ProgressBars, print_json
from ais.cli._training import BackboneName, Size, View


@app.command("advise")
def advise_command(
    data: Data,
    target: Target,
    backbone: BackboneName = "efficientnet_lite0",
    view: View = "resize",
    size: Size = None,
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
    from ais.backbones.loading import load_backbone, pick_device
    from ais.data.columns import RatingColumns
    from ais.metrics.regression import ceiling
    from ais.training.cross_validation import embed_ratings
    from ais.workflows.advise import advise

    asked = group
    group = group_column(data, group, table=table)
    if group is None and asked is None:
        warn_ungrouped(data, table)
    columns = RatingColumns(target, sd=sd, n=n, group=group, split=split, image=image)
    rated = read_set(data, columns, table=table, skip_bad=skip_bad)
    rated = rated.part(test=False)
    with ProgressBars() as bars:
        frozen = load_backbone(backbone, view=view, size=size, device=pick_device(device), progress=True)
        embedded = embed_ratings(rated, frozen, bars)
    highest = None if rated.sd is None or rated.n is None else ceiling(rated.ratings, rated.sd, rated.n)
    advice = advise(embedded.embedding, rated.ratings, rated.groups, highest)
    if as_json:
        print_json(asdict(advice))
        return
    typer.echo(f"--strategy {advice.strategy}")
    for reason in advice.reasons:
        typer.echo(f"  {reason}")
