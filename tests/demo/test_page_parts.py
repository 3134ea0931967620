"""What the score is made of, in the browser: parts that add up, how sure they are, and what they are compared with."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ais.attribution.baselines import BASELINES
from ais.attribution.explain import explain
from ais.attribution.explanation import Explanation
from ais.attribution.methods import METHODS
from ais.demo import values
from ais.heads import shipped
from ais.heads.config import EMBEDDED
from ais.heads.loading import load_head
from helpers.browsing import CANVAS, READY, coffee, number, running_app, upload

pytestmark = pytest.mark.browser

OLD, ONE, STACK = "old", "one", "beauty-stack"

OVERLAY = "document.querySelector('#ais-overlay .viewer').parentElement.ais"

AIS = "#ais-choices label:has(input[value=ais])"

# Where each pixel of the canvas lies on the grid: its cell's number, -1 beside the map.
CELLS = f"""() => {{
    const {{ data }} = {OVERLAY};
    const canvas = document.querySelector('{CANVAS}');
    const [x0, y0, x1, y1] = data.box;
    const k = Math.min(canvas.width / data.width, canvas.height / data.height);
    const [left, top] = [(canvas.width - k * data.width) / 2, (canvas.height - k * data.height) / 2];
    const axis = (n, offset, from, to, cells) => Array.from({{ length: n }}, (_, i) => {{
        const at = ((i + 0.5 - offset) / k - from) / (to - from) * cells;
        return at < 0 || at >= cells ? -1 : Math.floor(at);
    }});
    return [axis(canvas.width, left, x0, x1, data.w), axis(canvas.height, top, y0, y1, data.h)];
}}"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("heads")
    for name in (EMBEDDED, STACK, "beauty-efficientnet-lite1", "beauty-efficientnet-lite2"):
        (folder / name).symlink_to(shipped.heads_directory() / name)
    head = load_head(shipped.heads_directory() / EMBEDDED)
    head.config = replace(head.config, name=OLD)
    head.typical.zero_()  # as a head of format 1 is read
    head.save(folder / OLD)
    head = load_head(shipped.heads_directory() / EMBEDDED)
    head.config = replace(head.config, name=ONE, variants=1)
    for name in ("weight1", "bias1", "weight2", "bias2"):
        setattr(head, name, getattr(head, name)[:1].clone())
    head.save(folder / ONE)
    with running_app(folder, tmp_path_factory.mktemp("app")) as address:
        yield address


@pytest.fixture(scope="session")
def photo() -> Path:
    return coffee()


@pytest.fixture(scope="session")
def expected(photo: Path) -> Explanation:
    return explain(photo, method="contribution", scale="points")


def hover(page: Any, expected: Explanation, row: int, column: int) -> tuple[float, float]:
    """The middle of a cell, in the window."""
    h, w = expected.grid.shape
    x0, y0, x1, y1 = expected.placement.box
    return place(page, x0 + (column + 0.5) / w * (x1 - x0), y0 + (row + 0.5) / h * (y1 - y0))


def place(page: Any, x: float, y: float) -> tuple[float, float]:
    """A place of the picture, in the window."""
    page.evaluate("scrollTo(0, 0)")
    box = page.locator(CANVAS).bounding_box()
    width, height = page.evaluate(f"[{OVERLAY}.data.width, {OVERLAY}.data.height]")
    k = min(box["width"] / width, box["height"] / height)
    left, top = (box["width"] - k * width) / 2, (box["height"] - k * height) / 2
    return box["x"] + left + k * x, box["y"] + top + k * y


def shown_pixels(page: Any) -> np.ndarray:
    """The canvas, (height, width, 4)."""
    page.mouse.move(1, 1)
    page.wait_for_timeout(120)
    shape, data = page.evaluate(
        f"""() => {{
            const canvas = document.querySelector('{CANVAS}');
            const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
            let text = "";
            for (let i = 0; i < data.length; i += 8192) text += String.fromCharCode(...data.subarray(i, i + 8192));
            return [[canvas.height, canvas.width, 4], btoa(text)];
        }}"""
    )
    return np.frombuffer(base64.b64decode(data), np.uint8).reshape(shape)


def choose(page: Any, change: Callable[[], Any]) -> None:
    page.evaluate("document.body.dataset.ais = 'waiting'")
    change()
    page.wait_for_selector(READY)
    page.wait_for_timeout(100)


def check_number(text: str, value: float) -> None:
    digits = len(text.lstrip("+−").partition(".")[2])
    assert digits >= 2
    assert number(text) == pytest.approx(value, abs=0.5001 * 10**-digits + 2e-6)


