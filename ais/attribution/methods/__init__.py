"""`METHODS`, the registry of ways to make a heatmap. A way is one file here and one entry in it.

`ais.explain`, the command line, the page and the messages take their choices from the entries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ais.lazy import LazyFunction

if TYPE_CHECKING:
    from ais.attribution.grids import Grids


@dataclass(frozen=True)
class Method:
    """A way to make a heatmap.

    Attributes:
        label: its name on the page.
        about: what it shows, and how quickly, in a sentence.
        grids: the function, imported when it is called; all share the signature of `ablation`.
        uses_importance: it draws the importances that it is given.
        per_cell: a cell's points are its own share, so that the cells can be summed; else a level.
        slow: it takes many passes, and `grids` a last argument, which it calls between them: a `Progress` or None.
    """

    label: str
    about: str
    grids: Callable[..., Grids]
    uses_importance: bool = False
    per_cell: bool = True
    slow: bool = False


METHODS: dict[str, Method] = {
    "ais": Method(
        "AIS",
        "What each feature map adds to the score, measured by taking it away: exact and quick.",
        LazyFunction("ais.attribution.methods.ablation", "ablation"),
        uses_importance=True,
    ),
    "gradcam": Method(
        "Grad-CAM",
        "How the score would change with the feature maps, by its gradient: quick, approximate.",
        LazyFunction("ais.attribution.methods.gradcam", "gradcam"),
    ),
    "occlusion": Method(
        "Occlusion",
        "How the score changes when a grey window hides a place: slow, hundreds of passes.",
        LazyFunction("ais.attribution.methods.occlusion", "occlusion"),
        per_cell=False,
        slow=True,
    ),
}
