"""Forecasters: scikit-learn's contract, and each forecast beside one weight at a time."""

from __future__ import annotations

import io
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.tree import DecisionTreeRegressor
from sklearn.utils.estimator_checks import parametrize_with_checks
from store_reference import refuses
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from weightcast.predictor import (
    Forecaster,
    GaussianNoise,
    Introspection,
    LastValue,
    Line,
    LinearFit,
    QuadraticFit,
    SklearnForecaster,
    one_thread,
)
from weightcast.predictor.forecaster import UnfittedError
from weightcast.predictor.rows import COMBINED
from weightcast.store import Context, FormatError, ShapeError, UsageError
from weightcast.store.columns import Past
from weightcast.store.facts import time_facts
from weightcast.store.windows import Window, sums_of

PAST = st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.4, 0.5, 0.7, 0.9]), unique=True, max_size=4)
FRACTIONS = PAST.map(lambda past: (1.0, *sorted(past, reverse=True)))
BACKS = st.sets(st.integers(1, 90), max_size=4).map(lambda b: tuple(f"t-{i}" for i in sorted(b)))
FITS = st.sampled_from([LinearFit, QuadraticFit])
VALUES = st.floats(-10, 10, width=32)
PAPER = (1.0, 0.7, 0.4, 0.0)


# Those that learn nothing cannot score: their tags have to say so.
@parametrize_with_checks([LastValue(), LinearFit(), QuadraticFit(), Line(), GaussianNoise()])
def test_scikit_learns_contract(estimator: Any, check: Any) -> None:
    check(estimator)


def values(columns: int, count: int = 4) -> st.SearchStrategy[np.ndarray]:
    """What is seen of a few weights, [P, F]."""
    return hnp.arrays(np.float32, (count, columns), elements=VALUES)


def seen(count: int = 50, columns: int = 4, seed: int = 0) -> np.ndarray:
    """What is seen of many weights, [P, F]."""
    return np.random.default_rng(seed).normal(size=(count, columns)).astype(np.float32)


def fitted() -> list[Forecaster]:
    """One forecaster of each kind, of four columns."""
    X = seen()
    return [
        LastValue().ready(),
        LinearFit().ready(),
        QuadraticFit().ready(),
        Line(context="last:4/25").ready(),
        Line(context="mean:800/25,slope:800/25,ahead,1").ready(),
        GaussianNoise().fit(X, X[:, 1]),
        Introspection(steps=5, hidden=7).fit(X, X[:, 1]),
        SklearnForecaster(Ridge()).fit(X, X[:, 1]),
        SklearnForecaster(DecisionTreeRegressor(max_depth=3)).fit(X, X[:, 1]),
    ]


EACH = pytest.mark.parametrize("model", fitted(), ids=repr)


# ---- polynomials


def slow_fit(positions: list[float], past: Any, at: float, degree: int) -> float:
    """Polynomial through one weight's past, read off at a place."""
    degree = min(degree, len(set(positions)) - 1)
    return float(np.polyval(np.polyfit(positions, np.float64(past), degree), at))


@settings(max_examples=60, deadline=None)
@given(FITS, FRACTIONS, st.sampled_from([1.1, 1.5, 2.0, 3.0]), st.data())
def test_fits_through_fractions_are_numpys_polyfit(
    fit: Any, context: tuple[float, ...], horizon: float, data: st.DataObject
) -> None:
    past = data.draw(values(len(context)))
    model = fit(context, horizon).ready()
    expected = [slow_fit(list(context), row, horizon, fit.degree) for row in past]
    found = model.forecast(torch.tensor(past.T)).numpy()
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-2)
    assert model.predict(past.astype(np.float64)) == pytest.approx(expected, rel=1e-8, abs=1e-8)


@settings(max_examples=60, deadline=None)
@given(FITS, BACKS, st.booleans(), st.integers(1, 300), st.data())
def test_fits_through_values_back_are_numpys_polyfit(
    fit: Any, backs: tuple[str, ...], now: bool, steps: int, data: st.DataObject
) -> None:
    context = ((1.0,) if now or not backs else ()) + backs
    positions = [-float(e[2:]) if isinstance(e, str) else 0.0 for e in context]
    past = data.draw(values(len(context))).astype(np.float64)
    expected = [slow_fit(positions, row, steps, fit.degree) for row in past]
    alike = fit(context, f"+{steps}").ready().predict(past)
    assert alike == pytest.approx(expected, rel=1e-6, abs=1e-6)


