"""Figures of a training, each as the bytes of a PNG file."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np

from ais.plots.style import BLUE, INK, ORANGE, canvas, png


def learning_curve(curves: np.ndarray, kept: Sequence[int]) -> bytes:
    """Training and validation loss of every variant by epoch, their means, and whose epoch's weights were kept.

    Args:
        curves: (K, E, 2), training and validation loss, NaN after a variant has stopped.
        kept: the epoch of each variant, from 1, whose weights were kept; 0 for the start, to which the curves give no
            loss: the validation loss was never below it, which a line says at epoch 0.
    """
    from matplotlib.ticker import MaxNLocator

    figure, axes = canvas(8.0, 4.8)
    epochs = np.arange(1, curves.shape[1] + 1)
    for part, (name, color) in enumerate((("training", BLUE), ("validation", ORANGE))):
        losses = curves[..., part]
        # A variant that has stopped counts with its last loss: a mean over the others alone would jump.
        last = np.maximum.accumulate(np.where(np.isfinite(losses), np.arange(len(epochs)), 0), axis=1)
        axes.plot(epochs, losses.T, color=color, alpha=0.3, linewidth=0.9)
        mean = np.take_along_axis(losses, last, axis=1).mean(0)
        axes.plot(epochs, mean, color=color, linewidth=2.6, label=f"{name}, mean of variants")
    best = np.asarray(kept)
    improved = np.flatnonzero(best)
    if len(improved):
        axes.scatter(
            best[improved],
            curves[improved, best[improved] - 1, 1],
            s=34,
            facecolor="white",
            edgecolor=ORANGE,
            linewidth=1.4,
            zorder=3,
            label="kept epoch",
        )
    begin = 1 if len(improved) == len(best) else 0
    if begin == 0:
        axes.axvline(0, color=ORANGE, linewidth=2.6, linestyle=(0, (5, 3)), label="kept: the start")
    axes.set(xlabel="epoch", ylabel="mean squared error (standardised ratings)")
    axes.set(
        xlim=(begin - (0.2 if begin == 0 else 0), max(2, len(epochs)) + 0.2),
        ylim=(0, 1.05 * np.nanmax(curves)),
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=11, labelcolor=INK)
    return png(figure)


def rate_curve(
    rates: np.ndarray, trials: np.ndarray, smoothed: np.ndarray, suggested: float | None, reason: str = ""
) -> bytes:
    """The loss at each learning rate, of every trial and smoothed; and the rate that is suggested, if there is one.

    Args:
        rates: (R,), rising. trials: (T, R) losses, NaN after a trial has diverged. smoothed: (R,), of all trials.
        suggested: the suggested rate, or None. reason: why there is none.
    """
    figure, axes = canvas(8.0, 4.6)
    for number, losses in enumerate(trials):
        name = f"{len(trials)} trials" if number == 0 else None
        axes.plot(rates, losses, color=BLUE, alpha=0.35, linewidth=1.0, label=name)
    finite = np.isfinite(smoothed)
    drawn = np.where(finite, smoothed, np.nan)
    axes.plot(rates, drawn, color=BLUE, linewidth=2.6, label="smoothed")
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss", xlim=(rates[0], rates[-1]))
    # From zero, so that a loss that hardly changes looks like one; what explodes at the end is cut off.
    axes.set_ylim(min(0.0, float(np.min(smoothed[finite]))), 2 * float(smoothed[0]))
    if suggested is None:
        words = textwrap.fill(f"No rate can be suggested: {reason}.", 80)
        axes.set_title(words, loc="left", color=INK, size=12, pad=12)
    else:
        at = float(np.interp(np.log(suggested), np.log(rates[finite]), smoothed[finite]))
        axes.axvline(suggested, color=ORANGE, linewidth=1.4, linestyle=(0, (5, 3)))
        axes.scatter([suggested], [at], s=46, color=ORANGE, zorder=3, label=f"suggested: {suggested:.1e}")
    figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=11, labelcolor=INK)
    return png(figure)
