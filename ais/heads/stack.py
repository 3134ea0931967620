"""The trained part: K two-layer MLPs on the same embedding, kept as stacked weights; and stacks of such heads.

A head's folder on disk is read by `ais.heads.format`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ais.heads.base import Head
from ais.heads.config import StackConfig
from ais.heads.regression import RegressionHead
from ais.torch_state import own_precision, own_state


class StackedHead(Head):
    """Heads on several backbones and their weighted sum (Breiman 1996, Stacked Regressions).

    Variant k of the stack is the sum of the members' variants k, so all members have the same K.

    Tensors, beside those of `Head`: weight (M,), not negative; intercept (), in points.
    """

    config: StackConfig
    weight: Tensor
    intercept: Tensor
    members: Sequence[RegressionHead]

    @own_state()
    def __init__(self, config: StackConfig, members: Sequence[RegressionHead]) -> None:
        super().__init__(config)
        self.members = nn.ModuleList(members)  # type: ignore[assignment]

    def _twin(self) -> StackedHead:
        return StackedHead(self.config, [RegressionHead(member.config) for member in self.members])

    @own_precision()
    def combine(self, scores: Sequence[Tensor]) -> Tensor:
        """Scores of the stack's variants from those of its members: M times (N, K) -> (N, K)."""
        return torch.stack(list(scores), dim=-1) @ self.weight + self.intercept
