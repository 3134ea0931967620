"""The benchmarks: each says how it is called, and a ratio is to what its column names."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable

import numpy as np
import pytest

NAMES = ("ablation", "hidden_units", "load", "pruning", "scoring", "similarity", "sizes", "training")


def benchmark(name: str):  # type: ignore[no-untyped-def]
    if name in ("ablation", "hidden_units", "pruning", "similarity", "sizes", "training"):
        pytest.importorskip("pytorch_grad_cam")
    return importlib.import_module(f"benchmarks.{name}")


@pytest.mark.parametrize("name", NAMES)
def test_each_says_how_it_is_called(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = benchmark(name)
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as stopped:
        module.main()
    assert not stopped.value.code
    assert capsys.readouterr().out.startswith("usage: ")


def test_an_explanation_is_compared_with_the_plain_and_with_the_folded_forward(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Folding BatchNorm alone makes a forward faster: a ratio to the slower one would flatter the explanation."""
    module = benchmark("ablation")
    spent = {"forward": 4.0, "folded": 2.0, "explained": 3.0, "contributed": 3.5, "naive": 5.0}

    def seconds(run: Callable[[], None], device: str, times: int) -> float:
        if run.__name__ in ("forward", "folded"):
            run()
        return spent.get(run.__name__, 6.0)

    monkeypatch.setattr(module, "SAMPLE", 2)
    monkeypatch.setattr(module, "seconds", seconds)
    lines = module.measure("efficientnet_lite0", "cpu", 2)
    ratios = {what.split(" (")[0]: tuple(ratios) for what, _, *ratios in lines}
    assert ratios == {
        module.PLAIN: (1, 2),
        module.FOLDED: (0.5, 1),
        "forward + all ablations + heatmap": (0.75, 1.5),
        "forward + contribution": (0.875, 1.75),
        "naive loop": (5 / 4 * 640, 5 / 2 * 640),
        "pytorch-grad-cam AblationCAM": (6 / 4 * 640, 6 / 2 * 640),
    }


def test_members_of_a_stack_are_chosen_without_the_pictures_that_judge_it() -> None:
    module, random = benchmark("sizes"), np.random.default_rng(0)
    study = module.Study.__new__(module.Study)
    study.ratings, study.folds = random.normal(size=60), np.arange(60) % 5
    keys = [(name, size) for name in module.BACKBONES for size in (224, 448, 512)]
    study.scores = {key: study.ratings[:, None] + random.normal(size=(60, 2)) for key in keys}
    members, seen = (keys[0], keys[4]), []

    def choose(rows: np.ndarray) -> tuple[tuple[str, int], ...]:
        seen.append(rows)
        return members

    np.testing.assert_allclose(study.chosen(choose), study.stack(members))
    assert [np.unique(study.folds[~rows]).tolist() for rows in seen] == [[0], [1], [2], [3], [4]]
    rows = study.folds != 0
    assert [name for name, _ in study.best_sizes(rows)] == list(module.BACKBONES)
    added = study.one_by_one(rows)
    assert 1 < len(set(added)) == len(added) <= module.MOST
