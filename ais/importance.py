"""Importance: what ablating each feature map does to the score, exactly.

Ablating map c sets the target layer's output map c to 0; all that comes after, such as BatchNorm's shift and
the residual, stays. The naive way is one forward pass for every map. Two exact short cuts:

- Where the tail treats every map on its own, ablating map c moves one coordinate of the embedding by
  ``delta_c``, and so the head's first layer by ``W1[:, c] * delta_c``: a rank-one change. All C ablations of
  a picture are then one matrix-vector product and a little more.
- Elsewhere only what lies after the layer is run again, in batches of bounded size.

All functions are pure, on tensors, for a batch of N pictures and C maps; importances are in points of the
rating scale unless said.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ais.backbones import Features, FrozenBackbone
from ais.heads import RegressionHead

_BATCH_VALUES = 1 << 23  # values in one batch of ablated maps (32 MiB of float32)


def prediction(backbone: FrozenBackbone, features: Features, head: RegressionHead) -> Tensor:
    """How many points each map adds to the score: ``s - s_c``, s_c being the score with map c ablated.

    Args:
        features: of N pictures, as `backbone` gives them.

    Returns:
        (N, C); positive where the map raises the score.
    """
    with torch.no_grad():
        if features.delta is None or backbone.owner is None:
            return _general(backbone.tail, features, head)
        return channelwise(features.embedding, features.delta, backbone.owner, head)


def channelwise(embedding: Tensor, delta: Tensor, owner: Tensor, head: RegressionHead) -> Tensor:
    """`prediction` from cached values alone, where the tail treats every map on its own.

    Args:
        embedding: (N, D).
        delta: (N, C), the change of the embedding's coordinate ``owner[c]`` when map c is ablated.
        owner: (C,).

    Returns:
        (N, C).

    With z the first layer's output, a hidden unit changes by ``relu(z + u) - relu(z)``, ``u = W1[:, c] *
    delta_c``. Where ``|u| < |z|`` for every map, that is 0 (unit off) or u (unit on), so all those units
    together are one product with W1; only the few that some map could switch are worked out one by one.
    """
    with torch.no_grad():
        scale = head.rating_std / head.config.variants
        weight2 = head.weight2.flatten()  # (K·H,)
        weight1 = head.weight1.flatten(0, 1)  # (K·H, D)
        if not torch.equal(owner, torch.arange(weight1.shape[1], device=owner.device)):
            weight1 = weight1[:, owner]  # (K·H, C)
        reach = head.reach.flatten()  # (K·H,) the largest |W1| of each hidden unit
        hidden = head.hidden(embedding).flatten(1)  # (N, K·H)
        rows = []
        for z, shift in zip(hidden, delta, strict=True):
            unsure = z.abs() <= reach * shift.abs().max()
            drop = torch.where(unsure | (z <= 0), 0, -weight2) @ weight1 * shift
            units = unsure.nonzero()[:, 0]
            before = z[units, None]
            after = torch.addcmul(before, weight1[units], shift).relu_()
            drop += weight2[units] @ before.relu() - weight2[units] @ after
            rows.append(drop)
        return scale * torch.stack(rows)


def _general(tail: Callable[..., Tensor], features: Features, head: RegressionHead) -> Tensor:
    """`prediction` by running what lies after the layer once for every map."""
    channels = features.maps.shape[1]
    size = max(1, _BATCH_VALUES // features.maps[0].numel())
    rows = []
    for n, score in enumerate(head.score(features.embedding)):
        row = []
        for block in torch.arange(channels, device=score.device).split(size):
            maps = features.maps[n].repeat(len(block), 1, 1, 1)
            maps[torch.arange(len(block)), block] = 0
            live = [value[n : n + 1].expand(len(block), *value.shape[1:]) for value in features.live]
            row.append(score - head.score(tail(maps, *live)))
        rows.append(torch.cat(row))
    return torch.stack(rows)


def residual(predictions: Tensor, score: Tensor, rating: Tensor) -> Tensor:
    """How far each map brings the score to people's rating y: ``|s_c - y| - |s - y|``.

    Args:
        predictions: (N, C), from `prediction`.
        score, rating: (N,).

    Returns:
        (N, C); positive where the map helps to match people.
    """
    error = (score - rating)[:, None]
    return (error - predictions).abs() - error.abs()


def dual(predictions: Tensor, residuals: Tensor) -> Tensor:
    """The size of the effect on the score, with the sign of the effect on the match with people.

    ``|prediction|``, min-max scaled over the maps, times ``sign(residual)``.

    Args:
        predictions, residuals: (N, C).

    Returns:
        (N, C) in [-1, 1], without a unit.
    """
    size = predictions.abs()
    low, high = size.aminmax(dim=1, keepdim=True)
    return (size - low) / (high - low).clamp_min(torch.finfo(size.dtype).tiny) * residuals.sign()
