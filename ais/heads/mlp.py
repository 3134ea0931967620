"""The forward pass of K MLPs, ``Linear(D, H) -> ReLU -> Linear(H, 1)``: heads are fitted and used by the same one."""

from __future__ import annotations

import torch
from torch import Tensor


def hidden_layer(x: Tensor, weight1: Tensor, bias1: Tensor) -> Tensor:
    """The first layer's output, before its ReLU.

    Args:
        x: (N, D), inputs that all K share; or (K, N, D), each MLP's own.
        weight1: (K, H, D). bias1: (K, H).

    Returns:
        (N, K, H).
    """
    return torch.einsum("nd,khd->nkh" if x.ndim == 2 else "knd,khd->nkh", x, weight1) + bias1


def output_layer(hidden: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
    """The outputs from the first layer's: (..., K, H) -> (..., K).

    Args:
        weight2: (K, H). bias2: (K,).
    """
    return (hidden.relu() * weight2).sum(-1) + bias2
