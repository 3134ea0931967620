"""Heatmaps: from maps and their importance to a grid, and from a grid to colours on the picture.

A grid is signed, (h, w), with a true zero: positive where the picture's score comes from, negative where it
is lost. It exists on two scales: ``relative``, in [-1, 1], and ``points``, in points of the rating scale. On the
picture there is a third, ``density``: the points of the cells shared out to their pixels.
`METHODS` is the registry of ways to make one; all share the signature of `ablation`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ais.attribution.grids import Grids
from ais.attribution.methods.ablation import ablation
from ais.attribution.methods.gradcam import gradcam
from ais.attribution.methods.occlusion import occlusion

MethodName = Literal["ais", "gradcam", "occlusion"]  # the keys of METHODS


@dataclass(frozen=True)
class Method:
    """A way to make a heatmap.

    Attributes:
        label: its name on the page.
        grids: the function.
        uses_importance: it draws the importances that it is given.
        per_cell: a cell's points are its own share, so that the cells can be summed; else a level.
        slow: it takes many passes, and `grids` a last argument, which it calls between them: a `Progress` or None.
    """

    label: str
    grids: Callable[..., Grids]
    uses_importance: bool = False
    per_cell: bool = True
    slow: bool = False


METHODS: dict[str, Method] = {
    "ais": Method("AIS", ablation, uses_importance=True),
    "gradcam": Method("Grad-CAM", gradcam),
    "occlusion": Method("Occlusion", occlusion, per_cell=False, slow=True),
}
