"""What a registry holds is on the page and in its API: nothing else has to know of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from ais import demo
from ais.attribution.methods import METHODS
from ais.demo import api, storage
from ais.demo.tabs import TABS, Tab
from ais.heads import shipped
from helpers.browsing import running_app, visiting

ADD_TAB = """
import gradio as gr
from ais.demo.tabs import TABS, Tab
TABS["dummy"] = Tab("A dummy", "What a dummy is for.", lambda session: gr.HTML("<p>Inside</p>", elem_id="inside"))
"""


@pytest.fixture
def dummy_tab(monkeypatch: pytest.MonkeyPatch) -> Tab:
    tab = Tab("A dummy", "What a dummy is for.", lambda session: gr.HTML("Inside", elem_id="inside"))
    monkeypatch.setitem(TABS, "dummy", tab)
    return tab


def sent(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A picture that a program has sent to the page."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
    file = folder / ("a" * 64) / "photo.png"
    file.parent.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (9, 12, 3), np.uint8)
    Image.fromarray(noise).resize((240, 180)).save(file)
    assert storage.upload(str(file)) is not None
    return file


@pytest.fixture
def dummy_method(monkeypatch: pytest.MonkeyPatch) -> str:
    """The negative of a method that there is, under a name and a label of its own."""
    gradcam = METHODS["gradcam"]

    def negative(*arguments: Any) -> Any:
        return gradcam.draw(*arguments).times(-1)

    monkeypatch.setitem(
        METHODS, "dummy", replace(gradcam, label="A dummy", about="What it shows.", draw=negative)
    )
    return "dummy"


def properties(page: gr.Blocks, name: str) -> dict[str, Any]:
    """What a component of the page is given."""
    found = [
        c["props"] for c in page.get_config_file()["components"] if c["props"].get("elem_id") == f"ais-{name}"
    ]
    assert len(found) == 1
    return found[0]["props"]


def test_a_tab_is_an_entry(dummy_tab: Tab) -> None:
    page = demo.build()
    assert [tab["name"] for tab in properties(page, "top")["tabs"]] == [*TABS]
    assert properties(page, "top")["tabs"][-1] == {
        "name": "dummy",
        "label": dummy_tab.label,
        "about": dummy_tab.about,
    }
    columns = [c for c in page.blocks.values() if c.elem_id == "ais-tab-dummy"]
    assert [child.elem_id for child in columns[0].children] == ["inside"]
    assert "#ais-tab-dummy" in demo.launch_options()["css"]


def test_a_method_is_an_entry(dummy_method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = demo.build()
    shown = properties(page, "choices")["methods"]
    assert [method["name"] for method in shown] == [*METHODS]
    assert [(method["title"], method["about"]) for method in shown] == [
        (m.label, m.about) for m in METHODS.values()
    ]
    endpoint = page.get_api_info()["named_endpoints"]["/explain"]
    assert endpoint["parameters"][2]["type"]["enum"] == [*METHODS]
    assert "dummy: What it shows." in endpoint["description"]

    file = sent(tmp_path, monkeypatch)
    grids = [np.load(api.explain({"path": str(file)}, method=name)[2]) for name in ("gradcam", dummy_method)]
    np.testing.assert_allclose(grids[1], -grids[0], atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_the_api_gives_every_method(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = sent(tmp_path, monkeypatch)
    result, _, heatmap = api.explain({"path": str(file)}, method=method)
    assert result["method"] == method
    assert np.nanmax(np.abs(np.load(heatmap))) > 0


@pytest.fixture(scope="module")
def open_page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    folder = tmp_path_factory.mktemp("app")
    with running_app(shipped.heads_directory(), folder, before=ADD_TAB) as url, visiting(url) as open_:
        yield open_


@pytest.mark.browser
def test_a_tab_of_the_registry_opens_in_the_page(open_page: Callable[..., Any]) -> None:
    page = open_page()
    assert page.locator("#ais-top [role=tab]").all_inner_texts() == [
        *(tab.label for tab in TABS.values()),
        "A dummy",
    ]
    assert page.locator("#inside").is_hidden()
    page.click("#ais-top button[value=dummy]")
    page.wait_for_selector("#inside:has-text('Inside')")
    assert page.inner_text("#ais-top .about") == "What a dummy is for."
    assert page.locator("#ais-hero").is_hidden()
    page.reload()  # the address says which tab is open
    page.wait_for_selector("#inside:has-text('Inside')")
    page.click("#ais-top button[value=score]")
    page.wait_for_selector("#ais-picker .choose")
    assert page.locator("#inside").is_hidden()
    assert "tab=" not in page.url
