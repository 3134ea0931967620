"""One forward pass of an image through a head's backbone: what all methods and kinds of importance start from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from PIL.Image import Image
from torch import Tensor

from ais.attribution import importance
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
    """

    head: RegressionHead
    backbone: FrozenBackbone
    image: Tensor
    placement: Placement
    features: Features
    hidden: Tensor

    @cached_property
    def prediction(self) -> Tensor:
        """(1, C), what each map adds to this head's own score."""
        return importance.prediction(self.backbone, self.features, self.head, self.hidden)


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
    tensor = backbone.preprocessing(image)[None]
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
