"""Plans of jumps against a slow enumeration, what jumps need to have seen, and what is refused."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_reference import points_in_order, refuses, wanted_step

from weightcast.apply import JumpPlan, Reach, parse_jump_points, plan_jumps
from weightcast.apply.needs import earliest, has_context, lives, require_context, sees_any_of
from weightcast.apply.plan import MOST_JUMPS
from weightcast.predictor import Forecaster, Line, LinearFit
from weightcast.recorder import (
    Dense,
    Every,
    Geometric,
    Log,
    Schedule,
    Steps,
    Union,
    parse_schedule,
)
from weightcast.store import Context, UsageError
from weightcast.store.windows import Window

END = 300

TOLD: list[Forecaster] = [
    Line(20, 5),
    Line(1, 1),
    LinearFit((1.0, 0.7, 0.4, 0.0, "ratio")),
    LinearFit(("t-3", "t-9", "ahead"), "+7"),
]
UNTOLD: list[Forecaster] = [
    LinearFit(),
    LinearFit((1.0, 0.97, 0.9), 1.1),
    LinearFit(("t-3", "t-9"), "+7"),
]
ENTRIES = st.sampled_from(
    ["1", "1,0.7,0.4,0", "1,0.93,0.9", "t-7,t-9", "1,0.5,t-12,slope:40/4", "mean:6/3,step", "ratio"]
)
WHOLE = st.integers(1, END)
PARTS = st.one_of(
    st.builds(Every, WHOLE),
    st.builds(Log, st.integers(1, 30)),
    st.builds(Geometric, WHOLE, st.floats(1.01, 9)),
    st.builds(Dense, WHOLE),
)
UNIONS = st.lists(PARTS | st.builds(Steps.of, st.sets(WHOLE, min_size=1)), min_size=2, max_size=3)
SCHEDULES = PARTS | UNIONS.map(lambda parts: Union(tuple(parts)))
HORIZONS = st.floats(1.001, 9) | st.integers(1, 400).map("+{}".format)
REACHES = st.builds(Reach, HORIZONS, most=st.none() | st.integers(1, 200), shrink=st.booleans())


def slow_has_context(entries: Any, t: int) -> bool:
    points = points_in_order(Context.of(entries).entries)
    fractions = [wanted_step(t, p) for p in points if not p[1]]
    return t > 0 and len(set(fractions)) == len(fractions) and all(t >= back for _, back in points)


def slow_target(reach: Reach, t: int, first: int, end: int | None) -> int:
    """As the docstrings say it, one jump after the other."""
    horizon = reach.horizon
    ahead = horizon.steps or math.floor(horizon.ratio * t + 0.5) - t
    if reach.most is not None:
        ahead = min(ahead, reach.most)
    if reach.shrink and end is None:
        ahead = math.floor(ahead * (first / t) + 0.5)
    elif reach.shrink:
        ahead = math.floor(ahead * max(1 - t / end, 0) + 0.5)
    return t + ahead if end is None else max(min(t + ahead, end), t)


# ---- plans


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(TOLD), SCHEDULES, REACHES, st.integers(1, END))
def test_plans_of_a_schedule_are_the_enumeration(
    forecaster: Forecaster, schedule: Schedule, reach: Reach, end: int
) -> None:
    seen = forecaster.ready().context_
    points = [t for t in range(1, end + 1) if t in schedule and slow_has_context(seen, t)]
    targets = {t: slow_target(reach, t, points[0], end) for t in points}
    wanted = {t: target for t, target in targets.items() if t < target}
    if not wanted:
        with refuses(UsageError, "at least one step", schedule, end):
            plan_jumps(forecaster, schedule, horizon=reach, end=end)
        return
    plan = plan_jumps(forecaster, schedule, horizon=reach, end=end)
    assert plan == JumpPlan(wanted, reach, end)
    assert plan == plan_jumps(forecaster, str(schedule), horizon=reach, end=end)
    assert list(plan.targets) == plan.points == sorted(wanted)
    assert plan.gap == min(np.diff(plan.points), default=None)
    assert {type(step) for pair in plan.targets.items() for step in pair} == {int}


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(UNTOLD), SCHEDULES, st.integers(1, END))
def test_a_fixed_horizon_never_passes_the_end(
    forecaster: Forecaster, schedule: Schedule, end: int
) -> None:
    reach, seen = Reach(forecaster.horizon), forecaster.ready().context_
    points = [t for t in range(1, end) if t in schedule and slow_has_context(seen, t)]
    targets = {t: slow_target(reach, t, 1, None) for t in points}
    wanted = {t: target for t, target in targets.items() if target <= end}
    if wanted:
        assert plan_jumps(forecaster, schedule, end=end).targets == wanted
    else:
        with refuses(UsageError, "at least one step", schedule, end):
            plan_jumps(forecaster, schedule, end=end)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(TOLD + UNTOLD),
    st.lists(WHOLE, min_size=1, max_size=4),
    REACHES,
    st.none() | st.integers(END // 2, 2 * END),
)
def test_points_that_are_named_are_all_there_or_refused(
    forecaster: Forecaster, points: list[int], reach: Reach, end: int | None
) -> None:
    told = forecaster in TOLD
    reach = reach if told else Reach(forecaster.horizon)
    seen = forecaster.ready().context_
    targets = {t: slow_target(reach, t, min(points), end if told else None) for t in sorted(points)}
    early = [t for t in targets if not slow_has_context(seen, t)]
    late = [t for t in targets if end is not None and (t >= end or targets[t] > end)]
    still = [t for t in targets if told and targets[t] == t]
    given = [points, set(points), Steps.of(points), ",".join(map(str, points)), np.array(points)]
    for jump_points in given:
        if bad := early or late or still:
            with refuses(UsageError, min(late + still, default=0) if not early else bad[0]):
                plan_jumps(forecaster, jump_points, horizon=reach, end=end)
        else:
            plan = plan_jumps(forecaster, jump_points, horizon=reach, end=end)
            assert plan == JumpPlan(targets, reach, end)


def test_shrinking_without_an_end_is_from_the_first_jump_on() -> None:
    plan = plan_jumps(Line(), "geometric:500x2", horizon=Reach("+1000", shrink=True))
    # 500 has no context of 800 steps
    assert list(plan.targets.items())[:4] == [
        (1000, 2000),
        (2000, 2500),
        (4000, 4250),
        (8000, 8125),
    ]
    assert plan.points[-1] == 1000 << 10  # where a step ahead is left


def test_the_forecasters_own_horizon_is_cut_at_the_end_only_where_it_is_told() -> None:
    assert plan_jumps(LinearFit(("t-9", "ahead"), "+7"), [10], end=12).targets == {10: 12}
    with refuses(UsageError, "end of training at 12", "that at 10 goes to 17", "ahead or ratio"):
        plan_jumps(LinearFit(("t-3", "t-9"), "+7"), [10], end=12)


def test_a_fixed_horizon_may_round_to_no_step() -> None:
    """It is no number that the forecaster sees."""
    forecaster = LinearFit((1.0, 0.5), 1.1)
    assert plan_jumps(forecaster, [4], end=5).targets == {4: 4}
    with refuses(UsageError, "before the end of training at 4"):
        plan_jumps(forecaster, [4], end=4)


def test_plans_print_themselves() -> None:
    assert str(plan_jumps(LinearFit(), [3000])) == "1 jump: 3000 to 6000 (2t)"
    reach = Reach(1.5, most=1, shrink=True)
    assert str(plan_jumps(Line(), "every:1000", horizon=reach, end=2000)) == (
        "1 jump: 1000 to 1001 (1.5t, at most 1 step, shrinking, training ends at 2000)"
    )
    assert str(plan_jumps(Line(), range(1000, 6000, 1000))) == (
        "5 jumps: 1000 to 1500, 2000 to 2500, 3000 to 3500, 4000 to 4500, 5000 to 5500 (t+500)"
    )
    assert str(plan_jumps(Line(), "every:1000")) == (
        "jumps: 1000 to 1500, 2000 to 2500, 3000 to 3500, 4000 to 4500, ... (t+500)"
    )
    assert str(plan_jumps(Line(), "every:10", end=2000)) == (
        "120 jumps: 800 to 1300, 810 to 1310, 820 to 1320, 830 to 1330, ..., 1990 to 2000 "
        "(t+500, training ends at 2000)"
    )


@pytest.mark.parametrize(
    ("text", "points"),
    [
        ("3000,4000,5000", [3000, 4000, 5000]),
        (" 7 ", [7]),
        ("every:1000", Every(1000)),
        ("geometric:500x2", Geometric(500, 2)),
        ("steps:5,9", Steps.of([5, 9])),
        ("dense:5+log:3", parse_schedule("dense:5+log:3")),
    ],
)
def test_jump_points_of_a_command_line(text: str, points: object) -> None:
    assert parse_jump_points(text) == points


# ---- many jumps


def test_many_jumps() -> None:
    reach = Reach(2, most=10)
    every = plan_jumps(Line(), "every:1", horizon=reach)
    assert every.points == list(range(800, 800 + MOST_JUMPS))
    assert plan_jumps(Line(), range(800, 800 + MOST_JUMPS), horizon=reach) == every
    assert (
        plan_jumps(Line(), "every:1", horizon=reach, end=MOST_JUMPS + 799).points
        == (every.points[:-1])
    )
    # powers of all but 1 are every step, up to where there is a context and beyond
    dense = plan_jumps(Line(10**6, 10**5), "geometric:1x1.0000000000000002")
    assert dense.points[:: MOST_JUMPS - 1] == [10**6, 10**6 + MOST_JUMPS - 1]


@pytest.mark.parametrize("points", [range(800, 801 + MOST_JUMPS), itertools.count(800)])
def test_too_many_named_jumps_are_refused(points: Any) -> None:
    with refuses(UsageError, "at most 100000 times"):
        plan_jumps(Line(), points)


@pytest.mark.parametrize(
    ("points", "end"), [("every:1", 10**6), ("dense:1000000", None), ("every:1000", 10**12)]
)
def test_jumps_that_would_be_left_out_silently_are_refused(points: str, end: int | None) -> None:
    with refuses(UsageError, "at most 100000 times", points, "less often"):
        plan_jumps(Line(), points, end=end)


# ---- what is refused


@pytest.mark.parametrize("value", [0, -1, 1.5, 5.0, math.nan, math.inf, True, "5", 10**30, [5]])
def test_numbers_that_are_no_steps_are_refused(value: Any) -> None:
    with refuses(UsageError, "most", f"got {value!r}"):
        Reach(2, most=value)
    with refuses(UsageError, "end", f"got {value!r}"):
        plan_jumps(Line(), [1000], end=value)
    with refuses(UsageError, "jump point", repr(value)):
        plan_jumps(Line(), [1000, value])


@pytest.mark.parametrize(
    "value", [0, 1, -2, 0.5, math.nan, math.inf, True, "soon", "+0", "+-5", []]
)
def test_horizons_that_are_none_are_refused(value: Any) -> None:
    for make in (Reach, lambda v: plan_jumps(Line(), [1000], horizon=v)):
        with refuses(UsageError, "horizon", "got"):
            make(value)


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ([], "at least one step"),
        ("", "jump points are steps"),
        ("3000;4000", "'3000;4000'"),
        ("3e3", "'3e3'"),
        ("soon", "'soon'"),
        ("every:0", "got 0"),
        ("every:1.5", "'every:1.5'"),
        ("geometric:0x2", "got 0"),
        ("geometric:5x1", "ratio above 1"),
        ("geometric:5xnan", "got nan"),
        ("jump:3000,4000", "the jump points themselves"),
        ("every:1000+jump:3000", "the jump points themselves"),
        (
            "dense:799",
            "dense:799 leaves none: jumps go to t+500, and the first step with a context",
        ),
        ("steps:799", "earliest jump point is 800"),
        (3000, "got 3000"),
        (None, "got None"),
        (1.5, "got 1.5"),
    ],
)
def test_jump_points_that_are_none_are_refused(points: Any, words: str) -> None:
    with refuses(UsageError, words):
        plan_jumps(Line(), points)


def test_ends_that_leave_no_jump_are_refused() -> None:
    with refuses(UsageError, "before the end of training at 1000", "got 1000"):
        plan_jumps(Line(), [900, 1000], end=1000)
    with refuses(UsageError, "every:1000 leaves none before the end of training at 1000"):
        plan_jumps(Line(), "every:1000", end=1000)
    with refuses(UsageError, "at 3000 goes to 6000"):
        plan_jumps(LinearFit(), [1000, 3000, 4000], end=5000)


def test_reaches_that_leave_nothing_are_refused() -> None:
    with refuses(UsageError, "of t+1, shrinking nothing is left at 9000"):
        plan_jumps(Line(), [1000, 9000], horizon=Reach("+1", shrink=True))
    with refuses(UsageError, "nothing is left at 1000"):
        plan_jumps(Line(), [1000], horizon=1.0001)


def test_a_reach_that_varies_needs_a_forecaster_that_is_told() -> None:
    for reach in (Reach(2, most=50), Reach(2, shrink=True)):
        with refuses(UsageError, "told how far it looks", "LinearFit is for 2t only"):
            plan_jumps(LinearFit(), [1000], horizon=reach)
    assert plan_jumps(LinearFit(), [1000], horizon=Reach(2)).targets == {1000: 2000}
    with refuses(UsageError, "is for 2t, and is not told another horizon: got t+500"):
        plan_jumps(LinearFit(), [1000], horizon=Reach("+500"))


@pytest.mark.parametrize("points", ["every:1000", "log:4", "geometric:500x2", "dense:9+every:50"])
def test_fractions_of_t_need_an_end_where_a_schedule_has_none(points: str) -> None:
    with refuses(UsageError, "has no end", "end=", "--end"):
        plan_jumps(LinearFit(), points)
    assert plan_jumps(LinearFit(), points, end=5000).points[-1] <= 2500
    assert plan_jumps(LinearFit((1.0, 0.0)), points).points[:2]  # the first step is seen once


# ---- what jumps need to have seen


@settings(max_examples=150, deadline=None)
@given(ENTRIES, st.lists(st.integers(-5, 500), min_size=1, max_size=20))
def test_where_there_is_a_context(entries: str, steps: list[int]) -> None:
    context = Context.of(entries)
    wanted = [slow_has_context(entries, t) for t in steps]
    assert has_context(context, np.array(steps)).tolist() == wanted
    for t, there in zip(steps, wanted, strict=True):
        after = next(s for s in itertools.count(t) if slow_has_context(entries, s))
        assert earliest(context, t) == after
        if there:
            require_context(context, t)
        else:
            with refuses(UsageError, f"step {t} is too early", after):
                require_context(context, t)


@settings(max_examples=150, deadline=None)
@given(ENTRIES, st.sets(st.integers(40, 400), min_size=1, max_size=8), st.data())
def test_what_is_held_from_when_to_when(entries: str, jumps: set[int], data: Any) -> None:
    """Held at a step: snapshots of it or before, and sums begun, that a later jump reads."""
    context = Context.of(entries)
    found = lives(context, data.draw(st.permutations(sorted(jumps))))
    values = points_in_order(tuple(v for v in context.entries if is_value(v)))
    windows = [Window(40, 4)] * ("40/4" in entries) + [Window(6, 3)] * ("6/3" in entries)
    read = [(wanted_step(t, p), t) for t in jumps for p in values if p != (1.0, 0)]
    assert {k: v for k, v in found.items() if isinstance(k, int)} == {
        step: (step, max(t for s, t in read if s == step)) for step, _ in read
    }
    assert {k: v for k, v in found.items() if not isinstance(k, int)} == {
        (t, w): (t - w.steps, t) for t in jumps for w in windows
    }


def is_value(entry: Any) -> bool:
    return isinstance(entry, float) or entry.startswith("t-")


@settings(max_examples=150, deadline=None)
@given(ENTRIES, st.integers(40, 400), st.integers(0, 400), st.integers(0, 60))
def test_what_a_jump_looks_back_at(entries: str, t: int, low: int, length: int) -> None:
    context = Context.of(entries)
    steps = {wanted_step(t, p) for p in points_in_order(context.entries)}
    assert sees_any_of(context, t, low, low + length) == any(
        step in steps for step in range(low, low + length)
    )
