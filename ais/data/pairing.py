"""Rows of matrices and images, paired by their names."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from ais.data.tables import folded, names_listed
from ais.errors import DataError
from ais.images.reading import SUFFIXES

_INDEX = re.compile(r"(\D*?)0*(\d{1,9})", re.ASCII)

_DIGITS = re.compile(r"\d+", re.ASCII)

_AUTOMATIC = (
    "",
    "v",
    "x",
    "var",
    "column",
    "row",
)  # before numbers that R, MATLAB and others make up for names


def same_order(
    rows: list[str] | None, columns: list[str] | None, as_they_are: list[int], where: str
) -> tuple[list[str] | None, list[int]]:
    """The names of a matrix's rows, and the order that puts its columns as the rows are.

    Raises:
        DataError: rows and columns have different names, or one name is there twice.
    """
    if rows is None or columns is None:
        return rows or columns, as_they_are
    mine, theirs = [folded(name) for name in rows], [folded(name) for name in columns]
    if mine == theirs:
        return rows, as_they_are
    numbered = [_numbers(rows), _numbers(columns)]
    if numbered[0] and numbered[1]:  # perhaps one from 0 and one from 1
        first = [min(numbers) for numbers in (numbered[0], numbered[1])]
        place = {number - first[1]: i for i, number in enumerate(numbered[1])}
        return rows, [place[number - first[0]] for number in numbered[0]]
    if numbered[1] and numbered[1] == sorted(numbered[1]):
        return rows, as_they_are
    if numbered[0] and numbered[0] == sorted(numbered[0]):
        return columns, as_they_are
    _unique(rows, where)
    _unique(columns, where)
    at = {name: i for i, name in enumerate(theirs)}
    unknown = [name for name, key in zip(rows, mine, strict=True) if key not in at]
    if unknown:
        raise DataError(
            f"{where} names its rows and its columns differently: no column is called {names_listed(unknown, 3)}."
        )
    return rows, [at[name] for name in mine]


def by_first(names: Sequence[str], first: Sequence[str], where: str) -> tuple[list[int], bool]:
    """The order that puts rows of these names as the first file's are, and more as in `by_images`.

    Raises:
        DataError: they are not the same names, or one name is there twice.
    """
    return by_images(names, first, where, "the first file")


def by_images(
    names: Sequence[str],
    images: Sequence[str],
    where: str,
    whose: str = "the pictures",
    *,
    listed: bool = True,
) -> tuple[list[int], bool]:
    """The order that puts rows of these names as the images are.

    Args:
        listed: a table gives the images' order; else rows that are only numbered are taken to be in the
            order of the images' own numbers, if the images' names differ in nothing else.

    Returns:
        The order, and whether it is by the names: False where they are numbers that only count the rows.

    Raises:
        DataError: they are not the images' names, or one name is there twice.
    """
    for key in (str, _path, _base, _stem):
        if (order := _matched(names, images, key)) is not None:
            return order, True
    indices = _numbers(names)
    if indices is not None:
        by_number = sorted(range(len(indices)), key=indices.__getitem__)
        # Of images that are all called alike but for a number, the number is the name.
        theirs = [_INDEX.fullmatch(_stem(image)) for image in images]
        found = [(match[1], int(match[2])) for match in theirs if match]
        if len(found) == len(images) and len({before for before, _ in found}) == 1:
            numbers = [number for _, number in found]
            if sorted(numbers) == sorted(indices):
                return [indices.index(number) for number in numbers], True
            if not listed and len(set(numbers)) == len(indices):
                place = dict(zip(sorted(numbers), by_number, strict=True))
                return [place[number] for number in numbers], True
        return by_number, False
    _unique(names, where)
    mine, theirs_ = {_stem(name): name for name in names}, {_stem(name): name for name in images}
    unknown = [name for key, name in mine.items() if key not in theirs_]
    lacking = [name for key, name in theirs_.items() if key not in mine]
    if not unknown and not lacking:
        raise DataError(
            f"{where} names its rows so that {whose} cannot be told apart: write the names in full, with folder and "
            "ending, as the pictures have them."
        )
    raise DataError(
        f"{where} has other names than {whose}: "
        + "; ".join(
            [f"it names {names_listed(unknown, 3)}"] * bool(unknown)
            + [f"it lacks {names_listed(lacking, 3)}"] * bool(lacking)
        )
        + ". If its rows are in the order of the pictures all the same, take the names out of it."
    )


def check_order(images: Sequence[str], where: str) -> None:
    """Refuse to take rows without names for those of images whose order by name is a matter of the program.

    Args:
        images: in the order of their names as text.

    Raises:
        DataError: it is another order where numbers are compared as such, or without regard to capitals.
    """
    by_number = sorted(
        images, key=lambda name: _DIGITS.sub(lambda found: found[0].zfill(32), name.casefold())
    )
    for order, how in (
        (sorted(images, key=str.casefold), "without regard to capitals"),
        (by_number, "if numbers are sorted as such"),
    ):
        for i, (mine, other) in enumerate(zip(images, order, strict=True), start=1):
            if mine != other:
                raise DataError(
                    f"{where} does not name its rows, and the order of the pictures is not sure: number {i} is "
                    f"{names_listed([mine])} if their names are sorted as text, {names_listed([other])} {how}. Write "
                    "the pictures' names beside the rows, or list the pictures in the order of the rows in a "
                    "metadata.csv with the column file_name."
                )


def only_numbers(names: Sequence[str]) -> bool:
    """They are the numbers from 0 or 1 on, in any order."""
    return _numbers(names) is not None


def _matched(names: Sequence[str], images: Sequence[str], key: Callable[[str], str]) -> list[int] | None:
    place = {key(name): i for i, name in enumerate(names)}
    wanted = [key(image) for image in images]
    if len(place) == len(names) == len(set(wanted)) and place.keys() == set(wanted):
        return [place[name] for name in wanted]
    return None


def _path(name: str) -> str:
    return folded(name.strip().replace("\\", "/").removeprefix("./"))


def _base(name: str) -> str:
    return _path(name).rsplit("/", 1)[-1]


def _stem(name: str) -> str:
    base = _base(name)
    stem, dot, suffix = base.rpartition(".")
    return stem if dot + suffix in SUFFIXES else base


def _numbers(names: Sequence[str]) -> list[int] | None:
    """The rows' numbers, from 0 or 1, where the names are nothing else."""
    matches = [_INDEX.fullmatch(name.strip()) for name in names]
    found = [(match[1].lower().rstrip(" _"), int(match[2])) for match in matches if match]
    if len(found) < len(names) or len({before for before, _ in found}) != 1 or found[0][0] not in _AUTOMATIC:
        return None
    numbers = [number for _, number in found]
    return numbers if sorted(numbers) in ([*range(len(names))], [*range(1, len(names) + 1)]) else None


def _unique(names: Sequence[str], where: str) -> None:
    if len({folded(name) for name in names}) < len(names):
        twice = next(name for i, name in enumerate(names) if folded(name) in map(folded, names[:i]))
        raise DataError(
            f"{where} has several rows or columns of one name, {names_listed([twice])}: give each picture its "
            "own; or, if the rows are in the order of the pictures, take the names out."
        )
