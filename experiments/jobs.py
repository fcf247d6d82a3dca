"""What reproducing takes, as data: runs, and what some of them need first.

::

    Fitting --> runs that jump by a forecaster which is fitted for them
    Tuning  --> runs with a one-cycle schedule, of the same experiment
    Run     --> RESULTS/EXPERIMENT/ARM-seedN.json
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from weightcast.experiments.experiment import Arm, Experiment
from weightcast.experiments.forecasters import FITTED, prepare
from weightcast.experiments.loading import Data, idx_folder, load_data
from weightcast.experiments.queueing import Progress
from weightcast.experiments.results import file_name
from weightcast.experiments.running import run_arm
from weightcast.experiments.tuning import tuned_peak

Sources = Mapping[str, Path]  # folders of the data sets, by name


@dataclass(frozen=True)
class Place:
    """Where jobs are done.

    Attributes
    ----------
    folder : Path
        Of the results.
    sources : mapping of str to Path
        Folders of the data sets.
    device : str
        That torch trains on.
    """

    folder: Path
    sources: Sources
    device: str = "cpu"

    @property
    def where(self) -> dict[str, Any]:
        """Options of `run_arm` and `tuned_peak`."""
        return {"folder": self.folder, "device": self.device}

    def data(self, name: str) -> Data:
        """A data set; a worker keeps the last one, as it seldom changes from run to run."""
        return _data(name, self.sources[name])


@dataclass(frozen=True)
class Fitting:
    """Fit the forecasters that are not shipped."""

    label = "forecasters"

    @property
    def needs(self) -> tuple[Job, ...]:
        """Nothing."""
        return ()

    def perform(self, place: Place, progress: Progress) -> None:
        """Do it, as far as it is not done."""
        mnist = idx_folder("mnist", place.sources["mnist"])
        for name in FITTED:
            prepare(name, place.folder, mnist, lambda _, *done: progress(*done))


@dataclass(frozen=True)
class Tuning:
    """Find the peak of an experiment's one-cycle schedule."""

    experiment: Experiment

    @property
    def label(self) -> str:
        """Name for a reader."""
        return f"{self.experiment.folder}, tuning"

    @property
    def needs(self) -> tuple[Job, ...]:
        """Nothing."""
        return ()

    def perform(self, place: Place, progress: Progress) -> None:
        """Do it, as far as it is not done."""
        data = place.data(self.experiment.data)
        tuned_peak(self.experiment, data=data, **place.where, progress=progress)


@dataclass(frozen=True)
class Run:
    """Train one arm with one seed.

    Attributes
    ----------
    experiment : Experiment
    arm : Arm
    seed : int
    record : bool
        Whether it leaves a weight history.
    """

    experiment: Experiment
    arm: Arm
    seed: int
    record: bool = False

    @property
    def label(self) -> str:
        """Name for a reader."""
        return f"{self.experiment.folder}, {self.arm.name}, seed {self.seed}"

    @property
    def needs(self) -> tuple[Job, ...]:
        """Jobs that must be done before."""
        tuning = (Tuning(self.experiment),) if self.arm.schedule == "one-cycle" else ()
        return (*((Fitting(),) if _is_fitted(self.arm) else ()), *tuning)

    @property
    def data(self) -> set[str]:
        """Names of the data sets that it needs."""
        return {self.experiment.data, *(("mnist",) if _is_fitted(self.arm) else ())}

    def result(self, folder: Path) -> Path:
        """Its file, which is there when it is done."""
        return folder / self.experiment.folder / file_name(self.arm.name, self.seed)

    def perform(self, place: Place, progress: Progress) -> None:
        """Do it, as far as it is not done."""
        data = place.data(self.experiment.data)
        tuned = self.arm.schedule == "one-cycle"  # before, so that this only looks it up
        peak = tuned_peak(self.experiment, data=data, **place.where) if tuned else None
        run_arm(
            self.experiment,
            self.arm,
            self.seed,
            data=data,
            **place.where,
            peak=peak,
            record=self.record,
            progress=progress,
        )


Job = Fitting | Tuning | Run


def jobs_of(runs: Sequence[Run], folder: Path | None = None) -> list[Job]:
    """Runs, each after what it needs; with a folder, only those that are not done there."""
    jobs: list[Job] = []
    for run in runs:
        if folder is None or not run.result(folder).exists():
            jobs += [job for job in run.needs if job not in jobs]
            jobs.append(run)
    return jobs


def perform(place: Place, job: Job, progress: Progress) -> None:
    """Do a job, in a worker."""
    job.perform(place, progress)


@lru_cache(maxsize=1)
def _data(name: str, folder: Path) -> Data:
    return load_data(name, folder)


def _is_fitted(arm: Arm) -> bool:
    return bool(arm.jumps) and arm.forecaster in FITTED
