"""How many feature maps to keep, and whether keeping only the best helps on images that had no part in the choice.

The maps are ranked by their Alignment Importance Score (`ais.rsa.importance`); a pair of images counts as held
out only if both are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats
from scipy.spatial.distance import pdist, squareform

from ais.errors import DataError
from ais.metrics.bootstrap import mean_ci
from ais.progress import Progress
from ais.rsa.exact_ranks import correlations
from ais.rsa.importance import LeaveOneOutDistances, importance, normalised_products
from ais.rsa.rdm import (
    MIN_IMAGES,
    Array,
    Metric,
    as_array,
    as_rdm_stack,
    checked_embedding,
    degenerate,
    mean_unit_ranks,
    pairwise_distances,
    rdm,
    rdm_correlation,
    subset_rdms,
)

_SIZES = (1 / 32, 1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8, 1)  # of the maps

_LEVEL = 0.95

_RESAMPLES = 2000


def ranking(scores: np.ndarray) -> np.ndarray:
    """The maps from the highest score down; equal ones in their own order."""
    return np.argsort(-scores, kind="stable")


def selection_curve(
    embedding: Array, human_rdm: Array, order: Array, sizes: Sequence[int], metric: Metric = "correlation"
) -> np.ndarray:
    """`rdm_correlation` with only the first k coordinates of an order, for S sizes k: (S,).

    With few maps an image may have none that varies (correlation) or is not 0 (cosine); there it has a
    distance of 1 to every other, as of no correlation.

    Args:
        embedding: (N, D). human_rdm: (N, N), or (P, N, N) as in `rdm_correlation`.
        order: (C,) coordinates, the first to be kept longest. sizes: each from 1 to C.

    Raises:
        DataError: as `rdm`; a size that is too small or too large.
    """
    distances = LeaveOneOutDistances.of(embedding, metric)
    return _selection_curve(
        distances, mean_unit_ranks(as_rdm_stack(human_rdm, len(distances.rows))), order, sizes
    )


def _selection_curve(
    distances: LeaveOneOutDistances, human: np.ndarray, order: Array, sizes: Sequence[int]
) -> np.ndarray:
    """`selection_curve` for people's `unit_ranks` of the upper triangle, (P,)."""
    rows, metric = distances.rows, distances.metric
    count = len(rows)
    order = as_array(order, "The order").astype(int)
    if not all(0 < size <= len(order) for size in sizes):
        raise DataError(f"From 1 to {len(order)} of the maps can be kept, not {', '.join(map(str, sizes))}.")
    pairs = np.ravel_multi_index(np.triu_indices(count, 1), (count, count))
    products, sums = np.zeros((count, count)), np.zeros(count)
    found: dict[int, float] = {}
    done = 0
    for size in sorted(set(sizes)):
        kept, more = order[:size], order[done:size]
        done = size
        valid = np.flatnonzero(~degenerate(rows[:, kept], metric))
        grid = np.ix_(valid, valid)
        values, tolerance = np.zeros((count, count)), 0.0
        if metric == "euclidean":
            products += squareform(pdist(rows[:, more], "sqeuclidean"), checks=False)
            values[:], tolerance = products, distances.rounding * products.max()
        else:
            part = distances.centred[:, more]
            products += part @ part.T
            sums += part.sum(1)
            if len(valid):
                total = sums[valid] if metric == "correlation" else np.zeros(len(valid))
                less = (np.outer(total, total) / size)[None]
                tolerance = float(normalised_products(less, products[grid], distances.rounding)[0])
                values[grid] = less[0]

        def by_scipy(
            _: int, at: np.ndarray, kept: np.ndarray = kept, valid: np.ndarray = valid
        ) -> np.ndarray:
            exact = np.ones((count, count))
            if len(valid):
                exact[np.ix_(valid, valid)] = pairwise_distances(rows[valid][:, kept], metric)
            return exact.ravel()[pairs[at]]

        found[size] = float(
            correlations(
                values.ravel()[None, pairs],
                human[None],
                distances.pairs[None, pairs],
                np.array([tolerance]),
                by_scipy,
            )[0]
        )
    return np.array([found[size] for size in sizes])


