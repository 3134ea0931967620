"""AIS: the score people would give an image, and where in the image it comes from.

A name is imported when it is first used, so that `import ais` loads neither PyTorch nor the page.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ais.version import __version__

if TYPE_CHECKING:
    from ais.attribution.baselines import BASELINES
    from ais.attribution.explain import explain, score
    from ais.attribution.explanation import Explanation, Score
    from ais.attribution.kinds import KINDS
    from ais.attribution.methods import METHODS
    from ais.backbones.frozen import FrozenBackbone
    from ais.backbones.loading import load_backbone
    from ais.backbones.registry import BACKBONES, BackboneSpec
    from ais.data.converters import CONVERTERS
    from ais.errors import AISError, DataError, HeadError, HubError, ImageError, UnwritableError, WeightsError
    from ais.heads.loading import load_head
    from ais.heads.regression import RegressionHead
    from ais.heads.shipped import list_heads
    from ais.heads.stack import StackedHead
    from ais.heads.tasks import TASKS
    from ais.images.preprocessing import Preprocessing
    from ais.publish.push import push_head
    from ais.training.strategies import STRATEGIES

__all__ = [
    "BACKBONES",
    "BASELINES",
    "CONVERTERS",
    "KINDS",
    "METHODS",
    "STRATEGIES",
    "TASKS",
    "AISError",
    "BackboneSpec",
    "DataError",
    "Explanation",
    "FrozenBackbone",
    "HeadError",
    "HubError",
    "ImageError",
    "Preprocessing",
    "RegressionHead",
    "Score",
    "StackedHead",
    "UnwritableError",
    "WeightsError",
    "__version__",
    "explain",
    "list_heads",
    "load_backbone",
    "load_head",
    "push_head",
    "score",
]

_MODULES = {  # where each name is; the imports above say the same to editors and type checkers
    "BACKBONES": "ais.backbones.registry",
    "BASELINES": "ais.attribution.baselines",
    "CONVERTERS": "ais.data.converters",
    "KINDS": "ais.attribution.kinds",
    "METHODS": "ais.attribution.methods",
    "STRATEGIES": "ais.training.strategies",
    "TASKS": "ais.heads.tasks",
    "AISError": "ais.errors",
    "BackboneSpec": "ais.backbones.registry",
    "DataError": "ais.errors",
    "Explanation": "ais.attribution.explanation",
    "FrozenBackbone": "ais.backbones.frozen",
    "HeadError": "ais.errors",
    "HubError": "ais.errors",
    "ImageError": "ais.errors",
    "Preprocessing": "ais.images.preprocessing",
    "RegressionHead": "ais.heads.regression",
    "Score": "ais.attribution.explanation",
    "StackedHead": "ais.heads.stack",
    "UnwritableError": "ais.errors",
    "WeightsError": "ais.errors",
    "explain": "ais.attribution.explain",
    "list_heads": "ais.heads.shipped",
    "load_backbone": "ais.backbones.loading",
    "load_head": "ais.heads.loading",
    "push_head": "ais.publish.push",
    "score": "ais.attribution.explain",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
