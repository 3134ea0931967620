"""From what was measured on each picture to means, intervals and differences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ais.attribution.faithfulness.compared import Compared
from ais.metrics.bootstrap import bootstrap_ci

CHANGES = ("deletion", "insertion")

MEASURES = ("one_sided", "agreement", "stability", "sanity", "sanity_chance")

COSTS = ("passes", "backward", "seconds")

_RIVAL = "gradcam"  # with which all others are compared, too


@dataclass(frozen=True, eq=False)
class Measured:
    """What was measured of M heatmaps of each of N pictures.

    Attributes:
        changes: (H, M, N, 2), deletion and insertion with H ways of hiding.
        each: of `MEASURES` and `COSTS`, (M, N); NaN where it was not measured.
    """

    changes: np.ndarray
    each: dict[str, np.ndarray]

    @classmethod
    def empty(cls, methods: int, hidings: int, pictures: int) -> Measured:
        blank = np.full((methods, pictures), np.nan)
        return cls(
            np.full((hidings, methods, pictures, 2), np.nan),
            {name: blank.copy() for name in (*MEASURES, *COSTS)},
        )

    def note(self, method: int, picture: int, found: Mapping[str, float | None]) -> None:
        for name, value in found.items():
            if value is not None:
                self.each[name][method, picture] = value


def summary(
    measured: Measured, ways: Sequence[Compared], hide: Sequence[str], groups: Sequence[str] | None
) -> dict[str, Any]:
    """Means over the pictures, ready for JSON.

    Returns:
        ``pictures``; ``groups``, how many; ``hide``; ``methods``, for each name ``deletion`` and ``insertion`` under
        each way of hiding, `MEASURES` (None where there is none), `COSTS`, and ``checked``, on how many pictures
        stability and sanity were measured; ``differences``, of the first method less each other, and of each other
        less Grad-CAM, on the same pictures: ``of``, ``less``, and deletion and insertion under each way of hiding.
        With each value but the costs comes its 95 % interval, such as ``deletion_low`` and ``deletion_high``, with
        the groups resampled.

    Raises:
        DataError: fewer than two groups.
    """
    pictures = measured.changes.shape[2]
    names = np.arange(pictures) if groups is None else np.asarray(groups)
    pairs = list(_pairs(ways))
    columns: dict[tuple[Any, ...], np.ndarray] = {}
    for h, way_of_hiding in enumerate(hide):
        for c, change in enumerate(CHANGES):
            values = measured.changes[h, ..., c]
            for m, way in enumerate(ways):
                columns[way.name, way_of_hiding, change] = values[m]
            for a, b in pairs:
                columns[a, b, way_of_hiding, change] = values[a] - values[b]
    for name in MEASURES:
        for m, way in enumerate(ways):
            columns[way.name, name] = measured.each[name][m]
    found = _intervals(columns, names)

    def of_hiding(*key: Any) -> dict[str, dict[str, float | None]]:
        return {one: found[(*key, one, "deletion")] | found[(*key, one, "insertion")] for one in hide}

    methods: dict[str, Any] = {}
    for m, way in enumerate(ways):
        costs = {name: None if way.random else float(measured.each[name][m].mean()) for name in COSTS}
        methods[way.name] = of_hiding(way.name)
        for name in MEASURES:
            methods[way.name] |= found[way.name, name]
        methods[way.name] |= costs | {"checked": int(np.isfinite(measured.each["stability"][m]).sum())}
    return {
        "pictures": pictures,
        "groups": len(set(names.tolist())),
        "hide": list(hide),
        "methods": methods,
        "differences": [{"of": ways[a].name, "less": ways[b].name, **of_hiding(a, b)} for a, b in pairs],
    }


def _pairs(ways: Sequence[Compared]) -> Iterator[tuple[int, int]]:
    """Whose difference is told, by number: the first and each other, then each other and Grad-CAM."""
    yield from ((0, m) for m in range(1, len(ways)))
    rival = [m for m, way in enumerate(ways) if way.name == _RIVAL and m]
    yield from ((m, r) for r in rival for m in range(1, len(ways)) if m != r)


def _intervals(
    columns: Mapping[tuple[Any, ...], np.ndarray], groups: np.ndarray
) -> dict[tuple[Any, ...], dict[str, float | None]]:
    """The mean of each column (N,) where it is not NaN, and its interval, by the last word of its key.

    Those of the same pictures are resampled together, since drawing the groups takes the time.
    """
    alike: dict[bytes, list[tuple[Any, ...]]] = {}
    for key, values in columns.items():
        alike.setdefault(np.isfinite(values).tobytes(), []).append(key)
    found: dict[tuple[Any, ...], dict[str, float | None]] = {}
    for known, keys in alike.items():
        rows = np.flatnonzero(np.frombuffer(known, dtype=bool))
        if not len(rows):
            found |= {key: dict.fromkeys(_ends(key[-1])) for key in keys}
            continue
        table = np.stack([columns[key][rows] for key in keys], axis=1)
        low, high = bootstrap_ci(partial(_means, table), groups[rows])
        for key, *three in zip(keys, table.mean(0), low, high, strict=True):
            found[key] = {name: float(value) for name, value in zip(_ends(key[-1]), three, strict=True)}
    return found


def _means(table: np.ndarray, rows: np.ndarray) -> np.ndarray:
    means: np.ndarray = table[rows].mean(0)
    return means


def _ends(name: str) -> tuple[str, str, str]:
    return name, f"{name}_low", f"{name}_high"
