"""Getting files from the Hugging Face Hub: by the real client, into its cache, with a sentence for whatever fails.

A commit (40 hexadecimal digits) that is cached is taken without any request. A branch or tag is looked up by one HEAD
request; if the Hub cannot be reached then, what is cached is used, and that is said. The token is the client's own
affair (``HF_TOKEN``, or ``hf auth login``): nothing here sees it. With ``AIS_OFFLINE`` or ``HF_HUB_OFFLINE`` in the
environment nothing is asked for, and what is cached is used.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from huggingface_hub import (
    constants,
    get_hf_file_metadata,
    get_token,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    DisabledRepoError,
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # httpx's, or that of the client's own copy of it
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from ais.errors import AISError, HubError
from ais.io.files import write_atomically

logger = logging.getLogger(__name__)

TIMEOUT = 8.0  # seconds without an answer; then the Hub is down for us

MIN_THROUGHPUT = 50_000  # bytes per second that a download must reach on average

MAIN = "main"

PUBLIC_CACHE = "ais-public"  # beside the client's own cache: what everybody may read

HEADS_VARIABLE = "AIS_HEADS"  # of the environment: the heads of the Hub that a page offers

_OFFLINE = ("AIS_OFFLINE", "HF_HUB_OFFLINE")

_COMMIT = re.compile(r"[0-9a-f]{40}")

_REVISION = re.compile(r"[\w.-]+(/[\w.-]+)*")

_ADDRESS = re.compile(
    r"(?:https?://)?(?:huggingface\.co|hf\.co)/(?P<id>[^/@?#]+/[^/@?#]+)(?:/tree/(?P<rev>[^?#]+))?/?"
)

TRANSPORT_ERRORS = (HTTPError, OSError)  # all that the client raises when something outside is wrong

T = TypeVar("T")


def offline() -> str:
    """The environment variable that forbids every download, for a sentence; empty if none does."""
    for name in _OFFLINE:
        if os.environ.get(name, "").strip().lower() in ("1", "true", "yes", "on"):
            return name
    if (
        constants.HF_HUB_OFFLINE
    ):  # the client's own setting, which it reads once; it knows another name for it
        return "TRANSFORMERS_OFFLINE" if os.environ.get("TRANSFORMERS_OFFLINE") else "HF_HUB_OFFLINE"
    return ""


@dataclass(frozen=True)
class Repository:
    """A repository of the Hub, ``user/repo``, at a branch, a tag or a commit."""

    id: str
    revision: str = MAIN

    def __str__(self) -> str:
        return self.id if self.revision == MAIN else f"{self.id}@{self.revision}"

    @property
    def pinned(self) -> bool:
        """Whether the revision is a commit, which never changes."""
        return bool(_COMMIT.fullmatch(self.revision))


def parse_repository(text: str, revision: str | None = None) -> Repository | None:
    """A repository from ``user/repo``, ``user/repo@revision`` or its address; None for anything else.

    Raises:
        HubError: the revision cannot be one, or is given twice.
    """
    address = _ADDRESS.fullmatch(text.strip())
    if address:
        name, given = address["id"], address["rev"]
    else:
        name, at, given = text.strip().partition("@")
        if at and not given:
            return None
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    if name.count("/") != 1:
        return None
    if given and revision and given != revision:
        raise HubError(
            f"{text} names the revision {given!r}, but {revision!r} is asked for, too: give one of them."
        )
    chosen = given or revision or MAIN
    # It becomes a part of a path in the cache.
    if not _REVISION.fullmatch(chosen) or any(part in (".", "..") for part in chosen.split("/")):
        raise HubError(f"{chosen!r} cannot be a revision of {name}: give a branch, a tag or a commit.")
    return Repository(name, chosen)


@dataclass(frozen=True)
class Snapshot:
    """A repository at one commit.

    Attributes:
        repository: as it was asked for.
        commit: what its revision stands for.
        notice: why it may not be the newest; empty if it is.
        public: whether only what everybody may read is fetched.
    """

    repository: Repository
    commit: str
    notice: str = ""
    public: bool = False

    @property
    def folder(self) -> Path:
        """Where the files that were fetched lie, by their names."""
        return _storage(self.repository, self.public) / "snapshots" / self.commit

    def fetch(self, name: str, limit: int) -> Path:
        """A file's place, after fetching it if it is not cached.

        Args:
            name: the file's, in the repository.
            limit: the most bytes it may have.

        Raises:
            HubError: it could not be downloaded.
        """
        pinned = Repository(self.repository.id, self.commit)
        if cached_snapshot(pinned, name, public=self.public):
            return self.folder / name
        if self.notice:
            raise HubError(f"{self.notice} But {name} is not there: try again when the Hub answers.")
        try:
            size, _ = _file_metadata(pinned, name, limit, self.public)
            return self._download(name, size)
        except TRANSPORT_ERRORS as error:
            raise HubError(error_message(error, self.repository, name, self.public)) from None

    def _download(self, name: str, size: int) -> Path:
        """Fetch a file of so many bytes; what goes wrong is the client's error."""
        return Path(
            with_timeout(
                TIMEOUT + size / MIN_THROUGHPUT,
                lambda: hf_hub_download(
                    self.repository.id,
                    name,
                    revision=self.commit,
                    etag_timeout=TIMEOUT,
                    cache_dir=_cache(self.public),
                    token=False if self.public else None,
                ),
            )
        )

    def evict(self, name: str) -> None:
        """Take a file out of the cache, so that it is fetched again: the client checks no more than its size."""
        file = self.folder / name
        file.resolve().unlink(missing_ok=True)
        file.unlink(missing_ok=True)


