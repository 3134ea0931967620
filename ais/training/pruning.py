"""Pruning: feature maps that are silenced for good because people's ratings are met better without them.

Which maps is chosen on validation pictures and reported on test pictures that took no part in the choice.
Everything is exact and works on cached embeddings: where the tail treats every map on its own, silencing map
c moves the coordinate ``owner[c]`` of the embedding by ``delta_c``, whatever else is silenced.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ais.attribution import importance
from ais.errors import DataError
from ais.heads.regression import RegressionHead
from ais.metrics.regression import difference

Progress = Callable[[int, int], None]  # maps judged, maps in all

WayName = Literal["greedy", "negative"]

_BLOCK_VALUES = 1 << 17  # hidden units worked on together: 512 KiB of float32 stay in a core's cache


@dataclass(frozen=True, eq=False)
class Judged:
    """Pictures, and the head that may judge them: one that has seen none of them.

    A set of pictures is a list of these: one for every fold with the fold's own head, or a single one.

    Attributes:
        embedding: (N, D). delta: (N, C), as `ais.backbones.frozen.Features.delta`. Both on the head's device.
        ratings: (N,), in points.
        groups: N names; pictures of one group are resampled together.
    """

    head: RegressionHead
    embedding: Tensor
    delta: Tensor
    ratings: np.ndarray
    groups: Sequence[str]


@dataclass(frozen=True)
class PruningReport:
    """What silencing maps did.

    Attributes:
        how: the name of the way, a key of `WAYS`.
        maps, silenced: how many there are, and how many of them are silenced now.
        validation, test: ``before`` and ``after``, each with ``plcc`` and ``rmse``. The validation pictures
            flatter: the maps were chosen on them.
        difference: of `ais.metrics.regression.difference`, after less before, on the test pictures.
        gain: of the two 95 % intervals one lies on the good side of zero, and neither on the bad side.
    """

    how: str
    maps: int
    silenced: int
    validation: dict[str, dict[str, float]]
    test: dict[str, dict[str, float]]
    difference: dict[str, float]
    gain: bool


def silence(embedding: Tensor, delta: Tensor, owner: range, keep: Tensor) -> tuple[Tensor, Tensor]:
    """What the backbone would give with some of its maps ablated.

    Args:
        embedding: (N, D). delta: (N, C). owner: C coordinates in a row.
        keep: (C,) bool, False for a map to silence.

    Returns:
        The embedding, moved by the delta of every silenced map; and the delta, 0 for these, since a map that
        is silent already changes nothing.
    """
    keep = keep.to(delta.device)
    moved = embedding.clone()
    moved[:, owner.start : owner.stop] += delta.masked_fill(keep, 0)
    return moved, delta.masked_fill(~keep, 0)


def negative_impact(parts: Sequence[Judged], owner: range, progress: Progress | None = None) -> Tensor:
    """Silence every map whose mean residual importance is below zero: (C,) bool, False for these.

    Each map is judged with all others in place. Together they may do other than the sum of what they do
    alone; `greedy` sees that.
    """
    keep = mean_residual(parts, owner) >= 0
    if progress:
        progress(len(owner), len(owner))
    return keep


def greedy(parts: Sequence[Judged], owner: range, progress: Progress | None = None) -> Tensor:
    """Silence maps one by one as long as the score's RMSE falls: (C,) bool, False for the silenced ones.

    One pass over the maps in the order of their mean residual importance, the most harmful first: a map is
    silenced if that lowers the squared error over all pictures given what is silenced already, else it stays.
    """
    order = torch.argsort(mean_residual(parts, owner), stable=True).tolist()
    running = [_Running(part, owner) for part in parts]
    keep = torch.ones(len(owner), dtype=torch.bool)
    lowest = sum(part.squared_error(None) for part in running)
    for done, channel in enumerate(order, start=1):
        error = sum(part.squared_error(channel) for part in running)
        if error < lowest:
            lowest = error
            keep[channel] = False
            for part in running:
                part.silence(channel)
        if progress:
            progress(done, len(order))
    return keep


WAYS: Mapping[WayName, Callable[[Sequence[Judged], range, Progress | None], Tensor]] = {
    "greedy": greedy,
    "negative": negative_impact,
}


def prune(
    validation: Sequence[Judged],
    test: Sequence[Judged],
    owner: range,
    how: WayName = "greedy",
    progress: Progress | None = None,
) -> tuple[Tensor, PruningReport]:
    """Choose the maps to silence on the validation pictures and report what that does on the test pictures.

    Args:
        validation: their heads must have seen no test picture either. Those of a cross-validation over both sets
            have; what they know of the test pictures enters the choice, and the report then tells of a gain that
            is none (on OASIS 0.03 of PLCC, where new themes lose as much).
        test: in groups, at least two, that are not in `validation`.
        owner: C coordinates in a row.
        how: a key of `WAYS`.
        progress: called with the maps judged so far, and all.

    Returns:
        keep (C,) bool on the CPU, and the report.

    Raises:
        DataError: there are no pictures, pictures of one group are in both sets, or the test set is of one group.
    """
    if not all(sum(len(part.ratings) for part in parts) for parts in (validation, test)):
        raise DataError("Pruning takes validation pictures to choose on and test pictures to report on.")
    shared = _groups(validation) & _groups(test)
    if shared:
        raise DataError(
            f"Pictures of the group {min(shared)!r} are in both the validation and the test set: what was chosen on "
            "a group cannot be tested on it. Put each group into one of the two."
        )
    keep = WAYS[how](validation, owner, progress)
    before, after = _scores(test), _scores(_silenced(test, owner, keep))
    rated = _ratings(test)
    groups = [name for part in test for name in part.groups]
    change = difference(before, after, rated, groups)
    better = change["plcc_low"] > 0 or change["rmse_high"] < 0
    worse = change["plcc_high"] < 0 or change["rmse_low"] > 0
    report = PruningReport(
        how=how,
        maps=len(keep),
        silenced=int((~keep).sum()),
        validation={
            "before": _agreement(_scores(validation), _ratings(validation)),
            "after": _agreement(_scores(_silenced(validation, owner, keep)), _ratings(validation)),
        },
        test={"before": _agreement(before, rated), "after": _agreement(after, rated)},
        difference=change,
        gain=better and not worse,
    )
    return keep, report


def mean_residual(parts: Sequence[Judged], owner: range) -> Tensor:
    """The mean residual importance of each map over all pictures, in points: (C,) float64 on the CPU."""
    total = torch.zeros(len(owner), dtype=torch.float64)
    for part in parts:
        with torch.no_grad():
            hidden = part.head.hidden(part.embedding)
            score = part.head.readout(hidden).mean(1)
        effects = importance.channelwise(hidden, part.delta, owner, part.head)
        rating = torch.from_numpy(np.asarray(part.ratings)).to(score)
        total += importance.residual(effects, score, rating).double().sum(0).cpu()
    return total / sum(len(part.ratings) for part in parts)


class _Running:
    """The first layer's output z (N, K·H) of some pictures, less the maps silenced so far.

    Silencing map c adds ``delta_c ⊗ W1[:, c]`` to z, so to try a map is one such product, a ReLU and a product
    with the second layer. What costs is memory traffic: the pictures go through one small buffer block by block.
    """

    def __init__(self, part: Judged, owner: range) -> None:
        head = part.head
        with torch.no_grad():
            z = head.hidden(part.embedding).flatten(1)
        self._columns = head.weight1.flatten(0, 1)[:, owner.start : owner.stop].T.contiguous()  # (C, K·H)
        self._weight2 = head.weight2.flatten() * (head.rating_std / head.config.variants)  # (K·H,)
        self._block = max(1, _BLOCK_VALUES // z.shape[1])
        self._z = z.split(self._block)
        self._delta = part.delta.T.contiguous()  # (C, N)
        self._buffer = torch.empty_like(z[: self._block])
        rest = head.rating_mean + head.rating_std * head.bias2.mean()
        self._wanted = torch.from_numpy(np.asarray(part.ratings, np.float64)).to(z.device) - rest.double()

    def squared_error(self, channel: int | None) -> float:
        """Summed over the pictures, with this map silenced too (None: with no further map)."""
        rows = []
        for number, z in enumerate(self._z):
            unit = self._buffer[: len(z)]
            if channel is None:
                unit.copy_(z)
            else:
                torch.addr(z, self._shift(channel, number), self._columns[channel], out=unit)
            rows.append(unit.relu_().mv(self._weight2))
        return float((torch.cat(rows).double() - self._wanted).square().sum())

    def silence(self, channel: int) -> None:
        for number, z in enumerate(self._z):
            z.addr_(self._shift(channel, number), self._columns[channel])

    def _shift(self, channel: int, number: int) -> Tensor:
        return self._delta[channel, number * self._block : (number + 1) * self._block]


def _silenced(parts: Sequence[Judged], owner: range, keep: Tensor) -> list[Judged]:
    return [
        Judged(part.head, *silence(part.embedding, part.delta, owner, keep), part.ratings, part.groups)
        for part in parts
    ]


def _scores(parts: Sequence[Judged]) -> np.ndarray:
    with torch.no_grad():
        return torch.cat([part.head.score(part.embedding).double().cpu() for part in parts]).numpy()


def _ratings(parts: Sequence[Judged]) -> np.ndarray:
    return np.concatenate([part.ratings for part in parts])


def _groups(parts: Sequence[Judged]) -> set[str]:
    return {name for part in parts for name in part.groups}


def _agreement(predicted: np.ndarray, rated: np.ndarray) -> dict[str, float]:
    varies = np.ptp(predicted) > 0 and np.ptp(rated) > 0
    return {
        "plcc": float(np.corrcoef(predicted, rated)[0, 1]) if varies else 0.0,
        "rmse": float(np.sqrt(np.mean((predicted - rated) ** 2))),
    }
