"""The pictures of a training, of an evaluation and of a cohort, each as the bytes of a file."""

from __future__ import annotations

import io

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import ImageFont

# Okabe and Ito's colours, which colour-blind people tell apart.
_BLUE, _ORANGE, _GREY = "#0072b2", "#d55e00", "#5c6670"

_INK, _GRID = "#1f2933", "#e3e7eb"

_DPI = 150  # 8 inches are 1200 pixels

_COLUMNS, _CELL, _GAP = 5, 224, 20  # of the contact sheet, in pixels

_LETTERS = 17  # height of a caption's, in pixels


def _fit(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int = _CELL) -> str:
    """The text if it fits the width, else its beginning and its end."""
    short = text = "".join(c if c.isprintable() else "?" for c in text)
    kept = len(text)
    while font.getlength(short) > width:
        kept -= 1
        short = f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"
    return short


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure in the common style, of a size in inches."""
    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_GREY)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", color=_GREY, labelcolor=_INK, labelsize=11)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=_INK, size=12)
    return figure, axes


def _png(figure: Figure) -> bytes:
    data = io.BytesIO()
    figure.savefig(data, format="png", metadata={"Software": None})
    return data.getvalue()


def _panels(count: int, width: float, height: float, columns: int | None = None) -> tuple[Figure, list[Axes]]:
    figure = Figure((width, height), dpi=_DPI, layout="constrained", facecolor="white")
    columns = columns or count
    found = [figure.add_subplot(-(-count // columns), columns, place + 1) for place in range(count)]
    for axes in found:
        axes.tick_params(colors=_GREY, labelcolor=_INK, labelsize=9)
    return figure, found
