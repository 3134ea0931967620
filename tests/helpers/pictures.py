"""Pictures for tests: generated photographs, and two hundred bad and odd files that users might give."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

ODD_NAMES = (
    "a name with spaces.png",
    "Überraschung été 日本語 عربى.png",
    'it\'s "quoted" `back`.png',
    "<img src=x onerror=alert(1)>.png",
    "${7*7}.jpg",
    "{{value}} %s {0}.png",
    "🦓🌋👩‍🔬.webp",
    "l" + "o" * 190 + "ng.png",
    "-rf.png",
    "--json.png",
    "no_extension",
    "UPPER.JPG",
    ".hidden.png",
    "semi;colon&amp;|pipe.png",
    "new\nline.png",
    "bell\x07 and \x1b[31mred.png",
    "right\u202eto-left.png",
    "two..dots...png",
    "comma,semicolon=formula.png",
    "=HYPERLINK(1).png",
)


def photo(width: int = 96, height: int = 64, seed: int = 0) -> Image.Image:
    """A smooth, colourful RGB picture that tells its corners apart."""
    phase = np.random.default_rng(seed).uniform(0, 6, 3)
    x, y = np.linspace(0, 1, 64)[None, :, None], np.linspace(0, 1, 64)[:, None, None]
    waves = np.sin(phase + 5 * x * np.array([1.0, 0.4, 1.6]) + 4 * y * np.array([0.5, 1.5, 1.0]))
    levels = (127.5 + 100 * waves + 25 * (x - y)).clip(0, 255).astype(np.uint8)
    return Image.fromarray(levels).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    """The bytes of a file of this picture."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def png(width: int, height: int, rows: bytes, depth: int = 8, color: int = 2, *chunks: bytes) -> bytes:
    """A PNG file with any header and any pixel data; `chunks` (already packed) go before the pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    body = [
        png_chunk(b"IHDR", header),
        *chunks,
        png_chunk(b"IDAT", zlib.compress(rows, 9)),
        png_chunk(b"IEND"),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def png_chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def exif(orientation: int, padding: int = 0) -> Image.Exif:
    """An EXIF block with an orientation and as much else as asked for, in bytes."""
    block = Image.Exif()
    block[0x0112] = orientation
    if padding:
        block[0x010E] = "x" * padding  # the picture's description
    return block


def animation(format: str, frames: int, size: tuple[int, int] = (16, 12)) -> bytes:
    """An animated file; every frame differs from the one before, so that none is merged with it."""
    images = [Image.new("RGB", size, (k % 256, k // 256, 90 * (k % 2))) for k in range(frames)]
    return encoded(images[0], format, save_all=True, append_images=images[1:], duration=20)


def long_gif(frames: int) -> bytes:
    """An animated GIF made by repeating one frame: quick to make however long."""
    start = encoded(Image.new("L", (16, 12), 7), "GIF")
    head = 13 + (3 << (start[10] & 7) + 1 if start[10] & 0x80 else 0)
    return start[:head] + start[head:-1] * frames + b";"


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """The same file cut short, or with a few of its bytes changed, or with a stretch of zeros in it."""
    how = rng.integers(3)
    at = int(rng.integers(1, len(data)))
    if how == 0:
        return data[:at]
    if how == 1:
        return data[:at] + bytes(int(rng.integers(1, 64))) + data[at + 16 :]
    changed = np.frombuffer(data, np.uint8).copy()
    places = rng.integers(0, len(data), size=int(rng.integers(1, 12)))
    changed[places] = rng.integers(0, 256, size=len(places))
    return changed.tobytes()


def _modes() -> Iterator[tuple[str, bytes]]:
    base = photo()
    for format in FORMATS:
        yield f"plain.{format.lower()}", encoded(base, format)
    for mode in ("1", "L", "LA", "P", "RGBA", "I;16"):
        image = Image.fromarray(np.asarray(base.convert("L"), np.uint16) * 257) if mode == "I;16" else base
        yield (
            f"mode {mode.replace(';', '')}.png",
            encoded(image if mode == "I;16" else base.convert(mode), "PNG"),
        )
    for mode in ("1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "LAB", "I", "F"):
        yield f"mode {mode}.tif", encoded(base.convert("RGB" if mode == "LAB" else mode), "TIFF")
    unit = Image.fromarray(np.asarray(base.convert("L"), np.float32) / 255)
    yield "float.tif", encoded(unit, "TIFF")
    yield "nan.tif", encoded(Image.fromarray(np.full((20, 20), np.nan, np.float32)), "TIFF")
    yield "sixteen.tif", encoded(Image.fromarray(np.asarray(base.convert("L"), np.uint16) * 257), "TIFF")
    yield "sixteen rgb.png", png(20, 20, (b"\0" + bytes(range(120))) * 20, depth=16)
    yield "grey.jpg", encoded(base.convert("L"), "JPEG")
    yield "cmyk.jpg", encoded(base.convert("CMYK"), "JPEG")
    yield "progressive.jpg", encoded(base, "JPEG", progressive=True)
    yield "worst.jpg", encoded(base, "JPEG", quality=1)
    yield "alpha.webp", encoded(base.convert("RGBA").rotate(30), "WEBP")
    yield "lossless.webp", encoded(base, "WEBP", lossless=True)
    yield "transparent.gif", encoded(base.convert("P"), "GIF", transparency=3)
    yield "transparent palette.png", encoded(base.convert("P"), "PNG", transparency=bytes(range(256)))
    yield "interlaced.gif", encoded(base.convert("P"), "GIF", interlace=1)
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        yield f"{compression}.tif", encoded(base, "TIFF", compression=compression)
    yield "pages.tif", encoded(base, "TIFF", save_all=True, append_images=[photo(40, 90, 1), photo(seed=2)])
    yield "phone.mpo", encoded(base, "MPO", save_all=True, append_images=[photo(seed=1)])
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = profile[:24] + bytes(12) + profile[36:]  # without the time it was made
    yield "profile.jpg", encoded(base, "JPEG", icc_profile=profile)
    yield "broken profile.png", encoded(base, "PNG", icc_profile=b"not a profile")
    for orientation in (*range(1, 9), 0, 9, 65535):
        yield f"turned {orientation}.jpg", encoded(base, "JPEG", exif=exif(orientation))
    for format in ("PNG", "WEBP", "TIFF"):
        yield f"turned.{format.lower()}", encoded(base, format, exif=exif(6))
    yield "huge exif.jpg", encoded(base, "JPEG", exif=exif(6, padding=60_000))
    yield "huge exif.webp", encoded(base, "WEBP", exif=exif(6, padding=1_000_000))
    yield "broken exif.jpg", encoded(base, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff broken")


def _sizes() -> Iterator[tuple[str, bytes]]:
    for size in (
        (1, 1),
        (7, 200),
        (200, 7),
        (8, 8),
        (9, 8),
        (8, 4000),
        (4000, 8),
        (3000, 2000),
        (2000, 3000),
    ):
        yield f"{size[0]}x{size[1]}.jpg", encoded(photo(*size), "JPEG")
    for size in ((1, 4000), (8, 4000), (4000, 8), (100, 1000), (1000, 100), (2000, 2000)):
        yield f"{size[0]}x{size[1]}.png", encoded(Image.new("RGB", size, (90, 120, 30)), "PNG")


def _bombs() -> Iterator[tuple[str, bytes]]:
    yield "bomb header.png", png(100_000, 100_000, b"")
    yield "bomb.png", png(8000, 8000, bytes(8000 * 1001), depth=1, color=0)
    yield "bomb.gif", b"GIF89a" + struct.pack("<HH", 65535, 65535) + encoded(photo(), "GIF")[10:]
    webp = encoded(photo(), "WEBP", lossless=True)
    sides = struct.pack("<I", 8999 | 8999 << 14)  # 14 bits each, less one
    yield "bomb.webp", webp[:21] + sides + webp[25:]
    bmp = encoded(photo(), "BMP")
    yield "bomb.bmp", bmp[:18] + struct.pack("<ii", 90_000, 90_000) + bmp[26:]
    jpeg = bytearray(encoded(photo(), "JPEG"))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">HH", 65_000, 65_000)
    yield "bomb.jpg", bytes(jpeg)
    yield (
        "comments.gif",
        encoded(photo(), "GIF")[:-1] + (b"!\xfe" + b"\xffx" + b"x" * 254 + b"\0") * 9000 + b";",
    )
    yield "overlapping tags.tif", overlapping_tags(n=500, size=200_000)
    many = b"\xff\xe1\xff\xffExif\0\0" + b"II*\0\x08\0\0\0\0\0" + bytes(65_517)
    yield "many exif blocks.jpg", b"\xff\xd8" + many * 20 + encoded(photo(), "JPEG")[2:]


def overlapping_tags(n: int, size: int) -> bytes:
    """A TIFF of about `size` bytes with `n` tags that each claim all of them."""
    tiff = encoded(Image.new("L", (16, 16)), "TIFF")
    (at,) = struct.unpack_from("<I", tiff, 4)
    (count_,) = struct.unpack_from("<H", tiff, at)
    entries = tiff[at + 2 : at + 2 + 12 * count_]
    entries += b"".join(struct.pack("<HHII", 40_000 + k, 7, size, 0) for k in range(n))
    directory = struct.pack("<H", count_ + n) + entries + bytes(4)
    return (tiff[:4] + struct.pack("<I", len(tiff)) + tiff[8:] + directory).ljust(size, b"\0")


def _impostors() -> Iterator[tuple[str, bytes]]:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(zipfile.ZipInfo("picture.jpg"), encoded(photo(), "JPEG"))
    yield "empty.jpg", b""
    yield "empty.png", b""
    yield "one byte.gif", b"G"
    yield "text.jpg", b"This is not a picture.\n" * 20
    yield "page.jpg", b"<!DOCTYPE html><html><body><script>alert(1)</script></body></html>"
    yield "drawing.svg", b'<svg xmlns="http://www.w3.org/2000/svg" width="90" height="90" onload="alert(1)"/>'
    yield "drawing.png", b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>'
    yield "document.jpg", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<<>>\nendobj\n"
    yield "postscript.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 90 90\n"
    yield "archive.jpg", archive.getvalue()
    yield "pickle.jpg", pickle.dumps({"a": [1, 2, 3]})
    yield "array.png", b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<f4'}".ljust(118)
    yield "apple.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)
    yield "avif.jpg", encoded(photo(), "AVIF")
    yield "jpeg2000.jpg", encoded(photo(), "JPEG2000")
    yield "icon.png", encoded(photo(64, 64), "ICO")
    yield "pixmap.png", encoded(photo(), "PPM")
    yield "video.jpg", b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2" + bytes(200)
    yield "sound.webp", b"RIFF\x24\0\0\0WAVEfmt " + bytes(32)
    yield "program.jpg", b"\x7fELF" + bytes(300)
    yield "zeros.jpg", bytes(5000)
    yield "signature only.jpg", b"\xff\xd8\xff"
    yield "signature only.png", b"\x89PNG\r\n\x1a\n"
    yield "signature only.webp", b"RIFF\0\0\0\0WEBP"
    yield "signature only.tif", b"II*\0"
    yield "signature only.bmp", b"BM"
    yield "signature only.gif", b"GIF89a"
    yield "jpeg.png", encoded(photo(), "JPEG")
    yield "png.jpg", encoded(photo(), "PNG")
    yield "webp.gif", encoded(photo(), "WEBP")
    yield "tiff.jpeg", encoded(photo(), "TIFF")


def _animations() -> Iterator[tuple[str, bytes]]:
    for format, name in (("GIF", "animated.gif"), ("WEBP", "animated.webp"), ("PNG", "animated.png")):
        yield name, animation(format, 12)
    yield "endless.gif", long_gif(1500)
    claim = png_chunk(b"acTL", struct.pack(">II", 5000, 0))
    yield "endless.png", png(8, 8, bytes(25 * 8), 8, 2, claim)


def odd_pictures(directory: Path, n: int = 200, seed: int = 0) -> list[Path]:
    """Write `n` bad and odd picture files into the directory, the same ones for the same seed.

    First the made ones (every format, mode, rotation and size, bombs, impostors, odd names), about 140 of
    them; the rest are files of every format cut short or changed at random.
    """
    rng = np.random.default_rng(seed)
    directory.mkdir(parents=True, exist_ok=True)

    def files() -> Iterator[tuple[str, bytes]]:
        for make in (_modes, _sizes, _bombs, _impostors, _animations):
            yield from make()
        for k, name in enumerate(ODD_NAMES):
            yield name, encoded(photo(seed=k), "PNG")
        for k in count():
            format = FORMATS[k % len(FORMATS)]
            yield f"damaged {k}.{format.lower()}", damaged(encoded(photo(seed=k), format), rng)

    paths = []
    for name, data in islice(files(), n):
        paths.append(directory / name)
        paths[-1].write_bytes(data)
    return paths


D50 = np.array([0.9642, 1.0, 0.8249])

D65 = np.array([0.95047, 1.0, 1.08883])

BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])

SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))


def to_d50(primaries: Any) -> np.ndarray:
    """3 x 3: linear RGB with the white of D65 to XYZ with that of D50."""
    xyz = np.array([(x / y, 1, (1 - x - y) / y) for x, y in primaries]).T
    adapt = np.linalg.inv(BRADFORD) @ np.diag((BRADFORD @ D50) / (BRADFORD @ D65)) @ BRADFORD
    return adapt @ xyz * np.linalg.solve(xyz, D65)


def profile_of(primaries: Any, gamma: float, space: bytes = b"RGB ") -> bytes:
    """An ICC profile of version 2: a matrix and an exponent, or a grey one of the exponent alone."""

    def fixed(*values: float) -> bytes:
        return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))

    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    tags = {b"wtpt": b"XYZ " + bytes(4) + fixed(*D50), b"cprt": b"text" + bytes(4) + b"none\0\0\0\0"}
    tags[b"desc"] = b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(79)
    if space == b"GRAY":
        tags[b"kTRC"] = curve
    else:
        for letter, column in zip((b"r", b"g", b"b"), to_d50(primaries).T, strict=True):
            tags[letter + b"XYZ"], tags[letter + b"TRC"] = b"XYZ " + bytes(4) + fixed(*column), curve
    at, table, body = 132 + 12 * len(tags), b"", b""
    for name, data in tags.items():
        table += name + struct.pack(">II", at + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = bytes(4) + b"test" + bytes.fromhex("02100000") + b"mntr" + space + b"XYZ " + bytes(12)
    head += b"acsp" + bytes(28) + fixed(*D50)
    whole = head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body
    return struct.pack(">I", len(whole)) + whole[4:]
