"""How many feature maps to keep, and whether keeping only the best helps for pictures that had no part in the choice.

The maps are ranked by their Alignment Importance Score (`ais.rsa.importance`); a pair of pictures counts as held
out only if both are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from ais.errors import DataError
from ais.metrics.bootstrap import mean_ci
from ais.rsa.importance import Geometry, curve_of, importance, pruning_curve, ranking
from ais.rsa.rdm import FEWEST, Array, Metric, agreed, alignment, checked_rows, part_of, people_of, rdm

Progress = Callable[[int, int], None]  # splits done, splits in all

_SIZES = (1 / 32, 1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8, 1)  # of the maps

_LEVEL = 0.95

_RESAMPLES = 2000


def choose_size(
    embedding: Array,
    human_rdm: Array,
    sizes: Sequence[int],
    metric: Metric,
    folds: int,
    rng: np.random.Generator,
) -> int:
    """How many maps to keep, by cross-validation over pictures: the size with the highest mean alignment.

    The maps are ranked by their importance on the other folds' pictures and judged on the fold's own pairs: a pair
    is held out only if both its pictures are. Of equal sizes the smallest.

    Raises:
        DataError: a fold would have fewer than three pictures.
    """
    rows, people = checked_rows(embedding, metric), people_of(human_rdm, len(embedding))
    if len(rows) // folds < FEWEST or folds < 2:
        raise DataError(
            f"{len(rows)} pictures in {folds} folds: there must be at least two folds, each of {FEWEST} pictures."
        )
    sizes = sorted(sizes)
    total = np.zeros(len(sizes))
    for fold in np.array_split(rng.permutation(len(rows)), folds):
        others = np.setdiff1d(np.arange(len(rows)), fold)
        order = ranking(importance(rows[others], part_of(people, others), metric))
        total += pruning_curve(rows[fold], part_of(people, fold), order, sizes, metric)
    return int(sizes[int(total.argmax())])


@dataclass(frozen=True)
class Gain:
    """A paired difference of alignments over random splits.

    Attributes:
        mean: over the splits.
        low, high: its 95 % interval by the corrected resampled t-test (Nadeau & Bengio 2003, Inference for the
            Generalization Error), which allows for splits that share their pictures.
        bootstrap_low, bootstrap_high: the percentile bootstrap over splits. It takes them for independent and is
            too narrow: it says how far the mean depends on which splits were drawn, not on which pictures were.
        share: of the splits in which the difference is above 0.
    """

    mean: float
    low: float
    high: float
    bootstrap_low: float
    bootstrap_high: float
    share: float


@dataclass(frozen=True)
class GainReport:
    """What keeping only the maps with the highest AIS does for pictures that had no part in choosing them.

    Attributes:
        metric, seed: as asked for. maps: D.
        training, held_out: pictures of each split.
        sizes: Z numbers of maps to choose from.
        kept: (S,) int, how many maps each split chose.
        alignment_all, alignment_kept: (S,) on the held-out pictures, with all maps and with those kept.
        alignment_random: (S, R), with as many maps drawn at random.
        curve, random_curve: (S, Z), alignment on the held-out pictures with so many maps by AIS, and the mean of
            the R draws.
        gain: kept less all. over_random: kept less the mean of the random draws.
        p_value: the share of the R draws whose mean over the splits is at least that of the kept maps, the kept
            maps counted among them; so at least 1 / (R + 1). It says whether the choice beats chance on these
            pictures; whether it would on others is what the intervals are about.
    """

    metric: Metric
    seed: int
    maps: int
    training: int
    held_out: int
    sizes: tuple[int, ...]
    kept: np.ndarray
    alignment_all: np.ndarray
    alignment_kept: np.ndarray
    alignment_random: np.ndarray
    curve: np.ndarray
    random_curve: np.ndarray
    gain: Gain
    over_random: Gain
    p_value: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it; of the random draws only each split's mean."""
        report = {**asdict(self), "alignment_random": self.alignment_random.mean(1)}
        return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in report.items()}


def held_out_gain(
    embedding: Array,
    human_rdm: Array,
    *,
    splits: int = 200,
    share: float = 1 / 3,
    sizes: Sequence[int] | None = None,
    random_draws: int = 100,
    folds: int = 3,
    metric: Metric = "correlation",
    seed: int = 0,
    progress: Progress | None = None,
) -> GainReport:
    """Whether maps chosen by AIS on some pictures align better with people on others.

    Each split draws pictures to hold out. On the rest, AIS ranks the maps and `choose_size` says how many to keep;
    the held-out pictures, whose pairs nobody has looked at until then, judge them.

    Args:
        embedding: (N, D). human_rdm: (N, N), or (P, N, N) as in `alignment`.
        share: of the pictures held out.
        sizes: numbers of maps to choose from, all of them (no pruning) best included; None takes a ladder from a
            32nd to all.
        random_draws: R, sets of as many random maps for each split.
        folds: of the cross-validation among the training pictures.
        progress: called after every split.

    Raises:
        DataError: as `rdm` and `choose_size`; too few pictures to hold out.
    """
    rows = checked_rows(embedding, metric)
    people = people_of(human_rdm, len(rows))
    count, width = rows.shape
    ladder = sorted(set(sizes or (max(2, round(part * width)) for part in _SIZES)))
    out = round(share * count)
    if out < FEWEST or splits < 2:
        raise DataError(
            f"{out} of {count} pictures held out, in {splits} splits: there must be at least {FEWEST} of them, and "
            "two splits."
        )
    kept = np.empty(splits, int)
    found = np.empty((splits, 2))
    curves = np.empty((splits, 1 + random_draws, len(ladder)))
    random = np.empty((splits, random_draws))
    for split in range(splits):
        rng = np.random.default_rng([seed, split])
        held, training = np.split(rng.permutation(count), [out])
        known = rows[training], part_of(people, training)
        order = ranking(importance(*known, metric))
        kept[split] = size = choose_size(*known, ladder, metric, folds, rng)
        chosen = ladder.index(size)
        geometry = Geometry.of(rows[held], metric)
        truth = agreed(part_of(people, held))
        orders = [order, *(rng.permutation(width) for _ in range(random_draws))]
        curves[split] = [curve_of(geometry, truth, one, ladder) for one in orders]
        found[split] = alignment(rdm(rows[held], metric), part_of(people, held))
        random[split] = found[split, 0]
        if size < width:  # all maps are the same maps in any order, which rounding must not call a difference
            found[split, 1], random[split] = curves[split, 0, chosen], curves[split, 1:, chosen]
        if progress:
            progress(split + 1, splits)
    ratio = out / (count - out)
    reached = int((random.mean(0) >= found[:, 1].mean()).sum())
    return GainReport(
        metric,
        seed,
        width,
        count - out,
        out,
        tuple(ladder),
        kept,
        found[:, 0],
        found[:, 1],
        random,
        curves[:, 0],
        curves[:, 1:].mean(1),
        _gain(found[:, 1] - found[:, 0], ratio),
        _gain(found[:, 1] - random.mean(1), ratio),
        (1 + reached) / (1 + random_draws),
    )


def _gain(differences: np.ndarray, ratio: float) -> Gain:
    """Of S splits; `ratio` is that of held-out to training pictures."""
    count, mean = len(differences), float(differences.mean())
    error = math.sqrt((1 / count + ratio) * float(differences.var(ddof=1)))
    half = error * float(stats.t.ppf((1 + _LEVEL) / 2, count - 1))
    low, high = mean_ci(differences, resamples=_RESAMPLES)
    return Gain(mean, mean - half, mean + half, low, high, float((differences > 0).mean()))
