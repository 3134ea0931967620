"""Finding and loading heads: those that come with AIS, those in folders, and those on the Hugging Face Hub."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import cast

from ais.backbones.frozen import FrozenBackbone
from ais.backbones.loading import backbone_cached, pick_device
from ais.backbones.registry import backbone_spec, weights_size
from ais.errors import AISError, HeadError, HubError
from ais.heads import shipped
from ais.heads.base import Head
from ais.heads.config import BACKBONE, CARD, CONFIG, WEIGHTS, Config, Member
from ais.heads.format import (
    CONFIG_LIMIT,
    WEIGHTS_LIMIT,
    DamagedError,
    check_file,
    read_bytes,
    read_config,
)
from ais.heads.regression import RatingHead, RegressionHead
from ais.heads.tasks import TASKS
from ais.heads.tensors import head_class, read_tensors
from ais.io.hub import Repository, Snapshot, cached_snapshot, parse_repository, resolve_revision
from ais.torch_state import own_state

_PUBLIC_LIMIT = 512 << 20  # bytes of a file that is fetched for a stranger


@dataclass(frozen=True)
class HeadLocation:
    """Where a head's files lie.

    Attributes:
        folder: holds them.
        repository: of the Hub, at its commit, if they came from there.
        label: how the user knows the place.
        notice: why a head from the Hub may not be the newest; empty if it is.
        public: whether its files were fetched as everybody may.
    """

    folder: Path
    repository: Repository | None = None
    label: str = ""
    notice: str = field(default="", compare=False)
    public: bool = False

    def fetch(self, name: str, limit: int) -> Path:
        """A file of the head, fetched if it came from the Hub and lacks it.

        Raises:
            HubError: it could not be downloaded.
        """
        if self.repository is None:
            return self.folder / name
        return self._snapshot.fetch(name, limit)

    def fetch_optional(self, name: str) -> bool:
        """Fetch a file that a head may lack; whether it is there now."""
        try:
            return self.fetch(name, CONFIG_LIMIT).is_file()
        except HubError:
            return False

    @property
    def _snapshot(self) -> Snapshot:
        assert self.repository is not None
        return Snapshot(self.repository, self.repository.revision, self.notice, self.public)

    @contextmanager
    def relabel_errors(self) -> Iterator[None]:
        """Errors inside name a repository as the user knows it, not by its folder in the cache.

        What arrived damaged is removed from the cache, so that the next try fetches it again.
        """
        try:
            yield
        except HeadError as error:
            if self.repository is None:
                raise
            text = str(error).replace(str(self.folder), self.label)
            if isinstance(error, DamagedError):
                for name in (CONFIG, WEIGHTS, BACKBONE):  # any of them may be the damaged one
                    self._snapshot.evict(name)
                text += " It was removed from the cache: try again, and it is fetched again."
            raise HeadError(text) from error


@own_state()
def load_head(source: str | os.PathLike[str] | Repository | None = None, revision: str | None = None) -> Head:
    """A head: by the name of one that comes with AIS, by its folder, or by its repository on the Hugging Face Hub.

    The members of a stack are looked for beside its folder, then among the heads that come with AIS, then on the Hub
    with the stack's owner; one that is not the member the stack was made with is refused.

    Args:
        source: such as ``beauty-stack``, ``folder/my-head`` or ``user/repo``, also ``user/repo@revision``; None for
            the default one that comes with AIS, ``beauty-efficientnet-lite0``.
        revision: a branch, tag or commit of the repository.

    Raises:
        HeadError: no such head, or one that is not what its config says.
        HubError: it cannot be fetched.
    """
    return load_from(find_head(source, revision))


@own_state()
def load_from(location: HeadLocation) -> Head:
    """The head whose files have been found, of the class that its task has for it.

    Raises:
        HeadError, HubError: as `load_head`.
    """
    with location.relabel_errors():
        config = read_config(location.folder)
        tensors = read_tensors(location.folder, config)
    head = head_class(config).build(config, [_load_member(location, config, part) for part in config.parts])
    head.load_state_dict(
        tensors, strict=False
    )  # whose names were checked; a stack's members have theirs already
    head.folder, head.repository = location.folder, location.repository
    head.notice, head.public = location.notice, location.public
    return head.eval()


def rating_head(head: Head) -> RatingHead:
    """The head, if it predicts ratings.

    Raises:
        HeadError: its task is another.
    """
    task = head.config.task
    if task != "rating":
        raise HeadError(
            f"The head {head.config.name!r} is for the task {TASKS[task].label!r}; a head for ratings is needed here."
        )
    return cast(RatingHead, head)


def single_head(head: Head) -> RegressionHead:
    """The head, if it predicts ratings from one backbone.

    Raises:
        HeadError: it is a stack, or its task is another.
    """
    found = rating_head(head)
    if found.config.parts:
        raise HeadError(
            f"{found.config.name!r} is a stack, and a head on one backbone is needed here: name one of its members, "
            f"{', '.join(part.head for part in found.config.parts)}."
        )
    return found.members[0]


def read_card(head: Head) -> str:
    """The model card beside a head that was loaded; empty if it has none, or it could not be downloaded."""
    if head.folder is None:
        return ""
    if not HeadLocation(head.folder, head.repository, public=head.public).fetch_optional(CARD):
        return ""
    try:
        return read_bytes(head.folder, CARD, CONFIG_LIMIT).decode(errors="replace")
    except HeadError:
        return ""


def tuned_backbone(head: RegressionHead, limit: int = WEIGHTS_LIMIT) -> Path | None:
    """The file of a head's own backbone, or None if it uses a published one.

    Args:
        limit: bytes; a larger file is not read.

    Raises:
        HeadError: the file is missing, or not the one that the head was trained with.
    """
    if not head.config.tuned_sha256:
        return None
    if head.folder is None:
        raise HeadError(
            f"The head {head.config.name!r} has a backbone of its own: save the head and load it."
        )
    file = head.folder / BACKBONE
    with HeadLocation(head.folder, head.repository, str(head.repository)).relabel_errors():
        state = check_file(file, limit, ", the backbone of its head,")
        try:
            sha256 = _sha256(file, state.st_mtime_ns, state.st_size)
        except OSError as error:
            raise HeadError(f"{file}, the backbone of its head, cannot be read: {error.strerror}.") from error
        if sha256 != head.config.tuned_sha256:
            raise DamagedError(f"{file} is damaged, or not the backbone that its head was trained with.")
    return file


@lru_cache(maxsize=16)
def _sha256(file: Path, changed: int, size: int) -> str:
    """Of a large file; `changed` and `size` are there so that it is read again when it is another."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def find_head(
    source: str | os.PathLike[str] | Repository | None, revision: str | None = None, *, public: bool = False
) -> HeadLocation:
    """The folder of a head; of one on the Hub, after its files have been fetched.

    Args:
        source: as in `load_head`. A `Repository` is looked for on the Hub alone, never among the folders here.
        public: fetch only what everybody may read.

    Raises:
        HeadError: there is none of this name or at this path.
        HubError: it cannot be fetched.
    """
    if source is None:  # nobody has typed its name, so no folder here is meant
        source = shipped.default_head()
    if isinstance(source, Repository):
        return _fetch_head(source, public)
    repository = parse_repository(source, revision) if isinstance(source, str) else None
    if revision is None:
        directory = _local_folder(source)
        if (directory / CONFIG).is_file():
            return HeadLocation(directory)
    if repository is not None and not Path(source).is_dir():
        return _fetch_head(repository, public)
    if revision is not None:
        raise HeadError(f"{str(source)!r} has no revisions: only a head on the Hub, user/repo, has.")
    raise HeadError(
        f"There is no head {str(source)!r}: neither a folder with {CONFIG} and {WEIGHTS}, nor one that comes with "
        f"AIS ({', '.join(shipped.list_heads()) or 'none is installed'}), nor the id of one on the Hub (user/repo)."
    )


