"""What the Alignment Importance Scores of all maps cost beside leaving out every map and computing all again.

    python -m benchmarks.similarity [--pictures 120] [--maps 2208] [--rounds 5]

Made-up embeddings as sparse as real ones, and made-up people. All lines are measured in turn within every round, so
that a busy machine slows all of them alike; a line's ratio is the median over the rounds of its time divided by that
of `ais.rsa.importance.importance` in the same round. The naive way drops the column and calls SciPy's pdist and
spearmanr; it is timed on a sample of the maps (marked ~) and scaled. On the sample both ways' scores are compared.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable

import numpy as np
from scipy import stats
from scipy.spatial.distance import pdist, squareform

import ais
from ais.rsa.importance import image_importance, importance
from ais.rsa.rdm import METRICS, Metric, rdm
from benchmarks.ablation import seconds

SAMPLE = 32  # maps that the naive way is timed on
FEW = 4  # the same for the scores of every picture


def left_out(rows: np.ndarray, human: np.ndarray, metric: Metric, maps: range) -> np.ndarray:
    """The scores of some maps by their definition, (C,)."""
    upper = np.triu_indices(len(rows), 1)
    whole = stats.spearmanr(pdist(rows, metric), human[upper]).statistic
    return np.array(
        [whole - stats.spearmanr(pdist(np.delete(rows, c, 1), metric), human[upper]).statistic for c in maps]
    )


def left_out_by_image(rows: np.ndarray, human: np.ndarray, metric: Metric, maps: range) -> np.ndarray:
    """The same for every picture's row, (N, C)."""

    def each(matrix: np.ndarray) -> np.ndarray:
        return np.array(
            [
                stats.spearmanr(np.delete(matrix[i], i), np.delete(human[i], i)).statistic
                for i in range(len(rows))
            ]
        )

    whole = each(rdm(rows, metric))
    return (whole - np.array([each(rdm(np.delete(rows, c, 1), metric)) for c in maps])).T


def measure(
    pictures: int, maps: int, metric: Metric, rounds: int
) -> tuple[float, list[tuple[str, float, float]]]:
    """The largest difference of any score; and of every line what, seconds, ratio to `importance`."""
    rng = np.random.default_rng(0)
    rows = np.maximum(rng.normal(size=(pictures, maps)), 0)
    human = squareform(rng.random(pictures * (pictures - 1) // 2))
    sample, few = range(min(SAMPLE, maps)), range(min(FEW, maps))
    runs: list[tuple[str, Callable[[], object], float]] = [
        (f"all {maps} maps", lambda: importance(rows, human, metric), 1),
        (
            f"naive (~{len(sample)} maps)",
            lambda: left_out(rows, human, metric, sample),
            maps / len(sample),
        ),
        ("all maps for each picture", lambda: image_importance(rows, human, metric), 1),
        (
            f"naive, for each picture (~{len(few)} maps)",
            lambda: left_out_by_image(rows, human, metric, few),
            maps / len(few),
        ),
    ]
    apart = max(
        np.abs(importance(rows, human, metric, sample) - left_out(rows, human, metric, sample)).max(),
        np.abs(
            image_importance(rows, human, metric, few) - left_out_by_image(rows, human, metric, few)
        ).max(),
    )
    times: dict[str, list[float]] = {what: [] for what, *_ in runs}
    ratios: dict[str, list[float]] = {what: [] for what, *_ in runs}
    for _ in range(rounds):
        for what, run, scale in runs:
            times[what].append(scale * seconds(run, "cpu", 1))
            ratios[what].append(times[what][-1] / times[runs[0][0]][-1])
    return float(apart), [
        (what, statistics.median(times[what]), statistics.median(ratios[what])) for what, *_ in runs
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pictures", type=int, default=120)
    parser.add_argument("--maps", type=int, default=2208)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(
        f"AIS {ais.__version__}, NumPy {np.__version__}, {os.cpu_count()} cores, {arguments.pictures} pictures\n"
    )
    print("| metric | what | s | ratio |\n| --- | --- | --- | --- |")
    furthest = 0.0
    for metric in METRICS:
        apart, lines = measure(arguments.pictures, arguments.maps, metric, arguments.rounds)
        furthest = max(furthest, apart)
        for what, spent, ratio in lines:
            print(f"| {metric} | {what} | {spent:,.2f} | {ratio:,.1f} |")
    print(f"\nThe scores of both ways differ by at most {furthest:.0e}.")


if __name__ == "__main__":
    main()
