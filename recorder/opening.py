"""Beginning a recording: the lock on its path, its history, new or resumed, and the ring file."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from weightcast.store import HistoryWriter, RecordingError
from weightcast.store.ring import Ring, allocate, lock, ring_path
from weightcast.store.ringplan import RingPlan


def open_ring(
    path: Path, plan: RingPlan, open_history: Callable[[], HistoryWriter], rank: int = 0
) -> Ring:
    """Lock a history's path, make or open the history, and lay out the ring.

    Parameters
    ----------
    path : Path
        Of the history.
    plan : RingPlan
    open_history : callable
        Makes or opens the history, once its path is ours.
    rank : int
        Of this process, of a model that several share.

    Raises
    ------
    RecordingError
        If another process is recording there, or the disk has no room for the ring.
    """
    file = ring_path(path, rank)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = lock(file, create=True)
    if descriptor is None:
        gc.collect()  # a recorder of this process that was dropped, but not closed
        descriptor = lock(file, create=True)
    if descriptor is None:
        raise RecordingError(
            f"{path} is being recorded by another process: let it end, or choose another path"
        )
    waiting = os.fstat(descriptor).st_size  # rows of a dead recording: kept until its history goes
    try:
        with _allocating(file, plan):  # first: a full disk must not cost the history that is there
            allocate(descriptor, plan.size)
        writer = open_history()
        waiting = 0
        if rank == 0:
            _claim(writer, plan)
        with _allocating(file, plan):
            return Ring.create(file, descriptor, plan, writer.header.committed % plan.block)
    except BaseException:
        if waiting:
            os.ftruncate(descriptor, waiting)
        else:
            file.unlink(missing_ok=True)
        os.close(descriptor)
        raise


def _claim(writer: HistoryWriter, plan: RingPlan) -> None:
    """Say in the history which ring file is its own, so that no other is ever added to it."""
    header = writer.header
    none = np.empty((0, header.parameters.size))
    writer.append(
        *((), (), none, np.empty((0, header.buffers.size))),
        extras=dict.fromkeys(header.extras, none),
        ring=(plan.name, 0),
    )


def refuse_waiting_rows(path: Path) -> None:
    """Refuse to resume a history while rows of an earlier recording wait to be added to it.

    Opening the history has tried to add them, and has said why it could not.
    """
    file = ring_path(path)
    if file.exists():
        raise RecordingError(
            f"{path} is being recorded, or steps of an earlier recording wait in {file}: let the "
            f"recording end, or run 'weightcast recover {path}'"
        )


@contextlib.contextmanager
def _allocating(file: Path, plan: RingPlan) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RecordingError(
            f"{file} must be allocated, {plan.size:,} bytes: {error.strerror}: free some space, "
            "give less memory (--memory), or record fewer parameters (--include, --exclude)"
        ) from error
