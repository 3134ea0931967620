"""A folder of rated images, in the ImageFolder convention: ``metadata.csv`` with a column ``file_name``.

The other columns are up to the folder's maker: one is the rating to learn, one may name the group of each
image (a theme, an author, a scene) that must never be shared between training and testing. The table may have
another name, format (see `ais.data.tables`) and column of images; what is guessed of these is said on the log.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def grouped_folds(groups: Sequence[str], folds: int, seed: int) -> np.ndarray:
    """The fold of each of N images, (N,); no group is in two, and the folds are of about one size."""
    names, index, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(-sizes[order], kind="stable")]  # the largest first, ties by chance
    fold_of = np.empty(len(names), dtype=np.int64)
    load = np.zeros(folds, dtype=np.int64)
    for name in order:
        fold_of[name] = load.argmin()
        load[fold_of[name]] += sizes[name]
    return fold_of[index]


def grouped_split(groups: Sequence[str], share: float, seed: int) -> np.ndarray:
    """Whole groups drawn until they hold `share` of the images: (N,) True for these.

    A group of more than half the share is passed over where it would overshoot by more than is missing, so
    that one large group does not make most of the set; at least one group is drawn, and one is not.
    """
    names, index, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    wanted = share * len(index)
    drawn: list[int] = []
    held = 0
    for name in order:
        if held >= wanted or len(drawn) == len(names) - 1:
            break
        size = sizes[name]
        if size > wanted / 2 and held + size - wanted > wanted - held:
            continue
        drawn.append(name)
        held += size
    return np.isin(index, drawn or order[:1])
