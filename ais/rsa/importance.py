"""The Alignment Importance Score (AIS) of each feature map: which maps make a network's dissimilarities match people's.

It is the alignment with all maps less the alignment without the map (Truong, Pesenti & Hasson, Explaining Human
Comparisons using Alignment-Importance Heatmaps, arXiv 2409.16292). The alignment is Spearman's correlation of the
network's representational dissimilarity matrix (RDM) with people's, `ais.rsa.rdm.rdm_correlation`.

Leaving a map out changes the Gram matrix of the embeddings by a rank-one step: with x_c the map's coordinate over
the images, ``G - x_c x_cᵀ`` is the Gram matrix of the rest. For the correlation distance let the rows be centred
first; then the rest's own centring makes it ``G - D/(D-1) · x_c x_cᵀ``. For the Euclidean distance the squared
distances lose ``(x_ic - x_jc)²``. So all D scores cost little more than D sorts of the pairs, where the naive way
takes D times all coordinates of all pairs. Ranks are made exact by `ais.rsa.exact_ranks`.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import pdist, squareform

from ais.errors import DataError
from ais.metrics.correlation import unit_ranks
from ais.rsa.exact_ranks import correlations
from ais.rsa.rdm import (
    Array,
    Metric,
    as_rdm_stack,
    checked_embedding,
    degenerate,
    duplicate_of,
    mean_unit_ranks,
    pairwise_distances,
)

_BLOCK = 2**17  # numbers handled at once: they stay in the processor's cache

_UNSTABLE = (
    1e6  # where a map is all but the whole of an embedding, a rank-one step cancels: computed by SciPy
)


def importance(
    embedding: Array, human_rdm: Array, metric: Metric = "correlation", maps: range | None = None
) -> np.ndarray:
    """The Alignment Importance Score of each map, ρ - ρ⁽ᶜ⁾: (C,) float64.

    Above 0 where the map brings the network nearer to people. A map that is 0 everywhere (cosine) or the same
    everywhere (Euclidean) has exactly 0; the correlation distance feels such a map, since it moves every mean.

    Args:
        embedding: (N, D), D coordinates of N images. human_rdm: (N, N), or (P, N, N) as in `rdm_correlation`.
        maps: the C coordinates to score; None for all D.

    Raises:
        DataError: as `rdm`; also where an image has no distance without one of the maps.
    """
    distances = LeaveOneOutDistances.of(embedding, metric)
    size = len(distances.rows)
    i, j = np.triu_indices(size, 1)
    human = mean_unit_ranks(as_rdm_stack(human_rdm, size))
    return _importance(distances, (i * size + j)[None], human[None], maps)[0]


def image_importance(
    embedding: Array, human_rdm: Array, metric: Metric = "correlation", maps: range | None = None
) -> np.ndarray:
    """The same for each image: by the correlation of its own row, without itself, with people's row: (N, C).

    Args and errors as `importance`.
    """
    distances = LeaveOneOutDistances.of(embedding, metric)
    size = len(distances.rows)
    places = np.arange(size * size).reshape(size, size)[~np.eye(size, dtype=bool)].reshape(size, size - 1)
    human = unit_ranks(as_rdm_stack(human_rdm, size).reshape(-1, size * size)[:, places]).mean(0)
    return _importance(distances, places, human, maps)


def pair_importance(embedding: np.ndarray, i: int, j: int) -> np.ndarray:
    """What each map adds to the correlation of two images: (C,), whose sum is the correlation.

    With the two embeddings z centred over the maps and of length 1, map c adds ``z_ic · z_jc``.

    Args:
        embedding: (N, C), as for `rdm`, which refuses one that does not vary.
    """
    pair = embedding[[i, j]] - embedding[[i, j]].mean(1, keepdims=True)
    one, other = pair / np.linalg.norm(pair, axis=1, keepdims=True)
    return np.asarray(one * other)


@dataclass(frozen=True, eq=False)
class LeaveOneOutDistances:
    """N images in D coordinates, prepared for the distances without one of the coordinates, or with a few alone.

    Attributes:
        rows: (N, D), as given.
        centred: (N, D), for the correlation distance each row less its mean, which changes no distance.
        products: (N, N), of the centred rows; squared distances for the Euclidean metric.
        pairs: (N * N,), a number for each pair of different embeddings, and 0 for each of equal ones: pairs of one
            number are equally far apart, whatever is left out.
        rounding: how much a similarity (or a squared distance, in units of the largest) may be off.
    """

    rows: np.ndarray
    metric: Metric
    centred: np.ndarray
    products: np.ndarray
    pairs: np.ndarray
    rounding: float

    @classmethod
    def of(cls, embedding: Array, metric: Metric) -> LeaveOneOutDistances:
        rows = checked_embedding(embedding, metric)
        size, width = rows.shape
        first = duplicate_of(rows)
        pairs = np.minimum.outer(first, first) * size + np.maximum.outer(first, first)
        pairs[np.equal.outer(first, first)] = 0
        rounding = 16 * width * float(np.finfo(float).eps)
        if metric == "euclidean":
            products = squareform(pdist(rows, "sqeuclidean"), checks=False)
            return cls(rows, metric, rows, products, pairs.ravel(), rounding)
        centred = rows
        if metric == "correlation":
            centred = rows - rows.mean(1, keepdims=True)
            rounding *= float(np.max(np.linalg.norm(rows, axis=1) / np.linalg.norm(centred, axis=1)))
        return cls(rows, metric, centred, centred @ centred.T, pairs.ravel(), rounding)

    def without(self, maps: range) -> tuple[np.ndarray, np.ndarray]:
        """Numbers in the order of the distances without each of B maps, (B, N * N), and how close is too close, (B,).

        They are the squared distances, or the similarities with a minus.
        """
        size, width = self.rows.shape
        columns = self.centred[:, maps.start : maps.stop].T
        if self.metric == "euclidean":
            values = columns[:, :, None] - columns[:, None]
            np.square(values, out=values)
            np.subtract(self.products, values, out=values)
            tolerance = np.full(len(maps), self.rounding * self.products.max())
        else:
            if self.metric == "correlation":
                columns = columns * math.sqrt(width / (width - 1))
            values = columns[:, :, None] * columns[:, None]
            tolerance = normalised_products(values, self.products, self.rounding)
        return values.reshape(len(maps), size * size), tolerance

    def has_no_effect(self, maps: range) -> np.ndarray:
        """(C,) bool: leaving the map out changes no distance."""
        columns = self.rows[:, maps.start : maps.stop]
        if self.metric == "euclidean":
            return np.asarray(columns.min(0) == columns.max(0))
        return np.asarray(~columns.any(0) & (self.metric == "cosine"))


def normalised_products(less: np.ndarray, products: np.ndarray, rounding: float) -> np.ndarray:
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


def _importance(
    distances: LeaveOneOutDistances, places: np.ndarray, human: np.ndarray, maps: range | None
) -> np.ndarray:
    """The AIS by Q sets of K pairs each: (Q, C).

    Args:
        places: (Q, K), into the N * N pairs. human: (Q, K), as `unit_ranks`.
    """
    size, width = distances.rows.shape
    maps = range(width) if maps is None else maps
    if maps.step != 1 or not 0 <= maps.start <= maps.stop <= width:
        raise DataError(f"{maps} are not coordinates of an embedding of {width}.")
    pairs = distances.pairs[places]

    @functools.lru_cache(maxsize=1)
    def rest(channel: int, chosen: bytes) -> np.ndarray:
        images = np.frombuffer(chosen, np.intp)
        columns = np.delete(distances.rows[images], channel, axis=1)
        bad = degenerate(columns, distances.metric)
        if bad.any():
            raise DataError(
                f"Without feature map {channel} the embedding of picture {images[bad.argmax()] + 1} is the same "
                f"everywhere, so it has no {distances.metric} distance: leave the picture out, or use the Euclidean "
                "distance."
            )
        return pairwise_distances(columns, distances.metric)

    def by_scipy(start: int, row: int, at: np.ndarray) -> np.ndarray:
        """The distances of some pairs of a row of the batch that begins at map `start`."""
        which, people = divmod(row, len(places))
        images, index = np.unique(np.divmod(places[people, at], size), return_inverse=True)
        i, j = index.reshape(2, -1)
        return rest(maps[start + which], images.astype(np.intp).tobytes())[i, j]

    if (
        not distances.pairs.any()
    ):  # all images are equal, so no distance is computed below; each must still have one
        for channel in maps:
            rest(channel, np.arange(size, dtype=np.intp).tobytes())
    whole = pairwise_distances(distances.rows, distances.metric).ravel()[places]
    base = correlations(whole, human, pairs, np.zeros(len(whole)), lambda row, at: whole[row, at])
    scores = np.empty((len(places), len(maps)))
    step = max(1, _BLOCK // size**2)
    for start in range(0, len(maps), step):
        some = maps[start : start + step]
        values, tolerance = distances.without(some)
        values = values.take(places.ravel(), axis=1).reshape(-1, places.shape[1])
        left = correlations(
            values,
            human,
            pairs,
            tolerance.repeat(len(places)),
            functools.partial(by_scipy, start),
        )
        scores[:, start : start + step] = base[:, None] - left.reshape(-1, len(places)).T
    scores[:, distances.has_no_effect(maps)] = 0
    return scores
