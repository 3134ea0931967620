"""Measures of agreement between predictions and people's ratings, with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ais.metrics.bootstrap import with_ci
from ais.metrics.correlation import pearson, spearman, varies

MEASURES = ("plcc", "srcc", "krcc", "rmse", "mae")

_FEWEST = 3  # images of a category for which a correlation is told


def metrics(
    predicted: np.ndarray, rated: np.ndarray, groups: Sequence[str] | None = None
) -> dict[str, float]:
    """Agreement of N predictions with N ratings, in the measures of the field.

    Args:
        predicted, rated: (N,), in points of the rating scale.
        groups: N names; images of one group are resampled together.

    Returns:
        ``plcc`` (Pearson), ``srcc`` (Spearman), ``krcc`` (Kendall's tau-b), each 0 where one side does not
        vary; ``rmse`` and ``mae`` in points; and of each the 95 % interval, as ``plcc_low``, ``plcc_high``.

    Raises:
        DataError: fewer than two groups.
    """
    from scipy import stats  # here, since who only scores an image needs no SciPy

    predicted, rated = np.asarray(predicted, np.float64), np.asarray(rated, np.float64)

    def measure(rows: np.ndarray) -> list[float]:
        x, y = predicted[rows], rated[rows]
        return [
            pearson(x, y),
            spearman(x, y),
            float(stats.kendalltau(x, y).statistic) if varies(x, y) else 0.0,
            _rmse(x, y),
            float(np.mean(np.abs(x - y))),
        ]

    return with_ci(MEASURES, measure, _rows_of(groups, len(rated)))


def difference(
    predicted_a: np.ndarray,
    predicted_b: np.ndarray,
    rated: np.ndarray,
    groups: Sequence[str] | None = None,
) -> dict[str, float]:
    """How much better or worse predictions b are than a, on the same images: b's measure less a's.

    Both are measured on every resample (a paired bootstrap), so that what is hard for both cancels out.

    Args:
        predicted_a, predicted_b, rated: (N,), in points.
        groups: as in `metrics`.

    Returns:
        ``plcc``, above 0 where b agrees better; ``rmse`` in points, below 0 where b is nearer; and of each
        the 95 % interval, as ``plcc_low``, ``plcc_high``.

    Raises:
        DataError: fewer than two groups.
    """
    a, b, y = (np.asarray(values, np.float64) for values in (predicted_a, predicted_b, rated))

    def measure(rows: np.ndarray) -> list[float]:
        return [f(b[rows], y[rows]) - f(a[rows], y[rows]) for f in (pearson, _rmse)]

    return with_ci(("plcc", "rmse"), measure, _rows_of(groups, len(y)))


def _rows_of(groups: Sequence[str] | None, count: int) -> Sequence[str] | np.ndarray:
    """The groups to resample; without any, every image on its own."""
    return np.arange(count) if groups is None else groups


def _rmse(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.sqrt(np.mean((x - y) ** 2)))


def ceiling(ratings: np.ndarray, sd: np.ndarray, n: np.ndarray) -> float:
    """The highest PLCC that any predictor can be expected to reach: ``sqrt(reliability)`` of the mean ratings.

    The reliability is the share of their variance that other raters would give again: one less the mean
    squared standard error, ``sd² / n``, over the variance (that of a sample, with N - 1, since both parts are
    then without bias).

    Args:
        ratings, sd, n: (N,) mean, standard deviation and number of raters of each image.

    Returns:
        0 to 1; 0 where the raters' noise explains all of the variance.
    """
    spread = float(np.var(ratings, ddof=1))
    noise = float(np.mean(np.square(sd) / n))
    return math.sqrt(1 - noise / spread) if noise < spread else 0.0


def coverage(scores: np.ndarray, half_widths: np.ndarray, ratings: np.ndarray) -> float:
    """The share of the ratings that lie inside the scores' intervals; all (N,), in points."""
    return float(np.mean(np.abs(scores - ratings) <= half_widths))


def by_category(predicted: np.ndarray, rated: np.ndarray, categories: Sequence[str]) -> list[dict[str, Any]]:
    """The measures in every category, the one with the largest errors first.

    Args:
        predicted, rated: (N,), in points.
        categories: N names.

    Returns:
        For each category ``name``, ``pictures``, ``plcc`` (None under three images, which say nothing),
        ``rmse``, ``mae`` and ``bias``, the mean of predicted less rated, in points.
    """
    names, inverse = np.unique(categories, return_inverse=True)
    rows = []
    for number, name in enumerate(names):
        x, y = predicted[inverse == number], rated[inverse == number]
        rows.append(
            {
                "name": str(name),
                "pictures": len(x),
                "plcc": pearson(x, y) if len(x) >= _FEWEST else None,
                "rmse": _rmse(x, y),
                "mae": float(np.mean(np.abs(x - y))),
                "bias": float(np.mean(x - y)),
            }
        )
    return sorted(rows, key=lambda row: -row["rmse"])


def worst(predicted: np.ndarray, rated: np.ndarray, k: int = 10) -> np.ndarray:
    """The k images with the largest errors, as their places in the set, the worst first: (k,)."""
    return np.argsort(-np.abs(predicted - rated), kind="stable")[:k]
