"""Continuing a history: what must hold before a run may go on recording into it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from weightcast.recorder.block import Block
from weightcast.recorder.schedule import Schedule
from weightcast.recorder.selection import Selection
from weightcast.store import History, InputNotFoundError, RecordingError, UsageError
from weightcast.store.output import refuse_existing


def resume_at(history: History, selection: Selection, block: Block, start_step: int | None) -> int:
    """Check that a model can continue a history, and say at which step.

    Raises
    ------
    ShapeError
        If the history holds other parameters.
    RecordingError
        If the model's weights are not those that the history has at that step.
    """
    mine, theirs = selection.parameter_table(), str(history.path)
    mine.require_same(history.parameters, "the model", theirs)
    selection.buffer_table().require_same(
        history.buffers, "the model's buffers", f"{theirs}'s buffers"
    )
    stored = np.dtype(str(selection.stored_dtype).removeprefix("torch."))
    if stored != history.weights.dtype:
        raise RecordingError(
            f"a resumed run must keep its precision: the model needs {stored}, {theirs} holds "
            f"{history.weights.dtype}: record it anew"
        )
    if not len(history):
        if start_step:
            raise RecordingError(f"{theirs} has no steps yet to start from at {start_step}")
        return 0
    last = int(history.steps[-1])
    start = last if start_step is None else start_step
    if start not in history.steps:
        return start
    block.copy(start, 0.0)
    block.rows = 0
    if not np.array_equal(block.weights[0].numpy(), history.snapshot(start), equal_nan=True):
        raise RecordingError(
            f"a resumed run must go on from the recorded weights: the model's are not those of "
            f"step {start} of {theirs}: load the checkpoint of that step, or give the step it was "
            "saved at (--start-step, start_step)"
        )
    return start


def last_logged(history: History, name: str) -> int:
    """The last step at which a metric was logged; -1 if it never was."""
    steps, _ = history.metric(name)
    return int(steps[-1]) if len(steps) else -1


def refuse_gap(history: History, schedule: Schedule, start: int) -> None:
    """Refuse to go on at a step before which the schedule has steps that the history lacks."""
    last = int(history.steps[-1]) if len(history) else start
    missing = [step for step in range(last + 1, start + 1) if step in schedule]
    if missing:
        raise RecordingError(
            f"a resumed recording must not leave a gap: start step {start}, but the last recorded "
            f"step of {history.path} is {last} and {schedule} has {missing[0]}: start from an "
            "earlier checkpoint, or allow the gap (--allow-gap, allow_gap=True)"
        )


def check_output(
    path: str | Path, *, overwrite: bool, resume: bool, start_step: int | None = None
) -> None:
    """Refuse bad combinations and a taken output, before any training starts."""
    if overwrite and resume:
        raise UsageError("overwrite replaces a history and resume continues it: give one of them")
    if start_step is not None and (not resume or start_step < 0):
        raise UsageError(f"start step goes with resume and is at least 0: got {start_step}")
    if not resume:
        hint = ", or continue it with --resume"
        refuse_existing(path, overwrite=overwrite, kind="history", hint=hint)
    elif Path(path).exists():
        History(path)
    elif start_step is not None:
        raise InputNotFoundError(f"start step {start_step} needs a history to resume: no {path}")
