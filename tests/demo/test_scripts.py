"""Functions of the page's scripts, in node: they need no browser."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import numpy as np
import pytest

from ais.demo.components import text

NODE = shutil.which("node")

SCALES = [
    (1, 7),
    (1, 5),
    (1, 10),
    (0, 10),
    (0, 100),
    (1, 9),
    (-3, 3),
    (0, 1),
    (0, 0.5),
    (0, 2.5),
    (0.3, 2.9),
    (1, 4),
]
SCALES += [
    (0.1, 0.7),
    (-0.0045, 0.0045),
    (1000, 1009),
    (0, 1e6),
    (0, 1e-7),
    (-7, -1),
    (0.37, 2.37),
    (1 / 3, 7),
]


def called(function: str, *cases: Any) -> list[Any]:
    """What a function of `heat.js` gives for each list of arguments."""
    if NODE is None:
        pytest.skip("node is not installed")
    script = (
        f"globalThis.window = {{}};\n{text('heat.js')}\n"
        f"console.log(JSON.stringify({json.dumps(cases)}.map((given) => window.ais.{function}(...given))));"
    )
    done = subprocess.run([NODE, "-"], input=script, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def value(label: str) -> float:
    return float(label.replace("−", "-"))


def test_a_rating_scale_of_whole_numbers_has_a_tick_at_each() -> None:
    (ticks,) = called("ticks", (1, 7))
    assert [tick["text"] for tick in ticks] == list("1234567")


def test_any_scale_has_its_ends_and_round_numbers_between_them() -> None:
    rng = np.random.default_rng(0)
    drawn = [
        (float(round(a, 4)), float(round(a + b, 4)))
        for a, b in zip(rng.normal(0, 9, 300), rng.lognormal(0, 3, 300) + 0.001, strict=True)
    ]
    scales = SCALES + drawn
    for (low, high), ticks in zip(scales, called("ticks", *scales), strict=True):
        values = [value(tick["text"]) for tick in ticks]
        assert (values[0], values[-1]) == (low, high)
        shares = [tick["share"] for tick in ticks]
        np.testing.assert_allclose(shares, [(v - low) / (high - low) for v in values], atol=1e-9)
        steps = np.diff(values)
        assert len(ticks) <= 11
        long = (
            max(len(tick["text"]) for tick in ticks) > 5
        )  # an end whose label is long takes the place of a tick
        assert len(ticks) > (2 if long else 3), (low, high)
        if len(steps) < 4:
            continue
        step = np.median(steps[1:-1])
        np.testing.assert_allclose(steps[1:-1], step, rtol=1e-6)
        assert min(steps[0], steps[-1]) > 0.48 * step
        assert long or max(steps[0], steps[-1]) < 1.52 * step, (low, high)
        digits = step / 10 ** np.floor(np.log10(step) + 1e-9)
        assert min(abs(digits - nice) for nice in (1, 2, 2.5, 5)) < 1e-6
        assert abs(2 * values[1] / step - round(2 * values[1] / step)) < 1e-6  # a round number itself


def test_labels_do_not_touch() -> None:
    for low, high in [*SCALES, (0.123456789, 7.987654321), (0, 123456789.5), (-1234567.25, 1234567.25)]:
        (ticks,) = called("ticks", (low, high))
        sizes = [6.5 * len(tick["text"]) for tick in ticks]  # pixels on a line of 300
        middles = [300 * tick["share"] for tick in ticks]
        middles[0], middles[-1] = (
            sizes[0] / 2,
            300 - sizes[-1] / 2,
        )  # those at the ends begin and end with the line
        for i in range(len(ticks) - 1):
            assert middles[i] + sizes[i] / 2 < middles[i + 1] - sizes[i + 1] / 2, (low, high)
