"""`explain`: a picture's score and where it comes from; the one call that everything else makes."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from ais.attribution import grids as attribution_grids
from ais.attribution import importance
from ais.attribution.explanation import KINDS, Array, Explanation, Kind, Score, check_summable
from ais.attribution.grids import PICTURE_SCALES, Grids, Scale, combine_points, resample
from ais.attribution.map_scores import MapScores, read_map_scores
from ais.attribution.methods import METHODS, Method
from ais.backbones.frozen import Features, FrozenBackbone
from ais.errors import AISError, HeadError, _one_of
from ais.heads.config import EMBEDDED
from ais.heads.loading import HeadSource, backbone_of, load_head_cached
from ais.heads.regression import RegressionHead
from ais.heads.stack import StackedHead
from ais.images.preprocessing import Placement
from ais.images.reading import Source, read_image
from ais.progress import Progress
from ais.torch_state import own_state


@own_state()
def explain(
    image: Source,
    head: HeadSource = EMBEDDED,
    method: str = "ais",
    *,
    kind: Kind = "prediction",
    scale: Scale = "relative",
    rating: float | None = None,
    similarity: str | os.PathLike[str] | MapScores | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> Explanation:
    """A picture's score and where in the picture it comes from.

    Args:
        image: a path, bytes, an open file, a `PIL.Image.Image` or an array (see `ais.images.reading.read_image`).
        head: the name of a head that comes with AIS, the folder of one, its id on the Hub (``user/repo``, or
            ``user/repo@revision``), or a loaded one.
        method: ``ais``, ``gradcam`` or ``occlusion``.
        kind: what counts as a map's importance. ``prediction``: what it adds to the score; ``residual`` and
            ``dual``: how it helps to match people, given the picture's `rating`; ``alignment``: how it did so
            on the head's held-out pictures; ``similarity``: what it adds to the match between the network's and
            people's comparisons of pictures, as `ais align` found it.
        scale: of `Explanation.heatmap`: ``relative`` in [-1, 1]; ``points``, what a cell of the network's grid at
            the place is worth; or ``density``, points per pixel, which sum to the total.
        rating: what people said of this picture, on the head's scale.
        similarity: for that kind, the file that `ais align` wrote, of the head's own backbone.
        device: ``auto``, ``cpu`` or ``cuda``.
        progress: called between the batches of a slow method with how many passes are done, and of how many. What it
            raises ends the computation.

    Raises:
        ImageError, HeadError, WeightsError, AISError: with a sentence that says what is wrong.

    Example:
        >>> explanation = explain("photo.jpg")  # doctest: +SKIP
        >>> explanation.score, explanation.heatmap.shape  # doctest: +SKIP
    """
    start = time.perf_counter()
    _one_of("method", method, METHODS)
    _one_of("kind", kind, KINDS)
    _one_of("scale", scale, PICTURE_SCALES)
    if method != "ais" and kind != "prediction":
        raise AISError(f"The kind {kind!r} is one of importance, which only the method 'ais' draws.")
    if scale == "density":
        check_summable(method)
    picture = read_image(image)
    loaded = load_head_cached(head)
    rating = _check_rating(rating, kind, loaded)
    published = _published(similarity, kind, loaded)
    looks = [_look(picture, member, device) for member in _members(loaded)]
    published = [scores.to(looks[0].picture.device) for scores in published]
    numbers = {id(look): number for number, look in enumerate(looks)}

    def explanation(
        shown: RegressionHead | StackedHead, parts: list[_Look], weights: list[float]
    ) -> Explanation:
        scores = _scores(shown, parts)
        score = score_of(shown, scores)
        importances = published or _importances(parts, weights, kind, rating, scores)
        own = zip(parts, weights, importances, strict=True)
        drawn = [
            _draw(METHODS[method], *each, _part(progress, numbers[id(each[0])], len(looks))) for each in own
        ]
        grids = _combine(method, drawn)
        for values in (*importances, *grids.values()):
            shown.finite(values, "heatmap")
        config = shown.config
        return Explanation(
            image=picture,
            head=config.name,
            backbone=" + ".join(part.head.config.backbone for part in parts),
            layer=" + ".join(dict.fromkeys(part.head.config.layer for part in parts)),
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
            maps=_stack_maps(parts, grids["points"].shape)
            if len(parts) > 1
            else _array(parts[0].features.maps[0]),
            grids={name: _array(grid) for name, grid in grids.items()},
            placement=parts[0].placement,
            seconds=time.perf_counter() - start,
            source=str(shown.repository or ""),
            revision=shown.repository.revision if shown.repository else "",
            head_sha256=config.weights_sha256,
            picture=_file_name(image),
        )

    if isinstance(loaded, StackedHead):
        weights = loaded.weight.tolist()
        return replace(
            explanation(loaded, looks, weights),
            members=tuple(explanation(part.head, [part], [1.0]) for part in looks),
            weights=tuple(weights),
            intercept=loaded.intercept.item(),
        )
    return explanation(loaded, looks, [1.0])


@own_state()
def score(
    image: Source,
    head: HeadSource = EMBEDDED,
    *,
    device: str = "auto",
) -> Score:
    """The score alone, equal to `explain`'s.

    Raises:
        ImageError, HeadError, WeightsError: with a sentence that says what is wrong.
    """
    picture = read_image(image)
    loaded = load_head_cached(head)
    return score_of(loaded, _scores(loaded, [_look(picture, member, device) for member in _members(loaded)]))


@dataclass(frozen=True)
class _Look:
    """One backbone's pass over the picture, for one head."""

    head: RegressionHead
    backbone: FrozenBackbone
    picture: Tensor
    placement: Placement
    features: Features
    hidden: Tensor  # (1, K, H), the head's first layer
    drawn: dict[str, Grids] = field(default_factory=dict)  # by methods that know no importances

    @cached_property
    def predictions(self) -> Tensor:
        """(1, C), what each map adds to this head's own score."""
        return importance.prediction(self.backbone, self.features, self.head, self.hidden)


