"""Loading backbones: with pretrained weights, with a tuned head's own, or with random ones; on which device."""

from __future__ import annotations

import threading
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from ais.backbones.frozen import FrozenBackbone
from ais.backbones.graph import resolve_layer
from ais.backbones.registry import TIMM, BackboneSpec, backbone_spec
from ais.backbones.weights import read_tensors, read_weights
from ais.errors import AISError, WeightsError, check_choice
from ais.torch_state import own_state


@own_state()
def load_backbone(
    name: str,
    layer: str | None = None,
    *,
    view: str = "crop",
    size: int | None = None,
    weights: Path | Literal["default"] | None = "default",
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> FrozenBackbone:
    """A backbone of the registry, or any convolutional network of timm's, with its pretrained weights.

    Args:
        name: a key of `BACKBONES`, or ``timm:`` and a name of timm's, such as ``timm:convnext_small``.
        layer: the target layer; the backbone's default if None. Also in the spelling ``features.7.2.conv3``.
        view: what the network sees of an image: ``crop``, the square in the middle, or ``resize``, all of it.
        size: of the network's input in pixels, its side (crop) or shorter side (resize): a multiple of 32 from 64 to
            640, or the network's own, which None stands for.
        weights: ``"default"``, the path of a safetensors file with this network's tensors (a tuned backbone's),
            or None for random ones (for tests, and for training from scratch).
        progress: show a bar on stderr while weights are fetched.

    Raises:
        AISError: no such backbone, layer, view or size.
        WeightsError: the weights are neither here nor to be fetched, or the file is damaged.
    """
    if not isinstance(name, str):
        raise AISError(
            "load_backbone takes a backbone's name. A network of your own becomes one by ais.FrozenBackbone(network, "
            "name, layer, ais.Preprocessing(view, size, resize_to, interpolation, mean, std))."
        )
    spec = backbone_spec(name)
    spec.preprocessing(view, size)  # which raises before anything is loaded
    pretrained = weights == "default"
    network = _load_pretrained(name, spec, progress) if pretrained else spec.build()
    if spec.classifier:
        setattr(network, spec.classifier, nn.Identity())
    else:
        network.reset_classifier(0)  # type: ignore[operator]  # timm's own word for it
    if weights is not None and not pretrained:
        try:
            network.load_state_dict(read_tensors(Path(weights)))
        except RuntimeError as error:
            raise WeightsError(f"The file {weights} does not hold the weights of a {name}.") from error
    if name.startswith(TIMM):  # with its tag, which says which weights these are
        name = TIMM + spec.hub_id.rpartition("/")[2]
    layer = resolve_layer(network, layer or spec.layer)
    backbone = FrozenBackbone(network, name, layer, spec.preprocessing(), spec.target_layers.get(layer))
    if name.startswith(TIMM):
        backbone.embedding_slice = _probe(backbone, spec)
    return backbone.to(device).with_preprocessing(view, size)


@own_state()
def random_backbone(
    name: str,
    seed: int,
    layer: str | None = None,
    *,
    view: str = "crop",
    size: int | None = None,
    device: str | torch.device = "cpu",
) -> FrozenBackbone:
    """A backbone of the registry with random weights that depend on the seed alone.

    Raises:
        AISError: no such backbone, layer, view or size.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return load_backbone(name, layer, view=view, size=size, weights=None, device=device)


def _probe(backbone: FrozenBackbone, spec: BackboneSpec) -> range | None:
    """The coordinates that the maps of a network of timm's feed: tried out, since timm does not say.

    Where the tail treats every map on its own, ablating one leaves all other coordinates the same to the bit.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        maps, *side_inputs = backbone.trunk(torch.rand((1, 3, spec.size, spec.size), generator=generator))
        if maps.ndim != 4 or maps.shape[2:] != (maps.shape[2],) * 2:
            raise AISError(
                f"The layer {backbone.layer!r} of {backbone.name} gives no feature maps (N, C, h, w): name a "
                "convolutional layer, or choose a convolutional network."
            )
        channels = maps.shape[1]
        maps = torch.rand(maps.shape, generator=generator) + 0.5
        whole = backbone.tail(maps, *side_inputs)
        if whole.shape[1] != channels:
            return None
        for c in range(channels):
            ablated = maps.clone()
            ablated[:, c] = 0
            changed = (backbone.tail(ablated, *side_inputs) != whole)[0]
            changed[c] = False
            if changed.any():
                return None
    return range(channels)


def _load_pretrained(name: str, spec: BackboneSpec, progress: bool) -> nn.Module:
    state = read_weights(name, spec.source, progress, file=spec.file, sha256=spec.sha256)
    with torch.device("meta"):  # no time spent on random weights that are thrown away
        network = spec.build()
    try:
        network.load_state_dict(spec.adapt(state, network), assign=True)
    except (RuntimeError, ValueError, AttributeError, KeyError) as error:
        raise WeightsError(
            f"The file of {spec.source} does not hold the weights of {name}. Delete it (it may lie at "
            f"{spec.weights_file}) and try again: it will be fetched again."
        ) from error
    return network


@own_state()
def backbone_cached(
    name: str,
    layer: str,
    *,
    view: str = "crop",
    size: int | None = None,
    device: str = "auto",
    tuned: Path | None = None,
    tuned_sha256: str = "",
) -> FrozenBackbone:
    """`load_backbone`, from a cache of the last few. One network serves both views and all sizes.

    Args:
        tuned, tuned_sha256: the file of a tuned backbone, and its hash.

    Raises:
        AISError: no such device, view or size. WeightsError: the weights are unavailable.
    """
    with _lock:  # so that two requests at once do not load the same weights twice
        own = _backbone(name, layer, pick_device(device), tuned, tuned_sha256)
        return own.with_preprocessing(view, own.native.size if size is None else size)


def pick_device(device: str = "auto") -> str:
    """``auto`` is the GPU where there is one.

    Raises:
        AISError: no such device here.
    """
    check_choice("device", device, ("auto", "cpu", "cuda"))
    if device == "cuda" and not torch.cuda.is_available():
        raise AISError("There is no CUDA device that PyTorch can use here. Choose the device auto or cpu.")
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


_CACHED = 8  # backbones that are kept in memory at once: all of the largest stack

_lock = threading.Lock()


@lru_cache(maxsize=_CACHED)
def _backbone(name: str, layer: str, device: str, tuned: Path | None, tuned_sha256: str) -> FrozenBackbone:
    return load_backbone(name, layer, weights=tuned or "default", device=device)
