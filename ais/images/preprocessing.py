"""The geometry of what a network sees of a picture, and the way back.

Coordinates are in the picture's pixels, x to the right, y downwards, from the upper left corner: the first
pixel's centre is (0.5, 0.5).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, cast, get_args

import numpy as np
from PIL import Image

from ais.errors import AISError, check_choice

if TYPE_CHECKING:  # the methods import it, so that the views can be listed without
    import torch

ViewName = Literal["crop", "resize"]

VIEWS: tuple[ViewName, ...] = get_args(ViewName)

Interpolation = Literal["bilinear", "bicubic"]

SMALLEST, LARGEST, STEP = (
    64,
    640,
    32,
)  # sizes of a network's input that can be asked for, beside its own, in pixels

_STRIP = 1 << 20  # pixels of a heatmap worked out at a time

_RESAMPLE = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def view_name(name: str) -> ViewName:
    """The name of a view, also where it is given by its old name: ``resize`` was ``whole``.

    Raises:
        AISError: no such view.
    """
    name = "resize" if name == "whole" else name
    check_choice("view", name, VIEWS)
    return cast(ViewName, name)


def sized(name: str, size: int, native: int) -> str:
    """A network's name, with the size of its input where that is not its own."""
    return name if size == native else f"{name} at {size} px"


