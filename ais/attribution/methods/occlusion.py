"""Occlusion: a grey window over one place after another."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from captum.attr import Occlusion
from torch import Tensor

from ais.attribution.drawing import Drawing
from ais.attribution.forward import ForwardPass
from ais.progress import Progress

_OCCLUSION_BATCH = 16


def occlusion(seen: ForwardPass, importance: Tensor, progress: Progress | None = None) -> Drawing:
    """By how much the score falls when a grey window covers the place (Zeiler & Fergus, arXiv 1311.2901; captum).

    The window is a seventh of the input's shorter side and moves by half of that: about 170 forward passes.
    Values are points, averaged over the windows that cover a place. `importance` is not used.

    Args:
        progress: called before each batch of windows with how many are done, and of how many.
    """
    backbone, head, image = seen.backbone, seen.head, seen.image
    height, width = image.shape[-2:]
    step = max(1, min(height, width) // 14)
    windows = math.prod(1 + math.ceil((side - 2 * step) / step) for side in (height, width))
    done = 0

    def score(batch: Tensor) -> Tensor:
        nonlocal done
        if progress is not None:
            progress(min(done, windows), windows)
        done += len(batch)
        return head.score(backbone(batch, head.keep).embedding)

    with torch.no_grad():
        change = Occlusion(score).attribute(
            image.to(seen.features.maps.device, seen.features.maps.dtype),
            sliding_window_shapes=(3, 2 * step, 2 * step),
            strides=(3, step, step),
            perturbations_per_eval=_OCCLUSION_BATCH,
        )
        cells = (max(1, round(height / step)), max(1, round(width / step)))
        return Drawing(F.adaptive_avg_pool2d(change.mean(1, keepdim=True), cells)[0])
