"""Contexts and horizons: what they print, read and refuse; running sums beside `numpy.polyfit`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from dataset_cases import contexts
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from store_reference import points_in_order, refuses, wanted_step

from weightcast.store import Context, Horizon, RunningSums, UsageError, Window
from weightcast.store.columns import Past
from weightcast.store.horizon import horizons, parse_horizon, plain

# ---- contexts


@settings(max_examples=100, deadline=None)
@given(contexts())
def test_a_context_prints_what_it_reads(entries: tuple[Any, ...]) -> None:
    context = Context.of(entries)
    assert context.entries == entries
    assert Context.of(str(context)) == context
    assert Context.of(context) is context
    assert hash(Context.of(str(context))) == hash(context)


@settings(max_examples=100, deadline=None)
@given(contexts(), st.lists(st.integers(0, 2**40), max_size=4))
def test_the_steps_of_a_context_are_those_of_its_points(entries: Any, t: list[int]) -> None:
    context, points = Context.of(entries), points_in_order(entries)
    expected = [[wanted_step(one, point) for point in points] for one in t]
    assert context.points == tuple(Past(*point) for point in points)
    assert context.steps(np.array(t, np.int64)).tolist() == expected
    assert [context.steps(one).tolist() for one in t] == expected
    assert context.reach == max(back for _, back in points)


@settings(max_examples=100, deadline=None)
@given(contexts(), st.data())
def test_places_are_where_entries_stand(entries: Any, data: st.DataObject) -> None:
    context = Context.of(entries)
    wanted = [e for e in entries if e == 1.0 or data.draw(st.booleans())]
    assume(wanted)
    assert [entries[i] for i in context.places(wanted)] == wanted


def test_short_forms() -> None:
    assert Context.of("last:3/25").entries == (1.0, "t-25", "t-50")
    assert Context.of("t, slope:800").entries == (1.0, "slope:800/25")
    assert Context.of("slope:5").entries == ("slope:5/1",)


BAD_CONTEXTS: list[Any] = [
    "", "half", "0.5,1", "1,0.5,0.5", "1,t-5,t-3", "t-0", "t-5,t-5", "last:0/5", "last:3/0",
    "last:5000/1", "mean:0/1", "mean:5/2", "slope:5/0", "median:5/1", "1,nan", "scale,scale",
    (1.0, True), (1.0, None), 5, (), ("slope:65537/1",), "mean:4/2,mean:4/2",
]  # fmt: skip


@pytest.mark.parametrize("bad", BAD_CONTEXTS, ids=str)
def test_bad_contexts_are_refused_in_one_line(bad: Any) -> None:
    with refuses(UsageError, "got"):
        Context.of(bad)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1,last:33/25", ["got 1 2 times", "last:M/STRIDE contains 1"]),
        ("last:3/25,t-25", ["got t-25 2 times"]),
        ("1,0.5,0.5", ["got 0.5 2 times"]),
    ],
)
def test_an_entry_that_is_there_twice_is_named(text: str, words: list[str]) -> None:
    with refuses(UsageError, *words):
        Context.of(text)


# ---- horizons


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.floats(1.01, 9).map(lambda k: round(k, 3)) | st.integers(1, 9).map("+{}".format),
        unique=True,
        min_size=1,
        max_size=4,
    ),
    st.integers(1, 2**40),
)
def test_horizons_print_what_they_read(values: list[Any], t: int) -> None:
    given = plain(values if len(values) > 1 else values[0])
    assert parse_horizon(",".join(map(str, values))) == given
    for value, horizon in zip(values, horizons(values), strict=True):
        wanted = t + int(value) if isinstance(value, str) else math.floor(t * value + 0.5)
        assert horizon.target(t) == wanted
        assert horizon.target(np.array([t])).tolist() == [wanted]
        assert Horizon.of(horizon.plain) == horizon


@pytest.mark.parametrize(
    "bad",
    ["", "1", "x", "+0", "+-5", "2,2", "2,", "nan", "inf", "+1.5", "-3", "+500,+500", "1e400"],
)
def test_bad_horizons_are_refused_in_one_line(bad: str) -> None:
    with refuses(UsageError, "horizon", "got"):
        parse_horizon(bad)


@pytest.mark.parametrize("text", ["500", "100", "2,500"])
def test_a_plus_sign_that_was_forgotten_is_no_ratio(text: str) -> None:
    number = text.split(",")[-1]
    with refuses(UsageError, f"{number} times t", f"+{number}"):
        parse_horizon(text)
    assert parse_horizon("99.5") == 99.5
    assert plain(500) == 500.0  # Python may have it


# ---- windows


def fitted(snapshots: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, rise and what is left of least-squares lines, in float64; shape (m, P)."""
    values = snapshots.astype(float)
    moved, x = values - values[0], np.arange(len(values))
    line = np.polyfit(x, moved, 1)
    left = moved - np.outer(x, line[0]) - line[1]
    return values.mean(axis=0), line[0] * x[-1], np.sqrt((left**2).mean(axis=0))


