"""Cutting a whole number into parts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction


def apportion(total: int, shares: Sequence[float]) -> list[int]:
    """Whole numbers in the given proportions that sum to `total`, largest remainders rounded up.

    Examples
    --------
    >>> apportion(5, (0.5, 0.25, 0.25))
    [3, 1, 1]
    """
    parts = [Fraction(float(share)) for share in shares]  # so that no rounding is left over
    exact = [part * total / sum(parts) for part in parts]
    counts = [math.floor(x) for x in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: (counts[i] - exact[i], i))
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts
