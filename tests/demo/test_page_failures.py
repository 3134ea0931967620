"""What the page says when a request fails, and that nothing shown is lost; its contrast and names; heads in folders."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from ais import explain
from ais.demo import folders
from ais.demo.catalog import Catalog
from ais.heads import shipped
from helpers.browsing import CANVAS, check_sentence, coffee, number, running_app, upload, visiting
from helpers.heads import save_head, settled, wait

pytestmark = pytest.mark.browser

STACK = "beauty-stack"

GRADCAM = "#ais-choices label:has(input[value=gradcam])"

FULL = {"status": 503, "json": {"detail": "Queue is full."}}

SENTENCES = {
    "full": "too many people are waiting",
    "gone": "cannot be reached",
    "gateway": "cannot be reached",
    "refused": "refused the request",
    "often": "too many requests",
    "broken off": "connection to the server was lost",
}

# Every piece of text that can be seen, with its contrast against what lies behind it.
CONTRASTS = """() => {
    const channels = (text) => {
        const inside = text.match(/[\\d.]+/g).map(Number);
        const [r, g, b] = text.startsWith("color(") ? inside.map((v) => v * 255) : inside;
        const a = inside.length > 3 ? inside[3] : 1;
        return [r, g, b, a];
    };
    const over = ([r, g, b, a], under) => [r, g, b].map((v, i) => v * a + under[i] * (1 - a));
    const behind = (node) => {
        const layers = [];
        for (let one = node; one; one = one.parentElement) layers.push(channels(getComputedStyle(one).backgroundColor));
        const ground = getComputedStyle(document.documentElement).colorScheme.includes("dark") ? 0 : 255;
        return layers.reverse().reduce((under, layer) => over(layer, under), [ground, ground, ground]);
    };
    const linear = (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const luminance = (color) => color.map((v) => linear(v / 255))
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const found = [];
    const check = (element, text, color, style) => {
        const rectangle = element.getBoundingClientRect();
        if (!text.trim() || !rectangle.width || !rectangle.height) return;
        if (!element.checkVisibility({ visibilityProperty: true })) return;
        if (element.closest(":disabled, .unseen, [hidden]")) return;
        let opacity = 1;
        for (let one = element; one; one = one.parentElement) opacity *= getComputedStyle(one).opacity;
        const ground = behind(element);
        const [r, g, b, a] = channels(color);
        const pair = [luminance(over([r, g, b, a * opacity], ground)), luminance(ground)];
        const contrast = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
        const size = parseFloat(style.fontSize);
        const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
        found.push({ text: text.trim().slice(0, 40), contrast, least: large ? 3 : 4.5 });
    };
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const style = getComputedStyle(walker.currentNode.parentElement);
        check(walker.currentNode.parentElement, walker.currentNode.data, style.color, style);
    }
    for (const input of document.querySelectorAll("input[placeholder]")) {
        const style = getComputedStyle(input, "::placeholder");
        check(input, input.placeholder, style.color, style);
    }
    for (const bar of document.querySelectorAll("#ais-overlay .ramp")) {
        const style = getComputedStyle(bar, "::after");
        check(bar, bar.dataset.unit ?? "", style.color, style);
    }
    return found;
}"""

NAMED = (
    "button",
    "combobox",
    "textbox",
    "slider",
    "radio",
    "tab",
    "link",
    "image",
    "img",
    "checkbox",
    "application",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The page, whose owner offers two folders of one name; it can be stopped and started again."""
    folder = tmp_path_factory.mktemp("site")
    own = [
        save_head(folder / place / "my-head", f"my-{place}", place, seed) for seed, place in enumerate("ab")
    ]
    broken = Path(shutil.copytree(own[0], folder / "broken"))
    (broken / "config.json").write_text("{")
    heads = f"{own[0]},{own[1]},{broken}"
    with ExitStack() as stack:

        def start(port: int = 0) -> str:
            return stack.enter_context(
                running_app(shipped.heads_directory(), folder, os.environ | {"AIS_HEADS": heads}, port)
            )

        yield {"url": start(), "start": start, "stop": stack.close, "folder": folder, "own": own}


