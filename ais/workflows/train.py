"""Training a head on a rated set: embed, cross-validate by group, calibrate, and fit on everything."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from ais.backbones.frozen import FrozenBackbone
from ais.data.ratings import RatedSet
from ais.errors import DataError
from ais.heads.base import content_key
from ais.heads.config import HeadConfig, Target
from ais.heads.regression import RegressionHead
from ais.metrics.regression import ceiling, metrics
from ais.progress import StageProgress
from ais.torch_state import own_state
from ais.training.calibration import calibrate
from ais.training.cross_validation import EmbeddedRatings, OutOfFold, cross_validate, embed_ratings, fit
from ais.training.plan import FitContext, Plan

logger = logging.getLogger(__name__)

_FEWEST_IMAGES, _FEWEST_GROUPS = 20, 4


@dataclass(frozen=True, eq=False)
class TrainingReport:
    """What was measured while a head was trained, and what else it leaves.

    Attributes:
        metrics: of `ais.metrics.regression.metrics`, out of fold.
        out_of_fold: what they were measured on; ratings (N,) of the same pictures.
        epochs, curves: of the head's own variants, as `ais.training.mlp.Variants`.
        tuned: the tensors of the backbone, if the strategy trained it, too.
    """

    metrics: dict[str, Any]
    out_of_fold: OutOfFold
    ratings: np.ndarray
    epochs: list[int]
    curves: np.ndarray
    tuned: dict[str, Tensor] | None


@own_state()
def train_head(
    data: RatedSet,
    backbone: FrozenBackbone,
    *,
    name: str,
    target: Target,
    plan: Plan = Plan(),
    progress: StageProgress | None = None,
    cache: bool = True,
) -> tuple[RegressionHead, TrainingReport]:
    """Embed, cross-validate by group, calibrate, and fit the head on everything.

    If the set has a column that says so, its test pictures are kept out of all this, and scored once at the end.

    Args:
        name: the head's.
        target: what it predicts, on which scale.
        progress: called with ("pictures", "folds" or "steps", done, total).

    Raises:
        DataError: too few pictures or groups, ratings off the scale or all the same, unreadable pictures.
    """
    test = None
    if data.split is not None:
        kept_out = np.array([part == "test" for part in data.split])
        data, test = data.rows(~kept_out), data.rows(kept_out)
        _check_test(test, data)
    _check(data, target)
    context = FitContext(backbone, plan, progress, cache)
    pictures = embed_ratings(data, backbone, progress, cache)
    _warn_of_duplicates(pictures)
    measured = cross_validate(pictures, context)
    fitted, own, state = fit(pictures, context)
    results: dict[str, Any] = metrics(measured.scores.mean(1), data.ratings, pictures.groups) | {
        "pictures": len(data),
        "groups": len(set(pictures.groups)),
        "folds": int(measured.folds.max()) + 1,
        "grouped": data.groups is not None,
    }
    if data.skipped:
        results["skipped"] = len(data.skipped)
    if data.sd is not None and data.n is not None:
        results["ceiling"] = ceiling(data.ratings, data.sd, data.n)
    config = HeadConfig(
        name=name,
        backbone=backbone.name,
        layer=backbone.layer,
        view=backbone.preprocessing.view,
        size=backbone.preprocessing.size,
        dim=pictures.embedding.shape[1],
        channels=len(measured.alignment),
        hidden=plan.recipe.hidden,
        variants=plan.variants,
        target=target,
        interval=calibrate(measured.scores, data.ratings),
        metrics=results,
        recipe=plan.to_dict() | {"target": data.target},
        trained_on=len(data),
        tuned_sha256="" if state is None else hashlib.sha256(save(state)).hexdigest(),
        backbone_sha256=own.sha256,
    )
    head = fitted.head(
        config,
        mean_residual=torch.from_numpy(measured.alignment).float(),
        typical=(pictures if state is None else embed_ratings(data, own, progress, cache)).embedding.mean(0),
        rating_quantiles=torch.from_numpy(np.quantile(data.ratings, np.linspace(0, 1, 101))).float(),
        trained_on=torch.tensor([content_key(value) for value in pictures.embedded.hashes]),
    )
    if test is not None and len(test):
        results["test"] = _score_test(head, test, replace(context, backbone=own))
    if results["plcc_low"] <= 0:
        logger.warning(
            "%s predicts held-out pictures no better than chance (PLCC %.3f, 95 %% interval from %.3f): it needs more "
            "pictures, or another backbone. Do not rely on it.",
            name,
            results["plcc"],
            results["plcc_low"],
        )
    return head, TrainingReport(results, measured, data.ratings, fitted.epochs, fitted.curves, state)


def _score_test(head: RegressionHead, test: RatedSet, context: FitContext) -> dict[str, Any]:
    """The measures of the finished head on images kept for testing."""
    backbone = context.backbone
    pictures = embed_ratings(test, backbone, context.progress, context.cache)
    duplicates = sum(head.was_trained_on(pictures.embedded.hashes))
    if duplicates:
        logger.warning(
            "%d test pictures are among those learned from, too: the test then flatters the head. Keep one of each.",
            duplicates,
        )
    with torch.no_grad():
        scores = head.to(backbone.device).score(pictures.embedding.to(backbone.device)).cpu().numpy()
    head.cpu()
    return metrics(scores, test.ratings, pictures.groups) | {"pictures": len(test)}


def _warn_of_duplicates(pictures: EmbeddedRatings) -> None:
    groups: dict[str, set[str]] = {}
    for value, group in zip(pictures.embedded.hashes, pictures.groups, strict=True):
        groups.setdefault(value, set()).add(group)
    torn = sum(len(names) > 1 for names in groups.values())
    if torn:
        logger.warning(
            "%d pictures stand in the set twice, in different groups: a head is then tested on what it has seen. Keep "
            "one of each, or give both the same group.",
            torn,
        )


def _check_test(test: RatedSet, learned: RatedSet) -> None:
    if len(set(test.groups or test.files)) == 1:
        raise DataError(
            f"The test pictures of {test.folder} are of one group, which says nothing of how others would do: mark "
            "pictures of at least two groups as test, or none."
        )
    shared = len(set(test.groups or []) & set(learned.groups or []))
    if shared:
        logger.warning(
            "%d groups have pictures for testing and pictures to learn from: the test then flatters the head. Keep "
            "each group together.",
            shared,
        )


def _check(data: RatedSet, target: Target) -> None:
    if len(data) < _FEWEST_IMAGES:
        raise DataError(
            f"{data.folder} has {len(data)} pictures; a head needs at least {_FEWEST_IMAGES} pictures."
        )
    if data.groups is not None and len(set(data.groups)) < _FEWEST_GROUPS:
        raise DataError(
            f"{data.folder} has {len(set(data.groups))} groups; to test a head on groups that it has not "
            f"seen takes at least {_FEWEST_GROUPS} groups."
        )
    low, high = float(data.ratings.min()), float(data.ratings.max())
    if not target.low < target.high:
        raise DataError(
            f"The rating scale goes from {target.low:g} to {target.high:g}: its low end should be below its high end."
        )
    if low == high:
        raise DataError(f"All ratings {data.target} are {low:g}: there is nothing to learn from.")
    if low < target.low or high > target.high:
        worst = data.ratings.argmin() if low < target.low else data.ratings.argmax()
        raise DataError(
            f"The ratings in the column {data.target} go from {low:g} to {high:g}, off the scale of {target.low:g} to "
            f"{target.high:g}: mend that of {data.files[worst].name}, or say which scale people rated on."
        )