def _local_folder(source: str | os.PathLike[str]) -> Path:
    """The folder on this machine that a head is named by: a path, or the name of one that comes with AIS.

    Raises:
        HeadError: a name could be either.
    """
    folder = Path(source)
    if not isinstance(source, str) or folder.is_absolute() or os.sep in source or "/" in source:
        return folder
    if source not in shipped.list_heads():
        return folder
    own = shipped.heads_directory() / source
    if (folder / CONFIG).is_file() and not folder.samefile(own):
        raise HeadError(
            f"{source!r} is both a head that comes with AIS and a folder here: write .{os.sep}{source} for the "
            f"folder, or {own} for the one that comes with AIS."
        )
    return own


def _fetch_head(repository: Repository, public: bool) -> HeadLocation:
    return _fetch_rest(resolve_revision(repository, CONFIG, CONFIG_LIMIT, public=public))


def _fetch_rest(snapshot: Snapshot) -> HeadLocation:
    """All that the head needs to be loaded."""
    asked = snapshot.repository
    found = HeadLocation(
        snapshot.folder,
        Repository(asked.id, snapshot.commit),
        f"{asked.id}, revision {asked.revision},",
        snapshot.notice,
        snapshot.public,
    )
    with found.relabel_errors():
        config = read_config(found.folder)
    limit = _PUBLIC_LIMIT if snapshot.public else WEIGHTS_LIMIT
    found.fetch(WEIGHTS, limit)
    if config.has_own_backbone:
        found.fetch(BACKBONE, limit)
    return found


