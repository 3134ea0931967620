"""People's dissimilarities of images, from a file or from one file a person, in every form that is usual.

A file has one square matrix, or the upper triangle of one as a vector, row by row (the lower triangle by columns is the
same), as SciPy's `pdist`, rsatoolbox and Meadows write it; or several of either, one a person. Where it names the
images, the names say which row is whose.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import io

from ais.data import matlab
from ais.data.pairing import by_first, by_images, check_order, only_numbers, same_order
from ais.data.tables import (
    check_file,
    decimal_mark,
    either,
    folded,
    like_thousands,
    number,
    quote,
    read_sheet,
    thousands,
)
from ais.errors import DataError

logger = logging.getLogger(__name__)

_TABLES = (".csv", ".tsv", ".xlsx", ".txt")

SUFFIXES = (".npy", ".mat", *_TABLES)

_KINDS = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"

_FEWEST = 3  # images: fewer have less than three pairs, which have no order to speak of

_LARGEST = (
    2**25
)  # numbers in one file, a quarter of a gigabyte as float64: a small .mat may unfold to as much

_RELATIVE = 1e-6  # of the largest dissimilarity: what a matrix written in single precision may be off

_MISSING = {"", "nan", "na", "n/a", "#n/a", "null", "none"}  # in lower case: what is written for no number

_NOT_NUMBERS = (
    "cell",
    "struct",
    "object",
    "char",
    "function",
    "opaque",
    "unknown",
)  # kinds of MATLAB's arrays

_MEADOWS = (
    "rdmutv"  # Meadows' vectors, with the images' names in stimuli; of many people both with _PERSON behind
)

_WORKSPACE = "__function_workspace__"  # what MATLAB keeps for its objects

_NAMES = re.compile("stim|name|label|image|picture|item|file|condition|pattern", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class HumanRDMs:
    """P people's dissimilarities of each pair of n images.

    Attributes:
        rdms: (P, n, n) float64, symmetric, with a diagonal of 0.
        names: n names, of the rows; None where no file had them.
    """

    rdms: np.ndarray
    names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        """P."""
        return len(self.rdms)

    @property
    def mean(self) -> np.ndarray:
        """(n, n), the mean over the people."""
        return self.rdms.mean(0)


class _Part(NamedTuple):
    array: np.ndarray  # of any shape
    names: list[str] | None = None  # of its images
    where: str = ""  # in its file


def read_human_rdms(
    path: str | os.PathLike[str],
    n: int | None = None,
    images: Sequence[str] | None = None,
    *,
    listed: bool = True,
    most: int = _LARGEST,
) -> HumanRDMs:
    """Read and check dissimilarity matrices.

    Args:
        path: a file, or a folder of files, one for each person, taken in the order of their names. An ``.npy`` or
            ``.mat`` file holds one square matrix or a stack of them, (P, n, n) or (n, n, P); or upper triangles, m =
            n (n - 1) / 2 numbers or (P, m). A ``.csv``, ``.tsv``, ``.txt`` or ``.xlsx`` file holds one matrix, with or
            without a line and a column of names, or triangles. What is square is taken for a matrix. A folder's
            ``.txt`` files are read only where it holds no others.
        n: the number of images; None takes what there is.
        images: the n images' names or paths. Rows that a file names are put into their order; names count without
            folder, ending and case if that leaves no doubt. Rows without names, or with nothing but the numbers 0 to
            n - 1 or 1 to n, are in this order already (unless the images are called by such numbers). Without it,
            every file's rows are put into the order of the first that has names.
        listed: a table gives this order. Else they are sorted as text, and rows without names are
            refused where other ways of sorting give another order.
        most: numbers in one file; one with more is refused before they are in memory.

    Raises:
        DataError: it cannot be read, or is not n by n, finite, symmetric, 0 on the diagonal (or NaN, which is taken for
            0) and varied beside it; or its names are not the images', or say that its rows are in another order
            while those of another file have no names.
    """
    path = Path(path)
    files = [path]
    if path.is_dir():
        files = _files(path)
        if not files:
            raise DataError(f"{path} holds no dissimilarity matrices: put one {_KINDS} file a person there.")
    stacks: list[np.ndarray] = []
    names: list[str] | None = None
    reordered = unnamed = ""  # the first of each
    for file in files:
        for part in _read(file, images, most):
            where = f"{file}, {part.where}" if part.where else str(file)
            stack = _checked(_stack(part.array, where, most), where, n)
            if stacks and stack.shape[1] != stacks[0].shape[1]:
                raise DataError(
                    f"{where} is about {stack.shape[1]} pictures and {files[0].name} about {stacks[0].shape[1]}: "
                    "all matrices must be about the same pictures."
                )
            by_name = False
            if part.names is not None:
                if images is not None:
                    order, by_name = by_images(part.names, images, where, listed=listed)
                else:
                    order, by_name = by_first(part.names, names or part.names, where)
                    names = names or part.names
                stack = stack[:, order][:, :, order]
                if by_name and order != sorted(order):
                    reordered = reordered or where
            if not by_name:
                unnamed = unnamed or where
                if not listed and images is not None:
                    check_order(images, where)
            stacks.append(stack)
    if reordered and unnamed:
        raise DataError(
            f"{reordered} names its rows, and they are not in the order of the pictures; {unnamed} does not name its "
            "rows, so that their order is not sure: write the pictures' names beside the rows there, too."
        )
    return HumanRDMs(np.concatenate(stacks), tuple(names) if names else None)


def _files(folder: Path) -> list[Path]:
    try:
        files = sorted(
            file
            for file in folder.iterdir()
            if file.suffix.lower() in SUFFIXES and not file.name.startswith((".", "~$"))
        )
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror or error}.") from error
    files = [file for file in files if file.suffix.lower() != ".txt"] or files  # which may be notes
    first: dict[str, Path] = {}
    for file in files:
        other = first.setdefault(folded(file.stem), file)
        if other is not file:
            raise DataError(
                f"{folder} holds {other.name} and {file.name}, which may be the same person twice: leave one of them "
                "there, or give them names that differ in more than the ending."
            )
    return files


def _read(file: Path, images: Sequence[str] | None, most: int) -> list[_Part]:
    """The numbers of a file and what it calls the images."""
    suffix = file.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{file} is not a dissimilarity matrix: give a {_KINDS} file.")
    check_file(file)
    try:
        if suffix == ".npy":
            return [_Part(_read_npy(file))]
        return _read_mat(file, images, most) if suffix == ".mat" else [_read_sheet(file, most)]
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}.") from error


def _read_npy(file: Path) -> np.ndarray:
    try:
        # Mapped, a file that promises more than it holds is refused before anything is allocated.
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # of a damaged header, NumPy raises what Python's own parser stumbles over
        raise DataError(f"{file} is not an array that numpy.save wrote, or it is damaged.") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iuf":
        raise DataError(f"{file} does not hold an array of real numbers.")
    return array


def _read_mat(file: Path, images: Sequence[str] | None, most: int) -> list[_Part]:
    try:
        variables = io.whosmat(file, appendmat=False)
        inside = {
            name: shape for name, shape, kind in variables if kind not in _NOT_NUMBERS and name != _WORKSPACE
        }
        found = [name for name in inside if re.fullmatch(rf"{_MEADOWS}(_.*)?", name)]
        found = found or [name for name, shape in inside.items() if _square(shape)]
        found = found or [name for name, shape in inside.items() if _triangle(shape)]
        if len(found) > 1 and not found[0].startswith(_MEADOWS):
            what = "square matrices" if _square(inside[found[0]]) else "triangles of matrices"
            raise DataError(f"{file} has several {what}, {', '.join(found)}: save the one you mean alone.")
        for name in found:
            _check_size(inside[name], str(file), most)
        content = io.loadmat(file, appendmat=False, variable_names=found) if found else {}
    except NotImplementedError:
        raise DataError(
            f"{file} is a MATLAB 7.3 file: save it again with save('{file.name}', '-v7')."
        ) from None
    except (OSError, DataError):
        raise
    except TypeError as error:  # of SciPy's `whosmat`, at an object
        raise _holds_object(file) from error
    except Exception as error:  # SciPy's reader raises what its parser stumbles over
        raise DataError(f"{file} is not a MATLAB file, or it is damaged.") from error
    if not found:
        names = ", ".join(name for name, *_ in variables) or "nothing"
        raise DataError(
            f"{file} has no square matrix or stack of them, nor a triangle of one; it holds {names}."
        )
    lists = matlab.lists_of_strings(file, variables)
    parts = []
    for name in found:
        array: Any = content[name]
        if np.iscomplexobj(array):
            raise DataError(f"{file}: {name} holds complex numbers.")
        array = np.asarray(array.toarray() if hasattr(array, "toarray") else array)
        count = _n_images(array.shape)
        fit = {where: words for where, words in lists.items() if len(words) == count == len(set(words))}
        own = name.replace(_MEADOWS, "stimuli", 1)  # of this person, with Meadows
        called = fit[own] if own in fit else _called(file, fit, images)
        if called is None and any(kind == "opaque" for *_, kind in variables):
            raise _holds_object(file)
        parts.append(_Part(array, called, name if len(found) > 1 else ""))
    return parts


def _holds_object(file: Path) -> DataError:
    return DataError(
        f"{file} holds an object of MATLAB, such as a string array or a table, which is not read and may hold the "
        "pictures' names, or it is damaged: save it without, and the names, if they are there, as cellstr(names)."
    )


def _called(file: Path, lists: dict[str, list[str]], images: Sequence[str] | None) -> list[str] | None:
    """Of a file's lists of as many strings as it has images, the one with the images' names.

    Raises:
        DataError: several have them, in different orders.
    """
    if images is not None:
        ours: dict[str, list[int]] = {}
        for where, words in lists.items():
            try:
                order, by_name = by_images(words, images, str(file))
            except DataError:
                continue
            if by_name:
                ours[where] = order
        in_words = {where: order for where, order in ours.items() if not only_numbers(lists[where])}
        ours = in_words or ours  # numbers may as well count the rows
        if any(order != next(iter(ours.values())) for order in ours.values()):
            raise DataError(
                f"{file} has the pictures' names in several orders, {', '.join(ours)}: save it with those of the "
                "matrix's rows alone."
            )
        if ours:
            return lists[next(iter(ours))]
    called = next((words for where, words in lists.items() if _NAMES.search(where)), None)
    if called is None and lists:
        logger.warning("%s: what %s holds is not taken for the pictures' names.", file, " and ".join(lists))
    return called


def _read_sheet(file: Path, most: int) -> _Part:
    sheet = read_sheet(file, numbers=True, most=most)
    for note in sheet.notes:
        logger.warning("%s", note)
    if not sheet.rows:
        raise DataError(f"{file} is empty.")
    lines = list(sheet.rows)
    rest = {len(row) for _, row in lines[1:]}
    if rest == {len(lines[0][1]) + 1} and _words(lines[0][1], "."):
        lines[0] = (lines[0][0], ["", *lines[0][1]])  # R leaves the corner out
    columns = max(max((i for i, cell in enumerate(row, 1) if cell), default=0) for _, row in lines)
    width = len(lines[0][1])
    for line, row in lines:
        if len(row) != width:
            raise DataError(
                f"{file}, {sheet.unit} {line}: {len(row)} cells, where the first {sheet.unit} has {width}."
            )
    if columns < width and len(lines) < width:  # what Excel leaves, and not the end of a triangle
        lines = [(line, row[:columns]) for line, row in lines]
    decimal = decimal_mark((cell for _, row in lines for cell in row), sheet.delimiter)
    header, named = _borders(lines, decimal)
    body = lines[header:]
    cells = [row[named:] for _, row in body]
    if not body or not cells[0]:
        raise DataError(f"{file} holds names and no numbers, not a square matrix (n × n).")
    if named and len(cells[0]) == 2 and _words([row[0] for row in cells], decimal):
        raise DataError(
            f"{file} has a row for each pair of pictures, which is not read: make a square matrix of it, with a row "
            "and a column for each picture (a pivot table, or pandas' DataFrame.pivot)."
        )
    if thousands((cell for row in cells for cell in row), sheet.delimiter):
        line, place, cell = next(
            (body[j][0], i, cell)
            for j, row in enumerate(cells)
            for i, cell in enumerate(row)
            if like_thousands(cell)
        )
        raise DataError(
            f"{file}, {sheet.unit} {line}, column {place + 1 + named}: {either(cell)}. Write numbers without marks for "
            "thousands."
        )
    found = [[_value(cell, decimal) for cell in row] for row in cells]
    values = np.array(found, np.float64)  # None becomes NaN
    square = values.shape[0] == values.shape[1] > 1
    names, order = None, list(range(values.shape[1]))
    if square:
        above = lines[0][1][named:] if header else None
        names, order = same_order([row[0] for _, row in body] if named else None, above, order, str(file))
    filled = _mirrored(values[:, order]) if square else values
    for j, i in np.argwhere(np.isnan(values[:, order])):
        place = order[i]
        cell = cells[j][place]
        # NaN in words is refused later, by its images.
        wrong = found[j][place] is None or (not cell and math.isnan(filled[j, i]))
        if wrong and not (square and i == j and not cell):
            shown = f"{quote(cell)} is not a number" if cell else "the cell is empty"
            where = f"{sheet.unit} {body[j][0]}, column {place + 1 + named}"
            raise DataError(f"{file}, {where}: {shown}.")
    return _Part(values[:, order], names)


def _borders(lines: list[tuple[int, list[str]]], decimal: str) -> tuple[int, int]:
    """How many lines (0 or 1) and columns of names there are.

    Names may be numbers, too: then the shape, or an empty corner, tells them.
    """
    rows = [cells for _, cells in lines]
    height, width = len(rows), len(rows[0])
    first, left = rows[0], [row[0] for row in rows]
    diagonal = all(rows[i][i].lower() in _MISSING for i in range(min(height, width)))
    corner = height == width and (_value(first[0], decimal) is None or (not first[0] and not diagonal))
    words_above = _words(first[1:], decimal) or (width == 1 and _value(first[0], decimal) is None)
    words_left = _words(left[1:], decimal)
    above = corner or words_above or (height == width + 1 and not _vectors(rows, decimal, rows[1:]))
    beside = (
        corner or words_left or (width == height + 1 and not _vectors(rows, decimal, [r[1:] for r in rows]))
    )
    return int(above), int(beside)


def _vectors(rows: list[list[str]], decimal: str, inner: list[list[str]]) -> bool:
    """The rows are triangles and not a matrix, `inner`, with names of numbers at one side."""
    values = [[_value(cell, decimal) for cell in row] for row in rows]
    if not _triangle((len(rows), len(rows[0]))) or any(
        v is None or math.isnan(v) for row in values for v in row
    ):
        return False
    matrix = np.array([[_value(cell, decimal) for cell in row] for row in inner], np.float64)
    return not (_symmetric(matrix[None]) and not matrix.diagonal().any())


def _value(cell: str, decimal: str) -> float | None:
    """A cell's number, NaN where there is none, None for all else."""
    return math.nan if cell.lower() in _MISSING else number(cell, decimal)


