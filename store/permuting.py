"""The first entries of random permutations, many at once.

Fisher and Yates: entry r changes places with a random one of r, r + 1, ..., and is final then. For
a few entries of a long permutation, what has moved is remembered, and not the whole permutation.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Int = npt.NDArray[np.int64]

BLOCK = 1 << 20  # entries of whole permutations that stand in memory at once


def first_entries(picks: Int, length: int) -> Int:
    """First entries of permutations of 0, ..., length - 1.

    Parameters
    ----------
    picks : int64 array, shape (R, n)
        Of n permutations: with which place, from r to length - 1, entry r changes places.
    length : int
        Length of the permutations, at least R.

    Returns
    -------
    int64 array, shape (R, n)
        Distinct along the first axis; uniform among all permutations if the picks are uniform.

    Examples
    --------
    >>> first_entries(np.array([[2], [2], [2]]), 3).ravel().tolist()
    [2, 0, 1]
    """
    count = len(picks)
    if 8 * count * count <= length:
        return _remembered(picks)
    found = np.empty_like(picks)
    width = max(BLOCK // length, 1)
    for low in range(0, picks.shape[1], width):
        part = picks[:, low : low + width]
        found[:, low : low + width] = _whole(part, length)
    return found


def _whole(picks: Int, length: int) -> Int:
    """With whole permutations: R exchanges of columns, and their making."""
    rows = np.arange(picks.shape[1])
    entries = np.tile(np.arange(length), (len(rows), 1))  # [n, length]
    for r, pick in enumerate(picks):
        entries[rows, pick], entries[:, r] = entries[:, r].copy(), entries[rows, pick]
    return entries[:, : len(picks)].T


def _remembered(picks: Int) -> Int:
    """With what has moved: R * R / 2 comparisons, whatever the length."""
    found = np.empty_like(picks)
    moved = np.empty_like(picks)  # what entry r put in the place that it picked
    for r, pick in enumerate(picks):
        here, there = np.full_like(pick, r), pick.copy()
        for place, value in zip(picks[:r], moved[:r], strict=True):
            np.copyto(here, value, where=place == r)
            np.copyto(there, value, where=place == pick)
        found[r], moved[r] = there, here
    return found
