"""What is compared: heatmaps by their names, such as ``ais:typical+fine``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ais.attribution.baselines import method_baseline
from ais.attribution.drawing import combined
from ais.attribution.methods import METHODS
from ais.errors import AISError, check_choice

if TYPE_CHECKING:  # the names are read without PyTorch
    from torch import Tensor

    from ais.attribution.faithfulness.member_passes import MemberPasses
    from ais.attribution.forward import ForwardPass

RANDOM = "random"

FINE = "+fine"

COMPARED = ("contribution", "ais", "ais:typical", "gradcam", RANDOM)


@dataclass(frozen=True)
class Compared:
    """A way to make a heatmap.

    Attributes:
        method: a key of `METHODS`; or `RANDOM`, for places drawn by chance.
        baseline: a key of `ais.attribution.baselines.BASELINES`; empty where the method has none.
        fine: the mean of the heatmap at the network's input size and the one at twice that size.
        name: as it was given.
    """

    method: str
    baseline: str
    fine: bool
    name: str

    @property
    def random(self) -> bool:
        return self.method == RANDOM

    @property
    def slow(self) -> bool:
        return not self.random and METHODS[self.method].slow

    def draw(self, members: MemberPasses) -> Tensor:
        """The heatmap by each of V variants, (V, h, w), up to a factor; the heatmap itself is their mean."""
        from ais.attribution.grids import fine_mean

        coarse = self._drawn(members.passes, members.weights)
        return fine_mean(coarse, self._drawn(members.doubled, members.weights)) if self.fine else coarse

    def _drawn(self, passes: Sequence[ForwardPass], weights: Sequence[float]) -> Tensor:
        """(V, h, w), the largest value of its mean 1; of several members, added in points."""
        import torch

        from ais.attribution.grids import to_unit

        method = METHODS[self.method]
        made = []
        for forward_pass, weight in zip(passes, weights, strict=True):
            own = forward_pass.against(self.baseline) if self.baseline else forward_pass
            importance = own.hidden.new_empty(0, 0)
            if method.uses_importance:
                importance = torch.where(own.head.keep, own.prediction, 0)
            last = (None,) if method.slow else ()
            made.append(method.draw(own, importance, *last).times(weight))
        return to_unit(combined(made, method.per_cell)[1])


def compared(names: Sequence[str]) -> tuple[Compared, ...]:
    """What these names mean: ``METHOD``, ``METHOD:BASELINE``, each also with ``+fine``; or ``random``.

    Raises:
        AISError: there is no such method or baseline, or one is named twice.
    """
    found = [_parsed(name) for name in names]
    for n, one in enumerate(found):
        for other in found[:n]:
            if (one.method, one.baseline, one.fine) == (other.method, other.baseline, other.fine):
                raise AISError(f"{other.name!r} and {one.name!r} are the same heatmap: name it once.")
    return tuple(found)


def _parsed(name: str) -> Compared:
    fine = name.endswith(FINE)
    method, colon, baseline = name.removesuffix(FINE).partition(":")
    check_choice("method", method, [*METHODS, RANDOM])
    if method == RANDOM:
        if colon or fine:
            raise AISError(f"Places drawn by chance have no baseline and no fine heatmap: write {RANDOM!r}.")
        return Compared(method, "", False, name)
    return Compared(method, method_baseline(method, baseline if colon else None), fine, name)
