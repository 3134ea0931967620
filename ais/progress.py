"""How a long computation says how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]  # how much is done, and of how much; what it raises ends the work

StageProgress = Callable[[str, int, int], None]  # ("pictures", "folds" or "steps", done, total)
