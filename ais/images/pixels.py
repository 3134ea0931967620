"""Samples of any depth as Pillow's 8-bit images, rounded in one way whichever door they came through."""

from __future__ import annotations

import numpy as np
from PIL import Image

_ROWS = 256  # at once: a large picture's samples need no second copy of many bytes each


def eight_bits(levels: np.ndarray, top: int = 65535) -> np.ndarray:
    """0..top -> 0..255, rounded: uint8, of the same shape."""
    rounded = np.empty(levels.shape, np.uint8)
    for at in range(0, len(levels), _ROWS):
        part = levels[at : at + _ROWS].astype(np.uint32) * 255
        rounded[at : at + _ROWS] = (part + 32_895) >> 16 if top == 65_535 else (part + top // 2) // top
    return rounded


def from_samples(samples: np.ndarray, *, premultiplied: bool = False) -> Image.Image:
    """An 8-bit image of a picture's samples.

    Args:
        samples: height x width (grey) or height x width x 1 to 4 (grey, grey with alpha, RGB, RGBA);
            uint8 or uint16.
        premultiplied: the colours have been multiplied with alpha, the last channel.
    """
    if samples.shape[2:] == (1,):
        samples = samples[..., 0]
    if premultiplied:
        samples = _divided(samples)
    elif samples.dtype != np.uint8:
        samples = eight_bits(samples)
    return Image.fromarray(np.ascontiguousarray(samples))


def _divided(samples: np.ndarray) -> np.ndarray:
    """Colours without the alpha in them, uint8."""
    top = np.iinfo(samples.dtype).max
    straight = np.empty(samples.shape, np.uint8)
    for at in range(0, len(samples), _ROWS):
        part = samples[at : at + _ROWS].astype(np.float32)
        alpha = part[..., -1:]
        colors = part[..., :-1] / np.maximum(alpha, 1) * 255
        straight[at : at + _ROWS, ..., :-1] = np.rint(np.minimum(colors, 255))
        straight[at : at + _ROWS, ..., -1:] = np.rint(alpha / top * 255)
    return straight
