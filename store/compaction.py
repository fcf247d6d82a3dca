"""What compacting a history will do: a plan, as plain data."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from weightcast.store.bound import default_error
from weightcast.store.codecs import check_preset
from weightcast.store.errors import UsageError
from weightcast.store.history import History
from weightcast.store.rechunking import Options, Rewrite, Rows, plan_array


@dataclass(frozen=True, repr=False)
class CompactionPlan:
    """How a history is rewritten. Printing it says what it costs.

    Parameters
    ----------
    source : str
        The history.
    preset : str
        Codec preset of the copy.
    error : float or None
        Absolute error bound of the weights that the copy adds, for ``bounded``.
    rows : int64 array
        Rows of the source to keep, rising.
    recorded : int
        Rows that the source holds.
    arrays : tuple of Rewrite
        One for each array of `History.wide`.
    """

    source: str
    preset: str
    error: float | None
    rows: Rows
    recorded: int
    arrays: tuple[Rewrite, ...]

    @property
    def thins(self) -> bool:
        """Whether recorded rows are left out."""
        return len(self.rows) < self.recorded

    @property
    def memory(self) -> int:
        """Bytes that the widest band takes."""
        return max((a.memory for a in self.arrays), default=0)

    def __repr__(self) -> str:
        bound = "" if self.error is None else f", error at most {self.error:.3g}"
        lines = [f"{self.source}: {len(self.rows)} of {self.recorded} steps, {self.preset}{bound}"]
        for a in self.arrays:
            files = f"{a.files} shards of {a.shard}" if a.shard else f"{a.files} files"
            lines.append(
                f"  {a.name} {a.shape}: {a.reads} chunks of {a.source_chunk} -> "
                f"chunks of {a.chunk}, {files}, {a.bytes / 1e6:.1f} MB"
            )
        return "\n".join([*lines, f"  memory: at most {self.memory / 1e6:.1f} MB"])


def plan_compaction(
    history: History,
    *,
    preset: str = "compact",
    error: float | None = None,
    relative_error: float | None = None,
    options: Options | None = None,
    from_step: int | None = None,
    to_step: int | None = None,
    every: int | None = None,
) -> CompactionPlan:
    """Say how a history will be rewritten; writes nothing.

    Parameters
    ----------
    history : History
    preset : {"fast", "compact", "bounded"}
        Codec preset of the copy.
    error : float, optional
        For ``bounded``: the absolute error bound of the weights.
    relative_error : float, optional
        Instead of `error`: the same as a fraction of the median change of a weight from the first
        step that is kept to the last; 1e-3 if neither is given.
    options : Options, optional
        Chunks, shards and memory.
    from_step, to_step : int, optional
        First and last step to keep.
    every : int, optional
        Keep only steps that this divides.

    Returns
    -------
    CompactionPlan

    Raises
    ------
    UsageError
        If an option is out of range, options do not go together, no step would be left, or there
        is no error bound to be found.
    """
    rows, options = _choose_rows(history, from_step, to_step, every), options or Options()
    if relative_error is not None and (preset != "bounded" or error is not None):
        raise UsageError("a relative error goes with the preset bounded, and without an error")
    if preset == "bounded" and error is None:
        error = default_error(history, rows, relative_error, options.memory)
    check_preset(preset, error)
    arrays = [
        plan_array(name, array, rows, options, bounded=error is not None and name == "weights")
        for name, array in history.wide.items()
    ]
    return CompactionPlan(str(history.path), preset, error, rows, len(history), tuple(arrays))


def _choose_rows(
    history: History, from_step: int | None, to_step: int | None, every: int | None
) -> Rows:
    """Rows of the steps to keep: those between two steps, both kept, that `every` divides.

    Raises
    ------
    UsageError
        If none is left, though the history has some.
    """
    if every is not None and every < 1:
        raise UsageError(f"every must be at least 1: got {every}")
    steps = history.steps
    low = -math.inf if from_step is None else from_step
    high = math.inf if to_step is None else to_step
    rows = np.flatnonzero((steps >= low) & (steps <= high) & (steps % (every or 1) == 0))
    if len(steps) and not len(rows):
        raise UsageError(
            f"no step would be left: {history.path} has steps {steps[0]} to {steps[-1]}, asked for "
            f"were those from {low} to {high} that {every or 1} divides"
        )
    return rows
