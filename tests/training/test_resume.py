"""A training that is killed at any moment goes on where it was, and makes the same head."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def make_data(folder: Path, count: int = 150) -> None:
    """Pictures in three shards; brighter is better."""
    generator = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    lines = ["file_name,rating_mean,theme"]
    for i in range(count):
        level = generator.uniform(30, 220)
        pixels = generator.normal(level, 25, (32, 40, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
        lines.append(f"images/{i}.png,{level / 50:.3f},{i // 5}")
    (folder / "metadata.csv").write_text("\n".join(lines))


def start(data: Path, out: Path, cache: Path) -> subprocess.Popen[bytes]:
    options = ["--target", "rating_mean", "--low", "0", "--high", "5", "--variants", "2", "--folds", "5"]
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from ais.cli import main; main()",
            "train",
            str(data),
            *options,
            "--out",
            str(out),
        ],
        env={**os.environ, "AIS_CACHE": str(cache), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


@pytest.mark.slow
def test_killed_ten_times_it_makes_the_same_head(tmp_path: Path) -> None:
    data = tmp_path / "data"
    make_data(data)
    begin = time.monotonic()
    assert start(data, tmp_path / "whole" / "head", tmp_path / "cache").wait() == 0
    length = time.monotonic() - begin

    moments = random.Random(0)
    out, cache = tmp_path / "killed" / "head", tmp_path / "other cache"
    killed = 0
    for _ in range(10):
        process = start(data, out, cache)
        try:
            # The first seconds are spent on imports, and what is done is not done again: so late rather than early.
            process.wait(timeout=length * moments.uniform(0.35, 1.0))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1
        else:
            assert process.returncode == 0
    assert killed
    last = start(data, out, cache)
    assert last.wait() == 0, last.stderr and last.stderr.read()
    for file in sorted((tmp_path / "whole" / "head").iterdir()):
        assert file.read_bytes() == (out / file.name).read_bytes(), file.name
    assert {file.name for file in out.iterdir()} == {
        file.name for file in (tmp_path / "whole" / "head").iterdir()
    }
