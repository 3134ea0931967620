"""Confidence intervals by the bootstrap (percentile method)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ais.errors import DataError

_RESAMPLES = 1000

_LEVEL = 0.95


def bootstrap_ci(
    measure: Callable[[np.ndarray], Sequence[float] | np.ndarray],
    groups: Sequence[Any] | np.ndarray,
    *,
    resamples: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % confidence intervals of M measures of N rows, resampling whole groups with replacement.

    Images of one theme are not independent: an interval that resamples them one by one is too narrow. A difference
    of two measures of the same rows makes it a paired bootstrap.

    Args:
        measure: rows, integers of any number with repeats -> M values.
        groups: (N,), which rows belong together; all different to resample single rows.
        resamples: how many; None for 1,000.

    Returns:
        (M,) lower ends and (M,) upper ends; the same on every call.

    Raises:
        DataError: fewer than two groups, which say nothing of how other groups would do.
    """
    names, inverse = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < 2:
        raise DataError(
            "An interval takes at least two groups of pictures to compare: give more pictures, or leave the "
            "groups out."
        )
    members = np.split(np.argsort(inverse, kind="stable"), np.cumsum(np.bincount(inverse))[:-1])
    size = (resamples or _RESAMPLES, len(members))
    drawn = np.random.default_rng(0).integers(0, len(members), size)
    values = np.array([measure(np.concatenate([members[group] for group in row])) for row in drawn])
    low, high = np.quantile(values, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2], axis=0)
    return low, high


def mean_ci(values: Sequence[float] | np.ndarray, *, resamples: int | None = None) -> tuple[float, float]:
    """The 95 % confidence interval of the mean of N values, (N,).

    Raises:
        DataError: fewer than two values.
    """
    data = np.asarray(values, np.float64)
    low, high = bootstrap_ci(lambda rows: [data[rows].mean()], np.arange(len(data)), resamples=resamples)
    return float(low[0]), float(high[0])


def with_ci(
    names: Sequence[str],
    measure: Callable[[np.ndarray], Sequence[float] | np.ndarray],
    groups: Sequence[Any] | np.ndarray,
) -> dict[str, float]:
    """Named measures of N rows with their intervals by `bootstrap_ci`.

    Args:
        names: M, of the measures. measure, groups: as there.

    Returns:
        For each name the value on all rows, and ``name_low`` and ``name_high``.

    Raises:
        DataError: fewer than two groups.
    """
    low, high = bootstrap_ci(measure, groups)
    values = measure(np.arange(len(groups)))
    return {
        f"{name}{end}": float(value)
        for name, *three in zip(names, values, low, high, strict=True)
        for end, value in zip(("", "_low", "_high"), three, strict=True)
    }
