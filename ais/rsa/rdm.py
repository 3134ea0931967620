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

from typing import Literal, get_args

import numpy as np
from scipy import stats
from scipy.spatial.distance import pdist, squareform
from torch import Tensor

from ais.errors import DataError
from ais.metrics.correlation import unit_ranks

Metric = Literal["correlation", "cosine", "euclidean"]

METRICS: tuple[Metric, ...] = get_args(Metric)

Array = np.ndarray | Tensor

FEWEST = 3  # pictures


def rdm(embedding: Array, metric: Metric = "correlation") -> np.ndarray:
    """The dissimilarities of N pictures to a network: (N, N) float64, 0 between equal embeddings.

    Args:
        embedding: (N, D).
        metric: of `METRICS`; "correlation" and "cosine" are 1 less the similarity.

    Raises:
        DataError: a picture's embedding does not vary (correlation) or is 0 (cosine), and so has no distance; or
            the embedding is not a finite matrix of at least three rows and two columns.
    """
    return _distances(checked_rows(embedding, metric), metric)


def alignment(model_rdm: Array, human_rdm: Array) -> float:
    """Spearman's correlation of two RDMs' upper triangles, each (N, N); ties have their mean rank.

    It is 0 where one of the two does not vary. People's matrices may be (P, N, N), here and below: then it is the mean
    of the correlations with each of them, which stands beside `noise_ceiling`.

    Raises:
        DataError: they are not two finite square matrices of one size.
    """
    model = _array(model_rdm, "The network's dissimilarities")
    people = people_of(human_rdm, len(model))
    return float(unit_ranks(_upper(_human(model, len(model)))) @ agreed(people))


def person_alignment(model_rdm: Array, rdms: Array) -> np.ndarray:
    """The alignment of a model's RDM (N, N) with each of P people's (P, N, N): (P,).

    Its mean stands beside `noise_ceiling`; the alignment with the mean of the people is higher, since their
    disagreement cancels out there.
    """
    return np.array([alignment(model_rdm, person) for person in _array(rdms, "People's dissimilarities")])


def noise_ceiling(rdms: Array) -> tuple[float, float] | None:
    """What the best of all models would reach in the mean of `person_alignment`: between lower and upper.

    As Nili et al. (2014, A Toolbox for Representational Similarity Analysis) define it: each person's correlation
    with the mean of the others' rank-transformed matrices (lower) and of everybody's, their own included (upper).

    Args:
        rdms: (P, N, N).

    Returns:
        None for one person alone, of whom nobody can tell what is noise.
    """
    people = _array(rdms, "People's dissimilarities")
    if len(people) < 2:
        return None
    ranks = stats.rankdata([_upper(_human(person, len(person))) for person in people], axis=1)
    total = ranks.sum(0)
    own = unit_ranks(ranks)
    lower = np.mean([unit @ unit_ranks(total - rank) for unit, rank in zip(own, ranks, strict=True)])
    return float(lower), float(np.mean(own @ unit_ranks(total)))


def mds(dissimilarities: Array) -> np.ndarray:
    """N pictures on a plane, so that their distances there are near their dissimilarities: (N, 2) float64.

    Classical scaling (Torgerson 1952). The first axis carries most; a plane has no right way round, so the entry of
    each axis that is farthest from 0 is taken as positive.

    Args:
        dissimilarities: (N, N).
    """
    squared = _human(dissimilarities, len(dissimilarities)) ** 2
    centred = squared - squared.mean(0) - squared.mean(1)[:, None] + squared.mean()
    values, vectors = np.linalg.eigh(-centred / 2)
    places = vectors[:, :-3:-1] * np.sqrt(np.maximum(values[:-3:-1], 0))
    farthest = places[np.abs(places).argmax(0), [0, 1]]
    return places * np.where(farthest < 0, -1, 1)


def _silent(columns: np.ndarray, metric: Metric) -> np.ndarray:
    """(N,) bool: the picture has no distance among these columns (N, k) of its embedding."""
    if metric == "euclidean":
        return np.zeros(len(columns), bool)
    return np.asarray(columns.min(1) == columns.max(1) if metric == "correlation" else ~columns.any(1))


def _twins(rows: np.ndarray) -> np.ndarray:
    """(N,) the first picture with the same embedding as each."""
    first: dict[bytes, int] = {}
    return np.array([first.setdefault(row.tobytes(), i) for i, row in enumerate(np.ascontiguousarray(rows))])


def _distances(rows: np.ndarray, metric: Metric) -> np.ndarray:
    """(N, N), SciPy's; exactly 0 between equal rows."""
    distances = squareform(pdist(rows, metric), checks=False)
    twin = _twins(rows)
    distances[np.equal.outer(twin, twin)] = 0
    return distances


def _array(values: Array, what: str) -> np.ndarray:
    """float64 of NumPy's or torch's.

    Raises:
        DataError: it holds something else than finite numbers.
    """
    array = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, np.float64)
    if not np.isfinite(array).all():
        raise DataError(f"{what} must be finite numbers, without NaN or infinity.")
    return array


def checked_rows(embedding: Array, metric: Metric) -> np.ndarray:
    """(N, D) float64 in which every picture has a distance to every other."""
    if metric not in METRICS:
        raise DataError(f"There is no metric {metric!r}: use {', '.join(METRICS)}.")
    rows = _array(embedding, "The embeddings") + 0.0  # so that -0 is 0
    if rows.ndim != 2 or len(rows) < FEWEST or rows.shape[1] < 2:
        raise DataError(
            f"Dissimilarities take the embeddings of at least {FEWEST} pictures, in at least two coordinates, not "
            f"an array of shape {rows.shape}."
        )
    silent = _silent(rows, metric)
    if silent.any():
        which = int(silent.argmax()) + 1
        what = "is 0 everywhere" if metric == "cosine" else "is the same everywhere"
        raise DataError(
            f"The embedding of picture {which} {what}, so it has no {metric} distance: leave the picture out, or use "
            "the Euclidean distance."
        )
    return np.ascontiguousarray(rows)


def _human(matrix: Array, size: int) -> np.ndarray:
    """(N, N) float64, of N pictures."""
    array = _array(matrix, "Dissimilarities")
    if array.shape != (size, size):
        raise DataError(
            f"The dissimilarities of {size} pictures are {size} × {size} numbers, not {array.shape}."
        )
    return array


def people_of(matrices: Array, size: int) -> np.ndarray:
    """(P, N, N) float64, from one matrix or from P of N pictures."""
    array = _array(matrices, "Dissimilarities")
    stack = array[None] if array.ndim == 2 else array
    if stack.ndim != 3 or not len(stack):
        _human(array, size)
    return np.stack([_human(person, size) for person in stack])


def part_of(people: np.ndarray, pictures: np.ndarray) -> np.ndarray:
    """(P, n, n), what the people said of some pictures."""
    return people[:, pictures][:, :, pictures]


def agreed(people: np.ndarray) -> np.ndarray:
    """The pairs of (P, N, N) as the mean of each person's `unit_ranks`.

    Its product with a model's unit ranks is the mean of the model's correlations with each person.
    """
    return unit_ranks(np.stack([_upper(person) for person in people])).mean(0)


def _upper(matrix: np.ndarray) -> np.ndarray:
    """(P,), the pairs above the diagonal."""
    return matrix[np.triu_indices(len(matrix), 1)]
