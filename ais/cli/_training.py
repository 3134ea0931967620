"""`ais train`, `find-rate`, `advise` and `combine`: making heads."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from ais.cli._output import print_json, quality
from ais.heads.base import Head
from ais.heads.format import read_config
from ais.images.preprocessing import ViewName
from ais.publish.card import model_card
from ais.training.strategies import STRATEGIES, Tuning

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


def _write(head: Head, out: Path, extra: dict[str, bytes], as_json: bool) -> None:
    files = head.save(out, model_card(head.config), extra)
    if as_json:
        print_json({**asdict(read_config(out)), "files": [str(file) for file in files]})
        return
    typer.echo(f"{head.config.name}: {quality(head.config.metrics)}")
    for file in files:
        typer.echo(f"  {file}")
