"""The page as a Space of the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from huggingface_hub import HfApi, RepoCard

from ais.errors import AISError, HubError
from ais.heads.config import CARD, CONFIG, WEIGHTS
from ais.io.hub import HEADS_VARIABLE, TRANSPORT_ERRORS, Repository, parse_repository
from ais.publish.push import PushResult, call_hub, commit, log_in, repository_to_push, translated_errors

ROOT = Path(__file__).parents[2]

FILES = ("app.py", "requirements.txt", "LICENSE")

FOLDERS = ("ais", "model_cards", "assets")


def push_space(space: str, heads: Sequence[str] = (), *, private: bool = False) -> PushResult:
    """Make a Space of the page, or bring it up to date: the page's own files and nothing else.

    Args:
        space: ``user/space``.
        heads: heads of the Hub that the page is to offer, beside those it offers already.
        private: make the Space private, if it is new.

    Raises:
        AISError: this is no checkout of the whole of AIS.
        HubError: the Hub refuses or cannot be reached, or what is there is another Space.
    """
    name = repository_to_push(space).id
    api = log_in()
    with translated_errors(f"the Space {name}"):
        call_hub(
            lambda: api.create_repo(
                name, repo_type="space", space_sdk="gradio", private=private, exist_ok=True
            )
        )
        info = call_hub(lambda: api.space_info(name))
        if private and not info.private:
            raise HubError(
                f"The Space {name} is there already, and public: nothing was sent. Make it private first."
            )
        variables = call_hub(lambda: api.get_space_variables(name))
        before = variables[HEADS_VARIABLE].value if HEADS_VARIABLE in variables else ""
        offered = list(dict.fromkeys([*filter(None, (before or "").replace(" ", "").split(",")), *heads]))
        public = [head for head in offered if _is_public(api, head)]
        if not info.private and (private_head := next((head for head in heads if head not in public), None)):
            raise HubError(
                f"The Space {name} is public, and {private_head} is not: nothing was sent. Make the Space private and "
                "give it a token in its settings; or make the head public."
            )
        existing = call_hub(lambda: api.list_repo_files(name, repo_type="space", revision=info.sha))
        if "app.py" in existing and "ais/__init__.py" not in existing:
            raise HubError(f"The Space {name} holds another app: choose a name that is free.")
        # What a Space fetches beforehand, it fetches without a token, and of the main branch.
        files = _space_files(name, [head for head in public if "@" not in head])
        ours = ("README.md", *FILES, *(f"{folder}/" for folder in FOLDERS))
        deleted = [file for file in existing if file not in files and file.startswith(ours)]
        pushed = commit(api, Repository(name), files, deleted, info.sha or "", "AIS", kind="space")
        if ",".join(offered) != before:
            call_hub(lambda: api.add_space_variable(name, HEADS_VARIABLE, ",".join(offered)))
            pushed = replace(pushed, changed=True)
    return pushed


def _space_files(name: str, heads: Sequence[str]) -> dict[str, bytes]:
    if not all((ROOT / file).exists() for file in (*FILES, *FOLDERS)):
        raise AISError(
            "A Space is made from the whole of AIS: clone its repository, and run `ais push --space` from there."
        )
    files = {file: (ROOT / file).read_bytes() for file in FILES}
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith("."):
                files[path.relative_to(ROOT).as_posix()] = path.read_bytes()
    return files | {"README.md": _space_readme(ROOT / "README.md", name, heads).encode()}


def _space_readme(readme: Path, name: str, heads: Sequence[str]) -> str:
    """The repository's own front matter, with this Space's heads and picture, and its first sentence."""
    card = RepoCard(readme.read_text(encoding="utf-8"), ignore_metadata_errors=True)
    data = card.data.to_dict()
    if heads:
        data["models"] = [*data.get("models", ()), *heads]
        data["preload_from_hub"] = [f"{head} {CONFIG},{WEIGHTS},{CARD}" for head in heads]
    data["thumbnail"] = f"https://huggingface.co/spaces/{name}/resolve/main/assets/page.jpg"
    card.data = type(card.data)(**data)
    title, sentence_, *_ = [part for part in card.text.strip().split("\n\n") if part.strip()]
    return f"---\n{card.data.to_yaml()}\n---\n\n{title}\n\n{sentence_}\n"


def _is_public(api: HfApi, head: str) -> bool:
    repository = parse_repository(head)
    if repository is None:
        return False
    try:
        return not call_hub(lambda: api.model_info(repository.id)).private
    except TRANSPORT_ERRORS:
        return False
