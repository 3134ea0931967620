"""What the command imports: as little as its answer needs. Lists, help and wrong calls wait for no network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

NETWORKS = {"torch", "torchvision", "timm", "captum"}
ELSE = {"scipy", "matplotlib", "gradio", "pandas", "sklearn"}

COUNTED = """
import atexit, pathlib, runpy, sys
to = pathlib.Path(sys.argv.pop(1))
atexit.register(lambda: to.write_text(" ".join({name.partition(".")[0] for name in sys.modules})))
sys.argv[0] = "ais"
runpy.run_module("ais", run_name="__main__")
"""


def loaded(tmp_path: Path, *arguments: str, status: int = 0, **environment: str) -> tuple[str, set[str]]:
    """What `python -m ais` prints in a process of its own, and the packages that are loaded at its end."""
    result = subprocess.run(
        [sys.executable, "-c", COUNTED, str(tmp_path / "loaded"), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment},
        check=False,
    )
    assert result.returncode == status, result.stderr
    return result.stdout + result.stderr, set((tmp_path / "loaded").read_text().split())


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--help"], 0, "find-rate"),
        (["--version"], 0, "."),
        (["heads"], 0, "beauty-stack"),
        (["backbones"], 0, "densenet161"),
        (["score", "--help"], 0, "--no-cache"),
        (["explain", "--help"], 0, "gradcam"),
        (["train", "--help"], 0, "head-then-all"),
        (["data", "--help"], 0, "oasis"),
        (["frobnicate"], 2, "frobnicate"),
        (["train", "data"], 2, "--target"),
        (["explain", "photo.jpg", "--out", "o", "--method", "lime"], 2, "Choose one of: contribution, ais, gradcam,"),
        (["explain", "photo.jpg", "--out", "o", "--kind", "lime"], 2, "Choose one of: prediction, residual,"),
        (["prune", "data", "--out", "o", "--criterion", "magic"], 2, "Choose one of: greedy, negative."),
        (["train", "data", "--strategy", "magic"], 2, "Choose one of: head, head-then-all,"),
        (["find-rate", "data", "--view", "squint"], 2, "Choose one of: crop, resize."),
    ],
)  # fmt: skip
def test_no_network_is_loaded_for(arguments: list[str], status: int, words: str, tmp_path: Path) -> None:
    printed, modules = loaded(tmp_path, *arguments, status=status)
    assert words in printed
    assert not modules & (NETWORKS | ELSE)


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("ais sc", ["score"]),
        ("ais data o", ["oasis"]),
        ("ais explain x --method gr", ["gradcam"]),
        ("ais explain x --kind mean", ["mean_residual"]),
        ("ais train x --strategy last", ["last-k"]),
        ("ais train x --backbone efficientnet_b", ["efficientnet_b3"]),
    ],
)
def test_completion_loads_no_network(line: str, completed: list[str], tmp_path: Path) -> None:
    """By what a shell runs: a variable says that, and how, the words so far are to be completed."""
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}
    printed, modules = loaded(tmp_path, _AIS_COMPLETE="complete_bash", **words)
    assert printed.split() == completed
    assert not modules & (NETWORKS | ELSE)


def test_a_score_loads_only_what_it_uses(photograph: Image.Image, tmp_path: Path) -> None:
    photograph.save(tmp_path / "cat.png")
    printed, modules = loaded(tmp_path, "score", str(tmp_path / "cat.png"), AIS_CACHE=str(tmp_path / "cache"))
    assert "beauty" in printed
    assert not modules & (ELSE - {"pandas"} | {"captum"})  # PyTorch imports pandas where it is installed
