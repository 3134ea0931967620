"""The page and its API with heads from the Hub on this machine; one app for all tests."""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ais import explain, load_head
from ais.heads import shipped
from ais.heads.config import EMBEDDED
from helpers.browsing import READY, check_sentence, coffee, running_app, upload, visiting
from helpers.heads import save_head
from helpers.hub_failures import TOO_MANY, CutShort, Flipped, Hang, Padded, Status
from helpers.local_hub import LocalHub

pytestmark = pytest.mark.browser

HOSTILE = "<img src=x onerror=alert(1)>${2}{{3}}"

LONG = "ann/" + "a-rather-long-repository-name-" * 3 + "v2"

STACK = "beauty-stack"


@pytest.fixture(scope="module")
def site(hub_server: LocalHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalHub, str]]:
    """The Hub, and the address of a page whose owner offers a private head and one that hangs at first."""
    hub, folder = hub_server, tmp_path_factory.mktemp("site")
    hub.accept()
    hub.heal()
    hub.tokens["hf_owner"] = ("owner", False)
    for seed, (name, private, gated) in enumerate(
        [
            ("owner/secret", True, False),
            ("owner/late", False, False),
            ("ann/awe", False, False),
            ("ann/private", True, False),
            ("ann/gated", False, True),
            ("ann/slow", False, False),
            ("ann/down", False, False),
            ("ann/damaged", False, False),
            ("ann/refused", False, False),
            ("ann/busy", False, False),
            ("ann/broken", False, False),
            ("ann/cut", False, False),
            ("ann/large", False, False),
            (LONG, False, False),
        ]
    ):
        hub.add_head(
            name, save_head(folder / name, name.split("/")[1], "awe", seed), private=private, gated=gated
        )
    hub.add_head("ann/hostile", save_head(folder / "hostile", HOSTILE.replace("/", ""), HOSTILE))
    newer = save_head(folder / "newer")
    config = json.loads((newer / "config.json").read_text())
    (newer / "config.json").write_text(json.dumps(config | {"format": 99}))
    hub.add_head("ann/newer", newer)
    hub.add("ann/empty", {"README.md": b"# Nothing"})
    moon = save_head(folder / "moon")
    tensors = {"weight1": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]}}
    header = json.dumps(tensors).encode()
    (moon / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    hub.add_head("ann/moon", moon)
    settings = {
        "HF_HOME": str(folder / "cache"),
        "HF_TOKEN": "hf_owner",
        "AIS_HEADS": "owner/late,owner/secret",
    }
    hub.fail("HEAD", "^/owner/late/", Hang(60))
    with running_app(shipped.heads_directory(), folder, os.environ | settings) as url:
        yield hub, url


@pytest.fixture
def hub(site: tuple[LocalHub, str]) -> Iterator[LocalHub]:
    """The Hub of the page; after the test all works again."""
    yield site[0]
    site[0].accept()
    site[0].heal()


@pytest.fixture
def open_page(site: tuple[LocalHub, str]) -> Iterator[Callable[..., Any]]:
    with visiting(site[1]) as open_:
        yield open_


@pytest.fixture(scope="session")
def photo() -> Path:
    return coffee()


def add(page: Any, name: str, key: bool = True) -> None:
    page.fill("#ais-choices .add input", name)
    if key:
        page.keyboard.press("Enter")
    else:
        page.click("#ais-choices .add button")


def sentence(page: Any) -> str:
    page.wait_for_selector("#ais-choices .said.failed")
    return check_sentence(page.inner_text("#ais-choices .said"))


@contextmanager
def explained(page: Any) -> Iterator[None]:
    """What happens inside gives a new explanation."""
    page.evaluate("document.body.dataset.ais = 'waiting'")
    yield
    page.wait_for_selector(READY)
    page.wait_for_timeout(100)


def shown(page: Any) -> str:
    return page.inner_text("#ais-score strong")


def chosen(page: Any) -> str:
    return page.input_value("#ais-choices select")


def test_the_owners_heads_come_while_the_page_is_used(
    hub: LocalHub, open_page: Callable[..., Any], photo: Path
) -> None:
    page = open_page()
    upload(page, photo)
    page.select_option("#ais-choices select", STACK)
    page.wait_for_selector("#ais-choices option[value^='owner/secret@']", state="attached")
    assert "PLCC 0.78" in page.inner_text("#ais-choices .facts")
    page.wait_for_selector("#ais-choices .coming .failed")
    assert "owner/late cannot be fetched" in page.inner_text("#ais-choices .coming .failed")
    assert chosen(page) == STACK
    score = shown(page)
    hub.heal()
    page.click("#ais-choices .coming button")
    page.wait_for_selector("#ais-choices option[value^='owner/late@']", state="attached")
    assert page.locator("#ais-choices .coming").is_hidden()
    assert (chosen(page), shown(page)) == (STACK, score)
    commit = hub.commits("owner/secret")[0].id
    with explained(page):
        page.select_option("#ais-choices select", f"owner/secret@{commit}")
    assert page.inner_text("#ais-score .target").lower() == "awe"
    assert "PLCC 0.71 (0.65 to 0.77)" in page.inner_text("#ais-choices .facts")
    assert "Made for a test." in page.text_content("#ais-about pre")
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.wait_for_timeout(2500)
    assert requests == []  # nothing is on its way any more


@pytest.mark.parametrize("way", ["key", "button", "address"])
def test_a_head_that_a_visitor_names_is_chosen_and_explains_the_picture(
    hub: LocalHub,
    open_page: Callable[..., Any],
    photo: Path,
    way: str,
    site: tuple[LocalHub, str],
    tmp_path: Path,
) -> None:
    page, other = open_page(), open_page()
    upload(page, photo)
    commit = hub.commits("ann/awe")[0].id
    with explained(page):
        add(
            page,
            f"https://huggingface.co/ann/awe/tree/{commit}" if way == "address" else " ann/awe ",
            way == "key",
        )
    assert chosen(page) == f"ann/awe@{commit}"
    for name, content in hub.files("ann/awe").items():
        (tmp_path / name).write_bytes(content)
    assert shown(page) == f"{explain(photo, load_head(tmp_path)).score:.2f}"
    assert page.input_value("#ais-choices .add input") == ""
    assert page.url == f"{site[1]}?head=ann/awe@{commit}"
    other.reload()
    other.wait_for_selector("#ais-picker .choose")
    assert not [
        o for o in other.locator("#ais-choices option").all() if "ann/awe" in o.get_attribute("value")
    ]
    hub.refuse()  # all is there: neither another picture nor another method needs the Hub
    with explained(page):
        page.check("#ais-choices input[value=gradcam]", force=True)
    upload(page, photo)
    page.select_option("#ais-choices select", EMBEDDED)
    assert page.url == site[1]


def test_the_address_chooses_a_head(hub: LocalHub, open_page: Callable[..., Any], photo: Path) -> None:
    linked, named, wrong = (open_page(query=f"?head={name}") for name in ("ann/awe", STACK, "ann%2Fnone"))
    linked.wait_for_selector("#ais-choices option[value^='ann/awe@']", state="attached")
    named.wait_for_function(f"document.querySelector('#ais-choices select').value === '{STACK}'")
    upload(linked, photo)
    assert chosen(linked).startswith("ann/awe@")
    assert linked.inner_text("#ais-score .target").lower() == "awe"
    assert "no repository ann/none" in sentence(wrong)
    assert chosen(wrong) == EMBEDDED
    upload(wrong, photo)
    assert shown(wrong) == f"{explain(photo).score:.2f}"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ann/private", "no repository ann/private"),
        ("owner/secret@main", "no repository owner/secret"),  # the owner's token is not the visitors'
        ("ann/gated", "is gated"),
        ("ann/none", "no repository ann/none"),
        ("ann/awe@none", "no revision 'none'"),
        ("ann/empty", "has no config.json at its revision main"),
        ("ann/busy", "rate limit is reached. Try again in 120 seconds"),
        ("ann/broken", "returned an error (500)"),
        ("ann/cut", "cannot be reached"),
        ("ann/large", "is too large to be what it should be"),
        ("ann/moon", "lacks the tensor"),
        ("ann/down", "returned an error (503)"),
        ("ann/refused", "cannot be reached"),
        ("ann/slow", "cannot be reached"),
        ("ann/damaged", "damaged"),
        ("ann/newer", "newer than this AIS reads"),
        ("/etc/passwd", "There is no head '/etc/passwd'"),
        ("<img src=x onerror=alert(1)>", "There is no head '<img src=x onerror=alert(1)>'"),
    ],
)
def test_a_head_that_cannot_be_had_gives_a_sentence_and_the_page_goes_on(
    hub: LocalHub, open_page: Callable[..., Any], photo: Path, name: str, words: str
) -> None:
    hub.fail("HEAD|GET", "^/ann/down/", Status(503))
    hub.fail("HEAD|GET", "^/ann/slow/", Hang(60))
    hub.fail("GET", "^/ann/damaged/.*safetensors", Flipped())
    hub.fail("HEAD|GET", "^/ann/busy/", TOO_MANY)
    hub.fail("HEAD|GET", "^/ann/broken/", Status(500))
    hub.fail("GET", "^/ann/cut/", CutShort(100))
    hub.fail("HEAD", "^/ann/large/.*config", Padded(200 << 20))
    page = open_page()
    if name == "ann/refused":
        hub.refuse()
    add(page, name)
    if name == "ann/slow":  # scoring does not wait for it
        upload(page, photo)
        assert page.inner_text("#ais-choices .said") == "Fetching ann/slow"
    assert words in sentence(page)
    assert chosen(page) == EMBEDDED
    upload(page, photo)
    assert shown(page) == f"{explain(photo).score:.2f}"
    assert page.locator("img[src=x]").count() == 0


