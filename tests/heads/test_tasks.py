"""A task is an entry of `TASKS`: its heads are saved, loaded, listed, described and refused where they do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import ais
from ais.demo import catalog
from ais.errors import HeadError
from ais.heads import shipped
from ais.heads.format import read_config
from ais.heads.tasks import TASKS
from ais.publish.card import model_card
from ais.publish.checks import check_folder
from helpers.commands import call
from helpers.heads import edit, save_stack, small_members
from helpers.tasks import DUMMY, DummyConfig, DummyHead, dummy_head


@pytest.fixture(autouse=True)
def task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "dummy", DUMMY)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    head = dummy_head()
    head.save(tmp_path / "heads" / "short", model_card(head.config))
    return tmp_path / "heads" / "short"


def test_its_heads_are_saved_and_loaded(folder: Path, tmp_path: Path) -> None:
    head = ais.load_head(folder)
    assert type(head) is DummyHead
    assert type(head.config) is DummyConfig
    assert (head.config.task, head.config.format) == ("dummy", 2)
    assert head(torch.ones(1, 12)).tolist() == [[66.0, 210.0, 354.0]]
    half = head.double().on("cpu")
    assert type(half) is DummyHead
    assert half.projection.dtype == torch.float32
    head.save(tmp_path / "again")
    assert torch.equal(ais.load_head(tmp_path / "again").projection, half.projection)
    check_folder(folder)


def test_what_is_wrong_with_its_own_field_is_a_sentence(folder: Path) -> None:
    edit(folder, length=99)
    with pytest.raises(HeadError, match="length should be a positive whole number"):
        ais.load_head(folder)
    edit(folder, length=4)
    with pytest.raises(HeadError, match=r"projection is F32 \[3, 12\].*should be F32 \[4, 12\]"):
        ais.load_head(folder)


def test_it_is_listed_by_the_command_the_card_and_the_page(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipped, "heads_directory", lambda: folder.parent)
    monkeypatch.setattr(catalog, "heads_directory", lambda: folder.parent)
    catalog.shipped.cache_clear()
    (listed,) = call("heads", "--json").json
    assert (listed["name"], listed["task"]) == ("short", "dummy")
    assert (listed["task_label"], listed["task_about"]) == (DUMMY.label, DUMMY.about)
    assert "A dummy" in call("heads").stdout
    text = (folder / "README.md").read_text()
    assert f"**{DUMMY.label}.** {DUMMY.about}" in text
    assert "rating" not in text.partition("## Citation")[0].lower()
    (entry,) = catalog.Catalog().entries()
    catalog.shipped.cache_clear()
    assert (entry.task, entry.about) == (DUMMY.label, DUMMY.about)
    assert entry.title == "A dummy (tiny12)"
    assert json.dumps(entry.facts)


def test_where_a_rating_is_needed_it_is_refused(folder: Path, photograph: Image.Image) -> None:
    for use in (ais.explain, ais.score):
        with pytest.raises(
            HeadError, match="'short' is for the task 'A dummy'; a head for ratings is needed"
        ):
            use(photograph, folder)


def test_a_task_without_stacks_has_none(folder: Path) -> None:
    edit(folder, members=[{"head": "a", "fingerprint": "x"}, {"head": "b", "fingerprint": "y"}])
    with pytest.raises(HeadError, match="the task 'dummy' has no stacks"):
        read_config(folder)


def test_a_stack_has_members_of_its_own_task(tmp_path: Path) -> None:
    stack = save_stack(tmp_path, small_members(), [0.5, 0.6, 0.1])
    dummy_head("two").save(tmp_path / "two")
    members = json.loads((stack / "config.json").read_text())["members"]
    members[1]["fingerprint"] = read_config(tmp_path / "two").fingerprint
    edit(stack, members=members)
    with pytest.raises(
        HeadError, match=r"member 'two' is unavailable\. It should be a head for the task 'rating'"
    ):
        ais.load_head(stack)


def test_without_its_entry_it_is_a_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(TASKS, "dummy")
    with pytest.raises(
        HeadError, match=r"the task 'dummy', which this AIS does not have \(rating\): it needs"
    ):
        ais.load_head(folder)
