"""Reading pictures safely: an upright 8-bit RGB `PIL.Image.Image`, whichever door it came through."""

from __future__ import annotations

import io
import logging
import math
import os
import re
import stat
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageCms

from ais.errors import ImageError

logger = logging.getLogger(__name__)

Source = str | Path | bytes | BinaryIO | Image.Image | np.ndarray  # the doors a picture can come through

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")  # Pillow's JPEG reader also reads phones' MPO
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})  # of their files
MAX_BYTES = 100_000_000
MAX_PIXELS = 50_000_000
MAX_FRAMES = 1_000
MIN_SIDE = 8

_GIVE = "give a JPEG, PNG, WebP, GIF, BMP or TIFF picture"
_OURS = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_OTHERS = (  # how files of other kinds begin: (offset, bytes, what to call them)
    (4, b"ftypavi", "an AVIF picture"),
    (4, b"ftyphe", "a HEIC picture"),
    (4, b"ftypm", "a HEIF picture or a video"),
    (4, b"ftyp", "a video"),
    (4, b"jP  \r\n", "a JPEG 2000 picture"),
    (4, b"JXL \r\n", "a JPEG XL picture"),
    (0, b"8BPS", "a Photoshop picture"),
    (0, b"%PDF", "a PDF document"),
    (0, b"PK\3\4", "a zip archive or an office document"),
)
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TIFF_BYTES = dict(zip(range(1, 14), (1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4), strict=True)) | {
    16: 8,
    17: 8,
    18: 8,
}
_TIFF_DIRECTORIES = (34665, 34853, 40965)  # EXIF, GPS, interoperability


def read_image(source: Source) -> Image.Image:
    """Read a picture as upright 8-bit RGB, transparency laid on white; of several frames or pages, the first.

    Args:
        source: a path, a file's bytes, an open binary file, a PIL image, or an array of height x width,
            optionally x 1 (grey), 3 (RGB) or 4 (RGBA): uint8, uint16 (65535 is white), or float in 0 to 1.

    Colour profiles are not applied: the pictures the networks learnt from were read so.

    Raises:
        ImageError: it is no picture of `FORMATS`, is damaged, has a side under `MIN_SIDE` pixels, or more
            than `MAX_PIXELS` (read in the header, before anything is decoded), `MAX_FRAMES` or `MAX_BYTES`.
    """
    name = "The picture"
    try:
        if isinstance(source, Image.Image):
            name = _label(getattr(source, "filename", ""))
            return _decode(source, name)
        if isinstance(source, np.ndarray):
            return _decode(_from_array(source), name)
        if isinstance(source, (bytes, bytearray, memoryview)):
            data = bytes(source)
        elif isinstance(source, (str, os.PathLike)):
            name = _label(source)
            if not os.fspath(source):
                raise ImageError("The path is empty: give that of a picture.")
            if re.match(r"https?://", str(source)):
                raise ImageError(
                    f"{name} is an address, which is not read: fetch the picture, then give its path."
                )
            data = _read_path(source, name)
        else:
            name = _label(getattr(source, "name", ""))
            data = _read_file(source, name)
        return _decode(_open(data, name), name)
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(name) from error
    except Exception as error:  # nearly any built-in exception can come out of damaged bytes
        raise ImageError(f"{name} is damaged or cut short: download or export it again.") from error


def _label(path: object) -> str:
    """What sentences call the picture: its base name in quotes, fit for one line of any terminal."""
    name = Path(os.fsdecode(path)).name if isinstance(path, (str, bytes, os.PathLike)) else ""
    name = "".join(c if c.isprintable() else "?" for c in name)
    if len(name) > 80:
        name = f"{name[:50]}…{name[-25:]}"
    return f'"{name}"' if name else "The picture"