@pytest.mark.parametrize("kind", ["numpy float32", "numpy float64", "torch float32"])
@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 5),
    st.integers(1, 70_000).filter(lambda n: n < 50 or n > 2**15),
    st.sampled_from([0.0, 100.0, -3e4]),
    st.integers(0, 2**32 - 1),
)
def test_running_sums_are_those_of_polyfit(
    kind: str, intervals: int, stride: int, size: int, offset: float, seed: int
) -> None:
    """However far the weights are from 0, what they moved by is known to its own precision."""
    dtype = np.float64 if "64" in kind else np.float32
    random = np.random.default_rng(seed)
    size = size if intervals < 4 else min(size, 50)
    moves = random.normal(size=(intervals + 1, size)).cumsum(axis=0)
    snapshots = (offset + moves).astype(dtype)
    made = torch.from_numpy if "torch" in kind else np.asarray
    sums = RunningSums(Window(intervals * stride, stride), made(snapshots[0]))
    for snapshot in snapshots[1:]:
        assert not sums.complete
        sums.add(made(snapshot))
    assert sums.complete
    mean, slope, spread = fitted(snapshots)
    moved = np.abs(snapshots.astype(float) - snapshots[0]).max(initial=1e-9)
    eps = float(np.finfo(dtype).eps)
    assert np.abs(np.asarray(sums.mean()) - mean).max() <= 8 * eps * (abs(offset) + 4 * moved)
    assert np.abs(np.asarray(sums.slope()) - slope).max() <= 32 * eps * moved
    assert np.abs(np.asarray(sums.spread()) - spread).max() <= 8 * math.sqrt(eps) * moved
    part = slice(3, 40)
    for name in ("mean", "slope", "spread"):
        row, whole = sums.row(name), getattr(sums, name)()
        assert len(row) == size
        assert np.array_equal(np.asarray(row[part]), np.asarray(whole)[part])
    with refuses(UsageError, "got more"):
        sums.add(made(snapshots[0]))


def test_sums_do_not_keep_what_they_are_given() -> None:
    weights = np.float32([1, 2])
    sums = RunningSums(Window(1, 1), weights)
    weights += 1  # as an optimizer does, in place
    sums.add(weights)
    assert sums.mean().tolist() == [1.5, 2.5]


def test_the_spread_is_kept_only_where_it_is_asked_for() -> None:
    sums = RunningSums(Window(1, 1), np.float32([1]), spread=False)
    sums.add(np.float32([2]))
    assert sums.slope().tolist() == [1.0]
    with refuses(UsageError, "spread=True"):
        sums.spread()


def test_a_context_cannot_claim_more_than_memory_holds() -> None:
    """A header of a megabyte could ask for thousands of millions of entries or snapshots."""
    with refuses(UsageError, "1 to 4096 entries"):
        Context.of(("last:4096/1",) * 100_000)
    with refuses(UsageError, "snapshots together"):
        Context.of(f"mean:{65000 + i}/1" for i in range(300))


def test_many_horizons_are_compared_in_little_time() -> None:
    assert len(horizons([1 + i / 1e6 for i in range(1, 50_001)])) == 50_000
    with refuses(UsageError, "several that differ"):
        horizons([2, 1.5, 2.0])


@pytest.mark.parametrize(("steps", "stride"), [("abc", 25), (50, "x"), (1.5, 1), (50.0, 25)])
def test_a_window_is_of_whole_numbers(steps: Any, stride: Any) -> None:
    with refuses(UsageError, "a window is STEPS/STRIDE"):
        Window(steps, stride)


def test_what_a_message_proposes_is_a_context() -> None:
    """The two contexts put together, in an order that both can have."""
    with pytest.raises(UsageError, match="t-50,slope") as caught:
        Context.of("1,0.7,0,t-75,ahead").places((1.0, 0.5, "t-50", "slope:8/2"))
    proposed = str(caught.value).split("--context ")[1]
    assert proposed == "1,0.7,0.5,0,t-50,t-75,slope:8/2,ahead"
    assert str(Context.of(proposed)) == proposed
