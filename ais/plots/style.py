"""The style that all figures share.

matplotlib is imported when a figure is drawn: it takes long, and most commands draw none.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind people tell apart.
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#5c6670"

INK, GRID = "#1f2933", "#e3e7eb"

_DPI = 150  # 8 inches are 1200 pixels


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure in the common style, of a size in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", color=GREY, labelcolor=INK, labelsize=11)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=INK, size=12)
    return figure, axes


def png(figure: Figure) -> bytes:
    """The file's bytes, the same every time: without date and version."""
    data = io.BytesIO()
    figure.savefig(data, format="png", metadata={"Software": None})
    return data.getvalue()


def panels(count: int, width: float, height: float, columns: int | None = None) -> tuple[Figure, list[Axes]]:
    """A figure of so many axes, row by row; as many columns as axes if not given."""
    from matplotlib.figure import Figure

    figure = Figure((width, height), dpi=_DPI, layout="constrained", facecolor="white")
    columns = columns or count
    found = [figure.add_subplot(-(-count // columns), columns, place + 1) for place in range(count)]
    for axes in found:
        axes.tick_params(colors=GREY, labelcolor=INK, labelsize=9)
    return figure, found
