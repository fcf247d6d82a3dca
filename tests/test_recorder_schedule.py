"""Schedules: every kind against a slow enumeration, and the text that they print and read."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_reference import points_in_order, wanted_step

from weightcast.recorder import (
    Dense,
    Every,
    Geometric,
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
GEOMETRIC = st.builds(
    Geometric,
    st.integers(1, LAST),
    st.sampled_from([2, 1.5, 1.1, 1.7]) | st.floats(1.003, 9) | st.floats(1.1, 1e308),
)
DENSE = st.builds(Dense, st.integers(1, LAST))
STEPS = st.builds(Steps.of, SOME_STEPS)
JUMP = st.builds(Jump, SOME_STEPS.map(tuple), CONTEXTS) | st.builds(
    Jump,
    st.lists(st.integers(40, LAST), min_size=1, max_size=6).map(tuple),
    WINDOWS.map(lambda text: Context.of(text).entries),
)
PARTS = st.one_of(EVERY, LOG, GEOMETRIC, DENSE, STEPS, JUMP)
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
        case Geometric(first, ratio):
            steps = multiples(first, ratio)
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


def multiples(first: int, ratio: float) -> set[int]:
    """first, first * ratio, ..., each to the nearest whole step, in exact decimals."""
    steps, exact = {0}, Decimal(first)
    while exact <= LAST + 1:
        steps.add(int(exact + Decimal("0.500000001")))  # 5 * 1.7 is 8.5, not what 1.7 is in binary
        exact *= Decimal(ratio)
    return steps


def members(schedule: Schedule) -> set[int]:
    return {step for step in range(LAST + 1) if step in schedule}


@settings(max_examples=150, deadline=None)
@given(st.one_of(PARTS, UNIONS))
def test_membership_is_the_enumeration(schedule: Schedule) -> None:
    assert members(schedule) == enumerated(schedule)


@settings(max_examples=150, deadline=None)
@given(st.one_of(PARTS, UNIONS), st.integers(1, LAST))
def test_members_are_the_steps_in_order(schedule: Schedule, start: int) -> None:
    found = list(itertools.takewhile(lambda step: step <= LAST, schedule.members(start)))
    assert found == sorted(step for step in enumerated(schedule) if step >= start)


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
        ("geometric:3x2", [0, 3, 6, 12]),
        ("geometric:3x1.5", [0, 3, 5, 7, 10]),
        ("geometric:2x1e300", [0, 2]),
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
        "geometric:",
        "geometric:5",
        "geometric:5x",
        "geometric:x2",
        "geometric:0x2",
        "geometric:-5x2",
        "geometric:5.5x2",
        "geometric:5x1",
        "geometric:5x-2",
        "geometric:5x0.5",
        "geometric:5xnan",
        "geometric:5xinf",
        "geometric:5x2x2",
        "geometric:5,6x2",
        "geometric:5x2@1,0.5",
        f"geometric:{10**400}x2",
        f"every:{10**400}",
        f"every:1{'0' * 5000}",
        f"steps:{10**30}",
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


@pytest.mark.parametrize("number", [True, 2.0, float("nan"), "2", None])
def test_numbers_that_are_not_steps_are_refused(number: Any) -> None:
    for make in (Every, Log, Dense, lambda n: Geometric(n, 2), lambda n: Steps.of([n])):
        with pytest.raises(UsageError, match="whole numbers"):
            make(number)
    with pytest.raises(UsageError, match="whole numbers"):
        Jump((number,))


@pytest.mark.parametrize(
    ("text", "start", "found"),
    [
        ("geometric:500x2", 10**6, [1_024_000, 2_048_000]),
        # powers far closer together than steps, and far apart
        ("geometric:1x1.0000000000000002", 5, [5, 6]),
        ("geometric:1x1.0000001", 10**6, [10**6, 10**6 + 1]),
        ("geometric:7x1e308", 1, [7]),
        ("geometric:7x1e308", 8, []),
        ("geometric:4503599627370497x1.5", 1, [4503599627370497, 6755399441055746]),
        ("log:9007199254740992", 77, [77, 78]),
        ("every:1000", 10**15 + 1, [10**15 + 1000, 10**15 + 2000]),
        ("geometric:1x9e15+every:9007199254740992", 2, [9 * 10**15, 9007199254740992]),
    ],
)
def test_extremes_are_quick_and_exact(text: str, start: int, found: list[int]) -> None:
    schedule = parse_schedule(text)
    assert parse_schedule(str(schedule)) == schedule
    assert list(itertools.islice(schedule.members(start), 2)) == found
    assert all(step in schedule for step in found)
    assert all(step not in schedule for step in (-1, 9007199254740993, 10**400 + 1))


def test_steps_beyond_floating_point_are_exact() -> None:
    """Checkpoints may be of any step; only series of powers end where floating point does."""
    odd = 2**53 + 1
    assert odd in parse_schedule(f"every:{odd}")
    assert odd in parse_schedule(f"steps:{odd}")
    assert odd - 1 not in parse_schedule(f"steps:{odd}")
    with pytest.raises(UsageError, match="geometric"):
        parse_schedule(f"geometric:{odd}x2")
