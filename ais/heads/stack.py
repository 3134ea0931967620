"""Several heads for ratings as one: a stack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ais.heads.config import StackConfig
from ais.heads.regression import RatingHead, RegressionHead
from ais.torch_state import own_precision, own_state


class StackedHead(RatingHead):
    """Heads on several backbones and their weighted sum (Breiman 1996, Stacked Regressions).

    Variant k of the stack is the sum of the members' variants k, so all members have the same K.

    Tensors, beside those of `RatingHead`: weight (M,), not negative; intercept (), in points.
    """

    config: StackConfig
    weight: Tensor
    intercept: Tensor

    @own_state()
    def __init__(self, config: StackConfig, members: Sequence[RegressionHead]) -> None:
        super().__init__(config)
        self._members = nn.ModuleList(members)

    @classmethod
    def build(cls, config: Any, members: Sequence[Any]) -> StackedHead:
        return cls(config, members)

    @own_state()
    def made_of(
        self,
        members: Sequence[RegressionHead],
        weights: Sequence[float] | None = None,
        intercept: float | None = None,
    ) -> StackedHead:
        """This stack with other members on the same backbones, and other weights, (M,), and intercept if given."""
        other = StackedHead(self.config, members)
        own = {name: value for name, value in self.state_dict().items() if name in self.config.shapes()}
        if weights is not None:
            own["weight"] = torch.tensor(weights, dtype=self.weight.dtype)
        if intercept is not None:
            own["intercept"] = torch.tensor(intercept, dtype=self.intercept.dtype)
        other.load_state_dict(own, strict=False)
        return other.to(self.weight.device).eval()

    @property
    def members(self) -> Sequence[RegressionHead]:
        return tuple(self._members)  # type: ignore[arg-type]

    @property
    def member_weights(self) -> list[float]:
        return [float(weight) for weight in self.weight]

    @property
    def constant(self) -> float:
        return self.intercept.item()

    @own_precision()
    def combine(self, scores: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(scores), dim=-1) @ self.weight + self.intercept
