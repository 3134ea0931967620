"""What a picture's file says of itself, read before anything is decoded: its kind, its size, what it may cost.

Files that are cheap to make can be expensive to read: Pillow spends minutes or all memory on a few megabytes
before it knows the picture's size, or on a valid picture that was made to be slow. They are refused here.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from importlib.util import find_spec

from PIL import ImageFile, features

from ais.errors import ImageError

MAX_BYTES = 100_000_000

MAX_PIXELS = 52_000_000  # a camera of 50 megapixels makes up to 51.3 million pixels

MAX_SIDE = 32_768

MAX_ASPECT = 100  # of the longer side to the shorter

MAX_FRAMES = 1_000

MIN_SIDE = 8

GIVE = "give a JPEG, PNG, WebP, GIF, BMP or TIFF picture"

EXPORT = "export it as a JPEG picture, or as a PNG or TIFF with 8 bits a channel"

AVIF = bool(features.check("avif"))

HEIF = find_spec("pillow_heif") is not None  # the extra "heif"

_MAX_SCANS = 50  # of a JPEG; the best encoders make some fifteen, each costs a pass over all pixels

_MAX_SEGMENTS = 10_000  # of a JPEG, before its pixels; depth maps and XMP of phones come to hundreds

_MAX_STRAY = 100_000  # bytes of a JPEG between its segments

_MAX_CHUNKS = 200_000  # of a PNG

_MAX_RLE = 4_000_000  # bytes of a run-length encoded BMP: Pillow decodes it in Python

_SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
)

_OTHERS = (  # how files of other kinds begin: (offset, bytes, what to call them)
    (4, b"ftypcrx ", "a camera's raw file"),
    (4, b"ftyp", "a video"),
    (4, b"jP  \r\n", "a JPEG 2000 picture"),
    (4, b"JXL \r\n", "a JPEG XL picture"),
    (0, b"\xff\x0a", "a JPEG XL picture"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 picture"),
    (8, b"CR\2", "a camera's raw file"),
    (0, b"FUJIFILMCCD-RAW", "a camera's raw file"),
    (0, b"IIRO", "a camera's raw file"),
    (0, b"IIU\0", "a camera's raw file"),
    (0, b"II\xbc", "a JPEG XR picture"),
    (0, b"8BPS", "a Photoshop picture"),
    (0, b"%PDF", "a PDF document"),
    (0, b"PK\3\4", "a zip archive or an office document"),
)

_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}

_BAD_JPEGS = {3: "a lossless JPEG", 11: "a lossless JPEG", 0xF7: "a JPEG-LS picture"} | dict.fromkeys(
    (5, 6, 7, 13, 14, 15), "a hierarchical JPEG"
)


def unsupported(name: str, kind: str, advice: str = EXPORT) -> ImageError:
    """The refusal of a whole file of a kind that is not read."""
    return ImageError(f"{name} is {kind}, which is not read here: {advice}.")


def check_size(width: int, height: int, name: str) -> None:
    """Refuse a picture that is too small, too large, too long or too narrow.

    Raises:
        ImageError: see `MAX_PIXELS`, `MAX_SIDE`, `MAX_ASPECT` and `MIN_SIDE`.
    """
    short, long = sorted((width, height))
    if width * height > MAX_PIXELS:
        raise too_large(name)
    if short < MIN_SIDE:
        raise ImageError(f"{name} is {width} x {height} pixels: give one with at least {MIN_SIDE} a side.")
    if long > MAX_SIDE:
        raise ImageError(
            f"{name} is {width} x {height} pixels, and a side may have at most {MAX_SIDE:,}: scale it down."
        )
    if long > MAX_ASPECT * short:
        raise ImageError(
            f"{name} is {width} x {height} pixels, and one side may be at most {MAX_ASPECT} times the other: cut it."
        )


def too_large(name: str) -> ImageError:
    return ImageError(f"{name} has more than {MAX_PIXELS // 1_000_000} megapixels: scale it down.")


def too_many_frames(name: str) -> ImageError:
    return ImageError(f"{name} has more than {MAX_FRAMES:,} frames: save the one you mean.")


def _more_than_image(name: str, what: str) -> ImageError:
    return ImageError(f"{name} holds more {what} than picture: save it again without them.")


def kind_of(data: bytes, name: str) -> str:
    """The format of a file, in Pillow's word, by how the file begins.

    Raises:
        ImageError: it is of no format that is read on this machine.
    """
    if not data:
        raise ImageError(f"{name} is empty: {GIVE}.")
    if len(data) > MAX_BYTES:
        raise ImageError(f"{name} is larger than {MAX_BYTES // 1_000_000} MB: save it smaller.")
    if data[:4] == b"RIFF" and data[8:12] in (b"WEBP", b""):
        return "WEBP"
    if data[4:8] == b"ftyp" and (kind := _iso_media(data)):
        if kind == "AVIF" and not AVIF:
            raise unsupported(name, "an AVIF picture", "install Pillow 11.3 or newer to read it")
        if kind == "HEIF" and not HEIF:
            raise unsupported(name, "a HEIC picture", "run `pip install pillow-heif`, or export it as a JPEG")
        return kind
    for offset, magic, other in _OTHERS:
        if data.startswith(magic, offset):
            raise unsupported(name, other, GIVE)
    for magic, kind in _SIGNATURES:
        if data.startswith(magic):
            return kind
    raise ImageError(f"{name} is not a picture that is read here: {GIVE}.")


def _iso_media(data: bytes) -> str | None:
    """AVIF or HEIF, by the brands in a file's first box; None for a video."""
    size = min(int.from_bytes(data[:4], "big"), 4096)
    brands = [data[8:12], *(data[at : at + 4] for at in range(16, size, 4))]
    for brand in brands:  # the first that says it: pictures of both kinds also call themselves mif1
        if brand in (b"avif", b"avis"):
            return "AVIF"
        if brand in _HEIC_BRANDS:
            return "HEIF"
    return None


