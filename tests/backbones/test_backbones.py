"""The registry and timm's networks: what each backbone gives, that it stays frozen, that maps can be silenced."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from ais.attribution import importance
from ais.backbones.frozen import FrozenBackbone
from ais.backbones.loading import backbone_cached, load_backbone, random_backbone
from ais.backbones.registry import BACKBONES, backbone_spec
from ais.errors import AISError
from ais.images.preprocessing import Preprocessing
from ais.images.reading import read_image
from helpers.heads import make_head
from helpers.networks import PREPROCESSING, TinyNetwork, randomise
from helpers.paths import OASIS

LITE = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")

# Maps and embedding as published for each network: (C, h = w at the native input, D).
SHAPES = {
    "vgg16": (512, 14, 512),
    "vgg19": (512, 14, 512),
    "resnet152": (2048, 7, 2048),
    "densenet161": (2208, 7, 2208),
    "inception_v3": (2048, 8, 2048),
    "efficientnet_b3": (1536, 10, 1536),
    "barlow_twins": (2048, 7, 2048),
    "efficientnet_lite0": (1280, 7, 1280),
    "efficientnet_lite1": (1280, 8, 1280),
    "efficientnet_lite2": (1280, 9, 1280),
}


@pytest.mark.parametrize("name", BACKBONES)
def test_gives_the_published_shapes(name: str) -> None:
    backbone = load_backbone(name, weights=None)
    size = BACKBONES[name].size
    features = backbone(torch.rand(1, 3, size, size))
    channels, side, dim = SHAPES[name]
    assert features.maps.shape == (1, channels, side, side)
    assert features.embedding.shape == (1, dim)
    assert features.delta is not None
    assert features.delta.shape == (1, channels)


@pytest.mark.parametrize("name", BACKBONES)
def test_gives_the_whole_networks_embedding_at_any_size(name: str) -> None:
    backbone = load_backbone(name, weights=None)
    pictures = torch.rand(2, 3, 97, 160)
    expected = backbone.network(pictures)
    result = backbone(pictures).embedding
    # Folding BatchNorm rounds otherwise, which a random deep network makes much of.
    torch.testing.assert_close(result, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


def test_densenet_pools_after_its_relu() -> None:
    backbone = load_backbone("densenet161", weights=None)
    features = backbone(torch.rand(1, 3, 96, 96))
    torch.testing.assert_close(features.embedding, features.maps.relu().mean((2, 3)))


@pytest.mark.parametrize(
    ("name", "layer", "channels"),
    [
        ("vgg19", "features.28", 512),
        ("densenet161", "features.denseblock4.denselayer24.conv2", 48),
        ("densenet161", "features.norm5", 2208),
    ],
)
def test_other_layers_by_name(name: str, layer: str, channels: int) -> None:
    backbone = load_backbone(name, layer, weights=None)
    assert backbone(torch.rand(1, 3, 96, 96)).maps.shape[1] == channels


def test_sequential_spelling_of_a_layer_is_understood() -> None:
    assert load_backbone("barlow_twins", "features.7.2.conv3", weights=None).layer == "layer4.2.conv3"


def test_unknown_names_say_what_there_is() -> None:
    with pytest.raises(AISError, match=r"no backbone 'resnet51'.*resnet152"):
        load_backbone("resnet51")
    with pytest.raises(AISError, match=r"no layer 'layer4\.2\.conv33'.*layer4\.2\.conv3"):
        load_backbone("barlow_twins", "layer4.2.conv33", weights=None)


def test_layer_without_maps_is_refused() -> None:
    backbone = FrozenBackbone(TinyNetwork(), "tiny", "pool", PREPROCESSING)
    assert backbone(torch.rand(1, 3, 32, 32)).maps.ndim == 4
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.Linear(4, 2))
    with pytest.raises(AISError, match="2-dimensional values, not feature maps"):
        FrozenBackbone(network, "tiny", "1", PREPROCESSING)(torch.rand(1, 3, 2, 2))


def test_stays_frozen_whatever_is_called() -> None:
    backbone = FrozenBackbone(randomise(TinyNetwork()), "tiny", "inner", PREPROCESSING, range(12))
    holder = nn.Sequential(backbone)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    holder.train()
    backbone.train(True)
    backbone(torch.rand(4, 3, 64, 64))
    assert not any(module.training for module in backbone.modules())
    assert not any(p.requires_grad for p in backbone.parameters())
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert any("running_mean" in name for name in before)


def test_running_again_does_not_change_the_maps() -> None:
    """An in-place ReLU behind the target layer would overwrite them."""
    backbone = load_backbone("vgg16", weights=None)
    features = backbone(torch.rand(1, 3, 64, 64))
    before = features.maps.clone()
    backbone.tail(features.maps, *features.side_inputs)
    assert torch.equal(features.maps, before)
    assert (before < 0).any()


@pytest.mark.parametrize("name", LITE)
def test_lite_weights_see_what_is_there(name: str, photograph: Image.Image) -> None:
    """The weights are loaded by order alone, so: does the network know what it looks at?"""
    from skimage import data

    pictures = {"chelsea": photograph, "coffee": Image.fromarray(data.coffee())}
    for picture in ("Zebra 1", "Volcano 1"):
        file = OASIS / "images" / f"{picture.lower().replace(' ', '_')}.jpg"
        if file.is_file():
            pictures[picture] = read_image(file)
    for picture, image in pictures.items():
        classes, least = {
            "chelsea": ({281, 282, 285}, 0.7),  # tabby, tiger cat, Egyptian cat
            "coffee": ({967, 504, 969}, 0.5),  # espresso, coffee mug, eggnog
            "Zebra 1": ({340}, 0.6),
            "Volcano 1": ({980}, 0.7),
        }[picture]
        assert _probability(name, image)[sorted(classes)].sum() > least, picture


def _probability(name: str, image: Image.Image) -> np.ndarray:
    """What the whole network, classifier included, says of a picture: (1000,)."""
    spec = BACKBONES[name]
    network = spec.build().eval()
    state = torch.load(spec.weights_file, weights_only=True)
    network.load_state_dict(spec.adapt(state, network))
    with torch.no_grad():
        probability = network(spec.preprocessing()(image)[None]).softmax(-1)[0]
        embedding = network.forward_head(
            network.forward_features(spec.preprocessing()(image)[None]), pre_logits=True
        )
        torch.testing.assert_close(
            load_backbone(name)(spec.preprocessing()(image)[None]).embedding, embedding, rtol=1e-4, atol=1e-5
        )
    return probability.numpy()


def test_sha256_tells_weights_apart() -> None:
    torch.manual_seed(0)
    first = FrozenBackbone(TinyNetwork(), "tiny", "inner", PREPROCESSING)
    same = FrozenBackbone(TinyNetwork(), "tiny", "inner", PREPROCESSING)
    same.network.load_state_dict(first.network.state_dict())
    other = FrozenBackbone(TinyNetwork(), "tiny", "inner", PREPROCESSING)
    assert first.sha256 == same.sha256 != other.sha256


def ablated(backbone: FrozenBackbone, pictures: Tensor, silent: list[int]) -> Tensor:
    """The naive way: the whole network, with these maps of the layer set to 0 as they come out of it."""

    def silence(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        output = output.clone()
        output[:, silent] = 0
        return output

    handle = backbone.network.get_submodule(backbone.layer).register_forward_hook(silence)
    with torch.no_grad():
        embedding = backbone.network(pictures.to(next(backbone.network.parameters()).dtype))
    handle.remove()
    return embedding


@pytest.mark.parametrize("which", ["tiny", "tiny_general"])
def test_maps_not_kept_are_silent_in_the_embedding(which: str, request: pytest.FixtureRequest) -> None:
    backbone: FrozenBackbone = request.getfixturevalue(which)
    pictures = torch.rand(2, 3, 64, 48, dtype=torch.float64)
    whole = backbone(pictures)
    keep = torch.ones(whole.maps.shape[1], dtype=torch.bool)
    keep[[1, 4, 5]] = False
    pruned = backbone(pictures, keep)
    torch.testing.assert_close(pruned.embedding, ablated(backbone, pictures, [1, 4, 5]))
    assert not pruned.maps[:, ~keep].any()
    assert torch.equal(pruned.maps[:, keep], whole.maps[:, keep])
    assert whole.maps[:, ~keep].any()
    assert not torch.allclose(pruned.embedding, whole.embedding)
    if backbone.embedding_slice is None:
        assert pruned.delta is None
    else:
        assert pruned.delta is not None
        assert not pruned.delta[:, ~keep].any()  # what is silent cannot be silenced
        for c in (0, 4, 7):
            naive = ablated(backbone, pictures, [1, 4, 5, c])[:, c] - pruned.embedding[:, c]
            torch.testing.assert_close(pruned.delta[:, c], naive)
        assert pruned.delta[:, keep].any()


@pytest.mark.parametrize("which", ["tiny", "tiny_general"])
def test_keeping_all_maps_changes_nothing(which: str, request: pytest.FixtureRequest) -> None:
    backbone: FrozenBackbone = request.getfixturevalue(which)
    picture = torch.rand(1, 3, 64, 64)
    whole = backbone(picture)
    kept = backbone(picture, torch.ones(whole.maps.shape[1], dtype=torch.bool))
    assert torch.equal(whole.embedding, kept.embedding)
    assert torch.equal(whole.maps, kept.maps)


@pytest.mark.parametrize("value", [True, False])
def test_keeping_maps_that_are_not_there_is_a_sentence(value: bool, tiny: FrozenBackbone) -> None:
    with pytest.raises(AISError, match="'inner' of tiny gives 12 feature maps, not 13"):
        tiny(torch.rand(1, 3, 64, 64), torch.full((13,), value))


@pytest.mark.parametrize(
    ("name", "layer", "owner", "channels"),
    [
        ("timm:resnet18", None, range(512), 512),
        ("timm:resnet18", "layer4.1.conv2", range(512), 512),
        ("timm:resnet18", "layer3", None, 256),
        ("timm:convnext_atto", None, None, 320),  # LayerNorm after the pooling mixes the maps
    ],
)
def test_any_convolutional_network_of_timm(
    name: str, layer: str | None, owner: range | None, channels: int
) -> None:
    """Whether every map has a coordinate of its own is found out; either way importance is the naive loop's."""
    torch.manual_seed(0)
    loaded = load_backbone(name, layer, weights=None)
    assert loaded.embedding_slice == owner
    assert loaded.name.startswith(f"{name}.")  # with the tag of the weights
    network = randomise(loaded.network).double()
    backbone = FrozenBackbone(network, name, loaded.layer, loaded.preprocessing, loaded.embedding_slice)
    picture = torch.rand(1, 3, 64, 96, dtype=torch.float64)
    features = backbone(picture)
    torch.testing.assert_close(features.embedding, network(picture), rtol=1e-8, atol=1e-8)
    assert features.maps.shape[1] == channels
    dim = features.embedding.shape[1]
    head = make_head(name, loaded.layer, dim=dim, channels=channels).double()
    result = importance.prediction(backbone, features, head)[0]
    score = head.score(features.embedding)
    for c in range(0, channels, 32):
        naive = score - head.score(ablated(backbone, picture, [c]))
        torch.testing.assert_close(result[c : c + 1], naive, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["resnet18", "resnet18.tv_in1k", "convnext_atto", "densenet121.ra_in1k"])
