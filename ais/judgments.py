"""People's dissimilarities of pictures, from a file or from one file a person."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import io

from ais.errors import DataError

SUFFIXES = (".npy", ".csv", ".mat")
_KINDS = ".npy, .csv or .mat"
_FEWEST = 3  # pictures: fewer have less than three pairs, which have no order to speak of
_LARGEST = (
    2**25
)  # numbers in one file, a quarter of a gigabyte as float64: a small .mat may unfold to as much
_RELATIVE = 1e-6  # of the largest dissimilarity: what a matrix written in single precision may be off


@dataclass(frozen=True)
class Judgments:
    """What P people said of the dissimilarity of each pair of n pictures.

    Attributes:
        rdms: (P, n, n) float64, symmetric, with a diagonal of 0.
    """

    rdms: np.ndarray

    def __len__(self) -> int:
        """P."""
        return len(self.rdms)

    @property
    def mean(self) -> np.ndarray:
        """(n, n), the mean over the people."""
        return self.rdms.mean(0)


def read_judgments(path: str | os.PathLike[str], n: int | None = None) -> Judgments:
    """Read and check dissimilarity matrices.

    Args:
        path: an ``.npy`` or ``.mat`` file with one square matrix or a stack of them, (P, n, n) or (n, n, P); a
            ``.csv`` file with one, with or without a line and a column of names; or a folder of such files, one
            for each person, taken in the order of their names.
        n: the number of pictures, rows and columns in their order; None takes what there is.

    Raises:
        DataError: it cannot be read, or is not n by n, finite, symmetric, 0 on the diagonal and varied beside it.
    """
    path = Path(path)
    files = [path]
    if path.is_dir():
        files = sorted(f for f in path.iterdir() if f.suffix.lower() in SUFFIXES and f.name[0] != ".")
        if not files:
            raise DataError(f"{path} holds no dissimilarity matrices: put one {_KINDS} file a person there.")
    stacks: list[np.ndarray] = []
    for file in files:
        stack = _checked(_stack(_read(file), file), file, n)
        if stacks and stack.shape[1] != stacks[0].shape[1]:
            raise DataError(
                f"{file} is about {stack.shape[1]} pictures and {files[0].name} about {stacks[0].shape[1]}: everybody "
                "has to judge the same pictures."
            )
        stacks.append(stack)
    return Judgments(np.concatenate(stacks))


def _read(file: Path) -> np.ndarray:
    """The numbers of a file, of any shape."""
    readers = {".npy": _read_npy, ".csv": _read_csv, ".mat": _read_mat}
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise DataError(f"{file} is not a dissimilarity matrix: give a {_KINDS} file.")
    try:
        return reader(file)
    except FileNotFoundError:
        raise DataError(f"There is no file {file}.") from None
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}.") from error


def _read_npy(file: Path) -> np.ndarray:
    try:
        # Mapped, a file that promises more than it holds is refused before anything is allocated.
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError(f"{file} is not an array that numpy.save wrote, or it is damaged.") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iuf":
        raise DataError(f"{file} does not hold an array of real numbers.")
    return array


def _read_mat(file: Path) -> np.ndarray:
    try:
        inside = io.whosmat(file, appendmat=False)
        found = [(name, shape) for name, shape, kind in inside if _square(shape) and kind not in _NOT_NUMBERS]
        if len(found) == 1 and np.prod(found[0][1], dtype=float) <= _LARGEST:
            array: Any = io.loadmat(file, appendmat=False, variable_names=[found[0][0]])[found[0][0]]
    except NotImplementedError:
        raise DataError(
            f"{file} is a MATLAB 7.3 file: save it anew with save('{file.name}', '-v7')."
        ) from None
    except OSError:
        raise
    except Exception as error:  # SciPy's reader raises what its parser stumbles over
        raise DataError(f"{file} is not a MATLAB file, or it is damaged.") from error
    names = ", ".join(name for name, *_ in inside) or "nothing"
    if not found:
        raise DataError(f"{file} has no square matrix or stack of them; it holds {names}.")
    if len(found) > 1:
        several = ", ".join(name for name, _ in found)
        raise DataError(f"{file} has several square matrices, {several}: save the one you mean alone.")
    _check_size(found[0][1], file)
    if np.iscomplexobj(array):
        raise DataError(f"{file}: {found[0][0]} holds complex numbers.")
    return np.asarray(array.toarray() if hasattr(array, "toarray") else array)


_NOT_NUMBERS = (
    "cell",
    "struct",
    "object",
    "char",
    "function",
    "opaque",
    "unknown",
)  # kinds of MATLAB's arrays


def _read_csv(file: Path) -> np.ndarray:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not text in UTF-8: save it as CSV, in UTF-8.") from error
    mark = max(",;\t", key=text.partition("\n")[0].count)
    try:
        reader = csv.reader(text.splitlines(), delimiter=mark)
        lines = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise DataError(f"{file} is not a table: {error}.") from error
    lines = [(number, row) for number, row in lines if any(row)]
    if not lines:
        raise DataError(f"{file} is empty.")
    width = len(lines[0][1])
    for number, row in lines:
        if len(row) != width:
            raise DataError(f"{file}, line {number}: {len(row)} cells, where the first line has {width}.")
    # Names may be numbers, too: then the shape, or an empty corner, tells them.
    height = len(lines)
    corner = _number(lines[0][1][0]) is None
    header = height == width + 1 or (corner and height == width) or _words(lines[0][1][1:])
    names = width == height + 1 or (corner and height == width) or _words(row[0] for _, row in lines[1:])
    values = np.empty((height - header, width - names))
    for i, (number, row) in enumerate(lines[header:]):
        for j, cell in enumerate(row[names:]):
            value = _number(cell)
            if value is None:
                shown = f"{cell[:20]!r} is not a number" if cell else "the cell is empty"
                raise DataError(f"{file}, line {number}, column {j + 1 + names}: {shown}.")
            values[i, j] = value
    return values


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _words(cells: Iterable[str]) -> bool:
    """Most of them are not numbers: a line or column of names, and not of values with one mistake."""
    wrong = [_number(cell) is None for cell in cells]
    return sum(wrong) > len(wrong) / 2


def _square(shape: tuple[int, ...]) -> bool:
    """A matrix or a stack of them, of more than one picture."""
    sides = {2: [shape[:2]], 3: [shape[1:], shape[:2]]}.get(len(shape), [])
    return any(a == b > 1 for a, b in sides)


def _check_size(shape: tuple[int, ...], file: Path) -> None:
    if np.prod(shape, dtype=float) > _LARGEST:
        raise DataError(f"{file} holds {_by(shape)} numbers: more than {_LARGEST:,} are not read.")


def _stack(array: np.ndarray, file: Path) -> np.ndarray:
    """(P, n, n) float64 of a matrix or a stack in either order."""
    _check_size(array.shape, file)
    if not _square(array.shape):
        raise DataError(
            f"{file} holds {_by(array.shape) or 'a single'} numbers, not a square matrix (n × n) or one for each "
            "person (people × n × n)."
        )
    if array.ndim == 2:
        return np.asarray(array, np.float64)[None]
    array = np.asarray(array, np.float64)
    last = np.moveaxis(array, 2, 0)
    if array.shape[1] != array.shape[2]:
        return last
    # As many people as pictures: the matrices are those that are symmetric.
    either = array.shape[0] == array.shape[1]
    return last if either and not _symmetric(array) and _symmetric(last) else array


def _symmetric(stack: np.ndarray) -> bool:
    return bool(np.allclose(stack, stack.transpose(0, 2, 1), _RELATIVE, equal_nan=True))


def _checked(stack: np.ndarray, file: Path, n: int | None) -> np.ndarray:
    """The matrices, exactly symmetric and 0 on the diagonal.

    Raises:
        DataError: the first thing that is wrong, with its place; people and pictures are counted from 1.
    """
    size = stack.shape[1]
    if n is not None and size != n:
        raise DataError(f"{file} is about {size} pictures, and there are {n}.")
    if size < _FEWEST:
        raise DataError(f"{file} is about {size} pictures: at least {_FEWEST} are needed.")
    if not len(stack):
        raise DataError(f"{file} is by nobody: its shape is {_by(stack.shape)}.")
    checked = []
    for person, matrix in enumerate(stack, start=1):
        where = f"{file}, person {person}" if len(stack) > 1 else str(file)
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
        matrix = (matrix + matrix.T) / 2
        np.fill_diagonal(matrix, 0)
        if np.ptp(matrix[np.triu_indices(size, 1)]) == 0:
            raise DataError(f"{where}: all pictures are equally dissimilar, which no network can match.")
        checked.append(matrix)
    return np.stack(checked)


def _pair(i: Any, j: Any) -> str:
    return f"pictures {i + 1} and {j + 1}"


def _by(shape: tuple[int, ...]) -> str:
    return " × ".join(f"{side:,}" for side in shape)
