"""The trained part: K two-layer MLPs on the same embedding, kept as stacked weights; and stacks of such heads.

A head's folder on disk is read by `ais.loading`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import PyTorchModelHubMixin
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from ais.errors import HeadError
from ais.images.preprocessing import ViewName
from ais.io.files import write_atomically
from ais.io.hub import Repository
from ais.torch_state import own_precision, own_state

if TYPE_CHECKING:
    from typing_extensions import Self

FORMAT = 1
_PLAIN = (torch.float32, torch.int64, torch.bool)  # types of a head's tensors
REACH_BLOCK = 16  # coordinates that `RegressionHead.reach` takes together: one cache line of float32
EMBEDDED = "beauty-efficientnet-lite0"
MOST_MEMBERS = 8  # of a stack: so many backbones are kept in memory at once
CONFIG, WEIGHTS, BACKBONE, CARD = (  # files of a head
    "config.json",
    "model.safetensors",
    "backbone.safetensors",
    "README.md",
)


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


@dataclass(frozen=True, kw_only=True)
class Config:
    """What the config of every head says; ``config.json`` holds exactly its fields.

    Attributes:
        name: the head's name, and its folder's.
        variants: K.
        about: whose ratings of which pictures these were, in sentences for the model card.
        metrics: as measured, on pictures the head's fold had not seen.
        recipe: how it was trained, with the command that does it again.
        seen: number of pictures it was trained on, of which it keeps the hashes.
        format: version of this format.
        weights_sha256: of ``model.safetensors``, so that a damaged download is noticed.
        license: of the head, by the Hub's identifier for it.
        citation: BibTeX of the ratings, or of the head.
    """

    name: str
    variants: int
    target: Target
    interval: Interval
    about: str = ""
    metrics: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    seen: int = 0
    format: int = FORMAT
    weights_sha256: str = ""
    license: str = "apache-2.0"
    citation: str = ""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor in ``model.safetensors``; int64 for ``seen``, else float32."""
        shapes: dict[str, tuple[int, ...]] = {"rating_quantiles": (101,)}
        return shapes | ({"seen": (self.seen,)} if self.seen else {})

    @property
    def reads(self) -> str:
        """What the head reads, in a word: its backbone, or its members."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class HeadConfig(Config):
    """The config of a head on one backbone.

    Attributes:
        backbone, layer: the network it reads and the layer that is explained.
        view: "crop" or "whole".
        size: side of the network's input in pixels.
        dim, channels, hidden: D, C and H of the tensors.
        pruned: the feature maps that are silenced for good.
        tuned_sha256: of ``backbone.safetensors`` beside the head, if its backbone was trained further.
    """

    backbone: str
    layer: str
    view: ViewName
    size: int
    dim: int
    channels: int
    hidden: int
    pruned: list[int] = field(default_factory=list)
    tuned_sha256: str = ""

    @property
    def reads(self) -> str:
        return self.backbone + (", tuned" if self.tuned_sha256 else "")

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that the head's scores depend on; of a head that was loaded from its folder."""
        parts = (
            self.backbone,
            self.layer,
            self.view,
            self.size,
            self.pruned,
            self.tuned_sha256,
            self.weights_sha256,
        )
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        k, h, d = self.variants, self.hidden, self.dim
        return super().shapes() | {
            "weight1": (k, h, d),
            "bias1": (k, h),
            "weight2": (k, h),
            "bias2": (k,),
            "rating_mean": (),
            "rating_std": (),
            "alignment": (self.channels,),
        }


@dataclass(frozen=True)
class Member:
    """One head of a stack: its name, and its `HeadConfig.fingerprint`."""

    head: str
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class StackConfig(Config):
    """The config of a stack of heads; its members are heads of their own, found by their names."""

    members: list[Member]

    @property
    def reads(self) -> str:
        return f"{len(self.members)} heads together"

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return super().shapes() | {"weight": (len(self.members),), "intercept": ()}


