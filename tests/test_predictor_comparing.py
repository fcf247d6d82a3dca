"""Forecasters compared: the folds, the ranking, and what is left out."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_reference import refuses, wandering

from weightcast.predictor import Comparison, compare, make_forecaster
from weightcast.predictor.figures import save_comparison_figure
from weightcast.predictor.folds import Pooled
from weightcast.store import (
    Dataset,
    History,
    NonFiniteError,
    ShapeError,
    UsageError,
    build_dataset,
)

FAST = ("ridge", "quadratic-fit")


def runs(folder: Path, seeds: Sequence[int]) -> list[History]:
    """Histories of one model; those of one seed are the same run."""
    return [History(wandering(15, 40, s).write(folder / f"run-{s}.zarr")) for s in seeds]


def built(histories: Any, folder: Path, name: str = "d", samples: int = 120, **how: Any) -> Dataset:
    return build_dataset(
        histories, folder / f"{name}.zarr", samples, scheduler="synchronous", **how
    )


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Samples of three runs."""
    folder = tmp_path_factory.mktemp("three")
    return built(runs(folder, [0, 1, 2]), folder, samples=300)


# ---- folds


@settings(max_examples=10, deadline=None)
@given(st.integers(2, 9), st.integers(0, 2**64 - 1))
def test_no_run_is_on_both_sides(three: Dataset, folds: int, seed: int) -> None:
    parts = Pooled.of([three]).folds(folds, seed)
    assert len(parts) == min(folds, 3)
    for train, test in parts:
        assert not set(three.run[train]) & set(three.run[test])
        assert sorted([*train, *test]) == list(range(300))
    assert sorted(np.concatenate([test for _, test in parts])) == list(range(300))


def test_folds_follow_the_seed(three: Dataset) -> None:
    def tested(seed: int) -> list[int]:
        return [int(three.run[test[0]]) for _, test in Pooled.of([three]).folds(3, seed)]

    assert tested(1) == tested(1)
    assert len({tuple(tested(seed)) for seed in range(9)}) > 1


def test_a_run_of_two_datasets_is_one_run(tmp_path: Path) -> None:
    """Wherever its history stands now: what was drawn from it shows it."""
    a, b, c = runs(tmp_path, [0, 1, 2])
    shutil.copytree(a.path, tmp_path / "moved.zarr")
    first = built([a, b], tmp_path, "first")
    second = built([c, History(tmp_path / "moved.zarr")], tmp_path, "second", seed=1)
    pooled = Pooled.of([first, second])
    assert (pooled.runs, pooled.by) == (3, "run")
    origin = np.concatenate([first.run, 2 + second.run])  # a, b, c, a
    for train, test in pooled.folds(5, 0):
        sides = [set(np.where(origin[rows] == 3, 0, origin[rows])) for rows in (train, test)]
        assert not sides[0] & sides[1]


def test_runs_of_one_script_are_told_apart_by_their_values(tmp_path: Path) -> None:
    """Their digests are the same: that of the parameters and steps."""
    a, b = runs(tmp_path, [0, 1])
    first, second = built(a, tmp_path, "first"), built(b, tmp_path, "second")
    assert first.origins[0].digest == second.origins[0].digest
    assert Pooled.of([first, second]).runs == 2


def test_without_a_common_sample_the_path_tells(tmp_path: Path) -> None:
    (a,) = runs(tmp_path, [0])
    halves = [built(a, tmp_path, str(i), 20, t_min=t, t_max=t + 3) for i, t in enumerate([5, 10])]
    assert Pooled.of(halves).runs == 1


def test_a_single_run_is_divided_by_weight(tmp_path: Path) -> None:
    dataset = built(runs(tmp_path, [0])[0], tmp_path)
    pooled = Pooled.of([dataset])
    assert (pooled.runs, pooled.by) == (1, "weight")
    for train, test in pooled.folds(4, 0):
        assert not set(dataset.parameter[train]) & set(dataset.parameter[test])
        assert len(test) > 0


def test_one_group_cannot_be_divided(tmp_path: Path) -> None:
    one = History(wandering(1, 40).write(tmp_path / "one.zarr"))
    with refuses(UsageError, "two folds", "1 weights"):
        compare([built(one, tmp_path, samples=9)], FAST)


# ---- the comparison


def by_hand(dataset: Dataset, name: str, options: dict[str, Any], seed: int) -> list[float]:
    """Errors on the folds, a sample at a time."""
    recipe, found = dataset.recipe, []
    for train, test in Pooled.of([dataset]).folds(3, seed):
        how = {"context": recipe.context, "horizon": recipe.horizon, "seed": seed}
        model = make_forecaster(name, options, **how)
        model.fit(np.array(dataset.X[train]), np.array(dataset.y[train]))
        errors = [abs(float(model.predict(dataset.X[[r]])[0]) - float(dataset.y[r])) for r in test]
        found.append(sum(errors) / len(errors))
    return found


