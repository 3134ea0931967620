"""How faithful heatmaps are: does the score change when the places that they name are hidden, or shown?

- Deletion and insertion (Petsiuk et al., RISE, arXiv 1806.07421), as changes of the score in points.
- A sanity check (Adebayo et al., arXiv 1810.03292): another head must give another map.

What is hidden is strongly blurred: a grey or black patch would add edges of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from ais.attribution.forward import ForwardPass
from ais.attribution.grids import to_unit
from ais.attribution.methods import METHODS
from ais.backbones.frozen import FrozenBackbone
from ais.heads.regression import RegressionHead
from ais.images.preprocessing import Placement
from ais.images.reading import Source, read_image
from ais.metrics.bootstrap import with_ci
from ais.metrics.correlation import spearman
from ais.torch_state import own_state

STEPS = 14

COMPARED = ("ais", "gradcam", "random")

_DRAWS = 3  # random grids, and randomised heads, for every image

_BLUR = 8  # the blur's sigma is this part of the shorter side


@own_state()
def faithfulness(
    images: Sequence[Source],
    backbone: FrozenBackbone,
    head: RegressionHead,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Deletion and insertion of the AIS heatmap, Grad-CAM and random grids, and the sanity check.

    About 150 forward passes for every image.

    Args:
        images: whatever `ais.images.reading.read_image` reads; at least two.
        seed: of the random grids and the randomised heads.
        progress: called with (done, total) after every image.

    Returns:
        Ready for JSON. ``pictures`` and ``steps``; under ``methods``, for each of `COMPARED`, the mean
        ``deletion`` and ``insertion`` of `deletion_insertion`; under ``differences`` the same of AIS less each
        of the others, on the same images; ``sanity``, the mean `rank_similarity` of the head's AIS grid and
        those of randomised heads, and ``sanity_chance``, that of the randomised heads' among each other. The
        grids follow the head if the first is about as low as the second, and not near 1. With each value, such
        as ``deletion``, comes its 95 % interval over the images, ``deletion_low`` and ``deletion_high``.

    Raises:
        ImageError: an image cannot be read.
        DataError: fewer than two images.
    """
    generator = torch.Generator().manual_seed(seed)
    others = [randomised(head, generator) for _ in range(_DRAWS)]
    changes = np.empty((len(COMPARED), len(images), 2))
    similarities = np.empty((len(images), 2))
    for n, source in enumerate(images):
        upright = read_image(source)
        image = backbone.preprocessing(upright)[None]
        placement = backbone.preprocessing.geometry(*upright.size)
        changes[:, n], similarities[n] = _examine(image, placement, backbone, head, others, generator)
        if progress:
            progress(n + 1, len(images))
    both = ("deletion", "insertion")
    ours = changes[0]
    return {
        "pictures": len(images),
        "steps": STEPS,
        "methods": {name: _means(both, of) for name, of in zip(COMPARED, changes, strict=True)},
        "differences": {
            name: _means(both, ours - theirs) for name, theirs in zip(COMPARED[1:], changes[1:], strict=True)
        },
        **_means(("sanity", "sanity_chance"), similarities),
    }


def _examine(
    image: Tensor,
    placement: Placement,
    backbone: FrozenBackbone,
    head: RegressionHead,
    others: Sequence[RegressionHead],
    generator: torch.Generator,
) -> tuple[np.ndarray, tuple[float, float]]:
    """Deletion and insertion of `COMPARED`, (3, 2), and how alike the grids of other heads are to the head's
    and to each other."""
    features = backbone(image, head.keep)

    def grid(method: str, head: RegressionHead) -> Tensor:
        seen = ForwardPass(head, backbone, image, placement, features, head.hidden(features.embedding))
        made = METHODS[method].draw(seen, seen.prediction)
        return to_unit(made.points if made.relative is None else made.relative).mean(0)

    ours, gradcam = grid("ais", head), grid("gradcam", head)
    noise = [torch.rand(ours.shape, generator=generator) for _ in range(_DRAWS)]
    first, second, *drawn = [deletion_insertion(backbone, head, image, g) for g in (ours, gradcam, *noise)]
    randomised_grids = [grid("ais", other) for other in others]
    similarity = [rank_similarity(ours, one) for one in randomised_grids]
    chance = [rank_similarity(one, two) for one, two in combinations(randomised_grids, 2)]
    return np.array([first, second, np.mean(drawn, axis=0)]), (
        float(np.mean(similarity)),
        float(np.mean(chance)),
    )


def deletion_insertion(
    backbone: FrozenBackbone, head: RegressionHead, image: Tensor, grid: Tensor, steps: int = STEPS
) -> tuple[float, float]:
    """By how much the score changes while a heatmap's highest places are hidden, and while they are shown.

    At step k of `steps` that is the k/steps of the input's pixels where the grid, bilinearly upsampled and
    with its sign, is highest. Higher is better for both. The change is not divided by the score: a rating
    scale has no zero.

    Args:
        image: (1, 3, H, W), the network's input.
        grid: (h, w).

    Returns:
        Deletion, the mean over the steps of ``score(image) - score(image with these pixels hidden)``, and
        insertion, that of ``score(only these pixels shown) - score(all hidden)``; in points.
    """
    height, width = image.shape[-2:]
    values = F.interpolate(grid[None, None].double(), (height, width), mode="bilinear").flatten()
    places = torch.empty_like(values, dtype=torch.long)
    places[values.argsort(descending=True, stable=True)] = torch.arange(len(values), device=values.device)
    counts = torch.arange(steps + 1, device=values.device) * len(values) // steps
    chosen = (places < counts[:, None]).view(-1, 1, height, width).to(image.device)
    hidden = blur(image)
    with torch.no_grad():
        without, alone = (
            head.score(backbone(images, head.keep).embedding).double()
            for images in (torch.where(chosen, hidden, image), torch.where(chosen, image, hidden))
        )
    return (without[0] - without[1:]).mean().item(), (alone[1:] - alone[0]).mean().item()


def blur(image: Tensor) -> Tensor:
    """The image blurred beyond recognition, (1, 3, H, W): Gaussian, sigma an eighth of the shorter side."""
    short = min(image.shape[-2:])
    sigma, size = short / _BLUR, 2 * (3 * short // _BLUR) + 1  # cut at three sigma
    down = gaussian_blur(image, [1, size], [sigma, sigma])  # one way at a time: the same, far faster
    return gaussian_blur(down, [size, 1], [sigma, sigma])


def randomised(head: RegressionHead, generator: torch.Generator) -> RegressionHead:
    """The head with the weights of both its layers shuffled, so that it knows nothing."""
    other = RegressionHead(head.config).to(head.weight1)
    shuffled = {
        name: value.flatten()[torch.randperm(value.numel(), generator=generator).to(value.device)].view_as(
            value
        )
        for name, value in (("weight1", head.weight1), ("weight2", head.weight2))
    }
    other.load_state_dict(head.state_dict() | shuffled)
    return other


def rank_similarity(a: Tensor, b: Tensor) -> float:
    """Absolute Spearman correlation of two grids (h, w): 1 where they rank places alike or upside down.

    Grids of unrelated heads are some way above 0: all are made of the same few active places.
    """
    return abs(spearman(*(grid.double().cpu().numpy().ravel() for grid in (a, b))))


def _means(names: Sequence[str], values: np.ndarray) -> dict[str, float]:
    """Means over images and their intervals: (N, len(names))."""
    return with_ci(names, lambda rows: values[rows].mean(0), np.arange(len(values)))
