"""Integrated Gradients on the pixels."""

from __future__ import annotations

import torch
from captum.attr import IntegratedGradients
from torch import Tensor

from ais.attribution.drawing import Drawing
from ais.attribution.forward import ForwardPass
from ais.attribution.passes import GRADIENT_BATCH, batch_size, cell_sums, differentiable_score, input_of
from ais.progress import Progress

STEPS = 32


def integrated_gradients(seen: ForwardPass, importance: Tensor, progress: Progress | None = None) -> Drawing:
    """Integrated Gradients from a grey picture (Sundararajan et al., arXiv 1703.01365; captum), summed over cells.

    The grey is the network's zero input, as that of occlusion, and the same for all pictures: so the cells add up to
    the score less the score of a grey picture, but for what the sum over `STEPS` steps misses of the integral. What is
    grey itself counts for nothing. 32 passes, each with its gradient. `importance` is not used.

    Args:
        progress: called before each batch of steps with how many are done, and of how many.
    """
    done = 0

    def score(images: Tensor) -> Tensor:
        nonlocal done
        if progress is not None:
            progress(min(done, STEPS), STEPS)
        done += len(images)
        return differentiable_score(seen, images)

    image = input_of(seen)
    with torch.enable_grad():
        pixels = IntegratedGradients(score).attribute(
            image, n_steps=STEPS, internal_batch_size=batch_size(image, GRADIENT_BATCH)
        )
    return Drawing(cell_sums(pixels.detach().sum(1)))
