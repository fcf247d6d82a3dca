"""What a paper claims, beside what we measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from weightcast.experiments.comparing import UNCLEAR, compare, undecided
from weightcast.experiments.experiment import Claim
from weightcast.experiments.results import Trace
from weightcast.experiments.summary import (
    BEST,
    ArmSummary,
    Spread,
    Summary,
    held,
    level_name,
    over,
)

Verdict = Literal[
    "reproduced",
    "not reproduced",
    "no difference beyond the range over seeds",
    "one seed: not judged",
    "not run",
    "ours is higher",
    "ours is lower",
    "ours is sooner",
    "ours is later",
    "ours is the same",
    "not reached",
    "level not reached, nor by plain",
    "not decided",
    "a difference, where the paper has next to none",
]

APART = 0.01  # of accuracy, between our plain runs and the paper's
LEAST = 0.001  # of accuracy, that a paper's difference must have to be one: ten of 10,000 images


@dataclass(frozen=True)
class Judged:
    """A claim beside our runs.

    Attributes
    ----------
    claim : Claim
    ours, plain : Spread
        What the arm and the plain run of the same seeds measured.
    gain : Spread
        What the arm gained over plain, by seed: accuracy, or the share of plain's steps less;
        without the seeds that `undecided` names.
    claimed : float or None
        The same of the paper, where it gives plain's number too.
    verdict : str
        See `judge`.
    off : float or None
        How much more accurate our plain is than the paper's, of a claim on another arm's accuracy.
    undecided : int
        How many seeds `undecided` names.
    """

    claim: Claim
    ours: Spread
    plain: Spread
    gain: Spread
    claimed: float | None
    verdict: Verdict
    off: float | None = None
    undecided: int = 0

    @property
    def limits(self) -> list[str]:
        """What a reader must know of the verdict."""
        texts = []
        if self.undecided:
            texts.append(
                f"plain was there before the first jump in {self.undecided} of "
                f"{len(self.ours.by_seed)} seeds"
            )
        if self.off is not None and abs(self.off) > APART:
            side = "above" if self.off > 0 else "below"
            texts.append(f"our plain is {100 * abs(self.off):.2f} points {side} the paper's")
        return texts


def judge(claim: Claim, summary: Summary) -> Judged:
    """Whether a claim reproduces, in direction.

    Parameters
    ----------
    claim : Claim
    summary : Summary
        Of the claim's experiment.

    Returns
    -------
    Judged

    Notes
    -----
    The rule: the paper says that an arm is better than plain, or worse, by its own two numbers, or
    neither if they are accuracies less than 0.1 points apart; better if it has only one. Ours is
    better, or worse, beyond the range over seeds as `compare` says it. The claim is

    - "reproduced" if the directions are the same;
    - "a difference, where the paper has next to none" if ours has one and the paper's has not;
    - "not reproduced" if ours is the other one, or of a level that plain reached and no seed of the
      arm did;
    - "no difference beyond the range over seeds" if ours has no direction;
    - not judged of a level that nothing reached; nor, where both arms have a number, below two
      seeds that have both: "not decided" if that is so because `undecided` leaves seeds out.

    A claim on plain itself has no direction: the words say where ours stands to it.
    """
    plain = measured(claim, summary.arms.get("plain"))
    ours = measured(claim, summary.arms.get(claim.arm))
    sooner = claim.measure.startswith("steps")
    if claim.arm == "plain":
        nothing = Spread({})
        return Judged(claim, ours, plain, nothing, None, _standing(claim.value, ours, sooner))
    early = undecided(summary, claim.arm, ours, plain) if sooner else set()
    found = compare(ours.without(early), plain, fewer=sooner)
    direction, theirs = _direction(claim, summary)
    size = _size(claim, theirs)
    verdict: Verdict = UNCLEAR
    if not ours.by_seed:
        verdict = "not run"
    elif sooner and not ours.reached:
        verdict = "not reproduced" if plain.reached else "level not reached, nor by plain"
    elif found is None:
        verdict = "not decided" if early else "one seed: not judged"
    elif found == direction:
        verdict = "reproduced"
    elif found:
        verdict = (
            "not reproduced" if direction else "a difference, where the paper has next to none"
        )
    gain = _gain(ours.without(early), plain, sooner)
    off = None if sooner or theirs is None or plain.median is None else plain.median - theirs
    return Judged(claim, ours, plain, gain, size, verdict, off, len(early))


def measured(claim: Claim, arm: ArmSummary | None) -> Spread:
    """What an arm measured of what a claim is about; empty if it was not run."""
    if arm is None:
        return Spread({})
    if claim.measure == "steps to plain's best":
        return arm.targets[BEST].steps
    if claim.measure == "steps to accuracy":
        return arm.targets[level_name(claim.at)].steps
    if claim.measure == "accuracy":
        return accuracy_at(arm.traces, claim.at)
    known = {seed: trace for seed, trace in arm.traces.items() if trace.top5}
    return over(known, lambda t: held(t.top5)[_at(t, claim.at)])


def accuracy_at(traces: Mapping[int, Trace], step: float) -> Spread:
    """Accuracy after so many steps."""
    return over(traces, lambda t: held(t.accuracy)[_at(t, step)])


def what(claim: Claim) -> str:
    """What a claim is about.

    Examples
    --------
    >>> what(Claim("plain", "steps to accuracy", 6000, 0.9911))
    'steps to 99.11 %'
    >>> what(Claim("plain", "accuracy", 0.95, 15_000))
    'accuracy at step 15,000'
    """
    if claim.measure == "steps to accuracy":
        return f"steps to {level_name(claim.at)}"
    if claim.measure == "steps to plain's best":
        return claim.measure
    return f"{claim.measure} at step {claim.at:,.0f}"


def _at(trace: Trace, step: float) -> int:
    """Place of the last evaluation up to a step."""
    return max((i for i, s in enumerate(trace.steps) if s <= step), default=0)


def _gain(ours: Spread, plain: Spread, sooner: bool) -> Spread:
    if not sooner:
        return ours.less(plain)
    return Spread({seed: 1 - share for seed, share in ours.of(plain).by_seed.items()})


def _direction(claim: Claim, summary: Summary) -> tuple[int, float | None]:
    """What the paper says of an arm against plain, and plain's number if it gives it."""
    same = (c for c in summary.set.entry.claims if (c.measure, c.at) == (claim.measure, claim.at))
    plain = next((c.value for c in same if c.arm == "plain"), None)
    size = _size(claim, plain)
    if size is None:
        return 1, plain
    slight = not claim.measure.startswith("steps") and abs(size) < LEAST
    return 0 if slight else (size > 0) - (size < 0), plain


def _size(claim: Claim, plain: float | None) -> float | None:
    """What the paper's arm gained over its plain one."""
    if plain is None:
        return None
    return 1 - claim.value / plain if claim.measure.startswith("steps") else claim.value - plain


def _standing(paper: float, ours: Spread, sooner: bool) -> Verdict:
    """Where our plain runs stand to the paper's one."""
    if not ours.by_seed:
        return "not run"
    if not ours.reached:
        return "not reached"
    if ours.low <= paper <= ours.high < math.inf:
        return "ours is the same"
    if sooner:
        return "ours is sooner" if ours.high < paper else "ours is later"
    return "ours is higher" if ours.low > paper else "ours is lower"
