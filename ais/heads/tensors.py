"""Reading the tensors of a head: what the file claims is checked against the config before anything is allocated."""

from __future__ import annotations

import hashlib
import math
import struct
from importlib import import_module
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from ais.errors import HeadError
from ais.heads.base import Head
from ais.heads.config import CONFIG, WEIGHTS, Config
from ais.heads.format import WEIGHTS_LIMIT, DamagedError, check_file, parse_json, read_bytes
from ais.heads.tasks import TASKS

_BYTES = {"F32": 4, "I64": 8}

_HEADER_LIMIT = 1 << 20  # bytes, of the safetensors header of a head

_FORMAT_1 = {"trained_on": "seen", "mean_residual": "alignment"}  # names of tensors then

_FORMAT_2_ONLY = ("typical",)


def head_class(config: Config) -> type[Head]:
    """The class of the head that a checked config describes."""
    task = TASKS[config.task]
    kind = task.stack if config.parts else task.single
    assert kind is not None  # `read_config` has refused it
    module, _, name = kind.head.partition(":")
    found: type[Head] = getattr(import_module(module), name)
    return found


def read_tensors(directory: Path, config: Config) -> dict[str, Tensor]:
    """``model.safetensors`` of a head's folder, checked: the tensors of `Config.shapes`, whatever the format.

    Raises:
        HeadError: the file is missing, damaged, or does not hold what the config says.
    """
    wanted = _stored(config)
    _check_size(directory, wanted)
    data = read_bytes(directory, WEIGHTS, WEIGHTS_LIMIT)
    _check_header(directory, wanted, data)
    if hashlib.sha256(data).hexdigest() != config.weights_sha256:
        raise DamagedError(
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
        ("rating_quantiles", lambda values: values.diff() >= 0, "fall somewhere"),
        ("weight", lambda values: values >= 0, "holds negative values"),
    ):
        if name in tensors and not holds(tensors[name]).all():
            raise HeadError(f"The tensor {name} of the head in {directory} {what}.")
    if config.format == 1:
        for new, before in _FORMAT_1.items():
            if before in tensors:
                tensors[new] = tensors.pop(before)
        for name in _FORMAT_2_ONLY:
            if name in config.shapes():
                tensors[name] = torch.zeros(config.shapes()[name])
    return tensors


Stored = dict[str, tuple[str, tuple[int, ...]]]


def _stored(config: Config) -> Stored:
    """Type and shape of every tensor that the file should hold."""
    stored = {
        name: ("I64" if name == "trained_on" else "F32", shape) for name, shape in config.shapes().items()
    }
    if config.format > 1:
        return stored
    return {_FORMAT_1.get(name, name): what for name, what in stored.items() if name not in _FORMAT_2_ONLY}


def _check_size(directory: Path, wanted: Stored) -> None:
    """That the weights' file is about as large as its tensors are, before any of it is read."""
    file = directory / WEIGHTS
    size = check_file(file, WEIGHTS_LIMIT).st_size
    if size > 8 + _HEADER_LIMIT + sum(math.prod(shape) * _BYTES[kind] for kind, shape in wanted.values()):
        raise HeadError(
            f"{file} is larger than the tensors are that it should hold by {CONFIG}: {size} bytes."
        )


def _check_header(directory: Path, wanted: Stored, data: bytes) -> None:
    """The tensors that the file claims to hold, before any of them is allocated."""
    where = f"{WEIGHTS} in {directory}"
    try:
        (length,) = struct.unpack_from("<Q", data)
        if length > len(data) - 8:
            raise ValueError("the header is longer than the file")
        header = parse_json(data[8 : 8 + length])
        found = {
            name: (entry["dtype"], tuple(entry["shape"]))
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (struct.error, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DamagedError(f"{where} is not a safetensors file.") from error
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
