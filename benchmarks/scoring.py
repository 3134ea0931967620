"""How near `ais score` comes to the speed of its bare network.

    python -m benchmarks.scoring FOLDER [--device cuda] [--pictures 100] [--rounds 3]

The embedded head over the first pictures of a folder, nothing kept, after all is loaded: `ais score` (reading,
decoding, the network and the head) beside its network alone over the same pictures, decoded beforehand, in batches and
one by one. All lines are measured in turn within every round; a line's ratio is the median over the rounds of its
speed divided by that of the network in batches of 16 in the same
round. On a CPU decoding takes its share of the same cores.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

import ais
from ais.heads.config import EMBEDDED
from ais.heads.loading import backbone_of, load_head
from ais.heads.regression import RegressionHead
from ais.images.folders import find_images
from ais.images.reading import read_image
from ais.workflows.score import score_images

BATCHES = (16, 4)  # the first is what the others are compared with


def measure(device: str, files: list[Path], rounds: int) -> list[tuple[str, float, float]]:
    """Of every line what, pictures a second, and the ratio to the network in batches."""
    head = load_head(EMBEDDED)
    assert isinstance(head, RegressionHead)
    backbone = backbone_of(head, device)
    inputs = [backbone.preprocessing(read_image(file)) for file in files]
    shapes = {tensor.shape for tensor in inputs}
    alike = [[tensor for tensor in inputs if tensor.shape == shape] for shape in shapes]

    def network(size: int) -> None:
        for one_shape in alike:
            for start in range(0, len(one_shape), size):
                backbone(torch.stack(one_shape[start : start + size])).embedding.cpu()

    runs: list[tuple[str, Callable[[], object]]] = [
        *((f"the network, in batches of {size}", partial(network, size)) for size in BATCHES),
        ("the network, one by one", lambda: network(1)),
        (
            "reading and decoding, one by one",
            lambda: [backbone.preprocessing(read_image(file)) for file in files],
        ),
        ("ais score", lambda: list(score_images(files, head, device=device, cache=False))),
    ]
    speeds: dict[str, list[float]] = {what: [] for what, _ in runs}
    network(BATCHES[0])  # the first time it is slower
    for _ in range(rounds):
        for what, run in runs:
            start = time.perf_counter()
            run()
            speeds[what].append(len(files) / (time.perf_counter() - start))
    reference = speeds[runs[0][0]]
    return [
        (
            what,
            statistics.median(speeds[what]),
            statistics.median(mine / other for mine, other in zip(speeds[what], reference, strict=True)),
        )
        for what, _ in runs
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    files = find_images(arguments.folder)[0][: arguments.pictures]
    where = (
        torch.cuda.get_device_name()
        if arguments.device == "cuda"
        else f"CPU, {torch.get_num_threads()} threads"
    )
    lines = measure(arguments.device, files, arguments.rounds)
    print(f"AIS {ais.__version__}, torch {torch.__version__}, {where}, {len(files)} pictures\n")
    print(f"| what | pictures/s | of the network in batches of {BATCHES[0]} |\n| --- | --- | --- |")
    for what, speed, ratio in lines:
        print(f"| {what} | {speed:,.1f} | {ratio:,.2f} |")


if __name__ == "__main__":
    main()