def _words(cells: Iterable[str], decimal: str) -> bool:
    """Most of them are not numbers: a line or column of names, and not of values with one mistake."""
    wrong = [_value(cell, decimal) is None for cell in cells]
    return sum(wrong) > len(wrong) / 2


def _square(shape: tuple[int, ...]) -> bool:
    """A matrix or a stack of them, of more than one image."""
    sides = {2: [shape[:2]], 3: [shape[1:], shape[:2]]}.get(len(shape), [])
    return any(a == b > 1 for a, b in sides)


def _triangle(shape: tuple[int, ...]) -> bool:
    """The pairs of three images or more, for one person or several."""
    return len(shape) in (1, 2) and _n_images(shape) >= _FEWEST


def _n_images(shape: tuple[int, ...]) -> int:
    """How many images an array is about; 0 if its shape is none that is read."""
    if _square(shape):
        return shape[1]
    if len(shape) not in (1, 2):
        return 0
    pairs = shape[0] if len(shape) == 2 and shape[1] == 1 else shape[-1]
    count = (1 + math.isqrt(1 + 8 * pairs)) // 2
    return count if count * (count - 1) // 2 == pairs else 0


def _check_size(shape: tuple[int, ...], where: str, most: int) -> None:
    if np.prod(shape, dtype=float) > most:
        raise DataError(f"{where} holds {_by(shape)} numbers: more than {most:,} are not read.")


