"""The pictures of a training, of an evaluation and of a cohort, each as the bytes of a file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.ticker import SymmetricalLogLocator
from scipy import stats

from ais.attribution.colors import overlay
from ais.plots.style import _BLUE, _GREY, _GRID, _INK, _ORANGE, _canvas, _panels, _png
from ais.rsa.map_selection import GainReport
from ais.workflows.align import Look

# Of a cohort's report ---------------------------------------------------------------------------------------


def pruning_curve(gain: GainReport, ceiling: tuple[float, float] | None) -> bytes:
    """Alignment on held-out pictures against the number of maps kept: by AIS, at random, and all of them.

    Args:
        ceiling: what the best of all models would reach, lower and upper, on all pictures.

    Returns:
        PNG.
    """
    figure, axes = _canvas(8.0, 4.8)
    sizes = np.array(gain.sizes)
    if ceiling:
        axes.axhspan(*ceiling, color=_GRID, zorder=0, label="noise ceiling")
    whole = float(gain.alignment_all.mean())
    axes.axhline(whole, color=_GREY, linewidth=1.2, linestyle=(0, (5, 3)), label="all maps")
    for values, color, label in (
        (gain.curve, _ORANGE, "kept by AIS"),
        (gain.random_curve, _BLUE, "kept at random"),
    ):
        low, high = np.quantile(values, (0.25, 0.75), axis=0)  # half of the splits lie between
        axes.fill_between(sizes, low, high, color=color, alpha=0.15, linewidth=0)
        axes.plot(sizes, values.mean(0), color=color, linewidth=2.4, marker="o", markersize=4, label=label)
    axes.set(
        xscale="log",
        xlabel="feature maps kept (shaded: half of the splits)",
        ylabel="alignment, held-out pictures",
    )
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=9, rotation=45)
    axes.minorticks_off()
    figure.legend(loc="outside upper left", ncols=4, frameon=False, fontsize=11, labelcolor=_INK)
    return _png(figure)


def rdm_pair(model: np.ndarray, human: np.ndarray, names: tuple[str, str]) -> bytes:
    """Two dissimilarity matrices (N, N) side by side, as ranks from alike to unlike.

    Returns:
        PNG.
    """
    figure, both = _panels(2, 10.0, 5.0)
    upper = np.triu_indices(len(model), 1)
    for axes, matrix, name in zip(both, (model, human), names, strict=True):
        shown = np.zeros_like(matrix, dtype=float)
        shown[upper] = (stats.rankdata(matrix[upper]) - 1) / max(1, len(upper[0]) - 1)
        image = axes.imshow(shown + shown.T, cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
        axes.set_title(name, loc="left", color=_INK, size=12)
        axes.set_xlabel("picture", color=_INK)
        axes.grid(visible=False)
    bar = figure.colorbar(image, ax=list(both), shrink=0.8, ticks=(0, 1))
    bar.ax.set_yticklabels(("alike", "unlike"), color=_INK)
    bar.set_label("rank of the pair", color=_INK)
    return _png(figure)


def importances(values: np.ndarray) -> bytes:
    """The scores of all maps (C,), the strongest first, and how many help.

    Returns:
        PNG.
    """
    figure, axes = _canvas(8.0, 4.2)
    ordered = np.sort(values)[::-1]
    places = np.arange(1, len(ordered) + 1)
    axes.fill_between(
        places, ordered, 0, where=ordered > 0, color=_ORANGE, alpha=0.85, linewidth=0, step="mid"
    )
    axes.fill_between(places, ordered, 0, where=ordered < 0, color=_BLUE, alpha=0.85, linewidth=0, step="mid")
    axes.axhline(0, color=_GREY, linewidth=0.8)
    helping = int((values > 0).sum())
    axes.set(xlim=(0, len(ordered) + 1), xlabel="feature maps, the strongest first", ylabel="AIS")
    # Most maps do next to nothing: a linear scale would show no more than the few that do.
    least = max(float(np.median(np.abs(values))), 1e-12)
    axes.set_yscale("symlog", linthresh=least)
    axes.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=10 * least))
    axes.set_title(f"{helping:,} of {len(values):,} maps help", loc="left", color=_INK, size=12)
    return _png(figure)


def look_sheet(looks: Sequence[Look], captions: Sequence[str]) -> bytes:
    """For each picture a row of three: the picture, its AIS heatmap over it, and what is salient in it.

    Args:
        looks: N. captions: N short lines.

    Returns:
        PNG.
    """
    figure, grid = _panels(3 * len(looks), 8.0, 2.75 * len(looks) + 0.3, columns=3)
    for n, (one, caption) in enumerate(zip(looks, captions, strict=True)):
        heat = overlay(one.picture, one.placement.upsample(one.grid.astype(np.float32)), 0.75)
        saliency = one.placement.upsample(one.saliency.astype(np.float32))
        for axes, image in zip(grid[3 * n : 3 * n + 2], (one.picture, heat), strict=True):
            axes.imshow(np.asarray(image))
        grid[3 * n + 2].imshow(saliency, cmap="gray")
        for axes in grid[3 * n : 3 * n + 3]:
            axes.set_axis_off()
        grid[3 * n].set_title(caption, loc="left", color=_INK, size=11)
        if n == 0:
            grid[1].set_title("AIS heatmap", loc="left", color=_INK, size=11)
            grid[2].set_title("salient", loc="left", color=_INK, size=11)
    return _png(figure)
