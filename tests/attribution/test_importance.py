"""Exact importance against the naive way, for every backbone; and its properties."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from ais.attribution import importance
from ais.attribution.methods.contribution import contribution
from ais.backbones.frozen import FrozenBackbone
from ais.backbones.loading import load_backbone
from ais.backbones.registry import BACKBONES
from ais.heads.regression import RegressionHead
from helpers.heads import make_head
from helpers.networks import forward_pass, randomise

# Every default target layer, and those that papers name beside it.
LAYERS = [(name, None) for name in BACKBONES] + [
    ("vgg19", "features.28"),
    ("densenet161", "features.denseblock4.denselayer24.conv2"),
    ("resnet152", "features.7.2.conv3"),
    ("barlow_twins", "layer4.0.conv2"),
    ("efficientnet_lite0", "blocks.6.0.conv_pwl"),
]


@contextmanager
def silenced(backbone: FrozenBackbone, channel: int) -> Iterator[None]:
    """The naive ablation: the layer's weights and bias for one map set to 0, then restored.

    Inception's target is a concatenation without weights of its own: there the map itself is set to 0.
    """
    layer = backbone.network.get_submodule(backbone.layer)
    parameters = [p for p in (getattr(layer, "weight", None), getattr(layer, "bias", None)) if p is not None]
    if parameters:
        kept = [p.data[channel].clone() for p in parameters]
        for p in parameters:
            p.data[channel] = 0
        try:
            yield
        finally:
            for p, value in zip(parameters, kept, strict=True):
                p.data[channel] = value
    else:

        def silence(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            output = output.clone()
            output[:, channel] = 0
            return output

        handle = layer.register_forward_hook(silence)
        try:
            yield
        finally:
            handle.remove()


def naive(backbone: FrozenBackbone, head: RegressionHead, pictures: Tensor, channels: list[int]) -> Tensor:
    """`importance.prediction` by the whole network once for every map: (N, len(channels))."""
    with torch.no_grad():
        score = head.score(backbone.network(pictures))
        columns = []
        for channel in channels:
            with silenced(backbone, channel):
                columns.append(score - head.score(backbone.network(pictures)))
    return torch.stack(columns, dim=1)


@pytest.mark.parametrize(("name", "layer"), LAYERS)
def test_equals_the_naive_loop(name: str, layer: str | None) -> None:
    torch.manual_seed(0)
    backbone = load_backbone(name, layer, weights=None)
    backbone = FrozenBackbone(
        randomise(backbone.network), name, backbone.layer, backbone.preprocessing, backbone.embedding_slice
    )
    pictures = torch.randn(2, 3, 80, 75)
    features = backbone(pictures)
    count, dim = features.maps.shape[1], features.embedding.shape[1]
    general = layer not in (None, "features.denseblock4.denselayer24.conv2", "features.7.2.conv3")
    assert (features.delta is None) == general

    head = make_head(name, backbone.layer, dim=dim, channels=count, hidden=64, variants=2)
    head.weight1 /= features.embedding.std()  # random networks give embeddings of any size
    channels = torch.linspace(0, count - 1, 5).long().tolist()
    single = importance.prediction(backbone, features, head)[:, channels]

    backbone = FrozenBackbone(
        backbone.network.double(), name, backbone.layer, backbone.preprocessing, backbone.embedding_slice
    )
    head.double()
    everything = importance.prediction(backbone, backbone(pictures), head)
    exact = everything[:, channels]
    oracle = naive(backbone, head, pictures.double(), channels)
    assert oracle.abs().max() > 0
    scale = everything.abs().max().item()
    torch.testing.assert_close(exact, oracle, rtol=1e-9, atol=1e-9 * scale)
    # In float32 the general form is a difference of scores, so it is as exact as those are.
    scale = head.score(backbone(pictures).embedding).abs().max().item() if general else scale
    torch.testing.assert_close(single.double(), oracle, rtol=1e-5, atol=1e-5 * scale)
    check_typical_and_contribution(backbone, head, pictures.double(), channels)


def check_typical_and_contribution(
    backbone: FrozenBackbone, head: RegressionHead, pictures: Tensor, channels: list[int]
) -> None:
    """In float64: maps set to what makes their coordinate typical, one by one; and the places' shares of the score."""
    embedding = backbone.network(pictures).detach()
    head.typical.copy_(embedding.mean(0) + embedding.std() * torch.randn(embedding.shape[1]).double() / 3)
    for picture in pictures.split(1):
        seen = forward_pass(backbone, head, picture)
        score, embedding = head.score(seen.features.embedding), backbone.network(picture)
        if backbone.embedding_slice is not None:
            for channel in channels:
                owner = backbone.embedding_slice[channel]
                changed = embedding.clone()
                changed[:, owner] = head.typical[owner]
                oracle = (score - head.score(changed)).item()
                ablated = seen.against("typical").prediction.mean(0)[channel].item()
                assert ablated == pytest.approx(oracle, rel=1e-9, abs=1e-9 * score.abs().item())
        places = backbone.places(seen.features)
        assert places is not None
        torch.testing.assert_close(places.mean((2, 3)), seen.features.embedding, rtol=1e-9, atol=1e-12)
        drawn = contribution(seen, torch.zeros(0, 0))
        difference = (score - head.score(head.typical[None])).item()
        size = drawn.points.abs().sum().item()
        assert drawn.importance is not None
        assert drawn.points.mean(0).sum().item() == pytest.approx(difference, abs=1e-9 * size)
        assert drawn.importance.mean(0).sum().item() == pytest.approx(difference, abs=1e-9 * size)