def test_a_copy_in_place_of_the_newest_is_said(
    hub: LocalHub, open_page: Callable[..., Any], photo: Path
) -> None:
    first = open_page()
    add(first, "ann/awe")
    first.wait_for_selector("#ais-choices option[value^='ann/awe@']", state="attached")
    assert first.locator("#ais-choices .notice").is_hidden()
    hub.refuse()
    page = open_page()
    add(page, "ann/awe")
    page.wait_for_selector("#ais-choices .notice:not([hidden])")
    assert "copy fetched before is used" in page.inner_text("#ais-choices .notice")
    upload(page, photo)
    page.select_option("#ais-choices select", EMBEDDED)
    assert page.locator("#ais-choices .notice").is_hidden()


@pytest.mark.parametrize("width", [1440, 390])
def test_what_a_head_says_of_itself_is_only_text(
    hub: LocalHub, open_page: Callable[..., Any], photo: Path, width: int
) -> None:
    page = open_page(viewport={"width": width, "height": 844})
    upload(page, photo)
    for name in (LONG, "ann/hostile"):
        with explained(page):
            add(page, name)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert HOSTILE in page.inner_text("#ais-choices .facts")
    assert page.text_content("#ais-score .target") == HOSTILE
    assert HOSTILE in page.text_content("#ais-about .what")
    assert page.locator("img[src=x]").count() == 0


