"""Reading pictures: the same pixels through every door, or one sentence; and where the network looked."""

from __future__ import annotations

import io
import os
import re
import time
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pictures import (
    FORMATS,
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
from PIL import Image, ImageCms, ImageOps
from torchvision.transforms import v2
from torchvision.transforms.functional import InterpolationMode

from ais import images
from ais.errors import AISError, ImageError
from ais.images import Placement, View, read_image

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow warns of much that it then reads

SIZES = [(224, 256), (299, 342), (300, 320), (260, 297)]
HALF = (0.5, 0.5, 0.5)
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


def make_view(name: images.ViewName = "crop", size: int = 224, resize: int = 256, **options: Any) -> View:
    return View(name, size, resize, options.pop("interpolation", "bilinear"), HALF, HALF)


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
        (b"\0\0\0\x18ftypheic" + bytes(90), r"is a HEIC picture, which is not read here: give a JPEG"),
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
        (BOMB, "more than 50 megapixels: scale it down"),
        (png(10_000, 9_000, b""), "more than 50 megapixels"),  # where Pillow only warns
        (png(7072, 7072, b""), "more than 50 megapixels"),  # where Pillow says nothing
        (Image.new("1", (7072, 7072)), "more than 50 megapixels"),
        (np.zeros((7072, 7072), np.uint8), "more than 50 megapixels"),
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
    assert "is a folder" in sentence("")
    os.mkfifo(tmp_path / "pipe.jpg")
    assert "is not a file" in sentence(tmp_path / "pipe.jpg")
    (tmp_path / "secret.jpg").write_bytes(PNG)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", _forbidden)
        assert sentence(tmp_path / "secret.jpg") == '"secret.jpg" may not be read: change its permissions.'
    with (tmp_path / "secret.jpg").open("rb") as file, monkeypatch.context() as patch:
        patch.setattr(images, "MAX_BYTES", 100)
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
        start = time.perf_counter()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
            patch.setattr("PIL.PngImagePlugin.PngImageFile.load_prepare", lambda self: pytest.fail("decoded"))
            with pytest.raises(ImageError, match="50 megapixels"):
                read_image(bomb)
        assert time.perf_counter() - start < 0.5
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
        tracemalloc.stop()


def test_warnings_as_errors_do_not_change_the_sentence() -> None:
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match="50 megapixels"):
            read_image(png(10_000, 9_000, b""))
    assert limit == Image.MAX_IMAGE_PIXELS


def test_files_that_are_cheap_to_make_are_cheap_to_refuse() -> None:
    gif = encoded(photo(), "GIF")
    head = 13 + (3 << (gif[10] & 7) + 1)
    comment = b"!\xfe" + (b"\xff" + b"x" * 255) * 60_000 + b"\0"  # Pillow alone: 40 s
    tiny_blocks = gif[:head] + gif[head : head + 11] + b"\x01\x00" * 5_000_000
    for data in (gif[:head] + comment + gif[head:], gif[:head] + bytes(10_000_000), tiny_blocks):
        start = time.perf_counter()
        read_or_refuse(data)
        assert time.perf_counter() - start < 3


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
@given(st.binary(max_size=400), st.sampled_from([b"", *images._OURS]))
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


# Where the network looked

sides = st.integers(8, 4000)
views = st.builds(
    lambda name, size: make_view(name, *size), st.sampled_from(["crop", "whole"]), st.sampled_from(SIZES)
)


