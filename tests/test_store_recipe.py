"""Recipes: their rules, their JSON, the strata they cut and the steps they admit."""

from __future__ import annotations

import json
import math
from typing import Any
from unittest import mock

import numpy as np
import pytest
from dataset_cases import contexts, strata
from hypothesis import given, settings
from hypothesis import strategies as st
from store_reference import (
    reference_admissible,
    reference_counts,
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

WORD = 2**64
NAN, INF = math.nan, math.inf

FRACTIONS = st.sampled_from([0.0, 0.1, 0.25, 0.4, 0.5, 0.7, 0.9, 0.99]) | st.floats(0, 0.999)
CONTEXTS = st.lists(FRACTIONS, unique=True, max_size=4).map(
    lambda past: (1.0, *sorted(past, reverse=True))
)
HORIZONS = st.sampled_from([1.01, 1.1, 1.5, 2.0, 3.0])


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
    ({"t_distribution": "Log"}, "t_distribution"),
    ({"t_distribution": None}, "t_distribution"),
    ({"draws": 0}, "draws"),
    ({"draws": -1}, "draws"),
    ({"draws": 1.5}, "draws"),
    ({"draws": "2"}, "draws"),
    ({"include": (5,)}, "include"),
    ({"exclude": ("fc.*", None)}, "exclude"),
    ({"different_models": "yes"}, "different_models"),
    ({"run_shares": (True, 1.0)}, "run_shares"),
    ({"context": 1.0}, "context"),
    ({"shares": "abc"}, "shares"),
    ({"edges": None}, "edges"),
    ({"horizon": "2"}, "horizon"),
    ({"samples": True}, "samples"),
    ({"samples": 10**400}, "samples"),
    ({"run_shares": (0.0, 0.0)}, "run_shares"),
    ({"run_shares": (1.0, -0.5)}, "run_shares"),
    ({"run_shares": (1.0, NAN)}, "run_shares"),
    ({"run_shares": (1.0, INF)}, "run_shares"),
    ({"validation": -0.1}, "validation"),
    ({"validation": 1.0}, "validation"),
    ({"validation": NAN}, "validation"),
    ({"validation_by": "sample"}, "validation_by"),
    ({"shortfall": "none"}, "shortfall"),
    ({"shortfall": ["fewer"]}, "shortfall"),
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


NEW_IN_FORMAT_2 = {
    "t_distribution": st.sampled_from(["uniform", "log"]),
    "draws": st.none() | st.integers(1, 2**40),
    "include": st.lists(st.text(max_size=5), max_size=3).map(tuple),
    "exclude": st.lists(st.text(max_size=5), max_size=3).map(tuple),
    "different_models": st.booleans(),
    "run_shares": st.lists(st.floats(0.1, 1e9), max_size=3).map(tuple),
    "validation": st.floats(0, 0.999),
    "validation_by": st.sampled_from(["weight", "run"]),
    "shortfall": st.sampled_from(["error", "fewer"]),
}


@settings(max_examples=50, deadline=None)
@given(
    CONTEXTS, HORIZONS, strata(), st.integers(0, WORD - 1), st.fixed_dictionaries(NEW_IN_FORMAT_2)
)
def test_a_recipe_survives_json(
    context: Any, horizon: float, cut: Any, seed: int, new: dict[str, Any]
) -> None:
    recipe = Recipe(7, context, horizon, seed=seed, t_max=9, **cut, **new)
    document = json.loads(json.dumps(recipe.to_json()))
    assert Recipe.from_json(document, "data.zarr") == recipe
    assert all(getattr(recipe, name) == value for name, value in new.items())
    for name in new:  # as format 1 wrote it
        del document[name]
    assert Recipe.from_json(document, "data.zarr") == Recipe(
        7, context, horizon, seed=seed, t_max=9, **cut
    )


def test_a_recipe_of_format_1_has_all_of_its_fields() -> None:
    document = Recipe(7).to_json()
    for name in document.keys() - NEW_IN_FORMAT_2.keys():
        with refuses(FormatError, "recipe", "data.zarr", name):
            Recipe.from_json({k: v for k, v in document.items() if k != name}, "data.zarr")


def test_one_glob_is_a_tuple_of_one() -> None:
    recipe = Recipe(7, include="fc.*", exclude="*.bias")  # type: ignore[arg-type]
    assert recipe == Recipe(7, include=("fc.*",), exclude=("*.bias",))
    assert Recipe.from_json(recipe.to_json(), "data.zarr") == recipe
    lists: Any = {"context": [1.0, 0.0], "include": ["fc.*"], "run_shares": [1.0, 2.0]}
    assert Recipe.from_json(Recipe(7, **lists).to_json(), "data.zarr") == Recipe(7, **lists)


def test_numbers_of_numpy_survive_json() -> None:
    recipe = Recipe(7, draws=np.int64(3), validation=np.float32(0.25), run_shares=(np.float64(2),))
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
        {"t_distribution": 5},
        {"draws": 0},
        {"draws": "2"},
        {"include": [5]},
        {"exclude": None},
        {"run_shares": ["a"]},
        {"run_shares": 1},
        {"validation": "0.5"},
        {"validation_by": None},
        {"shortfall": {}},
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
    CONTEXTS | contexts(),
    HORIZONS | st.sampled_from(["+3", "+10", ("+10", 2.0), (1.5, 3.0, "+1")]),
    st.sampled_from([0.0, 0.01, 0.1, 0.3]),
    st.none() | st.integers(-1, 40),
    st.none() | st.integers(40, 200),
    st.sampled_from(["uniform", "log"]),
)
def test_admissible_agrees_with_the_loop(
    steps: list[int],
    context: Any,
    horizon: Any,
    tolerance: float,
    t_min: Any,
    t_max: Any,
    t_distribution: Any,
) -> None:
    recipe = Recipe(
        1,
        context,
        horizon,
        tolerance=tolerance,
        t_min=t_min,
        t_max=t_max,
        t_distribution=t_distribution,
    )
    expected = reference_admissible(steps, recipe)
    if not expected:
        with refuses(SamplingError):
            admissible(np.array(steps), recipe)
        return
    choices = admissible(np.array(steps), recipe)
    assert len(choices) == len(expected)
    assert choices.t.tolist() == [choice.t for choice in expected]
    assert choices.horizon.tolist() == [choice.horizon for choice in expected]
    assert choices.target.tolist() == [choice.target for choice in expected]
    assert choices.rows().tolist() == [choice.rows for choice in expected]
    last = len(expected) - 1
    assert choices.rows([last, 0]).tolist() == [expected[last].rows, expected[0].rows]
    assert choices.used().tolist() == sorted({0, *(row for c in expected for row in c.rows)})
    with mock.patch("weightcast.store.admissible._AT_ONCE", 7):
        again = admissible(np.array(steps), recipe)
        assert np.array_equal(again.rows(), choices.rows())
        assert np.array_equal(again.used(), choices.used())


