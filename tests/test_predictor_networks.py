"""Networks: each forecast beside one weight at a time, and their training, whole and resumed."""

from __future__ import annotations

import itertools
import json
import math
import random
import signal
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks
from store_reference import refuses

from weightcast.predictor import (
    WNN,
    Forecaster,
    Introspection,
    LastValue,
    LinearFit,
    LinearIntrospection,
)
from weightcast.predictor.scaling import Scaling
from weightcast.store import FormatError, ShapeError, UsageError
from weightcast.store.columns import Fact, Past, Statistic
from weightcast.store.context import Context

CLASSES = [Introspection, LinearIntrospection, WNN]
EVERY = pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)

# scikit-learn's checks fit targets of size 1, not weights: no scale, and a quicker rate.
QUICK: dict[str, Any] = {"steps": 150, "scale": 1.0, "learning_rate": 3e-2, "scaling": "fixed"}

# Contexts with columns of all kinds, and what scales them.
RICH = "1,0.5,t-100,mean:100/25,slope:100/25,spread:100/25,scale,size,fan-in,dims,step,ahead,ratio"
CONTEXTS = ["1", "1,0.7,0.4,0", "1,0.5,ahead", "mean:100/25,1,t-25,slope:100/25,scale", RICH]


@parametrize_with_checks([kind(**QUICK) for kind in CLASSES])
def test_scikit_learns_contract(estimator: Any, check: Any) -> None:
    check(estimator)


# ---- slow references


def slow_scaling(model: Any, row: list[float]) -> tuple[list[float], float, float]:
    """Inputs, unit and base of one weight, in Python's numbers."""
    columns = Context.of(model.context_).columns
    now = row[columns.index(Past())] if Past() in columns else math.nan
    change = model.target == "change"
    moved, inputs = [0.0], []
    for value, column in zip(row, columns, strict=True):
        level = isinstance(column, Past) or (
            isinstance(column, Statistic) and column.kind == "mean"
        )
        inputs.append(value - now if change and level else value)
        if not isinstance(column, Fact) and column != Past():
            moved.append(abs(inputs[-1]))
    scale = row[columns.index(Fact("scale"))] if Fact("scale") in columns else 0.0
    unit = {"fixed": 1 / model.scale, "tensor": scale or 1.0, "weight": max(moved)}[model.scaling]
    for place, column in enumerate(columns):
        if column == Fact("scale"):
            inputs[place] = math.log2(inputs[place] or 1.0)
        elif isinstance(column, Fact):
            inputs[place] = math.log2(1 + inputs[place])
        else:
            inputs[place] /= unit or 1.0
    return inputs, unit, now if change else 0.0


def slow_layer(weight: Any, bias: Any, inputs: list[float], *, relu: bool = True) -> list[float]:
    sums = [
        float(b) + sum(float(w) * x for w, x in zip(row, inputs, strict=True))
        for row, b in zip(weight, bias, strict=True)
    ]
    return [max(s, 0.0) for s in sums] if relu else sums


def slow_introspection(model: Any, inputs: list[float]) -> float:
    relu = type(model) is Introspection
    hidden = slow_layer(model.hidden_weight_, model.hidden_bias_, inputs, relu=relu)
    return slow_layer([model.output_weight_], [model.output_bias_], hidden, relu=False)[0]


def slow_wnn(model: Any, inputs: list[float]) -> float:
    columns = Context.of(model.context_).columns
    past = [v for v, column in zip(inputs, columns, strict=True) if isinstance(column, Past)]
    moved = [later - earlier for later, earlier in itertools.pairwise(past)]
    features: list[float] = []
    for name, seen in (("values", inputs), ("differences", moved)):
        for layer in ("first", "second") if seen else ():
            weight = getattr(model, f"{name}_{layer}_weight_")
            seen = slow_layer(weight, getattr(model, f"{name}_{layer}_bias_"), seen)
        features += seen
    return slow_layer([model.output_weight_], [model.output_bias_], features, relu=False)[0]


def slow_forecast(model: Any, row: Any) -> float:
    inputs, unit, base = slow_scaling(model, [float(value) for value in row])
    network = slow_wnn if isinstance(model, WNN) else slow_introspection
    return base + unit * network(model, inputs)


