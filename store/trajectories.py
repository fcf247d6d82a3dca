"""Reading the trajectories of a few weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from weightcast.store.decoding import ChunkReader
from weightcast.store.history import History

Float = npt.NDArray[np.floating[Any]]
Int = npt.NDArray[np.int64]


def trajectories(history: History, weights: Int, rows: Int) -> Float:
    """Values of a few weights at some rows, a chunk at a time.

    Parameters
    ----------
    history : History
    weights : int64 array, shape (n,)
        Along the parameter axis.
    rows : int64 array, shape (m,)
        Rows of the history.

    Returns
    -------
    float array, shape (n, m)
    """
    height, width = history.weights.chunks
    reader = ChunkReader(history.weights)
    values = np.empty((len(weights), len(rows)), history.weights.dtype)
    for row in np.unique(weights // height):
        mine, low = np.flatnonzero(weights // height == row), int(row) * height
        high = min(low + height, history.parameters.size)
        for column in np.unique(rows // width):
            now, start = np.flatnonzero(rows // width == column), int(column) * width
            chunk = reader.read(low, high, start, min(start + width, len(history)))
            values[np.ix_(mine, now)] = chunk[np.ix_(weights[mine] - low, rows[now] - start)]
    return values
