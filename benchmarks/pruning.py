"""What the greedy choice of feature maps costs beside trying each map by the head, or by the whole network.

    python -m benchmarks.pruning [--device cuda] [--pictures 500] [--rounds 3]

The embedded head, all its maps, and made-up embeddings as sparse as real ones; the ratings are the head's own
scores with noise, so that about every other map is pruned. All lines are measured in turn within every round; a
line's ratio is the median over the rounds of its time divided by the greedy choice's of the same round. The
loops over single maps are timed on a sample (marked ~) and scaled.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch

import ais
from ais.backbones.loading import load_backbone
from ais.training.criteria import ScoredFold
from ais.training.pruning import greedy, negative_impact
from benchmarks.ablation import head_for, seconds

SAMPLE = 16  # maps that trying by the head is timed on
BATCH = 16  # pictures that a pass of the whole network is timed on


def measure(device: str, pictures: int, rounds: int) -> tuple[int, list[tuple[str, float, float]]]:
    """Maps pruned; and of every line what, seconds, ratio to the greedy choice."""
    backbone = load_backbone("efficientnet_lite0", device=device)
    embedding_slice = backbone.embedding_slice
    assert embedding_slice is not None
    channels = len(embedding_slice)
    head = head_for(backbone, channels).to(device)
    generator = torch.Generator().manual_seed(0)
    embedding = torch.randn(pictures, channels, generator=generator).relu_().to(device)
    delta = -embedding
    with torch.no_grad():
        scores = head.score(embedding).double().cpu()
    ratings = scores + scores.std() * torch.randn(pictures, generator=generator, dtype=torch.float64)
    parts = [ScoredFold(head, embedding, delta, ratings.numpy(), [str(i) for i in range(pictures)])]
    wanted = ratings.to(embedding)
    inputs = torch.zeros(BATCH, 3, 224, 224, device=device).contiguous(memory_format=torch.channels_last)

    def by_head() -> None:
        with torch.no_grad():
            for channel in range(SAMPLE):
                moved = embedding.clone()
                moved[:, embedding_slice[channel]] += delta[:, channel]
                (head.score(moved) - wanted).square().sum().item()

    def by_network() -> None:
        with torch.no_grad():
            head.score(backbone.network(inputs)).sum().item()

    pruned = int((~greedy(parts, embedding_slice)).sum())
    runs: list[tuple[str, Callable[[], object], float]] = [
        (f"greedy, all {channels} maps", lambda: greedy(parts, embedding_slice), 1),
        ("negative impact", lambda: negative_impact(parts, embedding_slice), 1),
        (f"the head for every map (~{SAMPLE} maps)", by_head, channels / SAMPLE),
        (
            f"the whole network for every map (~{BATCH} pictures once)",
            by_network,
            channels * pictures / BATCH,
        ),
    ]
    times: dict[str, list[float]] = {what: [] for what, *_ in runs}
    ratios: dict[str, list[float]] = {what: [] for what, *_ in runs}
    for _ in range(rounds):
        for what, run, scale in runs:
            times[what].append(scale * seconds(run, device, 1 if scale == 1 else 2))
            ratios[what].append(times[what][-1] / times[runs[0][0]][-1])
    return pruned, [
        (what, statistics.median(times[what]), statistics.median(ratios[what])) for what, *_ in runs
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    where = (
        torch.cuda.get_device_name()
        if arguments.device == "cuda"
        else f"CPU, {torch.get_num_threads()} threads"
    )
    pruned, lines = measure(arguments.device, arguments.pictures, arguments.rounds)
    print(
        f"AIS {ais.__version__}, torch {torch.__version__}, {where}, {arguments.pictures} pictures, "
        f"{pruned} maps pruned\n"
    )
    print("| what | s | of greedy |\n| --- | --- | --- |")
    for what, spent, ratio in lines:
        print(f"| {what} | {spent:,.2f} | {ratio:,.2f} |")


if __name__ == "__main__":
    main()
