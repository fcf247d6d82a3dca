"""Continuing a history: what must hold before a run may go on recording into it."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Sequence
from pathlib import Path

from weightcast.recorder.schedule import Schedule
from weightcast.recorder.selection import Selection
from weightcast.recorder.sharding import Part
from weightcast.store import (
    History,
    InputNotFoundError,
    RecordingError,
    UsageError,
    WeightcastWarning,
)
from weightcast.store.output import refuse_existing
from weightcast.store.remote import require_local


def resume_at(history: History, selection: Selection, part: Part, start_step: int | None) -> int:
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
    stored = str(selection.stored_dtype).removeprefix("torch.")
    if stored != str(history.weights.dtype):
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
    if not _at(history, selection, part, start):
        raise RecordingError(
            f"a resumed run must go on from the recorded weights: the model's are not those of "
            f"step {start} of {theirs}: load the checkpoint of that step, or give the step it was "
            "saved at (--start-step, start_step)"
        )
    return start


def require_extras(history: History, extras: Sequence[str]) -> None:
    """Refuse to go on with other further arrays than the history has.

    Raises
    ------
    RecordingError
    """
    if tuple(extras) != history.header.extras:
        raise RecordingError(
            f"a resumed recording must have the same further arrays: {history.path} has "
            f"{list(history.header.extras)}, asked for are {list(extras)}"
        )


def require_preset(history: History, preset: str | None, error: float | None) -> None:
    """Refuse to go on with another preset or error bound than the history has.

    Raises
    ------
    RecordingError
    """
    header = history.header
    if preset not in (None, header.preset) or error not in (None, header.error):
        bound = f" with error {header.error}" if header.error is not None else ""
        raise RecordingError(
            f"a resumed recording keeps its preset: {history.path} has {header.preset}{bound}; "
            "leave the option out, and change the preset afterwards with weightcast compact"
        )


def warn_of_another_run(path: Path, selection: Selection, part: Part, step: int) -> None:
    """Where repeated steps meet the history's last: say so if they are not the same run's."""
    if not _at(History(path), selection, part, step):
        warnings.warn(
            f"the resumed run took another path: at step {step} its weights are not those in "
            f"{path}; what follows is recorded after them all the same",
            WeightcastWarning,
            stacklevel=5,
        )


def _at(history: History, selection: Selection, part: Part, step: int) -> bool:
    """Whether a model's weights are those of a recorded step."""
    parameters = list(selection.parameters.values())
    return part.holds(history.snapshot(step), parameters, history.header.error or 0.0)


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
    require_local(path)
    if overwrite and resume:
        raise UsageError("overwrite replaces a history and resume continues it: give one of them")
    if start_step is not None and (not resume or start_step < 0):
        raise UsageError(f"start step goes with resume and is at least 0: got {start_step}")
    if not resume:
        hint = ", or continue it with --resume"
        refuse_existing(path, overwrite=overwrite, kind="history", hint=hint)
    elif Path(path).exists():
        gc.collect()  # frees the lock of a recorder that was dropped, so that its rows are added
        History(path)
    elif start_step is not None:
        raise InputNotFoundError(f"start step {start_step} needs a history to resume: no {path}")
