"""Judging a head: only by pictures it has not seen, and by the numbers that the evaluation functions give."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ais.backbones.loading import load_backbone
from ais.data.ratings import RatedSet
from ais.errors import DataError
from ais.heads.config import BACKBONE
from ais.heads.regression import RegressionHead
from ais.images.reading import read_image
from ais.metrics import bootstrap, regression
from ais.training import cross_validation
from ais.training.stacking import cross_fitted
from ais.workflows.combine import combine_heads
from ais.workflows.evaluate import WORST, HeldOut, evaluate_head, score_held_out
from helpers.sets import TUNED, add_backbones, by_hand, joined, pruned, trained


@pytest.fixture(autouse=True)
def _little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_backbones(tmp_path, monkeypatch)
    monkeypatch.setattr(bootstrap, "_RESAMPLES", 50)  # what is resampled is not the point here


def forbid_fitting(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("nothing is to be fitted here")

    monkeypatch.setattr(cross_validation, "fit_variants", fail)
    monkeypatch.setattr(cross_validation, "fine_tune", fail)


@pytest.mark.parametrize("silenced", [[], [1, 5, 6]])
def test_unseen_pictures_are_scored_by_the_head_itself(
    silenced: list[int], rated: RatedSet, others: RatedSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, _ = trained(rated, tmp_path / "head")
    if silenced:
        head = pruned(head, silenced, tmp_path / "pruned")
    forbid_fitting(monkeypatch)
    held = score_held_out(others, head)
    assert (held.protocol, held.left_out, held.folds) == ("unseen", 0, None)
    assert held.data.files == others.files
    assert held.groups == others.groups
    np.testing.assert_allclose(held.scores, by_hand(head, others), atol=1e-5)


def test_pictures_it_has_learned_from_are_cross_validated(
    rated: RatedSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the figures of its card, and from what the training left on disk."""
    head, report = trained(rated, tmp_path / "head")
    forbid_fitting(monkeypatch)
    held = score_held_out(rated, head)
    assert (held.protocol, held.left_out) == ("cross-validation", 0)
    np.testing.assert_array_equal(held.scores, report.out_of_fold.scores)
    np.testing.assert_array_equal(held.folds, report.out_of_fold.folds)
    assert evaluate_head(held, head)["metrics"].items() <= head.config.metrics.items()


def test_a_pruned_head_is_not_judged_by_the_pictures_its_maps_were_chosen_on(
    rated: RatedSet, others: RatedSet, tmp_path: Path
) -> None:
    head = pruned(trained(rated, tmp_path / "head")[0], [0, 2, 3, 7], tmp_path / "pruned")
    with pytest.raises(DataError, match="chosen on these pictures"):
        score_held_out(rated, head)
    np.testing.assert_allclose(score_held_out(others, head).scores, by_hand(head, others), atol=1e-5)


def test_a_part_of_what_it_has_learned_from_is_no_set_to_judge_it_by(rated: RatedSet, tmp_path: Path) -> None:
    """Heads fitted on the part alone are not like it."""
    head, _ = trained(rated, tmp_path / "head")
    with pytest.raises(DataError, match="exactly those that it learned from"):
        score_held_out(rated.rows(np.arange(len(rated) - 3)), head)