def test_a_network_of_timms_is_fed_as_timm_feeds_it(name: str) -> None:
    spec = backbone_spec(f"timm:{name}")
    config = timm.get_pretrained_cfg(name)
    transform = timm.data.create_transform(
        **timm.data.resolve_data_config({}, pretrained_cfg=config.to_dict())
    )
    resize, crop, _, normalize = transform.transforms
    preprocessing = spec.preprocessing("crop")
    assert preprocessing.resize_to == resize.size == math.floor(spec.size / config.crop_pct)
    assert (preprocessing.size, preprocessing.size) == tuple(crop.size)
    assert preprocessing.interpolation == resize.interpolation.value
    assert preprocessing.mean == pytest.approx(normalize.mean.tolist())
    assert preprocessing.std == pytest.approx(normalize.std.tolist())
    assert spec.hub_id == f"timm/{config.architecture}.{config.tag}"
    assert spec.source == f"hub:{spec.hub_id}"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("resnet19", r"timm has no network 'resnet19'\. Did you mean .*timm:resnet18"),
        ("nonsense", "timm has no network 'nonsense'"),
        ("", "timm has no network ''"),
        ("resnet18.nonsense", r"timm has no network 'resnet18\.nonsense'\. Did you mean timm:resnet18\."),
        ("resnet18.", "timm has no network"),
        ("../resnet18", "timm has no network"),
        ("/tmp/resnet18", "timm has no network"),
        ("hf-hub:someone/resnet18", "timm has no network"),
        ("local-dir:resnet18", "timm has no network"),
        ("resnet18\n", "timm has no network"),
        ("vit_tiny_patch16_224", "vit_tiny_patch16_224 cannot be a backbone: .*a convolutional network"),
        ("swin_tiny_patch4_window7_224", "cannot be a backbone: .*a convolutional network"),
        ("efficientnet_b1_pruned.none", "timm has no network"),
        ("resnet10t.c3_in1k.x", "timm has no network"),
    ],
)
def test_what_cannot_be_a_backbone_is_a_sentence(name: str, sentence: str) -> None:
    with pytest.raises(AISError, match=sentence):
        load_backbone(f"timm:{name}", weights=None)


