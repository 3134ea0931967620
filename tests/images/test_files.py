"""Files as phones, cameras and visitors send them: their kinds, their bounds, what they cost to refuse."""

from __future__ import annotations

import io
import os
import re
import struct
import time
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ais.errors import ImageError
from ais.images import guards, reading
from ais.images.guards import MAX_ASPECT, MAX_PIXELS, MAX_SIDE
from ais.images.reading import SUFFIXES, read_image
from helpers.layouts import samples, tiff_of
from helpers.pictures import damaged, encoded, exif, photo, png, png_chunk

pytestmark = pytest.mark.filterwarnings("ignore")

HEIF = pytest.mark.skipif(not guards.HEIF, reason="needs the extra heif")


def refusal(source: Any) -> str:
    with pytest.raises(ImageError) as error:
        read_image(source)
    return str(error.value)


def heic(image: Image.Image, **options: Any) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    pillow_heif.from_pillow(image).save(file, quality=95, chroma=444, **options)
    return file.getvalue()


def with_size(format: str, width: int, height: int) -> bytes:
    """A small file that claims to be of this size."""
    if format == "PNG":
        return png(width, height, b"")
    options: dict[str, Any] = {"lossless": True} if format == "WEBP" else {}
    data = bytearray(heic(photo()) if format == "HEIF" else encoded(photo(), format, **options))
    at, packed = {
        "JPEG": lambda: (data.index(b"\xff\xc0") + 5, struct.pack(">HH", height, width)),
        "GIF": lambda: (6, struct.pack("<HH", width, height)),
        "BMP": lambda: (18, struct.pack("<ii", width, height)),
        "WEBP": lambda: (21, struct.pack("<I", (width - 1) | (height - 1) << 14)),
        "AVIF": lambda: (data.index(b"ispe") + 8, struct.pack(">II", width, height)),
        "HEIF": lambda: (data.index(b"ispe") + 8, struct.pack(">II", width, height)),
    }[format]()
    data[at : at + len(packed)] = packed
    return bytes(data)


