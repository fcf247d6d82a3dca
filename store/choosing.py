"""Which candidates are chosen: exact cuts between strata, and the smallest keys of each.

Both are found by `searching`; here is what each task does for that with its own scratch files.

A candidate's place among all: its variation, then for ties the key (low half first), then its
number. Its place within its stratum: the key, then its number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from weightcast.store.radix import Bracket, Sparse, Words, ordered_bits, sparse
from weightcast.store.sampling import draw, tie_order
from weightcast.store.scanning import Work
from weightcast.store.scratch import NewFile
from weightcast.store.searching import Brackets, Key, Label
from weightcast.store.sources import Source

KEY_BITS = (64, 64)  # of the words by which a stratum is ordered: key, number
BLOCK_CANDIDATES = 1 << 20  # of a task, looked at at once
LOWEST: Key = (0, 0, 0)
HIGHEST: Key = ((1 << 64) - 1,) * 3  # above every candidate: as a variation, it would be NaN


@dataclass(frozen=True)
class Cut:
    """Where one stratum ends and the next begins.

    Attributes
    ----------
    least : tuple of int
        Variation bits, tie order and number of the last candidate above the cut.
    ties : int
        Candidates of exactly that variation.
    """

    least: Key
    ties: int


@dataclass(frozen=True)
class Choice:
    """What decides which candidates are samples, by run.

    Attributes
    ----------
    cuts : dict of int to list of Cut
        Between the strata of a run.
    last : dict of (int, int) to (int, int)
        For each run and stratum that gives samples: key and number of the last that is chosen.
    """

    cuts: Mapping[int, Sequence[Cut]] = field(default_factory=dict)
    last: Mapping[Label, Key] = field(default_factory=dict)

    def strata(self, source: Source, kept: npt.NDArray[Any]) -> npt.NDArray[np.int8]:
        """Stratum of each kept candidate."""
        bits = ordered_bits(kept["variation"])
        words = [bits, tie_order(kept["key"]), _number(source, kept)]
        strata = np.zeros(len(kept), np.int8)
        for cut in self.cuts[source.run]:
            strata += ~_at_least(words, cut.least)
        return strata

    def chosen(
        self, source: Source, kept: npt.NDArray[Any], strata: npt.NDArray[np.int8]
    ) -> npt.NDArray[np.bool_]:
        """Which of the kept candidates are samples."""
        words = [kept["key"], _number(source, kept)]
        chosen = np.zeros(len(kept), bool)
        for (run, stratum), last in self.last.items():
            if run == source.run:
                chosen |= (strata == stratum) & (~_at_least(words, last) | _equal(words, last))
        return chosen


@dataclass(frozen=True)
class Stage:
    """What the tasks of a pass share: the work, and what has been decided so far."""

    work: Work
    choice: Choice = Choice()


# ---- what a worker does


def census_of_variations(stage: Stage, index: int, brackets: Brackets, collect: bool) -> list[Any]:
    """Counts of a task's candidates in each bracket, or their keys, three words each."""
    needs_all = collect or any(b.word for b in brackets.values())
    blocks = [
        [_census(words, b, collect) for b in brackets.values()]
        for words in _candidates(stage.work, index, needs_all)
    ]
    return [_joined([block[i] for block in blocks], collect) for i in range(len(brackets))]


def stratify(stage: Stage, index: int) -> list[Sparse]:
    """Write the strata of a task's kept candidates; returns counts of the keys' first digits."""
    source, kept = stage.work.source(index), stage.work.load(index, "kept")
    strata = stage.choice.strata(source, kept)
    with NewFile(stage.work.file(index, "strata")) as file:
        file.write(strata)
    first_digit = Bracket(KEY_BITS, rank=0, size=1)
    keys = kept["key"]
    return [
        sparse(first_digit.counts([keys[strata == s]])) for s in range(len(source.quota.counts))
    ]


def census_of_keys(stage: Stage, index: int, brackets: Brackets, collect: bool) -> list[Any]:
    """Counts of the keys of each stratum's kept candidates, or the keys, two words each."""
    source, kept = stage.work.source(index), stage.work.load(index, "kept")
    strata = stage.work.load(index, "strata")
    needs_all = collect or any(b.word for b in brackets.values())
    words = [kept["key"], *([_number(source, kept)] if needs_all else [])]
    return [
        _joined([_census([w[strata == s] for w in words], bracket, collect)], collect)
        for (_, s), bracket in brackets.items()
    ]


def count_chosen(stage: Stage, index: int) -> int:
    """Samples of a task."""
    source, kept = stage.work.source(index), stage.work.load(index, "kept")
    return int(stage.choice.chosen(source, kept, stage.work.load(index, "strata")).sum())


def _candidates(work: Work, index: int, needs_all: bool) -> Iterator[list[Words]]:
    """Words of a task's candidates, some at a time: variation bits; tie order and number too."""
    task, source = work.plan.tasks[index], work.source(index)
    draws = source.quota.draws
    variations = work.load(index, "variation").reshape(-1, draws)  # [n, R]
    width, done = max(BLOCK_CANDIDATES // draws, 1), 0
    for low in range(task.low, task.high, width):
        high = min(low + width, task.high)
        local = source.chosen_weights(low, high)
        part = variations[done : done + len(local)]
        done += len(local)
        words = [ordered_bits(part).ravel()]
        if needs_all:
            _, keys = draw(source.recipe.seed, low, high, draws, source.choices, source.run)
            number = np.arange(draws)[:, None] * source.parameters + (local + low)
            words += [tie_order(keys[:, local].T.ravel()), number.T.ravel().astype(np.uint64)]
        yield words


def _census(words: Sequence[Words], bracket: Bracket, collect: bool) -> Any:
    if not collect:
        return bracket.counts(words)
    inside = bracket.holds(words)
    return np.stack([w[inside].astype(np.uint64) for w in words], axis=-1)


def _joined(parts: list[Any], collect: bool) -> Any:
    return np.concatenate(parts) if collect else sparse(sum(parts))


def _number(source: Source, kept: npt.NDArray[Any]) -> Words:
    number = kept["draw"].astype(np.uint64) * np.uint64(source.parameters)
    words: Words = number + kept["weight"].astype(np.uint64)
    return words


def _at_least(words: Sequence[Words], least: Key) -> npt.NDArray[np.bool_]:
    """Which keys are not below another, word by word."""
    above = np.ones(len(words[0]), bool)
    for word, known in zip(reversed(words), reversed(least), strict=True):
        bound = word.dtype.type(min(known, np.iinfo(word.dtype).max))
        above = (word > bound) | ((word == bound) & above)
    return above


def _equal(words: Sequence[Words], key: Key) -> npt.NDArray[np.bool_]:
    pairs = zip(words, key, strict=True)
    same: npt.NDArray[np.bool_] = np.logical_and.reduce([w == w.dtype.type(k) for w, k in pairs])
    return same
