"""Errors of forecasters, beside a loop over weights and steps."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from store_reference import Recorded, refuses, vector, wandering

import weightcast.predictor.evaluation as evaluation
import weightcast.predictor.pairs as kept
from weightcast.predictor import (
    GROUPINGS,
    Errors,
    Forecaster,
    Introspection,
    LastValue,
    LinearFit,
    evaluate_dataset,
    evaluate_history,
)
from weightcast.predictor.baselines import Untrained
from weightcast.predictor.figures import save_curve_figure, save_errors_figure
from weightcast.predictor.judging import linear_fit_name
from weightcast.predictor.pairs import Pairs
from weightcast.predictor.tally import overall
from weightcast.store import (
    Dataset,
    FormatError,
    History,
    NonFiniteError,
    OutputExistsError,
    ParameterTable,
    Recipe,
    SamplingError,
    ShapeError,
    UsageError,
    build_dataset,
)
from weightcast.store.admissible import admissible

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
        *groups, total = evaluate_history(model, history, points=points, by=["t"])
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
    history = history_of(recorded, tmp_path)
    (at, _) = evaluate_history(LinearFit().ready(), history, points=1, by=["t"])
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
    (at, _) = evaluate_history(LinearFit().ready(), history, tolerance=0.1, by=["t"])
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
        *groups, total = evaluate_dataset(model, dataset, rows, by=["stratum"])
        used = range(60) if rows is None else rows.tolist()
        strata = {s: [r for r in used if dataset.stratum[r] == s] for s in range(3)}
        strata = {s: members for s, members in strata.items() if members}
        assert [g.group for g in groups] == [f"stratum {s}" for s in strata]
        for group, members in zip(groups, strata.values(), strict=True):
            assert_errors(group, slow_errors(model, of_rows(dataset, members)))
        assert_errors(total, slow_errors(model, of_rows(dataset, used)))


def test_a_dataset_of_another_context_is_refused(tmp_path: Path) -> None:
    """The message says what to build."""
    dataset, other = dataset_of(tmp_path), LinearFit((1.0, 0.5, 0.0)).ready()
    with refuses(ShapeError, dataset.path, "another context", "--context 1,0.5,0", "1,0.7,0.4,0"):
        evaluate_dataset(other, dataset)


def test_a_dataset_of_another_horizon_is_refused(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path)
    with refuses(ShapeError, dataset.path, "1.5t", "2t"):
        evaluate_dataset(LinearFit(horizon=1.5).ready(), dataset)


def test_part_of_the_columns_is_enough(tmp_path: Path) -> None:
    """What a forecaster sees may stand anywhere among the columns; the rivals see all of them."""
    dataset = dataset_of(tmp_path)
    *_, total = evaluate_dataset(LinearFit((1.0, 0.4)).ready(), dataset)
    past = [
        ([float(x[0]), float(x[2])], float(y)) for x, y in zip(dataset.X, dataset.y, strict=True)
    ]
    assert total.forecaster == pytest.approx(
        slow_errors(LinearFit((1.0, 0.4)).ready(), past)[0], rel=1e-4
    )
    *_, whole = evaluate_dataset(LinearFit().ready(), dataset)
    assert total.last_value == whole.last_value
    assert total.linear_fit == whole.linear_fit


def test_a_dataset_drawn_for_the_forecaster_is_taken(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, context=(1.0, 0.0), horizon=1.5)
    *_, total = evaluate_dataset(LinearFit((1.0, 0.0), 1.5).ready(), dataset)
    assert total.count == 60


# ---- groups, horizons and rich contexts

RICH = (1.0, 0.5, "slope:6/2", "mean:6/2", "spread:6/2", "scale", "step", "ahead")
TABLE = ParameterTable.of([("w", (2, 3), "float32", "weight"), ("b", (4,), "float32", "bias")])
HORIZONS = (1.5, "+2", "+5")


class Known(Untrained):
    """Forecasts a sum of what it sees, each times its place: a forecast that needs every column."""

    def _coefficients(self, facts: Any) -> torch.Tensor:
        return 0.01 * torch.arange(1, self.n_features_in_ + 1, dtype=torch.float64)[:, None]


def two_tensors(rows: int = 40, seed: int = 0) -> Recorded:
    return replace(wandering(TABLE.size, rows, seed), table=TABLE)


def seen_slowly(recorded: Recorded, w: int, t: int, target: int) -> list[float]:
    """What `RICH` is of one weight, from first principles."""
    rows = recorded.weights.astype(np.float64)
    places = np.array([-1.5, -0.5, 0.5, 1.5])
    window = rows[[t - 6, t - 4, t - 2, t], w]
    slope, middle = np.polyfit(places, window, 1)
    spread = np.sqrt(np.mean((window - (middle + slope * places)) ** 2))
    tensor = next(p for p in TABLE if p.offset <= w < p.stop)
    scale = np.sqrt(np.mean(rows[0, tensor.offset : tensor.stop] ** 2))
    statistics = [3 * slope, window.mean(), spread]
    return [rows[t, w], rows[nearest(t / 2), w], *statistics, scale, t, target - t]


def slow_triple(recorded: Recorded, w: int, t: int, target: int) -> list[float]:
    """Errors of `Known`, the last value, and the line through the window, at one weight."""
    x, truth = seen_slowly(recorded, w, t, target), float(recorded.weights[target, w])
    known = sum(0.01 * (i + 1) * v for i, v in enumerate(x))
    line = x[3] + x[2] * (0.5 + (target - t) / 6)
    return [abs(f - truth) for f in (known, x[0], line)]


def slow_groups(recorded: Recorded, samples: Iterable[tuple[Any, ...]]) -> dict[Any, list[Any]]:
    """Means of the groups of samples (groups, w, t, target)."""
    found: dict[Any, list[Any]] = {}
    for groups, *sample in samples:
        for group in groups:
            found.setdefault(group, []).append(slow_triple(recorded, *sample))
    return {g: [len(triples), *np.mean(triples, axis=0)] for g, triples in found.items()}


def assert_groups(found: list[Errors], expected: dict[Any, list[Any]]) -> None:
    assert {(e.by, e.group) for e in found} == set(expected)
    for e in found:
        count, *means = expected[e.by, e.group]
        assert e.count == count
        assert [e.forecaster, e.last_value, e.linear_fit] == pytest.approx(means, rel=1e-3)


def kind_of(w: int) -> str:
    return "weight" if w < 6 else "bias"


@pytest.mark.parametrize("points", [1, 7])
def test_a_history_is_grouped_by_t_kind_and_horizon(points: int, tmp_path: Path) -> None:
    recorded = two_tensors()
    model = Known(RICH, HORIZONS).ready()
    found = evaluate_history(model, history_of(recorded, tmp_path), points=points)
    able = [t for t in range(6, 40) if max(nearest(1.5 * t), t + 5) < 40]
    chosen = [int(e.group.removeprefix("t = ")) for e in found if e.by == "t"]
    assert_evenly_chosen(chosen, able, points)
    samples = [
        (
            [("kind", kind_of(w)), ("t", f"t = {t}"), ("horizon", f"to {h}"), ("all", "all")],
            w,
            t,
            to,
        )
        for t in chosen
        for h, to in (("1.5t", nearest(1.5 * t)), ("t+2", t + 2), ("t+5", t + 5))
        for w in range(TABLE.size)
    ]
    assert_groups(found, slow_groups(recorded, samples))


def rich_dataset(folder: Path, context: Any = RICH, **options: Any) -> tuple[Recorded, Dataset]:
    recorded = two_tensors()
    history = history_of(recorded, folder)
    how = {"horizon": HORIZONS, "scheduler": "synchronous", **options}
    return recorded, build_dataset(history, folder / "rich.zarr", 90, context=context, **how)


def test_a_dataset_is_grouped_by_stratum_kind_octave_and_horizon(tmp_path: Path) -> None:
    recorded, dataset = rich_dataset(tmp_path)
    found = evaluate_dataset(Known(RICH, HORIZONS).ready(), dataset)
    samples = []
    for row in range(len(dataset)):
        t, w = int(dataset.step[row]), int(dataset.parameter[row])
        low = 2 ** int(math.log2(t))
        horizon = ("1.5t", "t+2", "t+5")[dataset.horizon[row]]
        groups = [
            ("stratum", f"stratum {dataset.stratum[row]}"),
            ("kind", kind_of(w)),
            ("t", f"t = {low} to {2 * low - 1}"),
            ("horizon", f"to {horizon}"),
            ("all", "all"),
        ]
        samples.append((groups, w, t, int(dataset.target[row])))
    assert_groups(found, slow_groups(recorded, samples))
    for by in GROUPINGS:
        assert sum(e.count for e in found if e.by == by) == len(dataset)


def test_only_the_groupings_asked_for_are_given(tmp_path: Path) -> None:
    _, dataset = rich_dataset(tmp_path)
    model = Known(RICH, HORIZONS).ready()
    found = evaluate_dataset(model, dataset, by=["horizon", "stratum"])
    assert list(dict.fromkeys(e.by for e in found)) == ["stratum", "horizon", "all"]
    assert [e.by for e in evaluate_dataset(model, dataset, by=[])] == ["all"]
    with refuses(UsageError, "'colour'", "stratum, kind, t, horizon"):
        evaluate_dataset(model, dataset, by=["colour"])


def test_results_do_not_depend_on_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, dataset = rich_dataset(tmp_path)
    model, whole = Known(RICH, HORIZONS).ready(), Pairs()
    expected = evaluate_dataset(model, dataset, pairs=whole)
    monkeypatch.setattr(evaluation, "BLOCK", 7)
    parts = Pairs()
    assert evaluate_dataset(model, dataset, pairs=parts) == expected
    assert all(map(np.array_equal, parts.values(), whole.values()))


@pytest.mark.parametrize("mine", ["+2", ("+2", 1.5)])
def test_a_forecaster_that_does_not_see_the_horizon_is_judged_at_its_own(
    mine: Any, tmp_path: Path
) -> None:
    _, dataset = rich_dataset(tmp_path)
    found = evaluate_dataset(LastValue((1.0,), mine).ready(), dataset)
    own = [i for i, horizon in enumerate(HORIZONS) if horizon in (mine if mine != "+2" else ["+2"])]
    assert found[-1].count == np.isin(dataset.horizon, own).sum()
    every = evaluate_dataset(LastValue((1.0, "ahead"), mine).ready(), dataset)
    assert every[-1].count == len(dataset)


def test_another_horizon_on_a_history_needs_a_forecaster_that_sees_it(tmp_path: Path) -> None:
    history = history_of(two_tensors(), tmp_path)
    with refuses(UsageError, "2t", "t+3", "'ahead'"):
        evaluate_history(LastValue().ready(), history, horizon="+3")
    *_, total = evaluate_history(LastValue((1.0, "ratio")).ready(), history, horizon="+3", points=3)
    steps = np.arange(1, 37)[[0, 18, 35]]  # the first, the last and one between
    moved = np.abs(history.weights[:, :].T[steps + 3] - history.weights[:, :].T[steps]).mean()
    assert total.last_value == pytest.approx(moved, rel=1e-5)


def test_a_rival_that_lacks_its_columns_is_left_out(tmp_path: Path) -> None:
    """Without w(t) there is no last value, and without past values no line."""
    _, dataset = rich_dataset(tmp_path, ("scale", "ahead"))
    *_, total = evaluate_dataset(Known(("scale", "ahead"), HORIZONS).ready(), dataset)
    assert total.forecaster > 0
    assert (total.last_value, total.linear_fit) == (None, None)
    assert math.isnan(total.skill)
    assert total.to_json()["skill"] is None
    assert overall([total, total]) == replace(total, count=180)


def test_one_past_value_makes_no_line(tmp_path: Path) -> None:
    _, dataset = rich_dataset(tmp_path, (1.0, "scale", "ahead"))
    *_, total = evaluate_dataset(Known((1.0, "scale", "ahead"), HORIZONS).ready(), dataset)
    assert total.last_value is not None
    assert total.linear_fit is None
    assert linear_fit_name(dataset.recipe.sees) is None


def test_on_a_history_the_last_value_is_always_known(tmp_path: Path) -> None:
    history = history_of(two_tensors(), tmp_path)
    *_, total = evaluate_history(Known(("mean:4/2", "slope:4/2"), "+2").ready(), history)
    assert total.last_value is not None
    assert total.last_value > 0
    assert total.linear_fit is not None


def test_times_need_no_columns(tmp_path: Path) -> None:
    """They are known of every sample, whether the dataset has them as inputs or not."""
    _, dataset = rich_dataset(tmp_path, (1.0, 0.5))
    line = LinearFit((1.0, 0.5, "step", "ahead", "ratio"), HORIZONS).ready()
    *_, total = evaluate_dataset(line, dataset)
    assert total.linear_fit == total.forecaster


@pytest.mark.parametrize("column", ["X", "y"])
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_samples_that_are_not_finite_are_refused(column: str, value: float, tmp_path: Path) -> None:
    _, dataset = rich_dataset(tmp_path)
    file = dataset.path / column / ("c/0/0" if column == "X" else "c/0")
    damaged = np.fromfile(file, dataset.X.dtype)
    damaged[-1] = value
    damaged.tofile(file)
    with refuses(NonFiniteError, dataset.path, column, "row 89"):
        evaluate_dataset(Known(RICH, HORIZONS).ready(), Dataset(dataset.path))


def test_a_sample_of_no_stratum_is_damage(tmp_path: Path) -> None:
    _, dataset = rich_dataset(tmp_path)
    (dataset.path / "stratum/c/0").write_bytes(bytes([9] * 90))
    with refuses(FormatError, dataset.path, "damaged", "stratum"):
        evaluate_dataset(Known(RICH, HORIZONS).ready(), Dataset(dataset.path))


def test_no_samples_are_refused(tmp_path: Path) -> None:
    with refuses(UsageError, "no row"):
        evaluate_dataset(LinearFit().ready(), dataset_of(tmp_path), np.arange(0))


# ---- pictures


def test_pairs_are_a_random_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MOST", 500)
    pairs, truth = Pairs(), np.arange(10_000.0)
    pairs.expect(len(truth))
    pairs.add(truth, 2 * truth, truth)
    assert pairs.total == 10_000
    change, forecast = pairs.values()
    assert not change.any()
    assert 400 < len(forecast) < 600
    assert 0 < forecast.min() < 100
    assert len(set(np.diff(forecast))) > 10  # not every so many-th: it must not follow a shape


@pytest.mark.parametrize("horizon", [2.0, HORIZONS])
def test_errors_are_drawn(horizon: Any, tmp_path: Path) -> None:
    recorded, parts = two_tensors(), []
    for points in (1, 30):
        pairs, model = Pairs(), Known(RICH, horizon).ready()
        history = History(recorded.write(tmp_path / f"{points}.zarr"))
        errors = evaluate_history(model, history, points=points, pairs=pairs)
        parts.append((r"a $title", errors, pairs))
    save_errors_figure(parts, tmp_path / "errors.png")
    save_errors_figure(parts[:1], tmp_path / "one.png")
    assert (tmp_path / "errors.png").stat().st_size > (tmp_path / "one.png").stat().st_size > 9999


def test_the_curve_is_drawn_with_the_last_value(tmp_path: Path) -> None:
    curve = [(100, 0.02, None), (200, 0.001, 0.002)]
    save_curve_figure(curve, tmp_path / "curve.svg", last_value=0.01, title="$")
    text = (tmp_path / "curve.svg").read_text()
    for words in ("training", "validation", "last value", "training step"):
        assert f"<!-- {words}" in text
    with pytest.raises(OutputExistsError):
        save_curve_figure(curve, tmp_path / "curve.svg")


# ---- skill


def test_skill_is_measured_against_the_last_value() -> None:
    assert Errors("all", 1, forecaster=1.0, last_value=4.0, linear_fit=9.0).skill == 0.75
    assert Errors("all", 1, forecaster=8.0, last_value=4.0, linear_fit=9.0).skill == -1.0


def test_there_is_no_skill_where_nothing_moves(tmp_path: Path) -> None:
    still = Recorded(vector(2), list(range(13)), np.ones((13, 2), np.float32))
    *_, total = evaluate_history(LinearFit().ready(), history_of(still, tmp_path))
    assert total.last_value == 0
    assert math.isnan(total.skill)


@pytest.mark.parametrize("horizon", [1.1, 1.5, 3.0, "+20"])
def test_the_tolerance_is_that_of_the_dataset(horizon: Any, tmp_path: Path) -> None:
    """A history is measured at every t, against every target, that a dataset would have."""
    recorded = Recorded(vector(2), list(range(0, 1000, 10)), wandering(2, 100).weights)
    history = History(recorded.write(tmp_path / "run.zarr"))
    recipe = Recipe(1, horizon=horizon, tolerance=0.02)
    choices = admissible(history.steps, recipe)
    errors = evaluate_history(
        LastValue(horizon=horizon), history, tolerance=0.02, points=1000, by=["t"]
    )
    expected = np.abs(recorded.weights[choices.target_row] - recorded.weights[choices.row]).mean(1)
    assert [e.group for e in errors[:-1]] == [f"t = {t}" for t in choices.t]
    assert np.allclose([e.last_value for e in errors[:-1]], expected)
