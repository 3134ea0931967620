"""The local Hub against the real client: what it keeps comes back, and its failures are what they are called."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download
from huggingface_hub.errors import (
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from helpers.hub_endpoints import card_faults
from helpers.hub_failures import (
    BAD_TOKEN,
    TOO_MANY,
    CutShort,
    Dribble,
    Flipped,
    Hang,
    Late,
    Padded,
    Redirect,
    Status,
)
from helpers.local_hub import HOST, LocalHub

HEAD = "user/head"

WEIGHTS = bytes(range(256)) * 4096

FILES = {"config.json": b'{"a": 1}', "model.safetensors": WEIGHTS, "pictures/a b.png": b"\x89PNG"}


def commit(files: dict[str, bytes], repo: str = HEAD, **settings: str) -> str:
    operations = [CommitOperationAdd(name, body) for name, body in files.items()]
    return HfApi().create_commit(repo, operations, commit_message="Push", **settings).oid


def fetch(name: str = "model.safetensors", repo: str = HEAD, **settings: str) -> bytes:
    return Path(hf_hub_download(repo, name, **settings)).read_bytes()


def raw(hub: LocalHub, method: str = "GET", name: str = "model.safetensors") -> http.client.HTTPResponse:
    """An answer to no client at all."""
    connection = http.client.HTTPConnection(HOST, hub.port, timeout=30)
    connection.request(method, f"/{HEAD}/resolve/main/{name}", headers={"Range": "bytes=10-"})
    return connection.getresponse()


def in_background(function: Callable[[], object]) -> threading.Thread:
    """Something that a failure may break off."""

    def run() -> None:
        with suppress(http.client.HTTPException, OSError):
            function()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


@pytest.fixture
def pushed(hub: LocalHub) -> LocalHub:
    hub.add(HEAD, FILES)
    return hub


def test_what_the_client_pushes_comes_back_bit_for_bit(hub: LocalHub) -> None:
    hub.login()
    url = HfApi().create_repo(HEAD, private=True)
    identity = commit(FILES)
    assert url.repo_id == HEAD
    assert {name: fetch(name) for name in FILES} == FILES
    assert hub.files(HEAD).items() >= FILES.items()
    assert hub.repositories[HEAD].private
    assert hub.commits(HEAD)[0].id == identity == HfApi().model_info(HEAD).sha
    assert len(hub.commits(HEAD)) == 2


def test_the_tree_lists_files_and_folders(pushed: LocalHub) -> None:
    assert set(HfApi().list_repo_files(HEAD)) == {".gitattributes", *FILES}
    top = {item.path for item in HfApi().list_repo_tree(HEAD)}
    assert top == {".gitattributes", "config.json", "model.safetensors", "pictures"}
    (inside,) = HfApi().list_repo_tree(HEAD, "pictures")
    assert (inside.path, inside.size) == ("pictures/a b.png", 4)


def test_a_snapshot_holds_every_file(pushed: LocalHub) -> None:
    folder = Path(huggingface_hub.snapshot_download(HEAD))
    assert {n: (folder / n).read_bytes() for n in FILES} == FILES


def test_a_second_push_without_change_makes_no_commit(hub: LocalHub) -> None:
    hub.login()
    HfApi().create_repo(HEAD)
    HfApi().create_repo(HEAD, exist_ok=True)
    first, second = commit(FILES), commit(FILES)
    assert first == second
    assert len(hub.seen("POST", "/commit/")) == 1
    third = commit(FILES | {"config.json": b"{}"})
    assert third != second
    assert hub.files(HEAD)["config.json"] == b"{}"


def test_a_file_can_be_deleted(pushed: LocalHub) -> None:
    pushed.login()
    HfApi().create_commit(HEAD, [CommitOperationDelete("pictures/")], commit_message="Delete")
    assert set(pushed.files(HEAD)) == {".gitattributes", "config.json", "model.safetensors"}
    with pytest.raises(RemoteEntryNotFoundError):
        HfApi().create_commit(HEAD, [CommitOperationDelete("no.txt")], commit_message="Delete")


def test_a_commit_upon_another_than_the_newest_is_refused(pushed: LocalHub) -> None:
    pushed.login()
    seen = HfApi().model_info(HEAD).sha
    assert seen is not None
    newer = commit({"config.json": b"theirs"}, parent_commit=seen)
    with pytest.raises(HfHubHTTPError, match="A commit has happened since") as caught:
        commit({"config.json": b"mine"}, parent_commit=seen)
    assert caught.value.response.status_code == 412
    assert pushed.commits(HEAD)[0].id == newer


def test_branches_and_tags_are_revisions(pushed: LocalHub) -> None:
    pushed.login()
    api = HfApi()
    api.create_branch(HEAD, branch="feature/x")
    api.create_branch(HEAD, branch="feature/x", exist_ok=True)
    other = commit({"config.json": b"other"}, revision="feature/x")
    api.create_tag(HEAD, tag="v1", revision="feature/x")
    assert fetch("config.json", revision="feature/x") == fetch("config.json", revision="v1") == b"other"
    assert fetch("config.json", revision=other) == b"other"
    assert fetch("config.json") == FILES["config.json"]
    refs = api.list_repo_refs(HEAD)
    assert {ref.name for ref in refs.branches} == {"main", "feature/x"}
    assert [(ref.name, ref.target_commit) for ref in refs.tags] == [("v1", other)]
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_branch(HEAD, branch="feature/x")
    with pytest.raises(RevisionNotFoundError):
        commit(FILES, revision="nowhere")


def test_a_space_has_files_and_variables_of_its_own(hub: LocalHub) -> None:
    hub.login()
    api = HfApi()
    api.create_repo("user/head", repo_type="space", space_sdk="gradio")
    commit({"app.py": b"print()"}, "user/head", repo_type="space")
    api.add_space_variable("user/head", "AIS_HEADS", "user/a,user/b")
    assert fetch("app.py", "user/head", repo_type="space") == b"print()"
    assert set(hub.files("spaces/user/head")) == {".gitattributes", "README.md", "app.py"}
    assert {k: v.value for k, v in api.get_space_variables("user/head").items()} == {
        "AIS_HEADS": "user/a,user/b"
    }
    assert api.space_info("user/head").sha == hub.commits("spaces/user/head")[0].id
    assert HEAD not in hub.repositories


def test_a_collection_lists_its_repositories_in_order(hub: LocalHub) -> None:
    hub.add_collection("user/heads-65f0", "user/b", "user/a")
    assert [item.item_id for item in HfApi().get_collection("user/heads-65f0").items] == ["user/b", "user/a"]
    with pytest.raises(HfHubHTTPError, match="404"):
        HfApi().get_collection("user/other-65f0")


def test_the_hub_knows_who_a_token_belongs_to(hub: LocalHub) -> None:
    hub.login("hf_abc", "anna")
    assert HfApi().whoami()["name"] == "anna"
    assert hub.seen("GET", "whoami")[0].authorization == "Bearer hf_abc"


@pytest.mark.parametrize("user", [None, "stranger", "user"])
@pytest.mark.parametrize("lock", ["private", "gated"])
def test_only_those_who_may_get_a_locked_head(hub: LocalHub, user: str | None, lock: str) -> None:
    hub.add(HEAD, FILES, **{lock: True})
    if user:
        hub.login(user=user)
    if user == "user":
        assert fetch() == WEIGHTS
        return
    with pytest.raises(RepositoryNotFoundError) as caught:
        fetch()
    assert isinstance(caught.value, GatedRepoError) == (lock == "gated")
    refused = {"private": 404, "gated": 403}[lock]
    assert caught.value.response.status_code == (refused if user else 401)


def test_a_reader_let_in_gets_a_gated_head(hub: LocalHub) -> None:
    hub.add(HEAD, FILES, gated=True)
    hub.repositories[HEAD].readers.add("friend")
    hub.login(user="friend")
    assert fetch() == WEIGHTS


def test_a_token_the_hub_does_not_know_is_said_to_be_bad(pushed: LocalHub) -> None:
    pushed.login("hf_wrong", None)
    with pytest.raises(HfHubHTTPError, match="Invalid credentials") as caught:
        HfApi().model_info(HEAD)
    assert not isinstance(caught.value, RepositoryNotFoundError)


@pytest.mark.parametrize(
    ("name", "repo", "revision", "error"),
    [
        ("no.json", HEAD, "main", RemoteEntryNotFoundError),
        ("config.json", HEAD, "no", RevisionNotFoundError),
        ("config.json", HEAD, "0" * 40, RevisionNotFoundError),
        ("config.json", "user/no", "main", RepositoryNotFoundError),
    ],
)
def test_what_is_missing_is_named(
    pushed: LocalHub, name: str, repo: str, revision: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        fetch(name, repo, revision=revision)


@pytest.mark.parametrize(
    ("user", "write", "status"), [("stranger", True, 403), ("user", False, 403), (None, True, 401)]
)
def test_only_the_owner_with_a_write_token_may_push(
    pushed: LocalHub, user: str | None, write: bool, status: int
) -> None:
    if user:
        pushed.login(user=user, write=write)
    for push in (
        lambda: commit({"config.json": b"mine"}),
        lambda: HfApi().create_repo("user/new"),
        lambda: HfApi().create_branch(HEAD, branch="b"),
    ):
        with pytest.raises(HfHubHTTPError) as caught:
            push()
        assert caught.value.response.status_code == status
    assert pushed.files(HEAD)["config.json"] == FILES["config.json"]
    assert set(pushed.repositories) == {HEAD}


def test_a_faulty_card_is_refused_before_a_commit(pushed: LocalHub) -> None:
    pushed.login()
    with pytest.raises(ValueError, match="short_description"):
        commit({"README.md": b"---\nshort_description: " + b"x" * 61 + b"\n---\n"})
    assert not pushed.seen("POST", "/commit/")


@pytest.mark.parametrize(
    ("card", "kind", "faults"),
    [
        ("---\na: [\n---\n", "model", 1),
        ("---\nbase_model: a b\n---\n", "model", 1),
        ("---\nbase_model: timm/x\ntags: [a]\n---\n", "model", 0),
        (
            "---\nmodel-index:\n- results:\n  - {task: {type: t}, dataset: {name: n}, metrics: []}\n---\n",
            "model",
            1,
        ),
        ("---\ntitle: t\nsdk: gradio\n---\n", "space", 0),
        ("---\ncolorTo: pinkish\n---\n", "space", 3),
    ],
)
def test_faults_of_a_card_are_counted(card: str, kind: str, faults: int) -> None:
    assert len(card_faults(card, kind)[0]) == faults


def test_a_cached_commit_needs_no_request_and_a_cached_branch_one(pushed: LocalHub) -> None:
    identity = pushed.commits(HEAD)[0].id
    fetch()
    pushed.requests.clear()
    assert fetch(revision=identity) == WEIGHTS
    assert not pushed.requests
    assert fetch() == WEIGHTS
    assert [call.method for call in pushed.requests] == ["HEAD"]


def test_a_part_of_a_file_can_be_asked_for(pushed: LocalHub) -> None:
    answer = raw(pushed)
    assert answer.status == 206
    assert answer.headers["Content-Range"] == f"bytes 10-{len(WEIGHTS) - 1}/{len(WEIGHTS)}"
    assert answer.read() == WEIGHTS[10:]


@pytest.mark.parametrize("how", [BAD_TOKEN, TOO_MANY, Status(403), Status(404), Status(500), Status(503)])
def test_a_status_on_demand_reaches_the_client_so_many_times(pushed: LocalHub, how: Status) -> None:
    pushed.fail("GET", "api/models", how, times=2)
    for _ in range(2):
        with pytest.raises(HfHubHTTPError) as caught:
            HfApi().model_info(HEAD)
        assert caught.value.response.status_code == how.code
        assert caught.value.response.headers.items() >= {k.lower(): v for k, v in how.headers.items()}.items()
    assert HfApi().model_info(HEAD).id == HEAD


def test_a_failure_strikes_only_what_it_names_and_heals(pushed: LocalHub) -> None:
    pushed.fail("GET|HEAD", "config.json", Status(404))
    assert fetch() == WEIGHTS
    with pytest.raises(LocalEntryNotFoundError):
        fetch("config.json")
    pushed.heal()
    assert fetch("config.json") == FILES["config.json"]


def test_a_cached_copy_stands_in_while_the_hub_is_out_of_order(pushed: LocalHub) -> None:
    fetch()
    pushed.fail("HEAD", "", Status(503))
    assert fetch() == WEIGHTS


def test_a_hang_holds_up_nobody_else(pushed: LocalHub) -> None:
    pushed.fail("HEAD", "model.safetensors", Hang(60))
    waiting = in_background(lambda: raw(pushed, "HEAD"))
    pushed.wait_for("HEAD", "model.safetensors")
    assert fetch("config.json") == FILES["config.json"]
    assert waiting.is_alive()


def test_a_hang_ends_with_its_test(hub_server: LocalHub, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch, hub_server.lent(monkeypatch, tmp_path) as hub:
        hub.add(HEAD, FILES)
        hub.fail("GET", "", Hang(600))
        waiting = in_background(lambda: raw(hub))
        hub.wait_for("GET", "")
    waiting.join(60)
    assert not waiting.is_alive()
    assert not hub.requests


def test_a_call_left_behind_by_an_earlier_test_is_turned_away(hub_server: LocalHub, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch, hub_server.lent(monkeypatch, tmp_path):
        stale = HfApi()._build_hf_headers()
    with pytest.MonkeyPatch.context() as monkeypatch, hub_server.lent(monkeypatch, tmp_path) as hub:
        hub.add(HEAD, FILES)
        answer = huggingface_hub.get_session().get(
            f"http://{HOST}:{hub.port}/api/models/{HEAD}", headers=stale
        )
        assert answer.status_code == 410
        assert not hub.requests
        assert HfApi().model_info(HEAD).id == HEAD


def test_a_body_cut_short_once_is_fetched_anew(pushed: LocalHub) -> None:
    pushed.fail("GET", "model.safetensors", CutShort(100_000), times=1)
    assert fetch() == WEIGHTS
    assert len(pushed.seen("GET", "model.safetensors")) == 2


def test_a_body_cut_short_is_so_every_time_whatever_part_is_asked_for(pushed: LocalHub) -> None:
    pushed.fail("GET", "model.safetensors", CutShort(1000))
    for _ in range(2):
        answer = raw(pushed)
        assert answer.status == 200
        assert answer.headers["Content-Length"] == str(len(WEIGHTS))
        with pytest.raises(http.client.IncompleteRead) as caught:
            answer.read()
        assert caught.value.partial == WEIGHTS[:1000]


def test_a_flipped_bit_passes_the_client_unseen(pushed: LocalHub) -> None:
    pushed.fail("GET", "model.safetensors", Flipped(1000))
    got = fetch()
    assert [i for i, (a, b) in enumerate(zip(got, WEIGHTS, strict=True)) if a != b] == [1000]


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_a_padded_file_is_as_long_as_it_claims(pushed: LocalHub, method: str) -> None:
    pushed.fail("", "config.json", Padded(5_000_000))
    answer = raw(pushed, method, "config.json")
    assert answer.headers["Content-Length"] == "5000000"
    body = answer.read()
    assert body == (b"" if method == "HEAD" else FILES["config.json"].ljust(5_000_000))


def test_a_redirect_gives_the_file_but_not_the_token_to_another_host(pushed: LocalHub) -> None:
    pushed.login()
    pushed.fail("HEAD|GET", "model.safetensors", Redirect())
    assert fetch() == WEIGHTS
    assert [call.authorization for call in pushed.elsewhere] == [None]
    assert all(call.authorization == "Bearer hf_secret" for call in pushed.requests)


def test_a_redirect_that_says_no_commit_is_not_the_hub(pushed: LocalHub) -> None:
    pushed.fail("HEAD|GET", "model.safetensors", Redirect(linked=False))
    with pytest.raises((FileMetadataError, LocalEntryNotFoundError)):
        fetch()


def test_a_late_commit_is_made_before_it_is_answered(pushed: LocalHub) -> None:
    pushed.login()
    pushed.fail("POST", "/commit/", Late(600))
    in_background(lambda: commit({"config.json": b"late"}))
    end = time.monotonic() + 60
    while len(pushed.commits(HEAD)) == 2 and time.monotonic() < end:
        time.sleep(0.01)
    assert pushed.files(HEAD)["config.json"] == b"late"


PULL = f"from huggingface_hub import hf_hub_download; print(hf_hub_download({HEAD!r}, 'model.safetensors'))"

PUSH = f"from huggingface_hub import upload_file as put; put(path_or_fileobj=b'', path_in_repo='x', repo_id={HEAD!r})"


def test_a_process_has_a_cache_of_its_own(pushed: LocalHub) -> None:
    said = subprocess.run(
        [sys.executable, "-c", PULL], env=pushed.environment, capture_output=True, text=True, check=True
    )
    path = Path(said.stdout.strip())
    assert path.is_relative_to(pushed.environment["HF_HOME"])
    assert path.read_bytes() == WEIGHTS
    assert not Path(os.environ["HF_HOME"], "hub").exists()


def test_a_process_killed_in_the_middle_of_a_dribble_leaves_no_whole_file(pushed: LocalHub) -> None:
    pushed.fail("GET", "model.safetensors", Dribble(600))
    process = subprocess.Popen(
        [sys.executable, "-c", PULL], env=pushed.environment, stderr=subprocess.DEVNULL
    )
    pushed.wait_for("GET", "model.safetensors")
    process.kill()
    process.wait()
    assert not list(Path(pushed.environment["HF_HOME"]).rglob("model.safetensors"))


def test_a_process_killed_before_its_commit_is_made_leaves_the_repository_alone(pushed: LocalHub) -> None:
    pushed.login()
    pushed.fail("POST", "/commit/", Hang(600), times=1)
    process = subprocess.Popen(
        [sys.executable, "-c", PUSH], env=pushed.environment, stderr=subprocess.DEVNULL
    )
    pushed.wait_for("POST", "/commit/")
    process.kill()
    process.wait()
    assert len(pushed.commits(HEAD)) == 2
    commit({"x": b"another"})
    assert [c.files.get("x") for c in pushed.commits(HEAD)] == [b"another", None, None]


def test_a_dribble_is_whole_in_the_end(pushed: LocalHub) -> None:
    pushed.fail("GET", "model.safetensors", Dribble(0.3, 7))
    assert fetch() == WEIGHTS


def test_the_hub_refuses_connections_and_comes_back_on_the_same_port(pushed: LocalHub) -> None:
    assert raw(pushed).status == 206
    pushed.refuse()
    with pytest.raises(ConnectionRefusedError):
        raw(pushed)
    pushed.accept()
    assert fetch() == WEIGHTS
