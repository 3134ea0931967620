"""What `ais.explain` gives: an image's score, and the map of where it comes from."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL.Image import Image, Resampling

from ais.attribution import colors
from ais.attribution.grids import Scale
from ais.attribution.kinds import KINDS
from ais.attribution.methods import METHODS
from ais.attribution.sums import rounded
from ais.errors import AISError, ImageError
from ais.images.preprocessing import Placement
from ais.io.files import write_atomically
from ais.version import __version__

FILES = ("heatmap.npy", "overlay.png", "explanation.json")

Array = NDArray[np.float32]


def check_summable(method: str) -> None:
    """That a method's points are those of cells, which can be shared out to their pixels.

    Raises:
        AISError: they are not.
    """
    if not METHODS[method].per_cell:
        raise AISError(
            f"The scale 'density' shares out points that add up, which those of {METHODS[method].label} do not: choose "
            "the scale points or relative, or another method."
        )


def check_scale(scale: Scale, fine: bool) -> None:
    """That a heatmap which may be fine has this scale.

    Raises:
        AISError: it has not.
    """
    if fine and scale != "relative":
        raise AISError(
            f"A fine heatmap is the mean of two, which has no {scale}: choose the scale 'relative', or leave out fine."
        )


class Score(NamedTuple):
    """What people would say of an image.

    Attributes:
        score: points of the head's rating scale, as the head computes it: an image unlike all that it learned from
            may come out a little beyond the scale's ends.
        low, high: its interval at the head's level (90 %), cut off at the scale's ends, beyond which nobody can rate.
        percentile: the share of the rated images that people rated lower, 0 to 100.
    """

    score: float
    low: float
    high: float
    percentile: float


@dataclass(frozen=True, eq=False)
class Contribution:
    """One feature map's part in a place.

    Attributes:
        index: the map's place in `Explanation.importance`, 0 to C - 1.
        backbone: the network whose map it is, and `number`: its number there; they differ from the whole for stacks.
        importance: the map's, over the whole image.
        value: what it is worth at the place, in points.
        map: its activation, (h, w).
    """

    index: int
    backbone: str
    number: int
    importance: float
    value: float
    map: Array


@dataclass(frozen=True, eq=False)
class Explanation:
    """An image's score and where it comes from.

    Two are equal if all is the same but the time they took.

    Attributes:
        image: upright RGB.
        head, backbone, layer: what looked at it.
        method, kind, baseline, scale: how the heatmap was made; keys of `METHODS`, `KINDS` and `BASELINES` (empty
            where nothing was ablated), and a `Scale`.
        target: the word for what is rated; `rating_range` its scale's ends; `level` the interval's.
        score, interval, percentile: as in `Score`.
        typical_score: that of the mean embedding of the images that the head was trained on; None where it is not
            known. With a complete method, such as ``contribution``, it and the cells in points sum to the score.
        importance: (C,) of every feature map, by `kind`; for a stack of all its members' maps, one member after
            the other, for the stack's score.
        maps: (C, h, w) the feature maps; for a stack their positive parts on the finest of its members' grids. Of the
            method ``contribution`` instead how far each coordinate of the embedding is from typical at each cell, and
        slopes: (C,), how many points a unit of that is worth; None for the other methods.
        grids: the heatmap on the network's grid, (h, w), on every scale; a fine one on the scale ``relative`` alone.
        variants: those of each of V variants of the head, (V, h, w), whose mean is the heatmap; V is 1 where the method
            or the kind tells none apart.
        placement: where the network looked.
        seconds: how long it took, reading the image and loading the weights included.
        fine: the heatmap is the mean of two, at one and at two times the input's size.
        members: of a stack, each member's own explanation.
        weights, intercept: of a stack, whose score is the sum of each member's score times its weight, and the
            intercept; empty and 0 for a head on one backbone.
        source: the head's repository on the Hub at its commit, ``user/repo@commit``; empty if it is not from there.
        revision: that commit. head_sha256: of the head's ``model.safetensors``; empty if it was never saved.
        picture: the name of the image's file, without its folder; empty if it came from none.
        version: of AIS.
    """

    image: Image = field(repr=False)
    head: str
    backbone: str
    layer: str
    method: str
    kind: str
    baseline: str
    scale: Scale
    target: str
    rating_range: tuple[float, float]
    level: float
    score: float
    interval: tuple[float, float]
    percentile: float
    typical_score: float | None
    importance: Array = field(repr=False)
    maps: Array = field(repr=False)
    slopes: Array | None = field(repr=False)
    grids: Mapping[Scale, Array] = field(repr=False)
    variants: Mapping[Scale, Array] = field(repr=False)
    placement: Placement
    seconds: float
    fine: bool = False
    members: tuple[Explanation, ...] = ()
    weights: tuple[float, ...] = ()
    intercept: float = 0.0
    source: str = ""
    revision: str = ""
    head_sha256: str = ""
    picture: str = ""
    version: str = __version__

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Explanation):
            return NotImplemented
        names = [one.name for one in fields(self) if one.name != "seconds"]
        return all(_equal(getattr(self, name), getattr(other, name)) for name in names)

    def __hash__(self) -> int:
        return hash((self.head, self.method, self.kind, self.scale, self.score, self.picture))

    @property
    def grid(self) -> Array:
        """The heatmap on the network's grid, (h, w), on the explanation's scale; of ``density`` the points."""
        return self.grids[self._cells]

    @property
    def _cells(self) -> Scale:
        """The scale of the cells."""
        return "points" if self.scale == "density" else self.scale

    @property
    def heatmap(self) -> Array:
        """The heatmap on the image, float32 (height, width); NaN where the network did not look.

        What a pixel is depends on the scale (`pixel_unit`): only those of ``density`` sum to the `total`.
        """
        place = self.placement
        return place.share(self.grid) if self._shared() else place.upsample(self.grid)

    @property
    def density(self) -> Array:
        """Points per pixel, float32 (height, width), which sum to the `total`; NaN where the network did not look.

        Raises:
            AISError: the method gives no points that can be summed, or the heatmap is fine.
        """
        return replace(self, scale="density").heatmap

    @property
    def total(self) -> float | None:
        """What the cells of the grid in points, and the pixels of the density, sum to; None where they do not add up.

        It is the sum of the importances where the method draws them.
        """
        if "points" not in self.grids or not METHODS[self.method].per_cell:
            return None
        return float(self.grids["points"].sum(dtype=np.float64))

    @property
    def spread(self) -> dict[Scale, Array]:
        """The standard deviation of each cell over the head's variants, (h, w), on every scale; empty where the
        heatmap tells no variants apart."""
        return {name: grids.std(0) for name, grids in self.variants.items() if len(grids) > 1}

    @property
    def agreement(self) -> Array | None:
        """The share of the variants whose cell has the sign of the heatmap's, (h, w) from 0 to 1; None as above.

        Where it is not near 1, the variants, which learned on other splits, disagree on whether the place raises it.
        """
        grids = self.variants[self._cells]
        same = np.sign(grids) == np.sign(self.grid)
        return same.mean(0, dtype=np.float32) if len(grids) > 1 else None

    @property
    def unit(self) -> str:
        """What the heatmap's values are, in words."""
        per = " per pixel" if self.scale == "density" else " per cell"
        if self.scale == "relative":
            return "of the largest"
        unit = KINDS[self.kind].unit
        if unit != "points":
            return f"{unit},{per}"
        return f"{unit}{per}" if METHODS[self.method].per_cell else unit

    @property
    def pixel_unit(self) -> str:
        """What a pixel of the heatmap is, in a sentence."""
        if self.scale == "relative":
            return "The value of the grid at this place as a share of its largest, interpolated; pixels do not add up."
        if self.scale == "density":
            return "This pixel's own part of the total, to which all pixels sum."
        if METHODS[self.method].per_cell:
            return (
                "What a whole cell of the grid at this place is worth, interpolated: all pixels of a cell repeat "
                "it, so add up the cells of the grid, or the pixels of the scale density, not these pixels."
            )
        return (
            "The value of the grid at this place, interpolated: a level, so neither cells nor pixels add up."
        )

    def overlay(self, opacity: float = 0.7) -> Image:
        """The heatmap's colours on the image, as large as the image: blue lowers, red raises."""
        return colors.overlay(self.image, self.heatmap, opacity)

    @property
    def sum_in_words(self) -> str:
        """How a stack's score comes from its members': ``5.61 = 0.453 x 5.50 (one) + 0.583 x 5.36 (other) - 0.01``;
        empty for a head on one backbone."""
        if not self.members:
            return ""
        parts = [
            f"{weight:.3f} x {member.score:.2f} ({member.head})"
            for weight, member in zip(self.weights, self.members, strict=True)
        ]
        sign = "-" if self.intercept < 0 else "+"
        return f"{self.score:.2f} = {' + '.join(parts)} {sign} {abs(self.intercept):.2f}"

    @property
    def typical_and_places(self) -> tuple[int, int] | None:
        """The score of a typical image and what this one's places add to it, in hundredths of a point, rounded such
        that they add up to the score as it is printed; None where the method does not say what the score is made of.
        """
        typical, places = self.typical_score, self.total
        if not METHODS[self.method].complete or typical is None or places is None:
            return None
        first, rest = rounded([typical, places], round(self.score * 100))
        return first, rest

    @property
    def sum_of_places(self) -> str:
        """How the score comes from its places: ``4.71 = 4.39 (a typical picture) + 0.32 (the places of this one)``;
        empty where `typical_and_places` is None."""
        if (parts := self.typical_and_places) is None:
            return ""
        typical, places = (part / 100 for part in parts)
        sign = "-" if places < 0 else "+"
        return f"{self.score:.2f} = {typical:.2f} (a typical picture) {sign} {abs(places):.2f} (the places of this one)"

    def contributions(self, x: float, y: float, n: int = 6) -> list[Contribution]:
        """The feature maps that contribute most at a place, the strongest first.

        Args:
            x, y: the place, in the image's pixels.
            n: how many at most.

        Raises:
            ImageError: the place lies outside the picture, or the network did not see it.
        """
        width, height = self.image.size
        if not (0 <= x < width and 0 <= y < height):
            raise ImageError(
                f"The place ({x:g}, {y:g}) lies outside the picture: choose x from 0 to {width - 1} and y from 0 to "
                f"{height - 1}."
            )
        x0, y0, x1, y1 = self.placement.box
        if not (x0 <= x < x1 and y0 <= y < y1):
            raise ImageError("The network did not look there. Choose a place inside the part that it saw.")
        _, h, w = self.maps.shape
        cell = int((y - y0) / (y1 - y0) * h), int((x - x0) / (x1 - x0) * w)
        if self.slopes is not None:
            drawn = self.maps
            values = self.slopes * drawn[(slice(None), *cell)]
        else:
            drawn = np.maximum(self.maps, 0)
            total = drawn.sum((1, 2))
            share = np.divide(
                drawn[(slice(None), *cell)], total, out=np.full_like(total, 1 / (h * w)), where=total > 0
            )
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
                Contribution(c, backbone, number, float(self.importance[c]), float(values[c]), drawn[c])
            )
        return found

    def to_dict(self, *, max_pixels: int | None = None) -> dict[str, Any]:
        """All of it but the images and the maps, ready for JSON: what ``explanation.json`` holds.

        Args:
            max_pixels: as `save` was given it.

        Returns:
            - ``score``, ``low``, ``high``, ``level``, ``percentile``, ``target``, ``rating_range``: as in `Score`, in
              points, of the word that is rated and its scale.
            - ``head``, ``source``, ``revision``, ``head_sha256``: the head's name, its repository on the Hub at its
              commit, that commit, and the SHA-256 of its ``model.safetensors``; ``version``: AIS's.
            - ``typical_score``: that of a typical image, null where it is not known.
            - ``backbone``, ``layer``, ``method``, ``kind``, ``baseline``, ``scale``, ``fine``: how it was made.
            - ``picture``, ``width``, ``height``: the file's name and its pixels; ``seen``: the box (left, top, right,
              bottom) in them that the network saw.
            - ``unit``: of the colour bar; ``pixel_unit``: what a pixel of ``heatmap.npy`` is; ``heatmap_size``: its
              rows and columns; ``total``: what the grid in points sums to, null where its cells do not add up.
            - ``grids``: the heatmap on the network's grid by scale, rows of cells; ``importance``: of every map.
            - ``spread``: each cell's standard deviation over the head's variants, by scale, and ``agreement``: the
              share of them that has the heatmap's sign there, rows of cells; null where it tells no variants apart.
            - ``intercept``, and ``members``, of a stack: each one's ``head``, ``source``, ``revision``,
              ``head_sha256``, ``score``, ``weight``, ``contribution`` (score times weight; with the intercept these
              sum to the stack's score) and how many ``maps`` of the importances are its own.
            - ``seconds``: how long it took.
        """
        size = self.placement.within(max_pixels)
        return {
            "score": self.score,
            "low": self.interval[0],
            "high": self.interval[1],
            "level": self.level,
            "percentile": self.percentile,
            "typical_score": self.typical_score,
            "target": self.target,
            "rating_range": list(self.rating_range),
            "head": self.head,
            "source": self.source,
            "revision": self.revision,
            "head_sha256": self.head_sha256,
            "version": self.version,
            "backbone": self.backbone,
            "layer": self.layer,
            "method": self.method,
            "kind": self.kind,
            "baseline": self.baseline,
            "scale": self.scale,
            "fine": self.fine,
            "unit": self.unit,
            "pixel_unit": self.pixel_unit,
            "total": self.total,
            "seconds": self.seconds,
            "picture": self.picture,
            "width": self.image.width,
            "height": self.image.height,
            "heatmap_size": [size.height, size.width],
            "seen": list(self.placement.box),
            "grids": {scale: grid.tolist() for scale, grid in self.grids.items()},
            "spread": {scale: grid.tolist() for scale, grid in self.spread.items()} or None,
            "agreement": None if (agreement := self.agreement) is None else agreement.tolist(),
            "importance": self.importance.tolist(),
            "weights": list(self.weights),
            "intercept": self.intercept,
            "members": [
                {
                    "head": member.head,
                    "source": member.source,
                    "revision": member.revision,
                    "head_sha256": member.head_sha256,
                    "score": member.score,
                    "weight": weight,
                    "contribution": weight * member.score,
                    "maps": len(member.importance),
                }
                for member, weight in zip(self.members, self.weights, strict=True)
            ],
        }

    def save(
        self,
        directory: str | os.PathLike[str],
        *,
        files: Sequence[str] = FILES,
        max_pixels: int | None = None,
    ) -> list[Path]:
        """Write ``heatmap.npy``, ``overlay.png`` (with its colour bar) and ``explanation.json``: all or none.

        Those of a stack's members are written, too, each in a folder of the member's name.

        Args:
            files: which of the three, if not all.
            max_pixels: where the image has more, ``heatmap.npy`` and ``overlay.png`` are of the image made so small
                that it has no more; as large as the image if None.

        Returns:
            The files, in the order asked for; then the members'.

        Raises:
            AISError: the directory cannot be written, or there is no such file.
        """
        for name in files:
            if name not in FILES:
                raise AISError(f"There is no file {name!r} of an explanation. Choose of: {', '.join(FILES)}.")
        if max_pixels is not None and max_pixels < 1:
            raise AISError("A heatmap needs at least one pixel: give max_pixels of 1 or more.")
        makers: dict[str, Callable[[], bytes]] = {}
        members = ((f"{member.head}/", replace(member, scale=self.scale)) for member in self.members)
        for folder, shown in (("", self), *members):
            own = dict(zip(FILES, (shown._heatmap_file, shown._overlay_file, shown._json_file), strict=True))
            makers |= {folder + name: partial(own[name], max_pixels) for name in files}
        return write_atomically(directory, makers)

    def _strips(self, placement: Placement) -> Iterator[Array]:
        return placement.strips(self.grid, shared=self._shared())

    def _shared(self) -> bool:
        """Whether the cells are shared out to the pixels."""
        if self.scale != "density":
            return False
        check_summable(self.method)
        check_scale(self.scale, self.fine)
        return True

    def _heatmap_file(self, max_pixels: int | None) -> bytes:
        size, data = self.placement.within(max_pixels), io.BytesIO()
        header = {"descr": "<f4", "fortran_order": False, "shape": (size.height, size.width)}
        np.lib.format.write_array_header_1_0(data, header)
        for strip in self._strips(size):
            data.write(strip.astype("<f4", copy=False).tobytes())
        return data.getvalue()

    def _overlay_file(self, max_pixels: int | None) -> bytes:
        size, data = self.placement.within(max_pixels), io.BytesIO()
        image = self.image
        if image.size != (size.width, size.height):
            image = image.resize((size.width, size.height), Resampling.BOX)
        height = size.height + colors.color_bar_height(size.width)
        canvas = PIL.Image.new("RGB", (size.width, height), "white")
        largest = colors.largest_of(self._strips(size))
        colors.paint(canvas, image, self._strips(size), largest)
        colors.draw_color_bar(canvas, largest, self.unit)
        canvas.save(data, "PNG", compress_level=4)  # a third of the time of 6, and 4 % larger
        return data.getvalue()

    def _json_file(self, max_pixels: int | None) -> bytes:
        document = self.to_dict(max_pixels=max_pixels)
        return (json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _equal(one: Any, other: Any) -> bool:
    """Whether two fields of explanations hold the same."""
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other, equal_nan=True)
    if isinstance(one, Image):  # whatever its file said beside the pixels
        return (one.mode, one.size, one.tobytes()) == (other.mode, other.size, other.tobytes())
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    return bool(one == other)
