"""Occlusion: a grey window over one place after another."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ais.attribution.drawing import Drawing
from ais.attribution.forward import ForwardPass
from ais.attribution.passes import batch_size, input_of, variant_scores
from ais.progress import Progress


def occlusion(forward_pass: ForwardPass, importance: Tensor, progress: Progress | None = None) -> Drawing:
    """By how much the score falls when a grey window covers the place (Zeiler & Fergus, arXiv 1311.2901).

    The window is a seventh of the input's shorter side and moves by half of that: about 170 forward passes.
    Values are points, averaged over the windows that cover a place, as captum's `Occlusion` has them of a single
    score; here of all variants from the same passes. `importance` is not used.

    Args:
        progress: called before each batch of windows with how many are done, and of how many.
    """
    image = input_of(forward_pass)
    height, width = image.shape[-2:]
    step = max(1, min(height, width) // 14)
    tops, lefts = (range(0, max(1, side - step), step) for side in (height, width))
    windows = [
        (..., slice(top, top + 2 * step), slice(left, left + 2 * step)) for top in tops for left in lefts
    ]
    score = forward_pass.head.readout(forward_pass.hidden)  # (1, K)
    total = score.new_zeros(score.shape[1], height, width)
    covers = score.new_zeros(height, width)
    size = batch_size(image)
    for done in range(0, len(windows), size):
        if progress is not None:
            progress(done, len(windows))
        batch = windows[done : done + size]
        hidden = image.repeat(len(batch), 1, 1, 1)
        for one, window in zip(hidden, batch, strict=True):
            one[window] = 0
        for change, window in zip(score - variant_scores(forward_pass, hidden), batch, strict=True):
            total[window] += change[:, None, None]
            covers[window] += 1
    cells = (max(1, round(height / step)), max(1, round(width / step)))
    return Drawing(F.adaptive_avg_pool2d(total / covers, cells))