def samples(context: str, count: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """What may be seen of weights in a context, and later values; some weights never moved."""
    rng = np.random.default_rng(seed)
    X = rng.normal(0, 0.1, (count, len(Context.of(context).columns))).astype(np.float32)
    for place, column in enumerate(Context.of(context).columns):
        if isinstance(column, Fact):
            X[:, place] = rng.choice([0.0, 0.3, 7.0, 5000.0], count)
        elif isinstance(column, Statistic) and column.kind == "spread":
            X[:, place] = abs(X[:, place])
    for place, column in enumerate(Context.of(context).columns):
        if not isinstance(column, Fact):
            level = isinstance(column, Past) or column.kind == "mean"
            X[: count // 5, place] = 0.25 if level else 0.0
    return X, rng.normal(0, 0.1, count).astype(np.float32)


def options_for(kind: Any, context: str) -> st.SearchStrategy[dict[str, Any]]:
    columns = Context.of(context).columns
    scalings = ["fixed"] + ["tensor"] * ("scale" in context) + ["weight"] * (len(columns) > 2)
    if kind is WNN:
        return st.fixed_dictionaries({"scaling": st.sampled_from(scalings)})
    return st.sampled_from(
        [
            {"scaling": scaling, "target": target}
            for scaling in scalings
            for target in ("value", "change")
            if scaling != "weight" or target == "change"
        ]
    )


@EVERY
@settings(max_examples=25, deadline=None)
@given(
    context=st.sampled_from(CONTEXTS),
    scale=st.sampled_from([1.0, 1000.0]),
    seed=st.integers(0, 5),
    data=st.data(),
)
def test_a_forecast_is_that_of_the_slow_network(
    kind: Any, context: str, scale: float, seed: int, data: st.DataObject
) -> None:
    options = data.draw(options_for(kind, context))
    X, y = samples(context, seed=seed)
    given_context = None if context == "1" else context
    model = kind(
        hidden=5, scale=scale, steps=3, context=given_context, random_state=seed, **options
    ).fit(X, y)
    expected = [slow_forecast(model, row) for row in X]
    assert model.predict(X.astype(np.float64)) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    size = max(1.0, *map(abs, expected))
    assert model.predict(X) == pytest.approx(expected, rel=1e-4, abs=1e-5 * size)


@settings(max_examples=40, deadline=None)
@given(context=st.sampled_from(CONTEXTS[1:]), data=st.data(), dtype=st.sampled_from("fd"))
def test_scaling_is_the_same_in_numpy_and_torch(
    context: str, data: st.DataObject, dtype: str
) -> None:
    """And what is scaled back is what was scaled, but for weights that never moved."""
    options = data.draw(options_for(Introspection, context))
    scaling = Scaling(options["scaling"], 1000.0, options["target"], Context.of(context))
    X, y = samples(context)
    seen, y = X.T.astype(dtype), y.astype(dtype)
    kept = seen.copy()
    inputs, unit, base = scaling.apply(seen)
    tensors = scaling.apply(torch.tensor(seen))
    assert seen.tobytes() == kept.tobytes()
    assert inputs.dtype == seen.dtype
    assert tensors[0].numpy() == pytest.approx(inputs, rel=1e-5, abs=1e-6)
    assert np.asarray(tensors[1]) == pytest.approx(np.asarray(unit), rel=1e-6)
    assert np.asarray(tensors[2]) == pytest.approx(np.asarray(base), rel=1e-6)
    back = base + unit * scaling.scaled(y, unit, base)
    moved = np.broadcast_to(np.asarray(unit) > 0, len(y))
    assert back[moved] == pytest.approx(y[moved], rel=1e-4, abs=1e-6)
    assert moved.all() == (options["scaling"] != "weight")
    if scaling.matrix is not None:
        assert scaling.matrix @ seen == pytest.approx(inputs, rel=1e-4, abs=1e-3)


@EVERY
def test_a_weight_that_never_moved_stays_where_it_is(kind: Any) -> None:
    X, y = samples("1,0.7,0.4,0")
    target = {} if kind is WNN else {"target": "change"}
    model = kind(steps=20, scaling="weight", **target).fit(X, y)
    assert (X[:8, 0] == 0.25).all()
    assert (model.predict(X[:8]) == 0.25).all()
    assert (model.predict(X[8:]) != X[8:, 0]).all()


def test_a_linear_network_is_one_combination_of_the_rows() -> None:
    """Also where `forecast` gets rows and no block is ever scaled."""
    for target in ("value", "change"):
        X, y = samples("1,0.7,0.4,0")
        model = LinearIntrospection(steps=5, target=target).fit(X, y)
        rows = [torch.tensor(column) for column in X.T]
        expected = [slow_forecast(model, row) for row in X]
        assert model.forecast(rows).numpy() == pytest.approx(expected, rel=1e-4, abs=1e-5)
        zero = model.predict(np.zeros((1, 4)))[0]
        sums = [model.predict(np.eye(4) * a) - zero for a in (1.0, 2.0)]
        assert sums[1] == pytest.approx(2 * sums[0], rel=1e-9, abs=1e-12)


# ---- learning


def roots(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Samples of trajectories w(t) = w0 + a sqrt(t), and their w(2t)."""
    rng = np.random.default_rng(seed)
    t = rng.uniform(100, 1000, count)
    start, pace = rng.normal(0, 0.1, count), rng.normal(0, 0.001, count)
    X = np.column_stack([start + pace * np.sqrt(f * t) for f in (1, 0.7, 0.4, 0)])
    return X.astype(np.float32), (start + pace * np.sqrt(2 * t)).astype(np.float32)


def mean_error(model: Forecaster, X: np.ndarray, y: np.ndarray) -> float:
    return float(np.abs(model.predict(X) - y).mean())


@pytest.mark.parametrize(
    "model",
    [
        Introspection(),
        Introspection(target="change"),
        Introspection(scaling="weight", target="change"),
        LinearIntrospection(),
        WNN(),
        WNN(scaling="fixed"),
    ],
    ids=repr,
)
def test_training_learns_a_law(model: Any) -> None:
    """Where weights move as the square root of time, learning beats both simple forecasts."""
    X, y = roots(4000, seed=0)
    held, truth = roots(1000, seed=1)
    model = clone(model).set_params(
        steps=1500, learning_rate=2e-3, decay_every=300, batch_size=100
    ).fit(X, y)  # fmt: skip
    mine, last, line = (
        mean_error(m, held, truth) for m in (model, LastValue().ready(), LinearFit().ready())
    )
    assert mine < 0.1 * min(last, line)
    assert mine / 3 < model.training_error_ < 3 * mine  # in the weights' own units


def test_each_tensor_is_measured_by_its_own_scale() -> None:
    """Weights of two tensors that do the same, one a thousand times larger."""
    X, y = roots(3000, seed=0)
    factor = np.where(np.arange(3000) % 2, 1000.0, 1.0).astype(np.float32)
    X, y = X * factor[:, None], y * factor
    X = np.column_stack([X, 0.1 * factor])
    model = Introspection(
        scaling="tensor", target="change", context=(1, 0.7, 0.4, 0, "scale"), steps=2500,
        learning_rate=2e-3, batch_size=100,
    ).fit(X, y)  # fmt: skip
    relative = np.abs(model.predict(X) - y) / factor
    last = np.abs(X[:, 0] - y) / factor
    for tensor in (0, 1):
        assert relative[tensor::2].mean() < 0.5 * last[tensor::2].mean()


def learned(model: Any) -> tuple[Any, ...]:
    tensors = {name: tensor.numpy().tobytes() for name, tensor in model.tensors().items()}
    return tensors, model.curve_, model.training_error_, model.steps_


@EVERY
def test_the_random_state_decides(kind: Any) -> None:
    X, y = roots(200, seed=0)
    a, b, c = (learned(kind(steps=30, random_state=s).fit(X, y)) for s in (1, 1, 2))
    assert a == b
    assert a != c
    assert a == learned(kind(steps=30, random_state=np.random.RandomState(1)).fit(X, y))


def test_the_random_state_decides_the_initial_weights_too() -> None:
    """At a rate of next to nothing they are what is left."""
    X, y = roots(200, seed=0)
    a, b = (Introspection(steps=1, learning_rate=1e-30, random_state=s).fit(X, y) for s in (1, 2))
    assert not np.array_equal(a.hidden_weight_, b.hidden_weight_)


def test_fitting_again_starts_afresh() -> None:
    X, y = roots(200, seed=0)
    model = Introspection(steps=30)
    first = learned(model.fit(X, y))
    model.fit(X[::-1], y)
    assert learned(model.fit(X, y)) == first


def test_the_learning_rate_decays_every_so_many_steps() -> None:
    """A rate that decays to nothing right after step 10 leaves the network of ten steps."""
    X, y = roots(200, seed=0)
    short = Introspection(steps=10).fit(X, y)
    stopped = Introspection(steps=25, decay_every=10, decay=0.0).fit(X, y)
    assert stopped.predict(X).tobytes() == short.predict(X).tobytes()
    assert not np.array_equal(Introspection(steps=25).fit(X, y).predict(X), stopped.predict(X))


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(0, 49), min_size=1, max_size=30))
def test_fitting_on_rows_is_fitting_on_a_copy_of_them(rows: list[int]) -> None:
    X, y = roots(50, seed=0)
    chosen = np.array(rows)
    in_place = Introspection(steps=6).fit(X, y, rows=chosen)
    assert learned(in_place) == learned(Introspection(steps=6).fit(X[chosen], y[chosen]))


def test_batches_do_not_depend_on_how_many_are_gathered_at_once() -> None:
    """The curve's points cut the stretches; the weights are the same."""
    X, y = roots(50, seed=0)
    one = WNN(steps=60, validate_every=7).fit(X, y)
    other = WNN(steps=60).fit(X, y)
    assert learned(one)[0] == learned(other)[0]
    assert one.training_error_ == other.training_error_


def test_memory_mapped_samples_are_read_in_place(tmp_path: Path) -> None:
    """Read-only, without a copy of the file and without a warning."""
    X, y = roots(300, seed=0)
    X.tofile(tmp_path / "X")
    y.tofile(tmp_path / "y")
    mapped_X = np.memmap(tmp_path / "X", dtype=np.float32, mode="r", shape=X.shape)
    mapped_y = np.memmap(tmp_path / "y", dtype=np.float32, mode="r", shape=y.shape)
    half = np.arange(150)
    options = {"rows": half, "validation_rows": half + 150}
    mapped = Introspection(steps=20).fit(mapped_X, mapped_y, **options)
    assert learned(mapped) == learned(Introspection(steps=20).fit(X, y, **options))


def global_state() -> tuple[Any, ...]:
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()  # noqa: NPY002


@EVERY
def test_fitting_disturbs_no_global_state(kind: Any) -> None:
    X, y = roots(50, seed=0)
    before, threads = global_state(), torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        kind(steps=5).fit(X, y).predict(X)
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


def another_device() -> Any:
    return torch.device("meta")


@EVERY
@pytest.mark.parametrize(
    "state",
    [torch.no_grad, torch.inference_mode, half_precision, float64_by_default, another_device],
)
def test_global_state_disturbs_no_fitting(kind: Any, state: Any, tmp_path: Path) -> None:
    X, y = roots(50, seed=0)
    options = {"validation_rows": np.arange(9), "checkpoint": tmp_path / "state"}
    expected = learned(kind(steps=5).fit(X, y, **options))
    with state():
        resumed = kind(steps=5).fit(X, y, **options)
        options["checkpoint"].unlink()
        found = kind(steps=5).fit(X, y, **options)
    assert learned(resumed) == learned(found) == expected


# ---- the curve, and when to stop


def test_progress_counts_up_to_the_steps() -> None:
    X, y = roots(50, seed=0)
    calls: list[tuple[str, int, int]] = []
    Introspection(steps=1100, batch_size=1).fit(X, y, progress=lambda *call: calls.append(call))
    assert {(what, total) for what, _, total in calls} == {("fit", 1100)}
    done = [done for _, done, _ in calls]
    assert done == sorted(set(done))
    assert done[-1] == 1100


@EVERY
def test_the_curve_is_of_errors_in_the_weights_own_units(kind: Any) -> None:
    """At a rate of next to nothing, all points are of the network that is left."""
    X, y = roots(300, seed=0)
    rows, held = np.arange(200), np.arange(200, 300)
    frozen = kind(steps=500, batch_size=100, learning_rate=1e-30, validate_every=200)
    frozen.fit(X, y, rows=rows, validation_rows=held)
    assert [step for step, *_ in frozen.curve_] == [200, 400, 500]
    for _, training, validation in frozen.curve_:
        assert validation == pytest.approx(mean_error(frozen, X[held], y[held]), rel=1e-5)
        assert training == pytest.approx(mean_error(frozen, X[rows], y[rows]), rel=0.05)
    alone = clone(frozen).fit(X, y, rows=rows)
    assert [(s, t, None) for s, t, _ in frozen.curve_] == alone.curve_


def test_a_point_has_the_training_error_since_the_point_before() -> None:
    X, y = roots(100, seed=0)
    model = Introspection(steps=90, validate_every=30).fit(X, y)
    shorter = [Introspection(steps=s, validate_every=s).fit(X, y).curve_[0][1] for s in (30, 60)]
    assert model.curve_[0][1] == shorter[0]
    assert model.curve_[1][1] == pytest.approx(2 * shorter[1] - shorter[0], rel=1e-5)


def opposed() -> dict[str, Any]:
    """Samples to learn from, and others on which that makes things worse in the end."""
    X, y = roots(400, seed=0)
    y[300:] = X[300:, 0] + 0.02
    return {"X": X, "y": y, "rows": np.arange(300), "validation_rows": np.arange(300, 400)}


@EVERY
@pytest.mark.parametrize("patience", [1, 3])
def test_patience_keeps_the_best_weights(kind: Any, patience: int) -> None:
    fitting = opposed()
    model = kind(steps=3000, learning_rate=1e-2, validate_every=10, patience=patience)
    if kind is not WNN:
        model.set_params(target="change", scale=100.0)
    model.fit(**fitting)
    errors = [validation for *_, validation in model.curve_]
    best = int(np.argmin(errors))
    assert len(errors) - 1 - best == patience
    assert model.steps_ == 10 * len(errors) < 3000
    held = fitting["validation_rows"]
    found = mean_error(model, fitting["X"][held], fitting["y"][held])
    assert found == pytest.approx(errors[best], rel=1e-5)
    assert found < errors[-1]
    upto = clone(model).set_params(steps=10 * (best + 1), patience=None).fit(**fitting)
    assert learned(upto)[0] == learned(model)[0]


def test_patience_without_anything_to_validate_on_is_refused() -> None:
    X, y = roots(50, seed=0)
    for held in (None, np.arange(0)):
        with refuses(UsageError, "validation_rows"):
            Introspection(steps=3, patience=1).fit(X, y, validation_rows=held)


# ---- bad input


@EVERY
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
        {"decay": 1.5},
        {"validate_every": 0},
        {"patience": 0},
        {"scaling": "none"},
    ],
    ids=lambda options: str(options)[:30],
)
def test_options_that_cannot_train_are_refused(kind: Any, options: dict[str, Any]) -> None:
    X, y = roots(50, seed=0)
    with refuses(UsageError, next(iter(options)), next(iter(options.values()))):
        kind(**{"steps": 3} | options).fit(X, y)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target": "more"}, ["target", "more"]),
        ({"scaling": "weight"}, ["weight", "change"]),
        ({"scaling": "tensor"}, ["tensor", "with scale among"]),
        ({"target": "change", "context": ("t-25", "t-50", "t-75", "t-99")}, ["change", "add 1"]),
        (
            {"target": "change", "scaling": "weight", "context": (1, "step", "ahead", "ratio")},
            ["weight", "past value"],
        ),
    ],
    ids=str,
)
def test_a_scaling_without_its_column_is_refused(options: dict[str, Any], words: Any) -> None:
    X, y = roots(50, seed=0)
    with refuses(UsageError, *words):
        Introspection(steps=3, **options).fit(X, y)


