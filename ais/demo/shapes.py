"""Stimuli that are drawn, not collected: simple shapes, and dissimilarities made by a rule.

It is there so that the page has something to compare at once. Nobody was asked about these images: how dissimilar two
of them are is the number of properties (shape, colour, size, place) in which they differ.
"""

from __future__ import annotations

import math
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from ais.data.rdms import HumanRDMs

SHAPES = ("circle", "square", "triangle", "star")
COLOURS = {"red": "#d9503f", "green": "#3f9b76", "blue": "#3f6fc4", "yellow": "#e3ae33"}
SIZES = {"small": 0.14, "large": 0.25}  # the radius, as a share of the image's side
PLACES = {"left": 0.36, "middle": 0.5, "right": 0.64}
COUNT = 24
SIDE = 288  # pixels

_GROUND = "#f4f1ea"
_FINER = 4  # drawn so many times larger, then made smaller: smooth edges
_REGULAR = {"circle": (240, 1.0, 0.0), "square": (4, 1.25, 45.0), "triangle": (3, 1.42, -90.0)}
_STEP = 29  # through all combinations, so that each property's values come about equally often


class Drawing(NamedTuple):
    """One image, by its properties."""

    shape: str
    colour: str
    size: str
    place: str

    @property
    def title(self) -> str:
        return f"{self.size} {self.colour} {self.shape}, {self.place}".capitalize()


def drawings() -> list[Drawing]:
    """The `COUNT` images, all different."""
    kinds = (SHAPES, tuple(COLOURS), tuple(SIZES), tuple(PLACES))
    shape = tuple(map(len, kinds))
    chosen = sorted(i * _STEP % math.prod(shape) for i in range(COUNT))
    return [
        Drawing(*(kind[k] for kind, k in zip(kinds, np.unravel_index(number, shape), strict=True)))
        for number in chosen
    ]


def differences(drawn: list[Drawing]) -> np.ndarray:
    """In how many properties each two of n images differ: (n, n), 0 to 4."""
    table = np.array(drawn)
    return (table[:, None] != table).sum(2).astype(float)


def draw(drawing: Drawing) -> Image.Image:
    """`SIDE` pixels square, RGB."""
    side = SIDE * _FINER
    image = Image.new("RGB", (side, side), _GROUND)
    centre = (PLACES[drawing.place] * side, 0.5 * side)
    corners = _corners(drawing.shape, SIZES[drawing.size] * side, *centre)
    ImageDraw.Draw(image).polygon(corners, COLOURS[drawing.colour])
    return image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


@lru_cache(maxsize=1)
def stimuli() -> tuple[list[Path], list[str], HumanRDMs]:
    """Files, titles and dissimilarities; the files stay as long as the process."""
    drawn = drawings()
    folder = Path(_folder().name)
    files = [folder / f"{number:02}.png" for number in range(1, COUNT + 1)]
    for file, drawing in zip(files, drawn, strict=True):
        draw(drawing).save(file)
    return files, [drawing.title for drawing in drawn], HumanRDMs(differences(drawn)[None])


@lru_cache(maxsize=1)
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="ais-shapes-")


def _corners(shape: str, radius: float, x: float, y: float) -> list[tuple[float, float]]:
    """A polygon of about the same area for every shape of one size."""
    if shape == "star":
        radii, first = [1.28 * radius, 0.54 * radius] * 5, -90.0
    else:
        count, scale, first = _REGULAR[shape]
        radii = [scale * radius] * count
    turns = [math.radians(first + 360 * k / len(radii)) for k in range(len(radii))]
    lower = 0.16 * radius if shape == "triangle" else 0.0  # its middle is not halfway up
    return [
        (x + r * math.cos(turn), y + lower + r * math.sin(turn)) for r, turn in zip(radii, turns, strict=True)
    ]
