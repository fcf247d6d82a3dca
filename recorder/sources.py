"""The tensors that make a row: parameters, buffers, if asked for gradients and optimizer state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from weightcast.recorder.rows import Tensors
from weightcast.recorder.selection import Selection
from weightcast.recorder.sharding import Part
from weightcast.store import ParameterTable, RecordingError
from weightcast.store.layout import check_extra


class Sources:
    """Looks up what to copy into a row, as it is now.

    Parameters
    ----------
    selection : Selection
    part : Part
        What of its parameters this rank records.
    gradients : bool
        Record gradients too, as they are after the optimizer's step: clipped, unscaled.
    optimizer_state : sequence of str
        Keys of the optimizer's state to record too, such as ``exp_avg``.

    Attributes
    ----------
    optimizers : list of torch.optim.Optimizer
        Whose state is looked up.
    """

    def __init__(
        self,
        selection: Selection,
        part: Part,
        gradients: bool = False,
        optimizer_state: Sequence[str] = (),
    ) -> None:
        self._selection, self._part = selection, part
        keys = (optimizer_state,) if isinstance(optimizer_state, str) else tuple(optimizer_state)
        self._gradients, self._keys = gradients, keys
        self.optimizers: list[torch.optim.Optimizer] = []
        self.extras = tuple(check_extra(f"optimizer/{key}") for key in self._keys)
        if gradients:
            self.extras = ("gradients", *self.extras)

    def widths(self) -> dict[str, tuple[int, str]]:
        """Numbers in a row of each array, and their dtype."""
        dtype = str(self._selection.stored_dtype).removeprefix("torch.")
        tables = self.tables(["buffers", "weights", *self.extras])
        return {
            array: (table.size, "float64" if array == "buffers" else dtype)
            for array, table in tables.items()
        }

    def tables(self, arrays: Sequence[str]) -> dict[str, ParameterTable]:
        """What lies where in a row of each array."""
        parameters = self._part.table()
        buffers = ParameterTable(()) if self._part.rank else self._selection.buffer_table()
        return {array: buffers if array == "buffers" else parameters for array in arrays}

    def __call__(self, *, trained: bool = True) -> dict[str, Tensors]:
        """Tensors of each array, in the order of its table; None where there is none.

        Parameters
        ----------
        trained : bool
            False before the first step, which no gradient led to and no optimizer knows yet.

        Raises
        ------
        RecordingError
            If the optimizer keeps no state of a name that was asked for.
        """
        parameters = list(self._selection.parameters.values())
        buffers = [] if self._part.rank else list(self._selection.buffers.values())
        found: dict[str, Tensors] = {"buffers": buffers, "weights": self._part.local(parameters)}
        if self._gradients:
            found["gradients"] = self._part.local(
                [_dense(p.grad) if trained else None for p in parameters]
            )
        for key in self._keys:
            found[f"optimizer/{key}"] = self._part.local(self._state(parameters, key, trained))
        return found

    def _state(
        self, parameters: list[torch.Tensor], key: str, trained: bool
    ) -> list[torch.Tensor | None]:
        states: list[dict[str, Any]] = [
            next((o.state[p] for o in self.optimizers if p in o.state), {}) for p in parameters
        ]
        # State of another shape, such as a count of steps, is no array over the weights.
        tensors = [s.get(key) for s in states]
        fitting = [
            t if isinstance(t, torch.Tensor) and t.shape == p.shape else None
            for t, p in zip(tensors, parameters, strict=True)
        ]
        if trained and all(t is None for t in fitting):
            there = sorted(
                {
                    name
                    for p, state in zip(parameters, states, strict=True)
                    for name, t in state.items()
                    if isinstance(t, torch.Tensor) and t.shape == p.shape
                }
            )
            raise RecordingError(
                f"optimizer state to record must be kept by the optimizer in the shape of a "
                f"weight: got {key!r}, it has {there}"
                + ("" if self.optimizers else "; attach the recorder to the optimizer")
            )
        return fitting


def _dense(gradient: torch.Tensor | None) -> torch.Tensor | None:
    return gradient.to_dense() if gradient is not None and gradient.is_sparse else gradient
