"""The benchmarks: each says how it is called, and a ratio is to what its column names."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable

import pytest

NAMES = ("ablation", "hidden_units", "load", "pruning", "scoring", "similarity", "training")


def benchmark(name: str):  # type: ignore[no-untyped-def]
    if name in ("ablation", "hidden_units", "pruning", "similarity", "training"):
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
    spent = {"forward": 4.0, "folded": 2.0, "explained": 3.0, "naive": 5.0}

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
        "naive loop": (5 / 4 * 640, 5 / 2 * 640),
        "pytorch-grad-cam AblationCAM": (6 / 4 * 640, 6 / 2 * 640),
    }
