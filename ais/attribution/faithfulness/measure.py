"""`faithfulness`: how good several kinds of heatmaps are, on the same pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ais.attribution.faithfulness.compared import COMPARED, Compared, compared
from ais.attribution.faithfulness.deletion import STEPS, changes, step_scores
from ais.attribution.faithfulness.hiding import HIDINGS
from ais.attribution.faithfulness.measures import (
    agreed,
    correlation,
    disturbed,
    one_sided,
    randomised,
    rank_similarity,
)
from ais.attribution.faithfulness.member_passes import Cost, MemberPasses, counted, member_passes
from ais.attribution.faithfulness.summary import Measured, summary
from ais.backbones.frozen import FrozenBackbone
from ais.errors import AISError, DataError, check_choice
from ais.heads.regression import RatingHead
from ais.images.reading import Source, read_image
from ais.progress import Progress
from ais.torch_state import own_state

_RANDOMISED = 2  # heads, for the sanity check

_CHECKED = 20  # pictures on which slow methods are drawn again, disturbed and for other heads


@dataclass(frozen=True)
class Comparison:
    """What is measured.

    Attributes:
        methods: names as `compared` reads them; all others are compared with the first.
        hide: keys of `HIDINGS`.
        steps: in how many steps places are hidden and shown; all that they cost is time.
        seed: of the places drawn by chance and the randomised heads.
    """

    methods: Sequence[str] = COMPARED
    hide: Sequence[str] = ("blur",)
    steps: int = STEPS
    seed: int = 0


@own_state()
def faithfulness(
    images: Sequence[Source],
    heads: Sequence[RatingHead],
    backbones: Sequence[FrozenBackbone],
    comparison: Comparison = Comparison(),
    *,
    groups: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """How good heatmaps are, each image explained by a head of its own.

    Args:
        images: N of whatever `ais.images.reading.read_image` reads; at least two.
        heads: N, such as of the folds in which the images were held out, or the same for all.
        backbones: of the heads' members.
        groups: N names; images that share theirs are resampled together. None: each is a group of its own.
        progress: called with (done, total) after every image.

    Returns:
        Ready for JSON: `summary`.

    Raises:
        ImageError: an image cannot be read.
        DataError: fewer than two images, or groups.
        HeadError, AISError: a head or a backbone is none for a method; there is no such method or way of hiding.
    """
    ways = compared(comparison.methods)
    for hide in comparison.hide:
        check_choice("way of hiding", hide, HIDINGS)
    if len(images) < 2:
        raise DataError("Heatmaps are compared on at least two pictures: give more pictures.")
    generator = torch.Generator().manual_seed(comparison.seed)
    others: dict[int, list[RatingHead]] = {}
    for head in heads:
        if id(head) not in others:
            others[id(head)] = [randomised(head, generator) for _ in range(_RANDOMISED)]
    checked = set(np.linspace(0, len(images) - 1, min(len(images), _CHECKED)).round().astype(int).tolist())
    measured = Measured.empty(len(ways), len(comparison.hide), len(images))
    for n, (source, head) in enumerate(zip(images, heads, strict=True)):
        subject = _Subject(read_image(source), head, backbones, others[id(head)])
        maps = [
            torch.rand(subject.shape, generator=generator)[None] if way.random else subject.draw(way)
            for way in ways
        ]
        for m, (way, variants) in enumerate(zip(ways, maps, strict=True)):
            if not way.random:
                head.finite(variants, "heatmap")
                measured.note(m, n, subject.judge(way, variants, fully=not way.slow or n in checked))
        grids = [variants.mean(0) for variants in maps]
        for h, hide in enumerate(comparison.hide):
            measured.changes[h, :, n] = subject.changes(grids, hide, comparison.steps)
        if progress:
            progress(n + 1, len(images))
    return summary(measured, ways, comparison.hide, groups) | {
        "steps": comparison.steps,
        "seed": comparison.seed,
    }


@own_state()
def undrawable(
    names: Sequence[str], image: Source, head: RatingHead, backbones: Sequence[FrozenBackbone]
) -> dict[str, str]:
    """Which of the heatmaps this head cannot have, and why, in a sentence; found by drawing all but the slow ones.

    Raises:
        ImageError, HeadError: the image cannot be read; the head does not fit its backbones.
        AISError: as `compared`.
    """
    members, found = member_passes(read_image(image), head, backbones), {}
    for way in compared(names):
        try:
            if not (way.random or way.slow):
                way.draw(members)
        except AISError as error:
            found[way.name] = str(error)
    return found


class _Subject:
    """An image, its head, and what is worked out for several methods once."""

    def __init__(
        self,
        image: Image.Image,
        head: RatingHead,
        backbones: Sequence[FrozenBackbone],
        others: Sequence[RatingHead],
    ) -> None:
        self._head, self._backbones, self._others = head, backbones, others
        self._image = image
        with counted(backbones, [1] * len(backbones)) as cost:
            self._members = member_passes(image, head, backbones)
        self._unit = [forward_pass.image.shape[-2:].numel() for forward_pass in self._members.passes]
        self._pass = Cost(float(len(backbones)), 0.0, cost.seconds)
        self._double: Cost | None = None
        self._disturbed: list[MemberPasses] | None = None
        self._own: dict[str, Cost] = {}

    @property
    def shape(self) -> tuple[int, int]:
        """Of the finest grid."""
        height, width = max(
            (forward_pass.features.maps.shape[-2:] for forward_pass in self._members.passes), key=np.prod
        )
        return height, width

    def draw(self, way: Compared) -> Tensor:
        """(V, h, w). What it takes is noted, with the passes that others share."""
        if way.fine and self._double is None:
            with counted(self._backbones, self._unit) as self._double:
                _ = self._members.doubled
        with counted(self._backbones, self._unit) as own:
            variants = way.draw(self._members)
        self._own[way.name] = self._pass + own + (self._double if way.fine and self._double else Cost())
        return variants

    def judge(self, way: Compared, variants: Tensor, *, fully: bool) -> dict[str, float | None]:
        """The measures and costs of a heatmap by their names; those for which it is drawn again only if `fully`."""
        grid = variants.mean(0)
        cost = self._own[way.name]
        found: dict[str, float | None] = {
            "one_sided": float(one_sided(grid)),
            "agreement": agreed(variants),
            "passes": cost.passes,
            "backward": cost.backward,
            "seconds": cost.seconds,
        }
        if fully:
            if self._disturbed is None:
                self._disturbed = [
                    member_passes(one, self._head, self._backbones) for one in disturbed(self._image)
                ]
            again = [correlation(grid, way.draw(members).mean(0)) for members in self._disturbed]
            blind = [way.draw(self._members.by(other)).mean(0) for other in self._others]
            found["stability"] = float(np.mean(again))
            found["sanity"] = float(np.mean([rank_similarity(grid, one) for one in blind]))
            found["sanity_chance"] = float(np.mean([rank_similarity(*two) for two in combinations(blind, 2)]))
        return found

    def changes(self, grids: Sequence[Tensor], hide: str, steps: int) -> np.ndarray:
        """Deletion and insertion by each grid, (M, 2): of the score of all members together."""
        total = np.zeros((len(grids), 2))
        for forward_pass, weight in zip(self._members.passes, self._members.weights, strict=True):
            scores = step_scores(
                forward_pass.backbone, forward_pass.head, forward_pass.image, grids, hide, steps
            )
            total += weight * changes(scores).numpy()
        return total