def test_of_two_equally_near_steps_the_earlier_is_taken() -> None:
    # 0.7 t = 11.2 is nearest to 11, which lies between the recorded 10 and 12
    choices = admissible(np.arange(0, 41, 2), Recipe(1, tolerance=0.3, t_min=16, t_max=16))
    assert choices.t.tolist() == [16]
    assert choices.rows().tolist() == [[8, 5, 3, 0, 16]]


def test_log_spaced_steps_are_32_an_octave() -> None:
    recipe = Recipe(1, context=(1.0, 0.0), tolerance=0, t_distribution="log")
    choices = admissible(np.arange(4097), recipe)
    t = choices.t
    assert t[[0, -1]].tolist() == [1, 2048]
    assert choices.rows().tolist() == [[step, 0, 2 * step] for step in t.tolist()]
    assert t[t <= 32].tolist() == list(range(1, 33))  # every one: there are fewer than 32
    octaves = np.log2(t[t >= 64]).astype(int)
    assert np.bincount(octaves)[6:].tolist() == [32] * 5 + [1]
    steps = t[t >= 64] / t[t >= 64].min()
    assert np.abs(np.log2(steps) * 32 - np.arange(len(steps))).max() < 0.5


def test_bounds_come_before_the_logarithm() -> None:
    recipe = Recipe(1, context=(1.0, 0.0), tolerance=0, t_distribution="log", t_min=100, t_max=200)
    t = admissible(np.arange(4097), recipe).t
    assert t[[0, -1]].tolist() == [100, 200]
    assert len(t) == 33


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
