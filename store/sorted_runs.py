"""Exact statistics of values that lie in sorted runs.

A run is a sorted array of at most a million values, on disk. Any number of runs is one sample::

    how many are at most x?       a binary search in each run, added up
    which value has rank r?       bisect x over its bits until the count is right

so that nothing is ever merged, and the values of a tensor, of a kind and of the whole model are
sorted once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from weightcast.store.radix import from_ordered_bits, ordered_bits
from weightcast.store.spread import Spread

Float = npt.NDArray[np.floating[Any]]
Int = npt.NDArray[np.int64]

BINS = 100
_FRACTIONS = np.linspace(0.0, 1.0, BINS + 1)


def at_most(runs: Sequence[Float], values: npt.NDArray[Any]) -> Int:
    """How many numbers of sorted runs are at most each value.

    Parameters
    ----------
    runs : sequence of float arrays
        Each rising.
    values : float array, shape (n,)
        Of any float dtype: compared exactly.

    Returns
    -------
    int64 array, shape (n,)

    Examples
    --------
    >>> at_most([np.float32([1, 2, 2]), np.float32([0, 3])], np.float64([0, 2, 9]))
    array([1, 4, 5])
    """
    count = np.zeros(len(values), np.int64)
    for run in runs:
        count += np.searchsorted(run, _rounded_down(values, run.dtype), side="right")
    return count


def select(runs: Sequence[Float], ranks: Int) -> Float:
    """Numbers of given ranks among sorted runs.

    Parameters
    ----------
    runs : sequence of float arrays
        Each rising, none empty.
    ranks : int64 array, shape (n,)
        From 0 for the smallest.

    Returns
    -------
    float array, shape (n,)

    Examples
    --------
    >>> select([np.float32([1, 4]), np.float32([0, 3, 9])], np.array([0, 2, 4])).tolist()
    [0.0, 3.0, 9.0]
    """
    if len(runs) == 1:
        return runs[0][ranks]
    low = np.repeat(ordered_bits(np.array([min(run[0] for run in runs)])), len(ranks))
    high = np.repeat(ordered_bits(np.array([max(run[-1] for run in runs)])), len(ranks))
    while (low < high).any():
        middle = low + (high - low) // 2
        enough = at_most(runs, from_ordered_bits(middle)) > ranks
        low, high = np.where(enough, low, middle + 1), np.where(enough, middle, high)
    return from_ordered_bits(low)


def spread(
    runs: Sequence[Float],
    quantiles: tuple[float, ...],
    still: float,
    *,
    total: float | None = None,
) -> Spread | None:
    """Describe numbers that lie in sorted runs.

    Parameters
    ----------
    runs : sequence of float arrays
        Each rising, of numbers from 0 on.
    quantiles : tuple of float
    still : float
    total : float, optional
        Their sum, where it is known.

    Returns
    -------
    Spread or None
        None if there are no numbers.
    """
    runs = [run for run in runs if len(run)]
    if not runs:
        return None
    count = sum(map(len, runs))
    # As NumPy counts; n q is not always what it would be without rounding.
    ranks = np.ceil(count * np.array(quantiles, np.float64) - 1).clip(0).astype(np.int64)
    largest = float(max(run[-1] for run in runs))
    below = at_most(runs, np.append([0.0, still * largest], bin_edges(largest)[1:]))
    if total is None:
        total = math.fsum(float(run.sum(dtype=np.float64)) for run in runs)
    return Spread(
        quantiles=tuple(select(runs, ranks).tolist()),
        mean=total / count,
        largest=largest,
        still=int(below[1]) / count,
        unmoved=int(below[0]) / count,
        histogram=tuple(np.diff(below[2:], prepend=0).tolist()),
    )


def bin_edges(largest: float) -> npt.NDArray[np.float64]:
    """Edges of the histogram of numbers from 0 to `largest`, shape (101,)."""
    return _FRACTIONS * largest


def largest_first(values: Float, count: int) -> Int:
    """Indices of the largest numbers, the largest first; of equal ones the first.

    Parameters
    ----------
    values : float array, shape (n,)
        NaN is left out.
    count : int

    Returns
    -------
    int64 array, shape (at most count,)

    Examples
    --------
    >>> largest_first(np.float32([1, 5, np.nan, 5, 3]), 3)
    array([1, 3, 4])
    """
    numbers = np.flatnonzero(~np.isnan(values))[: None if count else 0]
    if 0 < count < len(numbers):
        least = np.partition(values[numbers], len(numbers) - count)[len(numbers) - count]
        numbers = numbers[values[numbers] >= least]
    order = np.argsort(-values[numbers], kind="stable")
    return numbers[order[:count]]


def _rounded_down(values: npt.NDArray[Any], dtype: np.dtype[Any]) -> Float:
    """The largest numbers of a dtype that are at most these."""
    with np.errstate(over="ignore"):
        near = values.astype(dtype)
        down = np.where(near > values, np.nextafter(near, dtype.type(-math.inf)), near)
    return cast("Float", down)
