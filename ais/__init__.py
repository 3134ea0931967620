"""AIS: the score people would give a picture, and where in the picture it comes from."""

from ais.attribution.explain import explain, score
from ais.attribution.explanation import Explanation, Score
from ais.attribution.methods import METHODS
from ais.backbones.frozen import FrozenBackbone
from ais.backbones.loading import load_backbone
from ais.backbones.registry import BACKBONES
from ais.errors import AISError, DataError, HeadError, HubError, ImageError, WeightsError
from ais.heads.loading import list_heads, load_head
from ais.heads.regression import RegressionHead
from ais.heads.stack import StackedHead
from ais.version import __version__

__all__ = [
    "BACKBONES",
    "METHODS",
    "AISError",
    "DataError",
    "Explanation",
    "FrozenBackbone",
    "HeadError",
    "HubError",
    "ImageError",
    "RegressionHead",
    "Score",
    "StackedHead",
    "WeightsError",
    "__version__",
    "explain",
    "list_heads",
    "load_backbone",
    "load_head",
    "score",
]
