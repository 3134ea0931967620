"""Which heads the page offers, over the Hub on this machine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ais.demo import catalog, values
from ais.demo.catalog import Catalog, HeadEntry, collection_slug, head_source
from ais.errors import HeadError, HubError
from ais.heads import shipped
from ais.io.hub import Repository
from helpers.heads import METRICS, save_head, settled, wait
from helpers.hub_failures import Hang, Status
from helpers.local_hub import LocalHub

COLLECTION = "lab/heads-" + "0123456789abcdef01234567"


@pytest.fixture
def head(tmp_path: Path) -> Path:
    """The folder of a small head on the embedded backbone."""
    return save_head(tmp_path / "head")


def test_the_heads_that_come_with_ais_are_there_before_anything_is_fetched() -> None:
    catalogue = Catalog("user/head")
    *ours, coming = catalogue.entries()
    assert [offer.head for offer in ours] == shipped.list_heads()
    assert ours[0].facts == "PLCC 0.74 (0.67 to 0.79) · beauty, 1 to 7 · reads efficientnet_lite0"
    assert {one.head: one.facts for one in ours}["beauty-stack-448"].endswith("combines 6 heads")
    assert coming == HeadEntry("user/head")


def test_an_owners_head_arrives_pinned_with_its_metrics(hub: LocalHub, head: Path) -> None:
    commit = hub.add_head("lab/awe", head)
    catalogue = Catalog(f" lab/awe , {shipped.list_heads()[1]},")
    catalogue.start()
    (offer,) = wait(catalogue, settled)
    assert offer.head == f"lab/awe@{commit}"
    assert offer.title == "lab/awe: awe"
    assert offer.facts.startswith("PLCC 0.71 (0.65 to 0.77) · awe, 1 to 7")
    assert offer.address == f"{hub.url}/lab/awe/tree/{commit}"
    assert catalogue.owned(offer.head)
    assert catalogue.find("lab/awe") == catalogue.find(offer.head) == offer
    assert catalog.card(offer.head, False) == "# A head\n\nMade for a test."
    hub.refuse()
    assert catalog.fetch(offer.head, public=False).head == offer.head  # all of it is here


def test_a_hub_that_hangs_holds_up_nothing_but_its_own_head(hub: LocalHub, head: Path) -> None:
    hub.add_head("lab/good", head)
    hub.fail("HEAD", "lab/slow/", Hang(60))
    catalogue = Catalog("lab/slow,lab/good")
    catalogue.start()
    slow, good = wait(catalogue, lambda offers: bool(offers[1].head))
    assert slow == HeadEntry("lab/slow")
    assert good.head


def test_one_that_failed_says_why_and_can_be_tried_again(hub: LocalHub, head: Path) -> None:
    hub.add_head("lab/awe", head)
    hub.fail("HEAD", "lab/awe/", Status(503))
    catalogue = Catalog("lab/awe,no id")
    catalogue.start()
    down, wrong = wait(catalogue, settled)
    assert "returned an error" in down.reason
    assert "no head 'no id'" in wrong.reason
    hub.heal()
    catalogue.retry("lab/awe")
    arrived, _ = wait(catalogue, settled)
    assert arrived.head
    asked = len(hub.requests)
    catalogue.retry("lab/awe")  # it is there
    catalogue.retry("someone/else")
    assert len(hub.requests) == asked


def test_a_collection_stands_for_its_models_in_its_place(hub: LocalHub, tmp_path: Path) -> None:
    for seed, name in enumerate(("awe", "calm", "last")):
        hub.add_head(f"lab/{name}", save_head(tmp_path / name, name, name, seed))
    hub.add_collection(COLLECTION, "lab/awe", "lab/last", "lab/none", "lab/calm")
    catalogue = Catalog(f"https://huggingface.co/collections/{COLLECTION},lab/last")
    catalogue.start()
    found = wait(catalogue, lambda offers: len(offers) == 4 and settled(offers))
    assert [offer.asked for offer in found] == ["lab/awe", "lab/none", "lab/calm", "lab/last"]
    assert [bool(offer.head) for offer in found] == [True, False, True, True]


@pytest.mark.parametrize("how", ["missing", "private", "down", "hang", "empty"])
def test_a_collection_that_cannot_be_had_says_so(
    hub: LocalHub, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how != "missing":
        hub.add_collection(COLLECTION, *([] if how == "empty" else ["lab/awe"]), private=how == "private")
    if how == "down":
        hub.fail("GET", "/collections/", Status(503))
    if how == "hang":
        monkeypatch.setattr(catalog, "TIMEOUT", 0.2)
        hub.fail("GET", "/collections/", Hang(60))
    words = {"missing": "no collection", "private": "private", "down": "returned an error", "hang": "reached"}
    with pytest.raises(HubError, match=words.get(how, "holds no models")) as caught:
        catalog.collection_items(COLLECTION)
    assert COLLECTION in str(caught.value)


def test_the_owners_token_reads_the_owners_heads_and_no_visitors(hub: LocalHub, head: Path) -> None:
    hub.login(user="lab")
    hub.add_head("lab/secret", head, private=True)
    with pytest.raises(HubError, match="lab/secret"):
        catalog.fetch("lab/secret", public=True)
    assert not any(call.authorization for call in hub.seen())
    catalogue = Catalog("lab/secret")
    catalogue.start()
    (offer,) = wait(catalogue, settled)
    assert offer.head
    with pytest.raises(HubError, match="lab/secret"):  # it is cached now
        catalog.fetch("lab/secret", public=True)


def test_a_copy_that_stands_in_for_the_newest_says_so(hub: LocalHub, head: Path) -> None:
    hub.add_head("lab/awe", head)
    assert catalog.fetch("lab/awe", public=True).notice == ""
    hub.refuse()
    assert "copy fetched before" in catalog.fetch("lab/awe", public=True).notice


@pytest.mark.parametrize("name", ["/etc", "..", "", "a/b/c", "x" * 10_000])
def test_what_is_no_id_is_no_head(name: str) -> None:
    with pytest.raises(HeadError, match=re.escape(f"There is no head '{name[:40]}")) as caught:
        head_source(name)
    assert len(str(caught.value)) < 500


def test_a_name_is_never_that_of_a_folder(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_head(tmp_path / "model_cards" / "beauty-stack")
    monkeypatch.chdir(tmp_path)
    assert head_source("model_cards/beauty-stack") == Repository("model_cards/beauty-stack")
    with pytest.raises(HubError, match="no repository model_cards/beauty-stack"):
        catalog.fetch("model_cards/beauty-stack", public=True)


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        (COLLECTION, COLLECTION),
        (f"huggingface.co/collections/{COLLECTION}/", COLLECTION),
        ("https://huggingface.co/collections/lab/heads", "lab/heads"),
        ("lab/heads", None),
        ("https://huggingface.co/lab/heads", None),
    ],
)
def test_what_a_collection_looks_like(text: str, slug: str | None) -> None:
    assert collection_slug(text) == slug


@pytest.mark.parametrize(
    "metrics",
    [
        {},
        {"plcc": 0.7},
        METRICS | {"plcc": "<b>"},
        METRICS | {"plcc_low": float("nan")},
        METRICS | {"plcc_high": 10**400},
        METRICS | {"plcc": None},
    ],
)
def test_metrics_that_are_none_are_not_shown(metrics: dict[str, object]) -> None:
    assert values.quality(metrics) == "quality not measured"


def test_what_a_head_says_of_itself_is_cut_to_what_fits() -> None:
    assert values.short("a\n\t b\r\n") == "a b"
    assert values.short("x" * 81) == "x" * 79 + "…"
    assert values.short("x" * 80) == "x" * 80
    card = values.card_text("---\na: b\n---\n# T\n![p](p.png)\n![" + "](" * 2_000_000)
    assert card.startswith("# T\n![](](")
    assert len(card) <= values.LONGEST_CARD
