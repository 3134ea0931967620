"""A folder of rated pictures, in the ImageFolder convention: ``metadata.csv`` with a column ``file_name``.

The other columns are up to the folder's maker: one is the rating to learn, one may name the group of each
picture (a theme, an author, a scene) that must never be shared between training and testing.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ais.errors import DataError

METADATA = "metadata.csv"
FILE_NAME = "file_name"
_LISTED = 20  # problems named in one message


@dataclass(frozen=True)
class RatedSet:
    """Pictures and what people said of them; everything is in the order of the file.

    Attributes:
        folder: where it lies.
        target: the column that holds the ratings.
        files: N paths, the folder's included.
        ratings: (N,) float64, the mean opinion of each picture.
        sd, n: (N,) float64, the ratings' standard deviation and number of raters, from the columns
            ``X_sd`` and ``X_n`` beside a target ``X`` or ``X_mean``; None where there is no such column.
        groups: N names, pictures of one group belong together; None where no column was asked for.
    """

    folder: Path
    target: str
    files: list[Path]
    ratings: np.ndarray
    sd: np.ndarray | None = None
    n: np.ndarray | None = None
    groups: list[str] | None = None

    def __len__(self) -> int:
        return len(self.files)


def read_ratings(folder: str | os.PathLike[str], target: str, *, group: str | None = None) -> RatedSet:
    """Read and check a folder of rated pictures; the pictures themselves are not opened.

    Args:
        folder: holds ``metadata.csv`` and the pictures that it names.
        target: the column of the ratings.
        group: the column of the groups, or None.

    Raises:
        DataError: all that is wrong with it, line by line, in one message.
    """
    folder = Path(folder)
    columns, rows = _read_csv(folder / METADATA)
    stem = target.removesuffix("_mean")
    numbers = [target, *(c for c in (f"{stem}_sd", f"{stem}_n") if c in columns and c != target)]
    wanted = [FILE_NAME, target] + ([] if group is None else [group])
    missing = [column for column in wanted if column not in columns]
    if missing:
        separated = len(columns) == 1 and any(mark in columns[0] for mark in ";\t")
        hint = " Save it with commas between the columns." if separated else ""
        raise DataError(
            f"{folder / METADATA} has no column {_names(missing)}. "
            f"Its columns are: {_names(columns) or 'none, it is empty'}.{hint}"
        )

    problems: list[str] = []
    seen: dict[str, int] = {}
    files: list[Path] = []
    values: dict[str, list[float]] = {column: [] for column in numbers}
    groups: list[str] = []
    for line, row in rows:
        wrong = _check_file(folder, row[FILE_NAME], line, seen)
        files.append(folder / row[FILE_NAME])
        for column in numbers:
            number = _number(row[column])
            values[column].append(number)
            if not math.isfinite(number):
                wrong.append(f"{column} is {_quote(row[column])}, not a number")
            elif column != target and number < 0:
                wrong.append(f"{column} is {number:g}, below zero")
        if group is not None:
            groups.append(row[group])
            if not row[group]:
                wrong.append(f"the group {group} is empty")
        problems += [f"line {line}: {what}" for what in wrong]
    if problems:
        raise DataError(listing(f"{folder / METADATA} cannot be used as it is", problems))
    if not files:
        raise DataError(f"{folder / METADATA} names no pictures.")
    arrays = {column: np.array(numbers) for column, numbers in values.items()}
    return RatedSet(
        folder=folder,
        target=target,
        files=files,
        ratings=arrays[target],
        sd=arrays.get(f"{stem}_sd"),
        n=arrays.get(f"{stem}_n"),
        groups=None if group is None else groups,
    )


def grouped_folds(groups: Sequence[str], folds: int, seed: int) -> np.ndarray:
    """The fold of each of N pictures, (N,); no group is in two, and the folds are of about one size."""
    names, index, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(-sizes[order], kind="stable")]  # the largest first, ties by chance
    fold_of = np.empty(len(names), dtype=np.int64)
    load = np.zeros(folds, dtype=np.int64)
    for name in order:
        fold_of[name] = load.argmin()
        load[fold_of[name]] += sizes[name]
    return fold_of[index]


def grouped_split(groups: Sequence[str], share: float, seed: int) -> np.ndarray:
    """Whole groups drawn until they hold `share` of the pictures: (N,) True for these."""
    names, index, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    before = np.cumsum(sizes[order]) - sizes[order]
    drawn = order[before < share * len(index)][: len(names) - 1]
    return np.isin(index, drawn)


def columns(folder: str | os.PathLike[str]) -> list[str]:
    """The columns of a folder's table.

    Raises:
        DataError: there is no table, or it cannot be read.
    """
    return _read_csv(Path(folder) / METADATA)[0]


def listing(what: str, problems: list[str]) -> str:
    """One message of many problems, of which the first few are named."""
    more = len(problems) - _LISTED
    lines = problems[:_LISTED] + ([f"and {more} more"] if more > 0 else [])
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return "\n  ".join([f"{what}, {count}:", *lines])


def _read_csv(file: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The columns, and of every row the line it ends on and its fields without the spaces around them."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, strict=True)
            columns = [name.strip() for name in next(reader, [])]
            if len(set(columns)) < len(columns):
                raise DataError(f"{file} has two columns of one name. Its columns are: {_names(columns)}.")
            # A row that is too short has empty fields, which the checks of the fields then name.
            rows = [
                (
                    reader.line_num,
                    dict(zip(columns, [f.strip() for f in row] + [""] * len(columns), strict=False)),
                )
                for row in reader
                if row
            ]
    except FileNotFoundError as error:
        raise DataError(
            f"There is no {file}. A data set is a folder of pictures with a table {METADATA}, whose column "
            f"{FILE_NAME} names them."
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text: save it as CSV with the encoding UTF-8.") from error
    except csv.Error as error:
        raise DataError(f"{file} is not a CSV table: {error}.") from error
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}.") from error
    return columns, rows


def _check_file(folder: Path, name: str, line: int, seen: dict[str, int]) -> list[str]:
    """What is wrong with a picture's name; `seen` is the line of each name so far."""
    if not name:
        return [f"{FILE_NAME} is empty"]
    # Judged by the name alone: the Hub's cache, for one, keeps every file as a link to elsewhere.
    path = os.path.normpath(name)
    if Path(path).is_absolute() or Path(path).parts[:1] == (os.pardir,) or "\0" in path:
        return [f"{_quote(name)} lies outside the folder"]
    if (first := seen.setdefault(path, line)) != line:
        return [f"{_quote(name)} is named in line {first} already"]
    try:
        found = (folder / path).is_file()
    except OSError:  # a name too long
        found = False
    return [] if found else [f"there is no file {_quote(name)}"]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _quote(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}…")


def _names(names: list[str]) -> str:
    shown = ", ".join(_quote(name) for name in names[:_LISTED])
    return shown + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
