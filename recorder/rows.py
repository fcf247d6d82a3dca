"""Copying a model's tensors into the slots of a ring."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import attrgetter

import torch

from weightcast.store import ParameterTable, RecordingError
from weightcast.store.ring import Ring

Tensors = Sequence[torch.Tensor | None]
Views = dict[str, list[torch.Tensor]]  # of one row: for each array, in the tensors' shapes
_shape = attrgetter("shape")


def row_views(tables: dict[str, ParameterTable], row: dict[str, torch.Tensor]) -> Views:
    """A row's tensors [width], cut into views in the shapes of what is copied there."""
    return {
        array: [row[array][p.offset : p.stop].view(p.shape) for p in table]
        for array, table in tables.items()
    }


def copy_row(
    tables: dict[str, ParameterTable], views: Views, sources: dict[str, Tensors], step: int
) -> None:
    """Copy tensors into a row, one call an array; None becomes NaN.

    Raises
    ------
    RecordingError
        If a tensor has another shape than when the recording began.
    """
    kept = torch.is_grad_enabled()
    torch._C._set_grad_enabled(False)  # torch.no_grad would take a tenth of the copy's time
    try:
        for array, tensors in sources.items():
            into: Tensors = views[array]
            if not _fit(into, tensors):
                into, tensors = _present(tables[array], views[array], tensors, step)
            if into:
                torch._foreach_copy_(into, tensors)  # type: ignore[arg-type]
    finally:
        torch._C._set_grad_enabled(kept)


def _fit(into: Tensors, tensors: Tensors) -> bool:
    """Whether all tensors are there, in the shapes of the views."""
    try:
        return list(map(_shape, into)) == list(map(_shape, tensors))
    except AttributeError:  # None has no shape
        return False


def _present(
    table: ParameterTable, views: list[torch.Tensor], tensors: Tensors, step: int
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """What there is to copy where some tensors are missing; their numbers become NaN."""
    into, present = [], []
    for p, view, tensor in zip(table, views, tensors, strict=True):
        if tensor is None:
            view.fill_(math.nan)
        elif tensor.shape != view.shape:
            raise RecordingError(
                f"{p.name!r} must keep its shape while it is recorded: it was "
                f"{list(view.shape)}, at step {step} it is {list(tensor.shape)}"
            )
        else:
            into.append(view)
            present.append(tensor)
    return into, present


class Rows:
    """The slots of a ring as tensors.

    Parameters
    ----------
    ring : Ring
    tables : dict of str to ParameterTable
        What lies where in a row of each array.
    """

    def __init__(self, ring: Ring, tables: dict[str, ParameterTable]) -> None:
        self.ring, self.tables = ring, tables
        self._slots = {
            array: torch.from_numpy(ring.rows(array, 0, ring.plan.slots)) for array in self.tables
        }
        self._views: dict[int, Views] = {}  # made when a slot is first used

    def copy(self, sources: dict[str, Tensors], step: int, seconds: float) -> None:
        """Copy tensors into the next slot; `Feed.push` then hands it over.

        Parameters
        ----------
        sources : dict of str to sequence of tensor or None
            For each array, the tensors in the order of its table.

        Raises
        ------
        RecordingError
            If a tensor has another shape than when the recording began.
        """
        slot = self.ring.written % self.ring.plan.slots
        views = self._views.get(slot)
        if views is None:
            views = self._views[slot] = row_views(self.tables, self.next_slot())
        copy_row(self.tables, views, sources, step)
        self.ring.steps[slot] = step
        self.ring.times[slot] = seconds

    def next_slot(self) -> dict[str, torch.Tensor]:
        """The next slot's row of each array, of shape [width]."""
        slot = self.ring.written % self.ring.plan.slots
        return {array: rows[slot] for array, rows in self._slots.items()}

    def stamp(self, step: int, seconds: float) -> None:
        """Say of which step the next slot is."""
        slot = self.ring.written % self.ring.plan.slots
        self.ring.steps[slot] = step
        self.ring.times[slot] = seconds
