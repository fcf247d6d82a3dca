"""Write the golden files of the on-disk formats, from the values given here.

A file in a published format is decoded for ever: never regenerate the files of a version that
exists. When a format gets a new version, add `history-v2.zarr` beside the old one and keep the old
one's test. This script therefore refuses to replace anything::

    python tests/golden/make_golden.py [FOLDER]
"""

from __future__ import annotations

import contextlib
import math
import sys
from pathlib import Path

import numpy as np

from weightcast.store import Dataset, HistoryWriter, ParameterTable, build_dataset

TABLE = ParameterTable.of(
    [("fc.weight", (2, 5), "bfloat16", "weight"), ("fc.bias", (2,), "float32", "bias")]
)
BUFFERS = ParameterTable.of([("bn.running_mean", (2,), "float32", "buffer")])
STEPS = [0, 1, 2, 4, 8]
TIMES = [0.0, 0.25, 0.5, 1.0, 2.5]
# fc.bias[1], the last, never moves; fc.weight is exact in bfloat16
WEIGHTS = [
    [0.5, -1.0, 2.0, 0.25, 3.0, -0.5, 1.5, -2.5, 0.125, 4.0, 0.0, 1.0],
    [0.75, -1.5, 2.25, 0.5, 2.0, -0.25, 1.0, -2.0, 0.375, 4.5, 0.5, 1.0],
    [1.0, -2.0, 2.5625, 0.375, 1.5, 0.25, 0.75, -1.875, 0.3125, 4.8125, 0.6875, 1.0],
    [1.375, -3.0, 1.875, 0.8125, 0.9375, 0.5, 0.4375, -1.25, 0.9375, 5.5625, 1.1875, 1.0],
    [1.5, -4.0, 3.0, 1.25, 0.5, 0.75, 0.125, -1.0, 1.0, 6.0, 1.5, 1.0],
]
BUFFER_VALUES = [[0.0, -0.0], [1e-300, 0.1], [math.inf, -math.inf], [math.nan, 5e-324], [1.0, -1.0]]
LOSS_STEPS, LOSS = [1, 2, 8], [2.5, 1.25, 0.5]
METADATA = {"seed": 7, "note": "golden"}


def make_history(path: Path) -> None:
    """A history in two appends, the second of which ends within a chunk."""
    with HistoryWriter.create(
        path,
        TABLE,
        buffers=BUFFERS,
        block=2,
        schedule="every:1",
        preset="fast",
        versions={"torch": "2.13.0"},
        metadata=METADATA,
    ) as writer:
        weights = np.array(WEIGHTS, dtype=np.float32)
        for rows in (slice(0, 2), slice(2, 5)):
            buffers = np.array(BUFFER_VALUES[rows])
            writer.append(STEPS[rows], TIMES[rows], weights[rows], buffers)
        writer.log("loss", LOSS_STEPS, LOSS)


def make_dataset(history: Path, path: Path) -> Dataset:
    """8 samples of the 24 candidates: 12 weights at t = 2 and t = 4."""
    return build_dataset(
        history, path, 8, context=(1.0, 0.5, 0.0), horizon=2.0, seed=4, scheduler="synchronous"
    )


def main(folder: Path) -> None:
    """Write both, with paths relative to the folder: a dataset keeps the path of its source."""
    with contextlib.chdir(folder):
        make_history(Path("history-v1.zarr"))
        make_dataset(Path("history-v1.zarr"), Path("dataset-v1.zarr"))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
