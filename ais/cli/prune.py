"""`ais prune`: is a head better without some of its feature maps?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ais.cli._choices import Choice
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
    check_head_folder,
    group_column,
    inputs_of,
    read_set,
    target_column,
)
from ais.cli._output import ProgressBars, command_of, print_json
from ais.errors import AISError
from ais.heads.config import EMBEDDED


def _criteria() -> Mapping[Any, Any]:
    from ais.training.criteria import CRITERIA

    return CRITERIA


@app.command("prune")
def prune_command(
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="The pruned head's folder; its name is the head's.")],
    head: HeadName = EMBEDDED,
    target: TrainedTarget = None,
    table: TableFile = None,
    image: ImageColumn = None,
    group: Group = None,
    split: Split = None,
    sd: SD = None,
    n: N = None,
    criterion: Annotated[
        str,
        Choice("--criterion", _criteria, "Which maps are pruned.", old="--how"),
    ] = "greedy",
    skip_bad: SkipBad = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the split into validation and test pictures.")] = 0,
    device: OnDevice = "auto",
    as_json: AsJson = False,
) -> None:
    """Prune the feature maps without which a head predicts people better, and say whether it really does.

    The maps are chosen on validation pictures; the gain is measured on test pictures that took no part in it. No gain
    is a fine answer. The pruned head keeps a mask; nothing else changes.
    """
    from ais.data.columns import RatingColumns
    from ais.heads.loading import load_head, rating_head
    from ais.publish.card import CARD_IMAGES, model_card
    from ais.workflows.prune import prune_head

    whole = rating_head(load_head(head))
    if whole.config.parts:
        raise AISError("A stack has no maps of its own: prune its members, and combine them again.")
    loaded = whole.members[0]
    if loaded.folder is not None and loaded.folder.resolve() == out.resolve():
        raise AISError(f"The pruned head would be written over the one in {out}: choose another --out.")
    columns = RatingColumns(
        target_column(loaded, target),
        sd=sd,
        n=n,
        group=group_column(data, group, loaded, table),
        split=split,
        image=image,
    )
    rated = read_set(data, columns, table=table, skip_bad=skip_bad)
    rated = rated.part(test=False)
    check_head_folder(out, inputs_of(rated))
    with ProgressBars() as bars:
        pruned, report = prune_head(
            rated,
            loaded,
            name=out.resolve().name,
            criterion=criterion,
            seed=seed,
            device=device,
            progress=bars,
        )
    given = [Path(head)] if Path(head).is_dir() else []  # else it is a name, or an id on the Hub
    recipe = {**pruned.config.recipe, "command": command_of(data, out, table, *given)}
    recipe = {key: value for key, value in recipe.items() if key not in CARD_IMAGES}  # of the head as it was
    pruned.config = replace(pruned.config, recipe=recipe)
    files = [str(file) for file in pruned.save(out, model_card(pruned.config))]
    if as_json:
        print_json({**asdict(report), "head": pruned.config.name, "files": files})
        return
    newly = f", {report.newly_pruned} of them newly" if report.newly_pruned < report.pruned else ""
    typer.echo(f"{report.pruned} of {report.maps} maps pruned{newly} ({report.criterion})")
    for name, values in (("validation", report.validation), ("test", report.test)):
        changes = [
            f"{k.upper()} {values['before'][k]:.3f} -> {values['after'][k]:.3f}" for k in ("plcc", "rmse")
        ]
        typer.echo(f"  {name}: {', '.join(changes)}")
    d = report.difference
    changes = [
        f"{k.upper()} {d[k]:+.3f} ({d[f'{k}_low']:+.3f} to {d[f'{k}_high']:+.3f})" for k in ("plcc", "rmse")
    ]
    typer.echo(f"  change on the test pictures, with its 95 % interval: {', '.join(changes)}")
    worse = d["rmse_low"] > 0 or d["plcc_high"] < 0
    more = "; it is worse, and that beyond chance" if worse else ""
    typer.echo(f"  {'A gain' if report.gain else 'No gain'} beyond chance{more}.")
    for file in files:
        typer.echo(f"  {file}")
