"""What the study of the early phase shows: starts beside rewinding, and the paper's claims."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from weightcast.experiments.comparing import UNCLEAR, compare
from weightcast.experiments.early_phase_numbers import Outcome
from weightcast.experiments.early_phase_starts import (
    INITIAL,
    OTHERS,
    REWOUND,
    SHUFFLES,
    SIGNS,
    Start,
)
from weightcast.experiments.summary import Spread
from weightcast.experiments.wording import count, percent, spread

_BETTER = {1: "better than rewinding", -1: "worse than rewinding", 0: UNCLEAR, None: "not judged"}


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper's, as comparisons of sparse networks.

    Attributes
    ----------
    text : str
    starts : tuple of Start
        Each is compared.
    over : Start
        With what.
    direction : {1, -1}
        The paper's: better, worse.
    """

    text: str
    starts: tuple[Start, ...]
    over: Start
    direction: int


ROTATION = next(start for start in OTHERS if start.kind == "rotation")
CLAIMS = (
    Claim(
        "deeper networks such as ResNets must be rewound to an early step, not to the initial "
        "weights (section 1)",
        (REWOUND,),
        INITIAL,
        1,
    ),
    Claim(
        "they do not bear random magnitudes under the right signs (abstract)", (SIGNS,), REWOUND, -1
    ),
    Claim(
        "after a few hundred steps weights depend on each other: they cannot be permuted "
        "(abstract)",
        SHUFFLES,
        REWOUND,
        -1,
    ),
    Claim(
        "self-supervised training first approximates what supervised training does (abstract)",
        (ROTATION,),
        INITIAL,
        1,
    ),
    Claim("labels make it much faster (abstract)", (ROTATION,), REWOUND, -1),
)


@dataclass(frozen=True)
class Judged:
    """A comparison of a claim, at one step.

    Attributes
    ----------
    claim : Claim
    start : Start
    k : int
    gain : Spread
        In accuracy, by seed: of sparse networks.
    dense : Spread
        The same of dense ones.
    verdict : str
        "reproduced" if ours has the paper's direction beyond the range over seeds, see
        `claims.compare`; "not reproduced" if it has the other one; else that neither is.
    """

    claim: Claim
    start: Start
    k: int
    gain: Spread
    dense: Spread
    verdict: str


def judge(outcome: Outcome) -> Iterator[Judged]:
    """Every comparison of every claim at every step that was run."""
    for claim in CLAIMS:
        for start in claim.starts:
            for k in outcome.steps:
                sparse, dense = (
                    outcome.gain(start.name, k, sparse=sparse, over=claim.over.name)
                    for sparse in (True, False)
                )
                if sparse.by_seed:
                    found = _direction(outcome, start, claim.over, k, sparse=True)
                    yield Judged(claim, start, k, sparse, dense, _verdict(claim, found))


def _verdict(claim: Claim, found: int | None) -> str:
    if found is None:
        return "one seed: not judged"
    if found == 0:
        return UNCLEAR
    return "reproduced" if found == claim.direction else "not reproduced"


def _direction(outcome: Outcome, start: Start, over: Start, k: int, *, sparse: bool) -> int | None:
    ours, theirs = (outcome.accuracy(one.name, k, sparse=sparse) for one in (start, over))
    return compare(ours, theirs, fewer=False)


def against_rewound(outcome: Outcome, name: str, k: int, *, sparse: bool) -> str:
    """In words: whether a start is better or worse than rewinding, beyond the range over seeds."""
    ours, theirs = (outcome.accuracy(one, k, sparse=sparse) for one in (name, REWOUND.name))
    return _BETTER[compare(ours, theirs, fewer=False)]


def sentences(outcome: Outcome) -> Iterator[str]:
    """What the numbers say, step by step, of dense and of sparse networks."""
    for k in outcome.steps:
        for sparse in (False, True):
            yield from _standing(outcome, k, sparse=sparse)
            yield from _learned(outcome, k, sparse=sparse)
    failed = [row for row in outcome.rows if row.diverged]
    if failed:
        yield f"{len(failed)} of {len(outcome.rows)} runs diverged; their curves go on level."


def _place(k: int, sparse: bool) -> str:
    return f"From step {count(k)}, {'sparse' if sparse else 'dense'}"


def _standing(outcome: Outcome, k: int, *, sparse: bool) -> Iterator[str]:
    """Which starts are better and worse than rewinding."""
    groups: dict[str, list[str]] = {}
    for name in outcome.starts(sparse=sparse):
        if name != REWOUND.name and outcome.gain(name, k, sparse=sparse).by_seed:
            groups.setdefault(against_rewound(outcome, name, k, sparse=sparse), []).append(name)
    said = [f"{word}: {'; '.join(groups[word])}" for word in _BETTER.values() if word in groups]
    if said:
        yield (
            f"{_place(k, sparse)}. " + ". ".join(part[0].upper() + part[1:] for part in said) + "."
        )


def _learned(outcome: Outcome, k: int, *, sparse: bool) -> Iterator[str]:
    """How well other tasks were learned."""
    said = []
    for name in outcome.starts(sparse=sparse):
        learned = outcome.numbers("learned", name, k, sparse=sparse)
        if learned.by_seed:
            said.append(f"{name} {spread(learned, percent)}")
    if said:
        yield f"{_place(k, sparse)}, accuracy in the task that came first: {'; '.join(said)}."
