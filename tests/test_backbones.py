"""The registry: what each backbone gives, that it stays frozen, where its weights come from."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ais.backbones import BACKBONES, FrozenBackbone, load_backbone
from ais.errors import AISError, WeightsError
from ais.images import read_image
from conftest import OASIS, TinyNetwork, randomise

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
    backbone = FrozenBackbone(TinyNetwork(), "tiny", "pool")
    assert backbone(torch.rand(1, 3, 32, 32)).maps.ndim == 4
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.Linear(4, 2))
    with pytest.raises(AISError, match="2-dimensional values, not feature maps"):
        FrozenBackbone(network, "tiny", "1")(torch.rand(1, 3, 2, 2))


def test_stays_frozen_whatever_is_called() -> None:
    backbone = FrozenBackbone(randomise(TinyNetwork()), "tiny", "inner", range(12))
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
    backbone.tail(features.maps, *features.live)
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
        probability = network(spec.view().tensor(image)[None]).softmax(-1)[0]
        embedding = network.forward_head(
            network.forward_features(spec.view().tensor(image)[None]), pre_logits=True
        )
        torch.testing.assert_close(
            load_backbone(name)(spec.view().tensor(image)[None]).embedding, embedding, rtol=1e-4, atol=1e-5
        )
    return probability.numpy()


@pytest.fixture
def torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no way out of the machine."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no network in this test")

    monkeypatch.setattr("socket.create_connection", refuse)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints"


@pytest.mark.parametrize("name", [name for name in BACKBONES if name not in LITE])
def test_missing_weights_say_which_where_from_and_where_to(name: str, torch_home: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        load_backbone(name)
    sentence, source = str(caught.value), BACKBONES[name].source
    assert source in sentence
    assert str(torch_home / source.rsplit("/", 1)[1]) in sentence
    assert "no network in this test" in sentence


@pytest.mark.parametrize("name", ["densenet161", "barlow_twins", "inception_v3"])
def test_file_placed_by_hand_is_used(name: str, torch_home: Path) -> None:
    """The three whose checkpoints are special: old names, no classifier, an auxiliary classifier."""
    torch.manual_seed(1)
    network = randomise(BACKBONES[name].build())
    state = network.state_dict()
    if name == "densenet161":  # as the published file spells them
        state = {
            re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", key): v for key, v in state.items()
        }
        assert any("norm.1." in key for key in state)
    torch.save(state, torch_home / BACKBONES[name].source.rsplit("/", 1)[1])
    loaded = load_backbone(name)
    setattr(network, BACKBONES[name].classifier, nn.Identity())
    pictures = torch.rand(1, 3, 96, 96)
    with torch.no_grad():
        expected = network.eval()(pictures)
    torch.testing.assert_close(
        loaded(pictures).embedding, expected, rtol=1e-3, atol=1e-4 * expected.max().item()
    )


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\x80\x04cos\nsystem\n"])
def test_damaged_file_is_a_sentence(content: bytes, torch_home: Path) -> None:
    (torch_home / "vgg16-397923af.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=r"vgg16-397923af\.pth.*Delete it"):
        load_backbone("vgg16")


def test_weights_of_another_network_are_refused(torch_home: Path) -> None:
    """The authors' file has a plain name, so another ResNet-50 may well lie there."""
    import torchvision

    torch.save(torchvision.models.resnet50().state_dict(), torch_home / "resnet50.pth")
    with pytest.raises(WeightsError, match="does not hold the weights of barlow_twins"):
        load_backbone("barlow_twins")


def test_checkpoint_cannot_run_code(torch_home: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (Path(tmp_path / "ran"),)  # type: ignore[return-value]

    torch.save({"weight": Evil()}, torch_home / "vgg16-397923af.pth")
    with pytest.raises(WeightsError):
        load_backbone("vgg16")
    assert not (tmp_path / "ran").exists()


def test_weights_hash_tells_weights_apart() -> None:
    torch.manual_seed(0)
    first = FrozenBackbone(TinyNetwork(), "tiny", "inner")
    same = FrozenBackbone(TinyNetwork(), "tiny", "inner")
    same.network.load_state_dict(first.network.state_dict())
    other = FrozenBackbone(TinyNetwork(), "tiny", "inner")
    assert first.weights_hash == same.weights_hash != other.weights_hash
