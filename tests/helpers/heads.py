"""What several test modules need: a network small enough to look through, heads, photographs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ais.demo.catalog import Catalog, HeadEntry
from ais.heads import shipped
from ais.heads.config import HeadConfig, Interval, Member, StackConfig, Target
from ais.heads.format import read_config
from ais.heads.regression import RegressionHead
from ais.heads.stack import StackedHead


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


def change_head(
    head: RegressionHead, *, trained_on: list[int] | None = None, **changes: Any
) -> RegressionHead:
    """The same head with another config, and keys of images that it was trained on."""
    tensors = head.state_dict()
    if trained_on is not None:
        changes["trained_on"], tensors["trained_on"] = len(trained_on), torch.tensor(trained_on)
    changed = RegressionHead(replace(head.config, **changes))
    changed.load_state_dict(tensors)
    return changed


def edit(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


WEIGHTS, INTERCEPT = [0.75, 0.5, 0.125], -1.0

CHANNELS = {"one": 12, "two": 20, "three": 8}


def fingerprint_of(folder: Path) -> str:
    return read_config(folder).fingerprint or "of a stack"


def save_stack(folder: Path, members: Sequence[RegressionHead], weights: Sequence[float]) -> Path:
    """A stack's folder with its members beside it; the path of the stack."""
    named = []
    for member in members:
        member.save(folder / member.config.name)
        named.append(Member(member.config.name, fingerprint_of(folder / member.config.name)))
    config = StackConfig(
        name="stack",
        variants=members[0].config.variants,
        target=Target("beauty", 1, 7, "made for a test"),
        interval=Interval(0.8, 0.25, 1.5),
        members=named,
    )
    stack = StackedHead(config, members)
    tensors = {
        "weight": torch.tensor(weights),
        "intercept": torch.tensor(INTERCEPT),
        "rating_quantiles": torch.linspace(-10, 10, 101),
    }
    stack.load_state_dict(tensors, strict=False)
    stack.save(folder / "stack")
    return folder / "stack"


def small_members() -> list[RegressionHead]:
    """Three on grids of three sizes: one of them pruned, one explained where the tail mixes the maps."""
    places = {"one": ("tiny12", "inner", 12, 64), "two": ("tiny20", "inner", 20, 50)}
    places["three"] = ("tiny12", "stem.0", 12, 64)
    heads = []
    for seed, (name, (backbone, layer, dim, size)) in enumerate(places.items()):
        head = make_head(
            backbone, layer, dim=dim, channels=CHANNELS[name], size=size, view="resize", seed=seed
        )
        heads.append(change_head(head, name=name, pruned=[3, 7] if name == "two" else []))
    return heads


METRICS = {"plcc": 0.712, "plcc_low": 0.65, "plcc_high": 0.77}


def save_head(folder: Path, name: str = "small", target: str = "awe", seed: int = 0) -> Path:
    made = make_head("efficientnet_lite0", "conv_head", dim=1280, channels=1280, view="resize", seed=seed)
    config = made.config
    made.config = replace(config, name=name, target=replace(config.target, name=target), metrics=METRICS)
    made.save(folder, "---\nlicense: mit\n---\n# A head\n\n![curve](curve.png)\nMade for a test.\n")
    return folder


def wait(catalogue: Catalog, done: Callable[[list[HeadEntry]], bool]) -> list[HeadEntry]:
    """Those of the Hub, once they are as they should be."""
    for _ in range(1500):
        found = catalogue.entries()[len(shipped.list_heads()) :]
        if done(found):
            return found
        time.sleep(0.02)
    raise AssertionError(found)


def settled(offers: list[HeadEntry]) -> bool:
    return all(offer.head or offer.reason for offer in offers)
