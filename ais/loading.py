"""Reading a head's folder: every claim is checked before anything is allocated, and no pickle is ever read."""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections.abc import Callable
from dataclasses import fields
from functools import lru_cache, partial
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from ais.errors import HeadError
from ais.heads import (
    BACKBONE,
    CONFIG,
    EMBEDDED,
    FORMAT,
    MOST_MEMBERS,
    WEIGHTS,
    Config,
    HeadConfig,
    Interval,
    Member,
    RegressionHead,
    StackConfig,
    StackedHead,
    Target,
)

_CONFIG_LIMIT, _WEIGHTS_LIMIT = 4 << 20, 2 << 30  # bytes; a larger file is not a head


def heads_directory() -> Path:
    """Where the heads that come with AIS lie: in the installed package, or at the top of the repository."""
    installed = Path(__file__).parent / "model_cards"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "model_cards"


def list_heads() -> list[str]:
    """Names of the heads that come with AIS; the embedded default first."""
    names = [path.parent.name for path in heads_directory().glob(f"*/{CONFIG}")]
    return sorted(names, key=lambda name: (name != EMBEDDED, name))


def load_head(source: str | os.PathLike[str] = EMBEDDED) -> RegressionHead | StackedHead:
    """A head by the name of one that comes with AIS, or by the path of its folder.

    The members of a stack are looked for beside its folder, then among the heads that come with AIS; one that is
    not the member the stack was made with is refused.

    Raises:
        HeadError: no such head, or one that is not what its config says.
    """
    directory = find_head(source)
    config = read_config(directory)
    tensors = _read_tensors(directory, config)
    head: RegressionHead | StackedHead
    if isinstance(config, StackConfig):
        head = StackedHead(config, [_load_member(directory, config, member) for member in config.members])
    else:
        head = RegressionHead(config)
    head.load_state_dict(
        tensors, strict=not isinstance(head, StackedHead)
    )  # members have tensors of their own
    head.folder = directory
    return head.eval()


def read_config(directory: Path) -> HeadConfig | StackConfig:
    """``config.json`` of a head's folder, checked.

    Raises:
        HeadError: it is missing something, of a newer format, or not a config at all.
    """
    where = f"{CONFIG} in {directory}"
    try:
        raw = json.loads(_read_bytes(directory, CONFIG, _CONFIG_LIMIT))
    except (ValueError, RecursionError) as error:
        raise HeadError(f"{where} is not JSON: {error}.") from error
    if not isinstance(raw, dict):
        raise HeadError(f"{where} is not a head's config: it should be a JSON object.")
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
    need = partial(_need, where)
    _check_config(need, config)
    if isinstance(config, StackConfig):
        _check_members(need, config)
    else:
        _check_head_config(need, config)
    return config


def tuned_backbone(head: RegressionHead) -> Path | None:
    """The file of a head's own backbone, or None if it uses a published one.

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
    try:
        state = file.stat()
        sha256 = _sha256(file, state.st_mtime_ns, state.st_size)
    except OSError as error:
        raise HeadError(f"{file}, the backbone of its head, cannot be read: {error.strerror}.") from error
    if sha256 != head.config.tuned_sha256:
        raise HeadError(f"{file} is damaged, or not the backbone that its head was trained with.")
    return file


@lru_cache(maxsize=16)
def _sha256(file: Path, changed: int, size: int) -> str:
    """Of a large file; `changed` and `size` are there so that it is read again when it is another."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def find_head(source: str | os.PathLike[str]) -> Path:
    """The folder of a head.

    Raises:
        HeadError: there is none of this name or at this path.
    """
    directory = heads_directory() / source
    if str(source) not in list_heads():
        directory = Path(source)
    if not (directory / CONFIG).is_file():
        raise HeadError(
            f"There is no head {str(source)!r}: neither a folder with {CONFIG} and {WEIGHTS}, nor one that comes "
            f"with AIS ({', '.join(list_heads()) or 'none is installed'})."
        )
    return directory


def _find_member(directory: Path, name: str) -> Path:
    beside = directory.resolve().parent
    for place in (beside / name, heads_directory() / name):
        if (place / CONFIG).is_file():
            return place
    raise HeadError(f"Put its folder into {beside}, beside the stack's.")


