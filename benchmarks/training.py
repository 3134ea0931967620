"""What training a head costs beside the plain pass of its backbone, and beside a pass for every epoch.

    python -m benchmarks.training DATA --target beauty_mean [--backbone efficientnet_lite0] [--pictures 128]
        [--device cuda] [--rounds 3]

All lines are measured in turn within every round, on the same pictures, so that a busy machine slows all of them
alike; a line's ratio is the median over the rounds of its time divided by the plain pass's of the same round. The
usual way, which runs the frozen backbone again in every epoch of every variant, is timed for one epoch of one
variant (marked ~) and scaled to the epochs that the ten variants took.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

import ais
from ais.backbones.embeddings import embed
from ais.backbones.loading import load_backbone
from ais.data.ratings import RatedSet, read_ratings
from ais.heads.config import Target
from ais.images.preprocessing import Preprocessing
from ais.images.reading import read_image
from ais.training.mlp import fit_variants
from ais.training.recipe import Recipe
from ais.workflows.train import train_head
from benchmarks.ablation import seconds

VARIANTS = 10
BATCH = 16  # pictures of one pass
DECODERS = 2  # threads, as in ais.backbones.embeddings


def batches(files: list[Path], preprocessing: Preprocessing, device: str) -> Iterator[Tensor]:
    """The network's inputs, decoded while it works on those before."""
    with ThreadPoolExecutor(DECODERS) as pool:
        decoded = pool.map(lambda file: preprocessing(read_image(file)), files)
        for start in range(0, len(files), BATCH):
            inputs = torch.stack([next(decoded) for _ in files[start : start + BATCH]])
            yield inputs.to(device, memory_format=torch.channels_last)


def measure(data: RatedSet, name: str, device: str, rounds: int) -> list[tuple[str, float, float]]:
    """(what, seconds, ratio to the plain pass)."""
    backbone = load_backbone(name, device=device)
    recipe = Recipe()
    groups = [str(file) for file in data.files]
    embedded = embed(data.files, backbone, cache=False)
    embedding = embedded.embedding.to(device)
    ratings = torch.from_numpy(data.ratings).float().to(device)

    def plain() -> None:
        with torch.no_grad():
            for inputs in batches(data.files, backbone.preprocessing, device):
                backbone.network(inputs).sum().item()

    def fit() -> list[int]:
        return fit_variants(embedding, data.ratings, groups, variants=VARIANTS, recipe=recipe).epochs

    def epoch() -> None:
        mlp = nn.Sequential(
            nn.Linear(embedding.shape[1], recipe.hidden), nn.ReLU(), nn.Linear(recipe.hidden, 1)
        ).to(device)
        optimizer = torch.optim.AdamW(
            mlp.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
        )
        for inputs, wanted in zip(
            batches(data.files, backbone.preprocessing, device), ratings.split(BATCH), strict=True
        ):
            with torch.no_grad():
                seen = backbone.network(inputs)
            loss = (mlp(seen)[:, 0] - wanted).square().mean()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()

    # A variant learns on until its best epoch lies `patience` epochs back.
    epochs = sum(min(best + recipe.patience, recipe.epochs) for best in fit())
    with tempfile.TemporaryDirectory() as full:

        def cached(directory: str) -> None:
            with mock.patch.dict(os.environ, AIS_CACHE=directory):
                embed(data.files, backbone)

        def uncached() -> None:
            with tempfile.TemporaryDirectory() as empty:
                cached(empty)

        def everything() -> None:
            scale = Target("rating", math.floor(data.ratings.min()), math.ceil(data.ratings.max()))
            with tempfile.TemporaryDirectory() as empty, mock.patch.dict(os.environ, AIS_CACHE=empty):
                train_head(data, backbone, name="head", target=scale)

        cached(full)
        usual = "the backbone again for every epoch of every variant"
        runs: list[tuple[str, Callable[[], object], float]] = [
            ("plain pass: decode and forward", plain, 1),
            ("embeddings and ablations of every map, cache empty", uncached, 1),
            ("the same, cache full", lambda: cached(full), 1),
            (f"fit of {VARIANTS} variants on them ({epochs} epochs in all)", fit, 1),
            (
                "a head in all: that pass, ten-fold cross-validation of ten variants, and the last fit",
                everything,
                1,
            ),
            (f"{usual} (~1 of {epochs} epochs)", epoch, epochs),
        ]
        times: dict[str, list[float]] = {what: [] for what, *_ in runs}
        ratios: dict[str, list[float]] = {what: [] for what, *_ in runs}
        for _ in range(rounds):
            for what, run, scale in runs:
                times[what].append(scale * seconds(run, device, 1))
                ratios[what].append(times[what][-1] / times[runs[0][0]][-1])
    return [(what, statistics.median(times[what]), statistics.median(ratios[what])) for what, *_ in runs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path, metavar="DATA", help="a folder of rated pictures")
    parser.add_argument("--target", required=True, help="the column of the ratings")
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--pictures", type=int, default=128, help="that many, spread over the table")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    data = read_ratings(arguments.data, arguments.target)
    count = min(arguments.pictures, len(data))
    data = data.rows(np.linspace(0, len(data) - 1, count).astype(int))
    where = (
        torch.cuda.get_device_name()
        if arguments.device == "cuda"
        else f"CPU, {torch.get_num_threads()} threads"
    )
    print(
        f"AIS {ais.__version__}, torch {torch.__version__}, {where}, {arguments.backbone}, {count} pictures\n"
    )
    print("| what | s | of a plain pass |\n| --- | --- | --- |")
    for what, spent, ratio in measure(data, arguments.backbone, arguments.device, arguments.rounds):
        print(f"| {what} | {spent:,.2f} | {ratio:,.2f} |", flush=True)


if __name__ == "__main__":
    main()