@pytest.fixture
def open_page(site: dict[str, Any]) -> Iterator[Callable[..., Any]]:
    with visiting(site["url"]) as open_:
        yield open_


@pytest.fixture(scope="session")
def photo() -> Path:
    return coffee()


def fail(page: Any, kind: str) -> None:
    """From now on every request fails in this way."""
    if kind == "broken off":
        page.route("**/queue/data*", lambda route: route.fulfill(content_type="text/event-stream", body=""))
        return
    answers = {"full": FULL, "gateway": {"status": 502}, "refused": {"status": 500}, "often": {"status": 429}}
    page.route(
        "**/queue/join*", lambda route: route.abort() if kind == "gone" else route.fulfill(**answers[kind])
    )


def mend(page: Any) -> None:
    page.unroute("**/queue/join*")
    page.unroute("**/queue/data*")


def shown(page: Any) -> dict[str, Any]:
    """All that a visitor sees of a result."""
    page.wait_for_timeout(80)
    return {
        "picture": page.evaluate(f"document.querySelector('{CANVAS}').toDataURL()"),
        "name": page.inner_text("#ais-picker .name"),
        "score": page.inner_text("#ais-score"),
        "head": page.input_value("#ais-choices select"),
        "method": page.locator("#ais-choices input:checked").get_attribute("value"),
        "maps": page.locator("#ais-maps .strip").inner_text(),
        "about": page.inner_text("#ais-about .what"),
        "address": page.url,
        "visible": page.locator("#ais-overlay .viewer").is_visible(),
    }


def click_place(page: Any) -> None:
    box = page.locator(CANVAS).bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.move(2, 2)


def notice(page: Any) -> str:
    page.wait_for_selector("#ais-overlay .problem:not([hidden])")
    return check_sentence(page.inner_text("#ais-overlay .problem p"))


@pytest.mark.parametrize("kind", SENTENCES)
def test_a_failed_request_says_why_and_what_is_shown_stays(open_page: Any, photo: Path, kind: str) -> None:
    page = open_page(expect_errors=True)
    upload(page, photo)
    click_place(page)
    page.wait_for_selector("#ais-maps .strip button")
    before = shown(page)
    fail(page, kind)
    page.click(GRADCAM)
    assert SENTENCES[kind] in notice(page)
    assert shown(page) == before
    page.click("#ais-overlay .dismiss")
    assert page.locator("#ais-overlay .problem").is_hidden()
    page.select_option("#ais-choices select", STACK)
    assert SENTENCES[kind] in notice(page)
    assert shown(page) == before
    click_place(page)
    page.wait_for_selector("#ais-maps .failed:not([hidden])")
    assert SENTENCES[kind] in check_sentence(page.inner_text("#ais-maps .failed"))
    assert shown(page)["maps"] == before["maps"]
    page.click("#ais-overlay .dismiss")
    page.click("#ais-overlay .files button:text('JSON')")
    assert SENTENCES[kind] in notice(page)
    page.fill("#ais-choices .add input", "ann/none")
    page.click("#ais-choices .add button")
    page.wait_for_selector("#ais-choices .said.failed")
    assert SENTENCES[kind] in page.inner_text("#ais-choices .said")
    mend(page)
    page.evaluate("document.body.dataset.ais = 'waiting'")
    page.click(GRADCAM)
    page.wait_for_selector("body[data-ais=ready]")
    assert page.locator("#ais-overlay .problem").is_hidden()
    assert shown(page)["method"] == "gradcam"
    assert shown(page)["picture"] != before["picture"]


