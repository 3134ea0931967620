"""Heads from the Hub, by the real client from a Hub on this machine; and every way in which that can fail."""

from __future__ import annotations

import json
import logging
import re
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import ais
from ais.errors import AISError, HeadError, HubError
from ais.heads.loading import find_head, load_head, load_head_cached, read_card
from ais.heads.regression import RegressionHead
from ais.heads.stack import StackedHead
from ais.io import hub
from ais.io import hub as io_hub
from ais.io.hub import Repository, parse_repository
from ais.publish.card import model_card
from helpers.heads import change_head, make_head, save_stack, small_members
from helpers.hub_failures import (
    BAD_TOKEN,
    TOO_MANY,
    CutShort,
    Dribble,
    Flipped,
    Hang,
    Padded,
    Redirect,
    Status,
)
from helpers.local_hub import LocalHub

ID = "user/head"

LOAD = "import sys, ais; print(ais.load_head(sys.argv[1]).repository)"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_head().save(tmp_path / "test-head", card="# The card\n")
    return tmp_path / "test-head"


@pytest.fixture
def published(hub: LocalHub, folder: Path) -> str:
    """The commit of a head on the Hub."""
    return hub.add_head(ID, folder)


def weights(head: torch.nn.Module) -> list[bytes]:
    return [value.numpy().tobytes() for value in head.state_dict().values()]


# What works -------------------------------------------------------------------------------------------------


def test_a_head_is_loaded_by_its_id(hub: LocalHub, published: str, folder: Path) -> None:
    head = load_head(ID)
    assert weights(head) == weights(load_head(folder))
    assert head.repository == Repository(ID, published)
    assert head.notice == ""
    assert read_card(head) == "# The card\n"
    assert not any(call.authorization for call in hub.requests)


@pytest.mark.parametrize("source", [ID, f"{ID}@main", f"https://huggingface.co/{ID}", f" {ID} "])
def test_ways_to_name_it(source: str, published: str) -> None:
    assert load_head(source).repository == Repository(ID, published)


def test_branches_tags_and_commits(hub: LocalHub, folder: Path, tmp_path: Path) -> None:
    first = hub.add_head(ID, folder)
    make_head(seed=1).save(tmp_path / "other", card="# Other\n")
    second = hub.add_head(ID, tmp_path / "other", "try/1")
    hub.repositories[ID].tags["v1"] = first
    one, two = weights(load_head(folder)), weights(load_head(tmp_path / "other"))
    assert one != two
    for source, revision, want in (
        (ID, None, one),
        (f"{ID}@try/1", None, two),
        (ID, "try/1", two),
        (ID, "v1", one),
        (ID, first, one),
        (f"{ID}@{second}", second, two),
    ):
        assert weights(load_head(source, revision)) == want


def test_a_commit_that_is_cached_needs_no_request(hub: LocalHub, published: str) -> None:
    load_head(f"{ID}@{published}")
    hub.requests.clear()
    hub.refuse()
    head = load_head(ID, published)
    assert head.notice == ""
    assert hub.requests == []


def test_a_branch_costs_one_request_and_is_followed(
    hub: LocalHub, published: str, folder: Path, tmp_path: Path
) -> None:
    load_head(ID)
    hub.requests.clear()
    assert load_head(ID).repository == Repository(ID, published)
    assert [call.method for call in hub.requests] == ["HEAD"]
    make_head(seed=1).save(folder, card="# Newer\n")
    newer = hub.add_head(ID, folder)
    head = load_head(ID)
    assert head.repository == Repository(ID, newer)
    assert weights(head) == weights(load_head(folder))


def test_a_private_head_with_a_token(hub: LocalHub, folder: Path) -> None:
    hub.add_head(ID, folder, private=True)
    hub.login("hf_of_the_owner")
    head = load_head(ID)
    assert isinstance(head, RegressionHead)
    assert {call.authorization for call in hub.requests} == {"Bearer hf_of_the_owner"}


def test_what_is_public_is_asked_for_without_the_owners_token(hub: LocalHub, folder: Path) -> None:
    hub.add_head(ID, folder, private=True)
    hub.login("hf_of_the_owner")
    with pytest.raises(HubError, match=r"no repository user/head on the Hub that everybody may read\."):
        find_head(Repository(ID), public=True)
    assert not any(call.authorization for call in hub.requests)


