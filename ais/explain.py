"""`explain`: a picture's score and where it comes from; the one call that everything else makes."""

from __future__ import annotations

import io
import json
import math
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor

from ais import heatmaps, importance
from ais.backbones import Features, FrozenBackbone, backbone_spec, load_backbone
from ais.errors import AISError, HeadError, ImageError
from ais.files import write_atomically
from ais.heads import EMBEDDED, RegressionHead, load_head
from ais.heatmaps import METHODS, SCALES, Scale
from ais.images import Source, read_image
from ais.views import Placement

Kind = Literal["prediction", "residual", "dual", "alignment"]
KINDS: tuple[Kind, ...] = get_args(Kind)
FILES = ("heatmap.npy", "overlay.png", "explanation.json")

Array = NDArray[np.float32]


class Score(NamedTuple):
    """What people would say of a picture.

    Attributes:
        score: points of the head's rating scale.
        low, high: its interval at the head's level (90 %).
        percentile: the share of the rated pictures that people rated lower, 0 to 100.
    """

    score: float
    low: float
    high: float
    percentile: float


@dataclass(frozen=True)
class Contribution:
    """One feature map's part in a place.

    Attributes:
        index: the map's number, 0 to C - 1.
        importance: the map's, over the whole picture.
        value: what it is worth at the place, in points.
        map: its activation, (h, w).
    """

    index: int
    importance: float
    value: float
    map: Array


@dataclass(frozen=True)
class Explanation:
    """A picture's score and where it comes from.

    Attributes:
        image: the picture, upright RGB.
        head, backbone, layer: what looked at it.
        method, kind, scale: how the heatmap was made; a key of `METHODS`, a `Kind`, a `Scale`.
        target: the word for what is rated; `rating_range` its scale's ends; `level` the interval's.
        score, interval, percentile: as in `Score`.
        importance: (C,) of every feature map, by `kind`.
        maps: (C, h, w) the feature maps.
        grids: the heatmap on the network's grid, (h, w), on every scale.
        placement: where the network looked.
        seconds: how long it took, reading the picture and loading the weights included.
    """

    image: Image = field(repr=False)
    head: str
    backbone: str
    layer: str
    method: str
    kind: Kind
    scale: Scale
    target: str
    rating_range: tuple[float, float]
    level: float
    score: float
    interval: tuple[float, float]
    percentile: float
    importance: Array = field(repr=False)
    maps: Array = field(repr=False)
    grids: Mapping[Scale, Array] = field(repr=False)
    placement: Placement
    seconds: float

    @property
    def grid(self) -> Array:
        """The heatmap on the network's grid, (h, w), on the explanation's scale."""
        return self.grids[self.scale]

    @property
    def heatmap(self) -> Array:
        """The heatmap on the picture, float32 (height, width); NaN where the network did not look."""
        return self.placement.upsample(self.grid)

    @property
    def unit(self) -> str:
        """What the heatmap's values are, in words."""
        if self.scale == "relative":
            return "of the largest"
        return "points" if self.method == "occlusion" else "points per cell"

    def overlay(self, opacity: float = 0.7) -> Image:
        """The heatmap's colours on the picture, as large as the picture: blue lowers, red raises."""
        return heatmaps.overlay(self.image, self.heatmap, opacity)

    def contributions(self, x: float, y: float, n: int = 6) -> list[Contribution]:
        """The feature maps that contribute most at a place, the strongest first.

        Args:
            x, y: the place, in the picture's pixels.
            n: how many at the most.

        Raises:
            ImageError: the place was not seen by the network.
        """
        x0, y0, x1, y1 = self.placement.box
        if not (x0 <= x < x1 and y0 <= y < y1 and 0 <= x < self.image.width and 0 <= y < self.image.height):
            raise ImageError("The network did not look there. Choose a place inside the part that it saw.")
        _, h, w = self.maps.shape
        active = np.maximum(self.maps, 0)
        total = active.sum((1, 2))
        here = active[:, int((y - y0) / (y1 - y0) * h), int((x - x0) / (x1 - x0) * w)]
        share = np.divide(here, total, out=np.full_like(total, 1 / (h * w)), where=total > 0)
        values = self.importance * share
        order = np.argsort(-np.abs(values), kind="stable")[:n]
        return [Contribution(int(c), float(self.importance[c]), float(values[c]), active[c]) for c in order]

    def to_dict(self) -> dict[str, Any]:
        """All of it but the pictures and the maps, ready for JSON."""
        return {
            "score": self.score,
            "low": self.interval[0],
            "high": self.interval[1],
            "level": self.level,
            "percentile": self.percentile,
            "target": self.target,
            "rating_range": list(self.rating_range),
            "head": self.head,
            "backbone": self.backbone,
            "layer": self.layer,
            "method": self.method,
            "kind": self.kind,
            "scale": self.scale,
            "unit": self.unit,
            "seconds": self.seconds,
            "width": self.image.width,
            "height": self.image.height,
            "seen": list(self.placement.box),
            "grids": {scale: grid.tolist() for scale, grid in self.grids.items()},
            "importance": self.importance.tolist(),
        }

    def save(self, directory: str | os.PathLike[str]) -> list[Path]:
        """Write ``heatmap.npy``, ``overlay.png`` (with its colour bar) and ``explanation.json``: all or none.

        Raises:
            AISError: the directory cannot be written.
        """
        heatmap = self.heatmap
        largest = float(np.nanmax(np.abs(heatmap)))
        array, png = io.BytesIO(), io.BytesIO()
        np.save(array, heatmap)
        heatmaps.with_color_bar(heatmaps.overlay(self.image, heatmap), largest, self.unit).save(png, "PNG")
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        files = (array.getvalue(), png.getvalue(), text.encode())
        return write_atomically(directory, dict(zip(FILES, files, strict=True)))


