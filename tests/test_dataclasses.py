"""Objects that hold arrays can be compared, hashed, copied and sent to another process, as all others can."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import pickle
import pkgutil
import sys
import typing
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

import ais


def classes() -> Iterator[type]:
    """All dataclasses of the package."""
    for module in pkgutil.walk_packages(ais.__path__, "ais."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name, loaded in sorted(sys.modules.items()):
        if name.startswith("ais."):
            for value in vars(loaded).values():
                if isinstance(value, type) and value.__module__ == name and dataclasses.is_dataclass(value):
                    yield value


def fields(cls: Any) -> list[str]:
    if dataclasses.is_dataclass(cls):
        return [field.name for field in dataclasses.fields(cls)]
    return list(getattr(cls, "_fields", []))


def hints(cls: type) -> dict[str, Any]:
    """The types of its fields, also those that are imported for the type checker alone."""
    known: dict[str, Any] = {}
    while True:
        try:
            return typing.get_type_hints(cls, localns=known)
        except NameError as error:
            places = [torch, *(module for name, module in sys.modules.items() if name.startswith("ais."))]
            known[error.name] = next(vars(place)[error.name] for place in places if error.name in vars(place))


def holds_arrays(kind: Any, within: tuple[Any, ...] = ()) -> bool:
    if kind in within or typing.get_origin(kind) is Callable:
        return False
    alias = getattr(typing.get_origin(kind) or kind, "__value__", None)  # NumPy's NDArray on newer Pythons
    if alias is not None:
        return holds_arrays(alias, (*within, kind))
    inside = typing.get_args(kind)
    if isinstance(typing.get_origin(kind) or kind, type):
        plain = typing.get_origin(kind) or kind
        if issubclass(plain, (np.ndarray, torch.Tensor)):
            return True
        if fields(plain):
            inside = (*inside, *hints(plain).values())
    return any(holds_arrays(one, (*within, kind)) for one in inside)


FOUND = [cls for cls in classes() if any(holds_arrays(kind) for kind in hints(cls).values())]


def made(cls: Any) -> Any:
    """An object of the class with an array in each field that may hold one."""
    kinds = hints(cls)
    values = {name: np.arange(3.0) if holds_arrays(kinds[name]) else "something" for name in fields(cls)}
    one = object.__new__(cls)
    for name, value in values.items():
        object.__setattr__(one, name, value)
    return one


def test_the_walk_finds_them() -> None:
    assert {"Explanation", "Contribution", "MapImportance"} <= {cls.__name__ for cls in FOUND}


@pytest.mark.parametrize("cls", FOUND, ids=lambda cls: f"{cls.__module__}.{cls.__name__}")
def test_what_holds_arrays_can_be_compared(cls: type) -> None:
    one, other = made(cls), made(cls)
    assert (one == other) in (True, False)
    assert (one == one) is True
    assert one != 3
    assert isinstance(hash(one), int)
    assert one in [other, one]
    if one == other:
        assert hash(one) == hash(other)
    for again in (copy.copy(one), pickle.loads(pickle.dumps(one))):
        assert type(again) is cls
        assert all(
            np.array_equal(value, getattr(again, name))
            for name, value in getattr(one, "__dict__", {}).items()
            if isinstance(value, np.ndarray)
        )
