"""`BASELINES`, the registry of what an ablated feature map becomes.

To add one, add an entry: `ais.explain`, the command line, the page and the messages take their choices from here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ais.attribution.methods import METHODS
from ais.backbones.registry import BACKBONES
from ais.errors import AISError, HeadError

if TYPE_CHECKING:  # the functions take tensors, but a list of baselines needs no PyTorch
    from torch import Tensor

    from ais.backbones.frozen import Features, FrozenBackbone
    from ais.heads.base import Head
    from ais.heads.regression import RegressionHead


PUBLISHED = "zero"  # what the published score ablates to


@dataclass(frozen=True)
class Baseline:
    """What an ablated map becomes.

    Attributes:
        label: its name on the page.
        about: what the importance of a map then says, in a sentence.
        delta: the function; gives (N, C), by how much ablating map c alone changes the one coordinate of the embedding
            that it feeds, or None where no map has such a coordinate. It raises an `AISError` for a head or a backbone
            without this baseline.
    """

    label: str
    about: str
    delta: Callable[[FrozenBackbone, Features, RegressionHead], Tensor | None]


def _zero(backbone: FrozenBackbone, features: Features, head: RegressionHead) -> Tensor | None:
    return features.delta


def _typical(backbone: FrozenBackbone, features: Features, head: RegressionHead) -> Tensor | None:
    check_typical(head)
    owner = backbone.embedding_slice
    if owner is None:
        raise AISError(
            f"The baseline 'typical' sets a feature map by its coordinate of the embedding, which the maps of the "
            f"layer {backbone.layer!r} of {backbone.name} do not have: choose the baseline 'zero'."
        )
    return head.typical[owner.start : owner.stop] - features.embedding[:, owner.start : owner.stop]


def comparable(head: Head) -> bool:
    """Whether images can be compared with a typical one: the head knows it, and its backbones are of the registry, so
    that their embeddings are known to be means over places."""
    names = [name for member in head.members for name in member.config.backbone_names]
    return head.has_typical and all(name in BACKBONES for name in names)


def method_baseline(method: str, baseline: str | None) -> str:
    """The baseline of a method: the one asked for, or its own; empty where it ablates nothing.

    Raises:
        AISError: there is no such baseline, or the method has not.
    """
    choices = METHODS[method].baselines
    if baseline is None:
        return choices[0] if choices else ""
    if not choices:
        raise AISError(
            f"The method {method!r} has no baseline, since {method!r} ablates no feature maps: leave out the baseline "
            f"{baseline!r}."
        )
    if baseline not in choices:
        raise AISError(
            f"The method {method!r} has no baseline {baseline!r}. Choose one of: {', '.join(choices)}."
        )
    return baseline


def check_typical(head: RegressionHead) -> None:
    """That the head knows a typical embedding.

    Raises:
        HeadError: it does not.
    """
    if not head.has_typical:
        raise HeadError(
            f"The head {head.config.name!r} does not hold the mean embedding of the pictures it was trained on, or one "
            "that it gives no sensible score, so nothing can be compared with a typical picture: choose the method "
            "'ais' with the baseline 'zero', or train the head again."
        )


BASELINES: dict[str, Baseline] = {
    "zero": Baseline(
        "Zero",
        "An ablated map becomes 0, as in the published score: what would be lost without the map.",
        _zero,
    ),
    "typical": Baseline(
        "Typical picture",
        "An ablated map becomes its mean over the head's training pictures: what this picture has more or less of.",
        _typical,
    ),
}
