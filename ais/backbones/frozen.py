"""The registry of backbones, and `FrozenBackbone`: a pretrained network that never changes.

To add a backbone, add a line to `BACKBONES`. To explain another layer of one, name it: any layer whose
output is a stack of feature maps works, with the exact but slower general form of `ais.attribution.importance`.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ais.backbones.graph import fuse, split
from ais.backbones.registry import backbone_spec
from ais.errors import AISError
from ais.images.preprocessing import View, ViewName
from ais.torch_state import own_precision, own_state


class Features(NamedTuple):
    """What one forward pass gives for a batch of N pictures.

    Attributes:
        maps: the target layer's output, (N, C, h, w).
        embedding: the globally pooled vector, (N, D).
        delta: by how much ablating map c alone changes the one coordinate of the embedding that it
            feeds, (N, C); None where the tail mixes the maps, so that no such coordinate exists.
        live: what the tail needs beside the maps, such as the residual; each (N, ...).
    """

    maps: Tensor
    embedding: Tensor
    delta: Tensor | None
    live: tuple[Tensor, ...]


class FrozenBackbone(nn.Module):
    """A pretrained network cut at its target layer: picture -> feature maps -> embedding.

    Frozen means that no parameter takes a gradient **and** that BatchNorm's statistics stay as they are:
    the network is in eval mode for good, whatever ``.train()`` is called on it or around it.

    Args:
        network: gives the embedding (N, D) for a batch (N, 3, H, W) of any size; becomes part of this one. For
            float64, give it in float64: the trunk's folded weights are made in its type.
        layer: the target layer, as in ``network.named_modules()``.
        owner: the coordinates of the embedding that the maps feed, in a row, where the tail is channelwise.
    """

    @own_state()
    def __init__(self, network: nn.Module, name: str, layer: str, owner: range | None = None) -> None:
        super().__init__()
        self.name = name
        self.layer = layer
        self.network = network.eval()
        self.trunk, self.tail = split(network, layer)
        fuse(self.trunk)
        self.owner = owner
        self.eval().requires_grad_(False)
        self.to(memory_format=torch.channels_last)  # the faster layout for convolutions

    @own_precision()
    def forward(self, pictures: Tensor, keep: Tensor | None = None) -> Features:
        """One forward pass, and two runs of the tail: with the maps, and with all of them silent.

        Args:
            pictures: (N, 3, H, W), as `View.tensor` makes them; moved to the network's device and type.
            keep: (C,) bool; the maps where it is False are ablated from the start, as a pruned head wants it.

        Raises:
            AISError: the target layer gives no feature maps, or not as many as `keep` speaks of.
        """
        parameter = next(self.network.parameters())
        pictures = pictures.to(parameter.device, parameter.dtype, memory_format=torch.channels_last)
        with torch.no_grad():
            maps, *live = self.trunk(pictures)
            if maps.ndim != 4:
                raise AISError(
                    f"The layer {self.layer!r} of {self.name} gives {maps.ndim}-dimensional values, not "
                    "feature maps (N, C, h, w): choose a convolutional layer."
                )
            if keep is not None and len(keep) != maps.shape[1]:
                raise AISError(
                    f"The layer {self.layer!r} of {self.name} gives {maps.shape[1]} feature maps, not {len(keep)}."
                )
            if keep is not None and not keep.all():
                maps = torch.where(keep[:, None, None], maps, 0)
            embedding = self.tail(maps, *live)
            delta = None
            if self.owner is not None:
                # Each map feeds a coordinate of its own, so silencing all of them in one run gives
                # every single ablation at once.
                delta = (self.tail(torch.zeros_like(maps), *live) - embedding)[
                    :, self.owner.start : self.owner.stop
                ]
        return Features(maps, embedding, delta, tuple(live))

    def train(self, mode: bool = True) -> FrozenBackbone:
        """Stays in eval mode: a frozen network's BatchNorm must not drift."""
        return super().train(False)

    def view(self, name: ViewName = "crop") -> View:
        """How a picture becomes this network's input."""
        return backbone_spec(self.name).view(name)

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @cached_property
    def weights_hash(self) -> str:
        """The first 16 hex digits of the SHA-256 of all parameters and buffers, in the network's order."""
        digest = hashlib.sha256()
        for name, value in self.network.state_dict().items():
            digest.update(name.encode())
            digest.update(value.contiguous().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]
