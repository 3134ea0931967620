"""What the commands share: the app itself, and options.

A command imports what it needs when it runs, so that help, completion and wrong calls take no time.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.models import CommandFunctionType as CommandFunction

from ais.cli._choices import Command
from ais.errors import AISError, DataError, HeadError
from ais.heads.shipped import default_head
from ais.version import __version__

if TYPE_CHECKING:
    from ais.data.columns import RatingColumns
    from ais.data.ratings import RatedSet
    from ais.heads.base import Head


class Commands(typer.Typer):
    """Commands that take ``~`` for the home folder in every path, also where no shell has seen it (``--out=~/x``)."""

    def command(self, *names: Any, **options: Any) -> Callable[[CommandFunction], CommandFunction]:
        register = super().command(*names, cls=Command, **options)

        def decorate(function: CommandFunction) -> CommandFunction:
            @functools.wraps(function)
            def run(**values: Any) -> Any:
                return function(**{name: path_from_home(value) for name, value in values.items()})

            register(run)
            return function

        return decorate


def path_from_home(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(map(path_from_home, value))
    return Path(from_home(str(value))) if isinstance(value, Path) else value


def from_home(path: str) -> str:
    """A path whose ``~`` or ``~user`` is written out; as it is where there is no such home."""
    return os.path.expanduser(path)  # noqa: PTH111  `Path.expanduser` raises, and folds an address's slashes


def head_from_home(head: Any) -> Any:
    """For options that name heads."""
    return from_home(head) if isinstance(head, str) else head and [from_home(one) for one in head]


def typed_head(ctx: typer.Context, param: typer.CallbackParam, head: str) -> str:
    """A head as it was typed; a default that nobody has typed is the one that comes with AIS, whatever folder of its
    name lies here."""
    source = ctx.get_parameter_source(str(param.name))
    return str(default_head()) if source is not None and source.name == "DEFAULT" else from_home(head)


app = Commands(
    name="ais",
    help="The score people would give a picture, and where in the picture it comes from.",
    epilog="Results go to stdout, all else to stderr. Exit status 2 means a wrong call or bad input.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Device = Literal["auto", "cpu", "cuda"]

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]

OnDevice = Annotated[
    Device, typer.Option("--device", help="Where to compute; auto takes a GPU if there is one.")
]

HeadName = Annotated[
    str,
    typer.Option(
        "--head",
        callback=typed_head,
        help="A head by name (see `ais heads`), its folder, or its id on the Hub: USER/REPO[@REVISION].",
    ),
]

Data = Annotated[
    Path, typer.Argument(help="A folder with pictures and a table that names them, metadata.csv.")
]

TableFile = Annotated[
    Path | None,
    typer.Option(
        "--table",
        help="The table, in DATA or elsewhere: .csv, .tsv, .txt or .xlsx [default: metadata.csv, else the only one].",
    ),
]

ImageColumn = Annotated[
    str | None,
    typer.Option(
        "--image",
        help="The column that names the pictures [default: file_name, or what is called much like it].",
    ),
]

Target = Annotated[str, typer.Option("--target", help="The column of the ratings, such as beauty_mean.")]

TrainedTarget = Annotated[
    str | None,
    typer.Option(
        "--target", help="The column of the ratings [default: the one that the head was trained on]."
    ),
]

SD = Annotated[
    str | None,
    typer.Option("--sd", help="The column of the ratings' SD [default: X_sd for X or X_mean; - for none]."),
]

N = Annotated[
    str | None,
    typer.Option(
        "--n", help="The column of the numbers of raters [default: X_n for X or X_mean; - for none]."
    ),
]

Group = Annotated[
    str | None,
    typer.Option(
        "--group",
        help="A column; pictures that share its value are never split between training and testing [default: "
        "what a head was trained with, or theme, if there is such a column; - for none].",
    ),
]

Split = Annotated[
    str | None,
    typer.Option(
        "--split", help="A column that says train, validation or test; test pictures are kept for testing."
    ),
]

SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out rows that are wrong or cannot be read, and count them.")
]


def group_column(
    data: Path, group: str | None, head: Head | None = None, table: Path | None = None
) -> str | None:
    """The column of the groups: the one asked for, else the one the head was trained with, else ``theme``."""
    from ais.data.columns import GROUP, NONE
    from ais.data.ratings import columns

    if group == NONE:
        return None
    if group is not None:
        return group
    there = columns(data, table)
    trained = head.config.recipe.get("group", GROUP) if head else GROUP
    return trained if trained in there else None


def target_column(head: Head, target: str | None) -> str:
    column = target or head.config.recipe.get("target")
    if not column:
        raise AISError(
            f"The head {head.config.name!r} does not say which column it was trained on: name it with --target."
        )
    return str(column)


def warn_ungrouped(data: Path, table: Path | None) -> None:
    """Without a column of groups nothing is kept apart: whoever trains a head is told."""
    from ais.data.columns import NONE, like_groups
    from ais.data.ratings import columns

    like = like_groups(columns(data, table))
    which = f", such as {' or '.join(like)}" if like else ""
    typer.echo(
        "There is no column of groups (theme): each picture is a group of its own. Where pictures are related, of one "
        "scene, series, author or prompt, some are then trained on and others tested on, and the metrics are too good: "
        f"name the column that says what belongs together with --group{which}; --group {NONE} if nothing does.",
        err=True,
    )


def read_set(
    data: Path, columns: RatingColumns, *, table: Path | None = None, skip_bad: bool = False
) -> RatedSet:
    """The rated set of a command, with its categories if the table has such a column; what was left out is said on
    stderr."""
    from ais.data import ratings
    from ais.data.columns import CATEGORY

    if columns.category is None and CATEGORY in ratings.columns(data, table):
        columns = replace(columns, category=CATEGORY)
    rated = ratings.read_ratings(data, columns, table=table, skip_bad=skip_bad)
    if rated.skipped:
        lines = "\n  ".join(rated.skipped)
        many = len(rated.skipped)
        count = "1 problem, whose row is" if many == 1 else f"{many} problems, whose rows are"
        typer.echo(f"{count} left out:\n  {lines}", err=True)
    return rated


def inputs_of(rated: RatedSet, *others: Path | None) -> list[Path]:
    """The files that a command reads, so that it may not write over them: pictures, their table, and others."""
    from ais.data.ratings import image_files

    try:
        files = image_files(rated.folder, table=rated.table, image=rated.image)
    except DataError:  # of a table with bad rows the good ones count
        files = rated.files
    return [*files, *filter(None, (rated.table, *others))]


def check_head_folder(out: Path, inputs: Sequence[Path] = ()) -> None:
    """Whether a head may be written there, before it is made: to a new or empty folder, or over a head.

    Raises:
        AISError: it may not.
    """
    from ais.heads.format import read_config
    from ais.io.files import check_outputs
    from ais.publish.checks import file_names

    check_outputs(out, file_names(None), inputs)
    if not out.is_dir() or all(file.name.startswith(".") for file in out.iterdir()):
        return
    try:
        there = read_config(out)
        typer.echo(f"{out} holds a head of {there.predicts or there.task}, which will be replaced.", err=True)
    except HeadError as error:
        raise AISError(
            f"{out} holds files that are not a head's, so no head is written there: choose an --out that is new, empty "
            "or a head's."
        ) from error


def head_files(head: str) -> list[Path]:
    """The files of a head that is named by its folder, which no command may write over; else none."""
    try:
        return list(Path(head).iterdir())
    except OSError:
        return []


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
