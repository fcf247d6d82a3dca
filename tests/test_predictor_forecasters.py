"""Forecasters: scikit-learn's contract, and each forecast beside one weight at a time."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks
from store_reference import refuses

from weightcast.predictor import Forecaster, Introspection, LastValue, LinearFit, one_thread
from weightcast.predictor.forecaster import BLOCK
from weightcast.store import ShapeError, UsageError, WeightcastError

# scikit-learn's checks fit targets of size 1, not weights: no scale, and a quicker rate.
QUICK = Introspection(steps=150, scale=1.0, learning_rate=3e-2)
PAST = st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.4, 0.5, 0.7, 0.9]), unique=True, max_size=4)
CONTEXTS = PAST.map(lambda past: (1.0, *sorted(past, reverse=True)))
HORIZONS = st.sampled_from([1.1, 1.5, 2.0, 3.0])
VALUES = st.floats(-10, 10, width=32)


# LastValue and LinearFit learn nothing, so that they cannot score: their tags have to say so.
@parametrize_with_checks([LastValue(), LinearFit(), QUICK])
def test_scikit_learns_contract(estimator: Any, check: Any) -> None:
    check(estimator)


def weights(columns: int) -> st.SearchStrategy[np.ndarray]:
    """Past values of a few weights, [P, F]."""
    return hnp.arrays(np.float32, st.tuples(st.integers(1, 6), st.just(columns)), elements=VALUES)


def slow_line(past: np.ndarray, context: tuple[float, ...], horizon: float) -> float:
    """Straight line through one weight's past, read off at the horizon."""
    if len(context) == 1:
        return float(past[0])
    return float(np.polyval(np.polyfit(context, past.astype(np.float64), 1), horizon))


def slow_network(model: Introspection, past: np.ndarray) -> float:
    """The network on one weight, in Python's numbers."""
    scaled = [float(value) * model.scale for value in past]
    output = float(model.output_bias_)
    for row, bias, last in zip(
        model.hidden_weight_, model.hidden_bias_, model.output_weight_, strict=True
    ):
        unit = float(bias) + sum(float(w) * x for w, x in zip(row, scaled, strict=True))
        output += float(last) * max(unit, 0.0)
    return output / model.scale


def network(columns: int = 4, seed: int = 0, **options: Any) -> Introspection:
    """A network fitted for a few steps: its weights are no longer the initial ones."""
    random = np.random.default_rng(seed)
    X = random.normal(size=(50, columns)).astype(np.float32)
    options = {"steps": 5, "hidden": 7, "random_state": seed} | options
    return Introspection(**options).fit(X, X[:, 0])


