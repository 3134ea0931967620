"""`ais combine`: several heads as one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

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
    app,
    check_head_folder,
    group_column,
    head_from_home,
    inputs_of,
    read_set,
)
from ais.cli._output import ProgressBars, command_of
from ais.cli._training import Out, save_head
from ais.errors import AISError


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
    from ais.data.columns import RatingColumns
    from ais.heads.loading import load_head, rating_head
    from ais.heads.shipped import heads_directory
    from ais.workflows.combine import combine_heads

    loaded = [rating_head(load_head(head)) for head in heads]
    if any(head.config.parts for head in loaded):
        raise AISError("A stack cannot be a member: combine heads on single backbones.")
    members = [head.members[0] for head in loaded]
    members = [head.members[0] for head in loaded]
    column = target or members[0].config.recipe.get("target")
    if not column:
        raise AISError("The first head does not say which column it was trained on: name it with --target.")
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
    columns = RatingColumns(column, sd=sd, n=n, group=group, split=split, image=image)
    rated = read_set(data, columns, table=table, skip_bad=skip_bad)
    check_head_folder(out, inputs_of(rated))
    rated = rated.part(test=False)
    with ProgressBars() as bars:
        stack = combine_heads(rated, members, name=out.resolve().name, device=device, progress=bars)
    given = [Path(head) for head in heads if Path(head).is_dir()]  # the others are names, or ids on the Hub
    recipe = {"command": command_of(data, out, table, *given), **stack.config.recipe, "group": group}
    stack.config = replace(stack.config, recipe=recipe)
    save_head(stack, out, {}, as_json)
