"""Reading image files safely, and what a network sees of an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ais.images.reading import read_image

__all__ = ["read_image"]


def __getattr__(name: str) -> Any:
    """Imported when it is first used: most modules here are needed without NumPy and Pillow."""
    if name == "read_image":
        from ais.images.reading import read_image

        return read_image
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
