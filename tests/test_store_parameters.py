"""The parameter table, metrics of change, and which parameters a glob means."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_reference import refuses, tables

from weightcast.store import (
    FormatError,
    Parameter,
    ParameterTable,
    ShapeError,
    UsageError,
    variation,
)
from weightcast.store.parameters import matches

ROWS: list[tuple[str, tuple[int, ...], str, Any]] = [
    ("conv.weight", (2, 3), "bfloat16", "weight"),
    ("scale", (), "float32", "norm"),
    ("conv.bias", (2,), "float32", "bias"),
]


@settings(max_examples=50, deadline=None)
@given(tables())
def test_a_scalar_is_located_by_counting(table: ParameterTable) -> None:
    names = [
        p.name + (str(list(where)).replace(" ", "") if p.shape else "")
        for p in table
        for where in np.ndindex(*p.shape)
    ]
    assert table.size == len(names)
    assert [table.locate(i) for i in range(table.size)] == names
    for outside in (-1, table.size):
        with refuses(UsageError, outside, table.size):
            table.locate(outside)


@settings(max_examples=50, deadline=None)
@given(tables())
def test_a_table_survives_json(table: ParameterTable) -> None:
    again = ParameterTable.from_json(json.loads(json.dumps(table.to_json())))
    assert again == table
    assert hash(again) == hash(table)


def test_offsets_follow_from_the_shapes() -> None:
    table = ParameterTable.of(ROWS)
    assert [(p.name, p.offset, p.stop, p.size) for p in table] == [
        ("conv.weight", 0, 6, 6),
        ("scale", 6, 7, 1),
        ("conv.bias", 7, 9, 2),
    ]
    assert table["scale"] == table[1] == Parameter("scale", (), "float32", 6, "norm")
    assert "scale" in table
    assert "conv" not in table
    assert len(table) == 3


def test_a_name_stands_once() -> None:
    with refuses(FormatError, "unique"):
        ParameterTable.of([ROWS[0], ROWS[0]])


@pytest.mark.parametrize("offset", [-1, 5, 7])
def test_offsets_leave_no_gap(offset: int) -> None:
    first = ParameterTable.of(ROWS[:1])[0]
    with refuses(FormatError, "contiguous", "'b'", offset, 6):
        ParameterTable([first, Parameter("b", (2,), "float32", offset, "bias")])


def test_an_unknown_name_is_told_what_there_is() -> None:
    with refuses(UsageError, "'conv'", "conv.weight"):
        ParameterTable.of(ROWS)["conv"]


OTHERS = {
    "renamed": [("conv1.weight", *ROWS[0][1:]), *ROWS[1:]],
    "another shape": [("conv.weight", (3, 2), *ROWS[0][2:]), *ROWS[1:]],
    "another order": [ROWS[1], ROWS[0], ROWS[2]],
    "shorter": ROWS[:2],
    "longer": [*ROWS, ("new", (1,), "float32", "weight")],
}


@pytest.mark.parametrize("case", OTHERS)
def test_tables_that_differ_are_told_apart(case: str) -> None:
    with refuses(ShapeError, "the history", "the model"):
        ParameterTable.of(ROWS).require_same(
            ParameterTable.of(OTHERS[case]), "the history", "the model"
        )


def test_tables_may_differ_in_dtype_and_kind() -> None:
    other = ParameterTable.of((name, shape, "float64", "weight") for name, shape, _, _ in ROWS)
    ParameterTable.of(ROWS).require_same(other, "a", "b")


@pytest.mark.parametrize(
    ("include", "exclude", "chosen"),
    [
        ([], [], ["conv.weight", "scale", "conv.bias"]),
        (["conv.*"], [], ["conv.weight", "conv.bias"]),
        ([], ["*.bias"], ["conv.weight", "scale"]),
        (["conv.*", "scale"], ["*weight"], ["scale", "conv.bias"]),
        (["CONV.*"], [], []),  # names are case-sensitive
        (["conv"], [], []),  # a glob is the whole name
        ("conv.*", "*.bias", ["conv.weight"]),  # one glob, not one for each letter
    ],
)
def test_globs_choose(include: Any, exclude: Any, chosen: list[str]) -> None:
    assert [name for name, *_ in ROWS if matches(name, include, exclude)] == chosen


FLOATS = st.lists(st.floats(-(2.0**99), 2.0**99, width=32), max_size=8)


@settings(max_examples=50, deadline=None)
@given(FLOATS, st.randoms())
def test_variation_is_the_absolute_change(values: list[float], random: Any) -> None:
    initial = random.sample(values, len(values))
    changed = variation(np.float32(values), np.float32(initial))
    assert changed.dtype == np.float32
    pairs = zip(values, initial, strict=True)
    assert changed.tolist() == [abs(np.float32(a) - np.float32(b)) for a, b in pairs]


def test_variation_needs_one_shape() -> None:
    with refuses(ShapeError, "(3,)", "(1,)"):
        variation(np.zeros(3), np.zeros(1))
