"""What converters share: finding the files of a download, reading its tables, writing the folder.

A converter takes the unpacked download, finds its files by name wherever they lie in it, links or copies the images
into a folder and writes the table there: all of it, or nothing.
"""

from __future__ import annotations

import csv
import io
import logging
import math
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ais.data import tables
from ais.data.columns import FILE_NAME
from ais.data.ratings import METADATA
from ais.errors import DataError, UnwritableError, listing
from ais.io.files import check_outputs, write_atomically

logger = logging.getLogger(__name__)

Files = dict[str, list[Path]]  # by name in lower case

Row = dict[str, str]

IMAGES = "images"

_SUFFIXES = (".jpg", ".jpeg", ".png")


def letters_of(name: str) -> str:
    """What "Angry face 1", "Angryface1" and "angry_face_1" have in common."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def as_number(text: str) -> float:
    """A number of a table that `read_table` read; NaN for all else."""
    value = tables.number(text)
    return math.nan if value is None else value


def as_text(number: float) -> str:
    return f"{round(number, 4):.10g}"


def find_files(source: str | os.PathLike[str]) -> Files:
    """All files below a folder but hidden ones, which archives made on a Mac leave beside each true one."""
    if not Path(source).is_dir():
        raise DataError(f"There is no folder {source}: give the one that the download was unpacked to.")
    files: Files = {}
    for file in sorted(Path(source).rglob("*")):
        if not file.name.startswith(".") and file.is_file():
            files.setdefault(file.name.lower(), []).append(file)
    return files


def find_one(files: Files, name: str, source: str | os.PathLike[str]) -> Path:
    found = files.get(name.lower(), [])
    if not found:
        raise DataError(f"There is no file {name} in {source} or the folders in it: download the set again.")
    if len(found) > 1:
        places = " and ".join(map(str, found))
        raise DataError(f"There are several files {name}, {places}: leave one of them.")
    return found[0]


def find_images(files: Files, names: Iterable[str], source: str | os.PathLike[str]) -> list[Path]:
    """The images of these names, all from the one folder that holds the most of them."""
    wanted = {letters_of(name): name for name in names}
    folders: dict[Path, dict[str, Path]] = {}
    for file in (file for same in files.values() for file in same):
        if file.suffix.lower() in _SUFFIXES and (key := letters_of(file.stem)) in wanted:
            folders.setdefault(file.parent, {})[key] = file
    folder, found = max(folders.items(), key=lambda item: len(item[1]), default=(Path(source), {}))
    absent = [f"there is no picture of {name}" for key, name in wanted.items() if key not in found]
    if absent:
        raise DataError(listing(f"{folder} lacks pictures, as {' or '.join(_SUFFIXES)}", absent))
    return [found[key] for key in wanted]


def read_table(file: Path, columns: Sequence[str]) -> list[Row]:
    """The rows of a table; its columns' names in lower case, and its numbers with decimal points.

    Of columns with one name, the first counts.
    """
    table = tables.read_table(file, strict=False)
    for note in table.sheet.notes:
        logger.warning("%s", note)
    if not table.rows:
        raise DataError(f"{file} has no rows: download it again.")
    if wrong := [f"{table.sheet.unit} {row.line}: {row.wrong}" for row in table.rows if row.wrong]:
        raise DataError(listing(f"{file} cannot be used as it is", wrong))
    cells = [cell for row in table.rows for cell in row.cells.values()]
    decimal = tables.decimal_mark(cells, table.sheet.delimiter)

    def pointed(cell: str) -> str:
        return cell.replace(",", ".") if decimal == "," and tables.number(cell, decimal) is not None else cell

    names = {name.lower(): name for name in reversed(table.columns)}
    lower = [name.lower() for name in table.columns]
    rows = [{name: pointed(row.cells[names[name]]) for name in dict.fromkeys(lower)} for row in table.rows]
    return with_columns(file, rows, columns)


def with_columns(file: Path, rows: list[Row], columns: Sequence[str]) -> list[Row]:
    absent = [column for column in columns if column not in rows[0]]
    if absent:
        raise DataError(f"{file} has no column {', '.join(absent)}. Its columns are: {', '.join(rows[0])}.")
    return rows


def check_new(out: Path) -> None:
    """Before anything is read: the folder can be made, and what it is to hold is not there."""
    for old in (out / METADATA, out / IMAGES):
        if os.path.lexists(old):
            raise DataError(f"{old} exists already, and is not overwritten: give a new folder.")
    check_outputs(out, [METADATA])


def write_folder(out: str | os.PathLike[str], names: list[str], images: list[Path], rows: list[Row]) -> int:
    """The folder: images `images/NAME.SUFFIX`, hard-linked where the disk allows, and the table."""
    out = Path(out)
    check_new(out)
    places = [f"{IMAGES}/{name}{file.suffix.lower()}" for name, file in zip(names, images, strict=True)]
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, [FILE_NAME, *rows[0]], lineterminator="\n")
    writer.writeheader()
    writer.writerows({FILE_NAME: place} | row for place, row in zip(places, rows, strict=True))
    files: dict[str, Path | bytes] = dict(zip(places, images, strict=True))
    try:
        write_atomically(out, files | {METADATA: table.getvalue().encode()})
    except UnwritableError as error:
        raise DataError(str(error)) from error
    return len(rows)