@settings(max_examples=80, deadline=None)
@given(
    FITS,
    FRACTIONS,
    BACKS,
    st.sampled_from([2.0, "+70", (1.5, "+70")]),
    st.sampled_from(["ahead", "ratio"]),
    st.data(),
)
def test_each_weight_is_read_off_at_its_own_time(
    fit: Any, fractions: Any, backs: Any, horizon: Any, own: str, data: st.DataObject
) -> None:
    """In fractions where all is in fractions, and else in steps; all at once, and one alone."""
    steps = hnp.arrays(np.int64, 3, elements=st.integers(100, 2000))
    t, ahead = data.draw(steps), data.draw(steps)
    facts = {name: np.float64(value) for name, value in time_facts(t, t + ahead).items()}
    entries = (*fractions, *backs, "step", own)
    past = data.draw(values(len(entries) - 2, count=3)).astype(np.float64)
    if not backs and (own == "ratio" or horizon == 2.0):
        at = facts["ratio"] if own == "ratio" else [2.0] * 3
        positions = [list(fractions)] * 3
    else:
        at = facts["ahead"]
        points = [c for c in Context.of(entries).columns if isinstance(c, Past)]
        positions = [[float(p.step(now) - now) for p in points] for now in t]
    expected = [slow_fit(*each, fit.degree) for each in zip(positions, past, at, strict=True)]
    model = fit(entries, horizon).ready()
    X = np.column_stack([past, facts["step"], facts[own]])
    assert model.predict(X) == pytest.approx(expected, rel=1e-5, abs=1e-4)
    for row, alone in zip(X, expected, strict=True):
        live = [*torch.tensor(row[:-2, None]), *map(float, row[-2:])]
        assert model.forecast(live).item() == pytest.approx(alone, rel=1e-5, abs=1e-4)


def test_points_that_fall_on_one_step_are_a_lower_degree() -> None:
    """At step 1, 0.7t is t and 0.4t is 0."""
    model = QuadraticFit((*PAPER, "step"), "+1").ready()
    rows = [torch.tensor([v]) for v in (3.0, 1.0, 0.0, 0.0)]
    assert model.forecast([*rows, 1]).item() == pytest.approx(4.0)  # 0 at 0, 2 at 1
    assert model.forecast([*rows, 0]).item() == pytest.approx(1.0)  # the mean: all is step 0


@pytest.mark.parametrize("fit", [LinearFit, QuadraticFit])
@pytest.mark.parametrize(
    ("context", "horizon", "advice"),
    [
        (PAPER, "+500", "'step'"),
        ("last:3/25", 2.0, "'step'"),
        ("1,0.5,t-25", 2.0, "'step'"),
        ("1,0.5,ahead", "+500", "'step'"),
        ("last:3/25,ratio", 2.0, "'step'"),
        (PAPER, (1.5, 2.0), "'ratio'"),
        ("last:3/25", ("+10", "+20"), "'ahead'"),
        ("mean:800/25,slope:800/25,ahead", 2.0, "last:33/25"),
    ],
    ids=str,
)
def test_times_that_do_not_go_together_are_refused(
    fit: Any, context: Any, horizon: Any, advice: str
) -> None:
    with refuses(UsageError, advice):
        fit(context, horizon).ready()


def test_fits_look_at_nothing_else() -> None:
    X = seen(columns=8)
    context = ("scale", 1.0, 0.7, "mean:800/25", 0.4, 0.0, "slope:800/25", "ahead")
    for fit in (LinearFit, QuadraticFit):
        expected = fit().ready().predict(X[:, [1, 2, 4, 5]])
        assert fit(context).ready().predict(X) == pytest.approx(expected, rel=1e-5, abs=1e-5)


# ---- the last value


@settings(max_examples=60, deadline=None)
@given(values(4))
def test_last_value_is_the_last_value(past: np.ndarray) -> None:
    forecast = LastValue().ready().forecast(torch.tensor(past.T))
    assert forecast.tolist() == past[:, 0].tolist()
    elsewhere = LastValue("ahead,slope:100/25,1,t-3", "+5").ready()
    assert elsewhere.predict(past).tolist() == past[:, 2].tolist()


