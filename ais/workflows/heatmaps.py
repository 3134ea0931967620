"""How good the heatmaps of a head are: measured on pictures that it, or the head of their fold, has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ais.attribution.faithfulness.compared import COMPARED
from ais.attribution.faithfulness.measure import Comparison, faithfulness, undrawable
from ais.backbones.frozen import FrozenBackbone
from ais.data.ratings import RatedSet
from ais.errors import AISError, DataError
from ais.heads.loading import backbone_of
from ais.heads.regression import RatingHead, RegressionHead
from ais.heads.stack import StackedHead
from ais.progress import StageProgress
from ais.torch_state import own_state
from ais.training.cross_validation import EmbeddedRatings, embed_ratings, fold_heads
from ais.training.plan import FitContext, Plan
from ais.training.stacking import fold_stacks
from ais.training.strategies import STRATEGIES
from ais.workflows.evaluate import HeldOut, is_training_set


@own_state()
def choose_heatmaps(
    data: RatedSet, head: RatingHead, names: Sequence[str] | None, *, device: str = "auto"
) -> tuple[tuple[str, ...], list[str]]:
    """Which heatmaps are to be compared, before anything takes long.

    Args:
        data: the pictures. names: as `ais.attribution.faithfulness.compared.compared` reads them; None for those of
            `COMPARED` that this head can have.

    Returns:
        The names, and why others were left out.

    Raises:
        DataError: the backbone has learned from these pictures, too.
        AISError: there is no such heatmap, or this head cannot have it.
    """
    learned = is_training_set(data, head)
    for member in head.members:
        if learned and STRATEGIES[Plan.of(member.config).strategy].trains_backbone:
            raise DataError(
                f"The backbone of {member.config.name!r} has learned from these pictures, too: measure its heatmaps on "
                "pictures that it has not seen."
            )
    asked = tuple(COMPARED if names is None else names)
    head, backbones = _placed(head, device)
    # The heads of the folds know a typical embedding even where this one does not.
    probed = [_with_typical(member) if learned else member for member in head.members]
    probe = head.made_of(probed) if isinstance(head, StackedHead) else probed[0]
    problems = undrawable(asked, data.files[0], probe, backbones)
    if problems and (names is not None or len(problems) == len(asked)):
        raise AISError(next(iter(problems.values())))
    kept = tuple(name for name in asked if name not in problems)
    return kept, [f"Without {name}. {why}" for name, why in problems.items()]


@own_state()
def judge_heatmaps(
    held: HeldOut,
    head: RatingHead,
    comparison: Comparison,
    *,
    pictures: int | None = None,
    device: str = "auto",
    progress: StageProgress | None = None,
    cache: bool = True,
) -> dict[str, Any]:
    """How good heatmaps are on pictures that were held out: each explained by the head that has scored it.

    Args:
        held: the pictures, as `ais.workflows.evaluate.score_held_out` gives them; those of a cross-validation are
            explained by the heads of their folds.
        pictures: how many, drawn by chance; None for all.

    Returns:
        Ready for JSON: that of `ais.attribution.faithfulness.measure.faithfulness`.

    Raises:
        DataError: fewer than two pictures or groups; or the backbone has learned from them.
        AISError: as `faithfulness`.
    """
    head, backbones = _placed(head, device)
    heads = [head] * len(held.data)
    if held.folds is not None:
        embedded = [embed_ratings(held.data, backbone, progress, cache) for backbone in backbones]
        by_fold = _fold_heads(
            head,
            embedded,
            [
                FitContext(backbone, Plan.of(member.config), cache=cache)
                for member, backbone in zip(head.members, backbones, strict=True)
            ],
            held.folds,
        )
        heads = [by_fold[fold] for fold in held.folds]
    rows = np.arange(len(held.data))
    if pictures is not None and pictures < len(rows):
        rows = np.sort(np.random.default_rng(comparison.seed).permutation(rows)[:pictures])
    return faithfulness(
        [held.data.files[i] for i in rows],
        [heads[i] for i in rows],
        backbones,
        comparison,
        groups=[held.groups[i] for i in rows],
        progress=None if progress is None else lambda done, total: progress("heatmaps", done, total),
    )


def _placed(head: RatingHead, device: str) -> tuple[RatingHead, list[FrozenBackbone]]:
    """The head where it is to compute, and its members' backbones."""
    backbones = [backbone_of(member, device) for member in head.members]
    return head.on(backbones[0].device), backbones


def _with_typical(member: RegressionHead) -> RegressionHead:
    if member.has_typical:
        return member
    probe = RegressionHead(member.config).to(member.weight1)
    probe.load_state_dict(member.state_dict() | {"typical": torch.ones_like(member.typical)})
    return probe


def _fold_heads(
    head: RatingHead,
    embedded: Sequence[EmbeddedRatings],
    contexts: Sequence[FitContext],
    folds: np.ndarray,
) -> list[RatingHead]:
    """For each fold a head that was trained on all pictures but its own: a stack of such members where it is one."""
    each = [
        fold_heads(pictures, context, member.config, folds)
        for pictures, context, member in zip(embedded, contexts, head.members, strict=True)
    ]
    if not isinstance(head, StackedHead):
        return list(each[0])
    scores = np.empty((len(folds), len(each)))
    for m, (pictures, heads) in enumerate(zip(embedded, each, strict=True)):
        for fold, one in enumerate(heads):
            with torch.no_grad():
                inside = torch.from_numpy(folds == fold)
                scores[inside, m] = one.score(pictures.embedding[inside].to(one.weight1.device)).cpu()
    ratings = embedded[0].data.ratings
    return [
        head.made_of([heads[fold] for heads in each], weights.tolist(), intercept)
        for fold, (weights, intercept) in fold_stacks(scores, ratings, folds).items()
    ]
