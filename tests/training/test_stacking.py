"""Combining members: the weights against the closed form, and what area-weighted resampling conserves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ais.attribution.grids import combine_points, resample
from ais.errors import DataError
from ais.training.stacking import cross_fitted, fit_stack, fold_stacks

sides = st.integers(1, 12)

shapes = st.tuples(sides, sides)


def members(noise: list[float], pictures: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Ratings, and members that know them up to noise of their own: scores (N, M), ratings (N,)."""
    rng = np.random.default_rng(seed)
    ratings = rng.normal(4, 1, pictures)
    return ratings[:, None] + rng.normal(0, noise, (pictures, len(noise))), ratings


def random_grid(shape: tuple[int, int], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def test_weights_solve_the_ridge_where_none_touches_zero() -> None:
    scores, ratings = members([0.5, 0.6, 0.9])
    weights, intercept = fit_stack(scores, ratings, ridge=2.0)
    x, y = scores - scores.mean(0), ratings - ratings.mean()
    penalty = 2.0 * 9 * scores.var(0).mean() * (np.eye(3) - 1 / 3)
    exact = np.linalg.solve(x.T @ x + penalty, x.T @ y)
    assert (exact > 0).all()
    np.testing.assert_allclose(weights, exact, rtol=1e-9)
    assert intercept == pytest.approx(ratings.mean() - scores.mean(0) @ exact)


def test_weights_are_the_best_among_those_that_are_not_negative() -> None:
    """Karush-Kuhn-Tucker: no slope along a weight above 0, none downwards along a weight at 0."""
    scores, ratings = members([0.5, 0.6, 0.7])
    scores[:, 2] = -scores[:, 2]  # a member that has it backwards
    weights, _ = fit_stack(scores, ratings, ridge=1.0)
    x, y = scores - scores.mean(0), ratings - ratings.mean()
    slope = x.T @ (x @ weights - y) + 9 * scores.var(0).mean() * (weights - weights.mean())
    assert weights[2] == 0
    assert slope[2] > 0
    np.testing.assert_allclose(slope[:2], 0, atol=1e-9 * np.abs(x.T @ y).max())


def test_the_better_member_counts_more_and_the_stack_beats_both() -> None:
    scores, ratings = members([0.5, 1.0])
    weights, intercept = fit_stack(scores, ratings)
    assert weights[0] > 2 * weights[1] > 0
    fresh, truth = members([0.5, 1.0], seed=1)
    stacked = np.square(fresh @ weights + intercept - truth).mean()
    assert stacked < np.square(fresh - truth[:, None]).mean(0).min()


def test_members_that_say_the_same_share_evenly() -> None:
    scores, ratings = members([0.5])
    weights, _ = fit_stack(scores.repeat(4, axis=1), ratings)
    np.testing.assert_allclose(weights, weights.mean(), rtol=1e-9)


def test_between_the_mean_and_the_least_squares() -> None:
    """A strong ridge gives even shares, on the ratings' scale; none gives the unrestricted fit."""
    scores, ratings = members([0.3, 1.5])
    scores /= 2  # members that are too cautious
    even, intercept = fit_stack(scores, ratings, ridge=1e9)
    slope, offset = np.polyfit(scores.mean(1), ratings, 1)
    np.testing.assert_allclose(even, slope / 2, rtol=1e-6)
    assert intercept == pytest.approx(offset, rel=1e-6)
    free, _ = fit_stack(scores, ratings, ridge=0.0)
    x = np.column_stack([scores, np.ones(len(scores))])
    np.testing.assert_allclose(free, np.linalg.lstsq(x, ratings, rcond=None)[0][:2], rtol=1e-9)


@pytest.mark.parametrize("factor", [0.01, 100.0])
def test_the_scale_does_not_matter(factor: float) -> None:
    scores, ratings = members([0.5, 1.0])
    weights, intercept = fit_stack(scores, ratings)
    scaled, moved = fit_stack(factor * scores, factor * ratings)
    np.testing.assert_allclose(scaled, weights, rtol=1e-9)
    assert moved == pytest.approx(factor * intercept)


def test_members_of_no_use_are_refused() -> None:
    scores, ratings = members([0.5, 0.5])
    with pytest.raises(DataError, match="rise with the ratings"):
        fit_stack(-scores, ratings)
    with pytest.raises(DataError, match="differs between the pictures"):
        fit_stack(np.ones_like(scores), ratings)


def test_no_picture_is_predicted_with_weights_that_saw_it() -> None:
    scores, ratings = members([0.5, 1.0], pictures=60)
    folds = np.arange(60) % 3
    predicted = cross_fitted(scores, ratings, folds)
    weights, intercept = fit_stack(scores[folds != 1], ratings[folds != 1])
    np.testing.assert_allclose(predicted[folds == 1], scores[folds == 1] @ weights + intercept)
    found = fold_stacks(scores, ratings, folds)
    assert list(found) == [0, 1, 2]
    np.testing.assert_array_equal(found[1][0], weights)
    assert found[1][1] == intercept
    ratings[folds == 1] *= 3  # so that the weights of the other two folds change
    changed = cross_fitted(scores, ratings, folds)
    np.testing.assert_array_equal(changed[folds == 1], predicted[folds == 1])
    assert (np.abs(changed - predicted)[folds != 1] > 0.1).all()


def test_one_fold_is_refused() -> None:
    with pytest.raises(DataError, match="one fold"):
        cross_fitted(np.eye(4), np.arange(4.0), np.zeros(4))


@settings(max_examples=60, deadline=None)
@given(shapes, shapes)
def test_resampling_equals_a_grid_fine_enough_for_both(old: tuple[int, int], new: tuple[int, int]) -> None:
    """The oracle: repeat every cell until both grids' edges lie on the fine grid's, then average."""
    values = random_grid(old, 0)
    fine = values.repeat(new[0], 0).repeat(new[1], 1)
    oracle = fine.reshape(new[0], old[0], new[1], old[1]).mean((1, 3))
    np.testing.assert_allclose(resample(values, new), oracle, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(shapes, shapes)
def test_resampling_conserves_the_mean_and_constants(old: tuple[int, int], new: tuple[int, int]) -> None:
    values = np.stack([random_grid(old, 1), np.full(old, 2.5)])
    result = resample(values, new)
    assert result.shape == (2, *new)
    np.testing.assert_allclose(result[0].mean(), values[0].mean(), atol=1e-12)
    np.testing.assert_allclose(result[1], 2.5, rtol=1e-12)


@given(shapes)
def test_resampling_to_the_same_shape_changes_nothing(shape: tuple[int, int]) -> None:
    values = random_grid(shape, 2)
    np.testing.assert_array_equal(resample(values, shape), values)


@settings(max_examples=60, deadline=None)
@given(st.lists(shapes, min_size=1, max_size=4))
def test_points_add_up(sizes: list[tuple[int, int]]) -> None:
    grids = [random_grid(size, i) for i, size in enumerate(sizes)]
    weights = np.random.default_rng(3).uniform(0, 1, len(grids))
    combined = combine_points(grids, weights, per_cell=True)
    assert combined.size == max(grid.size for grid in grids)
    total = sum(weight * grid.sum() for weight, grid in zip(weights, grids, strict=True))
    np.testing.assert_allclose(combined.sum(), total, atol=1e-11)


@settings(max_examples=60, deadline=None)
@given(st.lists(shapes, min_size=1, max_size=4))
def test_constants_without_an_area_add_up_in_every_cell(sizes: list[tuple[int, int]]) -> None:
    grids = [np.full(size, float(i + 1)) for i, size in enumerate(sizes)]
    combined = combine_points(grids, [0.5] * len(grids), per_cell=False)
    np.testing.assert_allclose(combined, 0.5 * sum(range(1, len(grids) + 1)), rtol=1e-12)
