"""Numbers that are shown as a sum, rounded such that they add up."""

from __future__ import annotations

import math
from collections.abc import Sequence


def rounded(parts: Sequence[float], total: int) -> list[int]:
    """Parts of a sum in hundredths, rounded such that they add up to the total in hundredths."""
    cents = [math.floor(part * 100) for part in parts]
    remainders = sorted(range(len(parts)), key=lambda i: cents[i] - parts[i] * 100)
    for i in remainders[: total - sum(cents)]:  # those that lost most by rounding down
        cents[i] += 1
    return cents
