"""Where a network looks in a picture, and the way back from its grid to the picture."""

from __future__ import annotations

import re
import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.functional import InterpolationMode

from ais.errors import AISError, ImageError
from ais.images.preprocessing import Interpolation, Placement, Preprocessing, ViewName
from ais.images.reading import read_image
from helpers.pictures import FORMATS, photo

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow warns of much that it then reads

SIZES = [(224, 256), (299, 342), (300, 320), (260, 297)]

HALF = (0.5, 0.5, 0.5)

few = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

many = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def make_preprocessing(
    name: ViewName = "crop", size: int = 224, resize: int = 256, **options: Any
) -> Preprocessing:
    return Preprocessing(name, size, resize, options.pop("interpolation", "bilinear"), HALF, HALF)


sides = st.integers(8, 4000)

views = st.builds(
    lambda name, size: make_preprocessing(name, *size),
    st.sampled_from(["crop", "resize"]),
    st.sampled_from(SIZES),
)


@st.composite
def pictures(draw: st.DrawFn) -> tuple[int, int]:
    """Width and height, 8 to 4000, with aspect ratios from 1:10 to 10:1."""
    width = draw(sides)
    return width, draw(st.integers(max(8, -(-width // 10)), min(4000, width * 10)))


@many
@given(pictures(), views)
def test_the_box(picture: tuple[int, int], preprocessing: Preprocessing) -> None:
    width, height = picture
    placement = preprocessing.geometry(width, height)
    (x0, y0, x1, y1), (h, w) = placement.box, placement.input_size
    assert 0 <= x0 < x1 <= width
    assert 0 <= y0 < y1 <= height
    if preprocessing.view == "crop":
        assert (h, w) == (preprocessing.size, preprocessing.size)
        assert (
            abs((x0 + x1) / 2 - width / 2) * preprocessing.resize_to / min(picture) <= 0.51
        )  # half a resized pixel
        assert abs((y0 + y1) / 2 - height / 2) * preprocessing.resize_to / min(picture) <= 0.51
        scale = preprocessing.resize_to / min(picture)
        assert abs((x1 - x0) * scale - w) <= w / preprocessing.resize_to + 1e-6
        assert abs((y1 - y0) * scale - h) <= h / preprocessing.resize_to + 1e-6
    else:
        assert placement.box == (0, 0, width, height)
        assert h * w <= 4 * preprocessing.size**2
        assert min(h, w) >= 80
        assert min(h, w) == preprocessing.size or h * w > 3.9 * preprocessing.size**2
        scale = min(preprocessing.size / min(picture), 2 * preprocessing.size / (width * height) ** 0.5)
        assert abs(width * scale - w) <= 1
        assert abs(height * scale - h) <= 1


asked = st.integers(2, 20).map(lambda steps: 32 * steps)


@many
@given(pictures(), views, asked)
def test_another_size_shows_the_same(
    picture: tuple[int, int], preprocessing: Preprocessing, size: int
) -> None:
    """The same part of the picture, but for the rounding to whole pixels; and as many as were asked for."""
    other = preprocessing.at(size=size)
    assert (other.view, other.size, other.interpolation) == (preprocessing.view, size, "bilinear")
    (native, own), (placement, seen) = ((p.geometry(*picture), p) for p in (preprocessing, other))
    assert (
        min(placement.input_size) == size or placement.input_size[0] * placement.input_size[1] > 3.8 * size**2
    )
    if preprocessing.view == "resize":
        assert placement.box == native.box
    else:
        assert placement.input_size == (size, size)
        # Half a pixel each of: the shorter side, the longer side and the place of the crop, at either size.
        pixel = min(picture) * (1 / own.resize_to + 1 / seen.resize_to)
        np.testing.assert_allclose(placement.box, native.box, atol=1.6 * pixel * max(picture) / min(picture))
        share, before = size / seen.resize_to, own.size / own.resize_to
        assert abs(share - before) <= 0.5 * before / seen.resize_to + 1e-9
    assert preprocessing.at() == preprocessing.at(preprocessing.view, preprocessing.size) == preprocessing


@pytest.mark.parametrize("size", [0, -32, 32, 63, 65, 100, 225, 639, 641, 672, 1 << 40])
def test_sizes_that_cannot_be_asked_for(size: int) -> None:
    with pytest.raises(
        AISError, match=f"size of {size} pixels cannot be used: choose 224, .* 32 from 64 to 640"
    ):
        make_preprocessing().at(size=size)


@pytest.mark.parametrize("view", ["crop", "resize"])
@pytest.mark.parametrize("size", [64, 320, 448])
def test_tensor_at_another_size_equals_torchvision(view: ViewName, size: int) -> None:
    image = photo(640, 427)
    if view == "crop":
        steps: list[Any] = [v2.Resize(round(256 * size / 224)), v2.CenterCrop(size)]
    else:
        steps = [v2.Resize(size)]
    expected = v2.Compose([*steps, v2.PILToTensor()])(image).float().div(255).sub(0.5).div(0.5)
    found = make_preprocessing(view).at(size=size)(image)
    assert found.shape == expected.shape
    assert (found - expected).abs().mean() < 0.01


def test_the_whole_view_stays_bounded_on_strips() -> None:
    assert make_preprocessing("resize").geometry(8, 4000).input_size == (2508, 80)
    assert make_preprocessing("resize").geometry(6_000_000, 8).input_size == (80, 2508)
    assert make_preprocessing("resize").geometry(300, 200).input_size == (224, 336)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "picture", [(640, 427), (427, 640), (100, 100), (256, 256), (31, 290), (1201, 300), (8, 80)]
)
def test_tensor_equals_torchvision(
    picture: tuple[int, int], size: tuple[int, int], interpolation: Interpolation
) -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    resize = v2.Resize(size[1], interpolation=InterpolationMode(interpolation))
    transform = v2.Compose([resize, v2.CenterCrop(size[0]), v2.PILToTensor()])
    noise = np.random.default_rng(0).integers(0, 256, (picture[1], picture[0], 3), dtype=np.uint8)
    for image in (photo(*picture), Image.fromarray(noise)):
        expected = transform(image).float()
        found = Preprocessing("crop", *size, interpolation, mean, std)(image)
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
@pytest.mark.parametrize("name", ["crop", "resize"])
def test_tensor_shapes(picture: tuple[int, int], name: ViewName) -> None:
    preprocessing = make_preprocessing(name)
    tensor = preprocessing(photo(*picture))
    assert tuple(tensor.shape[1:]) == preprocessing.geometry(*picture).input_size
    assert bool(tensor.abs().le(1).all())


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
def test_upsample_equals_the_slow_one(
    width: int, height: int, h: int, w: int, preprocessing: Preprocessing
) -> None:
    grid = np.random.default_rng(width * height).normal(size=(h, w)).astype(np.float32)
    placement = preprocessing.geometry(width, height)
    found = placement.upsample(grid)
    assert found.dtype == np.float32
    assert found.shape == (height, width)
    np.testing.assert_allclose(found, slow_upsample(placement, grid), atol=1e-5)


@pytest.mark.parametrize("picture", [(224, 224), (500, 333), (9, 80)])
def test_upsample_equals_torch_where_the_box_is_the_picture(picture: tuple[int, int]) -> None:
    grid = np.random.default_rng(0).normal(size=(7, 10)).astype(np.float32)
    found = make_preprocessing("resize").geometry(*picture).upsample(grid)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(grid)[None, None], size=picture[::-1], mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(found, expected[0, 0].numpy(), atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(pictures(), views, st.integers(1, 12), st.integers(1, 12), st.randoms(use_true_random=False))
def test_upsample_properties(
    picture: tuple[int, int], preprocessing: Preprocessing, h: int, w: int, random: Any
) -> None:
    width, height = picture
    placement = preprocessing.geometry(width, height)
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
    picture: tuple[int, int], preprocessing: Preprocessing, data: st.DataObject
) -> None:
    placement = preprocessing.geometry(*picture)
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


@pytest.mark.parametrize("name", ["crop", "resize"])
@pytest.mark.parametrize("picture", [(600, 400), (400, 600), (2000, 260), (1024, 1024)])
def test_a_lit_patch_of_the_picture_lands_in_its_own_cell(name: ViewName, picture: tuple[int, int]) -> None:
    """End to end, through the real resize: where the input is bright, the heatmap put back is bright too."""
    preprocessing = make_preprocessing(name)
    placement = preprocessing.geometry(*picture)
    x, y = int(picture[0] * 0.47), int(picture[1] * 0.6)
    image = Image.new("RGB", picture)
    image.paste((255, 255, 255), (x - 10, y - 10, x + 10, y + 10))
    brightness = preprocessing(image).mean(0).numpy()
    heatmap = np.nan_to_num(placement.upsample(brightness), nan=-1)
    rows, columns = np.nonzero(heatmap > 0)
    assert abs(columns.mean() + 0.5 - x) < 1.5
    assert abs(rows.mean() + 0.5 - y) < 1.5


def test_upsample_is_small() -> None:
    placement = make_preprocessing("crop").geometry(3000, 2000)
    grid = np.random.default_rng(0).normal(size=(7, 7))
    tracemalloc.start()
    placement.upsample(grid)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3000 * 2000 * 4 * 2.2  # the heatmap and the seen part of it, float32


def test_every_format_is_named_in_the_sentence() -> None:
    with pytest.raises(ImageError) as error:
        read_image(b"?")
    assert all(re.search(format, str(error.value), re.IGNORECASE) for format in FORMATS)