def _load_member(directory: Path, stack: StackConfig, member: Member) -> RegressionHead:
    try:
        found = _find_member(directory, member.head)
        config = read_config(found)
        if isinstance(config, StackConfig) or config.variants != stack.variants:
            raise HeadError(f"It should be a head on one backbone, of {stack.variants} variants.")
        if config.fingerprint != member.fingerprint:
            raise HeadError(
                f"The one in {found} is another than the stack was made with: get that one, or combine the heads anew."
            )
        if config.view != "whole":  # crops differ from backbone to backbone, so their grids do not add up
            raise HeadError("It should be a head that sees the whole picture.")
        head = load_head(found)
    except HeadError as error:
        raise HeadError(
            f"The head {stack.name!r} is a stack, and its member {member.head!r} cannot be had. {error}"
        ) from error
    assert isinstance(head, RegressionHead)  # by its config
    return head


def _read_tensors(directory: Path, config: Config) -> dict[str, Tensor]:
    data = _read_bytes(directory, WEIGHTS, _WEIGHTS_LIMIT)
    _check_header(directory, config, data)
    if hashlib.sha256(data).hexdigest() != config.weights_sha256:
        raise HeadError(
            f"The weights of the head in {directory} are damaged: the SHA-256 of {WEIGHTS} is not the one in "
            f"{CONFIG}. Fetch or train it again."
        )
    try:
        tensors = load_tensors(data)
    except SafetensorError as error:
        raise HeadError(f"{WEIGHTS} in {directory} cannot be read: {error}.") from error
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise HeadError(f"The tensor {name} of the head in {directory} holds values that are not finite.")
    return tensors


Need = Callable[[bool, str], None]


def _need(where: str, condition: bool, what: str) -> None:
    if not condition:
        raise HeadError(f"{where} is not valid: {what}.")


def _is_number(value: object, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def _check_config(need: Need, config: Config) -> None:
    for name in ("name", "weights_sha256"):
        need(
            isinstance(getattr(config, name), str) and bool(getattr(config, name)), f"{name} should be a word"
        )
    # Explanations of a stack are written into folders of its members' names.
    need(
        config.name not in (".", "..") and not re.search(r"[/\\\0]", config.name),
        "name should be that of a folder",
    )
    for name in ("format", "variants"):
        need(_is_number(getattr(config, name), 1, 1 << 20), f"{name} should be a positive whole number")
    need(_is_number(config.seen, 0, 1 << 27), "seen should be a whole number")
    target, interval = config.target, config.interval
    words = (target.name, target.dataset, config.about)
    need(
        all(isinstance(word, str) for word in words),
        "about, and the target's name and dataset, should be text",
    )
    numbers = (target.low, target.high, interval.level, interval.error, interval.factor)
    need(
        all(isinstance(n, (int, float)) and abs(n) < 1e9 for n in numbers),
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
        need(
            isinstance(getattr(config, name), str) and bool(getattr(config, name)), f"{name} should be a word"
        )
    need(config.view in ("crop", "whole"), "view should be crop or whole")
    for name in ("size", "dim", "channels", "hidden"):
        need(_is_number(getattr(config, name), 1, 1 << 20), f"{name} should be a positive whole number")
    need(
        isinstance(config.pruned, list) and all(_is_number(c, 0, config.channels - 1) for c in config.pruned),
        "pruned should list feature maps by their numbers",
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


def _check_header(directory: Path, config: Config, data: bytes) -> None:
    """The tensors that the file claims to hold, before any of them is allocated."""
    where = f"{WEIGHTS} in {directory}"
    try:
        (length,) = struct.unpack_from("<Q", data)
        if length > len(data) - 8:
            raise ValueError("the header is longer than the file")
        header = json.loads(data[8 : 8 + length])
        found = {
            name: (entry["dtype"], tuple(entry["shape"]))
            for name, entry in header.items()
            if name[:2] != "__"
        }
    except (struct.error, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise HeadError(f"{where} is not a safetensors file.") from error
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
    try:
        if file.stat().st_size > limit:
            raise HeadError(f"{file} is too large for a head: over {limit >> 20} MiB.")
        return file.read_bytes()
    except OSError as error:
        raise HeadError(f"{file} cannot be read: {error.strerror or error}.") from error
