"""How long runs take: about, before anything is known; then from what this machine has done."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from weightcast.experiments.experiment import Experiment
from weightcast.experiments.jobs import Fitting, Job, Run, Tuning
from weightcast.experiments.queueing import Event
from weightcast.experiments.study import StudyJob
from weightcast.experiments.tuning import ALWAYS, TUNING

# Processor seconds of a training image, forwards and backwards; of one forwards, half.
IMAGE = {
    "mnist1": 9.7e-4,
    "mnist2": 1.9e-4,
    "mnist3": 2.2e-5,
    "mnist4": 1.0e-4,
    "fm16": 1.2e-4,
    "cifar1": 7.7e-4,
    "alexnet1": 7.4e-2,
    "inception1": 8.5e-2,
}
TESTS = {"fashion-55000": 5000, "images": 50_000}  # images of an evaluation, where not 10,000
FITTING = 600.0  # seconds


def seconds_of(job: Job | StudyJob) -> float:
    """Roughly how long a job takes on one core of 2025.

    Examples
    --------
    >>> from weightcast.experiments.catalogue import find
    >>> experiment = find("mnist3")
    >>> round(seconds_of(Run(experiment, experiment.arms[0], seed=0)))
    66
    """
    if isinstance(job, StudyJob):
        return job.seconds
    if isinstance(job, Fitting):
        return FITTING
    if isinstance(job, Tuning):
        short = job.experiment.shortened(max(job.experiment.steps // TUNING, 1))
        return ALWAYS * _seconds(short, 1)
    averaged = job.arm.name == "plain" and job.experiment.averaged
    return _seconds(job.experiment, 2 if averaged else 1)


def _seconds(experiment: Experiment, networks: int) -> float:
    evaluations = networks * (experiment.steps / experiment.evaluate_every + 1)
    tests = evaluations * TESTS.get(experiment.data, 10_000)
    return IMAGE[experiment.network] * (experiment.steps * experiment.batch + tests / 2)


def _kind(job: Job | StudyJob) -> str:
    if isinstance(job, StudyJob):
        return job.kind
    return job.experiment.network if isinstance(job, Run) else ""


class Pace:
    """The time left, from what was done since this began: not what a run resumed with.

    Parameters
    ----------
    jobs : sequence
    workers : int
    clock : callable
        Seconds.
    """

    def __init__(
        self,
        jobs: Sequence[Job | StudyJob],
        workers: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._workers, self._clock = workers, clock
        self._expected = [seconds_of(job) for job in jobs]
        self._kinds = [_kind(job) for job in jobs]
        self._left = [1.0] * len(jobs)  # shares of the jobs
        self._begun: dict[int, tuple[float, float]] = {}  # first report: share left, time
        self._took: dict[int, tuple[float, float]] = {}  # since: seconds, seconds expected

    def hear(self, event: Event) -> None:
        """Take notice of what happened to a job."""
        job, now = event.job, self._clock()
        if event.state != "running":
            self._left[job] = 0.0
        elif event.total:
            self._left[job] = 1 - event.done / event.total
            left, begun = self._begun.setdefault(job, (self._left[job], now))
            self._took[job] = (now - begun, (left - self._left[job]) * self._expected[job])

    @property
    def done(self) -> float:
        """Share of all that is done, from 0 to 1."""
        left = sum(map(float.__mul__, self._left, self._expected))
        return 1 - left / sum(self._expected)

    @property
    def left(self) -> float:
        """Seconds left, about."""
        each = [
            left * seconds * self._factor(kind)
            for left, seconds, kind in zip(self._left, self._expected, self._kinds, strict=True)
        ]
        return max(sum(each) / self._workers, max(each, default=0.0))

    def _factor(self, kind: str) -> float:
        """How much longer than expected jobs of a kind take; if none has run yet, all jobs."""
        of_kind = [took for job, took in self._took.items() if self._kinds[job] == kind]
        for took in (of_kind, list(self._took.values())):
            if (expected := sum(e for _, e in took)) > 0:
                return sum(seconds for seconds, _ in took) / expected
        return 1.0


def duration(seconds: float) -> str:
    """About how long, in words.

    Examples
    --------
    >>> duration(20), duration(200), duration(20_000), duration(2e6)
    ('under a minute', 'about 3 min', 'about 5.6 h', 'about 23 days')
    """
    if seconds < 60:
        return "under a minute"
    if seconds < 5400:
        return f"about {seconds / 60:.0f} min"
    days = seconds / 86400
    return f"about {24 * days:.1f} h" if days < 2 else f"about {days:,.0f} days"