@pytest.mark.parametrize("model", [LastValue, GaussianNoise])
def test_a_context_without_the_last_value_is_refused(model: Any) -> None:
    with refuses(UsageError, "t-25,t-50", "add 1"):
        model(context=("t-25", "t-50"), horizon="+5").fit(np.zeros((3, 2)), np.zeros(3))


# ---- the line through a window


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 33),
    st.integers(1, 40),
    st.integers(1, 3000),
    st.sampled_from([np.float32, np.float64]),
    st.data(),
)
def test_line_from_sums_is_the_line_through_the_snapshots(
    count: int, stride: int, ahead: int, dtype: Any, data: st.DataObject
) -> None:
    window = Window((count - 1) * stride, stride)
    snapshots = data.draw(values(5, count)).astype(dtype)  # [m, P], the earliest first
    positions = [float(i * stride - window.steps) for i in range(count)]
    slow = [slow_fit(positions, past, ahead, degree=1) for past in snapshots.T]
    line = Line(window.steps, stride).ready()
    alike = Line(context=f"last:{count}/{stride}", horizon=f"+{ahead}").ready()
    found = [alike.forecast(torch.tensor(snapshots[::-1].copy())).numpy()]
    for given_snapshots in (snapshots, torch.tensor(snapshots)):
        sums = {window: sums_of(window, given_snapshots)}
        rows = line.sees.rows({}, sums, {"ahead": ahead})
        whole = [row if isinstance(row, int) else torch.as_tensor(row[:]) for row in rows]
        found.append(line.forecast(whole).numpy())
        found.append(line.predict(np.column_stack([*whole[:2], np.full(5, dtype(ahead))])))
    found.append(line.forecast(rows).numpy())  # in torch, computed where they are read
    reach = 1 + ahead / window.steps
    relative, absolute = (1e-3, 1e-4 * reach) if dtype is np.float32 else (1e-9, 1e-9 * reach)
    for forecast in found:
        assert forecast.dtype == dtype
        assert forecast == pytest.approx(slow, rel=relative, abs=absolute)


def test_line_needs_no_training() -> None:
    assert Line().ready().context_ == ("mean:800/25", "slope:800/25", "ahead")
    assert Line(window=100, stride=10).ready().context_[1] == "slope:100/10"
    assert Line(stride=20).fit(np.zeros((2, 4)), np.zeros(2)).context_ == (
        1.0,
        "t-20",
        "t-40",
        "t-60",
    )


def test_line_is_read_off_at_its_horizon_where_ahead_is_not_seen() -> None:
    line = Line(context="slope:800/25,scale,mean:800/25", horizon="+400").ready()
    assert line.forecast([torch.tensor([0.5]), 9.0, torch.tensor([2.0])]).item() == 2.5
    ratio = Line(context="mean:800/25,slope:800/25,step", horizon=1.5).ready()
    assert ratio.forecast([torch.tensor([2.0]), torch.tensor([0.5]), 800]).item() == 2.5


def test_line_takes_the_window_that_there_is() -> None:
    """Its own before others, the longest of others; mean and slope must be of one window."""
    two = "mean:100/10,slope:100/10,mean:400/25,slope:400/25,slope:900/25,ahead"
    rows = [torch.tensor([float(v)]) for v in (1, 2, 10, 20, 99)]
    assert Line(context=two).ready().forecast([*rows, 400]).item() == 10 + 20 * 1.5
    mine = Line(window=100, stride=10, context=two).ready()
    assert mine.forecast([*rows, 400]).item() == 1 + 2 * 4.5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"context": "mean:800/25,slope:800/25", "horizon": 2.0}, "'step'"),
        ({"context": "mean:400/25,slope:800/25,ahead"}, "mean:400/25"),
        ({"context": "mean:800/25,ahead"}, "last:33/25"),
        ({"window": 810}, "810/25"),
        ({"context": "1,0.5,0", "horizon": 2.0}, "for fractions of t use linear-fit"),
        ({"context": "1,scale"}, "mean:800/25,slope:800/25, or last:33/25"),
        ({"context": "last:4/25", "stride": 10}, "mean:800/10,slope:800/10"),
        ({"context": "mean:800/25,slope:800/25,ahead", "window": 400}, "400/25"),
    ],
    ids=str,
)
def test_a_line_that_cannot_be_drawn_is_refused(options: dict[str, Any], words: str) -> None:
    with refuses(UsageError, words):
        Line(**options).ready()


# ---- noise


