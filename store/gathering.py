"""What a context sees of the weights of a history: one piece of code for datasets and forecasts.

::

    step        ... t-800   t-775   ...   0.7t   ...   t
    snapshot         |       |             |           |      each chunk is decoded once, in order
    running sums     +-------+---- ... ----------------+      no snapshot of a window is kept
    past values                            |           |
    seen [F, n]      <- Context.rows(past values, sums, facts)
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

from weightcast.store.admissible import near, nearest
from weightcast.store.columns import NOW, Past, points_of
from weightcast.store.context import Context
from weightcast.store.decoding import ChunkReader
from weightcast.store.errors import NonFiniteError, StepNotRecordedError, UsageError
from weightcast.store.facts import time_facts
from weightcast.store.history import History
from weightcast.store.tensors import TensorFacts, first_scales
from weightcast.store.windows import RunningSums, Window

Float = npt.NDArray[np.floating[Any]]
Int = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ContextBlock:
    """What a context sees of some weights of a history.

    Attributes
    ----------
    low, high : int
        Which weights, n = high - low.
    seen : float array, shape (F, n)
        One row for each entry of the context, in the history's dtype.
    now : float array, shape (n,)
        The weights at step t.
    truth : float array, shape (n,), or None
        The weights at the target.
    """

    low: int
    high: int
    seen: Float
    now: Float
    truth: Float | None


class ContextReader:
    """Reads what a context sees of a history's weights, some of them at a time.

    One thread uses it. Of a window, no snapshot is kept but the first.

    Parameters
    ----------
    history : History
    context : Context, or what `Context.of` reads
    tolerance : float
        A step that was not recorded is replaced by the nearest recorded one within this fraction:
        of t for a fraction of t, of ``context.reach`` for values some steps back and windows, and
        of the steps from t to the target for that.

    Examples
    --------
    >>> import tempfile
    >>> from weightcast.store import HistoryWriter, ParameterTable
    >>> table = ParameterTable.of([("w", (2,), "float32", "weight")])
    >>> path = tempfile.mkdtemp() + "/run.zarr"
    >>> with HistoryWriter.create(path, table) as writer:
    ...     walk = np.float32(np.arange(9)[:, None] * [1, 2])
    ...     writer.append(range(9), range(9), walk)
    >>> block = ContextReader(History(path), "1,0.5,slope:2/1,ahead").read(4, 8)
    >>> block.seen.tolist(), block.truth.tolist()
    ([[4.0, 8.0], [2.0, 4.0], [2.0, 4.0], [4.0, 4.0]], [8.0, 16.0])
    """

    def __init__(self, history: History, context: object, tolerance: float = 0.0) -> None:
        self.history, self.context, self.tolerance = history, Context.of(context), tolerance
        self._chunks = ChunkReader(history.weights)
        self._kept = {NOW, *(c for c in self.context.columns if isinstance(c, Past))}
        self._windows: dict[Past, list[Window]] = {}
        for window in self.context.windows:
            for point in points_of(window):
                self._windows.setdefault(point, []).append(window)

    def read(
        self,
        t: int,
        target: int | None,
        low: int = 0,
        high: int | None = None,
        *,
        truth: bool = True,
    ) -> ContextBlock:
        """What is seen at step t of the weights from `low` to `high`, by default all of them.

        Parameters
        ----------
        t : int
            A recorded step.
        target : int or None
            The step that is to be forecast.
        low, high : int
        truth : bool
            Whether the weights at the target are read; False for one that lies ahead of what is
            recorded.

        Returns
        -------
        ContextBlock

        Raises
        ------
        StepNotRecordedError
            If a step that is needed is not recorded within the tolerance.
        NonFiniteError
            If a weight is NaN or infinite at a step that is needed.
        UsageError
            If the context asks for facts of the target, and there is none; or t is 0, and there
            is one.
        """
        high = self.history.parameters.size if high is None else high
        if target is not None and t < 1:
            raise UsageError(f"a forecast starts at a step from 1 on: got t = {t}")
        to = None if target is None or not truth else self._target_row(t, target)
        ahead = target if to is None else int(self.history.steps[to])
        block = self._gather(self._rows(t), to, self._times(t, ahead), low, high)
        self._require_finite(block, t)
        return block

    def blocks(self, t: int, target: int | None, *, truth: bool = True) -> Iterator[ContextBlock]:
        """The same of all weights, one row of chunks after the other; memory is that of one."""
        size, width = self.history.parameters.size, int(self.history.weights.chunks[0])
        for low in range(0, size, width):
            yield self.read(t, target, low, min(low + width, size), truth=truth)

    def _rows(self, t: int) -> dict[int, list[Past]]:
        """Rows of the history that are needed, and the points that each stands for."""
        self.history.row(t)
        rows, good = near(self.history.steps, self.context, t, self.tolerance)
        if not good.all():
            step = int(self.context.steps(t)[~good][0])
            self._refuse(step, f"what is seen at t = {t}")
        found: dict[int, list[Past]] = {}
        for point, row in zip(self.context.points, rows.tolist(), strict=True):
            found.setdefault(row, []).append(point)
        return found

    def _target_row(self, t: int, target: int) -> int:
        row = int(nearest(self.history.steps, np.array(target)))
        if abs(int(self.history.steps[row]) - target) > self.tolerance * abs(target - t):
            self._refuse(target, f"the target of t = {t}")
        return row

    def _refuse(self, step: int, what: str) -> None:
        recorded = self.history.steps[nearest(self.history.steps, np.array(step))]
        raise StepNotRecordedError(
            f"{what} needs step {step}, which is not recorded in {self.history.path}: the nearest "
            f"is {recorded}, and the tolerance {self.tolerance:g}: take another t, or a context of "
            "recorded steps, or raise the tolerance"
        )

    def _times(self, t: int, target: int | None) -> dict[str, Any]:
        if target is not None:
            return time_facts(t, target)
        if asked := self.context.facts & {"ahead", "ratio"}:
            raise UsageError(f"context {self.context} needs a target, for {', '.join(asked)}")
        return {"step": t}

    @cached_property
    def _facts(self) -> TensorFacts:
        scales = first_scales(self.history) if "scale" in self.context.facts else ()
        return TensorFacts(self.history.parameters, self.context, scales)

    def _gather(
        self,
        points: Mapping[int, list[Past]],
        to: int | None,
        times: Mapping[str, Any],
        low: int,
        high: int,
    ) -> ContextBlock:
        values: dict[Past, Float] = {}
        sums: dict[Window, RunningSums] = {}
        truth = None
        facts = {**times, **self._facts.of(np.arange(low, high))}
        seen = np.empty((len(self.context.columns), high - low), self.history.weights.dtype)
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused by read
            rows = {*points, *([] if to is None else [to])}
            for row, snapshot in self._snapshots(sorted(rows), low, high):
                truth = snapshot if row == to else truth
                for point in points.get(row, ()):
                    if point in self._kept:
                        values[point] = snapshot
                    for window in self._windows.get(point, ()):
                        self._add(sums, window, snapshot)
            fill(seen, self.context.rows(values, sums, facts))
        return ContextBlock(low, high, seen, values[NOW], truth)

    def _add(self, sums: dict[Window, RunningSums], window: Window, snapshot: Float) -> None:
        if window in sums:
            sums[window].add(snapshot)
        else:
            spread = self.context.needs_spread(window)
            sums[window] = RunningSums(window, snapshot, spread=spread)

    def _snapshots(self, rows: Sequence[int], low: int, high: int) -> Iterator[tuple[int, Float]]:
        """Weights at some rows of the history, rising; each chunk is decoded once."""
        block = int(self.history.weights.chunks[1])
        for chunk, group in itertools.groupby(rows, key=lambda row: row // block):
            start, stop = chunk * block, min((chunk + 1) * block, len(self.history))
            decoded, its_rows = self._chunks.read(low, high, start, stop), list(group)
            yield from zip(
                its_rows, decoded.T.take(np.array(its_rows) - start, axis=0), strict=True
            )

    def _require_finite(self, block: ContextBlock, t: int) -> None:
        for values in (block.seen, block.now, block.truth):
            if values is not None and not np.isfinite(values).all():
                bad = block.low + int(np.argwhere(~np.isfinite(values))[0, -1])
                raise NonFiniteError(
                    f"weights must be finite: what is seen of {self.history.parameters.locate(bad)}"
                    f" at t = {t} of {self.history.path}, or its target, is NaN or infinite: take "
                    "an earlier step"
                )


def fill(out: npt.NDArray[Any], rows: Sequence[Any]) -> None:
    """Write the rows of a context, numbers or what a slice gives an array of, into [F, n]."""
    for into, row in zip(out, rows, strict=True):
        into[:] = row if isinstance(row, Real | np.generic) else row[:]
