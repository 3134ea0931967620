"""RISE: the score under random masks."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ais.attribution.drawing import Drawing
from ais.attribution.forward import ForwardPass
from ais.attribution.passes import batch_size, cell_means, input_of, shown_less_hidden, variant_scores
from ais.progress import Progress

MASKS = 512

_CELLS = 7  # of a mask, on the input's shorter side


def rise(forward_pass: ForwardPass, importance: Tensor, progress: Progress | None = None) -> Drawing:
    """How much higher the score is where a place is shown (RISE: Petsiuk et al., arXiv 1806.07421), in points.

    Random masks as published: cells that are shown with a chance of a half, enlarged smoothly and shifted; the rest of
    the picture fades to grey, the network's zero input. The paper averages the probability of a class over the masks
    that show a place. Of a rating that average is far from zero everywhere, so the average over the masks that hide
    the place is taken from it. `MASKS` masks, the same for every picture of a size; the paper has 4,000 to 8,000, for
    which nobody waits. `importance` is not used.

    Args:
        progress: called before each batch of masks with how many are done, and of how many.
    """
    image = input_of(forward_pass)
    height, width = image.shape[-2:]
    drawn = random_masks(height, width)
    scores, shown = [], []
    size = batch_size(image)
    for done in range(0, MASKS, size):
        if progress is not None:
            progress(done, MASKS)
        masks = torch.stack([next(drawn) for _ in range(min(size, MASKS - done))])
        scores.append(variant_scores(forward_pass, image * masks[:, None].to(image)))
        shown.append(cell_means(masks))
    return Drawing(shown_less_hidden(torch.cat(scores), torch.cat(shown)))


def random_masks(height: int, width: int) -> Iterator[Tensor]:
    """Masks (height, width) of how much is shown, 0 to 1, without end and always the same."""
    generator = torch.Generator().manual_seed(0)
    side = math.ceil(min(height, width) / _CELLS)
    rows, columns = (math.ceil(length / side) + 1 for length in (height, width))
    while True:
        cells = (torch.rand(1, 1, rows, columns, generator=generator) < 0.5).float()
        smooth = F.interpolate(cells, (rows * side, columns * side), mode="bilinear")[0, 0]
        top, left = torch.randint(side, (2,), generator=generator).tolist()
        yield smooth[top : top + height, left : left + width]