@pytest.mark.parametrize(
    ("kind", "words"),
    [("large", "larger than 100 MB"), ("gone", "cannot be reached"), ("error", "could not be sent")],
)
def test_an_upload_that_fails(open_page: Any, photo: Path, tmp_path: Path, kind: str, words: str) -> None:
    page = open_page(expect_errors=True)
    upload(page, photo)
    before = shown(page)
    status = {"large": 413, "error": 500}.get(kind)
    page.route("**/upload*", lambda route: route.fulfill(status=status) if status else route.abort())
    Image.open(photo).rotate(90).save(tmp_path / "other.png")
    page.set_input_files("#ais-picker input[type=file]", str(tmp_path / "other.png"))
    assert words in notice(page)
    assert shown(page) == before
    page.unroute("**/upload*")
    page.route(
        re.compile("/file=.*/picture"), lambda route: route.abort()
    )  # the answer comes, its picture does not
    page.set_input_files("#ais-picker input[type=file]", str(tmp_path / "other.png"))
    page.wait_for_selector("#ais-overlay .problem p:text('could not be displayed')")
    assert shown(page) == before
    (tmp_path / "notes.jpg").write_text("no picture")
    page.set_input_files("#ais-picker input[type=file]", str(tmp_path / "notes.jpg"))
    page.wait_for_selector("#ais-overlay .problem p:text('not a picture')")
    assert shown(page) == before


def test_the_first_request_that_fails_has_the_page_to_itself(open_page: Any, photo: Path) -> None:
    page = open_page(expect_errors=True)
    fail(page, "full")
    upload(page, photo, "error")
    assert SENTENCES["full"] in notice(page)
    assert page.locator("#ais-overlay .viewer").is_hidden()
    assert page.locator("#ais-overlay .dismiss").is_hidden()
    mend(page)
    upload(page, photo)


def test_similarity_keeps_what_it_shows(open_page: Any) -> None:
    page = open_page(expect_errors=True, query="?tab=similarity")
    page.wait_for_selector("#ais-stimuli .map button")
    page.locator("#ais-stimuli .map button").first.dispatch_event("click")
    page.wait_for_selector("#ais-heatmaps canvas")
    title = page.inner_text("#ais-heatmaps h2")
    fail(page, "gone")
    page.locator("#ais-stimuli .map button").nth(5).dispatch_event("click")
    page.wait_for_selector("#ais-heatmaps .sorry:not([hidden])")
    assert SENTENCES["gone"] in check_sentence(page.inner_text("#ais-heatmaps .sorry p"))
    assert page.inner_text("#ais-heatmaps h2") == title
    assert page.locator("#ais-heatmaps canvas").first.is_visible()
    assert page.locator("#ais-stimuli .map [aria-pressed=true]").get_attribute("aria-label") == title
    page.select_option("#ais-gather select", "efficientnet_lite1")
    page.wait_for_selector("#ais-stimuli .problem:not([hidden])")
    assert SENTENCES["gone"] in check_sentence(page.inner_text("#ais-stimuli .problem p"))
    assert page.input_value("#ais-gather select") == "efficientnet_lite0"
    assert page.inner_text("#ais-heatmaps h2") == title
    page.click("#ais-stimuli .dismiss")
    page.click("#ais-heatmaps .dismiss")
    assert page.locator("#ais-stimuli .problem").is_hidden()
    assert page.locator("#ais-heatmaps .sorry").is_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_can_be_read(open_page: Any, photo: Path, scheme: str) -> None:
    page = open_page(expect_errors=True, color_scheme=scheme)
    page.wait_for_timeout(300)

    def check(state: str) -> None:
        texts = page.evaluate(CONTRASTS)
        assert len(texts) > 8, state
        assert [t for t in texts if t["contrast"] < t["least"]] == [], state
        tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
        nodes = [
            n for n in tree if not n.get("ignored") and n.get("role", {}).get("value", "").lower() in NAMED
        ]
        assert len(nodes) > 5, state
        assert [n for n in nodes if not n.get("name", {}).get("value", "").strip()] == [], state

    check("empty")
    upload(page, photo)
    check("ready")
    page.select_option("#ais-choices select", STACK)
    page.wait_for_selector("#ais-score details:not([hidden])")
    click_place(page)
    page.wait_for_selector("#ais-maps .strip button")
    page.locator("#ais-maps .strip button").first.click()
    fail(page, "full")
    page.click(GRADCAM)
    notice(page)
    check("a stack with a feature map and a failure")
    mend(page)
    page.click("#ais-top button[value=similarity]")
    page.wait_for_selector("#ais-stimuli .map button")
    check("similarity")
    page.click("#ais-gather button[value=own]")
    check("own pictures")


