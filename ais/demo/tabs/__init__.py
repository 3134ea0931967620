"""The tabs of the page. To add one, write a module here that lays it out, and give it an entry in `TABS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import gradio as gr

from ais.demo.tabs import score, similarity


@dataclass(frozen=True)
class Tab:
    """A tab of the page.

    Attributes:
        label: on its button.
        about: the sentence at the top of the page while it is open.
        build: lays it out, inside a column of its own, and connects its events. It is given the visitor's `Session`.
    """

    label: str
    about: str
    build: Callable[[gr.State], None]


# By their names in the page's address, ?tab=NAME. The first is open where the address names none.
TABS: dict[str, Tab] = {
    "score": Tab(
        "Score",
        "The score people would give a picture, and where in it that score comes from.",
        score.build,
    ),
    "similarity": Tab(
        "Similarity",
        "What makes pictures alike to people, and where in them it lies.",
        similarity.build,
    ),
}
