"""Sums over the snapshots of a window, kept while training goes on, and what follows from them.

::

    step      t-800   t-775   t-750   ...   t
    snapshot    w_0     w_1     w_2   ...  w_m-1      none of them is kept but the first:
                 |       |       |          |
    sums         +-------+-------+----------+----->   mean, slope and spread of every weight
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from weightcast.store.errors import UsageError

Array = Any  # of NumPy or torch: only what both have is used

STATISTICS = ("mean", "slope", "spread")
BLOCK = 1 << 15  # weights at once: five arrays of them stay in a core's cache
DEVICE_BLOCK = 1 << 22  # elsewhere few launches count more
MOST_SNAPSHOTS = 1 << 16


@dataclass(frozen=True)
class Window:
    """The last `steps` steps, of which every `stride`-th is seen.

    Parameters
    ----------
    steps, stride : int
        `steps` is a multiple of `stride`.

    Raises
    ------
    UsageError
        If it is not, or there are not two snapshots at least.

    Examples
    --------
    >>> Window(800, 25).count
    33
    """

    steps: int
    stride: int

    def __post_init__(self) -> None:
        whole = all(isinstance(n, Integral) for n in (self.steps, self.stride))
        whole = whole and 1 <= self.stride <= self.steps and self.steps % self.stride == 0
        if not whole or self.count > MOST_SNAPSHOTS:
            raise UsageError(
                f"a window is STEPS/STRIDE, a multiple of the stride and up to {MOST_SNAPSHOTS} "
                f"snapshots, such as 800/25: got {self}"
            )

    @property
    def count(self) -> int:
        """Snapshots in it, m: both ends count."""
        return self.steps // self.stride + 1

    def __str__(self) -> str:
        return f"{self.steps}/{self.stride}"


class RunningSums:
    """Mean, slope and spread of every weight over a window, from sums kept as snapshots pass.

    Parameters
    ----------
    window : Window
    first : array, shape (P,)
        Weights at the window's first step, of NumPy or torch; copied. Sums are of differences from
        them, so that float32 is precise enough.
    spread : bool
        Whether the spread will be asked for; it costs one more array.

    Notes
    -----
    With d_i = w_i - w_0 and c_i = i - (m - 1) / 2, for i from 0 to m - 1, the sums are S = sum d_i,
    M = sum c_i d_i and Q = sum d_i^2. The least-squares line through the window rises by M / C a
    snapshot, C = sum c_i^2, and Q - S^2 / m - M^2 / C is what it leaves.

    Examples
    --------
    >>> import numpy as np
    >>> sums = RunningSums(Window(4, 1), np.float32([10, 0]))
    >>> for i in (1, 2, 3, 4):
    ...     sums.add(np.float32([10 + 2 * i, i % 2]))
    >>> sums.mean(), sums.slope()  # the slope is that of the whole window
    (array([14. ,  0.4], dtype=float32), array([8., 0.], dtype=float32))
    >>> sums.spread().round(3)
    array([0.  , 0.49], dtype=float32)
    """

    def __init__(self, window: Window, first: Array, *, spread: bool = True) -> None:
        self.window, self.count = window, 1
        self.first: Array = first + 0  # a copy, in NumPy and in torch
        self.total: Array = first * 0
        self.moment: Array = first * 0
        self.squares: Array | None = first * 0 if spread else None

    def add(self, values: Array) -> None:
        """Take the next snapshot, shape (P,); it is not kept.

        Raises
        ------
        UsageError
            If the window is complete.
        """
        place = self.next_place()
        block = BLOCK if str(self.first.device) == "cpu" else DEVICE_BLOCK
        for low in range(0, len(self.first), block):
            part = slice(low, low + block)
            moved = values[part] - self.first[part]
            self.total[part] += moved
            self.moment[part] += place * moved
            if self.squares is not None:
                self.squares[part] += moved * moved
        self.count += 1

    def after(self, values: Array, part: slice = slice(None)) -> RunningSums:
        """The sums of some weights with one more snapshot; these stay as they are.

        Parameters
        ----------
        values : array, shape (n,)
            The snapshot of these weights.
        part : slice
            Which they are.

        Raises
        ------
        UsageError
            If the window is complete.
        """
        place, found = self.next_place(), copy.copy(self)
        found.first = self.first[part]
        moved = values - found.first
        found.total = self.total[part] + moved
        found.moment = self.moment[part] + place * moved
        if self.squares is not None:
            found.squares = self.squares[part] + moved * moved
        found.count += 1
        return found

    def next_place(self) -> float:
        """Where the next snapshot is, in snapshots from the middle of the window."""
        if self.complete:
            raise UsageError(
                f"a window {self.window} takes {self.window.count} snapshots: got more"
            )
        return self.count - (self.window.count - 1) / 2

    @property
    def complete(self) -> bool:
        """Whether all snapshots have been taken."""
        return self.count == self.window.count

    def mean(self, part: slice = slice(None)) -> Array:
        """Mean of the snapshots, shape (P,): the line's value at the middle of the window."""
        return self.first[part] + self.total[part] * (1 / self.window.count)

    def slope(self, part: slice = slice(None)) -> Array:
        """Rise of the least-squares line over the whole window, in the weights' units."""
        return self.moment[part] * self.rise

    def spread(self, part: slice = slice(None)) -> Array:
        """Root mean square of what the line leaves, in the weights' units.

        Raises
        ------
        UsageError
            If the sums were begun without it.
        """
        if self.squares is None:
            raise UsageError("these running sums were begun without spread=True")
        total, moment = self.total[part], self.moment[part]
        left = self.squares[part] - total**2 / self.window.count - moment**2 / self._of_places
        return (left.clip(min=0) / self.window.count) ** 0.5

    def row(self, statistic: str) -> Row:
        """A statistic as a row that is computed where it is read: no array of P is made."""
        terms = {
            "mean": ((self.first, 1.0), (self.total, 1 / self.window.count)),
            "slope": ((self.moment, self.rise),),
        }
        compute = {n: getattr(self, n) for n in STATISTICS}[statistic]
        return Row(len(self.first), compute, terms.get(statistic, ()))

    @property
    def rise(self) -> float:
        """What the slope is, times the moment."""
        return (self.window.count - 1) / self._of_places

    @property
    def _of_places(self) -> float:
        m = self.window.count
        return m * (m * m - 1) / 12  # sum of c_i^2