def test_the_card_of_a_head_that_everybody_may_read(hub: LocalHub, published: str) -> None:
    hub.login("hf_of_the_owner")
    head = load_head_cached(Repository(ID, published), public=True)
    assert read_card(head) == "# The card\n"
    assert not any(call.authorization for call in hub.requests)


@pytest.mark.parametrize("pinned", [False, True])
def test_what_the_owners_token_fetched_is_shown_to_nobody_else(
    pinned: bool, hub: LocalHub, folder: Path
) -> None:
    commit = hub.add_head(ID, folder, private=True)
    hub.login("hf_of_the_owner")
    load_head(ID)
    hub.refuse()
    assert load_head(ID).notice
    with pytest.raises(HubError, match="cannot be reached"):
        find_head(Repository(ID, commit if pinned else "main"), public=True)


def test_a_notice_is_of_its_time(hub: LocalHub, published: str) -> None:
    assert load_head_cached(ID).notice == ""
    hub.refuse()
    assert "The copy fetched before is used" in load_head_cached(ID).notice
    hub.accept()
    assert load_head_cached(ID).notice == ""


def test_a_repository_is_never_a_folder_of_this_machine(
    hub: LocalHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent.parent)
    name = f"{folder.parent.name}/{folder.name}"
    assert load_head(name).repository is None  # a folder comes first
    with pytest.raises(HubError, match="no repository"):
        load_head(Repository(name))


def test_a_revision_and_a_copy(hub: LocalHub, published: str, tmp_path: Path) -> None:
    head = load_head(ID, revision="main")
    assert head.repository == Repository(ID, published)
    head.save(tmp_path / "again", model_card(head.config))
    assert weights(load_head(tmp_path / "again")) == weights(head)
    assert (tmp_path / "again" / "README.md").read_text().startswith("---\n")
    with pytest.raises(AttributeError):
        head.from_pretrained  # noqa: B018


def test_explanations_are_equal_to_the_bit_and_say_whence(hub: LocalHub, photograph: Image.Image) -> None:
    folder = ais.load_head().folder
    assert folder is not None
    commit = hub.add_head("user/beauty", folder)
    here, there = ais.explain(photograph), ais.explain(photograph, "user/beauty")
    assert (here.score, here.interval, here.percentile) == (there.score, there.interval, there.percentile)
    assert here.heatmap.tobytes() == there.heatmap.tobytes()
    assert here.importance.tobytes() == there.importance.tobytes()
    assert (here.source, there.source) == ("", f"user/beauty@{commit}")


def test_a_head_that_is_asked_for_again_is_not_read_again(published: str) -> None:
    assert load_head_cached(f"{ID}@{published}") is load_head_cached(f"{ID}@{published}")


def test_a_stacks_members_are_its_neighbours_on_the_hub(hub: LocalHub, tmp_path: Path) -> None:
    stack = save_stack(tmp_path, small_members(), [0.5, 0.6, 0.1])
    commit = hub.add_head("user/stack", stack)
    for member in load_head(stack).config.members:
        hub.add_head(f"user/{member.head}", stack.parent / member.head)
    loaded = load_head("user/stack")
    assert isinstance(loaded, StackedHead)
    assert weights(loaded) == weights(load_head(stack))
    hub.refuse()
    assert weights(load_head("user/stack", commit)) == weights(loaded)  # no request for the members either
    hub.accept()
    make_head(seed=9).save(stack.parent / "one")
    hub.add_head("user/one", stack.parent / "one")
    assert weights(load_head("user/stack", commit)) == weights(loaded)


def test_a_stack_whose_member_is_not_published(hub: LocalHub, tmp_path: Path) -> None:
    hub.add_head("user/stack", save_stack(tmp_path, small_members(), [0.5, 0.6, 0.1]))
    with pytest.raises(
        HubError, match=r"is a stack, and its member 'one' is unavailable.*no repository user/one"
    ):
        load_head("user/stack")


# Names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a/b", Repository("a/b")),
        ("a/b@v1.0", Repository("a/b", "v1.0")),
        ("a/b@refs/pr/1", Repository("a/b", "refs/pr/1")),
        ("huggingface.co/a/b", Repository("a/b")),
        ("https://hf.co/a/b/tree/dev", Repository("a/b", "dev")),
        ("https://huggingface.co/a/b?x=1", None),
        ("https://example.org/a/b", None),
        ("a", None),
        ("a/b/c", None),
        ("/a/b", None),
        ("../b", None),
        ("a/..", None),
        ("a/b@", None),
        ("a/b c", None),
        ("", None),
        ("a/<b>", None),
    ],
)
def test_what_is_an_id(text: str, wanted: Repository | None) -> None:
    assert parse_repository(text) == wanted