def select_size(
    embedding: Array,
    human_rdm: Array,
    sizes: Sequence[int],
    metric: Metric,
    folds: int,
    rng: np.random.Generator,
) -> int:
    """How many maps to keep, by cross-validation over images: the size with the highest mean `rdm_correlation`.

    The maps are ranked by their importance on the other folds' images and tested on the fold's own pairs: a pair
    is held out only if both its images are. Of equal sizes the smallest.

    Raises:
        DataError: a fold would have fewer than three images.
    """
    rows, people = checked_embedding(embedding, metric), as_rdm_stack(human_rdm, len(embedding))
    if len(rows) // folds < MIN_IMAGES or folds < 2:
        raise DataError(
            f"{len(rows)} pictures in {folds} folds: there must be at least two folds, each of {MIN_IMAGES} pictures."
        )
    sizes = sorted(sizes)
    total = np.zeros(len(sizes))
    for fold in np.array_split(rng.permutation(len(rows)), folds):
        others = np.setdiff1d(np.arange(len(rows)), fold)
        order = ranking(importance(rows[others], subset_rdms(people, others), metric))
        total += selection_curve(rows[fold], subset_rdms(people, fold), order, sizes, metric)
    return int(sizes[int(total.argmax())])


@dataclass(frozen=True)
class SelectionPlan:
    """How `evaluate_selection` splits the images.

    Attributes:
        splits: random splits. seed: of the splits and of the random maps.
        share: of the images held out.
        sizes: numbers of maps to choose from, all of them (no pruning) best included; None takes a ladder from a
            32nd to all.
        random_draws: R, sets of as many random maps for each split.
        folds: of the cross-validation among the training images.
    """

    splits: int = 200
    share: float = 1 / 3
    sizes: Sequence[int] | None = None
    random_draws: int = 100
    folds: int = 3
    seed: int = 0


@dataclass(frozen=True)
class PairedDifference:
    """A paired difference of RDM correlations over random splits.

    Attributes:
        mean: over the splits.
        low, high: its 95 % interval by the corrected resampled t-test (Nadeau & Bengio 2003, Inference for the
            Generalization Error), which allows for splits that share their images.
        bootstrap_low, bootstrap_high: the percentile bootstrap over splits. It takes them for independent and is
            too narrow: it says how far the mean depends on which splits were drawn, not on which images were.
        share: of the splits in which the difference is above 0.
    """

    mean: float
    low: float
    high: float
    bootstrap_low: float
    bootstrap_high: float
    share: float


@dataclass(frozen=True, eq=False)
class SelectionReport:
    """What keeping only the maps with the highest AIS does for images that had no part in choosing them.

    Attributes:
        metric, seed: as asked for. maps: D.
        training, held_out: images of each split.
        sizes: Z numbers of maps to choose from.
        kept: (S,) int, how many maps each split chose.
        rdm_correlation_all, rdm_correlation_kept: (S,) on the held-out images, with all maps and with those kept.
        rdm_correlation_random: (S, R), with as many maps drawn at random.
        curve, random_curve: (S, Z), on the held-out images with so many maps by AIS, and the mean of
            the R draws.
        gain: kept less all. over_random: kept less the mean of the random draws.
        p_value: the share of the R draws whose mean over the splits is at least that of the kept maps, the kept
            maps counted among them; so at least 1 / (R + 1). It says whether the choice beats chance on these
            images; whether it would on others is what the intervals are about.
    """

    metric: Metric
    seed: int
    maps: int
    training: int
    held_out: int
    sizes: tuple[int, ...]
    kept: np.ndarray
    rdm_correlation_all: np.ndarray
    rdm_correlation_kept: np.ndarray
    rdm_correlation_random: np.ndarray
    curve: np.ndarray
    random_curve: np.ndarray
    gain: PairedDifference
    over_random: PairedDifference
    p_value: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it; of the random draws only each split's mean."""
        report = {**asdict(self), "rdm_correlation_random": self.rdm_correlation_random.mean(1)}
        return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in report.items()}


