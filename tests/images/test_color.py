"""Colour profiles: the numbers that come out are those of sRGB, computed here from the profile's own definition."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from ais.images import color
from ais.images.reading import read_image
from helpers.layouts import tiff_of
from helpers.pictures import SRGB, encoded, photo, profile_of, to_d50

DISPLAY_P3 = ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06))

ADOBE = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))

PROFILES = {"display p3": (DISPLAY_P3, 2.2), "adobe rgb": (ADOBE, 563 / 256), "linear": (SRGB, 1.0)}


def in_srgb(levels: np.ndarray, primaries: Any, gamma: float) -> np.ndarray:
    linear = (levels / 255) ** gamma @ (np.linalg.inv(to_d50(SRGB)) @ to_d50(primaries)).T
    linear = linear.clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def read(source: Any) -> np.ndarray:
    return np.asarray(read_image(source)).astype(float)


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_is_converted_whatever_holds_it(name: str) -> None:
    profile, base = profile_of(*PROFILES[name]), photo(60, 40)
    expected = in_srgb(np.asarray(base).astype(float), *PROFILES[name])
    assert np.abs(expected - np.asarray(base)).max() > 10
    for format, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})):
        data = encoded(base, format, icc_profile=profile, **options)
        assert np.abs(read(data) - expected).max() <= 2
        opened = Image.open(io.BytesIO(data))
        np.testing.assert_array_equal(read(opened), read(data))
        np.testing.assert_array_equal(read(opened.copy()), read(data))
    data = encoded(base, "JPEG", icc_profile=profile, quality=100, subsampling=0)
    assert np.abs(read(data) - expected).mean() < 2
    image = base.copy()
    image.info["icc_profile"] = profile
    assert np.abs(read(image) - expected).max() <= 2
    np.testing.assert_array_equal(read(np.asarray(image)), np.asarray(base))
    assert read_image(image).info == {}


def test_sixteen_bits_planes_and_palettes_have_profiles_too() -> None:
    profile = profile_of(*PROFILES["display p3"])
    base = photo(60, 40)
    levels = np.asarray(base).astype(np.uint32)
    expected = in_srgb(levels.astype(float), *PROFILES["display p3"])
    tags: Any = {34675: (1, list(profile))}
    for planar in (False, True):
        assert np.abs(read(tiff_of(levels, 8, 2, planar=planar, tags=tags)) - expected).max() <= 2
        assert np.abs(read(tiff_of(levels * 257, 16, 2, planar=planar, tags=tags)) - expected).max() <= 2
    palette = base.quantize(50)
    expected = in_srgb(np.asarray(palette.convert("RGB")).astype(float), *PROFILES["display p3"])
    assert np.abs(read(encoded(palette, "PNG", icc_profile=profile)) - expected).max() <= 2


def test_alpha_is_kept_and_white_is_white() -> None:
    rgba = photo(60, 40)
    rgba.putalpha(Image.linear_gradient("L").resize(rgba.size))
    alpha = np.asarray(rgba)[..., 3:] / 255
    colors = in_srgb(np.asarray(rgba)[..., :3].astype(float), *PROFILES["adobe rgb"])
    expected = colors * alpha + 255 * (1 - alpha)
    profile = profile_of(*PROFILES["adobe rgb"])
    for data in (
        encoded(rgba, "PNG", icc_profile=profile),
        encoded(rgba, "WEBP", icc_profile=profile, lossless=True, exact=True),
    ):
        assert np.abs(read(data) - expected).max() <= 2


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_grey_profiles(mode: str) -> None:
    grey = photo(60, 40).convert("L")
    levels = np.asarray(grey).astype(float)
    expected = in_srgb(levels[..., None].repeat(3, axis=-1), SRGB, 1.0)
    image = (
        Image.fromarray(np.asarray(grey).astype(np.uint16) * 257) if mode == "I;16" else grey.convert(mode)
    )
    found = read(encoded(image, "PNG", icc_profile=profile_of(SRGB, 1.0, b"GRAY")))
    assert np.abs(found - expected).max() <= 2


def test_srgb_by_any_name_changes_nothing() -> None:
    base = photo(60, 40)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    np.testing.assert_array_equal(read(encoded(base, "PNG", icc_profile=profile)), np.asarray(base))
    assert color._transform(profile, "RGB") is None


@pytest.mark.parametrize(
    "profile",
    [
        b"not a profile",
        b"",
        bytes(200),
        profile_of(*PROFILES["linear"])[:300],
        profile_of(SRGB, 1.0, b"GRAY"),
        bytes(9_000_000),
    ],
    ids=len,
)
def test_a_profile_that_cannot_be_used_is_passed_over(profile: bytes) -> None:
    base = photo(60, 40)
    np.testing.assert_array_equal(read(encoded(base, "TIFF", icc_profile=profile)), np.asarray(base))
    cmyk = base.convert("CMYK")
    expected = read(encoded(cmyk, "TIFF"))
    np.testing.assert_array_equal(read(encoded(cmyk, "TIFF", icc_profile=profile)), expected)
    grey = encoded(base.convert("L"), "TIFF", icc_profile=profile_of(*PROFILES["linear"]))
    np.testing.assert_array_equal(read(grey), read(base.convert("L")))


def test_transforms_are_made_once_and_few_are_kept() -> None:
    color._transform.cache_clear()
    for gamma in (1.0, 1.2, 1.4, 1.5, 1.6, 1.7, 1.0):
        for _ in range(3):
            read(encoded(photo(), "PNG", icc_profile=profile_of(SRGB, gamma)))
    info = color._transform.cache_info()
    assert (info.misses, info.hits) == (7, 14)
    assert info.currsize <= 4
