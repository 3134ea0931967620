"""Deletion and insertion (Petsiuk et al., RISE, arXiv 1806.07421), as changes of the score in points."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ais.attribution.faithfulness.hiding import HIDINGS
from ais.attribution.passes import batch_size
from ais.backbones.frozen import FrozenBackbone
from ais.heads.regression import RegressionHead

STEPS = 14

# Images of 224 × 224 in one pass. On a CPU so few that what the layers hand on stays in the cache.
_BATCH = {"cpu": 8, "cuda": 128}


def deletion_insertion(
    backbone: FrozenBackbone,
    head: RegressionHead,
    image: Tensor,
    grid: Tensor,
    steps: int = STEPS,
    hide: str = "blur",
) -> tuple[float, float]:
    """By how much the score changes while a heatmap's highest places are hidden, and while they are shown.

    At step k of `steps` that is the k/steps of the input's pixels where the grid, bilinearly upsampled and
    with its sign, is highest. Higher is better for both. The change is not divided by the score: a rating
    scale has no zero.

    Args:
        image: (1, 3, H, W), the network's input.
        grid: (h, w).
        hide: a key of `HIDINGS`.

    Returns:
        Deletion, the mean over the steps of ``score(image) - score(image with these pixels hidden)``, and
        insertion, that of ``score(only these pixels shown) - score(all hidden)``; in points.
    """
    scores = step_scores(backbone, head, image, [grid], hide, steps)
    deletion, insertion = changes(scores)[0].tolist()
    return deletion, insertion


def step_scores(
    backbone: FrozenBackbone,
    head: RegressionHead,
    image: Tensor,
    grids: Sequence[Tensor],
    hide: str,
    steps: int,
) -> Tensor:
    """The scores at every step of deletion and of insertion by several grids; what they share is run once.

    Args:
        image: (1, 3, H, W), the network's input.
        grids: M, each (h, w) of any size.

    Returns:
        (M, 2, steps + 1) float64, on the CPU: from all shown to all hidden, and from all hidden to all shown.
    """
    image = image.to(backbone.device)
    height, width = image.shape[-2:]
    filled = HIDINGS[hide].fill(image)
    ranks = torch.stack([_ranks(grid, height, width) for grid in grids]).to(image.device)
    counts = torch.arange(steps + 1, device=image.device) * (height * width) // steps
    # Which grid, whether the chosen places are shown rather than hidden, and the step: (M * 2 * (steps - 1), 3).
    each = torch.cartesian_prod(torch.arange(len(grids)), torch.arange(2), torch.arange(1, steps))
    scores = torch.empty(len(grids), 2, steps + 1, dtype=torch.float64)
    with torch.no_grad():
        shown, hidden = (_score(backbone, head, one).item() for one in (image, filled))
        scores[:, 0, 0] = scores[:, 1, -1] = shown
        scores[:, 1, 0] = scores[:, 0, -1] = hidden
        for rows in each.split(batch_size(image, _BATCH.get(image.device.type, 32))):
            grid, inserted, step = rows.to(image.device).unbind(1)
            chosen = ranks[grid] < counts[step][:, None, None]
            visible = chosen == inserted.bool()[:, None, None]
            made = _score(backbone, head, torch.where(visible[:, None], image, filled))
            scores[rows[:, 0], rows[:, 1], rows[:, 2]] = made
    return scores


def changes(scores: Tensor) -> Tensor:
    """Deletion and insertion of `step_scores`: (M, 2, steps + 1) -> (M, 2), in points."""
    start, later = scores[..., :1], scores[..., 1:]
    return (later - start).mean(-1) * torch.tensor([-1.0, 1.0], dtype=scores.dtype)


def _ranks(grid: Tensor, height: int, width: int) -> Tensor:
    """At each pixel how many come before it, from the highest value of the grid to the lowest: (height, width)."""
    values = F.interpolate(grid[None, None].double(), (height, width), mode="bilinear").flatten()
    ranks = torch.empty_like(values, dtype=torch.long)
    ranks[values.argsort(descending=True, stable=True)] = torch.arange(len(values), device=values.device)
    return ranks.view(height, width)


def _score(backbone: FrozenBackbone, head: RegressionHead, images: Tensor) -> Tensor:
    return head.score(backbone(images, head.keep).embedding).double().cpu()
