"""Fitting: the batched computation against a plain loop, folding, seeds, and that it learns what there is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ais.data.splits import grouped_folds, grouped_split
from ais.errors import DataError
from ais.training.mlp import Variants, fit_projection, fit_variants
from ais.training.recipe import Recipe
from helpers.sets import predict

SMALL = Recipe(components=16, hidden=32, epochs=40)


def problem(n: int = 240, dim: int = 40, seed: int = 0) -> tuple[Tensor, np.ndarray, list[str]]:
    """A curved function of a few directions, with groups of four that look alike."""
    rng = np.random.default_rng(seed)
    groups = [f"group {i // 4}" for i in range(n)]
    factors = np.repeat(rng.normal(size=(n // 4, 3)), 4, axis=0) + 0.4 * rng.normal(size=(n, 3))
    x = factors @ rng.normal(size=(3, dim)) * 2 + 5 + 0.1 * rng.normal(size=(n, dim))
    return torch.from_numpy(x).float(), 4 + factors[:, 0] + np.abs(factors[:, 1]), groups


def tensors(fitted: Variants) -> list[Tensor]:
    return [fitted.weight1, fitted.bias1, fitted.weight2, fitted.bias2]


@pytest.mark.parametrize("n", [30, 120])
def test_projection_is_pca_on_one_scale(n: int) -> None:
    x = problem(120)[0][:n] * 3
    projection = fit_projection(x, 10)
    z = projection(x).double()
    assert z.square().mean().item() == pytest.approx(1, rel=1e-5)
    _, s, v = torch.linalg.svd(x.double() - x.double().mean(0), full_matrices=False)
    torch.testing.assert_close(z.square().sum(0) / z.square().sum(), s[:10].square() / s[:10].square().sum())
    directions = projection.basis / projection.basis.norm(dim=0)
    torch.testing.assert_close((directions * v[:10].T).sum(0).abs(), torch.ones(10).double())


def test_projection_keeps_no_more_than_there_is() -> None:
    x = problem()[0]
    assert fit_projection(x[:8], 200).basis.shape[1] == 7
    with pytest.raises(DataError, match="no difference"):
        fit_projection(x[:1].repeat(9, 1), 5)


def test_folded_equals_unfolded() -> None:
    x = problem()[0]
    projection = fit_projection(x, 12)
    weight, bias = torch.randn(3, 20, 12), torch.randn(3, 20)
    folded_weight, folded_bias = projection.fold(weight, bias)
    unfolded = torch.einsum("np,khp->nkh", projection(x), weight) + bias
    folded = torch.einsum("nd,khd->nkh", x, folded_weight) + folded_bias
    torch.testing.assert_close(folded, unfolded, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_batched_fit_equals_the_plain_loop(dropout: float) -> None:
    """The oracle: every variant an nn.Sequential with an optimizer of its own."""
    x, y, groups = problem(80)
    recipe = Recipe(components=10, hidden=24, epochs=3, batch=16, dropout=dropout)
    fitted = fit_variants(x, y, groups, variants=3, seed=5, recipe=recipe)
    projection = fit_projection(x, 10)
    z, t = projection(x), torch.from_numpy((y - y.mean()) / y.std()).float()
    for k in range(3):
        seed = int(np.random.SeedSequence([5, k]).generate_state(1)[0])
        held = torch.from_numpy(grouped_split(groups, recipe.validation, seed))
        generator = torch.Generator().manual_seed(seed)
        first, last = nn.Linear(10, 24), nn.Linear(24, 1)
        for p, fan_in in ((first.weight, 10), (first.bias, 10), (last.weight, 24), (last.bias, 24)):
            shape = p.squeeze().shape
            p.data = ((torch.rand(shape, generator=generator) * 2 - 1) / fan_in**0.5).view_as(p)
        optimizer = torch.optim.AdamW(
            [*first.parameters(), *last.parameters()],
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
        )
        best, best_loss = [], float("inf")
        for _ in range(3):
            rows = (~held).nonzero()[:, 0]
            order = rows[torch.randperm(len(rows), generator=generator)]
            order = torch.cat([order, order])[: -(-72 // 16) * 16]
            for batch in order.split(16):
                hidden = first(z[batch]).relu()
                if dropout:
                    hidden = hidden * (torch.rand(16, 24, generator=generator) >= dropout) / (1 - dropout)
                loss = nn.functional.mse_loss(last(hidden)[:, 0], t[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            with torch.no_grad():
                loss = nn.functional.mse_loss(last(first(z).relu())[held, 0], t[held])
            if loss < best_loss:
                best = [p.detach().clone() for p in (first.weight, first.bias, last.weight, last.bias)]
                best_loss = loss.item()
        weight1, bias1 = projection.fold(best[0][None], best[1][None])
        for found, wanted in zip(
            tensors(fitted), (weight1[0], bias1[0], best[2][0], best[3][0]), strict=True
        ):
            torch.testing.assert_close(found[k], wanted, atol=1e-5, rtol=1e-4)


def test_same_seed_same_bytes_and_no_global_state() -> None:
    x, y, groups = problem()
    state = torch.get_rng_state()
    first = fit_variants(x, y, groups, variants=3, recipe=SMALL)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    second = fit_variants(x, y, groups, variants=3, recipe=SMALL)
    assert all(torch.equal(a, b) for a, b in zip(tensors(first), tensors(second), strict=True))
    other = fit_variants(x, y, groups, variants=3, seed=1, recipe=SMALL)
    assert not torch.equal(first.weight1, other.weight1)
    assert not torch.equal(first.weight1[0], first.weight1[1])


def test_a_variant_does_not_depend_on_its_companions() -> None:
    x, y, groups = problem()
    many = fit_variants(x, y, groups, variants=4, recipe=SMALL)
    few = fit_variants(x, y, groups, variants=2, recipe=SMALL)
    assert many.epochs[:2] == few.epochs
    torch.testing.assert_close(predict(many, x)[:, :2], predict(few, x), atol=1e-3, rtol=1e-3)


def out_of_fold(x: Tensor, y: np.ndarray, groups: list[str]) -> float:
    folds = grouped_folds(groups, 5, 0)
    predicted = np.empty(len(y))
    for fold in range(5):
        inside, outside = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        fitted = fit_variants(
            x[inside], y[inside], [groups[i] for i in inside], variants=3, recipe=replace(SMALL, batch=16)
        )
        predicted[outside] = predict(fitted, x[outside]).mean(1).numpy()
    return float(np.corrcoef(predicted, y)[0, 1])


def test_learns_what_can_be_learnt() -> None:
    x, y, groups = problem()
    assert out_of_fold(x, y, groups) > 0.9


def test_learns_nothing_from_shuffled_ratings() -> None:
    """Ratings of whole groups are shuffled: were a group on both sides, they would be remembered."""
    x, y, groups = problem()
    shuffled = np.random.default_rng(3).permutation(y.reshape(-1, 4)).ravel()
    assert abs(out_of_fold(x, shuffled, groups)) < 0.25


def test_early_stopping_keeps_the_best_epoch() -> None:
    x, y, groups = problem(40)
    noise = np.random.default_rng(0).normal(size=len(y))
    fitted = fit_variants(x, noise, groups, variants=4, recipe=replace(SMALL, epochs=60, dropout=0.0))
    assert max(fitted.epochs) < 40
    assert min(fitted.epochs) >= 1


def test_constant_ratings_are_refused() -> None:
    x, y, groups = problem()
    with pytest.raises(DataError, match="All ratings are 4"):
        fit_variants(x, np.full_like(y, 4), groups)


def test_a_single_group_is_refused() -> None:
    x, y, _ = problem()
    with pytest.raises(DataError, match="one group"):
        fit_variants(x, y, ["a"] * len(y))
