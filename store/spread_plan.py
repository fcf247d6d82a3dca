"""Which weights and steps to measure, cut into tasks."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weightcast.store.errors import SamplingError, UsageError
from weightcast.store.history import History
from weightcast.store.parameters import Parameter, ParameterTable, matches

RUN = 1 << 20  # values that are sorted together
TENSORS = 1 << 12  # described by one task: some 0.2 s of work


@dataclass(frozen=True)
class SpreadPlan:
    """What is measured, and in which parts.

    Attributes
    ----------
    history : History
    rows : range
        Rows of the history, from the one that changes are relative to.
    table : ParameterTable
        The selected tensors, one after the other.
    origins : tuple of int
        Where each begins in the history.
    """

    history: History
    rows: range
    table: ParameterTable
    origins: tuple[int, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        """What a worker needs: it may have another working directory."""
        place, options = self.history.arguments
        if isinstance(self.history.path, Path):
            place = self.history.path.absolute()
        return _reopened, (place, options, self.rows, self.table, self.origins)

    def tasks(self) -> list[tuple[int, int]]:
        """Chunks that hold selected weights, as ranges of weights of the history."""
        width, total = int(self.history.weights.chunks[0]), self.history.parameters.size
        ranges = ((low, min(low + width, total)) for low in range(0, total, width))
        return [task for task in ranges if any(self.parts(*task))]

    def parts(self, low: int, high: int) -> Iterator[tuple[int, int, int]]:
        """Selected weights of a range: from and to, counted from `low`, and their place here."""
        for i in range(max(bisect_right(self.origins, low) - 1, 0), len(self.origins)):
            p, origin = self.table[i], self.origins[i]
            if origin >= high:
                return
            start, stop = max(low, origin), min(high, origin + p.size)
            if start < stop:
                yield start - low, stop - low, p.offset + start - origin

    def columns(self) -> list[tuple[int, int]]:
        """The rows of the history, cut where its chunks end."""
        width = int(self.history.weights.chunks[1])
        cuts = range((self.rows.start // width + 1) * width, self.rows.stop, width)
        return list(zip([self.rows.start, *cuts], [*cuts, self.rows.stop], strict=True))

    def pieces(self) -> list[tuple[int, int]]:
        """Ranges of places to sort: of whole tensors, up to a million values; or parts of one."""
        pieces: list[tuple[int, int]] = []
        first = held = 0
        for p in self.table:
            if held and (p.stop - first > RUN or held == TENSORS):
                pieces.append((first, p.offset))
                first, held = p.offset, 0
            held += 1
            if p.size > RUN:
                pieces += [(low, min(low + RUN, p.stop)) for low in range(p.offset, p.stop, RUN)]
                first, held = p.stop, 0
        return [*pieces, (first, self.table.size)] if held else pieces


def _reopened(place: Any, options: Any, *rest: Any) -> SpreadPlan:
    return SpreadPlan(History(place, storage_options=options), *rest)


def plan_spread(
    history: History,
    include: str | tuple[str, ...],
    exclude: str | tuple[str, ...],
    from_step: int | None,
    to_step: int | None,
) -> SpreadPlan:
    """Choose the weights and steps to measure.

    Raises
    ------
    UsageError
        If no parameter is selected.
    SamplingError
        If there are fewer than two steps.
    """
    chosen: list[Parameter] = [
        p for p in history.parameters if p.size and matches(p.name, include, exclude)
    ]
    if not chosen:
        raise UsageError(
            f"include {include!r} and exclude {exclude!r} select none of the parameters of "
            f"{history.path}: 'weightcast info' lists them"
        )
    steps = history.steps
    low = 0 if from_step is None else int(np.searchsorted(steps, from_step))
    high = len(steps) if to_step is None else int(np.searchsorted(steps, to_step, side="right"))
    if high - low < 2:
        span = f" from {steps[0]} to {steps[-1]}" if len(steps) else ""
        raise SamplingError(
            f"what moved needs two recorded steps at least: {max(high - low, 0)} of the "
            f"{len(steps)} steps of {history.path}{span} lie within the bounds: widen from-step "
            "and to-step, or record more"
        )
    table = ParameterTable.of((p.name, p.shape, p.dtype, p.kind) for p in chosen)
    return SpreadPlan(history, range(low, high), table, tuple(p.offset for p in chosen))
