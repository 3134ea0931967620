"""Reading pictures safely: an upright 8-bit RGB `PIL.Image.Image`, whichever door it came through."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import stat
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageCms

from ais.errors import ImageError
from ais.images.color import to_srgb
from ais.images.decoding import decode
from ais.images.guards import AVIF, GIVE, HEIF, MAX_BYTES, check_size, too_large, unsupported
from ais.images.pixels import eight_bits, from_samples

logger = logging.getLogger(__name__)

Source = str | Path | bytes | BinaryIO | Image.Image | np.ndarray  # the doors a picture can come through

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", *["AVIF"] * AVIF, *["HEIF"] * HEIF)

_SUFFIXES = ".jpg .jpeg .jfif .jpe .mpo .png .webp .gif .bmp .tif .tiff"

SUFFIXES = frozenset(  # of the files that are read on this machine
    f"{_SUFFIXES}{' .avif' * AVIF}{' .heic .heif' * HEIF}".split()
)

_ADDRESS = re.compile(r"(?i)([a-z][a-z0-9+.-]+):/|data:")  # a scheme of one letter is a Windows drive

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(source: Source) -> Image.Image:
    """Read a picture as upright 8-bit sRGB, transparency laid on white; of several frames or pages, the first.

    Args:
        source: a path (``~`` is the home folder), a file's bytes, an open binary file, a PIL image, or an array of
            height x width, optionally x 1 (grey), 3 (RGB) or 4 (RGBA): uint8, uint16 (65535 is white), or float
            in 0 to 1.

    The same pixels come out whichever way they are given; 16 bits are rounded to 8. A PIL image that is decoded
    already is taken as Pillow decoded it.

    Colours: a file's ICC profile, or a PIL image's ``info["icc_profile"]``, is converted to sRGB: relative colorimetric
    with black point compensation, before transparency is laid on white. A profile that is damaged or does not fit
    the picture's kind of colour is passed over, as browsers do. Files without a profile and arrays are sRGB. PNG's
    gAMA, cHRM and cICP and the colour tables of AVIF and HEIC without a profile are not applied.

    Raises:
        ImageError: it is no picture of `FORMATS` or of a layout that is not read, is damaged, has a side under
            `MIN_SIDE` or over `MAX_SIDE` pixels, one over `MAX_ASPECT` times the other, or more than `MAX_PIXELS`
            (read in the header, before anything is decoded), `MAX_FRAMES` or `MAX_BYTES`.
    """
    name = "The picture"
    try:
        if isinstance(source, Image.Image):
            name = _label(getattr(source, "filename", ""))
            check_size(*source.size, name)
            data = _opened_file(source)
            return _decode(source if data is None else decode(data, name), name)
        if isinstance(source, np.ndarray):
            return _decode(_from_array(source), name)
        if isinstance(source, (bytes, bytearray, memoryview)):
            data = bytes(source)
        elif isinstance(source, (str, os.PathLike)):
            name = _label(source)
            data = _read_path(source, name)
        else:
            name = _label(getattr(source, "name", ""))
            data = _read_file(source, name)
        return _decode(decode(data, name), name)
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise too_large(name) from error
    except ImportError as error:  # pillow-heif is there, and broken
        raise unsupported(
            name, "a HEIC picture", "run `pip install --force-reinstall pillow-heif`"
        ) from error
    except MemoryError as error:
        raise ImageError(f"{name} needs more memory than there is: scale it down.") from error
    except Exception as error:  # nearly any built-in exception can come out of damaged bytes
        if str(error).startswith("Unsupported "):  # Pillow of a BMP that is whole
            raise unsupported(name, "of a rare layout") from error
        raise ImageError(f"{name} is damaged or cut short: download or export it again.") from error


def _label(path: object) -> str:
    """What sentences call the picture: its base name in quotes, fit for one line of any terminal."""
    name = Path(os.fsdecode(path)).name if isinstance(path, (str, bytes, os.PathLike)) else ""
    name = "".join(c if c.isprintable() else "?" for c in name)
    if len(name) > 80:
        name = f"{name[:50]}…{name[-25:]}"
    return f'"{name}"' if name else "The picture"


def _read_path(path: str | os.PathLike[str], name: str) -> bytes:
    if not os.fspath(path):
        raise ImageError("The path is empty: give that of a picture.")
    if str(path).startswith("~") and not os.path.lexists(path):
        with contextlib.suppress(RuntimeError):  # a name that is no user's
            path = Path(path).expanduser()
    try:
        kind = Path(path).stat().st_mode
        if stat.S_ISDIR(kind):
            raise ImageError(f"{name} is a folder: {GIVE}.")
        if not stat.S_ISREG(kind):  # a pipe or a device may never end
            raise ImageError(f"{name} is not a file: {GIVE}.")
        with Path(path).open("rb") as file:
            return _read_file(file, name)
    except ImageError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        if address := _ADDRESS.match(os.fsdecode(path)):
            advice = "fetch the picture, then give its path"
            if (address[1] or "").lower() == "file":
                advice = "give the path alone"
            raise ImageError(f"{name} is an address, which is not read: {advice}.") from error
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


def _decode(image: Image.Image, name: str) -> Image.Image:
    """The upright RGB image of one that is decoded, or that its caller opened with Pillow."""
    check_size(*image.size, name)
    image.load()
    rgb = _to_rgb(image, name)
    turn = _UPRIGHT.get(_orientation(image))
    rgb = rgb if turn is None else rgb.transpose(turn)
    rgb.info = {}  # an orientation left in there would turn it again
    return rgb


def _opened_file(image: Image.Image) -> bytes | None:
    """The file of an image that was opened with Pillow and not decoded yet, if it may be one that Pillow misreads."""
    file = getattr(image, "fp", None)
    if image.format not in ("PNG", "TIFF", "BMP") or not getattr(image, "tile", None) or file is None:
        return None
    if image.tell() > 0:  # a later page, which the caller has chosen
        return None
    place = file.tell()
    file.seek(0)
    data = file.read(MAX_BYTES + 1)
    file.seek(place)
    return data if data.startswith((b"\x89PNG", b"II", b"MM", b"BM")) else None


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
    """A new 8-bit RGB image of the same pixels, in sRGB."""
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I"):  # 16 bits, whatever the byte order; Pillow's own conversion would clip
        levels = np.asarray(image)
        if levels.min() < 0 or levels.max() > 65535:
            raise ImageError(f"{name} has values outside 0 to 65535: save it with 8 or 16 bits a channel.")
        grey = to_srgb(Image.fromarray(eight_bits(levels)), profile)
        hidden = levels == image.info.get("transparency", -1)
        return _on_white(grey, Image.fromarray(np.uint8(255) * ~hidden)) if hidden.any() else grey
    if image.mode == "F":
        return to_srgb(_from_array(np.asarray(image), name), profile)
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        assert converted is not None  # it is None only when converting in place
        return converted
    if image.has_transparency_data:
        straight = image.convert("LA" if image.mode == "La" else "RGBA")
        alpha = straight.getchannel("A")
        if not (image.format == "BMP" and alpha.getextrema() == (0, 0)):  # screen grabs leave it empty
            colors = straight.convert("L" if image.mode in ("1", "L", "LA", "La") else "RGB")
            return _on_white(to_srgb(colors, profile), alpha)
        image = straight
    if image.mode not in ("L", "CMYK"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    return to_srgb(image, profile)


def _on_white(rgb: Image.Image, alpha: Image.Image) -> Image.Image:
    white = Image.new("RGB", rgb.size, "white")
    white.paste(rgb, mask=alpha)
    return white


def _from_array(array: np.ndarray, name: str = "The array") -> Image.Image:
    """A grey, RGB or RGBA image of an array as `read_image` takes them."""
    if array.ndim not in (2, 3) or array.shape[2:] not in ((), (1,), (3,), (4,)):
        raise ImageError(
            f"{name} has the shape {array.shape}: give height x width, or that x 1, 3 or 4 channels."
        )
    check_size(array.shape[1], array.shape[0], name)
    if array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 1):
            found = "NaN" if math.isnan(low) else f"{low:g} to {high:g}"
            raise ImageError(f"{name} has floating-point values of {found}: give values from 0 to 1.")
        array = np.rint(array.astype(np.float32, copy=False) * 255).astype(np.uint8)
    elif array.dtype != np.uint8 and not (array.dtype.kind == "u" and array.dtype.itemsize == 2):
        raise ImageError(f"{name} has values of type {array.dtype}: give uint8, uint16, or float in 0 to 1.")
    return from_samples(array)
