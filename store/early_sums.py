"""What one pass over a history adds up, for each of some of its rows.

::

    block of weights:  w(0) w(T)  and  w(r-1) w(r) for every row r, a chunk of steps at a time
    tile of a block :  sums in float64, of the same weights whatever the chunks are

Held: one decoded chunk, and a few arrays of a tile and of the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from weightcast.store.decoding import ChunkReader
from weightcast.store.history import History
from weightcast.store.parameters import Parameter

TILE = 1024  # weights that are added together
GRADIENTS = "gradients"

Float = npt.NDArray[np.floating[Any]]
Sums = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Plan:
    """Which weights and rows to add up.

    Attributes
    ----------
    history : History
    parameters : tuple of Parameter
        The chosen tensors, in order.
    rows : tuple of int
        Rows to measure, increasing, the first of them 0.
    moved : float
        A weight has moved if by more than this times its own magnitude at the first row.
    """

    history: History
    parameters: tuple[Parameter, ...]
    rows: tuple[int, ...]
    moved: float

    @property
    def weights(self) -> int:
        """How many weights are chosen."""
        return sum(p.size for p in self.parameters)

    def blocks(self) -> list[tuple[int, int]]:
        """Ranges of weights to read: chunks, or tiles where chunks are not made of tiles."""
        height = int(self.history.weights.chunks[0])
        height = TILE if height % TILE else height
        total = self.history.parameters.size
        ranges = ((low, min(low + height, total)) for low in range(0, total, height))
        return [r for r in ranges if len(self.chosen(*r))]

    def chosen(self, low: int, high: int) -> npt.NDArray[np.int64]:
        """Chosen weights of a range, counted from its beginning."""
        parts = [
            np.arange(max(p.offset, low), min(p.stop, high)) - low
            for p in self.parameters
            if p.offset < high and p.stop > low
        ]
        return np.concatenate([np.zeros(0, np.int64), *parts])

    def columns(self) -> Iterator[tuple[int, int]]:
        """The rows up to the last one to measure, cut where chunks end."""
        width, stop = int(self.history.weights.chunks[1]), self.rows[-1] + 1
        return ((start, min(start + width, stop)) for start in range(0, stop, width))


@dataclass
class Totals:
    """Sums over the chosen weights.

    Attributes
    ----------
    measured : dict of str to float64 array, shape (rows to measure,)
        Of what `_measures` names.
    path, gradients : float64 array, shape (rows up to the last one,)
        Sum of |w(r) - w(r-1)|, NaN where unknown, and of those |gradient| that were recorded.
    with_gradient : int64 array, shape (rows up to the last one,)
        How many weights those are: a parameter has none in steps that do not train it.
    """

    rows: Sequence[int]
    measured: dict[str, Sums] = field(default_factory=dict)
    path: Sums = field(init=False)
    gradients: Sums = field(init=False)
    with_gradient: npt.NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        count = self.rows[-1] + 1
        self.path, self.gradients = np.zeros(count), np.zeros(count)
        self.with_gradient = np.zeros(count, np.int64)

    def measure(self, at: int, sums: dict[str, float]) -> None:
        """Add sums of some weights at a row to measure."""
        for name, value in sums.items():
            self.measured.setdefault(name, np.zeros(len(self.rows)))[at] += value


def add_up(plan: Plan, progress: Callable[[str, int, int], None] | None = None) -> Totals:
    """Add up all of a plan in one pass.

    Raises
    ------
    FormatError
        If a chunk is damaged.
    """
    totals = Totals(plan.rows)
    wide = plan.history.wide
    reader = ChunkReader(wide["weights"])
    gradients = ChunkReader(wide[GRADIENTS]) if GRADIENTS in wide else None
    blocks = plan.blocks()
    with np.errstate(all="ignore"):  # of weights that are not finite
        for done, (low, high) in enumerate(blocks):
            if progress:
                progress("measure", done, len(blocks))
            _add_block(plan, totals, reader, low, high)
            if gradients:
                _add_gradients(plan, totals, gradients, low, high)
    if progress:
        progress("measure", len(blocks), len(blocks))
    return totals


def _add_block(plan: Plan, totals: Totals, reader: ChunkReader, low: int, high: int) -> None:
    chosen = plan.chosen(low, high)
    last = len(plan.history) - 1
    end = reader.read(low, high, last, last + 1)[chosen, 0].astype(np.float64)
    start = before = np.zeros(0)
    tiles = _tiles(low, chosen)
    for first, stop in plan.columns():
        values = np.ascontiguousarray(reader.read(low, high, first, stop)[chosen].T, np.float64)
        if not first:
            start = before = values[0]
        steps = np.abs(np.diff(values, axis=0, prepend=before[None]))
        before = values[-1].copy()
        for tile in tiles:
            totals.path[first:stop] += _sum(steps[:, tile])
        for at, row in enumerate(plan.rows):
            if first <= row < stop:
                for tile in tiles:
                    now = values[row - first, tile]
                    totals.measure(at, _measures(now, start[tile], end[tile], plan.moved))


def _measures(now: Sums, start: Sums, end: Sums, moved: float) -> dict[str, float]:
    """Sums over some weights at a row: their magnitudes, products, distances, and counts."""
    change, signs = now - start, np.sign(now) * np.sign(start)
    return {
        "magnitude": float(np.abs(now).sum()),
        "now": float(np.square(now).sum()),
        "start": float(np.square(start).sum()),
        "end": float(np.square(end).sum()),
        "from_start": float(np.square(change).sum()),
        "to_end": float(np.square(now - end).sum()),
        "with_start": float((now * start).sum()),
        "with_end": float((now * end).sum()),
        "signs": float(np.count_nonzero(signs < 0)),
        "moved": float(np.count_nonzero(np.abs(change) > moved * np.abs(start))),
        "not_finite": float(np.count_nonzero(~np.isfinite(now))),
    }


def _add_gradients(plan: Plan, totals: Totals, reader: ChunkReader, low: int, high: int) -> None:
    """Add the magnitudes of some weights' gradients at each row; NaN where there was none."""
    chosen = plan.chosen(low, high)
    tiles = _tiles(low, chosen)
    for first, stop in plan.columns():
        values = np.ascontiguousarray(reader.read(low, high, first, stop)[chosen].T, np.float64)
        known = ~np.isnan(values)
        totals.with_gradient[first:stop] += known.sum(axis=1)
        magnitudes = np.where(known, np.abs(values), 0)
        for tile in tiles:
            totals.gradients[first:stop] += _sum(magnitudes[:, tile])


def _tiles(low: int, chosen: npt.NDArray[np.int64]) -> list[slice]:
    """Chosen weights of a block by the tiles of the whole history that they lie in."""
    _, firsts = np.unique((low + chosen) // TILE, return_index=True)
    return [slice(a, b) for a, b in zip(firsts, [*firsts[1:], len(chosen)], strict=True)]


def _sum(values: Sums) -> Sums:
    """Sum of each row, added as a row of its own: the rounding is that of any other shape."""
    return np.array([np.add.reduce(row) for row in values])
