"""Where the data lie that tests read, if they are there."""

from __future__ import annotations

from pathlib import Path

OASIS = Path(__file__).parents[3] / "shared" / "data" / "oasis"
