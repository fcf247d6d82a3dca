"""The experiments, reproduced: a plan of runs, checked, and done in worker processes."""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from weightcast.experiments.demo import claim
from weightcast.experiments.experiment import Experiment
from weightcast.experiments.jobs import Job, Place, Run, perform
from weightcast.experiments.loading import Data
from weightcast.experiments.queueing import Event, work
from weightcast.experiments.results import read_result
from weightcast.experiments.running import finished, made_of
from weightcast.experiments.study import StudyJob
from weightcast.predictor.models import nearest
from weightcast.store import OutputExistsError, UsageError
from weightcast.store.ring import lock

AnyJob = Job | StudyJob

MARKER = ".weightcast-reproduction"  # in a results folder; locked while somebody fills it
RECORDED = ("plain", "jumps")  # arms whose first run leaves a weight history


def plan(experiments: Sequence[Experiment], seeds: int, arms: Sequence[str] = ()) -> list[Run]:
    """The runs of some experiments: those of the shortest first, and by seeds within each.

    Parameters
    ----------
    experiments : sequence of Experiment
    seeds : int
        How many: 0, 1, ...
    arms : sequence of str
        Only these; an experiment may have others.

    Returns
    -------
    list of Run

    Examples
    --------
    >>> from weightcast.experiments.catalogue import find
    >>> runs = plan([find("mnist1"), find("mnist4")], 2, ["plain"])
    >>> [run.label for run in runs][1:3]
    ['mnist4, plain, seed 1', 'mnist1, plain, seed 0']
    """
    return [
        Run(experiment, arm, seed, record=seed == 0 and arm.name in RECORDED)
        for experiment in sorted(experiments, key=lambda e: e.steps)
        for seed in range(seeds)
        for arm in experiment.arms
        if not arms or arm.name in arms
    ]


def arms_of(text: str, experiments: Sequence[Experiment]) -> list[str]:
    """Names of arms, separated by commas; the names of some have commas themselves.

    Raises
    ------
    UsageError
        If no experiment has such an arm.

    Examples
    --------
    >>> from weightcast.experiments.catalogue import find
    >>> arms_of("plain, jumps at 15000, 18000", [find("cifar1")])
    ['plain', 'jumps at 15000, 18000']
    """
    known = {arm.name for experiment in experiments for arm in experiment.arms}
    found, left = [], re.sub(r"\s*,\s*", ", ", text.strip())
    while left:
        fits = [name for name in known if f"{left},".startswith(f"{name},")]
        if not fits:
            first = left.split(",")[0].strip()
            raise UsageError(f"no arm {first!r:.80}{nearest(first, known)}")
        found.append(max(fits, key=len))
        left = left[len(found[-1]) :].removeprefix(",").strip()
    return found


def refuse_others(runs: Sequence[Run], folder: Path, data: Mapping[str, Data]) -> None:
    """Check that what is done already was made as it would be now.

    Raises
    ------
    OutputExistsError
        If it was not.
    FormatError
        If a file is damaged.
    """
    for run in runs:
        if (path := run.result(folder)).exists():
            peak, task = read_result(path).peak, data[run.experiment.data]
            finished(path, made_of(run.experiment, run.arm, run.seed, task, peak))


def reproduce(jobs: Sequence[AnyJob], place: Place, workers: int = 1) -> Generator[Event]:
    """Do jobs in worker processes.

    Parameters
    ----------
    jobs : sequence
        From `jobs_of` or `study.with_needs`, each after what it needs.
    place : Place
        Its folder is `held`.
    workers : int
        Processes, of one torch thread each; the results do not depend on them.

    Yields
    ------
    Event
    """
    needs = [[jobs.index(need) for need in job.needs if need in jobs] for job in jobs]
    return work(partial(perform, place), jobs, needs, workers)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Make the results folder, or take one that is ours, for this process alone.

    Raises
    ------
    OutputExistsError
        If it is another's, or another process fills it.
    """
    descriptor = lock(claim(folder, MARKER, "reproduction") / MARKER, create=True)
    if descriptor is None:
        raise OutputExistsError(
            f"another process fills {folder}: let it end, or choose another folder with -o"
        )
    try:
        yield
    finally:
        os.close(descriptor)


def require_device(name: str) -> str:
    """Check that torch can train there.

    Raises
    ------
    UsageError
        If not.

    Examples
    --------
    >>> require_device("cpu")
    'cpu'
    """
    try:
        torch.empty(1, device=name).item()
    except Exception as error:  # torch raises errors of many kinds
        text = " ".join(str(error).split())
        raise UsageError(
            f"device must be one that torch has here: got {name!r}: {text:.200}"
        ) from error
    return name
