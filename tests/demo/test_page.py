"""The page in a real browser, and its API: the real `app.py` in a process of its own.

Beside the head that comes with AIS it is given the same head with the view "crop", to see what the page does
with a border that the network did not look at.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ais.attribution.explain import explain
from ais.demo.catalog import BROKEN
from ais.demo.components import uploaded
from ais.demo.tabs.score import EXAMPLES
from ais.heads import config, shipped
from ais.heads import config as heads_config
from helpers.browsing import CANVAS, READY, coffee, number, running_app, upload
from helpers.pictures import odd_pictures

pytestmark = pytest.mark.browser

CROPPED = "cropped"

STACK = "beauty-stack"

OVERLAY = "document.querySelector('#ais-overlay .viewer').parentElement.ais"


@pytest.fixture(scope="session")
def heads_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heads")
    shutil.copytree(shipped.heads_directory() / heads_config.EMBEDDED, folder / heads_config.EMBEDDED)
    shutil.copytree(folder / heads_config.EMBEDDED, folder / CROPPED)
    config = json.loads((folder / CROPPED / "config.json").read_text())
    (folder / CROPPED / "config.json").write_text(json.dumps(config | {"name": CROPPED, "view": "crop"}))
    for name in (STACK, "beauty-efficientnet-lite1", "beauty-efficientnet-lite2"):
        (folder / name).symlink_to(shipped.heads_directory() / name)
    return folder


@pytest.fixture(scope="session")
def url(heads_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the app listens."""
    with running_app(heads_folder, tmp_path_factory.mktemp("app")) as address:
        yield address


@pytest.fixture(scope="session")
def photo() -> Path:
    return coffee()


def point(page: Any, x: float, y: float) -> tuple[float, float]:
    """A place of the canvas, given as shares of its sides, in the window."""
    box = page.locator(CANVAS).bounding_box()
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def pixels(page: Any) -> str:
    page.wait_for_timeout(80)
    return page.evaluate(f"document.querySelector('{CANVAS}').toDataURL()")


def slide(page: Any, name: str, value: float) -> None:
    page.locator(f"#ais-overlay .{name}").evaluate(
        "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); }",
        value,
    )


def readout(page: Any) -> tuple[str, dict[str, float]]:
    """What the read-out says, and the place it reads."""
    page.wait_for_timeout(60)
    return page.locator("#ais-overlay .readout").inner_text(), page.evaluate(f"{OVERLAY}.cursor")


def download(page: Any, label: str) -> Path:
    with page.expect_download() as waiting:
        page.click(f"#ais-overlay .files button:text('{label}')")
    path = Path(waiting.value.path())
    assert re.fullmatch(r"[\w-]+\.(png|npy|json)", waiting.value.suggested_filename)
    return path


def test_a_photograph_is_scored(open_page: Any, photo: Path) -> None:
    page = open_page()
    assert page.locator("#ais-overlay .viewer").is_hidden()
    upload(page, photo)
    expected = explain(photo)
    assert page.inner_text("#ais-score strong") == f"{expected.score:.2f}"
    assert f"{expected.interval[0]:.2f} to {expected.interval[1]:.2f}" in page.inner_text(
        "#ais-score .interval"
    )
    assert f"Higher than {expected.percentile:.0f} %" in page.inner_text("#ais-score .percentile")
    assert page.inner_text("#ais-score .target").lower() == expected.target
    assert "not a judgement" in page.inner_text("#ais-about")


@pytest.mark.parametrize("way", ["example", "paste", "drop", "camera"])
def test_every_way_in(open_page: Any, photo: Path, way: str) -> None:
    page = open_page(permissions=["camera"])
    if way == "example":
        page.click("#ais-picker .examples button")
    elif way == "camera":
        page.click("#ais-picker .camera")
        page.wait_for_function("document.querySelector('#ais-picker video').videoWidth > 0")
        page.click("#ais-picker .shoot")
    else:
        page.evaluate(
            """([way, bytes]) => {
                const carried = new DataTransfer();
                carried.items.add(new File([new Uint8Array(bytes)], "pasted.jpg", { type: "image/jpeg" }));
                const options = { bubbles: true, cancelable: true };
                document.body.dispatchEvent(way === "paste"
                    ? new ClipboardEvent("paste", { ...options, clipboardData: carried })
                    : new DragEvent("drop", { ...options, dataTransfer: carried }));
            }""",
            [way, list(photo.read_bytes())],
        )
    page.wait_for_selector(READY)
    score = page.inner_text("#ais-score strong")
    assert re.fullmatch(r"\d\.\d\d", score)
    if way == "example":
        from gradio import media

        photo = Path(media.get_image(EXAMPLES[0][0]))
    if way != "camera":
        assert score == f"{explain(photo).score:.2f}"


