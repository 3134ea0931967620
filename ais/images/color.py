"""Colours as sRGB, whatever profile a picture's file carries.

The networks learnt from pictures as screens show them. A file with a colour profile holds other numbers for the same
colours: an iPhone's Display P3, Adobe RGB, a press's inks, linear light.
"""

from __future__ import annotations

import io
import logging
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

logger = logging.getLogger(__name__)

_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}  # a mode's colour space in the words of ICC

_MAX_PROFILE = 8_000_000  # bytes; that of a press has two or three million

_SAME = 1  # of 255: a profile that moves no colour further is sRGB by another name


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """An RGB image of the same colours in sRGB.

    Relative colorimetric, with black point compensation: white stays white, and the deepest black of a press
    becomes black. A profile that cannot be used (damaged, or for another kind of colour than the picture's) is passed
    over, as browsers do.

    Args:
        image: of mode L, RGB or CMYK.
        profile: the ICC profile from the picture's file; None or empty: the colours are sRGB.
    """
    if profile and len(profile) <= _MAX_PROFILE and (transform := _transform(bytes(profile), image.mode)):
        converted = transform.apply(image)
        converted.info = {}
        return converted
    return image.convert("RGB")


@lru_cache(maxsize=4)  # profiles are large, and a folder's pictures come from a few cameras
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From a profile to sRGB; None where nothing is to be done, or nothing can be."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != _SPACES[mode]:
            logger.debug(
                "a %s profile in a picture of mode %s is passed over", source.profile.xcolor_space, mode
            )
            return None
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        if mode != "CMYK":
            probe = _probe(mode)
            moved = np.asarray(transform.apply(probe)).astype(int) - np.asarray(probe.convert("RGB"))
            if np.abs(moved).max() <= _SAME:
                return None
    except Exception:  # Pillow's own error, and what it makes of strange bytes
        logger.debug("an unreadable colour profile is passed over", exc_info=True)
        return None
    return transform


@lru_cache(maxsize=3)
def _probe(mode: str) -> Image.Image:
    """A picture of colours from all over the space, of every grey among them."""
    greys = np.arange(256, dtype=np.uint8)
    if mode == "L":
        return Image.fromarray(greys[None])
    steps = np.linspace(0, 255, 9).astype(np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)
    return Image.fromarray(np.concatenate([cube, greys[:, None].repeat(3, axis=1)])[None])
