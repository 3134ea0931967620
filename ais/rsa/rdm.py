"""Representational dissimilarity matrices (RDMs), and how well a network's match people's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np

from ais.errors import DataError
from ais.metrics.correlation import unit_ranks

if TYPE_CHECKING:  # and SciPy in the functions, so that the metrics can be listed without either
    from torch import Tensor

Metric = Literal["correlation", "cosine", "euclidean"]

METRICS: tuple[Metric, ...] = get_args(Metric)

Array: TypeAlias = "np.ndarray | Tensor"

MIN_IMAGES = 3


def rdm(embedding: Array, metric: Metric = "correlation") -> np.ndarray:
    """The dissimilarities of N images to a network: (N, N) float64, 0 between equal embeddings.

    Args:
        embedding: (N, D).
        metric: of `METRICS`; "correlation" and "cosine" are 1 less the similarity.

    Raises:
        DataError: an image's embedding does not vary (correlation) or is 0 (cosine), and so has no distance; or
            the embedding is not a finite matrix of at least three rows and two columns.
    """
    return pairwise_distances(checked_embedding(embedding, metric), metric)


def rdm_correlation(model_rdm: Array, human_rdm: Array) -> float:
    """Spearman's correlation of two RDMs' upper triangles, each (N, N); ties have their mean rank.

    It is 0 where one of the two does not vary. People's matrices may be (P, N, N), here and below: then it is the mean
    of the correlations with each of them, to be compared with `noise_ceiling`.

    Raises:
        DataError: they are not two finite square matrices of one size.
    """
    model = as_array(model_rdm, "The network's dissimilarities")
    people = as_rdm_stack(human_rdm, len(model))
    return float(unit_ranks(upper(_square(model, len(model)))) @ mean_unit_ranks(people))


def per_subject_correlation(model_rdm: Array, rdms: Array) -> np.ndarray:
    """`rdm_correlation` of a model's RDM (N, N) with each of P people's (P, N, N): (P,).

    Its mean is to be compared with `noise_ceiling`. The correlation with the mean of the people's matrices is higher,
    since their disagreement cancels out there.
    """
    return np.array(
        [rdm_correlation(model_rdm, person) for person in as_array(rdms, "People's dissimilarities")]
    )


def noise_ceiling(rdms: Array) -> tuple[float, float] | None:
    """What the best of all models would reach in the mean of `per_subject_correlation`: between lower and upper.

    As Nili et al. (2014, A Toolbox for Representational Similarity Analysis) define it: each person's correlation
    with the mean of the others' rank-transformed matrices (lower) and with the mean of all, their own included (upper).

    Args:
        rdms: (P, N, N).

    Returns:
        None for one person, where noise cannot be estimated.
    """
    from scipy import stats

    people = as_array(rdms, "People's dissimilarities")
    if len(people) < 2:
        return None
    ranks = stats.rankdata([upper(_square(person, len(person))) for person in people], axis=1)
    total = ranks.sum(0)
    own = unit_ranks(ranks)
    lower = np.mean([unit @ unit_ranks(total - rank) for unit, rank in zip(own, ranks, strict=True)])
    return float(lower), float(np.mean(own @ unit_ranks(total)))


def mds(dissimilarities: Array) -> np.ndarray:
    """N images on a plane, so that their distances there are near their dissimilarities: (N, 2) float64.

    Classical scaling (Torgerson 1952). The first axis carries most; a plane has no right way round, so the entry of
    each axis that is farthest from 0 is taken as positive.

    Args:
        dissimilarities: (N, N).
    """
    squared = _square(dissimilarities, len(dissimilarities)) ** 2
    centred = squared - squared.mean(0) - squared.mean(1)[:, None] + squared.mean()
    values, vectors = np.linalg.eigh(-centred / 2)
    places = vectors[:, :-3:-1] * np.sqrt(np.maximum(values[:-3:-1], 0))
    farthest = places[np.abs(places).argmax(0), [0, 1]]
    return places * np.where(farthest < 0, -1, 1)


def degenerate(columns: np.ndarray, metric: Metric) -> np.ndarray:
    """(N,) bool: the row has no distance to others by these columns (N, k) of its embedding."""
    if metric == "euclidean":
        return np.zeros(len(columns), bool)
    return np.asarray(columns.min(1) == columns.max(1) if metric == "correlation" else ~columns.any(1))


def duplicate_of(rows: np.ndarray) -> np.ndarray:
    """(N,) the first image with the same embedding as each."""
    first: dict[bytes, int] = {}
    return np.array([first.setdefault(row.tobytes(), i) for i, row in enumerate(np.ascontiguousarray(rows))])


def pairwise_distances(rows: np.ndarray, metric: Metric) -> np.ndarray:
    """(N, N), SciPy's; exactly 0 between equal rows."""
    from scipy.spatial.distance import pdist, squareform

    distances = squareform(pdist(rows, metric), checks=False)
    first = duplicate_of(rows)
    distances[np.equal.outer(first, first)] = 0
    return distances


