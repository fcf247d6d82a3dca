"""Datasets of several histories: each with strata, draws and a share of the samples of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_cases import (
    assert_reference,
    build,
    build_counting,
    finite_histories,
    models,
    recipes,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from store_reference import (
    Recorded,
    files,
    left_in,
    reference_dataset,
    reference_held_out,
    refuses,
    same_bits,
    vector,
    wandering,
)

from weightcast.store import (
    Dataset,
    History,
    ParameterTable,
    Recipe,
    SamplingError,
    ShapeError,
    UsageError,
    WeightcastError,
    WeightcastWarning,
    build_dataset,
    plan_sampling,
)


def write_all(folder: Path, histories: Sequence[Recorded], **kwargs: Any) -> list[Path]:
    """Each in a file of its own, 0.zarr and so on."""
    return [h.write(folder / f"{i}.zarr", **kwargs) for i, h in enumerate(histories)]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_dataset_of_several_runs_is_that_of_the_reference(data: st.DataObject) -> None:
    table = data.draw(models())
    histories = data.draw(st.lists(finite_histories(table), min_size=2, max_size=3))
    recipe = data.draw(recipes(histories))
    block, width = data.draw(st.integers(3, 9)), data.draw(st.integers(3, 6))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = write_all(folder, histories, block=block, width=width)
        if reference_dataset(histories, recipe):
            dataset, warned = build_counting(paths, folder / "data.zarr", recipe)
            drawn = assert_reference(dataset, histories, recipe)
            assert warned == sum(one.given != one.wanted for one in drawn)
            assert dataset.source == ", ".join(str(path) for path in paths)
        else:
            with refuses(WeightcastError):
                build(paths, folder / "data.zarr", recipe)
            assert left_in(folder) == [path.name for path in paths]


# ---- three runs, of different lengths, speeds and dtypes


@pytest.fixture(scope="module")
def three() -> list[Recorded]:
    table = ParameterTable.of(
        [
            ("a.weight", (3, 4), "float32", "weight"),
            ("a.bias", (3,), "float32", "bias"),
            ("b.weight", (8,), "float32", "weight"),
        ]
    )
    walks = [wandering(23, 30, 1), wandering(23, 60, 2, np.float64), wandering(23, 45, 3)]
    fast = [1, 1, 1000]
    return [
        Recorded(table, walk.steps, (walk.weights * k).astype(walk.weights.dtype))
        for walk, k in zip(walks, fast, strict=True)
    ]


RECIPE = Recipe(150, run_shares=(1.0, 2.0, 2.0), validation=0.3)


@pytest.fixture(scope="module")
def built(three: list[Recorded], tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("three")
    return build(write_all(folder, three), folder / "data.zarr", RECIPE)


def test_the_reference_of_three_runs(built: Dataset, three: list[Recorded]) -> None:
    assert_reference(built, three, RECIPE)


def test_shares_of_the_runs_are_kept_exactly(built: Dataset) -> None:
    """A run whose weights move 1000 times as far gets no sample more, and its own strata."""
    assert np.bincount(built.run).tolist() == [30, 60, 60]
    for run, strata in enumerate([(15, 8, 7), (30, 15, 15), (30, 15, 15)]):
        assert tuple(np.bincount(built.stratum[built.run == run])) == strata
        assert built.origins[run].samples == strata


def test_rows_are_ordered_by_run_then_weight(built: Dataset) -> None:
    keys = list(zip(built.run.tolist(), built.parameter.tolist(), strict=True))
    assert keys == sorted(keys)


@pytest.mark.parametrize(
    ("samples", "shares", "expected"),
    [
        (10, (), [4, 3, 3]),
        (10, (1, 1, 2), [3, 2, 5]),
        (11, (0.2, 0.2, 0.2), [4, 4, 3]),
        (100, (98, 1, 1), [98, 1, 1]),
    ],
)
def test_shares_are_rounded_by_largest_remainders(
    tmp_path: Path, three: list[Recorded], samples: int, shares: Any, expected: list[int]
) -> None:
    paths = [History(path) for path in write_all(tmp_path, three)]
    plan = plan_sampling(paths, Recipe(samples, run_shares=shares))
    assert [sum(source.quota.counts) for source in plan.sources] == expected
    assert plan.samples == samples


def test_runs_draw_apart_from_each_other(tmp_path: Path) -> None:
    """The same history twice gives other steps and other samples, of the same strata."""
    walk = wandering(200, 60)
    paths = write_all(tmp_path, [walk, walk])
    data = build_dataset(paths, tmp_path / "data.zarr", 200, scheduler="synchronous")
    pairs = [
        set(zip(data.parameter[rows].tolist(), data.step[rows].tolist(), strict=True))
        for rows in (data.run == 0, data.run == 1)
    ]
    # 100 of 200 x 29 pairs each
    assert len(pairs[0] & pairs[1]) < 15
    assert pairs[0] != pairs[1]


def test_a_run_alone_is_that_of_the_first_place(tmp_path: Path, three: list[Recorded]) -> None:
    """What a run gives does not depend on the others, only on its place and its share."""
    paths = write_all(tmp_path, three)
    alone = build(paths[0], tmp_path / "alone.zarr", Recipe(30))
    many = build(paths, tmp_path / "many.zarr", Recipe(90))
    rows = many.run == 0
    assert np.array_equal(alone.X, many.X[rows])
    assert np.array_equal(alone.step, many.step[rows])


def test_mixed_dtypes_lose_nothing(built: Dataset, three: list[Recorded]) -> None:
    assert built.X.dtype == built.y.dtype == built.variation.dtype == np.float64
    for run, recorded in enumerate(three):
        rows = built.run == run
        t, weight = built.step[rows], built.parameter[rows]
        assert np.array_equal(built.X[rows, 0], recorded.weights[t, weight])


def test_each_origin_says_which_history_it_was(tmp_path: Path, three: list[Recorded]) -> None:
    paths = write_all(tmp_path, three)
    again = three[0].write(tmp_path / "again.zarr", block=7, width=5)
    longer = Recorded(three[0].table, list(range(0, 60, 2)), three[0].weights)
    other = longer.write(tmp_path / "other.zarr")
    recipe = {"samples": 4, "context": (1.0, 0.0), "scheduler": "synchronous"}
    a, b, c = (
        build_dataset([path, paths[2]], tmp_path / f"data{i}.zarr", **recipe).origins
        for i, path in enumerate([paths[0], again, other])
    )
    assert [origin.path for origin in a] == [str(paths[0]), str(paths[2])]
    assert a[0].digest == b[0].digest != c[0].digest
    assert a[1] == b[1] == c[1]
    assert a[0].digest != a[1].digest
    assert [len(origin.digest) for origin in a] == [64, 64]


# ---- the same bytes, however it is built


@pytest.mark.parametrize(("scheduler", "workers"), [("threads", 2), ("processes", 2)])
@pytest.mark.parametrize(("block", "width"), [(7, 4)])
def test_chunks_and_schedulers_do_not_change_a_byte(
    tmp_path: Path,
    three: list[Recorded],
    built: Dataset,
    scheduler: str,
    workers: int,
    block: int,
    width: int,
) -> None:
    paths = write_all(tmp_path, three, block=block, width=width)
    path = tmp_path / "data.zarr"
    build(paths, path, RECIPE, scheduler=scheduler, workers=workers)
    assert files(path) == files(built.path)
    assert left_in(path) == left_in(built.path)


# ---- validation


def sides(dataset: Dataset) -> tuple[Any, Any]:
    training, validation = dataset.training_rows, dataset.validation_rows
    assert sorted([*training.tolist(), *validation.tolist()]) == list(range(len(dataset)))
    assert dataset.validation[validation].all()
    return training, validation


def test_no_weight_is_on_both_sides(built: Dataset, three: list[Recorded]) -> None:
    """Nor the same weight of two runs."""
    training, validation = sides(built)
    weights = [set(built.parameter[rows].tolist()) for rows in (training, validation)]
    assert weights[0]
    assert weights[1]
    assert not weights[0] & weights[1]
    expected = {w for w in range(23) if reference_held_out(RECIPE, 0, 3, w)}
    assert weights[1] <= expected
    assert same_bits(built.split(0.3)[1], built.validation_rows)


def test_about_the_share_of_the_weights_is_held_out(tmp_path: Path) -> None:
    history = wandering(3000, 5).write(tmp_path / "run.zarr", block=5)
    recipe = Recipe(3000, context=(1.0, 0.0), validation=0.2)
    _, validation = sides(build(history, tmp_path / "data.zarr", recipe))
    assert abs(len(validation) - 600) < 5 * np.sqrt(3000 * 0.2 * 0.8)


@pytest.mark.parametrize(("share", "held"), [(0.0, 0), (0.01, 1), (0.4, 2), (0.5, 2), (0.99, 3)])
def test_whole_runs_are_held_out(tmp_path: Path, share: float, held: int) -> None:
    """Of four; one at least, and one at least is trained on."""
    paths = write_all(tmp_path, [wandering(5, 20, seed) for seed in range(4)])
    recipe = Recipe(40, validation=share, validation_by="run", seed=4)
    dataset = build(paths, tmp_path / "data.zarr", recipe)
    training, validation = (set(dataset.run[rows].tolist()) for rows in sides(dataset))
    assert len(validation) == held
    assert validation == {run for run in range(4) if reference_held_out(recipe, run, 4, 0)}
    assert training | validation == {0, 1, 2, 3}
    assert not training & validation


def test_validation_by_run_needs_two(tmp_path: Path) -> None:
    paths = write_all(tmp_path, [wandering(5, 20)])
    with refuses(UsageError, "validation by run", "two histories", "got 1"):
        build(paths, tmp_path / "data.zarr", Recipe(9, validation=0.5, validation_by="run"))
    assert left_in(tmp_path) == ["0.zarr"]


# ---- which weights


@pytest.mark.parametrize(
    ("globs", "expected"),
    [
        ({"include": ("a.*",)}, range(15)),
        ({"include": ("a.*",), "exclude": ("*.weight",)}, range(12, 15)),
        ({"exclude": ("a.bias",)}, [*range(12), *range(15, 23)]),
        ({"include": ("b.weight", "a.bias")}, range(12, 23)),
    ],
)
def test_only_selected_weights_are_sampled(
    tmp_path: Path, three: list[Recorded], globs: Any, expected: Any
) -> None:
    poisoned = Recorded(three[0].table, three[0].steps, three[0].weights.copy())
    poisoned.weights[:, [w for w in range(23) if w not in expected]] = np.nan
    history = poisoned.write(tmp_path / "run.zarr", width=4)
    dataset = build(history, tmp_path / "data.zarr", Recipe(33, draws=12, **globs))
    assert set(dataset.parameter.tolist()) <= set(expected)
    assert dataset.origins[0].candidates == (6 * len(expected), *([3 * len(expected)] * 2))
    # the same candidates as of a history that was never poisoned
    whole = three[0].write(tmp_path / "whole.zarr")
    build(whole, tmp_path / "same.zarr", Recipe(33, draws=12, **globs))
    assert files(tmp_path / "data.zarr") == files(tmp_path / "same.zarr")


def test_globs_that_select_nothing_are_named(tmp_path: Path, three: list[Recorded]) -> None:
    paths = write_all(tmp_path, three)
    with refuses(UsageError, "['fc.*']", "['b*']", paths[0], "weightcast info"):
        build(paths, tmp_path / "data.zarr", Recipe(30, include=("fc.*",), exclude=("b*",)))


# ---- several steps a weight, and too few of them


def test_draws_are_as_many_as_told(tmp_path: Path) -> None:
    history = wandering(10, 40).write(tmp_path / "run.zarr")
    dataset = build(
        history, tmp_path / "data.zarr", Recipe(70, draws=7, edges=(0.0, 1.0), shares=(1.0,))
    )
    assert np.bincount(dataset.parameter).tolist() == [7] * 10
    assert dataset.origins[0].draws == 7
    with refuses(SamplingError, history, "7 draws", "at most 70"):
        build(history, tmp_path / "more.zarr", Recipe(71, draws=7, edges=(0.0, 1.0), shares=(1.0,)))
    with refuses(SamplingError, history, "18 steps t", "more than the 17"):
        build(history, tmp_path / "more.zarr", Recipe(71, draws=18))
    assert left_in(tmp_path) == ["data.zarr", "run.zarr"]


@pytest.mark.parametrize("draws", [None, 3])
def test_a_shortfall_is_reported_and_recorded(tmp_path: Path, draws: int | None) -> None:
    paths = write_all(tmp_path, [wandering(4, 60), wandering(4, 20)])
    choices = [27, 7]  # t from 3 to 29, and to 9
    recipe = Recipe(200, draws=draws, shortfall="fewer")
    expected = []
    for m in choices:
        candidates = 4 * (draws or m)
        sizes = np.diff([round(edge * candidates) for edge in recipe.edges])
        expected.append(tuple(int(min(pair)) for pair in zip((50, 25, 25), sizes, strict=True)))
    with pytest.warns(WeightcastWarning, match="too few candidates") as caught:
        dataset = build(paths, tmp_path / "data.zarr", recipe)
    short = [pair for pair in zip(paths, expected, strict=True) if sum(pair[1]) < 100]
    assert len(caught) == len(short)
    for warning, (path, counts) in zip(caught, short, strict=True):
        for word in (path, list(counts), [50, 25, 25]):
            assert str(word) in str(warning.message)
    assert [origin.samples for origin in dataset.origins] == expected
    assert [origin.wanted for origin in dataset.origins] == [(50, 25, 25)] * 2
    assert len(dataset) == sum(map(sum, expected))
    assert Dataset(tmp_path / "data.zarr").origins == dataset.origins


def test_fewer_is_no_excuse_for_none(tmp_path: Path) -> None:
    """One candidate, all of whose samples should come from a stratum that has none."""
    history = wandering(1, 3).write(tmp_path / "run.zarr")
    options = {"context": (1.0, 0.0), "edges": (0.0, 0.5, 1.0), "shares": (1.0, 0.0)}
    with refuses(SamplingError, history):
        build(history, tmp_path / "data.zarr", Recipe(5, shortfall="fewer", **options))
    assert left_in(tmp_path) == ["run.zarr"]


# ---- refusals


def test_a_history_without_a_sample_is_refused(tmp_path: Path, three: list[Recorded]) -> None:
    paths = write_all(tmp_path, three)
    for samples, shares, name in ((2, (), "2.zarr"), (50, (1, 0, 1), "1.zarr")):
        with refuses(UsageError, f"{samples} samples", tmp_path / name):
            build(paths, tmp_path / "data.zarr", Recipe(samples, run_shares=shares))


@pytest.mark.parametrize("shares", [(1.0,), (1.0, 1.0), (1.0,) * 4])
def test_as_many_shares_as_histories(
    tmp_path: Path, three: list[Recorded], shares: tuple[float, ...]
) -> None:
    paths = write_all(tmp_path, three)
    with refuses(UsageError, "run_shares", f"got {len(shares)} for 3"):
        build(paths, tmp_path / "data.zarr", Recipe(30, run_shares=shares))


def test_no_history_at_all(tmp_path: Path) -> None:
    with refuses(UsageError, "at least one history"):
        build_dataset([], tmp_path / "data.zarr", 10)


def test_a_history_given_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = write_all(tmp_path, [wandering(5, 20)])
    monkeypatch.chdir(tmp_path)
    for again in (path, "0.zarr", f"../{tmp_path.name}/0.zarr"):
        with refuses(UsageError, "twice", again):
            build_dataset([path, again], tmp_path / "data.zarr", 10)


def test_the_history_that_is_too_short_is_named(tmp_path: Path) -> None:
    paths = write_all(tmp_path, [wandering(5, 20), wandering(5, 2), wandering(5, 20)])
    with refuses(SamplingError, paths[1], "too short"):
        build_dataset(paths, tmp_path / "data.zarr", 10)
    paths = write_all(tmp_path / "b", [wandering(5, 20), wandering(5, 8), wandering(5, 20)])
    with refuses(SamplingError, paths[1], "at most"):
        build_dataset(paths, tmp_path / "data.zarr", 90)
    assert left_in(tmp_path) == ["0.zarr", "1.zarr", "2.zarr", "b"]


def test_a_dataset_replaces_none_of_its_histories(tmp_path: Path) -> None:
    paths = write_all(tmp_path, [wandering(5, 20), wandering(5, 20)])
    before = files(tmp_path)
    with refuses(WeightcastError, paths[1]):
        build_dataset(paths, paths[1], 10, overwrite=True)
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ([("w", (5,))], ("'w'", "(4,)", "(5,)")),
        ([("w", (2, 2))], ("'w'", "(4,)", "(2, 2)")),
        ([("v", (4,))], ("'v'", "None", "(4,)")),
        ([("w", (4,)), ("z", (1,))], ("'z'", "None", "(1,)")),
    ],
)
def test_models_that_differ_are_mixed_only_when_told(
    tmp_path: Path, other: Any, told: tuple[str, ...]
) -> None:
    table = ParameterTable.of((name, shape, "float32", "weight") for name, shape in other)
    walks = [wandering(4, 20, 1), wandering(table.size, 30, 2)]
    histories = [
        Recorded(table, walk.steps, walk.weights)
        for table, walk in zip((vector(4), table), walks, strict=True)
    ]
    paths = write_all(tmp_path, histories)
    with refuses(ShapeError, *told, *paths, "--different-models"):
        build_dataset(paths, tmp_path / "data.zarr", 10)
    recipe = Recipe(20, validation=0.4, different_models=True)
    dataset = build(paths, tmp_path / "data.zarr", recipe)
    assert_reference(dataset, histories, recipe)


def test_the_reference_can_fail(three: list[Recorded]) -> None:
    """It tells runs, shares and seeds apart: equal datasets mean something."""
    base = reference_dataset(three, RECIPE)
    for histories, recipe in (
        (three[::-1], RECIPE),
        (three, Recipe(150, validation=0.3)),
        (three, Recipe(150, run_shares=(1.0, 2.0, 2.0), validation=0.3, seed=1)),
    ):
        assert reference_dataset(histories, recipe) != base
