"""What a ring file holds, and where: arithmetic only."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from weightcast.store.errors import UsageError
from weightcast.store.layout import STEPS_PER_CHUNK

PAGE = 4096
LINE = 64  # bytes of a cache line; slots and the arrays in them begin on one
MEMORY = 512 << 20  # bytes of a ring, unless the user says otherwise
SMALL = 8 << 20  # bytes of a ring that costs nothing worth saving
MOST_SLOTS = 4 * STEPS_PER_CHUNK
MOST_SMALL_SLOTS = 16 * STEPS_PER_CHUNK
DESCRIPTION = 1 << 20  # bytes at most
ENTRIES = 4096
ENTRY = np.dtype([("step", "<i8"), ("value", "<f8"), ("name", "S104")])
HEAD = 64  # bytes of a slot's step and time, on a line of their own
MOST_RANKS = 1 << 16


@dataclass(frozen=True)
class Shard:
    """The part of one parameter that a rank holds: a box in it.

    Attributes
    ----------
    offset : int
        Where the whole parameter begins in a row of the history.
    shape : tuple of int
        Of the whole parameter.
    start, size : tuple of int
        First index and length of the part, on each axis.
    """

    offset: int
    shape: tuple[int, ...]
    start: tuple[int, ...]
    size: tuple[int, ...]

    @property
    def count(self) -> int:
        """Numbers in the part."""
        return math.prod(self.size)

    @property
    def stop(self) -> int:
        """Where the whole parameter ends in a row of the history."""
        return self.offset + math.prod(self.shape)


@dataclass(frozen=True)
class RingPlan:
    """The layout of a ring file.

    Attributes
    ----------
    widths : dict of str to (int, str)
        Numbers in a row of each array, and their dtype: ``{"weights": (551818, "float32")}``.
    slots : int
        Rows that the ring holds; whole blocks.
    block : int
        Rows that are compressed together: steps in a chunk.
    name : str
        Of this ring, to know its entries again after a crash.
    shards : tuple of Shard, optional
        What of the parameters a row holds, of a model that several ranks share; None for all.
    ranks : int
        Ring files of the recording: this one, and one for each further rank.
    """

    widths: Mapping[str, tuple[int, str]]
    slots: int
    block: int
    name: str
    shards: tuple[Shard, ...] | None = None
    ranks: int = 1

    @property
    def offsets(self) -> dict[str, int]:
        """Where each array begins in a slot, in bytes; under ``""`` where the slot ends."""
        offsets, end = {}, HEAD
        for array, (width, dtype) in self.widths.items():
            offsets[array] = end
            end = _lines(end + width * np.dtype(dtype).itemsize)
        # An odd number of lines: the rows of a block then fall into different cache sets, and
        # the transposition reads them side by side.
        return {**offsets, "": end if end // LINE % 2 else end + LINE}

    @property
    def first_slot(self) -> int:
        """Where the slots begin in the file, in bytes."""
        return _pages(PAGE + DESCRIPTION + ENTRIES * ENTRY.itemsize)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return _pages(self.first_slot + self.slots * self.offsets[""])


def plan_ring(
    widths: Mapping[str, tuple[int, str]],
    memory: int | None,
    chunk: int = STEPS_PER_CHUNK,
    *,
    shards: tuple[Shard, ...] | None = None,
    ranks: int = 1,
) -> RingPlan:
    """Plan a ring that stays within a number of bytes.

    Parameters
    ----------
    widths : dict of str to (int, str)
        As in `RingPlan`.
    memory : int or None
        Bytes of the slots. None takes 512 MB, or three rows where those are larger.
    chunk : int
        Steps in a chunk, at most.
    shards, ranks
        As in `RingPlan`.

    Raises
    ------
    UsageError
        If `memory` does not hold two rows.

    Examples
    --------
    >>> plan = plan_ring({"weights": (551_818, "float32")}, 512 << 20)
    >>> plan.slots, plan.block, plan.size >> 20
    (192, 64, 405)
    >>> plan_ring({"weights": (100_000_000, "float32")}, 2 << 30).block
    2
    """
    row = RingPlan(widths, 1, 1, "").offsets[""]
    budget = max(MEMORY, 3 * row) if memory is None else memory
    fitting = budget // row
    if fitting < 2:
        raise UsageError(
            f"memory must hold two snapshots, {2 * row:,} bytes for this model: got {budget:,}; "
            f"give --memory {-(-2 * row >> 20)} (MB)"
        )
    slots = min(fitting, max(MOST_SLOTS, min(SMALL // row, MOST_SMALL_SLOTS)))
    block = min(chunk, STEPS_PER_CHUNK, slots // 2)
    name = secrets.token_hex(8)
    return RingPlan(dict(widths), slots // block * block, block, name, shards, ranks)


def read_plan(text: bytes, size: int) -> RingPlan:
    """The plan in a ring file's description, which may be anything.

    Raises
    ------
    ValueError, TypeError, LookupError, AttributeError, RecursionError
        If it is no plan, or not that of a file of `size` bytes.
    """
    document = json.loads(text)
    shards = document.get("shards")
    plan = RingPlan(
        {str(name): (width, dtype) for name, (width, dtype) in document["widths"].items()},
        document["slots"],
        document["block"],
        str(document["name"]),
        None if shards is None else tuple(_shard(**shard) for shard in shards),
        document.get("ranks", 1),
    )
    widths = [width for width, _ in plan.widths.values()]
    counts = [plan.slots, plan.block, plan.ranks, *(width + 1 for width in widths)]
    if not all(type(count) is int and count > 0 for count in counts):
        raise ValueError("its counts are not positive")
    if plan.ranks > MOST_RANKS:
        raise ValueError(f"it has {plan.ranks} ranks")
    if not {dtype for _, dtype in plan.widths.values()} <= {"float32", "float64"}:
        raise ValueError("its dtypes are not float32 or float64")
    if plan.slots % plan.block or plan.size != size:
        raise ValueError(f"it has {size} bytes, its description gives {plan.size}")
    return plan


def _shard(offset: int, shape: list[int], start: list[int], size: list[int]) -> Shard:
    boxes = zip(shape, start, size, strict=True)
    if offset < 0 or not all(0 <= first <= first + n <= whole for whole, first, n in boxes):
        raise ValueError("a shard lies outside of its parameter")
    return Shard(offset, tuple(shape), tuple(start), tuple(size))


def _lines(size: int) -> int:
    return -(-size // LINE) * LINE


def _pages(size: int) -> int:
    return -(-size // PAGE) * PAGE