def test_errors_are_those_of_models_fitted_by_hand(three: Dataset) -> None:
    found = compare([three], FAST, options={"ridge": {"alpha": 3.0}}, folds=3, seed=4)
    still = by_hand(three, "last-value", {}, 4)
    for model in found.models:
        expected = by_hand(three, model.name, {"alpha": 3.0} if model.name == "ridge" else {}, 4)
        assert model.errors == pytest.approx(expected, rel=1e-4)
        assert model.error == pytest.approx(np.median(expected), rel=1e-4)
        skills = [1 - e / s for e, s in zip(expected, still, strict=True)]
        assert model.skills == pytest.approx(skills, abs=1e-4)
        assert model.seconds_to_fit >= 0
        assert model.seconds_per_million > 0
    assert [m.error for m in found.models] == sorted(m.error for m in found.models)
    assert {m.name for m in found.models} == {*FAST, "last-value", "linear-fit"}
    assert (found.folds, found.by, found.runs, found.samples) == (3, "run", 3, 300)
    assert found.left_out == {}


def test_what_the_columns_do_not_allow_is_left_out_with_its_reason(tmp_path: Path) -> None:
    dataset = built(runs(tmp_path, [0, 1]), tmp_path, context=("slope:4/2", "mean:4/2", "ahead"))
    options: dict[str, Any] = {
        name: {"steps": 2} for name in ("introspection", "linear-introspection")
    }
    found = compare([dataset], options=options | {"mlp": {"max_iter": 1, "target": "value"}})
    left = found.left_out
    assert {"last-value", "linear-fit", "quadratic-fit", "wnn", "ridge"} <= set(left)
    assert "weight at t" in left["last-value"]
    assert {"introspection", "mlp"} <= {m.name for m in found.models}
    assert all(m.skill is None for m in found.models)  # without w(t)
    with refuses(UsageError, "past values"):
        compare([dataset], ["linear-fit"])


def test_options_that_break_a_rule_are_refused(three: Dataset) -> None:
    calls: list[Any] = []
    with refuses(UsageError, "hidden", "-1"):
        compare(
            [three],
            [*FAST, "introspection"],
            options={"introspection": {"hidden": -1}},
            progress=lambda *call: calls.append(call),
        )
    assert not calls  # before any work
    with refuses(UsageError, "'rigde'", "'ridge'"):
        compare([three], ["rigde"])
    with refuses(UsageError, "'rigde'", "'ridge'"):
        compare([three], FAST, options={"rigde": {}})


def test_datasets_of_different_recipes_are_refused(tmp_path: Path) -> None:
    (a,) = runs(tmp_path, [0])
    plain = built(a, tmp_path, "plain")
    for name, how in {"context": {"context": (1.0, 0.5)}, "horizon": {"horizon": 1.5}}.items():
        with refuses(ShapeError, plain.path, f"{name}.zarr", "--context", "--horizon"):
            compare([plain, built(a, tmp_path, name, **how)], FAST)
    with refuses(UsageError, "got none"):
        compare([])


def test_samples_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    dataset = built(runs(tmp_path, [0]), tmp_path)
    values = np.array(dataset.y)
    values[7] = np.nan
    values.tofile(dataset.path / "y/c/0")
    with refuses(NonFiniteError, dataset.path, "y, row 7"):
        compare([Dataset(dataset.path)], FAST)


def test_a_comparison_is_plain_data_and_a_picture(three: Dataset, tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    found = compare([three], FAST, progress=lambda *call: calls.append(call))
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert [m["name"] for m in document["models"]] == [m.name for m in found.models]
    assert document["models"][0]["error"] == found.models[0].error
    assert calls[:3] == [("compare ridge", fold, 3) for fold in (1, 2, 3)]
    save_comparison_figure(found, tmp_path / "ranks.svg")
    text = (tmp_path / "ranks.svg").read_text()
    assert all(f"<!-- {m.name} -->" in text for m in found.models)


def test_an_infinite_error_is_last_and_null(three: Dataset) -> None:
    found = compare([three], FAST)
    worst = found.models[0].__class__("x", {}, (math.inf, math.inf), (), 0.0, 0.0)
    document = Comparison((worst,), {}, 2, "run", 2, 9).to_json()
    assert document["models"][0]["error"] is None
    assert document["models"][0]["skill"] is None
