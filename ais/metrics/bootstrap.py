"""How well predictions match people's ratings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats

from ais.errors import DataError

_RESAMPLES = 1000

_LEVEL = 0.95


def with_interval(
    names: Sequence[str], measure: Callable[[np.ndarray], Sequence[float]], groups: Sequence[Any] | np.ndarray
) -> dict[str, float]:
    """Measures of N rows with their 95 % bootstrap intervals (percentile method), resampling whole groups.

    Pictures of one theme are not independent: an interval that resamples them one by one is too narrow.

    Args:
        names: of the measures.
        measure: rows, integers of any number with repeats -> a value for each name.
        groups: (N,), which rows belong together.

    Returns:
        For each name the value on all rows, and ``name_low`` and ``name_high``; the same on every call.

    Raises:
        DataError: fewer than two groups, which say nothing of how other groups would do.
    """
    kinds, inverse = np.unique(np.asarray(groups), return_inverse=True)
    if len(kinds) < 2:
        raise DataError(
            "An interval takes at least two groups of pictures to compare: give more pictures, or leave the "
            "groups out."
        )
    members = np.split(np.argsort(inverse, kind="stable"), np.cumsum(np.bincount(inverse))[:-1])
    interval = stats.bootstrap(
        (np.arange(len(members)),),
        lambda drawn: np.array(measure(np.concatenate([members[group] for group in drawn]))),
        n_resamples=_RESAMPLES,
        vectorized=False,
        confidence_level=_LEVEL,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    values = measure(np.arange(len(inverse)))
    return {
        f"{name}{end}": float(value)
        for name, *ends in zip(names, values, interval.low, interval.high, strict=True)
        for end, value in zip(("", "_low", "_high"), ends, strict=True)
    }


def _groups(groups: Sequence[str] | None, count: int) -> Sequence[str] | np.ndarray:
    """Every picture on its own where no groups are known."""
    return np.arange(count) if groups is None else groups
