"""What is sampled, and how it is drawn, beside slow references of the same rules."""

from __future__ import annotations

import itertools
import json
import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from store_reference import (
    fits,
    reference_admissible,
    reference_counts,
    reference_draw,
    reference_select,
    refuses,
)

from weightcast.store import (
    FormatError,
    Recipe,
    SamplingError,
    UsageError,
    admissible,
    context_steps,
)
from weightcast.store.keyed import below, words
from weightcast.store.sampling import draw, draws_needed, select

WORD = 2**64
NAN, INF = math.nan, math.inf

FRACTIONS = st.sampled_from([0.0, 0.1, 0.25, 0.4, 0.5, 0.7, 0.9, 0.99]) | st.floats(0, 0.999)
CONTEXTS = st.lists(FRACTIONS, unique=True, max_size=4).map(
    lambda past: (1.0, *sorted(past, reverse=True))
)
HORIZONS = st.sampled_from([1.01, 1.1, 1.5, 2.0, 3.0])


@st.composite
def strata(draw: st.DrawFn) -> dict[str, tuple[float, ...]]:
    """Edges and shares; some shares are zero."""
    inner = draw(st.lists(st.floats(0.01, 0.99), unique=True, max_size=3))
    parts = draw(st.lists(st.integers(0, 5), min_size=len(inner) + 1, max_size=len(inner) + 1))
    assume(sum(parts))
    shares = tuple(part / sum(parts) for part in parts)
    return {"edges": (0.0, *sorted(inner), 1.0), "shares": shares}


# ---- recipes


BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"samples": 0}, "samples"),
    ({"samples": -3}, "samples"),
    ({"samples": 2.5}, "samples"),
    ({"samples": "9"}, "samples"),
    ({"context": ()}, "context"),
    ({"context": (0.9, 0.5)}, "context"),
    ({"context": (1.1, 1.0)}, "context"),
    ({"context": (1.0, 0.5, 0.5)}, "context"),
    ({"context": (1.0, 0.4, 0.7)}, "context"),
    ({"context": (1.0, -0.1)}, "context"),
    ({"context": (1.0, NAN)}, "context"),
    ({"horizon": 1.0}, "horizon"),
    ({"horizon": 0.5}, "horizon"),
    ({"horizon": NAN}, "horizon"),
    ({"horizon": INF}, "horizon"),
    ({"edges": (0.0,)}, "edges"),
    ({"edges": (0.0, 0.5)}, "edges"),
    ({"edges": (0.1, 1.0)}, "edges"),
    ({"edges": (0.0, 0.7, 0.7, 1.0)}, "edges"),
    ({"edges": (0.0, NAN, 0.7, 1.0)}, "edges"),
    ({"shares": (0.5, 0.5)}, "shares"),
    ({"shares": (0.5, 0.5, 0.5)}, "shares"),
    ({"shares": (1.5, -0.5, 0.0)}, "shares"),
    ({"shares": (NAN, 0.5, 0.5)}, "shares"),
    ({"shares": ()}, "shares"),
    ({"seed": -1}, "seed"),
    ({"seed": WORD}, "seed"),
    ({"seed": 1.5}, "seed"),
    ({"tolerance": -0.01}, "tolerance"),
    ({"tolerance": 1.0}, "tolerance"),
    ({"tolerance": NAN}, "tolerance"),
    ({"t_min": 5, "t_max": 4}, "t_min"),
]


@pytest.mark.parametrize(("change", "word"), BROKEN, ids=lambda x: str(x))
def test_a_recipe_that_breaks_a_rule_is_refused(change: dict[str, Any], word: str) -> None:
    with refuses(UsageError, word, next(iter(change.values()))):
        Recipe(**{"samples": 10, **change})


def test_defaults_are_the_papers() -> None:
    recipe = Recipe(800_000)
    assert recipe.context == (1.0, 0.7, 0.4, 0.0)
    assert recipe.horizon == 2.0
    assert recipe.counts() == [400_000, 200_000, 200_000]
    assert recipe.cuts(1_000) == [0, 500, 750, 1000]


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 10_000), strata())
def test_counts_give_every_sample_to_a_stratum(samples: int, cut: dict[str, Any]) -> None:
    recipe = Recipe(samples, **cut)
    counts = recipe.counts()
    assert sum(counts) == samples
    pairs = list(zip(counts, recipe.shares, strict=True))
    assert all(abs(count - share * samples) < 1 for count, share in pairs)
    assert all(count == 0 for count, share in pairs if share == 0)
    assert counts == reference_counts(recipe)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), strata())
def test_cuts_cover_every_candidate(candidates: int, cut: dict[str, Any]) -> None:
    cuts = Recipe(1, **cut).cuts(candidates)
    assert cuts[0] == 0
    assert cuts[-1] == candidates
    assert cuts == sorted(cuts)
    assert all(abs(c - e * candidates) <= 0.5 for c, e in zip(cuts, cut["edges"], strict=True))


@settings(max_examples=50, deadline=None)
@given(CONTEXTS, HORIZONS, strata(), st.integers(0, WORD - 1))
def test_a_recipe_survives_json(context: Any, horizon: float, cut: Any, seed: int) -> None:
    recipe = Recipe(7, context, horizon, seed=seed, t_max=9, **cut)
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json())), "data.zarr") == recipe


@pytest.mark.parametrize(
    "change",
    [
        {"samples": None},
        {"context": 5},
        {"edges": ["a"]},
        {"shares": [2.0]},
        {"seed": []},
        {"context": [1.0, -(10**400)]},
        {"horizon": 10**400},
    ],
)
def test_a_damaged_recipe_is_a_format_error(change: dict[str, Any]) -> None:
    with refuses(FormatError, "recipe", "data.zarr"):
        Recipe.from_json({**Recipe(7).to_json(), **change}, "data.zarr")


# ---- steps


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 2**40), max_size=5), CONTEXTS)
def test_context_steps_are_the_nearest(t: list[int], fractions: tuple[float, ...]) -> None:
    expected = [[math.floor(one * f + 0.5) for f in fractions] for one in t]
    many = context_steps(np.array(t, dtype=np.int64), fractions)
    assert many.dtype == np.int64
    assert many.shape == (len(t), len(fractions))
    assert many.tolist() == expected
    assert [context_steps(one, fractions).tolist() for one in t] == expected


@st.composite
def recorded_steps(draw: st.DrawFn) -> list[int]:
    """Dense, every n-th, or with random gaps."""
    gaps = draw(
        st.lists(st.just(1), max_size=60)
        | st.tuples(st.integers(2, 20), st.integers(1, 40)).map(lambda nc: [nc[0]] * nc[1])
        | st.lists(st.integers(1, 12), max_size=40)
    )
    first = draw(st.sampled_from([0, 0, 0, 1, 5]))
    return [first + sum(gaps[:i]) for i in range(len(gaps) + 1)]


@settings(max_examples=200, deadline=None)
@given(
    recorded_steps(),
    CONTEXTS,
    HORIZONS,
    st.sampled_from([0.0, 0.01, 0.1, 0.3]),
    st.none() | st.integers(-1, 40),
    st.none() | st.integers(40, 200),
)
def test_admissible_agrees_with_the_loop(
    steps: list[int], context: Any, horizon: float, tolerance: float, t_min: Any, t_max: Any
) -> None:
    recipe = Recipe(1, context, horizon, tolerance=tolerance, t_min=t_min, t_max=t_max)
    expected = reference_admissible(steps, recipe)
    if not expected:
        with refuses(SamplingError):
            admissible(np.array(steps), recipe)
        return
    t, rows = admissible(np.array(steps), recipe)
    assert t.tolist() == [t for t, _ in expected]
    assert rows.tolist() == [rows for _, rows in expected]


def test_of_two_equally_near_steps_the_earlier_is_taken() -> None:
    # 0.7 t = 11.2 is nearest to 11, which lies between the recorded 10 and 12
    t, rows = admissible(np.arange(0, 41, 2), Recipe(1, tolerance=0.3, t_min=16, t_max=16))
    assert t.tolist() == [16]
    assert rows.tolist() == [[8, 5, 3, 0, 16]]


def test_an_empty_history_gives_nothing() -> None:
    with refuses(SamplingError, "no committed steps"):
        admissible(np.array([], dtype=np.int64), Recipe(1))


def test_a_short_history_is_told_what_it_needs() -> None:
    with refuses(SamplingError, "0.7t", "2t", "from 0 to 4", "record more steps"):
        admissible(np.arange(5), Recipe(1))


@pytest.mark.parametrize("bounds", [{"t_max": 0}, {"t_min": 90}, {"t_min": 31, "t_max": 31}])
def test_bounds_that_leave_nothing_are_named(bounds: dict[str, int]) -> None:
    # 0 to 60 by 2 has many steps t, but none within these bounds: more steps would not help
    with refuses(SamplingError, *bounds, *bounds.values()):
        admissible(np.arange(0, 61, 2), Recipe(1, **bounds))


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


