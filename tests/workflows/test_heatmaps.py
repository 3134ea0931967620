"""Heatmaps of held-out pictures: each by a head that has not seen it, with the score that it was held out for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ais.attribution.faithfulness.compared import COMPARED
from ais.attribution.faithfulness.measure import Comparison
from ais.backbones.embeddings import content_hashes
from ais.data.ratings import RatedSet
from ais.errors import AISError, DataError
from ais.heads.regression import RatingHead
from ais.images.reading import read_image
from ais.metrics import bootstrap
from ais.workflows import heatmaps
from ais.workflows.combine import combine_heads
from ais.workflows.evaluate import score_held_out
from ais.workflows.heatmaps import choose_heatmaps, judge_heatmaps
from helpers.sets import TUNED, add_backbones, trained

QUICK = Comparison(("contribution", "random"), steps=2)


@pytest.fixture(autouse=True)
def _little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_backbones(tmp_path, monkeypatch)
    monkeypatch.setattr(bootstrap, "_RESAMPLES", 50)


def record(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What is measured: the files, the heads, the backbones, and the groups."""
    calls: list[tuple[Any, ...]] = []
    original = heatmaps.faithfulness

    def recording(*given: Any, groups: Any, progress: Any) -> Any:
        calls.append((*given, groups))
        return original(*given, groups=groups, progress=progress)

    monkeypatch.setattr(heatmaps, "faithfulness", recording)
    return calls


def score_of(head: RatingHead, backbones: list[Any], file: Path) -> np.ndarray:
    with torch.no_grad():
        scores = [
            member(backbone(read_image(file)).embedding)
            for member, backbone in zip(head.members, backbones, strict=True)
        ]
        return head.combine(scores)[0].numpy()


def test_no_picture_is_explained_by_a_head_that_has_seen_it(
    rated: RatedSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = record(monkeypatch)
    head, _ = trained(rated, tmp_path / "head")
    held = score_held_out(rated, head)
    assert held.protocol == "cross-validation"
    found = judge_heatmaps(held, head, QUICK)
    ((files, heads, backbones, _, groups),) = calls
    assert (found["pictures"], found["groups"], groups) == (36, 18, rated.groups)
    assert files == rated.files
    hashes = content_hashes(files)
    embeddings = torch.cat([backbones[0](read_image(file)).embedding for file in files])
    for n, (file, one) in enumerate(zip(files, heads, strict=True)):
        seen = np.array(one.was_trained_on(hashes))
        theirs = {groups[i] for i in np.flatnonzero(seen)}
        assert seen.sum() == 24
        assert not seen[n]
        assert groups[n] not in theirs
        np.testing.assert_allclose(score_of(one, backbones, file), held.scores[n], atol=1e-4)
        np.testing.assert_allclose(one.typical, embeddings[torch.from_numpy(seen)].mean(0), atol=1e-4)


def test_unseen_pictures_are_explained_by_the_head_itself(
    rated: RatedSet, others: RatedSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = record(monkeypatch)
    head, _ = trained(rated, tmp_path / "head")
    held = score_held_out(others, head)
    stages: list[tuple[str, int, int]] = []
    found = judge_heatmaps(held, head, QUICK, pictures=5, progress=lambda *told: stages.append(told))
    ((files, heads, _, _, groups),) = calls
    assert found["pictures"] == 5
    assert stages[-1] == ("heatmaps", 5, 5)
    rows = [others.files.index(file) for file in files]
    assert rows == sorted(set(rows))
    assert others.groups is not None
    assert groups == [others.groups[i] for i in rows]
    assert {id(one) for one in heads} == {id(head)}
    judge_heatmaps(held, head, QUICK, pictures=5)
    assert calls[1][0] == files  # the same by chance


def test_stacks_are_explained_by_the_stacks_of_the_folds(
    rated: RatedSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = record(monkeypatch)
    members = [trained(rated, tmp_path / name, backbone=name)[0] for name in ("little1", "little2")]
    stack = combine_heads(rated, members, name="stack")
    held = score_held_out(rated, stack)
    judge_heatmaps(held, stack, QUICK)
    ((files, heads, backbones, _, _),) = calls
    hashes = content_hashes(files)
    for n, (file, one) in enumerate(zip(files, heads, strict=True)):
        for member in one.members:
            assert not member.was_trained_on(hashes)[n]
        np.testing.assert_allclose(score_of(one, backbones, file), held.scores[n], atol=1e-4)


def test_what_can_be_compared_is_known_first(rated: RatedSet, others: RatedSet, tmp_path: Path) -> None:
    head, _ = trained(rated, tmp_path / "head")
    assert choose_heatmaps(others, head, None) == (COMPARED, [])
    head.typical.zero_()
    kept, left_out = choose_heatmaps(others, head, None)
    assert kept == ("ais", "gradcam", "random")
    assert [line.split(".")[0] for line in left_out] == ["Without contribution", "Without ais:typical"]
    with pytest.raises(AISError, match="mean embedding of the pictures it was trained on"):
        choose_heatmaps(others, head, ["ais", "contribution"])
    assert choose_heatmaps(rated, head, None) == (COMPARED, [])  # the heads of the folds know it
    with pytest.raises(AISError, match="no method 'nosuch'"):
        choose_heatmaps(others, head, ["nosuch"])


def test_a_backbone_that_has_seen_the_pictures_is_refused(
    rated: RatedSet, others: RatedSet, tmp_path: Path
) -> None:
    head, _ = trained(rated, tmp_path / "tuned", TUNED)
    with pytest.raises(DataError, match="has learned from these pictures, too"):
        choose_heatmaps(rated, head, ["ais"])
    assert choose_heatmaps(others, head, ["ais"]) == (("ais",), [])
    found = judge_heatmaps(score_held_out(others, head), head, Comparison(("ais",), steps=2), pictures=3)
    assert found["pictures"] == 3
