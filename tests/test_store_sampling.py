"""What is sampled, and how it is drawn, beside slow references of the same rules."""

from __future__ import annotations

import itertools
import math
import re
from typing import Any
from unittest import mock

import numpy as np
import pytest
from dataset_cases import strata
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from store_reference import (
    reference_counts,
    reference_draw,
    reference_draws,
    refuses,
    stratum_ranges,
)

from weightcast.store import (
    Recipe,
    SamplingError,
    permuting,
)
from weightcast.store.keyed import below, words
from weightcast.store.radix import Bracket, sparse
from weightcast.store.sampling import draw, quota, tie_order
from weightcast.store.searching import search

WORD = 2**64

# ---- random words


def philox(seed: int, stream: int, index: int) -> list[int]:
    """Philox4x64-10 (Salmon et al. 2011) of one counter, which NumPy steps before its first use."""
    counter, key = [index + 1, 0, 0, 0], [seed, stream]
    for _ in range(10):
        a, b = counter[0] * 0xD2E7470EE14C6C93, counter[2] * 0xCA5A826395121157
        counter = [
            (b >> 64) ^ counter[1] ^ key[0],
            b % WORD,
            (a >> 64) ^ counter[3] ^ key[1],
            a % WORD,
        ]
        key = [(key[0] + 0x9E3779B97F4A7C15) % WORD, (key[1] + 0xBB67AE8584CAA73B) % WORD]
    return counter


SEEDS = st.integers(0, WORD - 1)


@settings(max_examples=100, deadline=None)
@given(SEEDS, SEEDS, st.integers(0, 2**62), st.integers(0, 4))
def test_words_are_philox_of_the_index(seed: int, stream: int, start: int, count: int) -> None:
    drawn = words(seed, stream, start, start + count)
    assert drawn.tolist() == [philox(seed, stream, start + i) for i in range(count)]


@settings(max_examples=100, deadline=None)
@given(st.lists(SEEDS, max_size=5), st.integers(1, 2**32))
def test_below_agrees_with_python_integers(drawn: list[int], bound: int) -> None:
    result = below(np.array(drawn, dtype=np.uint64), bound).tolist()
    assert result == [((word >> 32) * bound) >> 32 for word in drawn]
    assert all(0 <= x < bound for x in result)


# ---- draws


@st.composite
def cut_ranges(draw: st.DrawFn) -> tuple[int, list[int]]:
    """A range from 0 and cuts within it."""
    stop = draw(st.integers(1, 30))
    return stop, sorted({0, stop, *draw(st.lists(st.integers(0, stop), max_size=4))})


RUNS = st.integers(0, 2**20)


@settings(max_examples=100, deadline=None)
@given(SEEDS, cut_ranges(), st.integers(1, 40), RUNS, st.data())
def test_draws_are_distinct_and_do_not_depend_on_the_split(
    seed: int, ranges: tuple[int, list[int]], choices: int, run: int, data: st.DataObject
) -> None:
    stop, cuts = ranges
    draws = data.draw(st.integers(1, choices))
    chosen, keys = draw(seed, 0, stop, draws, choices, run)
    assert chosen.shape == keys.shape == (draws, stop)
    assert chosen.min() >= 0
    assert chosen.max() < choices
    assert all(len(set(column)) == draws for column in chosen.T.tolist())
    parts = [draw(seed, a, b, draws, choices, run) for a, b in itertools.pairwise(cuts)]
    assert np.array_equal(np.concatenate([p[0] for p in parts], axis=1), chosen)
    assert np.array_equal(np.concatenate([p[1] for p in parts], axis=1), keys)
    fewer = data.draw(st.integers(1, draws))  # the first draws do not depend on how many follow
    assert np.array_equal(draw(seed, 0, stop, fewer, choices, run)[0], chosen[:fewer])
    assert np.array_equal(draw(seed, 0, stop, fewer, choices, run)[1], keys[:fewer])


