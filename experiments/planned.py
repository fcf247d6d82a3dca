"""What a plan finds in a folder of results: what is done, what was begun, what is to do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from weightcast.experiments.checkpoints import same_run
from weightcast.experiments.forecasters import FITTED, file_of
from weightcast.experiments.jobs import Fitting, Job, Place, Run, Tuning
from weightcast.experiments.loading import Data
from weightcast.experiments.results import file_name
from weightcast.experiments.running import made_of
from weightcast.experiments.study import StudyJob
from weightcast.experiments.tuning import tried


def progress_of(job: Job | StudyJob, place: Place, data: Mapping[str, Data]) -> tuple[int, int]:
    """How far a job is: (done, total), of a run in steps, of others in files.

    Parameters
    ----------
    job : Job or StudyJob
    place : Place
    data : mapping of str to Data
        By name: a run that was begun with other data does not go on.
    """
    if isinstance(job, Run):
        total = job.experiment.steps
        done = job.result(place.folder).exists()
        return total if done else _begun(job, place, data), total
    if isinstance(job, Tuning):
        return tried(job.experiment, place.folder)
    files = _files(job, place.folder)
    return sum(path.exists() for path in files), len(files)


def state_of(job: Job | StudyJob, done: int, total: int) -> str:
    """The same in words.

    Examples
    --------
    >>> state_of(Fitting(), 0, 4), state_of(Fitting(), 1, 4), state_of(Fitting(), 4, 4)
    ('to do', 'begun, 1 of 4', 'done')
    """
    if done in (0, total):
        return "done" if done else "to do"
    return f"begun, step {done:,}" if isinstance(job, Run) else f"begun, {done} of {total}"


def _files(job: Fitting | StudyJob, folder: Path) -> list[Path]:
    """What is there when a job is done."""
    if isinstance(job, StudyJob):
        return [job.result(folder)]
    return [file_of(name, folder) for name in FITTED]


def _begun(run: Run, place: Place, data: Mapping[str, Data]) -> int:
    """The step of a run's checkpoint, which it would go on from; 0 if it would begin anew."""
    path, name = run.result(place.folder), file_name(run.arm.name, run.seed, ".pt")
    checkpoint, history = path.with_name(f".{name}"), path.with_suffix(".zarr")
    lacking = not checkpoint.exists() or (run.record and not history.exists())
    if lacking or run.experiment.data not in data:
        return 0
    try:  # mapped, so that no weight is read
        state = torch.load(checkpoint, weights_only=True, map_location="cpu", mmap=True)
        found, task = state["made"], data[run.experiment.data]
        made = made_of(run.experiment, run.arm, run.seed, task, found["peak"], place.device)
        return int(state["step"]) if same_run(found, made) else 0
    except Exception:  # damaged, or of other code: torch raises errors of many kinds
        return 0
