"""Choosing the feature maps of a head: from a rated set to a pruned head with held-out metrics."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace

import numpy as np
import torch
from torch import Tensor

from ais.backbones.frozen import FrozenBackbone
from ais.data.ratings import RatedSet
from ais.data.splits import grouped_folds, grouped_split
from ais.errors import DataError
from ais.heads.base import content_key
from ais.heads.loading import backbone_of
from ais.heads.regression import RegressionHead
from ais.metrics.regression import metrics
from ais.progress import StageProgress
from ais.torch_state import own_state
from ais.training.calibration import calibrate
from ais.training.criteria import ScoredFold
from ais.training.cross_validation import EmbeddedRatings, embed_ratings, fit_head, fold_heads
from ais.training.plan import FitContext, Plan
from ais.training.pruning import PruningReport, ablate, prune
from ais.training.strategies import STRATEGIES

logger = logging.getLogger(__name__)

_TEST = 0.25  # share of the pictures that the choice is tested on

_FOLDS = 5

_FEWEST_GROUPS = 8


@own_state()
def prune_head(
    data: RatedSet,
    head: RegressionHead,
    *,
    name: str,
    criterion: str = "greedy",
    seed: int = 0,
    device: str = "auto",
    progress: StageProgress | None = None,
) -> tuple[RegressionHead, PruningReport]:
    """Prune the maps without which people's ratings are met better.

    A quarter of the images, in whole groups, is kept for testing. Where the head was trained on none of the images, it
    scores them itself. Where it was trained on all of them, heads made by its plan stand in for it: the maps are
    chosen by a cross-validation on the other three quarters, and tested with a head fitted on these.

    Args:
        name: the pruned head's.
        criterion: a key of `ais.training.criteria.CRITERIA`.

    Returns:
        The head with its mask, its metrics and interval those on the test images; and what was measured.

    Raises:
        DataError: the head's maps cannot be ablated one by one, or there are too few pictures or groups.
    """
    config = head.config
    backbone = backbone_of(head, device)
    if backbone.embedding_slice is None:
        raise DataError(
            f"The maps of {config.backbone} mix before the embedding, and pruning takes maps that do not: choose a "
            "head on another backbone."
        )
    pictures = embed_ratings(data, backbone, progress)
    seen = np.array(head.was_trained_on(pictures.embedded.hashes))
    if not config.trained_on:
        logger.warning(
            "The head %s does not say which pictures it learned from: if these are among them, the test flatters it.",
            config.name,
        )
    pictures = pictures if seen.all() else pictures.rows(np.flatnonzero(~seen))
    if len(set(pictures.groups)) < _FEWEST_GROUPS:
        raise DataError(
            f"To choose maps on some groups and test the choice on others takes at least {_FEWEST_GROUPS} groups of "
            f"pictures, all of which the head has learned from or none; here are {len(set(pictures.groups))}."
        )
    tested = grouped_split(pictures.groups, _TEST, seed)
    rest, test = pictures.rows(np.flatnonzero(~tested)), pictures.rows(np.flatnonzero(tested))
    if seen.all():
        plan = Plan.of(config)
        if STRATEGIES[plan.strategy].trains_backbone:
            raise DataError(
                f"The backbone of {config.name!r} has learned from these pictures, too: prune it on pictures that it "
                "has not seen."
            )
        folds = grouped_folds(rest.groups, _FOLDS, seed)
        context = FitContext(backbone, plan)
        heads = fold_heads(rest, context, config, folds)
        validation = [
            _scored_fold(heads[fold], rest.rows(np.flatnonzero(folds == fold)), backbone)
            for fold in range(len(heads))
        ]
        stand_in = fit_head(rest, context, config)
    else:
        validation, stand_in = [_scored_fold(head, rest, backbone)], head
    last = [_scored_fold(stand_in, test, backbone)]
    keep, report = prune(
        validation,
        last,
        backbone.embedding_slice,
        criterion,
        None if progress is None else lambda d, t: progress("maps", d, t),
    )
    scores = _scores(last[0], backbone.embedding_slice, keep)
    # The mask has learned from the pictures that it was chosen on.
    learned = rest.embedded.hashes if config.trained_on and not seen.all() else []
    measured = metrics(scores.mean(1), test.data.ratings, test.groups) | {
        "pictures": len(test.data),
        "groups": len(set(test.groups)),
        "grouped": test.data.groups is not None,
        "pruning": asdict(report),
    }
    pruned = RegressionHead(
        replace(
            config,
            name=name,
            pruned=(~keep).nonzero()[:, 0].tolist(),
            metrics=measured,
            trained_on=config.trained_on + len(learned),
            backbone_sha256=backbone.sha256,
            interval=calibrate(scores, test.data.ratings),
        )
    )
    state = head.state_dict()
    if learned:
        state["trained_on"] = torch.cat(
            [state["trained_on"].cpu(), torch.tensor([content_key(v) for v in learned])]
        )
    pruned.load_state_dict(state)
    pruned.folder = head.folder  # where its backbone lies, if that was tuned
    pruned.mean_residual[~keep.cpu()] = 0
    pruned.typical.copy_(_typical(head, pictures, backbone.embedding_slice, keep))
    return pruned.eval(), report


def _typical(head: RegressionHead, pictures: EmbeddedRatings, embedding_slice: range, keep: Tensor) -> Tensor:
    """The mean embedding without the pruned maps, (D,): of the images that the head was trained on.

    Where they are not at hand, its own is kept, but for the coordinates of the pruned maps, which are those of the
    images that the maps were chosen on; all 0 where it has none.
    """
    embedding, _ = ablate(pictures.embedding, pictures.delta, embedding_slice, keep.cpu())
    mean = embedding.mean(0)
    hashes = pictures.embedded.hashes
    if len(hashes) == head.config.trained_on and all(head.was_trained_on(hashes)):
        return mean
    typical = head.typical.cpu().clone()
    if typical.any():
        gone = torch.arange(embedding_slice.start, embedding_slice.stop)[~keep.cpu()]
        typical[gone] = mean[gone]
    return typical


def _scored_fold(head: RegressionHead, pictures: EmbeddedRatings, backbone: FrozenBackbone) -> ScoredFold:
    embedding, delta = pictures.embedding.to(backbone.device), pictures.delta.to(backbone.device)
    assert backbone.embedding_slice is not None  # checked by the caller
    embedding, delta = ablate(embedding, delta, backbone.embedding_slice, head.keep.to(backbone.device))
    return ScoredFold(head.on(backbone.device), embedding, delta, pictures.data.ratings, pictures.groups)


def _scores(part: ScoredFold, embedding_slice: range, keep: Tensor) -> np.ndarray:
    """(N, K), float64."""
    embedding, _ = ablate(part.embedding, part.delta, embedding_slice, keep.to(part.embedding.device))
    with torch.no_grad():
        return part.head(embedding).double().cpu().numpy()