def checked(data: bytes, kind: str, name: str) -> bytes:
    """The file, fit to be opened with Pillow: without what is no picture and could cost too much.

    Raises:
        ImageError: by its header, it is too large, or expensive to read, or of a layout that is not read.
    """
    match kind:
        case "JPEG":
            return _jpeg(data, name)
        case "PNG":
            return _png(data, name)
        case "WEBP":
            _webp(data, name)
        case "GIF":
            _gif(data, name)
        case "BMP":
            return _bmp(data, name)
    return data


def _jpeg(data: bytes, name: str) -> bytes:
    """With only its first EXIF block, at most 64 KiB: Pillow would join them all."""
    at, segments, stray, exif, others = 2, 0, 0, 0, []
    while at + 4 <= len(data):
        if data[at] != 0xFF or data[at + 1] in (
            0,
            0xFF,
        ):  # stray or filling bytes, which Pillow skips one by one
            after = data.find(b"\xff", at + 1)
            stray += (after if after > 0 else len(data)) - at
            if after < 0 or stray > _MAX_STRAY:
                break
            at = after
            continue
        marker, at = data[at + 1], at + 2
        if marker == 0xD9:
            break
        if marker == 1 or 0xD0 <= marker <= 0xD8:  # nothing belongs to these
            continue
        segments += 1
        if segments > _MAX_SEGMENTS:
            raise _more_than_image(name, "notes")
        size = int.from_bytes(data[at : at + 2], "big")
        if marker == 0xE1 and data.startswith(b"Exif\0\0", at + 2):
            exif += 1
            if exif > 1:
                others.append(at + 2)
        elif marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            _check_jpeg_frame(marker, data[at + 2 : at + size], name)
        elif marker == 0xDA:
            _check_scans(data, at + size, name)
            break
        at += max(size, 2)
    if stray > _MAX_STRAY:
        raise _more_than_image(name, "stray bytes")
    if not others:
        return data
    one = bytearray(data)
    for at in others:
        one[at : at + 4] = b"none"
    return bytes(one)


def _check_jpeg_frame(marker: int, frame: bytes, name: str) -> None:
    if kind := _BAD_JPEGS.get(marker & 0xF if marker < 0xF0 else marker):
        raise unsupported(name, kind)
    if len(frame) < 6:
        return  # cut short
    bits, height, width, samples = struct.unpack_from(">BHHB", frame)
    if bits != 8:
        raise unsupported(name, f"a JPEG with {bits} bits a channel")
    if samples not in (1, 3, 4):
        raise unsupported(name, f"a JPEG with {samples} channels")
    check_size(width, height, name)


