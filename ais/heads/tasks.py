"""The registry of tasks: what heads are for, and which classes hold their configs and tensors.

To add a task, add an entry to `TASKS`. Its config extends `ais.heads.config.BackboneConfig`, its class
`ais.heads.base.Head`; their tensors are what `Config.shapes` says. Reading, saving, listing and publishing follow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ais.heads.config import Config, HeadConfig, StackConfig


class HeadKind(NamedTuple):
    """The classes of a kind of head.

    Attributes:
        config: of its config.
        head: of itself, as ``module:Class``, so that a list of heads does not wait for PyTorch.
    """

    config: type[Config]
    head: str


@dataclass(frozen=True)
class Task:
    """What heads are for.

    Attributes:
        label: its name for people.
        about: what such a head does, in a sentence.
        single: the classes of a head on one backbone.
        stack: those of several heads together; None if the task has no such heads.
        tags: for the Hub's search; the first is the Hub's word for the task.
    """

    label: str
    about: str
    single: HeadKind
    stack: HeadKind | None = None
    tags: tuple[str, ...] = ("image-feature-extraction",)


TASKS: dict[str, Task] = {
    "rating": Task(
        label="Rating",
        about="Predicts the mean rating that people would give a picture, such as of its beauty.",
        single=HeadKind(HeadConfig, "ais.heads.regression:RegressionHead"),
        stack=HeadKind(StackConfig, "ais.heads.stack:StackedHead"),
        tags=("image-regression", "aesthetics"),
    ),
}
