"""`CRITERIA`, the registry of ways to choose the feature maps that are pruned, for `ais prune`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ais.lazy import LazyFunction

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from ais.heads.regression import RegressionHead
    from ais.progress import Progress


@dataclass(frozen=True, eq=False)
class ScoredFold:
    """Images, and the head that may score them: one that was trained on none of them.

    A set of images is a list of these: one for every fold with the fold's own head, or a single one.

    Attributes:
        embedding: (N, D). delta: (N, C), as `ais.backbones.frozen.Features.delta`. Both on the head's device.
        ratings: (N,), in points.
        groups: N names; images of one group are resampled together.
    """

    head: RegressionHead
    embedding: Tensor
    delta: Tensor
    ratings: np.ndarray
    groups: Sequence[str]


@dataclass(frozen=True)
class Criterion:
    """One way to choose maps.

    Attributes:
        about: a sentence for a list.
        choose: scored folds, embedding slice and progress -> (C,) bool, False for the maps to prune. It is imported
            when it is called.
    """

    about: str
    choose: Callable[[Sequence[ScoredFold], range, Progress | None], Tensor]


CRITERIA: dict[str, Criterion] = {
    "greedy": Criterion(
        "Map after map, the most harmful first, where that lowers the error.",
        LazyFunction("ais.training.pruning", "greedy"),
    ),
    "negative": Criterion(
        "All maps that harm on average.", LazyFunction("ais.training.pruning", "negative_impact")
    ),
}
