"""Grad-CAM."""

from __future__ import annotations

import torch
from captum.attr import LayerGradCam
from torch import Tensor, nn

from ais.attribution.drawing import Drawing
from ais.attribution.forward import ForwardPass


def gradcam(seen: ForwardPass, importance: Tensor) -> Drawing:
    """Grad-CAM without its final ReLU, so that it keeps its sign (Selvaraju et al., arXiv 1610.02391; captum).

    Its raw values are the first-order change of the score, in points. `importance` is not used.
    """
    after = AfterLayer(seen)
    with torch.enable_grad():
        grids = LayerGradCam(after, after.maps).attribute(after.copies)
    return Drawing(grids.detach()[:, 0])


class AfterLayer(nn.Module):
    """Feature maps -> score of each variant from its own copy of them, as a network of its own for captum.

    Attributes:
        maps: the layer that gives them.
        copies: (K, C, h, w), the picture's maps once for each variant, so that one pass back serves all.
    """

    def __init__(self, seen: ForwardPass) -> None:
        super().__init__()
        self.maps = nn.Identity()
        variants = seen.hidden.shape[1]
        self.copies = seen.features.maps.detach().repeat(variants, 1, 1, 1).requires_grad_()
        live = [value.expand(variants, *value.shape[1:]) for value in seen.features.side_inputs]
        self._scores = lambda maps: seen.head(seen.backbone.tail(maps, *live)).diagonal()

    def forward(self, maps: Tensor) -> Tensor:
        """(K, C, h, w) -> (K,)."""
        scores: Tensor = self._scores(self.maps(maps))
        return scores
