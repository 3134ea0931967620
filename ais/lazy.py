"""Functions of modules that take long to import."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class LazyFunction:
    """A function whose module is imported when it is first called.

    With these a registry can be listed, by the command line's help for one, without PyTorch.

    Attributes:
        module, name: where the function is.
    """

    module: str
    name: str

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return getattr(import_module(self.module), self.name)(*arguments, **options)