@pytest.mark.parametrize(
    "format", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "AVIF", pytest.param("HEIF", marks=HEIF)]
)
def test_size_and_shape_are_bounded_before_anything_is_decoded(
    format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [with_size(format, *size) for size in ((16_000, 15_000), (16_000, 100), (100, 16_000))]
    monkeypatch.setattr("PIL.Image.core.new", lambda *_: pytest.fail("decoded"))
    for data, sentence in zip(
        files, ("52 megapixels", "16000 x 100 .* 100 times", "100 x 16000"), strict=True
    ):
        tracemalloc.start()
        start = time.perf_counter()
        assert re.search(sentence, refusal(data))
        assert time.perf_counter() - start < 0.5
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
        tracemalloc.stop()


def test_a_tiff_and_an_array_are_bounded_too() -> None:
    long = Image.new("L", (16_000, 100))
    for source in (
        encoded(long, "TIFF"),
        encoded(long, "TIFF", compression="tiff_lzw"),
        long,
        np.asarray(long),
    ):
        assert "is 16000 x 100 pixels, and one side may be at most 100 times the other: cut it." in refusal(
            source
        )
    assert "1500000 pixels, and a side may have at most 32,768" in refusal(png(8, 1_500_000, b""))
    assert "40000 x 1000 pixels, and a side may have at most 32,768" in refusal(
        np.zeros((1000, 40_000), np.uint8)
    )


def test_what_cameras_and_scanners_make_is_within_the_bounds() -> None:
    for width, height in (
        (8192, 6144),  # 50 megapixels
        (8256, 6192),
        (8688, 5792),
        (16_382, 3_000),  # a phone's panorama
        (21_000, 1_400),  # all around
        (2_480, 20_000),  # a roll through a scanner
        (32_768, 400),
    ):
        guards.check_size(width, height, "")
        assert width * height <= MAX_PIXELS
    assert MAX_SIDE >= 32_768
    assert MAX_ASPECT >= 50


def test_a_picture_of_fifty_megapixels_is_read() -> None:
    assert read_image(encoded(Image.new("L", (8192, 6144), 90), "PNG", compress_level=1)).size == (8192, 6144)


def test_files_that_would_take_minutes_are_refused_at_once() -> None:
    jpeg, plain = encoded(photo(), "JPEG"), encoded(photo(), "PNG")
    progressive = encoded(photo(), "JPEG", progressive=True)
    last = progressive[progressive.rindex(b"\xff\xda") : -2]
    run = b"BM" + struct.pack("<IHHIIiiHHIIiiII", 0, 0, 0, 1078, 40, 2000, 2000, 1, 8, 1, 0, 0, 0, 256, 0)
    for data, sentence in (
        (jpeg[:2] + b"\xff\xfe\0\2" * 100_000 + jpeg[2:], "more notes than picture"),
        (jpeg[:2] + b"\xff" * 5_000_000 + jpeg[2:], "more stray bytes than picture"),
        (jpeg[:2] + b"\xff\0" * 2_000_000 + jpeg[2:], "more stray bytes than picture"),
        (progressive[:-2] + last * 300 + progressive[-2:], "a JPEG of more than 50 scans"),
        (plain[:33] + png_chunk(b"teSt") * 300_000 + plain[33:], "more pieces than picture"),
        (run + bytes(1024) + b"\1\7" * 3_000_000, "a compressed BMP of over 4 MB"),
    ):
        start = time.perf_counter()
        assert sentence in refusal(data)
        assert time.perf_counter() - start < 1


def test_long_texts_and_profiles_do_not_cost_the_picture() -> None:
    plain = encoded(photo(), "PNG")
    zeros = zlib.compress(bytes(5_000_000))
    for kind in (b"zTXt", b"iCCP"):
        data = plain[:33] + png_chunk(kind, b"name\0\0" + zeros) + plain[33:]
        np.testing.assert_array_equal(np.asarray(read_image(data)), np.asarray(photo()))


# Kinds of files


def test_avif(tmp_path: Path) -> None:
    if not guards.AVIF:
        pytest.skip("Pillow was built without AVIF")
    base = photo(60, 40)
    data = encoded(base, "AVIF", quality=100, subsampling="4:4:4")
    assert np.abs(np.asarray(read_image(data)).astype(int) - np.asarray(base)).max() <= 6
    assert read_image(encoded(base, "AVIF", exif=exif(6))).size == (40, 60)
    assert ".avif" in SUFFIXES
    frames = [photo(60, 40, seed) for seed in range(3)]
    animated = encoded(frames[0], "AVIF", save_all=True, append_images=frames[1:], quality=100)
    assert np.abs(np.asarray(read_image(animated)).astype(int) - np.asarray(frames[0])).mean() < 5
    clear = base.copy()
    clear.putalpha(0)
    assert np.asarray(read_image(encoded(clear, "AVIF"))).min() == 255


@HEIF
def test_heic(tmp_path: Path) -> None:
    base = photo(60, 40)
    before = dict(Image.OPEN)
    for source in (heic(base), io.BytesIO(heic(base))):
        assert np.abs(np.asarray(read_image(source)).astype(int) - np.asarray(base)).max() <= 12
    assert before.keys() == Image.OPEN.keys()  # Pillow is as its user has it
    turned = np.asarray(read_image(heic(base, exif=exif(6).tobytes()))).astype(int)  # once, not twice
    assert np.abs(turned - np.rot90(np.asarray(base), -1)).max() <= 12
    assert {".heic", ".heif"} <= SUFFIXES
    with_profile = heic(base, icc_profile=_linear())
    assert np.asarray(read_image(with_profile)).mean() > np.asarray(base).mean() + 20


def _linear() -> bytes:
    from helpers.pictures import SRGB, profile_of

    return profile_of(SRGB, 1.0)


def test_heic_without_its_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "HEIF", False)
    monkeypatch.setattr(guards, "AVIF", False)
    for brands in (b"heic\0\0\0\0mif1", b"mif1\0\0\0\0heic", b"msf1\0\0\0\0hevc"):
        data = struct.pack(">I", 8 + len(brands)) + b"ftyp" + brands + bytes(200)
        assert "is a HEIC picture, which is not read here: run `pip install pillow-heif`" in refusal(data)
    data = b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf" + bytes(200)
    assert "is an AVIF picture, which is not read here: install Pillow 11.3" in refusal(data)


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"\0\0\0\x18ftypisom\0\0\0\0mp42" + bytes(90), "a video"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0qt  " + bytes(90), "a video"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(90), "a camera's raw file"),
        (b"II*\0\x10\0\0\0CR\2\0" + bytes(90), "a camera's raw file"),
        (b"IIU\0" + bytes(90), "a camera's raw file"),
        (b"\xff\x0a" + bytes(90), "a JPEG XL picture"),
    ],
)
def test_whole_files_of_other_kinds_are_called_what_they_are(start: bytes, kind: str) -> None:
    assert f"is {kind}, which is not read here: give a JPEG" in refusal(start)


def test_every_ending_of_the_formats() -> None:
    assert {
        ".jpg",
        ".jpeg",
        ".jfif",
        ".jpe",
        ".mpo",
        ".png",
        ".webp",
        ".gif",
        ".bmp",
        ".tif",
        ".tiff",
    } <= SUFFIXES
    assert set(SUFFIXES) <= Image.registered_extensions().keys() | {".mpo", ".heic", ".heif"}


# Which side is up


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


