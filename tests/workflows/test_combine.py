"""Stacks from heads: what is weighed is held out, what is measured is cross-fitted, what does not fit is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ais.backbones.embeddings import content_hashes
from ais.data.ratings import RatedSet
from ais.data.splits import grouped_folds
from ais.errors import DataError
from ais.heads.base import content_key
from ais.heads.loading import load_head
from ais.heads.regression import RegressionHead
from ais.heads.stack import StackedHead
from ais.metrics import bootstrap, regression
from ais.training import calibration
from ais.training.stacking import cross_fitted, fit_stack
from ais.workflows.combine import combine_heads
from ais.workflows.evaluate import score_held_out
from helpers.sets import PLAN, add_backbones, by_hand, joined, make_set, trained

FIRST = replace(PLAN, folds=4)


@pytest.fixture(autouse=True)
def _little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_backbones(tmp_path, monkeypatch)
    monkeypatch.setattr(bootstrap, "_RESAMPLES", 50)  # what is resampled is not the point here


@pytest.fixture
def members(rated: RatedSet, tmp_path: Path) -> list[RegressionHead]:
    return [trained(rated, tmp_path / "heads" / name, FIRST, name)[0] for name in ("little1", "little2")]


def test_a_stack_weighs_its_members_by_what_they_have_not_seen(
    rated: RatedSet, others: RatedSet, members: list[RegressionHead], tmp_path: Path
) -> None:
    stack = combine_heads(rated, members, name="stack")
    parts = [score_held_out(rated, member) for member in members]
    scores = np.stack([part.scores for part in parts], -1)
    weights, intercept = fit_stack(scores.mean(1), rated.ratings)
    assert (stack.weight > 0).all()
    np.testing.assert_allclose(stack.weight, weights, rtol=1e-6)
    assert stack.intercept.item() == pytest.approx(intercept, rel=1e-6)

    config = stack.config
    predicted = cross_fitted(scores, rated.ratings, parts[0].folds)  # type: ignore[arg-type]
    expected = regression.metrics(predicted.mean(1), rated.ratings, rated.groups)
    assert config.metrics.items() >= expected.items()
    assert config.metrics.items() >= {"pictures": 36, "groups": 18, "folds": 4, "grouped": True}.items()
    assert rated.sd is not None
    assert rated.n is not None
    assert config.metrics["ceiling"] == regression.ceiling(rated.ratings, rated.sd, rated.n)
    assert config.interval == calibration.calibrate(predicted, rated.ratings)
    single = [np.corrcoef(part.scores.mean(1), rated.ratings)[0, 1] for part in parts]
    best = int(np.argmax(single))
    assert config.metrics["over_best"]["head"] == members[best].config.name
    assert config.metrics["over_best"]["plcc"] == pytest.approx(expected["plcc"] - single[best])
    np.testing.assert_allclose(
        stack.rating_quantiles, np.quantile(rated.ratings, np.linspace(0, 1, 101)), rtol=1e-6
    )

    stack.save(tmp_path / "heads" / "stack")
    loaded = load_head(tmp_path / "heads" / "stack")
    assert isinstance(loaded, StackedHead)
    assert [m.config.name for m in loaded.members] == ["little1", "little2"]
    total = sum(w * by_hand(m, others) for w, m in zip(weights, members, strict=True)) + intercept
    np.testing.assert_allclose(score_held_out(others, loaded).scores, total, atol=1e-4)
    assert loaded.was_trained_on(content_hashes(rated.files)) == [True] * 36
    assert torch.equal(loaded.trained_on, members[0].trained_on)


def test_pictures_that_no_member_has_seen_will_do(
    rated: RatedSet, others: RatedSet, members: list[RegressionHead]
) -> None:
    """And then the stack has learned from them, too."""
    stack = combine_heads(others, members, name="stack")
    scores = np.stack([by_hand(member, others) for member in members], -1)
    weights, intercept = fit_stack(scores.mean(1), others.ratings)
    np.testing.assert_allclose(stack.weight, weights, rtol=1e-3)
    assert stack.intercept.item() == pytest.approx(intercept, rel=1e-3)
    assert others.groups is not None
    predicted = cross_fitted(scores, others.ratings, grouped_folds(others.groups, 10, 0))
    expected = regression.metrics(predicted.mean(1), others.ratings, others.groups)
    assert stack.config.metrics["plcc"] == pytest.approx(expected["plcc"], abs=1e-4)
    assert stack.config.metrics["folds"] == 10
    hashes = content_hashes([*rated.files, *others.files])
    assert all(stack.was_trained_on(hashes))
    assert stack.config.trained_on == 60


def test_a_stack_has_seen_what_any_member_has(
    rated: RatedSet, others: RatedSet, members: list[RegressionHead], tmp_path: Path
) -> None:
    fresh = make_set(tmp_path / "fresh", 24, seed=2)
    one = trained(others, tmp_path / "heads" / "other", FIRST, "little2")[0]
    stack = combine_heads(fresh, [members[0], one], name="stack")
    assert all(stack.was_trained_on(content_hashes([*rated.files, *others.files, *fresh.files])))
    for member in (members[0], one):
        member.config = replace(member.config, trained_on=0)
    silent = combine_heads(fresh, [members[0], one], name="stack")
    assert (silent.config.trained_on, score_held_out(others, silent).protocol) == (0, "unknown")


def test_a_member_that_adds_nothing_is_left_out(
    rated: RatedSet, others: RatedSet, members: list[RegressionHead], tmp_path: Path
) -> None:
    """Here one that says the opposite."""
    contrary = RegressionHead(replace(members[0].config, name="contrary"))
    contrary.load_state_dict(members[0].state_dict() | {"rating_std": -4 * members[0].rating_std})
    contrary.save(tmp_path / "heads" / "contrary")
    third = load_head(tmp_path / "heads" / "contrary")
    assert isinstance(third, RegressionHead)
    stack = combine_heads(others, [*members, third], name="stack")
    assert [member.head for member in stack.config.members] == ["little1", "little2"]
    assert stack.weight.shape == (2,)
    with pytest.raises(DataError, match="Beside 'little1' the other heads add nothing"):
        combine_heads(others, [members[0], third], name="stack")


Change = Callable[[list[RegressionHead]], list[RegressionHead]]


def other_config(**fields: object) -> Change:
    def change(heads: list[RegressionHead]) -> list[RegressionHead]:
        heads[1].config = replace(heads[1].config, **fields)  # type: ignore[arg-type]
        return heads

    return change


def other_target(**fields: object) -> Change:
    def change(heads: list[RegressionHead]) -> list[RegressionHead]:
        return other_config(target=replace(heads[1].config.target, **fields))(heads)  # type: ignore[arg-type]

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda heads: heads[:1], "at least two"),
        (lambda heads: [heads[0], heads[0]], "should have different names"),
        (other_target(name="beauty"), "do not predict the same thing"),
        (other_target(high=7), "do not predict the same thing on the same scale"),
        (other_config(variants=3), "the same number of variants"),
        (other_config(view="crop"), "does not see the whole picture"),
        (other_config(name="renamed"), "a folder of its own name"),
        (other_config(recipe={}), "does not say how it was trained"),
        (other_config(recipe=replace(FIRST, seed=1).to_dict()), "other folds"),
        (other_config(recipe=PLAN.to_dict()), "other folds.*--folds"),
    ],
)
def test_heads_that_do_not_fit_together(
    change: Change, sentence: str, rated: RatedSet, members: list[RegressionHead]
) -> None:
    with pytest.raises(DataError, match=sentence):
        combine_heads(rated, change(members), name="stack")


def test_a_stack_is_no_member_and_takes_no_members_place(
    rated: RatedSet, members: list[RegressionHead], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="take the place of its member 'little2'"):
        combine_heads(rated, members, name="little2")
    combine_heads(rated, members, name="stack").save(tmp_path / "heads" / "stack")
    stack = load_head(tmp_path / "heads" / "stack")
    with pytest.raises(DataError, match="'stack' is a stack itself"):
        combine_heads(rated, [members[0], stack], name="larger")  # type: ignore[list-item]


def test_all_members_know_the_pictures_or_none(
    rated: RatedSet, others: RatedSet, members: list[RegressionHead], tmp_path: Path
) -> None:
    stranger = trained(others, tmp_path / "heads" / "stranger", FIRST)[0]
    for data, heads in ((joined(rated, others), members), (rated, [members[0], stranger])):
        with pytest.raises(
            DataError, match="that all of them were trained on, or pictures that none has seen"
        ):
            combine_heads(data, heads, name="stack")


def test_keys_are_those_of_the_contents(others: RatedSet, members: list[RegressionHead]) -> None:
    stack = combine_heads(others, members, name="stack")
    keys = [content_key(value) for value in content_hashes(others.files)]
    assert stack.trained_on[-24:].tolist() == keys
    assert len(set(stack.trained_on.tolist())) == len(stack.trained_on)
