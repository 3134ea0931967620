"""Pictures for training a backbone: decoded once as far as they fit in memory, varied a little in every epoch.

All chance comes from a generator of (seed, epoch, picture), so that a picture is varied in the same way
whichever thread does it and whatever its batch is; no global random state is read or changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

Change = Callable[[Tensor, int], Tensor]  # a picture, uint8 (3, h, w), and its row -> the same, varied

_LEAST_AREA = 0.8  # of a picture, after cropping

_LIGHT = 0.1  # by which brightness and contrast go up or down, at most


def augment(image: Tensor, rng: np.random.Generator) -> Tensor:
    """A picture, uint8 (3, h, w), as it might have been taken: mirrored, a little closer, lighter or flatter.

    Mild, since framing and light are part of what people rate. The crop keeps the aspect ratio.
    """
    height, width = image.shape[1:]
    side = math.sqrt(rng.uniform(_LEAST_AREA, 1))
    h, w = round(height * side), round(width * side)
    top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    brightness, contrast = rng.uniform(1 - _LIGHT, 1 + _LIGHT, 2).tolist()
    image = functional.resized_crop(image, top, left, h, w, [height, width], antialias=True)
    # As torchvision's adjust_brightness and adjust_contrast, which work in torch's default type, whatever that is.
    values = image.to(torch.float32).mul(brightness).clamp_(0, 255).floor_()
    red, green, blue = values
    grey = red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).floor_().mean()
    image = values.mul(contrast).add_(grey, alpha=1 - contrast).clamp_(0, 255).to(torch.uint8)
    return functional.horizontal_flip(image) if rng.random() < 0.5 else image
