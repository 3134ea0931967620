"""Which strategy of transfer learning fits a rated set: by its size, and by what the backbone knows of it.

How alike a set and what the backbone learnt from are shows in how far the frozen embedding already predicts
the ratings. A linear read-out is the measure, since it can use only what the embedding says openly; its
correlation is taken as a share of the ceiling, which people's own disagreement sets.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ais.data.splits import grouped_folds
from ais.errors import DataError
from ais.torch_state import own_state
from ais.training.mlp import fit_projection
from ais.training.strategies import STRATEGIES

Size = Literal["very small", "small", "medium", "large"]

Knowledge = Literal["most", "part", "little"]

# Below 1,000 images even the last blocks, with their hundreds of thousands of weights, overfit; from 1,000 to 10,000
# is the usual size of a rated set; with COCO's 118,000, networks that began with random weights came to be as good as
# pretrained ones (He et al. 2019, arXiv 1811.08883).
SMALL, MEDIUM, LARGE = 1_000, 10_000, 100_000  # pictures, at least

# Shares of the ceiling. A correlation of 0.7 is half of the variance that can be explained at all, so the
# backbone knows more of it than it lacks; 0.3 is less than a tenth of it.
MOST, PART = 0.7, 0.3

_FOLDS = 5

_FEWEST_IMAGES, _FEWEST_GROUPS = 20, 4

_PENALTIES = 10.0 ** np.arange(-3, 4)  # times the mean eigenvalue of the Gram matrix

_TABLE: dict[Size, dict[Knowledge, str]] = {
    "very small": {"most": "head", "part": "head", "little": "head"},
    "small": {"most": "head", "part": "last-k", "little": "last-k"},
    "medium": {"most": "head-then-all", "part": "head-then-all", "little": "layerwise"},
    "large": {"most": "head-then-all", "part": "layerwise", "little": "scratch"},
}

_KNOWS: dict[Knowledge, str] = {
    "most": "most of what matters here",
    "part": "a part of what matters here",
    "little": "little of what matters here",
}

_WARNINGS: dict[Size, str] = {
    "very small": (
        "Warning: the head can only use what the backbone knows. Try other backbones, or collect more pictures. "
        "`last-k` may gain a little or lose it: compare on the same folds before you rely on it."
    ),
    "small": (
        "Warning: with so few pictures tuning may help little. Compare with `head` on the same folds before "
        "you rely on it."
    ),
}


@dataclass(frozen=True)
class Advice:
    """A strategy for a set, and why.

    Attributes:
        strategy: a key of `ais.training.strategies.STRATEGIES`.
        pictures: how many the set has.
        size: what that is called.
        similarity: `plcc` as a share of the ceiling, in 0 to 1.
        ceiling: the highest PLCC that any prediction can reach; 1 where it is not known.
        plcc: of the linear read-out, out of fold.
        reasons: sentences, in the order of the thought; a warning, where there is one, comes last.
    """

    strategy: str
    pictures: int
    size: Size
    similarity: float
    ceiling: float
    plcc: float
    reasons: list[str]


@own_state()
def advise(
    embedding: Tensor,
    ratings: np.ndarray,
    groups: Sequence[str] | None,
    ceiling: float | None,
    seed: int = 0,
) -> Advice:
    """Which strategy fits a set.

    Args:
        embedding: (N, D), by the frozen backbone.
        ratings: (N,).
        groups: N names, pictures of one group are predicted together; None for each picture on its own.
        ceiling: the highest PLCC that any prediction can reach, or None where it is not known.
        seed: of the folds.

    Raises:
        DataError: too few pictures or groups, ratings all the same, a ceiling that is not in 0 to 1.
    """
    count = len(embedding)
    names = [str(i) for i in range(count)] if groups is None else list(groups)
    if count < _FEWEST_IMAGES or len(set(names)) < _FEWEST_GROUPS:
        raise DataError(
            f"{count} pictures in {len(set(names))} groups are too few to judge by: it takes at least "
            f"{_FEWEST_IMAGES} pictures in {_FEWEST_GROUPS} groups."
        )
    if np.ptp(ratings) == 0:
        raise DataError(f"All ratings are {ratings[0]:g}: there is nothing to learn from.")
    if ceiling is not None and not 0 < ceiling <= 1:
        raise DataError(f"A ceiling of {ceiling:g} is no correlation to reach: it lies between 0 and 1.")
    predicted = ridge_out_of_fold(embedding, ratings, names, seed)
    varies = np.ptp(predicted) > 0
    plcc = float(np.corrcoef(predicted, ratings)[0, 1]) if varies else 0.0
    similarity = min(max(plcc / (ceiling or 1), 0.0), 1.0)
    size: Size = (
        "very small"
        if count < SMALL
        else "small"
        if count < MEDIUM
        else "medium"
        if count < LARGE
        else "large"
    )
    knows: Knowledge = "most" if similarity >= MOST else "part" if similarity >= PART else "little"
    strategy = _TABLE[size][knows]
    limit = f"the ceiling of {ceiling:.2f}" if ceiling else "a perfect prediction (the ceiling is not known)"
    reasons = [
        f"The set is {size}: it has {count:,} pictures.",
        f"The backbone knows {_KNOWS[knows]}: a linear read-out of its embedding predicts the ratings of pictures "
        f"it has not seen with a PLCC of {plcc:.2f}, {similarity:.0%} of {limit}.",
        STRATEGIES[strategy].why,
    ]
    if size in _WARNINGS and knows != "most":
        reasons.append(_WARNINGS[size])
    return Advice(strategy, count, size, similarity, ceiling or 1.0, plcc, reasons)


def ridge_out_of_fold(
    embedding: Tensor, ratings: np.ndarray, groups: Sequence[str], seed: int = 0
) -> np.ndarray:
    """Ratings of N pictures, (N,) float64, each by a linear ridge that never saw its group.

    Each fold's penalty is the best of a grid in a cross-validation within the other folds. Every Gram matrix
    is a sum of the folds' own, so that the pictures are gone through once.

    Args:
        embedding: (N, D).
        ratings: (N,).
        groups: N names, four or more of them different.
    """
    folds = grouped_folds(groups, min(_FOLDS, len(set(groups))), seed)
    rows = [torch.from_numpy(np.flatnonzero(folds == fold)) for fold in range(int(folds.max()) + 1)]
    x = embedding.detach().cpu()
    # A rotation to no more coordinates than there are pictures, which leaves a ridge the same.
    x = fit_projection(x, min(x.shape))(x).double()
    x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)  # (N, R + 1): the sums come along in the Gram matrix
    y = torch.from_numpy(np.asarray(ratings, np.float64))
    grams = torch.stack([x[of_fold].T @ x[of_fold] for of_fold in rows])
    moments = torch.stack([x[of_fold].T @ y[of_fold] for of_fold in rows])

    def fit(*without: int) -> Tensor:
        """The weights for each of L penalties, (R + 1, L), by all folds but some; the last one is the constant."""
        kept = [fold for fold in range(len(rows)) if fold not in without]
        gram, moment = grams[kept].sum(0), moments[kept].sum(0)
        penalised = torch.ones(len(gram), dtype=gram.dtype)
        penalised[-1] = 0  # a constant costs nothing
        unit = gram.diagonal()[:-1].mean()
        ridges = [gram + torch.diag(penalised * (penalty * unit)) for penalty in _PENALTIES]
        return torch.stack([torch.linalg.solve(ridge, moment) for ridge in ridges], dim=1)

    errors = torch.zeros(len(rows), len(_PENALTIES), dtype=x.dtype)
    for a, b in itertools.combinations(range(len(rows)), 2):
        weights = fit(a, b)  # serves both: b within the folds that a is not of, and a within those of b
        errors[a] += (x[rows[b]] @ weights - y[rows[b], None]).square().sum(0)
        errors[b] += (x[rows[a]] @ weights - y[rows[a], None]).square().sum(0)
    predicted = torch.empty_like(y)
    for fold, of_fold in enumerate(rows):
        predicted[of_fold] = x[of_fold] @ fit(fold)[:, errors[fold].argmin()]
    return predicted.numpy()
