"""The trained part: K two-layer MLPs on the same embedding, kept as stacked weights; and stacks of such heads.

A head's folder on disk is read by `ais.heads.format`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ais.images.preprocessing import ViewName

FORMAT = 1

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
        view: "crop" or "resize" ("whole" in older files).
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
            "whole" if self.view == "resize" else self.view,  # its old name: stacks hold fingerprints with it
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
