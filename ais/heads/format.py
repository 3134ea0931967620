"""Reading a head's folder: every claim is checked before anything is allocated, and no pickle is ever read.

What is in the folder is described in ``docs/head-format.md``. Nothing here needs PyTorch; `ais.heads.tensors` does.
"""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from typing import Any

from ais.errors import HeadError
from ais.heads.config import CONFIG, FORMAT, Config, is_word
from ais.heads.tasks import TASKS

CONFIG_LIMIT, WEIGHTS_LIMIT = 4 << 20, 2 << 30  # bytes; a larger file is not a head

_DEEPEST = 16  # levels of a config


class DamagedError(HeadError):
    """A file of the head is not what its maker wrote."""


def read_config(directory: Path) -> Config:
    """``config.json`` of a head's folder, checked: of the class that its task has for it.

    Raises:
        HeadError: it is missing something, of a newer format or an unknown task, or not a config at all.
    """
    where = f"{CONFIG} in {directory}"
    data = read_bytes(directory, CONFIG, CONFIG_LIMIT)
    try:
        raw = parse_json(data)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{where} is not JSON: {error}.") from error
    if not isinstance(raw, dict):
        raise HeadError(f"{where} is not a head's config: it should be a JSON object.")
    _check_values(where, raw)
    raw = {"format": 1} | raw
    version = raw["format"]
    if isinstance(version, int) and version > FORMAT:
        raise HeadError(f"{where} has format {version}, newer than this AIS reads ({FORMAT}): update AIS.")
    if version == 1:
        raw = _from_format_1(raw)
    kind = _config_class(where, raw)
    try:
        config = kind.parse(raw)
        problem = next(config.problems(), "")
    except (TypeError, KeyError) as error:
        raise HeadError(f"{where} is not a head's config: {error}.") from error
    if problem:
        raise HeadError(f"{where} is not valid: {problem}.")
    return config


def _from_format_1(raw: dict[str, Any]) -> dict[str, Any]:
    """The fields of a config of format 1 by the names of format 2. What format 1 did not have is passed over."""
    new = ("task", "trained_on", "backbone_sha256")
    known = {key: value for key, value in raw.items() if key not in new}
    if "seen" in known:
        known["trained_on"] = known.pop("seen")
    if known.get("view") == "whole":
        known["view"] = "resize"
    return known | {"task": "rating"}


def _config_class(where: str, raw: dict[str, Any]) -> type[Config]:
    """The class of the config, by its task and by whether it has members."""
    if "task" not in raw:
        raise HeadError(f"{where} is not a head's config: it does not say its task.")
    name = raw["task"]
    if not is_word(name):
        raise HeadError(f"{where} is not valid: task should be a word.")
    if name not in TASKS:
        raise HeadError(
            f"{where} is of a head for the task {name[:80]!r}, which this AIS does not have ({', '.join(TASKS)}): it "
            "needs a newer AIS."
        )
    task = TASKS[name]
    kind = task.stack if "members" in raw else task.single
    if kind is None:
        raise HeadError(
            f"{where} is not valid: the task {name!r} has no stacks, so it should have no members."
        )
    return kind.config


def parse_json(data: bytes) -> Any:
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


def _check_values(where: str, raw: dict[str, Any]) -> None:
    """That whatever shows or writes the config again can: also the parts that no score depends on."""

    def need(condition: bool, what: str) -> None:
        if not condition:
            raise HeadError(f"{where} is not valid: {what}.")

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


def read_bytes(directory: Path, name: str, limit: int) -> bytes:
    file = directory / name
    check_file(file, limit)
    try:
        return file.read_bytes()
    except OSError as error:
        raise HeadError(f"{file} cannot be read: {error.strerror or error}.") from error


def check_file(file: Path, limit: int, what: str = "") -> os.stat_result:
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