def test_a_transformers_layer_has_no_maps() -> None:
    with pytest.raises(AISError, match=r"'blocks\.11' of timm:naflexvit.* gives no feature maps"):
        load_backbone("timm:naflexvit_base_patch16_gap", weights=None)


def test_looking_a_network_of_timms_up_again_builds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    first = backbone_spec("timm:resnet18")
    monkeypatch.delattr(timm, "create_model")
    assert backbone_spec("timm:resnet18") is first


def test_two_views_share_one_network(photograph: Image.Image) -> None:
    first = FrozenBackbone(randomise(TinyNetwork()), "tiny", "inner", PREPROCESSING, range(12))
    other = first.with_preprocessing("crop")
    assert other.network is first.network
    assert other.trunk is first.trunk
    assert (first.preprocessing.view, other.preprocessing.view) == ("resize", "crop")
    assert first.with_preprocessing("whole") is first  # its old name
    assert other.sha256 == first.sha256
    for backbone in (first, other):
        embedding = backbone(photograph).embedding  # an image as well as a tensor
        assert torch.equal(embedding, backbone(backbone.preprocessing(photograph)[None]).embedding)
    assert not torch.equal(first(photograph).embedding, other(photograph).embedding)
    with pytest.raises(AISError, match=r"no view 'middle'\. Choose one of: crop, resize"):
        first.with_preprocessing("middle")


