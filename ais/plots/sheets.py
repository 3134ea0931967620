"""Sheets of images, each as the bytes of a file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from ais.attribution.colors import colorize
from ais.images.reading import read_image
from ais.plots.style import GREY, INK

_COLUMNS, _CELL, _GAP = 5, 224, 20  # of the contact sheet, in pixels

_LETTERS = 17  # height of a caption's, in pixels

_WIDTH, _PAIR_GAP, _BAR = 1200, 4, (400, 18)  # of the examples' sheet, in pixels; the bar is that of colours


@dataclass(frozen=True)
class Example:
    """One explained image of an `example_sheet`.

    Attributes:
        image: RGB. overlay: the same with its heatmap over it. caption: a short line.
    """

    image: Image.Image
    overlay: Image.Image
    caption: str


def contact_sheet(images: Sequence[Path], captions: Sequence[str]) -> bytes:
    """Thumbnails in five columns on white, under each its file's name and its caption.

    Args:
        images: N paths.
        captions: N short lines, such as "rated 2.1, predicted 4.3".

    Returns:
        JPEG.

    Raises:
        ImageError: an image cannot be read.
    """
    font, small = ImageFont.load_default(_LETTERS), ImageFont.load_default(_LETTERS - 2)
    cells = [(_thumbnail(p), caption, p.name) for p, caption in zip(images, captions, strict=True)]
    rows = [cells[first : first + _COLUMNS] for first in range(0, len(cells), _COLUMNS)]
    heights = [max(thumbnail.height for thumbnail, _, _ in row) for row in rows]
    step, words = _CELL + _GAP, 3 * _LETTERS
    sheet = Image.new(
        "RGB", (_COLUMNS * step + _GAP, sum(heights) + len(rows) * (words + _GAP) + _GAP), "white"
    )
    draw = ImageDraw.Draw(sheet)
    top = _GAP
    for row, height in zip(rows, heights, strict=True):
        below = top + height  # the images stand on their captions, each in the middle of its column
        for column, (thumbnail, caption, name) in enumerate(row):
            middle = _GAP + column * step + _CELL // 2
            sheet.paste(thumbnail, (middle - thumbnail.width // 2, below - thumbnail.height))
            draw.text((middle, below + 8), _fit(caption, font), INK, font, "ma")
            draw.text((middle, below + 12 + _LETTERS), _fit(name, small), GREY, small, "ma")
        top = below + words + _GAP
    data = io.BytesIO()
    sheet.save(data, "JPEG", quality=88)
    return data.getvalue()


def example_sheet(examples: Sequence[Example]) -> bytes:
    """Images beside their heatmaps, two pairs a row on white, with the captions below and one colour bar at the end.

    Returns:
        PNG of 256 colours, 1200 pixels wide.
    """
    margin, font = 2 * _GAP, ImageFont.load_default(_LETTERS + 3)
    width = (_WIDTH - 3 * margin) // 2  # of a pair
    pairs = [(_pair(example, width), example.caption) for example in examples]
    rows = [pairs[first : first + 2] for first in range(0, len(pairs), 2)]
    heights = [max(pair.height for pair, _ in row) for row in rows]
    step = 2 * _LETTERS + margin  # from the foot of a row to the head of the next, with the captions between
    sheet = Image.new("RGB", (_WIDTH, margin + sum(heights) + len(rows) * step + _BAR[1] + margin), "white")
    draw = ImageDraw.Draw(sheet)
    top = margin
    for row, height in zip(rows, heights, strict=True):
        left = (_WIDTH - len(row) * width - (len(row) - 1) * margin) // 2  # a row of one stands in the middle
        for column, (pair, caption) in enumerate(row):
            middle = left + column * (width + margin) + width // 2
            sheet.paste(pair, (middle - pair.width // 2, top + height - pair.height))
            draw.text((middle, top + height + 8), _fit(caption, font, width), INK, font, "ma")
        top += height + step
    ramp = colorize(np.linspace(-1, 1, _BAR[0], dtype=np.float32))
    left = (_WIDTH - _BAR[0]) // 2
    sheet.paste(Image.fromarray(np.repeat(ramp[None], _BAR[1], axis=0)), (left, top))
    line = top + _BAR[1] // 2
    draw.text((left - 12, line), "lowers the score", INK, font, "rm")
    draw.text((left + _BAR[0] + 12, line), "raises the score", INK, font, "lm")
    data = io.BytesIO()
    _in_few_colors(sheet).save(data, "PNG", optimize=True)
    return data.getvalue()


def _in_few_colors(sheet: Image.Image) -> Image.Image:
    """The sheet with a palette, a third of the size: dithered, so that heatmaps stay smooth; white stays white."""
    palette = sheet.quantize(255, kmeans=3)
    chosen = np.array(sheet.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG))
    chosen[(np.asarray(sheet) == 255).all(-1)] = 255
    result = Image.fromarray(chosen)
    result.putpalette([*(palette.getpalette() or [])[: 3 * 255], 255, 255, 255])
    return result


def _pair(example: Example, width: int) -> Image.Image:
    """An image and its heatmap, side by side."""
    cell = (width - _PAIR_GAP) // 2
    sides = [
        ImageOps.contain(image, (cell, cell), Image.Resampling.LANCZOS)
        for image in (example.image, example.overlay)
    ]
    pair = Image.new("RGB", (2 * sides[0].width + _PAIR_GAP, sides[0].height), "white")
    pair.paste(sides[0], (0, 0))
    pair.paste(sides[1], (sides[0].width + _PAIR_GAP, 0))
    return pair


def _thumbnail(path: Path) -> Image.Image:
    image = read_image(path)
    image.thumbnail((_CELL, _CELL), Image.Resampling.LANCZOS)
    return image


def _fit(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int = _CELL) -> str:
    """The text if it fits the width, else its beginning and its end."""
    short = text = "".join(c if c.isprintable() else "?" for c in text)
    kept = len(text)
    while font.getlength(short) > width:
        kept -= 1
        short = f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"
    return short
