"""What the rounds of pruning say, in plain sentences, good or bad."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from weightcast.experiments.comparing import compare
from weightcast.experiments.imp_dense import DENSE
from weightcast.experiments.imp_numbers import Imp, step_of
from weightcast.experiments.wording import points, spread

_WORDS = {1: "better", 0: "no different beyond the range over seeds", -1: "worse"}


def share(remaining: float) -> str:
    """Of the weights that remain.

    Examples
    --------
    >>> share(0.8**8)
    '16.8 %'
    """
    return f"{100 * remaining:.1f} %"


def findings(imp: Imp) -> list[str]:
    """What the numbers say."""
    matched = [f"{line}: {matches(imp, line)}." for line in imp.rewound]
    return [*matched, *_later_steps(imp), *_controls(imp), *_diverged(imp)]


def matches(imp: Imp, line: str) -> str:
    """How far a line's sub-networks match the dense network."""
    last = imp.matching(line)
    if last is None:
        return "not judged, as that takes two seeds"
    until = f"matches the dense network down to {share(imp.remaining[last])}" if last else ""
    following = last + 1
    if not imp.at_end(line, following).by_seed:
        return f"{until} of the weights, the fewest that were tried"
    if imp.against_dense(line, following) is None:
        return f"{until} of the weights; with fewer there are no two seeds"
    less = spread(imp.at_end(line, following).less(imp.dense), points)
    worse = f"with {share(imp.remaining[following])} it is worse, {less}"
    if not last:
        return f"does not match the dense network: {worse}"
    return f"{until} of the weights; {worse}"


def _later_steps(imp: Imp) -> Iterator[str]:
    """Whether rewinding to a later step gains anything, where the fewest weights remain."""
    for early, late in pairwise(imp.rewound):
        both = [n for n in imp.remaining if all(imp.at_end(x, n).by_seed for x in (early, late))]
        if both and (found := _compared(imp, late, early, both[-1])):
            yield f"With {share(imp.remaining[both[-1]])} of the weights, {late} is {found}."


def _compared(imp: Imp, ours: str, other: str, number: int) -> str:
    """A line beside another, in a round; empty if there are no two seeds."""
    a, b = imp.at_end(ours, number), imp.at_end(other, number)
    found = compare(a, b, fewer=False)
    if found is None:
        return ""
    than = "from" if found == 0 else "than"
    return f"{_WORDS[found]} {than} {other}: {spread(a.less(b), points)}"


def _controls(imp: Imp) -> Iterator[str]:
    """How often a control is worse than the line whose masks it has."""
    for line in imp.lines:
        own = f"rewind {step_of(line)}"
        if line in imp.rewound or own not in imp.rewound:
            continue
        found = [
            compare(imp.at_end(line, n), imp.at_end(own, n), fewer=False) for n in imp.remaining
        ]
        judged = [one for one in found if one is not None]
        if judged:
            yield (
                f"{line}, against {own}: of {len(judged)} shares of the weights, it is worse at "
                f"{judged.count(-1)}, better at {judged.count(1)}, and at {judged.count(0)} there "
                "is no difference beyond the range over seeds."
            )


def _diverged(imp: Imp) -> Iterator[str]:
    for run in imp.rounds:
        if run.diverged:
            where = run.line if run.line == DENSE else f"{run.line}, round {run.round}"
            yield f"{where}, seed {run.seed}: {run.diverged}."