def test_views_and_sizes_share_one_network(photograph: Image.Image) -> None:
    """In whatever order they are asked for."""
    crop = replace(PREPROCESSING, view="crop", resize_to=37)
    first = FrozenBackbone(randomise(TinyNetwork()), "tiny", "inner", crop, range(12))
    large = first.with_preprocessing(size=96)
    assert large.network is first.network
    assert large.trunk is first.trunk
    assert large.preprocessing == replace(crop, size=96, resize_to=111)
    assert large.with_preprocessing(view="crop") is large
    assert large.with_preprocessing("resize").preprocessing.size == 96
    assert large.with_preprocessing(size=64).with_preprocessing(size=32).preprocessing == crop
    assert (first.label, large.label) == ("tiny", "tiny at 96 px")
    assert first(photograph).maps.shape[2:] == (4, 4)
    assert large(photograph).maps.shape[2:] == (12, 12)
    assert large.sha256 == first.sha256
    with pytest.raises(
        AISError, match=r"A size of 100 pixels cannot be used: choose 32, the network's own, or a"
    ):
        large.with_preprocessing(size=100)


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_has_its_own_size_unless_asked(name: str) -> None:
    spec = backbone_spec(name)
    own = Preprocessing("crop", spec.size, spec.resize_to, spec.interpolation, spec.mean, spec.std)
    assert spec.preprocessing() == spec.preprocessing("crop", spec.size) == own
    assert spec.preprocessing("resize") == replace(own, view="resize")
    assert spec.preprocessing("crop", 448).resize_to == round(spec.resize_to * 448 / spec.size)


@pytest.mark.parametrize("size", [64, 192])
@pytest.mark.parametrize("name", [name for name in BACKBONES if name not in ("vgg19", "resnet152")])
def test_every_backbone_at_another_size(name: str, size: int) -> None:
    """Or a sentence: Inception v3 leaves nothing of 64 pixels."""
    if (name, size) == ("inception_v3", 64):
        with pytest.raises(
            AISError, match=r"inception_v3 cannot read pictures at 64 pixels: choose a larger size"
        ):
            load_backbone(name, weights=None, size=size)
        return
    backbone = random_backbone(name, 0, view="resize", size=size)
    features = backbone(Image.new("RGB", (90, 60)))
    assert features.maps.shape[3] > features.maps.shape[2] * 1.2
    assert features.delta is not None