@pytest.mark.parametrize("head", [EMBEDDED, STACK])
def test_the_page_begins_with_parts_that_add_up_to_the_score(open_page: Any, photo: Path, head: str) -> None:
    page = open_page()
    if head != EMBEDDED:
        page.select_option("#ais-choices select", head)
    assert page.locator("#ais-score .parts").is_hidden()
    upload(page, photo)
    assert page.locator("#ais-choices input:checked").get_attribute("value") == "contribution"
    assert page.locator("#ais-overlay button[value=points]").get_attribute("aria-pressed") == "true"
    made = explain(photo, head, "contribution")
    typical, places, score = (number(text) for text in page.locator("#ais-score .parts b").all_inner_texts())
    assert made.typical_score is not None
    assert made.total is not None
    assert typical == pytest.approx(made.typical_score, abs=0.0101)
    assert places == pytest.approx(made.total, abs=0.0101)
    assert f"{score:.2f}" == page.inner_text("#ais-score .number strong") == f"{made.score:.2f}"
    assert round(typical + places, 2) == score
    line = page.inner_text("#ais-score .parts p")
    assert re.fullmatch(r"[\d.]+ \(a typical picture\) [+−] [\d.]+ \(the places of this one\) = [\d.]+", line)
    of = "stack’s members" if head == STACK else "head"
    assert f"the pictures that the {of} learned from" in page.inner_text("#ais-score .parts small")
    cells = page.evaluate(f"{OVERLAY}.data.grids.points")
    assert sum(cells) == pytest.approx(made.score - made.typical_score, abs=1e-5)
    choose(page, lambda: page.click(AIS))  # which is another question: nothing adds up to the score
    assert page.locator("#ais-score .parts").is_hidden()
    assert page.locator("#ais-overlay button[value=points]").get_attribute("aria-pressed") == "true"