def test_a_wnn_without_a_difference_is_refused() -> None:
    with refuses(UsageError, "two past values", "ahead"):
        WNN(steps=3, context=(1.0, "ahead")).fit(np.zeros((9, 2)), np.zeros(9))


def test_what_cannot_be_learned_from_is_refused() -> None:
    X, y = roots(50, seed=0)
    with refuses(UsageError, "rows"):
        Introspection(steps=3).fit(X, y, rows=np.arange(0))
    with refuses(ShapeError, "3 columns"):
        Introspection(steps=3, context=(1, 0.7, 0.4, 0)).fit(X[:, :3], y)
    with pytest.raises(TypeError, match="weights"):
        Introspection(steps=3).fit(X, y, weights=y)


@EVERY
def test_training_that_diverges_is_refused(kind: Any) -> None:
    """Else the forecaster would be saved into a file that cannot be loaded."""
    X, y = roots(50, seed=0)
    with refuses(UsageError, "learning_rate"):
        kind(steps=50, learning_rate=1e30).fit(X, y)


@EVERY
def test_tensors_that_do_not_fit_are_refused(kind: Any) -> None:
    X, y = roots(50, seed=0)
    model = kind(steps=5, hidden=3).fit(X, y)
    good = model.tensors()
    other = kind(steps=5, hidden=3, random_state=9).fit(X, y)
    other.load_tensors(good)
    assert other.predict(X).tobytes() == model.predict(X).tobytes()
    for name, tensor in good.items():
        for bad in (tensor.double(), tensor[..., None], torch.full_like(tensor, math.nan)):
            with refuses(FormatError, name):
                other.load_tensors(good | {name: bad})
        with refuses(FormatError, name):
            other.load_tensors({n: t for n, t in good.items() if n != name})
    with refuses(FormatError, "more"):
        other.load_tensors(good | {"more": torch.zeros(1)})