def test_bytes_reach_the_reader_as_they_are(open_page: Any, photo: Path, tmp_path: Path) -> None:
    page = open_page()
    image = Image.open(photo)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    image.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    image.save(tmp_path / "photo.tiff")
    Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(tmp_path / "deep.png")
    for path in sorted(tmp_path.iterdir()):
        upload(page, path)
        expected = explain(path)
        assert page.inner_text("#ais-score strong") == f"{expected.score:.2f}"
        assert page.evaluate(f"[{OVERLAY}.data.width, {OVERLAY}.data.height]") == list(expected.image.size)


def test_play_asks_nothing_of_the_server(open_page: Any, photo: Path) -> None:
    page = open_page()
    upload(page, photo)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    seen = [pixels(page)]

    def changed() -> None:
        seen.append(pixels(page))
        assert seen[-1] not in seen[:-1]

    slide(page, "opacity", 0.4)
    changed()
    slide(page, "threshold", 0.05)
    changed()
    for value in ("raises", "lowers"):
        page.click(f"#ais-overlay button[value={value}]")
        changed()
    page.click("#ais-overlay button[value=both]")
    page.click("#ais-overlay button[value=cells]")
    changed()
    page.click("#ais-overlay button[value=relative]")
    page.mouse.move(*point(page, 0.5, 0.5))
    assert "of the largest" in readout(page)[0]
    page.click("#ais-overlay button[value=points]")
    page.mouse.move(*point(page, 0.5, 0.5))
    assert "points per cell" in readout(page)[0]
    page.mouse.wheel(0, -400)
    changed()
    page.mouse.down()
    page.mouse.move(*point(page, 0.4, 0.45), steps=5)
    page.mouse.up()
    changed()
    page.mouse.dblclick(*point(page, 0.4, 0.5))
    page.wait_for_timeout(400)
    assert page.evaluate(f"{OVERLAY}.view.zoom") == 1
    assert requests == []


def test_opacity_zero_and_peek_show_the_original_image(open_page: Any, photo: Path) -> None:
    page = open_page()
    upload(page, photo)
    coloured = pixels(page)
    page.hover("#ais-overlay .peek")
    page.mouse.down()
    original = pixels(page)
    page.mouse.up()
    assert coloured != original
    assert pixels(page) == coloured
    slide(page, "opacity", 0)
    assert pixels(page) == original


@pytest.mark.parametrize("scale", ["relative", "points"])
@pytest.mark.parametrize("head", [config.EMBEDDED, CROPPED])
def test_hover_reads_the_downloaded_heatmap(open_page: Any, photo: Path, head: str, scale: str) -> None:
    page = open_page()
    page.select_option("#ais-choices select", head)
    upload(page, photo)
    page.click(f"#ais-overlay button[value={scale}]")
    heatmap = np.load(download(page, "Heatmap NPY"))
    assert heatmap.shape == Image.open(photo).size[::-1]
    unseen, largest = 0, float(np.nanmax(abs(heatmap)))
    for x in (0.1, 0.3, 0.41, 0.5, 0.66, 0.85):
        for y in (0.03, 0.37, 0.5, 0.8):
            page.mouse.move(*point(page, x, y))
            text, place = readout(page)
            if place is None:  # beside the picture
                continue
            value = float(heatmap[int(place["y"]), int(place["x"])])
            if np.isnan(value):
                unseen += 1
                assert text.strip() == "not seen by the network"
            else:
                digits = len(text.split()[0].partition(".")[2])
                assert number(text) == pytest.approx(value, abs=0.5001 * 10**-digits + 1e-6 * largest)
                assert text.endswith("points per cell" if scale == "points" else "of the largest")
    assert (unseen > 0) == (head == CROPPED)


