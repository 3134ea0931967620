"""`explain`: an image's score and where it comes from; the one call that everything else makes."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ais.attribution.baselines import BASELINES, PUBLISHED, method_baseline
from ais.attribution.drawing import Drawing, combined
from ais.attribution.explanation import Array, Explanation, Score, check_scale, check_summable
from ais.attribution.forward import ForwardPass, doubled, forward
from ais.attribution.grids import IMAGE_SCALES, Scale, fine_mean, resample, to_unit
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
    baseline: str | None = None,
    scale: Scale = "relative",
    fine: bool = False,
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
        baseline: what an ablated map becomes, for methods that ablate: a key of `ais.BASELINES`; the method's own
            if None, which is ``zero`` for ``ais``, as published.
        scale: of `Explanation.heatmap`: ``relative`` in [-1, 1]; ``points``, what a cell of the network's grid at
            the place is worth; or ``density``, points per pixel, which sum to the total.
        fine: a finer heatmap, on the scale ``relative`` alone: the mean of the one at the network's input size and of
            the one at twice that size, each divided by its largest value. It takes five times as long.
        rating: what people said of this image, on the head's scale.
        alignment: the file that `ais align` wrote, of the head's own backbone.
        backbone: the network to use instead of the one of `ais.BACKBONES` that the head names, such as one built by
            hand, with the head's layer, view, size and D. It computes where it is.
        device: ``auto``, ``cpu`` or ``cuda``; where to load the head's own backbone.
        progress: called between the batches of a slow method with how many passes are done, and of how many; those at
            a larger input than the first count for more. What it raises ends the computation.

    Raises:
        ImageError, HeadError, WeightsError, AISError: with a sentence that says what is wrong.

    Example:
        >>> explanation = explain("photo.jpg")  # doctest: +SKIP
        >>> explanation.score, explanation.heatmap.shape  # doctest: +SKIP
    """
    start = time.perf_counter()
    _check(method, kind, scale)
    baseline = _check_baseline(baseline, method, kind)
    check_scale(scale, fine)
    upright = read_image(image)
    loaded = _load(head, device, backbone)
    rating = _check_rating(rating, kind, loaded)
    map_importance = _check_alignment(alignment, kind)
    passes = [
        forward(upright, member, device, backbone).against(baseline or PUBLISHED) for member in loaded.members
    ]
    pixels = [forward_pass.image[0].numel() for forward_pass in passes]
    costs = pixels + ([4 * own for own in pixels] if fine else [])
    told = [_part(progress, n, costs) for n in range(len(costs))]
    members = [_Member(method, forward_pass, tell) for forward_pass, tell in zip(passes, told, strict=False)]
    finer = []
    if fine:
        finer = [
            _Member(method, doubled(upright, forward_pass), tell)
            for forward_pass, tell in zip(passes, told[len(passes) :], strict=True)
        ]

    def drawn(shown: RatingHead, members: list[_Member], weights: list[float]) -> tuple[_Drawn, Score]:
        passes = [member.forward_pass for member in members]
        scores = _scores(shown, [forward_pass.hidden for forward_pass in passes], passes)
        score = score_of(shown, scores)  # before what is drawn: a head whose scores are of no use says so
        truth = None if rating is None else scores.new_tensor([rating])
        ablations = Ablations(passes, weights, scores.mean(-1), truth, map_importance)
        importances = _importances(method, kind, ablations)
        each = [
            member.draw(weight, own)
            for member, weight, own in zip(members, weights, importances, strict=True)
        ]
        return _combine(method, each, importances, passes), score

    def explanation(shown: RatingHead, chosen: slice, weights: list[float]) -> Explanation:
        passes = [member.forward_pass for member in members[chosen]]
        found, score = drawn(shown, members[chosen], weights)
        typical = shown.typical_score
        if METHODS[method].complete and typical is not None:
            found = _completed(found, score.score - typical)
        variants = _scaled(found)
        if fine:
            finer_variants = _scaled(drawn(shown, finer[chosen], weights)[0])
            variants = {"relative": fine_mean(variants["relative"], finer_variants["relative"])}
        for values in (found.importance, *variants.values()):
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
            baseline=baseline,
            scale=scale,
            target=config.target.name,
            rating_range=(config.target.low, config.target.high),
            level=config.interval.level,
            score=score.score,
            interval=(score.low, score.high),
            percentile=score.percentile,
            typical_score=typical,
            importance=_array(found.importance.mean(0)),
            maps=found.maps,
            slopes=found.slopes,
            grids={name: _array(grids.mean(0)) for name, grids in variants.items()},
            variants={name: _array(grids) for name, grids in variants.items()},
            placement=passes[0].placement,
            seconds=time.perf_counter() - start,
            fine=fine,
            source=str(shown.repository or ""),
            revision=shown.repository.revision if shown.repository else "",
            head_sha256=config.weights_sha256,
            picture=_file_name(image),
        )

    weights = loaded.member_weights
    if loaded.config.parts:
        return replace(
            explanation(loaded, slice(None), weights),
            members=tuple(
                explanation(member.forward_pass.head, slice(n, n + 1), [1.0])
                for n, member in enumerate(members)
            ),
            weights=tuple(weights),
            intercept=loaded.constant,
        )
    return explanation(loaded, slice(None), weights)


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
    return score_of(loaded, _scores(loaded, [forward_pass.hidden for forward_pass in passes], passes))


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