# ---- going on from a state on disk


def interrupting(after: int) -> Any:
    """A progress that is interrupted, as by Ctrl-C, when so many stretches are done."""
    calls = iter(range(after + 1))

    def progress(*call: Any) -> None:
        if next(calls, after) == after:
            raise KeyboardInterrupt

    return progress


RESUMED = [
    Introspection(steps=60, validate_every=7),
    Introspection(steps=200, validate_every=5, patience=2, scaling="weight", target="change"),
    LinearIntrospection(steps=60, validate_every=7, batch_size=3, decay_every=20),
    WNN(steps=60, validate_every=7, patience=4, learning_rate=1e-2),
]


@pytest.mark.parametrize("model", RESUMED, ids=repr)
@settings(max_examples=8, deadline=None)
@given(stops=st.lists(st.integers(0, 8), max_size=4), seed=st.integers(0, 3))
def test_a_resumed_training_is_the_uninterrupted_one(
    model: Any, stops: list[int], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("resume") / "deep" / "state"
    fitting = opposed()
    whole = clone(model).set_params(random_state=seed).fit(**fitting)
    taken = 0
    for stop in stops:
        with suppress(KeyboardInterrupt):
            clone(whole).fit(**fitting, checkpoint=path, progress=interrupting(stop))
        with safe_open(path, framework="pt") as file:
            step = json.loads(file.metadata()["weightcast-training"])["step"]
        assert step == whole.steps_ or step > taken
        taken = step
    done: list[int] = []
    resumed = clone(whole).fit(
        **fitting, checkpoint=path, progress=lambda what, step, steps: done.append(step)
    )
    assert learned(resumed) == learned(whole)
    assert all(step > taken for step in done)  # no step was taken twice
    again: list[Any] = []
    complete = clone(whole).fit(**fitting, checkpoint=path, progress=lambda *c: again.append(c))
    assert learned(complete) == learned(whole)
    assert not again


def test_a_training_that_is_interrupted_inside_of_a_step_goes_on(tmp_path: Path) -> None:
    """By a signal at any moment, so that some step is half done."""
    fitting, delays = opposed(), random.Random(0)
    model = WNN(steps=1500, validate_every=20, patience=1000)
    whole, attempts = learned(clone(model).fit(**fitting)), 0
    threads = torch.get_num_threads()
    kept = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        while attempts < 200:
            attempts += 1
            with suppress(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, delays.uniform(0.01, 0.2 + 0.01 * attempts))
                model.fit(**fitting, checkpoint=tmp_path / "state")
                signal.setitimer(signal.ITIMER_REAL, 0)
                break
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, kept)
        torch.set_num_threads(threads)
    model.fit(**fitting, checkpoint=tmp_path / "state")
    assert attempts > 1
    assert learned(model) == whole
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


