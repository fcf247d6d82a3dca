"""What a reader sees of a history's weights, beside the slow reference that fits each by hand."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_cases import HORIZONS, contexts, finite_histories
from hypothesis import given, settings
from hypothesis import strategies as st
from store_reference import (
    Recorded,
    assert_seen,
    context_row,
    points_in_order,
    reference_seen,
    refuses,
    same_bits,
    wandering,
)

from weightcast.store import (
    ContextReader,
    History,
    NonFiniteError,
    ParameterTable,
    StepNotRecordedError,
    UsageError,
    build_dataset,
)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_what_is_seen_is_that_of_the_reference(data: st.DataObject) -> None:
    recorded = data.draw(finite_histories())
    context = data.draw(contexts())
    tolerance = data.draw(st.sampled_from([0.0, 0.3]))
    block, width = data.draw(st.integers(2, 9)), data.draw(st.integers(2, 6))
    t = data.draw(st.sampled_from(recorded.steps[1:]))
    target = data.draw(st.sampled_from(recorded.steps))
    reach = max(back for _, back in points_in_order(context))
    rows = [
        context_row(recorded.steps, t, p, tolerance * (reach if p[1] else t))
        for p in points_in_order(context)
    ]
    with tempfile.TemporaryDirectory() as folder:
        history = History(recorded.write(Path(folder) / "run.zarr", block=block, width=width))
        reader = ContextReader(history, context, tolerance)
        if None in rows:
            with refuses(StepNotRecordedError, t, history.path):
                reader.read(t, target)
            return
        whole = reader.read(t, target)
        expected = [
            reference_seen(recorded, weight, t, target, context, rows)
            for weight in range(recorded.table.size)
        ]
        assert_seen(whole.seen.T, np.array(expected), context)
        assert (whole.low, whole.high) == (0, recorded.table.size)
        assert same_bits(whole.now, recorded.weights[recorded.steps.index(t)])
        assert same_bits(whole.truth, recorded.weights[recorded.steps.index(target)])
        blocks = list(reader.blocks(t, target))
        assert [b.low for b in blocks] == list(range(0, recorded.table.size, width))
        for name in ("seen", "now", "truth"):
            joined = np.concatenate([getattr(b, name) for b in blocks], axis=-1)
            assert same_bits(joined, getattr(whole, name))


@settings(max_examples=15, deadline=None)
@given(contexts(), st.sampled_from(HORIZONS))
def test_a_reader_sees_what_a_dataset_holds(context: Any, horizon: Any) -> None:
    """Bit by bit: one piece of code computes both."""
    recorded = wandering(7, 60)
    with tempfile.TemporaryDirectory() as folder:
        path = recorded.write(Path(folder) / "run.zarr", block=8, width=3)
        dataset = build_dataset(
            path, Path(folder) / "d.zarr", 15, context=context, horizon=horizon, tolerance=0.0
        )
        reader = ContextReader(History(path), context)
        for row in range(len(dataset)):
            weight = int(dataset.parameter[row])
            t, target = int(dataset.step[row]), int(dataset.target[row])
            block = reader.read(t, target, weight, weight + 1)
            assert same_bits(block.seen[:, 0].copy(), np.array(dataset.X[row]))
            assert block.truth is not None
            assert block.truth[0] == dataset.y[row]


@pytest.fixture
def history(tmp_path: Path) -> History:
    walk = wandering(6, 21)
    table = ParameterTable.of([("b", (2,), "float32", "bias"), ("w", (2, 2), "float32", "weight")])
    steps = list(range(0, 210, 10))
    return History(Recorded(table, steps, walk.weights).write(tmp_path / "run.zarr", width=4))


def test_a_target_that_lies_ahead_needs_no_truth(history: History) -> None:
    reader = ContextReader(history, "1,0,ahead,ratio")
    with refuses(StepNotRecordedError, 400, "the target of t = 200", history.path, "is 200"):
        reader.read(200, 400)
    block = reader.read(200, 400, truth=False)
    assert block.truth is None
    assert block.seen[2:].tolist() == [[200.0] * 6, [2.0] * 6]
    assert [b.truth for b in reader.blocks(200, 400, truth=False)] == [None, None]


def test_facts_of_a_target_need_one(history: History) -> None:
    with refuses(UsageError, "needs a target", "ahead"):
        ContextReader(history, "1,ahead").read(100, None)
    block = ContextReader(history, "1,step").read(100, None)
    assert block.truth is None
    assert block.seen[1].tolist() == [100.0] * 6


def test_a_step_that_stands_in_says_which_it_is(history: History) -> None:
    """The facts of time are those of the step that was read."""
    reader = ContextReader(history, "1,ahead", tolerance=0.1)
    block = reader.read(100, 204)
    assert block.seen[1].tolist() == [100.0] * 6
    assert same_bits(block.truth, history.snapshot(200))
    with refuses(StepNotRecordedError, 205, "0.04"):
        ContextReader(history, "1,ahead", tolerance=0.04).read(100, 205)


def test_steps_that_are_not_there_are_refused(history: History) -> None:
    for t in (5, 300):
        with refuses(StepNotRecordedError, t):
            ContextReader(history, "1,0").read(t, 200)
    with refuses(StepNotRecordedError, "t = 50", "needs step 45"):
        ContextReader(history, "1,slope:10/5").read(50, 100)
    with refuses(StepNotRecordedError, "t = 50", "needs step -50"):
        ContextReader(history, "1,slope:100/10", tolerance=0.9).read(50, 100)


@pytest.mark.parametrize("context", ["1,0", "mean:40/10", "slope:40/10", "spread:40/10", "scale"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, context: str, bad: float) -> None:
    walk = wandering(6, 21)
    walk.weights[[0, 7], 4] = bad
    steps = list(range(0, 210, 10))
    path = Recorded(walk.table, steps, walk.weights).write(tmp_path / "run.zarr", width=2)
    with refuses(NonFiniteError, "w["):
        list(ContextReader(History(path), context).blocks(100, 200))
    with refuses(NonFiniteError, "w[4]", "t = 60"):
        list(ContextReader(History(path), "1").blocks(60, 70))
    one = {"t_min": 100, "t_max": 100, "edges": (0.0, 1.0), "shares": (1.0,)}
    with refuses(NonFiniteError, "w["):
        build_dataset(path, tmp_path / "d.zarr", 6, context=context, **one)


def test_any_whole_number_is_a_step(tmp_path: Path) -> None:
    reader = ContextReader(History(wandering(3, 21).write(tmp_path / "run.zarr")), "1,step,ahead")
    there = reader.read(np.int64(8), np.int64(16))  # type: ignore[arg-type]
    assert there.seen[1:].tolist() == [[8.0] * 3] * 2
    assert same_bits(there.seen, reader.read(8, 16).seen)
    with refuses(UsageError, "t = 0"):
        reader.read(0, 5)
