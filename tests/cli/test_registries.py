"""A registry's entry is a choice of the command: in its help, its completion, its messages; and it is used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ais.attribution.drawing import Drawing
from ais.attribution.kinds import KINDS
from ais.attribution.methods import METHODS
from ais.training.criteria import CRITERIA, Criterion
from ais.training.strategies import STRATEGIES
from helpers.commands import call
from helpers.sets import add_backbones, make_set

ABOUT = "An entry that this test has added."


def spread(text: str) -> str:
    """On one line."""
    return " ".join(text.split())


@pytest.fixture
def cat(photograph: Image.Image, tmp_path: Path) -> Path:
    photograph.save(tmp_path / "cat.png")
    return tmp_path / "cat.png"


def check_listed(command: str, option: str, *arguments: object) -> None:
    """By `--help`, and by what is said of a wrong choice."""
    help_text = spread(call(command, "--help").stdout)
    assert "dummy" in help_text
    assert ABOUT in help_text
    wrong = spread(call(command, *arguments, option, "wrong", status=2).stderr)
    assert "There is no " in wrong
    assert "Choose one of: " in wrong
    assert wrong.endswith(", dummy.")


def test_a_method(cat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dummy(*given: Any) -> Any:
        return Drawing(0 * METHODS["ais"].draw(*given).points + 0.5)

    method = replace(METHODS["ais"], label="Dummy", about=ABOUT, draw=dummy)
    monkeypatch.setitem(METHODS, "dummy", method)
    command = ["explain", cat, "--out", tmp_path / "out"]
    check_listed("explain", "--method", *command[1:])
    document = call(*command, "--method", "dummy", "--json").json
    assert document["method"] == "dummy"
    heatmap = np.load(document["files"][0])
    np.testing.assert_allclose(heatmap[np.isfinite(heatmap)], 1)
    assert "Dummy heatmap of the prediction" in call(*command, "--method", "dummy").stdout


def test_a_kind(cat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dummy(ablations: Any) -> Any:
        return -ablations.prediction[0]

    monkeypatch.setitem(
        KINDS, "dummy", replace(KINDS["prediction"], label="Dummy", about=ABOUT, importance=dummy)
    )
    command = ["explain", cat, "--out", tmp_path / "out"]
    check_listed("explain", "--kind", *command[1:])
    heatmaps = [
        np.load(call(*command, "--kind", kind, "--json").json["files"][0]) for kind in ("prediction", "dummy")
    ]
    np.testing.assert_allclose(heatmaps[1], -heatmaps[0], atol=1e-6)


def test_a_strategy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_backbones(tmp_path, monkeypatch)
    make_set(tmp_path / "data", 24)
    monkeypatch.setitem(STRATEGIES, "dummy", replace(STRATEGIES["head"], about=ABOUT))
    command = ["train", tmp_path / "data", "--target", "rating_mean", "--out", tmp_path / "head"]
    for name in ("train", "find-rate"):
        check_listed(name, "--strategy", *command[1:])
    options = ["--backbone", "little1", "--variants", "2", "--folds", "2"]
    made = call(*command, *options, "--strategy", "dummy", "--json").json
    assert made["recipe"]["strategy"] == "dummy"
    same = call(*command, *options, "--json").json
    assert made["weights_sha256"] == same["weights_sha256"]


def test_a_criterion_of_pruning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CRITERIA, "dummy", Criterion(ABOUT, CRITERIA["greedy"].choose))
    for option in ("--criterion", "--how"):  # its old name
        check_listed("prune", option, tmp_path, "--out", tmp_path / "out")


def test_the_old_name_of_a_view_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_backbones(tmp_path, monkeypatch)
    make_set(tmp_path / "data", 24)
    command = ["advise", tmp_path / "data", "--target", "rating_mean", "--backbone", "little1", "--json"]
    assert call(*command, "--view", "whole").json == call(*command, "--view", "resize").json
    assert "Choose one of: crop, resize." in spread(call(*command, "--view", "squint", status=2).stderr)
