"""The recorder: copies the weights after each scheduled optimizer step.

::

    optimizer.step()  -->  copy into a slot of the ring  -->  drain process: compress, commit
                           one call a step                    a process of its own
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy.typing as npt
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from weightcast.recorder.feed import Feed, OnError, WhenFull, check_policies
from weightcast.recorder.following import Follower
from weightcast.recorder.intake import Intake
from weightcast.recorder.opening import open_ring, refuse_waiting_rows
from weightcast.recorder.resume import (
    check_output,
    last_logged,
    refuse_gap,
    require_extras,
    require_preset,
    resume_at,
    warn_of_another_run,
)
from weightcast.recorder.schedule import Schedule, parse_schedule
from weightcast.recorder.selection import Selection, select
from weightcast.recorder.sharding import Part, in_turn
from weightcast.recorder.sources import Sources
from weightcast.recorder.step import Rounds, plain_optimizer, untraced
from weightcast.store import (
    History,
    HistoryWriter,
    RecordingError,
    UsageError,
    WeightcastError,
    WeightcastWarning,
)
from weightcast.store.layout import STEPS_PER_CHUNK, metric_path
from weightcast.store.reading import one_line
from weightcast.store.ringplan import RingPlan, plan_ring


@dataclass(frozen=True)
class RecordingSummary:
    """What a recording gave.

    Attributes
    ----------
    recorded, skipped, steps : int
        Snapshots in the history, snapshots given up for a full ring, optimizer steps counted.
    raw_bytes, stored_bytes : int
        Of the numbers, and of the history on disk.
    seconds : float
        Spent in the training loop, waiting included.
    """

    path: str
    recorded: int
    skipped: int
    steps: int
    raw_bytes: int
    stored_bytes: int
    seconds: float

    def __str__(self) -> str:
        ratio = self.raw_bytes / max(self.stored_bytes, 1)
        return (
            f"recorded {self.recorded:,} snapshots of {self.steps:,} steps in {self.path}: "
            + (f"{self.skipped:,} more were skipped for a full ring; " if self.skipped else "")
            + f"{self.stored_bytes / 1e6:.2f} MB for {self.raw_bytes / 1e6:.2f} MB of numbers "
            f"(ratio {ratio:.2f}), {self.seconds:.1f} s spent recording"
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
    preset : {"fast", "compact", "bounded"}
        Codec preset; the first two are lossless. By default ``fast``, or that of the history to
        resume.
    error : float, optional
        With ``bounded``: the absolute error that a stored weight may have.
    gradients : bool
        Record gradients too, as they are after the optimizer's step; NaN where there is none.
    optimizer_state : sequence of str
        Keys of the attached optimizer's state to record too, such as ``exp_avg``.
    memory : int, optional
        Bytes of the ring file, where rows wait to be compressed. By default 512 MB, or three
        snapshots of a model for which that is too little.
    when_full : {"block", "skip"}
        Where compression cannot keep up: wait for it, or skip rows and count them.
    on_error : {"raise", "warn"}
        Where recording fails, for a full disk say: stop the run, or go on unrecorded.
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
        preset: str | None = None,
        error: float | None = None,
        gradients: bool = False,
        optimizer_state: Sequence[str] = (),
        memory: int | None = None,
        when_full: WhenFull = "block",
        on_error: OnError = "raise",
        metadata: dict[str, Any] | None = None,
        overwrite: bool = False,
        resume: bool = False,
        start_step: int | None = None,
        allow_gap: bool = False,
    ) -> None:
        check_policies(when_full, on_error)
        self.path = Path(path).absolute()  # the run may change its folder
        wanted = "every:1" if schedule is None else schedule
        self.schedule = parse_schedule(wanted) if isinstance(wanted, str) else wanted
        self.selection = model if isinstance(model, Selection) else select(model, include, exclude)
        self.step = 0
        self._part = Part(self.selection)
        self._sources = Sources(self.selection, self._part, gradients, optimizer_state)
        self._intake: Intake | None = None  # none on ranks that do not record
        self._known: int | None = None  # steps up to here are in the history already
        self._logged: dict[str, int] = {}
        self._handles: list[RemovableHandle] = []
        self._rounds = Rounds(self)
        self._begin = time.perf_counter()
        self._seconds = 0.0
        self._on_error = on_error
        self._failure = ""
        self._closed = False
        new = {
            "preset": preset or "fast",
            "error": error,
            "metadata": metadata,
            "overwrite": overwrite,
        }
        with in_turn(self._part):
            if self._part.rank == 0 and self._part.records:
                check_output(path, overwrite=overwrite, resume=resume, start_step=start_step)
            going_on = resume and self._part.records and self.path.exists()
            before = History(self.path) if going_on else None
            if before is not None:
                require_preset(before, preset, error)
                self._resume(before, schedule is None, start_step, allow_gap)
            if self._part.records:
                feed = self._open(before is None, memory, when_full, new)
                self._intake = Intake(feed, self._sources, first=self._known is None)
        if self._intake is not None and self._part.ranks > 1:
            self._intake.feed.start()  # only now: all ranks have their rings

    def __call__(self) -> None:
        """Count one optimizer step, and record the weights if the schedule has it.

        Raises
        ------
        RecordingError
            If the recorder is closed, or recording fails and `on_error` is ``"raise"``.
        """
        self._require_open()
        begin = time.perf_counter()
        self.step += 1
        try:
            if self._intake is not None and not self._failure:
                self._record(self._intake, begin - self._begin)
        except (WeightcastError, OSError) as error:
            self._fail(error)
        self._seconds += time.perf_counter() - begin

    def attach(self, *optimizers: torch.optim.Optimizer) -> Self:
        """Count the steps of optimizers by themselves, until the recorder closes.

        Of several, each steps once in one step of the run; see `Rounds`. Step 0 is taken again
        right before the first optimizer step, in case the weights were loaded or initialised after
        the recorder was made. Its weights are exact; its buffers, such as BatchNorm statistics,
        have then seen the first batch.
        """
        self._require_open()
        plain = [plain_optimizer(optimizer) for optimizer in optimizers]
        self._require_ours(plain)
        self.optimizers.extend(plain)

        @untraced
        def before(*_: Any) -> None:
            if self._intake is None or self._rounds.begun:
                return
            try:
                self._intake.copy_first()
            except (WeightcastError, OSError) as error:
                self._fail(error)

        self._handles += [optimizer.register_step_pre_hook(before) for optimizer in plain]
        self._rounds.expect(plain)
        self._handles += self._rounds.hook(plain)
        return self

    def _require_ours(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        ours = {id(p) for p in self.selection.parameters.values()}
        for optimizer in optimizers:
            if ours.isdisjoint(id(p) for group in optimizer.param_groups for p in group["params"]):
                raise UsageError(
                    "an optimizer to attach to must train the recorded model: this "
                    f"{type(optimizer).__name__} holds none of its parameters"
                )

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Those whose state is recorded, where `optimizer_state` asks for it."""
        return self._sources.optimizers

    def log(self, **metrics: float) -> None:
        """Record metrics of the current step, such as ``recorder.log(loss=loss.item())``."""
        self._require_open()
        for name in metrics:
            metric_path(name)  # refuses a name that cannot be kept
        for name, value in metrics.items():
            if self._intake is None or self._failure or self.step <= self._logged.get(name, -1):
                continue  # a resumed run that repeats this step
            number = float(value.detach() if isinstance(value, torch.Tensor) else value)
            try:
                self._intake.feed.log(self.step, name, number)
            except (WeightcastError, OSError) as error:
                self._fail(error)

    def waiting(self) -> dict[int, npt.NDArray[Any]]:
        """Recorded weights, shape (P,), by step, as far as they may not be in the history yet.

        Views, good until the next step is counted. A history that is opened afterwards has all
        steps that are not among them.
        """
        return {} if self._intake is None else self._intake.waiting()

    def close(self) -> None:
        """Bring everything into the history and stop counting. Closing again does nothing.

        Raises
        ------
        RecordingError
            If the history cannot be written and `on_error` is ``"raise"``. What was recorded is
            then in the ring file, and the message says how to recover it.
        """
        if self._closed:
            return
        self._closed = True
        for handle in self._handles:
            handle.remove()
        begin = time.perf_counter()
        try:
            if self._intake is not None:
                self._intake.close()
        except (WeightcastError, OSError) as error:
            self._fail(error)
        self._seconds += time.perf_counter() - begin

    def summary(self) -> RecordingSummary:
        """Sizes and seconds so far."""
        info = History(self.path).info()
        return RecordingSummary(
            path=info.path,
            recorded=info.recorded,
            skipped=self._intake.feed.skipped if self._intake else 0,
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
            raise RecordingError(f"the recorder of {self.path} is closed: make a new one")

    def _record(self, intake: Intake, seconds: float) -> None:
        intake.hand_over_first()
        if self._known is not None and self.step <= self._known:
            if self.step == self._known:
                warn_of_another_run(self.path, self.selection, self._part, self.step)
        elif self.step in self.schedule:
            intake.take(self.step, seconds)
        else:
            intake.poll()

    def _fail(self, error: Exception) -> None:
        """Follow the user's choice when recording cannot go on; training can in any case."""
        if self._on_error == "raise":
            raise error
        self._failure = one_line(error)
        message = f"{self._failure}; the run goes on unrecorded"
        warnings.warn(message, WeightcastWarning, stacklevel=3)

    def _resume(
        self, before: History, keep_schedule: bool, start_step: int | None, allow_gap: bool
    ) -> None:
        """Take over from a history what a recording goes on with, or refuse to."""
        if self._part.rank == 0:
            refuse_waiting_rows(self.path)
        require_extras(before, self._sources.extras)
        if keep_schedule and before.header.latest_schedule:
            self.schedule = parse_schedule(before.header.latest_schedule)
        self.step = resume_at(before, self.selection, self._part, start_step)
        if not allow_gap:
            refuse_gap(before, self.schedule, self.step)
        if len(before):
            self._known = int(before.steps[-1])
            self._begin -= float(before.times[-1])
        self._logged = {name: last_logged(before, name) for name in before.metrics}

    def _open(
        self, create: bool, memory: int | None, when_full: WhenFull, new: dict[str, Any]
    ) -> Feed:
        """Lay out the ring, and before that make or open the history."""
        part, widths = self._part, self._sources.widths()
        if part.sharded and when_full == "skip":
            raise UsageError(
                "ranks that share a model must record the same steps: with when_full 'skip' each "
                "would skip others: use 'block'"
            )
        shards = part.shards if part.sharded else None
        chunk = min(STEPS_PER_CHUNK, self.schedule.count or STEPS_PER_CHUNK)
        plan = plan_ring(widths, memory, chunk, shards=shards, ranks=part.ranks)

        def open_history() -> HistoryWriter:
            if create and part.rank == 0:
                return self._create(plan, new)
            writer = HistoryWriter(self.path)
            mine, theirs = self.selection.parameter_table(), writer.header.parameters
            mine.require_same(theirs, f"the model of rank {part.rank}", str(self.path))
            if part.rank == 0 and writer.last_step != self._known:
                raise RecordingError(f"{self.path} has just been recorded by another process")
            if part.rank == 0:
                writer.add_schedule(str(self.schedule), self.step)
            return writer

        ring = open_ring(self.path, plan, open_history, part.rank)
        return (Follower if part.rank else Feed)(ring, self.path, when_full)

    def _create(self, plan: RingPlan, new: dict[str, Any]) -> HistoryWriter:
        return HistoryWriter.create(
            self.path,
            self.selection.parameter_table(),
            buffers=self.selection.buffer_table(),
            dtype=plan.widths["weights"][1],
            block=plan.block,
            schedule=str(self.schedule),
            versions={"torch": torch.__version__},
            extras=self._sources.extras,
            ties=self.selection.ties,
            **new,
        )
