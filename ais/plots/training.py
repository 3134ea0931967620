"""The pictures of a training, of an evaluation and of a cohort, each as the bytes of a file."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.ticker import MaxNLocator

from ais.plots.style import _BLUE, _INK, _ORANGE, _canvas, _png
from ais.training.range_test import RateCurve


def learning_curve(curves: np.ndarray, stopped: Sequence[int]) -> bytes:
    """Training and validation loss of every variant by epoch, their means, and where each variant stopped.

    Args:
        curves: (K, E, 2), training and validation loss, NaN after a variant has stopped.
        stopped: the epoch of each variant, from 1, whose weights were kept.

    Returns:
        PNG.
    """
    figure, axes = _canvas(8.0, 4.8)
    epochs = np.arange(1, curves.shape[1] + 1)
    for part, (name, color) in enumerate((("training", _BLUE), ("validation", _ORANGE))):
        losses = curves[..., part]
        # A variant that has stopped counts with its last loss: a mean over the others alone would jump.
        last = np.maximum.accumulate(np.where(np.isfinite(losses), np.arange(len(epochs)), 0), axis=1)
        axes.plot(epochs, losses.T, color=color, alpha=0.3, linewidth=0.9)
        mean = np.take_along_axis(losses, last, axis=1).mean(0)
        axes.plot(epochs, mean, color=color, linewidth=2.6, label=f"{name}, mean of variants")
    kept = np.asarray(stopped)
    heights = curves[np.arange(len(kept)), kept - 1, 1]
    axes.scatter(
        kept, heights, s=34, facecolor="white", edgecolor=_ORANGE, linewidth=1.4, zorder=3, label="kept epoch"
    )
    axes.set(xlabel="epoch", ylabel="mean squared error (standardised ratings)")
    axes.set(xlim=(1, max(2, len(epochs)) + 0.2), ylim=(0, 1.05 * np.nanmax(curves)))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=11, labelcolor=_INK)
    return _png(figure)


def rate_curve(curve: RateCurve) -> bytes:
    """The loss at each learning rate, of every trial and smoothed; and the rate that is suggested, if there is one.

    Returns:
        PNG.
    """
    figure, axes = _canvas(8.0, 4.6)
    for number, losses in enumerate(curve.curves):
        name = f"{len(curve.curves)} trials" if number == 0 else None
        axes.plot(curve.rates, losses, color=_BLUE, alpha=0.35, linewidth=1.0, label=name)
    finite = np.isfinite(curve.losses)
    smoothed = np.where(finite, curve.losses, np.nan)
    axes.plot(curve.rates, smoothed, color=_BLUE, linewidth=2.6, label="smoothed")
    axes.set(
        xscale="log", xlabel="learning rate", ylabel="training loss", xlim=(curve.rates[0], curve.rates[-1])
    )
    # From zero, so that a loss that hardly changes looks like one; what explodes at the end is cut off.
    axes.set_ylim(min(0.0, float(np.min(curve.losses[finite]))), 2 * float(curve.losses[0]))
    if curve.suggested is None:
        words = textwrap.fill(f"No rate can be suggested: {curve.reason}.", 80)
        axes.set_title(words, loc="left", color=_INK, size=12, pad=12)
    else:
        at = float(np.interp(np.log(curve.suggested), np.log(curve.rates[finite]), curve.losses[finite]))
        axes.axvline(curve.suggested, color=_ORANGE, linewidth=1.4, linestyle=(0, (5, 3)))
        axes.scatter(
            [curve.suggested], [at], s=46, color=_ORANGE, zorder=3, label=f"suggested: {curve.suggested:.1e}"
        )
    figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=11, labelcolor=_INK)
    return _png(figure)
