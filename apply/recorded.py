"""The past that jumps need, read from the recording of the run itself: nothing is held on the way.

::

    step      0 ......... 0.4t ......... 0.7t ......... t
    recorder  row          row            row           row follows
    history   [==== chunks on disk ====][ring: rows waiting]
                  at t, parameter by parameter --> past values, sums of windows
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from weightcast.apply.flattening import local
from weightcast.apply.needs import past_steps
from weightcast.apply.ranks import shared
from weightcast.apply.summing import summing_dtype
from weightcast.apply.watching import Past, State, Watch
from weightcast.recorder.recording import Recorder
from weightcast.recorder.schedule import Jump
from weightcast.store import History, Parameter, UsageError
from weightcast.store.columns import points_of
from weightcast.store.context import Context
from weightcast.store.decoding import ChunkReader
from weightcast.store.windows import RunningSums, Window

FEW = 20  # jump points that a message names one by one


class RecordedWatch(Watch):
    """What coming jumps need of some parameters, read from the run's own recording.

    As `Watch`, but that rows are read at the jump: between jumps it holds nothing. While it jumps
    there is one parameter's past in memory, and 64 of its rows at most.

    Parameters
    ----------
    context : Context
    jump_points : iterable of int
    parameters : sequence of Tensor
    recorder : Recorder
        Of this run, in this process; lossless. It counts each step after the jumps do: what it
        records of a jump point is the weights after the jump.

    Raises
    ------
    UsageError
        If the recorder leaves out a parameter or a step that is needed, or has an error bound; or
        if several processes train together.

    Examples
    --------
    >>> import tempfile
    >>> model = torch.nn.Linear(2, 1)
    >>> recorder = Recorder(model, tempfile.mkdtemp() + "/run.zarr", "jump:4@1,0.5,0")
    >>> watch = RecordedWatch(Context.of("1,0.5,0"), [4], [model.weight], recorder)
    >>> for step in range(1, 4):
    ...     _ = model.weight.data.fill_(step)
    ...     watch.see(step)
    ...     recorder()
    >>> watch.rows(4, 8)(0, slice(0, 2))[1]
    tensor([2., 2.])
    >>> recorder.close()
    """

    def __init__(
        self,
        context: Context,
        jump_points: Iterable[int],
        parameters: Sequence[torch.Tensor],
        recorder: Recorder,
    ) -> None:
        super().__init__(context, (), parameters)
        self._points = sorted(set(jump_points))
        self._recorder = recorder
        if shared():
            raise UsageError(
                "snapshots are read from the recording of a run in one process: several train "
                "together here: leave history away, and keep them on the device or host"
            )
        if bound := History(recorder.path).header.error:
            raise UsageError(
                "snapshots are read from a lossless recording (preset fast or compact): that in "
                f"{recorder.path} has an error of up to {bound:g}"
            )
        self._places = _places(recorder, parameters)
        self._require_schedule()

    def see(self, step: int) -> None:
        """Check that the recorder takes this step next; at step 0 take the parameters' scales.

        Raises
        ------
        UsageError
            If it has taken the step already, or counts other steps.
        """
        if step and self._recorder.step != step - 1:
            raise UsageError(
                "a recorder that jumps read from must count each step after them: at step "
                f"{step} it has counted {self._recorder.step}: attach it after the jumper is made "
                "(recorder.attach), and resume both at the same step"
            )
        super().see(step)

    def lacking(self, t: int) -> str:
        """What the recording lacks for a jump at t, as rows were skipped or it failed."""
        steps = self.context.steps(t)
        missing = self._missing(steps[steps < t])
        where = f"which is not in {self._recorder.path}"
        return f"it would look back at step {missing[0]}, {where}" if missing else ""

    def spare(self, t: int) -> None:
        """There are no rows to spare: none is held."""

    def memory(self, probation: int = 0, other: int = 0) -> int:
        """Most bytes that are held between steps: the weights before a jump."""
        return other + sum(local(p).numel() * p.element_size() for p in self.parameters)

    def load_state_dict(self, state: State, step: int) -> None:
        """Go on after a step; on error nothing changes.

        Raises
        ------
        UsageError
            If the recording lacks a step up to here that a coming jump needs.
        """
        coming = np.array([t for t in self._points if t > step], dtype=np.int64)
        steps = self.context.steps(coming).ravel()
        if step and (missing := self._missing(steps[steps <= step])):
            raise UsageError(
                f"jumps after step {step} need step {missing[0]}, which is not recorded in "
                f"{self._recorder.path}: resume the recording of this run"
            )
        super().load_state_dict(state, step)

    def _past(self, t: int) -> Callable[[int], Past]:
        points = past_steps(self.context, t)
        windows = {w: [int(p.step(t)) for p in points_of(w)[:-1]] for w in self.context.windows}
        needed = sorted({*points.values()}.union(*windows.values()))
        recorded = _Recorded(self._recorder)

        def past(i: int) -> Past:
            values: dict[int, torch.Tensor] = {}
            sums: dict[Window, RunningSums] = {}
            for step, row in recorded.rows(self._places[i], needed):
                flat = self._flattened(i, row)
                if step in points.values():
                    values[step] = flat
                for window in (w for w, steps in windows.items() if step in steps):
                    self._add(sums, window, flat)
            return {point: values[s] for point, s in points.items()}, sums

        return past

    def _flattened(self, i: int, row: npt.NDArray[Any]) -> torch.Tensor:
        """A recorded row of a parameter, as a snapshot of it would be; a copy."""
        parameter = self.parameters[i]
        shaped = torch.from_numpy(row).view(parameter.shape)
        return self.layouts[i].flat(shaped.to(parameter.device, parameter.dtype, copy=True))

    def _add(self, sums: dict[Window, RunningSums], window: Window, values: torch.Tensor) -> None:
        if window in sums:
            sums[window].add(values)
        else:
            first, spread = values.to(summing_dtype(values)), self.context.needs_spread(window)
            sums[window] = RunningSums(window, first, spread=spread)

    def _missing(self, steps: npt.NDArray[np.int64]) -> list[int]:
        """Which of these steps are not recorded."""
        return sorted({*steps.tolist()} - _Recorded(self._recorder).steps)

    def _require_schedule(self) -> None:
        points = np.array(self._points, dtype=np.int64)[:, None]
        seen = self.context.steps(points[:, 0])
        steps = np.unique(seen[seen != points])
        schedule = self._recorder.schedule
        missing = next((step for step in steps.tolist() if step not in schedule), None)
        if missing is not None:
            needed: object = f"every:{np.gcd.reduce(steps)}"
            if len(self._points) <= FEW:
                needed = Jump(tuple(self._points), self.context.entries)
            raise UsageError(
                f"jumps that read the recording need step {missing}, which schedule {schedule} "
                f"leaves out: record {needed}, or keep snapshots on the device or host"
            )


def _places(recorder: Recorder, parameters: Sequence[torch.Tensor]) -> list[Parameter]:
    """Where the recording has each parameter.

    Raises
    ------
    UsageError
        If it leaves one out.
    """
    table = recorder.selection.parameter_table()
    names = {id(p): name for name, p in recorder.selection.parameters.items()}
    if lost := sum(id(p) not in names for p in parameters):
        raise UsageError(
            f"jumps that read the recording need all parameters that jump in it: {lost} of "
            f"{len(parameters)} are not: record them too (include, exclude), or choose which jump "
            "(parameters)"
        )
    return [table[names[id(p)]] for p in parameters]


class _Recorded:
    """All rows of a recording that goes on, as they are now: on disk, and those that wait."""

    def __init__(self, recorder: Recorder) -> None:
        # In this order: a row that is drained meanwhile is then in both. This thread alone writes
        # to the ring, so that no slot changes before the next step.
        self._waiting = recorder.waiting()
        self._history = History(recorder.path)
        self._chunks = ChunkReader(self._history.weights)
        self.steps = {*self._history.steps.tolist(), *self._waiting}

    def rows(self, p: Parameter, steps: Sequence[int]) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """A parameter's weights, shape (n,), at recorded steps, rising; chunks are decoded once."""
        ours = [s for s in steps if s not in self._waiting]
        yield from self._on_disk(p, {self._history.row(s): s for s in ours})
        for step in steps:
            if step in self._waiting:
                yield step, self._waiting[step][p.offset : p.stop]

    def _on_disk(
        self, p: Parameter, rows: Mapping[int, int]
    ) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        weights = self._history.weights
        height, block = weights.chunks
        for chunk, group in itertools.groupby(rows, key=lambda row: row // block):
            start, stop = chunk * block, min((chunk + 1) * block, len(self._history))
            its = list(group)
            held = np.empty((len(its), p.size), weights.dtype)
            for first in range(p.offset - p.offset % height, p.stop, height):
                low, high = max(first, p.offset), min(first + height, p.stop)
                decoded = self._chunks.read(low, high, start, stop)
                held[:, low - p.offset : high - p.offset] = decoded.T[np.array(its) - start]
            yield from ((rows[row], values) for row, values in zip(its, held, strict=True))