def test_upsampling_in_the_browser_is_that_of_python(open_page: Any) -> None:
    from ais.images.preprocessing import Placement

    page = open_page()
    rng = np.random.default_rng(0)
    for box in ((0.0, 0.0, 31.0, 17.0), (4.3, 1.0, 27.9, 16.2)):
        grid = rng.standard_normal((3, 5)).astype(np.float32)
        expected = Placement(31, 17, box, (224, 224)).upsample(grid)
        found = page.evaluate(
            """([values, box]) => Array.from({ length: 17 }, (_, y) => Array.from({ length: 31 }, (_, x) => {
                const v = window.ais.sample({ values, h: 3, w: 5, box }, x + 0.5, y + 0.5);
                return Number.isNaN(v) ? null : v;
            }))""",
            [grid.ravel().tolist(), box],
        )
        np.testing.assert_allclose(np.array(found, dtype=float), expected, atol=1e-6)


def test_methods(open_page: Any, photo: Path) -> None:
    page = open_page()
    upload(page, photo)
    before = pixels(page)
    for method in ("gradcam", "occlusion"):
        page.evaluate("document.body.dataset.ais = 'waiting'")
        page.evaluate("document.querySelector('#ais-choices .more').open = true")
        page.check(f"#ais-choices input[value={method}]", force=True)
        page.wait_for_selector(READY)
        assert pixels(page) != before
        if method != "occlusion":  # which takes a while
            grid = page.evaluate(f"{OVERLAY}.data.grids.relative")
            np.testing.assert_allclose(grid, explain(photo, method=method).grid.ravel(), atol=1e-4)


def test_a_stack_says_whose_map_is_whose(open_page: Any, photo: Path) -> None:
    page = open_page()
    page.select_option("#ais-choices select", STACK)
    upload(page, photo)
    expected = explain(photo, STACK, "contribution")
    np.testing.assert_allclose(
        page.evaluate(f"{OVERLAY}.data.grids.points"), expected.grids["points"].ravel(), atol=1e-6
    )
    page.mouse.click(*point(page, 0.5, 0.5))
    page.wait_for_selector("#ais-maps .strip button")
    place = readout(page)[1]
    strongest = expected.contributions(place["x"], place["y"])
    labels = page.locator("#ais-maps .strip button span").all_inner_texts()
    assert labels == [f"map {c.number} of {c.backbone}" for c in strongest]
    page.locator("#ais-maps .strip button").first.click()
    assert page.inner_text("#ais-overlay .pinned-map span") == f"Feature {labels[0]}"
    saved = json.loads(download(page, "JSON").read_text())
    assert [member["head"] for member in saved["members"]] == [member.head for member in expected.members]


def test_a_click_shows_the_feature_maps_of_the_place(open_page: Any, photo: Path) -> None:
    page = open_page()
    upload(page, photo)
    page.mouse.click(*point(page, 0.5, 0.5))
    page.wait_for_selector("#ais-maps .strip button")
    place = readout(page)[1]
    expected = explain(photo, method="contribution").contributions(place["x"], place["y"])
    cards = page.locator("#ais-maps .strip button")
    assert [int(card.get_attribute("data-index")) for card in cards.all()] == [c.index for c in expected]
    assert number(cards.first.locator("strong").inner_text()) == pytest.approx(expected[0].value, rel=0.02)
    heatmap = pixels(page)
    cards.first.click()
    assert page.inner_text("#ais-overlay .pinned-map span") == f"Feature map {expected[0].index}"
    assert pixels(page) != heatmap
    page.click("#ais-overlay .pinned-map")
    assert page.locator("#ais-overlay .pinned-map").is_hidden()


def test_a_place_that_was_not_seen_has_no_feature_maps(open_page: Any, photo: Path) -> None:
    page = open_page()
    page.select_option("#ais-choices select", CROPPED)
    upload(page, photo)
    width, height = page.evaluate(f"[{OVERLAY}.data.width, {OVERLAY}.data.height]")
    shape = page.locator(CANVAS).bounding_box()
    left = (shape["width"] - shape["height"] * width / height) / 2
    page.mouse.click(shape["x"] + left + 8, shape["y"] + shape["height"] / 2)
    page.wait_for_selector("#ais-maps header p:text('did not look there')")


def test_downloads(open_page: Any, photo: Path) -> None:
    page = open_page()
    upload(page, photo)
    overlay, picture = Image.open(download(page, "Overlay PNG")), Image.open(photo)
    assert overlay.width == picture.width
    assert overlay.height > picture.height  # its colour bar
    document = json.loads(download(page, "JSON").read_text())
    assert document["score"] == pytest.approx(explain(photo).score, abs=1e-5)
    with page.expect_download() as waiting:
        page.click("#ais-overlay .files button:text('Heatmap NPY')")
    assert waiting.value.suggested_filename == "coffee-points-per-cell.npy"


