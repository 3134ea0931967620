"""A folder of rated images, in the ImageFolder convention: ``metadata.csv`` with a column ``file_name``.

The other columns are up to the folder's maker: one is the rating to learn, one may name the group of each
image (a theme, an author, a scene) that must never be shared between training and testing. The table may have
another name, format (see `ais.data.tables`) and column of images; what is guessed of these is said on the log.
"""

from __future__ import annotations

import logging
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ais.data.columns import FILE_NAME, RatingColumns, image_column, require
from ais.data.paths import FileFinder
from ais.data.tables import (
    Row,
    Table,
    decimal_mark,
    either,
    like_thousands,
    names_listed,
    number,
    quote,
    read_table,
    thousands,
)
from ais.errors import DataError, ImageError, listing
from ais.images.folders import find_images, left_out_line
from ais.images.reading import read_image

logger = logging.getLogger(__name__)

METADATA = "metadata.csv"

_TABLES = (".csv", ".tsv", ".xlsx")  # what is looked for where there is no metadata.csv

_FEW = 2  # rows: with more, a problem of all of them is said once

_DECODERS = 2  # threads

_SPLITS = {  # as tables write them: as they are called here
    word: split
    for split, words in {
        "train": "train training",
        "validation": "validation val valid",
        "test": "test testing",
    }.items()
    for word in words.split()
}


class _Problem(NamedTuple):
    kind: str  # one kind in every row has one cause
    text: str


@dataclass(frozen=True, eq=False)
class RatedSet:
    """Images and what people said of them; everything is in the order of the file.

    Attributes:
        folder: where it lies.
        target: the column that holds the ratings.
        files: N paths, the folder's included.
        ratings: (N,) float64, the mean opinion of each image.
        sd, n: (N,) float64, the ratings' standard deviation (in points of the rating) and number of raters;
            None where there is no such column.
        groups: N names, images of one group belong together; None where no column was asked for.
        categories: N words to report errors by, "" for an image without one; None likewise.
        split: N times "train", "validation" or "test"; None likewise.
        skipped: a sentence for each problem of the rows that were left out.
        table, image: the table's file, and its column that names the images; None where there was no table.
    """

    folder: Path
    target: str
    files: list[Path]
    ratings: np.ndarray
    sd: np.ndarray | None = None
    n: np.ndarray | None = None
    groups: list[str] | None = None
    categories: list[str] | None = None
    split: list[str] | None = None
    skipped: list[str] = field(default_factory=list)
    table: Path | None = None
    image: str | None = None

    def __len__(self) -> int:
        return len(self.files)

    def part(self, *, test: bool) -> RatedSet:
        """The images for testing, or all others; all of them where the set does not say.

        Raises:
            DataError: there are none.
        """
        if self.split is None:
            return self
        chosen = np.array([(name == "test") == test for name in self.split])
        if not chosen.any():
            what = "for testing" if test else "but those for testing"
            raise DataError(f"{self.folder} has no pictures {what}: look at the column that --split names.")
        return self.rows(chosen)

    def rows(self, index: np.ndarray) -> RatedSet:
        """The images at these places, integers or (N,) bool; `skipped` stays as it is."""
        places = np.arange(len(self))[index].tolist()

        def some(values: list[str] | None) -> list[str] | None:
            return None if values is None else [values[i] for i in places]

        return replace(
            self,
            files=[self.files[i] for i in places],
            ratings=self.ratings[places],
            sd=None if self.sd is None else self.sd[places],
            n=None if self.n is None else self.n[places],
            groups=some(self.groups),
            categories=some(self.categories),
            split=some(self.split),
        )


