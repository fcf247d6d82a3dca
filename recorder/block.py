"""Rows that wait in memory to be compressed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from weightcast.recorder.selection import Selection
from weightcast.store import RecordingError
from weightcast.store.layout import block_length


class Block:
    """Copies of a model's tensors at a few steps: weights [length, P] and buffers [length, B].

    Parameters
    ----------
    selection : Selection
        What to copy.
    memory : int
        Bytes that the rows may take.
    """

    def __init__(self, selection: Selection, memory: int) -> None:
        self._selection = selection
        tables = (selection.parameter_table(), selection.buffer_table())
        dtypes = (selection.stored_dtype, torch.float64)
        row_bytes = sum(t.size * d.itemsize for t, d in zip(tables, dtypes, strict=True))
        self.length = block_length(row_bytes, memory)
        self.weights, self.buffers = (
            torch.empty(self.length, t.size, dtype=d, device="cpu")
            for t, d in zip(tables, dtypes, strict=True)
        )
        # Views of every row in the tensors' shapes, made once: a copy is then one call.
        self._views = [
            [row[p.offset : p.stop].view(p.shape) for p in table]
            for i in range(self.length)
            for row, table in zip((self.weights[i], self.buffers[i]), tables, strict=True)
        ]
        self.steps = np.zeros(self.length, dtype=np.int64)
        self.times = np.zeros(self.length)
        self.rows = 0

    @torch.no_grad()
    def copy(self, step: int, seconds: float) -> None:
        """Copy the model's tensors into the next row.

        Raises
        ------
        RecordingError
            If a tensor has another shape than when the recording began.
        """
        sources = (self._selection.parameters, self._selection.buffers)
        for i, tensors in enumerate(sources):
            views = self._views[2 * self.rows + i]
            for name, view, tensor in zip(tensors, views, tensors.values(), strict=True):
                if view.shape != tensor.shape:
                    raise RecordingError(
                        f"{name!r} must keep its shape while it is recorded: it was "
                        f"{list(view.shape)}, at step {step} it is {list(tensor.shape)}"
                    )
            if views:
                torch._foreach_copy_(views, list(tensors.values()))
        self.steps[self.rows] = step
        self.times[self.rows] = seconds
        self.rows += 1

    def filled(self) -> tuple[Any, Any, Any, Any]:
        """Steps, times, weights and buffers of the rows so far, as NumPy views."""
        n = self.rows
        return self.steps[:n], self.times[:n], self.weights[:n].numpy(), self.buffers[:n].numpy()
