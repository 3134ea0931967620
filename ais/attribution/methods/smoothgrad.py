"""SmoothGrad on the pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from ais.attribution.drawing import Drawing
from ais.attribution.forward import ForwardPass
from ais.attribution.passes import GRADIENT_BATCH, batch_size, cell_sums, input_gradients, input_of
from ais.progress import Progress

SAMPLES = 48

NOISE = 0.15  # its SD, as a part of the range of the input's values


def smoothgrad(forward_pass: ForwardPass, importance: Tensor, progress: Progress | None = None) -> Drawing:
    """The mean gradient over noisy copies of the picture (SmoothGrad: Smilkov et al., arXiv 1706.03825) times it.

    The product with the input keeps the sign and gives points: the first-order change from a grey picture, the
    network's zero input, with the paper's noise of 10 to 20 % and about its 50 copies. It is summed over cells. The
    noise is the same for every picture; captum's `NoiseTunnel` would draw it from the random numbers of the whole
    process. `importance` is not used.

    Args:
        progress: called before each batch of copies with how many are done, and of how many.
    """
    image = input_of(forward_pass)
    spread = NOISE * (image.max() - image.min())
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros_like(image[0])
    size = batch_size(image, GRADIENT_BATCH)
    for done in range(0, SAMPLES, size):
        if progress is not None:
            progress(done, SAMPLES)
        count = min(size, SAMPLES - done)
        # One at a time, so that the noise does not depend on the size of a batch.
        noise = torch.stack([torch.randn(image.shape[1:], generator=generator) for _ in range(count)])
        total += input_gradients(forward_pass, image + spread * noise.to(image)).sum(0)
    return Drawing(cell_sums((total / SAMPLES * image[0]).sum(0)[None]))