@pytest.mark.parametrize("revision", ["../x", "a/../../b", "/x", "a//b", ".", "x y", "${x}", "a\\b", "-\n"])
def test_a_revision_that_is_none_is_refused(revision: str) -> None:
    with pytest.raises(HubError, match="cannot be a revision of a/b"):
        parse_repository("a/b", revision)


def test_two_revisions_are_one_too_many() -> None:
    with pytest.raises(HubError, match="'v1', but 'v2' is asked for"):
        load_head("a/b@v1", "v2")
    with pytest.raises(HeadError, match="has no revisions"):
        load_head("beauty-stack", "v2")


@given(st.text(max_size=40))
def test_any_text_is_an_id_or_not(text: str) -> None:
    try:
        found = parse_repository(text)
    except HubError:
        return
    if found is not None:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", found.id)
        assert ".." not in f"{found.id}/{found.revision}".split("/")


# What fails -------------------------------------------------------------------------------------------------

FAILURES: dict[str, tuple[Callable[[LocalHub], Any], str]] = {
    "401": (
        lambda hub: hub.fail("HEAD", "config.json", BAD_TOKEN),
        "config.json of user/head could not be downloaded: the Hub refuses the token.*hf auth login",
    ),
    "404 file": (
        lambda hub: (
            hub.add("user/head", {"config.json": b"{}"})
            and hub.repositories.pop("user/head")
            and hub.add("user/head", {"pytorch_model.bin": b"x"})
        ),
        "user/head has no config.json at its revision main, which AIS needs",
    ),
    "429": (
        lambda hub: hub.fail("HEAD", "config.json", TOO_MANY),
        "rate limit is reached. Try again in 120 seconds",
    ),
    "500": (lambda hub: hub.fail("HEAD", "config.json", Status(500)), "returned an error .500.. Try again"),
    "503": (lambda hub: hub.fail("HEAD", "config.json", Status(503)), "returned an error .503.. Try again"),
    "503 of the weights": (
        lambda hub: hub.fail("GET", "model.safetensors", Status(503)),
        "model.safetensors of user/head.* returned an error .503.. Try again",
    ),
    "refused": (lambda hub: hub.refuse(), "the Hub .http.* cannot be reached. Check the connection"),
    "a hang": (
        lambda hub: hub.fail("HEAD", "config.json", Hang(60)),
        "the Hub .http.* cannot be reached. Check the connection",
    ),
    "a hang of the body": (
        lambda hub: hub.fail("GET", "config.json", Hang(60)),
        "config.json of user/head.*cannot be reached. Check the connection",
    ),
    "cut short": (
        lambda hub: hub.fail("GET", "config.json", CutShort(100)),
        "config.json of user/head.*cannot be reached",
    ),
    "no Hub at all": (
        lambda hub: hub.fail("HEAD", "config.json", Redirect(linked=False)),
        "does not answer as the Hub does. Check HF_ENDPOINT",
    ),
    "a config of 200 MB": (
        lambda hub: hub.fail("HEAD", "config.json", Padded(200 << 20)),
        "config.json of user/head is too large.*over 4 MiB",
    ),
}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "TIMEOUT", 1.5)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 1)


