"""Combining heads on several backbones into one: a stack, whose weights come from held-out predictions."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ais.backbones.embeddings import content_hashes
from ais.data.ratings import RatedSet
from ais.data.splits import grouped_folds
from ais.errors import DataError
from ais.heads.base import content_key
from ais.heads.config import MOST_MEMBERS, Member, StackConfig
from ais.heads.regression import RegressionHead
from ais.heads.stack import StackedHead
from ais.metrics.regression import ceiling, difference, metrics
from ais.progress import StageProgress
from ais.torch_state import own_state
from ais.training.calibration import calibrate
from ais.training.stacking import cross_fitted, fit_stack
from ais.workflows.evaluate import score_held_out

logger = logging.getLogger(__name__)

_FOLDS = 10


@own_state()
def combine_heads(
    data: RatedSet,
    heads: Sequence[RegressionHead],
    *,
    name: str,
    device: str = "auto",
    progress: StageProgress | None = None,
) -> StackedHead:
    """Weigh heads by how well they predict pictures they have not seen, all of them together.

    The weights are fitted by a non-negative ridge on the members' held-out predictions (see `ais.training.stacking`);
    what is
    measured of the stack is measured with weights fitted on the other folds.

    Args:
        data: the pictures that all members were trained on, or pictures that none of them has seen.
        heads: two or more, loaded from their folders; of one target, with as many variants each.
        name: the stack's.

    Raises:
        DataError: the heads do not fit together or to the data, or only one of them is worth keeping.
    """
    _check(heads, name)
    parts = [score_held_out(data, head, device=device, progress=progress) for head in heads]
    first = parts[0]
    if any(part.protocol != first.protocol or part.left_out for part in parts):
        raise DataError(
            "To combine heads, give the pictures that all of them were trained on, or pictures that none has seen."
        )
    folds = first.folds if first.folds is not None else grouped_folds(first.groups, _FOLDS, 0)
    if any(part.folds is not None and (part.folds != folds).any() for part in parts):
        raise DataError(
            "The heads were trained with other folds: train all of them with the same --seed and --folds."
        )
    scores = np.stack([part.scores for part in parts], axis=-1)  # (N, K, M)
    weights, intercept = fit_stack(scores.mean(1), data.ratings)
    used = [m for m, weight in enumerate(weights) if weight > 0]
    if len(used) < 2:
        only = heads[used[0]].config.name
        raise DataError(f"Beside {only!r} the other heads add nothing: there is nothing to combine.")
    for m in set(range(len(heads))) - set(used):
        logger.info("%s is left out: its weight would be 0", heads[m].config.name)
    stacked = cross_fitted(
        scores, data.ratings, folds
    )  # (N, K); which members count is chosen again for every fold
    best = max(used, key=lambda m: np.corrcoef(parts[m].scores.mean(1), data.ratings)[0, 1])
    measured: dict[str, Any] = metrics(stacked.mean(1), data.ratings, first.groups) | {
        "pictures": len(data),
        "groups": len(set(first.groups)),
        "folds": int(folds.max()) + 1,
        "grouped": data.groups is not None,
        "how": first.protocol,
        "over_best": {"head": heads[best].config.name}
        | difference(parts[best].scores.mean(1), stacked.mean(1), data.ratings, first.groups),
    }
    if data.sd is not None and data.n is not None:
        measured["ceiling"] = ceiling(data.ratings, data.sd, data.n)
    seen = _seen([heads[m] for m in used], data)
    config = StackConfig(
        name=name,
        variants=heads[0].config.variants,
        target=heads[0].config.target,
        interval=calibrate(stacked, data.ratings),
        about=heads[0].config.about,
        metrics=measured,
        trained_on=len(seen),
        recipe={"target": data.target},
        members=[Member(heads[m].config.name, heads[m].config.fingerprint) for m in used],
    )
    stack = StackedHead(config, [heads[m] for m in used])
    stack.load_state_dict(
        {
            "weight": torch.from_numpy(weights[used]).float(),
            "intercept": torch.tensor(intercept).float(),
            "rating_quantiles": torch.from_numpy(np.quantile(data.ratings, np.linspace(0, 1, 101))).float(),
        }
        | ({"trained_on": seen} if config.trained_on else {}),
        strict=False,  # the members have tensors of their own
    )
    return stack.eval()


def _seen(heads: Sequence[RegressionHead], data: RatedSet) -> Tensor:
    """What a stack has learned from, (S,): its members' pictures and those that weigh them. None, if a member does
    not say."""
    if not all(head.config.trained_on for head in heads):
        return torch.zeros(0, dtype=torch.int64)
    keys = [key for head in heads for key in head.trained_on.tolist()]
    keys += [content_key(value) for value in content_hashes(data.files)]
    return torch.tensor(list(dict.fromkeys(keys)))


def _check(heads: Sequence[RegressionHead], name: str) -> None:
    if len(heads) < 2:
        raise DataError("To combine heads takes at least two of them.")
    if len(heads) > MOST_MEMBERS:
        raise DataError(
            f"At most {MOST_MEMBERS} heads can be combined: each has a backbone that runs on every picture."
        )
    names = [head.config.name for head in heads]
    if name in names:
        raise DataError(f"The stack would take the place of its member {name!r}: give it another name.")
    if len(set(names)) < len(names):
        raise DataError(f"The heads to combine should have different names, not {', '.join(names)}.")
    for head in heads:
        config, folder = head.config, head.folder
        if config.parts:
            raise DataError(f"{config.name!r} is a stack itself: combine heads on single backbones.")
        if folder is None or Path(folder).resolve().name != config.name:
            raise DataError(
                f"The head {config.name!r} should lie in a folder of its own name, by which it is found."
            )
        if config.view != "resize":
            raise DataError(
                f"The head {config.name!r} does not see the whole picture: train it with --view resize."
            )
        one, other = heads[0].config, config
        if (one.target.name, one.target.low, one.target.high) != (
            other.target.name,
            other.target.low,
            other.target.high,
        ):
            raise DataError(
                f"{one.name!r} and {other.name!r} do not predict the same thing on the same scale."
            )
        if one.variants != other.variants:
            raise DataError(f"{one.name!r} and {other.name!r} should have the same number of variants.")
