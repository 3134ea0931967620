"""Pruning a head: the choice never knows the test pictures, and what is reported is measured on them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ais.backbones.embeddings import content_hashes
from ais.backbones.loading import load_backbone
from ais.data.ratings import RatedSet
from ais.data.splits import grouped_split
from ais.errors import DataError
from ais.heads.config import BACKBONE
from ais.heads.loading import load_head
from ais.heads.regression import RegressionHead
from ais.images.reading import read_image
from ais.metrics import bootstrap, regression
from ais.training import calibration, cross_validation, mlp
from ais.training import pruning as training_pruning
from ais.training.criteria import ScoredFold
from ais.training.cross_validation import embed_ratings, fit_head
from ais.training.plan import FitContext
from ais.training.pruning import PruningReport
from ais.workflows import prune
from ais.workflows.evaluate import score_held_out
from ais.workflows.prune import prune_head
from ais.workflows.train import train_head
from helpers.sets import PLAN, TARGET, TUNED, add_backbones, by_hand, joined, make_set, pruned, trained


@pytest.fixture(autouse=True)
def _little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_backbones(tmp_path, monkeypatch)
    monkeypatch.setattr(bootstrap, "_RESAMPLES", 50)  # what is resampled is not the point here


@pytest.fixture(scope="module")
def rated(tmp_path_factory: pytest.TempPathFactory) -> RatedSet:
    return make_set(tmp_path_factory.mktemp("rated"), 60)


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> RatedSet:
    return make_set(tmp_path_factory.mktemp("others"), 40, seed=1)


@pytest.fixture
def head(rated: RatedSet, tmp_path: Path) -> RegressionHead:
    return trained(rated, tmp_path / "heads" / "head")[0]


def for_testing(data: RatedSet, seed: int = 0) -> np.ndarray:
    """The test pictures: a quarter, in whole groups."""
    assert data.groups is not None
    return grouped_split(data.groups, 0.25, seed)


@pytest.mark.parametrize("how", ["greedy", "negative"])
@pytest.mark.parametrize("known", [True, False])
def test_the_mask_does_not_know_the_ratings_of_the_test_pictures(
    known: bool, how: str, rated: RatedSet, others: RatedSet, head: RegressionHead
) -> None:
    data = rated if known else others
    first, before = prune_head(data, head, name="pruned", criterion=how)
    assert 0 < len(first.config.pruned) < 12
    ratings = data.ratings.copy()
    ratings[for_testing(data)] = 10 - ratings[for_testing(data)]
    second, after = prune_head(replace(data, ratings=ratings), head, name="pruned", criterion=how)
    assert second.config.pruned == first.config.pruned
    assert after.validation == before.validation
    assert after.test != before.test
    ratings = data.ratings.copy()
    ratings[~for_testing(data)] = 10 - ratings[~for_testing(data)]
    third, _ = prune_head(replace(data, ratings=ratings), head, name="pruned", criterion=how)
    assert third.config.pruned != first.config.pruned  # else the above says nothing


def test_no_head_that_takes_part_has_trained_on_a_test_picture(
    rated: RatedSet, head: RegressionHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[set[str]] = []
    judged: list[tuple[Sequence[ScoredFold], Sequence[ScoredFold]]] = []
    original_fit, original_prune = mlp.fit_variants, training_pruning.prune

    def fitting(embedding: Tensor, ratings: np.ndarray, groups: Sequence[str], **options: Any) -> Any:
        fitted.append(set(groups))
        return original_fit(embedding, ratings, groups, **options)

    def pruning(validation: Sequence[ScoredFold], test: Sequence[ScoredFold], *rest: Any) -> Any:
        judged.append((validation, test))
        return original_prune(validation, test, *rest)

    monkeypatch.setattr(cross_validation, "fit_variants", fitting)
    monkeypatch.setattr(prune, "prune", pruning)
    prune_head(rated, head, name="pruned", seed=3)
    ((validation, test),) = judged
    assert rated.groups is not None
    kept_out = {rated.groups[i] for i in np.flatnonzero(for_testing(rated, 3))}
    assert {name for part in test for name in part.groups} == kept_out
    assert len(fitted) == 6  # five folds, and the head that is tested
    assert not any(groups & kept_out for groups in fitted)
    for part, groups in zip(validation, fitted, strict=False):
        assert part.groups
        assert not set(part.groups) & groups
    assert {name for part in validation for name in part.groups} == set(rated.groups) - kept_out
    assert fitted[-1] == set(rated.groups) - kept_out


def pruned_by_hand(head: RegressionHead, data: RatedSet, channels: list[int]) -> np.ndarray:
    changed = RegressionHead(replace(head.config, pruned=channels))
    changed.load_state_dict(head.state_dict())
    return by_hand(changed, data)


def typical_of(head: RegressionHead, data: RatedSet) -> torch.Tensor:
    """The mean of what the head reads, (D,), by the plain way: its backbone with the pruned maps at 0."""
    backbone = load_backbone("little1", view="resize")
    return torch.stack([backbone(read_image(file), head.keep).embedding[0] for file in data.files]).mean(0)


def test_a_pruned_head_and_its_figures(
    others: RatedSet, rated: RatedSet, head: RegressionHead, tmp_path: Path
) -> None:
    made, report = prune_head(others, head, name="pruned", seed=1)
    test = others.rows(for_testing(others, 1))
    scores = pruned_by_hand(head, test, made.config.pruned)
    expected = regression.metrics(scores.mean(1), test.ratings, test.groups)
    for key, value in expected.items():
        assert made.config.metrics[key] == pytest.approx(value, abs=1e-5)
    assert made.config.metrics["pictures"] == len(test)
    assert made.config.metrics["pruning"] == asdict(report)
    before = by_hand(head, test).mean(1)
    assert report.test["before"]["plcc"] == pytest.approx(np.corrcoef(before, test.ratings)[0, 1], abs=1e-5)
    assert report.test["after"]["rmse"] == pytest.approx(expected["rmse"], abs=1e-5)
    assert report.difference == pytest.approx(
        regression.difference(before, scores.mean(1), test.ratings, test.groups), abs=1e-5
    )
    calibrated = calibration.calibrate(scores, test.ratings)
    assert asdict(made.config.interval) == pytest.approx(asdict(calibrated), abs=1e-5)
    assert (report.maps, report.pruned) == (12, len(made.config.pruned))

    made.save(tmp_path / "heads" / "pruned")
    loaded = load_head(tmp_path / "heads" / "pruned")
    assert isinstance(loaded, RegressionHead)
    assert json.loads(json.dumps(loaded.config.metrics, allow_nan=False)) == made.config.metrics
    assert torch.equal(loaded.keep, made.keep)
    assert (loaded.mean_residual[~loaded.keep] == 0).all()
    assert torch.equal(loaded.mean_residual[loaded.keep], head.mean_residual[loaded.keep])
    for name in ("weight1", "bias1", "weight2", "bias2"):
        assert torch.equal(getattr(loaded, name), getattr(head, name))
    assert torch.equal(loaded.typical[loaded.keep], head.typical[loaded.keep])
    torch.testing.assert_close(loaded.typical[~loaded.keep], typical_of(loaded, others)[~loaded.keep])
    np.testing.assert_allclose(by_hand(loaded, test), scores, atol=1e-5)


def test_pictures_that_maps_were_chosen_on_are_no_longer_unseen(
    others: RatedSet, rated: RatedSet, head: RegressionHead
) -> None:
    """ScoredFold on the same set, the pruned head gives the figures of its card."""
    made, _ = prune_head(others, head, name="pruned")
    rest = others.rows(~for_testing(others))
    assert all(made.was_trained_on(content_hashes([*rated.files, *rest.files])))
    held = score_held_out(others, made)
    assert (held.protocol, held.left_out) == ("unseen", len(rest))
    assert held.data.files == others.rows(for_testing(others)).files
    measured = regression.metrics(held.scores.mean(1), held.data.ratings, held.groups)
    assert made.config.metrics["plcc"] == pytest.approx(measured["plcc"], abs=1e-6)


def test_pictures_it_has_learned_from_are_judged_by_heads_that_stand_in(
    rated: RatedSet, head: RegressionHead
) -> None:
    """The figures are those of a head fitted on the other three quarters, with the mask."""
    made, _ = prune_head(rated, head, name="pruned")
    test = for_testing(rated)
    backbone = load_backbone("little1", view="resize")
    pictures = embed_ratings(rated.rows(~test), backbone)
    judge = fit_head(pictures, FitContext(backbone, PLAN), head.config)
    scores = pruned_by_hand(judge, rated.rows(test), made.config.pruned)
    expected = regression.metrics(scores.mean(1), rated.ratings[test], rated.rows(test).groups)
    assert made.config.metrics["plcc"] == pytest.approx(expected["plcc"], abs=1e-5)
    assert made.config.metrics["rmse"] == pytest.approx(expected["rmse"], abs=1e-5)
    assert torch.equal(made.weight1, head.weight1)  # but the weights are the head's own
    assert torch.equal(made.trained_on, head.trained_on)
    torch.testing.assert_close(made.typical, typical_of(made, rated))


def test_only_the_unseen_of_a_mixed_set_take_part(
    rated: RatedSet, others: RatedSet, head: RegressionHead
) -> None:
    mixed = joined(rated.rows(np.arange(20)), others)
    made, report = prune_head(mixed, head, name="pruned")
    alone, alone_report = prune_head(others, head, name="pruned")
    assert (made.config.pruned, report) == (alone.config.pruned, alone_report)


def test_what_is_pruned_stays_pruned(others: RatedSet, head: RegressionHead, tmp_path: Path) -> None:
    once = pruned(head, [0, 7], tmp_path / "heads" / "once")
    twice, report = prune_head(others, once, name="twice")
    assert {0, 7} < set(twice.config.pruned)
    assert report.pruned == len(twice.config.pruned)
    assert report.newly_pruned == report.pruned - 2
    test = others.rows(for_testing(others))
    before = by_hand(once, test).mean(1)
    assert report.test["before"]["plcc"] == pytest.approx(np.corrcoef(before, test.ratings)[0, 1], abs=1e-5)


def test_a_tuned_head_is_pruned_on_pictures_that_it_has_not_seen(
    rated: RatedSet, others: RatedSet, tmp_path: Path
) -> None:
    head, _ = trained(rated, tmp_path / "heads" / "tuned", TUNED)
    with pytest.raises(DataError, match="has learned from these pictures, too"):
        prune_head(rated, head, name="pruned")
    made, _ = prune_head(others, head, name="pruned")
    assert made.config.tuned_sha256 == head.config.tuned_sha256
    made.save(tmp_path / "heads" / "pruned")
    head_file, file = (tmp_path / "heads" / name / BACKBONE for name in ("tuned", "pruned"))
    assert file.read_bytes() == head_file.read_bytes()
    assert score_held_out(others, load_head(tmp_path / "heads" / "pruned")).protocol == "unseen"


def honest(report: PruningReport) -> bool:
    d = report.difference
    better = d["plcc_low"] > 0 or d["rmse_high"] < 0
    return better and not (d["plcc_high"] < 0 or d["rmse_low"] > 0)


def test_a_gain_is_told_only_where_there_is_one(
    others: RatedSet, head: RegressionHead, tmp_path: Path
) -> None:
    """A map that shouts at random is a gain to prune; what helps on validation pictures alone is none."""
    noisy = RegressionHead(replace(head.config, name="noisy"))
    state = head.state_dict()
    state["weight1"] = state["weight1"].clone()
    worst = int(torch.argmin(head.mean_residual))
    state["weight1"][:, :, worst] += 3 * torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    noisy.load_state_dict(state)
    noisy.save(tmp_path / "heads" / "noisy")
    loaded = load_head(tmp_path / "heads" / "noisy")
    assert isinstance(loaded, RegressionHead)
    better, report = prune_head(others, loaded, name="pruned")
    assert worst in better.config.pruned
    assert report.gain
    assert honest(report)
    chance = replace(others, ratings=np.random.default_rng(0).uniform(0, 10, len(others)))
    _, report = prune_head(chance, head, name="pruned", criterion="negative")
    assert report.validation["after"]["rmse"] < report.validation["before"]["rmse"]
    assert report.gain == honest(report)


def test_what_cannot_be_pruned(
    rated: RatedSet, others: RatedSet, head: RegressionHead, tmp_path: Path
) -> None:
    general, _ = train_head(
        rated, load_backbone("little1", "stem.0", view="resize"), name="general", target=TARGET, plan=PLAN
    )
    general.save(tmp_path / "heads" / "general")
    with pytest.raises(DataError, match="mix before the embedding"):
        prune_head(others, load_head(tmp_path / "heads" / "general"), name="pruned")  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"at least 8 groups .* here are 7"):
        prune_head(others.rows(np.arange(14)), head, name="pruned")
    head.config = replace(head.config, recipe={})
    with pytest.raises(DataError, match="does not say how it was trained"):
        prune_head(rated, head, name="pruned")
