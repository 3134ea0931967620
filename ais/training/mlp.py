"""Fitting MLPs on cached embeddings: K variants at once, each with its own split and seed.

The ratings are standardised. The embedding is centred, projected on its principal components over the
pictures trained on, and scaled by **one** number, so that large coordinates stay large; then a two-layer
MLP learns. All of that is linear, so in the end it is folded into the MLP's first layer, and the head is
two linear layers on the embedding as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ais.data.splits import grouped_split
from ais.errors import DataError
from ais.heads.config import HeadConfig
from ais.heads.mlp import hidden_layer, output_layer
from ais.heads.regression import RegressionHead
from ais.training.recipe import Recipe


@dataclass(frozen=True, eq=False)
class Projection:
    """``z = (x - mean) @ basis``, with a mean square of 1 over the pictures and components it was fitted on.

    Attributes:
        mean: (D,) float64.
        basis: (D, P) float64.
    """

    mean: Tensor
    basis: Tensor

    def __call__(self, embedding: Tensor) -> Tensor:
        """(N, D) -> (N, P) float32."""
        return ((embedding.double() - self.mean) @ self.basis).float()

    def fold(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """A layer on z, (K, H, P) and (K, H), as one on x: (K, H, D) and (K, H), float32."""
        folded = weight.double() @ self.basis.T
        return folded.float(), (bias.double() - folded @ self.mean).float()


@dataclass(frozen=True, eq=False)
class Variants:
    """K fitted MLPs on the raw embedding, for ratings standardised with `rating_mean` and `rating_std`.

    Attributes:
        weight1 (K, H, D), bias1 (K, H), weight2 (K, H), bias2 (K,): float32.
        epochs: of each variant, the one whose weights these are.
        curves: (K, E, 2) float64, the training and validation loss of every epoch: mean squared errors of
            standardised ratings; NaN after a variant has stopped.
    """

    weight1: Tensor
    bias1: Tensor
    weight2: Tensor
    bias2: Tensor
    rating_mean: float
    rating_std: float
    epochs: list[int]
    curves: np.ndarray

    def head(self, config: HeadConfig, **others: Tensor) -> RegressionHead:
        """These weights as a head, and its other tensors: those of its config, or zeros for those not given."""
        head = RegressionHead(config)
        head.load_state_dict(
            head.state_dict()
            | {
                "weight1": self.weight1,
                "bias1": self.bias1,
                "weight2": self.weight2,
                "bias2": self.bias2,
                "rating_mean": torch.tensor(self.rating_mean),
                "rating_std": torch.tensor(self.rating_std),
            }
            | others
        )
        return head.eval()


def fit_projection(embedding: Tensor, components: int) -> Projection:
    """Principal components of N embeddings, (N, D), all on one scale."""
    x = embedding.double()
    mean = x.mean(0)
    x = x - mean
    if len(x) < x.shape[1]:  # of the two Gram matrices the smaller one
        values, vectors = torch.linalg.eigh(x @ x.T)
        vectors = x.T @ vectors / values.clamp_min(torch.finfo(x.dtype).tiny).sqrt()
    else:
        values, vectors = torch.linalg.eigh(x.T @ x)
    kept = min(components, int((values > 1e-10 * values[-1]).sum()))
    if kept == 0:
        raise DataError(
            "The backbone sees no difference between the pictures: there is nothing to learn from."
        )
    scale = (len(x) * kept / values[-kept:].sum()).sqrt()
    return Projection(mean, vectors[:, -kept:].flip(1) * scale)


def fit_variants(
    embedding: Tensor,
    ratings: np.ndarray,
    groups: Sequence[str],
    *,
    variants: int = 10,
    seed: int = 0,
    recipe: Recipe = Recipe(),
    sample_weight: np.ndarray | None = None,
) -> Variants:
    """Fit K MLPs together as one batched computation.

    Each variant has a random generator of its own, so that it is the same among any others. Same arguments,
    same bytes (on one machine): no global random state is read or changed.

    Args:
        embedding: (N, D).
        ratings: (N,).
        groups: N names; no group is both in a variant's training and in its validation split.
        seed: variant k is fitted with the seed (seed, k).
        sample_weight: (N,), how much each image's squared error counts; all the same if None.

    Raises:
        DataError: the embeddings or the ratings are all the same, or all pictures are of one group.
    """
    if len(set(groups)) < 2:
        raise DataError("All pictures are of one group: none can be kept apart to say when to stop.")
    mean, std = float(np.mean(ratings)), float(np.std(ratings))
    if std == 0:
        raise DataError(f"All ratings are {mean:g}: there is nothing to learn from.")
    projection = fit_projection(embedding, recipe.components)
    z = projection(embedding)
    y = torch.from_numpy((np.asarray(ratings, np.float64) - mean) / std).float().to(z.device)
    seeds = [int(np.random.SeedSequence([seed, k]).generate_state(1)[0]) for k in range(variants)]
    held = np.stack([grouped_split(groups, recipe.validation, s) for s in seeds])
    counts = torch.ones_like(y)
    if sample_weight is not None:
        counts = torch.from_numpy(sample_weight / sample_weight.mean()).to(y)
    fitted, epochs, curves = _descend(z, y, counts, held, seeds, recipe)
    weight1, bias1, weight2, bias2 = fitted
    weight1, bias1 = projection.fold(weight1, bias1)
    return Variants(weight1.cpu(), bias1.cpu(), weight2.cpu(), bias2.cpu(), mean, std, epochs, curves)


def _forward(z: Tensor, weights: Sequence[Tensor], keep: Tensor | None = None) -> Tensor:
    """K MLPs: z (K, B, P), and what to multiply the hidden units with, (B, K, H), not negative -> (K, B)."""
    weight1, bias1, weight2, bias2 = weights
    hidden = hidden_layer(z, weight1, bias1)
    return output_layer(hidden if keep is None else hidden * keep, weight2, bias2).T


def _descend(
    z: Tensor, y: Tensor, counts: Tensor, held: np.ndarray, seeds: list[int], recipe: Recipe
) -> tuple[list[Tensor], list[int], np.ndarray]:
    """The weights of K MLPs, each as of its best epoch, that epoch (from 1), and the losses (K, E, 2).

    Args:
        z: (N, P). y: (N,), standardised. counts: (N,), how much each picture counts, 1 in the mean.
        held: (K, N), each variant's validation pictures.
    """
    generators = [torch.Generator().manual_seed(s) for s in seeds]
    weights = _initial(z.shape[1], recipe.hidden, generators, z.device)
    optimizer = torch.optim.AdamW(
        weights, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )
    # Each variant's validation pictures, those of the largest split as many as there are; weight 0 fills up.
    rows = np.argsort(~held, axis=1, kind="stable")[:, : held.sum(1).max()]
    validation = torch.from_numpy(rows).to(z.device)
    shares = counts[validation] * torch.from_numpy(np.take_along_axis(held, rows, 1)).to(z.device)
    shares /= shares.sum(1, keepdim=True)
    training = [torch.from_numpy(np.flatnonzero(~h)) for h in held]
    steps = math.ceil((1 - recipe.validation) * len(y) / recipe.batch)
    best = [w.detach().clone() for w in weights]
    best_loss = torch.full((len(seeds),), math.inf, device=z.device)
    best_epoch = torch.zeros(len(seeds), dtype=torch.long, device=z.device)
    curves = np.full((len(seeds), recipe.epochs, 2), np.nan)
    # The variants still learning; `weights` and the optimiser hold theirs alone. One that is done costs no more.
    on = torch.arange(len(seeds), device=z.device)
    for epoch in range(1, recipe.epochs + 1):
        learned = torch.zeros(len(on), device=z.device)
        drawn = [generators[k] for k in on.tolist()]
        batches = _shuffled([training[k] for k in on.tolist()], drawn, steps, recipe.batch).to(z.device)
        for batch in batches:  # (on, B)
            keep = _dropout(batch.shape[1], recipe, drawn).to(z.device) if recipe.dropout else None
            loss = ((_forward(z[batch], weights, keep) - y[batch]).square() * counts[batch]).mean(1)
            optimizer.zero_grad()
            torch.autograd.backward(loss.sum())
            optimizer.step()
            learned += loss.detach() / len(batches)
        with torch.no_grad():
            held_out = validation[on]
            losses = ((_forward(z[held_out], weights) - y[held_out]).square() * shares[on]).sum(1)
            running = epoch - best_epoch[on] <= recipe.patience  # one kept for company alone is done
            curves[on[running].cpu().numpy(), epoch - 1] = (
                torch.stack([learned, losses], 1)[running].cpu().numpy()
            )
            better = (losses < best_loss[on]) & running
            improved = on[better]
            for kept, now in zip(best, weights, strict=True):
                kept[improved] = now[better]
            best_loss[improved] = losses[better]
            best_epoch[improved] = epoch
            left = epoch - best_epoch[on] < recipe.patience
            if not left.any():
                break
            if not left.all() and len(on) > 2:
                if left.sum() == 1:  # one alone would go through other kernels, which round in another way
                    left[left.byte().argmin()] = True
                on, weights = on[left], _fewer(optimizer, weights, left)
    return best, best_epoch.tolist(), curves[:, :epoch]


def _fewer(optimizer: torch.optim.Optimizer, weights: list[Tensor], left: Tensor) -> list[Tensor]:
    """The weights of the variants that are left, (K,) True; the optimiser goes on with them as it was."""
    fewer = [weight.detach()[left].requires_grad_() for weight in weights]
    for before, now in zip(weights, fewer, strict=True):
        state = optimizer.state.pop(before)
        optimizer.state[now] = {name: value[left] if value.ndim else value for name, value in state.items()}
    optimizer.param_groups[0]["params"] = fewer
    return fewer


def _initial(
    inputs: int, hidden: int, generators: list[torch.Generator], device: torch.device
) -> list[Tensor]:
    """Weights of K MLPs, as `torch.nn.Linear` draws them."""
    shapes = [((hidden, inputs), inputs), ((hidden,), inputs), ((hidden,), hidden), ((), hidden)]
    drawn = [
        [(torch.rand(shape, generator=g) * 2 - 1) / math.sqrt(fan_in) for shape, fan_in in shapes]
        for g in generators
    ]
    return [torch.stack(values).to(device).requires_grad_() for values in zip(*drawn, strict=True)]


def _shuffled(training: list[Tensor], generators: list[torch.Generator], steps: int, batch: int) -> Tensor:
    """One epoch of each variant's pictures, (steps, K, B); a variant that has fewer begins again."""
    rows = []
    for pictures, generator in zip(training, generators, strict=True):
        order = pictures[torch.randperm(len(pictures), generator=generator)]
        rows.append(order[torch.arange(steps * batch) % len(order)].view(steps, batch))
    return torch.stack(rows, dim=1)


def _dropout(batch: int, recipe: Recipe, generators: list[torch.Generator]) -> Tensor:
    """(B, K, H): 0 for a dropped unit, else what keeps the expectation."""
    chance = torch.stack([torch.rand(batch, recipe.hidden, generator=g) for g in generators], dim=1)
    return (chance >= recipe.dropout).float() / (1 - recipe.dropout)