def _read_path(path: str | os.PathLike[str], name: str) -> bytes:
    try:
        kind = Path(path).stat().st_mode
        if stat.S_ISDIR(kind):
            raise ImageError(f"{name} is a folder: {_GIVE}.")
        if not stat.S_ISREG(kind):  # a pipe or a device may never end
            raise ImageError(f"{name} is not a file: {_GIVE}.")
        with Path(path).open("rb") as file:
            return _read_file(file, name)
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{name} does not exist: check the path.") from error
    except PermissionError as error:
        raise ImageError(f"{name} may not be read: change its permissions.") from error
    except (OSError, ValueError) as error:  # a name too long, a null character, a failing disk
        raise ImageError(f"{name} cannot be opened: check the path.") from error


def _read_file(file: BinaryIO, name: str) -> bytes:
    try:
        if file.seekable():
            file.seek(0)
        data = file.read(MAX_BYTES + 1)
    except Exception as error:  # anything may call itself a file
        raise ImageError(f"{name} cannot be read: give a path, bytes or a file opened with 'rb'.") from error
    if not isinstance(data, bytes):
        raise ImageError(f"{name} was opened as text: open it with 'rb'.")
    return data


def _open(data: bytes, name: str) -> Image.Image:
    """The picture in a file's bytes: its header is read, nothing is decoded."""
    if not data:
        raise ImageError(f"{name} is empty: {_GIVE}.")
    if len(data) > MAX_BYTES:
        raise ImageError(f"{name} is larger than {MAX_BYTES // 1_000_000} MB: save it smaller.")
    if not data.startswith(_OURS):
        for offset, magic, kind in _OTHERS:
            if data.startswith(magic, offset):
                raise ImageError(f"{name} is {kind}, which is not read here: {_GIVE}.")
        raise ImageError(f"{name} is not a picture that is read here: {_GIVE}.")
    if data.startswith(b"GIF8"):
        _check_gif(data, name)
    elif data.startswith((b"II", b"MM")):
        _check_tiff(data, name)
    elif data.startswith(b"\xff\xd8"):
        data = _one_exif(data)
    return Image.open(io.BytesIO(data), formats=FORMATS)


# Guards against files that are cheap to make and dear to read: without them, Pillow spends minutes or
# all memory on a few megabytes before it even knows the picture's size.


def _check_gif(data: bytes, name: str) -> None:
    """Count the frames by hopping from block to block, refuse long comments: Pillow reads them in n^2."""
    at = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)  # past the header and its colour table
    frames = beside = 0
    in_block = in_frame = False
    for _ in range(1_000_000):  # hops; whatever lies beyond is no longer looked at by anyone
        if at >= len(data) or (data[at] == 0x3B and not in_block):
            break
        if in_block:  # a run of sub-blocks, each after its length, up to an empty one
            in_block = data[at] > 0
            at += data[at] + 1
        elif data[at] == 0x2C and at + 9 < len(data):
            frames += 1
            in_block = in_frame = True
            at += 11 + (3 << (data[at + 9] & 7) + 1 if data[at + 9] & 0x80 else 0)
        else:  # an extension, or a stray byte, which Pillow skips
            in_block, in_frame = data[at] == 0x21, False
            at += 2 if in_block else 1
        beside += not in_frame
        if beside > 10_000:
            raise ImageError(f"{name} holds more comments than picture: save it again without them.")
        if frames > MAX_FRAMES:
            raise _too_many_frames(name)


