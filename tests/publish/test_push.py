"""Publishing a head: what is checked before, one commit or none, nobody's push overwritten; and a Space of the page."""

from __future__ import annotations

import json
import re
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from PIL import Image

import ais
from ais.errors import AISError, HeadError, HubError
from ais.heads.config import EMBEDDED
from ais.heads.format import read_config
from ais.heads.loading import load_head
from ais.io.hub import Repository
from ais.publish import push, space
from ais.publish.card import model_card, parse_card_links
from ais.publish.checks import check_folder
from ais.publish.push import push_head, repository_to_push
from ais.publish.space import push_space
from helpers.heads import change_head, make_head, save_stack, small_members
from helpers.hub_failures import BAD_TOKEN, Hang, Late, Status
from helpers.local_hub import LocalHub

HERE = Repository("user/head")

TOKEN = "hf_AVeryRealLookingTokenOfSomebody"

MAIN = "from ais.cli import main; main()"


def save(folder: Path, seed: int = 0, **changes: Any) -> Path:
    head = change_head(make_head(seed=seed), **{"about": "Mine.", **changes})
    head.save(folder, model_card(head.config))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(tmp_path / "test-head")


@pytest.fixture
def logged_in(hub: LocalHub) -> LocalHub:
    hub.login(TOKEN)
    return hub


def run(hub: LocalHub, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", MAIN, *arguments]
    return subprocess.run(
        command, env=hub.environment, capture_output=True, text=True, timeout=300, check=False
    )


# The folder -------------------------------------------------------------------------------------------------


def edit(**changes: Any) -> Callable[[Path], None]:
    """Change the config, and let the card follow."""

    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))
        (folder / "README.md").write_text(model_card(read_config(folder)))

    return change


def put(name: str, data: bytes = b"x") -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(data) and None


def metadata(folder: Path) -> None:
    """A secret in the header of the weights, where safetensors keeps notes."""
    import hashlib

    data = (folder / "model.safetensors").read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.dumps({"__metadata__": {"by": TOKEN}, **json.loads(data[8 : 8 + length])}).encode()
    changed = struct.pack("<Q", len(header)) + header + data[8 + length :]
    (folder / "model.safetensors").write_bytes(changed)
    edit(weights_sha256=hashlib.sha256(changed).hexdigest())(folder)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (put("pytorch_model.bin"), r"pytorch_model\.bin does not belong to this head"),
        (put(".env"), r"\.env does not belong to this head\. Remove"),
        (put("handler.py"), r"handler\.py does not belong"),
        (put("learning_curve.png"), r"learning_curve\.png does not belong"),
        (put("backbone.safetensors"), r"backbone\.safetensors does not belong"),
        (lambda folder: (folder / "more").mkdir(), "more does not belong"),
        (lambda folder: (folder / "README.md").unlink(), r"README\.md is missing"),
        (lambda folder: (folder / "config.json").unlink(), r"it has no config\.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"model\.safetensors cannot be read"),
        (put("README.md", b"# Mine\n"), r"README\.md is not the card that config\.json makes\. `ais card"),
        (edit(recipe={"curve": "learning_curve.png"}), r"learning_curve\.png is missing"),
        (edit(about=f"My token is {TOKEN}."), r"config\.json holds a token of the Hub\. If they are words"),
        (edit(about="AKIAABCDEFGHIJKLMNOP"), r"config\.json holds a key of Amazon's"),
        (edit(about="-----BEGIN RSA PRIVATE KEY-----"), r"config\.json holds a private key"),
        (metadata, r"model\.safetensors holds a token of the Hub"),
        (
            edit(recipe={"command": "ais train /home/me/data --out x"}),
            r"places on a machine, /home/me/data\. .*--about",
        ),
        (edit(about=r"See C:\Users\me."), r"places on a machine, C:\\"),
        (edit(about="See ~/pictures."), "places on a machine, ~/"),
        (edit(weights_sha256="0" * 64), "damaged"),
        (edit(hidden=8), "should be F32"),
    ],
)
def test_a_folder_that_is_not_fit_is_not_sent(
    spoil: Callable[[Path], None], sentence: str, folder: Path, logged_in: LocalHub
) -> None:
    spoil(folder)
    with pytest.raises(HeadError, match=sentence) as caught:
        push_head(folder, HERE)
    assert TOKEN not in str(caught.value)
    assert logged_in.requests == []


