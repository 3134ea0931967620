"""What several test modules need: a network small enough to look through, heads, photographs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor, nn

from ais.attribution.forward import ForwardPass
from ais.backbones.frozen import Features, FrozenBackbone
from ais.backbones.registry import BACKBONES, BackboneSpec
from ais.heads.regression import RegressionHead
from ais.images.preprocessing import Placement, Preprocessing, ViewName
from helpers.heads import change_head


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


def forward_pass(backbone: FrozenBackbone, head: RegressionHead, picture: Tensor) -> ForwardPass:
    """Of a network's input, (1, 3, H, W)."""
    height, width = picture.shape[-2:]
    placement = Placement(width, height, (0.0, 0.0, float(width), float(height)), (height, width))
    features = backbone(picture, head.keep)
    return ForwardPass(head, backbone, picture, placement, features, head.hidden(features.embedding))


MEAN = STD = (0.5, 0.5, 0.5)

PREPROCESSING = Preprocessing("resize", 32, 36, "bilinear", MEAN, STD)


class Counting(FrozenBackbone):
    """A small backbone that counts the pictures it is given, and can die on one."""

    seen = 0
    dies_after: int | None = None

    def forward(self, images: Tensor | Image.Image) -> Features:
        if self.dies_after is not None and self.seen >= self.dies_after:
            raise KeyboardInterrupt
        self.seen += 1 if isinstance(images, Image.Image) else len(images)
        return super().forward(images)


def make_backbone(layer: str = "inner", view: ViewName = "resize") -> Counting:
    torch.manual_seed(0)
    feeds = range(12) if layer == "inner" else None
    seen = replace(PREPROCESSING, view=view)
    return Counting(randomise(TinyNetwork()), "tiny", layer, seen, feeds)


def tiny_network(channels: int = 12, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return randomise(TinyNetwork(channels), seed).eval()


def add_backbone(
    patch: pytest.MonkeyPatch, cache: Path, name: str, channels: int = 12, size: int = 64, seed: int = 0
) -> None:
    """A small network among the registry's, whose weights lie in torch's cache."""
    patch.setenv("TORCH_HOME", str(cache))
    (cache / "hub/checkpoints").mkdir(parents=True, exist_ok=True)
    torch.save(tiny_network(channels, seed).state_dict(), cache / f"hub/checkpoints/{name}.pth")
    spec = BackboneSpec(
        build=partial(TinyNetwork, channels),
        source=f"https://example.org/{name}.pth",
        size=size,
        resize_to=size,
        target_layers={"inner": range(channels), "stem.0": None},
        classifier="classifier",
    )
    patch.setitem(BACKBONES, name, spec)


def naive_score(
    head: RegressionHead, network: nn.Module, picture: Image.Image, silent: Sequence[int] = ()
) -> Tensor:
    """The variants' scores, (K,), from the whole network with these maps and the pruned ones set to 0."""
    silent = [*silent, *head.config.pruned]

    def silence(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        output[:, silent] = 0
        return output

    preprocessing = BACKBONES[head.config.backbone].preprocessing(head.config.view, head.config.size)
    handle = network.get_submodule(head.config.layer).register_forward_hook(silence)
    with torch.no_grad():
        scores = head(network(preprocessing(picture)[None]))[0]
    handle.remove()
    return scores


def save_tuned(head: RegressionHead, network: nn.Module | bytes, folder: Path) -> Path:
    """A head's folder with a backbone of its own."""
    data = network if isinstance(network, bytes) else save(network.state_dict())
    tuned = change_head(head, tuned_sha256=hashlib.sha256(data).hexdigest())
    tuned.save(folder, extra={"backbone.safetensors": data})
    return folder