def test_a_place_is_read_with_its_spread(open_page: Any, photo: Path, expected: Explanation) -> None:
    page = open_page()
    upload(page, photo)
    page.click("#ais-overlay button[value=cells]")
    h, w = expected.grid.shape
    for row, column in ((0, 0), (1, 4), (h - 1, 2), (h // 2, w - 1)):
        page.mouse.move(*hover(page, expected, row, column))
        page.wait_for_timeout(60)
        value, sign, spread, unit = page.inner_text("#ais-overlay .readout").split(maxsplit=3)
        assert (sign, unit) == ("±", "points per cell")
        check_number(value, expected.grid[row, column])
        check_number(spread, expected.spread["points"][row, column])
    page.click("#ais-overlay button[value=smooth]")  # between cells, of the variants' maps as they are drawn
    at = (0.41, 0.37)
    x0, y0, x1, y1 = expected.placement.box
    page.mouse.move(*place(page, x0 + at[0] * (x1 - x0), y0 + at[1] * (y1 - y0)))
    page.wait_for_timeout(60)
    spread = page.inner_text("#ais-overlay .readout").split()[2]
    cursor = page.evaluate(f"{OVERLAY}.cursor")
    maps = [expected.placement.upsample(grid) for grid in expected.variants["points"]]
    check_number(spread, float(np.std([m[int(cursor["y"]), int(cursor["x"])] for m in maps])))
    page.click("#ais-overlay button[value=relative]")
    page.mouse.move(*hover(page, expected, 1, 1))
    page.wait_for_timeout(60)
    assert "±" not in page.inner_text("#ais-overlay .readout")


@pytest.mark.parametrize("way", ["pointer", "keyboard"])
def test_the_sum_of_a_region_has_its_own_spread(
    open_page: Any, photo: Path, expected: Explanation, way: str
) -> None:
    page = open_page()
    upload(page, photo)
    page.mouse.move(*hover(page, expected, 4, 5))
    if way == "pointer":  # from its last cell to its first
        page.mouse.down()
        page.mouse.move(*hover(page, expected, 2, 3), steps=4)
        page.mouse.move(*hover(page, expected, 1, 2), steps=4)
        page.mouse.up()
    else:
        page.focus(CANVAS)
        page.keyboard.press("r")
        x0, y0, x1, y1 = expected.placement.box
        h, w = expected.grid.shape
        for key, axis, end in (
            ("ArrowLeft", "x", x0 + 3 / w * (x1 - x0)),
            ("ArrowUp", "y", y0 + 2 / h * (y1 - y0)),
        ):
            while page.evaluate(f"{OVERLAY}.cursor.{axis}") >= end:
                page.keyboard.press(key)
        page.keyboard.press("r")
        for _ in range(6):
            page.keyboard.press("ArrowLeft")  # it stays
    page.wait_for_timeout(80)
    inside = (slice(None), slice(1, 5), slice(2, 6))
    value, _, spread = page.inner_text("#ais-overlay .region strong").split()
    check_number(value, float(expected.grids["points"][inside[1:]].sum()))
    check_number(spread, float(expected.variants["points"][inside].sum((1, 2)).std()))
    h, w = expected.grid.shape
    assert page.inner_text("#ais-overlay .region span") == f"points in 16 of {h * w} cells"
    assert page.locator("#ais-maps .strip button").count() == 0  # a drag is no click
    page.click("#ais-overlay button[value=relative]")  # the sum stays one of points
    page.wait_for_timeout(80)
    assert value in page.inner_text("#ais-overlay .region strong")
    page.click("#ais-overlay .region button")
    page.wait_for_timeout(80)
    assert page.locator("#ais-overlay .region").is_hidden()


def test_a_region_of_all_cells_is_what_the_places_add(
    open_page: Any, photo: Path, expected: Explanation
) -> None:
    page = open_page()
    upload(page, photo)
    h, w = expected.grid.shape
    page.mouse.move(*hover(page, expected, 0, 0))
    page.mouse.down()
    page.mouse.move(*hover(page, expected, h - 1, w - 1), steps=3)
    page.mouse.move(1430, 890, steps=3)  # out of the picture
    page.mouse.up()
    page.wait_for_timeout(80)
    total = number(page.inner_text("#ais-overlay .region strong"))
    assert total == pytest.approx(number(page.inner_text("#ais-score .parts b >> nth=1")), abs=0.0101)
    assert page.inner_text("#ais-overlay .region span") == f"points in {h * w} of {h * w} cells"
    page.keyboard.press("Tab")
    page.focus(CANVAS)
    page.keyboard.press("Escape")
    page.wait_for_timeout(80)
    assert page.locator("#ais-overlay .region").is_hidden()


@pytest.mark.parametrize(
    ("method", "scale", "drawing"), [("contribution", "points", "smooth"), ("ais", "relative", "cells")]
)
def test_the_switch_marks_the_places_where_the_variants_disagree_and_no_others(
    open_page: Any, photo: Path, method: str, scale: Any, drawing: str
) -> None:
    expected = explain(photo, method=method, scale=scale)
    page = open_page()
    page.click(f"#ais-choices label:has(input[value={method}])")
    upload(page, photo)
    page.click(f"#ais-overlay button[value={scale}]")
    page.click(f"#ais-overlay button[value={drawing}]")
    switch = page.locator("#ais-overlay .doubt input")
    assert not switch.is_checked()
    assert page.locator("#ais-overlay .doubt small").is_hidden()
    before = shown_pixels(page)
    switch.check()
    assert "fewer than 80 % of the head’s 10 variants" in page.inner_text("#ais-overlay .doubt small")
    changed = (shown_pixels(page) != before).any(2)
    columns, rows = (np.array(axis) for axis in page.evaluate(CELLS))
    assert expected.agreement is not None
    low = expected.agreement < 0.8
    assert 0 < low.sum() < low.size
    for row, cells in enumerate(low):
        for column, doubtful in enumerate(cells):
            inside = np.ix_(
                np.flatnonzero(rows == row)[1:-1], np.flatnonzero(columns == column)[1:-1]
            )  # a pixel on an edge belongs to two cells
            assert changed[inside].mean() > 0.1 if doubtful else not changed[inside].any(), (row, column)
    with page.expect_download() as waiting:
        page.click("#ais-overlay .files button:text('Overlay PNG')")
    hatched = Path(waiting.value.path()).read_bytes()
    switch.uncheck()
    assert (shown_pixels(page) == before).all()
    with page.expect_download() as waiting:
        page.click("#ais-overlay .files button:text('Overlay PNG')")
    assert Path(waiting.value.path()).read_bytes() == hatched  # no file is hatched


def test_the_maps_of_a_place_are_drawn_by_what_they_add(
    open_page: Any, photo: Path, expected: Explanation
) -> None:
    page = open_page()
    upload(page, photo)
    page.click("#ais-overlay button[value=cells]")
    page.mouse.click(*hover(page, expected, 1, 3))
    page.wait_for_selector("#ais-maps .strip button")
    assert page.locator("#ais-maps .sides").is_visible()
    assert "compared with a typical picture" in page.inner_text("#ais-maps .note")
    at = page.evaluate(f"{OVERLAY}.cursor")
    strongest = expected.contributions(at["x"], at["y"])[0]
    card = page.locator("#ais-maps .strip button").first
    assert int(card.get_attribute("data-index")) == strongest.index
    card.click()
    assert page.inner_text("#ais-overlay .pinned-map span") == f"Feature map {strongest.number}"
    assert page.inner_text("#ais-overlay .legend .end-raises") == "raises the score"
    page.mouse.move(*hover(page, expected, 1, 3))
    page.wait_for_timeout(60)
    text = page.inner_text("#ais-overlay .readout")
    assert text.endswith("points per cell")
    check_number(text.split()[0], strongest.value)
    assert expected.slopes is not None
    amounts = expected.slopes[strongest.index] * expected.maps[strongest.index]
    assert amounts.min() < 0 < amounts.max()
    low = amounts[2:]  # below the buttons
    row, column = np.unravel_index(low.argmin() if strongest.value > 0 else low.argmax(), low.shape)
    row += 2
    page.mouse.move(*hover(page, expected, int(row), int(column)))
    page.wait_for_timeout(60)
    check_number(page.inner_text("#ais-overlay .readout").split()[0], float(amounts[row, column]))
    choose(page, lambda: page.click(AIS))
    page.mouse.click(*hover(page, expected, 1, 3))
    page.wait_for_selector("#ais-maps .strip button")
    assert page.locator("#ais-maps .sides").is_hidden()


def test_what_maps_are_ablated_to_is_a_choice_where_there_is_one(open_page: Any, photo: Path) -> None:
    page = open_page()
    upload(page, photo)
    control, buttons = page.locator("#ais-choices .against"), page.locator("#ais-choices .against button")
    assert control.is_hidden()
    choose(page, lambda: page.click(AIS))
    assert control.is_visible()
    assert buttons.all_inner_texts() == [BASELINES[name].label for name in METHODS["ais"].baselines]
    for name in ("zero", "typical"):
        if name == "typical":
            choose(page, lambda: page.click("#ais-choices .against button[value=typical]"))
        assert page.locator("#ais-choices .against [aria-pressed=true]").get_attribute("value") == name
        assert page.inner_text("#ais-choices .against .about") == BASELINES[name].about
        np.testing.assert_allclose(
            page.evaluate(f"{OVERLAY}.data.grids.points"),
            explain(photo, method="ais", baseline=name).grids["points"].ravel(),
            atol=1e-6,
        )
    choose(page, lambda: page.click("#ais-choices label:has(input[value=gradcam])"))
    assert control.is_hidden()


def test_a_head_without_a_typical_picture_says_why_another_method_is_shown(
    open_page: Any, photo: Path
) -> None:
    page = open_page()
    why = page.locator("#ais-choices .why")
    assert why.is_hidden()
    upload(page, photo)
    choose(page, lambda: page.select_option("#ais-choices select", OLD))
    assert page.locator("#ais-choices input:checked").get_attribute("value") == "ais"
    assert page.locator("#ais-choices input[value=contribution]").is_disabled()
    assert why.inner_text() == (
        "This head has no typical picture to compare with. Contribution cannot be drawn for it, "
        "so AIS is shown."
    )
    assert page.locator("#ais-choices .against").is_hidden()  # zero is the only baseline that is left
    assert page.locator("#ais-score .parts").is_hidden()
    np.testing.assert_allclose(
        page.evaluate(f"{OVERLAY}.data.grids.points"), explain(photo).grids["points"].ravel(), atol=1e-6
    )
    choose(page, lambda: page.select_option("#ais-choices select", EMBEDDED))  # as it had been chosen
    assert page.locator("#ais-choices input:checked").get_attribute("value") == "contribution"
    assert why.is_hidden()


def test_slow_methods_are_behind_one_more_click(open_page: Any, photo: Path) -> None:
    page = open_page(viewport={"width": 390, "height": 844})
    names = {slow: [m.label for m in METHODS.values() if m.slow == slow] for slow in (True, False)}
    more = page.locator("#ais-choices .more")
    assert page.locator("#ais-choices fieldset > .methods label").all_inner_texts() == names[False]
    assert more.locator("label").first.is_hidden()
    more.locator("summary").click()
    assert more.locator("label").all_inner_texts() == names[True]
    page.evaluate(
        "document.querySelector('#ais-choices .more label span').textContent = 'A long name '.repeat(9)"
    )
    edges = page.locator("#ais-choices .choices").bounding_box()
    for label in page.locator("#ais-choices .methods label").all():
        box = label.bounding_box()
        assert edges["x"] < box["x"]
        assert box["x"] + box["width"] < edges["x"] + edges["width"]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    upload(page, photo)
    choose(page, lambda: more.locator("label:has(input[value=occlusion])").click())
    page.mouse.move(*place(page, 200, 100))
    page.mouse.down()
    page.mouse.move(*place(page, 400, 300), steps=4)
    page.mouse.up()
    page.wait_for_timeout(80)
    assert page.locator("#ais-overlay .region").is_hidden()  # its levels do not add up


def test_a_head_of_one_variant_has_no_spread(open_page: Any, photo: Path, expected: Explanation) -> None:
    page = open_page()
    page.select_option("#ais-choices select", ONE)
    upload(page, photo)
    page.mouse.move(*hover(page, expected, 2, 2))
    page.mouse.down()
    page.mouse.move(*hover(page, expected, 4, 4), steps=4)
    page.mouse.up()
    page.wait_for_timeout(80)
    assert number(page.inner_text("#ais-overlay .readout")) != 0
    for part in (".readout", ".region"):
        assert "±" not in page.inner_text(f"#ais-overlay {part}")
    assert page.locator("#ais-overlay .doubt").is_hidden()
    assert page.locator("#ais-overlay .spread").is_hidden()
    assert page.locator("#ais-score .parts").is_visible()


@pytest.mark.parametrize("width", [1280, 390])
def test_the_signs_are_explained_in_reach_and_the_sliders_can_be_moved(
    open_page: Any, photo: Path, width: int
) -> None:
    page = open_page(viewport={"width": width, "height": 900})
    upload(page, photo)
    for name in ("opacity", "threshold"):
        assert page.locator(f"#ais-overlay .{name}").bounding_box()["width"] >= 120
    assert (
        page.inner_text("#ais-overlay .spread") == "± is the standard deviation over the head’s 10 variants."
    )
    page.click("#ais-choices .plcc summary")
    assert "correlation" in page.inner_text("#ais-choices .plcc p")
    page.mouse.click(*place(page, 200, 150))
    page.wait_for_selector("#ais-maps .strip button")
    page.evaluate("document.querySelector('#ais-maps .strip small').textContent += ' and more'.repeat(9)")
    tops = [one.bounding_box()["y"] for one in page.locator("#ais-maps .strip canvas").all()[:3]]
    assert tops == [tops[0]] * 3  # however long what is written below them


def test_a_slow_method_can_be_stopped_and_what_is_shown_stays(open_page: Any, photo: Path) -> None:
    page = open_page()
    upload(page, photo)
    score = page.inner_text("#ais-score .number strong")
    run = page.evaluate(f"{OVERLAY}.data.run")
    page.click("#ais-choices .more summary")
    page.click("#ais-choices label:has(input[value=occlusion])")
    page.click("#ais-overlay .stop")
    assert page.locator(READY).count()
    assert page.locator("#ais-overlay .busy").is_hidden()
    assert page.locator("#ais-choices input:checked").get_attribute("value") == "contribution"
    page.wait_for_timeout(4000)  # no result comes, and no sentence about one that does not
    assert page.evaluate(f"{OVERLAY}.data.run") == run
    assert page.locator("#ais-overlay .problem").is_hidden()
    assert page.inner_text("#ais-score .number strong") == score
    choose(page, lambda: page.click(AIS))  # the next one is waited for as ever
    assert page.evaluate(f"{OVERLAY}.data.choice.method") == "ais"


def test_parts_that_do_not_round_to_their_sum_still_add_up(expected: Explanation) -> None:
    assert expected.total is not None
    for typical, total in ((3.994, 0.624), (3.996, 0.6149), (4.005, -0.0049), (4.0, -1.2351)):
        grid = np.full_like(expected.grids["points"], total / expected.grids["points"].size)
        made = replace(
            expected, typical_score=typical, score=typical + total, grids=dict(expected.grids, points=grid)
        )
        said = values.parts_value(made)
        assert said is not None
        assert round(number(said["typical"]) + number(said["places"]), 2) == number(said["score"])
        assert said["lowers"] == said["places"].startswith("−")
    for other in (replace(expected, method="ais"), replace(expected, typical_score=None)):
        assert values.parts_value(other) is None