def roots(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Samples of trajectories w(t) = w0 + a sqrt(t), and their w(2t)."""
    random = np.random.default_rng(seed)
    t = random.uniform(100, 1000, count)
    start, pace = random.normal(0, 0.1, count), random.normal(0, 0.001, count)
    X = np.column_stack([start + pace * np.sqrt(f * t) for f in (1, 0.7, 0.4, 0)])
    return X.astype(np.float32), (start + pace * np.sqrt(2 * t)).astype(np.float32)


# ---- forecasts


@settings(max_examples=60, deadline=None)
@given(CONTEXTS, HORIZONS, st.data())
def test_linear_fit_is_numpys_polyfit(
    context: tuple[float, ...], horizon: float, data: st.DataObject
) -> None:
    past = data.draw(weights(len(context)))
    model = LinearFit(context, horizon).ready()
    expected = [slow_line(row, context, horizon) for row in past]
    assert model.forecast(torch.tensor(past.T)).numpy() == pytest.approx(
        expected, rel=1e-4, abs=1e-3
    )
    precise = model.forecast(torch.tensor(past.T).double()).numpy()
    assert precise == pytest.approx(expected, rel=1e-9, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(weights(4))
def test_last_value_is_the_last_value(past: np.ndarray) -> None:
    forecast = LastValue().ready().forecast(torch.tensor(past.T))
    assert forecast.tolist() == past[:, 0].tolist()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(0, 5), st.sampled_from([1.0, 1000.0]), st.data())
def test_introspection_is_the_slow_network(
    columns: int, seed: int, scale: float, data: st.DataObject
) -> None:
    past = data.draw(weights(columns))
    model = network(columns, seed, scale=scale)
    expected = [slow_network(model, row) for row in past]
    assert model.predict(past) == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert model.predict(past.astype(np.float64)) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([LastValue().ready(), LinearFit().ready(), network()]),
    weights(4),
    st.sampled_from([np.float32, np.float64]),
)
def test_predict_is_forecast(model: Forecaster, past: np.ndarray, dtype: Any) -> None:
    X = past.astype(dtype)
    forecast = model.forecast(torch.tensor(np.ascontiguousarray(X.T)))
    assert model.predict(X).dtype == dtype
    assert model.predict(X).tobytes() == forecast.numpy().tobytes()


@pytest.mark.parametrize("count", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 17])
def test_weights_are_forecast_independently(count: int) -> None:
    """However many weights go in, each comes out as if it were alone."""
    model = network()
    context = torch.randn(4, count, generator=torch.Generator().manual_seed(0))
    forecast = model.forecast(context)
    assert forecast.shape == (count,)
    alone = [model.forecast(context[:, [i]]).item() for i in range(count)]
    assert forecast.tolist() == pytest.approx(alone, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("model", [LastValue().ready(), LinearFit().ready(), network()], ids=repr)
@pytest.mark.parametrize(
    ("dtype", "result"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
    ],
)
def test_forecasts_are_computed_in_float32_or_float64(
    model: Forecaster, dtype: torch.dtype, result: torch.dtype
) -> None:
    context = torch.randn(4, 9, generator=torch.Generator().manual_seed(0)).to(dtype)
    kept = context.clone()
    forecast = model.forecast(context)
    assert forecast.dtype == result
    assert torch.equal(forecast, model.forecast(context.to(result)))
    assert torch.equal(context, kept)


def test_a_context_that_takes_gradients_gives_a_forecast_that_does_not() -> None:
    assert not network().forecast(torch.randn(4, 3, requires_grad=True)).requires_grad


def test_a_context_may_be_a_view() -> None:
    rows = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    model = network()
    alike = model.forecast(rows.T.contiguous())
    assert model.forecast(rows.T).tolist() == pytest.approx(alike.tolist(), rel=1e-5, abs=1e-5)


# ---- what a forecaster was fitted for


def test_context_settles_by_the_columns() -> None:
    assert LastValue().fit(np.zeros((2, 4)), np.zeros(2)).context_ == (1.0, 0.7, 0.4, 0.0)
    assert LastValue().fit(np.zeros((2, 3)), np.zeros(2)).context_ == (1.0, 0.5, 0.0)
    assert LastValue((1.0, 0.9)).fit(np.zeros((2, 2)), np.zeros(2)).context_ == (1.0, 0.9)
    assert LastValue((1.0, 0.9)).ready().context_ == (1.0, 0.9)


@pytest.mark.parametrize("shape", [(3, 5), (5, 5), (4,), (0, 5), (1, 4, 5)])
def test_a_context_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    for model in (LastValue().ready(), LinearFit().ready(), network()):
        with refuses(ShapeError, "(4, P)", shape):
            model.forecast(torch.zeros(shape))


def test_another_number_of_columns_is_refused() -> None:
    with refuses(ShapeError, "(1.0, 0.5)", "4 columns"):
        LinearFit((1.0, 0.5)).fit(np.zeros((3, 4)), np.zeros(3))
    with pytest.raises(ValueError, match="expecting 4 features"):
        network().predict(np.zeros((3, 5)))


@pytest.mark.parametrize(
    "context", [(1.5, 1.0, 0.0), (1.0, 1.0), (0.5, 1.0), (1.0, -0.5), (1.0, float("nan"))], ids=str
)
def test_a_context_outside_the_past_is_refused(context: tuple[float, ...]) -> None:
    """A jump could not be made from it: it would end the training run with a KeyError."""
    with refuses(UsageError, "context"):
        LinearFit(context).ready()


@pytest.mark.parametrize("horizon", [0.5, 1.0, float("nan"), float("inf")])
def test_a_horizon_that_is_not_ahead_is_refused(horizon: float) -> None:
    with refuses(UsageError, "horizon", horizon):
        LinearFit(horizon=horizon).ready()


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("model", [LastValue(), LinearFit(), Introspection(steps=1)], ids=repr)
def test_values_that_are_not_finite_are_refused(model: Forecaster, value: float) -> None:
    good, bad = np.zeros((3, 4), np.float32), np.zeros((3, 4), np.float32)
    bad[1, 2] = value
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        clone(model).fit(bad, good[:, 0])
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        clone(model).fit(good, bad[:, 2])
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        clone(model).fit(good, good[:, 0]).predict(bad)


# ---- training


def test_training_learns_a_law() -> None:
    """Where weights move as the square root of time, learning beats both simple forecasts."""
    X, y = roots(4000, seed=0)
    held, truth = roots(1000, seed=1)
    model = Introspection(steps=1500, learning_rate=2e-3, batch_size=100).fit(X, y)
    mine, last, line = (
        np.abs(m.predict(held) - truth).mean()
        for m in (model, LastValue().fit(X, y), LinearFit().fit(X, y))
    )
    assert mine < 0.25 * last
    assert mine < 0.25 * line
    assert model.training_error_ == pytest.approx(mine, rel=0.5)  # in the weights' own units


def test_the_random_state_decides() -> None:
    X, y = roots(200, seed=0)
    a, b, c = (Introspection(steps=30, random_state=s).fit(X, y).predict(X) for s in (1, 1, 2))
    assert a.tobytes() == b.tobytes()
    assert not np.array_equal(a, c)
    given = Introspection(steps=30, random_state=np.random.RandomState(1)).fit(X, y)
    assert given.predict(X).tobytes() == a.tobytes()


def test_the_random_state_decides_the_initial_weights_too() -> None:
    """At a rate of next to nothing they are what is left."""
    X, y = roots(200, seed=0)
    a, b = (Introspection(steps=1, learning_rate=1e-30, random_state=s).fit(X, y) for s in (1, 2))
    assert not np.array_equal(a.hidden_weight_, b.hidden_weight_)


def test_fitting_again_starts_afresh() -> None:
    X, y = roots(200, seed=0)
    model = Introspection(steps=30)
    first = model.fit(X, y).predict(X)
    model.fit(X[::-1], y)
    assert model.fit(X, y).predict(X).tobytes() == first.tobytes()


def test_the_learning_rate_decays_every_so_many_steps() -> None:
    """A rate that decays to nothing right after step 10 leaves the network of ten steps."""
    X, y = roots(200, seed=0)
    short = Introspection(steps=10).fit(X, y)
    stopped = Introspection(steps=25, decay_every=10, decay=0.0).fit(X, y)
    assert stopped.predict(X).tobytes() == short.predict(X).tobytes()
    assert not np.array_equal(Introspection(steps=25).fit(X, y).predict(X), stopped.predict(X))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 49), min_size=1, max_size=30))
def test_fitting_on_rows_is_fitting_on_a_copy_of_them(rows: list[int]) -> None:
    X, y = roots(50, seed=0)
    chosen = np.array(rows)
    in_place = Introspection(steps=6).fit(X, y, rows=chosen)
    copied = Introspection(steps=6).fit(X[chosen], y[chosen])
    assert in_place.predict(X).tobytes() == copied.predict(X).tobytes()


def test_memory_mapped_samples_are_read_in_place(tmp_path: Path) -> None:
    """Read-only, without a copy of the file and without a warning."""
    X, y = roots(300, seed=0)
    X.tofile(tmp_path / "X")
    y.tofile(tmp_path / "y")
    mapped_X = np.memmap(tmp_path / "X", dtype=np.float32, mode="r", shape=X.shape)
    mapped_y = np.memmap(tmp_path / "y", dtype=np.float32, mode="r", shape=y.shape)
    for model in (LastValue(), LinearFit(), Introspection(steps=20)):
        mapped = clone(model).fit(mapped_X, mapped_y).predict(mapped_X)
        assert mapped.tobytes() == clone(model).fit(X, y).predict(X).tobytes()


def global_state() -> tuple[Any, ...]:
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()  # noqa: NPY002


def test_fitting_disturbs_no_global_state() -> None:
    X, y = roots(50, seed=0)
    before, threads = global_state(), torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        Introspection(steps=5).fit(X, y)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    assert global_state() == before


@contextmanager
def float64_by_default() -> Any:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def half_precision() -> Any:
    return torch.autocast("cpu", dtype=torch.bfloat16)


@pytest.mark.parametrize(
    "state", [torch.no_grad, torch.inference_mode, half_precision, float64_by_default]
)
def test_global_state_disturbs_neither_fitting_nor_forecasts(state: Any) -> None:
    X, y = roots(50, seed=0)
    expected = Introspection(steps=5).fit(X, y)
    with state():
        found = Introspection(steps=5).fit(X, y)
        inside = found.predict(X)
    assert inside.tobytes() == expected.predict(X).tobytes()
    assert found.predict(X).tobytes() == inside.tobytes()


def test_progress_counts_up_to_the_steps() -> None:
    X, y = roots(50, seed=0)
    calls: list[tuple[str, int, int]] = []
    Introspection(steps=1100, batch_size=1).fit(X, y, progress=lambda *call: calls.append(call))
    assert {(what, total) for what, _, total in calls} == {("fit", 1100)}
    done = [done for _, done, _ in calls]
    assert done == sorted(set(done))
    assert done[-1] == 1100


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 0},
        {"batch_size": 0},
        {"hidden": 0},
        {"scale": 0.0},
        {"scale": float("nan")},
        {"scale": 10**300},
        {"learning_rate": -1.0},
        {"decay_every": 0},
    ],
    ids=lambda options: str(options)[:30],
)
def test_options_that_cannot_train_are_refused(options: dict[str, Any]) -> None:
    X, y = roots(50, seed=0)
    with refuses(UsageError, next(iter(options)), next(iter(options.values()))):
        Introspection(**{"steps": 3} | options).fit(X, y)


def test_no_rows_to_learn_from_is_refused() -> None:
    X, y = roots(50, seed=0)
    with refuses(UsageError, "rows"):
        Introspection(steps=3).fit(X, y, rows=np.arange(0))


def test_training_that_diverges_is_refused() -> None:
    """Else the forecaster would be saved into a file that cannot be loaded."""
    X, y = roots(50, seed=0)
    with refuses(WeightcastError, "learning_rate"):
        Introspection(steps=50, learning_rate=1e30).fit(X, y)


def test_one_thread_gives_back_what_it_took() -> None:
    kept = torch.get_num_threads()

    def fail() -> None:
        with one_thread():
            assert torch.get_num_threads() == 1
            raise KeyError

    try:
        torch.set_num_threads(2)
        with pytest.raises(KeyError):
            fail()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(kept)
