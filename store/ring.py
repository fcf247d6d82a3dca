"""The ring file: snapshots and metrics on their way from a training loop to a history.

::

    run.zarr.ring     one memory-mapped file beside the history, allocated before the run begins
      head            magic; the counters, each on a cache line of its own; a message
      description     JSON: what a row is made of
      entries         (step, value, name) of logged metrics, a ring of their own
      slots           step, time, number | buffers | weights | further arrays

         drained              written           rows are counted for ever:
            v                    v              row r lies in slot r % slots
    --------+--------------------+-----------+
     free   | waiting for a chunk|   free    |
    --------+--------------------+-----------+

The trainer writes a row and then counts it; the drain process commits rows and then counts them as
drained. Either may be killed between any two instructions: a row that is counted is whole. A file
is allocated, not sparse: a full disk is an error here, and never a SIGBUS in the training loop.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import mmap
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from weightcast.store.errors import FormatError, RecordingError
from weightcast.store.ringplan import DESCRIPTION, ENTRIES, ENTRY, LINE, PAGE, RingPlan, read_plan

MAGIC = b"wcring01"
POPULATE_WRITE = 23  # MADV_POPULATE_WRITE, from Linux 5.14 on


class _Counter:
    """A counter in the ring's head. An aligned store of 8 bytes is never seen half written."""

    def __init__(self, line: int) -> None:
        self._at = (line + 1) * LINE // 8  # each on a cache line of its own, after the magic

    def __get__(self, ring: Ring, owner: type) -> int:
        return ring.counters[self._at]

    def __set__(self, ring: Ring, value: int) -> None:
        ring.counters[self._at] = value


