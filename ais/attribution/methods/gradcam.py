"""Grad-CAM."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from captum.attr import LayerGradCam
from torch import Tensor, nn

from ais.attribution.drawing import Drawing
from ais.attribution.forward import ForwardPass
from ais.attribution.passes import GRADIENT_BATCH, batch_size


def gradcam(forward_pass: ForwardPass, importance: Tensor) -> Drawing:
    """Grad-CAM without its final ReLU, so that it keeps its sign (Selvaraju et al., arXiv 1610.02391; captum).

    Its raw values are the first-order change of the score, in points. `importance` is not used.
    """
    return Drawing(by_variant(forward_pass, LayerGradCam))


def by_variant(forward_pass: ForwardPass, attribution: Callable[[nn.Module, nn.Module], Any]) -> Tensor:
    """What a class of captum's makes of the maps for the score of each variant, summed over the maps: (K, h, w)."""
    grids = []
    # An early layer's maps may be as large as inputs, and what follows them nearly the whole network.
    for variants in torch.arange(forward_pass.hidden.shape[1]).split(
        batch_size(forward_pass.image, GRADIENT_BATCH)
    ):
        after = AfterLayer(forward_pass, variants)
        with torch.enable_grad():
            grids.append(attribution(after, after.maps).attribute(after.copies).detach().sum(1))
    return torch.cat(grids)


class AfterLayer(nn.Module):
    """Feature maps -> score of some variants, each from its own copy of them, as a network of its own for captum.

    Attributes:
        maps: the layer that gives them.
        copies: (V, C, h, w), the picture's maps once for each variant, so that one pass back serves all.
    """

    def __init__(self, forward_pass: ForwardPass, variants: Tensor) -> None:
        super().__init__()
        self.maps = nn.Identity()
        count = len(variants)
        self.copies = forward_pass.features.maps.detach().repeat(count, 1, 1, 1).requires_grad_()
        live = [value.expand(count, *value.shape[1:]) for value in forward_pass.features.side_inputs]
        self._scores = lambda maps: forward_pass.head(forward_pass.backbone.tail(maps, *live))[
            :, variants
        ].diagonal()

    def forward(self, maps: Tensor) -> Tensor:
        """(V, C, h, w) -> (V,)."""
        scores: Tensor = self._scores(self.maps(maps))
        return scores
