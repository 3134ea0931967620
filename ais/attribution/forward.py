"""One forward pass of an image through a head's backbone: what all methods and kinds of importance start from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from PIL.Image import Image
from torch import Tensor

from ais.attribution import importance
from ais.attribution.baselines import BASELINES, PUBLISHED
from ais.backbones.frozen import Features, FrozenBackbone
from ais.errors import AISError, HeadError
from ais.heads.loading import backbone_of, check_backbone
from ais.heads.regression import RegressionHead
from ais.images.preprocessing import Placement


@dataclass(frozen=True, eq=False)
class ForwardPass:
    """What one forward pass gives.

    Attributes:
        head: on one backbone.
        image: (1, 3, H, W), the backbone's input.
        placement: where it lies on the image as it was given.
        features: of the backbone.
        hidden: (1, K, H), the head's first layer.
        baseline: what an ablated map becomes, a key of `BASELINES`.
    """

    head: RegressionHead
    backbone: FrozenBackbone
    image: Tensor
    placement: Placement
    features: Features
    hidden: Tensor
    baseline: str = PUBLISHED

    @cached_property
    def prediction(self) -> Tensor:
        """(K, C), what each map adds to the score of each of this head's variants.

        Raises:
            AISError: this head, or its backbone, has no such baseline.
        """
        delta = BASELINES[self.baseline].delta(self.backbone, self.features, self.head)
        features = self.features._replace(delta=delta)
        return importance.variant_predictions(self.backbone, features, self.head, self.hidden)[0]

    @cached_property
    def typical_hidden(self) -> Tensor:
        """(1, K, H), the head's first layer for the mean embedding of the images it was trained on."""
        return self.head.hidden(self.head.typical[None])

    def against(self, baseline: str) -> ForwardPass:
        """The same pass, with another baseline."""
        return replace(self, baseline=baseline)


def forward(
    image: Image, head: RegressionHead, device: str = "auto", backbone: FrozenBackbone | None = None
) -> ForwardPass:
    """Run the head's backbone, and the head's first layer, on an upright RGB image.

    Args:
        head: where it is to compute (see `Head.on`).
        device: of the head's own backbone. backbone: another one to use instead.

    Raises:
        HeadError: the head does not fit its backbone.
        WeightsError, AISError: as `ais.heads.loading.backbone_of`.
    """
    if backbone is None:
        backbone = backbone_of(head, device)
    else:
        _check_fit(head, backbone)
    return run(head, backbone, image)


def doubled(image: Image, forward_pass: ForwardPass) -> ForwardPass:
    """The same with an input of twice the size, for a map of twice as many cells a side."""
    return run(forward_pass.head, forward_pass.backbone, image, 2).against(forward_pass.baseline)


def run(head: RegressionHead, backbone: FrozenBackbone, image: Image, times: int = 1) -> ForwardPass:
    """A head and a backbone that fit each other, on an upright RGB image.

    Args:
        times: so many times the backbone's input size.

    Raises:
        HeadError: they do not.
    """
    tensor = backbone.preprocessing(image, times)[None]
    try:
        features = backbone(tensor, head.keep)
    except AISError as error:
        raise HeadError(f"The head {head.config.name!r} does not fit its backbone. {error}") from error
    if features.embedding.shape[1] != head.config.dim:
        raise HeadError(
            f"The head {head.config.name!r} reads {head.config.dim} values, but its backbone gives "
            f"{features.embedding.shape[1]}."
        )
    placement = backbone.preprocessing.geometry(image.width, image.height)
    return ForwardPass(head, backbone, tensor, placement, features, head.hidden(features.embedding))


def _check_fit(head: RegressionHead, backbone: FrozenBackbone) -> None:
    """That a backbone is used as the head learned it; how wide its embedding is, the forward pass shows."""
    config, preprocessing = head.config, backbone.preprocessing
    learned = (config.layer, config.view, config.size)
    given = (backbone.layer, preprocessing.view, preprocessing.size)
    if learned != given:
        words = [f"layer {layer}, view {view}, at {size} pixels" for layer, view, size in (learned, given)]
        raise HeadError(f"The head {config.name!r} reads {words[0]}, but the backbone given has {words[1]}.")
    if next(backbone.network.parameters()).dtype != torch.float32:
        raise AISError("Give the backbone in float32, in which heads compute.")
    check_backbone(head, backbone)
