"""Figures of an evaluation, each as the bytes of a PNG file."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ais.plots.style import BLUE, GREY, INK, canvas, png


def scatter(
    predicted: np.ndarray,
    rated: np.ndarray,
    low: float,
    high: float,
    target_name: str,
    metrics: Mapping[str, float],
) -> bytes:
    """Predicted against rated, with the line where both are equal.

    Args:
        predicted, rated: (N,), in points.
        low, high: the ends of the rating scale.
        target_name: the word for what is rated.
        metrics: as `ais.metrics.regression.metrics` gives them.
    """
    from matplotlib.ticker import MaxNLocator

    figure, axes = canvas(7.0, 7.0)
    ends = (min(low, float(predicted.min())), max(high, float(predicted.max())))
    axes.plot(ends, ends, color=GREY, linewidth=1.2, linestyle=(0, (5, 3)), zorder=1)
    axes.scatter(rated, predicted, s=26, color=BLUE, alpha=0.45, linewidth=0, zorder=2)
    margin = 0.02 * (ends[1] - ends[0])
    limits = (ends[0] - margin, ends[1] + margin)
    axes.set(
        xlim=limits,
        ylim=limits,
        aspect="equal",
        xlabel=f"{target_name}, rated",
        ylabel=f"{target_name}, predicted",
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    axes.set_title(
        f"PLCC {metrics['plcc']:.3f} ({metrics['plcc_low']:.3f} to {metrics['plcc_high']:.3f}), "
        f"RMSE {metrics['rmse']:.2f}, {len(rated):,} pictures",
        loc="left",
        color=INK,
        size=12,
        pad=12,
    )
    return png(figure)
