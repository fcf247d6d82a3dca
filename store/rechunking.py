"""How an array is rewritten in other chunks: arithmetic only.

::

    source  +--+--+--+--+--+--+     64 steps a chunk     a band is what memory holds at a time:
            |  |  |  |  |  |  |                          whole chunks (or shards) of the target,
    target  +--------+--------+    256 steps a chunk     as many side by side as fit
            |  band  |  band  |
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from weightcast.store.errors import UsageError
from weightcast.store.layout import (
    MOST_FILES_PER_BLOCK,
    PARAMETERS_PER_CHUNK,
    STEPS_PER_CHUNK,
)

Shape = tuple[int, int]
Rows = npt.NDArray[np.int64]

# Measured on N0, Adam and SGD, 1024 steps, all presets: 256 steps a chunk take 5 to 8 % less than
# 64, and 1024 at most 2 % less again, or more, though one step is then read from four times the
# bytes. How many parameters a chunk has makes no difference: as many values as a recorded one.
LONG_CHUNK = 256
MEMORY = 256 << 20
# Times its size that writing a band takes: it, the source's chunks below it, and zarr encoding it.
# Measured; rounding takes more.
COPIES, COPIES_BOUNDED = 5, 10


@dataclass(frozen=True)
class Rewrite:
    """How one array is read and written; shapes are [parameters, steps].

    Parameters
    ----------
    name : str
        Path of the array in the group.
    shape : (int, int)
        Of the copy.
    itemsize : int
        Bytes of a value.
    source_chunk, chunk : (int, int)
        Chunks of the source and of the copy.
    shard : (int, int) or None
        A file of the copy, if it holds more than one chunk.
    band : (int, int)
        What is held in memory at a time: whole files of the copy.
    reads : int
        Chunks of the source to decode; one that two bands share counts twice.
    copies : int
        Times its own size that a band takes in memory while it is written.
    """

    name: str
    shape: Shape
    itemsize: int
    source_chunk: Shape
    chunk: Shape
    shard: Shape | None
    band: Shape
    reads: int
    copies: int

    @property
    def files(self) -> int:
        """Files to write."""
        return _cells(self.shape, self.shard or self.chunk)

    @property
    def bytes(self) -> int:
        """Size of the plain numbers."""
        return math.prod(self.shape) * self.itemsize

    @property
    def memory(self) -> int:
        """Bytes that writing a band takes."""
        held = (min(b, n) for b, n in zip(self.band, self.shape, strict=True))
        return self.copies * math.prod(held) * self.itemsize

    def bands(self) -> Iterator[tuple[slice, slice]]:
        """The bands, as (parameters, steps) of the copy."""
        return bands(self.shape, self.band)


def bands(shape: Shape, band: Shape) -> Iterator[tuple[slice, slice]]:
    """Cut an array into bands, the parameters first.

    Examples
    --------
    >>> [(p.start, p.stop, t.start, t.stop) for p, t in bands((3, 5), (2, 4))]
    [(0, 2, 0, 4), (2, 3, 0, 4), (0, 2, 4, 5), (2, 3, 4, 5)]
    """
    (size, length), (wide, long) = shape, band
    for t, p in product(range(0, length, long), range(0, size, wide)):
        yield slice(p, min(p + wide, size)), slice(t, min(t + long, length))


def _cells(shape: Shape, cell: Shape) -> int:
    return math.prod(-(-n // c) for n, c in zip(shape, cell, strict=True))


def shard_shape(shape: Shape, chunk: Shape, chunks: int) -> Shape | None:
    """Shape of a file of at most so many chunks: the parameters first, then steps.

    A shard as wide as the model leaves one file a block of steps, so that appending rewrites the
    last file only.

    Examples
    --------
    >>> shard_shape((100, 64), (10, 8), 7), shard_shape((100, 64), (10, 8), 25)
    ((70, 8), (100, 16))
    >>> shard_shape((100, 64), (10, 8), 1)
    """
    wide = min(chunks, -(-shape[0] // chunk[0]))
    long = max(1, min(chunks // max(wide, 1), -(-shape[1] // chunk[1])))
    return (wide * chunk[0], long * chunk[1]) if wide * long > 1 else None


@dataclass(frozen=True)
class Options:
    """What the chunks of a copy shall be; None takes the default.

    Parameters
    ----------
    steps_per_chunk, parameters_per_chunk : int or None
        Of 64 to 256 steps as many as there are; and parameters so that a chunk has as many
        values as one of a recording.
    shard : int or None
        Bytes of plain numbers in a file; None keeps every chunk a file of its own.
    memory : int
        Bytes that a band may take.
    """

    steps_per_chunk: int | None = None
    parameters_per_chunk: int | None = None
    shard: int | None = None
    memory: int = MEMORY

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1: got {value}")


def plan_array(
    name: str, source: Any, rows: Rows, options: Options, *, bounded: bool = False
) -> Rewrite:
    """Choose chunks and bands for one array.

    Parameters
    ----------
    name : str
    source : zarr.Array, shape (P, at least T)
        Only its shape, chunks and dtype are looked at.
    rows : int64 array
        Columns of the source to keep, rising.
    options : Options
    bounded : bool
        Whether the copy has an error bound. Then the steps fill the chunks, as nearly as can be: a
        chunk that is not full is stored without loss.

    Raises
    ------
    UsageError
        If one chunk or shard of the copy does not fit in memory.
    """
    shape, itemsize = (int(source.shape[0]), len(rows)), np.dtype(source.dtype).itemsize
    copies = COPIES_BOUNDED if bounded else COPIES
    room = options.memory // (copies * itemsize)  # values
    chunk = _chunk(shape, room, options, bounded)
    shard = None
    if options.shard is not None:
        shard = shard_shape(shape, chunk, max(1, options.shard // (math.prod(chunk) * itemsize)))
    cell = shard or chunk
    values = math.prod(min(c, n) for c, n in zip(cell, shape, strict=True))
    if values > room:
        raise UsageError(
            f"a {'shard' if shard else 'chunk'} of {cell[0]} weights x {cell[1]} steps takes "
            f"{copies * values * itemsize / 1e6:,.0f} MB to write, and --memory allows "
            f"{options.memory / 1e6:,.0f} MB: give more --memory, or a smaller --steps-per-chunk, "
            "--parameters-per-chunk or --shard"
        )
    beside = max(1, room // max(math.prod(cell), 1))
    band = (cell[0] * min(beside, max(1, -(-shape[0] // cell[0]))), cell[1])
    reads = _reads(shape, band, source.chunks, rows)
    return Rewrite(name, shape, itemsize, tuple(source.chunks), chunk, shard, band, reads, copies)


def _chunk(shape: Shape, room: int, options: Options, bounded: bool) -> Shape:
    steps = options.steps_per_chunk or _steps(shape[1], bounded)
    recorded = max(PARAMETERS_PER_CHUNK, -(-shape[0] // MOST_FILES_PER_BLOCK)) * STEPS_PER_CHUNK
    wide = options.parameters_per_chunk or max(1, min(recorded, room) // steps)
    return min(wide, max(shape[0], 1)), steps


def _steps(length: int, bounded: bool) -> int:
    if not bounded:
        return min(LONG_CHUNK, max(length, STEPS_PER_CHUNK))
    if length <= LONG_CHUNK:
        return max(length, 1)
    lengths = range(LONG_CHUNK, LONG_CHUNK // 2 - 1, -1)
    return min(lengths, key=lambda steps: length % steps)


def _reads(shape: Shape, band: Shape, source_chunk: Shape, rows: Rows) -> int:
    wide = source_chunk[0]
    across = sum(
        -(-min(p + band[0], shape[0]) // wide) - p // wide for p in range(0, shape[0], band[0])
    )
    along = sum(
        len(np.unique(rows[t : t + band[1]] // source_chunk[1]))
        for t in range(0, shape[1], band[1])
    )
    return across * along
