"""The experiments, reproduced: a plan of runs, checked, and done in worker processes."""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from weightcast.experiments.demo import claim, refuse_another
from weightcast.experiments.experiment import Experiment
from weightcast.experiments.forecasters import known_digest
from weightcast.experiments.jobs import Job, Place, Run, perform
from weightcast.experiments.loading import Data
from weightcast.experiments.merging import gather, run_set
from weightcast.experiments.queueing import Event, work
from weightcast.experiments.results import read_result
from weightcast.experiments.running import finished, made_of
from weightcast.experiments.study import StudyJob
from weightcast.experiments.tuning import shortened
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
        If there is no name, or no experiment has such an arm.

    Examples
    --------
    >>> from weightcast.experiments.catalogue import find
    >>> arms_of("plain, jumps at 15000, 18000", [find("cifar1")])
    ['plain', 'jumps at 15000, 18000']
    """
    known = {arm.name for experiment in experiments for arm in experiment.arms}
    found, left = [], re.sub(r"\s*,\s*", ", ", text.strip(" ,"))
    if not left:
        raise UsageError(
            f"name the arms, or leave --arms out: there are {', '.join(sorted(known))}"
        )
    while left:
        fits = [name for name in known if f"{left},".startswith(f"{name},")]
        if not fits:
            first = left.split(",")[0].strip()
            if first == "averaging":
                raise UsageError(
                    "averaging is no arm of its own, it comes with plain: ask for that"
                )
            raise UsageError(f"no arm {first!r:.80}{nearest(first, known)}")
        found.append(max(fits, key=len))
        left = left[len(found[-1]) :].removeprefix(",").strip()
    return found


def refuse_others(
    runs: Sequence[Run], folder: Path, data: Mapping[str, Data], device: str = "cpu"
) -> None:
    """Check that what is done already was made as it would be now, and what the report will read.

    Parameters
    ----------
    runs : sequence of Run
    folder : Path
    data : mapping of str to Data
        By name; runs of other data are not checked.
    device : str

    Raises
    ------
    OutputExistsError
        If it was not.
    FormatError
        If a file of these experiments is damaged, or contradicts another.
    """
    for run in runs:
        path, task = run.result(folder), data.get(run.experiment.data)
        if task is not None and path.exists():
            peak = read_result(path).peak
            made = made_of(run.experiment, run.arm, run.seed, task, peak, device)
            finished(path, made | known_digest(run.arm, folder))
    names = dict.fromkeys(run.experiment.folder for run in runs)
    tuned = dict.fromkeys(shortened(run.experiment).folder for run in runs)
    for results in gather(folder, [*names, *tuned]).values() if runs else ():
        run_set(results)


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
    descriptor = _locked(claim(folder, MARKER, "reproduction"))
    try:
        yield
    finally:
        os.close(descriptor)


def refuse_foreign(folder: Path) -> None:
    """Check that a folder is, or could become, one of ours; and make nothing.

    Raises
    ------
    OutputExistsError
        If it is another's.
    """
    refuse_another(folder, MARKER, "reproduction")


def _locked(folder: Path) -> int:
    descriptor = lock(folder / MARKER, create=True)
    if descriptor is None:
        raise OutputExistsError(
            f"another process fills {folder}: let it end, or choose another folder with -o"
        )
    return descriptor


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