def _stack(array: np.ndarray, where: str, most: int) -> np.ndarray:
    """(P, n, n) float64 of matrices, in either order, or triangles."""
    _check_size(array.shape, where, most)
    if not _square(array.shape):
        if _triangle(array.shape):
            return _unfolded(np.asarray(array, np.float64))
        raise DataError(
            f"{where} holds {_by(array.shape) or 'a single'} numbers, not a square matrix (n × n), one for each person "
            "(people × n × n), or the upper triangle of one (n (n - 1) / 2 numbers)."
        )
    if array.ndim == 2:
        return np.asarray(array, np.float64)[None]
    array = np.asarray(array, np.float64)
    last = np.moveaxis(array, 2, 0)
    if array.shape[1] != array.shape[2]:
        return last
    # As many people as images: the matrices are those that are symmetric.
    either = array.shape[0] == array.shape[1]
    return last if either and not _symmetric(array) and _symmetric(last) else array


def _unfolded(triangles: np.ndarray) -> np.ndarray:
    """(P, n, n) of upper triangles, row by row: (m,), (m, 1) or (P, m)."""
    count = _n_images(triangles.shape)
    rows, columns = np.triu_indices(count, 1)
    vectors = triangles.reshape(-1, len(rows))
    stack = np.zeros((len(vectors), count, count))
    stack[:, rows, columns] = stack[:, columns, rows] = vectors
    return stack


