"""A process that writes histories whose values are known: ``live_writer.py WHAT PATH``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from store_reference import vector

from weightcast.store import HistoryWriter, ParameterTable

WEIGHTS, BUFFERS = 300, ParameterTable.of([("mean", (2,), "float32", "buffer")])
ROUNDS, APPENDED = 40, 3  # blocks of 4 steps: most appends rewrite a half-full chunk


def values(steps: np.ndarray, run: int = 0) -> np.ndarray:
    """What every weight is at every step: [n, P], none of it NaN or zero."""
    places = np.arange(WEIGHTS, dtype=np.float32)
    return (1 + places + 1000 * steps[:, None] + 0.5 * run).astype(np.float32)


def append(path: Path, first: int, run: int = 0) -> None:
    steps = np.arange(first, first + APPENDED)
    with HistoryWriter.open(path) as writer:
        writer.append(
            steps,
            0.25 * steps,
            values(steps, run),
            np.column_stack([steps, -steps]).astype(float),
            {"gradients": -values(steps, run)},
        )
        writer.log("loss", steps.tolist(), (steps * 0.5).tolist())


def create(path: Path, **options: Any) -> None:
    HistoryWriter.create(
        path, vector(WEIGHTS), buffers=BUFFERS, block=4, extras=["gradients"], **options
    ).close()


def write(path: str) -> None:
    """What the writer process does."""
    for round_ in range(ROUNDS):
        append(Path(path), round_ * APPENDED)


def rewrite(path: str) -> None:
    """Another history in the same place, again and again."""
    for run in range(1, 9):
        create(Path(path), overwrite=True)
        append(Path(path), 0, run)


def write_on(path: str) -> None:
    for round_ in range(1, 10_000):
        append(Path(path), round_ * APPENDED)


if __name__ == "__main__":
    {"write": write, "write_on": write_on, "rewrite": rewrite}[sys.argv[1]](sys.argv[2])