def test_a_bad_file_shows_a_sentence_and_the_page_goes_on(
    open_page: Any, photo: Path, tmp_path: Path
) -> None:
    page = open_page()
    (tmp_path / "notes.jpg").write_text("no picture")
    (tmp_path / "empty.png").touch()
    upload(page, photo)
    for name in ("notes.jpg", "notes.jpg", "empty.png"):  # the same twice: it must be noticed again
        upload(page, tmp_path / name)
        sentence = page.inner_text("#ais-overlay .problem p")
        assert sentence.endswith(".")
        assert not re.search("Traceback|Error|cannot identify|NoneType", sentence)
        assert page.inner_text("#ais-score strong") == f"{explain(photo).score:.2f}"  # what is shown stays
        assert page.inner_text("#ais-picker .name") == photo.name
        assert page.locator("#ais-overlay .viewer").is_visible()
    upload(page, photo)
    assert page.locator("#ais-overlay .problem").is_hidden()
    fresh = open_page()
    upload(fresh, tmp_path / "notes.jpg", "error")
    assert fresh.inner_text("#ais-score strong") == "–"
    assert fresh.locator("#ais-overlay .viewer").is_hidden()


def test_keyboard(open_page: Any, photo: Path) -> None:
    page = open_page()
    upload(page, photo)
    page.focus(CANVAS)
    start = pixels(page)
    page.keyboard.press("ArrowRight")
    live = page.locator("#ais-overlay .live")
    first = live.inner_text()
    assert re.search(r"points per cell at \d+, \d+", first)
    page.keyboard.press("ArrowDown")
    assert live.inner_text() != first
    page.keyboard.press("+")
    assert page.evaluate(f"{OVERLAY}.view.zoom") > 1
    page.keyboard.press("0")
    assert page.evaluate(f"{OVERLAY}.view.zoom") == 1
    page.keyboard.press("[")
    assert page.evaluate(f"{OVERLAY}.settings.opacity") == pytest.approx(0.65)
    page.keyboard.press("]")
    page.keyboard.down(" ")
    assert pixels(page) != start
    page.keyboard.up(" ")
    page.keyboard.press("Enter")
    page.wait_for_selector("#ais-maps .strip button")
    ring = page.evaluate(f"getComputedStyle(document.querySelector('{CANVAS}')).outlineStyle")
    assert ring == "solid"


def test_touch_and_phone_width(open_page: Any, photo: Path) -> None:
    page = open_page(
        viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True, device_scale_factor=2
    )
    for state in ("empty", "ready"):
        if state == "ready":
            upload(page, photo)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.touchscreen.tap(*point(page, 0.5, 0.5))
    assert "points per cell" in readout(page)[0]
    assert page.locator("#ais-maps .strip button").count() == 0
    assert page.evaluate(f"document.querySelector('{CANVAS}').width") == 2 * round(
        page.locator(CANVAS).bounding_box()["width"]
    )
    touch = page.context.new_cdp_session(page)
    x, y = point(page, 0.5, 0.5)
    touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
    page.wait_for_selector("#ais-maps .strip button")
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    for spread in (20, 30, 45, 60):
        fingers = [{"x": x - spread, "y": y, "id": 0}, {"x": x + spread, "y": y, "id": 1}]
        kind = "touchStart" if spread == 20 else "touchMove"
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    assert page.evaluate(f"{OVERLAY}.view.zoom") > 1.5


def test_dark(open_page: Any, photo: Path) -> None:
    def lightness(page: Any, selector: str) -> float:
        color = page.evaluate(f"getComputedStyle(document.querySelector('{selector}')).backgroundColor")
        return float(np.mean([float(v) for v in re.findall(r"[\d.]+", color)[:3]]))

    light, dark = open_page(color_scheme="light"), open_page(color_scheme="dark")
    for page in (light, dark):
        upload(page, photo)
    for selector in ("body", "html", "#ais-score .score", "#ais-overlay .viewer"):
        assert lightness(light, selector) > 200
        assert lightness(dark, selector) < 60