class Head(nn.Module, PyTorchModelHubMixin):
    """What all heads have: the tensors of their config, the score's interval and percentile, a folder on disk.

    `from_pretrained`, `save_pretrained` and `push_to_hub` are the names that users of the Hub's client know for
    `ais.load_head`, for `save` with a model card, and for `ais push`.

    Tensors: rating_quantiles (101,) (of the ratings it was trained on, at 0, 1 … 100 %), seen (S,) int64 (see
    `content_key`). They are buffers: a trained head takes no gradient.
    """

    rating_quantiles: Tensor
    seen: Tensor
    folder: Path | None = None  # where it was loaded from
    repository: Repository | None = None  # of the Hub, at its commit, if it came from there
    notice: str = ""  # why it may not be the newest: the Hub could not be asked
    public: bool = False  # whether it was fetched as everybody may

    @own_state()
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config: Any = config
        for name, shape in config.shapes().items():
            kind = torch.int64 if name == "seen" else torch.float32
            self.register_buffer(name, torch.zeros(shape, dtype=kind))

    def plain(self) -> Self:
        """This head, or a float32 copy of it where its tensors are of another type, take gradients, or were made in
        `torch.inference_mode`, so that what is computed with it is the same for all and nothing of its owner's changes.
        """
        if all(t.dtype in _PLAIN and not (t.requires_grad or t.is_inference()) for t in self.buffers()):
            return self
        twin = self._twin()
        twin.load_state_dict({name: value.detach() for name, value in self.state_dict().items()})
        for name in ("folder", "repository", "notice", "public"):
            setattr(twin, name, getattr(self, name))
        return twin.to(self.rating_quantiles.device).eval()

    def _twin(self) -> Self:
        """A head of the same config, all of whose tensors are 0."""
        raise NotImplementedError

    def interval(self, scores: Tensor) -> Tensor:
        """Half the width of the score's interval: the variants' scores (N, K) -> (N,), in points."""
        calibration = self.config.interval
        return calibration.factor * (calibration.error**2 + scores.var(-1, correction=0)).sqrt()

    def finite(self, values: Tensor, what: str = "score") -> Tensor:
        """The values that the head gave, which are of no use unless all are finite.

        Raises:
            HeadError: one is not.
        """
        if not values.isfinite().all():
            raise HeadError(
                f"The head {self.config.name!r} gives no finite {what} here, since its weights are too large: choose "
                "another, or train it anew."
            )
        return values

    def within_scale(self, value: float) -> float:
        """The value, or the end of the rating scale that it is beyond.

        An interval cut off so loses no rating that is possible, so that it holds as many ratings as before.
        """
        target = self.config.target
        return float(min(max(value, target.low), target.high))

    def percentile(self, score: float) -> float:
        """The share of rated pictures that people rated below this score, in percent (0 to 100)."""
        quantiles = self.rating_quantiles.cpu()
        above = int(torch.searchsorted(quantiles, torch.tensor(score, dtype=quantiles.dtype, device="cpu")))
        if above == 0:
            return 0.0
        if above == len(quantiles):
            return 100.0
        low, high = quantiles[above - 1].item(), quantiles[above].item()
        return min(max(above - 1 + (score - low) / (high - low), 0.0), 100.0)

    def has_seen(self, hashes: Sequence[str]) -> list[bool]:
        """Which pictures it was trained on, by the SHA-256 of their files."""
        seen = set(self.seen.tolist()) if self.config.seen else set()
        return [content_key(value) in seen for value in hashes]

    def save(
        self,
        directory: str | os.PathLike[str],
        card: str | None = None,
        extra: Mapping[str, bytes] | None = None,
    ) -> list[Path]:
        """Write the head's folder: ``config.json``, ``model.safetensors`` and its card as ``README.md``.

        Args:
            extra: more files of the folder, by name, such as the card's pictures.

        Raises:
            AISError: the directory cannot be written; then nothing was.
        """
        own = self.config.shapes()
        data = save_tensors(
            {
                name: value.to(torch.int64 if name == "seen" else torch.float32).cpu().contiguous()
                for name, value in self.state_dict().items()
                if name in own
            }
        )
        config = asdict(self.config) | {"weights_sha256": hashlib.sha256(data).hexdigest()}
        text = json.dumps(config, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        files = self._carried() | {CONFIG: text.encode(), WEIGHTS: data} | dict(extra or {})
        return write_atomically(directory, files if card is None else files | {CARD: card.encode()})

    def _carried(self) -> dict[str, bytes]:
        """Files that go with the head from folder to folder."""
        return {}

    # The client's own ways would load with missing weights, or from a pickle, and save the members of a stack with it.
    # (Each import is local because these modules stand above this one.)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *, revision: str | None = None
    ) -> Self:
        """`ais.load_head`: strict, and never from a pickle.

        Raises:
            HeadError: it is no such head, or not a valid one; HubError: it cannot be fetched.
        """
        from ais.loading import load_head

        head = load_head(pretrained_model_name_or_path, revision)
        if not isinstance(head, cls):
            raise HeadError(f"{head.config.name!r} is a {type(head).__name__}, not a {cls.__name__}.")
        return head

    def _save_pretrained(self, save_directory: Path) -> None:
        from ais.cards import PICTURES, model_card

        there = self.folder or save_directory
        pictures = {
            name: (there / name).read_bytes() for name in PICTURES.values() if (there / name).is_file()
        }
        self.save(save_directory, model_card(self.config), pictures)

    def push_to_hub(  # type: ignore[override]
        self, repo_id: str, *, private: bool = False, branch: str | None = None
    ) -> str:
        """Publish the head: `ais.publishing.push_head` of its folder as `save_pretrained` writes it.

        Returns:
            The address of the commit.

        Raises:
            HeadError: the head is not fit to be published; HubError: the Hub refuses, or cannot be reached.
        """
        from ais.publishing import push_head, repository_to_push

        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return push_head(Path(folder), repository_to_push(repo_id, branch), private=private).url


