"""Publishing: a head's folder as a repository of the Hugging Face Hub.

Nothing is sent before all of it has been checked, and what is there already is replaced only if this machine has
fetched or pushed it.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

from ais.errors import AISError, HeadError, HubError
from ais.heads.config import CARD, CONFIG, Config
from ais.heads.format import CONFIG_LIMIT, read_config
from ais.heads.shipped import heads_directory, list_heads
from ais.io.hub import (
    MAIN,
    MIN_THROUGHPUT,
    TIMEOUT,
    TRANSPORT_ERRORS,
    Repository,
    error_message,
    last_known_commit,
    offline,
    parse_repository,
    record_commit,
    resolve_revision,
    with_timeout,
)
from ais.publish.card import model_card, parse_card_links
from ais.publish.checks import check_folder, file_names

UPLOAD = 60.0  # seconds that the Hub may take over a commit, beside the time for its bytes

KEEP_REMOTE = (".gitattributes",)  # the Hub's own

T = TypeVar("T")


@dataclass(frozen=True)
class PushResult:
    """What a push came to.

    Attributes:
        url: the address of the commit.
        commit: of the repository as it is now.
        changed: whether the push made it; False where all was there already.
    """

    url: str
    commit: str
    changed: bool


def repository_to_push(text: str, branch: str | None = None) -> Repository:
    """The repository to push to, ``user/repo``.

    Raises:
        HubError: it is none, or a commit.
    """
    repository = parse_repository(text, branch)
    if repository is None:
        raise HubError(f"{text!r} is no repository of the Hub: name it as user/repo.")
    if repository.pinned:
        raise HubError(f"{repository} is a commit, and those never change: name a branch.")
    return repository


def push_head(
    folder: str | os.PathLike[str],
    repo: str | Repository,
    *,
    private: bool = False,
    branch: str | None = None,
    space: str = "",
) -> PushResult:
    """Make a head's folder the content of its repository on the Hub, in one commit, or in none if it is that already.

    Args:
        folder: the head's. Always a folder, also if it is called as a head that comes with AIS.
        repo: where to, ``user/repo``; it is made if it is new.
        private: make the repository private, if it is new.
        branch: push to this branch, and make it if it is new.
        space: a Space that shows the head, for its card to link to; without one a link that is there stays.

    Returns:
        The commit and its address.

    Raises:
        HeadError: the folder is not fit (see `check_folder`), or others could not get a stack's member.
        HubError: the Hub refuses or cannot be reached; or what is there is no head, or is a commit that this machine
            has not seen.
    """
    folder = Path(folder)
    repository = repo if isinstance(repo, Repository) else repository_to_push(repo, branch)
    head = check_folder(folder)
    config = head.config
    _check_members(config, repository)
    files = {name: (folder / name).read_bytes() for name in file_names(config)}
    api = log_in()
    with translated_errors(repository.id):
        call_hub(lambda: api.create_repo(repository.id, private=private, exist_ok=True))
        if private and not call_hub(lambda: api.model_info(repository.id)).private:
            raise HubError(
                f"{repository.id} is there already, and public: nothing was sent. Make it private first."
            )
        fresh = repository.revision != MAIN and _new_branch(api, repository)
        parent = call_hub(lambda: api.model_info(repository.id, revision=repository.revision)).sha or ""
        existing = call_hub(lambda: api.list_repo_files(repository.id, revision=parent))
        unexpected = sorted(set(existing) - set(file_names(None)) - set(KEEP_REMOTE))
        if unexpected:
            raise HubError(
                f"{repository.id} holds {unexpected[0]}, so it is not a head's repository: choose another one."
            )
        if CONFIG in existing and not fresh:
            _check_overwritten(repository, parent, files[CONFIG])
            space = space or _linked_space(repository, parent)
        files[CARD] = model_card(config, repository.id, space).encode()
        pushed = commit(
            api,
            repository,
            files,
            [name for name in existing if name not in files and name not in KEEP_REMOTE],
            parent,
            f"The head {config.name}, by AIS",
        )
    record_commit(repository, pushed.commit)
    return pushed


def _check_members(config: Config, repository: Repository) -> None:
    """Others find a stack's members among the heads that come with AIS, or beside it on the Hub."""
    owner = repository.id.partition("/")[0]
    for member in config.parts:
        if member.head in list_heads() and _same(heads_directory() / member.head, member.fingerprint):
            continue
        beside = Repository(f"{owner}/{member.head}")
        try:
            published = _same(resolve_revision(beside, CONFIG, CONFIG_LIMIT).folder, member.fingerprint)
        except HubError as error:
            raise HeadError(
                f"The stack's member {member.head!r} has to be published first, as {beside}. {error}"
            ) from error
        if not published:
            raise HeadError(
                f"The stack's member {member.head!r} differs from the one published as {beside}: push it first."
            )