def noise_of(X: np.ndarray, **options: Any) -> np.ndarray:
    return GaussianNoise(1.0, **options).ready().predict(np.float64(X)) - X[:, 0]


def test_noise_is_normal() -> None:
    noise = noise_of(seen(40_000))
    assert abs(noise.mean()) < 4 / 200
    assert abs(noise.std() - 1) < 4 / 283
    assert stats.kstest(noise, "norm").pvalue > 0.01
    assert abs(stats.kurtosis(noise)) < 0.1
    assert np.abs(noise).max() > 3.5


@pytest.mark.parametrize("axis", [0, 3])
def test_noise_of_neighbours_is_independent(axis: int) -> None:
    """Weights that differ in the last bit of one value, or in evenly spaced ones."""
    count = 20_000
    bits = np.full((count, 4), 0.3, np.float32)
    bits[:, axis] = (np.float32(0.01).view(np.int32) + np.arange(count)).astype(np.int32).view("f4")
    even = np.zeros((count, 4), np.float32)
    even[:, axis] = np.arange(1, count + 1) / 2**14
    for X in (bits, even):
        noise = noise_of(X)
        assert stats.kstest(noise, "norm").pvalue > 0.01
        for lag in (1, 2, 64, 4096):
            assert abs(np.corrcoef(noise[:-lag], noise[lag:])[0, 1]) < 4 / count**0.5


def test_noise_of_other_seeds_is_independent() -> None:
    X = seen(20_000)
    a, b, again = (noise_of(X, random_state=s) for s in (0, 1, 0))
    assert abs(np.corrcoef(a, b)[0, 1]) < 4 / 141
    assert a.tobytes() == again.tobytes()
    given_state = noise_of(X, random_state=np.random.RandomState(1))
    assert given_state.tobytes() == b.tobytes()


def test_noise_depends_on_the_weight_alone() -> None:
    """Not on which weights stand beside it, their order, or the blocks they are taken in."""
    X = seen(70_000)
    model = GaussianNoise(0.1).ready()
    forecast = model.predict(X)
    order = np.random.default_rng(0).permutation(len(X))
    assert model.predict(X[order]).tobytes() == forecast[order].tobytes()
    part = slice(31_000, 33_005)
    assert model.predict(X[part]).tobytes() == forecast[part].tobytes()
    zeros = model.predict(np.float32([[0.0, 1, 2, 3], [-0.0, 1, 2, 3], [0.0, 1, 3, 2]]))
    assert zeros[0] == zeros[1]
    assert zeros[0] != zeros[2]


def test_noise_is_as_large_as_changes_are() -> None:
    X = seen(500)
    y = X[:, 0] + np.random.default_rng(1).normal(0.5, 0.2, 500)
    rows = np.arange(100, 300)
    model = GaussianNoise().fit(X, y)
    assert model.std_ == pytest.approx(np.sqrt(np.mean((y - X[:, 0]) ** 2)), rel=1e-6)
    assert model.predict(X) != pytest.approx(X[:, 0])
    part = GaussianNoise().fit(X, y, rows=rows)
    assert part.std_ == GaussianNoise().fit(X[rows], y[rows]).std_ != model.std_
    assert GaussianNoise(0.25).fit(X, y).std_ == 0.25
    with refuses(UsageError, "rows"):
        GaussianNoise().fit(X, y, rows=rows[:0])
    with pytest.raises(UnfittedError):
        GaussianNoise().ready()


def test_noise_is_learned_from_more_samples_than_are_read_at_once() -> None:
    X = np.zeros((300_000, 1), np.float32)
    y = np.arange(300_000) / 300_000
    assert GaussianNoise().fit(X, y).std_ == pytest.approx(3**-0.5, rel=1e-4)


@pytest.mark.parametrize("std", [-1.0, float("nan"), float("inf"), "much"])
def test_noise_that_cannot_be_is_refused(std: Any) -> None:
    with refuses(UsageError, "std", std):
        GaussianNoise(std).ready()


def test_noise_comes_back_from_its_tensors() -> None:
    X = seen()
    model, other = GaussianNoise(random_state=7).fit(X, X[:, 1]), GaussianNoise(1.0).ready()
    other.load_tensors(model.tensors())
    assert other.predict(X).tobytes() == model.predict(X).tobytes()
    for name, value in (("std_", -1.0), ("std_", float("nan")), ("seed_", 1.0)):
        with refuses(FormatError, name):
            other.load_tensors(model.tensors() | {name: torch.tensor(value).double()})
    with refuses(FormatError, "seed_"):
        other.load_tensors({"std_": torch.tensor(1.0).double()})