@st.composite
def pictures(draw: st.DrawFn) -> tuple[int, int]:
    """Width and height, 8 to 4000, with aspect ratios from 1:10 to 10:1."""
    width = draw(sides)
    return width, draw(st.integers(max(8, -(-width // 10)), min(4000, width * 10)))


@many
@given(pictures(), views)
def test_the_box(picture: tuple[int, int], view: View) -> None:
    width, height = picture
    placement = view.place(width, height)
    (x0, y0, x1, y1), (h, w) = placement.box, placement.input_size
    assert 0 <= x0 < x1 <= width
    assert 0 <= y0 < y1 <= height
    if view.name == "crop":
        assert (h, w) == (view.size, view.size)
        assert abs((x0 + x1) / 2 - width / 2) * view.resize / min(picture) <= 0.51  # half a resized pixel
        assert abs((y0 + y1) / 2 - height / 2) * view.resize / min(picture) <= 0.51
        scale = view.resize / min(picture)
        assert abs((x1 - x0) * scale - w) <= w / view.resize + 1e-6
        assert abs((y1 - y0) * scale - h) <= h / view.resize + 1e-6
    else:
        assert placement.box == (0, 0, width, height)
        assert h * w <= 4 * view.size**2
        assert min(h, w) >= 80
        assert min(h, w) == view.size or h * w > 3.9 * view.size**2
        scale = min(view.size / min(picture), 2 * view.size / (width * height) ** 0.5)
        assert abs(width * scale - w) <= 1
        assert abs(height * scale - h) <= 1


def test_the_whole_view_stays_bounded_on_strips() -> None:
    assert make_view("whole").place(8, 4000).input_size == (2508, 80)
    assert make_view("whole").place(6_000_000, 8).input_size == (80, 2508)
    assert make_view("whole").place(300, 200).input_size == (224, 336)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "picture", [(640, 427), (427, 640), (100, 100), (256, 256), (31, 290), (1201, 300), (8, 80)]
)
def test_tensor_equals_torchvision(
    picture: tuple[int, int], size: tuple[int, int], interpolation: images.Interpolation
) -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    resize = v2.Resize(size[1], interpolation=InterpolationMode(interpolation))
    transform = v2.Compose([resize, v2.CenterCrop(size[0]), v2.PILToTensor()])
    noise = np.random.default_rng(0).integers(0, 256, (picture[1], picture[0], 3), dtype=np.uint8)
    for image in (photo(*picture), Image.fromarray(noise)):
        expected = transform(image).float()
        found = View("crop", *size, interpolation, mean, std).tensor(image)
        assert found.shape == (3, size[0], size[0])
        assert found.dtype == torch.float32
        assert found.is_contiguous()
        grey = (found * torch.tensor(std).view(3, 1, 1) + torch.tensor(mean).view(3, 1, 1)) * 255
        # Pillow holds the box in single precision and rounds after each axis: by 2 where both are ties.
        off = (grey - expected).abs()
        assert off.max() < 2.01
        assert off.gt(1.01).float().mean() < 1e-4
        assert off.mean() < 0.02


@pytest.mark.parametrize("picture", [(8, 4000), (4000, 8), (300, 200)])
@pytest.mark.parametrize("name", ["crop", "whole"])
def test_tensor_shapes_and_cost(picture: tuple[int, int], name: images.ViewName) -> None:
    view = make_view(name)
    start = time.perf_counter()
    tensor = view.tensor(photo(*picture))
    assert tuple(tensor.shape[1:]) == view.place(*picture).input_size
    assert bool(tensor.abs().le(1).all())
    assert time.perf_counter() - start < 1


def slow_upsample(placement: Placement, grid: np.ndarray) -> np.ndarray:
    """The contract, a pixel at a time."""
    x0, y0, x1, y1 = placement.box
    h, w = grid.shape
    heatmap = np.full((placement.height, placement.width), np.nan)
    for y in range(placement.height):
        for x in range(placement.width):
            if not (x0 <= x + 0.5 <= x1 and y0 <= y + 0.5 <= y1):
                continue
            u = min(max((x + 0.5 - x0) / (x1 - x0) * w - 0.5, 0), w - 1)
            v = min(max((y + 0.5 - y0) / (y1 - y0) * h - 0.5, 0), h - 1)
            left, top = min(int(u), max(w - 2, 0)), min(int(v), max(h - 2, 0))
            right, bottom = min(left + 1, w - 1), min(top + 1, h - 1)
            a, b = u - left, v - top
            upper = grid[top, left] * (1 - a) + grid[top, right] * a
            lower = grid[bottom, left] * (1 - a) + grid[bottom, right] * a
            heatmap[y, x] = upper * (1 - b) + lower * b
    return heatmap


@few
@given(st.integers(8, 40), st.integers(8, 40), st.integers(1, 9), st.integers(1, 9), views)
def test_upsample_equals_the_slow_one(width: int, height: int, h: int, w: int, view: View) -> None:
    grid = np.random.default_rng(width * height).normal(size=(h, w)).astype(np.float32)
    placement = view.place(width, height)
    found = placement.upsample(grid)
    assert found.dtype == np.float32
    assert found.shape == (height, width)
    np.testing.assert_allclose(found, slow_upsample(placement, grid), atol=1e-5)


@pytest.mark.parametrize("picture", [(224, 224), (500, 333), (9, 80)])
def test_upsample_equals_torch_where_the_box_is_the_picture(picture: tuple[int, int]) -> None:
    grid = np.random.default_rng(0).normal(size=(7, 10)).astype(np.float32)
    found = make_view("whole").place(*picture).upsample(grid)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(grid)[None, None], size=picture[::-1], mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(found, expected[0, 0].numpy(), atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(pictures(), views, st.integers(1, 12), st.integers(1, 12), st.randoms(use_true_random=False))
def test_upsample_properties(picture: tuple[int, int], view: View, h: int, w: int, random: Any) -> None:
    width, height = picture
    placement = view.place(width, height)
    x0, y0, x1, y1 = placement.box
    grid = np.random.default_rng(random.randrange(2**32)).normal(size=(h, w)).astype(np.float32)
    heatmap = placement.upsample(grid)
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    seen = ((y >= y0) & (y <= y1))[:, None] & ((x >= x0) & (x <= x1))
    assert seen.any()
    assert np.array_equal(np.isfinite(heatmap), seen)
    assert np.nanmin(heatmap) >= grid.min()
    assert np.nanmax(heatmap) <= grid.max()
    constant = placement.upsample(np.full((h, w), grid[0, 0]))
    assert (constant[seen] == grid[0, 0]).all()
    np.testing.assert_allclose(placement.upsample(-2 * grid), -2 * heatmap, atol=1e-5)  # linear
    np.testing.assert_allclose(
        placement.upsample(grid) + placement.upsample(grid[::-1, ::-1]),
        placement.upsample(grid + grid[::-1, ::-1]),
        atol=1e-5,
    )


@settings(max_examples=60, deadline=None)
@given(pictures(), views, st.data())
def test_a_lit_cell_peaks_where_its_pixels_came_from(
    picture: tuple[int, int], view: View, data: st.DataObject
) -> None:
    placement = view.place(*picture)
    (x0, y0, x1, y1), (input_h, input_w) = placement.box, placement.input_size
    h, w = input_h // 32, input_w // 32
    row, column = data.draw(st.integers(0, h - 1)), data.draw(st.integers(0, w - 1))
    grid = np.zeros((h, w), np.float32)
    grid[row, column] = 1
    heatmap = placement.upsample(grid)
    # The middle of the cell's part of the input, carried back to the picture by resize and crop undone.
    input_x, input_y = (column + 0.5) * input_w / w, (row + 0.5) * input_h / h
    x, y = x0 + input_x * (x1 - x0) / input_w, y0 + input_y * (y1 - y0) / input_h
    pixel = min(int(y), picture[1] - 1), min(int(x), picture[0] - 1)
    cell_w, cell_h = (x1 - x0) / w, (y1 - y0) / h
    if min(cell_w, cell_h) >= 2:
        assert heatmap[pixel] >= 0.5
        assert heatmap[pixel] >= np.nanmax(heatmap) - 0.51 / cell_w - 0.51 / cell_h
    lit = np.argwhere(np.nan_to_num(heatmap) > 0)
    if len(lit):  # nothing glows further than one cell away
        assert np.abs(lit[:, 1] + 0.5 - x).max() <= cell_w * 1.001
        assert np.abs(lit[:, 0] + 0.5 - y).max() <= cell_h * 1.001


@pytest.mark.parametrize("name", ["crop", "whole"])
@pytest.mark.parametrize("picture", [(600, 400), (400, 600), (2000, 260), (1024, 1024)])
def test_a_lit_patch_of_the_picture_lands_in_its_own_cell(
    name: images.ViewName, picture: tuple[int, int]
) -> None:
    """End to end, through the real resize: where the input is bright, the heatmap put back is bright too."""
    view = make_view(name)
    placement = view.place(*picture)
    x, y = int(picture[0] * 0.47), int(picture[1] * 0.6)
    image = Image.new("RGB", picture)
    image.paste((255, 255, 255), (x - 10, y - 10, x + 10, y + 10))
    brightness = view.tensor(image).mean(0).numpy()
    heatmap = np.nan_to_num(placement.upsample(brightness), nan=-1)
    rows, columns = np.nonzero(heatmap > 0)
    assert abs(columns.mean() + 0.5 - x) < 1.5
    assert abs(rows.mean() + 0.5 - y) < 1.5


def test_upsample_is_quick_and_small() -> None:
    placement = make_view("crop").place(3000, 2000)
    grid = np.random.default_rng(0).normal(size=(7, 7))
    tracemalloc.start()
    placement.upsample(grid)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3000 * 2000 * 4 * 2.2  # the heatmap and the seen part of it, float32
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        placement.upsample(grid)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.1


def test_every_format_is_named_in_the_sentence() -> None:
    with pytest.raises(ImageError) as error:
        read_image(b"?")
    assert all(re.search(format, str(error.value), re.IGNORECASE) for format in FORMATS)
