"""From a heatmap to colours on the image, with a colour bar."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

# Blue lowers, red raises: the ends of ColorBrewer's RdBu, which colour-blind people tell apart. -1 to +1.
COLORS: tuple[tuple[int, int, int], ...] = (
    (5, 48, 97),
    (33, 102, 172),
    (67, 147, 195),
    (146, 197, 222),
    (247, 247, 247),
    (244, 165, 130),
    (214, 96, 77),
    (178, 24, 43),
    (103, 0, 31),
)

_TABLE = np.stack(  # (513, 3), from -1 to +1
    [
        np.interp(np.linspace(-1, 1, 513), np.linspace(-1, 1, len(COLORS)), channel)
        for channel in np.array(COLORS).T
    ],
    axis=-1,
).round().astype(np.uint8)  # fmt: skip

_BLOCK = 1 << 20  # pixels coloured at a time

_UNSEEN = 0.55  # how much a part of the image that the network did not see is dimmed


def colorize(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """The colours of values in [-1, 1]: (…,) -> (…, 3)."""
    return _TABLE[np.rint((np.clip(values, -1, 1) + 1) * (len(_TABLE) // 2)).astype(np.intp)]


def overlay(image: Image.Image, heatmap: NDArray[np.float32], opacity: float = 0.7) -> Image.Image:
    """The heatmap's colours on the image: clear where it is near zero, dimmed grey where not seen.

    Args:
        image: RGB.
        heatmap: (height, width) of the image, any unit; NaN where not seen.
        opacity: of the strongest place, 0 to 1.
    """
    rows = max(1, _BLOCK // image.width)
    strips = (heatmap[top : top + rows] for top in range(0, len(heatmap), rows))
    result = Image.new("RGB", image.size)
    paint(result, image, strips, largest_of([heatmap]), opacity)
    return result


def paint(
    canvas: Image.Image,
    image: Image.Image,
    strips: Iterable[NDArray[np.float32]],
    largest: float,
    opacity: float = 0.7,
) -> None:
    """`overlay` into the top of a canvas, from the rows of a heatmap, so that a large one need not be held whole.

    Args:
        strips: (rows, width) each, from the top.
        largest: the absolute value that has the full colour.
    """
    top = 0
    for strip in strips:
        rows = image.crop((0, top, image.width, top + len(strip)))
        canvas.paste(Image.fromarray(_blend(np.asarray(rows), strip / (largest or 1), opacity)), (0, top))
        top += len(strip)


def largest_of(strips: Iterable[NDArray[np.float32]]) -> float:
    """The largest absolute value that is not NaN; 0 if there is none."""
    return max(float(np.nanmax(np.abs(strip), initial=0)) for strip in strips)


def _blend(pixels: NDArray[np.uint8], values: NDArray[np.float32], opacity: float) -> NDArray[np.uint8]:
    """Pixels (rows, width, 3) under the colours of values (rows, width) in [-1, 1], NaN where not seen."""
    seen = np.isfinite(values)
    values = np.where(seen, values, 0)
    alpha = np.where(seen, opacity * np.abs(values) ** 0.75, _UNSEEN)[..., None].astype(np.float32)
    color = np.where(seen[..., None], colorize(values), 128)
    return np.rint((1 - alpha) * pixels + alpha * color).astype(np.uint8)


def with_color_bar(image: Image.Image, largest: float, unit: str) -> Image.Image:
    """The image with a colour bar from ``-largest`` to ``+largest`` below it, in the map's unit."""
    canvas = Image.new("RGB", (image.width, image.height + color_bar_height(image.width)), "white")
    canvas.paste(image)
    draw_color_bar(canvas, largest, unit)
    return canvas


def color_bar_height(width: int) -> int:
    """Of the bar with what is written below it and around it, in pixels, for an image of this width."""
    return 7 * _bar_size(width)


def _bar_size(width: int) -> int:
    """Of the letters, by which all the rest of the bar is measured."""
    return int(np.clip(width // 40, 10, 28))


def draw_color_bar(canvas: Image.Image, largest: float, unit: str) -> None:
    """Draw it at the foot of a canvas, on the last `color_bar_height` rows."""
    width, size = canvas.width, _bar_size(canvas.width)
    bar, margin = 2 * size, size
    top = canvas.height - color_bar_height(width) + margin
    ramp = colorize(np.linspace(-1, 1, max(1, width - 2 * margin), dtype=np.float32))
    canvas.paste(Image.fromarray(np.repeat(ramp[None], bar, axis=0)), (margin, top))
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size)
    below = top + bar + margin // 2
    labels = ((margin, "la", f"-{largest:.3g} lowers"), (width // 2, "ma", f"0 {unit}"))
    for x, anchor, text in (*labels, (width - margin, "ra", f"raises +{largest:.3g}")):
        draw.text((x, below), text, fill="black", font=font, anchor=anchor)
