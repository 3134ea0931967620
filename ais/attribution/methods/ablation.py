"""The AIS heatmap: feature maps weighted by their importance."""

from __future__ import annotations

from torch import Tensor

from ais.attribution.grids import Grids, points_grid, relative_grid
from ais.backbones.frozen import Features, FrozenBackbone
from ais.heads.regression import RegressionHead


def ablation(
    backbone: FrozenBackbone, head: RegressionHead, image: Tensor, features: Features, importance: Tensor
) -> Grids:
    """The AIS heatmap: the importance-weighted sum of the feature maps.

    Args:
        image: (1, 3, H, W), the network's input.
        features: of that image.
        importance: (C,).

    Returns:
        A grid (h, w) for every scale.
    """
    maps = features.maps[0]
    return {"relative": relative_grid(maps, importance), "points": points_grid(maps, importance)}