OTHERS = {
    "hidden": {"hidden": 6},
    "steps": {"steps": 61},
    "learning_rate": {"learning_rate": 1e-3},
    "target": {"target": "change"},
    "horizon": {"horizon": "+500"},
    "context": {"context": (1.0, 0.6, 0.4, 0.0)},
    "patience": {"patience": 5},
    "seed": {"random_state": 1},
}


@pytest.mark.parametrize("name", [*OTHERS, "model", "samples", "rows", "validation samples"])
def test_a_state_of_another_training_is_refused(name: str, tmp_path: Path) -> None:
    """And stays as it is, so that the training it is of can still go on."""
    fitting, path = opposed(), tmp_path / "state"
    model = Introspection(hidden=5, steps=60, validate_every=7)
    with suppress(KeyboardInterrupt):
        model.fit(**fitting, checkpoint=path, progress=interrupting(2))
    kept = path.read_bytes()
    other = clone(model).set_params(**OTHERS.get(name, {}))
    if name == "model":
        other = LinearIntrospection(hidden=5, steps=60, validate_every=7)
    elif name == "samples":
        fitting = fitting | {"y": fitting["y"] + np.float32(1e-6)}
    elif name == "rows":
        fitting, name = fitting | {"rows": np.arange(299)}, "samples"
    elif name == "validation samples":
        fitting = fitting | {"validation_rows": None}
    with refuses(UsageError, f"{path} is the state of another", f"{name} was", "remove it"):
        other.fit(**fitting, checkpoint=path)
    assert path.read_bytes() == kept


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good state, after 21 of 60 steps."""
    path = tmp_path_factory.mktemp("state") / "state"
    with suppress(KeyboardInterrupt):
        RESUMED[0].fit(**opposed(), checkpoint=path, progress=interrupting(2))
    return path


def resume(path: Path) -> Any:
    return clone(RESUMED[0]).fit(**opposed(), checkpoint=path)


@settings(max_examples=60, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_no_byte_of_a_state_can_change_unnoticed(state: Path, place: float, flip: int) -> None:
    data = bytearray(state.read_bytes())
    data[int(place * len(data))] ^= flip
    damaged = state.with_name("damaged")
    damaged.write_bytes(data)
    try:
        found = learned(resume(damaged))
    except (FormatError, UsageError):  # UsageError: what it is of reads otherwise now
        return
    assert found == learned(resume(state.with_name("none")))


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_a_truncated_state_is_refused(state: Path, keep: int) -> None:
    damaged = state.with_name("truncated")
    damaged.write_bytes(state.read_bytes()[:keep])
    with refuses(FormatError, damaged, "remove it"):
        resume(damaged)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", 2),
        ("step", 10**18),
        ("step", -1),
        ("step", 14),
        ("step", 21.0),
        ("step", True),
        ("about", []),
        ("about", None),
        ("digest", "0" * 64),
    ],
)
def test_a_hostile_header_is_refused(state: Path, key: str, value: Any) -> None:
    rewritten = state.with_name("hostile")
    with safe_open(state, framework="pt") as file:
        header = json.loads(file.metadata()["weightcast-training"])
    text = json.dumps(header | {key: value})
    save_file(load_file(state), rewritten, metadata={"weightcast-training": text})
    with refuses(FormatError, rewritten):
        resume(rewritten)


def test_other_files_are_no_states(state: Path) -> None:
    foreign = state.with_name("foreign")
    huge = json.dumps({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}})
    nested = "[" * 100_000
    foreign.mkdir()
    for kind in ("folder", "text", "forecaster", "huge", "nested"):
        if kind == "text":
            foreign.rmdir()
            foreign.write_text("not a state")
        elif kind == "forecaster":
            save_file({"a": torch.zeros(1)}, foreign, metadata={"weightcast": "{}"})
        elif kind == "huge":
            foreign.write_bytes(len(huge).to_bytes(8, "little") + huge.encode())
        elif kind == "nested":
            save_file({"a": torch.zeros(1)}, foreign, metadata={"weightcast-training": nested})
        with refuses(FormatError, foreign):
            resume(foreign)
    with refuses(UsageError, "local"):
        resume("s3://bucket/state")  # type: ignore[arg-type]


# ---- as scikit-learn's estimators are used


@EVERY
def test_joblib_brings_a_network_back(kind: Any, tmp_path: Path) -> None:
    X, y = roots(50, seed=0)
    model = kind(steps=5).fit(X, y)
    joblib.dump(model, tmp_path / "model")
    back = joblib.load(tmp_path / "model")
    assert learned(back) == learned(model)
    assert back.predict(X).tobytes() == model.predict(X).tobytes()


@EVERY
def test_a_grid_search_finds_the_rate_that_learns(kind: Any) -> None:
    X, y = roots(300, seed=0)
    model = kind(steps=150, batch_size=50, horizon="+500")
    search = GridSearchCV(model, {"learning_rate": [1e-30, 5e-3]}, cv=2).fit(X, y)
    assert search.best_params_ == {"learning_rate": 5e-3}
    assert clone(search.best_estimator_).get_params() == search.best_estimator_.get_params()
