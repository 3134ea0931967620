"""What an explanation costs beside the plain forward pass, the naive loop and the best-known library.

    python -m benchmarks.ablation [--device cuda] [--rounds 15]

All are measured in turn within every round, on the same picture, network, weights, memory layout and head, so
that a busy machine slows all of them alike. A line's ratios are the medians over the rounds of its time divided by
that of two forward passes in the same round: the plain one of the network as it comes, and the folded one, with every
BatchNorm folded into its convolution, as the explanation runs it. The two loops over single maps take minutes: they
are timed on a sample of the maps (marked ~) and scaled. ResNet-152 has random weights, which change no time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from pytorch_grad_cam import AblationCAM
from pytorch_grad_cam.utils.model_targets import RawScoresOutputTarget
from torch import Tensor, nn

import ais
from ais.attribution.forward import ForwardPass
from ais.attribution.methods import METHODS
from ais.backbones.frozen import FrozenBackbone
from ais.backbones.loading import load_backbone
from ais.heads.loading import load_head
from ais.heads.regression import RegressionHead

SAMPLE = 32  # maps that the loops over single maps are timed on


PLAIN, FOLDED = "plain forward", "forward, BatchNorm folded"


class Plain(nn.Module):
    """Image -> score, as one runs it who wants no explanation."""

    def __init__(self, backbone: FrozenBackbone, head: RegressionHead) -> None:
        super().__init__()
        self.network, self.head = backbone.network, head

    def forward(self, pictures: Tensor) -> Tensor:
        return self.head.score(self.network(pictures))[:, None]


def head_for(backbone: FrozenBackbone, channels: int) -> RegressionHead:
    """The embedded head where it fits, else one of its size with random weights."""
    embedded = load_head()
    if backbone.name == embedded.config.backbone:
        return embedded
    config = replace(
        embedded.config, backbone=backbone.name, layer=backbone.layer, dim=channels, channels=channels
    )
    generator = torch.Generator().manual_seed(0)
    head = RegressionHead(config)
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in config.shapes().items()}
    tensors["weight1"] /= channels**0.5 / 4
    head.load_state_dict(tensors)
    return head


def measure(name: str, device: str, rounds: int) -> list[tuple[str, float, float, float]]:
    """(what, milliseconds, ratio to the plain forward, ratio to the folded one) for one backbone."""
    torch.manual_seed(0)
    backbone = load_backbone(
        name,
        view="resize",
        weights="default" if name.startswith("efficientnet_lite") else None,
        device=device,
    )
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (400, 500, 3), dtype=np.uint8))
    placement = backbone.preprocessing.geometry(*picture.size)
    pictures = backbone.preprocessing(picture)[None].to(device, memory_format=torch.channels_last)
    seen = backbone(pictures)
    channels, size = seen.maps.shape[1], seen.embedding.std()
    head = head_for(backbone, channels).to(device)
    head.weight1 /= size  # a network without trained weights gives an embedding of any size
    head.typical *= size
    plain = Plain(backbone, head).eval()

    def forward() -> None:
        with torch.no_grad():
            plain(pictures).item()

    def folded() -> None:
        with torch.no_grad():
            maps, *side_inputs = backbone.trunk(pictures)
            head.score(backbone.tail(maps, *side_inputs)).item()

    def draw(method: str) -> None:
        features = backbone(pictures)
        hidden = head.hidden(features.embedding)
        head.readout(hidden).mean().item()
        one = ForwardPass(head, backbone, pictures, placement, features, hidden)
        weights = one.prediction if METHODS[method].uses_importance else torch.zeros(0, 0)
        drawn = METHODS[method].draw(one, weights).points.mean(0)
        placement.upsample(drawn.float().cpu().numpy())

    def explained() -> None:
        draw("ais")

    def contributed() -> None:
        draw("contribution")

    layer = backbone.network.get_submodule(backbone.layer)
    assert isinstance(layer, nn.Conv2d)

    def naive() -> None:
        with torch.no_grad():
            for channel in range(SAMPLE):
                kept = layer.weight[channel].clone()
                layer.weight[channel] = 0
                plain(pictures).item()
                layer.weight[channel] = kept

    def peer(ratio: float) -> None:
        with AblationCAM(plain, [layer], ratio_channels_to_ablate=ratio) as cam:
            cam(pictures, [RawScoresOutputTarget()])

    few = SAMPLE / channels
    slow = max(1, rounds // 5)
    runs: list[tuple[str, Callable[[], None], float, int]] = [
        (PLAIN, forward, 1, rounds),
        (FOLDED, folded, 1, rounds),
        ("forward + all ablations + heatmap", explained, 1, rounds),
        ("forward + contribution", contributed, 1, rounds),
        (f"naive loop (~{SAMPLE} of {channels} maps)", naive, channels / SAMPLE, slow),
        (
            f"pytorch-grad-cam AblationCAM (~{SAMPLE} of {channels} maps)",
            lambda: peer(few),
            channels / SAMPLE,
            slow,
        ),
    ]
    for _, run, _, _ in runs:
        run()
    times: dict[str, list[float]] = {what: [] for what, *_ in runs}
    ratios: dict[str, list[tuple[float, float]]] = {what: [] for what, *_ in runs}
    # The slow lines apart, since a loop of minutes leaves nothing in the processor's caches.
    for slow_lines in (False, True):
        for round_ in range(rounds):
            for what, run, scale, wanted in runs:
                reference = what in (PLAIN, FOLDED) and round_ < slow
                if round_ < wanted and ((scale > 1) == slow_lines or reference):
                    times[what].append(scale * seconds(run, device, 5 if scale == 1 else 1))
            for what, _, scale, wanted in runs:
                if round_ < wanted and (scale > 1) == slow_lines:
                    mine = times[what][-1]
                    ratios[what].append((mine / times[PLAIN][-1], mine / times[FOLDED][-1]))
    lines = []
    for what, *_ in runs:
        of_plain, of_folded = (statistics.median(column) for column in zip(*ratios[what], strict=True))
        lines.append((what, 1000 * statistics.median(times[what]), of_plain, of_folded))
    return lines


def seconds(run: Callable[[], object], device: str, times: int) -> float:
    """The quickest of a few runs: what it costs when nothing else interferes."""
    best = float("inf")
    for _ in range(times):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    where = (
        torch.cuda.get_device_name()
        if arguments.device == "cuda"
        else f"CPU, {torch.get_num_threads()} threads"
    )
    print(f"AIS {ais.__version__}, torch {torch.__version__}, {where}, a picture of 500 x 400\n")
    print("| backbone | what | ms | of a plain forward | of a folded one |\n| --- | --- | --- | --- | --- |")
    for name in ("efficientnet_lite0", "resnet152"):
        for what, milliseconds, *ratios in measure(name, arguments.device, arguments.rounds):
            cells = " | ".join(f"{ratio:,.2f}" for ratio in ratios)
            print(f"| {name} | {what} | {milliseconds:,.1f} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
