"""`HIDINGS`, the registry of what stands in for a place that is hidden. To add one, add an entry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the choices are listed without PyTorch
    from torch import Tensor

_BLUR = 8  # the blur's sigma is this part of the shorter side


@dataclass(frozen=True)
class Hiding:
    """What a hidden place shows.

    Attributes:
        about: that, in some words.
        fill: the function; the network's input (1, 3, H, W) -> the same with everything hidden.
    """

    about: str
    fill: Callable[[Tensor], Tensor]


def blur(image: Tensor) -> Tensor:
    """The image blurred beyond recognition, (1, 3, H, W): Gaussian, sigma an eighth of the shorter side."""
    from torchvision.transforms.functional import gaussian_blur

    short = min(image.shape[-2:])
    sigma, size = short / _BLUR, 2 * (3 * short // _BLUR) + 1  # cut at three sigma
    down = gaussian_blur(image, [1, size], [sigma, sigma])  # one way at a time: the same, far faster
    return gaussian_blur(down, [size, 1], [sigma, sigma])


def grey(image: Tensor) -> Tensor:
    """The mean colour of the network's training pictures, which the preprocessing makes 0: (1, 3, H, W)."""
    return image.new_zeros(image.shape)


HIDINGS: dict[str, Hiding] = {
    "blur": Hiding("the picture, blurred beyond recognition: a plain patch would add edges of its own", blur),
    "grey": Hiding("the mean colour of the pictures that the network learned from", grey),
}
