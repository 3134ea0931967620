"""Held-out metrics of a head on a rated set: only on images that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from ais.backbones.embeddings import content_hashes
from ais.backbones.frozen import FrozenBackbone
from ais.backbones.loading import load_backbone, pick_device, random_backbone
from ais.data.ratings import RatedSet
from ais.errors import DataError
from ais.heads.loading import backbone_of
from ais.heads.regression import RatingHead, RegressionHead
from ais.metrics.regression import by_category, ceiling, coverage, metrics, worst
from ais.progress import StageProgress
from ais.torch_state import own_state
from ais.training.cross_validation import EmbeddedRatings, cross_validate, embed_ratings
from ais.training.plan import FitContext, Plan
from ais.training.pruning import ablate
from ais.training.stacking import cross_fitted
from ais.training.strategies import STRATEGIES

_FEWEST = 10  # pictures that say anything

WORST = 10

Protocol = Literal["unseen", "cross-validation", "unknown"]


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Scores of images by a head, or by heads made like it, that were not trained on them.

    Attributes:
        data: the n images. groups: n names.
        scores: (n, K).
        folds: (n,), or None where the head itself gave the scores.
        protocol: "unseen", the head has not learned from them; or "cross-validation", it has learned from all of them,
            so that each is scored by variants fitted by the head's own plan on all groups but its own; or "unknown",
            the head itself gave the scores, and does not say what it has learned from.
        left_out: how many images were not scored, since the head was trained on them.
    """

    data: RatedSet
    groups: list[str]
    scores: np.ndarray
    folds: np.ndarray | None
    protocol: Protocol
    left_out: int


@own_state()
def score_held_out(
    data: RatedSet,
    head: RatingHead,
    *,
    device: str = "auto",
    progress: StageProgress | None = None,
    cache: bool = True,
) -> HeldOut:
    """Score a rated set by a head that was not trained on it.

    An image is known by its content. Those that the head was trained on are left out; but if they are exactly those
    that it was trained on, they are scored by cross-validation.

    Raises:
        DataError: too few pictures are left, the set cannot be read, or a pruned head is to be judged by the pictures
            that its maps were chosen on.
    """
    head = head.on("cpu")
    members = head.members
    seen = _seen(data, head)
    if _learned_exactly(head, seen):
        return _cross_validated(data, head, members, device, progress, cache)
    rows = np.flatnonzero(~seen)
    if len(rows) < _FEWEST:
        raise DataError(
            f"Of these {len(data)} pictures the head {head.config.name!r} has not seen {len(rows)}: too few to judge "
            f"it by. Give at least {_FEWEST} pictures that it has not seen, or exactly those that it learned from."
        )
    scores, part = [], data.rows(rows)
    for member in members:
        backbone = backbone_of(member, device)
        pictures = embed_ratings(part, backbone, progress, cache)
        scores.append(_scores(member, backbone, pictures))
    combined = head.finite(head.combine(scores))
    protocol: Protocol = "unseen" if head.config.trained_on else "unknown"
    return HeldOut(part, pictures.groups, combined.double().numpy(), None, protocol, int(seen.sum()))


def is_training_set(data: RatedSet, head: RatingHead) -> bool:
    """Whether the head was trained on exactly these images."""
    return _learned_exactly(head, _seen(data, head))


def _seen(data: RatedSet, head: RatingHead) -> np.ndarray:
    return np.array(head.was_trained_on(content_hashes(data.files)), dtype=bool)


def _learned_exactly(head: RatingHead, seen: np.ndarray) -> bool:
    return bool(seen.all()) and all(member.config.trained_on == len(seen) for member in head.members)


def _cross_validated(
    data: RatedSet,
    head: RatingHead,
    members: Sequence[RegressionHead],
    device: str,
    progress: StageProgress | None,
    cache: bool,
) -> HeldOut:
    """Each picture scored by heads made by the members' plans that have seen neither it nor its group."""
    parts = []
    for member in members:
        if member.config.pruned:
            raise DataError(
                f"The feature maps of {member.config.name!r} were chosen on these pictures, which would flatter it; "
                "its model card has the figures of its test pictures. Judge it by pictures that it has not seen."
            )
        plan = Plan.of(member.config)
        backbone = _pretrained_backbone(member, plan, device)
        pictures = embed_ratings(data, backbone, progress, cache)
        parts.append(cross_validate(pictures, FitContext(backbone, plan, progress, cache)))
    folds, scores = parts[0].folds, parts[0].scores
    if any((part.folds != folds).any() for part in parts):
        raise DataError(
            "The members of the stack have other folds: train all of them with the same --seed and --folds."
        )
    if head.config.parts:
        scores = cross_fitted(np.stack([part.scores for part in parts], -1), data.ratings, folds)
    return HeldOut(data, pictures.groups, scores, folds, "cross-validation", 0)


def _pretrained_backbone(head: RegressionHead, plan: Plan, device: str) -> FrozenBackbone:
    """The head's backbone as it was before it was tuned: what it is now has seen every picture."""
    config = head.config
    if not config.tuned_sha256:
        return backbone_of(head, device)
    name, layer, where = config.backbone, config.layer, pick_device(device)
    if STRATEGIES[plan.strategy].pretrained:
        return load_backbone(name, layer, view=config.view, size=config.size, device=where)
    return random_backbone(name, plan.seed, layer, view=config.view, size=config.size, device=where)


@own_state()
def evaluate_head(held: HeldOut, head: RatingHead) -> dict[str, Any]:
    """All that is to be said of a head by its scores, ready for JSON.

    Returns:
        ``how``, ``pictures``, ``groups``, ``left_out``; ``metrics`` (of `ais.metrics.regression.metrics`);
        ``ceiling``, the
        highest PLCC that these ratings allow, or None; ``interval``: its ``level``, the share of ratings ``inside``,
        and whether that is within 85 to 95 % (``holds``); ``categories``; ``worst``, ten pictures.
    """
    data = held.data
    predicted = held.scores.mean(1)
    half = head.on("cpu").half_width(torch.from_numpy(held.scores)).numpy()
    inside = coverage(predicted, half, data.ratings)
    rows = worst(predicted, data.ratings, WORST)
    return {
        "head": head.config.name,
        "target": data.target,
        "how": held.protocol,
        "pictures": len(data),
        "groups": len(set(held.groups)),
        "grouped": data.groups is not None,
        "left_out": held.left_out,
        "skipped": len(data.skipped),
        "metrics": metrics(predicted, data.ratings, held.groups),
        "ceiling": None if data.sd is None or data.n is None else ceiling(data.ratings, data.sd, data.n),
        "interval": {
            "level": head.config.interval.level,
            "inside": inside,
            "holds": abs(inside - head.config.interval.level) <= 0.05,
        },
        "categories": None
        if data.categories is None
        else by_category(predicted, data.ratings, data.categories),
        "worst": [
            {"file": str(data.files[i]), "rated": float(data.ratings[i]), "predicted": float(predicted[i])}
            for i in rows
        ],
    }


def _scores(head: RegressionHead, backbone: FrozenBackbone, pictures: EmbeddedRatings) -> torch.Tensor:
    """(n, K), on the CPU."""
    embedding = pictures.embedding
    if backbone.embedding_slice is not None:
        embedding, _ = ablate(embedding, pictures.delta, backbone.embedding_slice, head.keep)
    with torch.no_grad():
        return head(embedding)
