from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ais.errors import DataError
from ais.metrics.bootstrap import bootstrap_ci, mean_ci


def test_interval_of_a_mean() -> None:
    low, high = mean_ci([0.1, 0.2, 0.3, 0.4])
    assert 0.1 <= low < 0.25 < high <= 0.4
    assert mean_ci([0.5, 0.5]) == (0.5, 0.5)
    with pytest.raises(DataError, match="at least two groups"):
        mean_ci([0.5])


@pytest.mark.parametrize("resamples", [200, 2000])
def test_it_is_scipys_percentile_bootstrap(resamples: int) -> None:
    values = np.random.default_rng(1).normal(size=(40, 2))
    theirs = stats.bootstrap(
        (np.arange(40),),
        lambda rows: values[rows].mean(0),
        n_resamples=resamples,
        vectorized=False,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    ours = bootstrap_ci(lambda rows: values[rows].mean(0), np.arange(40), resamples=resamples)
    np.testing.assert_allclose(ours, (theirs.low, theirs.high), rtol=0, atol=1e-15)


def test_a_group_is_drawn_whole() -> None:
    groups = np.array([0, 1, 0, 1, 1])
    sizes: set[int] = set()

    def measure(rows: np.ndarray) -> list[float]:
        counts = np.bincount(rows, minlength=5)
        assert counts[0] == counts[2]
        assert counts[1] == counts[3] == counts[4]
        sizes.add(len(rows))
        return [0.0]

    bootstrap_ci(measure, groups, resamples=100)
    assert sizes == {4, 5, 6}  # of two draws: both the smaller, one of each, both the larger
