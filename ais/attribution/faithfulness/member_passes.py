"""`MemberPasses`: what the backbones of a head give for an image, from which every method and head on them starts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from PIL import Image
from torch import Tensor, is_grad_enabled, nn

from ais.attribution.forward import ForwardPass, doubled, run
from ais.backbones.frozen import FrozenBackbone
from ais.heads.regression import RatingHead


@dataclass(frozen=True, eq=False)
class MemberPasses:
    """An image as a head's members see it.

    Attributes:
        image: upright, RGB.
        passes: of the members.
        weights: how much each member counts in the score.
    """

    image: Image.Image
    passes: tuple[ForwardPass, ...]
    weights: Sequence[float]

    @cached_property
    def doubled(self) -> tuple[ForwardPass, ...]:
        """At twice the size."""
        return tuple(doubled(self.image, forward_pass) for forward_pass in self.passes)

    def by(self, head: RatingHead) -> MemberPasses:
        """What another head makes of it, on the same backbones and with the same maps kept."""
        other = MemberPasses(self.image, _by(self.passes, head), head.member_weights)
        if "doubled" in vars(self):  # known already
            vars(other)["doubled"] = _by(self.doubled, head)
        return other


def member_passes(image: Image.Image, head: RatingHead, backbones: Sequence[FrozenBackbone]) -> MemberPasses:
    """One pass of the image through each member's backbone.

    Raises:
        HeadError: a member does not fit its backbone.
    """
    passes = tuple(
        run(member, backbone, image) for member, backbone in zip(head.members, backbones, strict=True)
    )
    return MemberPasses(image, passes, head.member_weights)


def _by(passes: Sequence[ForwardPass], head: RatingHead) -> tuple[ForwardPass, ...]:
    return tuple(
        replace(forward_pass, head=member, hidden=member.hidden(forward_pass.features.embedding))
        for forward_pass, member in zip(passes, head.members, strict=True)
    )


@dataclass
class Cost:
    """What a heatmap takes.

    Attributes:
        passes: forward passes, counted by their pixels: one of twice the size is four.
        backward: as many of the passes as were also run backwards.
        seconds: by the clock.
    """

    passes: float = 0.0
    backward: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.passes + other.passes, self.backward + other.backward, self.seconds + other.seconds)


@contextmanager
def counted(backbones: Sequence[FrozenBackbone], unit: Sequence[int]) -> Iterator[Cost]:
    """Count what goes through these backbones meanwhile.

    Args:
        unit: for each, the pixels of the input that counts as one pass; where several share a network, the first's.
    """
    cost, handles = Cost(), []

    def counting(pixels: int) -> Callable[[nn.Module, Any], None]:
        def count(trunk: nn.Module, given: Any) -> None:
            images: Tensor = given[0]
            passes = len(images) * images.shape[-2:].numel() / pixels
            cost.passes += passes
            cost.backward += passes if is_grad_enabled() and images.requires_grad else 0

        return count

    start = time.perf_counter()
    try:
        units: dict[nn.Module, int] = {}
        for backbone, pixels in zip(backbones, unit, strict=True):
            units.setdefault(backbone.trunk, pixels)  # members may share one
        handles += [trunk.register_forward_pre_hook(counting(pixels)) for trunk, pixels in units.items()]
        yield cost
    finally:
        cost.seconds = time.perf_counter() - start
        for handle in handles:
            handle.remove()
