"""The errors that are the user's business: each one's text is a sentence to show as it is."""

from __future__ import annotations

from typing import Any


class AISError(ValueError):
    """Something the user can put right: `str(error)` is a sentence of what is wrong and what to do."""


class UnwritableError(AISError):
    """A place that cannot be written: no permission, no room, a disk that is read-only."""


class ImageError(AISError):
    """A picture that cannot be read, or a place in it that cannot be explained."""


class WeightsError(AISError):
    """Pretrained weights of a backbone that are missing, damaged or not the ones expected."""


class HeadError(AISError):
    """A head that is unknown, incomplete, or does not fit its backbone or the request."""


class DataError(AISError):
    """A data set that is missing, malformed, or too small for what is asked of it."""


class HubError(AISError):
    """The Hugging Face Hub cannot be reached, or has not what was asked of it."""


def out_of_memory(error: BaseException) -> bool:
    """Whether the computer's memory or the GPU's ran out, which torch says by a `RuntimeError`."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and any(words in str(error) for words in ("allocate memory", "out of memory", "not enough memory"))
    )


NO_MEMORY = "There is not enough memory for this picture: make it smaller."

_LISTED = 200  # problems named in one message


def listing(what: str, problems: list[str]) -> str:
    """One message of many problems, of which the first few are named."""
    more = len(problems) - _LISTED
    lines = problems[:_LISTED] + ([f"and {more} more"] if more > 0 else [])
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return "\n  ".join([f"{what}, {count}:", *lines])


def check_choice(what: str, value: str, allowed: Any) -> None:
    """Refuse what is no key of a registry, and name the keys.

    Raises:
        AISError: `value` is none of `allowed`.
    """
    if value not in allowed:
        raise AISError(f"There is no {what} {value!r}. Choose one of: {', '.join(allowed)}.")
