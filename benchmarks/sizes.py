"""What the size of a network's input does to a head's agreement with people, to its heatmap's cells and to its seconds.

    python -m benchmarks.sizes DATA [--sizes 320 384 448] [--rounds 3] [--device cuda]

DATA is the folder of OASIS, with the columns ``beauty_mean`` and ``theme``. Heads of `ais train` on EfficientNet-Lite0
to 2 that see the whole picture, at the network's own size and at others, each by cross-validation. Embeddings and folds
are kept in AIS's cache, as `ais train` keeps them, so that a second run takes only the time of the clocks and
intervals.

Every difference is on the same pictures and folds, with a 95 % interval that resamples whole themes: for a head, from
that on the same backbone at its own size; for a stack, from that of the three at their own sizes. A stack's weights are
fitted on the other folds, as `ais combine` measures them. Which size of a backbone is its best, and which members are
chosen one after the other, is found again on the other folds for each fold, so that the choice flatters nothing; the
members named are those that all folds together choose.

The times are those of a picture of 512 x 384 pixels, from the decoded picture to the importance of all maps. All sizes
are measured in turn within every round; the ratio is the median over the rounds of the time divided by that of the
first backbone at its own size in the same round. A stack takes the sum of its members.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import ais
from ais.backbones.frozen import FrozenBackbone
from ais.backbones.loading import backbone_cached
from ais.backbones.registry import backbone_spec
from ais.data.columns import RatingColumns
from ais.data.ratings import RatedSet, read_ratings
from ais.metrics.correlation import pearson
from ais.metrics.regression import difference
from ais.training.cross_validation import EmbeddedRatings, cross_validate, embed_ratings
from ais.training.plan import FitContext
from ais.training.stacking import cross_fitted, fit_stack
from benchmarks.ablation import seconds
from benchmarks.hidden_units import with_ends

BACKBONES = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
SIZES = (320, 384, 448)
MOST = 6  # members of a stack: each runs on every picture
PICTURE = (512, 384)

Key = tuple[str, int]  # backbone, size
Keys = tuple[Key, ...]


class Study:
    """Held-out scores of all heads on the same pictures and folds.

    Attributes:
        scores: of each head, (N, K). own: of each backbone its own size.
    """

    def __init__(self, data: RatedSet, sizes: Sequence[int], device: str) -> None:
        self.own = {name: backbone_spec(name).size for name in BACKBONES}
        self.ratings = data.ratings
        self.scores: dict[Key, np.ndarray] = {}
        self.backbones: dict[Key, FrozenBackbone] = {}
        for name in BACKBONES:
            for size in sorted({self.own[name], *sizes}):
                backbone = backbone_cached(
                    name, backbone_spec(name).layer, view="resize", size=size, device=device
                )
                rated: EmbeddedRatings = embed_ratings(data, backbone)
                found = cross_validate(rated, FitContext(backbone))
                self.backbones[name, size], self.scores[name, size] = backbone, found.scores
                self.folds, self.groups = found.folds, rated.groups

    @property
    def shipped(self) -> Keys:
        return tuple(self.own.items())

    def plcc(self, predicted: np.ndarray) -> float:
        return pearson(predicted, self.ratings)

    def gain(self, before: np.ndarray, after: np.ndarray) -> str:
        return with_ends(difference(before, after, self.ratings, self.groups), "plcc")

    def stack(self, keys: Keys) -> np.ndarray:
        """Predictions (N,) of a stack with these members, its weights fitted on the other folds."""
        together = np.stack([self.scores[key] for key in keys], -1)
        return cross_fitted(together, self.ratings, self.folds).mean(1)

    def chosen(self, choose: Callable[[np.ndarray], Keys]) -> np.ndarray:
        """The same where the members are chosen by the other folds, too.

        Args:
            choose: given the rows (N,) bool that it may look at.
        """
        predicted = np.empty(len(self.ratings))
        for fold in np.unique(self.folds):
            held = self.folds == fold
            means = np.stack([self.scores[key].mean(1) for key in choose(~held)], -1)
            weights, intercept = fit_stack(means[~held], self.ratings[~held])
            predicted[held] = means[held] @ weights + intercept
        return predicted

    def best_sizes(self, rows: np.ndarray) -> Keys:
        """Of each backbone the size whose head agrees best on these rows."""

        def plcc(key: Key) -> float:
            return pearson(self.scores[key].mean(1)[rows], self.ratings[rows])

        return tuple(max((key for key in self.scores if key[0] == name), key=plcc) for name in BACKBONES)

    def one_by_one(self, rows: np.ndarray) -> Keys:
        """Members added one after the other, each that which helps most on these rows, until none does."""
        members: Keys = ()
        reached = 0.0
        folds = self.folds[rows]
        while len(members) < MOST:
            tried = {}
            for key in self.scores.keys() - set(members):
                together = np.stack([self.scores[k].mean(1)[rows] for k in (*members, key)], -1)
                tried[key] = pearson(cross_fitted(together, self.ratings[rows], folds), self.ratings[rows])
            best = max(sorted(tried), key=tried.__getitem__)
            if tried[best] <= reached:
                break
            members, reached = (*members, best), tried[best]
        return members

    def times(self, rounds: int, device: str) -> dict[Key, tuple[float, float]]:
        """Of each head the milliseconds of a picture, and their ratio to those of the first at its own size."""
        noise = np.random.default_rng(0).integers(0, 256, (PICTURE[1], PICTURE[0], 3), dtype=np.uint8)
        image, first = Image.fromarray(noise), self.shipped[0]
        spent: dict[Key, list[float]] = {key: [] for key in self.backbones}
        for number, (key, backbone) in product(range(rounds + 1), self.backbones.items()):
            taken = seconds(lambda: backbone(image), device, 1)  # noqa: B023  called at once
            if number:  # the first time it is slower
                spent[key].append(taken)
        return {
            key: (
                1000 * statistics.median(mine),
                statistics.median(a / b for a, b in zip(mine, spent[first], strict=True)),
            )
            for key, mine in spent.items()
        }


def short(keys: Keys) -> str:
    """The members by their backbones and sizes: lite0 224 320, lite1 240."""
    parts = []
    for name in BACKBONES:
        if sizes := [str(size) for backbone, size in sorted(keys) if backbone == name]:
            parts.append(f"{name.removeprefix('efficientnet_')} {' '.join(sizes)}")
    return ", ".join(parts)


def heads_table(study: Study, times: dict[Key, tuple[float, float]]) -> None:
    print("| backbone | size | cells of a square | PLCC | less that at its own size | ms a picture | ratio |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for key, scores in study.scores.items():
        name, size = key
        with torch.no_grad():
            maps = study.backbones[key](Image.new("RGB", (size, size))).maps
        native = study.scores[name, study.own[name]]
        gain = "" if scores is native else study.gain(native.mean(1), scores.mean(1))
        cells = f"{maps.shape[2]}x{maps.shape[3]}"
        plcc = f"{study.plcc(scores.mean(1)):.4f}"
        spent, ratio = times[key]
        print(f"| {name} | {size} | {cells} | {plcc} | {gain} | {spent:.0f} | {ratio:.2f} |", flush=True)


def stacks_table(study: Study, sizes: Sequence[int], times: dict[Key, tuple[float, float]]) -> None:
    everything = np.ones(len(study.ratings), dtype=bool)
    today = study.stack(study.shipped)

    def line(name: str, keys: Keys, predicted: np.ndarray) -> None:
        gain = "" if predicted is today else study.gain(today, predicted)
        ratio = sum(times[key][1] for key in keys)
        print(f"| {name} | {short(keys)} | {study.plcc(predicted):.4f} | {gain} | {ratio:.1f} |", flush=True)

    print("| stack | members | PLCC | less that of the first | ratio |")
    print("| --- | --- | --- | --- | --- |")
    line("own sizes", study.shipped, today)
    for size in sizes:
        keys = tuple((name, size) for name in BACKBONES)
        line(f"at {size}", keys, study.stack(keys))
    for size in sizes:
        keys = (*study.shipped, *((name, size) for name in BACKBONES))
        line(f"own sizes and {size}", keys, study.stack(keys))
    for name in BACKBONES:
        keys = tuple(key for key in study.scores if key[0] == name)
        line(f"all of {name}", keys, study.stack(keys))
    line("best sizes", study.best_sizes(everything), study.chosen(study.best_sizes))
    line(f"one by one, up to {MOST}", study.one_by_one(everything), study.chosen(study.one_by_one))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path, metavar="DATA", help="the folder of OASIS")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="beside the networks' own")
    parser.add_argument("--rounds", type=int, default=3, help="of the times")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args()
    where = (
        torch.cuda.get_device_name()
        if arguments.device == "cuda"
        else f"CPU, {torch.get_num_threads()} threads"
    )
    data = read_ratings(arguments.data, RatingColumns("beauty_mean", group="theme"))
    print(
        f"AIS {ais.__version__}, torch {torch.__version__}, {where}, {len(data)} pictures of "
        f"{len(set(data.groups or ()))} themes\n"
    )
    study = Study(data, arguments.sizes, arguments.device)
    times = study.times(arguments.rounds, arguments.device)
    heads_table(study, times)
    print()
    stacks_table(study, arguments.sizes, times)


if __name__ == "__main__":
    main()