def _check_scans(data: bytes, at: int, name: str) -> None:
    """Count the passes over the pixels: each costs as much as all of them, even when it holds nothing."""
    scans = 1
    for found in re.compile(rb"\xff[\xd9\xda]").finditer(data, at):  # neither can lie inside a scan
        if data[found.start() + 1] == 0xD9:
            return
        scans += 1
        if scans > _MAX_SCANS:
            raise ImageError(f"{name} is a JPEG of more than {_MAX_SCANS} scans: save it again.")


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, first byte and past-the-last byte of what each chunk holds, as far as the file goes."""
    at = 8
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        yield kind, at + 8, at + 8 + size
        at += 12 + size


_KEPT_TEXTS = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")  # they may say which side is up


def _png(data: bytes, name: str) -> bytes:
    """Without its texts and an endless profile: Pillow unpacks them, and refuses the picture when they are long."""
    if data[12:16] == b"IHDR" and len(data) >= 24:
        width, height = struct.unpack_from(">II", data, 16)
        check_size(width, height, name)
    pieces, kept = [], 0
    for n, (kind, start, end) in enumerate(png_chunks(data)):
        if n > _MAX_CHUNKS:
            raise _more_than_image(name, "pieces")
        text = kind in (b"tEXt", b"zTXt", b"iTXt")
        if (text and not (data.startswith(_KEPT_TEXTS, start) and end - start < 65_536)) or (
            kind == b"iCCP" and _unpacks_to_more(data[start:end])
        ):
            pieces.append(data[kept : start - 8])
            kept = end + 4
        if kind == b"IEND":
            break
    return b"".join((*pieces, data[kept:])) if pieces else data


def _unpacks_to_more(profile: bytes) -> bool:
    """Whether Pillow would refuse the picture for how much its profile, after a name and a zero, unpacks to."""
    packed = profile[profile.find(b"\0") + 2 :]
    try:
        return len(zlib.decompressobj().decompress(packed, ImageFile.SAFEBLOCK + 1)) > ImageFile.SAFEBLOCK
    except zlib.error:
        return False  # it passes such a profile over


def _webp(data: bytes, name: str) -> None:
    """The size of the canvas: Pillow allocates it before it says how large it is."""
    if data[12:16] == b"VP8X" and len(data) >= 30:
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
    elif data[12:16] == b"VP8L" and len(data) >= 25:
        sides = int.from_bytes(data[21:25], "little")
        width, height = (sides & 0x3FFF) + 1, (sides >> 14 & 0x3FFF) + 1
    elif data[12:16] == b"VP8 " and len(data) >= 30:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        return  # damaged: it is refused when it is opened
    check_size(width, height, name)


def _gif(data: bytes, name: str) -> None:
    """Count the frames by hopping from block to block, refuse long comments: Pillow reads them in n^2."""
    if len(data) >= 10 and struct.unpack_from("<HH", data, 6) > (0, 0):
        width, height = struct.unpack_from("<HH", data, 6)
        if width and height:
            check_size(width, height, name)
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
            raise _more_than_image(name, "comments")
        if frames > MAX_FRAMES:
            raise too_many_frames(name)


def _bmp(data: bytes, name: str) -> bytes:
    """With a palette that Pillow takes for one; what Pillow does not read it says itself (see `ais.images.reading`)."""
    if len(data) < 50:
        return data  # damaged: it is refused when it is opened
    (header,) = struct.unpack_from("<I", data, 14)
    if header == 12:
        width, height = struct.unpack_from("<HH", data, 18)
        check_size(width, height, name)
        return data
    width, height, _, bits, packing = struct.unpack_from("<iiHHI", data, 18)
    check_size(abs(width), abs(height), name)
    if header == 64 and packing in (3, 4):  # what they mean in OS/2 is not what Pillow takes them for
        raise unsupported(name, "a BMP as compressed by OS/2")
    if packing in (1, 2) and len(data) > _MAX_RLE:
        raise unsupported(name, f"a compressed BMP of over {_MAX_RLE // 1_000_000} MB")
    (colors,) = struct.unpack_from("<I", data, 46)
    if bits in (4, 8) and colors == 2:  # black and white of them would be read as if a pixel had one bit
        return data[:46] + struct.pack("<I", 3) + data[50:]
    return data
