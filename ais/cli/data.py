"""`ais data`: folders for training, made from published data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ais.cli._options import AsJson, Commands, app
from ais.cli._output import Bars, print_json

data_app = Commands(
    name="data",
    help="Make a folder of rated pictures from a published data set.",
    no_args_is_help=True,
)
app.add_typer(data_app)

Source = Annotated[Path, typer.Argument(help="The folder of the data set, as its authors distribute it.")]
Out = Annotated[Path, typer.Option("--out", help="The folder to make: images and metadata.csv.")]


@data_app.command("oasis")
def oasis_command(
    source: Source,
    out: Out,
    beauty: Annotated[
        Path | None, typer.Option("--beauty", help="The table of beauty ratings of Brielmann & Pelli (2019).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """OASIS: photographs rated for valence and arousal (Kurdi, Lozano & Banaji 2017), and for beauty if given."""
    from ais.data.converters.oasis import convert_oasis

    with Bars("converting"):
        pictures = convert_oasis(source, out, beauty)
    _say(pictures, out, as_json)


@data_app.command("aigciqa2023")
def aigciqa2023_command(source: Source, out: Out, as_json: AsJson = False) -> None:
    """AIGCIQA2023: generated pictures rated for quality, authenticity and correspondence (Wang et al. 2023)."""
    from ais.data.converters.aigciqa2023 import convert_aigciqa2023

    with Bars("converting"):
        pictures = convert_aigciqa2023(source, out)
    _say(pictures, out, as_json)


def _say(pictures: int, out: Path, as_json: bool) -> None:
    from ais.data.ratings import METADATA, columns

    names = columns(out)
    if as_json:
        print_json({"pictures": pictures, "columns": names, "file": str(out / METADATA)})
        return
    typer.echo(f"{pictures} pictures, with the columns {', '.join(names)}")
    typer.echo(f"  {out / METADATA}")
