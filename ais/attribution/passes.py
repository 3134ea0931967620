"""More passes than the one: for methods that try other inputs, or take the gradient at the input."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ais.attribution.forward import ForwardPass
from ais.attribution.grids import resample

BATCH = 16  # inputs of 224 × 224 in one forward pass, and

GRADIENT_BATCH = 8  # in one whose gradient is taken, which keeps every layer's output

_USUAL = 224 * 224  # pixels

_CELLS = 28  # on the shorter side of a grid made of pixels


def batch_size(image: Tensor, most: int = BATCH) -> int:
    """How many inputs as large as `image`, (1, 3, H, W), are run at once, so that memory does not grow with their size.

    As many as have no more pixels than `most` inputs of 224 × 224; one in any case.
    """
    return max(1, most * _USUAL // image.shape[-2:].numel())


def variant_scores(forward_pass: ForwardPass, images: Tensor) -> Tensor:
    """The scores that the head's variants give other inputs: (N, 3, H, W) -> (N, K), without gradients."""
    with torch.no_grad():
        scores: Tensor = forward_pass.head(forward_pass.backbone(images, forward_pass.head.keep).embedding)
    return scores


def input_gradients(forward_pass: ForwardPass, images: Tensor) -> Tensor:
    """The gradients of the score at other inputs, in points for a unit of the input: (N, 3, H, W), as `images`."""
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        (gradients,) = torch.autograd.grad(differentiable_score(forward_pass, images).sum(), images)
    return gradients


def differentiable_score(forward_pass: ForwardPass, images: Tensor) -> Tensor:
    """The scores of other inputs, through which a gradient runs: (N, 3, H, W) -> (N,)."""
    maps, *side_inputs = forward_pass.backbone.trunk(images.contiguous(memory_format=torch.channels_last))
    kept = torch.where(forward_pass.head.keep[:, None, None], maps, 0)
    return forward_pass.head.score(forward_pass.backbone.tail(kept, *side_inputs))


def input_of(forward_pass: ForwardPass) -> Tensor:
    """The picture's input (1, 3, H, W), on the network's device."""
    return forward_pass.image.to(forward_pass.features.maps.device, forward_pass.features.maps.dtype)


def cell_means(values: Tensor) -> Tensor:
    """The means over the cells of a grid of some 28 a side: (..., H, W) of pixels -> (..., h, w), float64.

    At an input of 224 pixels a cell has 8 a side. Gradients of neighbouring pixels are close to white noise (Balduzzi
    et al., arXiv 1702.08591), so what is finer than that says nothing.
    """
    height, width = values.shape[-2:]
    side = max(1, min(height, width) // _CELLS)
    shape = (max(1, round(height / side)), max(1, round(width / side)))
    return torch.from_numpy(resample(values.detach().double().cpu().numpy(), shape))


def cell_sums(values: Tensor) -> Tensor:
    """`cell_means`, but sums: those of the cells add up to that of the pixels."""
    means = cell_means(values)
    return means * (np.prod(values.shape[-2:]) / np.prod(means.shape[-2:]))


def shown_less_hidden(scores: Tensor, masks: Tensor) -> Tensor:
    """How much higher the score is, on average, where a place is shown than where it is hidden.

    Args:
        scores: (N, K), of the inputs under N masks.
        masks: (N, h, w), how much of a cell is shown, 0 to 1.

    Returns:
        (K, h, w) float64: the mean score weighted by the mask less the one weighted by what it hides; 0 where no mask
        hides a cell, or none shows it. A constant added to all scores changes nothing.
    """
    shown = masks.double().cpu().flatten(1)
    away = scores.double().cpu()
    away = away - away.mean(0)
    share = shown.mean(0)
    spread = share * (1 - share)  # E[s m] / E[m] - E[s (1 - m)] / E[1 - m] = cov(s, m) / (E[m] E[1 - m])
    effect = torch.where(spread > 0, away.T @ shown / len(shown) / torch.where(spread > 0, spread, 1), 0)
    return effect.unflatten(1, masks.shape[1:])
