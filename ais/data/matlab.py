"""Lists of strings in MATLAB's files, such as the names of a matrix's rows, wherever they lie."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import io

_KINDS = ("cell", "char", "struct")

_MOST = 2**22  # cells of one variable


def lists_of_strings(
    file: Path, variables: Sequence[tuple[str, tuple[int, ...], str]]
) -> dict[str, list[str]]:
    """All lists of strings of a file, by their places, such as ``info.stimuli``.

    They are cells, lines of characters, or one field of the elements of a structure, in variables of any name or in
    cells and structures within them. What cannot be read is passed over.

    Args:
        variables: as `scipy.io.whosmat` gives them.
    """
    names = [name for name, shape, kind in variables if kind in _KINDS and math.prod(shape) <= _MOST]
    content = _loaded(file, names)
    if content is None:  # one of them is at fault
        content = {key: value for name in names for key, value in (_loaded(file, [name]) or {}).items()}
    return {
        where: words for name in names if name in content for where, words in _within(name, content[name])
    }


def _loaded(file: Path, names: list[str]) -> dict[str, Any] | None:
    if not names:
        return {}
    try:
        return dict(io.loadmat(file, appendmat=False, variable_names=names))
    except OSError:
        raise
    except Exception:  # SciPy's reader raises what its parser stumbles over
        return None


def _within(name: str, value: Any) -> Iterator[tuple[str, list[str]]]:
    todo = [(name, value)]
    while todo:
        where, value = todo.pop(0)
        if not isinstance(value, np.ndarray):
            continue
        if value.dtype.names:
            todo += [(f"{where}.{field}", value[field]) for field in value.dtype.names]
        elif value.dtype.kind in "OU":
            values = value.ravel().tolist()
            words = [_string(one) for one in values]
            if None not in words:
                yield where, [word for word in words if word is not None]
            elif value.dtype.kind == "O":
                todo += [(f"{where}{{{i}}}", one) for i, one in enumerate(values, start=1)]


def _string(value: Any) -> str | None:
    """The string of a cell, or of a line of characters."""
    inner = np.asarray(value).ravel().tolist() if not isinstance(value, str) else [value]
    return inner[0].strip() if len(inner) == 1 and isinstance(inner[0], str) else None
