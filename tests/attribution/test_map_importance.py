"""The kind `alignment`: the published importance of feature maps, from a file, drawn on an image."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save

from ais.attribution.explain import explain
from ais.attribution.map_importance import MapImportance
from ais.errors import AISError, DataError
from ais.heads.loading import load_head
from ais.heads.regression import RegressionHead
from helpers.heads import make_head


def map_importance(head: RegressionHead, **changes: Any) -> MapImportance:
    config = head.config
    importance = np.linspace(-1, 1, config.channels)
    made = MapImportance(config.backbone, config.layer, config.view, "correlation", 0.3, 20, importance)
    return replace(made, **changes)


def test_kind_alignment_draws_the_published_scores(photograph: Image.Image, tmp_path: Path) -> None:
    head = load_head()
    assert isinstance(head, RegressionHead)
    scores = map_importance(head)
    (tmp_path / "scores").write_bytes(scores.to_bytes())
    explanation = explain(photograph, kind="alignment", alignment=tmp_path / "scores", scale="points")
    np.testing.assert_allclose(explanation.importance, scores.importance, rtol=1e-6)
    np.testing.assert_allclose(explanation.grid.sum(), scores.importance.sum(), atol=1e-3)
    assert explanation.unit == "of Spearman's correlation, per cell"
    maps = np.maximum(explanation.maps, 0)
    grid = np.tensordot(scores.importance, maps, 1)
    np.testing.assert_allclose(explanation.grids["relative"], grid / np.abs(grid).max(), atol=1e-4)
    again = explain(photograph, kind="alignment", alignment=scores)
    assert np.array_equal(again.importance, explanation.importance)
    assert again.score == explain(photograph).score


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"backbone": "vgg16"}, "These scores are of vgg16, layer conv_head"),
        ({"layer": "blocks.1"}, "layer blocks.1"),
        ({"view": "crop"}, "view crop"),
        ({"importance": np.zeros(3)}, "with 3 maps"),
    ],
)
def test_scores_of_other_maps_are_refused(
    changes: dict[str, Any], sentence: str, photograph: Image.Image
) -> None:
    head = load_head()
    assert isinstance(head, RegressionHead)
    with pytest.raises(AISError, match=sentence):
        explain(photograph, kind="alignment", alignment=map_importance(head, **changes))


def test_kind_alignment_needs_scores_of_one_backbone(photograph: Image.Image) -> None:
    head = load_head()
    assert isinstance(head, RegressionHead)
    with pytest.raises(AISError, match="needs the file of map scores that `ais align` writes"):
        explain(photograph, kind="alignment")
    with pytest.raises(AISError, match="name a member of this stack"):
        explain(photograph, "beauty-stack", kind="alignment", alignment=map_importance(head))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        pickle.dumps({"importance": 1}),
        save({"importance": torch.zeros(3)}),
        save({"importance": torch.zeros(3)}, {"ais": "[]"}),
        save({"importance": torch.zeros(3)}, {"ais": '{"backbone": 3}'}),
        map_importance(make_head(), importance=np.full(12, np.nan)).to_bytes(),
        map_importance(make_head(), importance=np.zeros((12, 2))).to_bytes(),
    ],
)
def test_a_file_that_holds_no_scores_is_a_sentence(
    data: bytes, photograph: Image.Image, tmp_path: Path
) -> None:
    (tmp_path / "scores").write_bytes(data)
    with pytest.raises(DataError, match=r"scores holds no (valid )?scores of feature maps"):
        explain(photograph, kind="alignment", alignment=tmp_path / "scores")


def test_a_file_with_the_old_name_of_a_view_still_loads(photograph: Image.Image, tmp_path: Path) -> None:
    head = load_head()
    assert isinstance(head, RegressionHead)
    assert head.config.view == "resize"
    old = map_importance(head, view="whole")
    (tmp_path / "similarity.safetensors").write_bytes(old.to_bytes())
    made = explain(photograph, kind="alignment", alignment=tmp_path / "similarity.safetensors")
    np.testing.assert_allclose(made.importance, old.importance, rtol=1e-6)
