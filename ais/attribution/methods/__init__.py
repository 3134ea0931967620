"""`METHODS`, the registry of ways to make a heatmap. A way is one file here and one entry in it.

`ais.explain`, the command line, the page and the messages take their choices from the entries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ais.lazy import LazyFunction

if TYPE_CHECKING:
    from ais.attribution.drawing import Drawing


@dataclass(frozen=True)
class Method:
    """A way to make a heatmap.

    Attributes:
        label: its name on the page.
        about: what it shows, and how quickly, in a sentence.
        draw: the function, imported when it is called; all share the signature of `ablation`: a `ForwardPass` and the
            kind's importance (V, C) of its maps.
        uses_importance: it draws the importances that it is given.
        per_cell: a cell's points are its own share, so that the cells can be summed; else a level.
        slow: it takes many passes, and `draw` a last argument, which it calls between them: a `Progress` or None.
        sums_to: what the cells in points add up to, in some words for a table; empty where they do not (`per_cell`).
        baselines: keys of `ais.attribution.baselines.BASELINES` that it can be drawn against, the default first; none
            if it ablates nothing.
        complete: the score of the typical embedding and all cells in points add up to the score.
        own_maps: it has feature maps of its own, with their importance, and needs none.
        passes: how many inputs the network runs, at least, for a picture whose input is 224 × 224.
    """

    label: str
    about: str
    draw: Callable[..., Drawing]
    uses_importance: bool = False
    per_cell: bool = True
    sums_to: str = ""
    slow: bool = False
    baselines: tuple[str, ...] = ()
    complete: bool = False
    own_maps: bool = False
    passes: int = 1


METHODS: dict[str, Method] = {
    "contribution": Method(
        "Contribution",
        "What each place adds to the score of a typical picture, or takes from it: the typical picture's score and all "
        "places add up to the score.",
        LazyFunction("ais.attribution.methods.contribution", "contribution"),
        sums_to="the score − the score of a typical picture",
        baselines=("typical",),
        complete=True,
        own_maps=True,
    ),
    "ais": Method(
        "AIS",
        "What each feature map adds to the score, measured by taking it away: exact and quick.",
        LazyFunction("ais.attribution.methods.ablation", "ablation"),
        uses_importance=True,
        sums_to="the single ablations of all feature maps, no score",
        baselines=("zero", "typical"),
    ),
    "gradcam": Method(
        "Grad-CAM",
        "How the score would change with the feature maps, by its gradient: quick, approximate.",
        LazyFunction("ais.attribution.methods.gradcam", "gradcam"),
        sums_to="mean gradient × feature map, no score",
    ),
    "layercam": Method(
        "LayerCAM",
        "How the score would change with the feature maps at each place, by its gradient there: quick, approximate.",
        LazyFunction("ais.attribution.methods.layercam", "layercam"),
        sums_to="gradient × feature map, no score",
    ),
    "occlusion": Method(
        "Occlusion",
        "How the score changes when a grey window hides a place: slow, hundreds of passes.",
        LazyFunction("ais.attribution.methods.occlusion", "occlusion"),
        per_cell=False,
        slow=True,
        passes=169,
    ),
    "integrated_gradients": Method(
        "Integrated Gradients",
        "What the pixels of each place add to the score of a grey picture, by gradients on the way: slow, 65 passes "
        "or more.",
        LazyFunction("ais.attribution.methods.integrated_gradients", "integrated_gradients"),
        slow=True,
        sums_to="the score − the score of a grey picture",
        passes=65,
    ),
    "smoothgrad": Method(
        "SmoothGrad",
        "How the score would change with the pixels, by the mean gradient of noisy copies: slow, 48 passes.",
        LazyFunction("ais.attribution.methods.smoothgrad", "smoothgrad"),
        slow=True,
        sums_to="mean gradient × pixel, no score",
        passes=48,
    ),
    "scorecam": Method(
        "Score-CAM",
        "How much higher the score is where feature maps show a place than where they hide it: slow, 256 passes.",
        LazyFunction("ais.attribution.methods.scorecam", "scorecam"),
        per_cell=False,
        slow=True,
        passes=256,
    ),
    "rise": Method(
        "RISE",
        "How much higher the score is where random masks show a place than where they hide it: slow, 512 passes.",
        LazyFunction("ais.attribution.methods.rise", "rise"),
        per_cell=False,
        slow=True,
        passes=512,
    ),
}