def test_a_stack_shows_how_its_score_is_made_and_its_members_maps(open_page: Any, photo: Path) -> None:
    page = open_page()
    page.select_option("#ais-choices select", STACK)
    upload(page, photo)
    expected = explain(photo, STACK, "contribution", scale="points")
    rows = [row.split("\t") for row in page.inner_text("#ais-score tbody").splitlines()]
    assert [row[0] for row in rows] == [member.head for member in expected.members] + ["constant"]
    for row, member, weight in zip(rows, expected.members, expected.weights, strict=False):
        assert number(row[1]) == pytest.approx(member.score, abs=0.006)
        assert number(row[2]) == pytest.approx(weight, abs=0.0006)
        assert number(row[3]) == pytest.approx(member.score * weight, abs=0.011)
    assert number(rows[-1][-1]) == pytest.approx(expected.intercept, abs=0.011)
    assert sum(number(row[-1]) for row in rows) == pytest.approx(
        number(page.inner_text("#ais-score strong")), abs=1e-9
    )
    choice = page.locator("#ais-overlay .whose select")
    stack = page.evaluate(f"document.querySelector('{CANVAS}').toDataURL()")
    choice.select_option("1")
    page.wait_for_timeout(100)
    assert page.evaluate(f"document.querySelector('{CANVAS}').toDataURL()") != stack
    with page.expect_download() as waiting:
        page.click("#ais-overlay .files button:text('Heatmap NPY')")
    np.testing.assert_allclose(np.load(waiting.value.path()), expected.members[1].heatmap, atol=1e-4)
    assert expected.members[1].head in waiting.value.suggested_filename
    upload(page, photo)
    assert choice.input_value() == ""
    page.select_option("#ais-choices select", "beauty-efficientnet-lite0")
    page.wait_for_selector("#ais-score details", state="hidden")
    assert choice.is_hidden()


def test_feature_maps_are_sorted_by_what_they_are_labelled_with(open_page: Any, photo: Path) -> None:
    page = open_page()
    page.click("#ais-choices label:has(input[value=ais])")  # whose maps are activations
    upload(page, photo)
    click_place(page)
    page.wait_for_selector("#ais-maps .strip button")
    here = [number(text) for text in page.locator("#ais-maps strong").all_inner_texts()]
    assert [abs(v) for v in here] == sorted(map(abs, here), reverse=True)
    assert "at this place" in page.inner_text("#ais-maps .note")
    assert all(text.endswith("in all") for text in page.locator("#ais-maps small").all_inner_texts())
    page.locator("#ais-maps .strip button").first.click()
    legend = page.inner_text("#ais-overlay .legend")
    assert "score" not in legend
    assert "activation" in page.locator("#ais-overlay .ramp").get_attribute("aria-label")
    ticks = [number(text) for text in page.locator("#ais-overlay .ramp li").all_inner_texts()]
    assert ticks[0] == 0
    assert ticks == sorted(ticks)
    page.click("#ais-overlay .pinned-map")
    assert "raises the score" in page.inner_text("#ais-overlay .legend")


