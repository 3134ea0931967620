"""Reading a head's folder: every claim is checked before anything is allocated, and no pickle is ever read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from ais.backbones.frozen import FrozenBackbone
from ais.backbones.loading import backbone_cached, pick_device
from ais.backbones.registry import backbone_spec, weights_size
from ais.errors import AISError, HeadError, HubError
from ais.heads.base import Head
from ais.heads.config import BACKBONE, CARD, CONFIG, EMBEDDED, WEIGHTS, HeadConfig, Member, StackConfig
from ais.heads.format import (
    _WEIGHTS_LIMIT,
    CONFIG_LIMIT,
    _check_file,
    _DamagedError,
    _read_bytes,
    _read_tensors,
    read_config,
)
from ais.heads.regression import RegressionHead
from ais.heads.stack import StackedHead
from ais.io.hub import Repository, Snapshot, cached_snapshot, look_up, parse_repository
from ais.torch_state import own_state

_PUBLIC_LIMIT = 512 << 20  # bytes of a file that is fetched for a stranger


def heads_directory() -> Path:
    """Where the heads that come with AIS lie: in the installed package, or at the top of the repository."""
    installed = Path(__file__).parents[1] / "model_cards"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "model_cards"


def list_heads() -> list[str]:
    """Names of the heads that come with AIS; the embedded default first."""
    names = [path.parent.name for path in heads_directory().glob(f"*/{CONFIG}")]
    return sorted(names, key=lambda name: (name != EMBEDDED, name))


@dataclass(frozen=True)
class Found:
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
            HubError: it cannot be had.
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
    def naming(self) -> Iterator[None]:
        """Errors inside name a repository as the user knows it, not by its folder in the cache.

        What arrived damaged is taken out of the cache, so that the next try fetches it anew.
        """
        try:
            yield
        except HeadError as error:
            if self.repository is None:
                raise
            text = str(error).replace(str(self.folder), self.label)
            if isinstance(error, _DamagedError):
                for name in (CONFIG, WEIGHTS, BACKBONE):  # any of them may be the damaged one
                    self._snapshot.forget(name)
                text += " It has been taken out of the cache: try again, and it is fetched anew."
            raise HeadError(text) from error


@own_state()
def load_head(
    source: str | os.PathLike[str] | Repository = EMBEDDED, revision: str | None = None
) -> RegressionHead | StackedHead:
    """A head: by the name of one that comes with AIS, by its folder, or by its repository on the Hugging Face Hub.

    The members of a stack are looked for beside its folder, then among the heads that come with AIS, then on the Hub
    with the stack's owner; one that is not the member the stack was made with is refused.

    Args:
        source: such as ``beauty-stack``, ``folder/my-head`` or ``user/repo``, also ``user/repo@revision``.
        revision: a branch, tag or commit of the repository.

    Raises:
        HeadError: no such head, or one that is not what its config says.
        HubError: it cannot be fetched.
    """
    return load_found(find_head(source, revision))


@own_state()
def load_found(found: Found) -> RegressionHead | StackedHead:
    """The head whose files have been found.

    Raises:
        HeadError, HubError: as `load_head`.
    """
    with found.naming():
        config = read_config(found.folder)
        tensors = _read_tensors(found.folder, config)
    head: RegressionHead | StackedHead
    if isinstance(config, StackConfig):
        head = StackedHead(config, [_load_member(found, config, member) for member in config.members])
    else:
        head = RegressionHead(config)
    head.load_state_dict(
        tensors, strict=not isinstance(head, StackedHead)
    )  # members have tensors of their own
    head.folder, head.repository = found.folder, found.repository
    head.notice, head.public = found.notice, found.public
    return head.eval()


def read_card(head: Head) -> str:
    """The model card beside a head that was loaded; empty if it has none, or it cannot be had."""
    if head.folder is None:
        return ""
    if not Found(head.folder, head.repository, public=head.public).fetch_optional(CARD):
        return ""
    try:
        return _read_bytes(head.folder, CARD, CONFIG_LIMIT).decode(errors="replace")
    except HeadError:
        return ""


def tuned_backbone(head: RegressionHead, limit: int = _WEIGHTS_LIMIT) -> Path | None:
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
    with Found(head.folder, head.repository, str(head.repository)).naming():
        state = _check_file(file, limit, ", the backbone of its head,")
        try:
            sha256 = _sha256(file, state.st_mtime_ns, state.st_size)
        except OSError as error:
            raise HeadError(f"{file}, the backbone of its head, cannot be read: {error.strerror}.") from error
        if sha256 != head.config.tuned_sha256:
            raise _DamagedError(f"{file} is damaged, or not the backbone that its head was trained with.")
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
    source: str | os.PathLike[str] | Repository, revision: str | None = None, *, public: bool = False
) -> Found:
    """The folder of a head; of one on the Hub, after its files have been fetched.

    Args:
        source: as in `load_head`. A `Repository` is looked for on the Hub alone, never among the folders here.
        public: fetch only what everybody may read.

    Raises:
        HeadError: there is none of this name or at this path.
        HubError: it cannot be fetched.
    """
    if isinstance(source, Repository):
        return _fetch_head(source, public)
    repository = parse_repository(source, revision) if isinstance(source, str) else None
    if revision is None:
        shipped = str(source) in list_heads()
        directory = heads_directory() / source if shipped else Path(source)
        if (directory / CONFIG).is_file():
            return Found(directory)
    if repository is not None and not Path(source).is_dir():
        return _fetch_head(repository, public)
    if revision is not None:
        raise HeadError(f"{str(source)!r} has no revisions: only a head on the Hub, user/repo, has.")
    raise HeadError(
        f"There is no head {str(source)!r}: neither a folder with {CONFIG} and {WEIGHTS}, nor one that comes "
        f"with AIS ({', '.join(list_heads()) or 'none is installed'}), nor the id of one on the Hub (user/repo)."
    )


def _fetch_head(repository: Repository, public: bool) -> Found:
    return _fetch_rest(look_up(repository, CONFIG, CONFIG_LIMIT, public=public))


def _fetch_rest(snapshot: Snapshot) -> Found:
    """All that the head needs to be loaded."""
    asked = snapshot.repository
    found = Found(
        snapshot.folder,
        Repository(asked.id, snapshot.commit),
        f"{asked.id}, revision {asked.revision},",
        snapshot.notice,
        snapshot.public,
    )
    with found.naming():
        config = read_config(found.folder)
    limit = _PUBLIC_LIMIT if snapshot.public else _WEIGHTS_LIMIT
    found.fetch(WEIGHTS, limit)
    if isinstance(config, HeadConfig) and config.tuned_sha256:
        found.fetch(BACKBONE, limit)
    return found


def _find_member(stack: Found, member: Member) -> Found:
    """The member's folder: beside the stack's, among the heads that come with AIS, or on the Hub."""
    beside = stack.folder.resolve().parent
    another = None
    for place in (beside / member.head, heads_directory() / member.head):
        if (place / CONFIG).is_file():
            if _is_member(place, member):
                return Found(place)
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
        f"The one in {another} is another than the stack was made with: get that one, or combine the heads anew."
    )


def _is_member(folder: Path, member: Member) -> bool:
    config = read_config(folder)
    if isinstance(config, StackConfig):
        raise HeadError("It should be a head on one backbone.")
    return config.fingerprint == member.fingerprint


def _load_member(stack: Found, config: StackConfig, member: Member) -> RegressionHead:
    try:
        head = load_found(_find_member(stack, member))
        assert isinstance(head, RegressionHead)  # by its config
        if head.config.variants != config.variants:
            raise HeadError(f"It should be a head on one backbone, of {config.variants} variants.")
        if (
            head.config.view != "resize"
        ):  # crops differ from backbone to backbone, so their grids do not add up
            raise HeadError("It should be a head that sees the whole picture.")
    except (HeadError, HubError) as error:
        raise type(error)(
            f"The head {config.name!r} is a stack, and its member {member.head!r} cannot be had. {error}"
        ) from error
    return head


HeadSource = str | os.PathLike[str] | Repository | RegressionHead | StackedHead


@own_state()
def backbone_of(head: RegressionHead, device: str = "auto") -> FrozenBackbone:
    """The head's backbone on a device, from a cache of the last few; the head is moved there too.

    Raises:
        AISError: no such device.
        HeadError: the head does not fit the backbone.
        WeightsError: the backbone's weights are not to be had.
    """
    config = head.config
    try:
        spec = backbone_spec(config.backbone)
    except AISError as error:
        raise HeadError(
            f"The head {config.name!r} wants a backbone that this AIS does not know. {error}"
        ) from error
    if config.size != spec.size:
        raise HeadError(
            f"The head {config.name!r} was trained at {config.size} pixels, but {config.backbone} takes {spec.size}."
        )
    where = pick_device(device)
    tuned = None
    if config.tuned_sha256:
        tuned = tuned_backbone(head, 2 * weights_size(config.backbone) + _MORE)
    backbone = backbone_cached(
        config.backbone,
        config.layer,
        view=config.view,
        device=where,
        tuned=tuned,
        tuned_sha256=config.tuned_sha256,
    )
    head.to(where)
    return backbone


@own_state()
def load_head_cached(head: HeadSource, *, public: bool = False) -> RegressionHead | StackedHead:
    """`load_head`, from a cache of the last few; a head that is loaded already passes through.

    Args:
        public: fetch only what everybody may read from the Hub.
    """
    if isinstance(head, (RegressionHead, StackedHead)):
        return head.plain()
    found = find_head(head, public=public)
    loaded = _head(found, (found.folder / CONFIG).stat().st_mtime_ns)
    loaded.notice = found.notice  # of this time, not of the time when it was loaded
    return loaded


_MORE = 1 << 20  # bytes of a tuned backbone's file that are none of its weights


@lru_cache(maxsize=8)
def _head(found: Found, changed: int) -> RegressionHead | StackedHead:
    """`changed` is there so that a head that was trained anew is read anew."""
    return load_found(found)