# ---- forecasts of whole snapshots


@EACH
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_predict_is_forecast(model: Forecaster, dtype: Any) -> None:
    X = seen(9, seed=1).astype(dtype)
    forecast = model.forecast(torch.tensor(np.ascontiguousarray(X.T)))
    assert model.predict(X).dtype == dtype
    assert model.predict(X).tobytes() == forecast.numpy().tobytes()


@EACH
@pytest.mark.parametrize("count", [0, 1, 135_001])
def test_weights_are_forecast_independently(model: Forecaster, count: int) -> None:
    """However many weights go in, each comes out as if it were alone."""
    rows = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)).repeat(1, 27_001)
    forecast = model.forecast(rows[:, :count])
    alone = model.forecast(rows[:, :5]).repeat(27_001)[:count]
    assert forecast.shape == (count,)
    assert torch.allclose(forecast, alone, rtol=1e-5, atol=1e-5)


@EACH
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


@EACH
@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_forecast_may_take_the_place_of_a_row(
    model: Forecaster, place: int, dtype: torch.dtype
) -> None:
    rows = [*torch.randn(4, 135_000, generator=torch.Generator().manual_seed(0)).to(dtype)]
    expected = model.forecast(torch.stack(rows)).to(dtype)
    assert model.forecast(rows, out=rows[place]) is rows[place]
    assert torch.allclose(rows[place], expected, rtol=1e-5, atol=1e-5)


@EACH
def test_rows_may_be_numbers_and_of_several_dtypes(model: Forecaster) -> None:
    whole = torch.randn(4, 9, generator=torch.Generator().manual_seed(0)).bfloat16().double()
    whole[2], whole[3] = 3, 0.5
    rows = [whole[0], whole[1].bfloat16(), 3, 0.5]
    assert model.forecast(rows).dtype == torch.float64
    assert torch.allclose(model.forecast(rows), model.forecast(whole), rtol=1e-9, atol=1e-9)