def evaluate_selection(
    embedding: Array,
    human_rdm: Array,
    plan: SelectionPlan | None = None,
    *,
    metric: Metric = "correlation",
    progress: Progress | None = None,
) -> SelectionReport:
    """Whether maps chosen by AIS on some images align better with people on others.

    Each split draws images to hold out. On the rest, AIS ranks the maps and `select_size` says how many to keep; the
    held-out images, whose pairs had no part in that, test them.

    Args:
        embedding: (N, D). human_rdm: (N, N), or (P, N, N) as in `rdm_correlation`.
        plan: of the splits; None for the defaults.
        progress: called after every split.

    Raises:
        DataError: as `rdm` and `select_size`; too few images to hold out.
    """
    plan = plan or SelectionPlan()
    rows = checked_embedding(embedding, metric)
    people = as_rdm_stack(human_rdm, len(rows))
    count, width = rows.shape
    sizes = sorted(set(plan.sizes or (max(2, round(part * width)) for part in _SIZES)))
    out = round(plan.share * count)
    if out < MIN_IMAGES or plan.splits < 2:
        raise DataError(
            f"{out} of {count} pictures held out, in {plan.splits} splits: there must be at least {MIN_IMAGES} of "
            "them, and two splits."
        )
    kept = np.empty(plan.splits, int)
    found = np.empty((plan.splits, 2))
    curves = np.empty((plan.splits, 1 + plan.random_draws, len(sizes)))
    random = np.empty((plan.splits, plan.random_draws))
    for split in range(plan.splits):
        rng = np.random.default_rng([plan.seed, split])
        held, training = np.split(rng.permutation(count), [out])
        known = rows[training], subset_rdms(people, training)
        order = ranking(importance(*known, metric))
        kept[split] = size = select_size(*known, sizes, metric, plan.folds, rng)
        chosen = sizes.index(size)
        distances = LeaveOneOutDistances.of(rows[held], metric)
        truth = mean_unit_ranks(subset_rdms(people, held))
        orders = [order, *(rng.permutation(width) for _ in range(plan.random_draws))]
        curves[split] = [_selection_curve(distances, truth, one, sizes) for one in orders]
        found[split] = rdm_correlation(rdm(rows[held], metric), subset_rdms(people, held))
        random[split] = found[split, 0]
        if size < width:  # all maps are the same maps in any order, which rounding must not call a difference
            found[split, 1], random[split] = curves[split, 0, chosen], curves[split, 1:, chosen]
        if progress:
            progress(split + 1, plan.splits)
    ratio = out / (count - out)
    reached = int((random.mean(0) >= found[:, 1].mean()).sum())
    return SelectionReport(
        metric=metric,
        seed=plan.seed,
        maps=width,
        training=count - out,
        held_out=out,
        sizes=tuple(sizes),
        kept=kept,
        rdm_correlation_all=found[:, 0],
        rdm_correlation_kept=found[:, 1],
        rdm_correlation_random=random,
        curve=curves[:, 0],
        random_curve=curves[:, 1:].mean(1),
        gain=_paired_difference(found[:, 1] - found[:, 0], ratio),
        over_random=_paired_difference(found[:, 1] - random.mean(1), ratio),
        p_value=(1 + reached) / (1 + plan.random_draws),
    )


def _paired_difference(differences: np.ndarray, ratio: float) -> PairedDifference:
    """Of S splits; `ratio` is that of held-out to training pictures."""
    count, mean = len(differences), float(differences.mean())
    error = math.sqrt((1 / count + ratio) * float(differences.var(ddof=1)))
    half = error * float(stats.t.ppf((1 + _LEVEL) / 2, count - 1))
    low, high = mean_ci(differences, resamples=_RESAMPLES)
    return PairedDifference(mean, mean - half, mean + half, low, high, float((differences > 0).mean()))
