"""Reading a head's folder: every claim is checked before anything is allocated, and no pickle is ever read."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from ais.errors import HeadError, HubError
from ais.heads import (
    BACKBONE,
    CARD,
    CONFIG,
    EMBEDDED,
    FORMAT,
    MOST_MEMBERS,
    WEIGHTS,
    Config,
    Head,
    HeadConfig,
    Interval,
    Member,
    RegressionHead,
    StackConfig,
    StackedHead,
    Target,
)
from ais.io.hub import Repository, Snapshot, cached_snapshot, look_up, parse_repository
from ais.torch_state import own_state

CONFIG_LIMIT, _WEIGHTS_LIMIT = 4 << 20, 2 << 30  # bytes; a larger file is not a head
_PUBLIC_LIMIT = 512 << 20  # bytes of a file that is fetched for a stranger
_BYTES = (4, 8)  # of a number, float32 or int64
_HEADER_LIMIT = 1 << 20  # bytes, of the safetensors header of a head
_LONGEST_NAME = 200  # bytes: a file system takes a little more
_DEEPEST = 16  # levels of a config
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # what a terminal would obey, line ends included


def heads_directory() -> Path:
    """Where the heads that come with AIS lie: in the installed package, or at the top of the repository."""
    installed = Path(__file__).parent / "model_cards"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "model_cards"


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


class _DamagedError(HeadError):
    """A file of the head is not what its maker wrote."""


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


def read_config(directory: Path) -> HeadConfig | StackConfig:
    """``config.json`` of a head's folder, checked.

    Raises:
        HeadError: it is missing something, of a newer format, or not a config at all.
    """
    where = f"{CONFIG} in {directory}"
    data = _read_bytes(directory, CONFIG, CONFIG_LIMIT)
    try:
        raw = _parse(data)
    except (ValueError, RecursionError) as error:
        raise _DamagedError(f"{where} is not JSON: {error}.") from error
    if not isinstance(raw, dict):
        raise HeadError(f"{where} is not a head's config: it should be a JSON object.")
    need = partial(_need, where)
    _check_values(need, raw)
    version = raw.get("format")
    if isinstance(version, int) and version > FORMAT:
        raise HeadError(f"{where} has format {version}, newer than this AIS reads ({FORMAT}): update AIS.")
    kind = StackConfig if "members" in raw else HeadConfig
    try:
        known = {f.name for f in fields(kind)}
        raw = {key: value for key, value in raw.items() if key in known}
        raw["target"] = Target(**raw["target"])
        raw["interval"] = Interval(**raw["interval"])
        if kind is StackConfig:
            raw["members"] = [Member(**member) for member in raw["members"]]
        config = kind(**raw)
    except (TypeError, KeyError) as error:
        raise HeadError(f"{where} is not a head's config: {error}.") from error
    _check_config(need, config)
    if isinstance(config, StackConfig):
        _check_members(need, config)
    else:
        _check_head_config(need, config)
    return config


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
            head.config.view != "whole"
        ):  # crops differ from backbone to backbone, so their grids do not add up
            raise HeadError("It should be a head that sees the whole picture.")
    except (HeadError, HubError) as error:
        raise type(error)(
            f"The head {config.name!r} is a stack, and its member {member.head!r} cannot be had. {error}"
        ) from error
    return head


def _read_tensors(directory: Path, config: Config) -> dict[str, Tensor]:
    _check_size(directory, config)
    data = _read_bytes(directory, WEIGHTS, _WEIGHTS_LIMIT)
    _check_header(directory, config, data)
    if hashlib.sha256(data).hexdigest() != config.weights_sha256:
        raise _DamagedError(
            f"The weights of the head in {directory} are damaged: the SHA-256 of {WEIGHTS} is not the one in {CONFIG}."
        )
    try:
        tensors = load_tensors(data)
    except SafetensorError as error:
        raise HeadError(f"{WEIGHTS} in {directory} cannot be read: {error}.") from error
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise HeadError(f"The tensor {name} of the head in {directory} holds values that are not finite.")
    for name, holds, what in (
        ("rating_quantiles", bool((tensors["rating_quantiles"].diff() >= 0).all()), "fall somewhere"),
        ("weight", bool((tensors.get("weight", torch.zeros(1)) >= 0).all()), "holds negative values"),
    ):
        if not holds:
            raise HeadError(f"The tensor {name} of the head in {directory} {what}.")
    return tensors


Need = Callable[[bool, str], None]


def _need(where: str, condition: bool, what: str) -> None:
    if not condition:
        raise HeadError(f"{where} is not valid: {what}.")


def _is_number(value: object, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def _parse(data: bytes) -> Any:
    """A JSON document in which no key is there twice and every number is one.

    Raises:
        ValueError: it is none. RecursionError: it is nested too deeply.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a key is there twice")
        return found

    def constant(word: str) -> Any:
        raise ValueError(f"{word} is no number")

    return json.loads(data, object_pairs_hook=unique, parse_constant=constant)


