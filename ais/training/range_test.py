"""The learning-rate range test: what several short trainings at ever higher rates say, and when they say nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

_NEIGHBOURS = 3  # steps to each side whose losses a smoothed one is the median of, together with its own

_VALLEY = 0.1  # of the fall: so far above its least the loss still counts as low

_FALL = 0.1  # of the loss at the start: what changes by less hardly changes

_SURE = 5.0  # standard errors: the least of many medians is low by chance, too


@dataclass(frozen=True, eq=False)
class LRFinder:
    """What rising learning rates do to the loss, tried several times.

    Attributes:
        rates: (R,), of the head and of the backbone's last block, rising.
        curves: (T, R), each trial's loss of the batch before the step at that rate; NaN after it diverged.
        losses: (R,), smoothed: the median of all trials and of the neighbouring steps.
        suggested: for `FineTuneConfig.learning_rate`; None if the curves do not say.
        reason: why they do not, as a clause; empty if they do.
    """

    rates: np.ndarray
    curves: np.ndarray
    losses: np.ndarray
    suggested: float | None
    reason: str = ""


def read_curves(rates: np.ndarray, curves: np.ndarray) -> LRFinder:
    """Smooth the curves and read off a rate, after Smith (2017, arXiv 1506.01186).

    Suggested is a decade below the far end of the valley, up to which the smoothed loss is near its least: the minimum
    divided by ten, as in fastai (Howard & Gugger 2020, arXiv 2002.04688), but not wherever noise puts the minimum in a
    wide valley. Nothing is suggested if the loss hardly falls, by less than a tenth or no more than the trials differ;
    if it falls up to the highest rate; or if that rate would be below all that were tried.

    Args:
        rates: (R,), rising exponentially. curves: (T, R), NaN after a trial diverged; no trial is without a loss.
    """
    diverged = np.isnan(curves)
    rates, curves = rates[~diverged.all(0)], curves[:, ~diverged.all(0)]
    worst = np.where(np.isnan(curves), np.inf, curves)  # a trial that ended counts as one that got worse
    windows = [worst[:, max(0, i - _NEIGHBOURS) : i + _NEIGHBOURS + 1].ravel() for i in range(worst.shape[1])]
    losses = np.array([_median(window) for window in windows])

    begin = float(losses[0])
    early = curves[:, rates <= 10 * rates[0]]  # where nothing has been learnt yet
    deviation = 1.4826 * float(np.nanmedian(np.abs(early - np.nanmedian(early))))
    values = curves.shape[0] * (2 * _NEIGHBOURS + 1)
    error = deviation * math.sqrt(math.pi / 2 / values)  # of a smoothed loss
    enough = max(_FALL * abs(begin), _SURE * error)

    lowest = int(np.argmin(losses))
    fall = begin - float(losses[lowest])
    suggested, reason = None, ""
    if fall < enough:
        end = int(np.flatnonzero(losses <= begin + enough)[-1])
        if rates[end] <= 10 * rates[0]:
            reason = f"the loss grows from the lowest rate tried, {rates[0]:.1e}, on"
        else:
            then = ", and grows at higher rates" if end < len(rates) - 1 or diverged.any() else ""
            reason = f"the loss hardly changes between {rates[0]:.1e} and {rates[end]:.1e}{then}"
    else:
        far = int(np.flatnonzero(losses <= losses[lowest] + _VALLEY * fall)[-1])
        if far >= len(rates) - 1 - _NEIGHBOURS and not diverged.any():
            reason = f"the loss still falls at {rates[-1]:.1e}, the highest rate tried"
        elif rates[far] / 10 < rates[0]:
            reason = f"the loss is least near {rates[0]:.1e}, the lowest rate tried"
        else:
            suggested = float(rates[far] / 10)
    return LRFinder(rates, curves, losses, suggested, reason)


def _median(values: np.ndarray) -> float:
    """The lower one of an even number, so that no mean is taken with infinity."""
    return float(np.sort(values)[(len(values) - 1) // 2])
