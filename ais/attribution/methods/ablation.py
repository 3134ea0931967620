"""Heatmaps: from maps and their importance to a grid, and from a grid to colours on the picture.

A grid is signed, (h, w), with a true zero: positive where the picture's score comes from, negative where it
is lost. It exists on two scales: ``relative``, in [-1, 1], and ``points``, in points of the rating scale. On the
picture there is a third, ``density``: the points of the cells shared out to their pixels.
`METHODS` is the registry of ways to make one; all share the signature of `ablation`.
"""

from __future__ import annotations

from torch import Tensor

from ais.attribution.grids import Grids, points_grid, relative_grid
from ais.backbones.frozen import Features, FrozenBackbone
from ais.heads.regression import RegressionHead


def ablation(
    backbone: FrozenBackbone, head: RegressionHead, picture: Tensor, features: Features, importance: Tensor
) -> Grids:
    """The AIS heatmap: the importance-weighted sum of the feature maps.

    Args:
        picture: (1, 3, H, W), the network's input.
        features: of that picture.
        importance: (C,).

    Returns:
        A grid (h, w) for every scale.
    """
    maps = features.maps[0]
    return {"relative": relative_grid(maps, importance), "points": points_grid(maps, importance)}