def _same(folder: Path, fingerprint: str) -> bool:
    return read_config(folder).fingerprint == fingerprint


def _linked_space(repository: Repository, commit: str) -> str:
    """The Space that the card there links to, so that a push which names none leaves the link in its place."""
    try:
        file = resolve_revision(Repository(repository.id, commit), CARD, CONFIG_LIMIT).folder / CARD
    except HubError:
        return ""
    return parse_card_links(file.read_text(encoding="utf-8", errors="replace"))[1]


def _check_overwritten(repository: Repository, parent: str, config: bytes) -> None:
    """What is there has to be a head, and this machine has to know it, or it is somebody else's push."""
    folder = resolve_revision(Repository(repository.id, parent), CONFIG, CONFIG_LIMIT).folder
    try:
        read_config(folder)
    except HeadError as error:
        raise HubError(
            f"{repository.id} holds another model, not a head for AIS: choose another repository."
        ) from error
    if (folder / CONFIG).read_bytes() != config and last_known_commit(repository) != parent:
        raise HubError(
            f"{repository} holds a head that this machine has not seen (commit {parent[:7]}), so nothing was sent. "
            f"Look at it with `ais pull {repository}`; then push again to replace it."
        )


# How it is sent ---------------------------------------------------------------------------------------------


def log_in() -> HfApi:
    """The client, if it has a token to push with.

    Raises:
        HubError: it has none.
    """
    if not get_token():
        raise HubError(
            "You are not logged in to the Hub. Run `hf auth login`, or set HF_TOKEN to a token that may write."
        )
    return HfApi()


def call_hub(function: Callable[[], T]) -> T:
    """An answer of the Hub that should come soon."""
    return with_timeout(TIMEOUT, function)


def _new_branch(api: HfApi, repository: Repository) -> bool:
    """Make the branch; False if it is there."""
    try:
        call_hub(lambda: api.create_branch(repository.id, branch=repository.revision))
    except HfHubHTTPError as error:
        if error.response.status_code != 409:
            raise
        return False
    return True


def commit(
    api: HfApi,
    repository: Repository,
    files: dict[str, bytes],
    deleted: Sequence[str],
    parent: str,
    message: str,
    *,
    kind: str = "model",
) -> PushResult:
    """Make these files the repository's and take others away, in one commit on top of `parent`, or in none."""
    operations = [CommitOperationAdd(path, data) for path, data in files.items()]
    deletions = [CommitOperationDelete(path) for path in deleted]
    size = sum(map(len, files.values()))
    with _quiet():
        done = with_timeout(
            UPLOAD + size / MIN_THROUGHPUT,
            lambda: api.create_commit(
                repository.id,
                [*operations, *deletions],  # the client leaves out what is there already
                commit_message=message,
                repo_type=kind,
                revision=repository.revision,
                parent_commit=parent or None,
            ),
        )
    return PushResult(str(done.commit_url), done.oid, done.oid != parent)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the client's warning that nothing has changed: `PushResult.changed` says so."""
    client = logging.getLogger("huggingface_hub.hf_api")
    before = client.level
    client.setLevel(logging.ERROR)
    try:
        yield
    finally:
        client.setLevel(before)


@contextmanager
def translated_errors(what: str) -> Iterator[None]:
    """The client's errors as sentences."""
    try:
        yield
    except TRANSPORT_ERRORS as error:
        raise HubError(_push_sentence(error, what)) from None
    except ValueError as error:  # so the client reports front matter that the Hub does not take
        if isinstance(error, AISError):
            raise
        raise HubError(f"The Hub does not take the README.md for {what}: {_one_line(str(error))}") from None


def _push_sentence(error: Exception, what: str) -> str:
    if isinstance(error, OfflineModeIsEnabled):
        return f"Nothing was pushed to {what}: {offline()} forbids it. Unset it to go online."
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if status in (401, 403, 404):
            return (
                f"The token in use may not write to {what}, or its owner is misspelt: nothing was sent. Log in with "
                "`hf auth login`, or set HF_TOKEN to a token that may write there."
            )
        if status in (409, 412):
            return f"Somebody pushed to {what} at the same time: nothing was sent. Pull it, look at it, and push again."
        if status < 500 and status != 429:
            said = _one_line(error.server_message or "it does not say why")
            return f"The Hub refuses what was pushed to {what} (status {status}): {said}."
    if isinstance(error, LocalEntryNotFoundError):
        return (
            f"The Hub ({constants.ENDPOINT}) does not answer, so it is not known whether all has arrived at {what}. "
            "Push again: nothing is sent twice."
        )
    return f"Nothing was pushed. {error_message(error, Repository(what))}"


def _one_line(text: str) -> str:
    return re.sub(r"[\s\x00-\x1f]+", " ", text).strip()[:300]