@pytest.mark.parametrize("failure", FAILURES)
def test_every_failure_is_a_sentence_and_passes(
    failure: str,
    hub: LocalHub,
    published: str,
    folder: Path,
    impatient: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fail, sentence = FAILURES[failure]
    fail(hub)
    hub.login("hf_not_to_be_told")
    with pytest.raises(HubError, match=sentence) as caught:
        load_head(ID)
    assert "hf_not_to_be_told" not in str(caught.value)
    assert "\n" not in str(caught.value)
    hub.heal()
    hub.accept()
    hub.add_head(ID, folder)
    monkeypatch.setattr(io_hub, "TIMEOUT", 9)  # the client's thread that was left behind may hold its lock
    assert load_head(ID).notice == ""


def test_nobody_waits_longer_than_ten_seconds() -> None:
    """A time-out of the connection, and then one more for the thread that has it."""
    assert hub.TIMEOUT < 10


def test_no_such_repository(hub: LocalHub) -> None:
    with pytest.raises(HubError, match="no repository user/nothing on the Hub, or it is private and nobody"):
        load_head("user/nothing")
    hub.login()
    with pytest.raises(HubError, match="no repository other/nothing on the Hub, or the token in use may not"):
        load_head("other/nothing")


def test_a_gated_repository(hub: LocalHub, folder: Path) -> None:
    hub.add_head("other/head", folder, gated=True)
    hub.login()
    with pytest.raises(HubError, match=r"other/head is gated: accept its terms at http\S+/other/head"):
        load_head("other/head")


def test_no_such_revision(published: str) -> None:
    with pytest.raises(HubError, match="user/head has no revision 'v9'"):
        load_head(ID, "v9")
    with pytest.raises(HubError, match=f"user/head has no revision '{'0' * 40}'"):
        load_head(ID, "0" * 40)


@pytest.mark.parametrize("how", ["refused", "500", "503", "429", "a hang"])
def test_the_cached_copy_is_used_and_that_is_said(
    how: str, hub: LocalHub, published: str, impatient: None, caplog: pytest.LogCaptureFixture
) -> None:
    before = load_head(ID)
    FAILURES[how][0](hub)
    with caplog.at_level(logging.WARNING, "ais"):
        head = load_head(ID)
    assert weights(head) == weights(before)
    assert re.search(f"The copy fetched before is used, commit {published[:7]}", head.notice)
    assert head.notice in caplog.text
    assert head.repository == Repository(ID, published)


@pytest.mark.parametrize("how", ["401", "404 file", "no Hub at all"])
def test_the_cached_copy_does_not_hide_an_answer(how: str, hub: LocalHub, published: str) -> None:
    load_head(ID)
    FAILURES[how][0](hub)
    hub.login()
    with pytest.raises(HubError, match=FAILURES[how][1]):
        load_head(ID)


def test_a_branch_of_which_only_half_is_cached(hub: LocalHub, published: str) -> None:
    hub.fail("GET", "model.safetensors", Status(500), times=1)
    with pytest.raises(HubError, match=r"returned an error .500"):
        load_head(ID)
    hub.refuse()
    with pytest.raises(
        HubError, match=r"But model\.safetensors is not there: try again when the Hub answers"
    ):
        load_head(ID)


def test_offline_is_obeyed(
    hub: LocalHub, published: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    load_head(ID)
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE forbids it" in load_head(ID).notice
    assert load_head(ID, published).notice == ""
    with pytest.raises(
        HubError, match=r"config\.json of user/other is not fetched: HF_HUB_OFFLINE forbids it"
    ):
        load_head("user/other")
    assert hub.requests == []


def test_the_body_of_another_host_comes_without_the_token(hub: LocalHub, published: str) -> None:
    hub.login("hf_not_to_be_sent")
    hub.fail("HEAD|GET", "model.safetensors", Redirect())
    assert isinstance(load_head(ID), RegressionHead)
    assert hub.elsewhere
    assert not any(call.authorization for call in hub.elsewhere)


def test_a_flipped_byte_is_noticed_and_fetched_anew(hub: LocalHub, published: str) -> None:
    hub.fail("GET", "model.safetensors", Flipped(), times=1)
    with pytest.raises(
        HeadError,
        match=r"user/head, revision main, are damaged: the SHA-256 of model\.safetensors.*fetched again",
    ) as caught:
        load_head(ID)
    assert constants.HF_HUB_CACHE not in str(caught.value)
    assert load_head(ID).repository == Repository(ID, published)


def test_a_config_that_came_damaged_is_fetched_anew(hub: LocalHub, published: str) -> None:
    hub.fail("GET", "config.json", Flipped(0), times=1)
    with pytest.raises(
        HeadError, match=r"config\.json in user/head, revision main, is not JSON.*fetched again"
    ):
        load_head(ID)
    assert load_head(ID).repository == Repository(ID, published)


def _header(folder: Path) -> None:
    header = json.dumps(
        {"weight1": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]}}
    )
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header.encode())


