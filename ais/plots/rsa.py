"""Figures of a comparison with people, each as the bytes of a PNG file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import stats

from ais.attribution.colors import overlay
from ais.plots.style import BLUE, GREY, GRID, INK, ORANGE, canvas, panels, png


def selection_curve(
    sizes: Sequence[int],
    by_ais: np.ndarray,
    at_random: np.ndarray,
    all_maps: float,
    ceiling: tuple[float, float] | None = None,
) -> bytes:
    """RDM correlation on held-out images against the number of maps kept: by AIS, at random, and all of them.

    Args:
        sizes: Z numbers of maps.
        by_ais, at_random: (S, Z), the correlation in S splits with so many maps.
        all_maps: the mean correlation with all of them.
        ceiling: the noise ceiling, lower and upper.
    """
    figure, axes = canvas(8.0, 4.8)
    if ceiling:
        axes.axhspan(*ceiling, color=GRID, zorder=0, label="noise ceiling")
    axes.axhline(all_maps, color=GREY, linewidth=1.2, linestyle=(0, (5, 3)), label="all maps")
    for values, color, label in ((by_ais, ORANGE, "kept by AIS"), (at_random, BLUE, "kept at random")):
        low, high = np.quantile(values, (0.25, 0.75), axis=0)  # half of the splits lie between
        axes.fill_between(sizes, low, high, color=color, alpha=0.15, linewidth=0)
        axes.plot(sizes, values.mean(0), color=color, linewidth=2.4, marker="o", markersize=4, label=label)
    axes.set(
        xscale="log",
        xlabel="feature maps kept (shaded: half of the splits)",
        ylabel="RDM correlation, held-out pictures",
    )
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=9, rotation=45)
    axes.minorticks_off()
    figure.legend(loc="outside upper left", ncols=4, frameon=False, fontsize=11, labelcolor=INK)
    return png(figure)


def rdm_pair(model: np.ndarray, human: np.ndarray, names: tuple[str, str]) -> bytes:
    """Two dissimilarity matrices (N, N) side by side, as ranks from similar to dissimilar."""
    figure, both = panels(2, 10.0, 5.0)
    upper = np.triu_indices(len(model), 1)
    for axes, matrix, name in zip(both, (model, human), names, strict=True):
        shown = np.zeros_like(matrix, dtype=float)
        shown[upper] = (stats.rankdata(matrix[upper]) - 1) / max(1, len(upper[0]) - 1)
        image = axes.imshow(shown + shown.T, cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
        axes.set_title(name, loc="left", color=INK, size=12)
        axes.set_xlabel("picture", color=INK)
        axes.grid(visible=False)
    bar = figure.colorbar(image, ax=list(both), shrink=0.8, ticks=(0, 1))
    bar.ax.set_yticklabels(("similar", "dissimilar"), color=INK)
    bar.set_label("rank of the pair", color=INK)
    return png(figure)


def importances(values: np.ndarray) -> bytes:
    """The scores of all maps (C,), the strongest first, and how many help."""
    from matplotlib.ticker import SymmetricalLogLocator

    figure, axes = canvas(8.0, 4.2)
    ordered = np.sort(values)[::-1]
    places = np.arange(1, len(ordered) + 1)
    axes.fill_between(
        places, ordered, 0, where=ordered > 0, color=ORANGE, alpha=0.85, linewidth=0, step="mid"
    )
    axes.fill_between(places, ordered, 0, where=ordered < 0, color=BLUE, alpha=0.85, linewidth=0, step="mid")
    axes.axhline(0, color=GREY, linewidth=0.8)
    helping = int((values > 0).sum())
    axes.set(xlim=(0, len(ordered) + 1), xlabel="feature maps, the strongest first", ylabel="AIS")
    # Most maps do next to nothing: a linear scale would show no more than the few that do.
    least = max(float(np.median(np.abs(values))), 1e-12)
    axes.set_yscale("symlog", linthresh=least)
    axes.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=10 * least))
    axes.set_title(f"{helping:,} of {len(values):,} maps help", loc="left", color=INK, size=12)
    return png(figure)


@dataclass(frozen=True, eq=False)
class HeatmapRow:
    """One image of a `heatmap_sheet`.

    Attributes:
        caption: a short line.
        image: RGB, of width W and height H.
        heatmap: (H, W) float32 in [-1, 1]. saliency: (H, W) float32. NaN where the network did not see the image.
    """

    caption: str
    image: Image.Image
    heatmap: np.ndarray
    saliency: np.ndarray


def heatmap_sheet(rows: Sequence[HeatmapRow]) -> bytes:
    """For each image a row of three: the image, its AIS heatmap over it, and its saliency."""
    figure, grid = panels(3 * len(rows), 8.0, 2.75 * len(rows) + 0.3, columns=3)
    for n, row in enumerate(rows):
        for axes, image in zip(
            grid[3 * n :], (row.image, overlay(row.image, row.heatmap, 0.75)), strict=False
        ):
            axes.imshow(np.asarray(image))
        grid[3 * n + 2].imshow(row.saliency, cmap="gray")
        for axes in grid[3 * n : 3 * n + 3]:
            axes.set_axis_off()
        grid[3 * n].set_title(row.caption, loc="left", color=INK, size=11)
        if n == 0:
            grid[1].set_title("AIS heatmap", loc="left", color=INK, size=11)
            grid[2].set_title("saliency", loc="left", color=INK, size=11)
    return png(figure)
