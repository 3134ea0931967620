"""Pruning: feature maps that are ablated for good because people's ratings are met better without them.

The maps are chosen on validation images, and the gain is reported on test images that took no part in the choice.
Everything is exact and works on cached embeddings: where the tail treats every map on its own, ablating map
c moves the coordinate ``embedding_slice[c]`` of the embedding by ``delta_c``, whatever else is ablated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ais.attribution import importance
from ais.errors import DataError
from ais.metrics.regression import difference
from ais.progress import Progress
from ais.training.criteria import CRITERIA, ScoredFold

_BLOCK_VALUES = 1 << 17  # hidden units worked on together: 512 KiB of float32 stay in a core's cache


@dataclass(frozen=True)
class PruningReport:
    """What pruning maps did.

    Attributes:
        criterion: a key of `CRITERIA`.
        maps, pruned, newly_pruned: how many there are, how many of them are pruned now, and how many were not before.
        validation, test: ``before`` and ``after``, each with ``plcc`` and ``rmse``. The validation images
            flatter: the maps were chosen on them.
        difference: of `ais.metrics.regression.difference`, after less before, on the test images.
        gain: of the two 95 % intervals one lies on the good side of zero, and neither on the bad side.
    """

    criterion: str
    maps: int
    pruned: int
    newly_pruned: int
    validation: dict[str, dict[str, float]]
    test: dict[str, dict[str, float]]
    difference: dict[str, float]
    gain: bool


def ablate(embedding: Tensor, delta: Tensor, embedding_slice: range, keep: Tensor) -> tuple[Tensor, Tensor]:
    """What the backbone would give with some of its maps ablated.

    Args:
        embedding: (N, D). delta: (N, C). embedding_slice: C coordinates in a row.
        keep: (C,) bool, False for a map to ablate.

    Returns:
        The embedding, moved by the delta of every ablated map; and the delta, 0 for these, since a map that
        is ablated already changes nothing.
    """
    keep = keep.to(delta.device)
    moved = embedding.clone()
    moved[:, embedding_slice.start : embedding_slice.stop] += delta.masked_fill(keep, 0)
    return moved, delta.masked_fill(~keep, 0)


def negative_impact(
    parts: Sequence[ScoredFold], embedding_slice: range, progress: Progress | None = None
) -> Tensor:
    """Prune every map whose mean residual importance is below zero: (C,) bool, False for these.

    Each map is tried with all others in place. Together they may do other than the sum of what they do
    alone; `greedy` sees that.
    """
    keep = mean_residual(parts, embedding_slice) >= 0
    if progress:
        progress(len(embedding_slice), len(embedding_slice))
    return keep


def greedy(parts: Sequence[ScoredFold], embedding_slice: range, progress: Progress | None = None) -> Tensor:
    """Prune maps one by one as long as the score's RMSE falls: (C,) bool, False for the pruned ones.

    One pass over the maps in the order of their mean residual importance, the most harmful first: a map is
    pruned if that lowers the squared error over all images given what is pruned already, else it stays.
    """
    order = torch.argsort(mean_residual(parts, embedding_slice), stable=True).tolist()
    running = [_HiddenState(part, embedding_slice) for part in parts]
    keep = torch.ones(len(embedding_slice), dtype=torch.bool)
    lowest = sum(part.squared_error(None) for part in running)
    for done, channel in enumerate(order, start=1):
        error = sum(part.squared_error(channel) for part in running)
        if error < lowest:
            lowest = error
            keep[channel] = False
            for part in running:
                part.ablate(channel)
        if progress:
            progress(done, len(order))
    return keep


def prune(
    validation: Sequence[ScoredFold],
    test: Sequence[ScoredFold],
    embedding_slice: range,
    criterion: str = "greedy",
    progress: Progress | None = None,
) -> tuple[Tensor, PruningReport]:
    """Choose the maps to prune on the validation images and report what that does on the test images.

    Args:
        validation: their heads must not be trained on test images either. Those of a cross-validation over both sets
            are; what they know of the test images enters the choice, and the report then tells of a gain that
            is none (on OASIS 0.03 of PLCC, where new themes lose as much).
        test: in groups, at least two, that are not in `validation`.
        embedding_slice: C coordinates in a row.
        criterion: a key of `CRITERIA`.
        progress: called with the maps tried so far, and all.

    Returns:
        keep (C,) bool on the CPU, False also for maps that the heads had pruned before; and the report.

    Raises:
        DataError: there are no images, images of one group are in both sets, or the test set is of one group.
    """
    if not all(sum(len(part.ratings) for part in parts) for parts in (validation, test)):
        raise DataError("Pruning takes validation pictures to choose on and test pictures to report on.")
    shared = _groups(validation) & _groups(test)
    if shared:
        raise DataError(
            f"Pictures of the group {min(shared)!r} are in both the validation and the test set: what was chosen on "
            "a group cannot be tested on it. Put each group into one of the two."
        )
    kept = validation[0].head.keep.cpu()
    keep = CRITERIA[criterion].choose(validation, embedding_slice, progress) & kept
    before, after = _scores(test), _scores(_ablated(test, embedding_slice, keep))
    rated = _ratings(test)
    groups = [name for part in test for name in part.groups]
    change = difference(before, after, rated, groups)
    better = change["plcc_low"] > 0 or change["rmse_high"] < 0
    worse = change["plcc_high"] < 0 or change["rmse_low"] > 0
    report = PruningReport(
        criterion=criterion,
        maps=len(keep),
        pruned=int((~keep).sum()),
        newly_pruned=int((kept & ~keep).sum()),
        validation={
            "before": _agreement(_scores(validation), _ratings(validation)),
            "after": _agreement(_scores(_ablated(validation, embedding_slice, keep)), _ratings(validation)),
        },
        test={"before": _agreement(before, rated), "after": _agreement(after, rated)},
        difference=change,
        gain=better and not worse,
    )
    return keep, report


def mean_residual(parts: Sequence[ScoredFold], embedding_slice: range) -> Tensor:
    """The mean residual importance of each map over all images, in points: (C,) float64 on the CPU."""
    total = torch.zeros(len(embedding_slice), dtype=torch.float64)
    for part in parts:
        with torch.no_grad():
            hidden = part.head.hidden(part.embedding)
            score = part.head.readout(hidden).mean(1)
        effects = importance.channelwise(hidden, part.delta, embedding_slice, part.head).mean(1)
        rating = torch.from_numpy(np.asarray(part.ratings)).to(score)
        total += importance.residual(effects, score, rating).double().sum(0).cpu()
    return total / sum(len(part.ratings) for part in parts)


class _HiddenState:
    """The first layer's output z (N, K·H) of some images, without the maps ablated so far.

    Ablating map c adds ``delta_c ⊗ W1[:, c]`` to z, so to try a map is one such product, a ReLU and a product
    with the second layer. What costs is memory traffic: the images go through one small buffer block by block.
    """

    def __init__(self, part: ScoredFold, embedding_slice: range) -> None:
        head = part.head
        with torch.no_grad():
            z = head.hidden(part.embedding).flatten(1)
        self._columns = head.weight1.flatten(0, 1)[
            :, embedding_slice.start : embedding_slice.stop
        ].T.contiguous()  # (C, K·H)
        self._weight2 = head.weight2.flatten() * (head.rating_std / head.config.variants)  # (K·H,)
        self._block = max(1, _BLOCK_VALUES // z.shape[1])
        self._z = z.split(self._block)
        self._delta = part.delta.T.contiguous()  # (C, N)
        self._buffer = torch.empty_like(z[: self._block])
        rest = head.rating_mean + head.rating_std * head.bias2.mean()
        self._wanted = torch.from_numpy(np.asarray(part.ratings, np.float64)).to(z.device) - rest.double()

    def squared_error(self, channel: int | None) -> float:
        """Summed over the images, with this map ablated too (None: with no further map)."""
        rows = []
        for number, z in enumerate(self._z):
            unit = self._buffer[: len(z)]
            if channel is None:
                unit.copy_(z)
            else:
                torch.addr(z, self._shift(channel, number), self._columns[channel], out=unit)
            rows.append(unit.relu_().mv(self._weight2))
        return float((torch.cat(rows).double() - self._wanted).square().sum())

    def ablate(self, channel: int) -> None:
        for number, z in enumerate(self._z):
            z.addr_(self._shift(channel, number), self._columns[channel])

    def _shift(self, channel: int, number: int) -> Tensor:
        return self._delta[channel, number * self._block : (number + 1) * self._block]


def _ablated(parts: Sequence[ScoredFold], embedding_slice: range, keep: Tensor) -> list[ScoredFold]:
    return [
        ScoredFold(
            part.head, *ablate(part.embedding, part.delta, embedding_slice, keep), part.ratings, part.groups
        )
        for part in parts
    ]


def _scores(parts: Sequence[ScoredFold]) -> np.ndarray:
    with torch.no_grad():
        return torch.cat([part.head.score(part.embedding).double().cpu() for part in parts]).numpy()


def _ratings(parts: Sequence[ScoredFold]) -> np.ndarray:
    return np.concatenate([part.ratings for part in parts])


def _groups(parts: Sequence[ScoredFold]) -> set[str]:
    return {name for part in parts for name in part.groups}


def _agreement(predicted: np.ndarray, rated: np.ndarray) -> dict[str, float]:
    varies = np.ptp(predicted) > 0 and np.ptp(rated) > 0
    return {
        "plcc": float(np.corrcoef(predicted, rated)[0, 1]) if varies else 0.0,
        "rmse": float(np.sqrt(np.mean((predicted - rated) ** 2))),
    }