def _scores(head: RatingHead, hidden: Sequence[Tensor], passes: Sequence[ForwardPass]) -> Tensor:
    """The scores of the head's variants from the members' first layers, (1, K)."""
    return head.combine([one.head.readout(layer) for one, layer in zip(passes, hidden, strict=True)])


def _importances(method: str, kind: str, ablations: Ablations) -> list[Tensor]:
    """For each backbone (V, C): what its maps do to the score of all of them together; nothing if they are pruned, and
    no values where the method has its own."""
    members = ablations.members
    if METHODS[method].own_maps:
        return [member.hidden.new_empty(0, 0) for member in members]
    kept = torch.cat([member.head.keep for member in members])
    importance = torch.where(kept, torch.atleast_2d(KINDS[kind].importance(ablations)), 0)
    return list(importance.split([member.head.config.channels for member in members], dim=1))


def _part(progress: Progress | None, index: int, costs: Sequence[int]) -> Progress | None:
    """The progress of all parts by that of one, in passes of the first.

    Args:
        costs: of a pass of each. They take about as many passes each.
    """
    if progress is None:
        return None
    before, own, first = sum(costs[:index]), costs[index], costs[0]
    return lambda done, total: progress(
        round((before * total + own * done) / first), round(sum(costs) * total / first)
    )


class _Member:
    """One backbone's part in the heatmap. What needs no importances is made once, for the stack and its member."""

    def __init__(self, method: str, forward_pass: ForwardPass, progress: Progress | None) -> None:
        self.forward_pass = forward_pass
        self._method = METHODS[method]
        self._last = (progress,) if self._method.slow else ()
        self._made: Drawing | None = None

    def draw(self, weight: float, importance: Tensor) -> Drawing:
        """Its drawing times its weight, which importances hold already."""
        if self._method.uses_importance:
            return self._make(importance)
        if self._made is None:
            self._made = self._make(importance)
        return self._made.times(weight)

    def _make(self, importance: Tensor) -> Drawing:
        drawing: Drawing = self._method.draw(self.forward_pass, importance, *self._last)
        return drawing


@dataclass(frozen=True, eq=False)
class _Drawn:
    """The drawings of all backbones as one; the fields are those of `Drawing`, of all backbones' maps."""

    points: Tensor
    relative: Tensor
    importance: Tensor
    maps: Array
    slopes: Array | None


def _combine(
    method: str, drawings: list[Drawing], importances: list[Tensor], passes: Sequence[ForwardPass]
) -> _Drawn:
    """Several backbones' drawings as one."""
    pairs = list(zip(drawings, importances, strict=True))
    importance = torch.cat(
        [own if made.importance is None else made.importance for made, own in pairs], dim=1
    )
    maps = [
        _array(forward_pass.features.maps[0] if made.maps is None else made.maps)
        for made, forward_pass in zip(drawings, passes, strict=True)
    ]
    points, relative = combined(drawings, METHODS[method].per_cell)
    slopes = [made.slopes for made in drawings if made.slopes is not None]
    if len(drawings) == 1:
        return _Drawn(points, relative, importance, maps[0], _array(slopes[0]) if slopes else None)
    height, width = points.shape[-2:]
    if slopes:  # a cell of another size is worth its share
        shares = [made.points[0].numel() / (height * width) for made in drawings]
        worth = torch.cat([share * own for share, own in zip(shares, slopes, strict=True)])
        return _Drawn(points, relative, importance, _on_grid(maps, (height, width)), _array(worth))
    maps = [np.maximum(own, 0) for own in maps]
    return _Drawn(points, relative, importance, _on_grid(maps, (height, width)), None)


def _on_grid(maps: Sequence[Array], shape: tuple[int, int]) -> Array:
    """All backbones' maps on one grid, so that a place's parts can be told."""
    return np.concatenate([resample(own, shape) for own in maps]).astype(np.float32)


def _completed(drawn: _Drawn, difference: float) -> _Drawn:
    """With what the rounding of float32 has left of the difference between the scores, some 1e-6 points."""
    points = drawn.points.double()
    points = points + (difference - points.mean(0).sum()) / points[0].numel()
    return replace(drawn, points=points, relative=points)


def _scaled(drawn: _Drawn) -> dict[Scale, Tensor]:
    """The variants' grids (V, h, w) on every scale."""
    return {"relative": to_unit(drawn.relative), "points": drawn.points}


def _check(method: str, kind: str, scale: str) -> None:
    check_choice("method", method, METHODS)
    check_choice("kind", kind, KINDS)
    check_choice("scale", scale, IMAGE_SCALES)
    if kind != _SCORE and not METHODS[method].uses_importance:
        drawing = " or ".join(repr(name) for name, one in METHODS.items() if one.uses_importance)
        raise AISError(f"The kind {kind!r} is one of feature maps, which only the method {drawing} draws.")
    if scale == "density":
        check_summable(method)


def _check_baseline(baseline: str | None, method: str, kind: str) -> str:
    """The baseline to ablate to; empty where nothing of this image is ablated.

    Raises:
        AISError: there is no such baseline, or the method or the kind has none.
    """
    if baseline is not None:
        check_choice("baseline", baseline, BASELINES)
    chosen = method_baseline(method, baseline)
    if KINDS[kind].ablates:
        return chosen
    default = method_baseline(method, None)
    if chosen != default:
        raise AISError(
            f"The kind {kind!r} was measured with feature maps ablated to {default}: choose that baseline."
        )
    return ""


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
