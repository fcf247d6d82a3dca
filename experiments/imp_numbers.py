"""What pruning with rewinding came to: from the files of rounds to accuracies over the seeds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from weightcast.experiments.comparing import compare
from weightcast.experiments.imp_dense import DENSE, FOLDER
from weightcast.experiments.imp_protocols import PROTOCOLS, Protocol
from weightcast.experiments.kept import keep, required
from weightcast.experiments.summary import Spread
from weightcast.store import FormatError, InputNotFoundError

ENTRIES = {protocol.experiment.folder: protocol for protocol in PROTOCOLS.values()}
_LINE = re.compile(rf"{DENSE}|(rewind|random re-init|random pruning) (\d{{1,9}})")


@dataclass(frozen=True)
class Round:
    """A run: of a line, with one seed, in one round; the dense run is round 0.

    Attributes
    ----------
    line : str
        "dense", or of a chain: "rewind 500", "random re-init 500", "random pruning 500".
    seed, round : int
    remaining : float
        Share of the weights that masks are made for that remain.
    steps : list of int
        Of the evaluations, counted from the first step of the dense run.
    accuracy : list of float
        On the test images, from 0 to 1.
    seconds : float
        Processor seconds of training.
    diverged : str
        Where training diverged, and how; empty if it did not.
    """

    line: str
    seed: int
    round: int
    remaining: float
    steps: list[int]
    accuracy: list[float]
    seconds: float
    diverged: str

    @classmethod
    def of(cls, numbers: Mapping[str, Any], place: Path) -> Round:
        """Of a file's numbers.

        Raises
        ------
        FormatError
            If they are not those of a round.
        """
        try:
            found = cls(
                line=str(numbers["line"]),
                seed=int(numbers["seed"]),
                round=int(numbers["round"]),
                remaining=float(numbers["remaining"]),
                steps=[int(step) for step in numbers["steps"]],
                accuracy=[float(accuracy) for accuracy in numbers["accuracy"]],
                seconds=float(numbers["seconds"]),
                diverged=str(numbers["diverged"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise FormatError(f"{place} is not of a round of pruning: {error!r}") from error
        curve = 0 < len(found.accuracy) == len(found.steps)
        if not (_LINE.fullmatch(found.line) and curve and 0 < found.remaining <= 1):
            raise FormatError(f"{place} is not of a round of pruning: got line {found.line!r:.60}")
        return found


@dataclass(frozen=True)
class Imp:
    """All runs of a network at one length.

    Attributes
    ----------
    protocol : Protocol
        As it is now.
    about : str
        What the data are.
    experiment : mapping
        What was run, as JSON.
    rounds : tuple of Round
    """

    protocol: Protocol
    about: str
    experiment: Mapping[str, Any]
    rounds: tuple[Round, ...]

    @property
    def folder(self) -> str:
        """Name of its folder of results, and of its files in the document."""
        return self.protocol.experiment.folder

    @cached_property
    def lines(self) -> list[str]:
        """Those that there are but for the dense one: by the step rewound to; then controls."""
        return sorted({run.line for run in self.rounds} - {DENSE}, key=_place)

    @property
    def rewound(self) -> list[str]:
        """Those that are no controls."""
        return [line for line in self.lines if line.startswith("rewind")]

    @cached_property
    def remaining(self) -> dict[int, float]:
        """Share of the weights that remain, by round; the same of every line."""
        return {n: share for n, share in sorted((r.round, r.remaining) for r in self.rounds) if n}

    @property
    def seeds(self) -> list[int]:
        """All that a line was run with."""
        return sorted({run.seed for run in self.rounds})

    def at_end(self, line: str, number: int) -> Spread:
        """Accuracy at the last step of a round, by seed."""
        here = (run for run in self.rounds if (run.line, run.round) == (line, number))
        return Spread({run.seed: run.accuracy[-1] for run in here})

    @cached_property
    def dense(self) -> Spread:
        """Accuracy of the dense network at its last step, by seed."""
        return self.at_end(DENSE, 0)

    def against_dense(self, line: str, number: int) -> int | None:
        """Whether a line's networks are better (1) or worse (-1) than the dense one, or neither."""
        return compare(self.at_end(line, number), self.dense, fewer=False)

    def matching(self, line: str) -> int | None:
        """The last round up to which none was worse than the dense network: 0 if the first was.

        None if they were not judged, for want of seeds.
        """
        last = 0
        for number in self.remaining:
            found = self.against_dense(line, number)
            if found is None:
                return last or None
            if found < 0:
                return last
            last = number
        return last

    def missing(self) -> Iterator[str]:
        """Runs that other seeds have."""
        for line in (DENSE, *self.lines):
            runs = [run for run in self.rounds if run.line == line]
            rounds = len({run.round for run in runs})
            for seed in self.seeds:
                if lacking := rounds - sum(run.seed == seed for run in runs):
                    yield f"{line} with seed {seed} ({lacking} of {rounds})"


def gather(results: Path) -> dict[str, dict[str, Any]]:
    """The numbers in a folder of results, by network and length: what the document is made from.

    Networks without a dense run are left out.

    Raises
    ------
    FormatError
        If a file is damaged.
    """
    found = {}
    for name in ENTRIES:
        home = results / FOLDER / name
        dense = sorted(home.glob(f"{DENSE}-seed*.json"))
        if not dense:
            continue
        paths = [*dense, *sorted(home.glob("*-seed*/round-*.json"))]
        rounds = [Round.of(required(path), path) for path in paths]
        rounds.sort(key=lambda run: (_place(run.line), run.seed, run.round))
        first = required(dense[0])
        about = {key: first.get(key) for key in ("about", "experiment")}
        found[name] = {**about, "rounds": [vars(run) for run in rounds]}
    return found


def bring(results: Path, docs: Path) -> None:
    """Write the numbers of a folder of results to ``imp/NAME.json`` in `docs`.

    Raises
    ------
    InputNotFoundError
        If it has none.
    FormatError
        If a file is damaged.
    """
    found = gather(results)
    if not found:
        raise InputNotFoundError(f"no numbers of {FOLDER} in {results}: run it first")
    for name, numbers in found.items():
        keep(docs / FOLDER / f"{name}.json", {}, numbers)


def networks(numbers: Mapping[str, Mapping[str, Any]], place: Path) -> list[Imp]:
    """What `gather` found, checked."""
    found = []
    for name, one in numbers.items():
        rounds, experiment = one.get("rounds"), one.get("experiment")
        if not (isinstance(rounds, list) and isinstance(experiment, dict)):
            raise FormatError(f"{place}: {name} has no rounds of pruning, or no experiment")
        runs = tuple(Round.of(run, place / name) for run in rounds)
        found.append(Imp(ENTRIES[name], str(one.get("about")), experiment, runs))
    return found


def brought(docs: Path) -> list[Imp]:
    """What `bring` wrote.

    Raises
    ------
    FormatError
        If a file is damaged.
    """
    paths = {name: docs / FOLDER / f"{name}.json" for name in ENTRIES}
    there = {name: required(path) for name, path in paths.items() if path.exists()}
    return networks(there, docs / FOLDER)


def step_of(line: str) -> int:
    """The step that a line rewinds to, or whose masks it has.

    Examples
    --------
    >>> step_of("random pruning 500")
    500
    """
    return int(line.rpartition(" ")[2])


def _place(line: str) -> tuple[int, str, int]:
    """Of a line among others: dense, by the step rewound to, controls."""
    if line == DENSE:
        return (0, line, 0)
    way = line.rpartition(" ")[0]
    return (1 if way == "rewind" else 2, way, step_of(line))
