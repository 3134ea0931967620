"""`KINDS`, the registry of what counts as a feature map's importance; all are made of the same exact ablations.

To add a kind, add an entry: `ais.explain`, the command line, the page and the messages take their choices from here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from ais.errors import AISError, HeadError

if TYPE_CHECKING:  # the functions import what they need, so that the kinds can be listed without PyTorch
    from torch import Tensor

    from ais.attribution.forward import ForwardPass
    from ais.attribution.map_importance import MapImportance


@dataclass(frozen=True, eq=False)
class Ablations:
    """What a kind is made of: an image, a head, and what ablating each map does to the head's score.

    Attributes:
        members: a forward pass for each backbone of the head: one, or more for a stack.
        weights: of the members in the head's score.
        score: (1,) of the head.
        rating: (1,) that people gave the image, for kinds that need it.
        alignment: what `ais align` wrote, for kinds that need it.
    """

    members: Sequence[ForwardPass]
    weights: Sequence[float]
    score: Tensor
    rating: Tensor | None = None
    alignment: MapImportance | None = None

    @cached_property
    def variants(self) -> Tensor:
        """(K, C), what each map adds to the score of each variant; the members' maps one after another.

        Ablating a map of one member changes a stack's score by the member's weight times the change of its own.
        """
        import torch

        weighted = zip(self.members, self.weights, strict=True)
        return torch.cat([weight * member.prediction for member, weight in weighted], dim=1)

    @property
    def prediction(self) -> Tensor:
        """(1, C), what each map adds to the score."""
        return self.variants.mean(0, keepdim=True)

    @property
    def residual(self) -> Tensor:
        """(1, C), with the `rating`."""
        from ais.attribution import importance

        assert self.rating is not None
        return importance.residual(self.prediction, self.score, self.rating)


@dataclass(frozen=True)
class Kind:
    """What counts as a feature map's importance.

    Attributes:
        label: its name on the page.
        about: what the importance of a map is, in a sentence.
        importance: the function; gives (C,), the members' maps one after another, or (K, C) where each variant has an
            importance of its own, of which that of the head is the mean. (Pruned maps count for 0, whatever it gives
            them.)
        needs: the argument of `ais.explain` that it needs: the rating of the image, or the file of `ais align`.
        unit: of an importance.
        ablates: it is made of ablations of the image's own maps, which `ais.explain` can make to another baseline.
    """

    label: str
    about: str
    importance: Callable[[Ablations], Tensor]
    needs: Literal["rating", "alignment"] | None = None
    unit: str = "points"
    ablates: bool = True


def _prediction(ablations: Ablations) -> Tensor:
    return ablations.variants


def _residual(ablations: Ablations) -> Tensor:
    return ablations.residual[0]


def _dual(ablations: Ablations) -> Tensor:
    from ais.attribution import importance

    return importance.dual(ablations.prediction, ablations.residual)[0]


def _mean_residual(ablations: Ablations) -> Tensor:
    """It was measured for each member alone, so a stack takes the members' weighted values."""
    import torch

    for member in ablations.members:
        if not member.head.mean_residual.any():
            raise HeadError(
                f"The head {member.head.config.name!r} has no mean residual importance for its maps."
            )
    weighted = zip(ablations.members, ablations.weights, strict=True)
    return torch.cat([weight * member.head.mean_residual for member, weight in weighted])


def _alignment(ablations: Ablations) -> Tensor:
    import torch

    scores = ablations.alignment
    assert scores is not None
    if len(ablations.members) > 1:
        raise AISError("The kind 'alignment' explains one backbone: name a member of this stack.")
    member = ablations.members[0]
    config = member.head.config
    own, theirs = (config.backbone, config.layer, config.view), (scores.backbone, scores.layer, scores.view)
    if own != theirs or config.tuned_sha256 or len(scores.importance) != config.channels:
        raise AISError(
            f"These scores are of {scores.backbone}, layer {scores.layer}, view {scores.view}, with "
            f"{len(scores.importance)} maps, but the head {config.name!r} reads {config.backbone_label}, layer "
            f"{config.layer}, view {config.view}, with {config.channels}: choose a head on the same."
        )
    return torch.from_numpy(scores.importance).to(member.hidden)


KINDS: dict[str, Kind] = {
    "prediction": Kind("Prediction", "How many points it adds to the score.", _prediction),
    "residual": Kind(
        "Residual", "How far it brings the score to people's rating of this picture.", _residual, "rating"
    ),
    "dual": Kind(
        "Dual",
        "The size of its effect on the score, with the sign of its effect on the match with people's rating.",
        _dual,
        "rating",
        "of the largest importance",
    ),
    "mean_residual": Kind(
        "Mean residual",
        "The mean of residual over the pictures that the head was tested on.",
        _mean_residual,
        ablates=False,
    ),
    "alignment": Kind(
        "Alignment",
        "What it adds to the match of the network's and people's comparisons of pictures: the published score.",
        _alignment,
        "alignment",
        "of Spearman's correlation",
        ablates=False,
    ),
}
