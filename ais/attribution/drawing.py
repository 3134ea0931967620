"""`Drawing`: what a method gives, a grid for each of a head's variants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ais.attribution.grids import combine_points

if TYPE_CHECKING:  # methods are listed without PyTorch
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Drawing:
    """Where the score of one head on one backbone comes from, by each of its variants; the map is their mean.

    Attributes:
        points: (V, h, w) of V variants, in points; V is the head's K, or 1 where the method tells none apart.
        relative: (V, h, w), what the scale ``relative`` shows, up to a factor; the points if None.
        importance: (V, C) of the method's own feature maps, in points; that of the kind if None.
        maps: (C, h, w), how much of each of those maps is at a cell; and
        slopes: (C,), what one unit of it there is worth, in points. None where the network's own maps are drawn.
    """

    points: Tensor
    relative: Tensor | None = None
    importance: Tensor | None = None
    maps: Tensor | None = None
    slopes: Tensor | None = None

    def times(self, weight: float) -> Drawing:
        """Of a score that counts so much."""
        if weight == 1:
            return self

        def scaled(values: Tensor | None) -> Tensor | None:
            return None if values is None else weight * values

        return Drawing(
            weight * self.points,
            scaled(self.relative),
            scaled(self.importance),
            self.maps,
            scaled(self.slopes),
        )


def combined(drawings: Sequence[Drawing], per_cell: bool) -> tuple[Tensor, Tensor]:
    """The points of the members of a head together, and what their scale ``relative`` shows, up to a factor.

    Args:
        drawings: of one member, or of several, whose weights they hold; several are added in points, the one unit that
            they share. per_cell: as `combine_points` has it.

    Returns:
        (V, h, w) each, on the finest of the members' grids.
    """
    import torch

    if len(drawings) == 1:
        one = drawings[0]
        return one.points, one.points if one.relative is None else one.relative
    points = [one.points.detach().cpu().numpy() for one in drawings]
    total = torch.from_numpy(combine_points(points, [1.0] * len(points), per_cell))
    return total, total
