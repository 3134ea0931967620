"""The one call: every method and kind, the same through every door, saved whole or not at all."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ais
from ais import importance
from ais.errors import AISError, HeadError, ImageError
from ais.explain import FILES, KINDS, pick_device
from ais.heads import RegressionHead
from ais.heatmaps import METHODS
from conftest import make_head


@pytest.fixture(scope="module")
def crop_head() -> RegressionHead:
    return make_head("efficientnet_lite0", "conv_head", dim=1280, channels=1280, hidden=32, view="crop")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_the_whole_contract(method: str, photograph: Image.Image) -> None:
    result = ais.explain(photograph, method=method)
    width, height = photograph.size
    low, high = result.interval
    assert 1 <= low < result.score < high <= 7
    assert 0 <= result.percentile <= 100
    assert result.heatmap.shape == (height, width)
    assert result.heatmap.dtype == np.float32
    assert np.isfinite(result.heatmap).all()  # the embedded head sees the whole picture
    assert np.abs(result.grid).max() == pytest.approx(1)
    assert result.importance.shape == (1280,)
    assert result.overlay().size == photograph.size
    assert result.score == ais.score(photograph).score
    assert json.loads(json.dumps(result.to_dict()))["score"] == result.score


def test_a_heatmap_keeps_its_sign() -> None:
    """A cup of coffee has places that raise its score and places that lower it."""
    from skimage import data

    result = ais.explain(data.coffee())
    assert result.grid.min() < -0.1
    assert result.grid.max() > 0.1


def test_its_repr_is_for_people(photograph: Image.Image) -> None:
    assert "score=" in repr(ais.explain(photograph))
    assert len(repr(ais.explain(photograph))) < 1000


def test_points_sum_to_the_importances(photograph: Image.Image) -> None:
    result = ais.explain(photograph, scale="points")
    assert result.grid.sum() == pytest.approx(result.importance.sum(), abs=1e-4)
    assert result.grid is result.grids["points"]


def test_importance_is_what_ablation_does(photograph: Image.Image) -> None:
    """Against the whole network with the convolution's own weights set to 0, for the strongest maps."""
    result = ais.explain(photograph)
    head, backbone = ais.load_head(), ais.load_backbone("efficientnet_lite0")
    picture = backbone.view("whole").tensor(photograph)[None]
    layer = backbone.network.get_submodule("conv_head")
    for channel in np.argsort(-np.abs(result.importance))[:5]:
        weight = layer.weight.data[channel].clone()
        layer.weight.data[channel] = 0
        ablated = head.score(backbone.network(picture)).item()
        layer.weight.data[channel] = weight
        assert result.score - ablated == pytest.approx(result.importance[channel], abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind(kind: str, photograph: Image.Image) -> None:
    head = ais.load_head()
    result = ais.explain(photograph, kind=kind, rating=6.0)  # type: ignore[arg-type]
    backbone = ais.load_backbone("efficientnet_lite0")
    features = backbone(backbone.view("whole").tensor(photograph)[None])
    predictions = importance.prediction(backbone, features, head)
    residuals = importance.residual(predictions, head.score(features.embedding), torch.tensor([6.0]))
    expected = {
        "prediction": predictions[0],
        "residual": residuals[0],
        "dual": importance.dual(predictions, residuals)[0],
        "alignment": head.alignment,
    }[kind]
    np.testing.assert_allclose(result.importance, expected, atol=1e-5)


def test_same_answer_through_every_door(photograph: Image.Image, tmp_path: Path) -> None:
    photograph.save(tmp_path / "cat.png")
    data = (tmp_path / "cat.png").read_bytes()
    doors = [
        tmp_path / "cat.png",
        str(tmp_path / "cat.png"),
        data,
        io.BytesIO(data),
        photograph,
        np.asarray(photograph),
    ]
    results = [ais.explain(door) for door in doors]
    assert len({result.score for result in results}) == 1
    assert all(np.array_equal(result.heatmap, results[0].heatmap) for result in results)


def test_cropped_view_leaves_the_border_unseen(photograph: Image.Image, crop_head: RegressionHead) -> None:
    result = ais.explain(photograph, crop_head)
    assert np.isnan(result.heatmap[:, 0]).all()
    assert np.isfinite(result.heatmap[150, 225])
    with pytest.raises(ImageError, match="did not look there"):
        result.contributions(1, 150)
    assert np.asarray(result.overlay())[0, 0].tolist() != np.asarray(photograph)[0, 0].tolist()


def test_contributions_are_the_cells_share(photograph: Image.Image) -> None:
    result = ais.explain(photograph, scale="points")
    everything = result.contributions(225, 150, n=1280)
    x0, y0, x1, y1 = result.placement.box
    h, w = result.grid.shape
    cell = result.grid[int((150 - y0) / (y1 - y0) * h), int((225 - x0) / (x1 - x0) * w)]
    assert sum(c.value for c in everything) == pytest.approx(cell, abs=1e-5)
    values = [abs(c.value) for c in everything]
    assert values == sorted(values, reverse=True)
    assert everything[0].importance == pytest.approx(result.importance[everything[0].index])
    for place in ((-1, 5), (5, 300), (451, 5)):
        with pytest.raises(ImageError):
            result.contributions(*place)


def test_saved_files_hold_what_it_says(photograph: Image.Image, tmp_path: Path) -> None:
    result = ais.explain(photograph)
    files = result.save(tmp_path / "out")
    assert [file.name for file in files] == list(FILES)
    assert np.array_equal(np.load(files[0]), result.heatmap, equal_nan=True)
    assert Image.open(files[1]).width == photograph.width
    assert json.loads(files[2].read_text())["percentile"] == result.percentile
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(FILES)


def test_saving_where_one_cannot_is_a_sentence(photograph: Image.Image, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AISError, match="Nothing was written"):
        ais.explain(photograph).save(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b""


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"method": "lime"}, "no method 'lime'. Choose one of: ais, gradcam, occlusion"),
        ({"kind": "x"}, "no kind 'x'"),
        ({"scale": "x"}, "no scale 'x'"),
        ({"device": "tpu"}, "no device 'tpu'"),
        ({"head": "x"}, "no head 'x'"),
        ({"kind": "residual"}, "needs the rating"),
        ({"kind": "dual", "rating": 8}, "rating 8 is not on the scale.*1 to 7"),
        ({"kind": "dual", "rating": float("nan")}, "not on the scale"),
        ({"kind": "prediction", "rating": 99}, "not on the scale"),
        ({"method": "gradcam", "kind": "alignment"}, "only the method 'ais'"),
    ],
)
def test_wrong_calls_are_sentences(
    arguments: dict[str, object], sentence: str, photograph: Image.Image
) -> None:
    with pytest.raises(AISError, match=sentence):
        ais.explain(photograph, **arguments)  # type: ignore[arg-type]