class RegressionHead(Head):
    """``Linear(D, H) -> ReLU -> Linear(H, 1)``, K variants of it evaluated together.

    The variants share the backbone's one pass; their mean is the score, their spread a part of its
    interval. The MLPs work on standardised ratings; `rating_mean` and `rating_std` bring them back.

    Tensors, beside those of `Head`: weight1 (K, H, D), bias1 (K, H), weight2 (K, H), bias2 (K,), rating_mean (),
    rating_std (), alignment (C,) (the mean residual importance over held-out pictures, points; all 0 where it was
    not measured). `keep` (C,) is False for the maps that were pruned.
    """

    config: HeadConfig
    weight1: Tensor
    bias1: Tensor
    weight2: Tensor
    bias2: Tensor
    alignment: Tensor
    rating_mean: Tensor
    rating_std: Tensor
    keep: Tensor

    @own_state()
    def __init__(self, config: HeadConfig) -> None:
        super().__init__(config)
        keep = torch.ones(config.channels, dtype=torch.bool)
        keep[config.pruned] = False
        self.register_buffer("keep", keep, persistent=False)
        self._reach: tuple[tuple[int, int], Tensor] | None = None

    def _twin(self) -> RegressionHead:
        return RegressionHead(self.config)

    @own_precision()
    def hidden(self, embedding: Tensor) -> Tensor:
        """First linear layer, before its ReLU: (N, D) -> (N, K, H)."""
        return torch.einsum("nd,khd->nkh", embedding, self.weight1) + self.bias1

    @own_precision()
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

    def _carried(self) -> dict[str, bytes]:
        if not self.config.tuned_sha256 or self.folder is None:
            return {}
        return {BACKBONE: (self.folder / BACKBONE).read_bytes()}

    @own_precision()
    def forward(self, embedding: Tensor) -> Tensor:
        """Scores of the variants: (N, D) -> (N, K), in points of the rating scale."""
        return self.readout(self.hidden(embedding))

    @own_precision()
    def score(self, embedding: Tensor) -> Tensor:
        """The score: the mean over the variants, (N, D) -> (N,)."""
        return self(embedding).mean(-1)


class StackedHead(Head):
    """Heads on several backbones and their weighted sum (Breiman 1996, Stacked Regressions).

    Variant k of the stack is the sum of the members' variants k, so all members have the same K.

    Tensors, beside those of `Head`: weight (M,), not negative; intercept (), in points.
    """

    config: StackConfig
    weight: Tensor
    intercept: Tensor
    members: Sequence[RegressionHead]

    @own_state()
    def __init__(self, config: StackConfig, members: Sequence[RegressionHead]) -> None:
        super().__init__(config)
        self.members = nn.ModuleList(members)  # type: ignore[assignment]

    def _twin(self) -> StackedHead:
        return StackedHead(self.config, [RegressionHead(member.config) for member in self.members])

    @own_precision()
    def combine(self, scores: Sequence[Tensor]) -> Tensor:
        """Scores of the stack's variants from those of its members: M times (N, K) -> (N, K)."""
        return torch.stack(list(scores), dim=-1) @ self.weight + self.intercept


def content_key(sha256: str) -> int:
    """The first 64 bits of a file's SHA-256 (hexadecimal) as a signed number: what a head keeps of a picture."""
    return int.from_bytes(bytes.fromhex(sha256[:16]), "big", signed=True)
