"""What several test modules need: a network small enough to look through, heads, photographs."""

from __future__ import annotations

from local_hub import LocalHub  # first: it sets the environment that the client of the Hub reads

# isort: split

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from ais.backbones.frozen import FrozenBackbone
from ais.heads.config import HeadConfig, Interval, Target
from ais.heads.regression import RegressionHead

torch.set_num_threads(1)  # two threads that wait for each other on a busy machine are slower than one

OASIS = Path(__file__).parents[2] / "shared" / "data" / "oasis"


class TinyNetwork(nn.Module):
    """Convolutions, BatchNorm, a residual, pooling: all that a tail may hold, in a few kilobytes."""

    def __init__(self, channels: int = 12) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.inner = nn.Conv2d(8, channels, 3, 2, 1)
        self.skip = nn.Conv2d(8, channels, 1, 2)
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.inner(x))
        y += self.skip(x)
        return torch.flatten(self.pool(self.relu(y)), 1)


def randomise(network: nn.Module, seed: int = 0) -> nn.Module:
    """BatchNorm as after training: statistics and weights that are not 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value, low, high in (
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.5, 0.5),
            ):
                value.copy_(torch.rand(value.shape, generator=generator) * (high - low) + low)
    return network


def make_head(
    backbone: str = "tiny",
    layer: str = "inner",
    *,
    dim: int = 12,
    channels: int = 12,
    hidden: int = 16,
    variants: int = 3,
    view: str = "crop",
    size: int = 224,
    seed: int = 0,
) -> RegressionHead:
    """A head with random weights whose hidden units are on, off and near the edge."""
    config = HeadConfig(
        name="test-head",
        backbone=backbone,
        layer=layer,
        view=view,  # type: ignore[arg-type]
        size=size,
        dim=dim,
        channels=channels,
        hidden=hidden,
        variants=variants,
        target=Target("beauty", 1, 7, "made for a test"),
        interval=Interval(0.9, 0.5, 1.6),
    )
    generator = torch.Generator().manual_seed(seed)
    head = RegressionHead(config)
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in config.shapes().items()}
    tensors["weight1"] /= dim**0.5
    tensors["weight2"] /= hidden**0.5
    tensors["rating_mean"], tensors["rating_std"] = torch.tensor(4.0), torch.tensor(1.5)
    tensors["rating_quantiles"] = torch.linspace(1.5, 6.5, 101)
    head.load_state_dict(tensors)
    return head


@pytest.fixture
def tiny() -> FrozenBackbone:
    """A small backbone whose tail treats every map on its own."""
    torch.manual_seed(0)
    return FrozenBackbone(randomise(TinyNetwork()).double(), "tiny", "inner", range(12))


@pytest.fixture
def tiny_general() -> FrozenBackbone:
    """The same network, explained at an earlier layer whose maps the tail mixes."""
    torch.manual_seed(0)
    return FrozenBackbone(randomise(TinyNetwork()).double(), "tiny", "stem.0")


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
