r"""The ring files of one recording: one, or one for each rank of a model that ranks share.

::

    rank 0's ring   | w[0:5] | b[0:2] |   \
    rank 1's ring   | w[5:9] |            -->   w[0:9] | b[0:2]     a row of the history

A row is there once every rank has written its part of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from weightcast.store.errors import FormatError
from weightcast.store.parameters import ParameterTable
from weightcast.store.ring import Ring
from weightcast.store.ringplan import Shard


class Ranks:
    """Rings of the ranks of one recording, as if they were one.

    Parameters
    ----------
    rings : sequence of Ring
        Rank 0's first: it alone holds buffers, times and metrics.
    width : int
        Numbers in a whole row, P.
    """

    def __init__(self, rings: Sequence[Ring], width: int) -> None:
        self.rings, self._width = rings, width
        self.first = rings[0]

    @property
    def waiting(self) -> int:
        """Whole rows that are not drained yet."""
        return min(ring.written - ring.drained for ring in self.rings)

    @property
    def room(self) -> int:
        """Rows that can be taken at once: up to a block, and none goes round its ring's end."""
        return min(
            min(ring.plan.block, ring.plan.slots - ring.drained % ring.plan.slots)
            for ring in self.rings
        )

    @property
    def complete(self) -> bool:
        """Whether no further row can become whole, once rank 0 writes no more."""
        return all(r.ended or r.written >= self.first.written for r in self.rings[1:])

    def steps(self, count: int) -> npt.NDArray[np.int64]:
        """Steps of the next rows.

        Raises
        ------
        FormatError
            If the ranks recorded different steps.
        """
        steps = [ring.steps[_slots(ring, count)] for ring in self.rings]
        if any(not np.array_equal(steps[0], other) for other in steps[1:]):
            raise FormatError(
                f"the ranks must record the same steps: after {int(steps[0][0])} they differ, in "
                f"{self.first.path} and its like"
            )
        return steps[0]

    def times(self, count: int) -> npt.NDArray[np.float64]:
        """Times of the next rows."""
        return self.first.times[_slots(self.first, count)]

    def rows(self, array: str, count: int) -> npt.NDArray[Any]:
        """The next rows of an array, shape (count, width): a view, if one rank holds it all."""
        whole = self.first.rows(array, self.first.drained, count)
        if self.first.plan.shards is None or array == "buffers":
            return whole
        rows = np.full((count, self._width), np.nan, whole.dtype)
        for ring in self.rings:
            _place(rows, ring.rows(array, ring.drained, count), ring.plan.shards or ())
        return rows

    def advance(self, count: int) -> None:
        """Free the slots of rows that are committed."""
        for ring in self.rings:
            ring.drained += count


def require_parts(rings: Sequence[Ring], parameters: ParameterTable) -> None:
    """Refuse rings whose parts are not those of one model, or lie upon each other.

    Raises
    ------
    FormatError
    """
    arrays = rings[0].plan.widths.keys() - {"buffers"}
    places = {(p.offset, p.shape) for p in parameters}
    taken: dict[tuple[int, tuple[int, ...]], list[Shard]] = {}
    for ring in rings:
        widths, shards = ring.plan.widths, ring.plan.shards or ()
        counts = {width for array, (width, _) in widths.items() if array != "buffers"}
        fitting = widths.keys() - {"buffers"} == arrays and counts == {sum(s.count for s in shards)}
        for shard in shards:
            others = taken.setdefault((shard.offset, shard.shape), [])
            fitting &= (shard.offset, shard.shape) in places
            fitting &= not shard.shape or not any(_overlap(shard, other) for other in others)
            others.append(shard)
        if not fitting:
            raise FormatError(f"{ring.path} is damaged, or of another model: its parts do not fit")


def _overlap(a: Shard, b: Shard) -> bool:
    return all(
        max(start, other) < min(start + n, other + m)
        for start, n, other, m in zip(a.start, a.size, b.start, b.size, strict=True)
    )


def _slots(ring: Ring, count: int) -> slice:
    first = ring.drained % ring.plan.slots
    return slice(first, first + count)


def _place(whole: npt.NDArray[Any], parts: npt.NDArray[Any], shards: Sequence[Shard]) -> None:
    """Put the shards of a rank's rows in their places in whole rows."""
    count, position = len(whole), 0
    for shard in shards:
        part = parts[:, position : position + shard.count].reshape(count, *shard.size)
        parameter = whole[:, shard.offset : shard.stop].reshape(count, *shard.shape)  # a view
        box = tuple(slice(s, s + n) for s, n in zip(shard.start, shard.size, strict=True))
        parameter[(slice(None), *box)] = part
        position += shard.count
