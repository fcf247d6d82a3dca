"""Errors of forecasters, beside a loop over weights and steps."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_reference import Recorded, refuses, vector, wandering

from weightcast.predictor import (
    Errors,
    Forecaster,
    Introspection,
    LastValue,
    LinearFit,
    evaluate_dataset,
    evaluate_history,
)
from weightcast.store import (
    Dataset,
    History,
    NonFiniteError,
    SamplingError,
    ShapeError,
    UsageError,
    build_dataset,
)

PAPER = (1.0, 0.7, 0.4, 0.0)
Sample = tuple[list[float], float]  # the past values of one weight, and its later value


def network(context: tuple[float, ...] = PAPER, horizon: float = 2.0) -> Introspection:
    X = np.random.default_rng(0).normal(size=(50, len(context))).astype(np.float32)
    model = Introspection(hidden=5, scale=1.0, steps=5, context=context, horizon=horizon)
    return model.fit(X, X[:, 0])


def slow_errors(forecaster: Forecaster, samples: Iterable[Sample]) -> tuple[float, ...]:
    """Mean error of the forecaster, the last value and the straight line, a sample at a time."""
    totals, count = [0.0, 0.0, 0.0], 0
    for past, truth in samples:
        line = np.polyfit(forecaster.context_, past, 1)
        forecasts = (
            float(forecaster.predict(np.array([past]))[0]),
            past[0],
            float(np.polyval(line, forecaster.horizon)),
        )
        totals = [t + abs(f - truth) for t, f in zip(totals, forecasts, strict=True)]
        count += 1
    return (*(t / count for t in totals), count)


def assert_errors(found: Errors, expected: tuple[float, ...]) -> None:
    *means, count = expected
    assert found.count == count
    close = [found.forecaster, found.last_value, found.linear_fit]
    assert close == pytest.approx(means, rel=1e-4, abs=1e-5)
    assert found.skill == pytest.approx(1 - means[0] / means[1], rel=1e-3, abs=1e-3)


def nearest(step: float) -> int:
    return math.floor(step + 0.5)


def samples_at(recorded: Recorded, t: int, model: Forecaster) -> list[Sample]:
    """Every weight of a history whose row i is step i."""
    rows = recorded.weights
    return [
        (
            [float(rows[nearest(f * t), w]) for f in model.context_],
            float(rows[nearest(model.horizon * t), w]),
        )
        for w in range(rows.shape[1])
    ]


def possible_steps(last: int, model: Forecaster) -> list[int]:
    """Steps whose context is all distinct and whose target is recorded, with every step there."""
    return [
        t
        for t in range(1, last + 1)
        if len({nearest(f * t) for f in model.context_}) == len(model.context_)
        and t < nearest(model.horizon * t) <= last
    ]


# ---- on histories


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from([(PAPER, 2.0), ((1.0, 0.5), 1.5), ((1.0, 0.6, 0.2), 3.0)]),
    st.integers(1, 5),
    st.integers(12, 30),
    st.integers(1, 8),
    st.integers(0, 9),
)
def test_errors_on_a_history_are_those_of_the_slow_loop(
    kind: Any, parameters: int, rows: int, points: int, seed: int
) -> None:
    model, recorded = network(*kind), wandering(parameters, rows, seed)
    with TemporaryDirectory() as folder:
        history = History(recorded.write(Path(folder) / "h.zarr"))
        *groups, total = evaluate_history(model, history, points=points)
    possible = possible_steps(rows - 1, model)
    chosen = [int(g.group.removeprefix("t = ")) for g in groups]
    assert_evenly_chosen(chosen, possible, points)
    every = [samples_at(recorded, t, model) for t in chosen]
    for group, samples in zip(groups, every, strict=True):
        assert_errors(group, slow_errors(model, samples))
    assert_errors(total, slow_errors(model, [s for samples in every for s in samples]))
    assert total.group == "all"


def assert_evenly_chosen(chosen: list[int], possible: list[int], points: int) -> None:
    assert len(chosen) == min(points, len(possible))
    places = [possible.index(t) for t in chosen]
    assert places[0] == 0
    if len(places) > 1:
        assert places[-1] == len(possible) - 1
        assert max(np.diff(places)) - min(np.diff(places)) <= 1
        assert min(np.diff(places)) >= 1


def test_a_history_of_float64_is_judged_in_float64(tmp_path: Path) -> None:
    recorded = wandering(3, 13, dtype=np.float64)
    recorded.weights[:] = 1 + 1e-9 * recorded.weights  # nothing of it is left in float32
    (at, _) = evaluate_history(LinearFit().ready(), history_of(recorded, tmp_path), points=1)
    assert at.last_value > 0
    expected = slow_errors(LinearFit().ready(), samples_at(recorded, 3, LinearFit().ready()))
    assert [at.forecaster, at.last_value] == pytest.approx(expected[:2], rel=1e-4)


def history_of(recorded: Recorded, folder: Path) -> History:
    return History(recorded.write(folder / "h.zarr"))


def test_a_perfect_forecaster_has_skill_one(tmp_path: Path) -> None:
    """Weights on a straight line in time, forecast by a straight line, at t = 10 and 20."""
    steps = [0, 4, 7, 8, 10, 14, 20, 40]
    lines = np.outer(steps, [0.5, -1.0, 2.0]).astype(np.float32) + 1
    history = history_of(Recorded(vector(3), steps, lines), tmp_path)
    *_, total = evaluate_history(LinearFit().ready(), history)
    assert total.skill == pytest.approx(1, abs=1e-5)
    assert total.linear_fit == total.forecaster
    *_, total = evaluate_history(LastValue().ready(), history)
    assert total.skill == 0


def test_a_forecaster_that_needs_no_training_is_judged_as_it_is(tmp_path: Path) -> None:
    recorded = wandering(3, 13)
    history = history_of(recorded, tmp_path)
    assert evaluate_history(LinearFit(), history) == evaluate_history(LinearFit().ready(), history)
    dataset = build_dataset(history, tmp_path / "d.zarr", 9)
    assert evaluate_dataset(LinearFit(), dataset) == evaluate_dataset(LinearFit().ready(), dataset)


def test_progress_counts_the_points(tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    evaluate_history(
        LastValue().ready(),
        history_of(wandering(2, 20), tmp_path),
        points=3,
        progress=lambda *call: calls.append(call),
    )
    assert calls == [("evaluate", 1, 3), ("evaluate", 2, 3), ("evaluate", 3, 3)]


def test_a_tolerance_takes_the_nearest_recorded_step(tmp_path: Path) -> None:
    """Of steps 0, 10, 20, ... t = 30 needs 21 and 12, and gets 20 and 10."""
    recorded = Recorded(vector(2), list(range(0, 70, 10)), wandering(2, 7).weights)
    history = history_of(recorded, tmp_path)
    with refuses(SamplingError, "tolerance"):
        evaluate_history(LinearFit().ready(), history)
    (at, _) = evaluate_history(LinearFit().ready(), history, tolerance=0.1)
    assert at.group == "t = 30"
    samples = [([row[3], row[2], row[1], row[0]], row[6]) for row in recorded.weights.T.tolist()]
    assert_errors(at, slow_errors(LinearFit().ready(), samples))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_history_that_diverged_is_refused(value: float, tmp_path: Path) -> None:
    recorded = wandering(3, 13)
    recorded.weights[12, 1] = value
    history = history_of(recorded, tmp_path)
    with refuses(NonFiniteError, "t = 6", history.path, "finite"):
        evaluate_history(LastValue().ready(), history)
    *_, total = evaluate_history(LastValue().ready(), history, points=1)  # t = 3 needs up to 6
    assert math.isfinite(total.last_value)


def test_a_short_history_is_refused(tmp_path: Path) -> None:
    with refuses(SamplingError, "too short", "record more steps"):
        evaluate_history(LastValue().ready(), history_of(wandering(3, 5), tmp_path))


def test_no_points_are_refused(tmp_path: Path) -> None:
    with refuses(UsageError, "points", 0):
        evaluate_history(LastValue().ready(), history_of(wandering(3, 13), tmp_path), points=0)


# ---- on datasets


def dataset_of(folder: str | Path, seed: int = 0, **options: Any) -> Dataset:
    history = History(wandering(20, 30, seed).write(Path(folder) / "h.zarr"))
    return build_dataset(history, Path(folder) / "d.zarr", 60, scheduler="synchronous", **options)


def of_rows(dataset: Dataset, rows: Iterable[int]) -> list[Sample]:
    return [([float(v) for v in dataset.X[row]], float(dataset.y[row])) for row in rows]


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 3), st.sampled_from([None, 0.2, 0.7]))
def test_errors_on_a_dataset_are_those_of_the_slow_loop(seed: int, share: float | None) -> None:
    model = network()
    with TemporaryDirectory() as folder:
        dataset = dataset_of(folder, seed)
        rows = None if share is None else dataset.split(share)[1]
        *groups, total = evaluate_dataset(model, dataset, rows)
        used = range(60) if rows is None else rows.tolist()
        strata = {s: [r for r in used if dataset.stratum[r] == s] for s in range(3)}
        strata = {s: members for s, members in strata.items() if members}
        assert [g.group for g in groups] == [f"stratum {s}" for s in strata]
        for group, members in zip(groups, strata.values(), strict=True):
            assert_errors(group, slow_errors(model, of_rows(dataset, members)))
        assert_errors(total, slow_errors(model, of_rows(dataset, used)))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (LinearFit((1.0, 0.5, 0.4, 0.0)), ("0.5",)),
        (LinearFit((1.0, 0.0)), ("(1.0, 0.0)",)),
        (LinearFit(horizon=1.5), ("1.5",)),
    ],
    ids=repr,
)
def test_a_dataset_for_another_forecaster_is_refused(
    model: LinearFit, words: tuple[str, ...], tmp_path: Path
) -> None:
    dataset = dataset_of(tmp_path)
    with refuses(ShapeError, dataset.path, "(1.0, 0.7, 0.4, 0.0)", *words):
        evaluate_dataset(model.ready(), dataset)


def test_a_dataset_drawn_for_the_forecaster_is_taken(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, context=(1.0, 0.0), horizon=1.5)
    *_, total = evaluate_dataset(LinearFit((1.0, 0.0), 1.5).ready(), dataset)
    assert total.count == 60


# ---- skill


def test_skill_is_measured_against_the_last_value() -> None:
    assert Errors("all", 1, forecaster=1.0, last_value=4.0, linear_fit=9.0).skill == 0.75
    assert Errors("all", 1, forecaster=8.0, last_value=4.0, linear_fit=9.0).skill == -1.0


def test_there_is_no_skill_where_nothing_moves(tmp_path: Path) -> None:
    still = Recorded(vector(2), list(range(13)), np.ones((13, 2), np.float32))
    *_, total = evaluate_history(LinearFit().ready(), history_of(still, tmp_path))
    assert total.last_value == 0
    assert math.isnan(total.skill)
