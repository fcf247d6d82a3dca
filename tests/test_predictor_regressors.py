"""Scikit-learn's regressors as forecasters: what they learn, and how they forecast."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression, PoissonRegressor, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, PolynomialFeatures, StandardScaler
from sklearn.svm import LinearSVR
from sklearn.utils.estimator_checks import parametrize_with_checks
from store_reference import refuses
from threadpoolctl import threadpool_limits

from weightcast.predictor import LastValue, SklearnForecaster
from weightcast.predictor.regressors import linear_form
from weightcast.store import NonFiniteError, UsageError

TREES = HistGradientBoostingRegressor(max_iter=20, min_samples_leaf=2)
# It stops after a few dozen steps: more would blow rounding errors up, and scikit-learn's checks
# compare the results of two trainings.
NETWORK = MLPRegressor(
    hidden_layer_sizes=10, tol=0.3, learning_rate_init=0.1, max_iter=3000, random_state=0
)
KINDS = {
    "ridge": Ridge(alpha=1e-3),
    "trees": TREES,
    "network": NETWORK,
    "pipeline": make_pipeline(StandardScaler(), Ridge(alpha=1e-3)),
    "curved pipeline": make_pipeline(PolynomialFeatures(2), StandardScaler(), Ridge()),
}
EACH = pytest.mark.parametrize("regressor", KINDS.values(), ids=KINDS)
SCALINGS = [("fixed", "change"), ("fixed", "value"), ("tensor", "change"), ("weight", "change")]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Threads that wait for each other on a busy machine take most of the time of small fits."""
    with threadpool_limits(1):
        yield


# scikit-learn's checks fit values of size 1, not weights: no scale.
@parametrize_with_checks([SklearnForecaster(model, scale=1.0) for model in KINDS.values()])
def test_scikit_learns_contract(estimator: Any, check: Any) -> None:
    check(estimator)


def roots(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Samples of trajectories w(t) = w0 + a sqrt(t), and their w(2t)."""
    random = np.random.default_rng(seed)
    t = random.uniform(100, 1000, count)
    start, pace = random.normal(0, 0.1, count), random.normal(0, 0.001, count)
    X = np.column_stack([start + pace * np.sqrt(f * t) for f in (1, 0.7, 0.4, 0)])
    return X.astype(np.float32), (start + pace * np.sqrt(2 * t)).astype(np.float32)


@EACH
def test_a_regressor_learns_a_law(regressor: Any) -> None:
    """All learn the root's way far better than that nothing changes."""
    X, y = roots(2000, seed=0)
    held, truth = roots(500, seed=1)
    model = SklearnForecaster(regressor).fit(X, y)
    mine, last = (np.abs(m.predict(held) - truth).mean() for m in (model, LastValue().fit(X, y)))
    assert mine < 0.2 * last


@pytest.mark.parametrize(("scaling", "target"), SCALINGS)
@EACH
def test_a_forecast_is_the_regressors_on_scaled_values(
    regressor: Any, scaling: str, target: str
) -> None:
    """Beside the arithmetic of one sample after the other."""
    X, y = roots(60, seed=0)
    sizes = np.random.default_rng(2).uniform(0.5, 2, 60).astype(np.float32)
    context: Any = (1.0, 0.7, 0.4, 0.0)
    if scaling == "tensor":
        X, context = np.column_stack([X, sizes]), (*context, "scale")
    X = X.astype(np.float64)
    inputs, outputs, units = [], [], []
    for row, later in zip(X, y.astype(np.float64), strict=True):
        past = row[:4] - (row[0] if target == "change" else 0)
        unit = {"fixed": 1e-3, "tensor": row[-1], "weight": np.abs(past).max()}[scaling]
        inputs.append([*(past / unit), *([np.log2(row[4])] if scaling == "tensor" else [])])
        outputs.append((later - (row[0] if target == "change" else 0)) / unit)
        units.append(unit)
    raw = clone(regressor).fit(np.array(inputs), np.array(outputs)).predict(np.array(inputs))
    expected = raw * units + (X[:, 0] if target == "change" else 0)
    model = SklearnForecaster(regressor, 1000.0, scaling, target, context).fit(X, y)
    assert model.predict(X) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    live = model.forecast(torch.tensor(X.T.copy()))
    assert live.numpy() == pytest.approx(expected, rel=1e-4, abs=1e-6)


class Rigged(RegressorMixin, BaseEstimator):
    """Counts how its methods are called; it has coefficients, but is not linear."""

    calls: list[tuple[int, ...]] = []  # noqa: RUF012

    def fit(self, X: Any, y: Any) -> Any:
        self.coef_, self.intercept_ = np.ones(X.shape[1]), 0.0
        return self

    def predict(self, X: Any) -> Any:
        Rigged.calls.append(X.shape)
        return np.abs(X).sum(1)[:, None]  # a column, as some regressors give


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([LinearRegression(), Ridge(), Ridge(fit_intercept=False), LinearSVR(C=0.01)]),
    st.sampled_from(
        [
            [],
            [StandardScaler()],
            [StandardScaler(with_mean=False)],
            [StandardScaler(), StandardScaler(with_std=False)],
        ]
    ),
    st.integers(0, 99),
)
def test_linear_models_have_a_linear_form(model: Any, before: Any, seed: int) -> None:
    random = np.random.default_rng(seed)
    X = random.normal(3, [1, 2, 5], (40, 3))
    y = X @ [1, -2, 0.5] + random.normal(7, 0.1, 40)
    fitted = clone(make_pipeline(*before, model) if before else model)
    form = linear_form(fitted.fit(X, y))
    assert form is not None
    assert X @ form[0] + form[1] == pytest.approx(fitted.predict(X), rel=1e-9)


