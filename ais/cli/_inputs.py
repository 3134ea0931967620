"""The pictures of a call: files, folders, standard input."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ais.cli._options import from_home
from ais.errors import AISError, DataError

if TYPE_CHECKING:
    from ais.backbones.embeddings import ImageFile, NamedBytes
    from ais.io.files import GrowingFile

STANDARD_INPUT = "-"

Paths = Annotated[
    list[str],
    typer.Argument(
        metavar="PATH...", help="Pictures, or folders of pictures; - reads one from standard input."
    ),
]


@dataclass(frozen=True)
class InputImage:
    """A picture of a call: what it is called, where it is, and in which of the call's folders it was found."""

    path: str
    source: ImageFile
    folder: Path | None = None


# Which pictures -----------------------------------------------------------------------------------------------


def input_images(paths: Sequence[str]) -> tuple[list[InputImage], list[str]]:
    """The pictures of a call: files as they are named, the pictures of folders, and standard input; and a sentence for
    each folder that gives none, which is printed, too.

    Raises:
        AISError: there are no pictures at all.
    """
    from ais.images.folders import find_images, left_out_line, printable

    if paths.count(STANDARD_INPUT) > 1:
        raise AISError(f"{STANDARD_INPUT} is standard input, which can be read once: name it once.")
    found: list[InputImage] = []
    problems: list[str] = []
    for path in paths:
        place = from_home(path)
        if path == STANDARD_INPUT:
            found.append(InputImage(path, _standard_input()))
        elif os.path.isdir(place):  # noqa: PTH112  a Path raises for a name that is too long
            try:
                inside, left_out = find_images(place)
            except DataError as error:
                problems.append(str(error))
                continue
            if not inside:
                problems.append(
                    " ".join([f"There are no pictures in the folder {printable(place)}.", *left_out])
                )
            elif left_out:
                typer.echo(left_out_line(Path(place), left_out), err=True)
            found += [InputImage(str(file), file, Path(place)) for file in inside]
        else:
            found.append(InputImage(place if "://" in place else str(Path(place)), place))
    if problems and not found:
        raise AISError(" ".join(problems))
    for problem in problems:
        typer.echo(f"ais: {problem} The others go on.", err=True)
    return found, problems


def _standard_input() -> NamedBytes:
    from ais.backbones.embeddings import NamedBytes
    from ais.images.guards import MAX_BYTES

    if sys.stdin is None:
        raise AISError("There is no standard input to read a picture from.")
    if sys.stdin.isatty():
        typer.echo("Reading a picture from standard input.", err=True)
    return NamedBytes(sys.stdin.buffer.read(MAX_BYTES + 1), "standard input")


def sources(images: Sequence[InputImage]) -> list[ImageFile]:
    return [named.source for named in images]


def files_on_disk(images: Sequence[InputImage]) -> list[str | Path]:
    """Those that are on the disk, and must stay as they are."""
    from ais.backbones.embeddings import NamedBytes

    return [named.source for named in images if not isinstance(named.source, NamedBytes)]


def rows_written(count: int, table: GrowingFile | None) -> str:
    """What of a table that cannot grow any more is there."""
    if not table or not count:
        return ""
    return f" The first {'picture is' if count == 1 else f'{count} pictures are'} in {table.place}."