def _edit(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return edit


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (_header, r"model\.safetensors in user/head, revision main, lacks the tensor"),
        (_edit(format=9), r"config\.json in user/head, revision main, has format 9, newer than this AIS"),
        (_edit(name="../../x"), "name should be that of a folder"),
        (_edit(dim=10**12), "dim should be a positive whole number"),
        (_edit(hidden=8), "in user/head, revision main, the tensor"),
        (
            lambda folder: (folder / "model.safetensors").unlink(),
            r"has no model\.safetensors at its revision",
        ),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
            r"has no model\.safetensors",
        ),
    ],
)
def test_a_head_that_is_none_is_a_sentence(
    spoil: Callable[[Path], None], sentence: str, hub: LocalHub, folder: Path
) -> None:
    spoil(folder)
    hub.add_head(ID, folder)
    with pytest.raises((HeadError, HubError), match=sentence) as caught:
        load_head(ID)
    assert constants.HF_HUB_CACHE not in str(caught.value)
    assert hub.seen("GET", "pytorch_model") == []


@pytest.mark.parametrize(
    "backbone", ["../../etc/passwd", "timm:../../x", "<img src=x onerror=alert(1)>", "${alert(1)}", "hub:a/b"]
)
def test_a_hostile_backbone_is_a_sentence(
    backbone: str, hub: LocalHub, folder: Path, photograph: Image.Image
) -> None:
    make_head(backbone).save(folder)
    hub.add_head(ID, folder)
    requests = len(hub.requests)
    with pytest.raises(AISError, match="wants a backbone that this AIS does not know"):
        ais.explain(photograph, ID)
    assert all(ID in call.path for call in hub.requests[requests:])


def test_a_tuned_backbone_that_came_damaged(hub: LocalHub, folder: Path) -> None:
    import hashlib

    data = b"the tensors of a network" * 100
    head = change_head(make_head(), tuned_sha256=hashlib.sha256(data).hexdigest())
    head.save(folder, extra={"backbone.safetensors": data})
    hub.add_head(ID, folder)
    hub.fail("GET", "backbone.safetensors", Flipped(), times=1)
    loaded = load_head(ID)
    assert isinstance(loaded, RegressionHead)
    with pytest.raises(HeadError, match=r"backbone\.safetensors is damaged.*fetched again"):
        ais.heads.loading.tuned_backbone(loaded)
    again = load_head(ID)
    assert isinstance(again, RegressionHead)
    file = ais.heads.loading.tuned_backbone(again)
    assert file is not None
    assert file.read_bytes() == data


# Other processes --------------------------------------------------------------------------------------------


def start(hub: LocalHub, *arguments: str, code: str = LOAD, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=hub.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.slow
def test_two_processes_pull_the_same_head(hub: LocalHub, published: str) -> None:
    hub.fail("GET", "model.safetensors", Dribble(2, 10))
    both = [start(hub, ID) for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=120)
        assert out.strip() == f"{ID}@{published}", err


@pytest.mark.slow
def test_killed_in_the_middle_of_a_pull(hub: LocalHub, published: str) -> None:
    hub.fail("GET", "model.safetensors", Dribble(60), times=1)
    process = start(hub, ID)
    hub.wait_for("GET", "model.safetensors")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    out, err = start(hub, ID).communicate(timeout=120)
    assert out.strip() == f"{ID}@{published}", err


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no limits on files")
def test_a_full_disk_is_a_sentence(hub: LocalHub, tmp_path: Path) -> None:
    """A limit on the size of files stands in for it: writing fails in the same place, with another number."""
    folder = tmp_path / "large"
    make_head(hidden=4096).save(folder)
    published = hub.add_head(ID, folder)
    code = (
        "import resource, sys, ais\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, resource.RLIM_INFINITY))\n"
        "try:\n    ais.load_head(sys.argv[1])\nexcept ais.HubError as error:\n    print(error)\n"
    )
    out, err = start(hub, ID, code=code).communicate(timeout=120)
    assert re.search(r"model\.safetensors of user/head.* cannot be kept in .*make room there", out), err
    out, err = start(hub, ID).communicate(timeout=120)
    assert out.strip() == f"{ID}@{published}", err


@pytest.mark.slow
def test_a_cache_that_cannot_be_written_is_a_sentence(hub: LocalHub, published: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    process = subprocess.run(
        [sys.executable, "-c", "from ais.cli import main; main()", "score", str(tmp_path), "--head", ID],
        env=hub.environment | {"HF_HOME": str(tmp_path / "file" / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 2
    assert re.fullmatch(r"ais: config\.json of user/head.* cannot be kept in .*\n", process.stderr), (
        process.stderr
    )
