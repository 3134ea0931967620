"""Reading a head's folder: every claim is checked before anything is allocated, and no pickle is ever read."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
import struct
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from ais.errors import AISError, HeadError
from ais.heads.config import (
    CONFIG,
    FORMAT,
    MOST_MEMBERS,
    WEIGHTS,
    Config,
    HeadConfig,
    Interval,
    Member,
    StackConfig,
    Target,
)
from ais.images.preprocessing import view_name

CONFIG_LIMIT, _WEIGHTS_LIMIT = 4 << 20, 2 << 30  # bytes; a larger file is not a head

_BYTES = (4, 8)  # of a number, float32 or int64

_HEADER_LIMIT = 1 << 20  # bytes, of the safetensors header of a head

_LONGEST_NAME = 200  # bytes: a file system takes a little more

_DEEPEST = 16  # levels of a config

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # what a terminal would obey, line ends included


class _DamagedError(HeadError):
    """A file of the head is not what its maker wrote."""


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
        if "view" in raw:
            raw["view"] = view_name(raw["view"])
        config = kind(**raw)
    except AISError as error:
        raise HeadError(f"{where} is not valid: view should be crop or resize.") from error
    except (TypeError, KeyError) as error:
        raise HeadError(f"{where} is not a head's config: {error}.") from error
    _check_config(need, config)
    if isinstance(config, StackConfig):
        _check_members(need, config)
    else:
        _check_head_config(need, config)
    return config


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