@settings(max_examples=50, deadline=None)
@given(SEEDS, st.integers(0, 2**50), st.integers(1, 40), RUNS, st.data())
def test_draws_follow_the_documented_rule(
    seed: int, weight: int, choices: int, run: int, data: st.DataObject
) -> None:
    draws = data.draw(st.integers(1, choices))
    chosen, keys = draw(seed, weight, weight + 2, draws, choices, run)
    pairs = [
        [reference_draw(seed, w, r, choices, run) for w in (weight, weight + 1)]
        for r in range(draws)
    ]
    assert chosen.tolist() == [[step for step, _ in row] for row in pairs]
    assert keys.tolist() == [[key for _, key in row] for row in pairs]


@pytest.mark.parametrize("choices", [1, 2, 7, 12])
def test_every_step_is_drawn_equally_often(choices: int) -> None:
    chosen, keys = draw(3, 0, 20_000, 1, choices)
    counts = np.bincount(chosen.ravel(), minlength=choices)
    expected = 20_000 / choices
    assert np.abs(counts - expected).max() <= 5 * math.sqrt(expected)
    assert abs((keys / WORD).mean() - 0.5) < 0.01
    # the key says nothing of the step, or strata would favour some steps
    assert abs(np.mean((keys / WORD) * (chosen == 0)) * choices - 0.5) < 0.05


@pytest.mark.parametrize(("draws", "choices"), [(2, 5), (2, 6), (3, 4), (2, 200)])
def test_every_order_of_steps_is_drawn_equally_often(draws: int, choices: int) -> None:
    """Not only every step: of an even number of steps, two may be an even number apart."""
    chosen, _ = draw(3, 0, 40_000, draws, choices)
    seen = np.unique(chosen, axis=1, return_counts=True)[1]
    orders = math.perm(choices, draws)
    counts = np.concatenate([seen, np.zeros(orders - len(seen), int)])
    square = ((counts - 40_000 / orders) ** 2).sum() / (40_000 / orders)
    assert abs(square - (orders - 1)) < 5 * math.sqrt(2 * orders)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 60), st.integers(0, 5), SEEDS, st.data())
def test_both_ways_to_permute_agree(length: int, many: int, seed: int, data: st.DataObject) -> None:
    """What is chosen by their speed alone, and a list that is shuffled."""
    count = data.draw(st.integers(1, length))
    random = np.random.default_rng(seed)
    picks = np.array([random.integers(r, length, many) for r in range(count)])
    expected = np.empty_like(picks)
    for i in range(many):
        entries = list(range(length))
        for r in range(count):
            pick = picks[r, i]
            entries[r], entries[pick] = entries[pick], entries[r]
        expected[:, i] = entries[:count]
    assert np.array_equal(permuting._remembered(picks), expected)
    assert np.array_equal(permuting._whole(picks, length), expected)
    with mock.patch.object(permuting, "BLOCK", 2 * length):
        assert np.array_equal(permuting.first_entries(picks, length), expected)


def test_draws_and_runs_are_independent() -> None:
    keys = [draw(3, 0, 5_000, 2, 9, run)[1] / WORD for run in (0, 1)]
    table = np.corrcoef(np.concatenate(keys))  # 2 draws of 2 runs
    assert np.abs(table - np.eye(4)).max() < 5 / math.sqrt(5_000)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 30),
    st.integers(1, 12),
    strata(),
    st.integers(1, 400),
    st.none() | st.integers(1, 15),
    st.sampled_from(["error", "fewer"]),
)
def test_a_quota_draws_as_few_as_give_the_samples(
    parameters: int, choices: int, cut: Any, samples: int, draws: int | None, shortfall: Any
) -> None:
    recipe = Recipe(samples, draws=draws, shortfall=shortfall, **cut)
    expected = reference_draws(parameters, choices, recipe)
    ranges = stratum_ranges(recipe, parameters * (expected or 0))
    wanted = reference_counts(recipe)
    counts = [min(n, high - low) for n, (low, high) in zip(wanted, ranges, strict=True)]
    if not any(counts):
        with refuses(SamplingError, draws if draws and draws > choices else samples):
            quota(parameters, choices, recipe)
        return
    given = quota(parameters, choices, recipe)
    assert given.draws == expected
    assert list(itertools.pairwise(given.cuts)) == ranges
    assert given.sizes == [high - low for low, high in ranges]
    assert list(given.wanted) == wanted
    assert list(given.counts) == counts
    assert shortfall == "fewer" or counts == wanted


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 30), st.integers(1, 12), strata(), st.none() | st.integers(1, 12))
def test_the_most_that_exists_is_exact(
    parameters: int, choices: int, cut: Any, draws: int | None
) -> None:
    assume(draws is None or draws <= choices)
    with pytest.raises(SamplingError) as caught:
        quota(parameters, choices, Recipe(10**6, draws=draws, **cut))
    found = re.search(r"at most (\d+)", str(caught.value))
    assert found is not None
    most = int(found[1])
    if most:
        quota(parameters, choices, Recipe(most, draws=draws, **cut))
    with refuses(SamplingError, f"at most {most}", parameters):
        quota(parameters, choices, Recipe(most + 1, draws=draws, **cut))