@pytest.mark.parametrize("marker", [0xFE, 0xE1, 0xE2, 0xED])
def test_exif_is_read_from_its_own_segment(marker: int) -> None:
    jpeg = encoded(photo(40, 24), "JPEG")
    block = segment(0xE1, exif(6).tobytes())
    note = segment(marker, b"a note on Exif\0\0 blocks, " + exif(3).tobytes())
    for head in (note + block, block + note, note + block + note, b"\xff\xff" + note + block):
        assert read_image(jpeg[:2] + head + jpeg[2:]).size == (24, 40)
    assert read_image(jpeg[:2] + note + jpeg[2:]).size == (40, 24)
    assert read_image(jpeg + block).size == (40, 24)  # behind the picture, where a phone puts its video


def test_exif_in_a_png_and_a_webp() -> None:
    body = exif(6).tobytes().removeprefix(b"Exif\0\0")
    plain = encoded(photo(40, 24), "PNG")
    assert read_image(
        plain[:33] + png_chunk(b"tEXt", b"Comment\0" + exif(3).tobytes()) + plain[33:]
    ).size == (40, 24)
    assert read_image(plain[:33] + png_chunk(b"eXIf", body) + plain[33:]).size == (24, 40)
    raw = b"Raw profile type exif\0\nexif\n" + f"{len(body):8d}\n".encode() + body.hex().encode()
    assert read_image(plain[:33] + png_chunk(b"tEXt", raw) + plain[33:]).size == (24, 40)


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiffs_of_every_layout_are_turned(orientation: int, bits: int, planar: bool) -> None:
    levels = samples(24, 40, 3, bits)
    found = read_image(tiff_of(levels, bits, 2, planar=planar, tags={274: (3, [orientation])}))
    plain = read_image(tiff_of(levels, bits, 2))
    turn = reading._UPRIGHT.get(orientation)
    np.testing.assert_array_equal(
        np.asarray(found), np.asarray(plain if turn is None else plain.transpose(turn))
    )


# Paths


@pytest.mark.parametrize(
    "address",
    [
        "https://example.com/a.jpg",
        "http://example.com/a.jpg?size=3",
        "https:/example.com/a.jpg",
        "HTTPS:/example.com/a.jpg",
        "ftp://example.com/a.jpg",
        "s3://bucket/a.jpg",
    ],
)
def test_an_address_is_called_one(address: str) -> None:
    for source in (address, Path(address)):
        assert "is an address, which is not read: fetch the picture, then give its path." in refusal(source)


def test_other_addresses() -> None:
    assert "give the path alone" in refusal("file:///home/me/a.jpg")
    assert "is an address" in refusal("data:image/png;base64,iVBORw0KGgo=")
    assert "does not exist" in refusal("C:/pictures/a.jpg")
    assert "does not exist" in refusal("no such folder/a.jpg")


def test_a_folder_that_looks_like_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("https:").mkdir()
    photo().save("https:/a.png")
    assert read_image("https://a.png").size == photo().size


def test_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    photo().save(home / "a.png")
    monkeypatch.setenv("HOME", os.fspath(home))
    monkeypatch.chdir(tmp_path)
    assert read_image("~/a.png").size == read_image(Path("~/a.png")).size == photo().size
    assert "does not exist" in refusal("~nobody-of-this-name/a.png")
    photo(9, 9).save("~a.png")
    assert read_image("~a.png").size == (9, 9)  # a file may begin so


# Damaged files


def _whole() -> list[bytes]:
    base = photo(40, 30)
    levels = samples(30, 40, 3, 16)
    whole = [
        encoded(base, format, **options)
        for format, options in (
            ("JPEG", {"exif": exif(6)}),
            ("JPEG", {"progressive": True}),
            ("PNG", {"icc_profile": _linear()}),
            ("TIFF", {"compression": "tiff_lzw", "icc_profile": _linear()}),
            ("WEBP", {"icc_profile": _linear()}),
            ("GIF", {}),
            ("BMP", {}),
            *([("AVIF", {"icc_profile": _linear()})] * guards.AVIF),
        )
    ]
    whole += [
        tiff_of(levels, 16, 2, planar=planar, deflate=deflate) for planar in (0, 1) for deflate in (0, 1)
    ]
    whole.append(tiff_of(levels[..., :1], 16, 0))
    return whole + ([heic(base, icc_profile=_linear())] if guards.HEIF else [])


def test_three_hundred_damaged_pictures_give_an_image_or_a_sentence() -> None:
    rng, whole = np.random.default_rng(0), _whole()
    for k in range(300):
        data = damaged(whole[k % len(whole)], rng)
        start = time.perf_counter()
        try:
            image = read_image(data)
        except ImageError as error:
            sentence: str | None = str(error)
        else:
            sentence = None
            assert image.mode == "RGB"
        assert time.perf_counter() - start < 10
        assert sentence is None or (
            sentence.endswith(".") and sentence.isprintable() and "Error" not in sentence
        )
