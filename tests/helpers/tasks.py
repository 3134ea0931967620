"""A task that is none of AIS's: an embedding made shorter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from ais.heads.base import Head
from ais.heads.config import BackboneConfig
from ais.heads.tasks import HeadKind, Task


@dataclass(frozen=True, kw_only=True)
class DummyConfig(BackboneConfig):
    length: int

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return super().shapes() | {"projection": (self.length, self.dim)}

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if type(self.length) is not int or not 0 < self.length <= self.dim:
            yield "length should be a positive whole number, dim at most"


class DummyHead(Head):
    projection: Tensor

    def forward(self, embedding: Tensor) -> Tensor:
        return embedding @ self.projection.T


DUMMY = Task(
    "A dummy", "What a dummy is for, in a sentence.", HeadKind(DummyConfig, "helpers.tasks:DummyHead")
)


def dummy_head(name: str = "short") -> DummyHead:
    config = DummyConfig(
        name=name, task="dummy", backbone="tiny12", layer="inner", view="resize",
        size=64, dim=12, channels=12, length=3,
    )  # fmt: skip
    head = DummyHead(config)
    head.projection.copy_(head.projection.new_tensor(range(36)).view(3, 12))
    return head