def test_the_token_in_use_is_known_whatever_it_looks_like(folder: Path, hub: LocalHub) -> None:
    hub.login("an-odd-one-1234")
    edit(about="It is an-odd-one-1234, mind.")(folder)
    with pytest.raises(HeadError, match=r"config\.json holds the token in use") as caught:
        check_folder(folder)
    assert "odd-one" not in str(caught.value)


def test_all_faults_are_told_at_once(folder: Path) -> None:
    put("notes.txt")(folder)
    put("README.md", b"mine")(folder)
    with pytest.raises(HeadError, match=r"(?s)notes\.txt.*README\.md is not"):
        check_folder(folder)


@pytest.mark.parametrize(
    "about",
    [
        "See https://doi.org/10.1000/a/b and doi:10.3758/s13428.",
        "Rated 1/7 and/or 2/3 by men/women; 24/7.",
        "[a link](https://example.org/a/b) <https://example.org/c/d>",
        "A ratio of N/A: x:y.",
    ],
)
def test_what_only_looks_like_a_path_is_fine(about: str, folder: Path) -> None:
    edit(about=about)(folder)
    assert check_folder(folder).config.about == about


@pytest.mark.parametrize("name", ais.list_heads())
def test_shipped_heads_are_fit_to_be_published(name: str) -> None:
    check_folder(ais.heads.shipped.heads_directory() / name)


def test_a_picture_that_is_none(folder: Path) -> None:
    edit(recipe={"curve": "learning_curve.png"})(folder)
    put("learning_curve.png", b"\x80\x04cos\nsystem\n")(folder)
    with pytest.raises(HeadError, match=r"learning_curve\.png is not a picture"):
        check_folder(folder)


# Pushing ----------------------------------------------------------------------------------------------------


