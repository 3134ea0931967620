from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ais.metrics.correlation import pearson, spearman, unit_ranks


@pytest.mark.parametrize("levels", [10**6, 3])  # without ties, and with many
def test_spearman_is_scipys(levels: int) -> None:
    a, b = np.random.default_rng(0).integers(0, levels, (2, 30)).astype(float)
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)
    assert unit_ranks(np.array([a, b])) @ unit_ranks(b) == pytest.approx([spearman(a, b), 1], abs=1e-12)


@pytest.mark.parametrize("correlation", [pearson, spearman])
def test_a_side_that_does_not_vary_has_no_correlation(correlation: type[object]) -> None:
    assert correlation(np.arange(30.0), np.ones(30)) == 0
    assert correlation(np.arange(30.0), np.arange(30.0)) <= 1
