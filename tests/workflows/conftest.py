"""Sets that the tests of the workflows share."""

from __future__ import annotations

import pytest

from ais.data.ratings import RatedSet
from helpers.sets import make_set


@pytest.fixture(scope="module")
def rated(tmp_path_factory: pytest.TempPathFactory) -> RatedSet:
    return make_set(tmp_path_factory.mktemp("rated"))


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> RatedSet:
    """Pictures that no head has learned from."""
    return make_set(tmp_path_factory.mktemp("others"), 24, seed=1)
