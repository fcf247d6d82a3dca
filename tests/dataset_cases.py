"""Histories and recipes to draw datasets from, and what makes a dataset that of the reference."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st
from store_reference import (
    Drawn,
    Recorded,
    assert_seen,
    reference_admissible,
    reference_dataset,
    same_bits,
    selected,
)

from weightcast.store import (
    Dataset,
    ParameterTable,
    Recipe,
    WeightcastWarning,
    build_dataset,
)

NAMES = ("conv.weight", "conv.bias", "fc.weight", "fc.bias")
CONTEXTS = [
    {"context": (1.0, 0.7, 0.4, 0.0), "horizon": 2.0, "tolerance": 0.01},
    {"context": (1.0, 0.7, 0.4, 0.0), "horizon": 2.0, "tolerance": 0.3},
    {"context": (1.0, 0.5), "horizon": 1.5, "tolerance": 0.3},
    {"context": (1.0,), "horizon": 3.0, "tolerance": 0.0},
]
WINDOWS = ["mean:4/2", "slope:4/2", "spread:4/2", "slope:3/1", "spread:6/3", "mean:1/1"]
FACTS = ["scale", "size", "fan-in", "dims", "step", "ahead", "ratio"]
HORIZONS = [2.0, 1.5, "+3", (2.0, "+3"), ("+1", 1.5, "+4")]
STRATA = [
    {"edges": (0.0, 0.5, 0.75, 1.0), "shares": (0.5, 0.25, 0.25)},
    {"edges": (0.0, 1.0), "shares": (1.0,)},
    {"edges": (0.0, 0.2, 1.0), "shares": (0.0, 1.0)},
    {"edges": (0.0, 0.5, 1.0), "shares": (0.7, 0.3)},
]
GLOBS: list[dict[str, Any]] = [
    {},
    {"include": ("conv.*", "fc.bias")},
    {"exclude": ("conv.bias", "fc.weight")},
    {},
    {"exclude": ("conv.weight", "*.bias")},
]


@st.composite
def contexts(draw: st.DrawFn) -> tuple[Any, ...]:
    """Contexts of past values, statistics of windows and facts, the groups in any order."""
    fractions = draw(st.sampled_from([(), (1.0,), (1.0, 0.7, 0.4, 0.0), (1.0, 0.5)]))
    back = sorted(draw(st.sets(st.integers(1, 6), max_size=2)))
    windows = draw(st.lists(st.sampled_from(WINDOWS), unique=True, max_size=4))
    facts = draw(st.lists(st.sampled_from(FACTS), unique=True, max_size=3))
    groups = draw(st.permutations([fractions, [f"t-{n}" for n in back], windows, facts]))
    entries = tuple(entry for group in groups for entry in group)
    assume(entries)
    return entries


def rich() -> st.SearchStrategy[dict[str, Any]]:
    """Contexts, horizons and tolerances of any kind."""
    tolerance = st.sampled_from([0.0, 0.3])
    return st.fixed_dictionaries(
        {"context": contexts(), "horizon": st.sampled_from(HORIZONS), "tolerance": tolerance}
    )


@st.composite
def strata(draw: st.DrawFn) -> dict[str, tuple[float, ...]]:
    """Edges and shares; some shares are zero."""
    inner = draw(st.lists(st.floats(0.01, 0.99), unique=True, max_size=3))
    parts = draw(st.lists(st.integers(0, 5), min_size=len(inner) + 1, max_size=len(inner) + 1))
    assume(sum(parts))
    shares = tuple(part / sum(parts) for part in parts)
    return {"edges": (0.0, *sorted(inner), 1.0), "shares": shares}


@st.composite
def models(draw: st.DrawFn) -> ParameterTable:
    """Tensors of a few weights, empty ones among them; mostly one weight at least."""
    sizes = draw(st.lists(st.integers(0, 5), min_size=1, max_size=len(NAMES)))
    sizes[0] = sizes[0] or 1
    deep = draw(st.booleans())
    shapes = [(size, 1, 2) if deep and not i else (size,) for i, size in enumerate(sizes)]
    kinds: Any = ["bias" if name.endswith("bias") else "weight" for name in NAMES]
    rows = zip(NAMES, shapes, kinds, strict=False)
    return ParameterTable.of((name, shape, "float32", kind) for name, shape, kind in rows)


@st.composite
def finite_histories(draw: st.DrawFn, table: ParameterTable | None = None) -> Recorded:
    """Histories of few values, so that variations tie; some weights never move."""
    table = table or draw(models())
    size, rows = table.size, draw(st.sampled_from([*range(12, 31), 5, 2]))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    kind = draw(st.sampled_from(["walk", "few values", "dead"]))
    if kind == "walk":
        weights = random.normal(size=(rows, size)).cumsum(axis=0)
    elif kind == "few values":
        weights = random.choice([-1.5, -0.0, 0.1], size=(rows, size))
    else:
        weights = np.tile(random.normal(size=size), (rows, 1))
    moving = random.random(size) < draw(st.sampled_from([0.3, 1.0]))
    weights = np.where(moving, weights, weights[0]).astype(dtype)
    stride = draw(st.sampled_from([1, 1, 1, 3]))
    return Recorded(table, list(range(0, rows * stride, stride)), weights)


@st.composite
def recipes(draw: st.DrawFn, histories: Sequence[Recorded]) -> Recipe:
    """Recipes that mostly fit the histories."""
    last = min(recorded.steps[-1] for recorded in histories)
    options: dict[str, Any] = {
        **draw(st.sampled_from(CONTEXTS) | rich()),
        **draw(st.sampled_from(STRATA) | strata()),
        **draw(st.sampled_from(GLOBS)),
        "t_min": draw(st.sampled_from([None, None, last // 6, last // 4])),
        "t_max": draw(st.sampled_from([None, None, last // 3, last // 2])),
        "t_distribution": draw(st.sampled_from(["uniform", "log"])),
        "seed": draw(st.integers(0, 2**64 - 1)),
        "validation": draw(st.sampled_from([0.4, 0.01, 0.0])),
        "validation_by": draw(st.sampled_from(["weight", "run"] if histories[1:] else ["weight"])),
        "shortfall": draw(st.sampled_from(["error", "error", "fewer"])),
    }
    sizes = []
    for recorded in histories:
        choices = len(reference_admissible(recorded.steps, Recipe(1, **options)))
        sizes.append((len(selected(recorded.table, Recipe(1, **options))), choices))
    options["draws"] = draw(st.none() | st.integers(1, max(1, min(m for _, m in sizes))))
    each = min(weights * (options["draws"] or choices) for weights, choices in sizes)
    least = len(histories)
    samples = draw(st.integers(least, max(least, each * len(histories) // 3)))
    shares = st.lists(st.sampled_from([1.0, 2.5, 3.0]), min_size=least, max_size=least)
    return Recipe(samples, run_shares=tuple(draw(st.just([]) | shares)), **options)


def build(histories: Any, path: Path, recipe: Recipe, **kwargs: Any) -> Dataset:
    """Build what a recipe says, in the calling thread if not told otherwise."""
    options = {name: value for name, value in recipe.to_json().items() if name != "samples"}
    kwargs = {"scheduler": "synchronous", **kwargs}
    return build_dataset(histories, path, recipe.samples, **options, **kwargs)


def build_counting(
    histories: Any, path: Path, recipe: Recipe, **kwargs: Any
) -> tuple[Dataset, int]:
    """The same; says how many histories were reported to give fewer samples than they should."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", WeightcastWarning)
        dataset = build(histories, path, recipe, **kwargs)
    assert all("too few candidates" in str(warning.message) for warning in caught)
    return dataset, len(caught)