def resolve_revision(repository: Repository, name: str, limit: int, *, public: bool = False) -> Snapshot:
    """What a repository's revision stands for now, told by one of its files, which is fetched.

    Args:
        name: a file that the repository must have.
        limit: the most bytes that it may have.
        public: take only what everybody may read: whoever asks is not the owner of this machine's token.

    Raises:
        HubError: there is no such repository, revision or file, or the Hub cannot be reached and nothing is cached.
    """
    if repository.pinned and (kept := cached_snapshot(repository, name, public=public)):
        return kept
    try:
        size, commit = _file_metadata(repository, name, limit, public)
    except TRANSPORT_ERRORS as error:
        reason = error_message(error, repository, name, public)
        kept = cached_snapshot(repository, name, public=public) if _is_unreachable(error) else None
        if kept is None:
            raise HubError(reason) from None
        notice = f"{reason} The copy fetched before is used, commit {kept.commit[:7]}."
        logger.warning("%s", notice)
        return replace(kept, notice=notice)
    snapshot = Snapshot(repository, commit, public=public)
    try:
        snapshot._download(name, size)
    except TRANSPORT_ERRORS as error:
        raise HubError(error_message(error, repository, name, public)) from None
    record_commit(repository, commit, public=public)
    return snapshot


def cached_snapshot(repository: Repository, name: str, *, public: bool = False) -> Snapshot | None:
    """The repository as it was when the file was last fetched, without asking the Hub; None if it never was."""
    file = try_to_load_from_cache(repository.id, name, cache_dir=_cache(public), revision=repository.revision)
    return Snapshot(repository, Path(file).parent.name, public=public) if isinstance(file, str) else None


def error_message(error: Exception, repository: Repository, name: str = "", public: bool = False) -> str:
    """What to tell a person about an error of the client's: what is wrong, with which file, and what to do.

    Args:
        public: the person is a visitor, who cannot log in here.
    """
    what = f"{name} of {repository}" if name else str(repository)
    where = f"{constants.ENDPOINT}/{repository.id}"
    if isinstance(error, OfflineModeIsEnabled):
        return f"{what} is not fetched: {offline()} forbids it. Unset it to go online, or name a folder that holds it."
    if isinstance(error, GatedRepoError) and public:
        return f"{repository} is gated: only those who accepted its terms may read it, so it cannot be used here."
    if isinstance(error, RepositoryNotFoundError) and public:
        return f"There is no repository {repository.id} on the Hub that everybody may read. Check its name."
    if isinstance(error, GatedRepoError):
        return f"{repository} is gated: accept its terms at {where}, then log in with `hf auth login` or set HF_TOKEN."
    if isinstance(error, RevisionNotFoundError):
        return f"{repository.id} has no revision {repository.revision!r}. Look for the right one at {where}."
    if isinstance(error, RemoteEntryNotFoundError):
        return f"{repository.id} has no {name} at its revision {repository.revision}, which AIS needs."
    if isinstance(error, DisabledRepoError):
        return f"{repository.id} has been disabled on the Hub."
    if isinstance(error, RepositoryNotFoundError):
        reader = (
            "the token in use may not read it" if get_token() else "it is private and nobody is logged in"
        )
        return (
            f"There is no repository {repository.id} on the Hub, or {reader}. Check its name; for a private one, "
            "log in with `hf auth login` or set HF_TOKEN."
        )
    if isinstance(error, HfHubHTTPError):
        return _status_sentence(error, what)
    if isinstance(error, FileMetadataError):
        return f"{what} cannot be fetched: {constants.ENDPOINT} does not answer as the Hub does. Check HF_ENDPOINT."
    if isinstance(error, (LocalEntryNotFoundError, HTTPError)) or not isinstance(error, OSError):
        return (
            f"{what} cannot be fetched: the Hub ({constants.ENDPOINT}) cannot be reached. Check the connection and "
            "try again."
        )
    if error.errno is None:  # the client's word for a size that is not the one announced
        return f"The download of {what} is incomplete. Try again."
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    do = "make room there" if full else "make it writable"
    cache = constants.HF_HUB_CACHE
    return f"{what} cannot be kept in {cache} ({error.strerror}): {do}, or set HF_HOME to another folder."


