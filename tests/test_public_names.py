"""`import ais` is quick, and its names are all there."""

from __future__ import annotations

import ast
import importlib
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import ais

HEAVY = {"torch", "torchvision", "timm", "captum", "numpy", "scipy", "PIL", "matplotlib", "gradio", "typer"}


def test_importing_loads_nothing_heavy() -> None:
    code = "import ais, sys; dir(ais); print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & set(loaded.stdout.split())


def test_every_name_is_there_and_is_what_type_checkers_are_told() -> None:
    tree = ast.parse(Path(ais.__file__).read_text(encoding="utf-8"))
    told = {
        name.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module not in ("importlib", "typing")
        for name in node.names
    }
    assert set(told) == set(ais.__all__)
    assert {*told} <= {*dir(ais)}
    for name, module in told.items():
        assert module is not None
        assert getattr(ais, name) is getattr(importlib.import_module(module), name)


def test_from_ais_import_all() -> None:
    names: dict[str, object] = {}
    exec("from ais import *", names)
    assert set(ais.__all__) <= set(names)


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'explane'"):
        ais.explane  # noqa: B018
    with pytest.raises(ImportError):
        exec("from ais import explane")


def test_classes_can_be_pickled() -> None:
    for name in ("Explanation", "FrozenBackbone", "RegressionHead", "explain"):
        value = getattr(ais, name)
        assert pickle.loads(pickle.dumps(value)) is value