def _check_values(need: Need, raw: dict[str, Any]) -> None:
    """That whatever shows or writes the config again can: also the parts that no score depends on."""
    todo: list[tuple[Any, int]] = [(raw, 0)]
    while todo:
        value, depth = todo.pop()
        need(depth <= _DEEPEST, f"it should not be nested more than {_DEEPEST} levels deep")
        if isinstance(value, dict):
            todo += [(inner, depth + 1) for pair in value.items() for inner in pair]
        elif isinstance(value, list):
            todo += [(inner, depth + 1) for inner in value]
        elif isinstance(value, str):
            need(not re.search("[\ud800-\udfff]", value), "its texts should be Unicode")
        elif isinstance(value, (int, float)):
            need(abs(value) < 1e300, "its numbers should be finite, and smaller than 1e300")


def _is_word(text: object) -> bool:
    return isinstance(text, str) and bool(text) and not _CONTROL.search(text)


def _check_config(need: Need, config: Config) -> None:
    for name in ("name", "weights_sha256"):
        need(_is_word(getattr(config, name)), f"{name} should be a word")
    # Explanations of a stack are written into folders of its members' names.
    need(
        config.name not in (".", "..")
        and not re.search(r"[/\\]", config.name)
        and len(config.name.encode()) <= _LONGEST_NAME,
        "name should be that of a folder",
    )
    for name in ("format", "variants"):
        need(_is_number(getattr(config, name), 1, 1 << 20), f"{name} should be a positive whole number")
    need(_is_number(config.seen, 0, 1 << 27), "seen should be a whole number")
    target, interval = config.target, config.interval
    words = (target.name, target.dataset, config.about, config.license, config.citation)
    need(
        all(isinstance(word, str) for word in words),
        "about, license, citation, and the target's name and dataset, should be text",
    )
    need(
        not any(_CONTROL.search(word) for word in (target.name, target.dataset, config.license)),
        "license, and the target's name and dataset, should be on one line, without control characters",
    )
    numbers = (target.low, target.high, interval.level, interval.error, interval.factor)
    need(
        all(type(n) in (int, float) and abs(n) < 1e9 for n in numbers),
        "target and interval should hold numbers",
    )
    need(target.low < target.high, "the rating scale's low end should be below its high end")
    need(0 < interval.level < 1, "interval's level should lie between 0 and 1")
    need(interval.error >= 0 and interval.factor >= 0, "interval's error and factor should not be negative")
    need(
        isinstance(config.metrics, dict) and isinstance(config.recipe, dict),
        "metrics and recipe should be objects",
    )


