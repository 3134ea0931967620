"""How well a network's dissimilarities of pictures match people's, and which feature maps carry the match.

The Alignment Importance Score (AIS) of a feature map is the alignment with all maps less the alignment without it
(Truong, Pesenti & Hasson, Explaining Human Comparisons using Alignment-Importance Heatmaps, arXiv 2409.16292). The
alignment is Spearman's correlation of the network's representational dissimilarity matrix (RDM) with people's.

Leaving a map out changes the Gram matrix of the embeddings by a rank-one step: with x_c the map's coordinate over
the pictures, ``G - x_c x_cᵀ`` is the Gram matrix of the rest. For the correlation distance let the rows be centred
first; then the rest's own centring makes it ``G - D/(D-1) · x_c x_cᵀ``. For the Euclidean distance the squared
distances lose ``(x_ic - x_jc)²``. So all D scores cost little more than D sorts of the pairs, where the naive way
takes D times all coordinates of all pairs.

Ranks are brittle: where two distances lie closer together than rounding can tell apart, SciPy's own are taken, so
that the scores are those of dropping the column and calling `scipy.spatial.distance.pdist`. Only two pictures with
the same embedding are 0 apart here, where SciPy leaves a last digit to chance: one such digit among a few pairs
would be worth as much as many a map.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import pdist, squareform

from ais.errors import DataError
from ais.metrics.correlation import unit_ranks
from ais.rsa.exact_ranks import _correlations
from ais.rsa.rdm import Array, Metric, _array, _distances, _silent, _twins, agreed, checked_rows, people_of

_BLOCK = 2**17  # numbers handled at once: they stay in the processor's cache

_UNSTABLE = 1e6  # where a map is all but the whole of a picture, a rank-one step cancels: computed by SciPy


def importance(
    embedding: Array, human_rdm: Array, metric: Metric = "correlation", maps: range | None = None
) -> np.ndarray:
    """The Alignment Importance Score of each map, ρ - ρ⁽ᶜ⁾: (C,) float64.

    Above 0 where the map brings the network nearer to people. A map that is 0 everywhere (cosine) or the same
    everywhere (Euclidean) has exactly 0; the correlation distance feels such a map, since it moves every mean.

    Args:
        embedding: (N, D), D coordinates of N pictures. human_rdm: (N, N), or (P, N, N) as in `alignment`.
        maps: the C coordinates to score; None for all D.

    Raises:
        DataError: as `rdm`; also where a picture has no distance without one of the maps.
    """
    geometry = Geometry.of(embedding, metric)
    size = len(geometry.rows)
    i, j = np.triu_indices(size, 1)
    human = agreed(people_of(human_rdm, size))
    return _importance(geometry, (i * size + j)[None], human[None], maps)[0]


def image_importance(
    embedding: Array, human_rdm: Array, metric: Metric = "correlation", maps: range | None = None
) -> np.ndarray:
    """The same for each picture: the alignment of its own row, without itself, with people's row: (N, C).

    Args and errors as `importance`.
    """
    geometry = Geometry.of(embedding, metric)
    size = len(geometry.rows)
    places = np.arange(size * size).reshape(size, size)[~np.eye(size, dtype=bool)].reshape(size, size - 1)
    human = unit_ranks(people_of(human_rdm, size).reshape(-1, size * size)[:, places]).mean(0)
    return _importance(geometry, places, human, maps)


def pair_importance(embedding: np.ndarray, i: int, j: int) -> np.ndarray:
    """What each map adds to the correlation of two pictures: (C,), whose sum is the correlation.

    With the two embeddings z centred over the maps and of length 1, map c adds ``z_ic · z_jc``.

    Args:
        embedding: (N, C), as for `rdm`, which refuses one that does not vary.
    """
    pair = embedding[[i, j]] - embedding[[i, j]].mean(1, keepdims=True)
    one, other = pair / np.linalg.norm(pair, axis=1, keepdims=True)
    return np.asarray(one * other)


def pruning_curve(
    embedding: Array, human_rdm: Array, order: Array, sizes: Sequence[int], metric: Metric = "correlation"
) -> np.ndarray:
    """The alignment with only the first k coordinates of an order, for S sizes k: (S,).

    Among a few maps a picture may have none that varies (correlation) or is not 0 (cosine); there it has a
    distance of 1 to every other, as of no correlation.

    Args:
        embedding: (N, D). human_rdm: (N, N), or (P, N, N) as in `alignment`.
        order: (C,) coordinates, the first to be kept longest. sizes: each from 1 to C.

    Raises:
        DataError: as `rdm`; a size that is too small or too large.
    """
    geometry = Geometry.of(embedding, metric)
    return curve_of(geometry, agreed(people_of(human_rdm, len(geometry.rows))), order, sizes)


@dataclass(frozen=True)
class Geometry:
    """N pictures in D coordinates, prepared for distances without one of them, or among a few.

    Attributes:
        rows: (N, D), as given.
        moved: (N, D), for the correlation distance each row less its mean, which changes no distance.
        products: (N, N), of the moved rows; squared distances for the Euclidean metric.
        pairs: (N * N,), a number for each pair of different embeddings, and 0 for each of equal ones: pairs of one
            number are equally far apart, whatever is left out.
        rounding: how much a similarity (or a squared distance, in units of the largest) may be off.
    """

    rows: np.ndarray
    metric: Metric
    moved: np.ndarray
    products: np.ndarray
    pairs: np.ndarray
    rounding: float

    @classmethod
    def of(cls, embedding: Array, metric: Metric) -> Geometry:
        rows = checked_rows(embedding, metric)
        size, width = rows.shape
        twin = _twins(rows)
        pairs = np.minimum.outer(twin, twin) * size + np.maximum.outer(twin, twin)
        pairs[np.equal.outer(twin, twin)] = 0
        rounding = 16 * width * float(np.finfo(float).eps)
        if metric == "euclidean":
            products = squareform(pdist(rows, "sqeuclidean"), checks=False)
            return cls(rows, metric, rows, products, pairs.ravel(), rounding)
        moved = rows
        if metric == "correlation":
            moved = rows - rows.mean(1, keepdims=True)
            rounding *= float(np.max(np.linalg.norm(rows, axis=1) / np.linalg.norm(moved, axis=1)))
        return cls(rows, metric, moved, moved @ moved.T, pairs.ravel(), rounding)

    def without(self, maps: range) -> tuple[np.ndarray, np.ndarray]:
        """Numbers in the order of the distances without each of B maps, (B, N * N), and how close is too close, (B,).

        They are the squared distances, or the similarities with a minus.
        """
        size, width = self.rows.shape
        columns = self.moved[:, maps.start : maps.stop].T
        if self.metric == "euclidean":
            values = columns[:, :, None] - columns[:, None]
            np.square(values, out=values)
            np.subtract(self.products, values, out=values)
            tolerance = np.full(len(maps), self.rounding * self.products.max())
        else:
            if self.metric == "correlation":
                columns = columns * math.sqrt(width / (width - 1))
            values = columns[:, :, None] * columns[:, None]
            tolerance = _similarities(values, self.products, self.rounding)
        return values.reshape(len(maps), size * size), tolerance

    def neutral(self, maps: range) -> np.ndarray:
        """(C,) bool: leaving the map out changes no distance."""
        columns = self.rows[:, maps.start : maps.stop]
        if self.metric == "euclidean":
            return np.asarray(columns.min(0) == columns.max(0))
        return np.asarray(~columns.any(0) & (self.metric == "cosine"))


def _similarities(less: np.ndarray, products: np.ndarray, rounding: float) -> np.ndarray:
    """Put minus the normalised ``products - less`` in the place of `less`, (B, N, N); returns the tolerances, (B,).

    What is left of a squared length is less certain, the more was taken from it.
    """
    before = products.diagonal()
    np.subtract(less, products, out=less)
    left = np.maximum(-np.diagonal(less, axis1=1, axis2=2), np.finfo(float).eps * before)
    loss = (before / left).max(1)
    inverse = 1 / np.sqrt(left)
    less *= inverse[:, :, None]
    less *= inverse[:, None]
    return np.where(loss < _UNSTABLE, rounding * loss, np.inf)


def _importance(geometry: Geometry, places: np.ndarray, human: np.ndarray, maps: range | None) -> np.ndarray:
    """The AIS by Q sets of K pairs each: (Q, C).

    Args:
        places: (Q, K), into the N * N pairs. human: (Q, K), as `unit_ranks`.
    """
    size, width = geometry.rows.shape
    maps = range(width) if maps is None else maps
    if maps.step != 1 or not 0 <= maps.start <= maps.stop <= width:
        raise DataError(f"{maps} are not coordinates of an embedding of {width}.")
    pairs = geometry.pairs[places]

    @functools.lru_cache(maxsize=1)
    def rest(channel: int, chosen: bytes) -> np.ndarray:
        pictures = np.frombuffer(chosen, np.intp)
        columns = np.delete(geometry.rows[pictures], channel, axis=1)
        silent = _silent(columns, geometry.metric)
        if silent.any():
            raise DataError(
                f"Without feature map {channel} the embedding of picture {pictures[silent.argmax()] + 1} is the same "
                f"everywhere, so it has no {geometry.metric} distance: leave the picture out, or use the Euclidean "
                "distance."
            )
        return _distances(columns, geometry.metric)

    def by_scipy(start: int, row: int, at: np.ndarray) -> np.ndarray:
        """The distances of some pairs of a row of the batch that begins at map `start`."""
        which, people = divmod(row, len(places))
        pictures, index = np.unique(np.divmod(places[people, at], size), return_inverse=True)
        i, j = index.reshape(2, -1)
        return rest(maps[start + which], pictures.astype(np.intp).tobytes())[i, j]

    if (
        not geometry.pairs.any()
    ):  # all are equal, so that no distance is looked at below; each must have one still
        for channel in maps:
            rest(channel, np.arange(size, dtype=np.intp).tobytes())
    whole = _distances(geometry.rows, geometry.metric).ravel()[places]
    base = _correlations(whole, human, pairs, np.zeros(len(whole)), lambda row, at: whole[row, at])
    scores = np.empty((len(places), len(maps)))
    step = max(1, _BLOCK // size**2)
    for start in range(0, len(maps), step):
        some = maps[start : start + step]
        values, tolerance = geometry.without(some)
        values = values.take(places.ravel(), axis=1).reshape(-1, places.shape[1])
        left = _correlations(
            values,
            human,
            pairs,
            tolerance.repeat(len(places)),
            functools.partial(by_scipy, start),
        )
        scores[:, start : start + step] = base[:, None] - left.reshape(-1, len(places)).T
    scores[:, geometry.neutral(maps)] = 0
    return scores


def curve_of(geometry: Geometry, human: np.ndarray, order: Array, sizes: Sequence[int]) -> np.ndarray:
    """`pruning_curve` for people's `unit_ranks` of the upper triangle, (P,)."""
    rows, metric = geometry.rows, geometry.metric
    count = len(rows)
    order = _array(order, "The order").astype(int)
    if not all(0 < size <= len(order) for size in sizes):
        raise DataError(f"From 1 to {len(order)} of the maps can be kept, not {', '.join(map(str, sizes))}.")
    upper = np.ravel_multi_index(np.triu_indices(count, 1), (count, count))
    products, sums = np.zeros((count, count)), np.zeros(count)
    found: dict[int, float] = {}
    done = 0
    for size in sorted(set(sizes)):
        kept, more = order[:size], order[done:size]
        done = size
        heard = np.flatnonzero(~_silent(rows[:, kept], metric))
        grid = np.ix_(heard, heard)
        values, tolerance = np.zeros((count, count)), 0.0
        if metric == "euclidean":
            products += squareform(pdist(rows[:, more], "sqeuclidean"), checks=False)
            values[:], tolerance = products, geometry.rounding * products.max()
        else:
            part = geometry.moved[:, more]
            products += part @ part.T
            sums += part.sum(1)
            if len(heard):
                total = sums[heard] if metric == "correlation" else np.zeros(len(heard))
                less = (np.outer(total, total) / size)[None]
                tolerance = float(_similarities(less, products[grid], geometry.rounding)[0])
                values[grid] = less[0]

        def by_scipy(
            _: int, at: np.ndarray, kept: np.ndarray = kept, heard: np.ndarray = heard
        ) -> np.ndarray:
            distances = np.ones((count, count))
            if len(heard):
                distances[np.ix_(heard, heard)] = _distances(rows[heard][:, kept], metric)
            return distances.ravel()[upper[at]]

        found[size] = float(
            _correlations(
                values.ravel()[None, upper],
                human[None],
                geometry.pairs[None, upper],
                np.array([tolerance]),
                by_scipy,
            )[0]
        )
    return np.array([found[size] for size in sizes])


def ranking(scores: np.ndarray) -> np.ndarray:
    """The maps from the highest score down; equal ones in their own order."""
    return np.argsort(-scores, kind="stable")