def explain(
    image: Source,
    head: str | os.PathLike[str] | RegressionHead = EMBEDDED,
    method: str = "ais",
    *,
    kind: Kind = "prediction",
    scale: Scale = "relative",
    rating: float | None = None,
    device: str = "auto",
) -> Explanation:
    """A picture's score and where in the picture it comes from.

    Args:
        image: a path, bytes, an open file, a `PIL.Image.Image` or an array (see `ais.images.read_image`).
        head: the name of a head that comes with AIS, the folder of one, or a loaded one.
        method: ``ais``, ``gradcam`` or ``occlusion``.
        kind: what counts as a map's importance. ``prediction``: what it adds to the score; ``residual`` and
            ``dual``: how it helps to match people, given the picture's `rating`; ``alignment``: how it did so
            on the head's held-out pictures.
        scale: of `Explanation.heatmap`: ``relative`` in [-1, 1], or ``points``.
        rating: what people said of this picture, on the head's scale.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        ImageError, HeadError, WeightsError, AISError: with a sentence that says what is wrong.

    Example:
        >>> explanation = explain("photo.jpg")  # doctest: +SKIP
        >>> explanation.score, explanation.heatmap.shape  # doctest: +SKIP
    """
    start = time.perf_counter()
    _one_of("method", method, METHODS)
    _one_of("kind", kind, KINDS)
    _one_of("scale", scale, SCALES)
    if method != "ais" and kind != "prediction":
        raise AISError(f"The kind {kind!r} is one of importance, which only the method 'ais' draws.")
    picture = read_image(image)
    loaded = load_head_cached(head)
    rating = _check_rating(rating, kind, loaded)
    backbone = backbone_of(loaded, device)
    view = backbone.view(loaded.config.view)
    placement = view.place(picture.width, picture.height)
    tensor = view.tensor(picture)[None]
    features = backbone(tensor)
    hidden = _hidden(loaded, features.embedding)
    score = _score(loaded, hidden)
    weights = _importance(backbone, features, loaded, hidden, kind, rating)
    grids = METHODS[method].grids(backbone, loaded, tensor, features, weights)
    config = loaded.config
    return Explanation(
        image=picture,
        head=config.name,
        backbone=config.backbone,
        layer=config.layer,
        method=method,
        kind=kind,
        scale=scale,
        target=config.target.name,
        rating_range=(config.target.low, config.target.high),
        level=config.interval.level,
        score=score.score,
        interval=(score.low, score.high),
        percentile=score.percentile,
        importance=_array(weights),
        maps=_array(features.maps[0]),
        grids={name: _array(grid) for name, grid in grids.items()},
        placement=placement,
        seconds=time.perf_counter() - start,
    )


