"""Combining members, each a head on a backbone of its own: how much each counts, and their grids on one grid.

Stacked regression: Breiman, "Stacked regressions", Machine Learning 24 (1996); as the super learner: van der
Laan, Polley & Hubbard, Stat. Appl. Genet. Mol. Biol. 6 (2007). Pure mathematics on arrays.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import nnls

from ais.errors import DataError

# From 1 to 30 makes no difference to speak of for members that are all good; far less does not share weight between
# twins, and far more gives a useless member an even share.
RIDGE = 10.0


def fit_stack(scores: np.ndarray, ratings: np.ndarray, ridge: float = RIDGE) -> tuple[np.ndarray, float]:
    """Weights of M members, none negative, and an intercept, such that ``scores @ weights + intercept``
    comes close to the ratings.

    Least squares with a ridge that pulls the weights towards one another, whatever their sum is: members predict
    the same thing and so resemble one another, which leaves the differences between their weights
    ill-determined, while the sum is well-determined (and above 1 where each member alone is too cautious). What
    the ratings do not decide stays an even share, and few ratings give the mean of the members, on the ratings'
    scale. Negative weights, which would let one member correct another by chance, are ruled out (Breiman's
    condition).

    The ridge is ``ridge * M**2 * v`` with v the members' mean variance, so that neither the scale nor the number
    of the members matters: at 1 it says that before any rating a weight lies within one share (1/M) of an even
    one, where what remains unexplained is as large as v. It counts as much as ``ridge * M**2`` pictures.

    Args:
        scores: (N, M), of pictures that the members had not seen, in points.
        ratings: (N,).

    Returns:
        weights (M,) float64, intercept.

    Raises:
        DataError: the members' scores do not vary, or no member helps.
    """
    scores, ratings = np.asarray(scores, np.float64), np.asarray(ratings, np.float64)
    members = scores.shape[1]
    centre, mean = scores.mean(0), float(ratings.mean())
    variance = float(scores.var(0).mean())
    if variance == 0:
        raise DataError("No member's score differs between the pictures: there is nothing to combine.")
    pull = members * np.sqrt(ridge * variance) * (np.eye(members) - 1 / members)
    system = np.concatenate([scores - centre, pull])  # (N + M, M)
    weights, _ = nnls(system, np.concatenate([ratings - mean, np.zeros(members)]))
    if not weights.any():
        raise DataError(
            "No member's scores rise with the ratings, so there is nothing to combine. Train the members on more "
            "pictures, or with other backbones."
        )
    return weights, mean - float(centre @ weights)


def cross_fitted(
    scores: np.ndarray, ratings: np.ndarray, folds: np.ndarray, ridge: float = RIDGE
) -> np.ndarray:
    """The stack's predictions, each with weights fitted on the other folds.

    Args:
        scores: (N, ..., M), out of fold: of M members, or of as many variants of each; the weights are fitted on the
            variants' mean.
        ratings: (N,). folds: (N,) the fold of each picture.

    Returns:
        (N, ...).

    Raises:
        DataError: as `fit_stack`, or there is only one fold.
    """
    scores, folds = np.asarray(scores, np.float64), np.asarray(folds)
    means = scores.reshape(len(scores), -1, scores.shape[-1]).mean(1)  # (N, M)
    predicted = np.empty(scores.shape[:-1])
    for fold, (weights, intercept) in fold_stacks(means, ratings, folds, ridge).items():
        held = folds == fold
        predicted[held] = scores[held] @ weights + intercept
    return predicted


def fold_stacks(
    scores: np.ndarray, ratings: np.ndarray, folds: np.ndarray, ridge: float = RIDGE
) -> dict[int, tuple[np.ndarray, float]]:
    """For each fold the weights and the intercept that `fit_stack` finds on the others.

    Args:
        scores: (N, M), out of fold. ratings, folds: (N,).

    Raises:
        DataError: as `cross_fitted`.
    """
    names = np.unique(folds)
    if len(names) < 2:
        raise DataError("All pictures are in one fold: none are left to fit the members' weights on.")
    return {int(fold): fit_stack(scores[folds != fold], ratings[folds != fold], ridge) for fold in names}
