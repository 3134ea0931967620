"""The Similarity tab in a real browser; one app for all tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ais.backbones.loading import load_backbone
from ais.demo import shapes
from ais.demo.tabs import similarity
from ais.heads import shipped
from ais.rsa import rdm
from ais.workflows import align
from helpers.browsing import check_sentence, coffee, number, running_app, upload

pytestmark = pytest.mark.browser

LOOKS = "document.querySelector('#ais-heatmaps .heatmaps').parentElement.ais"

PICTURES = "#ais-stimuli .map button"

HOSTILE = "<img src=x onerror=alert(1)>${2}{{3}}"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_app(shipped.heads_directory(), tmp_path_factory.mktemp("app")) as address:
        yield address


@pytest.fixture(scope="module")
def expected() -> align.RSAReport:
    files, _, judgments = shapes.stimuli()
    backbone = load_backbone(similarity.DEFAULT, view="resize")
    return align.align(align.StimulusSet(files, judgments), backbone, splits=0)


def tab(open_page: Any, **options: Any) -> Any:
    """The tab with the stimuli that come with the page."""
    page = open_page(query="?tab=similarity", **options)
    page.wait_for_selector(PICTURES)
    return page


def choose(page: Any, index: int, **options: Any) -> dict[str, Any]:
    """Click a picture, or press its key where another lies over it; gives what is then shown."""
    before = page.evaluate(f"{LOOKS}.data?.run")
    page.locator(PICTURES).nth(index).focus()
    keys = "+".join([*options.get("modifiers", []), "Enter"])
    page.keyboard.press(keys)
    page.wait_for_function(f"{LOOKS}.data && {LOOKS}.data.run !== {before!r}".replace("None", "undefined"))
    return page.evaluate(f"{LOOKS}.data")


def own(page: Any, pictures: list[Path], matrix: Path) -> None:
    page.click("#ais-gather button[value=own]")
    page.set_input_files("#ais-gather .images", [str(p) for p in pictures])
    page.set_input_files("#ais-gather .matrix", str(matrix))
    page.click("#ais-gather .go")


def sentence(page: Any) -> str:
    page.wait_for_selector("#ais-stimuli .problem")
    return check_sentence(page.inner_text("#ais-stimuli .problem p"))


def own_pictures(folder: Path, count: int) -> list[Path]:
    files = [folder / f"p{n}.png" for n in range(count)]
    for file, drawing in zip(files, shapes.drawings(), strict=False):
        shapes.draw(drawing).save(file)
    return files


def test_the_drawn_stimuli_are_shown_and_said_to_be_made_by_rule(open_page: Any, expected: Any) -> None:
    page = tab(open_page)
    assert page.locator(PICTURES).count() == shapes.COUNT
    assert page.locator(PICTURES).first.get_attribute("aria-label") == shapes.drawings()[0].title
    assert "made by rule, not by people" in page.inner_text("#ais-gather .note")
    alignment, helping = page.locator("#ais-stimuli .numbers dd").all_inner_texts()
    assert number(alignment) == pytest.approx(expected.rdm_correlation, abs=0.006)
    assert helping.endswith(" of 1,280")
    assert page.inner_text("#ais-stimuli .group button[value=people]") == "Rule"


def test_a_click_gives_the_heatmap_of_the_picture(open_page: Any, expected: Any) -> None:
    page = tab(open_page)
    index = 7
    data = choose(page, index)
    backbone = load_backbone(similarity.DEFAULT, view="resize")
    look = align.stimulus_heatmap(shapes.stimuli()[0][index], backbone, expected.image_importance[index])
    side = data["sides"][0]
    assert (side["h"], side["w"]) == look.grid.shape
    np.testing.assert_allclose(side["grid"], look.grid.ravel(), atol=1e-3)
    np.testing.assert_allclose(data["saliency"], look.saliency.ravel(), atol=1e-4)
    said = page.inner_text("#ais-heatmaps .meaning")
    assert number(said.rpartition(":")[2]) == pytest.approx(look.saliency_correlation, abs=0.02)
    assert page.inner_text("#ais-heatmaps h2") == shapes.drawings()[index].title
    assert page.locator("#ais-heatmaps canvas").count() == 2
    coloured, hide = (
        "document.querySelector('#ais-heatmaps canvas').toDataURL()",
        "#ais-heatmaps .hide-heatmap",
    )
    before = page.evaluate(coloured)
    page.click(hide)
    assert page.evaluate(coloured) != before


@pytest.mark.parametrize("way", ["shift", "toggle"])
def test_two_pictures_give_what_makes_them_alike(open_page: Any, expected: Any, way: str) -> None:
    page = tab(open_page)
    choose(page, 3)
    if way == "toggle":
        page.click("#ais-stimuli .compare")
    data = choose(page, 9, modifiers=["Shift"] if way == "shift" else [])
    similar = 1 - expected.model_rdm[3, 9]
    assert data["correlation"] == pytest.approx(similar, abs=1e-5)
    assert f"Correlation {similar:.2f}" in page.inner_text("#ais-heatmaps .meaning")
    assert [side["name"] for side in data["sides"]] == [shapes.drawings()[n].title for n in (3, 9)]
    assert page.locator(f"{PICTURES}[aria-pressed=true]").count() == 2


def test_touch_on_a_phone(open_page: Any) -> None:
    page = tab(
        open_page,
        viewport={"width": 390, "height": 844},
        has_touch=True,
        is_mobile=True,
        device_scale_factor=2,
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.tap("#ais-stimuli .compare")
    for index in (0, shapes.COUNT - 1):
        page.locator(PICTURES).nth(index).dispatch_event("click")
    page.wait_for_selector("#ais-heatmaps h2:text('What makes these alike')")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_switch_moves_the_pictures_and_arrow_keys_walk_among_them(open_page: Any) -> None:
    page = tab(open_page)
    placed = f"[...document.querySelectorAll('{PICTURES}')].map((b) => [b.offsetLeft, b.offsetTop])"
    network = page.evaluate(placed)
    page.click("#ais-stimuli .group button[value=people]")
    assert page.evaluate(placed) != network
    page.locator(PICTURES).first.focus()
    seen = set()
    for key in ("ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp") * 3:
        page.keyboard.press(key)
        seen.add(page.evaluate("document.activeElement.dataset.index"))
    assert len(seen) > 3
    assert page.locator(f"{PICTURES}[tabindex='0']").count() == 1


def test_the_address_follows_the_tab_and_the_first_tab_is_as_it_was(open_page: Any) -> None:
    page = open_page(query="?head=beauty-efficientnet-lite0")
    assert page.locator("#ais-tab-similarity").is_hidden()
    top = page.locator("#ais-top h1").bounding_box()
    page.click("#ais-top button[value=similarity]")
    page.wait_for_selector(PICTURES)
    assert page.locator("#ais-top h1").bounding_box() == top
    assert "tab=similarity" in page.url
    page.reload()
    page.wait_for_selector(PICTURES)
    assert page.locator("#ais-hero").is_hidden()
    page.click("#ais-top button[value=score]")
    assert "tab=" not in page.url
    upload(page, coffee())
    assert page.inner_text("#ais-score strong") != "–"


def test_an_upload_of_pictures_with_a_matrix(open_page: Any, tmp_path: Path) -> None:
    page = tab(open_page)
    rdms = np.stack([rdm.rdm(np.random.default_rng(seed).random((5, 9))) for seed in range(3)])
    np.save(tmp_path / "people.npy", rdms)
    own(page, own_pictures(tmp_path, 5), tmp_path / "people.npy")
    page.wait_for_function(f"document.querySelectorAll('{PICTURES}').length === 5")
    low, high = rdm.noise_ceiling(rdms)
    ceiling = page.locator("#ais-stimuli .numbers dd").nth(1).inner_text().replace("−", "-")
    assert ceiling == f"{low:.2f} to {high:.2f}"
    assert page.inner_text("#ais-stimuli .group button[value=people]") == "Humans"
    data = choose(page, 4)
    assert data["title"] == "p4.png"
    assert "people’s" in page.inner_text("#ais-heatmaps .lead")
    page.select_option("#ais-gather select", "efficientnet_lite1")  # with what the server has already
    page.wait_for_function(f"!{LOOKS}.data")
    page.wait_for_selector("#ais-stimuli .busy", state="hidden")
    assert page.locator(PICTURES).count() == 5
    other = tab(open_page)
    assert other.locator(PICTURES).count() == shapes.COUNT


def test_a_wrong_upload_gives_its_sentence_and_the_tab_still_works(open_page: Any, tmp_path: Path) -> None:
    page = tab(open_page)
    pictures = own_pictures(tmp_path, 4)
    np.save(tmp_path / "five.npy", 1 - np.eye(5))
    (tmp_path / "text.csv").write_text("no,matrix\n")
    own(page, pictures, tmp_path / "five.npy")
    assert sentence(page) == "five.npy is about 5 pictures, and there are 4."
    own(page, pictures, tmp_path / "text.csv")
    page.wait_for_function(
        "document.querySelector('#ais-stimuli .problem p').textContent.includes('text.csv')"
    )
    sentence(page)
    (tmp_path / "p3.png").write_text("no picture")
    rdm = np.arange(16.0).reshape(4, 4)
    np.save(tmp_path / "four.npy", (rdm + rdm.T) * (1 - np.eye(4)))
    own(page, pictures, tmp_path / "four.npy")
    page.wait_for_function("document.querySelector('#ais-stimuli .problem p').textContent.includes('p3.png')")
    assert "is not a picture" in sentence(page)
    own(page, pictures[:1] * 61, tmp_path / "four.npy")
    page.wait_for_function(
        "document.querySelector('#ais-stimuli .problem p').textContent.includes('61 pictures')"
    )
    page.click("#ais-gather button[value=shapes]")
    page.wait_for_selector("#ais-stimuli .problem", state="hidden")
    page.wait_for_selector(
        "#ais-stimuli .busy", state="hidden"
    )  # what comes in place of the map would take the choice
    assert choose(page, 2)["sides"]


def test_what_comes_late_does_not_hide_a_newer_sentence(open_page: Any, tmp_path: Path) -> None:
    page = tab(open_page)
    count = 20  # enough that the answer comes after what is done meanwhile
    pictures = own_pictures(tmp_path, count)
    np.save(tmp_path / "people.npy", rdm.rdm(np.random.default_rng(0).random((count, 9))))
    own(page, pictures, tmp_path / "people.npy")
    page.wait_for_function(
        "document.querySelector('#ais-stimuli .busy').innerText.includes('Looking at picture')"
    )
    page.set_input_files("#ais-gather .images", [str(p) for p in pictures[:1] * 61])
    page.click("#ais-gather .go")
    assert "61 pictures" in sentence(page)
    page.wait_for_function(f"document.querySelectorAll('{PICTURES}').length === {count}")
    assert "61 pictures" in sentence(page)
    assert choose(page, 4)["title"] == "p12.png"  # the names are sorted as text


def test_hostile_names_are_text(open_page: Any, tmp_path: Path) -> None:
    page = tab(open_page)
    pictures = [file.rename(file.with_name(f"{HOSTILE}{file.name}")) for file in own_pictures(tmp_path, 3)]
    matrix = tmp_path / f"{HOSTILE}.csv"
    matrix.write_text("0,1\n1,0\n")
    own(page, pictures, matrix)
    assert HOSTILE in sentence(page)
    matrix.write_text("0,1,2\n1,0,3\n2,3,0\n")
    own(page, pictures, matrix)
    page.wait_for_function(f"document.querySelectorAll('{PICTURES}').length === 3")
    choose(page, 1)
    assert page.inner_text("#ais-heatmaps h2") == pictures[1].name
    assert page.locator(PICTURES).nth(1).get_attribute("aria-label") == pictures[1].name
    assert page.locator("img[src=x]").count() == 0


def test_a_server_that_does_not_answer(open_page: Any) -> None:
    page = tab(open_page, expect_errors=True)
    full = {"status": 503, "json": {"detail": "Queue is full."}}
    page.route("**/queue/join*", lambda route: route.fulfill(**full))
    page.locator(PICTURES).first.dispatch_event("click")
    page.wait_for_selector("#ais-heatmaps .sorry p:text('too many people are waiting')")
    page.select_option("#ais-gather select", "efficientnet_lite1")
    assert "too many people are waiting" in sentence(page)
