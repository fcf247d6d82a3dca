"""Checkpoints of runs: saved, and gone on from."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from weightcast.experiments.agreement import differing
from weightcast.experiments.arm_run import Run
from weightcast.store.output import replacing

# What is no fault of a checkpoint: it is kept for another time.
_PASSING = (OSError, MemoryError, torch.OutOfMemoryError)
_PASSING_TEXTS = ("DefaultCPUAllocator", "CUDA error")  # torch raises them as RuntimeError


def save_checkpoint(run: Run, made: dict[str, Any], path: Path) -> None:
    """Write a run's checkpoint, or replace it.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    data = BytesIO()  # torch does not say why a file cannot be written
    torch.save({"made": made, **run.state()}, data)
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(data.getbuffer())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def same_run(found: dict[str, Any], made: dict[str, Any]) -> bool:
    """Whether a checkpoint that was made so is of a run that is: of the same versions too."""
    return not differing(found, made) and found.get("versions") == made.get("versions")


def resume(
    begin: Callable[[], Run], path: Path, made: dict[str, Any], history: Path | None = None
) -> tuple[Run, bool]:
    """Go on from a checkpoint, if there is one of this very run; or begin anew.

    Parameters
    ----------
    begin : callable
        Gives the run before its first step.
    path : Path
        Of the checkpoint. One that is damaged, or of other code, is renamed to ``*.damaged``.
    made : dict
        What the run depends on.
    history : Path, optional
        Of the weights, which goes on with the run: without it, the run begins anew.

    Returns
    -------
    Run
        Its notes say why it begins anew, if there was something to go on from.
    bool
        Whether it goes on.

    Raises
    ------
    OSError, MemoryError, RuntimeError
        If the checkpoint cannot be read now, or there is no memory for it.
    """
    run = begin()
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return run, False
    try:
        state = torch.load(BytesIO(data), weights_only=True, map_location="cpu")
        found = state.pop("made")
        if not same_run(found, made):
            return run, False
        if history is not None and not history.exists():
            run.notes.append(f"begun anew at step {state['step']}: {history.name} was gone")
            return run, False
        run.load_state(state)
    except Exception as error:  # torch raises errors of many kinds
        if isinstance(error, _PASSING) or any(text in str(error) for text in _PASSING_TEXTS):
            raise
        aside = path.replace(path.with_name(f"{path.name}.damaged"))
        run = begin()  # what was begun may have half of the checkpoint
        run.notes.append(f"begun anew: the checkpoint was damaged, and is {aside.name} now")
        return run, False
    return run, True
