"""Decoding a picture's file with Pillow, put right where Pillow reads a layout wrongly without an error.

What the file's header says decides: Pillow cuts 16-bit colours down to 8, compares transparent colours of another depth
than the pixels', and takes some layouts of TIFF for others.
"""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
from PIL import Image

from ais.images import tiff as tiffs
from ais.images.guards import (
    MAX_FRAMES,
    check_size,
    checked,
    kind_of,
    png_chunks,
    too_many_frames,
    unsupported,
)
from ais.images.pixels import eight_bits, from_samples
from ais.images.tiff import Tiff

_SWAPPED = {"B": "L", "L": "B", "N": "B" if np.little_endian else "L"}


def decode(data: bytes, name: str) -> Image.Image:
    """The picture in a file: loaded, with the colours and the transparency that the file means.

    Its mode is one of Pillow's; its `info` holds what else the file says (profile, EXIF).

    Raises:
        ImageError: it is of no format or layout that is read here, too large or too expensive.
        Exception: whatever Pillow raises over a damaged file.
    """
    kind = kind_of(data, name)
    data = checked(data, kind, name)
    if kind == "TIFF":
        return _decode_tiff(tiffs.read_tiff(data, name))
    image: Any = _open(data, kind)
    check_size(image.width, image.height, name)
    if kind in ("PNG", "WEBP", "AVIF") and getattr(image, "n_frames", 1) > MAX_FRAMES:
        raise too_many_frames(name)
    if kind == "PNG":
        return _decode_png(image, data)
    if kind == "BMP" and data[28] == 4 and image.tile[0].codec_name == "raw" and image.mode == "L":
        raise unsupported(
            name, "a BMP whose colours are the darkest greys"
        )  # Pillow would take two pixels for one
    image.load()
    return image


def _open(data: bytes, kind: str) -> Image.Image:
    """Opened, not decoded."""
    if kind == "HEIF":
        from pillow_heif import HeifImageFile  # an extra; not registered, which would change Pillow for all

        return HeifImageFile(io.BytesIO(data))
    return Image.open(io.BytesIO(data), formats=(kind,))


def _like(image: Image.Image, pixels: Image.Image) -> Image.Image:
    pixels.info = image.info.copy()
    return pixels


def _with_rawmode(image: Any, change: Any) -> Image.Image:
    """An image whose samples are unpacked in another way; `change` takes a tile's arguments."""
    image.tile = [tile._replace(args=change(tile.args)) for tile in image.tile]
    image.load()
    return image


def _sixteen(high: Image.Image, low: Image.Image) -> np.ndarray:
    """uint16 samples of their two bytes."""
    samples = np.asarray(high).astype(np.uint16)
    samples <<= 8
    samples |= np.asarray(low)
    return samples


# PNG


def _decode_png(image: Image.Image, data: bytes) -> Image.Image:
    depth, color = struct.unpack_from("BB", data, 24)
    key = _transparent(data)
    if depth == 16 and color == 4:
        pair = np.asarray(_with_rawmode(image, lambda _: "RGBA")).astype(np.uint16)  # two bytes, two bytes
        return _like(image, from_samples(pair[..., ::2] << 8 | pair[..., 1::2]))
    if depth == 16 and color in (2, 6):
        low = _open(data, "PNG")
        mode = "RGB;16" if color == 2 else "RGBA;16"
        samples = _sixteen(
            _with_rawmode(image, lambda _: mode + "B"), _with_rawmode(low, lambda _: mode + "L")
        )
        pixels = _like(image, from_samples(samples))
        if color == 2 and len(key) >= 6:
            seen = np.any(samples != np.array(struct.unpack_from(">HHH", key), np.uint16), axis=2)
            pixels.putalpha(Image.fromarray(seen.astype(np.uint8) * 255))
        pixels.info.pop("transparency", None)
        return pixels
    image.load()
    if color == 0 and len(key) >= 2 and depth < 16:  # Pillow has spread the levels over 0 to 255
        level = int.from_bytes(key[:2], "big") & (1 << depth) - 1
        image.info["transparency"] = level * 255 // ((1 << depth) - 1)
    elif color == 2 and len(key) >= 6:
        image.info["transparency"] = tuple(level & 255 for level in struct.unpack_from(">HHH", key))
    return image


def _transparent(data: bytes) -> bytes:
    """What the chunk tRNS holds."""
    for kind, start, end in png_chunks(data):
        if kind == b"tRNS":
            return data[start:end]
        if kind in (b"IDAT", b"IEND"):
            break
    return b""


# TIFF


def _decode_tiff(tiff: Tiff) -> Image.Image:
    if tiff.planar and tiff.samples > 1:
        return _from_planes(tiff)
    data = tiff.black_is_zero() if tiff.planar or tiff.inverted else tiff.data
    image: Any = _open(data, "TIFF")
    if tiff.photometric == tiffs.YCBCR and tiff.compression == 1:
        _through_libtiff(image)
    if tiff.bits == 16 and tiff.samples > 1:
        return _colors_of_sixteen_bits(tiff, image, _open(data, "TIFF"))
    image.load()
    if image.mode in ("P", "PA"):
        image.putpalette(tiff.palette)
    if tiff.bits == 12:
        return _like(image, Image.fromarray(eight_bits(np.asarray(image), 4095)))
    if tiff.inverted:
        return _like(image, Image.fromarray(65535 - np.asarray(image).astype(np.uint16)))
    return image


def _colors_of_sixteen_bits(tiff: Tiff, image: Any, low: Any) -> Image.Image:
    mode = {"RGB": "RGB", "RGBA": "RGBA", "CMYK": "CMYK"}[image.mode]
    if tiff.extra == (0,):
        mode = "RGBX"

    def rawmode(end: str) -> Any:
        return lambda args: (f"{mode};16{end}", *args[1:])

    end = image.tile[0].args[0][-1]
    samples = _sixteen(_with_rawmode(image, rawmode(end)), _with_rawmode(low, rawmode(_SWAPPED[end])))
    if mode == "CMYK":
        return _like(image, Image.fromarray(eight_bits(samples), "CMYK"))
    return _like(image, from_samples(samples, premultiplied=tiff.extra == (1,)))


def _through_libtiff(image: Any) -> None:
    """Let libtiff decode what Pillow would take for another layout."""
    image.use_load_libtiff = True
    image.tile = [image.tile[0]._replace(codec_name="libtiff", extents=(0, 0, *image.size), offset=0)]
    image.tile[0] = image.tile[0]._replace(args=("RGBX", "raw", False, image.tag_v2.offset))


def _from_planes(tiff: Tiff) -> Image.Image:
    opened = [_open(plane, "TIFF") for plane in tiff.planes()]
    samples = np.stack([np.asarray(plane) for plane in opened], axis=-1)
    if tiff.photometric == tiffs.WHITE_IS_ZERO:
        samples[..., 0] = np.iinfo(samples.dtype).max - samples[..., 0]
    alpha = tiff.extra[:1] in ((1,), (2,))
    samples = samples[..., : tiff.colors + alpha]
    if tiff.photometric == tiffs.CMYK:
        levels = samples if samples.dtype == np.uint8 else eight_bits(samples)
        pixels = Image.fromarray(np.ascontiguousarray(levels), "CMYK")
    else:
        pixels = from_samples(samples, premultiplied=tiff.extra[:1] == (1,))
    pixels = _like(opened[0], pixels)
    pixels.getexif()[274] = tiff.orientation
    return pixels
