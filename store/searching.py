"""Searching for the keys of given ranks, where what is searched lies in many places.

::

    while a bracket holds many     each task counts the next digit of its keys; the sums narrow it
    then                           each task sends its keys in the bracket; they are sorted here
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from weightcast.store.radix import Bracket, Tally

COLLECTED = 1 << 18  # keys that are collected at once, of all brackets together

Label = tuple[int, int]  # run, and which cut or stratum of it
Key = tuple[int, ...]
Brackets = dict[Label, Bracket]
Job = tuple[int, Brackets, bool]
Census = Callable[[Sequence[Job], Callable[[Job, list[Any]], None]], None]


def search(
    roots: Brackets, tasks: Mapping[int, Sequence[int]], census: Census
) -> dict[Label, tuple[Key, int]]:
    """Find the key of each bracket's rank, and how many share its first word.

    Parameters
    ----------
    roots : dict of (int, int) to Bracket
        Of keys that differ.
    tasks : dict of int to sequence of int
        Tasks of each run.
    census : callable
        ``census(jobs, receive)`` is given some (task, brackets, collect) and calls
        ``receive(job, answer)`` for each, with the sparse counts of each bracket or, to collect,
        the keys in it.
    """
    brackets, ties = dict(roots), dict[Label, int]()
    while wide := _wide(brackets):
        tallies = {label: Tally() for label in wide}
        census(_jobs(wide, tasks), _adding(tallies))
        for label, tally in tallies.items():
            bracket = brackets[label] = brackets[label].narrowed(tally.counts)
            if bracket.word == 1 and label not in ties:
                ties[label] = bracket.size
    keys: dict[Label, list[Any]] = {label: [] for label in brackets}
    census(_jobs(brackets, tasks, collect=True), _collecting(keys))
    found = {}
    for label, parts in keys.items():
        words = np.concatenate(parts)
        order = np.lexsort([words[:, i] for i in reversed(range(words.shape[1]))])
        key = words[order[brackets[label].rank]]
        together = int((words[:, 0] == key[0]).sum())
        found[label] = (tuple(int(word) for word in key), ties.get(label, together))
    return found


def _wide(brackets: Brackets) -> Brackets:
    """Brackets that hold too many to be collected; keys differ, so that each gets small."""
    limit = max(COLLECTED // max(len(brackets), 1), 1)
    return {label: b for label, b in brackets.items() if b.size > limit}


def _jobs(
    brackets: Brackets, tasks: Mapping[int, Sequence[int]], *, collect: bool = False
) -> list[Job]:
    """For each task, the brackets of its run."""
    mine: dict[int, Brackets] = {}
    for label, bracket in brackets.items():
        mine.setdefault(label[0], {})[label] = bracket
    return [(index, mine[run], collect) for run in sorted(mine) for index in tasks[run]]


def _adding(tallies: Mapping[Label, Tally]) -> Callable[[Job, list[Any]], None]:
    def receive(job: Job, answer: list[Any]) -> None:
        for label, counts in zip(job[1], answer, strict=True):
            tallies[label].add(counts)

    return receive


def _collecting(keys: Mapping[Label, list[Any]]) -> Callable[[Job, list[Any]], None]:
    def receive(job: Job, answer: list[Any]) -> None:
        for label, part in zip(job[1], answer, strict=True):
            keys[label].append(part)

    return receive