def _mirrored(matrix: np.ndarray) -> np.ndarray:
    """The matrix; its other half, too, where one half holds nothing but NaN."""
    upper = np.triu_indices(len(matrix), 1)
    missing = [np.isnan(half).sum() for half in (matrix[upper], matrix.T[upper])]
    if sorted(missing) != [0, len(upper[0])]:
        return matrix
    matrix = matrix.copy()
    if missing[0]:
        matrix[upper] = matrix.T[upper]
    else:
        matrix.T[upper] = matrix[upper]
    return matrix


def _symmetric(stack: np.ndarray) -> bool:
    return bool(np.allclose(stack, stack.transpose(0, 2, 1), _RELATIVE, equal_nan=True))


def _checked(stack: np.ndarray, file: str, n: int | None) -> np.ndarray:
    """The matrices, exactly symmetric and 0 on the diagonal.

    Raises:
        DataError: the first thing that is wrong, with its place; people and images are counted from 1.
    """
    size = stack.shape[1]
    if n is not None and size != n:
        raise DataError(f"{file} is about {size} pictures, and there are {n}.")
    if size < _FEWEST:
        raise DataError(f"{file} is about {size} pictures: at least {_FEWEST} are needed.")
    if not len(stack):
        raise DataError(f"{file} contains no matrices: its shape is {_by(stack.shape)}.")
    checked = []
    for person, matrix in enumerate(stack, start=1):
        where = f"{file}, person {person}" if len(stack) > 1 else file
        matrix = _mirrored(matrix).copy()
        itself = np.diag_indices(size)
        matrix[itself] = np.where(np.isnan(matrix[itself]), 0, matrix[itself])  # usual: not asked for
        if not np.isfinite(matrix).all():
            i, j = np.argwhere(~np.isfinite(matrix))[0]
            raise DataError(f"{where}: the dissimilarity of {_pair(i, j)} is {matrix[i, j]}, not a number.")
        largest = np.abs(matrix).max()
        diagonal = np.abs(matrix.diagonal())
        if diagonal.max() > _RELATIVE * largest:
            i = int(diagonal.argmax())
            raise DataError(
                f"{where}: the dissimilarity of picture {i + 1} to itself is {matrix[i, i]:g}, not 0. If these are "
                "similarities, take them from their largest value."
            )
        apart = np.abs(matrix - matrix.T)
        if apart.max() > _RELATIVE * largest:
            i, j = np.unravel_index(int(apart.argmax()), apart.shape)
            raise DataError(
                f"{where} is not symmetric: the dissimilarity of {_pair(i, j)} is {matrix[i, j]:g} one way and "
                f"{matrix[j, i]:g} the other."
            )
        matrix = matrix / 2 + matrix.T / 2
        np.fill_diagonal(matrix, 0)
        if np.ptp(matrix[np.triu_indices(size, 1)]) == 0:
            raise DataError(f"{where}: all pictures are equally dissimilar, which no network can match.")
        checked.append(matrix)
    return np.stack(checked)


def _pair(i: Any, j: Any) -> str:
    return f"pictures {i + 1} and {j + 1}"


def _by(shape: tuple[int, ...]) -> str:
    return " × ".join(f"{side:,}" for side in shape)