@dataclass(frozen=True)
class Placement:
    """Where in a picture a network looked.

    Attributes:
        width, height: the picture's, in pixels.
        box: (x0, y0, x1, y1), the region that the network saw, in the picture's pixels.
        input_size: (height, width) of the network's input, which the box was resized to.
    """

    width: int
    height: int
    box: tuple[float, float, float, float]
    input_size: tuple[int, int]

    def upsample(self, grid: np.ndarray) -> np.ndarray:
        """Lay a grid (h, w) over the box: float32 (height, width), NaN where a pixel's centre is outside.

        Bilinear between the centres of the cells and constant beyond the outermost ones, so never outside the
        range of the grid; `torch.nn.functional.interpolate(align_corners=False)` when the box is the picture.
        """
        return self._whole(self.strips(grid))

    def share(self, grid: np.ndarray) -> np.ndarray:
        """Share each cell of a grid (h, w) out to the pixels: float32 (height, width), whose sum is the grid's.

        The shares of a cell fall off as in `upsample`; NaN where a pixel's centre is outside the box.
        """
        return self._whole(self.strips(grid, shared=True))

    def strips(self, grid: np.ndarray, *, shared: bool = False) -> Iterator[np.ndarray]:
        """The rows of `upsample`, or of `share`, from the top: some at a time, so that none takes much memory."""
        import torch

        from ais.torch_state import own_precision

        x0, y0, x1, y1 = self.box
        columns, across = _interpolation(self.width, x0, x1, grid.shape[1])
        rows, down = _interpolation(self.height, y0, y1, grid.shape[0])
        if shared:
            across, down = _shares(across), _shares(down)
        # In torch, since NumPy's threads and torch's, waiting for each other, take ten times as long.
        cells = torch.from_numpy(grid.astype(np.float32))
        least, most = cells.min(), cells.max()
        with own_precision():
            cells = cells @ torch.from_numpy(across).T  # (h, pixels)
        step = max(1, _STRIP // self.width)
        for top in range(0, self.height, step):
            strip = np.full((min(step, self.height - top), self.width), np.nan, dtype=np.float32)
            first, last = max(rows.start, top), min(rows.stop, top + len(strip))
            if first < last:
                with own_precision():
                    values = torch.from_numpy(down[first - rows.start : last - rows.start]) @ cells
                if not shared:  # rounding can leave the range by a last bit
                    values.clamp_(least, most)
                strip[first - top : last - top, columns] = values.numpy()
            yield strip

    def within(self, pixels: int | None) -> Placement:
        """The same place in the picture made so small that it has no more than so many pixels; None: as it is."""
        if pixels is None or self.width * self.height <= pixels:
            return self
        factor = math.sqrt(pixels / (self.width * self.height))
        width = min(max(1, int(self.width * factor)), pixels)
        height = min(max(1, int(self.height * factor)), pixels // width)
        x, y = width / self.width, height / self.height
        x0, y0, x1, y1 = self.box
        return replace(self, width=width, height=height, box=(x0 * x, y0 * y, x1 * x, y1 * y))

    def _whole(self, strips: Iterator[np.ndarray]) -> np.ndarray:
        heatmap = np.empty((self.height, self.width), dtype=np.float32)
        top = 0
        for strip in strips:
            heatmap[top : top + len(strip)] = strip
            top += len(strip)
        return heatmap


def _interpolation(length: int, start: float, end: float, cells: int) -> tuple[slice, np.ndarray]:
    """The pixels centred between start and end, and each cell's weight in each: (pixels, cells)."""
    centres = np.arange(length) + 0.5
    inside = np.flatnonzero((centres >= start) & (centres <= end))
    if not len(inside):  # the box lies between two centres
        inside = np.array([min(int((start + end) / 2), length - 1)])
    place = np.clip((centres[inside] - start) / (end - start) * cells - 0.5, 0, cells - 1)
    weights = np.maximum(0, 1 - np.abs(place[:, None] - np.arange(cells)))
    return slice(inside[0], inside[-1] + 1), weights.astype(np.float32)


def _shares(weights: np.ndarray) -> np.ndarray:
    """Each cell's share in each pixel, (pixels, cells), such that a cell's shares sum to 1."""
    total = weights.sum(0)
    for cell in np.flatnonzero(total == 0):  # smaller than a pixel, and between two: it goes to the nearest
        weights[min(int((cell + 0.5) / len(total) * len(weights)), len(weights) - 1), cell] = 1
    return weights / weights.sum(0)


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a network's input: ``preprocessing(image)``.

    Attributes:
        view: what the network sees. "crop": the square in the middle, exactly as torchvision's and timm's evaluation
            transforms; or "resize": all of the image at its own aspect ratio.
        size: the input's side ("crop") or its shorter side ("resize"), in pixels.
        resize_to: the image's shorter side before the crop, in pixels; "resize" does not use it.
        interpolation: of the resizing.
        mean, std: of the network's training data, per channel, for values in 0 to 1.
    """

    view: ViewName
    size: int
    resize_to: int
    interpolation: Interpolation
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def at(self, view: str | None = None, size: int | None = None) -> Preprocessing:
        """The same with another view or size, where this one is a network's own. None: as it is here.

        A crop at another size shows the same part of an image: `resize_to` grows or shrinks as the size does,
        rounded to the nearest pixel.

        Raises:
            AISError: no such view, or a size that is neither this one nor a multiple of 32 from 64 to 640.
        """
        size = self.size if size is None else size
        if size != self.size and not (SMALLEST <= size <= LARGEST and size % STEP == 0):
            raise AISError(
                f"A size of {size} pixels cannot be used: choose {self.size}, the network's own, or a multiple of "
                f"{STEP} from {SMALLEST} to {LARGEST}."
            )
        return replace(
            self,
            view=self.view if view is None else view_name(view),
            size=size,
            resize_to=round(self.resize_to * size / self.size),
        )

    def geometry(self, width: int, height: int) -> Placement:
        """Which part of an image of this size the network sees, and the size of its input."""
        if self.view == "resize":
            input_size = _resized(width, height, self.size)
            return Placement(width, height, (0.0, 0.0, float(width), float(height)), input_size)
        short = min(width, height)
        x0, x1 = self._span(width, int(self.resize_to * width / short))
        y0, y1 = self._span(height, int(self.resize_to * height / short))
        return Placement(width, height, (x0, y0, x1, y1), (self.size, self.size))

    def _span(self, length: int, resized: int) -> tuple[float, float]:
        """The crop along one axis, rounded on the resized picture as torchvision does, carried back."""
        first = round((resized - self.size) / 2)
        return first * length / resized, (first + self.size) * length / resized

    def __call__(self, image: Image.Image, times: int = 1) -> torch.Tensor:
        """The network's input of an RGB image: (3, H, W) float32, normalised.

        Resize and crop are one step, so that a long strip is never blown up just to be cut away.

        Args:
            times: so many times as high and wide as the geometry says, of the same part of the image.
        """
        import torch

        from ais.torch_state import own_state

        placement = self.geometry(*image.size)
        h, w = (times * side for side in placement.input_size)
        seen = np.array(image.resize((w, h), _RESAMPLE[self.interpolation], box=placement.box))
        with own_state():
            pixels = torch.from_numpy(seen).permute(2, 0, 1).to(torch.float32).div(255)
            mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
            return ((pixels - mean) / std).contiguous()


def _resized(width: int, height: int, size: int) -> tuple[int, int]:
    """(h, w) with the shorter side `size`; for strips longer than 1:4, with the area of that at 1:4.

    No side is under 80 pixels, which some networks need: this bends only strips longer than about 1:30.
    """
    short, long = sorted((width, height))
    new_short, new_long = size, int(size * long / short)
    if new_short * new_long > 4 * size**2:
        least = min(80, size)
        new_short = max(least, int(2 * size * math.sqrt(short / long)))
        new_long = min(int(2 * size * math.sqrt(long / short)), 4 * size**2 // least)
    return (new_short, new_long) if height <= width else (new_long, new_short)