def as_array(values: Array, what: str) -> np.ndarray:
    """float64 of NumPy's or torch's.

    Raises:
        DataError: it holds something else than finite numbers.
    """
    array = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, np.float64)
    if not np.isfinite(array).all():
        raise DataError(f"{what} must be finite numbers, without NaN or infinity.")
    return array


def checked_embedding(embedding: Array, metric: Metric) -> np.ndarray:
    """(N, D) float64 in which every image has a distance to every other.

    Raises:
        DataError: as `rdm`.
    """
    if metric not in METRICS:
        raise DataError(f"There is no metric {metric!r}: use {', '.join(METRICS)}.")
    rows = as_array(embedding, "The embeddings") + 0.0  # so that -0 is 0
    if rows.ndim != 2 or len(rows) < MIN_IMAGES or rows.shape[1] < 2:
        raise DataError(
            f"Dissimilarities take the embeddings of at least {MIN_IMAGES} pictures, in at least two coordinates, not "
            f"an array of shape {rows.shape}."
        )
    bad = degenerate(rows, metric)
    if bad.any():
        which = int(bad.argmax()) + 1
        what = "is 0 everywhere" if metric == "cosine" else "is the same everywhere"
        raise DataError(
            f"The embedding of picture {which} {what}, so it has no {metric} distance: leave the picture out, or use "
            "the Euclidean distance."
        )
    return np.ascontiguousarray(rows)


def _square(matrix: Array, size: int) -> np.ndarray:
    """(N, N) float64, of N images."""
    array = as_array(matrix, "Dissimilarities")
    if array.shape != (size, size):
        raise DataError(
            f"The dissimilarities of {size} pictures are {size} × {size} numbers, not {array.shape}."
        )
    return array


def as_rdm_stack(matrices: Array, size: int) -> np.ndarray:
    """(P, N, N) float64, from one matrix or from P of N images.

    Raises:
        DataError: another shape, or something else than finite numbers.
    """
    array = as_array(matrices, "Dissimilarities")
    stack = array[None] if array.ndim == 2 else array
    if stack.ndim != 3 or not len(stack):
        _square(array, size)
    return np.stack([_square(person, size) for person in stack])


def subset_rdms(rdms: np.ndarray, images: np.ndarray) -> np.ndarray:
    """(P, n, n), the rows and columns of some images, from (P, N, N)."""
    return rdms[:, images][:, :, images]


def mean_unit_ranks(rdms: np.ndarray) -> np.ndarray:
    """The pairs of (P, N, N) as the mean of each person's `unit_ranks`: (N (N - 1) / 2,).

    Its product with a model's unit ranks is the mean of the model's correlations with each person.
    """
    return unit_ranks(np.stack([upper(person) for person in rdms])).mean(0)


def upper(matrix: np.ndarray) -> np.ndarray:
    """(N (N - 1) / 2,), the pairs above the diagonal of (N, N)."""
    return matrix[np.triu_indices(len(matrix), 1)]
