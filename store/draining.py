"""From the ring file to the history: what the drain process does, and recovery after a crash.

::

    ring  --whole chunks-->  HistoryWriter.append  --committed-->  ring.drained += rows
          --the rest-------> when asked: at the end, and every half minute for who looks on

A crash between the two leaves rows that are in both: they are told by their step, and metric
entries by the count that the history's header keeps of them.
"""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

from weightcast.store.errors import (
    FormatError,
    InputNotFoundError,
    RecordingError,
    WeightcastError,
    WeightcastWarning,
)
from weightcast.store.ranks import Ranks, require_parts
from weightcast.store.ring import Ring, lock, ring_path
from weightcast.store.ringplan import ENTRIES
from weightcast.store.writer import HistoryWriter

WAIT_SECONDS = 0.01  # between looks at ranks that have not ended


class Drain:
    """Moves rows and metric entries from ring files to a history.

    Parameters
    ----------
    rings : sequence of Ring
        Of one recording: rank 0's first, which alone holds metric entries.
    writer : HistoryWriter

    Raises
    ------
    FormatError
        If the rings are not of this history.
    """

    def __init__(self, rings: Sequence[Ring], writer: HistoryWriter) -> None:
        _require_same(rings, writer)
        self._ranks, self._writer = Ranks(rings, writer.header.parameters.size), writer
        last = -1 if writer.last_step is None else writer.last_step
        for ring in rings:
            while (
                ring.drained < ring.written and ring.steps[ring.drained % ring.plan.slots] <= last
            ):
                ring.drained += 1
        _, entries = writer.header.ring or ("", 0)
        rings[0].entries_drained = max(rings[0].entries_drained, entries)

    def run(self, *, everything: bool) -> int:
        """Commit the rows of all full chunks, or all rows and entries; return how many rows."""
        ring, moved = self._ranks.first, 0
        rows, logged = self._ranks.waiting, ring.entries_written  # what comes meanwhile can wait
        while True:
            waiting, room = rows - moved if everything else self._ranks.waiting, self._room()
            entries = (logged if everything else ring.entries_written) - ring.entries_drained
            full = waiting >= room
            if not (waiting or entries > 0 if everything else full or entries > ENTRIES // 2):
                return moved
            count = min(waiting, room) if everything or full else 0
            self._commit(count)
            moved += count

    @property
    def complete(self) -> bool:
        """Whether no further row can become whole, once rank 0 writes no more."""
        return self._ranks.complete

    def commit_entries(self) -> None:
        """Commit metric entries alone."""
        self._commit(0)

    def _room(self) -> int:
        """Rows to commit at once: up to the end of a block, of a chunk, and of the ring."""
        writer = self._writer
        return min(self._ranks.room, writer.block - writer.header.committed % writer.block)

    def _commit(self, count: int) -> None:
        ranks, ring = self._ranks, self._ranks.first
        upto = ring.entries_written
        rows = {array: ranks.rows(array, count) for array in ring.plan.widths}
        self._writer.append(
            ranks.steps(count),
            ranks.times(count),
            rows.pop("weights"),
            rows.pop("buffers", None),
            extras=rows,
            metrics=ring.entries(upto),
            ring=(ring.plan.name, upto),
        )
        ring.entries_drained = upto
        ranks.advance(count)


def recover(history: str | Path) -> int:
    """Finish what a recording left in its ring file, and delete the file.

    Parameters
    ----------
    history : str or Path
        Folder of the history.

    Returns
    -------
    int
        Steps that were added to the history.

    Raises
    ------
    InputNotFoundError
        If there is no such history.
    RecordingError
        If a process is recording into the history.
    FormatError
        If the ring file is damaged, or not of this history; it is left as it is.
    """
    history = Path(history)
    path = ring_path(history)
    if not history.exists():
        raise InputNotFoundError(f"no history {history} to recover: check the path")
    try:
        descriptor = lock(path)
    except FileNotFoundError:
        return 0  # nothing is left to do
    if descriptor is None:
        raise RecordingError(f"{history} is being recorded by a process that runs: let it end")
    ring = Ring.open(path, descriptor)
    if ring is None:
        return 0
    rings = [ring]
    try:
        rings += other_ranks(ring, history)
        if not Ranks(rings, 0).complete:
            raise RecordingError(
                f"{history} is being recorded: rank 0 is dead, and another rank that runs has not "
                "written what it has: let it end"
            )
        moved = finish(rings, history)
        for ring in rings:
            ring.remove()
        return moved
    finally:
        for ring in rings:
            ring.release()


def other_ranks(first: Ring, history: Path) -> list[Ring]:
    """Ring files of a recording's further ranks, without their locks."""
    rings = []
    for rank in range(1, first.plan.ranks):
        path = ring_path(history, rank)
        with contextlib.suppress(FileNotFoundError):
            ring = Ring.open(path, os.open(path, os.O_RDWR | os.O_CLOEXEC))
            rings += [ring] if ring else []
    return rings


def finish(rings: Sequence[Ring], history: Path) -> int:
    """Commit all that rank 0 has written, once the further ranks have written it too."""
    with HistoryWriter(history) as writer:
        drain, moved = Drain(rings, writer), 0
        if len(rings) < rings[0].plan.ranks:
            drain.commit_entries()  # a rank is done: all rows that are whole are committed
            return 0
        while not drain.complete:
            moved += drain.run(everything=False)
            time.sleep(WAIT_SECONDS)
        return moved + drain.run(everything=True)


def recover_quietly(history: Path) -> None:
    """Finish what a dead recording left, where there is any; a failure is only a warning."""
    path = ring_path(history)
    if not path.exists():
        return
    try:
        descriptor = lock(path)
        if descriptor is None:
            return  # it is still being recorded
        os.close(descriptor)
        recover(history)
    except FileNotFoundError:
        return
    except (WeightcastError, OSError) as error:
        warnings.warn(
            f"steps that were recorded wait in {path} and could not be added: {error}: "
            f"run 'weightcast recover {history}'",
            WeightcastWarning,
            stacklevel=3,
        )


def _require_same(rings: Sequence[Ring], writer: HistoryWriter) -> None:
    header = writer.header
    name, entries = header.ring or ("", 0)
    if name != rings[0].plan.name or entries > rings[0].entries_written:
        raise FormatError(
            f"{rings[0].path} is of another recording than {writer.path}: move it away, or put the "
            "history that it belongs to in its place"
        )
    expected = {"weights": header.parameters.size, "buffers": header.buffers.size}
    expected.update(dict.fromkeys(header.extras, header.parameters.size))
    plan = rings[0].plan
    widths = {"buffers": 0, **{array: width for array, (width, _) in plan.widths.items()}}
    if plan.shards is not None:
        require_parts(rings, header.parameters)
        whole = dict.fromkeys(widths.keys() - {"buffers"}, header.parameters.size)
        widths = {"buffers": widths["buffers"], **whole}
    if widths != expected:
        raise FormatError(
            f"{rings[0].path} must be of the same recording as {writer.path}: its rows are "
            f"{widths}, the history's {expected}"
        )