@settings(max_examples=100, deadline=None)
@given(SEEDS, cut_ranges(), st.integers(1, 40), st.data())
def test_draws_are_distinct_and_do_not_depend_on_the_split(
    seed: int, ranges: tuple[int, list[int]], choices: int, data: st.DataObject
) -> None:
    stop, cuts = ranges
    draws = data.draw(st.integers(1, choices))
    chosen, keys = draw(seed, 0, stop, draws, choices)
    assert chosen.shape == keys.shape == (draws, stop)
    assert chosen.min() >= 0
    assert chosen.max() < choices
    assert all(len(set(column)) == draws for column in chosen.T.tolist())
    parts = [draw(seed, a, b, draws, choices) for a, b in itertools.pairwise(cuts)]
    assert np.array_equal(np.concatenate([p[0] for p in parts], axis=1), chosen)
    assert np.array_equal(np.concatenate([p[1] for p in parts], axis=1), keys)


@settings(max_examples=50, deadline=None)
@given(SEEDS, st.integers(0, 2**50), st.integers(1, 40), st.data())
def test_draws_follow_the_documented_rule(
    seed: int, weight: int, choices: int, data: st.DataObject
) -> None:
    draws = data.draw(st.integers(1, choices))
    chosen, keys = draw(seed, weight, weight + 2, draws, choices)
    pairs = [
        [reference_draw(seed, w, r, choices) for w in (weight, weight + 1)] for r in range(draws)
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


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 30), st.integers(1, 12), strata(), st.integers(1, 400))
def test_draws_needed_is_the_smallest_that_fits(
    parameters: int, choices: int, cut: Any, samples: int
) -> None:
    recipe = Recipe(samples, **cut)
    enough = [r for r in range(1, choices + 1) if fits(recipe, r * parameters)]
    if enough:
        assert draws_needed(parameters, choices, recipe) == min(enough)
    else:
        with refuses(SamplingError, samples, "more than exist"):
            draws_needed(parameters, choices, recipe)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 30), st.integers(1, 12), strata())
def test_the_most_that_exists_is_exact(parameters: int, choices: int, cut: Any) -> None:
    with pytest.raises(SamplingError) as caught:
        draws_needed(parameters, choices, Recipe(10**6, **cut))
    found = re.search(r"at most (\d+)", str(caught.value))
    assert found is not None
    most = int(found[1])
    if most:
        draws_needed(parameters, choices, Recipe(most, **cut))
    with refuses(SamplingError, f"at most {most}"):
        draws_needed(parameters, choices, Recipe(most + 1, **cut))


def test_a_model_without_weights_has_no_samples() -> None:
    with refuses(SamplingError, "0 weights"):
        draws_needed(0, 10, Recipe(5))


# ---- selection


def same_strata(variation: list[float], keys: list[int], recipe: Recipe) -> None:
    chosen = select(np.float32(variation), np.array(keys, dtype=np.uint64), recipe)
    assert [c.tolist() for c in chosen] == reference_select(variation, keys, recipe)


@st.composite
def candidates(draw: st.DrawFn, values: Any) -> tuple[list[float], list[int]]:
    variation = draw(st.lists(values, min_size=1, max_size=60))
    keys = draw(
        st.lists(st.integers(0, 3) | SEEDS, min_size=len(variation), max_size=len(variation))
    )
    return variation, keys


VALUES = {
    "spread": st.floats(0, 1e6, width=32),
    "heavy ties": st.sampled_from([0.0, 0.0, 0.0, 0.0, 1.0, 2.0]),
    "all tie": st.just(0.0),
}


@pytest.mark.parametrize("values", VALUES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_select_agrees_with_sorted(values: str, data: st.DataObject) -> None:
    variation, keys = data.draw(candidates(VALUES[values]))
    cut = data.draw(strata())
    sizes = [n for n in range(1, len(keys) + 1) if fits(Recipe(n, **cut), len(keys))]
    assume(sizes)
    same_strata(variation, keys, Recipe(data.draw(st.sampled_from(sizes)), **cut))


def test_a_stratum_of_ties_is_sampled_evenly() -> None:
    """Dead weights tie at zero: what of them falls into a stratum is drawn as often as the rest."""
    keys = words(5, 0, 0, 9_000)[:, 2]
    moved = np.zeros(9_000, np.float32)
    moved[:1_500] = np.linspace(1, 2, 1_500)
    # the upper stratum: 1,500 weights that moved and as many of those that tie
    recipe = Recipe(3_000, edges=(0.0, 1 / 3, 1.0), shares=(0.5, 0.5))
    upper, _ = select(moved, keys, recipe)
    tied = int((upper >= 1_500).sum())
    assert abs(tied - 750) < 5 * math.sqrt(1_500 / 4)
