"""The recorder: copies the weights after each scheduled optimizer step.

::

    optimizer.step()  -->  copy into a row of the block  --block full-->  HistoryWriter.append
                           [block, P], one call a step                    compress, commit
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from weightcast.recorder.block import Block
from weightcast.recorder.resume import check_output, last_logged, refuse_gap, resume_at
from weightcast.recorder.schedule import Schedule, parse_schedule
from weightcast.recorder.selection import Selection, select
from weightcast.recorder.step import StepCounter
from weightcast.store import (
    History,
    HistoryWriter,
    RecordingError,
)
from weightcast.store.layout import metric_path

DEFAULT_MEMORY = 256 << 20  # 64 rows of a million float32 weights
FLUSH_SECONDS = 30.0  # a killed run loses no more than this, or one block


@dataclass(frozen=True)
class RecordingSummary:
    """What a recording gave: snapshots in the history, steps counted, bytes, seconds spent."""

    path: str
    recorded: int
    steps: int
    raw_bytes: int
    stored_bytes: int
    seconds: float

    def __str__(self) -> str:
        ratio = self.raw_bytes / max(self.stored_bytes, 1)
        return (
            f"recorded {self.recorded:,} snapshots of {self.steps:,} steps in {self.path}: "
            f"{self.stored_bytes / 1e6:.2f} MB for {self.raw_bytes / 1e6:.2f} MB of numbers (ratio "
            f"{ratio:.2f}), {self.seconds:.1f} s spent recording"
        )


class Recorder:
    """Records a model's weights into a history while it trains.

    Count optimizer steps either by calling the recorder after each of them, or by `attach`, which
    counts the steps that an optimizer really took.

    Parameters
    ----------
    model : nn.Module or Selection
        What to record: parameters, and the buffers that its ``state_dict`` keeps.
    path : str or Path
        Folder of the history.
    schedule : str or Schedule, optional
        Which steps, such as ``"every:10"``; see `parse_schedule`. Step 0, the weights before the
        first optimizer step, is always recorded. By default every step, or the schedule of the
        history to resume.
    include, exclude : sequence of str
        Globs over qualified parameter names.
    preset : {"fast", "compact"}
        Lossless codec preset.
    memory : int
        Bytes that rows waiting to be compressed may take.
    metadata : dict, optional
        Kept in the history; JSON-able.
    overwrite : bool
        Replace a history that stands at `path`.
    resume : bool
        Continue the history at `path` after its last committed step.
    start_step : int, optional
        With `resume`: the step of the checkpoint that training goes on from. By default the last
        recorded step. Steps that the history already has are not recorded again.
    allow_gap : bool
        With a `start_step` after the last recorded step: go on although scheduled steps between
        them are missing.

    Raises
    ------
    OutputExistsError
        If `path` is taken, and neither `overwrite` nor `resume` is given.
    ShapeError
        If a history to resume holds other parameters.
    RecordingError
        If the weights to resume with are not those that the history has at the start step.

    Examples
    --------
    >>> import tempfile
    >>> model = nn.Linear(2, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> path = tempfile.mkdtemp() + "/run.zarr"
    >>> with Recorder(model, path, "every:2").attach(optimizer) as recorder:
    ...     for _ in range(5):
    ...         loss = model(torch.ones(1, 2)).square().sum()
    ...         loss.backward()
    ...         optimizer.step()
    >>> History(path).steps
    array([0, 2, 4])
    """

    def __init__(
        self,
        model: nn.Module | Selection,
        path: str | Path,
        schedule: str | Schedule | None = None,
        *,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        preset: str = "fast",
        memory: int = DEFAULT_MEMORY,
        metadata: dict[str, Any] | None = None,
        overwrite: bool = False,
        resume: bool = False,
        start_step: int | None = None,
        allow_gap: bool = False,
    ) -> None:
        check_output(path, overwrite=overwrite, resume=resume, start_step=start_step)
        path = Path(path).absolute()  # the run may change its folder
        going_on = resume and path.exists()
        if schedule is None:
            schedule = (History(path).header.latest_schedule if going_on else "") or "every:1"
        self.schedule = parse_schedule(schedule) if isinstance(schedule, str) else schedule
        self.selection = model if isinstance(model, Selection) else select(model, include, exclude)
        self._block = Block(self.selection, memory)
        if going_on:
            before = History(path)
            self.step = resume_at(before, self.selection, self._block, start_step)
            if not allow_gap:
                refuse_gap(before, self.schedule, self.step)
            self._writer = HistoryWriter.open(path)
            self._writer.add_schedule(str(self.schedule), self.step)
        else:
            self._writer = self._create(path, preset, metadata, overwrite)
            self.step = 0
        self._known = self._writer.last_step  # steps up to here are in the history already
        history = History(path)
        self._logged = {name: last_logged(history, name) for name in history.metrics}
        self._metrics: dict[str, list[tuple[int, float]]] = {}
        self._handles: list[RemovableHandle] = []
        spent = float(history.times[-1]) if len(history) else 0.0
        self._begin = time.perf_counter() - spent
        self._flushed = float("-inf")  # so that step 0 is committed with the first step counted
        self._steps = StepCounter()
        self._seconds = 0.0
        self._closed = False
        if self._known is None:
            self._block.copy(0, 0.0)

    def __call__(self) -> None:
        """Count one optimizer step, and record the weights if the schedule has it.

        Raises
        ------
        RecordingError
            If the recorder is closed.
        """
        self._require_open()
        begin = time.perf_counter()
        self.step += 1
        if self._known is not None and self.step <= self._known:
            if self.step == self._known:
                self._warn_of_another_run()
            return
        if begin - self._flushed > FLUSH_SECONDS:
            self._flush()
        if self.step in self.schedule:
            self._block.copy(self.step, begin - self._begin)
            if not self._room():
                self._flush()
        self._seconds += time.perf_counter() - begin

    def attach(self, optimizer: torch.optim.Optimizer) -> Self:
        """Count the steps of an optimizer by itself, until the recorder closes.

        Step 0 is taken again right before the optimizer's first step, in case the weights were
        loaded or initialised after the recorder was made. Its weights are exact; its buffers, such
        as BatchNorm statistics, have then seen the first batch.
        """
        self._require_open()

        def before(stepping: torch.optim.Optimizer, *_: Any) -> None:
            if self._steps.before(stepping) and self.step == 0 and self._writer.last_step is None:
                self._block.rows = 0
                self._block.copy(0, 0.0)

        def after(stepping: torch.optim.Optimizer, *_: Any) -> None:
            if self._steps.after(stepping):
                self()

        self._handles.append(optimizer.register_step_pre_hook(before))
        self._handles.append(optimizer.register_step_post_hook(after))
        return self

    def log(self, **metrics: float) -> None:
        """Record metrics of the current step, such as ``recorder.log(loss=loss.item())``."""
        self._require_open()
        for name, value in metrics.items():
            if self.step <= self._logged.get(name, -1):
                continue  # a resumed run that repeats this step
            metric_path(name)  # refuses a name that cannot be kept, here and not at the next flush
            number = float(value.detach() if isinstance(value, torch.Tensor) else value)
            self._metrics.setdefault(name, []).append((self.step, number))

    def close(self) -> None:
        """Write what is still in memory and stop counting. Closing again does nothing."""
        if self._closed:
            return
        for handle in self._handles:
            handle.remove()
        begin = time.perf_counter()
        self._flush()
        self._seconds += time.perf_counter() - begin
        self._closed = True

    def summary(self) -> RecordingSummary:
        """Sizes and seconds so far."""
        info = History(self._writer.path).info()
        return RecordingSummary(
            path=info.path,
            recorded=info.recorded,
            steps=self.step,
            raw_bytes=info.raw_bytes,
            stored_bytes=info.stored_bytes,
            seconds=self._seconds,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _require_open(self) -> None:
        if self._closed:
            raise RecordingError(f"the recorder of {self._writer.path} is closed: make a new one")

    def _room(self) -> int:
        """Rows that the block can still take, so that blocks end where chunks end."""
        chunk = self._writer.block
        aligned = chunk - self._writer.header.committed % chunk
        return min(self._block.length, aligned) - self._block.rows

    def _flush(self) -> None:
        self._writer.append(*self._block.filled())
        self._block.rows = 0
        for name, entries in list(self._metrics.items()):
            steps, values = zip(*entries, strict=True)
            self._writer.log(name, steps, values)
            del self._metrics[name]
        self._flushed = time.perf_counter()

    def _warn_of_another_run(self) -> None:
        """Where repeated steps meet the history's last: say so if they are not the same run's."""
        self._block.copy(self.step, 0.0)
        self._block.rows -= 1
        now = self._block.weights[self._block.rows].numpy()
        if not np.array_equal(now, History(self._writer.path).snapshot(self.step), equal_nan=True):
            warnings.warn(
                f"the resumed run took another path: at step {self.step} its weights are not "
                f"those in {self._writer.path}; what follows is recorded after them all the same",
                stacklevel=3,
            )

    def _create(
        self, path: str | Path, preset: str, metadata: dict[str, Any] | None, overwrite: bool
    ) -> HistoryWriter:
        return HistoryWriter.create(
            path,
            self.selection.parameter_table(),
            buffers=self.selection.buffer_table(),
            dtype=self._block.weights.numpy().dtype,
            block=self._block.length,
            schedule=str(self.schedule),
            preset=preset,
            versions={"torch": torch.__version__},
            metadata=metadata,
            overwrite=overwrite,
        )