@pytest.mark.parametrize("fixture", ["tiny", "tiny_general"])
def test_equals_the_naive_loop_for_all_maps(fixture: str, request: pytest.FixtureRequest) -> None:
    backbone = request.getfixturevalue(fixture)
    pictures = torch.randn(3, 3, 64, 80, dtype=torch.float64)
    head = make_head().double()
    features = backbone(pictures)
    oracle = naive(backbone, head, pictures, list(range(features.maps.shape[1])))
    torch.testing.assert_close(importance.prediction(backbone, features, head), oracle, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("size", [0.0, 1e-4, 0.1, 1.0, 100.0])
def test_short_cut_equals_every_hidden_unit_worked_out(size: float) -> None:
    """From units that no map can switch to units that every map switches."""
    generator = torch.Generator().manual_seed(1)
    head = make_head(dim=40, channels=30, hidden=32, variants=4).double()
    embedding = torch.randn(5, 40, generator=generator, dtype=torch.float64)
    delta = size * torch.randn(5, 30, generator=generator, dtype=torch.float64)
    owner = range(7, 37)
    ablated = embedding[:, None].repeat(1, 30, 1)
    ablated[:, torch.arange(30), torch.tensor(owner)] += delta
    oracle = head.score(embedding)[:, None] - head.score(ablated.flatten(0, 1)).view(5, 30)
    result = importance.channelwise(head.hidden(embedding), delta, owner, head).mean(1)
    torch.testing.assert_close(result, oracle, rtol=1e-9, atol=1e-12)


def test_linear_head_gives_weight_times_delta(tiny: FrozenBackbone) -> None:
    """With every hidden unit on, the head is linear, and a map's importance is -W[c]·δ_c."""
    head = make_head(variants=1).double()
    head.bias1 += 1000
    features = tiny(torch.randn(2, 3, 64, 64))
    weight = head.rating_std * head.weight2[0] @ head.weight1[0]
    torch.testing.assert_close(
        importance.prediction(tiny, features, head), -weight * features.delta, rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("fixture", ["tiny", "tiny_general"])
def test_dead_map_has_no_importance(
    fixture: str, request: pytest.FixtureRequest, tiny_head: RegressionHead
) -> None:
    backbone = request.getfixturevalue(fixture)
    layer = backbone.network.get_submodule(backbone.layer)
    layer.weight.data[3], layer.bias.data[3] = 0, 0
    result = importance.prediction(backbone, backbone(torch.randn(2, 3, 64, 64)), tiny_head)
    assert (result[:, 3] == 0).all()
    assert (result != 0).any()


def test_permuting_maps_permutes_importance(tiny: FrozenBackbone, tiny_head: RegressionHead) -> None:
    order = torch.randperm(12, generator=torch.Generator().manual_seed(2))
    features = tiny(torch.randn(2, 3, 64, 64))
    before = importance.prediction(tiny, features, tiny_head)
    permuted = make_head().double()
    permuted.load_state_dict(tiny_head.state_dict() | {"weight1": tiny_head.weight1[:, :, order]})
    hidden = permuted.hidden(features.embedding[:, order])
    after = importance.channelwise(hidden, features.delta[:, order], tiny.embedding_slice, permuted).mean(1)
    torch.testing.assert_close(after, before[:, order], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("fixture", ["tiny", "tiny_general"])
def test_batch_equals_single(fixture: str, request: pytest.FixtureRequest, tiny_head: RegressionHead) -> None:
    backbone = request.getfixturevalue(fixture)
    pictures = torch.randn(4, 3, 64, 64)
    batch = importance.prediction(backbone, backbone(pictures), tiny_head)
    single = torch.cat([importance.prediction(backbone, backbone(p[None]), tiny_head) for p in pictures])
    torch.testing.assert_close(batch, single, rtol=1e-9, atol=1e-12)


def test_bounded_batches_change_nothing(
    tiny_general: FrozenBackbone, tiny_head: RegressionHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = tiny_general(torch.randn(2, 3, 64, 64))
    whole = importance.prediction(tiny_general, features, tiny_head)
    monkeypatch.setattr(importance, "_BATCH_VALUES", 3 * features.maps[0].numel())
    torch.testing.assert_close(
        importance.prediction(tiny_general, features, tiny_head), whole, rtol=1e-12, atol=1e-13
    )


def test_nothing_is_left_behind(tiny_general: FrozenBackbone, tiny_head: RegressionHead) -> None:
    """No hook, no mode, no gradient flag; also when the head fails in the middle."""

    def traces() -> list[object]:
        return [
            (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks), m.training)
            for m in tiny_general.modules()
        ] + [p.requires_grad for p in tiny_general.parameters()]

    before, state = traces(), {k: v.clone() for k, v in tiny_general.state_dict().items()}
    features = tiny_general(torch.randn(2, 3, 64, 64))
    importance.prediction(tiny_general, features, tiny_head)
    broken = make_head(dim=5).double()
    with pytest.raises(RuntimeError):
        importance.prediction(tiny_general, features, broken)
    assert traces() == before
    assert torch.is_grad_enabled()
    assert all(torch.equal(v, state[k]) for k, v in tiny_general.state_dict().items())


def test_residual_and_dual() -> None:
    predictions = torch.tensor([[0.5, -0.5, 0.0, 3.0]])
    residual = importance.residual(predictions, torch.tensor([4.0]), torch.tensor([5.0]))
    # The score is 1 too low: a map that adds half a point helps by as much.
    torch.testing.assert_close(residual, torch.tensor([[0.5, -0.5, 0.0, 3.0]]))
    residual = importance.residual(predictions, torch.tensor([4.0]), torch.tensor([3.0]))
    torch.testing.assert_close(residual, torch.tensor([[-0.5, 0.5, 0.0, 1.0]]))
    dual = importance.dual(predictions, residual)
    torch.testing.assert_close(dual, torch.tensor([[-1 / 6, 1 / 6, 0.0, 1.0]]))
    assert (importance.dual(torch.ones(1, 3), torch.ones(1, 3)) == 0).all()