def test_pushed_and_pulled_it_is_the_same(folder: Path, logged_in: LocalHub) -> None:
    pushed = push_head(folder, HERE)
    assert pushed.changed
    assert pushed.url.endswith(f"/user/head/commit/{pushed.commit}")
    head = load_head("user/head")
    assert head.repository == Repository("user/head", pushed.commit)
    there = logged_in.files("user/head")
    assert set(there) == {".gitattributes", "README.md", "config.json", "model.safetensors"}
    assert there["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert there["config.json"] == (folder / "config.json").read_bytes()
    card = there["README.md"].decode()
    assert card == model_card(head.config, "user/head")
    assert parse_card_links(card) == ("user/head", "")
    assert ModelCard(card).data.library_name == "ais"


@pytest.mark.slow
def test_push_fresh_cache_load_explain_is_equal_to_the_bit(
    logged_in: LocalHub, photograph: Image.Image
) -> None:
    """All the way, for the default head and for the stack, each against its own folder."""
    for name in ("beauty-efficientnet-lite0", "beauty-stack"):
        folder = ais.heads.shipped.heads_directory() / name
        push_head(folder, Repository(f"user/{name}"))
        shutil.rmtree(logged_in.home)  # the cache
        here, there = ais.explain(photograph, folder), ais.explain(photograph, f"user/{name}")
        assert (here.score, here.interval, here.percentile) == (there.score, there.interval, there.percentile)
        assert here.heatmap.tobytes() == there.heatmap.tobytes()


def test_pushing_twice_makes_no_commit(folder: Path, logged_in: LocalHub) -> None:
    first = push_head(folder, HERE)
    again = push_head(folder, HERE)
    assert again == replace(first, changed=False)
    assert len(logged_in.commits("user/head")) == 2  # the Hub's own, and one


def test_a_link_to_a_space_stays(folder: Path, logged_in: LocalHub, tmp_path: Path) -> None:
    push_head(folder, HERE, space="user/page")
    assert not push_head(folder, HERE).changed
    push_head(save(tmp_path / "newer", seed=1), HERE)
    assert parse_card_links(logged_in.files("user/head")["README.md"].decode()) == ("user/head", "user/page")


def test_what_other_programs_leave_is_not_sent(folder: Path, logged_in: LocalHub) -> None:
    (folder / ".git").mkdir()
    put(".DS_Store", b"/home/me/secrets")(folder)
    push_head(folder, HERE)
    assert ".DS_Store" not in logged_in.files("user/head")


def test_what_was_pushed_is_replaced(folder: Path, logged_in: LocalHub, tmp_path: Path) -> None:
    edit(recipe={"curve": "learning_curve.png"})(folder)
    Image.new("RGB", (20, 10)).save(folder / "learning_curve.png")
    push_head(folder, HERE)
    assert "learning_curve.png" in logged_in.files("user/head")
    push_head(save(tmp_path / "newer", seed=1), HERE)
    assert "learning_curve.png" not in logged_in.files("user/head")
    assert ".gitattributes" in logged_in.files("user/head")
    assert len(logged_in.commits("user/head")) == 3


def test_somebody_elses_push_is_not_overwritten(folder: Path, logged_in: LocalHub, tmp_path: Path) -> None:
    push_head(folder, HERE)
    theirs = logged_in.add_head("user/head", save(tmp_path / "theirs", seed=2))
    mine = save(tmp_path / "mine", seed=3)
    with pytest.raises(HubError, match=rf"has not seen .commit {theirs[:7]}.*`ais pull user/head`"):
        push_head(mine, HERE)
    assert logged_in.commits("user/head")[0].id == theirs
    load_head("user/head")  # now it has been seen
    assert push_head(mine, HERE).changed


def test_a_push_at_the_same_moment_is_not_overwritten(
    folder: Path, logged_in: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the commit: the commit names its parent."""
    push_head(folder, HERE)
    commit = push.commit

    def late(*arguments: Any, **options: Any) -> Any:
        logged_in.add("user/head", {"README.md": b"# Theirs\n"})
        return commit(*arguments, **options)

    monkeypatch.setattr(push, "commit", late)
    with pytest.raises(HubError, match="Somebody pushed to user/head at the same time: nothing was sent"):
        push_head(save(tmp_path / "newer", seed=1), HERE)
    assert logged_in.files("user/head")["README.md"] == b"# Theirs\n"


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"pytorch_model.bin": b"x"}, r"holds pytorch_model\.bin, so it is not a head's repository"),
        ({"config.json": b'{"model_type": "bert"}', "model.safetensors": b"x"}, "holds another model"),
    ],
)
def test_what_is_no_head_is_not_overwritten(
    files: dict[str, bytes], sentence: str, folder: Path, logged_in: LocalHub
) -> None:
    before = logged_in.add("user/head", files)
    with pytest.raises(HubError, match=sentence):
        push_head(folder, HERE)
    assert logged_in.commits("user/head")[0].id == before


def test_a_branch_is_made(folder: Path, logged_in: LocalHub, tmp_path: Path) -> None:
    push_head(folder, HERE)
    newer = save(tmp_path / "newer", seed=1)
    push_head(newer, repository_to_push("user/head", "try"))
    assert logged_in.files("user/head", "try")["config.json"] == (newer / "config.json").read_bytes()
    assert logged_in.files("user/head")["config.json"] == (folder / "config.json").read_bytes()
    assert not push_head(newer, repository_to_push("user/head@try")).changed


def test_private_stays_private(folder: Path, logged_in: LocalHub, tmp_path: Path) -> None:
    push_head(folder, HERE, private=True)
    assert logged_in.repositories["user/head"].private
    push_head(folder, Repository("user/open"))
    before = logged_in.commits("user/open")
    with pytest.raises(HubError, match="user/open is there already, and public: nothing was sent"):
        push_head(save(tmp_path / "newer", seed=1), Repository("user/open"), private=True)
    assert logged_in.commits("user/open") == before


def test_a_stack_needs_its_members_on_the_hub(logged_in: LocalHub, tmp_path: Path) -> None:
    stack = save_stack(tmp_path, small_members(), [0.5, 0.6, 0.1])
    (stack / "README.md").write_text(model_card(read_config(stack)))
    with pytest.raises(HeadError, match="member 'one' has to be published first, as user/one"):
        push_head(stack, Repository("user/stack"))
    for member in load_head(stack).config.members:
        logged_in.add_head(f"user/{member.head}", tmp_path / member.head)
    assert push_head(stack, Repository("user/stack")).changed
    make_head(seed=7).save(tmp_path / "another" / "two")
    logged_in.add_head("user/two", tmp_path / "another" / "two")
    with pytest.raises(HeadError, match="member 'two' differs from the one published as user/two"):
        push_head(stack, Repository("user/stack"))


@pytest.mark.parametrize("text", ["head", "a/b/c", "", "user/he ad", "/a/b"])
def test_where_nothing_can_be_pushed(text: str) -> None:
    with pytest.raises(HubError, match="no repository of the Hub: name it as user/repo"):
        repository_to_push(text)


def test_a_commit_cannot_be_pushed_to() -> None:
    with pytest.raises(HubError, match="is a commit, and those never change"):
        repository_to_push(f"a/b@{'0' * 40}")


def test_pushed_by_the_public_name(folder: Path, logged_in: LocalHub, tmp_path: Path) -> None:
    pushed = ais.push_head(str(folder), "user/head")
    assert pushed.url.endswith(logged_in.commits("user/head")[0].id)
    assert logged_in.files("user/head")["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    newer = save(tmp_path / "newer", seed=1)
    ais.push_head(newer, "user/head", branch="try")
    assert logged_in.files("user/head", "try")["config.json"] == (newer / "config.json").read_bytes()
    assert not ais.push_head(newer, "user/head@try").changed
    ais.push_head(newer, "user/hidden", private=True)
    assert logged_in.repositories["user/hidden"].private
    with pytest.raises(HubError, match="name it as user/repo"):
        ais.push_head(newer, "head")


def test_a_folder_called_as_a_shipped_head_is_what_is_pushed(
    logged_in: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = save(tmp_path / EMBEDDED, seed=4)
    monkeypatch.chdir(tmp_path)
    ais.push_head(EMBEDDED, "user/head")
    assert logged_in.files("user/head")["model.safetensors"] == (mine / "model.safetensors").read_bytes()
    with pytest.raises(HeadError, match="There is no head in"):
        ais.push_head("beauty-stack", "user/head")


# Pushing that fails -----------------------------------------------------------------------------------------


def test_nobody_is_logged_in(folder: Path, hub: LocalHub) -> None:
    with pytest.raises(HubError, match=r"You are not logged in to the Hub. Run `hf auth login`"):
        push_head(folder, HERE)
    assert hub.requests == []


def test_a_token_that_may_not_write(folder: Path, hub: LocalHub) -> None:
    hub.login(TOKEN, write=False)
    with pytest.raises(HubError, match="The token in use may not write to user/head") as caught:
        push_head(folder, HERE)
    assert TOKEN not in str(caught.value)
    hub.login(TOKEN)
    with pytest.raises(HubError, match="The token in use may not write to other/head"):
        push_head(folder, Repository("other/head"))


@pytest.mark.parametrize(
    ("method", "path", "how", "sentence"),
    [
        ("POST", "repos/create", BAD_TOKEN, "The token in use may not write"),
        ("POST", "repos/create", Status(503), "Nothing was pushed.*returned an error .503"),
        ("POST", "/commit/", Status(503), "Nothing was pushed.*returned an error .503"),
        ("POST", "/commit/", Status(400, "no <b>good</b>"), "refuses what was pushed.*no <b>good</b>"),
        (
            "POST",
            "repos/create",
            Status(429, "", {"Retry-After": "60"}),
            "rate limit is reached. Try again in 60 s",
        ),
        ("POST", "repos/create", Hang(60), "does not answer, so it is not known whether.*Push again"),
    ],
)
def test_a_push_that_fails_is_a_sentence_and_can_be_repeated(
    method: str,
    path: str,
    how: Any,
    sentence: str,
    folder: Path,
    logged_in: LocalHub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(push, "TIMEOUT", 2.0)
    logged_in.fail(method, path, how)
    with pytest.raises(HubError, match=sentence) as caught:
        push_head(folder, HERE)
    assert TOKEN not in str(caught.value)
    logged_in.heal()
    assert push_head(folder, HERE).commit == logged_in.commits("user/head")[0].id


def test_a_push_whose_answer_was_lost_is_not_made_twice(
    folder: Path, logged_in: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push, "UPLOAD", 1.0)
    logged_in.fail("POST", "/commit/", Late(60), times=1)
    with pytest.raises(HubError, match="not known whether all has arrived"):
        push_head(folder, HERE)
    assert not push_head(folder, HERE).changed
    assert len(logged_in.commits("user/head")) == 2


def test_no_hub_at_all(folder: Path, logged_in: LocalHub) -> None:
    logged_in.refuse()
    with pytest.raises(HubError, match=r"Nothing was pushed.*cannot be reached"):
        push_head(folder, HERE)


@pytest.mark.slow
def test_killed_in_the_middle_of_a_push(folder: Path, logged_in: LocalHub) -> None:
    """All or nothing: the Hub has the commit before or the one after, and the next push completes it."""
    logged_in.fail("POST", "/commit/", Hang(60), times=1)
    command = [sys.executable, "-c", MAIN, "push", str(folder), "user/head"]
    process = subprocess.Popen(command, env=logged_in.environment, stderr=subprocess.PIPE)
    logged_in.wait_for("POST", "/commit/")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert set(logged_in.files("user/head")) == {".gitattributes"}
    with pytest.raises(HubError, match=r"user/head has no config\.json at its revision main"):
        load_head("user/head")
    assert push_head(folder, HERE).changed
    load_head("user/head")


# The command ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_commands(folder: Path, logged_in: LocalHub, tmp_path: Path) -> None:
    done = run(logged_in, "push", str(folder), "user/head")
    commit = logged_in.commits("user/head")[0].id
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(
        rf"The head is at http\S+/user/head/commit/{commit}\n  commit {commit}\n", done.stdout
    )
    done = run(logged_in, "push", str(folder), "user/head", "--json")
    assert json.loads(done.stdout)["head"]["changed"] is False
    assert done.stderr == ""
    assert TOKEN not in done.stdout + done.stderr
    done = run(logged_in, "pull", "user/head", "--out", str(tmp_path / "out"), "--json")
    document = json.loads(done.stdout)
    assert (document["commit"], document["notice"]) == (commit, "")
    assert sorted(document["files"]) == ["README.md", "config.json", "model.safetensors"]
    check_folder(tmp_path / "out")
    done = run(logged_in, "pull", f"user/head@{commit}")
    assert f"user/head@{commit}" in done.stdout
    done = run(logged_in, "pull", "user/head", "--out", str(tmp_path / "out"))
    assert (done.returncode, done.stdout) == (2, "")
    assert "is not empty" in done.stderr
    done = run(logged_in, "push", str(folder))
    assert done.returncode == 2
    assert "Say what to push and where" in done.stderr
    done = run(logged_in, "pull", "nothing")
    assert done.stderr == "ais: 'nothing' is no repository of the Hub: name it as user/repo.\n"


# The Space --------------------------------------------------------------------------------------------------


def front_matter(files: dict[str, bytes]) -> dict[str, Any]:
    data = yaml.safe_load(files["README.md"].decode().split("---\n")[1])
    assert isinstance(data, dict)
    return data


def test_a_space_is_made_and_brought_up_to_date(
    folder: Path, logged_in: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space, "FOLDERS", ("ais", "assets"))  # the heads of 126 MB make it slow
    push_head(folder, HERE, space="user/page")
    assert (
        "https://huggingface.co/spaces/user/page?head=user/head"
        in logged_in.files("user/head")["README.md"].decode()
    )
    push_space("user/page", ["user/head"])
    files = logged_in.files("spaces/user/page")
    root = Path(ais.__file__).parent.parent
    for name in (
        "app.py",
        "requirements.txt",
        "ais/demo/parts/overlay.js",
        "ais/publish/model_card.md",
        "assets/page.jpg",
    ):
        assert files[name] == (root / name).read_bytes()
    assert not any(re.search(r"__pycache__|^tests|^docs|^benchmarks|/\.", name) for name in files)
    matter = front_matter(files)
    assert (matter["sdk"], matter["python_version"], matter["app_file"]) == ("gradio", "3.12", "app.py")
    assert matter["preload_from_hub"] == ["user/head config.json,model.safetensors,README.md"]
    assert "user/head" in matter["models"]
    assert logged_in.repositories["spaces/user/page"].variables == {"AIS_HEADS": "user/head"}
    assert not push_space("user/page").changed
    logged_in.repositories["spaces/user/page"].commit(
        "main", "stale", files | {"ais/old.py": b"", "mine.txt": b""}
    )
    logged_in.add_head("other/head", folder)
    assert push_space("user/page", ["user/head", "other/head"]).changed
    after = logged_in.files("spaces/user/page")
    assert "ais/old.py" not in after
    assert "mine.txt" in after  # not the page's own
    assert logged_in.repositories["spaces/user/page"].variables == {"AIS_HEADS": "user/head,other/head"}


def test_what_is_private_stays_off_a_public_space(
    folder: Path, logged_in: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space, "FOLDERS", ("assets",))
    push_head(folder, HERE, private=True)
    push_space("user/page")
    before = logged_in.commits("spaces/user/page")
    with pytest.raises(
        HubError, match="The Space user/page is public, and user/head is not: nothing was sent"
    ):
        push_space("user/page", ["user/head"])
    with pytest.raises(HubError, match="The Space user/page is there already, and public: nothing was sent"):
        push_space("user/page", private=True)
    assert logged_in.commits("spaces/user/page") == before
    assert logged_in.repositories["spaces/user/page"].variables == {}
    push_space("user/hidden", ["user/head"], private=True)
    assert logged_in.repositories["spaces/user/hidden"].variables == {"AIS_HEADS": "user/head"}


def test_another_app_is_not_overwritten(logged_in: LocalHub) -> None:
    logged_in.add("spaces/user/page", {"app.py": b"print()"})
    with pytest.raises(HubError, match="The Space user/page holds another app"):
        push_space("user/page")


def test_a_space_needs_the_whole_of_ais(
    logged_in: LocalHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(space, "ROOT", tmp_path)
    with pytest.raises(AISError, match="A Space is made from the whole of AIS"):
        push_space("user/page")


def test_the_readme_is_a_spaces(hub: LocalHub) -> None:
    """What the repository itself says at its top, so that it is a Space as it stands."""
    text = (Path(ais.__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    matter = yaml.safe_load(text.split("---\n")[1])
    assert matter["sdk"] == "gradio"
    assert len(matter["short_description"]) <= 60
    assert (Path(ais.__file__).parent.parent / matter["app_file"]).is_file()
    specs = [ais.BACKBONES[f"efficientnet_lite{n}"] for n in range(3)]
    assert matter["models"] == [spec.hub_id for spec in specs]
