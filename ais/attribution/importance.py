"""Importance: what ablating each feature map does to the score, exactly.

Ablating map c sets the target layer's output map c to 0; all that comes after, such as BatchNorm's shift and
the residual, stays. The naive way is one forward pass for every map. Two exact short cuts:

- Where the tail treats every map on its own, ablating map c moves one coordinate of the embedding by
  ``delta_c``, and so the head's first layer by ``W1[:, c] * delta_c``: a rank-one change. All C ablations of
  a picture are then one matrix-vector product and a little more.
- Elsewhere only what lies after the layer is run again, in batches of bounded size.

A map may also be ablated to another value than 0 (`ais.attribution.baselines`): then ``delta_c`` is what that value
changes, and nothing else does.

All functions are pure, on tensors, for a batch of N pictures, the head's K variants and C maps; importances are in
points of the rating scale unless said.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ais.backbones.frozen import Features, FrozenBackbone
from ais.heads.regression import BOUND_BLOCK, RegressionHead

_BATCH_VALUES = 1 << 23  # values in one batch of ablated maps (32 MiB of float32)


def prediction(
    backbone: FrozenBackbone, features: Features, head: RegressionHead, hidden: Tensor | None = None
) -> Tensor:
    """How many points each map adds to the score: ``s - s_c``, s_c being the score with map c ablated.

    Args:
        features: of N pictures, as `backbone` gives them.
        hidden: (N, K, H), `RegressionHead.hidden` of these pictures, where it is known already.

    Returns:
        (N, C); positive where the map raises the score. It is the mean over the variants (`variant_predictions`).
    """
    return variant_predictions(backbone, features, head, hidden).mean(1)


def variant_predictions(
    backbone: FrozenBackbone, features: Features, head: RegressionHead, hidden: Tensor | None = None
) -> Tensor:
    """`prediction` by each variant: (N, K, C)."""
    with torch.no_grad():
        if features.delta is None or backbone.embedding_slice is None:
            return _general(backbone.tail, features, head)
        hidden = head.hidden(features.embedding) if hidden is None else hidden
        return channelwise(hidden, features.delta, backbone.embedding_slice, head)


def channelwise(hidden: Tensor, delta: Tensor, owner: range, head: RegressionHead) -> Tensor:
    """`variant_predictions` from values that a cache can hold, where the tail treats every map on its own.

    Args:
        hidden: (N, K, H), `RegressionHead.hidden` of the embeddings.
        delta: (N, C), the change of the embedding's coordinate ``owner[c]`` when map c is ablated.
        owner: C coordinates in a row.

    Returns:
        (N, K, C).

    With z the first layer's output and ``u = W1[:, c] * delta_c``, a hidden unit changes by
    ``relu(z + u) - relu(z)``. Unless the map switches the unit, that is 0 (unit off) or u (unit on), and the
    sum over the units is one product with W1. What is left is ``relu(side * u - |z|)``, with side = -1 for
    units that are on and +1 for those that are off, and is worked out only where it may be positive: in a few
    of the blocks of neighbouring maps of each unit.
    """
    channels, first = len(owner), owner.start
    variants = hidden.shape[1]
    with torch.no_grad():
        weight2 = head.weight2.flatten()  # (K·H,)
        weight1 = head.weight1.flatten(0, 1)  # (K·H, D)
        rows = []
        for z, change in zip(hidden.flatten(1), delta, strict=True):
            shift = torch.zeros_like(weight1[0])  # (D,)
            shift[first : first + channels] = change
            drop = _blocks(-shift * _sum_rows(weight1, weight2, z > 0, variants))
            drop -= _switched(z, _blocks(shift), _blocks(weight1), weight2, head.weight_bound, variants)
            rows.append(drop.flatten(1)[:, first : first + channels])
        return head.rating_std * torch.stack(rows)


def path_gradient(start: Tensor, end: Tensor, head: RegressionHead) -> Tensor:
    """The mean gradient of the variants' scores along the straight line between two embeddings, exactly.

    Along the line a hidden unit's input z is linear, so it is on for the share
    ``(relu(z_end) - relu(z_start)) / (z_end - z_start)`` of the way: the mean of the ReLU's slope. Nothing has to be
    sampled. Times the difference of the embeddings this is Integrated Gradients (Sundararajan et al.,
    arXiv 1703.01365), which shares out the difference of the scores as Aumann and Shapley (1974) do.

    Args:
        start, end: (N, K, H), `RegressionHead.hidden` of N embeddings each.

    Returns:
        (N, K, D), in points for a unit of the embedding.
    """
    with torch.no_grad():
        way = end - start
        on = torch.where(way == 0, (start > 0).to(way.dtype), (end.relu() - start.relu()) / way)
        return head.rating_std * torch.einsum("nkh,khd->nkd", on * head.weight2, head.weight1.to(on.dtype))


def _sum_rows(matrix: Tensor, weights: Tensor, chosen: Tensor, variants: int) -> Tensor:
    """For each variant ``weights[chosen] @ matrix[chosen]`` of its own rows, without reading the others or copying
    these: (K·H, D) -> (K, D)."""
    rows = chosen.nonzero()[:, 0]
    ends = chosen.view(variants, -1).sum(1).cumsum(0)
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    return F.embedding_bag(rows, matrix, starts, mode="sum", per_sample_weights=weights[rows])


def _blocks(values: Tensor) -> Tensor:
    """The coordinates in blocks of `BOUND_BLOCK`, filled up with zeros: (…, D) -> (…, B, BOUND_BLOCK)."""
    missing = -values.shape[-1] % BOUND_BLOCK
    return (F.pad(values, (0, missing)) if missing else values).unflatten(-1, (-1, BOUND_BLOCK))


def _switched(
    z: Tensor, shift: Tensor, weight1: Tensor, weight2: Tensor, reach: Tensor, variants: int
) -> Tensor:
    """What the hidden units that some map switches on or off add to its variants' scores: (K, B, block).

    Args:
        z: (K·H,). shift: (B, block). weight1: (K·H, B, block). weight2: (K·H,).
        reach: (K·H, B), the largest absolute weight of each unit in each block.
    """
    # Pairs of a unit and a block by one number, so that whole blocks are picked as rows.
    blocks = len(shift)
    pair = (reach * shift.abs().amax(1) >= z.abs()[:, None]).flatten().nonzero()[:, 0]
    unit = pair // blocks
    block = pair - unit * blocks
    side = torch.where(z > 0, -1, 1).to(z.dtype)
    rest = weight1.reshape(-1, shift.shape[1]).index_select(0, pair)  # (pairs, block)
    rest *= shift.index_select(0, block)
    rest = torch.addcmul(
        -z.abs().index_select(0, unit)[:, None], rest, side.index_select(0, unit)[:, None]
    ).relu_()
    rest *= weight2.index_select(0, unit)[:, None]
    total = shift.new_zeros(variants * blocks, shift.shape[1])
    total.index_add_(0, unit // (len(z) // variants) * blocks + block, rest)
    return total.view(variants, blocks, -1)


def _general(tail: Callable[..., Tensor], features: Features, head: RegressionHead) -> Tensor:
    """`variant_predictions` by running what lies after the layer once for every map."""
    channels = features.maps.shape[1]
    size = max(1, _BATCH_VALUES // features.maps[0].numel())
    rows = []
    for n, score in enumerate(head(features.embedding)):
        row = []
        for block in torch.arange(channels, device=score.device).split(size):
            maps = features.maps[n].repeat(len(block), 1, 1, 1)
            maps[torch.arange(len(block)), block] = 0
            live = [value[n : n + 1].expand(len(block), *value.shape[1:]) for value in features.side_inputs]
            row.append(score - head(tail(maps, *live)))  # (block, K)
        rows.append(torch.cat(row).T)
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
