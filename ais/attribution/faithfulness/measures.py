"""What can be said of one heatmap, or of two: pure functions on grids."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ais.heads.regression import RatingHead, RegressionHead
from ais.heads.stack import StackedHead
from ais.metrics.correlation import pearson, spearman

ONE_SIDE = 0.95  # of a map's mass, from which it is one-sided

AGREEING = 0.8  # of the variants, from which a cell's sign is agreed

_QUALITY, _SHIFT, _SCALE = 75, 2, 0.9  # of what a heatmap should not depend on


def one_sided(grid: Tensor) -> bool:
    """Whether nearly all of a map's absolute values (h, w) lie on one side of zero."""
    total = grid.abs().sum()
    return bool(torch.maximum(grid.clamp_min(0).sum(), (-grid).clamp_min(0).sum()) > ONE_SIDE * total)


def agreed(variants: Tensor) -> float | None:
    """The share of cells whose sign nearly all variants agree on, (V, h, w); None if there is only one."""
    if len(variants) < 2:
        return None
    same = (variants.sign() == variants.mean(0).sign()).double().mean(0)
    return (same >= AGREEING).double().mean().item()


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's correlation of two grids, (h, w)."""
    return pearson(*_numbers(a, b))


def rank_similarity(a: Tensor, b: Tensor) -> float:
    """Absolute Spearman correlation of two grids (h, w): 1 where they rank places alike or upside down.

    Grids of unrelated heads are some way above 0: all are made of the same few active places.
    """
    return abs(spearman(*_numbers(a, b)))


def _numbers(a: Tensor, b: Tensor) -> Iterator[np.ndarray]:
    return (grid.double().cpu().numpy().ravel() for grid in (a, b))


def disturbed(image: Image.Image) -> list[Image.Image]:
    """An RGB image as nobody would tell it from the original, of the same size: saved as a JPEG, moved by two pixels,
    and made smaller and large again."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY)
    saved = Image.open(file).convert("RGB")
    pixels = np.pad(np.asarray(image), ((_SHIFT, 0), (_SHIFT, 0), (0, 0)), mode="edge")
    moved = Image.fromarray(pixels[: image.height, : image.width])
    small = (max(1, round(_SCALE * image.width)), max(1, round(_SCALE * image.height)))
    resized = image.resize(small, Image.Resampling.BICUBIC).resize(image.size, Image.Resampling.BICUBIC)
    return [saved, moved, resized]


def randomised(head: RatingHead, generator: torch.Generator) -> RatingHead:
    """The head with the weights of both its layers shuffled, so that it knows nothing; a stack with such members.

    The sanity check of Adebayo et al., arXiv 1810.03292: another head must give another map.
    """
    members = [_shuffled(member, generator) for member in head.members]
    return head.made_of(members) if isinstance(head, StackedHead) else members[0]


def _shuffled(head: RegressionHead, generator: torch.Generator) -> RegressionHead:
    other = RegressionHead(head.config).to(head.weight1)
    shuffled = {
        name: value.flatten()[torch.randperm(value.numel(), generator=generator).to(value.device)].view_as(
            value
        )
        for name, value in (("weight1", head.weight1), ("weight2", head.weight2))
    }
    other.load_state_dict(head.state_dict() | shuffled)
    return other
