"""A folder of rated pictures, in the ImageFolder convention: ``metadata.csv`` with a column ``file_name``.

The other columns are up to the folder's maker: one is the rating to learn, one may name the group of each
picture (a theme, an author, a scene) that must never be shared between training and testing.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ais.errors import DataError, ImageError
from ais.images import SUFFIXES, read_image

METADATA = "metadata.csv"
FILE_NAME = "file_name"
_LISTED = 200  # problems named in one message
_NAMED = 20  # columns named in one message
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


@dataclass(frozen=True)
class RatedSet:
    """Pictures and what people said of them; everything is in the order of the file.

    Attributes:
        folder: where it lies.
        target: the column that holds the ratings.
        files: N paths, the folder's included.
        ratings: (N,) float64, the mean opinion of each picture.
        sd, n: (N,) float64, the ratings' standard deviation (in points of the rating) and number of raters;
            None where there is no such column.
        groups: N names, pictures of one group belong together; None where no column was asked for.
        categories: N words to report errors by, "" for a picture without one; None likewise.
        split: N times "train", "validation" or "test"; None likewise.
        skipped: a sentence for each problem of the rows that were left out.
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

    def __len__(self) -> int:
        return len(self.files)

    def part(self, *, test: bool) -> RatedSet:
        """The pictures for testing, or all others; all of them where the set does not say.

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
        """The pictures at these places, integers or (N,) bool; `skipped` stays as it is."""
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
    target: str,
    *,
    sd: str | None = None,
    n: str | None = None,
    group: str | None = None,
    category: str | None = None,
    split: str | None = None,
    skip_bad: bool = False,
) -> RatedSet:
    """Read and check a folder of rated pictures.

    The pictures are opened only if something is wrong anyway, so that all of it is said at once, or with
    `skip_bad`. Otherwise that is left to whoever uses them.

    Args:
        folder: holds ``metadata.csv`` and the pictures that it names.
        target: the column of the ratings.
        sd, n: the columns of their standard deviation, at least 0, and of the number of raters, at least 1;
            None takes ``X_sd`` and ``X_n`` beside a target ``X`` or ``X_mean`` if they are there.
        group: the column of the groups, or None.
        category: the column of the categories, or None.
        split: the column that says train(ing), val(id) or validation, or test(ing), or None.
        skip_bad: leave out the rows with a problem, and say so in `RatedSet.skipped`.

    Raises:
        DataError: all that is wrong with it, line by line, in one message; or no row is left.
    """
    folder = Path(folder)
    table = folder / METADATA
    columns, rows = _read_csv(table)
    stem = target.removesuffix("_mean")
    if sd is None and f"{stem}_sd" in columns:
        sd = f"{stem}_sd"
    if n is None and f"{stem}_n" in columns:
        n = f"{stem}_n"
    wanted = [
        FILE_NAME,
        target,
        *(column for column in (sd, n, group, category, split) if column is not None),
    ]
    missing = [column for column in dict.fromkeys(wanted) if column not in columns]
    if missing:
        separated = len(columns) == 1 and any(mark in columns[0] for mark in ";\t")
        hint = " Save it with commas between the columns." if separated else ""
        raise DataError(
            f"{table} has no column {_names(missing)}. "
            f"Its columns are: {_names(columns) or 'none, it is empty'}.{hint}"
        )
    if not rows:
        raise DataError(f"{table} names no pictures.")

    seen: dict[str, int] = {}
    problems: list[list[str]] = []  # of each row
    openable: list[int] = []
    for i, (line, row) in enumerate(rows):
        wrong = _check_file(folder, row[FILE_NAME], line, seen)
        if not wrong:
            openable.append(i)
        wrong += _check_number(row, target)
        wrong += [] if sd is None else _check_number(row, sd, 0)
        wrong += [] if n is None else _check_number(row, n, 1)
        if group is not None and not row[group]:
            wrong.append(f"the group {group} is empty")
        if split is not None and row[split].lower() not in _SPLITS:
            wrong.append(f"{split} is {_quote(row[split])}, not train, validation or test")
        problems.append(wrong)
    files = [folder / row[FILE_NAME] for _, row in rows]
    if skip_bad or any(problems):
        with ThreadPoolExecutor(_DECODERS) as pool:
            for i, wrong in zip(
                openable, pool.map(_check_picture, [files[i] for i in openable]), strict=True
            ):
                problems[i] += wrong
    good = [i for i, wrong in enumerate(problems) if not wrong]
    sentences = [f"line {rows[i][0]}: {what}" for i, wrong in enumerate(problems) for what in wrong]
    if sentences and not skip_bad:
        raise DataError(listing(f"{table} cannot be used as it is", sentences))
    if not good:
        raise DataError(listing(f"No row of {table} can be used", sentences))

    kept = [rows[i][1] for i in good]
    return RatedSet(
        folder=folder,
        target=target,
        files=[files[i] for i in good],
        ratings=_numbers(kept, target),
        sd=None if sd is None else _numbers(kept, sd),
        n=None if n is None else _numbers(kept, n),
        groups=None if group is None else [row[group] for row in kept],
        categories=None if category is None else [row[category] for row in kept],
        split=None if split is None else [_SPLITS[row[split].lower()] for row in kept],
        skipped=sentences,
    )


def picture_files(folder: str | os.PathLike[str]) -> list[Path]:
    """The pictures of a folder: those that its table names, in its order; without a table all of them, by name.

    Raises:
        DataError: there is no such folder; or all that is wrong with the table's names, line by line.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}.")
    if not (folder / METADATA).is_file():
        return sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
    columns, rows = _read_csv(folder / METADATA)
    if FILE_NAME not in columns:
        raise DataError(f"{folder / METADATA} has no column {FILE_NAME}.")
    seen: dict[str, int] = {}
    problems = [
        f"line {line}: {what}"
        for line, row in rows
        for what in _check_file(folder, row[FILE_NAME], line, seen)
    ]
    if problems:
        raise DataError(listing(f"{folder / METADATA} cannot be used as it is", problems))
    return [folder / row[FILE_NAME] for _, row in rows]


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
    """Whole groups drawn until they hold `share` of the pictures: (N,) True for these.

    A group of more than half the share is passed over where it would overshoot by more than is missing, so
    that one large group does not make most of the set; at least one group is drawn, and one is not.
    """
    names, index, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    wanted = share * len(index)
    drawn: list[int] = []
    held = 0
    for name in order:
        if held >= wanted or len(drawn) == len(names) - 1:
            break
        size = sizes[name]
        if size > wanted / 2 and held + size - wanted > wanted - held:
            continue
        drawn.append(name)
        held += size
    return np.isin(index, drawn or order[:1])


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


def _check_number(row: dict[str, str], column: str, least: float = -math.inf) -> list[str]:
    number = _number(row[column])
    if not math.isfinite(number):
        return [f"{column} is {_quote(row[column])}, not a number"]
    if number < least:
        return [f"{column} is {number:g}, below {'zero' if least == 0 else 'one'}"]
    return []


def _check_picture(file: Path) -> list[str]:
    """Why a file cannot be read as a picture, if so; it is decoded to know."""
    try:
        read_image(file)
    except ImageError as error:
        return [str(error).removesuffix(".")]
    return []


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _numbers(rows: list[dict[str, str]], column: str) -> np.ndarray:
    return np.array([_number(row[column]) for row in rows])


def _quote(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}…")


def _names(names: list[str]) -> str:
    shown = ", ".join(_quote(name) for name in names[:_NAMED])
    return shown + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
