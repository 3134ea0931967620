"""What stands out in an image, whatever it is compared with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage


def spectral_residual(image: NDArray[np.generic]) -> np.ndarray:
    """What is salient in an image by the spectral residual: (H, W) float64 from 0 to 1; all 0 where it is plain.

    Hou & Zhang (2007), Saliency Detection: A Spectral Residual Approach, with their settings: a longer side of 64
    pixels, a 3 × 3 mean of the log amplitude, a Gaussian of 2.5 pixels over the squared result.

    Args:
        image: (H, W) or (H, W, 3), on any scale.
    """
    pixels = np.asarray(image, np.float64)
    grey = pixels.mean(2) if pixels.ndim == 3 else pixels
    height, width = grey.shape
    scale = 64 / max(height, width)
    small = _resized(
        grey, max(1, round(width * scale)), max(1, round(height * scale)), Image.Resampling.BICUBIC
    )
    if np.ptp(small) == 0:
        return np.zeros((height, width))
    spectrum = np.fft.fft2(small)
    # What rounding leaves of an amplitude of 0 is no feature of the image.
    amplitude = np.log(np.maximum(np.abs(spectrum), 1e-9 * np.abs(spectrum).max()))
    residual = amplitude - ndimage.uniform_filter(amplitude, 3, mode="nearest")
    saliency = np.abs(np.fft.ifft2(np.exp(residual + 1j * np.angle(spectrum)))) ** 2
    smooth = _resized(ndimage.gaussian_filter(saliency, 2.5), width, height, Image.Resampling.BILINEAR)
    return (smooth - smooth.min()) / (np.ptp(smooth) or 1)


def _resized(image: np.ndarray, width: int, height: int, resample: Image.Resampling) -> np.ndarray:
    resized = Image.fromarray(image.astype(np.float32)).resize((width, height), resample)
    return np.asarray(resized, np.float64)
