"""Whole numbers along time as what each change leaves over of a prediction, and back.

Integers wrap around on both ways alike, so that nothing is ever too large.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Int = npt.NDArray[np.int32]


def left_over(q: Int) -> tuple[int, npt.NDArray[np.unsignedinteger[Any]]]:
    """Changes along time less what the change before predicts: shape (p, n - 1).

    128 is added, so that small numbers of either sign have zeros in all bytes but the lowest.
    """
    tap = _tap(np.diff(q[:: max(1, len(q) // 1024)]))
    left = np.empty((len(q), q.shape[1] - 1), np.int32)
    for _, part in row_blocks(len(q)):
        change = np.diff(q[part], prepend=q[part, :1])  # the first is 0
        left[part] = change[:, 1:]
        if tap:
            left[part] -= _predicted(change[:, :-1], tap)
    most = max(int(left.max(initial=0)), -int(left.min(initial=0)) - 1)
    size = 1 if most < 2**7 else 2 if most < 2**15 else 4
    left += 128
    return tap, left.astype(f"u{size}")


def _tap(change: Int) -> int:
    """How much of a change goes on into the next one, in 64ths: least squares."""
    before, after = change[:, :-1].astype(np.float64), change[:, 1:].astype(np.float64)
    square = float(np.vdot(before, before))
    return round(64 * min(1.0, max(-1.0, float(np.vdot(before, after)) / square))) if square else 0


def _predicted(change: Int, tap: int) -> Int:
    return (change * np.int32(tap) + np.int32(32)) >> 6


def retraced(first: Int, left: npt.NDArray[Any], tap: int) -> Iterator[Int]:
    """Columns of what `left_over` came from, each of shape (p,), from the first on."""
    signed = np.empty((left.shape[1], left.shape[0]), f"i{left.dtype.itemsize}")
    for at in range(0, len(signed), 8):  # as in `parameter_major`
        signed[at : at + 8] = left[:, at : at + 8].T
    signed.view(left.dtype)[...] -= 128
    q, change = first, np.zeros_like(first)
    yield q
    for over in signed:
        change = over + _predicted(change, tap)
        q = q + change
        yield q


def row_blocks(rows: int) -> list[tuple[int, slice]]:
    """Some rows at a time: intermediate results then stay in the cache."""
    return [(at, slice(at, min(at + 512, rows))) for at in range(0, rows, 512)]
