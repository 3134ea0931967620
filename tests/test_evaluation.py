from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from ais.evaluation import calibrate, metrics, plcc_interval


def pair(n: int = 200, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    rated = rng.normal(4, 1, n)
    return rated + rng.normal(0, noise, n), rated


def test_measures_are_those_of_the_textbook() -> None:
    predicted, rated = pair()
    found = metrics(predicted, rated)
    rank = [np.argsort(np.argsort(v)) for v in (predicted, rated)]
    assert found["plcc"] == pytest.approx(np.corrcoef(predicted, rated)[0, 1])
    assert found["srcc"] == pytest.approx(np.corrcoef(*rank)[0, 1])
    i, j = np.triu_indices(len(rated), 1)
    signs = np.sign(predicted[i] - predicted[j]) * np.sign(rated[i] - rated[j])
    assert found["krcc"] == pytest.approx(signs.mean())
    assert found["rmse"] == pytest.approx(np.linalg.norm(predicted - rated) / len(rated) ** 0.5)
    assert found["mae"] == pytest.approx(abs(predicted - rated).mean())
    assert json.loads(json.dumps(found)) == found


def test_a_constant_predictor_has_no_correlation() -> None:
    found = metrics(np.full(10, 3.3), np.arange(10.0))
    assert [found[key] for key in ("plcc", "srcc", "krcc", "plcc_low", "plcc_high")] == [0] * 5
    assert json.dumps(found, allow_nan=False)


def test_bootstrap_equals_scipys_where_every_picture_is_its_own_group() -> None:
    predicted, rated = pair()
    theirs = stats.bootstrap(
        (predicted, rated),
        lambda a, b: stats.pearsonr(a, b).statistic,
        paired=True,
        vectorized=False,
        method="percentile",
        n_resamples=2000,
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert plcc_interval(predicted, rated) == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_bootstrap_by_group_is_the_loop_over_groups() -> None:
    predicted, rated = pair(60)
    groups = [f"theme {i // 4}" for i in range(60)]
    rng = np.random.default_rng(1)
    members = np.arange(60).reshape(15, 4)
    drawn = [members[rng.integers(0, 15, 15)].ravel() for _ in range(2000)]
    naive = np.quantile([np.corrcoef(predicted[d], rated[d])[0, 1] for d in drawn], [0.025, 0.975])
    assert plcc_interval(predicted, rated, groups) == pytest.approx(tuple(naive), abs=0.015)


def test_dependent_pictures_widen_the_interval() -> None:
    predicted, rated = (np.repeat(v, 5) for v in pair(40))
    groups = [str(i // 5) for i in range(200)]
    alone, together = plcc_interval(predicted, rated), plcc_interval(predicted, rated, groups)
    assert together[1] - together[0] > 1.5 * (alone[1] - alone[0])


def test_bootstrap_is_deterministic_and_shifts_do_not_matter() -> None:
    predicted, rated = pair()
    assert plcc_interval(predicted, rated) == plcc_interval(predicted, rated)
    assert plcc_interval(predicted + 1e6, rated * 10) == pytest.approx(
        plcc_interval(predicted, rated), abs=1e-6
    )


def test_interval_holds_what_it_says() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(4, 1, 2000)
    scores = truth[:, None] + rng.normal(0, 0.5, (2000, 1)) + rng.normal(0, 0.1, (2000, 5))
    interval = calibrate(scores[:1000], truth[:1000])
    half = interval.factor * np.sqrt(interval.error**2 + scores[1000:].var(1))
    inside = np.abs(scores[1000:].mean(1) - truth[1000:]) <= half
    assert 0.87 < inside.mean() < 0.93
    assert interval.level == 0.9