def _members(head: RegressionHead | StackedHead) -> Sequence[RegressionHead]:
    return head.members if isinstance(head, StackedHead) else [head]


def _look(picture: Image, head: RegressionHead, device: str) -> _Look:
    backbone = backbone_of(head, device)
    view = backbone.view(head.config.view)
    tensor = view.tensor(picture)[None]
    try:
        features = backbone(tensor, head.keep)
    except AISError as error:
        raise HeadError(f"The head {head.config.name!r} does not fit its backbone. {error}") from error
    if features.embedding.shape[1] != head.config.dim:
        raise HeadError(
            f"The head {head.config.name!r} reads {head.config.dim} values, but its backbone gives "
            f"{features.embedding.shape[1]}."
        )
    placement = view.place(picture.width, picture.height)
    return _Look(head, backbone, tensor, placement, features, head.hidden(features.embedding))


def _scores(head: RegressionHead | StackedHead, looks: Sequence[_Look]) -> Tensor:
    """The scores of the head's variants, (1, K)."""
    scores = [look.head.readout(look.hidden) for look in looks]
    return head.to(scores[0].device).combine(scores) if isinstance(head, StackedHead) else scores[0]


def score_of(head: RegressionHead | StackedHead, scores: Tensor) -> Score:
    """Score, interval and percentile of the scores of a head's variants, (1, K).

    Raises:
        HeadError: they are not finite.
    """
    mean = head.finite(scores.mean()).item()
    half = head.finite(head.interval(scores)).item()
    target = head.config.target
    beyond = max(target.low - mean, mean - target.high)
    if beyond > target.high - target.low:
        raise HeadError(
            f"The head {head.config.name!r} gives {mean:.4g} on a scale of {target.low:g} to {target.high:g}, which "
            "says nothing of a picture: choose another, or train it anew."
        )
    low, high = head.within_scale(mean - half), head.within_scale(mean + half)
    return Score(mean, low, high, head.percentile(mean))


