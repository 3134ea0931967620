"""Reading pictures: the same pixels through every door, or one sentence."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps

from ais.errors import AISError, ImageError
from ais.images import guards
from ais.images.reading import read_image
from helpers.pictures import (
    animation,
    damaged,
    encoded,
    exif,
    long_gif,
    odd_pictures,
    overlapping_tags,
    photo,
    png,
    png_chunk,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow warns of much that it then reads

few = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

many = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def pixels(source: Any) -> np.ndarray:
    image = read_image(source)
    assert image.mode == "RGB"
    assert type(image) is Image.Image
    assert image.info == {}
    return np.asarray(image)


def on_white(rgba: Image.Image) -> np.ndarray:
    levels = np.asarray(rgba.convert("RGBA"), np.float64)
    alpha = levels[..., 3:] / 255
    return levels[..., :3] * alpha + 255 * (1 - alpha)


# Reading


def _grey16() -> Image.Image:
    return Image.fromarray((np.arange(40 * 30, dtype=np.uint32).reshape(30, 40) * 54).astype(np.uint16))


def _made() -> dict[str, tuple[bytes, Any, float]]:
    """name: (file, expected pixels, how far off each may be)."""
    base = photo(40, 30)
    rgb = np.asarray(base, np.float64)
    palette = base.quantize(64)
    rgba = base.copy()
    rgba.putalpha(Image.linear_gradient("L").resize(base.size))
    grey = np.asarray(base.convert("L"), np.float64)[..., None].repeat(3, 2)
    sixteen = np.round(np.asarray(_grey16(), np.float64) / 257)[..., None].repeat(3, 2)
    bits = np.asarray(base.convert("1").convert("RGB"), np.float64)
    palette_alpha = palette.copy()
    palette_alpha.info["transparency"] = bytes(range(0, 256, 4))
    keyed = np.asarray(palette.convert("RGB"), np.float64).copy()
    keyed[np.asarray(palette) == 5] = 255
    cmyk = np.asarray(base.convert("CMYK").convert("RGB"), np.float64)
    big_endian = Image.frombytes("I;16B", (40, 30), np.asarray(_grey16()).astype(">u2").tobytes())
    lab_profiles = (ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"))
    lab = ImageCms.profileToProfile(base, *lab_profiles, outputMode="LAB")
    assert lab is not None
    unit = Image.fromarray((grey[..., 0] / 255).astype(np.float32))
    made: dict[str, tuple[bytes, Any, float]] = {
        "jpeg": (encoded(base, "JPEG", quality=95, subsampling=0), rgb, 8),
        "progressive jpeg": (encoded(base, "JPEG", quality=95, subsampling=0, progressive=True), rgb, 8),
        "grey jpeg": (encoded(base.convert("L"), "JPEG", quality=95), grey, 6),
        "cmyk jpeg (Adobe inverted)": (encoded(base.convert("CMYK"), "JPEG", quality=95), cmyk, 20),
        "mpo": (encoded(base, "MPO", quality=95, save_all=True, append_images=[photo(40, 30, 1)]), rgb, 30),
        "webp": (encoded(base, "WEBP", lossless=True), rgb, 0),
        "webp alpha": (encoded(rgba, "WEBP", lossless=True, exact=True), on_white(rgba), 1),
        "gif": (encoded(palette, "GIF"), np.asarray(palette.convert("RGB"), np.float64), 0),
        "gif transparent": (encoded(palette, "GIF", transparency=5), keyed, 0),
        "gif animated": (animation("GIF", 5), np.zeros((12, 16, 3)), 0),
        "webp animated": (animation("WEBP", 5), np.zeros((12, 16, 3)), 2),
        "apng": (animation("PNG", 5), np.zeros((12, 16, 3)), 0),
        "bmp": (encoded(base, "BMP"), rgb, 0),
        "bmp grey": (encoded(base.convert("L"), "BMP"), grey, 0),
        "bmp palette": (encoded(palette, "BMP"), np.asarray(palette.convert("RGB"), np.float64), 0),
        "png palette alpha": (
            encoded(palette, "PNG", transparency=palette_alpha.info["transparency"]),
            on_white(palette_alpha),
            1,
        ),
        "png rgb key": (
            encoded(Image.new("RGB", (9, 9), (1, 2, 3)), "PNG", transparency=(1, 2, 3)),
            255.0,
            0,
        ),
        "png 16-bit key": (encoded(Image.fromarray(np.full((9, 9), 700, np.uint16)), "PNG"), 3.0, 0),
        "png rgb 16-bit": (
            png(20, 20, (b"\0" + np.arange(60, dtype=">u2").byteswap().tobytes()) * 20, depth=16),
            np.tile(np.arange(60.0).reshape(1, 20, 3), (20, 1, 1)),
            1,
        ),
        "tiff pages": (encoded(base, "TIFF", save_all=True, append_images=[photo(9, 9)]), rgb, 0),
        "tiff cmyk": (encoded(base.convert("CMYK"), "TIFF"), cmyk, 0),
        "tiff lab": (encoded(lab, "TIFF"), rgb, 20),
        "tiff float": (encoded(unit, "TIFF"), grey, 0),
        "tiff 16-bit big-endian": (encoded(big_endian, "TIFF"), sixteen, 0),
        "tiff 32-bit": (
            encoded(Image.fromarray(np.asarray(_grey16()).astype(np.int32)), "TIFF"),
            sixteen,
            0,
        ),
        "wrong extension": (encoded(base, "PNG"), rgb, 0),
    }
    for format in ("PNG", "TIFF"):
        for mode, expected in (
            ("RGB", rgb),
            ("L", grey),
            ("1", bits),
            ("P", None),
            ("RGBA", None),
            ("LA", None),
        ):
            image = {"P": palette, "RGBA": rgba, "LA": rgba.convert("LA")}.get(mode, base.convert(mode))
            if expected is None:
                expected = on_white(image)
            made[f"{format} {mode}"] = (encoded(image, format), expected, 1 if mode in ("RGBA", "LA") else 0)
        made[f"{format} 16-bit"] = (encoded(_grey16(), format), sixteen, 0)
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
        made[compression] = (encoded(base, "TIFF", compression=compression), rgb, 0)
    return made


MADE = _made()


@pytest.mark.parametrize("name", MADE)
def test_the_same_pixels_through_every_door(name: str, tmp_path: Path) -> None:
    data, expected, tolerance = MADE[name]
    path = tmp_path / "picture.jpg"  # the extension must not matter
    path.write_bytes(data)
    found = pixels(data)
    assert np.abs(found - np.asarray(expected)).max() <= tolerance
    with path.open("rb") as file:
        file.read(5)
        doors = [str(path), path, bytearray(data), io.BytesIO(data), file, Image.open(path)]
        opened = Image.open(io.BytesIO(data))
        opened.load()
        doors += [opened, opened.copy(), found, read_image(path)]
        for door in doors:
            np.testing.assert_array_equal(pixels(door), found)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "La", "P", "PA", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"]
)
def test_pil_modes(mode: str) -> None:
    base = photo(40, 30).convert({"La": "LA", "RGBa": "RGBA", "PA": "P"}.get(mode, "RGB")).convert(mode)
    straight = base.convert("LA") if mode == "La" else base
    before = base.tobytes()
    assert np.abs(pixels(base) - on_white(straight)).max() <= 1
    assert base.tobytes() == before
    assert base.mode == mode


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I"])
def test_sixteen_bits_are_scaled_not_clipped(mode: str) -> None:
    levels = np.asarray(_grey16())
    kind = {"I": "=i4", "I;16B": ">u2"}.get(mode, "<u2")
    image = Image.frombytes(mode, (40, 30), levels.astype(kind).tobytes())
    np.testing.assert_array_equal(pixels(image)[..., 1], np.round(levels / 257))
    np.testing.assert_array_equal(pixels(levels)[..., 1], np.round(levels / 257))
    assert pixels(np.full((8, 8), 65535, np.uint16)).min() == 255


def test_sixteen_bit_transparent_colour_is_white() -> None:
    image = Image.fromarray(np.full((9, 9), 700, np.uint16))
    image.info["transparency"] = 700
    assert pixels(image).min() == 255


def test_arrays() -> None:
    rng = np.random.default_rng(0)
    rgba = rng.integers(0, 256, (12, 17, 4), dtype=np.uint8)
    np.testing.assert_array_equal(pixels(rgba[..., :3]), rgba[..., :3])
    np.testing.assert_array_equal(pixels(rgba[..., 0])[..., 2], rgba[..., 0])
    np.testing.assert_array_equal(pixels(rgba[..., :1])[..., 2], rgba[..., 0])
    np.testing.assert_array_equal(pixels(rgba), pixels(Image.fromarray(rgba)))
    np.testing.assert_array_equal(pixels(rgba[::-1, ::-1, :3]), rgba[::-1, ::-1, :3])
    for kind in (np.float16, np.float32, np.float64, ">f4"):
        assert np.abs(pixels((rgba / 255).astype(kind)) - pixels(rgba).astype(int)).max() <= 1
    np.testing.assert_array_equal(pixels(rgba.astype(">u2") * 257), pixels(rgba))
    source = rgba[..., :3].copy()
    read_image(source).putpixel((0, 0), (1, 2, 3))
    np.testing.assert_array_equal(source, rgba[..., :3])


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(format: str, orientation: int) -> None:
    encodings: dict[str, dict[str, Any]] = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}}
    options = encodings.get(format, {})
    data = encoded(photo(40, 24), format, exif=exif(orientation), **options)
    stored = np.asarray(encoded_pixels(photo(40, 24), format, options))
    turned = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, -1),
        7: np.rot90(stored, 2).transpose(1, 0, 2),
        8: np.rot90(stored),
    }[orientation]
    np.testing.assert_array_equal(pixels(data), turned)
    with Image.open(io.BytesIO(data)) as opened:
        np.testing.assert_array_equal(pixels(opened), turned)
        np.testing.assert_array_equal(pixels(opened), turned)  # reading changed nothing in the caller's image
    with Image.open(io.BytesIO(data)) as opened:
        np.testing.assert_array_equal(pixels(ImageOps.exif_transpose(opened)), turned)
    np.testing.assert_array_equal(pixels(read_image(data)), turned)


def encoded_pixels(image: Image.Image, format: str, options: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(encoded(image, format, **options))).convert("RGB")


def test_orientation_set_on_an_image_in_memory() -> None:
    image = photo(40, 24)
    image.getexif()[0x0112] = 6
    assert read_image(image).size == (24, 40)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_unknown_orientation_is_left(orientation: int) -> None:
    assert read_image(encoded(photo(40, 24), "JPEG", exif=exif(orientation))).size == (40, 24)


@pytest.mark.parametrize(
    "block", [b"Exif\0\0broken", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"]
)
def test_a_broken_exif_block_does_not_cost_the_picture(block: bytes) -> None:
    assert read_image(encoded(photo(40, 24), "JPEG", exif=block)).size == (40, 24)


# Refusing

BOMB = png(100_000, 100_000, b"")

PNG = encoded(photo(), "PNG")


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (b"", r"^The picture is empty: give a JPEG, PNG, WebP, GIF, BMP or TIFF picture\.$"),
        (b"hello", r"^The picture is not a picture that is read here: give a JPEG"),
        (b"\0\0\0\x18ftypheic" + bytes(90), "damaged or cut short|is a HEIC picture"),
        (encoded(photo(), "JPEG2000"), "is a JPEG 2000 picture"),
        (encoded(photo(), "ICO"), "is not a picture that is read here"),
        (b"%PDF-1.7", "is a PDF document"),
        (PNG[:-2000], "damaged or cut short: download or export it again"),
        (encoded(photo(), "JPEG")[:-200], "damaged or cut short"),
        (encoded(photo(), "WEBP")[:-200], "damaged or cut short"),
        (encoded(photo(), "GIF")[:-2000], "damaged or cut short"),
        (encoded(photo(), "BMP")[:-200], "damaged or cut short"),
        (encoded(photo(), "TIFF", compression="tiff_lzw")[:-400], "damaged or cut short"),
        (PNG[:20], "damaged or cut short"),
        (b"\xff\xd8\xff", "damaged or cut short"),
        (BOMB, "more than 52 megapixels: scale it down"),
        (png(10_000, 9_000, b""), "more than 52 megapixels"),  # where Pillow only warns
        (png(7212, 7212, b""), "more than 52 megapixels"),  # where Pillow says nothing
        (Image.new("1", (7212, 7212)), "more than 52 megapixels"),
        (np.zeros((7212, 7212), np.uint8), "more than 52 megapixels"),
        (encoded(photo(7, 200), "PNG"), r"is 7 x 200 pixels: give one with at least 8 a side"),
        (photo(200, 7), "is 200 x 7 pixels"),
        (np.zeros((0, 20), np.uint8), "is 20 x 0 pixels"),
        (long_gif(1001), r"more than 1,000 frames: save the one you mean"),
        (png(8, 8, bytes(200), 8, 2, png_chunk(b"acTL", b"\0\0\x10\0\0\0\0\0")), "more than 1,000 frames"),
        (overlapping_tags(500, 200_000), "holds more tags than picture"),
        (np.full((9, 9), np.nan, np.float32), "values of NaN"),
        (np.full((9, 9), np.inf), "values of inf"),
        (np.full((9, 9), 1.5), r"values of 1\.5 to 1\.5: give values from 0 to 1"),
        (photo().convert("F"), "floating-point values"),
        (Image.fromarray(np.full((9, 9), -1, np.int32)), "values outside 0 to 65535"),
        (np.zeros((9, 9), np.int64), "type int64: give uint8, uint16, or float in 0 to 1"),
        (np.zeros((9, 9), bool), "type bool"),
        (np.full((9, 9), None, object), "type object"),
        (np.zeros((3, 9, 9), np.uint8), r"shape \(3, 9, 9\): give height x width"),
        (np.zeros((9, 9, 2), np.uint8), r"shape \(9, 9, 2\)"),
        (np.zeros(9, np.uint8), r"shape \(9,\)"),
        (np.zeros((1, 9, 9, 3), np.uint8), "shape"),
        (io.StringIO("text"), "opened as text: open it with 'rb'"),
        (None, "cannot be read: give a path, bytes or a file opened with 'rb'"),
        (3, "cannot be read: give a path"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else type(value).__name__,
)
def test_refused_with_a_sentence(source: Any, sentence: str) -> None:
    with pytest.raises(ImageError, match=sentence) as error:
        read_image(source)
    assert_one_sentence(error.value)


def assert_one_sentence(error: ImageError) -> None:
    text = str(error)
    assert isinstance(error, AISError)
    assert isinstance(error, ValueError)
    assert text.isprintable()
    assert text.endswith(".")
    assert ": " in text
    assert 20 < len(text) < 250
    assert "Error" not in text
    assert "<_io" not in text
    assert "/" not in text
    text.encode()  # no half of a surrogate pair: it can be shown and stored anywhere


def test_paths_refused_with_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sentence(path: Any) -> str:
        with pytest.raises(ImageError) as error:
            read_image(path)
        assert_one_sentence(error.value)
        return str(error.value)

    folder = tmp_path / "holidays"
    folder.mkdir()
    assert sentence(folder).startswith('"holidays" is a folder: give')
    assert sentence(tmp_path / "none.jpg") == '"none.jpg" does not exist: check the path.'
    assert sentence(folder / "a\nb\x1b[31m\u202e.png").startswith('"a?b?[31m?.png" does not exist')
    assert sentence(os.fsdecode(b"caf\xe9.jpg")).startswith('"caf?.jpg" does not exist')
    assert "cannot be opened" in sentence("null\0.jpg")
    assert "cannot be opened" in sentence("long" * 1000)
    assert sentence("l" * 100 + ".jpg").startswith(f'"{"l" * 50}…{"l" * 21}.jpg"')
    assert sentence("") == "The path is empty: give that of a picture."
    assert sentence("https://example.org/cat.jpg").startswith('"cat.jpg" is an address')
    os.mkfifo(tmp_path / "pipe.jpg")
    assert "is not a file" in sentence(tmp_path / "pipe.jpg")
    (tmp_path / "secret.jpg").write_bytes(PNG)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", _forbidden)
        assert sentence(tmp_path / "secret.jpg") == '"secret.jpg" may not be read: change its permissions.'
    with (tmp_path / "secret.jpg").open("rb") as file, monkeypatch.context() as patch:
        patch.setattr(guards, "MAX_BYTES", 100)
        assert sentence(file).startswith('"secret.jpg" is larger than')
    assert "cannot be read" in sentence(file)  # closed by now


def _forbidden(*_: Any, **__: Any) -> None:
    raise PermissionError(13, "Permission denied")


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    zeros = png(8000, 8000, bytes(8000 * 1001), depth=1, color=0)
    assert len(zeros) < 20_000
    with Image.open(io.BytesIO(zeros)) as valid:
        assert valid.size == (8000, 8000)
    for bomb in (zeros, BOMB):
        tracemalloc.start()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
            patch.setattr("PIL.PngImagePlugin.PngImageFile.load_prepare", lambda self: pytest.fail("decoded"))
            with pytest.raises(ImageError, match="52 megapixels"):
                read_image(bomb)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
        tracemalloc.stop()


def test_warnings_as_errors_do_not_change_the_sentence() -> None:
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match="52 megapixels"):
            read_image(png(10_000, 9_000, b""))
    assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.timeout(60)  # Pillow alone would take longer over each
def test_files_that_are_cheap_to_make_are_cheap_to_refuse() -> None:
    gif = encoded(photo(), "GIF")
    head = 13 + (3 << (gif[10] & 7) + 1)
    comment = b"!\xfe" + (b"\xff" + b"x" * 255) * 60_000 + b"\0"
    tiny_blocks = gif[:head] + gif[head : head + 11] + b"\x01\x00" * 5_000_000
    for data in (gif[:head] + comment + gif[head:], gif[:head] + bytes(10_000_000), tiny_blocks):
        read_or_refuse(data)


def test_only_the_first_exif_block_counts() -> None:
    def block(orientation: int) -> bytes:
        body = exif(orientation).tobytes()
        return b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body

    jpeg = encoded(photo(40, 24), "JPEG")
    assert read_image(jpeg[:2] + block(6) + block(3) * 50 + jpeg[2:]).size == (24, 40)


def test_two_hundred_odd_pictures(tmp_path: Path) -> None:
    paths = odd_pictures(tmp_path / "a")
    again = odd_pictures(tmp_path / "b")
    assert len(set(paths)) == 200
    assert sum(path.stat().st_size for path in paths) < 40_000_000
    assert [path.name for path in paths] == [path.name for path in again]
    assert all(one.read_bytes() == other.read_bytes() for one, other in zip(paths, again, strict=True))
    read = 0
    for path in paths:
        try:
            assert pixels(path).shape[2] == 3
            read += 1
        except ImageError as error:
            assert_one_sentence(error)
    assert 80 < read < 160


@few
@given(
    st.binary(max_size=400),
    st.sampled_from([b"", b"RIFF0000WEBP", *(magic for magic, _ in guards._SIGNATURES)]),
)
def test_fuzz_random_bytes(data: bytes, start: bytes) -> None:
    read_or_refuse(start + data)


@many
@given(st.sampled_from(sorted(MADE)), st.integers(0, 2**32 - 1))
def test_fuzz_damaged_files(name: str, seed: int) -> None:
    read_or_refuse(damaged(MADE[name][0], np.random.default_rng(seed)))


def read_or_refuse(data: bytes) -> None:
    try:
        image = read_image(data)
    except ImageError as error:
        assert_one_sentence(error)
    else:
        assert image.mode == "RGB"
        assert min(image.size) >= 8


def test_reading_comes_without_torch() -> None:
    code = "import sys; from ais.images import read_image; assert callable(read_image); print('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "False\n"
    )
