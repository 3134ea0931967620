"""A strategy is one entry of the registry: the command, the plan and the training follow from it."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import torch

from ais.backbones.loading import load_backbone
from ais.heads.loading import load_head
from ais.training.plan import Plan
from ais.training.strategies import STRATEGIES, FineTuneConfig, Strategy
from ais.workflows.evaluate import score_held_out
from helpers.commands import call
from helpers.sets import TARGET, TUNED, add_backbones, make_set, trained


@pytest.fixture(autouse=True)
def _dummy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_backbones(tmp_path, monkeypatch)
    dummy = Strategy(
        "dummy",
        "The last blocks learn under a random head.",
        "So they do.",
        "last",
        False,
        learning_rate=1e-2,
    )
    monkeypatch.setitem(STRATEGIES, "dummy", dummy)


def test_an_entry_is_enough_in_python(tmp_path: Path) -> None:
    rated = make_set(tmp_path / "rated")
    plan = Plan(**{field.name: getattr(TUNED, field.name) for field in fields(TUNED)} | {"strategy": "dummy"})
    head, report = trained(rated, tmp_path / "heads" / "head", plan)
    assert Plan.of(head.config) == plan
    assert report.tuned is not None
    before = load_backbone("little1").network.state_dict()
    learned = {name for name, value in report.tuned.items() if not torch.equal(value, before[name])}
    assert learned == {"skip.weight", "skip.bias"}
    loaded = load_head(tmp_path / "heads" / "head")
    assert score_held_out(rated, loaded).folds is not None  # by heads of the same strategy
    assert loaded.config.target == TARGET


def test_an_entry_is_enough_for_the_command(tmp_path: Path) -> None:
    rated = make_set(tmp_path / "rated")
    assert "under a random head" in " ".join(call("train", "--help").stdout.replace("│", " ").split())
    command = ["train", rated.folder, "--target", "rating_mean", "--group", "theme", "--backbone", "little1"]
    command += ["--variants", "2", "--folds", "2", "--epochs", "1", "--strategy", "dummy"]
    config = call(*command, "--last-k", "1", "--out", tmp_path / "head", "--json").json
    assert config["recipe"]["strategy"] == "dummy"
    assert config["recipe"]["tuning"]["last_k"] == 1
    assert STRATEGIES["dummy"].about in (tmp_path / "head" / "README.md").read_text().replace("\n", " ")
    assert "dummy" in call(*command, "--strategy", "nonsense", "--out", tmp_path / "y", status=2).stderr


def test_which_settings_a_strategy_uses_follows_from_its_entry() -> None:
    def used(name: str) -> set[str]:
        return {f.name for f in fields(FineTuneConfig) if STRATEGIES[name].uses(f.name)}

    everything = {f.name for f in fields(FineTuneConfig)}
    assert used("head") == set()
    assert used("dummy") == used("last-k") == everything - {"layer_decay"}
    assert used("layerwise") == everything - {"last_k"}


def test_each_says_what_it_is_and_why() -> None:
    for strategy in STRATEGIES.values():
        assert strategy.label
        assert strategy.why.startswith("So ")
        assert strategy.why.endswith(".")
