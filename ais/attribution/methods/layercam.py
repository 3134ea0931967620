"""LayerCAM."""

from __future__ import annotations

from captum.attr import LayerGradientXActivation
from torch import Tensor

from ais.attribution.drawing import Drawing
from ais.attribution.forward import ForwardPass
from ais.attribution.methods.gradcam import by_variant


def layercam(forward_pass: ForwardPass, importance: Tensor) -> Drawing:
    """LayerCAM without its ReLUs: at each place the gradient times the map, summed over the maps.

    LayerCAM is Jiang et al., IEEE Transactions on Image Processing 30 (2021), doi 10.1109/TIP.2021.3089943. With its
    sign it is the same as HiResCAM (Draelos & Carin, arXiv 2011.08891), the first-order change of the score in points.
    Unlike Grad-CAM it does not share one gradient among all places of a map. `importance` is not used.
    """
    return Drawing(by_variant(forward_pass, LayerGradientXActivation))
