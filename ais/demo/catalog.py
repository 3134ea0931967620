"""Which heads the page offers: those that come with AIS at once, those of the Hub as they come.

The owner of the page names heads in ``AIS_HEADS``, separated by commas: ids on the Hub, ``user/repo`` or
``user/repo@revision``, collections, and folders here (see `ais.demo.folders`). Those of the Hub are fetched in the
background with the owner's token. A head that a visitor names is fetched as everybody may, and is offered to that
visitor alone; visitors name no folders, and bring no backbone here that the owner has not allowed by
``AIS_ALLOW_BACKBONES``: names separated by commas, or ``*`` for all.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError

from ais.attribution.baselines import comparable
from ais.backbones.registry import backbone_spec
from ais.backbones.weights import read_weights
from ais.demo import folders, storage, values
from ais.demo.visitors import visitor
from ais.errors import AISError, HeadError, HubError
from ais.heads.base import Head
from ais.heads.config import CONFIG, WEIGHTS
from ais.heads.format import read_config
from ais.heads.loading import find_head, load_head_cached, read_card
from ais.heads.shipped import heads_directory, list_heads
from ais.heads.tasks import TASKS
from ais.io.hub import (
    HEADS_VARIABLE,
    PUBLIC_CACHE,
    TIMEOUT,
    TRANSPORT_ERRORS,
    Repository,
    cached_snapshot,
    error_message,
    parse_repository,
    with_timeout,
)

logger = logging.getLogger(__name__)

AT_ONCE = 3  # heads that are fetched at the same time
RETRY = 30.0  # seconds from one try of a head that failed to the next
ALLOW_VARIABLE = "AIS_ALLOW_BACKBONES"
VISITORS_HEADS = 4 << 30  # bytes of the heads that visitors named; the oldest go
KEPT_LOADED = 600.0  # seconds that one stays in any case: it may be in use
BROKEN = "Something went wrong on our side. Try again."

_COLLECTION = re.compile(r"[\w.-]+/[\w.-]+-[0-9a-f]{24}")
_COLLECTION_ADDRESS = re.compile(r"(?:https?://)?(?:huggingface\.co|hf\.co)/collections/([\w.-]+/[\w.-]+)/?")


@dataclass(frozen=True)
class HeadEntry:
    """A head as `choices.js` lists it: it is there, it failed, or it is being fetched.

    Attributes:
        asked: how it was asked for.
        head: what it is chosen by, once it is there: the name of one that comes with AIS, or ``user/repo@commit``.
        title: its name in the list.
        facts: how good it is, what it predicts and what it reads.
        address: its page on the Hub.
        local: whether it is a folder of the page's owner.
        notice: why it may not be the newest.
        reason: why it is unavailable.
        task, about: what such a head is for, by `ais.heads.tasks.TASKS`.
        lacks: the baselines that it cannot ablate to, keys of `ais.attribution.baselines.BASELINES`.
    """

    asked: str
    head: str = ""
    title: str = ""
    facts: str = ""
    address: str = ""
    local: bool = False
    notice: str = ""
    reason: str = ""
    task: str = ""
    about: str = ""
    lacks: tuple[str, ...] = ()


def head_source(name: str) -> str | Path | Repository:
    """What `ais.explain` takes for a head by name. Never a folder that only a visitor names.

    Raises:
        HeadError: it is neither the name of a head that comes with AIS nor the id of one on the Hub.
        HubError: its revision cannot be one.
    """
    if name in list_heads():
        return heads_directory() / name  # never a folder of this name that lies where the page was started
    folder = folders.registered(name)
    if folder is not None:
        return folder
    repository = parse_repository(name)
    if repository is None:
        raise HeadError(
            f"There is no head {values.short(name)!r}. Choose one of: {', '.join(list_heads())}; or give the id of one "
            "on the Hub, user/repo."
        )
    return repository


def fetch(asked: str, *, public: bool) -> HeadEntry:
    """Fetch a head and all that it needs, so that explaining with it needs no network any more.

    Args:
        public: fetch only what everybody may read.

    Raises:
        AISError: it is unavailable.
    """
    asked = asked.strip()
    found = find_head(head_source(asked), public=public)
    repository, folder = found.repository, folders.registered(asked)
    name = str(repository or asked)
    head = load_head_cached(head_source(name), public=public)
    check_backbones(head, public=public)
    own = values.short(head.config.name)
    if folder is not None and folders.is_free(own, folder, list_heads()):  # as its card calls it
        name = folders.register(own, folder, list_heads())
    for member in head.members:
        if not member.config.tuned_sha256:
            fetch_backbone(member.config.backbone)
    card(name, public)
    return HeadEntry(
        asked,
        head=name,
        title=values.title(head.config, repository.id if repository else name if folder else ""),
        facts=values.facts(head.config),
        address=f"{constants.ENDPOINT}/{repository.id}/tree/{repository.revision}" if repository else "",
        local=folder is not None,
        notice=found.notice,
        task=TASKS[head.config.task].label,
        about=TASKS[head.config.task].about,
        lacks=lacking(head),
    )


def lacking(head: Head) -> tuple[str, ...]:
    """The baselines that a head cannot ablate to."""
    return () if comparable(head) else ("typical",)


def fetch_for_visitor(asked: str) -> HeadEntry:
    """`fetch`, of a head that a visitor names: what everybody may read, not too often, and not too much in all.

    Raises:
        AISError: it is unavailable, or not now.
    """
    source = head_source(asked.strip())
    if not isinstance(source, Repository) or (source.pinned and cached_snapshot(source, CONFIG, public=True)):
        return fetch(asked, public=True)
    who = visitor().address
    with _waiting.place(who), _slots:
        _fetches.check(who)
        try:
            return fetch(asked, public=True)
        finally:
            cache = Path(constants.HF_HOME) / PUBLIC_CACHE
            storage.remove_oldest(cache, VISITORS_HEADS, set(), younger=KEPT_LOADED)


def check_backbones(head: Head, *, public: bool) -> None:
    """That a head needs no backbone which would have to be fetched without its owner's leave.

    Args:
        public: a visitor asked for it, not the owner.

    Raises:
        HeadError: it does.
    """
    if not public:
        return
    allowed = {name.strip() for name in os.environ.get(ALLOW_VARIABLE, "").split(",")}
    for member in head.members:
        name = member.config.backbone
        if member.config.tuned_sha256 or "*" in allowed or name in allowed or is_here(name):
            continue
        raise HeadError(
            f"The head {values.short(head.config.name)!r} needs the backbone {values.short(name)}, whose weights are "
            f"not on this server. Its owner can allow it to be fetched: {ALLOW_VARIABLE}={values.short(name)}."
        )


def is_here(backbone: str) -> bool:
    """Whether a backbone's weights are on this machine, or inside a package of it.

    Raises:
        AISError: there is no such backbone.
    """
    spec = backbone_spec(backbone)
    if spec.weights_file.is_file():
        return True
    kind, _, repository = spec.source.partition(":")
    return kind == "hub" and cached_snapshot(Repository(repository), WEIGHTS) is not None


class Fetches:
    """How often somebody may have something fetched: so many times within an hour, from one address."""

    def __init__(self, most: int = 60, within: float = 3600.0) -> None:
        self.most, self.within = most, within
        self._lock = threading.Lock()
        self._times: dict[str, deque[float]] = {}

    def check(self, address: str) -> None:
        """Count one more.

        Raises:
            HubError: it is one too many.
        """
        now = time.monotonic()
        with self._lock:
            self._times = {who: times for who, times in self._times.items() if now - times[-1] < self.within}
            times = self._times.setdefault(address, deque())
            while times and now - times[0] >= self.within:
                times.popleft()
            if len(times) >= self.most:
                raise HubError(
                    f"{self.most} heads have been fetched for your address within the hour, the most there may be. "
                    "Try again later."
                )
            times.append(now)


class Places:
    """Those who wait for the Hub: so many of all and from one address, since each holds a thread of the page."""

    def __init__(self, most: int = 8, of_address: int = 2) -> None:
        self.most, self.of_address = most, of_address
        self._lock = threading.Lock()
        self._taken: Counter[str] = Counter()

    @contextmanager
    def place(self, address: str) -> Iterator[None]:
        """While one waits.

        Raises:
            HubError: too many wait already.
        """
        with self._lock:
            if address and self._taken[address] >= self.of_address:
                raise HubError(
                    f"{self.of_address} heads are being fetched for your address already. Try again when they are here."
                )
            if self._taken.total() >= self.most:
                raise HubError("Many heads are being fetched already. Try again in a minute.")
            self._taken[address] += 1
        try:
            yield
        finally:
            with self._lock:
                self._taken[address] -= 1
                self._taken += Counter()  # without those at 0


_fetches, _waiting = Fetches(), Places()
_slots = threading.Semaphore(3)  # heads of visitors that are fetched at the same time


@lru_cache(maxsize=64)
def card(name: str, public: bool) -> str:
    """The model card of a head that is there, as the page shows it; kept, so that no request waits for the Hub."""
    return values.card_text(read_card(load_head_cached(head_source(name), public=public)))


@lru_cache(maxsize=64)
def fetch_backbone(name: str) -> None:
    """Bring a backbone's weights to this machine.

    The network is not built here: torch.fx, which cuts it in two, must not be at work while another thread computes.
    """
    spec = backbone_spec(name)
    read_weights(name, spec.source, file=spec.file, sha256=spec.sha256)


class Catalog:
    """The heads that the page offers to everybody. Its methods may be called from any thread, and none waits.

    Args:
        wanted: ids and collections on the Hub and folders here, separated by commas.
    """

    def __init__(self, wanted: str = "") -> None:
        asked = [word.strip() for word in wanted.split(",")]
        named = [_named(word) for word in dict.fromkeys(asked) if word and word not in list_heads()]
        self._entries = {name: HeadEntry(name) for name in named}
        self._lock = threading.Lock()
        self._slots = threading.Semaphore(AT_ONCE)
        self._tried: dict[str, float] = {}

    def start(self) -> None:
        """Begin to fetch them, in the background."""
        for asked in list(self._entries):
            self._begin(asked)

    def entries(self) -> list[HeadEntry]:
        """All of them as they are now; those that come with AIS first."""
        with self._lock:
            return [shipped(name) for name in list_heads()] + list(self._entries.values())

    def find(self, name: str) -> HeadEntry | None:
        """The one asked for by this name, or chosen by it, if it is there."""
        return next((e for e in self.entries() if e.head and name in (e.asked, e.head)), None)

    def owned(self, head: str) -> bool:
        """Whether the page's owner offers this head, so that the owner's token may read it."""
        with self._lock:
            return any(e.head == head for e in self._entries.values())

    def retry(self, asked: str) -> None:
        """Fetch again one that failed; not again within `RETRY` seconds."""
        with self._lock:
            found = self._entries.get(asked)
            now = time.monotonic()
            if found is None or not found.reason or now - self._tried.get(asked, -RETRY) < RETRY:
                return
            self._tried[asked] = now
            self._entries[asked] = HeadEntry(asked)
        self._begin(asked)

    def _begin(self, asked: str) -> None:
        threading.Thread(target=self._fetch, args=(asked,), name="ais-catalog", daemon=True).start()

    def _fetch(self, asked: str) -> None:
        with self._slots:
            try:
                slug = collection_slug(asked)
                found = collection_items(slug) if slug else [fetch(asked, public=False)]
            except Exception as error:
                if not isinstance(error, AISError):
                    logger.exception("%s could not be fetched", asked)
                reason = folders.hide_paths(str(error)) if isinstance(error, AISError) else BROKEN
                found = [HeadEntry(asked, reason=reason)]
        for one in found:
            if one.reason:
                logger.warning("%s is not offered: %s", one.asked, one.reason)
        with self._lock:
            fresh = [one for one in found if one.asked == asked or one.asked not in self._entries]
            places = {one.asked: [one] for one in self._entries.values()} | {asked: fresh}
            self._entries = {one.asked: one for place in places.values() for one in place}
        for one in fresh:
            if not one.head and not one.reason:
                self._begin(one.asked)


def _named(word: str) -> str:
    """What a head of ``AIS_HEADS`` is called: a folder by its name, anything else as it is written."""
    folder = folders.folder_in(word) if collection_slug(word) is None else None
    return word if folder is None else folders.register(values.short(folder.name), folder, list_heads())


@lru_cache(maxsize=64)
def shipped(name: str) -> HeadEntry:
    """One that comes with AIS."""
    config = read_config(heads_directory() / name)
    task = TASKS[config.task]
    title, facts = values.title(config), values.facts(config)
    lacks = lacking(load_head_cached(heads_directory() / name))
    return HeadEntry(
        name, head=name, title=title, facts=facts, task=task.label, about=task.about, lacks=lacks
    )


def collection_slug(text: str) -> str | None:
    """``owner/title-…`` of a collection, or its address; None for anything else."""
    address = _COLLECTION_ADDRESS.fullmatch(text)
    if address:
        return address[1]
    return text if _COLLECTION.fullmatch(text) else None


def collection_items(slug: str) -> list[HeadEntry]:
    """The models of a collection on the Hub, yet to be fetched.

    Raises:
        HubError: it is unavailable, or holds none.
    """
    try:
        found = with_timeout(TIMEOUT, lambda: HfApi().get_collection(slug))
    except TRANSPORT_ERRORS as error:
        if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403, 404):
            raise HubError(
                f"There is no collection {slug} on the Hub, or it is private and the token in use may not read it. "
                "Check AIS_HEADS."
            ) from error
        raise HubError(error_message(error, Repository(slug))) from error
    models = [item.item_id for item in found.items if item.item_type == "model"]
    if not models:
        raise HubError(f"The collection {slug} holds no models.")
    return [HeadEntry(model) for model in models]


offered = Catalog(os.environ.get(HEADS_VARIABLE, ""))  # those of this page
