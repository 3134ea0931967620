"""The AIS heatmap: feature maps weighted by their importance."""

from __future__ import annotations

from torch import Tensor

from ais.attribution.drawing import Drawing
from ais.attribution.forward import ForwardPass
from ais.attribution.grids import points_grid, weighted_maps


def ablation(forward_pass: ForwardPass, importance: Tensor) -> Drawing:
    """The AIS heatmap: the importance-weighted sum of the feature maps.

    Args:
        importance: (V, C).
    """
    maps = forward_pass.features.maps[0]
    return Drawing(points_grid(maps, importance), weighted_maps(maps, importance))