@pytest.mark.parametrize(
    "model",
    [
        PoissonRegressor(),
        TREES,
        Rigged(),
        make_pipeline(FunctionTransformer(np.square), Ridge()),
        make_pipeline(StandardScaler(), TREES),
    ],
    ids=str,
)
def test_other_models_have_none(model: Any) -> None:
    X = np.random.default_rng(0).uniform(size=(40, 3))
    assert linear_form(clone(model).fit(X, X[:, 0])) is None


@pytest.mark.parametrize("alike", [True, False])
def test_other_models_get_blocks(alike: bool) -> None:
    X, y = roots(50, seed=0)
    model = SklearnForecaster(Rigged(), target="value").fit(X, y)
    Rigged.calls.clear()
    rows = [torch.full((150_000,), v) for v in (0.1, -0.2, 0.3)]
    forecast = model.forecast([*rows, 0.4 if alike else torch.full((150_000,), 0.4)])
    assert torch.allclose(forecast, torch.tensor(1.0))
    assert sum(count for count, _ in Rigged.calls) == 150_000
    assert {columns for _, columns in Rigged.calls} == {4}
    assert max(Rigged.calls)[0] == SklearnForecaster.block


def test_a_forecast_in_numpy_takes_the_memory_of_a_block() -> None:
    X, y = roots(50, seed=0)
    model = SklearnForecaster(Rigged()).fit(X, y)
    rows, out = [torch.randn(1).expand(1 << 20) for _ in range(4)], torch.empty(1 << 20)
    tracemalloc.start()
    model.forecast(rows, out=out)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * 8 * 4 * SklearnForecaster.block < 16 * len(out)


def test_weights_that_are_not_finite_are_refused() -> None:
    X, y = roots(50, seed=0)
    model = SklearnForecaster(TREES).fit(X, y)
    with refuses(NonFiniteError, "finite", "HistGradientBoosting"):
        model.forecast(torch.tensor([[1.0], [float("nan")], [0.0], [0.0]]))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"regressor": object()}, "fit, predict"),
        ({"regressor": Ridge}, "Ridge()"),
        ({"regressor": StandardScaler()}, "predict"),
        ({"regressor": Ridge(alpha=-1.0)}, "alpha"),
        ({"scale": 0.0}, "scale"),
        ({"scaling": "none"}, "scaling"),
        ({"target": "none"}, "target"),
        ({"scaling": "tensor"}, "with scale among its --context entries"),
        ({"scaling": "weight", "target": "value"}, "--set target=change"),
        ({"context": ("t-1", "t-2", "t-3", "t-4")}, "add 1"),
    ],
    ids=str,
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], words: str) -> None:
    X, y = roots(50, seed=0)
    with refuses(UsageError, words):
        SklearnForecaster(**({"regressor": Ridge()} | options)).fit(X, y)


def test_the_given_regressor_is_not_fitted() -> None:
    X, y = roots(50, seed=0)
    regressor = Ridge()
    model = SklearnForecaster(regressor).fit(X, y)
    assert not hasattr(regressor, "coef_")
    assert model.regressor is regressor
    assert hasattr(model.regressor_, "coef_")


def test_options_of_the_regressor_are_reached() -> None:
    model = SklearnForecaster(make_pipeline(StandardScaler(), Ridge()))
    assert model.get_params()["regressor__ridge__alpha"] == 1.0
    model.set_params(regressor__ridge__alpha=5.0, scale=10.0)
    assert (model.regressor[-1].alpha, model.scale) == (5.0, 10.0)


def test_a_grid_search_finds_the_best_option() -> None:
    X, y = roots(400, seed=0)
    grid = {"regressor__alpha": [1e-3, 1e9], "scaling": ["fixed", "weight"]}
    search = GridSearchCV(SklearnForecaster(Ridge()), grid, cv=3).fit(X, y)
    assert search.best_params_["regressor__alpha"] == 1e-3


@EACH
def test_joblib_brings_a_forecaster_back(regressor: Any) -> None:
    X, y = roots(50, seed=0)
    model, file = SklearnForecaster(regressor).fit(X, y), io.BytesIO()
    joblib.dump(model, file)
    file.seek(0)
    assert joblib.load(file).predict(X).tobytes() == model.predict(X).tobytes()


def test_memory_mapped_samples_are_read_in_place(tmp_path: Path) -> None:
    X, y = roots(300, seed=0)
    X.tofile(tmp_path / "X")
    y.tofile(tmp_path / "y")
    mapped_X = np.memmap(tmp_path / "X", dtype=np.float32, mode="r", shape=X.shape)
    mapped_y = np.memmap(tmp_path / "y", dtype=np.float32, mode="r", shape=y.shape)
    rows, calls = np.arange(0, 300, 3), []
    model = SklearnForecaster(Ridge())
    mapped = model.fit(mapped_X, mapped_y, rows=rows, progress=lambda *call: calls.append(call))
    assert calls == [("fit", 1, 1)]
    found = mapped.predict(mapped_X).tobytes()
    assert found == SklearnForecaster(Ridge()).fit(X[rows], y[rows]).predict(X).tobytes()
    with refuses(UsageError, "rows"):
        model.fit(X, y, rows=rows[:0])


def test_more_samples_than_are_scaled_at_once_are_all_learned_from() -> None:
    X, _ = roots(300_000, seed=0)
    y = np.where(np.arange(300_000) < 270_000, X[:, 0], X[:, 0] + 0.001)
    model = SklearnForecaster(Ridge()).fit(X, y)
    assert np.mean(model.predict(X[:100]) - X[:100, 0]) == pytest.approx(1e-4, rel=0.1)
