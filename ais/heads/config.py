"""What the config of a head says: the fields of ``config.json``, and what their values have to be.

A task of its own has a class of its own here or beside it: see `ais.heads.tasks`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from typing_extensions import Self

from ais.errors import AISError

if TYPE_CHECKING:  # PyTorch takes seconds to import, and a list of heads needs none of it
    from ais.images.preprocessing import ViewName

FORMAT = 2

EMBEDDED = "beauty-efficientnet-lite0"

MOST_MEMBERS = 8  # of a stack: so many backbones are kept in memory at once

CONFIG, WEIGHTS, BACKBONE, CARD = (  # files of a head
    "config.json",
    "model.safetensors",
    "backbone.safetensors",
    "README.md",
)

_LONGEST_NAME = 200  # bytes: a file system takes a little more

# What a terminal would obey, line ends included; and what makes a text read in another order than it is written.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def is_word(text: object) -> bool:
    """A text on one line, with something in it and without control characters."""
    return isinstance(text, str) and bool(text) and not _CONTROL.search(text)


def is_number(value: object, low: int, high: int) -> bool:
    """A whole number from `low` to `high`."""
    return type(value) is int and low <= value <= high


@dataclass(frozen=True, kw_only=True)
class Config:
    """What the config of every head says; ``config.json`` holds exactly its fields.

    Attributes:
        name: the head's name, and its folder's.
        task: a key of `ais.heads.tasks.TASKS`.
        about: what the head learned from, in sentences for the model card.
        metrics: as measured, on images that it was not trained on.
        recipe: how it was trained, with the command that does it again.
        trained_on: number of images it was trained on, of which it keeps the hashes.
        format: version of the format that it was read from.
        weights_sha256: of ``model.safetensors``, so that a damaged download is noticed.
        license: of the head, by the Hub's identifier for it.
        citation: BibTeX of the data, or of the head.
    """

    name: str
    task: str = "rating"
    about: str = ""
    metrics: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    trained_on: int = 0
    format: int = FORMAT
    weights_sha256: str = ""
    license: str = "apache-2.0"
    citation: str = ""

    @classmethod
    def parse(cls, raw: dict[str, Any]) -> Self:
        """A config from the fields of its file; those that it does not know are passed over.

        Raises:
            TypeError, KeyError: a field is missing, or an inner object has one too many.
        """
        known = {f.name for f in fields(cls)}
        return cls(**{key: value for key, value in raw.items() if key in known})

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor in ``model.safetensors``; int64 for ``trained_on``, else float32."""
        return {"trained_on": (self.trained_on,)} if self.trained_on else {}

    def problems(self) -> Iterator[str]:
        """What is wrong with the values, as ends of a sentence; whoever goes on after the first goes on at own risk."""
        for name in ("name", "task", "weights_sha256"):
            if not is_word(getattr(self, name)):
                yield f"{name} should be a word"
        # Explanations of a stack are written into folders of its members' names.
        if (
            self.name in (".", "..")
            or re.search(r"[/\\]", self.name)
            or len(self.name.encode()) > _LONGEST_NAME
        ):
            yield "name should be that of a folder"
        if not is_number(self.format, 1, 1 << 20):
            yield "format should be a positive whole number"
        if not is_number(self.trained_on, 0, 1 << 27):
            yield "trained_on (seen, in format 1) should be a whole number"
        if not all(isinstance(text, str) for text in (self.about, self.license, self.citation)):
            yield "about, license and citation should be text"
        if _CONTROL.search(self.license):
            yield "license should be on one line, without control characters"
        if not (isinstance(self.metrics, dict) and isinstance(self.recipe, dict)):
            yield "metrics and recipe should be objects"

    @property
    def predicts(self) -> str:
        """The word for what it predicts; empty where the task alone says it."""
        return ""

    @property
    def scale(self) -> str:
        """On which scale, in words; empty if there is none."""
        return ""

    @property
    def dataset(self) -> str:
        """The name of the data that it was trained on; empty if the head does not say."""
        return ""

    @property
    def backbone_label(self) -> str:
        """What the head reads, in a word: its backbone, or its members."""
        raise NotImplementedError

    @property
    def backbone_names(self) -> Sequence[str]:
        """The backbones that it reads itself, by their names: one, or none if it is a stack."""
        return ()

    @property
    def parts(self) -> Sequence[Member]:
        """The heads that it is made of; none if it reads a backbone itself."""
        return ()

    def member_problem(self, member: Any) -> str:
        """Why a head of this config cannot be one of its parts, in a sentence; empty if it can."""
        return "" if member.task == self.task else f"It should be a head for the task {self.task!r}."

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that the scores of a possible member depend on; empty for what cannot be one."""
        return ""

    @property
    def has_own_backbone(self) -> bool:
        """Whether ``backbone.safetensors`` lies beside it, a backbone that was trained further with it."""
        return False


@dataclass(frozen=True, kw_only=True)
class BackboneConfig(Config):
    """The config of a head on one backbone, whatever its task.

    Attributes:
        backbone, layer: the network it reads and the layer that is explained.
        view: "crop" or "resize".
        size: side of the network's input in pixels; the shorter side for "resize".
        dim, channels: D and C of the tensors.
        pruned: the feature maps that are set to zero for good.
        tuned_sha256: of ``backbone.safetensors`` beside the head, if its backbone was trained further.
        backbone_sha256: of the weights of the backbone it was trained on (`FrozenBackbone.sha256`); empty where
            it is not known.
    """

    backbone: str
    layer: str
    view: ViewName
    size: int
    dim: int
    channels: int
    pruned: list[int] = field(default_factory=list)
    tuned_sha256: str = ""
    backbone_sha256: str = ""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return super().shapes() | {"typical": (self.dim,)}

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        for name in ("backbone", "layer"):
            if not is_word(getattr(self, name)):
                yield f"{name} should be a word"
        if self.view not in ("crop", "resize"):
            yield "view should be crop or resize"
        for name in ("size", "dim", "channels"):
            if not is_number(getattr(self, name), 1, 1 << 20):
                yield f"{name} should be a positive whole number"
        yield from self._size_problems()
        if not (
            isinstance(self.pruned, list)
            and all(is_number(c, 0, self.channels - 1) for c in self.pruned)
            and all(one < other for one, other in pairwise(self.pruned))
        ):
            yield "pruned should list feature maps by their numbers, each once, in rising order"
        if not isinstance(self.tuned_sha256, str):
            yield "tuned_sha256 should be text"
        if not (
            isinstance(self.backbone_sha256, str) and re.fullmatch(r"([0-9a-f]{16})?", self.backbone_sha256)
        ):
            yield "backbone_sha256 should be 16 hexadecimal digits, or empty"

    def _size_problems(self) -> Iterator[str]:
        """Where the backbone's own size is known at once: of one of timm's it takes seconds to be looked up, and one
        that is unknown here may be known to a newer AIS."""
        from ais.backbones.registry import BACKBONES

        if self.backbone in BACKBONES:
            try:
                BACKBONES[self.backbone].preprocessing(size=self.size)
            except AISError as error:
                yield f"it does not fit its backbone {self.backbone}: {str(error).removesuffix('.')}"

    @property
    def sized_backbone(self) -> str:
        """The backbone's name, with the size of its input where that is not the backbone's own."""
        from ais.backbones.registry import backbone_spec
        from ais.images.preprocessing import sized

        try:
            return sized(self.backbone, self.size, backbone_spec(self.backbone).size)
        except AISError:  # one that a newer AIS knows
            return self.backbone

    @property
    def backbone_label(self) -> str:
        return self.sized_backbone + (", tuned" if self.tuned_sha256 else "")

    @property
    def backbone_names(self) -> Sequence[str]:
        return (self.backbone,)

    @property
    def fingerprint(self) -> str:
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

    @property
    def has_own_backbone(self) -> bool:
        return bool(self.tuned_sha256)


# The task "rating" -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """What the head predicts.

    Attributes:
        name: the word for it, such as "beauty".
        low, high: the ends of the rating scale.
        dataset: the name of the rated images it was trained on.
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
class RatingConfig(Config):
    """What the config of every head for ratings says.

    Attributes:
        variants: K.
        target: what is predicted, on which scale. interval: how far from a score people's rating may be.
    """

    variants: int
    target: Target
    interval: Interval

    @classmethod
    def parse(cls, raw: dict[str, Any]) -> Self:
        inner = {"target": Target(**raw["target"]), "interval": Interval(**raw["interval"])}
        return super().parse(raw | inner)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return super().shapes() | {"rating_quantiles": (101,)}

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if not is_number(self.variants, 1, 1 << 20):
            yield "variants should be a positive whole number"
        target, interval = self.target, self.interval
        if not (isinstance(target.name, str) and isinstance(target.dataset, str)):
            yield "the target's name and dataset should be text"
        if _CONTROL.search(target.name) or _CONTROL.search(target.dataset):
            yield "the target's name and dataset should be on one line, without control characters"
        numbers = (target.low, target.high, interval.level, interval.error, interval.factor)
        if not all(type(number) in (int, float) and abs(number) < 1e9 for number in numbers):
            yield "target and interval should hold numbers"
        if not target.low < target.high:
            yield "the rating scale's low end should be below its high end"
        if not 0 < interval.level < 1:
            yield "interval's level should lie between 0 and 1"
        if interval.error < 0 or interval.factor < 0:
            yield "interval's error and factor should not be negative"

    @property
    def predicts(self) -> str:
        return self.target.name

    @property
    def scale(self) -> str:
        return f"{self.target.low:g} to {self.target.high:g}"

    @property
    def dataset(self) -> str:
        return self.target.dataset


