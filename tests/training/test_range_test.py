"""What is read off the curves of a learning-rate range test, on problems whose good rates are known."""

from __future__ import annotations

import numpy as np
import pytest

from ais.training.range_test import read_curves

RATES = np.geomspace(1e-6, 1.0, 50)


def descend(curvature: float, seed: int, noise: float = 0.05) -> np.ndarray:
    """Gradient descent on a quadratic bowl while the rate rises: its steps shrink the error up to 2 / curvature, and
    make it larger beyond. NaN after the loss has grown to four times what it was."""
    rng = np.random.default_rng(seed)
    curvatures = curvature * np.geomspace(0.1, 1, 8)
    place = rng.normal(size=8)
    place /= np.sqrt((curvatures * place**2).sum())  # the loss begins at 1
    losses = np.full(len(RATES), np.nan)
    for i, rate in enumerate(RATES):
        loss = (curvatures * place**2).sum() + 0.1 + rng.normal(0, noise)
        if loss > 4:
            break
        losses[i] = loss
        place = place - rate * (curvatures * place + rng.normal(0, 0.01, 8) * curvature**0.5)
    return losses


@pytest.mark.parametrize("curvature", [30, 1e3, 1e4])
@pytest.mark.parametrize("first", range(0, 30, 3))
def test_a_bowl_of_known_curvature(curvature: float, first: int) -> None:
    """The best rate is about 1 / curvature; a tenth of it to what is just stable are good."""
    found = read_curves(RATES, np.stack([descend(curvature, first + i) for i in range(3)]))
    assert found.reason == ""
    assert found.suggested is not None
    assert 0.03 / curvature < found.suggested < 2 / curvature
    assert found.rates.shape == found.losses.shape == found.curves.shape[1:]


def test_seeds_agree() -> None:
    found = [
        read_curves(RATES, np.stack([descend(1e3, first + i) for i in range(3)])).suggested
        for first in range(0, 60, 3)
    ]
    assert max(found) / min(found) < 4  # type: ignore[operator, type-var]


def noisy(losses: np.ndarray, seed: int, noise: float = 0.15) -> np.ndarray:
    return losses * (1 + np.random.default_rng(seed).normal(0, noise, (3, len(losses))))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("level", [0.001, 0.14, 1.0])
def test_where_the_loss_hardly_changes_nothing_is_suggested(seed: int, level: float) -> None:
    """As where the head has overfitted: noise alone has a minimum somewhere, which means nothing."""
    found = read_curves(RATES, noisy(np.full(50, level), seed))
    assert (found.suggested, found.reason) == (
        None,
        "the loss hardly changes between 1.0e-06 and 1.0e+00",
    )
    grows = noisy(level * (1 + (RATES / 1e-3) ** 2), seed)
    grows[grows > 4 * level] = np.nan
    found = read_curves(RATES, grows)
    assert found.suggested is None
    assert found.reason.startswith("the loss hardly changes between 1.0e-06 and ")
    assert found.reason.endswith(", and grows at higher rates")
    assert 1e-4 < float(found.reason.split(" and ")[1].rstrip(",")) < 1e-3


@pytest.mark.parametrize("seed", range(5))
def test_a_minimum_at_an_edge_is_said_and_not_advised(seed: int) -> None:
    falls = noisy(1 / (1 + RATES / 0.05), seed, 0.05)
    found = read_curves(RATES, falls)
    assert (found.suggested, found.reason) == (
        None,
        "the loss still falls at 1.0e+00, the highest rate tried",
    )
    grows = noisy(1 + RATES / 1e-6, seed, 0.05)
    grows[:, 10:] = np.nan
    found = read_curves(RATES, grows)
    assert (found.suggested, found.reason) == (
        None,
        "the loss grows from the lowest rate tried, 1.0e-06, on",
    )
    early = noisy(np.where(RATES < 2e-6, 1, np.where(RATES < 8e-6, 0.5, 2)), seed, 0.02)
    found = read_curves(RATES, early)
    assert (found.suggested, found.reason) == (None, "the loss is least near 1.0e-06, the lowest rate tried")


def test_trials_that_end_at_different_rates_and_one_that_ends_at_once() -> None:
    curves = np.stack([descend(1e3, i) for i in range(3)])
    curves[0, 1:] = np.nan
    found = read_curves(RATES, curves)
    assert found.suggested is not None
    assert 3e-5 < found.suggested < 2e-3
    curves[:, 1:] = np.nan
    assert read_curves(RATES, curves).suggested is None
