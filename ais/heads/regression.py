"""Heads for ratings: the score with its interval and percentile, and the one on a single backbone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ais.heads.base import Head
from ais.heads.config import HeadConfig, RatingConfig
from ais.heads.mlp import hidden_layer, output_layer
from ais.torch_state import own_precision, own_state

BOUND_BLOCK = 16  # coordinates that `RegressionHead.weight_bound` takes together: one cache line of float32


class RatingHead(Head):
    """What heads for ratings have, on one backbone or on several: a score of each variant, and what follows from it.

    A score is ``Σ_m member_weights[m] · (score of member m) + constant``; a head on one backbone is its own only
    member, with weight 1 and constant 0.

    Tensors, beside those of `Head`: rating_quantiles (101,) (of the ratings it was trained on, at 0, 1 … 100 %).
    """

    config: RatingConfig
    rating_quantiles: Tensor

    @property
    def members(self) -> Sequence[RegressionHead]:
        raise NotImplementedError

    @property
    def member_weights(self) -> list[float]:
        """What each member's score counts, (M,)."""
        return [1.0]

    @property
    def constant(self) -> float:
        """What is added to the members' weighted scores, in points."""
        return 0.0

    def combine(self, scores: Sequence[Tensor]) -> Tensor:
        """Scores of the variants from those of the members: M times (N, K) -> (N, K)."""
        return scores[0]

    @property
    def typical_score(self) -> float | None:
        """The score of the mean embedding of the images it was trained on, in points; None where that is not known, or
        is none, since what the head gives it lies farther from the rating scale than the scale is long."""
        if not all(bool(member.typical.any()) for member in self.members):
            return None
        score = self.combine([member(member.typical[None]) for member in self.members]).mean().item()
        target = self.config.target
        length = target.high - target.low
        return score if target.low - length <= score <= target.high + length else None

    @property
    def has_typical(self) -> bool:
        return self.typical_score is not None

    def half_width(self, scores: Tensor) -> Tensor:
        """Half the width of the score's interval: the variants' scores (N, K) -> (N,), in points."""
        calibration = self.config.interval
        return calibration.factor * (calibration.error**2 + scores.var(-1, correction=0)).sqrt()

    def within_scale(self, value: float) -> float:
        """The value, or the end of the rating scale that it is beyond.

        An interval cut off so loses no rating that is possible, so that it holds as many ratings as before.
        """
        target = self.config.target
        return float(min(max(value, target.low), target.high))

    def percentile(self, score: float) -> float:
        """The share of rated images that people rated below this score, in percent (0 to 100)."""
        quantiles = self.rating_quantiles.cpu()
        above = int(torch.searchsorted(quantiles, torch.tensor(score, dtype=quantiles.dtype, device="cpu")))
        if above == 0:
            return 0.0
        if above == len(quantiles):
            return 100.0
        low, high = quantiles[above - 1].item(), quantiles[above].item()
        return min(max(above - 1 + (score - low) / (high - low), 0.0), 100.0)


class RegressionHead(RatingHead):
    """``Linear(D, H) -> ReLU -> Linear(H, 1)``, K variants of it evaluated together.

    The variants share the backbone's one pass; their mean is the score, their spread a part of its
    interval. The MLPs work on standardised ratings; `rating_mean` and `rating_std` bring them back.

    Tensors, beside those of `RatingHead`: weight1 (K, H, D), bias1 (K, H), weight2 (K, H), bias2 (K,),
    rating_mean (), rating_std (), mean_residual (C,) (the mean residual importance over held-out images, points; all 0
    where it was not measured), typical (D,) (the mean embedding of the images it was trained on; all 0 where it is not
    known). `keep` (C,) is False for the maps that were pruned.
    """

    config: HeadConfig
    weight1: Tensor
    bias1: Tensor
    weight2: Tensor
    bias2: Tensor
    mean_residual: Tensor
    typical: Tensor
    rating_mean: Tensor
    rating_std: Tensor
    keep: Tensor

    @own_state()
    def __init__(self, config: HeadConfig) -> None:
        super().__init__(config)
        keep = torch.ones(config.channels, dtype=torch.bool)
        keep[config.pruned] = False
        self.register_buffer("keep", keep, persistent=False)
        self._bound: tuple[tuple[int, int], Tensor] | None = None

    @property
    def members(self) -> Sequence[RegressionHead]:
        return (self,)

    @own_precision()
    def hidden(self, embedding: Tensor) -> Tensor:
        """First linear layer, before its ReLU: (N, D) -> (N, K, H)."""
        return hidden_layer(embedding, self.weight1, self.bias1)

    @own_precision()
    def readout(self, hidden: Tensor) -> Tensor:
        """Scores of the variants from the first layer's output: (..., K, H) -> (..., K), in points."""
        return self.rating_mean + self.rating_std * output_layer(hidden, self.weight2, self.bias2)

    @property
    def weight_bound(self) -> Tensor:
        """The largest absolute first-layer weight of every hidden unit in every block of `BOUND_BLOCK`
        neighbouring coordinates, (K·H, ceil(D / BOUND_BLOCK)); kept until weight1 changes."""
        state = (self.weight1.data_ptr(), self.weight1._version)
        if self._bound is None or self._bound[0] != state:
            blocks = self.weight1.abs().flatten(0, 1).split(BOUND_BLOCK, dim=1)
            self._bound = (state, torch.stack([block.amax(1) for block in blocks], dim=1))
        return self._bound[1]

    @own_precision()
    def forward(self, embedding: Tensor) -> Tensor:
        """Scores of the variants: (N, D) -> (N, K), in points of the rating scale."""
        return self.readout(self.hidden(embedding))

    @own_precision()
    def score(self, embedding: Tensor) -> Tensor:
        """The score: the mean over the variants, (N, D) -> (N,)."""
        return self(embedding).mean(-1)
