"""When one arm is better than another, over the seeds."""

from __future__ import annotations

import math
from statistics import median
from typing import Final

from weightcast.experiments.summary import BEST, ArmSummary, Spread, Summary

Groups = dict[int | None, list[str]]  # words about arms, by what `compare` gave

UNCLEAR: Final = "no difference beyond the range over seeds"
FALL = 0.05  # of accuracy, from a run's best to its end: it has lost what it had learned


def in_groups(groups: Groups, better: str, worse: str) -> str:
    """What is better, no different, worse and not judged, in words.

    Examples
    --------
    >>> in_groups({-1: ["c"], 1: ["a", "b"]}, "higher", "lower")
    'higher: a, b; lower: c'
    """
    words = {1: better, -1: worse, 0: UNCLEAR, None: "one seed, not judged"}
    return "; ".join(f"{word}: {', '.join(groups[k])}" for k, word in words.items() if k in groups)


def race(summary: Summary, name: str) -> tuple[Spread, Spread]:
    """Steps to plain's best accuracy, of an arm and of plain, in the seeds that decide it.

    Parameters
    ----------
    summary : Summary
        With both arms.
    name : str
        Of an arm.

    Returns
    -------
    ours, plain : Spread
        Without the seeds that `undecided` names.
    """
    ours, plain = (summary.arms[arm].targets[BEST].steps for arm in (name, "plain"))
    early = undecided(summary, name, ours, plain)
    return ours.without(early), plain.without(early)


def undecided(summary: Summary, name: str, ours: Spread, plain: Spread) -> set[int]:
    """Seeds in which an arm came to a level as plain did, before its first jump.

    Until then both are the same run: that they came to it in as many steps says nothing of jumps.

    Parameters
    ----------
    summary : Summary
    name : str
        Of an arm; of one that does not jump, or has another learning rate, there are none.
    ours, plain : Spread
        Steps to the level.

    Returns
    -------
    set of int
    """
    arm = next((arm for arm in summary.set.entry.arms if arm.name == name), None)
    if arm is None or not arm.jumps or arm.schedule != "own":
        return set()
    return {s for s, step in ours.by_seed.items() if step == plain[s] < arm.jumps[0]}


def falls(arm: ArmSummary) -> list[int]:
    """Seeds whose run ended far below its own best accuracy."""
    return [seed for seed, best in arm.best.by_seed.items() if best - arm.final[seed] > FALL]


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