def test_a_lack_of_memory_is_not_called_a_wrong_size(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = random_backbone("efficientnet_lite0", 0)

    def fail(*_: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(backbone.network, "forward", fail)
    with pytest.raises(RuntimeError, match="allocate memory"):
        backbone.with_preprocessing(size=96)


def test_a_wrong_size_is_told_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ais.backbones.loading.read_weights", pytest.fail)
    for call in (load_backbone, partial(random_backbone, seed=0)):
        with pytest.raises(AISError, match="size of 330 pixels cannot be used: choose 224"):
            call("efficientnet_lite0", size=330)


def test_one_network_in_memory_serves_all_sizes() -> None:
    name, layer = "efficientnet_lite0", "conv_head"
    first, *others = (
        backbone_cached(name, layer, view=view, size=size, device="cpu")
        for view, size in (("crop", None), ("resize", 320), ("crop", 448), ("resize", 224))
    )
    assert all(other.network is first.network and other.trunk is first.trunk for other in others)
    assert [b.preprocessing.size for b in (first, *others)] == [224, 320, 448, 224]
    assert [b.preprocessing.resize_to for b in (first, others[1])] == [256, 512]


def test_the_hash_is_that_of_the_published_rule() -> None:
    network = randomise(TinyNetwork())
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(name.encode() + value.numpy().tobytes())
    backbone = FrozenBackbone(network, "tiny", "inner", PREPROCESSING, range(12))
    assert backbone.sha256 == digest.hexdigest()[:16]


def test_the_hash_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = FrozenBackbone(randomise(TinyNetwork()), "tiny", "inner", PREPROCESSING, range(12))
    made, digest = [], hashlib.sha256
    monkeypatch.setattr(hashlib, "sha256", lambda: made.append(1) or digest())
    assert backbone.sha256 == backbone.sha256 == backbone.with_preprocessing("crop").sha256
    assert len(made) == 1


_SWAPPED = [1, 0, *range(2, 12)]
CHANGES: dict[str, Callable[[nn.Module], object]] = {
    "weight": lambda network: network.stem[0].weight.add_(1),  # type: ignore[index,operator,union-attr]
    "a statistic": lambda network: network.norm.running_mean.add_(1),  # type: ignore[operator,union-attr]
    "past autograd": lambda network: network.inner.weight.data.mul_(2),  # type: ignore[operator,union-attr]
    "turned round": lambda network: network.inner.weight.data.copy_(network.inner.weight.data.flip(0)),  # type: ignore[operator,union-attr]
    "two swapped": lambda network: network.norm.bias.data.copy_(network.norm.bias.data[_SWAPPED]),  # type: ignore[index,operator,union-attr]
    "by NumPy": lambda network: network.norm.weight.detach().numpy().fill(3),  # type: ignore[operator,union-attr]
    "loaded": lambda network: network.load_state_dict(randomise(TinyNetwork(), 1).state_dict()),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("hashed", [False, True])
def test_a_change_after_the_making_is_noticed(change: str, hashed: bool) -> None:
    """The trunk's folded weights are those of before: no cache may hold what it gives under the hash of either."""
    backbone = FrozenBackbone(randomise(TinyNetwork()), "tiny", "inner", PREPROCESSING, range(12))
    other = backbone.with_preprocessing("crop")
    before = backbone.sha256 if hashed else ""
    assert not backbone.changed()
    CHANGES[change](backbone.network)
    assert backbone.changed()
    assert other.changed()
    if change in ("weight", "a statistic", "loaded"):
        assert backbone.sha256 != before
    assert not FrozenBackbone(backbone.network, "tiny", "inner", PREPROCESSING, range(12)).changed()


def test_moved_it_is_the_same() -> None:
    backbone = FrozenBackbone(randomise(TinyNetwork()), "tiny", "inner", PREPROCESSING, range(12))
    before = backbone.sha256
    assert not copy.deepcopy(backbone).to(memory_format=torch.channels_last).changed()
    assert copy.deepcopy(backbone).sha256 == before
