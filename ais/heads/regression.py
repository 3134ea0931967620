"""The trained part: K two-layer MLPs on the same embedding, kept as stacked weights; and stacks of such heads.

A head's folder on disk is read by `ais.heads.format`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ais.heads.base import Head
from ais.heads.config import BACKBONE, HeadConfig
from ais.torch_state import own_precision, own_state

REACH_BLOCK = 16  # coordinates that `RegressionHead.reach` takes together: one cache line of float32


class RegressionHead(Head):
    """``Linear(D, H) -> ReLU -> Linear(H, 1)``, K variants of it evaluated together.

    The variants share the backbone's one pass; their mean is the score, their spread a part of its
    interval. The MLPs work on standardised ratings; `rating_mean` and `rating_std` bring them back.

    Tensors, beside those of `Head`: weight1 (K, H, D), bias1 (K, H), weight2 (K, H), bias2 (K,), rating_mean (),
    rating_std (), alignment (C,) (the mean residual importance over held-out pictures, points; all 0 where it was
    not measured). `keep` (C,) is False for the maps that were pruned.
    """

    config: HeadConfig
    weight1: Tensor
    bias1: Tensor
    weight2: Tensor
    bias2: Tensor
    alignment: Tensor
    rating_mean: Tensor
    rating_std: Tensor
    keep: Tensor

    @own_state()
    def __init__(self, config: HeadConfig) -> None:
        super().__init__(config)
        keep = torch.ones(config.channels, dtype=torch.bool)
        keep[config.pruned] = False
        self.register_buffer("keep", keep, persistent=False)
        self._reach: tuple[tuple[int, int], Tensor] | None = None

    def _twin(self) -> RegressionHead:
        return RegressionHead(self.config)

    @own_precision()
    def hidden(self, embedding: Tensor) -> Tensor:
        """First linear layer, before its ReLU: (N, D) -> (N, K, H)."""
        return torch.einsum("nd,khd->nkh", embedding, self.weight1) + self.bias1

    @own_precision()
    def readout(self, hidden: Tensor) -> Tensor:
        """Scores of the variants from the first layer's output: (..., K, H) -> (..., K), in points."""
        return self.rating_mean + self.rating_std * ((hidden.relu() * self.weight2).sum(-1) + self.bias2)

    @property
    def reach(self) -> Tensor:
        """The largest absolute first-layer weight of every hidden unit in every block of `REACH_BLOCK`
        neighbouring coordinates, (K·H, ceil(D / REACH_BLOCK)); kept until weight1 changes."""
        state = (self.weight1.data_ptr(), self.weight1._version)
        if self._reach is None or self._reach[0] != state:
            blocks = self.weight1.abs().flatten(0, 1).split(REACH_BLOCK, dim=1)
            self._reach = (state, torch.stack([block.amax(1) for block in blocks], dim=1))
        return self._reach[1]

    def _carried(self) -> dict[str, bytes]:
        if not self.config.tuned_sha256 or self.folder is None:
            return {}
        return {BACKBONE: (self.folder / BACKBONE).read_bytes()}

    @own_precision()
    def forward(self, embedding: Tensor) -> Tensor:
        """Scores of the variants: (N, D) -> (N, K), in points of the rating scale."""
        return self.readout(self.hidden(embedding))

    @own_precision()
    def score(self, embedding: Tensor) -> Tensor:
        """The score: the mean over the variants, (N, D) -> (N,)."""
        return self(embedding).mean(-1)