def with_timeout(seconds: float, function: Callable[[], T]) -> T:
    """The function's result, or LocalEntryNotFoundError after some seconds: the client would try for longer.

    What takes too long is left behind in its thread: the client writes to temporary files only. Every request that AIS
    makes goes through here, so none is made offline.
    """
    if variable := offline():
        raise OfflineModeIsEnabled(f"{variable} forbids it")
    results: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(function())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="ais-hub", daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise LocalEntryNotFoundError(f"no answer in {seconds:.0f} seconds")
    return results[0]


def _status_sentence(error: HfHubHTTPError, what: str) -> str:
    status = error.response.status_code
    if status in (401, 403):
        return (
            f"{what} could not be downloaded: the Hub refuses the token in use. Log in again with `hf auth login`, or "
            "set HF_TOKEN to a valid one."
        )
    if status == 429:
        seconds = error.response.headers.get("Retry-After", "")
        wait = f"{seconds} seconds" if re.fullmatch(r"\d{1,6}", seconds) else "a few minutes"
        return f"{what} could not be downloaded: the Hub's rate limit is reached. Try again in {wait}."
    if status >= 500:
        return f"{what} could not be downloaded: the Hub returned an error ({status}). Try again in a few minutes."
    return f"{what} could not be downloaded: the Hub returned an error ({status})."


def _is_unreachable(error: Exception) -> bool:
    """Whether the Hub did not answer, so that a cached copy may stand in; its refusals are answers."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500 or error.response.status_code == 429
    return not isinstance(error, FileMetadataError)


def _file_metadata(repository: Repository, name: str, limit: int, public: bool) -> tuple[int, str]:
    """Size and commit of a file, by one HEAD request."""
    address = hf_hub_url(repository.id, name, revision=repository.revision)
    found = with_timeout(
        TIMEOUT,
        lambda: get_hf_file_metadata(address, token=False if public else None, timeout=TIMEOUT),
    )
    if not found.commit_hash or not _COMMIT.fullmatch(found.commit_hash):
        raise FileMetadataError("no commit")
    if found.size is not None and found.size > limit:
        raise HubError(
            f"{name} of {repository} is too large to be what it should be: over {limit >> 20} MiB."
        )
    return found.size or 0, found.commit_hash


def _cache(public: bool) -> Path:
    """The client's own cache; and another for what everybody may read, so that nobody is shown out of the first what
    was fetched with the owner's token."""
    return Path(constants.HF_HOME) / PUBLIC_CACHE if public else Path(constants.HF_HUB_CACHE)


def _storage(repository: Repository, public: bool) -> Path:
    return _cache(public) / repo_folder_name(repo_id=repository.id, repo_type=constants.REPO_TYPE_MODEL)


def last_known_commit(repository: Repository) -> str | None:
    """The commit that the revision stood for when this machine last fetched or pushed it; None if it never did."""
    file = _reference(repository, public=False)
    return file.read_text().strip() if file.is_file() else None


def record_commit(repository: Repository, commit: str, *, public: bool = False) -> None:
    """Note in the cache what the revision stands for, as the client does when it is asked for a branch."""
    if repository.pinned:
        return
    file = _reference(repository, public)
    try:
        write_atomically(file.parent, {file.name: commit.encode()})
    except AISError as error:
        logger.debug("cannot note %s: %s", repository, error)


def _reference(repository: Repository, public: bool) -> Path:
    return _storage(repository, public) / "refs" / repository.revision