def _check_head_config(need: Need, config: HeadConfig) -> None:
    for name in ("backbone", "layer"):
        need(_is_word(getattr(config, name)), f"{name} should be a word")
    need(config.view in ("crop", "whole"), "view should be crop or whole")
    for name in ("size", "dim", "channels", "hidden"):
        need(_is_number(getattr(config, name), 1, 1 << 20), f"{name} should be a positive whole number")
    need(
        isinstance(config.pruned, list)
        and all(_is_number(c, 0, config.channels - 1) for c in config.pruned)
        and all(one < other for one, other in pairwise(config.pruned)),
        "pruned should list feature maps by their numbers, each once, in rising order",
    )
    need(isinstance(config.tuned_sha256, str), "tuned_sha256 should be text")


def _check_members(need: Need, config: StackConfig) -> None:
    need(1 < len(config.members) <= MOST_MEMBERS, f"a stack should have 2 to {MOST_MEMBERS} members")
    for member in config.members:
        # A name alone: a head that came from elsewhere must not point into this machine's folders.
        need(
            isinstance(member.head, str) and bool(re.fullmatch(r"\w[\w.-]*", member.head)),
            "a member should be named as its folder is, by letters, digits, dots and dashes",
        )
        need(isinstance(member.fingerprint, str), "a member's fingerprint should be text")
        need(member.head != config.name, "a stack cannot be a member of itself")
    need(
        len({member.head for member in config.members}) == len(config.members),
        "a stack should name each of its members once",
    )


def _check_size(directory: Path, config: Config) -> None:
    """That the weights' file is about as large as its tensors are, before any of it is read."""
    file = directory / WEIGHTS
    size = _check_file(file, _WEIGHTS_LIMIT).st_size
    bound = (
        8
        + _HEADER_LIMIT
        + sum(math.prod(shape) * _BYTES[name == "seen"] for name, shape in config.shapes().items())
    )
    if size > bound:
        raise HeadError(
            f"{file} is larger than the tensors are that it should hold by {CONFIG}: {size} bytes."
        )


def _check_header(directory: Path, config: Config, data: bytes) -> None:
    """The tensors that the file claims to hold, before any of them is allocated."""
    where = f"{WEIGHTS} in {directory}"
    try:
        (length,) = struct.unpack_from("<Q", data)
        if length > len(data) - 8:
            raise ValueError("the header is longer than the file")
        header = _parse(data[8 : 8 + length])
        found = {
            name: (entry["dtype"], tuple(entry["shape"]))
            for name, entry in header.items()
            if name[:2] != "__"
        }
    except (struct.error, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _DamagedError(f"{where} is not a safetensors file.") from error
    wanted = {name: ("I64" if name == "seen" else "F32", shape) for name, shape in config.shapes().items()}
    for name in sorted(wanted.keys() | found.keys()):
        if name not in found:
            raise HeadError(f"{where} lacks the tensor {name}.")
        if name not in wanted:
            raise HeadError(f"{where} holds a tensor that heads do not have: {name!r}.")
        if found[name] != wanted[name]:
            raise HeadError(
                f"In {where} the tensor {name} is {found[name][0]} {list(found[name][1])}, but by {CONFIG} it "
                f"should be {wanted[name][0]} {list(wanted[name][1])}."
            )


def _read_bytes(directory: Path, name: str, limit: int) -> bytes:
    file = directory / name
    _check_file(file, limit)
    try:
        return file.read_bytes()
    except OSError as error:
        raise HeadError(f"{file} cannot be read: {error.strerror or error}.") from error


def _check_file(file: Path, limit: int, what: str = "") -> os.stat_result:
    """That it is a file, neither a pipe or a device, which may never end, nor too large for a head."""
    try:
        state = file.stat()
    except (OSError, ValueError) as error:
        raise HeadError(
            f"{file}{what} cannot be read: {getattr(error, 'strerror', None) or error}."
        ) from error
    if not stat.S_ISREG(state.st_mode):
        raise HeadError(
            f"{file}{what} cannot be read: it is a folder, a pipe or a device, where a file should be."
        )
    if state.st_size > limit:
        raise HeadError(f"{file}{what} is too large for a head: over {max(1, limit >> 20)} MiB.")
    return state
