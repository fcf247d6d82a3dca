"""What a paper claims, beside what we measured."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import Final, Literal

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
]

UNCLEAR: Final = "no difference beyond the range over seeds"


@dataclass(frozen=True)
class Judged:
    """A claim beside our runs.

    Attributes
    ----------
    claim : Claim
    ours, plain : Spread
        What the arm and the plain run of the same seeds measured.
    gain : Spread
        What the arm gained over plain, by seed: accuracy, or the share of plain's steps less.
    claimed : float or None
        The same of the paper, where it gives plain's number too.
    verdict : str
        See `judge`.
    """

    claim: Claim
    ours: Spread
    plain: Spread
    gain: Spread
    claimed: float | None
    verdict: Verdict


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
    The rule: the paper says that an arm is better than plain, or worse, by its own two numbers;
    better if it has only one. Ours is better, or worse, beyond the range over seeds as `compare`
    says it. The claim is

    - "reproduced" if the directions are the same;
    - "not reproduced" if ours is the other one, or of a level that plain reached and no seed of the
      arm did;
    - "no difference beyond the range over seeds" if ours has no direction;
    - not judged of a level that nothing reached, nor, where both arms have a number, below two
      seeds that have both.

    A claim on plain itself has no direction: the words say where ours stands to it.
    """
    plain = measured(claim, summary.arms.get("plain"))
    ours = measured(claim, summary.arms.get(claim.arm))
    sooner = claim.measure.startswith("steps")
    if claim.arm == "plain":
        nothing = Spread({})
        return Judged(claim, ours, plain, nothing, None, _standing(claim.value, ours, sooner))
    found = compare(ours, plain, fewer=sooner)
    direction, size = _direction(claim, summary)
    verdict: Verdict = UNCLEAR
    if not ours.by_seed:
        verdict = "not run"
    elif sooner and not ours.reached:
        verdict = "not reproduced" if plain.reached else "level not reached, nor by plain"
    elif found is None:
        verdict = "one seed: not judged"
    elif found == direction:
        verdict = "reproduced"
    elif found:
        verdict = "not reproduced"
    return Judged(claim, ours, plain, _gain(ours, plain, sooner), size, verdict)


def compare(ours: Spread, plain: Spread, *, fewer: bool) -> int | None:
    """Whether an arm is better than another, beyond the range over the seeds.

    It is if its median gain over the other, in runs of the same seed, is larger than the range of
    the gains, from the least to the most. In three seeds, chance alone gets there about once in
    ten times, in two once in three.

    Parameters
    ----------
    ours, plain : Spread
        Of the seeds that both have, the others are left out.
    fewer : bool
        Whether less is better: then the gain is the share of the later one's that is saved.

    Returns
    -------
    {1, 0, -1} or None
        Better, neither, worse; None with fewer than two seeds.

    Examples
    --------
    >>> ours, plain = Spread({1: 0.97, 2: 0.99}), Spread({1: 0.95, 2: 0.96})
    >>> compare(ours, plain, fewer=False), compare(ours, plain, fewer=True)
    (1, -1)
    >>> compare(ours, Spread({1: 0.96, 2: 0.96}), fewer=False)
    0
    """
    both = [seed for seed in ours.by_seed if seed in plain.by_seed]
    if len(both) < 2:
        return None
    gains = [_saved(ours[s], plain[s]) if fewer else ours[s] - plain[s] for s in both]
    middle = median(gains)
    beyond = abs(middle) > max(gains) - min(gains)
    return ((middle > 0) - (middle < 0)) if beyond else 0


def _saved(ours: float, plain: float) -> float:
    """The share of the later one's steps that is saved, from 1 (plain never gets there) to -1.

    Of the later one's, so that a gain is no larger than the loss that it is for the other.
    """
    if ours == plain:
        return 0.0
    later = max(ours, plain)
    return (plain - ours) / later if later < math.inf else math.copysign(1, plain - ours)


def measured(claim: Claim, arm: ArmSummary | None) -> Spread:
    """What an arm measured of what a claim is about; empty if it was not run."""
    if arm is None:
        return Spread({})
    if claim.measure == "steps to plain's best":
        return arm.targets[BEST].steps
    if claim.measure == "steps to accuracy":
        return arm.targets[level_name(claim.at)].steps
    if claim.measure == "accuracy":
        return over(arm.traces, lambda t: held(t.accuracy)[_at(t, claim.at)])
    known = {seed: trace for seed, trace in arm.traces.items() if trace.top5}
    return over(known, lambda t: held(t.top5)[_at(t, claim.at)])


def _at(trace: Trace, step: float) -> int:
    """Place of the last evaluation up to a step."""
    return max((i for i, s in enumerate(trace.steps) if s <= step), default=0)


def _gain(ours: Spread, plain: Spread, sooner: bool) -> Spread:
    if not sooner:
        return ours.less(plain)
    return Spread({seed: 1 - share for seed, share in ours.of(plain).by_seed.items()})


def _direction(claim: Claim, summary: Summary) -> tuple[int, float | None]:
    """What the paper says of an arm against plain, and by how much if it gives both numbers."""
    same = (c for c in summary.set.entry.claims if (c.measure, c.at) == (claim.measure, claim.at))
    plain = next((c.value for c in same if c.arm == "plain"), None)
    if plain is None:
        return 1, None
    steps = claim.measure.startswith("steps")
    size = 1 - claim.value / plain if steps else claim.value - plain
    return (size > 0) - (size < 0), size


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
