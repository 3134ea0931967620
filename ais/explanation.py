"""What `ais.explain` gives: a picture's score, and the map of where it comes from."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from ais import heatmaps
from ais.errors import ImageError
from ais.files import write_atomically
from ais.heatmaps import METHODS, Scale
from ais.views import Placement

Kind = Literal["prediction", "residual", "dual", "alignment", "similarity"]
KINDS: tuple[Kind, ...] = get_args(Kind)
FILES = ("heatmap.npy", "overlay.png", "explanation.json")

Array = NDArray[np.float32]


class Score(NamedTuple):
    """What people would say of a picture.

    Attributes:
        score: points of the head's rating scale.
        low, high: its interval at the head's level (90 %).
        percentile: the share of the rated pictures that people rated lower, 0 to 100.
    """

    score: float
    low: float
    high: float
    percentile: float


@dataclass(frozen=True)
class Contribution:
    """One feature map's part in a place.

    Attributes:
        index: the map's place in `Explanation.importance`, 0 to C - 1.
        backbone: the network whose map it is, and `number`: its number there; they differ from the whole for stacks.
        importance: the map's, over the whole picture.
        value: what it is worth at the place, in points.
        map: its activation, (h, w).
    """

    index: int
    backbone: str
    number: int
    importance: float
    value: float
    map: Array


@dataclass(frozen=True)
class Explanation:
    """A picture's score and where it comes from.

    Attributes:
        image: the picture, upright RGB.
        head, backbone, layer: what looked at it.
        method, kind, scale: how the heatmap was made; a key of `METHODS`, a `Kind`, a `Scale`.
        target: the word for what is rated; `rating_range` its scale's ends; `level` the interval's.
        score, interval, percentile: as in `Score`.
        importance: (C,) of every feature map, by `kind`; for a stack of all its members' maps, one member after
            the other, for the stack's score.
        maps: (C, h, w) the feature maps; for a stack their positive parts on the finest of its members' grids.
        grids: the heatmap on the network's grid, (h, w), on every scale.
        placement: where the network looked.
        seconds: how long it took, reading the picture and loading the weights included.
        members: of a stack, each member's own explanation.
        source: the head's repository on the Hub at its commit, ``user/repo@commit``; empty if it is not from there.
    """

    image: Image = field(repr=False)
    head: str
    backbone: str
    layer: str
    method: str
    kind: Kind
    scale: Scale
    target: str
    rating_range: tuple[float, float]
    level: float
    score: float
    interval: tuple[float, float]
    percentile: float
    importance: Array = field(repr=False)
    maps: Array = field(repr=False)
    grids: Mapping[Scale, Array] = field(repr=False)
    placement: Placement
    seconds: float
    members: tuple[Explanation, ...] = ()
    source: str = ""

    @property
    def grid(self) -> Array:
        """The heatmap on the network's grid, (h, w), on the explanation's scale."""
        return self.grids[self.scale]

    @property
    def heatmap(self) -> Array:
        """The heatmap on the picture, float32 (height, width); NaN where the network did not look."""
        return self.placement.upsample(self.grid)

    @property
    def unit(self) -> str:
        """What the heatmap's values are, in words."""
        if self.scale == "relative":
            return "of the largest"
        if self.kind == "dual":
            return "of the largest importance, per cell"
        if self.kind == "similarity":
            return "of Spearman's correlation, per cell"
        return "points per cell" if METHODS[self.method].per_cell else "points"

    def overlay(self, opacity: float = 0.7) -> Image:
        """The heatmap's colours on the picture, as large as the picture: blue lowers, red raises."""
        return heatmaps.overlay(self.image, self.heatmap, opacity)

    def contributions(self, x: float, y: float, n: int = 6) -> list[Contribution]:
        """The feature maps that contribute most at a place, the strongest first.

        Args:
            x, y: the place, in the picture's pixels.
            n: how many at the most.

        Raises:
            ImageError: the place was not seen by the network.
        """
        x0, y0, x1, y1 = self.placement.box
        if not (x0 <= x < x1 and y0 <= y < y1 and 0 <= x < self.image.width and 0 <= y < self.image.height):
            raise ImageError("The network did not look there. Choose a place inside the part that it saw.")
        _, h, w = self.maps.shape
        active = np.maximum(self.maps, 0)
        total = active.sum((1, 2))
        here = active[:, int((y - y0) / (y1 - y0) * h), int((x - x0) / (x1 - x0) * w)]
        share = np.divide(here, total, out=np.full_like(total, 1 / (h * w)), where=total > 0)
        values = self.importance * share
        order = np.argsort(-np.abs(values), kind="stable")[:n]
        found = []
        for c in order.tolist():
            backbone, number = self.backbone, c
            for member in self.members:
                backbone = member.backbone
                if number < len(member.importance):
                    break
                number -= len(member.importance)
            found.append(
                Contribution(c, backbone, number, float(self.importance[c]), float(values[c]), active[c])
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        """All of it but the pictures and the maps, ready for JSON."""
        return {
            "score": self.score,
            "low": self.interval[0],
            "high": self.interval[1],
            "level": self.level,
            "percentile": self.percentile,
            "target": self.target,
            "rating_range": list(self.rating_range),
            "head": self.head,
            "source": self.source,
            "backbone": self.backbone,
            "layer": self.layer,
            "method": self.method,
            "kind": self.kind,
            "scale": self.scale,
            "unit": self.unit,
            "seconds": self.seconds,
            "width": self.image.width,
            "height": self.image.height,
            "seen": list(self.placement.box),
            "grids": {scale: grid.tolist() for scale, grid in self.grids.items()},
            "importance": self.importance.tolist(),
            "members": [{"head": m.head, "score": m.score, "maps": len(m.importance)} for m in self.members],
        }

    def save(self, directory: str | os.PathLike[str]) -> list[Path]:
        """Write ``heatmap.npy``, ``overlay.png`` (with its colour bar) and ``explanation.json``: all or none.

        Those of a stack's members are written, too, each in a folder of the member's name.

        Returns:
            The files, the three first.

        Raises:
            AISError: the directory cannot be written.
        """
        heatmap = self.heatmap
        largest = float(np.nanmax(np.abs(heatmap)))
        array, png = io.BytesIO(), io.BytesIO()
        np.save(array, heatmap)
        heatmaps.with_color_bar(heatmaps.overlay(self.image, heatmap), largest, self.unit).save(png, "PNG")
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        files = (array.getvalue(), png.getvalue(), text.encode())
        written = write_atomically(directory, dict(zip(FILES, files, strict=True)))
        for member in self.members:
            written += replace(member, scale=self.scale).save(Path(directory) / member.head)
        return written
