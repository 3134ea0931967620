"""Advice: the read-out against a plain nested cross-validation, and the table of sizes and similarities."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch import Tensor

from ais.data.splits import grouped_folds
from ais.errors import DataError
from ais.training.strategies import STRATEGIES
from ais.workflows.advise import _PENALTIES, Advice, advise, ridge_out_of_fold


def problem(n: int = 200, dim: int = 30, noise: float = 0.3) -> tuple[Tensor, np.ndarray, list[str]]:
    """Ratings that are linear in the embedding, but for some noise."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, dim)) * np.linspace(3, 0.1, dim) + 5
    signal = (x - 5) @ rng.normal(size=dim)
    y = 4 + signal / signal.std() + noise * rng.normal(size=n)
    return torch.from_numpy(x), y, [f"group {i // 4}" for i in range(n)]


def ridge(x: np.ndarray, y: np.ndarray, wanted: np.ndarray, penalty: float) -> np.ndarray:
    """The penalised normal equations of centred data, in the most obvious way."""
    centred = x - x.mean(0)
    weights = np.linalg.solve(centred.T @ centred + penalty * np.eye(x.shape[1]), centred.T @ (y - y.mean()))
    return (wanted - x.mean(0)) @ weights + y.mean()


@pytest.mark.parametrize("dim", [30, 150])
def test_read_out_equals_plain_nested_cross_validation(dim: int) -> None:
    """More coordinates than pictures or fewer; the penalty's unit is the mean eigenvalue's, as in the code."""
    x, y, groups = problem(100, dim)
    folds = grouped_folds(groups, 5, 3)
    z = x.numpy() - x.numpy().mean(0)
    rank = min(len(z) - 1, dim)
    z = z / np.sqrt((z**2).sum() / (len(z) * rank))  # the scale of principal components of mean square 1
    expected = np.empty(len(y))
    for fold in range(5):
        errors = np.zeros(len(_PENALTIES))
        for inner in set(range(5)) - {fold}:
            kept = (folds != fold) & (folds != inner)
            unit = (z[kept] ** 2).sum() / rank
            for i, penalty in enumerate(_PENALTIES):
                found = ridge(z[kept], y[kept], z[folds == inner], penalty * unit)
                errors[i] += ((found - y[folds == inner]) ** 2).sum()
        kept = folds != fold
        unit = (z[kept] ** 2).sum() / rank
        expected[~kept] = ridge(z[kept], y[kept], z[~kept], _PENALTIES[errors.argmin()] * unit)
    np.testing.assert_allclose(ridge_out_of_fold(x, y, groups, 3), expected, rtol=1e-4, atol=1e-4)


def test_a_pictures_own_group_says_nothing_of_it() -> None:
    """Pictures of a group look alike and are rated alike, by chance: whoever mixes groups would remember."""
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=(60, 100)), 4, axis=0) + 0.01 * rng.normal(size=(240, 100))
    y = np.repeat(rng.normal(size=60), 4)
    x = torch.from_numpy(x)
    assert advise(x, y, [str(i // 4) for i in range(240)], None).similarity < 0.3
    assert advise(x, y, None, None).similarity > 0.8


@pytest.mark.parametrize(
    ("n", "size", "strategies"),
    [
        (999, "very small", ("head", "head", "head")),
        (1_000, "small", ("head", "last-k", "last-k")),
        (10_000, "medium", ("head-then-all", "head-then-all", "layerwise")),
        (100_000, "large", ("head-then-all", "layerwise", "scratch")),
    ],
)
def test_size_and_similarity_choose(n: int, size: str, strategies: tuple[str, str, str]) -> None:
    # The noise that leaves a correlation r is sqrt(1 / r**2 - 1).
    for correlation, strategy in zip((0.9, 0.5, 0.1), strategies, strict=True):
        x, y, _ = problem(n, 5, noise=(correlation**-2 - 1) ** 0.5)
        advice = advise(x, y, None, None)
        assert (advice.size, advice.pictures, advice.strategy) == (size, n, strategy)
        assert advice.similarity == pytest.approx(correlation, abs=0.08)
        assert f"{n:,} pictures" in advice.reasons[0]
        assert advice.strategy in STRATEGIES
        warned = size in ("very small", "small") and correlation < 0.7
        assert advice.reasons[-1].startswith("Warning") == warned


def test_similarity_is_a_share_of_the_ceiling() -> None:
    x, y, groups = problem(noise=1.0)
    free, bound = advise(x, y, groups, None), advise(x, y, groups, 0.8)
    assert free.plcc == bound.plcc == free.similarity
    assert bound.similarity == pytest.approx(free.plcc / 0.8)
    assert advise(x, y, groups, 0.1).similarity == 1
    assert (free.ceiling, bound.ceiling) == (1, 0.8)


def test_the_same_again_and_as_plain_values() -> None:
    x, y, groups = problem(40)
    state = torch.get_rng_state()
    advice = advise(x.float(), y, groups, None)
    assert Advice(**asdict(advice)) == advice == advise(x.float(), y, groups, None)
    assert torch.equal(torch.get_rng_state(), state)


def test_what_cannot_be_judged_is_refused() -> None:
    x, y, groups = problem(40)
    with pytest.raises(DataError, match="19 pictures in 5 groups are too few"):
        advise(x[:19], y[:19], groups[:19], None)
    with pytest.raises(DataError, match="in 3 groups are too few"):
        advise(x, y, [str(i % 3) for i in range(40)], None)
    with pytest.raises(DataError, match="All ratings are 4"):
        advise(x, np.full(40, 4.0), groups, None)
    with pytest.raises(DataError, match=r"A ceiling of 1\.2"):
        advise(x, y, groups, 1.2)
