"""The passes of a sampling job, one after the other, and what the driver holds between them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from weightcast.store.choosing import (
    HIGHEST,
    KEY_BITS,
    LOWEST,
    Choice,
    Cut,
    Stage,
    census_of_keys,
    census_of_variations,
    count_chosen,
    stratify,
)
from weightcast.store.dataset_format import Origin, lay_out
from weightcast.store.errors import SchedulerError
from weightcast.store.parameters import ParameterTable
from weightcast.store.planning import SamplingPlan
from weightcast.store.radix import Bracket, Sparse, Tally
from weightcast.store.scanning import Work, candidate_bits, scan
from weightcast.store.scheduling import Progress, Workers
from weightcast.store.searching import Job as SearchJob
from weightcast.store.searching import Key, Label, search
from weightcast.store.writing import write_rows

DECODE, CUT, CHOOSE, WRITE = "decode", "cut strata", "choose", "write samples"
AT_ONCE = 2048  # tasks whose results are in memory, of up to 24 kB a stratum


@dataclass
class Job:
    """A plan at work: the passes, and what they find."""

    plan: SamplingPlan
    pool: Workers
    progress: Progress | None
    work: Work
    tasks: Mapping[int, list[int]] = field(init=False)

    def __post_init__(self) -> None:
        self._all = [(index,) for index in range(len(self.plan.tasks))]
        self.tasks = {s.run: [] for s in self.plan.sources}
        for index, task in enumerate(self.plan.tasks):
            self.tasks[task.run].append(index)

    def run(self) -> None:
        """Do all passes, and write the dataset."""
        choice = Choice(self._cuts(self._scan()))
        choice = replace(choice, last=self._last_keys(choice, self._stratify(choice)))
        stage, counts = Stage(self.work, choice), dict[int, int]()
        self._pass(CHOOSE, count_chosen, self._all, stage, _keep(counts))
        plan = self.plan
        tables = list(dict.fromkeys(source.table for source in plan.sources))
        origins = self._origins(choice, tables)
        lay_out(self.work.folder, plan.recipe, plan.dtype, plan.samples, origins, tables)
        first_rows = itertools.accumulate((counts[index] for (index,) in self._all), initial=0)
        rows = list(zip(range(len(counts)), first_rows, strict=False))
        self._pass(WRITE, write_rows, rows, stage)

    def _scan(self) -> dict[int, Tally]:
        """Decode: scratch files, and for each run counts of the variations' first digits."""
        tallies = {source.run: Tally() for source in self.plan.sources}

        def receive(task: tuple[int], counts: Sparse) -> None:
            tallies[self.plan.tasks[task[0]].run].add(counts)

        self._pass(DECODE, scan, self._all, self.work, receive)
        if not all(self.work.file(index, "kept").exists() for (index,) in self._all):
            raise SchedulerError(
                f"the workers must see the folder of the dataset: what they wrote to "
                f"{self.work.scratch} is not here; give a path on a shared file system"
            )
        return tallies

    def _cuts(self, tallies: Mapping[int, Tally]) -> dict[int, list[Cut]]:
        """Cuts between the strata of each run."""
        roots = {}
        for source in self.plan.sources:
            total = source.candidates
            for i, rank in enumerate(source.quota.cuts[1:-1]):
                if 0 < rank < total:
                    root = Bracket(candidate_bits(source), rank=total - rank, size=total)
                    roots[source.run, i] = root.narrowed(tallies[source.run].counts)
        located = self._search(CUT, census_of_variations, roots, Choice())
        return {
            source.run: [
                Cut(*located[source.run, i])
                if (source.run, i) in located
                else Cut(HIGHEST if not rank else LOWEST, 0)
                for i, rank in enumerate(source.quota.cuts[1:-1])
            ]
            for source in self.plan.sources
        }

    def _stratify(self, choice: Choice) -> dict[Label, Tally]:
        """For each stratum, counts of its kept keys' first digits.

        A run of which too few candidates were kept is scanned again, and all are kept.
        """
        tallies = self._tallies_of_keys(choice, self._all)
        short = frozenset(
            s.run
            for s in self.plan.sources
            for i, count in enumerate(s.quota.counts)
            if tallies[s.run, i].counts.sum() < count
        )
        if not short:
            return tallies
        self.work = replace(self.work, keep_all=short)
        again = [(index,) for run in short for index in self.tasks[run]]
        self._pass(DECODE, scan, again, self.work)
        return tallies | self._tallies_of_keys(choice, again)

    def _tallies_of_keys(self, choice: Choice, tasks: list[tuple[int]]) -> dict[Label, Tally]:
        tallies: dict[Label, Tally] = {}

        def receive(task: tuple[int], strata: list[Sparse]) -> None:
            for stratum, counts in enumerate(strata):
                label = (self.plan.tasks[task[0]].run, stratum)
                tallies.setdefault(label, Tally()).add(counts)

        self._pass(CHOOSE, stratify, tasks, Stage(self.work, choice), receive)
        return tallies

    def _last_keys(self, choice: Choice, tallies: Mapping[Label, Tally]) -> dict[Label, Key]:
        """The last chosen key of each stratum."""
        roots = {}
        for source in self.plan.sources:
            for i, count in enumerate(source.quota.counts):
                if count:
                    first = tallies[source.run, i].counts
                    root = Bracket(KEY_BITS, rank=count - 1, size=int(first.sum()))
                    roots[source.run, i] = root.narrowed(first)
        found = self._search(CHOOSE, census_of_keys, roots, choice)
        return {label: key for label, (key, _) in found.items()}

    def _search(
        self,
        what: str,
        census: Callable[..., Any],
        roots: dict[Label, Bracket],
        choice: Choice,
    ) -> dict[Label, Any]:
        stage = Stage(self.work, choice)

        def ask(jobs: Sequence[SearchJob], receive: Callable[[SearchJob, Any], None]) -> None:
            self._pass(what, census, jobs, stage, receive)

        return search(roots, self.tasks, ask)

    def _origins(self, choice: Choice, tables: list[ParameterTable]) -> list[Origin]:
        return [
            Origin(
                path=source.path,
                recorded=source.recorded,
                digest=source.digest,
                draws=source.quota.draws,
                candidates=tuple(source.quota.sizes),
                wanted=source.quota.wanted,
                samples=source.quota.counts,
                ties=(*(cut.ties for cut in choice.cuts[source.run]), 0),
                table=tables.index(source.table),
            )
            for source in self.plan.sources
        ]

    def _pass(
        self,
        what: str,
        function: Callable[..., Any],
        tasks: Sequence[Any],
        common: Any,
        receive: Callable[[Any, Any], object] = lambda task, result: None,
    ) -> None:
        """Run a function for each task; `receive` is given each task and its result.

        So that the results of many tasks are not in memory at once, some run after the others.
        """
        for start in range(0, len(tasks), AT_ONCE):
            part = tasks[start : start + AT_ONCE]
            progress = self._progress(start, len(tasks))
            results = self.pool.run(what, function, part, progress, common=common)
            for task, result in zip(part, results, strict=True):
                receive(task, result)

    def _progress(self, start: int, total: int) -> Progress | None:
        """Progress of some of the tasks, as that of all."""
        progress = self.progress
        if progress is None:
            return None
        return lambda what, done, _: progress(what, start + done, total)


def _keep(results: dict[int, Any]) -> Callable[[tuple[int], Any], None]:
    def receive(task: tuple[int], result: Any) -> None:
        results[task[0]] = result

    return receive