def test_head_that_does_not_fit_is_a_sentence(photograph: Image.Image) -> None:
    for head, sentence in (
        (make_head("resnet51", "x"), "does not know"),
        (make_head("efficientnet_lite0", "conv_head", size=200), "trained at 200 pixels"),
        (make_head("efficientnet_lite0", "conv_head"), "reads 12 values, but its backbone gives 1280"),
        (make_head("efficientnet_lite0", "no_layer"), "no layer"),
    ):
        with pytest.raises(AISError, match=sentence) as caught:
            ais.explain(photograph, head)
        assert isinstance(caught.value, HeadError) or sentence == "no layer"


def test_no_gpu_is_a_sentence() -> None:
    if torch.cuda.is_available():
        assert pick_device("cuda") == "cuda"
    else:
        assert pick_device("auto") == "cpu"
        with pytest.raises(AISError, match="no CUDA device"):
            pick_device("cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", METHODS)
def test_gpu_equals_cpu(method: str, photograph: Image.Image) -> None:
    ours, theirs = (ais.explain(photograph, method=method, device=d) for d in ("cuda", "cpu"))
    assert ours.score == pytest.approx(theirs.score, abs=1e-3)
    np.testing.assert_allclose(ours.importance, theirs.importance, atol=1e-3)
    np.testing.assert_allclose(ours.grids["points"], theirs.grids["points"], atol=1e-2)
