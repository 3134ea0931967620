"""`explain`: an image's score and where it comes from; the one call that everything else makes."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ais.attribution.explanation import Array, Explanation, Score, check_summable
from ais.attribution.forward import ForwardPass, forward
from ais.attribution.grids import IMAGE_SCALES, Grids, Scale, combine_points, resample, to_unit
from ais.attribution.kinds import KINDS, Ablations
from ais.attribution.map_importance import MapImportance, read_map_importance
from ais.attribution.methods import METHODS
from ais.backbones.frozen import FrozenBackbone
from ais.backbones.loading import pick_device
from ais.errors import AISError, HeadError, check_choice
from ais.heads.loading import HeadSource, load_head_cached, rating_head
from ais.heads.regression import RatingHead
from ais.images.reading import Source, read_image
from ais.progress import Progress
from ais.torch_state import own_state

_SCORE = "prediction"  # the kind that methods without importances draw


@own_state()
def explain(
    image: Source,
    head: HeadSource | None = None,
    method: str = "ais",
    *,
    kind: str = _SCORE,
    scale: Scale = "relative",
    rating: float | None = None,
    alignment: str | os.PathLike[str] | MapImportance | None = None,
    backbone: FrozenBackbone | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> Explanation:
    """An image's score and where in the image it comes from.

    Args:
        image: a path, bytes, an open file, a `PIL.Image.Image` or an array (see `ais.images.reading.read_image`).
        head: the name of a head that comes with AIS, the folder of one, its id on the Hub (``user/repo``, or
            ``user/repo@revision``), or a loaded one; None for the default, ``beauty-efficientnet-lite0``.
        method: how the heatmap is made: a key of `ais.METHODS`, whose entries say what each does.
        kind: what counts as a feature map's importance, for methods that draw it: a key of
            `ais.KINDS`, whose entries say what each is and whether it needs a `rating` or an
            `alignment`.
        scale: of `Explanation.heatmap`: ``relative`` in [-1, 1]; ``points``, what a cell of the network's grid at
            the place is worth; or ``density``, points per pixel, which sum to the total.
        rating: what people said of this image, on the head's scale.
        alignment: the file that `ais align` wrote, of the head's own backbone.
        backbone: the network to use instead of the one of `ais.BACKBONES` that the head names, such as one built by
            hand, with the head's layer, view, size and D. It computes where it is.
        device: ``auto``, ``cpu`` or ``cuda``; where to load the head's own backbone.
        progress: called between the batches of a slow method with how many passes are done, and of how many. What it
            raises ends the computation.

    Raises:
        ImageError, HeadError, WeightsError, AISError: with a sentence that says what is wrong.

    Example:
        >>> explanation = explain("photo.jpg")  # doctest: +SKIP
        >>> explanation.score, explanation.heatmap.shape  # doctest: +SKIP
    """
    start = time.perf_counter()
    _check(method, kind, scale)
    upright = read_image(image)
    loaded = _load(head, device, backbone)
    rating = _check_rating(rating, kind, loaded)
    map_importance = _check_alignment(alignment, kind)
    passes = [forward(upright, member, device, backbone) for member in loaded.members]
    drawings = [_Drawing(method, one, _part(progress, n, len(passes))) for n, one in enumerate(passes)]

    def explanation(shown: RatingHead, drawings: list[_Drawing], weights: list[float]) -> Explanation:
        passes = [drawing.forward for drawing in drawings]
        scores = _scores(shown, passes)
        score = score_of(shown, scores)
        truth = None if rating is None else scores.new_tensor([rating])
        ablations = Ablations(passes, weights, scores.mean(-1), truth, map_importance)
        importances = _importances(kind, ablations)
        weighted = zip(drawings, weights, importances, strict=True)
        grids = _combine(method, [drawing.grids(weight, own) for drawing, weight, own in weighted])
        for values in (*importances, *grids.values()):
            shown.finite(values, "heatmap")
        config = shown.config
        return Explanation(
            image=upright,
            head=config.name,
            backbone=backbone.label
            if backbone
            else " + ".join(one.head.config.sized_backbone for one in passes),
            layer=" + ".join(dict.fromkeys(one.head.config.layer for one in passes)),
            method=method,
            kind=kind,
            scale=scale,
            target=config.target.name,
            rating_range=(config.target.low, config.target.high),
            level=config.interval.level,
            score=score.score,
            interval=(score.low, score.high),
            percentile=score.percentile,
            importance=_array(torch.cat(importances)),
            maps=_stack_maps(passes, grids["points"].shape)
            if len(passes) > 1
            else _array(passes[0].features.maps[0]),
            grids={name: _array(grid) for name, grid in grids.items()},
            placement=passes[0].placement,
            seconds=time.perf_counter() - start,
            source=str(shown.repository or ""),
            revision=shown.repository.revision if shown.repository else "",
            head_sha256=config.weights_sha256,
            picture=_file_name(image),
        )

    weights = loaded.member_weights
    if loaded.config.parts:
        return replace(
            explanation(loaded, drawings, weights),
            members=tuple(explanation(one.forward.head, [one], [1.0]) for one in drawings),
            weights=tuple(weights),
            intercept=loaded.constant,
        )
    return explanation(loaded, drawings, weights)


@own_state()
def score(
    image: Source,
    head: HeadSource | None = None,
    *,
    backbone: FrozenBackbone | None = None,
    device: str = "auto",
) -> Score:
    """The score alone, equal to `explain`'s, which says more of the arguments.

    Raises:
        ImageError, HeadError, WeightsError: with a sentence that says what is wrong.
    """
    upright = read_image(image)
    loaded = _load(head, device, backbone)
    passes = [forward(upright, member, device, backbone) for member in loaded.members]
    return score_of(loaded, _scores(loaded, passes))


def score_of(head: RatingHead, scores: Tensor) -> Score:
    """Score, interval and percentile of the scores of a head's variants, (1, K).

    Raises:
        HeadError: they are not finite.
    """
    mean = head.finite(scores.mean()).item()
    half = head.finite(head.half_width(scores)).item()
    target = head.config.target
    beyond = max(target.low - mean, mean - target.high)
    if beyond > target.high - target.low:
        raise HeadError(
            f"The head {head.config.name!r} gives {mean:.4g} on a scale of {target.low:g} to {target.high:g}, which "
            "says nothing of a picture: choose another, or train it again."
        )
    low, high = head.within_scale(mean - half), head.within_scale(mean + half)
    return Score(mean, low, high, head.percentile(mean))


def _load(head: HeadSource | None, device: str, backbone: FrozenBackbone | None) -> RatingHead:
    """The head where it is to compute: beside the backbone, if one is given."""
    loaded = rating_head(load_head_cached(head))
    if backbone is None:
        return loaded.on(pick_device(device))
    if len(loaded.members) > 1:
        raise AISError(
            f"The head {loaded.config.name!r} is a stack on several backbones: give the backbone with a member of it."
        )
    return loaded.on(backbone.device)


def _scores(head: RatingHead, passes: Sequence[ForwardPass]) -> Tensor:
    """The scores of the head's variants, (1, K)."""
    return head.combine([one.head.readout(one.hidden) for one in passes])