def test_a_model_without_weights_has_no_samples() -> None:
    with refuses(SamplingError, "0 weights"):
        quota(0, 10, Recipe(5))
    with refuses(SamplingError, "0 weights"):
        quota(0, 10, Recipe(5, shortfall="fewer"))


# ---- order


@settings(max_examples=100, deadline=None)
@given(st.lists(SEEDS, max_size=5))
def test_the_low_half_of_a_key_comes_first_among_ties(keys: list[int]) -> None:
    order = tie_order(np.array(keys, dtype=np.uint64)).tolist()
    assert order == [key % 2**32 * 2**32 + key // 2**32 for key in keys]


BITS = (32, 64, 64)
WORDS = st.tuples(
    st.sampled_from([0, 7, 2**31, 2**32 - 1]), st.sampled_from([0, 1, WORD - 1]) | SEEDS
)


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        st.integers(0, 2), st.lists(st.lists(WORDS), min_size=1, max_size=3), min_size=1
    ),
    st.sampled_from([1, 3, 10, 1 << 18]),
    st.data(),
)
def test_search_finds_the_key_of_a_rank(
    runs: dict[int, list[list[Any]]], collected: int, data: st.DataObject
) -> None:
    """Of keys that stand in many tasks of several runs, as `sorted` does."""
    tasks: dict[int, list[int]] = {}
    parts: list[list[np.ndarray]] = []
    ranked: dict[int, list[Any]] = {}
    for run, its_tasks in runs.items():
        number = itertools.count()
        with_number = [[(*key, next(number)) for key in task] for task in its_tasks]
        tasks[run] = list(range(len(parts), len(parts) + len(its_tasks)))
        parts += [
            [np.array([key[i] for key in task], f"u{bits // 8}") for i, bits in enumerate(BITS)]
            for task in with_number
        ]
        ranked[run] = sorted(key for task in with_number for key in task)
    roots = {
        (run, i): Bracket(BITS, rank=data.draw(st.integers(0, len(keys) - 1)), size=len(keys))
        for run, keys in ranked.items()
        for i in range(data.draw(st.integers(0, 3)) if keys else 0)
    }

    def census(jobs: Any, receive: Any) -> None:
        for job in reversed(jobs):
            index, brackets, collect = job
            receive(job, [count(parts[index], b, collect) for b in brackets.values()])

    def count(words: list[np.ndarray], bracket: Bracket, collect: bool) -> Any:
        if not collect:
            return sparse(bracket.counts(words))
        inside = bracket.holds(words)
        return np.stack([word[inside].astype(np.uint64) for word in words], axis=-1)

    with mock.patch("weightcast.store.searching.COLLECTED", collected):
        found = search(roots, tasks, census)
    expected = {}
    for label, root in roots.items():
        key = ranked[label[0]][root.rank]
        expected[label] = key, sum(other[0] == key[0] for other in ranked[label[0]])
    assert found == expected
