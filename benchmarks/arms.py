"""Ways to keep the weights of a training after each step: ours, and what else people use.

An arm begins with a training, an output path and a number of steps. It gives what to call after
each step, and what to call once after the last.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from common import Training, flat
from safetensors.torch import save_file

from weightcast.recorder import Recorder
from weightcast.store.codecs import wide_codecs
from weightcast.store.layout import STEPS_PER_CHUNK, chunk_shape

RING_ROWS = 192  # as many as the recorder's ring has for N0
Calls = tuple[Callable[[], object], Callable[[], object]]


@dataclass(frozen=True)
class Arm:
    """One way of recording.

    Attributes
    ----------
    begin : callable
        Of a training, a path and a number of steps; gives (after each step, after the last).
    survives : str
        What is left of the recorded rows when the training is killed with ``kill -9``.
    every : int
        Steps from one recorded row to the next; 0 if none is written.
    extra_rows : int
        Rows beside those of the steps: ours keeps step 0.
    needs : str
        Module that must be installed.
    """

    begin: Callable[[Training, Path, int], Calls]
    survives: str = "-"
    every: int = 1
    extra_rows: int = 0
    needs: str = ""

    @property
    def missing(self) -> bool:
        """Whether the module that it needs is not installed."""
        return bool(self.needs) and importlib.util.find_spec(self.needs) is None

    def rows(self, steps: int) -> int:
        """Rows that a training of so many steps writes."""
        return steps // self.every + self.extra_rows if self.every else 0


def nothing(training: Training, path: Path, steps: int) -> Calls:
    """The control."""
    return lambda: None, lambda: None


def ours(schedule: str) -> Callable[[Training, Path, int], Calls]:
    """The recorder, called once a step."""

    def begin(training: Training, path: Path, steps: int) -> Calls:
        recorder = Recorder(training.model, path, schedule)
        return recorder, recorder.close

    return begin


def plain_copy(training: Training, path: Path, steps: int) -> Calls:
    """The same bytes into memory as large as the ring, all of it touched before: nothing else."""
    parameters = [p.detach() for p in training.model.parameters()]
    rows = torch.ones(RING_ROWS, sum(p.numel() for p in parameters))
    sizes = [p.numel() for p in parameters]
    views = [
        [part.view(p.shape) for part, p in zip(row.split(sizes), parameters, strict=True)]
        for row in rows
    ]
    step = count()
    return lambda: torch._foreach_copy_(views[next(step) % RING_ROWS], parameters), lambda: None


def memmap(training: Training, path: Path, steps: int) -> Calls:
    """Rows of a raw file, as NiNo's data set has them."""
    rows = np.memmap(path, np.float32, "w+", shape=(steps, len(flat(training.model))))
    step = count()
    return lambda: rows.__setitem__(next(step), flat(training.model)), rows.flush


def torch_save(training: Training, path: Path, steps: int) -> Calls:
    """A file a step."""
    path.mkdir()
    step = count()
    return (
        lambda: torch.save(training.model.state_dict(), path / f"{next(step)}.pt"),
        lambda: None,
    )


def safetensors(training: Training, path: Path, steps: int) -> Calls:
    """A file a step."""
    path.mkdir()
    step = count()
    return (
        lambda: save_file(training.model.state_dict(), path / f"{next(step)}.safetensors"),
        lambda: None,
    )


def blocks(size: int, steps: int, write: Callable[[int, np.ndarray], object]) -> Any:
    """Collect rows, and write each 64 of them at once, as [P, n]; gives (row, last)."""
    rows = np.empty((STEPS_PER_CHUNK, size), np.float32)
    step = count(1)

    def add(row: np.ndarray) -> None:
        now = next(step)
        rows[(now - 1) % STEPS_PER_CHUNK] = row
        if now % STEPS_PER_CHUNK == 0:
            write(now - STEPS_PER_CHUNK, rows.T)

    def last() -> None:
        if rest := (next(step) - 1) % STEPS_PER_CHUNK:
            write(steps - rest, rows[:rest].T)

    return add, last


def synchronous_zarr(training: Training, path: Path, steps: int) -> Calls:
    """Our chunks and codec, compressed and written in the training loop."""
    size = len(flat(training.model))
    array = zarr.create_array(
        path,
        shape=(size, 0),
        chunks=chunk_shape(size, STEPS_PER_CHUNK),
        dtype="float32",
        **wide_codecs("fast", None, "float32"),
    )
    add, last = blocks(size, steps, lambda start, columns: array.append(columns, axis=1))
    return lambda: add(flat(training.model)), last


def tensorstore(training: Training, path: Path, steps: int) -> Calls:
    """Our chunks and codec, written by TensorStore's threads while the training goes on."""
    import tensorstore as ts

    size = len(flat(training.model))
    blosc = {"cname": "lz4", "clevel": 3, "shuffle": "shuffle", "typesize": 4, "blocksize": 0}
    store = ts.open(
        {
            "driver": "zarr3",
            "kvstore": {"driver": "file", "path": str(path)},
            # As in all arms: flushed to the disk at the end.
            "context": {"file_io_sync": False},
            "metadata": {
                "shape": [size, steps],
                "data_type": "float32",
                "chunk_grid": {
                    "name": "regular",
                    "configuration": {"chunk_shape": list(chunk_shape(size, STEPS_PER_CHUNK))},
                },
                "codecs": [
                    {"name": "bytes", "configuration": {"endian": "little"}},
                    {"name": "blosc", "configuration": blosc},
                    {"name": "crc32c"},
                ],
            },
            "create": True,
        }
    ).result()
    under_way = []

    def write(start: int, columns: np.ndarray) -> None:
        futures = store[:, start : start + columns.shape[1]].write(columns)
        futures.copy.result()  # the rows may be written over now
        under_way.append(futures)

    add, last = blocks(size, steps, write)

    def close() -> None:
        last()
        for futures in under_way:
            futures.result()

    return lambda: add(flat(training.model)), close


ALL_BUT_ONE = "all but the row being copied"
WHOLE_FILES = "whole files; the last may be cut off"
BLOCK_LOST = "all but the last 64 rows"

CONTROL, COPY, OURS = "no recording", "plain copy in memory", "weightcast every:1"
TENTH = "weightcast every:10"
ARMS = {
    CONTROL: Arm(nothing, every=0),
    COPY: Arm(plain_copy, "nothing", every=0),
    OURS: Arm(ours("every:1"), ALL_BUT_ONE, extra_rows=1),
    TENTH: Arm(ours("every:10"), ALL_BUT_ONE, every=10, extra_rows=1),
    "np.memmap": Arm(memmap, "rows; a torn one is not noticed"),
    "torch.save": Arm(torch_save, WHOLE_FILES),
    "safetensors": Arm(safetensors, WHOLE_FILES),
    "zarr, synchronous": Arm(synchronous_zarr, BLOCK_LOST),
    "TensorStore": Arm(tensorstore, "all but 64 rows or more", needs="tensorstore"),
}
