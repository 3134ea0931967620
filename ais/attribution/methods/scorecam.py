"""Score-CAM: the score of what each feature map shows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ais.attribution.drawing import Drawing
from ais.attribution.forward import ForwardPass
from ais.attribution.passes import batch_size, input_of, shown_less_hidden, variant_scores
from ais.progress import Progress

MAPS = 256


def scorecam(forward_pass: ForwardPass, importance: Tensor, progress: Progress | None = None) -> Drawing:
    """Feature maps as masks of the picture, and the score under each (Score-CAM: Wang et al., arXiv 1910.01279).

    A map's positive part, enlarged to the input and scaled to 0 to 1, is the picture's mask; the rest fades to grey,
    the network's zero input. The published weights are a softmax of the scores, all positive, and the sum goes through
    a ReLU. Here a weight is the score less the mean over the masks, which has a sign (of a constant in all scores
    neither knows): on the scale ``relative`` they weight the maps as published; in points a place has how much higher
    the score is where it is shown than where it is hidden. Of the maps the `MAPS` that vary most from place to place
    are taken, as in Faster-Score-CAM, so that the time is bounded. `importance` is not used.

    Args:
        progress: called before each batch of maps with how many are done, and of how many.
    """
    image = input_of(forward_pass)
    active = forward_pass.features.maps[0].relu()
    spread = active.flatten(1).std(1, correction=0)
    order = spread.argsort(descending=True, stable=True)[:MAPS]
    active = active[order[spread[order] > 0]]
    if not len(active):
        return Drawing(active.new_zeros(1, *active.shape[1:]))
    scores, shown = [], []
    size = batch_size(image)
    for batch in range(0, len(active), size):
        if progress is not None:
            progress(batch, len(active))
        masks = enlarged(active[batch : batch + size], image)
        scores.append(variant_scores(forward_pass, image * masks[:, None]))
        shown.append(F.adaptive_avg_pool2d(masks[:, None], (active.shape[1], active.shape[2]))[:, 0])
    score = torch.cat(scores)
    relative = ((score - score.mean(0)).T @ active.flatten(1)).unflatten(1, active.shape[1:])
    return Drawing(shown_less_hidden(score, torch.cat(shown)), relative)


def enlarged(maps: Tensor, image: Tensor) -> Tensor:
    """Maps (N, h, w), none of them the same everywhere, as masks (N, H, W) from 0 to 1."""
    masks = F.interpolate(maps[:, None], image.shape[-2:], mode="bilinear")[:, 0]
    low, high = masks.amin((1, 2), keepdim=True), masks.amax((1, 2), keepdim=True)
    tiny = torch.finfo(masks.dtype).tiny
    return (masks - low) / (high - low).clamp_min(tiny)
