"""What the runs of the study of the early phase come to: gathered, and beside rewinding to k.

::

    RESULTS/early-phase/NETWORK/*.json --gather--> DOCS/early-phase/NETWORK.json --read--> Outcome
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from weightcast.experiments.early_phase_runs import FOLDER
from weightcast.experiments.early_phase_starts import REWOUND, STARTS
from weightcast.experiments.imp_protocols import PROTOCOLS, Protocol
from weightcast.experiments.kept import required
from weightcast.experiments.summary import Spread
from weightcast.store import FormatError

VERSION = 1
_DIGITS = 5  # of what documents keep; ten thousand test images give four
_NUMBERS = ("seed", "k", "remaining", "accuracy", "before", "moved", "change", "learned")
_MAY_LACK = ("moved", "change", "learned")


@dataclass(frozen=True)
class Row:
    """A run.

    Attributes
    ----------
    start : str
        Name of its start.
    sparse : bool
    seed, k : int
    remaining : float
        Share of the weights that are not pruned.
    accuracy, before : float
        On the test images, after the last step and before step k.
    moved, change : float or None
        Distance of the start from the recorded step k, and of that from step 0; None if it is not
        finite, as another task that was trained before diverged.
    learned : float or None
        Accuracy in another task, where one was trained.
    diverged : str
        How training failed; or nothing.
    """

    start: str
    sparse: bool
    seed: int
    k: int
    remaining: float
    accuracy: float
    before: float
    moved: float | None
    change: float | None
    learned: float | None
    diverged: str


@dataclass(frozen=True)
class Outcome:
    """The runs of one network, at one length.

    Attributes
    ----------
    network, budget : str
        Of `imp_protocols.PROTOCOLS`.
    about : str
        What the data are.
    rows : tuple of Row
    """

    network: str
    budget: str
    about: str
    rows: tuple[Row, ...]

    @property
    def protocol(self) -> Protocol:
        """How it was trained."""
        return PROTOCOLS[self.network, self.budget]

    @property
    def folder(self) -> str:
        """Name of its folder of results, and of its file of numbers."""
        return self.protocol.experiment.folder

    @cached_property
    def seeds(self) -> list[int]:
        """That were run."""
        return sorted({row.seed for row in self.rows})

    @cached_property
    def steps(self) -> list[int]:
        """That runs begin at."""
        return sorted({row.k for row in self.rows})

    def starts(self, *, sparse: bool | None = None) -> list[str]:
        """Names of the starts that were run, with any network or such, as they are listed."""
        there = {row.start for row in self.rows if sparse in (None, row.sparse)}
        return [start.name for start in STARTS if start.name in there]

    def numbers(self, what: str, start: str, k: int, *, sparse: bool) -> Spread:
        """One number of a start's runs, by seed; without those that have none."""
        wanted = (start, k, sparse)
        found = {
            row.seed: getattr(row, what)
            for row in self.rows
            if (row.start, row.k, row.sparse) == wanted
        }
        return Spread({seed: found[seed] for seed in sorted(found) if found[seed] is not None})

    def accuracy(self, start: str, k: int, *, sparse: bool) -> Spread:
        """On the test images, after the last step."""
        return self.numbers("accuracy", start, k, sparse=sparse)

    def gain(self, start: str, k: int, *, sparse: bool, over: str = REWOUND.name) -> Spread:
        """What a start gains in accuracy over another, of the same seed and step."""
        ours, theirs = (self.accuracy(name, k, sparse=sparse) for name in (start, over))
        return ours.less(theirs)


def gather(results: Path) -> dict[str, Outcome]:
    """The runs in a folder of results, by the name of the folder that theirs is called.

    Raises
    ------
    FormatError
        If a file is not the result of a run.
    """
    found = {}
    for network, budget in PROTOCOLS:
        folder = PROTOCOLS[network, budget].experiment.folder
        paths = sorted((results / FOLDER / folder).glob("[!.]*.json"))
        if paths:
            found[folder] = _outcome(network, budget, [(p, required(p)) for p in paths])
    return found


def _outcome(network: str, budget: str, files: Sequence[tuple[Path, Mapping[str, Any]]]) -> Outcome:
    rows, abouts, length = [], set(), PROTOCOLS[network, budget].experiment.steps
    for path, numbers in files:
        try:
            accuracy, steps = numbers["accuracy"], numbers["steps"]
            rows.append(_row({**numbers, "accuracy": accuracy[-1], "before": accuracy[0]}))
            abouts.add(str(numbers["about"]))
            if steps[-1] != length:
                raise ValueError(f"it has {steps[-1]} steps, not {length}: run it again")
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise FormatError(f"{path} is not the result of a run: {error}") from error
    if len(abouts) > 1:
        raise FormatError(
            f"runs in {files[0][0].parent} must be of the same data: they are of "
            f"{' and of '.join(sorted(abouts))}"
        )
    return Outcome(network, budget, abouts.pop(), tuple(_sorted(rows)))


def _row(numbers: Mapping[str, Any]) -> Row:
    given = {name: numbers[name] for name in _NUMBERS}
    for name, value in given.items():
        if not isinstance(value, int | float) and not (name in _MAY_LACK and value is None):
            raise TypeError(f"{name} must be a number: got {value!r}")
        if isinstance(value, float):
            given[name] = float(f"{value:.{_DIGITS}g}")
    return Row(
        start=str(numbers["start"]),
        sparse=bool(numbers["sparse"]),
        diverged=str(numbers["diverged"]),
        **given,
    )


def compact(outcome: Outcome) -> str:
    """The text of a document's file of numbers: a line a run."""
    head = {"version": VERSION, "network": outcome.network, "budget": outcome.budget}
    rows = [json.dumps(row.__dict__, sort_keys=True) for row in outcome.rows]
    first = json.dumps({**head, "about": outcome.about})[:-1]
    return f'{first}, "runs": [\n' + ",\n".join(rows) + "\n]}\n"


def expand(path: Path) -> Outcome:
    """Read what `compact` wrote.

    Raises
    ------
    FormatError
        If it is damaged, or of a version that this weightcast does not know.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["version"] != VERSION:
            raise ValueError(f"the version is not {VERSION}: make it again")
        network, budget = str(found["network"]), str(found["budget"])
        if (network, budget) not in PROTOCOLS:
            raise ValueError(f"no network {network!r} at budget {budget!r}")
        return Outcome(network, budget, str(found["about"]), tuple(map(_row, found["runs"])))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FormatError(f"{path} does not hold numbers of early-phase: {error}") from error


def _sorted(rows: Sequence[Row]) -> list[Row]:
    place = {start.name: i for i, start in enumerate(STARTS)}
    return sorted(rows, key=lambda r: (r.k, r.sparse, place.get(r.start, len(place)), r.seed))
