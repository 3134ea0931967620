"""`Head`: what the heads of all tasks have."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from typing_extensions import Self

from ais.errors import HeadError
from ais.heads.config import BACKBONE, CARD, CONFIG, FORMAT, WEIGHTS, Config
from ais.io.files import write_atomically
from ais.io.hub import Repository
from ais.torch_state import own_state

_PLAIN = (torch.float32, torch.int64, torch.bool)  # types of a head's tensors


class Head(nn.Module):
    """What all heads have: the tensors of their config, and a folder on disk.

    Tensors: trained_on (S,) int64 (see `content_key`), and those that `Config.shapes` of its config names. They are
    buffers: a trained head takes no gradient.
    """

    trained_on: Tensor
    folder: Path | None = None  # where it was loaded from
    repository: Repository | None = None  # of the Hub, at its commit, if it came from there
    notice: str = ""  # why it may not be the newest: the Hub could not be asked
    public: bool = False  # whether it was fetched as everybody may

    @own_state()
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config: Any = config
        for name, shape in config.shapes().items():
            self.register_buffer(name, torch.zeros(shape, dtype=_type(name)))

    @classmethod
    def build(cls, config: Config, members: Sequence[Any]) -> Self:
        """A head of this config, all of whose tensors are 0; `members` are the heads that `Config.parts` names."""
        assert not members
        return cls(config)

    @property
    def members(self) -> Sequence[Any]:
        """The heads on one backbone that it consists of: itself, or those of a stack."""
        return (self,)

    @property
    def has_typical(self) -> bool:
        """Whether it, or each of its members, knows the mean embedding of the images it was trained on."""
        return all(bool(member.typical.any()) for member in self.members)

    @own_state()
    def on(self, device: str | torch.device) -> Self:
        """This head ready to compute on a device: itself if it is, else a copy of it.

        Ready means: float32 tensors that take no gradient and were not made in `torch.inference_mode`, so that what is
        computed is the same for all. The head itself is not changed.
        """
        device = torch.device(device)
        if all(_is_ready(tensor, device) for tensor in self.buffers()):
            return self
        copy = self.build(
            self.config, [member.on(device) for member in self.members] if self.config.parts else ()
        )
        tensors = self.state_dict()
        copy.load_state_dict(
            {name: _plain(tensors[name], _type(name), device) for name in self.config.shapes()},
            strict=False,
            assign=True,
        )
        for name in ("folder", "repository", "notice", "public"):
            setattr(copy, name, getattr(self, name))
        return copy.to(device).eval()  # what is not among the config's shapes follows

    def finite(self, values: Tensor, what: str = "score") -> Tensor:
        """The values that the head gave, which are of no use unless all are finite.

        Raises:
            HeadError: one is not.
        """
        if not values.isfinite().all():
            raise HeadError(
                f"The head {self.config.name!r} gives no finite {what} here, since its weights are too large: choose "
                "another, or train it again."
            )
        return values

    def was_trained_on(self, hashes: Sequence[str]) -> list[bool]:
        """Which images it was trained on, by the SHA-256 of their files."""
        known = set(self.trained_on.tolist()) if self.config.trained_on else set()
        return [content_key(value) in known for value in hashes]

    def save(
        self,
        directory: str | os.PathLike[str],
        card: str | None = None,
        extra: Mapping[str, bytes] | None = None,
    ) -> list[Path]:
        """Write the head's folder: ``config.json``, ``model.safetensors`` and its card as ``README.md``.

        A backbone of its own goes with it from the folder that the head was loaded from.

        Args:
            extra: more files of the folder, by name, such as the card's images.

        Raises:
            AISError: the directory cannot be written; then nothing was.
        """
        tensors = self.state_dict()
        data = save_tensors(
            {name: tensors[name].to(_type(name)).cpu().contiguous() for name in self.config.shapes()}
        )
        config = asdict(self.config) | {"format": FORMAT, "weights_sha256": hashlib.sha256(data).hexdigest()}
        text = json.dumps(config, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        files = {CONFIG: text.encode(), WEIGHTS: data}
        if self.config.has_own_backbone and self.folder is not None and BACKBONE not in (extra or {}):
            files[BACKBONE] = (self.folder / BACKBONE).read_bytes()
        files |= dict(extra or {})
        return write_atomically(directory, files if card is None else files | {CARD: card.encode()})


def content_key(sha256: str) -> int:
    """The first 64 bits of a file's SHA-256 (hexadecimal) as a signed number: what a head keeps of an image."""
    return int.from_bytes(bytes.fromhex(sha256[:16]), "big", signed=True)


def _type(name: str) -> torch.dtype:
    return torch.int64 if name == "trained_on" else torch.float32


def _is_ready(tensor: Tensor, device: torch.device) -> bool:
    here = tensor.device.type == device.type and device.index in (None, tensor.device.index)
    return here and tensor.dtype in _PLAIN and not (tensor.requires_grad or tensor.is_inference())


def _plain(tensor: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    plain = tensor.detach().to(device, dtype)
    return plain.clone() if plain.is_inference() else plain