def test_a_server_that_does_not_answer_says_so(
    hub: LocalHub, open_page: Callable[..., Any], photo: Path
) -> None:
    page = open_page(expect_errors=True)
    page.route("**/queue/join*", lambda route: route.fulfill(status=503, json={"detail": "Queue is full."}))
    add(page, "ann/awe")
    assert "too many people are waiting" in sentence(page)
    page.unroute("**/queue/join*")
    add(page, "ann/awe")
    page.wait_for_selector("#ais-choices option[value^='ann/awe@']", state="attached")


def test_the_api_takes_a_head_of_the_hub(
    hub: LocalHub, site: tuple[LocalHub, str], photo: Path, tmp_path: Path
) -> None:
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError

    client = Client(site[1], verbose=False, download_files=str(tmp_path))
    commit = hub.commits("ann/awe")[0].id
    result, *_ = client.predict(handle_file(photo), "ann/awe", api_name="/explain")
    assert (result["source"], result["target"]) == (f"ann/awe@{commit}", "awe")
    hub.fail("HEAD|GET", "^/ann/slow/", Hang(60))
    for name, words in (
        ("ann/private", "no repository"),
        ("ann/gated", "is gated"),
        ("ann/slow", "cannot be reached"),
        ("model_cards/beauty-stack", "no repository model_cards/beauty-stack"),
        (str(shipped.heads_directory() / STACK), "There is no head"),
    ):
        with pytest.raises(AppError, match=re.escape(words)):
            client.predict(handle_file(photo), name, api_name="/explain")
    again, *_ = client.predict(handle_file(photo), api_name="/explain")
    assert again["score"] == pytest.approx(explain(photo).score, abs=1e-5)
