"""How well predictions match people's ratings."""

from __future__ import annotations

import math

import numpy as np

from ais.heads.config import Interval


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