def test_the_picture_that_is_downloaded_has_the_colour_bar(
    open_page: Any, photo: Path, tmp_path: Path
) -> None:
    page = open_page()
    upload(page, photo)

    def bar(sign: str) -> np.ndarray:
        page.click(f"#ais-overlay button[value={sign}]")
        with page.expect_download() as waiting:
            page.click("#ais-overlay .files button:text('Overlay PNG')")
        image = Image.open(waiting.value.path()).convert("RGB")
        assert image.size == expected.size
        return np.asarray(image)[row].astype(int)

    explain(photo).save(tmp_path, files=["overlay.png"])
    expected = Image.open(tmp_path / "overlay.png").convert("RGB")
    size = min(max(Image.open(photo).width // 40, 10), 28)
    row = Image.open(photo).height + 2 * size
    np.testing.assert_allclose(bar("both"), np.asarray(expected)[row].astype(int), atol=3)
    raises = bar("raises")[size + 2 : -size - 2]
    assert (raises[:, 0] >= raises[:, 2] - 1).all()  # red alone


def test_the_owners_folders_are_offered_by_name(open_page: Any, site: dict[str, Any], photo: Path) -> None:
    page = open_page(query="?head=my-b")
    page.wait_for_function("document.querySelector('#ais-choices select').value === 'my-b'")
    upload(page, photo)
    assert page.inner_text("#ais-score strong") == f"{explain(photo, str(site['own'][1])).score:.2f}"
    page.wait_for_selector("#ais-choices .coming .failed")
    assert "broken" in page.inner_text("#ais-choices .coming")
    assert str(site["folder"]) not in page.content()
    for name in (str(site["own"][0]), "./my-head", f"{site['own'][0].parent}/../a/my-head"):
        page.fill("#ais-choices .add input", name)
        page.click("#ais-choices .add button")
        page.wait_for_selector("#ais-choices .said.failed")
        assert "There is no head" in page.inner_text("#ais-choices .said")
        page.evaluate("document.querySelector('#ais-choices .said').classList.remove('failed')")
    (site["own"][1] / "model.safetensors").rename(site["folder"] / "away")
    config = site["own"][1] / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text())))  # changed: the head is read again
    page.click(GRADCAM)
    assert str(site["folder"]) not in notice(page)
    assert str(site["folder"]) in (site["folder"] / "log").read_text()
    (site["folder"] / "away").rename(site["own"][1] / "model.safetensors")


def test_a_server_that_stops_and_starts_again(open_page: Any, site: dict[str, Any], photo: Path) -> None:
    page = open_page(expect_errors=True)
    upload(page, photo)
    click_place(page)
    page.wait_for_selector("#ais-maps .strip button")
    before = shown(page)
    port = urlsplit(site["url"]).port
    site["stop"]()
    page.click(GRADCAM)
    assert "cannot be reached" in notice(page)
    assert shown(page) == before
    site["start"](port)
    page.click(GRADCAM)
    page.wait_for_selector("#ais-overlay .problem p:text-matches('no longer')")
    assert shown(page) == before
    click_place(page)
    page.wait_for_selector("#ais-maps .failed:not([hidden])")
    assert re.search("no longer", page.inner_text("#ais-maps .failed"))
    upload(page, photo)
    assert page.locator("#ais-overlay .problem").is_hidden()


@pytest.mark.parametrize(
    ("word", "is_folder"),
    [
        ("./head", True),
        ("../here/head", True),
        ("{here}/head", True),
        ("~/head", True),
        ("head", True),
        ("a/b/c", True),
        ("user/repo", False),
        ("user/repo@main", False),
        ("head2", False),
        ("https://huggingface.co/user/repo", False),
    ],
)
def test_what_a_folder_looks_like(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, is_folder: bool
) -> None:
    here = tmp_path / "here"
    save_head(here / "head")
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(here))
    found = folders.folder_in(word.format(here=here))
    assert (found is not None) == is_folder
    if is_folder and "b" not in word:
        assert found == (here / "head").resolve()


def test_folders_of_one_name_are_told_apart_and_paths_stay_here(tmp_path: Path) -> None:
    one, two = (save_head(tmp_path / place / "same", "same", place, 1) for place in ("one", "two"))
    gone = tmp_path / "gone"
    catalogue = Catalog(f"{one},{two},{gone}")
    catalogue.start()
    first, second, missing = wait(catalogue, settled)
    assert (first.head, second.head) == ("same", "same (2)")
    assert first.local
    assert "'gone'" in missing.reason
    assert str(tmp_path) not in missing.reason
    assert folders.hide_paths(f"{two}/x is bad beside {tmp_path}/two/y.") == "same (2)/x is bad beside y."