def assert_reference(
    dataset: Dataset, histories: Recorded | Sequence[Recorded], recipe: Recipe
) -> list[Drawn]:
    """Every array equals the slow reference, sample for sample and bit for bit."""
    histories = [histories] if isinstance(histories, Recorded) else histories
    drawn = reference_dataset(histories, recipe)
    assert drawn is not None
    expected = [sample for one in drawn for sample in one.samples]
    dtype = np.result_type(*(recorded.weights for recorded in histories))
    assert len(dataset) == len(expected)
    assert dataset.recipe == recipe
    assert dataset.X.dtype == dtype
    for run, (recorded, one) in enumerate(zip(histories, drawn, strict=True)):
        seen = dataset.X[dataset.run == run]
        own = seen.astype(recorded.weights.dtype)  # a history's columns are of its own precision
        assert np.array_equal(own, seen)
        assert_seen(own, np.array([s.x for s in one.samples]), recipe.context)
    assert same_bits(dataset.y, np.array([s.y for s in expected], dtype))
    assert same_bits(dataset.parameter, np.array([s.parameter for s in expected]))
    assert same_bits(dataset.step, np.array([s.step for s in expected]))
    assert same_bits(dataset.stratum, np.array([s.stratum for s in expected], np.int8))
    assert same_bits(dataset.variation, np.array([s.variation for s in expected], dtype))
    assert same_bits(dataset.run, np.array([s.run for s in expected], np.int32))
    assert same_bits(dataset.validation, np.array([s.validation for s in expected]))
    assert same_bits(dataset.target, np.array([s.target for s in expected]))
    assert same_bits(dataset.horizon, np.array([s.horizon for s in expected], np.int8))
    assert dataset.tables == tuple(recorded.table for recorded in histories)
    kinds = [
        next(p.kind for p in histories[s.run].table if p.offset <= s.parameter < p.stop)
        for s in expected
    ]
    assert dataset.kinds().tolist() == kinds
    for origin, one, recorded in zip(dataset.origins, drawn, histories, strict=True):
        assert origin.recorded == len(recorded.steps)
        assert origin.draws == one.draws
        assert list(origin.candidates) == one.candidates
        assert list(origin.wanted) == one.wanted
        assert list(origin.samples) == one.given
        assert list(origin.ties) == one.ties
    return drawn