@dataclass(frozen=True, kw_only=True)
class HeadConfig(BackboneConfig, RatingConfig):
    """The config of a head for ratings on one backbone.

    Attributes:
        hidden: H of the tensors.
    """

    hidden: int

    def shapes(self) -> dict[str, tuple[int, ...]]:
        k, h, d = self.variants, self.hidden, self.dim
        return super().shapes() | {
            "weight1": (k, h, d),
            "bias1": (k, h),
            "weight2": (k, h),
            "bias2": (k,),
            "rating_mean": (),
            "rating_std": (),
            "mean_residual": (self.channels,),
        }

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if not is_number(self.hidden, 1, 1 << 20):
            yield "hidden should be a positive whole number"


@dataclass(frozen=True)
class Member:
    """One head of a stack: its name, and its `Config.fingerprint`."""

    head: str
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class StackConfig(RatingConfig):
    """The config of a stack of heads; its members are heads of their own, found by their names."""

    members: list[Member]

    @classmethod
    def parse(cls, raw: dict[str, Any]) -> Self:
        return super().parse(raw | {"members": [Member(**member) for member in raw["members"]]})

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return super().shapes() | {"weight": (len(self.members),), "intercept": ()}

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if not 1 < len(self.members) <= MOST_MEMBERS:
            yield f"a stack should have 2 to {MOST_MEMBERS} members"
        for member in self.members:
            # A name alone: a head that came from elsewhere must not point into this machine's folders.
            if not (isinstance(member.head, str) and re.fullmatch(r"\w[\w.-]*", member.head)):
                yield "a member should be named as its folder is, by letters, digits, dots and dashes"
            if not isinstance(member.fingerprint, str):
                yield "a member's fingerprint should be text"
            if member.head == self.name:
                yield "a stack cannot be a member of itself"
        if len({member.head for member in self.members}) < len(self.members):
            yield "a stack should name each of its members once"

    @property
    def backbone_label(self) -> str:
        return f"{len(self.members)} heads together"

    @property
    def parts(self) -> Sequence[Member]:
        return self.members

    def member_problem(self, member: HeadConfig) -> str:
        if problem := super().member_problem(member):
            return problem
        if member.variants != self.variants:
            return f"It should be a head on one backbone, of {self.variants} variants."
        if member.view != "resize":  # crops differ from backbone to backbone, so their grids do not add up
            return "It should be a head that sees the whole picture."
        return ""