class Arriving:
    """Running sums of some weights with one more snapshot, computed where they are read.

    Parameters
    ----------
    sums : RunningSums
        They stay as they are.
    values : array, shape (n,)
        The snapshot.
    part : slice
        Which weights, from a start on.

    Examples
    --------
    >>> import numpy as np
    >>> sums = RunningSums(Window(1, 1), np.float32([10, 0]))
    >>> Arriving(sums, np.float32([5]), slice(1, 2)).row("slope")[:]
    array([5.], dtype=float32)
    """

    def __init__(self, sums: RunningSums, values: Array, part: slice) -> None:
        self.sums, self.values, self.part = sums, values, part
        self.first = sums.first[part]

    def row(self, statistic: str) -> Row:
        """As ``RunningSums.row``; the snapshot is one of the terms, and so nothing is made."""
        sums, part = self.sums, self.part
        share, turn = 1 / sums.window.count, sums.next_place() * sums.rise
        terms = {
            "mean": ((self.first, 1 - share), (self.values, share), (sums.total[part], share)),
            "slope": ((self.first, -turn), (self.values, turn), (sums.moment[part], sums.rise)),
        }

        def compute(within: slice) -> Array:
            low, high, _ = within.indices(len(self.first))
            places = slice(part.start + low, part.start + high)
            return getattr(sums.after(self.values[within], places), statistic)()

        return Row(len(self.first), compute, terms.get(statistic, ()))


@dataclass(frozen=True)
class Row:
    """One number for each of P weights, computed for the slice that is asked for.

    Parameters
    ----------
    size : int
    compute : callable
        From a slice to an array.
    terms : tuple of (array, float)
        Where the numbers are a sum of arrays times factors: these, so that a combination of rows
        can add them up without making the numbers.
    """

    size: int
    compute: Callable[[slice], Array]
    terms: tuple[tuple[Array, float], ...] = ()

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, part: slice) -> Array:
        return self.compute(part)

    def of(self, low: int, high: int) -> Row:
        """The row of the weights from `low` to `high`; nothing is computed yet."""

        def compute(part: slice) -> Array:
            first, last, _ = part.indices(high - low)
            return self.compute(slice(low + first, low + last))

        return Row(high - low, compute, tuple((a[low:high], f) for a, f in self.terms))


def sums_of(window: Window, snapshots: Any, *, spread: bool = True) -> RunningSums:
    """Running sums of a window whose snapshots are all at hand.

    Parameters
    ----------
    window : Window
    snapshots : array, shape (m, P)
        From the earliest on.
    spread : bool
        As for `RunningSums`.

    Examples
    --------
    >>> import numpy as np
    >>> sums_of(Window(2, 1), np.float32([[1], [2], [3]])).slope()
    array([2.], dtype=float32)
    """
    sums: RunningSums = RunningSums(window, snapshots[0], spread=spread)
    for snapshot in snapshots[1:]:
        sums.add(snapshot)
    return sums
