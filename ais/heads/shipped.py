"""The heads that come with AIS."""

from __future__ import annotations

from pathlib import Path

from ais.heads.config import CONFIG, EMBEDDED


def heads_directory() -> Path:
    """Where the heads that come with AIS lie: in the installed package, or at the top of the repository."""
    installed = Path(__file__).parents[1] / "model_cards"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "model_cards"


def default_head() -> Path:
    """The folder of the default head."""
    return heads_directory() / EMBEDDED


def list_heads() -> list[str]:
    """Names of the heads that come with AIS; the embedded default first."""
    names = [path.parent.name for path in heads_directory().glob(f"*/{CONFIG}")]
    return sorted(names, key=lambda name: (name != EMBEDDED, name))
