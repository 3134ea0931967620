"""Where the data lie that tests read, if they are there."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"  # not part of the project; what needs it is skipped without it
OASIS = SHARED / "oasis"
SIMILARITY92 = SHARED / "similarity92"