@EACH
def test_a_context_may_be_a_view_that_takes_gradients(model: Forecaster) -> None:
    rows = torch.randn(9, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    forecast = model.forecast(rows.T)
    assert not forecast.requires_grad
    alike = model.forecast(rows.detach().T.contiguous())
    assert torch.allclose(forecast, alike, rtol=1e-5, atol=1e-5)


class Allocations(TorchDispatchMode):
    """The largest tensor that any operator made."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given_storages = {
            leaf.untyped_storage().data_ptr()
            for leaf in tree_leaves((args, kwargs))
            if isinstance(leaf, torch.Tensor)
        }
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                if storage.data_ptr() not in given_storages:
                    self.largest = max(self.largest, storage.nbytes())
        return result


@EACH
def test_a_forecast_makes_no_array_of_all_weights(model: Forecaster) -> None:
    """Whatever an operator makes is as large as a block, however many weights there are."""
    count, block = 1 << 20, max(4 * COMBINED, 8 * 40 * 4096, 8 * 4 * model.block)
    assert block < 4 * count
    rows = [torch.randn(1).expand(count) for _ in range(4)]
    out = torch.empty(count)
    with Allocations() as found:
        model.forecast(rows, out=out)
    assert 0 < found.largest <= block


# ---- what a forecaster was fitted for


def test_context_settles_by_the_columns() -> None:
    assert LastValue().fit(np.zeros((2, 4)), np.zeros(2)).context_ == (1.0, 0.7, 0.4, 0.0)
    assert LastValue().fit(np.zeros((2, 3)), np.zeros(2)).context_ == (1.0, 0.5, 0.0)
    assert LastValue((1.0, 0.9)).fit(np.zeros((2, 2)), np.zeros(2)).context_ == (1.0, 0.9)
    assert LastValue((1.0, 0.9)).ready().context_ == (1.0, 0.9)
    assert LastValue("last:2/25").ready().context_ == (1.0, "t-25")


@EACH
@pytest.mark.parametrize("shape", [(3, 5), (5, 5), (4,), (0, 5), (1, 4, 5)])
def test_a_context_of_another_shape_is_refused(model: Forecaster, shape: Any) -> None:
    with refuses(ShapeError, "(4, P)", shape):
        model.forecast(torch.zeros(shape))


def test_rows_of_different_lengths_are_refused() -> None:
    model = LinearFit().ready()
    with refuses(ShapeError, "(4, P)", "2", "3"):
        model.forecast([torch.zeros(3), torch.zeros(3), torch.zeros(2), 0.0])
    with refuses(ShapeError, "(4, P)"):
        model.forecast([1.0, 1.0, 1.0, 1.0])
    with refuses(ShapeError, "(4, P)"):
        model.forecast(torch.zeros(4, 3), out=torch.zeros(4))


@EACH
def test_another_number_of_columns_is_refused(model: Forecaster) -> None:
    with pytest.raises(ValueError, match="expecting 4 features"):
        model.predict(np.zeros((3, 5)))
    with refuses(ShapeError, "4 columns"):
        clone(model).set_params(context=(1.0, 0.5)).fit(np.zeros((3, 4)), np.zeros(3))


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


@EACH
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(model: Forecaster, value: float) -> None:
    good, bad = np.zeros((3, 4), np.float32), np.zeros((3, 4), np.float32)
    bad[1, 2] = value
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        clone(model).fit(bad, good[:, 0])
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        clone(model).fit(good, bad[:, 2])
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        model.predict(bad)


# ---- as scikit-learn's estimators are used


@EACH
def test_joblib_brings_a_forecaster_back(model: Forecaster) -> None:
    file = io.BytesIO()
    joblib.dump(model, file)
    file.seek(0)
    X = seen()
    assert joblib.load(file).predict(X).tobytes() == model.predict(X).tobytes()


@pytest.mark.parametrize(
    ("model", "grid", "best"),
    [
        (LastValue(), {"context": [(1.0, 0.5, 0.0), ("t-1", "t-2", 1.0)]}, ("t-1", "t-2", 1.0)),
        (LinearFit(), {"horizon": [1.2, 1.5, 2.0]}, 1.5),
        (QuadraticFit(), {"horizon": [1.2, 1.5, 2.0]}, 1.5),
        (Line(stride=10), {"window": [50, 100, 200]}, 100),
        (GaussianNoise(), {"std": [0.0, 0.3, 1.0]}, 0.0),
    ],
    ids=repr,
)
def test_a_grid_search_finds_the_best_option(model: Any, grid: Any, best: Any) -> None:
    start, slope = np.random.default_rng(0).normal(size=(2, 60))
    X = np.column_stack([start + slope * f for f in (1, 0.5, 0)])
    y = start + 1.5 * slope
    if isinstance(model, Line):  # mean, slope and steps ahead
        X, y = np.column_stack([start, slope, np.full(60, 50)]), start + slope
    if isinstance(model, LastValue):
        y = X[:, 2]
    search = GridSearchCV(model, grid, scoring="neg_mean_absolute_error", cv=3).fit(X, y)
    assert search.best_params_ == {next(iter(grid)): best}


@pytest.mark.parametrize("model", [LastValue(), LinearFit(), QuadraticFit(), GaussianNoise()])
def test_memory_mapped_samples_are_read_in_place(model: Forecaster, tmp_path: Path) -> None:
    """Read-only, without a copy of the file and without a warning."""
    X = seen(300)
    X.tofile(tmp_path / "X")
    X[:, 1].tofile(tmp_path / "y")
    mapped_X = np.memmap(tmp_path / "X", dtype=np.float32, mode="r", shape=X.shape)
    mapped_y = np.memmap(tmp_path / "y", dtype=np.float32, mode="r", shape=300)
    rows = np.arange(0, 300, 3)
    mapped = clone(model).fit(mapped_X, mapped_y, rows=rows).predict(mapped_X)
    copied = clone(model).fit(X, X[:, 1], rows=rows).predict(X)
    assert mapped.tobytes() == copied.tobytes()


@contextmanager
def float64_by_default() -> Any:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def half_precision() -> Any:
    return torch.autocast("cpu", dtype=torch.bfloat16)


@EACH
@pytest.mark.parametrize(
    "state", [torch.no_grad, torch.inference_mode, half_precision, float64_by_default]
)
def test_global_state_does_not_disturb_forecasts(model: Forecaster, state: Any) -> None:
    X = seen()
    expected = model.predict(X)
    with state():
        inside = model.predict(X)
    assert inside.tobytes() == expected.tobytes()


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
