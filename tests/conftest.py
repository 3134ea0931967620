"""What several test modules need: a network small enough to look through, heads, photographs."""

from __future__ import annotations

from helpers.local_hub import LocalHub  # first: it sets the environment that the client of the Hub reads

# isort: split

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ais.backbones.frozen import FrozenBackbone
from ais.heads.regression import RegressionHead
from helpers.heads import make_head
from helpers.networks import PREPROCESSING, TinyNetwork, randomise
from helpers.sets import aigciqa2023

torch.set_num_threads(1)  # two threads that wait for each other on a busy machine are slower than one


@pytest.fixture
def tiny() -> FrozenBackbone:
    """A small backbone whose tail treats every map on its own."""
    torch.manual_seed(0)
    return FrozenBackbone(randomise(TinyNetwork()).double(), "tiny", "inner", PREPROCESSING, range(12))


@pytest.fixture
def tiny_general() -> FrozenBackbone:
    """The same network, explained at an earlier layer whose maps the tail mixes."""
    torch.manual_seed(0)
    return FrozenBackbone(randomise(TinyNetwork()).double(), "tiny", "stem.0", PREPROCESSING)


@pytest.fixture
def tiny_head() -> RegressionHead:
    return make_head().double()


@pytest.fixture(scope="session")
def photograph() -> Image.Image:
    """A cat, 451 x 300, that comes with scikit-image."""
    from skimage import data

    return Image.fromarray(data.chelsea())


@pytest.fixture(scope="session")
def hub_server() -> Iterator[LocalHub]:
    server = LocalHub()
    yield server
    server.refuse()


@pytest.fixture
def hub(hub_server: LocalHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LocalHub]:
    """A Hub on this machine, empty, for the real client; nothing is cached and nobody is logged in."""
    with hub_server.lent(monkeypatch, tmp_path / "huggingface") as lent:
        yield lent


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    folder = tmp_path_factory.mktemp("aigciqa2023")
    return folder, aigciqa2023(folder)
