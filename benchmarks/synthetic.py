"""Histories for the sampling benchmark: N0's, raw copies of it, and random walks of any size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from common import Data, Training

from weightcast.recorder import Recorder
from weightcast.store import History, HistoryWriter, ParameterTable
from weightcast.store.arrays import fill, grow
from weightcast.store.layout import ATTRIBUTE
from weightcast.store.reading import open_group

DEAD = 0.01  # share of the weights that never move, at least: ties
RAW = {"TP": "[T, P]", "PT": "[P, T]"}


def recorded(folder: Path, data: Callable[[], Data], rows: int) -> History:
    """N0's history of the steps 0 to rows - 1; trained only if the folder has none."""
    path = folder / f"n0-{rows}.zarr"
    if not path.exists() or len(History(path)) != rows:
        training = Training(*data())
        with Recorder(training.model, path, overwrite=True).attach(training.optimizer):
            training.run(rows - 1)
    return History(path)


def raw_copies(history: History) -> dict[str, Path]:
    """The same numbers as raw float32: rows [T, P] as a naive recorder appends, and [P, T]."""
    shape, block = (history.parameters.size, len(history)), history.weights.chunks[1]
    paths = {order: Path(history.path).with_suffix(f".{order}.raw") for order in RAW}
    recorded_at = (history.folder / "zarr.json").stat().st_mtime
    for order, path in paths.items():
        if path.exists() and path.stat().st_mtime > recorded_at:
            continue
        unfinished = path.with_suffix(".part")
        kept = shape if order == "PT" else shape[::-1]
        values = np.memmap(unfinished, np.float32, "w+", shape=kept)
        columns = values if order == "PT" else values.T
        for low in range(0, shape[1], block):
            columns[:, low : low + block] = history.weights[:, low : min(low + block, shape[1])]
        values.flush()
        unfinished.rename(path)
    return paths


@dataclass(frozen=True)
class Variation:
    """How far the weights of a history moved, |w(T) - w(0)|.

    Attributes
    ----------
    dead : float
        Share of the weights that did not move.
    quantiles : float32 array
        Of the others, at even distances.
    """

    dead: float
    quantiles: np.ndarray

    @classmethod
    def of(cls, history: History) -> Variation:
        """Measure a history."""
        first, last = (history.snapshot(int(history.steps[i])) for i in (0, -1))
        moved = np.abs(last - first)
        alive = moved[moved > 0]
        return cls(1 - len(alive) / len(moved), np.quantile(alive, np.linspace(0, 1, 4097)))

    def scales(self, uniform: np.ndarray) -> np.ndarray:
        """A weight's scale for each number from 0 to 1; at least 1 % are dead, to have ties."""
        dead = max(self.dead, DEAD)
        at = (uniform - dead) / (1 - dead) * (len(self.quantiles) - 1)
        found = np.interp(at, np.arange(len(self.quantiles)), self.quantiles)
        return np.where(uniform < dead, 0, found).astype(np.float32)


@dataclass(frozen=True)
class Walks:
    """Random walks [P, T], made a slice at a time: each weight has a scale of its own."""

    shape: tuple[int, int]
    variation: Variation
    seed: int

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, where: tuple[slice, slice]) -> np.ndarray:
        low, high, _ = where[0].indices(self.shape[0])
        random = np.random.Generator(np.random.Philox(key=self.seed | low << 64))
        size, steps = high - low, self.shape[1]
        scale = self.variation.scales(random.random(size)) / np.sqrt(steps - 1, dtype=np.float32)
        walk = random.standard_normal((size, steps), np.float32)
        walk[:, 0] = 0
        np.cumsum(walk, axis=1, out=walk)
        # Tilted, so that it ends at the scale: the variation is as measured.
        end = np.copysign(np.float32(steps - 1) ** 0.5, walk[:, -1]) - walk[:, -1]
        walk += end[:, None] * np.linspace(0, 1, steps, dtype=np.float32)
        walk *= scale[:, None]
        walk += random.uniform(-0.05, 0.05, (size, 1)).astype(np.float32)
        return walk[:, where[1]]


def write_walks(path: Path, size: int, steps: int, variation: Variation, seed: int) -> History:
    """Write a history of random walks of one chunk of steps, a band of chunks in memory at a time.

    `HistoryWriter.append` takes whole rows: 50 M weights x 64 steps of them are 13 GB. So its
    steps go the same way here, data, shape, commit, with the weights made as they are written.
    """
    table = ParameterTable.of([("walks", (size,), "float32", "weight")])
    with HistoryWriter.create(path, table, block=steps, overwrite=True) as writer:
        group = open_group(path, mode="r+")
        parts = {"weights": Walks((size, steps), variation, seed)}
        parts.update(step=np.arange(steps), time=np.arange(steps) / 100)
        for name, columns in parts.items():
            fill(group[name], 0, columns)
            grow(group[name], (size, steps) if name == "weights" else (steps,))
        group.attrs[ATTRIBUTE] = replace(writer.header, committed=steps).to_json()
    return History(path)