def _find_member(stack: HeadLocation, member: Member) -> HeadLocation:
    """The member's folder: beside the stack's, among the heads that come with AIS, or on the Hub."""
    beside = stack.folder.resolve().parent
    another = None
    for place in (beside / member.head, shipped.heads_directory() / member.head):
        if (place / CONFIG).is_file():
            if _is_member(place, member):
                return HeadLocation(place)
            another = another or str(place)
    if stack.repository is not None:
        owner = stack.repository.id.partition("/")[0]
        repository = Repository(f"{owner}/{member.head}")
        kept = cached_snapshot(
            repository, CONFIG, public=stack.public
        )  # so that a pinned stack needs no request
        if kept is not None and _is_member(kept.folder, member):
            return _fetch_rest(kept)
        found = _fetch_head(repository, stack.public)
        if _is_member(found.folder, member):
            return found
        another = str(repository)
    if another is None:
        raise HeadError(f"Put its folder into {beside}, beside the stack's.")
    raise HeadError(
        f"The one in {another} differs from the one that the stack was made with: get that one, or combine the heads "
        "again."
    )


def _is_member(folder: Path, member: Member) -> bool:
    config = read_config(folder)
    if config.parts:
        raise HeadError("It should be a head on one backbone.")
    return config.fingerprint == member.fingerprint


def _load_member(stack: HeadLocation, config: Config, member: Member) -> Head:
    try:
        head = load_from(_find_member(stack, member))
        problem = config.member_problem(head.config)
        if problem:
            raise HeadError(problem)
    except (HeadError, HubError) as error:
        raise type(error)(
            f"The head {config.name!r} is a stack, and its member {member.head!r} is unavailable. {error}"
        ) from error
    return head


HeadSource = str | os.PathLike[str] | Repository | Head


@own_state()
def backbone_of(head: RegressionHead, device: str = "auto") -> FrozenBackbone:
    """The head's backbone on a device, from a cache of the last few. The head stays where it is (see `Head.on`).

    Raises:
        AISError: no such device.
        HeadError: the head does not fit the backbone, or was trained on one with other weights.
        WeightsError: the backbone's weights are unavailable.
    """
    config = head.config
    try:
        spec = backbone_spec(config.backbone)
    except AISError as error:
        raise HeadError(
            f"The head {config.name!r} wants a backbone that this AIS does not know. {error}"
        ) from error
    try:
        spec.preprocessing(config.view, config.size)
    except AISError as error:
        raise HeadError(
            f"The head {config.name!r} does not fit its backbone {config.backbone}. {error}"
        ) from error
    where = pick_device(device)
    tuned = None
    if config.tuned_sha256:
        tuned = tuned_backbone(head, 2 * weights_size(config.backbone) + _MORE)
    backbone = backbone_cached(
        config.backbone,
        config.layer,
        view=config.view,
        size=config.size,
        device=where,
        tuned=tuned,
        tuned_sha256=config.tuned_sha256,
    )
    check_backbone(head, backbone)
    return backbone


def check_backbone(head: RegressionHead, backbone: FrozenBackbone) -> None:
    """That a backbone has the weights that the head was trained on, where the head says which.

    Raises:
        HeadError: it has others.
    """
    wanted = head.config.backbone_sha256
    if wanted and wanted != backbone.sha256:
        raise HeadError(
            f"The head {head.config.name!r} was trained on a {head.config.backbone} with other weights (SHA-256 "
            f"{wanted}) than the one here ({backbone.sha256}): its scores would be wrong. Get those weights, or "
            "train the head again."
        )


@own_state()
def load_head_cached(head: HeadSource | None, *, public: bool = False) -> Head:
    """`load_head`, from a cache of the last few; a head that is loaded already passes through.

    Args:
        public: fetch only what everybody may read from the Hub.
    """
    if isinstance(head, Head):
        return head
    found = find_head(head, public=public)
    loaded = _head(found, (found.folder / CONFIG).stat().st_mtime_ns)
    loaded.notice = found.notice  # of this time, not of the time when it was loaded
    return loaded


_MORE = 1 << 20  # bytes of a tuned backbone's file that are none of its weights


@lru_cache(maxsize=8)
def _head(found: HeadLocation, changed: int) -> Head:
    """`changed` is there so that a head that was trained again is read again."""
    return load_from(found)