def _importances(kind: str, ablations: Ablations) -> list[Tensor]:
    """For each backbone (C,): what its maps do to the score of all of them together; nothing if they are pruned."""
    members = ablations.members
    kept = torch.cat([member.head.keep for member in members])
    importance = torch.where(kept, KINDS[kind].importance(ablations), 0)
    return list(importance.split([member.head.config.channels for member in members]))


def _part(progress: Progress | None, index: int, count: int) -> Progress | None:
    """The progress of all members by that of one: they cover about as many windows each."""
    if progress is None:
        return None
    return lambda done, total: progress(index * total + done, count * total)


class _Drawing:
    """One backbone's part in the heatmap. What needs no importances is made once, for the stack and its member."""

    def __init__(self, method: str, forward: ForwardPass, progress: Progress | None) -> None:
        self.forward = forward
        self._method = METHODS[method]
        self._last = (progress,) if self._method.slow else ()
        self._made: Grids | None = None

    def grids(self, weight: float, importance: Tensor) -> Grids:
        """Its grids times its weight, which importances hold already."""
        if self._method.uses_importance:
            return self._make(importance)
        if self._made is None:
            self._made = self._make(importance)
        return self._made if weight == 1 else {**self._made, "points": weight * self._made["points"]}

    def _make(self, importance: Tensor) -> Grids:
        own = self.forward
        return self._method.grids(own.backbone, own.head, own.image, own.features, importance, *self._last)


def _combine(method: str, grids: list[Grids]) -> Grids:
    """Several backbones' grids as one, added in points: the one unit that they share."""
    if len(grids) == 1:
        return grids[0]
    points = [_array(grid["points"]) for grid in grids]
    total = torch.from_numpy(combine_points(points, [1.0] * len(points), METHODS[method].per_cell)).float()
    return {"relative": to_unit(total), "points": total}


def _stack_maps(passes: Sequence[ForwardPass], shape: Sequence[int]) -> Array:
    """The positive parts of all backbones' maps on one grid, so that a place's parts can be told."""
    height, width = shape
    return np.concatenate([resample(_array(one.features.maps[0].relu()), (height, width)) for one in passes])


def _check(method: str, kind: str, scale: str) -> None:
    check_choice("method", method, METHODS)
    check_choice("kind", kind, KINDS)
    check_choice("scale", scale, IMAGE_SCALES)
    if kind != _SCORE and not METHODS[method].uses_importance:
        drawing = " or ".join(repr(name) for name, one in METHODS.items() if one.uses_importance)
        raise AISError(f"The kind {kind!r} is one of feature maps, which only the method {drawing} draws.")
    if scale == "density":
        check_summable(method)


def _check_rating(rating: float | None, kind: str, head: RatingHead) -> float | None:
    """The rating if this kind needs it; a wrong one is refused in any case."""
    target = head.config.target
    scale = f"{target.low:g} to {target.high:g}"
    needed = KINDS[kind].needs == "rating"
    if rating is None:
        if not needed:
            return None
        raise AISError(f"The kind {kind!r} needs the rating that people gave this picture, from {scale}.")
    if not (math.isfinite(rating) and target.low <= rating <= target.high):
        raise AISError(
            f"The rating {rating:g} is not on the scale of the head {head.config.name!r}, {scale}."
        )
    return rating if needed else None


def _check_alignment(
    alignment: str | os.PathLike[str] | MapImportance | None, kind: str
) -> MapImportance | None:
    """The scores of maps if this kind needs them."""
    if KINDS[kind].needs != "alignment":
        return None
    if alignment is None:
        raise AISError(f"The kind {kind!r} needs the file of map scores that `ais align` writes.")
    return alignment if isinstance(alignment, MapImportance) else read_map_importance(alignment)


def _file_name(image: Source) -> str:
    """The name of the file that a picture came from, without its folder; empty if it came from none."""
    path: Any = image
    if not isinstance(image, (str, os.PathLike)):
        path = getattr(image, "filename", None) or getattr(image, "name", "")
    if not isinstance(path, (str, os.PathLike)):  # an open file may have a number for its name
        return ""
    return os.fsencode(Path(path).name).decode(errors="replace")


def _array(values: Tensor) -> Array:
    return values.detach().float().cpu().contiguous().numpy()
