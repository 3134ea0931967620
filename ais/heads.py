"""The trained part: K two-layer MLPs on the same embedding, kept as stacked weights, and their folder on disk."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from ais.errors import HeadError
from ais.files import write_atomically
from ais.views import ViewName

FORMAT = 1
REACH_BLOCK = 16  # coordinates that `RegressionHead.reach` takes together: one cache line of float32
EMBEDDED = "beauty-efficientnet-lite0"
_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
_CONFIG_LIMIT, _WEIGHTS_LIMIT = 4 << 20, 2 << 30  # bytes; a larger file is not a head


@dataclass(frozen=True)
class Target:
    """What the head predicts.

    Attributes:
        name: the word for it, such as "beauty".
        low, high: the ends of the rating scale.
        dataset: the name of the rated pictures it was trained on.
    """

    name: str
    low: float
    high: float
    dataset: str = ""


@dataclass(frozen=True)
class Interval:
    """How wide the score's interval is: ``factor * sqrt(error**2 + variance over the variants)`` each way.

    Attributes:
        level: the share of held-out ratings inside it, as measured.
        error: root mean squared error of held-out predictions, in points.
        factor: what makes the level true.
    """

    level: float
    error: float
    factor: float


@dataclass(frozen=True)
class HeadConfig:
    """Everything about a head but its numbers; ``config.json`` holds exactly this.

    Attributes:
        name: the head's name, and its folder's.
        backbone, layer: the network it reads and the layer that is explained.
        view: "crop" or "whole".
        size: side of the network's input in pixels.
        dim, channels, hidden, variants: D, C, H and K of the tensors.
        about: whose ratings of which pictures these were, in sentences for the model card.
        metrics: as measured, on pictures the head's fold had not seen.
        recipe: how it was trained, with the command that does it again.
        format: version of this format.
        weights_sha256: of ``model.safetensors``, so that a damaged download is noticed.
    """

    name: str
    backbone: str
    layer: str
    view: ViewName
    size: int
    dim: int
    channels: int
    hidden: int
    variants: int
    target: Target
    interval: Interval
    about: str = ""
    metrics: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT
    weights_sha256: str = ""


class RegressionHead(nn.Module):
    """``Linear(D, H) -> ReLU -> Linear(H, 1)``, K variants of it evaluated together.

    The variants share the backbone's one pass; their mean is the score, their spread a part of its
    interval. The MLPs work on standardised ratings; `rating_mean` and `rating_std` bring them back.

    Tensors: weight1 (K, H, D), bias1 (K, H), weight2 (K, H), bias2 (K,), rating_mean (), rating_std (),
    alignment (C,) (the mean residual importance over held-out pictures, points), rating_quantiles (101,)
    (of the ratings it was trained on, at 0, 1 … 100 %).
    """

    weight1: Tensor
    bias1: Tensor
    weight2: Tensor
    bias2: Tensor
    alignment: Tensor
    rating_mean: Tensor
    rating_std: Tensor
    rating_quantiles: Tensor

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        for name, shape in tensor_shapes(config).items():
            self.register_buffer(name, torch.zeros(shape))  # buffers: a trained head takes no gradient
        self._reach: tuple[tuple[int, int], Tensor] | None = None

    def hidden(self, embedding: Tensor) -> Tensor:
        """First linear layer, before its ReLU: (N, D) -> (N, K, H)."""
        return torch.einsum("nd,khd->nkh", embedding, self.weight1) + self.bias1

    def readout(self, hidden: Tensor) -> Tensor:
        """Scores of the variants from the first layer's output: (..., K, H) -> (..., K), in points."""
        return self.rating_mean + self.rating_std * ((hidden.relu() * self.weight2).sum(-1) + self.bias2)

    @property
    def reach(self) -> Tensor:
        """The largest absolute first-layer weight of every hidden unit in every block of `REACH_BLOCK`
        neighbouring coordinates, (K·H, ceil(D / REACH_BLOCK)); kept until weight1 changes."""
        state = (self.weight1.data_ptr(), self.weight1._version)
        if self._reach is None or self._reach[0] != state:
            blocks = self.weight1.abs().flatten(0, 1).split(REACH_BLOCK, dim=1)
            self._reach = (state, torch.stack([block.amax(1) for block in blocks], dim=1))
        return self._reach[1]

    def forward(self, embedding: Tensor) -> Tensor:
        """Scores of the variants: (N, D) -> (N, K), in points of the rating scale."""
        return self.readout(self.hidden(embedding))

    def score(self, embedding: Tensor) -> Tensor:
        """The score: the mean over the variants, (N, D) -> (N,)."""
        return self(embedding).mean(-1)

    def interval(self, scores: Tensor) -> Tensor:
        """Half the width of the score's interval: the variants' scores (N, K) -> (N,), in points."""
        calibration = self.config.interval
        return calibration.factor * (calibration.error**2 + scores.var(-1, correction=0)).sqrt()

    def percentile(self, score: float) -> float:
        """The share of rated pictures that people rated below this score, in percent (0 to 100)."""
        quantiles = self.rating_quantiles.cpu()
        above = int(torch.searchsorted(quantiles, torch.tensor(score, dtype=quantiles.dtype)))
        if above == 0:
            return 0.0
        if above == len(quantiles):
            return 100.0
        low, high = quantiles[above - 1].item(), quantiles[above].item()
        return above - 1 + (score - low) / (high - low)

    def save(self, directory: str | os.PathLike[str], card: str | None = None) -> list[Path]:
        """Write the head's folder: ``config.json``, ``model.safetensors`` and its card as ``README.md``.

        Raises:
            AISError: the directory cannot be written; then nothing was.
        """
        data = save_tensors(
            {name: value.float().cpu().contiguous() for name, value in self.state_dict().items()}
        )
        config = asdict(self.config) | {"weights_sha256": hashlib.sha256(data).hexdigest()}
        text = json.dumps(config, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        files = {_CONFIG: text.encode(), _WEIGHTS: data}
        return write_atomically(directory, files if card is None else files | {"README.md": card.encode()})


def tensor_shapes(config: HeadConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor in a head's ``model.safetensors``; all float32."""
    k, h, d = config.variants, config.hidden, config.dim
    return {
        "weight1": (k, h, d),
        "bias1": (k, h),
        "weight2": (k, h),
        "bias2": (k,),
        "rating_mean": (),
        "rating_std": (),
        "alignment": (config.channels,),
        "rating_quantiles": (101,),
    }


def heads_directory() -> Path:
    """Where the heads that come with AIS lie: in the installed package, or at the top of the repository."""
    installed = Path(__file__).parent / "model_cards"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "model_cards"


def list_heads() -> list[str]:
    """Names of the heads that come with AIS; the embedded default first."""
    names = [path.parent.name for path in heads_directory().glob(f"*/{_CONFIG}")]
    return sorted(names, key=lambda name: (name != EMBEDDED, name))


def load_head(source: str | os.PathLike[str] = EMBEDDED) -> RegressionHead:
    """A head by the name of one that comes with AIS, or by the path of its folder.

    Everything is checked against the config before anything is allocated; no pickle is ever read.

    Raises:
        HeadError: no such head, or one that is not what its config says.
    """
    directory = heads_directory() / source
    if str(source) not in list_heads():
        directory = Path(source)
    if not (directory / _CONFIG).is_file():
        raise HeadError(
            f"There is no head {str(source)!r}: neither a folder with {_CONFIG} and {_WEIGHTS}, nor one that comes "
            f"with AIS ({', '.join(list_heads()) or 'none is installed'})."
        )
    config = read_config(directory)
    data = _read_bytes(directory, _WEIGHTS, _WEIGHTS_LIMIT)
    _check_header(directory, config, data)
    if hashlib.sha256(data).hexdigest() != config.weights_sha256:
        raise HeadError(
            f"The weights of the head in {directory} are damaged: the SHA-256 of {_WEIGHTS} is not the one in "
            f"{_CONFIG}. Fetch or train it again."
        )
    try:
        tensors = load_tensors(data)
    except SafetensorError as error:
        raise HeadError(f"{_WEIGHTS} in {directory} cannot be read: {error}.") from error
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise HeadError(f"The tensor {name} of the head in {directory} holds values that are not finite.")
    head = RegressionHead(config)
    head.load_state_dict(tensors, strict=True)
    return head.eval()


def read_config(directory: Path) -> HeadConfig:
    """``config.json`` of a head's folder, checked.

    Raises:
        HeadError: it is missing something, of a newer format, or not a config at all.
    """
    where = f"{_CONFIG} in {directory}"
    try:
        raw = json.loads(_read_bytes(directory, _CONFIG, _CONFIG_LIMIT))
    except (ValueError, RecursionError) as error:
        raise HeadError(f"{where} is not JSON: {error}.") from error
    if not isinstance(raw, dict):
        raise HeadError(f"{where} is not a head's config: it should be a JSON object.")
    version = raw.get("format")
    if isinstance(version, int) and version > FORMAT:
        raise HeadError(f"{where} has format {version}, newer than this AIS reads ({FORMAT}): update AIS.")
    try:
        known = {f.name for f in fields(HeadConfig)}
        raw = {key: value for key, value in raw.items() if key in known}
        raw["target"] = Target(**raw["target"])
        raw["interval"] = Interval(**raw["interval"])
        config = HeadConfig(**raw)
    except (TypeError, KeyError) as error:
        raise HeadError(f"{where} is not a head's config: {error}.") from error
    _check_config(where, config)
    return config


def _check_config(where: str, config: HeadConfig) -> None:
    def need(condition: bool, what: str) -> None:
        if not condition:
            raise HeadError(f"{where} is not valid: {what}.")

    for name in ("name", "backbone", "layer", "weights_sha256"):
        need(
            isinstance(getattr(config, name), str) and bool(getattr(config, name)), f"{name} should be a word"
        )
    need(config.view in ("crop", "whole"), "view should be crop or whole")
    for name in ("format", "size", "dim", "channels", "hidden", "variants"):
        value = getattr(config, name)
        need(type(value) is int and 0 < value <= 1 << 20, f"{name} should be a positive whole number")
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


def _check_header(directory: Path, config: HeadConfig, data: bytes) -> None:
    """The tensors that the file claims to hold, before any of them is allocated."""
    where = f"{_WEIGHTS} in {directory}"
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
    wanted = {name: ("F32", shape) for name, shape in tensor_shapes(config).items()}
    for name in sorted(wanted.keys() | found.keys()):
        if name not in found:
            raise HeadError(f"{where} lacks the tensor {name}.")
        if name not in wanted:
            raise HeadError(f"{where} holds a tensor that heads do not have: {name!r}.")
        if found[name] != wanted[name]:
            raise HeadError(
                f"In {where} the tensor {name} is {found[name][0]} {list(found[name][1])}, but by {_CONFIG} it "
                f"should be F32 {list(wanted[name][1])}."
            )


def _read_bytes(directory: Path, name: str, limit: int) -> bytes:
    file = directory / name
    try:
        if file.stat().st_size > limit:
            raise HeadError(f"{file} is too large for a head: over {limit >> 20} MiB.")
        return file.read_bytes()
    except OSError as error:
        raise HeadError(f"{file} cannot be read: {error.strerror or error}.") from error
