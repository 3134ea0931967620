"""What the figures show, read back from their pixels."""

from __future__ import annotations

import io
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import label

from ais.attribution.colors import overlay
from ais.errors import ImageError
from ais.plots import evaluation, sheets, training

ORANGE, BLUE = (213, 94, 0), (0, 114, 178)

METRICS = {"plcc": 0.7, "plcc_low": 0.6, "plcc_high": 0.8, "rmse": 0.8}


def curves() -> tuple[np.ndarray, list[int]]:
    """Four variants that stop after 4, 6, 8 and 10 epochs, two after their best."""
    values = np.full((4, 10, 2), np.nan)
    for k, last in enumerate((4, 6, 8, 10)):
        values[k, :last, 0] = 1 / np.arange(1, last + 1)
        values[k, :last, 1] = 0.5 + 0.05 * k
    return values, [2, 4, 6, 8]


def pixels(png: bytes) -> np.ndarray:
    picture = Image.open(io.BytesIO(png))
    assert picture.format == "PNG"
    assert picture.info.keys() <= {"dpi"}  # no dates, no versions: the same bytes every time
    return np.asarray(picture.convert("RGB")).astype(int)


def places(image: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """(row, column) of the pixels of a colour."""
    return np.argwhere(np.abs(image - color).max(-1) < 12)


def test_learning_curve_spans_all_epochs() -> None:
    values, kept = curves()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = training.learning_curve(values, kept)
    image = pixels(data)
    assert image.shape[1] == 1200
    for color in (BLUE, ORANGE):
        columns = places(image, color)[:, 1]
        assert columns.min() < 200
        assert columns.max() > 1150  # also where only one variant is left
    assert training.learning_curve(values, kept) == data


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_training_that_never_beat_its_start_says_so_inside_the_axes(epochs: int) -> None:
    """Its kept epoch is 0: a line there, left of the curves, and no circle at an epoch that was not kept."""
    values = np.full((2, epochs, 2), 0.5)
    values[:, :, 0] = 0.2
    image = pixels(training.learning_curve(values, [0, 0]))
    orange = places(image, ORANGE)
    below = orange[orange[:, 0] > 150]  # not the legend
    upright = np.bincount(below[:, 1], minlength=image.shape[1])
    line = int(upright.argmax())
    assert upright[line] > 200  # dashes from the bottom to the top
    curve = places(image, BLUE)
    curve = curve[curve[:, 0] > 150]
    assert 60 < line < (curve[:, 1].min() if epochs > 1 else 700)
    assert not np.array_equal(image, pixels(training.learning_curve(values, [1, 1])))


def test_one_epoch_can_be_drawn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pixels(training.learning_curve(np.full((1, 1, 2), 0.5), [1])).size


@pytest.mark.parametrize("end", [2.0, 1e30, np.inf, np.nan])
def test_rate_curve_marks_the_suggestion_and_survives_an_explosion(end: float) -> None:
    rates = np.geomspace(1e-6, 1, 61)
    losses = np.where(rates < 0.1, 1 - 0.9 * rates**0.25, end)
    trials = np.where(np.isfinite(losses), losses + np.random.default_rng(0).normal(0, 0.05, (3, 61)), np.nan)
    columns = []
    for suggested in (1e-5, 1e-3, 5e-2):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            image = pixels(training.rate_curve(rates, trials, losses, suggested))
        assert image.shape[1] == 1200
        column = np.bincount(places(image, ORANGE)[:, 1], minlength=1200)
        columns.append(int(column.argmax()))
        assert column.sum() - column[columns[-1] - 10 : columns[-1] + 11].sum() > 100  # in the legend
        rows = places(image, BLUE)[:, 0]
        assert np.ptp(rows) > 0.3 * len(image)  # the fall of the loss is what fills the figure
    # Logarithmic: two decades are as far as two others.
    assert columns[1] - columns[0] == pytest.approx((columns[2] - columns[0]) * 2 / np.log10(5e3), abs=4)


def test_rate_curve_without_a_suggestion_says_why_and_draws_no_line() -> None:
    rates = np.geomspace(1e-6, 1, 61)
    flat = np.full(61, 0.5)
    reason = "the loss hardly changes between here and there"
    image = pixels(training.rate_curve(rates, np.stack([flat] * 3), flat, None, reason))
    assert not len(places(image, ORANGE))
    rows = places(image, BLUE)[:, 0]
    assert np.ptp(rows[rows > 100]) < 0.05 * len(image)  # flat is drawn flat


def test_scatter_has_equal_axes_and_loses_no_point() -> None:
    rated = np.linspace(1, 7, 7)
    image = pixels(evaluation.scatter(rated + np.linspace(-1.5, 1.5, 7), rated, 1, 7, "beauty", METRICS))
    rows, columns = places(image, (140, 192, 221)).T  # blue through which others can be seen
    assert np.ptp(rows) / np.ptp(columns) == pytest.approx(9 / 6, rel=0.03)


def test_contact_sheet_is_five_a_row_and_upright(tmp_path: Path) -> None:
    files, names = [], ["a.jpg", "b" * 200 + ".jpg", "c.jpg", "d.jpg", "e.jpg", "f.jpg"]
    for name in names:
        files.append(tmp_path / name)
        exif = Image.Exif()
        exif[0x0112] = 6  # turn by 90 degrees: the upright picture is 200 wide and 400 high, red on the left
        side = Image.new("RGB", (400, 200), "blue")
        side.paste("red", (0, 100, 400, 200))
        side.save(files[-1], exif=exif, quality=95)
    data = sheets.contact_sheet(files, ["rated 2.1, predicted 4.3"] * 6)
    picture = Image.open(io.BytesIO(data))
    assert picture.format == "JPEG"
    image = np.asarray(picture).astype(int)
    red, blue = places(image, (254, 0, 0)), places(image, (0, 0, 254))
    # Six thumbnails of 112 x 224, half of each red: five columns, two rows.
    assert len(red) == pytest.approx(6 * 56 * 224, rel=0.1)
    assert len(blue) == pytest.approx(len(red), rel=0.02)
    assert red[:, 1].min() < blue[:, 1].min()
    strips = np.flatnonzero(np.diff(np.unique(red[:, 1])) > 1)
    assert len(strips) + 1 == 5
    lines = np.flatnonzero(np.diff(np.unique(red[:, 0])) > 1)
    assert len(lines) + 1 == 2
    gap = image[:, 20 + 224 + 6 : 20 + 224 + 14]  # between two columns: no caption runs into the next
    assert gap.min() > 240
    assert (image.min(-1) < 100).sum() > 500  # there are captions
    assert sheets.contact_sheet(files, ["rated 2.1, predicted 4.3"] * 6) == data


def test_contact_sheet_wants_a_caption_for_each_and_pictures(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    Image.new("RGB", (20, 20)).save(file)
    with pytest.raises(ValueError, match="zip"):
        sheets.contact_sheet([file], ["one", "two"])
    file.write_text("no picture")
    with pytest.raises(ImageError):
        sheets.contact_sheet([file], ["one"])


def example(color: str, shape: tuple[int, int], value: float = 1, target: str = "beauty") -> sheets.Example:
    """Of an image of one colour that is worth the same everywhere."""
    image = Image.new("RGB", shape, color)
    heatmap = np.full(shape[::-1], value, dtype=np.float32)
    return sheets.Example(image, overlay(image, heatmap), f"{target} 4.50 (3.25 to 5.75)")


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_example_sheet_shows_each_picture_beside_its_heatmap(count: int) -> None:
    shapes = [(300, 200), (200, 300), (40, 30), (2000, 500)]
    signs = [1, -1, -1, 1]
    examples = [example("lime", *pair) for pair in list(zip(shapes, signs, strict=True))[:count]]
    data = sheets.example_sheet(examples)
    assert sheets.example_sheet(examples) == data
    image = pixels(data)
    assert image.shape[1] == 1200
    assert (image[[0, 0, -1, -1], [0, -1, 0, -1]] == 255).all()  # its own white card
    lime = np.abs(image - (0, 255, 0)).max(-1) < 40
    parts, found = label(lime)
    assert found == count
    boxes = [np.nonzero(parts == part + 1) for part in range(count)]
    boxes.sort(key=lambda box: (box[0].max(), box[1].min()))  # the pictures of a row stand on one line
    for (width, height), sign, (rows, columns) in zip(shapes, signs, boxes, strict=False):
        bottom, left, right = rows.max(), columns.min(), columns.max()
        assert np.ptp(columns) / np.ptp(rows) == pytest.approx(width / height, rel=0.05)
        beside = image[rows.min() : bottom, right + 6 : 2 * right - left + 4].mean((0, 1))
        assert np.sign(beside[0] - beside[2]) == sign  # red raises, blue lowers
        caption = image[bottom + 8 : bottom + 34, left : 2 * right - left]
        assert (caption.min(-1) < 100).sum() > 100
    bar = image[-60:, 400:800]
    blue, red = places(bar, (5, 48, 97)), places(bar, (103, 0, 31))
    assert blue[:, 1].max() < 40
    assert red[:, 1].min() > 360


def test_a_long_name_of_the_target_stays_below_its_pair() -> None:
    image = pixels(
        sheets.example_sheet(
            [example("lime", (300, 200), target="\n" + "w" * 500), example("lime", (300, 200))]
        )
    )
    assert image[:-80, 583:617].min() == 255  # above the bar


def test_example_sheet_of_photographs_is_small(photograph: Image.Image) -> None:
    examples = [replace(example("lime", photograph.size), image=photograph)] * 4
    assert len(sheets.example_sheet(examples)) < 400_000


def test_without_a_figure_matplotlib_is_not_imported() -> None:
    """It takes longer than all else together, and most commands draw nothing."""
    modules = "evaluation, rsa, sheets, training"
    code = f"import sys; from ais.plots import {modules}; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
