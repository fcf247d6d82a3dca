"""Histories with everything in them that a history can have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
from store_reference import Recorded, same_bits

from weightcast.store import History, HistoryWriter, layout

EXTRAS = ("gradients", "optimizer/exp_avg")


@dataclass(frozen=True)
class Everything:
    """A history in memory, with further arrays and metrics."""

    recorded: Recorded
    extras: dict[str, np.ndarray]  # each [T, P]
    metrics: dict[str, tuple[list[int], list[float]]]

    @classmethod
    def of(cls, recorded: Recorded, extras: tuple[str, ...] = EXTRAS[:1]) -> Everything:
        """The same with further arrays, NaN at the first step, and a metric."""
        further = {}
        for i, name in enumerate(extras):
            values = np.roll(recorded.weights, i + 1, axis=0).copy()
            values[:1] = np.nan
            further[name] = values
        return cls(recorded, further, {"val/loss": ([3, 6], [0.5, float("nan")])})

    def write(self, path: Path, *, block: int = 4, width: int = 16384, rows: int = -1) -> Path:
        """Record the first rows on disk, in two appends; all of them by default."""
        rows = len(self.recorded.steps) if rows < 0 else rows
        with mock.patch.object(layout, "PARAMETERS_PER_CHUNK", width):
            HistoryWriter.create(
                path,
                self.recorded.table,
                buffers=self.recorded.buffer_table,
                dtype=self.recorded.weights.dtype,
                block=block,
                schedule="every:3",
                metadata={"note": [1, None]},
                extras=tuple(self.extras),
            ).close()
        self.append(path, 0, rows // 2)
        self.append(path, rows // 2, rows)
        with HistoryWriter.open(path) as writer:
            for name, entries in self.metrics.items():
                writer.log(name, *entries)
        return path

    def append(self, path: Path, low: int, high: int) -> None:
        """Append a range of rows."""
        extras = {name: values[low:high] for name, values in self.extras.items()}
        with HistoryWriter.open(path) as writer:
            writer.append(*self.recorded.rows(low, high), extras=extras)


def contents(history: History) -> dict[str, np.ndarray]:
    """All numbers of a history, by array, as plain zarr reads them."""
    t = len(history)
    found = {name: np.asarray(array[:, :t]) for name, array in history.wide.items()}
    found |= {"step": history.steps, "time": history.times}
    for name in history.metrics:
        for part, values in zip(("step", "value"), history.metric(name), strict=True):
            found[f"{name} {part}"] = values
    return found


def assert_same(copy: Path, original: dict[str, np.ndarray]) -> None:
    """All numbers of a history are these, bit for bit."""
    found = contents(History(copy))
    assert found.keys() == original.keys()
    for name, values in original.items():
        assert same_bits(found[name], values), name
