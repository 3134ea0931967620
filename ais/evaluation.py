"""How well predictions match people's ratings."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from ais.heads import Interval

_RESAMPLES = 2000


def metrics(
    predicted: np.ndarray, rated: np.ndarray, groups: Sequence[str] | None = None
) -> dict[str, float]:
    """Agreement of N predictions with N ratings, in the measures of the field.

    Args:
        predicted, rated: (N,), in points of the rating scale.
        groups: N names; pictures of one group are resampled together.

    Returns:
        ``plcc`` (Pearson), ``srcc`` (Spearman), ``krcc`` (Kendall's tau-b), each 0 where one side does not
        vary; ``rmse`` and ``mae`` in points; ``plcc_low`` and ``plcc_high``, the 95 % interval.
    """
    predicted, rated = np.asarray(predicted, np.float64), np.asarray(rated, np.float64)
    error = predicted - rated
    varies = np.ptp(predicted) > 0 and np.ptp(rated) > 0
    low, high = plcc_interval(predicted, rated, groups)
    return {
        "plcc": float(stats.pearsonr(predicted, rated).statistic) if varies else 0.0,
        "plcc_low": low,
        "plcc_high": high,
        "srcc": float(stats.spearmanr(predicted, rated).statistic) if varies else 0.0,
        "krcc": float(stats.kendalltau(predicted, rated).statistic) if varies else 0.0,
        "rmse": float(np.sqrt(np.mean(error**2))),
        "mae": float(np.mean(np.abs(error))),
    }


def plcc_interval(
    predicted: np.ndarray,
    rated: np.ndarray,
    groups: Sequence[str] | None = None,
    *,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Bootstrap interval of the Pearson correlation (percentile method), resampling whole groups.

    Pictures of one theme are not independent: an interval that resamples them one by one is too narrow.

    Args:
        predicted, rated: (N,).
        groups: N names, or None for every picture on its own.
        level: the share of resamples inside.
    """
    x, y = predicted - np.mean(predicted), rated - np.mean(rated)
    names = np.arange(len(x)) if groups is None else np.unique(groups, return_inverse=True)[1]
    count = int(names.max()) + 1
    # A correlation needs only six sums, and the sums of a resample are those of its groups.
    terms = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)  # (N, 6)
    sums = np.zeros((count, terms.shape[1]))
    np.add.at(sums, names, terms)
    times = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=_RESAMPLES)
    n, sx, sy, sxx, syy, sxy = (times @ sums).T  # each (resamples,)
    spread = np.maximum((n * sxx - sx**2) * (n * syy - sy**2), 0.0)
    plcc = np.divide(n * sxy - sx * sy, np.sqrt(spread), out=np.zeros_like(n), where=spread > 0)
    low, high = np.quantile(plcc, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def calibrate(scores: np.ndarray, ratings: np.ndarray, level: float = 0.9) -> Interval:
    """The interval's width such that `level` of the held-out ratings lie inside.

    As in split conformal prediction: each error, in units of the width that the picture would get with a
    factor of 1, and of these the quantile with its correction for a finite sample. The folds' heads stand in
    for the final one, which has seen a little more. `RegressionHead.interval` is the other half of this.

    Args:
        scores: (N, K) out of fold.
        ratings: (N,).
    """
    error = scores.mean(1) - ratings
    rmse = float(np.sqrt(np.mean(error**2)))
    widths = np.sqrt(rmse**2 + scores.var(1))
    rank = min(len(error), math.ceil((len(error) + 1) * level))
    return Interval(level, rmse, float(np.sort(np.abs(error) / widths)[rank - 1]))
