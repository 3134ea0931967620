"""Training a head on a rated set: embed, cross-validate by group, calibrate, and fit on everything."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch

from ais import importance
from ais.backbones import FrozenBackbone
from ais.datasets import RatedSet, grouped_folds
from ais.embeddings import embed
from ais.errors import DataError
from ais.evaluation import calibrate, metrics
from ais.fitting import Recipe, fit_variants
from ais.heads import HeadConfig, Interval, RegressionHead, Target
from ais.views import ViewName

logger = logging.getLogger(__name__)

FOLDS = 10
_FEWEST_PICTURES, _FEWEST_GROUPS = 20, 4


@dataclass(frozen=True)
class TrainingReport:
    """What was measured while a head was trained.

    Attributes:
        metrics: of `ais.evaluation.metrics`, out of fold.
        scores: (N, K) of every picture, by the variants of the fold that never saw its group.
        folds: (N,) the fold in which each picture was held out.
        epochs: that each of the head's own variants was trained for.
    """

    metrics: dict[str, float]
    scores: np.ndarray
    folds: np.ndarray
    epochs: list[int]


def train_head(
    data: RatedSet,
    backbone: FrozenBackbone,
    view: ViewName = "whole",
    *,
    name: str,
    target: Target,
    variants: int = 10,
    seed: int = 0,
    recipe: Recipe = Recipe(),
    progress: Callable[[str, int, int], None] | None = None,
    cache: bool = True,
) -> tuple[RegressionHead, TrainingReport]:
    """Embed, cross-validate by group, calibrate, and fit the head on everything.

    Args:
        name: the head's.
        target: what it predicts, on which scale.
        progress: called with ("pictures" or "fits", done, total).

    Raises:
        DataError: too few pictures or groups, ratings off the scale or all the same, unreadable pictures.
    """
    if backbone.owner is None:
        raise DataError(
            f"A head cannot be trained at the layer {backbone.layer!r} of {backbone.name}, because its maps "
            "mix before the embedding. Train it at the backbone's own layer: the embedding is the same."
        )
    _check(data, target)
    groups = data.groups or [str(file) for file in data.files]
    report = progress or (lambda stage, done, total: None)
    embedded = embed(
        data.files, backbone, view, progress=lambda done, total: report("pictures", done, total), cache=cache
    )
    delta = embedded.delta
    assert delta is not None  # there is an owner
    device = backbone.device
    config = HeadConfig(
        name=name,
        backbone=backbone.name,
        layer=backbone.layer,
        view=view,
        size=backbone.view(view).size,
        dim=embedded.embedding.shape[1],
        channels=delta.shape[1],
        hidden=recipe.hidden,
        variants=variants,
        target=target,
        interval=Interval(0.5, 0.0, 0.0),  # until it is measured
    )
    quantiles = torch.from_numpy(np.quantile(data.ratings, np.linspace(0, 1, 101))).float()
    silent = torch.zeros(config.channels)
    embedding, delta = embedded.embedding.to(device), delta.to(device)

    folds = grouped_folds(groups, min(FOLDS, len(set(groups))), seed)
    count = int(folds.max()) + 1
    scores = np.empty((len(data), variants))
    residuals = torch.zeros(config.channels, dtype=torch.float64)
    for fold in range(count):
        report("fits", fold, count + 1)
        inside, outside = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        fitted = fit_variants(
            embedding[inside],
            data.ratings[inside],
            [groups[i] for i in inside],
            variants=variants,
            seed=seed + 1 + fold,
            recipe=recipe,
        )
        head = fitted.head(config, silent, quantiles).to(device)
        with torch.no_grad():
            predicted = head(embedding[outside])
        scores[outside] = predicted.cpu().numpy()
        effects = importance.channelwise(
            head.hidden(embedding[outside]), delta[outside], backbone.owner, head
        )
        truth = torch.from_numpy(data.ratings[outside]).to(predicted)
        residuals += importance.residual(effects, predicted.mean(1), truth).double().sum(0).cpu()
    report("fits", count, count + 1)
    fitted = fit_variants(embedding, data.ratings, groups, variants=variants, seed=seed, recipe=recipe)
    report("fits", count + 1, count + 1)

    measured = metrics(scores.mean(1), data.ratings, groups)
    config = replace(
        config,
        interval=calibrate(scores, data.ratings),
        metrics=measured
        | {
            "pictures": len(data),
            "groups": len(set(groups)),
            "folds": count,
            "grouped": data.groups is not None,
        },
        recipe=asdict(recipe) | {"seed": seed, "target": data.target},
    )
    head = fitted.head(config, (residuals / len(data)).float(), quantiles)
    if measured["plcc_low"] <= 0:
        logger.warning(
            "%s predicts held-out pictures no better than chance (PLCC %.3f, 95 %% interval from %.3f): it needs more "
            "pictures, or another backbone. Do not rely on it.",
            name,
            measured["plcc"],
            measured["plcc_low"],
        )
    return head, TrainingReport(measured, scores, folds, fitted.epochs)


def _check(data: RatedSet, target: Target) -> None:
    if len(data) < _FEWEST_PICTURES:
        raise DataError(
            f"{data.folder} has {len(data)} pictures; a head needs at least {_FEWEST_PICTURES} pictures."
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
        raise DataError(
            f"The ratings {data.target} go from {low:g} to {high:g}, off the scale of {target.low:g} to "
            f"{target.high:g}: say which scale people rated on."
        )