@pytest.mark.parametrize(
    "name", ["<img src=x onerror=alert(1)>.png", "${7*7}.png", "{{value}}`${alert(1)}`.png"]
)
def test_a_hostile_name_is_only_a_name(open_page: Any, photo: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    Image.open(photo).save(path)
    page = open_page()
    upload(page, path)
    assert page.inner_text("#ais-picker .name") == name
    assert page.locator("img[src=x]").count() == 0
    download(page, "JSON")


@pytest.mark.parametrize("size", [(2000, 200), (200, 2000), (8, 8)])
def test_odd_shapes(open_page: Any, photo: Path, tmp_path: Path, size: tuple[int, int]) -> None:
    Image.open(photo).resize(size).save(tmp_path / "odd.png")
    page = open_page()
    upload(page, tmp_path / "odd.png")
    page.mouse.move(*point(page, 0.5, 0.5))
    assert "points per cell" in readout(page)[0]
    assert page.evaluate("document.documentElement.scrollWidth") <= 1440


def test_two_people_see_their_own(open_page: Any, photo: Path, tmp_path: Path) -> None:
    Image.open(photo).transpose(Image.Transpose.ROTATE_180).save(tmp_path / "other.png")
    one, two = open_page(), open_page()
    upload(one, photo)
    assert two.inner_text("#ais-score strong") == "–"
    upload(two, tmp_path / "other.png")
    for page, path in ((one, photo), (two, tmp_path / "other.png")):
        page.mouse.click(*point(page, 0.5, 0.5))
        page.wait_for_selector("#ais-maps .strip button")
        assert page.inner_text("#ais-score strong") == f"{explain(path).score:.2f}"
        document = json.loads(download(page, "JSON").read_text())
        assert document["score"] == pytest.approx(explain(path).score, abs=1e-5)
    again = open_page()
    assert again.inner_text("#ais-score strong") == "–"


def test_api(url: str, photo: Path, tmp_path: Path) -> None:
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError

    client = Client(url, verbose=False, download_files=str(tmp_path))
    assert set(client.view_api(return_format="dict")["named_endpoints"]) == {"/explain"}
    result, overlay, heatmap = client.predict(handle_file(photo), api_name="/explain")
    expected = explain(photo)
    assert f"{result['score']:.2f}" == f"{expected.score:.2f}"
    assert result["score"] == pytest.approx(expected.score, abs=1e-5)
    assert {"low", "high", "percentile", "head", "backbone", "method", "seconds"} <= set(result)
    np.testing.assert_allclose(np.load(heatmap), expected.heatmap, atol=1e-4)
    assert result["method"] == "ais"  # other people's scripts rely on it, whatever the page begins with
    assert result["baseline"] == "zero"
    np.testing.assert_allclose(result["agreement"], expected.agreement, atol=1e-6)
    np.testing.assert_allclose(result["spread"]["points"], expected.spread["points"], atol=1e-5)
    assert Image.open(overlay).size[0] == expected.image.width
    made = client.predict(handle_file(photo), method="contribution", api_name="/explain")[0]
    assert made["baseline"] == "typical"
    assert made["typical_score"] + np.sum(made["grids"]["points"]) == pytest.approx(made["score"], abs=1e-4)
    assert (
        client.predict(handle_file(photo), CROPPED, "gradcam", api_name="/explain")[0]["method"] == "gradcam"
    )

    (tmp_path / "notes.jpg").write_text("no picture")
    for arguments, words in (
        ((handle_file(tmp_path / "notes.jpg"),), "not a picture"),
        ((handle_file(photo), "/etc"), "There is no head '/etc'"),
        ((handle_file(photo), config.EMBEDDED, "magic"), "There is no method 'magic'"),
    ):
        with pytest.raises(AppError, match=re.escape(words)):
            client.predict(*arguments, api_name="/explain")


def test_two_hundred_odd_pictures(url: str, open_page: Any, photo: Path, tmp_path: Path) -> None:
    """Each gives a score or a sentence, and the page still answers."""
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError

    client = Client(url, verbose=False, download_files=str(tmp_path / "answers"))
    scores, sentences = 0, []
    for path in odd_pictures(tmp_path / "odd"):
        try:
            result, *_ = client.predict(handle_file(path), api_name="/explain")
        except AppError as error:
            sentences.append(str(error))
        else:
            scores += 1
            assert 1 < result["score"] < 7.5
    assert scores > 40
    assert len(sentences) > 40
    for sentence in sentences:
        assert sentence.endswith(".")
        assert "Traceback" not in sentence
        assert BROKEN not in sentence
    page = open_page()
    upload(page, photo)
    assert page.inner_text("#ais-score strong") == f"{explain(photo).score:.2f}"


def test_only_uploaded_files_are_read() -> None:
    for value in ({"path": "/etc/passwd"}, "/etc/passwd", None, "", 3):
        assert uploaded(value) == (None, "")
