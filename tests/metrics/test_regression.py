from __future__ import annotations

import json

import numpy as np
import pytest

from ais.errors import DataError
from ais.metrics.bootstrap import with_ci
from ais.metrics.regression import MEASURES, by_category, ceiling, coverage, difference, metrics, worst
from ais.training.calibration import calibrate


def pair(n: int = 200, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    rated = rng.normal(4, 1, n)
    return rated + rng.normal(0, noise, n), rated


def textbook(predicted: np.ndarray, rated: np.ndarray) -> list[float]:
    """The five measures by their definitions; equal values share their mean rank."""
    rank = [[(v < x).sum() + (v == x).sum() / 2 for x in v] for v in (predicted, rated)]
    i, j = np.triu_indices(len(rated), 1)
    one, two = np.sign(predicted[i] - predicted[j]), np.sign(rated[i] - rated[j])
    return [
        np.corrcoef(predicted, rated)[0, 1],
        np.corrcoef(*rank)[0, 1],
        (one * two).sum() / np.sqrt((one**2).sum() * (two**2).sum()),
        np.linalg.norm(predicted - rated) / len(rated) ** 0.5,
        abs(predicted - rated).mean(),
    ]


def limits(found: dict[str, float], end: str) -> np.ndarray:
    return np.array([found[f"{name}_{end}"] for name in MEASURES])


@pytest.mark.parametrize("digits", [9, 0])  # without ties, and with many
def test_measures_are_those_of_the_textbook(digits: int) -> None:
    predicted, rated = (v.round(digits) for v in pair())
    found = metrics(predicted, rated)
    assert [found[name] for name in MEASURES] == pytest.approx(textbook(predicted, rated))
    assert json.loads(json.dumps(found)) == found
    assert set(found) == {name + end for name in MEASURES for end in ("", "_low", "_high")}


def test_a_constant_predictor_has_no_correlation() -> None:
    found = metrics(np.full(10, 3.3), np.arange(10.0))
    assert [found[name + end] for name in ("plcc", "srcc", "krcc") for end in ("", "_low", "_high")] == [
        0
    ] * 9
    assert json.dumps(found, allow_nan=False)
    assert found["rmse_low"] < found["rmse"] < found["rmse_high"]


def test_bootstrap_by_group_is_the_loop_over_groups() -> None:
    predicted, rated = pair(60)
    rng = np.random.default_rng(1)
    sizes = [1, 2, 3, 4, 5, 5, 4, 3, 2, 1] * 2
    names = np.repeat([f"theme {i}" for i in range(20)], sizes)
    order = rng.permutation(60)  # a group's pictures do not lie side by side
    groups = names[order]
    naive = []
    for _ in range(2000):
        drawn = [i for g in rng.integers(0, 20, 20) for i in range(60) if groups[i] == f"theme {g}"]
        naive.append(textbook(predicted[drawn], rated[drawn]))
    low, high = np.quantile(naive, [0.025, 0.975], axis=0)
    found = metrics(predicted, rated, list(groups))
    # Two bootstraps differ by chance, by some hundredths of the interval's width.
    assert (np.abs(limits(found, "low") - low) < 0.15 * (high - low)).all()
    assert (np.abs(limits(found, "high") - high) < 0.15 * (high - low)).all()


def test_dependent_pictures_widen_every_interval() -> None:
    predicted, rated = (np.repeat(v, 5) for v in pair(40))
    groups = [str(i // 5) for i in range(200)]
    alone, together = metrics(predicted, rated), metrics(predicted, rated, groups)
    for name in MEASURES:
        width = together[f"{name}_high"] - together[f"{name}_low"]
        assert width > 1.5 * (alone[f"{name}_high"] - alone[f"{name}_low"])
        assert together[name] == alone[name]


def test_bootstrap_is_deterministic_and_shifts_do_not_matter() -> None:
    predicted, rated = pair()
    found = metrics(predicted, rated)
    assert metrics(predicted, rated) == found
    moved = metrics(predicted + 1e6, rated * 10)
    for name in ("plcc", "srcc", "krcc"):
        for end in ("", "_low", "_high"):
            assert moved[name + end] == pytest.approx(found[name + end], abs=1e-6)


def test_one_group_has_no_interval() -> None:
    predicted, rated = pair(5)
    with pytest.raises(DataError, match="two groups"):
        metrics(predicted, rated, ["cats"] * 5)
    with pytest.raises(DataError, match="two groups"):
        metrics(predicted[:1], rated[:1])


def test_interval_of_a_mean_is_two_standard_errors_wide() -> None:
    values = np.random.default_rng(0).normal(3, 2, 400)
    found = with_ci(["mean"], lambda rows: [values[rows].mean()], np.arange(400))
    assert found["mean"] == values.mean()
    assert found["mean_low"] == pytest.approx(3 - 1.96 * 0.1, abs=0.15)
    assert found["mean_high"] - found["mean_low"] == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


def test_difference_is_paired() -> None:
    a, rated = pair(300, noise=1.0)
    b = a + 0.1 * (rated - a)  # a tenth nearer, everywhere
    groups = [str(i // 3) for i in range(300)]
    found, before, after = difference(a, b, rated, groups), metrics(a, rated), metrics(b, rated)
    for name in ("plcc", "rmse"):
        assert found[name] == pytest.approx(after[name] - before[name])
    assert found["plcc_low"] > 0
    assert found["rmse_high"] < 0
    # Alone, the two intervals overlap: without the pairing nobody could tell.
    assert before["rmse_low"] < after["rmse_high"]
    assert difference(a, a, rated, groups) == dict.fromkeys(found, 0.0)
    opposite = difference(b, a, rated, groups)
    assert opposite["rmse_low"] == pytest.approx(-found["rmse_high"])


def test_nobody_beats_the_ceiling_that_the_raters_set() -> None:
    """The truth itself, against the means of some raters, correlates as the ceiling says."""
    rng = np.random.default_rng(0)
    truth = rng.normal(4, 1, 5000)
    n = rng.integers(2, 9, 5000)
    raters = np.where(np.arange(8) < n[:, None], rng.normal(truth[:, None], 2, (5000, 8)), np.nan)
    ratings, sd = np.nanmean(raters, axis=1), np.nanstd(raters, axis=1, ddof=1)
    assert ceiling(ratings, sd, n) == pytest.approx(np.corrcoef(truth, ratings)[0, 1], abs=0.02)
    assert ceiling(ratings, np.zeros(5000), n) == 1
    assert ceiling(np.full(3, 4.0), np.ones(3), np.full(3, 10)) == 0
    assert ceiling(np.array([1.0, 2.0]), np.array([3.0, 3.0]), np.array([2, 2])) == 0


def test_categories_the_worst_first() -> None:
    rated = np.array([1.0, 2, 3, 4, 5, 6, 7])
    predicted = np.array([1.5, 2.5, 3.5, 2.0, 7.0, 6.0, 7.0])
    found = by_category(predicted, rated, ["scene", "scene", "scene", "pet", "pet", "face", "face"])
    assert [row["name"] for row in found] == ["pet", "scene", "face"]
    pet, scene, face = found
    assert pet == {"name": "pet", "pictures": 2, "plcc": None, "rmse": 2, "mae": 2, "bias": 0}
    assert scene["plcc"] == pytest.approx(1)
    assert (scene["pictures"], scene["bias"]) == (3, 0.5)
    assert face["rmse"] == 0
    assert json.loads(json.dumps(found)) == found


def test_worst_are_the_largest_errors_either_way() -> None:
    rated = np.zeros(5)
    predicted = np.array([0.1, -3.0, 2.0, 0.0, 2.0])
    assert worst(predicted, rated, 3).tolist() == [1, 2, 4]
    assert worst(predicted, rated).tolist() == [1, 2, 4, 0, 3]


def test_interval_holds_what_it_says() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(4, 1, 2000)
    scores = truth[:, None] + rng.normal(0, 0.5, (2000, 1)) + rng.normal(0, 0.1, (2000, 5))
    interval = calibrate(scores[:1000], truth[:1000])
    half = interval.factor * np.sqrt(interval.error**2 + scores[1000:].var(1))
    assert 0.87 < coverage(scores[1000:].mean(1), half, truth[1000:]) < 0.93
    assert interval.level == 0.9


def test_coverage_counts_the_ends() -> None:
    scores, half = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.5, 0.5, 0.0, 0.1])
    assert coverage(scores, half, np.array([1.5, 2.6, 3.0, 3.0])) == 0.5
