"""`ais card`: a head's model card, generated again."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ais.cli._options import AsJson, OnDevice, app
from ais.cli._output import ProgressBars, print_json
from ais.errors import AISError
from ais.heads.config import CARD, CONFIG

if TYPE_CHECKING:
    from ais.attribution.explanation import Explanation
    from ais.heads.config import Config
    from ais.plots.sheets import Example

_MOST = 4  # pictures of examples


@app.command("card")
def card_command(
    folder: Annotated[Path, typer.Argument(help="The head's folder.")],
    about: Annotated[
        str | None, typer.Option("--about", help="Whose ratings of which pictures these are, in sentences.")
    ] = None,
    license: Annotated[
        str | None,
        typer.Option("--license", help="The head's licence by its name on the Hub, such as cc-by-nc-4.0."),
    ] = None,
    citation: Annotated[
        Path | None, typer.Option("--citation", help="A file with BibTeX of the ratings, or of the head.")
    ] = None,
    examples: Annotated[
        list[Path] | None,
        typer.Option(
            "--example",
            help=f"A picture to show with its heatmap; up to {_MOST}, each with its own --example.",
        ),
    ] = None,
    device: OnDevice = "auto",
    as_json: AsJson = False,
) -> None:
    """Generate a head's model card again, from its config and what is given here.

    What is not given stays as it is; the weights do in any case.
    """
    from ais.heads.format import read_config
    from ais.io.files import check_outputs, write_atomically
    from ais.publish.card import EXAMPLES

    config = read_config(folder)
    if license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", license):
        raise AISError(
            f"--license {license!r} is no licence's name on the Hub, such as apache-2.0, cc-by-nc-4.0 or other."
        )
    inputs = [*(examples or ()), *([citation] if citation else ())]
    check_outputs(folder, [CONFIG, CARD, *([EXAMPLES] if examples else ())], inputs)
    given: dict[str, Any] = {"about": about, "license": license, "citation": citation and _read(citation)}
    with ProgressBars():
        sheet, method = _examples(folder, examples, device) if examples else (b"", "")
    images = {EXAMPLES: sheet} if examples else {}
    given = {name: value for name, value in given.items() if value is not None}
    config = replace(config, recipe=_recipe(config, folder, method), **given)
    files = {CONFIG: _config_bytes(config, folder), CARD: _card(config, folder).encode(), **images}
    written = [str(file) for file in write_atomically(folder, files)]
    if as_json:
        print_json({**asdict(config), "files": written})
        return
    for file in written:
        typer.echo(f"  {file}")
    typer.echo(f"On the page: AIS_HEADS={shlex.quote(str(folder.resolve()))} python app.py", err=True)


def _examples(folder: Path, images: list[Path], device: str) -> tuple[bytes, str]:
    """The sheet, and the method by which its heatmaps are made."""
    from ais.attribution.baselines import comparable
    from ais.attribution.explain import explain
    from ais.heads.loading import load_head, rating_head
    from ais.plots import sheets

    if len(images) > _MOST:
        raise AISError(
            f"A model card shows up to {_MOST} examples, and here are {len(images)}: leave some out."
        )
    head = rating_head(load_head(folder.resolve()))  # never a shipped head of the folder's name
    method = "contribution" if comparable(head) else "ais"
    shown = [explain(image, head, method, scale="points", device=device) for image in images]
    return sheets.example_sheet([_example(explanation) for explanation in shown]), method


def _example(explanation: Explanation) -> Example:
    from ais.plots.sheets import Example

    low, high = explanation.interval
    caption = f"{explanation.target} {explanation.score:.2f} ({low:.2f} to {high:.2f})"
    return Example(explanation.image, explanation.overlay(), caption)


def _recipe(config: Config, folder: Path, method: str) -> dict[str, Any]:
    """The recipe, naming the pictures that there are, and the method of new examples."""
    from ais.publish.card import CARD_IMAGES, EXAMPLES

    recipe = dict(config.recipe)
    for key, file in CARD_IMAGES.items():
        if key in recipe and not (folder / file).is_file():
            del recipe[key]
    return recipe | ({"examples": EXAMPLES, "heatmaps": method} if method else {})


def _config_bytes(config: Config, folder: Path) -> bytes:
    """The config with its new words; what else is in the file stays, even what only a newer AIS knows."""
    there = json.loads((folder / CONFIG).read_bytes())
    new = {name: getattr(config, name) for name in ("about", "license", "citation", "recipe")}
    whole = {**there, **new}
    try:
        return (json.dumps(whole, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except ValueError as error:
        raise AISError(
            f"{CONFIG} cannot hold what is not a finite number or text in UTF-8: {error}."
        ) from error


def _card(config: Config, folder: Path) -> str:
    """The card, for the repository and the Space that the old one was made for."""
    from ais.publish.card import model_card, parse_card_links

    old = folder / CARD
    named = parse_card_links(old.read_text(encoding="utf-8", errors="replace")) if old.is_file() else ("", "")
    return model_card(config, *named)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise AISError(f"The citation {file} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise AISError(f"The citation {file} is not text in UTF-8.") from error
