"""Spearman's correlation of many rows with people's, where ranks must not hang on rounding.

Ranks are brittle: where two distances lie closer together than rounding can tell apart, SciPy's own are taken, so
that the scores are those of dropping the column and calling `scipy.spatial.distance.pdist`. Only two images with
the same embedding are 0 apart here, where SciPy leaves a last digit to chance: one such digit among a few pairs
would be worth as much as many a map.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np


def correlations(
    values: np.ndarray,
    human: np.ndarray,
    pairs: np.ndarray,
    tolerance: np.ndarray,
    exact: Callable[[int, np.ndarray], np.ndarray],
) -> np.ndarray:
    """Spearman's correlation of R rows of K numbers with people's: (R,), 0 where a row does not vary.

    Row r belongs to people's row r % Q. Numbers closer than the tolerance are neither put in an order nor tied by
    what may be rounding: they are the same pair of embeddings, and tie; or their exact values are asked for.

    Args:
        values: (R, K). tolerance: (R,).
        human: (Q, K), as `ais.metrics.correlation.unit_ranks`.
        pairs: (Q, K), as `ais.rsa.importance.LeaveOneOutDistances.pairs`.
        exact: a row and (k,) places in it -> (k,) values of which only the order among near ones counts.
    """
    people, count = human.shape
    order = values.argsort(axis=1)
    gaps = np.diff(np.take_along_axis(values, order, axis=1), axis=1)
    first = (np.arange(len(values)) % people * count)[:, None]
    told = human.ravel()[order + first]
    ranks = np.arange(count) - (count - 1) / 2
    found = (told * ranks).sum(1) / math.sqrt(ranks @ ranks)
    for row in np.flatnonzero(gaps.min(axis=1) <= tolerance):
        places = order[row]
        close = gaps[row] <= tolerance[row]
        others = np.diff(pairs[row % people, places]) != 0
        run = np.concatenate([[0], np.cumsum(~close)])  # the number of each run of close neighbours
        mixed = np.zeros(count, bool)
        mixed[run[1:][close & others]] = True
        asked = np.flatnonzero(mixed[run])
        known = np.zeros(count)
        if len(asked):
            known[asked] = exact(int(row), places[asked])
            sorted_in_runs = asked[np.lexsort((known[asked], run[asked]))]
            places[asked], known[asked] = places[sorted_in_runs], known[sorted_in_runs]
        group = np.concatenate([[0], np.cumsum(~(close & (np.diff(known) == 0)))])
        sizes = np.bincount(group)
        tied = (np.cumsum(sizes) - (sizes + 1) / 2 - (count - 1) / 2)[group]
        length = math.sqrt(tied @ tied)
        found[row] = human[row % people, places] @ tied / length if length else 0.0
    return found