class Ring:
    """A ring file, locked and mapped. Use `create` or `open`.

    The lock belongs to the open file: a drain process that inherits `descriptor` holds it on when
    the trainer dies, and it is free when both are dead.

    Attributes
    ----------
    plan : RingPlan
    path : Path
    memory : mmap.mmap
        The whole file.
    descriptor : int
        The open, locked file.
    written, drained : int
        Rows, ever.
    entries_written, entries_drained : int
        Metric entries, ever.
    closing : int
        1 once the trainer has written its last row.
    beat : int
        Rises while a drain process is at work.
    """

    written, drained, entries_written, entries_drained, closing, beat = map(_Counter, range(6))
    descriptor = -1

    def __init__(self, path: Path, descriptor: int, plan: RingPlan) -> None:
        self.path, self.plan = path, plan
        self.memory = mmap.mmap(descriptor, plan.size)
        self.counters = memoryview(self.memory)[:PAGE].cast("q")
        start, stride = plan.first_slot, plan.offsets[""]
        self.steps, self.times, self._numbers = (
            np.ndarray((plan.slots,), dtype, self.memory, start + at, (stride,))
            for at, dtype in ((0, np.int64), (8, np.float64), (16, np.int64))
        )
        self._entries = np.frombuffer(self.memory, ENTRY, ENTRIES, PAGE + DESCRIPTION)
        self._arrays = {
            array: np.ndarray(
                (plan.slots, width),
                dtype,
                self.memory,
                start + plan.offsets[array],
                (stride, np.dtype(dtype).itemsize),
            )
            for array, (width, dtype) in plan.widths.items()
        }
        self.descriptor = descriptor  # ours to close now that nothing can fail

    @classmethod
    def create(cls, path: Path, descriptor: int, plan: RingPlan, first: int = 0) -> Self:
        """Lay a ring out in a file that `lock` gave.

        The first row is called `first`, so that blocks of a resumed history end where its chunks
        end.

        Raises
        ------
        OSError
            If the disk has no room for it.
        """
        text = json.dumps(asdict(plan)).encode()
        if len(text) > DESCRIPTION:
            raise RecordingError(f"a ring's description takes at most {DESCRIPTION} bytes")
        os.ftruncate(descriptor, 0)
        allocate(descriptor, plan.size)
        os.pwrite(descriptor, text, PAGE)
        ring = cls(path, descriptor, plan)
        ring.written = ring.drained = first
        ring.memory[: len(MAGIC)] = MAGIC  # last: without it the file holds nothing
        return ring

    @classmethod
    def open(cls, path: Path, descriptor: int) -> Self | None:
        """Open a ring that a process left, in a file that `lock` gave; it is closed on failure.

        Returns
        -------
        Ring or None
            None if the process died before it had laid it out; the file is then removed.

        Raises
        ------
        FormatError
            If the file is not a ring, or is damaged.
        """
        try:
            magic = os.pread(descriptor, len(MAGIC), 0)
            if not magic.strip(b"\0"):
                path.unlink(missing_ok=True)
                os.close(descriptor)
                return None
            if magic != MAGIC:
                raise ValueError("it does not begin as one")
            text = os.pread(descriptor, DESCRIPTION, PAGE).split(b"\0", 1)[0]
            plan = read_plan(text, os.fstat(descriptor).st_size)
            ring = cls(path, descriptor, plan)
        except (
            *(TypeError, ValueError, LookupError, AttributeError, RecursionError),
            *(OverflowError, OSError),  # a size that cannot be mapped
        ) as error:
            os.close(descriptor)
            raise FormatError(f"{path} is damaged, or no ring file: {error}") from error
        if not ring._counts_are_right():
            counts = f"{ring.written} rows, {ring.entries_written} entries"
            del ring  # and so its lock: the error may be kept
            raise FormatError(f"{path} is damaged: it counts {counts}")
        return ring

    def _counts_are_right(self) -> bool:
        """Whether the counts can be, and all rows that wait are there."""
        slots = self.plan.slots
        rows = self.drained, self.written, self.drained + slots
        entries = self.entries_drained, self.entries_written, self.entries_drained + ENTRIES
        if not all(0 <= low <= high <= most for low, high, most in (rows, entries)):
            return False
        return all(self._numbers[row % slots] == row + 1 for row in range(rows[0], rows[1]))

    def push(self) -> None:
        """Count the row in the next slot."""
        row = self.written
        self._numbers[row % self.plan.slots] = row + 1
        self.written = row + 1

    def populate(self) -> None:
        """Have the system make all pages of the slots now, block by block, without the GIL."""
        advise: Any = getattr(ctypes.CDLL(None), "madvise", None)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        piece = 16 << 20
        for at in range(0, self.plan.size, piece) if advise is not None else ():
            size = min(piece, self.plan.size - at)
            if advise(ctypes.c_void_p(start + at), ctypes.c_size_t(size), POPULATE_WRITE):
                return  # an older system: the pages are made when they are first written

    def rows(self, array: str, start: int, count: int) -> npt.NDArray[Any]:
        """Rows of an array, a view [count, width]; they must not go round the end."""
        first = start % self.plan.slots
        return self._arrays[array][first : first + count]

    def entries(self, stop: int) -> dict[str, tuple[list[int], list[float]]]:
        """Metric entries that are not drained yet, up to number `stop`: steps, values by name."""
        found: dict[str, tuple[list[int], list[float]]] = {}
        for i in range(self.entries_drained, stop):
            entry = self._entries[i % ENTRIES]
            name = bytes(entry["name"]).decode("ascii", "replace")  # of a damaged file: refused
            steps, values = found.setdefault(name, ([], []))
            steps.append(int(entry["step"]))
            values.append(float(entry["value"]))
        return found

    def log(self, step: int, name: str, value: float) -> None:
        """Write a metric entry; there must be room."""
        self._entries[self.entries_written % ENTRIES] = (step, value, name.encode("ascii"))
        self.entries_written += 1

    @property
    def full(self) -> bool:
        """Whether there is no free slot."""
        return self.written - self.drained >= self.plan.slots

    @property
    def crowded(self) -> bool:
        """Whether there is no room for a metric entry."""
        return self.entries_written - self.entries_drained >= ENTRIES

    @property
    def ended(self) -> bool:
        """Whether its writer, another process, will write no more: it is done, or dead."""
        if self.closing:
            return True
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def fail(self, message: str) -> None:
        """Leave a message for the trainer, from a drain process that ends."""
        text = message.encode()[: PAGE // 4 - 1] + b"\0"
        self.memory[PAGE // 2 : PAGE // 2 + len(text)] = text

    @property
    def failure(self) -> str:
        """What a drain process left with `fail`; empty if it did not."""
        text = self.memory[PAGE // 2 : PAGE // 2 + PAGE // 4]
        return bytes(text).split(b"\0", 1)[0].decode(errors="replace")

    def remove(self) -> None:
        """Delete the file, whose rows are all in the history, and free its lock."""
        self.path.unlink(missing_ok=True)
        self.close()

    def release(self) -> None:
        """Free the lock, also for all that inherited it, and close the file."""
        if self.descriptor >= 0:
            fcntl.flock(self.descriptor, fcntl.LOCK_UN)
        self.close()

    def close(self) -> None:
        """Close the file. The lock goes with the mapping, and with all that inherited it."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor = -1

    def __del__(self) -> None:
        self.close()  # a recorder that was dropped must not lock its path for ever


def ring_path(history: Path, rank: int = 0) -> Path:
    """Where the ring of a history lies: beside it, on the same disk."""
    if history.name in ("", ".."):
        history = history.resolve()
    return history.parent / (f"{history.name}.ring" + (f"-{rank}" if rank else ""))


def lock(path: Path, *, create: bool = False) -> int | None:
    """Open a ring file and lock it for this process and those that inherit it.

    Parameters
    ----------
    path : Path
    create : bool
        Make an empty file where there is none.

    Returns
    -------
    int or None
        The open file; None if another process, alive, has locked it.

    Raises
    ------
    FileNotFoundError
        If there is none and `create` is false.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the process before has just deleted it: look again


def allocate(descriptor: int, size: int) -> None:
    """Give a file its blocks on the disk, all of them.

    Raises
    ------
    OSError
        If there is no room for them.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
        return
    for at in range(os.fstat(descriptor).st_size, size, PAGE):  # macOS
        os.pwrite(descriptor, bytes(min(PAGE, size - at)), at)


def in_use(history: Path) -> bool:
    """Whether a process is recording into a history."""
    try:
        descriptor = lock(ring_path(history))
    except OSError:
        return False
    if descriptor is not None:
        os.close(descriptor)
    return descriptor is None
