"""Grad-CAM."""

from __future__ import annotations

import torch
from captum.attr import LayerGradCam
from torch import Tensor, nn

from ais.attribution.drawing import Drawing
from ais.attribution.forward import ForwardPass
from ais.backbones.frozen import FrozenBackbone
from ais.heads.regression import RegressionHead


def gradcam(seen: ForwardPass, importance: Tensor) -> Drawing:
    """Grad-CAM without its final ReLU, so that it keeps its sign (Selvaraju et al., arXiv 1610.02391; captum).

    Its raw values are the first-order change of the score, in points. `importance` is not used.
    """
    after = _AfterLayer(seen.backbone, seen.head, seen.features.side_inputs)
    with torch.enable_grad():
        grid = LayerGradCam(after, after.maps).attribute(seen.features.maps.detach().requires_grad_())
    return Drawing(grid.detach()[0])


class _AfterLayer(nn.Module):
    """Feature maps -> score, as a network of its own for captum."""

    def __init__(self, backbone: FrozenBackbone, head: RegressionHead, live: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.maps = nn.Identity()
        self._score = lambda maps: head.score(backbone.tail(maps, *live))

    def forward(self, maps: Tensor) -> Tensor:
        return self._score(self.maps(maps))