@pytest.mark.parametrize("strategy", ["last-k", "scratch"])
def test_a_tuned_backbone_does_not_judge_what_it_was_tuned_on(
    strategy: str, rated: RatedSet, others: RatedSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its cross-validation begins where the training began, not with the backbone that has seen every picture."""
    head, report = trained(rated, tmp_path / "head", replace(TUNED, strategy=strategy))
    forbid_fitting(monkeypatch)
    np.testing.assert_array_equal(score_held_out(rated, head).scores, report.out_of_fold.scores)
    network = load_backbone("little1", view="resize", weights=tmp_path / "head" / BACKBONE).network
    preprocessing = load_backbone("little1", view="resize").preprocessing
    with torch.no_grad():
        embedding = torch.cat([network(preprocessing(read_image(file))[None]) for file in others.files])
    np.testing.assert_allclose(score_held_out(others, head).scores, head(embedding), atol=1e-4)


@pytest.mark.parametrize("strategy", ["head", "last-k", "scratch"])
def test_a_head_of_another_size_is_judged_at_it(
    strategy: str, rated: RatedSet, others: RatedSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = replace(TUNED, strategy=strategy)
    head, report = trained(rated, tmp_path / "head", plan, size=64)
    assert head.config.size == 64
    assert head.config.backbone_label.startswith("little1 at 64 px")
    forbid_fitting(monkeypatch)
    np.testing.assert_array_equal(score_held_out(rated, head).scores, report.out_of_fold.scores)
    weights = tmp_path / "head" / BACKBONE if report.tuned else "default"
    network = load_backbone("little1", weights=weights).network
    preprocessing = load_backbone("little1", view="resize", size=64).preprocessing
    with torch.no_grad():
        embedding = torch.cat([network(preprocessing(read_image(file))[None]) for file in others.files])
    np.testing.assert_allclose(score_held_out(others, head).scores, head(embedding), atol=1e-4)


def test_of_a_mixed_set_only_the_unseen_are_scored(rated: RatedSet, others: RatedSet, tmp_path: Path) -> None:
    """Known by their content: under other names, too."""
    head, _ = trained(rated, tmp_path / "head")
    copies = [tmp_path / f"copy {i}.png" for i in range(7)]
    for copy, file in zip(copies, rated.files, strict=False):
        copy.write_bytes(file.read_bytes())
    some = replace(rated.rows(np.arange(7)), files=copies)
    held = score_held_out(joined(some, others), head)
    assert (held.protocol, held.left_out) == ("unseen", 7)
    assert held.data.files == others.files
    np.testing.assert_array_equal(held.data.ratings, others.ratings)
    np.testing.assert_allclose(held.scores, by_hand(head, others), atol=1e-5)
    assert evaluate_head(held, head)["left_out"] == 7


def test_a_head_without_record_says_so(rated: RatedSet, tmp_path: Path) -> None:
    head, _ = trained(rated, tmp_path / "head")
    state = {name: value for name, value in head.state_dict().items() if name != "trained_on"}
    silent = RegressionHead(replace(head.config, trained_on=0))
    silent.load_state_dict(state)
    held = score_held_out(rated, silent)
    assert (held.protocol, held.left_out, len(held.data)) == ("unknown", 0, 36)
    np.testing.assert_allclose(held.scores, by_hand(head, rated), atol=1e-5)


def test_stacks(rated: RatedSet, others: RatedSet, tmp_path: Path) -> None:
    members, reports = zip(
        *(trained(rated, tmp_path / name, backbone=name) for name in ("little1", "little2")), strict=True
    )
    stack = combine_heads(rated, members, name="stack")
    held = score_held_out(others, stack)
    total = sum(w * by_hand(m, others) for w, m in zip(stack.weight.tolist(), stack.members, strict=True))
    np.testing.assert_allclose(held.scores, total + stack.intercept.item(), atol=1e-5)
    assert held.protocol == "unseen"

    held = score_held_out(rated, stack)
    folds = reports[0].out_of_fold.folds
    scores = np.stack([report.out_of_fold.scores for report in reports], -1)
    np.testing.assert_allclose(held.scores, cross_fitted(scores, rated.ratings, folds))
    np.testing.assert_array_equal(held.folds, folds)
    assert evaluate_head(held, stack)["metrics"].items() <= stack.config.metrics.items()


def test_too_few_unseen_pictures_is_a_sentence(rated: RatedSet, others: RatedSet, tmp_path: Path) -> None:
    head, _ = trained(rated, tmp_path / "head")
    with pytest.raises(DataError, match=r"Of these 45 pictures the head 'head' has not seen 9: too few"):
        score_held_out(joined(rated, others.rows(np.arange(9))), head)
    assert len(score_held_out(joined(rated, others.rows(np.arange(10))), head).data) == 10
    with pytest.raises(DataError, match="Of these 0 pictures"):
        score_held_out(rated.rows(np.array([], dtype=np.int64)), head)


def test_a_picture_that_is_gone_is_a_sentence(rated: RatedSet, others: RatedSet, tmp_path: Path) -> None:
    head, _ = trained(rated, tmp_path / "head")
    with pytest.raises(DataError, match=r"gone\.png"):
        score_held_out(replace(others, files=[tmp_path / "gone.png", *others.files[1:]]), head)


def test_the_report_is_what_the_evaluation_says(rated: RatedSet, others: RatedSet, tmp_path: Path) -> None:
    head, _ = trained(rated, tmp_path / "head")
    held = score_held_out(replace(others, skipped=["line 3: no number"]), head)
    report = evaluate_head(held, head)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    predicted = held.scores.mean(1)
    assert report["metrics"] == regression.metrics(predicted, others.ratings, others.groups)
    assert others.sd is not None
    assert others.n is not None
    assert report["ceiling"] == regression.ceiling(others.ratings, others.sd, others.n)
    assert others.categories is not None
    assert report["categories"] == regression.by_category(predicted, others.ratings, others.categories)
    counts = {"pictures": 24, "groups": 12, "grouped": True, "left_out": 0, "skipped": 1, "how": "unseen"}
    assert report.items() >= counts.items()
    assert (report["head"], report["target"]) == ("head", "rating_mean")

    interval = head.config.interval
    half = interval.factor * np.sqrt(interval.error**2 + held.scores.var(1))
    inside = float(np.mean(np.abs(predicted - others.ratings) <= half))
    assert report["interval"] == {"level": 0.9, "inside": inside, "holds": 0.85 <= inside <= 0.95}

    errors = np.abs(predicted - others.ratings)
    assert len(report["worst"]) == WORST
    for row, i in zip(report["worst"], np.argsort(-errors), strict=False):
        assert row == {
            "file": str(others.files[i]),
            "rated": others.ratings[i],
            "predicted": pytest.approx(predicted[i]),
        }


def test_a_bare_set_has_no_ceiling_and_no_categories(
    others: RatedSet, tmp_path: Path, rated: RatedSet
) -> None:
    head, _ = trained(rated, tmp_path / "head")
    bare = replace(others, sd=None, n=None, groups=None, categories=None)
    report = evaluate_head(score_held_out(bare, head), head)
    assert report["ceiling"] is None
    assert report["categories"] is None
    assert (report["groups"], report["grouped"]) == (24, False)


@pytest.mark.parametrize(("error", "holds"), [(0.01, False), (1e6, False), (None, True)])
def test_an_interval_that_does_not_hold_is_told(
    error: float | None, holds: bool, rated: RatedSet, tmp_path: Path
) -> None:
    head, _ = trained(rated, tmp_path / "head")
    held = score_held_out(rated, head)
    if error is not None:
        head.config = replace(head.config, interval=replace(head.config.interval, error=error))
        held = HeldOut(**{**vars(held), "scores": held.scores.mean(1, keepdims=True).repeat(2, 1)})
    report = evaluate_head(held, head)
    assert report["interval"]["holds"] is holds


def test_a_head_is_not_changed_by_being_judged(rated: RatedSet, others: RatedSet, tmp_path: Path) -> None:
    head, _ = trained(rated, tmp_path / "head")
    before = {name: value.clone() for name, value in head.state_dict().items()}
    score_held_out(rated, head)
    score_held_out(others, head)
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())
