"""A method and a kind of importance are one entry each: `ais.explain`, its messages and the README need no more."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ais
from ais.attribution.drawing import Drawing
from ais.attribution.forward import ForwardPass
from ais.attribution.kinds import KINDS, Ablations, Kind
from ais.attribution.methods import METHODS, Method


@pytest.fixture
def dummy_method(monkeypatch: pytest.MonkeyPatch) -> str:
    def first_map(seen: ForwardPass, importance: torch.Tensor) -> Drawing:
        return Drawing(seen.features.maps[0, :1])

    monkeypatch.setitem(METHODS, "dummy", Method("A dummy", "What a dummy is for.", first_map))
    return "dummy"


@pytest.fixture
def dummy_kind(monkeypatch: pytest.MonkeyPatch) -> str:
    def distance(ablations: Ablations) -> torch.Tensor:
        assert ablations.rating is not None
        return ablations.prediction[0] + ablations.rating

    monkeypatch.setitem(
        KINDS, "dummy", Kind("A dummy", "What a dummy is for.", distance, "rating", "of dummies")
    )
    return "dummy"


def test_a_method_is_an_entry(dummy_method: str, photograph: Image.Image) -> None:
    made = ais.explain(photograph, method=dummy_method, scale="points")
    assert (made.method, made.unit) == ("dummy", "points per cell")
    np.testing.assert_array_equal(made.grid, made.maps[0])
    stacked = ais.explain(photograph, "beauty-stack", dummy_method)
    assert all(member.method == "dummy" for member in stacked.members)
    with pytest.raises(ais.AISError, match=r"Choose one of: contribution, ais, gradcam, .*dummy"):
        ais.explain(photograph, method="x")
    with pytest.raises(ais.AISError, match="only the method 'ais' draws"):
        ais.explain(photograph, method=dummy_method, kind="dual", rating=5)


def test_a_kind_is_an_entry(dummy_kind: str, photograph: Image.Image) -> None:
    made = ais.explain(photograph, kind=dummy_kind, rating=5, scale="points")
    np.testing.assert_allclose(made.importance, ais.explain(photograph).importance + 5, atol=1e-5)
    assert made.grid.sum() == pytest.approx(made.importance.sum(), rel=1e-4)
    assert (made.kind, made.unit) == ("dummy", "of dummies, per cell")
    with pytest.raises(ais.AISError, match=f"Choose one of: {', '.join(KINDS)}"):
        ais.explain(photograph, kind="x")
    with pytest.raises(ais.AISError, match="'dummy' needs the rating"):
        ais.explain(photograph, kind=dummy_kind)


def test_the_readme_lists_every_kind() -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \|$", text[text.index("| kind |") :], re.MULTILINE)
    assert [(name, about) for name, about, _ in rows][: len(KINDS)] == [
        (name, kind.about) for name, kind in KINDS.items()
    ]
    for (_, _, needs), kind in zip(rows, KINDS.values(), strict=False):
        assert needs == "–" if kind.needs is None else f"`{kind.needs}=" in needs


def test_the_readme_lists_every_method() -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \|$", text[text.index("| method |") :], re.MULTILINE)
    assert rows[: len(METHODS)] == [
        (name, method.about, method.sums_to or "–") for name, method in METHODS.items()
    ]
    for method in METHODS.values():
        assert bool(method.sums_to) == method.per_cell