def _check_tiff(data: bytes, name: str) -> None:
    """Refuse tags that claim the same bytes over and over: Pillow copies each."""
    order = "<" if data.startswith(b"II") else ">"
    start, number, entry = (8, "Q", "HHQQ") if 43 in data[2:4] else (4, "I", "HHII")
    directories, claimed = list(struct.unpack_from(order + number, data, start)), 0
    for at in directories:  # grows on the way
        (count,) = struct.unpack_from(order + ("Q" if number == "Q" else "H"), data, at)
        first, size = at + (8 if number == "Q" else 2), struct.calcsize(order + entry)
        whole = max(0, min(count, (len(data) - first) // size))
        for tag, kind, values, value in struct.iter_unpack(order + entry, data[first : first + whole * size]):
            claimed += min(values * _TIFF_BYTES.get(kind, 0), len(data))
            if tag in _TIFF_DIRECTORIES:
                directories.append(value)
        if claimed > 8 * len(data) or len(directories) > 16:
            raise ImageError(f"{name} holds more tags than picture: save it again without them.")


def _one_exif(data: bytes) -> bytes:
    """A JPEG with only its first EXIF block, at most 64 KiB: Pillow would join them all."""
    before, mark, after = data.partition(b"Exif\0\0")
    return before + mark + re.sub(rb"(?s)(\xff\xe1..)Exif\0\0", rb"\1none\0\0", after)


def _too_large(name: str) -> ImageError:
    return ImageError(f"{name} has more than {MAX_PIXELS // 1_000_000} megapixels: scale it down.")


def _too_many_frames(name: str) -> ImageError:
    return ImageError(f"{name} has more than {MAX_FRAMES:,} frames: save the one you mean.")


def _check_size(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS:
        raise _too_large(name)
    if min(width, height) < MIN_SIDE:
        raise ImageError(f"{name} is {width} x {height} pixels: give one with at least {MIN_SIDE} a side.")


def _decode(image: Image.Image, name: str) -> Image.Image:
    _check_size(*image.size, name)
    if image.format in ("PNG", "WEBP") and getattr(image, "n_frames", 1) > MAX_FRAMES:
        raise _too_many_frames(name)
    image.load()
    rgb = _to_rgb(image, name)
    turn = _UPRIGHT.get(_orientation(image))
    rgb = rgb if turn is None else rgb.transpose(turn)
    rgb.info = {}  # an orientation left in there would turn it again
    return rgb


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8; 1 where a broken block hides it, for that says nothing about the pixels."""
    try:
        exif = image.info.get("exif") or image.info.get("Raw profile type exif", "")
        if len(exif) > 65_536:  # more than a JPEG can hold: Pillow may copy it thousands of times
            return 1
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        logger.debug("unreadable EXIF", exc_info=True)
        return 1


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    """A new 8-bit RGB image of the same pixels."""
    if image.mode.startswith("I"):  # 16 bits, whatever the byte order; Pillow's own conversion would clip
        levels = np.asarray(image)
        if levels.min() < 0 or levels.max() > 65535:
            raise ImageError(f"{name} has values outside 0 to 65535: save it with 8 or 16 bits a channel.")
        levels = np.where(levels == image.info.get("transparency", -1), 65535, levels)
        return Image.fromarray(_eight_bits(levels)).convert("RGB")
    if image.mode == "F":
        return _from_array(np.asarray(image), name).convert("RGB")
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        assert converted is not None  # it is None only when converting in place
        return converted
    if image.has_transparency_data:
        rgba = image.convert("LA" if image.mode == "La" else "RGBA").convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(rgba, mask=rgba)
        return white
    return image.convert("RGB")


def _eight_bits(levels: np.ndarray) -> np.ndarray:
    """0..65535 -> 0..255, rounded."""
    return ((levels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _from_array(array: np.ndarray, name: str = "The array") -> Image.Image:
    """A grey, RGB or RGBA image of an array as `read_image` takes them."""
    if array.ndim not in (2, 3) or array.shape[2:] not in ((), (1,), (3,), (4,)):
        raise ImageError(
            f"{name} has the shape {array.shape}: give height x width, or that x 1, 3 or 4 channels."
        )
    _check_size(array.shape[1], array.shape[0], name)
    if array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 1):
            found = "NaN" if math.isnan(low) else f"{low:g} to {high:g}"
            raise ImageError(f"{name} has floating-point values of {found}: give values from 0 to 1.")
        array = np.rint(array.astype(np.float32, copy=False) * 255).astype(np.uint8)
    elif array.dtype.kind == "u" and array.dtype.itemsize == 2:
        array = _eight_bits(array)
    elif array.dtype != np.uint8:
        raise ImageError(f"{name} has values of type {array.dtype}: give uint8, uint16, or float in 0 to 1.")
    return Image.fromarray(np.ascontiguousarray(array[..., 0] if array.shape[2:] == (1,) else array))
