"""Grids: from maps and their importance to the places of an image.

A grid is signed, (h, w), with a true zero: positive where the image's score comes from, negative where it is lost. It
exists on two scales: ``relative``, in [-1, 1], and ``points``, in points of the rating scale. On the image there is a
third, ``density``: the points of the cells shared out to their pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Scale = Literal["relative", "points", "density"]

SCALES: tuple[Scale, ...] = ("relative", "points")  # of a grid

IMAGE_SCALES: tuple[Scale, ...] = (*SCALES, "density")  # of a heatmap on the image


def weighted_maps(maps: Tensor, importance: Tensor) -> Tensor:
    """``H = sum_c w_c ReLU(A_c)``.

    Args:
        maps: (C, h, w).
        importance: (..., C).

    Returns:
        (..., h, w).
    """
    return (importance @ maps.relu().flatten(1)).unflatten(-1, maps.shape[1:])


def relative_grid(maps: Tensor, importance: Tensor) -> Tensor:
    """``H = sum_c w_c ReLU(A_c)``, divided by its largest absolute value.

    Args:
        maps: (C, h, w).
        importance: (C,).

    Returns:
        (h, w) in [-1, 1]; 0 everywhere if H is.
    """
    return to_unit(weighted_maps(maps, importance)[None])[0]


def points_grid(maps: Tensor, importance: Tensor) -> Tensor:
    """Each map's importance spread over its own positive activation, evenly where it has none.

    Args:
        maps: (C, h, w).
        importance: (..., C), in points.

    Returns:
        (..., h, w); what each cell is worth, in points. The cells sum to the sum of the importances.
    """
    import torch  # here, so that the scales can be listed without it

    active = maps.relu().flatten(1)
    peak = active.amax(1, keepdim=True)  # divided by first, so that no sum of tiny or of huge values is lost
    active = active / torch.where(peak > 0, peak, 1)
    share = active / torch.where(peak > 0, active.sum(1, keepdim=True), 1)
    evenly = torch.where(peak[:, 0] > 0, 0, importance).sum(-1, keepdim=True) / active.shape[1]
    return (importance @ share + evenly).unflatten(-1, maps.shape[1:])


def to_unit(grids: Tensor) -> Tensor:
    """The variants' grids (V, h, w) divided by the largest absolute value of their mean; as they are if that is 0."""
    largest = grids.mean(0).abs().max()
    return grids / largest if largest > 0 else grids


def fine_mean(coarse: Tensor, finer: Tensor) -> Tensor:
    """The mean of the grids at two sizes of the network's input, on the finer grid.

    Args:
        coarse: (V, h, w), finer: (V, H, W); each as `to_unit` makes it.

    Returns:
        (V, H, W), made by `to_unit`, too.
    """
    from torch.nn.functional import interpolate

    return to_unit(interpolate(coarse[None], finer.shape[-2:], mode="bilinear")[0] + finer)


def resample(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Grids of one image on another number of cells, by area.

    Each new cell is the mean of the cells that it overlaps, weighted by the overlap, so the mean over the
    image stays as it is. A grid in points per cell keeps its **sum** when the result is multiplied by
    ``(h * w) / (H * W)``, because a cell of another size is worth its share.

    Args:
        values: (..., h, w).
        shape: (H, W).

    Returns:
        (..., H, W) float64.
    """
    rows, columns = (_overlap(old, new) for old, new in zip(values.shape[-2:], shape, strict=True))
    return rows @ values @ columns.T


def combine_points(grids: Sequence[np.ndarray], weights: Sequence[float], per_cell: bool) -> np.ndarray:
    """The weighted sum of the members' grids on the finest of them, the one with the most cells.

    Args:
        grids: of each member, (..., h_m, w_m); all of the same part of the image.
        weights: of each member.
        per_cell: the values are points a cell is worth: the sum over the result is the weighted sum of
            the members' sums. Else they have no area, and a constant stays what it is.

    Returns:
        (..., H, W) float64.
    """
    shape = max((grid.shape[-2:] for grid in grids), key=math.prod)
    combined = np.zeros(shape)
    for grid, weight in zip(grids, weights, strict=True):
        share = math.prod(grid.shape[-2:]) / math.prod(shape) if per_cell else 1.0
        combined = combined + weight * share * resample(grid, shape)
    return combined


def _overlap(old: int, new: int) -> np.ndarray:
    """The share of each of `new` equal parts of a line that lies in each of `old` equal parts: (new, old)."""
    # In units of 1 / (old * new) of the line all edges are whole numbers, so the shares are exact.
    starts, others = np.arange(new)[:, None] * old, np.arange(old)[None] * new
    common = np.minimum(starts + old, others + new) - np.maximum(starts, others)
    return np.maximum(common, 0) / old
