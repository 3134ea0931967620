"""The one call: every method and kind, the same through every door, saved whole or not at all."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save
from torch import nn

import ais
from ais.attribution import importance
from ais.attribution.explain import _part
from ais.attribution.explanation import FILES
from ais.attribution.kinds import KINDS
from ais.attribution.map_importance import MapImportance
from ais.attribution.methods import METHODS
from ais.backbones.frozen import FrozenBackbone
from ais.backbones.loading import pick_device
from ais.errors import AISError, HeadError, ImageError, WeightsError
from ais.heads.regression import RegressionHead
from ais.images.preprocessing import Preprocessing
from helpers.heads import change_head, make_head
from helpers.networks import (
    MEAN,
    STD,
    TinyNetwork,
    add_backbone,
    naive_score,
    randomise,
    save_tuned,
    tiny_network,
)


@pytest.fixture(scope="module")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        add_backbone(patch, tmp_path_factory.mktemp("torch"), "tiny12")
        yield "tiny12"


def small_head(layer: str = "inner", **changes: object) -> RegressionHead:
    channels = {"inner": 12, "stem.0": 8}[layer]
    head = make_head("tiny12", layer, channels=channels, size=64, view="resize")
    return change_head(head, **changes)  # type: ignore[arg-type]


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
    head, backbone = ais.load_head(), ais.load_backbone("efficientnet_lite0", view="resize")
    picture = backbone.preprocessing(photograph)[None]
    layer = backbone.network.get_submodule("conv_head")
    for channel in np.argsort(-np.abs(result.importance))[:5]:
        weight = layer.weight.data[channel].clone()
        layer.weight.data[channel] = 0
        ablated = head.score(backbone.network(picture)).item()
        layer.weight.data[channel] = weight
        assert result.score - ablated == pytest.approx(result.importance[channel], abs=1e-5)


@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if kind.needs != "alignment"])
def test_every_kind(kind: str, photograph: Image.Image) -> None:
    head = ais.load_head()
    result = ais.explain(photograph, kind=kind, rating=6.0)
    backbone = ais.load_backbone("efficientnet_lite0", view="resize")
    features = backbone(backbone.preprocessing(photograph)[None])
    predictions = importance.prediction(backbone, features, head)
    residuals = importance.residual(predictions, head.score(features.embedding), torch.tensor([6.0]))
    expected = {
        "prediction": predictions[0],
        "residual": residuals[0],
        "dual": importance.dual(predictions, residuals)[0],
        "mean_residual": head.mean_residual,
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
    width, height = result.image.size
    for place in ((-1, 5), (5, height), (width, 5), (5, -0.1), (float("nan"), 5)):
        with pytest.raises(ImageError, match=rf"outside the picture: choose x from 0 to {width - 1} and y"):
            result.contributions(*place)
    assert result.contributions(width - 0.1, height - 0.1)


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
        ({"method": "lime"}, "no method 'lime'. Choose one of: contribution, ais, gradcam"),
        ({"kind": "x"}, "no kind 'x'"),
        ({"scale": "x"}, "no scale 'x'"),
        ({"device": "tpu"}, "no device 'tpu'"),
        ({"head": "x"}, "no head 'x'"),
        ({"kind": "residual"}, "needs the rating"),
        ({"kind": "dual", "rating": 8}, "rating 8 is not on the scale.*1 to 7"),
        ({"kind": "dual", "rating": float("nan")}, "not on the scale"),
        ({"kind": "prediction", "rating": 99}, "not on the scale"),
        ({"method": "gradcam", "kind": "mean_residual"}, "only the method 'ais'"),
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
        (make_head("efficientnet_lite0", "conv_head", size=200), "A size of 200 pixels cannot be used"),
        (make_head("efficientnet_lite0", "conv_head", channels=1280), "reads 12 values, but.* gives 1280"),
        (make_head("efficientnet_lite0", "conv_head", dim=1280), "gives 1280 feature maps, not 12"),
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


PRUNED = [1, 4, 6]

DRAWN = [(m, k) for m, one in METHODS.items() for k in KINDS if one.uses_importance or k == "prediction"]


@pytest.mark.parametrize("layer", ["inner", "stem.0"])
def test_pruned_maps_count_for_nothing(layer: str, tiny_backbone: str, photograph: Image.Image) -> None:
    head, network = small_head(layer, pruned=PRUNED), tiny_network()
    result = ais.explain(photograph, head, scale="points")
    score = naive_score(head, network, photograph).mean().item()
    assert result.score == pytest.approx(score, abs=1e-5)
    assert result.score == ais.score(photograph, head).score
    assert abs(result.score - ais.score(photograph, small_head(layer)).score) > 0.01
    expected = [
        score - naive_score(head, network, photograph, [c]).mean().item() for c in range(len(result.maps))
    ]
    np.testing.assert_allclose(result.importance, expected, atol=1e-5)
    np.testing.assert_allclose(result.importance[PRUNED], 0, atol=1e-6 if layer == "stem.0" else 0)
    assert not result.maps[PRUNED].any()
    assert result.grid.sum() == pytest.approx(result.importance.sum(), abs=1e-5)


@pytest.mark.parametrize("layer", ["inner", "stem.0"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_draws_the_pruned_network(
    method: str, layer: str, tiny_backbone: str, photograph: Image.Image, tmp_path: Path
) -> None:
    """Pruning a map is the same as a network whose convolution gives 0 for it."""
    network = tiny_network()
    convolution = network.get_submodule(layer)
    assert isinstance(convolution, nn.Conv2d)
    assert convolution.bias is not None
    convolution.weight.data[PRUNED] = 0
    convolution.bias.data[PRUNED] = 0
    silenced = save_tuned(small_head(layer), network, tmp_path)
    result = ais.explain(photograph, small_head(layer, pruned=PRUNED), method, scale="points")
    expected = ais.explain(photograph, silenced, method, scale="points")
    whole = ais.explain(photograph, small_head(layer), method, scale="points")
    assert result.score == pytest.approx(expected.score, abs=1e-5)
    largest = np.abs(expected.grid).max()
    np.testing.assert_allclose(result.grid, expected.grid, atol=1e-3 * largest)
    assert np.abs(result.grid - whole.grid).max() > 0.1 * largest


def test_tuned_backbones_are_used_and_never_mixed_up(
    tiny_backbone: str, photograph: Image.Image, tmp_path: Path
) -> None:
    head = small_head()
    networks: dict[Path | RegressionHead, nn.Module] = {head: tiny_network()}
    for seed in (1, 2):
        network = tiny_network(seed=seed)
        networks[save_tuned(head, network, tmp_path / str(seed))] = network
    expected = [naive_score(head, n, photograph).mean().item() for n in networks.values()]
    assert len({round(score, 2) for score in expected}) == 3
    for _ in range(2):
        scores = [ais.explain(photograph, one).score for one in networks]
        assert scores == pytest.approx(expected, abs=1e-5)


def test_one_tampered_weight_changes_the_score_or_is_refused(
    tiny_backbone: str, photograph: Image.Image, tmp_path: Path
) -> None:
    network = tiny_network()
    before = ais.score(photograph, save_tuned(small_head(), network, tmp_path / "a")).score
    assert before == ais.score(photograph, small_head()).score
    norm = network.get_submodule("norm")
    assert isinstance(norm, nn.BatchNorm2d)
    norm.bias.data[0] += 1
    after = ais.score(photograph, save_tuned(small_head(), network, tmp_path / "b")).score
    assert abs(after - before) > 1e-3
    (tmp_path / "a/backbone.safetensors").write_bytes((tmp_path / "b/backbone.safetensors").read_bytes())
    with pytest.raises(HeadError, match=r"backbone\.safetensors is damaged, or not the backbone"):
        ais.score(photograph, tmp_path / "a")


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        (b"no tensors", "missing or damaged"),
        (TinyNetwork(20), r"does not hold the weights of a tiny12"),
        (nn.Linear(2, 2), r"does not hold the weights of a tiny12"),
    ],
)
def test_a_tuned_backbone_that_does_not_fit_is_a_sentence(
    network: nn.Module | bytes, sentence: str, tiny_backbone: str, photograph: Image.Image, tmp_path: Path
) -> None:
    folder = save_tuned(small_head(), network, tmp_path / "head")
    with pytest.raises(WeightsError, match=rf"backbone\.safetensors.*{sentence}"):
        ais.explain(photograph, folder)
    (folder / "backbone.safetensors").unlink()
    with pytest.raises(HeadError, match=r"backbone\.safetensors, the backbone of its head, cannot be read"):
        ais.explain(photograph, folder)


def test_a_tuned_head_that_was_never_saved_is_a_sentence(tiny_backbone: str, photograph: Image.Image) -> None:
    with pytest.raises(HeadError, match="backbone of its own: save the head and load it"):
        ais.explain(photograph, small_head(tuned_sha256="ab" * 32))


def test_a_head_on_a_network_of_timms(
    photograph: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub/checkpoints/timm--resnet18.a1_in1k.safetensors"
    file.parent.mkdir(parents=True)
    torch.manual_seed(0)
    network = randomise(timm.create_model("resnet18", pretrained=False)).eval()
    file.write_bytes(save(network.state_dict()))
    head = make_head("timm:resnet18", "layer4", dim=512, channels=512, view="resize")
    head.save(tmp_path / "head")
    result = ais.explain(photograph, tmp_path / "head", scale="points")
    picture = ais.load_backbone("timm:resnet18", view="resize").preprocessing(photograph)[None]
    with torch.no_grad():
        maps = network.forward_features(picture)  # type: ignore[operator]  # layer4's output
        embedding = maps.mean((2, 3))
    np.testing.assert_allclose(result.maps, maps[0], rtol=1e-3, atol=1e-3 * maps.max().item())
    score = head.score(embedding).item()
    assert result.score == pytest.approx(score, rel=1e-4)
    for channel in np.argsort(-np.abs(result.importance))[:5]:
        ablated = embedding.clone()
        ablated[:, channel] = 0
        naive = score - head.score(ablated).item()
        assert result.importance[channel] == pytest.approx(naive, rel=1e-3, abs=1e-4)
    assert result.grid.sum() == pytest.approx(result.importance.sum(), rel=1e-4, abs=1e-3)
    assert (result.backbone, result.layer) == ("timm:resnet18", "layer4")


def test_a_network_built_by_hand_needs_no_registry(photograph: Image.Image) -> None:
    network, preprocessing = tiny_network(), Preprocessing("resize", 64, 64, "bilinear", MEAN, STD)
    backbone = FrozenBackbone(network, "mine", "inner", preprocessing, range(12))
    head = make_head("mine", "inner", size=64, view="resize")
    result = ais.explain(photograph, head, backbone=backbone, scale="points")
    with torch.no_grad():
        expected = head.score(network(preprocessing(photograph)[None])).item()
    assert result.score == pytest.approx(expected, abs=1e-5)
    assert result.score == ais.score(photograph, head, backbone=backbone).score
    assert result.backbone == "mine"
    assert result.grid.sum() == pytest.approx(result.importance.sum(), abs=1e-5)
    with pytest.raises(HeadError, match="does not know"):
        ais.explain(photograph, head)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"layer": "stem.0", "channels": 8},
            "reads layer stem.0, .*, but the backbone given has layer inner",
        ),
        ({"view": "crop"}, "view crop"),
        ({"size": 32}, "at 32 pixels"),
        ({"dim": 13}, "reads 13 values, but its backbone gives 12"),
    ],
)
def test_a_network_that_the_head_does_not_fit_is_refused(
    changes: dict[str, Any], sentence: str, photograph: Image.Image
) -> None:
    preprocessing = Preprocessing("resize", 64, 64, "bilinear", MEAN, STD)
    backbone = FrozenBackbone(tiny_network(), "mine", "inner", preprocessing, range(12))
    head = make_head(**{"backbone": "mine", "layer": "inner", "size": 64, "view": "resize"} | changes)
    with pytest.raises(HeadError, match=sentence):
        ais.explain(photograph, head, backbone=backbone)


def test_a_stack_takes_no_single_network(photograph: Image.Image) -> None:
    backbone = ais.load_backbone("efficientnet_lite0", view="resize")
    with pytest.raises(AISError, match="stack on several backbones"):
        ais.explain(photograph, "beauty-stack", backbone=backbone)


@pytest.mark.parametrize("layer", ["inner", "stem.0"])
@pytest.mark.parametrize(("method", "kind"), [pair for pair in DRAWN if not METHODS[pair[0]].own_maps])
def test_a_pruned_map_has_no_importance(
    method: str, kind: str, layer: str, tiny_backbone: str, photograph: Image.Image
) -> None:
    """In no kind, and in no place: not spread evenly because the map is 0 everywhere."""
    head = small_head(layer, pruned=PRUNED)
    config = head.config
    published = np.random.default_rng(0).normal(size=config.channels)
    scores = MapImportance(config.backbone, layer, config.view, "correlation", 0.3, 20, published)
    explained = [
        ais.explain(
            photograph, head, method, kind=kind, rating=5.0, alignment=replace(scores, importance=values)
        )
        for values in (published, np.where(head.keep, published, 1e3))
    ]
    assert not explained[0].importance[PRUNED].any()
    assert explained[0].importance.any()
    assert explained[0] == explained[1]
    if METHODS[method].uses_importance:
        points = replace(explained[0], scale="points").grid
        kept = explained[0].importance[[n for n in range(config.channels) if n not in PRUNED]]
        assert points.sum() == pytest.approx(kept.sum(), abs=1e-4)
    place = explained[0].contributions(225, 150, n=config.channels)
    assert all(part.value == 0 for part in place if part.index in PRUNED)


def test_the_progress_of_a_stack_is_by_the_pixels_of_its_members() -> None:
    told: list[tuple[int, int]] = []
    parts = [_part(lambda *done: told.append(done), n, [100, 400, 100]) for n in range(3)]
    for part in parts:
        for done in (0, 8):
            assert part is not None
            part(done, 16)
    assert told == [(0, 96), (8, 96), (16, 96), (48, 96), (80, 96), (88, 96)]
    assert _part(None, 0, [1]) is None
