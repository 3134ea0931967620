"""`ais data`: folders for training, made from published data sets; one command for each of `CONVERTERS`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from ais.cli._options import AsJson, Commands, app
from ais.cli._output import ProgressBars, print_json

if TYPE_CHECKING:
    from ais.data.converters import Converter

Source = Annotated[Path, typer.Argument(help="The folder of the data set, as its authors distribute it.")]
Out = Annotated[Path, typer.Option("--out", help="The folder to make: images and metadata.csv.")]


class _Registry(MutableMapping[str, Any]):
    """The commands by their names. The registry is read when one is asked for, so that `ais` starts without it."""

    def __getitem__(self, name: str) -> Any:
        return _command(name, _converters()[name])

    def __iter__(self) -> Iterator[str]:
        return iter(_converters())

    def __len__(self) -> int:
        return len(_converters())

    def __setitem__(self, name: str, command: Any) -> None:
        raise TypeError("A converter is added to `ais.data.converters.CONVERTERS`.")

    def __delitem__(self, name: str) -> None:
        raise TypeError("A converter is removed from `ais.data.converters.CONVERTERS`.")


class _Converters(TyperGroup):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options | {"commands": _Registry()})

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = str(args[0])
        if name not in _converters() and not name.startswith("-"):
            ctx.fail(f"There is no data set {name!r}. Choose one of: {', '.join(_converters())}.")
        return super().resolve_command(ctx, args)


app.add_typer(
    Commands(
        name="data",
        cls=_Converters,
        help="Make a folder of rated pictures from a published data set.",
        no_args_is_help=True,
    )
)


def _converters() -> dict[str, Converter]:
    from ais.data.converters import CONVERTERS

    return CONVERTERS


def _command(name: str, converter: Converter) -> Any:
    """The command of one data set, with an option for each file that it may take."""

    def run(source: Path, out: Path, as_json: bool, **files: Path | None) -> None:
        with ProgressBars("converting"):
            images = converter.convert(source, out, **files)
        _print_result(images, out, as_json)

    options = {
        key: Annotated[Path | None, typer.Option(f"--{key.replace('_', '-')}", help=about)]
        for key, about in converter.files.items()
    }
    hints = {"source": Source, "out": Out, **options, "as_json": AsJson}
    required = inspect.Parameter.empty
    defaults = dict.fromkeys(options) | {"source": required, "out": required, "as_json": False}
    keyword = inspect.Parameter.KEYWORD_ONLY
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(key, keyword, default=defaults[key], annotation=hint)
            for key, hint in hints.items()
        ]
    )
    run.__annotations__ = hints
    single = Commands(add_completion=False, rich_markup_mode=None)
    single.command(name, help=f"{converter.label}: {converter.about}")(run)
    return typer.main.get_command(single)


def _print_result(images: int, out: Path, as_json: bool) -> None:
    from ais.data.ratings import METADATA, columns

    names = columns(out)
    if as_json:
        print_json({"pictures": images, "columns": names, "file": str(out / METADATA)})
        return
    typer.echo(f"{images} pictures, with the columns {', '.join(names)}")
    typer.echo(f"  {out / METADATA}")