def read_ratings(
    folder: str | os.PathLike[str],
    columns: RatingColumns | str,
    *,
    table: str | os.PathLike[str] | None = None,
    skip_bad: bool = False,
) -> RatedSet:
    """Read and check a folder of rated images.

    The images are opened only if something is wrong anyway, so that all of it is said at once, or with
    `skip_bad`. Otherwise that is left to whoever uses them.

    Args:
        folder: holds the table and the images that it names.
        columns: of the table; a name is that of the ratings' column.
        table: a file as `ais.data.tables` reads it, in the folder or elsewhere; None takes ``metadata.csv``, or else
            the only table that the folder holds.
        skip_bad: leave out the rows with a problem, and say so in `RatedSet.skipped`.

    Raises:
        DataError: all that is wrong with it, line by line, in one message; or no row is left.
    """
    folder = Path(folder)
    found, notes = _open_table(folder, table)
    asked = RatingColumns(columns) if isinstance(columns, str) else columns
    names = asked.found_in(found, notes)
    if not found.rows:
        raise DataError(f"{found.sheet.file} names no pictures.")
    for note in notes:
        logger.warning("%s", note)

    measured = [column for column in (names.target, names.sd, names.n) if column is not None]
    mark = found.sheet.delimiter
    decimal = decimal_mark((row.cells[c] for row in found.rows for c in measured), mark)
    unclear = {c for c in measured if thousands((row.cells[c] for row in found.rows), mark)}
    if names.n is not None and mark != ",":
        unclear.add(names.n)  # a whole number with a mark in it
    files, problems = _check_files(folder, found, names.image or FILE_NAME)
    named = [i for i, wrong in enumerate(problems) if not wrong]
    for row, wrong in zip(found.rows, problems, strict=True):
        if not row.wrong:  # else there is no knowing which cell is whose
            wrong += _check_cells(row, names, decimal, unclear)
    if skip_bad or any(problems):
        with ThreadPoolExecutor(_DECODERS) as pool:
            for i, wrong in zip(named, pool.map(_check_image, [files[i] for i in named]), strict=True):
                problems[i] += wrong
    sentences = _sentences(found, problems, folder)
    if sentences and not skip_bad:
        raise DataError(listing(f"{found.sheet.file} cannot be used as it is", sentences))
    good = [i for i, wrong in enumerate(problems) if not wrong]
    if not good:
        raise DataError(listing(f"No row of {found.sheet.file} can be used", sentences))

    def words(column: str | None) -> list[str] | None:
        return None if column is None else [found.rows[i].cells[column] for i in good]

    def numbers(column: str | None) -> np.ndarray | None:
        cells = words(column)
        return None if cells is None else np.array([number(cell, decimal) for cell in cells], np.float64)

    ratings, split = numbers(names.target), words(names.split)
    assert ratings is not None
    return RatedSet(
        folder=folder,
        target=names.target,
        files=[files[i] for i in good],
        ratings=ratings,
        sd=numbers(names.sd),
        n=numbers(names.n),
        groups=words(names.group),
        categories=words(names.category),
        split=None if split is None else [_SPLITS[word.lower()] for word in split],
        skipped=sentences,
        table=found.sheet.file,
        image=names.image,
    )


def image_files(
    folder: str | os.PathLike[str],
    *,
    table: str | os.PathLike[str] | None = None,
    image: str | None = None,
) -> list[Path]:
    """The images of a folder: those that its table names, in its order; without a table all of them, by name.

    Args:
        folder: without a table, images in folders within it are not taken.
        table, image: as in `read_ratings`, but a table of another name than ``metadata.csv`` is never guessed.

    Raises:
        DataError: there is no such folder; or all that is wrong with the table's names, line by line.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}.")
    if table is None and not (folder / METADATA).is_file():
        if image is not None:
            raise DataError(
                f"{folder} has no table {METADATA}: name the table with the column {quote(image)}."
            )
        files, left_out = find_images(folder, subfolders=False)
        if left_out:
            logger.warning("%s", left_out_line(folder, left_out))
        return files
    found, notes = _open_table(folder, table)
    image = image or image_column(found, notes)
    require(found, [image])
    for note in notes:
        logger.warning("%s", note)
    files, problems = _check_files(folder, found, image)
    if sentences := _sentences(found, problems, folder):
        raise DataError(listing(f"{found.sheet.file} cannot be used as it is", sentences))
    return files


def columns(folder: str | os.PathLike[str], table: str | os.PathLike[str] | None = None) -> list[str]:
    """The columns of a folder's table, which is found as in `read_ratings`.

    Raises:
        DataError: there is no table, or it cannot be read.
    """
    return _open_table(Path(folder), table)[0].columns


def _open_table(folder: Path, table: str | os.PathLike[str] | None) -> tuple[Table, list[str]]:
    """The table, and sentences on what was guessed to find and read it."""
    notes: list[str] = []
    if table is not None:
        file = next((f for f in (folder / table, Path(table)) if f.is_file()), folder / table)
    elif (folder / METADATA).is_file():
        file = folder / METADATA
    else:
        file = _only_table(folder)
        notes.append(f"{folder} has no {METADATA}; its only table, {file.name}, is read.")
    read = read_table(file)
    return read, notes + read.sheet.notes


def _only_table(folder: Path) -> Path:
    try:
        there = sorted(
            file
            for file in folder.iterdir()
            if file.suffix.lower() in _TABLES and not file.name.startswith((".", "~$")) and file.is_file()
        )
    except OSError:
        there = []
    if len(there) == 1:
        return there[0]
    which = (
        f" {folder} holds several tables, {names_listed([f.name for f in there])}: say which with --table."
    )
    raise DataError(
        f"There is no {folder / METADATA}."
        + (
            which
            if there
            else f" A data set is a folder of pictures with a table {METADATA}, whose column {FILE_NAME} names them."
        )
    )


def _sentences(table: Table, problems: list[list[_Problem]], folder: Path) -> list[str]:
    """What is wrong, line by line; but once what is wrong with every row for what will be one reason."""
    lines = [row.line for row in table.rows]
    unit, count = table.sheet.unit, len(problems)
    first: dict[str, tuple[int, str]] = {}
    rows_with: dict[str, int] = {}
    for line, wrong in zip(lines, problems, strict=True):
        for kind, text in {p.kind: p.text for p in reversed(wrong)}.items():
            first.setdefault(kind, (line, text))
            rows_with[kind] = rows_with.get(kind, 0) + 1
    common = [kind for kind, rows in rows_with.items() if rows == count > _FEW]
    said = []
    if rows_with.get("twice", 0) > max(_FEW, count / 3):
        common.append("twice")
    for kind in common:
        line, text = first[kind]
        if kind == "missing":
            said.append(
                f"none of the {count} pictures that it names is in {folder}; in {unit} {line}, {text}: are they in "
                "another folder, or in one within it?"
            )
        elif kind == "twice":
            said.append(
                f"{rows_with[kind]} of {count} rows name a picture that stands in a row before, such as {unit} {line}: "
                f"{text}. If these are ratings of single people, average them for each picture first"
            )
        else:
            said.append(f"all {count} rows have one problem, such as {unit} {line}: {text}")
    return said + [
        f"{unit} {line}: {problem.text}"
        for line, wrong in zip(lines, problems, strict=True)
        for problem in wrong
        if problem.kind not in common
    ]


def _check_files(folder: Path, table: Table, image: str) -> tuple[list[Path], list[list[_Problem]]]:
    """Of each row the image's path, and what is wrong with it."""
    finder, seen = FileFinder(folder), dict[Path, int]()
    checked = [_check_file(finder, row, image, table.sheet.unit, seen) for row in table.rows]
    return [folder / path for path, _ in checked], [wrong for _, wrong in checked]


