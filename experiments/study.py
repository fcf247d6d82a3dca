"""A study: a question that takes chains of runs, planned as jobs that ``reproduce`` works off.

::

    Request --Study.plan--> jobs, and what they need --> RESULTS/NAME/*.json
                                     --Study.document--> DOCS/NAME/*.json --> DOCS/NAME.md, *.png

An `Experiment` compares arms of one run; a study's runs take up what others left: their masks,
their early weights, their cost.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weightcast.experiments.jobs import Place
    from weightcast.experiments.loading import Data
    from weightcast.experiments.queueing import Progress


@dataclass(frozen=True)
class Request:
    """What a user asks of a study.

    Attributes
    ----------
    networks : tuple of str
        Of `Study.networks`; empty for the first.
    seeds : int
        How many: 0, 1, ...
    budget : {"paper", "quick"}
        The length that the study names in its document, or a few steps, to see that it works.
    rewind : tuple of int
        Steps to rewind to; empty for the study's own.
    rounds : int, optional
        Of pruning; by default the study's own.
    """

    networks: tuple[str, ...] = ()
    seeds: int = 3
    budget: str = "paper"
    rewind: tuple[int, ...] = ()
    rounds: int | None = None


class StudyJob(ABC):
    """A job of a study: a frozen dataclass, so that equal jobs are one; it is pickled."""

    @property
    @abstractmethod
    def label(self) -> str:
        """Name for a reader: "imp, lenet, rewind 100, seed 0"."""

    @property
    @abstractmethod
    def kind(self) -> str:
        """Jobs of a kind take proportionally as long as each other."""

    @property
    @abstractmethod
    def seconds(self) -> float:
        """Roughly how long it takes on one core of 2025."""

    @property
    def needs(self) -> tuple[StudyJob, ...]:
        """Jobs that must be done before."""
        return ()

    @property
    @abstractmethod
    def data(self) -> set[str]:
        """Names of the data sets that it needs, of `loading.PLACES`."""

    @abstractmethod
    def made(self, data: Mapping[str, Data]) -> dict[str, Any]:
        """What its numbers depend on but for code, as JSON; see `kept`."""

    @abstractmethod
    def result(self, folder: Path) -> Path:
        """Its file, which is there when it is done."""

    @abstractmethod
    def perform(self, place: Place, progress: Progress) -> None:
        """Do it, as far as it is not done; progress is called with (done, total)."""


@dataclass(frozen=True)
class Study:
    """An entry of `studies.STUDIES`.

    Attributes
    ----------
    name : str
        As it is called on the command line.
    title : str
    paper : str
        Where it comes from.
    networks : tuple of str
        That it can be run with; the first one by default.
    options : frozenset of str
        Which of the options "network", "rewind" and "rounds" it takes.
    plan : callable
        A `Request` to jobs; refuses what cannot be with a UsageError.
    tables : callable
        A folder of results to what is printed: lines of text. Of what is there, of all networks.
    facts : callable
        The same as JSON.
    document : callable
        (RESULTS or None, DOCS): bring the numbers of RESULTS, if given, to DOCS/NAME/*.json, and
        make DOCS/NAME.md and its pictures of them; returns the path of the former. The same numbers
        give the same text, byte for byte.
    """

    name: str
    title: str
    paper: str
    networks: tuple[str, ...]
    options: frozenset[str]
    plan: Callable[[Request], Sequence[StudyJob]]
    tables: Callable[[Path], str]
    facts: Callable[[Path], Any]
    document: Callable[[Path | None, Path], Path]


def with_needs(jobs: Sequence[StudyJob], folder: Path | None = None) -> list[StudyJob]:
    """Jobs, each after what it needs; with a folder, only those that are not done there."""
    found: list[StudyJob] = []

    def take(job: StudyJob) -> None:
        if job in found or (folder is not None and job.result(folder).exists()):
            return
        for need in job.needs:
            take(need)
        found.append(job)

    for job in jobs:
        take(job)
    return found
