"""Schedules: every kind against a slow enumeration, and the text that they print and read."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_reference import points_in_order, wanted_step

from weightcast.recorder import (
    Dense,
    Every,
    Jump,
    Log,
    Schedule,
    Steps,
    Union,
    parse_schedule,
)
from weightcast.store import Context, UsageError, context_steps
from weightcast.store.recipe import PAPER_CONTEXT

LAST = 2000  # membership is compared on the steps 0 to LAST

SOME_STEPS = st.lists(st.integers(1, LAST), min_size=1, max_size=6)
CONTEXTS = st.sampled_from([PAPER_CONTEXT, (1.0, 0.5, 0.0), (1.0, 0.9, 0.8, 0.3)])
WINDOWS = st.sampled_from(["t-7,t-9", "1,0.5,slope:40/4,ahead", "mean:6/3,spread:10/1,scale"])
EVERY = st.builds(Every, st.integers(1, 300))
LOG = st.builds(Log, st.integers(1, 60))
DENSE = st.builds(Dense, st.integers(1, LAST))
STEPS = st.builds(Steps.of, SOME_STEPS)
JUMP = st.builds(Jump, SOME_STEPS.map(tuple), CONTEXTS) | st.builds(
    Jump,
    st.lists(st.integers(40, LAST), min_size=1, max_size=6).map(tuple),
    WINDOWS.map(lambda text: Context.of(text).entries),
)
PARTS = st.one_of(EVERY, LOG, DENSE, STEPS, JUMP)
UNIONS = st.builds(Union, st.lists(PARTS, min_size=2, max_size=4).map(tuple))


def enumerated(schedule: Schedule) -> set[int]:
    """The steps up to LAST, listed one after the other as the module's drawing says."""
    match schedule:
        case Every(n):
            steps = set(range(0, LAST + 1, n))
        case Dense(last):
            steps = set(range(last + 1))
        case Steps(explicit):
            steps = set(explicit)
        case Log(per_decade):
            steps = log_spaced(per_decade)
        case Jump(points, context):
            steps = {wanted_step(t, point) for t in points for point in points_in_order(context)}
        case Union(parts):
            steps = set().union(*(enumerated(part) for part in parts))
        case _:
            raise NotImplementedError(schedule)
    return {0} | {step for step in steps if step <= LAST}


def log_spaced(per_decade: int) -> set[int]:
    """10^(k / n) for k = 0, 1, ..., each to the nearest whole step, in exact decimals."""
    steps, k = {0}, 0
    while max(steps) <= LAST:
        steps.add(int(Decimal(10) ** (Decimal(k) / per_decade) + Decimal("0.5")))
        k += 1
    return steps


def members(schedule: Schedule) -> set[int]:
    return {step for step in range(LAST + 1) if step in schedule}


@settings(max_examples=150, deadline=None)
@given(st.one_of(PARTS, UNIONS))
def test_membership_is_the_enumeration(schedule: Schedule) -> None:
    assert members(schedule) == enumerated(schedule)


@settings(max_examples=150, deadline=None)
@given(st.one_of(PARTS, UNIONS))
def test_text_reads_back(schedule: Schedule) -> None:
    assert parse_schedule(str(schedule)) == schedule


@settings(max_examples=30, deadline=None)
@given(st.lists(UNIONS, min_size=1, max_size=3))
def test_unions_of_unions(unions: list[Union]) -> None:
    """Text has one level only: what is nested reads back flat, with the same steps."""
    nested = Union(tuple(unions))
    assert members(nested) == set().union(*(members(union) for union in unions))
    assert members(parse_schedule(str(nested))) == members(nested)


@settings(max_examples=30, deadline=None)
@given(SOME_STEPS.map(tuple), CONTEXTS)
def test_jump_has_exactly_the_context_of_its_points(
    points: tuple[int, ...], context: tuple[float, ...]
) -> None:
    needed = {0, *context_steps(points, context).ravel().tolist()}
    assert members(Jump(points, context)) == needed


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("every:4", [0, 4, 8, 12]),
        ("log:2", [0, 1, 3, 10]),
        ("dense:3", [0, 1, 2, 3]),
        ("steps:9,1", [0, 1, 9]),
        ("jump:10", [0, 4, 7, 10]),
        ("jump:10,5", [0, 2, 4, 5, 7, 10]),
        ("jump:10,4@1,0.5,0", [0, 2, 4, 5, 10]),
        ("jump:10,12@slope:4/2,mean:4/2", [0, 6, 8, 10, 12]),
        ("jump:9@last:3/2,ahead", [0, 5, 7, 9]),
        (" dense:2 + steps:5, 9 ", [0, 1, 2, 5, 9]),
        ("every:6+every:4", [0, 4, 6, 8, 12]),
    ],
)
def test_texts_mean_what_the_help_says(text: str, steps: list[int]) -> None:
    schedule = parse_schedule(text)
    assert [step for step in range(13) if step in schedule] == steps


@pytest.mark.parametrize(
    "text",
    [
        "",
        "+",
        "weekly",
        "every",
        "every:",
        "every:0",
        "every:-1",
        "every:1.5",
        "every:2,3",
        "every:\n",
        "EVERY:3",
        "log:0",
        "log:4,4",
        "dense:0",
        "dense:1e3",
        "steps:",
        "steps:1,,2",
        "steps:1 2",
        "jump:",
        "jump:0",
        "every:1+",
        "every:1+nightly:2",
        "every:5@1,0.5",
        "every:5@",
        "jump:10@",
        "jump:10@half",
        "jump:10@0.5,1",
        "jump:10@slope:12/4",
        "jump:10,300@t-11",
        "jump:10@mean:4/3",
    ],
)
def test_bad_texts_get_one_line(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_schedule(text)
    message = str(caught.value)
    assert "\n" not in message
    assert "got" in message


@pytest.mark.parametrize(
    "empty",
    [lambda: Steps.of([]), lambda: Jump(()), lambda: Union(())],
    ids=["steps", "jump", "union"],
)
def test_schedules_without_a_step_are_refused(empty: Callable[[], Schedule]) -> None:
    """They would print a text that no schedule has, into the history's header."""
    with pytest.raises(UsageError):
        empty()
