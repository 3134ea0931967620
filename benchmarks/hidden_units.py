"""How few hidden units a head needs: its cross-validated agreement with people beside that of 512 units.

    python -m benchmarks.hidden_units DATA [--seed 0] [--units 256 128 64 32 16 8] [--fixed-rate] [--device cuda]
        [--rounds 3]

DATA is the folder of OASIS, with the columns ``beauty_mean``, ``valence_mean``, ``arousal_mean`` and ``theme``. The
heads are those that come with AIS, by the recipe of `ais train` but for the hidden units; the stack is that of the
three heads of beauty. Every difference is that of fewer units less 512 on the same pictures, folds and splits, with a
95 % interval that resamples whole themes. Some units lose nothing where no head's interval, nor the stack's, lies
wholly on the bad side of zero, neither in PLCC (below) nor in RMSE (above). The intervals know of other pictures, but
not of the chance in fitting: look at more than one seed, and at ``--units 511``, whose second layers and batches are
drawn in another way than those of 512.

The learning rate grows as the units become fewer, with one over the root of their number: so large are the
weights of the second layer at the start, and AdamW's steps are as large as the rate, whatever the weights are.
``--fixed-rate`` leaves it as it is with 512.

At the end, for the first head, what a cross-validation and the importance of all maps of a picture take. All numbers
of units are measured in turn within every round; a ratio is the median over the rounds of the time divided by that of
512 units in the same round.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

import ais
from ais.attribution import importance
from ais.backbones.frozen import Features, FrozenBackbone
from ais.backbones.loading import load_backbone
from ais.data.columns import RatingColumns
from ais.data.ratings import read_ratings
from ais.heads.loading import load_head
from ais.heads.regression import RegressionHead
from ais.images.reading import read_image
from ais.metrics.regression import difference, metrics
from ais.training.cross_validation import EmbeddedRatings, OutOfFold, cross_validate, embed_ratings, fit_head
from ais.training.plan import FitContext, Plan
from ais.training.recipe import Recipe
from ais.training.stacking import cross_fitted
from benchmarks.ablation import seconds

HEADS = {
    "beauty-lite0": ("efficientnet_lite0", "beauty_mean"),
    "beauty-lite1": ("efficientnet_lite1", "beauty_mean"),
    "beauty-lite2": ("efficientnet_lite2", "beauty_mean"),
    "valence-lite0": ("efficientnet_lite0", "valence_mean"),
    "arousal-lite0": ("efficientnet_lite0", "arousal_mean"),
}
STACK, MEMBERS = "beauty-stack", ("beauty-lite0", "beauty-lite1", "beauty-lite2")
MOST = 512  # units that all others are compared with
RATE = 1e-3  # of AdamW with them
EXPLAINED = 16  # pictures whose importance is timed


@dataclass(frozen=True)
class Setting:
    """What a head is fitted on: the rated images by the embedding of its backbone."""

    backbone: FrozenBackbone
    rated: EmbeddedRatings

    @property
    def ratings(self) -> np.ndarray:
        return self.rated.data.ratings

    def cross_validate(self, plan: Plan) -> OutOfFold:
        return cross_validate(self.rated, FitContext(self.backbone, plan, cache=False))


def settings(folder: Path, device: str) -> dict[str, Setting]:
    """For every head; a backbone runs once over the images, whatever the number of its heads."""
    backbones = {name: load_backbone(name, view="resize", device=device) for name, _ in HEADS.values()}
    return {
        head: Setting(
            backbones[name],
            embed_ratings(read_ratings(folder, RatingColumns(target, group="theme")), backbones[name]),
        )
        for head, (name, target) in HEADS.items()
    }


def plan_for(hidden: int, seed: int, fixed_rate: bool) -> Plan:
    """As `ais train` has it, with that many units."""
    rate = RATE if fixed_rate else RATE * math.sqrt(MOST / hidden)
    return Plan(seed=seed, recipe=Recipe(hidden=hidden, learning_rate=rate))


def predictions(heads: dict[str, Setting], plan: Plan) -> dict[str, np.ndarray]:
    """Out-of-fold predictions of every head and of the stack, (N,) each."""
    parts = {name: setting.cross_validate(plan) for name, setting in heads.items()}
    scores = np.stack([parts[name].scores for name in MEMBERS], -1)  # (N, K, M)
    first = MEMBERS[0]
    stacked = cross_fitted(scores, heads[first].ratings, parts[first].folds)
    return {name: part.scores.mean(1) for name, part in parts.items()} | {STACK: stacked.mean(1)}


def compare(heads: dict[str, Setting], plans: dict[int, Plan]) -> dict[int, list[str]]:
    """Print the table; for each number of units the heads that lose by it."""
    most = predictions(heads, plans[MOST])
    losers: dict[int, list[str]] = {}
    print("| units | head | PLCC | less that of 512 | RMSE | less that of 512 |")
    print("| --- | --- | --- | --- | --- | --- |")
    for units, plan in plans.items():
        predicted = most if units == MOST else predictions(heads, plan)
        losers[units] = []
        for name, mine in predicted.items():
            setting = heads[MEMBERS[0] if name == STACK else name]
            rated, groups = setting.ratings, setting.rated.groups
            measured = metrics(mine, rated, groups)
            cells = [f"{measured['plcc']:.4f}", "", f"{measured['rmse']:.4f}", ""]
            if units != MOST:
                paired = difference(most[name], mine, rated, groups)
                cells[1::2] = [with_ends(paired, measure) for measure in ("plcc", "rmse")]
                if paired["plcc_high"] < 0 or paired["rmse_low"] > 0:
                    losers[units].append(name)
            print(f"| {units} | {name} | {' | '.join(cells)} |", flush=True)
    return losers


def with_ends(values: dict[str, float], name: str) -> str:
    """A difference with its interval."""
    return f"{values[name]:+.4f} ({values[f'{name}_low']:+.4f} to {values[f'{name}_high']:+.4f})"


def explain_all(backbone: FrozenBackbone, features: Sequence[Features], head: RegressionHead) -> None:
    """One picture after the other, as `ais explain` does."""
    for one in features:
        importance.prediction(backbone, one, head).sum().item()


def time_all(
    setting: Setting, plans: dict[int, Plan], device: str, rounds: int
) -> list[tuple[int, list[float]]]:
    """Of every number of units a head's megabytes, seconds of a cross-validation, milliseconds of a picture's
    importance, and the ratios of these two to those of 512."""
    embedded = load_head()
    assert isinstance(embedded, RegressionHead)
    backbone, data = setting.backbone, setting.rated.data
    chosen = np.linspace(0, len(data) - 1, EXPLAINED).astype(int)
    features = [backbone(read_image(data.files[i])) for i in chosen]
    sizes: dict[int, float] = {}
    runs: dict[int, tuple[Callable[[], object], Callable[[], None]]] = {}
    for units, plan in plans.items():
        config = replace(embedded.config, hidden=units)
        head = fit_head(setting.rated, FitContext(backbone, plan), config)
        sizes[units] = sum(value.nbytes for value in head.state_dict().values()) / 1e6
        runs[units] = (partial(setting.cross_validate, plan), partial(explain_all, backbone, features, head))
        runs[units][1]()  # the first time it is slower
    times: dict[int, list[tuple[float, float]]] = {units: [] for units in plans}
    for _ in range(rounds):
        for units, (fit, explain) in runs.items():
            spent = seconds(fit, device, 1), 1000 / EXPLAINED * seconds(explain, device, 5)
            times[units].append(spent)
    lines = []
    for units, mine in times.items():
        spent_each = [statistics.median(column) for column in zip(*mine, strict=True)]
        ratios = [
            statistics.median(a[which] / b[which] for a, b in zip(mine, times[MOST], strict=True))
            for which in (0, 1)
        ]
        lines.append((units, [sizes[units], *spent_each, *ratios]))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path, metavar="DATA", help="the folder of OASIS")
    parser.add_argument("--seed", type=int, default=0, help="of the folds, the splits and the variants")
    parser.add_argument("--units", type=int, nargs="+", default=[256, 128, 64, 32, 16, 8])
    parser.add_argument("--fixed-rate", action="store_true", help=f"a learning rate of {RATE:g} for all")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=3, help="of the times; 0 leaves them out")
    arguments = parser.parse_args()
    where = (
        torch.cuda.get_device_name()
        if arguments.device == "cuda"
        else f"CPU, {torch.get_num_threads()} threads"
    )
    heads = settings(arguments.data, arguments.device)
    plans = {
        units: plan_for(units, arguments.seed, arguments.fixed_rate) for units in [MOST, *arguments.units]
    }
    first = heads[MEMBERS[0]]
    rule = f"a learning rate of {RATE:g}" + ("" if arguments.fixed_rate else f" · √({MOST} / units)")
    print(
        f"AIS {ais.__version__}, torch {torch.__version__}, {where}, {len(first.ratings)} pictures of "
        f"{len(set(first.rated.groups))} themes, seed {arguments.seed}, {rule}\n"
    )
    losers = compare(heads, plans)
    print()
    for units in arguments.units:
        print(f"{units} units: {', '.join(losers[units]) + ' lose' if losers[units] else 'nothing lost'}")
    if arguments.rounds:
        print("\n| units | MB | s of a cross-validation | of 512 | ms of an importance | of 512 |")
        print("| --- | --- | --- | --- | --- | --- |")
        for units, (size, fit, explain, fits, explains) in time_all(
            first, plans, arguments.device, arguments.rounds
        ):
            print(f"| {units} | {size:.2f} | {fit:.1f} | {fits:.2f} | {explain:.2f} | {explains:.2f} |")


if __name__ == "__main__":
    main()