def score(
    image: Source, head: str | os.PathLike[str] | RegressionHead = EMBEDDED, *, device: str = "auto"
) -> Score:
    """The score alone, equal to `explain`'s.

    Raises:
        ImageError, HeadError, WeightsError: with a sentence that says what is wrong.
    """
    picture = read_image(image)
    loaded = load_head_cached(head)
    backbone = backbone_of(loaded, device)
    features = backbone(backbone.view(loaded.config.view).tensor(picture)[None])
    return _score(loaded, _hidden(loaded, features.embedding))


def backbone_of(head: RegressionHead, device: str = "auto") -> FrozenBackbone:
    """The head's backbone on a device, from a cache of the last few; the head is moved there too.

    Raises:
        AISError: no such device.
        HeadError: the head does not fit the backbone.
        WeightsError: the backbone's weights are not to be had.
    """
    config = head.config
    try:
        spec = backbone_spec(config.backbone)
    except AISError as error:
        raise HeadError(
            f"The head {config.name!r} wants a backbone that this AIS does not know. {error}"
        ) from error
    if config.size != spec.size:
        raise HeadError(
            f"The head {config.name!r} was trained at {config.size} pixels, but {config.backbone} takes {spec.size}."
        )
    where = pick_device(device)
    with _lock:  # so that two requests at once do not load the same weights twice
        backbone = _backbone(config.backbone, config.layer, where)
    head.to(where)
    return backbone


def pick_device(device: str = "auto") -> str:
    """``auto`` is the GPU where there is one.

    Raises:
        AISError: no such device here.
    """
    _one_of("device", device, ("auto", "cpu", "cuda"))
    if device == "cuda" and not torch.cuda.is_available():
        raise AISError("There is no CUDA device that PyTorch can use here. Choose the device auto or cpu.")
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def load_head_cached(head: str | os.PathLike[str] | RegressionHead) -> RegressionHead:
    """`load_head`, from a cache of the last few; a head that is loaded already passes through."""
    if isinstance(head, RegressionHead):
        return head
    return _head(os.fspath(head))


_lock = threading.Lock()
_backbone = lru_cache(maxsize=3)(lambda name, layer, device: load_backbone(name, layer, device=device))
_head = lru_cache(maxsize=8)(load_head)


def _hidden(head: RegressionHead, embedding: Tensor) -> Tensor:
    """The head's first layer, (1, K, H)."""
    if embedding.shape[1] != head.config.dim:
        raise HeadError(
            f"The head {head.config.name!r} reads {head.config.dim} values, but its backbone gives "
            f"{embedding.shape[1]}."
        )
    return head.hidden(embedding)


def _score(head: RegressionHead, hidden: Tensor) -> Score:
    scores = head.readout(hidden)
    mean, half = scores.mean().item(), head.interval(scores).item()
    return Score(mean, mean - half, mean + half, head.percentile(mean))


def _importance(
    backbone: FrozenBackbone,
    features: Features,
    head: RegressionHead,
    hidden: Tensor,
    kind: Kind,
    rating: float | None,
) -> Tensor:
    """(C,), by kind."""
    if kind == "alignment":
        if len(head.alignment) != features.maps.shape[1]:
            raise HeadError(
                f"The head {head.config.name!r} has no alignment importance for this layer's maps."
            )
        return head.alignment
    predictions = importance.prediction(backbone, features, head, hidden)
    if rating is None:
        return predictions[0]
    truth = torch.tensor([rating], device=predictions.device, dtype=predictions.dtype)
    residuals = importance.residual(predictions, head.readout(hidden).mean(-1), truth)
    return (residuals if kind == "residual" else importance.dual(predictions, residuals))[0]


def _check_rating(rating: float | None, kind: Kind, head: RegressionHead) -> float | None:
    """The rating if this kind needs it; a wrong one is refused in any case."""
    target = head.config.target
    scale = f"{target.low:g} to {target.high:g}"
    needed = kind in ("residual", "dual")
    if rating is None:
        if not needed:
            return None
        raise AISError(f"The kind {kind!r} needs the rating that people gave this picture, from {scale}.")
    if not (math.isfinite(rating) and target.low <= rating <= target.high):
        raise AISError(
            f"The rating {rating:g} is not on the scale of the head {head.config.name!r}, {scale}."
        )
    return rating if needed else None


def _one_of(what: str, value: str, allowed: Any) -> None:
    if value not in allowed:
        raise AISError(f"There is no {what} {value!r}. Choose one of: {', '.join(allowed)}.")


def _array(values: Tensor) -> Array:
    return values.detach().float().cpu().contiguous().numpy()