def _check_file(
    finder: FileFinder, row: Row, image: str, unit: str, seen: dict[Path, int]
) -> tuple[Path, list[_Problem]]:
    """An image's path in the folder, and what is wrong with it; `seen` is the line of each so far."""
    name = row.cells[image]
    as_named = Path(os.path.normpath(name))
    if row.wrong:
        return as_named, [_Problem("row", row.wrong)]
    if not name:
        return as_named, [_Problem("empty", f"{image} is empty")]
    if finder.is_outside(name):
        return as_named, [_Problem("outside", f"{quote(name)} lies outside the folder")]
    path = finder.find(name)
    if (first := seen.setdefault(path or as_named, row.line)) != row.line:
        return as_named, [_Problem("twice", f"{quote(name)} is named in {unit} {first} already")]
    if path is None:
        near = finder.with_ending(name)
        hint = f", but {quote(near.as_posix())}: write names with their endings" if near else ""
        return as_named, [_Problem("missing", f"there is no file {quote(name)}{hint}")]
    return path, []


def _check_cells(row: Row, columns: RatingColumns, decimal: str, unclear: set[str]) -> list[_Problem]:
    """What is wrong with a row beside its image."""
    target, sd, n = columns.target, columns.sd, columns.n
    wrong = _check_number(row, target, decimal, target in unclear)
    wrong += [] if sd is None else _check_number(row, sd, decimal, sd in unclear, 0)
    wrong += [] if n is None else _check_number(row, n, decimal, n in unclear, 1, whole=True)
    if columns.category is not None and columns.category in row.absent:
        wrong.append(_Problem("row", f"it ends before the column {columns.category}"))
    if columns.group is not None and not row.cells[columns.group]:
        wrong.append(_Problem("group", f"the group {columns.group} is empty"))
    if columns.split is not None and row.cells[columns.split].lower() not in _SPLITS:
        text = f"{columns.split} is {quote(row.cells[columns.split])}, not train, validation or test"
        wrong.append(_Problem("split", text))
    return wrong


def _check_number(
    row: Row, column: str, decimal: str, unclear: bool, least: float = -math.inf, *, whole: bool = False
) -> list[_Problem]:
    """What is wrong with a number; `unclear` says that its mark may divide thousands."""
    text = row.cells[column]
    if unclear and like_thousands(text):
        return [_Problem(column, f"{column} is {either(text)}: write it without a mark for thousands")]
    value = number(text, decimal)
    if value is None:
        other = number(text.replace(",", "."))
        hint = (
            "" if other is None or not text else f" with a decimal {'comma' if decimal == ',' else 'point'}"
        )
        return [_Problem(column, f"{column} is {quote(text)}, not a number{hint}")]
    if value < least:
        return [_Problem(column, f"{column} is {value:g}, below {'zero' if least == 0 else 'one'}")]
    if whole and value != int(value):
        return [_Problem(column, f"{column} is {quote(text)}, not a whole number")]
    return []


def _check_image(file: Path) -> list[_Problem]:
    """Why a file cannot be read as an image, if so; it is decoded to know."""
    try:
        read_image(file)
    except ImageError as error:
        return [_Problem("picture", str(error).removesuffix("."))]
    return []
