"""What the commands that make heads share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ais.cli._choices import Choice
from ais.cli._output import print_json, quality

if TYPE_CHECKING:
    from ais.heads.base import Head


def _strategies() -> Mapping[Any, Any]:
    from ais.training.strategies import STRATEGIES

    return STRATEGIES


def _views() -> Mapping[Any, Any]:
    from ais.images.preprocessing import VIEWS

    return dict.fromkeys(VIEWS)


def _backbones() -> list[str]:
    from ais.backbones.registry import BACKBONES

    return list(BACKBONES)


BackboneName = Annotated[
    str,
    typer.Option(
        "--backbone",
        autocompletion=_backbones,
        help="A backbone by name (see `ais backbones`), or timm:NAME for one of timm's.",
    ),
]


View = Annotated[
    str,
    Choice(
        "--view",
        _views,
        "What the network sees: crop, the square in the middle of the picture; or resize, all of it.",
        aliases={"whole": "resize"},  # its old name
    ),
]

Size = Annotated[
    int | None,
    typer.Option(
        "--size",
        help="At how many pixels it sees the picture (its side, with resize its shorter one): a multiple of 32 from 64 "
        "to 640. Larger ones show more detail, make finer heatmaps and take longer [default: the backbone's own].",
    ),
]

Strategy = Annotated[str, Choice("--strategy", _strategies, "What learns.")]

Dataset = Annotated[
    str, typer.Option("--dataset", help="The name of the rated pictures, for the model card.")
]

About = Annotated[
    str, typer.Option("--about", help="Whose ratings of which pictures these are, for the model card.")
]

Out = Annotated[
    Path, typer.Option("--out", help="The head's folder, made or written over; its name is the head's.")
]


def save_head(head: Head, out: Path, extra: dict[str, bytes], as_json: bool) -> None:
    from ais.heads.format import read_config
    from ais.publish.card import model_card

    files = head.save(out, model_card(head.config), extra)
    if as_json:
        print_json({**asdict(read_config(out)), "files": [str(file) for file in files]})
        return
    typer.echo(f"{head.config.name}: {quality(head.config.metrics)}")
    for file in files:
        typer.echo(f"  {file}")
