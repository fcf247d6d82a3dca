"""The error bound that a history's own movement suggests."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from weightcast.store.comparing import gather
from weightcast.store.errors import NonFiniteError, UsageError
from weightcast.store.history import History
from weightcast.store.rechunking import bands
from weightcast.store.variation import variation

Values = npt.NDArray[Any]

RELATIVE_ERROR = 1e-3
DIGIT = 16  # bits that a pass over the data settles


def default_error(
    history: History,
    rows: npt.NDArray[np.int64],
    relative: float | None = None,
    memory: int = 256 << 20,
) -> float:
    """A fraction of the median over all weights of |w(last) - w(first)|.

    Parameters
    ----------
    history : History
    rows : int64 array
        Rows that count, rising.
    relative : float, optional
        The fraction; 1e-3 by default.
    memory : int
        Bytes to hold at a time, or one chunk where that is more.

    Returns
    -------
    float
        In the weights' own units.

    Raises
    ------
    UsageError
        If the median is 0, or the fraction is not positive.
    NonFiniteError
        If a weight is not finite at one of the two steps.
    """
    relative = RELATIVE_ERROR if relative is None else relative
    if not 0 < relative < 1:
        raise UsageError(f"the relative error must be between 0 and 1: got {relative}")
    advice = "give an absolute bound, with --error"
    if len(rows) < 2 or not history.parameters.size:
        raise UsageError(f"{history.path} has no two steps to tell how weights move: {advice}")
    wide, long = history.weights.chunks
    itemsize = history.weights.dtype.itemsize
    band = wide * max(1, memory // (8 * wide * long * itemsize))
    ends = rows[[0, -1]]

    def moved() -> Iterable[Values]:
        for where, _ in bands((history.parameters.size, 1), (band, 1)):
            first, last = gather(history, "weights", where, ends).T
            with np.errstate(invalid="ignore", over="ignore"):
                yield variation(last, first)

    median = lower_median(moved, history.parameters.size, history.weights.dtype)
    if not np.isfinite(median):
        raise NonFiniteError(
            f"weights of {history.path} are NaN or infinite at step {history.steps[ends[0]]} or "
            f"{history.steps[ends[1]]}: {advice}"
        )
    if not median:
        raise UsageError(
            f"half of the weights of {history.path} did not change at all, which gives no error "
            f"bound: {advice}"
        )
    return relative * median


def lower_median(parts: Callable[[], Iterable[Values]], count: int, dtype: Any) -> float:
    """The exact median of numbers that need not fit in memory; of two middle ones the lower.

    Parameters
    ----------
    parts : callable
        Gives all numbers, a float array at a time; none is negative. Called once for each 16 bits
        of a number.
    count : int
        How many there are.
    dtype : float32 or float64

    Returns
    -------
    float
        NaN counts as larger than any number.

    Examples
    --------
    >>> lower_median(lambda: [np.float32([3, 1]), np.float32([7, 2])], 4, "float32")
    2.0
    """
    kind = np.dtype(dtype)
    bits = np.dtype(f"u{kind.itemsize}")  # of numbers from 0 on, these are in the same order
    found, rank = 0, (count - 1) // 2
    for shift in range(8 * kind.itemsize - DIGIT, -1, -DIGIT):
        counts = np.zeros(1 << DIGIT, np.int64)
        for values in parts():
            keys = values.astype(kind, copy=False).view(bits)
            if shift + DIGIT < 8 * kind.itemsize:
                keys = keys[keys >> np.array(shift + DIGIT, bits) == found]
            digits = (keys >> np.array(shift, bits)) & np.array((1 << DIGIT) - 1, bits)
            counts += np.bincount(digits.astype(np.int64), minlength=1 << DIGIT)
        below = np.cumsum(counts)
        digit = int(np.searchsorted(below, rank, side="right"))
        rank -= int(below[digit] - counts[digit])
        found = found << DIGIT | digit
    return float(np.array(found, bits).view(kind))