def _importances(
    looks: Sequence[_Look], weights: Sequence[float], kind: Kind, rating: float | None, scores: Tensor
) -> list[Tensor]:
    """For each backbone (C,), by kind: what its maps do to the score of all of them together.

    Ablating a map of one member changes a stack's score by the member's weight times the change of its own. Of
    ``alignment``, which was measured for each member alone, a stack takes the members' weighted values.
    """
    channels = [look.features.maps.shape[1] for look in looks]
    if kind == "alignment":
        for look in looks:
            if not look.head.alignment.any():
                raise HeadError(
                    f"The head {look.head.config.name!r} has no alignment importance for its maps."
                )
        return [weight * look.head.alignment for look, weight in zip(looks, weights, strict=True)]
    predictions = torch.cat(
        [weight * look.predictions for look, weight in zip(looks, weights, strict=True)], dim=1
    )
    if rating is not None:
        truth = torch.tensor([rating], device=predictions.device, dtype=predictions.dtype)
        residuals = importance.residual(predictions, scores.mean(-1), truth)
        predictions = residuals if kind == "residual" else importance.dual(predictions, residuals)
    return list(predictions[0].split(channels))


def _part(progress: Progress | None, index: int, count: int) -> Progress | None:
    """The progress of all members by that of one: they hide about as many windows each."""
    if progress is None:
        return None
    return lambda done, total: progress(index * total + done, count * total)


def _draw(
    method: Method, look: _Look, weight: float, importances: Tensor, progress: Progress | None
) -> Grids:
    """One backbone's part in the heatmap: the importances hold the weight already, other methods know none."""

    def draw() -> Grids:
        own = (look.backbone, look.head, look.picture, look.features, importances)
        return method.grids(*own, progress) if method.slow else method.grids(*own)

    if method.uses_importance:
        return draw()
    if method.label not in look.drawn:  # for the member's own heatmap, and for the stack's
        look.drawn[method.label] = draw()
    grids = look.drawn[method.label]
    return grids if weight == 1 else {**grids, "points": weight * grids["points"]}


def _combine(method: str, grids: list[Grids]) -> Grids:
    """Several backbones' grids as one, added in points: the one unit that they share."""
    if len(grids) == 1:
        return grids[0]
    points = [_array(grid["points"]) for grid in grids]
    total = torch.from_numpy(combine_points(points, [1.0] * len(points), METHODS[method].per_cell)).float()
    return {"relative": attribution_grids.to_unit(total), "points": total}


def _stack_maps(looks: Sequence[_Look], shape: Sequence[int]) -> Array:
    """The positive parts of all backbones' maps on one grid, so that a place's parts can be told."""
    height, width = shape
    return np.concatenate([resample(_array(look.features.maps[0].relu()), (height, width)) for look in looks])


def _check_rating(rating: float | None, kind: Kind, head: RegressionHead | StackedHead) -> float | None:
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


def _published(
    similarity: str | os.PathLike[str] | MapScores | None, kind: Kind, head: RegressionHead | StackedHead
) -> list[Tensor]:
    """The importances of the kind ``similarity``, in a list of one; empty for the others."""
    if kind != "similarity":
        return []
    if similarity is None:
        raise AISError("The kind 'similarity' needs the file of map scores that `ais align` writes.")
    scores = similarity if isinstance(similarity, MapScores) else read_map_scores(similarity)
    if isinstance(head, StackedHead):
        raise AISError("The kind 'similarity' explains one backbone: name a member of this stack.")
    config = head.config
    own, theirs = (config.backbone, config.layer, config.view), (scores.backbone, scores.layer, scores.view)
    if own != theirs or config.tuned_sha256 or len(scores.importance) != config.channels:
        raise AISError(
            f"These scores are of {scores.backbone}, layer {scores.layer}, view {scores.view}, with "
            f"{len(scores.importance)} maps, but the head {config.name!r} reads {config.reads}, layer {config.layer}, "
            f"view {config.view}, with {config.channels}: choose a head on the same."
        )
    return [torch.from_numpy(scores.importance).float()]


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
