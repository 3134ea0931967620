"""Heatmaps: from maps and their importance to a grid, and from a grid to colours on the picture.

A grid is signed, (h, w), with a true zero: positive where the picture's score comes from, negative where it
is lost. It exists on two scales: ``relative``, in [-1, 1], and ``points``, in points of the rating scale. On the
picture there is a third, ``density``: the points of the cells shared out to their pixels.
`METHODS` is the registry of ways to make one; all share the signature of `ablation`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam, Occlusion
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from ais.backbones.frozen import Features, FrozenBackbone
from ais.heads.regression import RegressionHead
from ais.progress import Progress

Scale = Literal["relative", "points", "density"]

SCALES: tuple[Scale, ...] = ("relative", "points")  # of a grid

PICTURE_SCALES: tuple[Scale, ...] = (*SCALES, "density")  # of a heatmap on the picture

MethodName = Literal["ais", "gradcam", "occlusion"]  # the keys of METHODS

Grids = dict[Scale, Tensor]

# Blue lowers, red raises: the ends of ColorBrewer's RdBu, which colour-blind people tell apart. -1 to +1.
COLORS: tuple[tuple[int, int, int], ...] = (
    (5, 48, 97),
    (33, 102, 172),
    (67, 147, 195),
    (146, 197, 222),
    (247, 247, 247),
    (244, 165, 130),
    (214, 96, 77),
    (178, 24, 43),
    (103, 0, 31),
)

_TABLE = np.stack(  # (513, 3), from -1 to +1
    [
        np.interp(np.linspace(-1, 1, 513), np.linspace(-1, 1, len(COLORS)), channel)
        for channel in np.array(COLORS).T
    ],
    axis=-1,
).round().astype(np.uint8)  # fmt: skip

_BLOCK = 1 << 20  # pixels coloured at a time

_UNSEEN = 0.55  # how much a part of the picture that the network did not see is dimmed

_OCCLUSION_BATCH = 16


def relative_grid(maps: Tensor, importance: Tensor) -> Tensor:
    """``H = sum_c w_c ReLU(A_c)``, divided by its largest absolute value.

    Args:
        maps: (C, h, w).
        importance: (C,).

    Returns:
        (h, w) in [-1, 1]; 0 everywhere if H is.
    """
    return to_unit((importance @ maps.relu().flatten(1)).view(maps.shape[1:]))


def points_grid(maps: Tensor, importance: Tensor) -> Tensor:
    """Each map's importance spread over its own positive activation, evenly where it has none.

    Args:
        maps: (C, h, w).
        importance: (C,), in points.

    Returns:
        (h, w); what each cell is worth, in points. The cells sum to the sum of the importances.
    """
    active = maps.relu().flatten(1)
    peak = active.amax(1, keepdim=True)  # divided by first, so that no sum of tiny or of huge values is lost
    active = active / torch.where(peak > 0, peak, 1)
    share = active / torch.where(peak > 0, active.sum(1, keepdim=True), 1)
    evenly = torch.where(peak[:, 0] > 0, 0, importance).sum() / active.shape[1]
    return (importance @ share + evenly).view(maps.shape[1:])


def ablation(
    backbone: FrozenBackbone, head: RegressionHead, picture: Tensor, features: Features, importance: Tensor
) -> Grids:
    """The AIS heatmap: the importance-weighted sum of the feature maps.

    Args:
        picture: (1, 3, H, W), the network's input.
        features: of that picture.
        importance: (C,).

    Returns:
        A grid (h, w) for every scale.
    """
    maps = features.maps[0]
    return {"relative": relative_grid(maps, importance), "points": points_grid(maps, importance)}


def gradcam(
    backbone: FrozenBackbone, head: RegressionHead, picture: Tensor, features: Features, importance: Tensor
) -> Grids:
    """Grad-CAM without its final ReLU, so that it keeps its sign (Selvaraju et al., arXiv 1610.02391; captum).

    Its raw values are the first-order change of the score, in points. `importance` is not used.
    """
    after = _AfterLayer(backbone, head, features.live)
    with torch.enable_grad():
        grid = LayerGradCam(after, after.maps).attribute(features.maps.detach().requires_grad_())
    grid = grid.detach()[0, 0]
    return {"relative": to_unit(grid), "points": grid}


def occlusion(
    backbone: FrozenBackbone,
    head: RegressionHead,
    picture: Tensor,
    features: Features,
    importance: Tensor,
    progress: Progress | None = None,
) -> Grids:
    """By how much the score falls when a grey window covers the place (Zeiler & Fergus, arXiv 1311.2901; captum).

    The window is a seventh of the input's shorter side and moves by half of that: about 170 forward passes.
    Values are points, averaged over the windows that cover a place. `importance` is not used.

    Args:
        progress: called before each batch of windows with how many are done, and of how many.
    """
    height, width = picture.shape[-2:]
    step = max(1, min(height, width) // 14)
    windows = math.prod(1 + math.ceil((side - 2 * step) / step) for side in (height, width))
    done = 0

    def score(batch: Tensor) -> Tensor:
        nonlocal done
        if progress is not None:
            progress(min(done, windows), windows)
        done += len(batch)
        return head.score(backbone(batch, head.keep).embedding)

    with torch.no_grad():
        change = Occlusion(score).attribute(
            picture.to(features.maps.device, features.maps.dtype),
            sliding_window_shapes=(3, 2 * step, 2 * step),
            strides=(3, step, step),
            perturbations_per_eval=_OCCLUSION_BATCH,
        )
        cells = (max(1, round(height / step)), max(1, round(width / step)))
        grid = F.adaptive_avg_pool2d(change.mean(1, keepdim=True), cells)[0, 0]
    return {"relative": to_unit(grid), "points": grid}


@dataclass(frozen=True)
class Method:
    """A way to make a heatmap.

    Attributes:
        label: its name on the page.
        grids: the function.
        uses_importance: it draws the importances that it is given.
        per_cell: a cell's points are its own share, so that the cells can be summed; else a level.
        slow: it takes many passes, and `grids` a last argument, which it calls between them: a `Progress` or None.
    """

    label: str
    grids: Callable[..., Grids]
    uses_importance: bool = False
    per_cell: bool = True
    slow: bool = False


METHODS: dict[str, Method] = {
    "ais": Method("AIS", ablation, uses_importance=True),
    "gradcam": Method("Grad-CAM", gradcam),
    "occlusion": Method("Occlusion", occlusion, per_cell=False, slow=True),
}


class _AfterLayer(nn.Module):
    """Feature maps -> score, as a network of its own for captum."""

    def __init__(self, backbone: FrozenBackbone, head: RegressionHead, live: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.maps = nn.Identity()
        self._score = lambda maps: head.score(backbone.tail(maps, *live))

    def forward(self, maps: Tensor) -> Tensor:
        return self._score(self.maps(maps))


def to_unit(grid: Tensor) -> Tensor:
    """Divided by its largest absolute value; 0 everywhere if it is."""
    largest = grid.abs().max()
    return grid / largest if largest > 0 else grid


def colorize(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """The colours of values in [-1, 1]: (…,) -> (…, 3)."""
    return _TABLE[np.rint((np.clip(values, -1, 1) + 1) * (len(_TABLE) // 2)).astype(np.intp)]


def overlay(picture: Image.Image, heatmap: NDArray[np.float32], opacity: float = 0.7) -> Image.Image:
    """The heatmap's colours on the picture: clear where it is near zero, dimmed grey where not seen.

    Args:
        picture: RGB.
        heatmap: (height, width) of the picture, any unit; NaN where not seen.
        opacity: of the strongest place, 0 to 1.
    """
    rows = max(1, _BLOCK // picture.width)
    strips = (heatmap[top : top + rows] for top in range(0, len(heatmap), rows))
    result = Image.new("RGB", picture.size)
    paint(result, picture, strips, largest_of([heatmap]), opacity)
    return result


def paint(
    canvas: Image.Image,
    picture: Image.Image,
    strips: Iterable[NDArray[np.float32]],
    largest: float,
    opacity: float = 0.7,
) -> None:
    """`overlay` into the top of a canvas, from the rows of a heatmap, so that a large one need not be held whole.

    Args:
        strips: (rows, width) each, from the top.
        largest: the absolute value that has the full colour.
    """
    top = 0
    for strip in strips:
        rows = picture.crop((0, top, picture.width, top + len(strip)))
        canvas.paste(Image.fromarray(_blend(np.asarray(rows), strip / (largest or 1), opacity)), (0, top))
        top += len(strip)


def largest_of(strips: Iterable[NDArray[np.float32]]) -> float:
    """The largest absolute value that is not NaN; 0 if there is none."""
    return max(float(np.nanmax(np.abs(strip), initial=0)) for strip in strips)


def _blend(pixels: NDArray[np.uint8], values: NDArray[np.float32], opacity: float) -> NDArray[np.uint8]:
    """Pixels (rows, width, 3) under the colours of values (rows, width) in [-1, 1], NaN where not seen."""
    seen = np.isfinite(values)
    values = np.where(seen, values, 0)
    alpha = np.where(seen, opacity * np.abs(values) ** 0.75, _UNSEEN)[..., None].astype(np.float32)
    color = np.where(seen[..., None], colorize(values), 128)
    return np.rint((1 - alpha) * pixels + alpha * color).astype(np.uint8)


def with_color_bar(picture: Image.Image, largest: float, unit: str) -> Image.Image:
    """The picture with a colour bar from ``-largest`` to ``+largest`` below it, in the map's unit."""
    canvas = Image.new("RGB", (picture.width, picture.height + color_bar_height(picture.width)), "white")
    canvas.paste(picture)
    draw_color_bar(canvas, largest, unit)
    return canvas


def color_bar_height(width: int) -> int:
    """Of the bar with what is written below it and around it, in pixels, for a picture of this width."""
    return 7 * _bar_size(width)


def _bar_size(width: int) -> int:
    """Of the letters, by which all the rest of the bar is measured."""
    return int(np.clip(width // 40, 10, 28))


def draw_color_bar(canvas: Image.Image, largest: float, unit: str) -> None:
    """Draw it at the foot of a canvas, on the last `color_bar_height` rows."""
    width, size = canvas.width, _bar_size(canvas.width)
    bar, margin = 2 * size, size
    top = canvas.height - color_bar_height(width) + margin
    ramp = colorize(np.linspace(-1, 1, max(1, width - 2 * margin), dtype=np.float32))
    canvas.paste(Image.fromarray(np.repeat(ramp[None], bar, axis=0)), (margin, top))
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size)
    below = top + bar + margin // 2
    labels = ((margin, "la", f"-{largest:.3g} lowers"), (width // 2, "ma", f"0 {unit}"))
    for x, anchor, text in (*labels, (width - margin, "ra", f"raises +{largest:.3g}")):
        draw.text((x, below), text, fill="black", font=font, anchor=anchor)
