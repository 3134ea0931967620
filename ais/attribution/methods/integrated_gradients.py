"""Integrated Gradients on the pixels."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from ais.attribution.drawing import Drawing
from ais.attribution.forward import ForwardPass
from ais.attribution.passes import GRADIENT_BATCH, batch_size, cell_sums, differentiable_score, input_of
from ais.progress import Progress

STEPS, MOST_STEPS = 64, 512  # at first, and after doublings

TOLERANCE = 0.02  # points: the error of completeness at which the doubling ends

logger = logging.getLogger(__name__)


def integrated_gradients(
    forward_pass: ForwardPass, importance: Tensor, progress: Progress | None = None
) -> Drawing:
    """Integrated Gradients from a grey picture (Sundararajan et al., arXiv 1703.01365), summed over cells.

    The grey is the network's zero input, as that of occlusion, and the same for all pictures: the cells add up to the
    score less the score of a grey picture. What is grey itself counts for nothing.

    The way from grey to the picture is ``a * input``, and nearly all that happens on it happens near grey, where the
    gradient jumps as one layer after the other wakes up: equal steps, as usual, miss whole points there. So the steps
    end at ``a = t ** 3`` for equal steps of t, which are short near grey; gradients at their ends are averaged (the
    trapezoidal rule), and while the cells miss more than `TOLERANCE` of the difference of the scores, each step is cut
    in two. The rest is then shared out among the cells by their size; of `MOST_STEPS` steps that still miss more, the
    log says how much, and nothing is shared out. 65 passes, each with its gradient, or 129, 257 or 513. `importance` is
    not used.

    Args:
        progress: called before each batch of steps with how many are done, and of how many.
    """
    steps = STEPS
    scores, cells = _gradients(forward_pass, torch.arange(steps + 1) / steps, (0, steps + 1), progress)
    while True:
        ends = (torch.arange(steps + 1, dtype=torch.float64) / steps) ** 3
        lengths = ends.diff()
        points = (lengths[:, None, None] * (cells[1:] + cells[:-1]) / 2).sum(0)
        missing = (scores[-1] - scores[0] - points.sum()).item()
        if abs(missing) <= TOLERANCE or 2 * steps > MOST_STEPS:
            break
        middles = (torch.arange(steps) + 0.5) / steps
        made = _gradients(forward_pass, middles, (steps + 1, 2 * steps + 1), progress)
        scores, cells = _between(scores, made[0]), _between(cells, made[1])
        steps *= 2
    if abs(missing) <= TOLERANCE:
        size = points.abs()
        points = points + missing * size / size.sum().clamp_min(torch.finfo(size.dtype).tiny)
    else:
        logger.warning(
            "The cells of Integrated Gradients do not add up to the score less that of a grey picture: after %d steps "
            "%+.2f points are missing.",
            steps,
            missing,
        )
    return Drawing(points[None])


def _gradients(
    forward_pass: ForwardPass, times: Tensor, counts: tuple[int, int], progress: Progress | None
) -> tuple[Tensor, Tensor]:
    """At some times of the way the scores (N,), and the gradients times the input summed over cells (N, h, w); float64.

    Args:
        times: (N,), from 0 for grey to 1 for the picture.
        counts: how many passes there were before, and how many there are with these.
    """
    image = input_of(forward_pass)
    scores, cells = [], []
    size = batch_size(image, GRADIENT_BATCH)
    for first in range(0, len(times), size):
        if progress is not None:
            progress(counts[0] + first, counts[1])
        share = times[first : first + size].double() ** 3
        with torch.enable_grad():
            images = (share.to(image)[:, None, None, None] * image).requires_grad_()
            score = differentiable_score(forward_pass, images)
            (gradients,) = torch.autograd.grad(score.sum(), images)
        scores.append(score.detach().double().cpu())
        cells.append(cell_sums((gradients * image).sum(1)))
    return torch.cat(scores), torch.cat(cells)


def _between(values: Tensor, middles: Tensor) -> Tensor:
    """(N + 1, …) with each of (N, …) put between two of them: (2 N + 1, …)."""
    merged = values.new_empty(len(values) + len(middles), *values.shape[1:])
    merged[::2], merged[1::2] = values, middles
    return merged
