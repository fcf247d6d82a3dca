"""Datasets: the samples of a slow reference, however the work is cut up and run."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from store_reference import (
    Recorded,
    files,
    reference_admissible,
    reference_dataset,
    refuses,
    same_bits,
    vector,
    wandering,
)

from weightcast.store import (
    Dataset,
    FormatError,
    History,
    InputNotFoundError,
    NonFiniteError,
    OutputExistsError,
    ParameterTable,
    Recipe,
    SamplingError,
    UsageError,
    build_dataset,
    open_stored,
    plan_sampling,
)
from weightcast.store.keyed import words


def assert_reference(dataset: Dataset, recorded: Recorded, recipe: Recipe) -> None:
    """Every array equals the slow reference, sample for sample and bit for bit."""
    expected = reference_dataset(recorded, recipe)
    assert expected is not None
    dtype = recorded.weights.dtype
    assert len(dataset) == recipe.samples == len(expected)
    assert dataset.recipe == recipe
    assert same_bits(dataset.X, np.array([s.x for s in expected], dtype))
    assert same_bits(dataset.y, np.array([s.y for s in expected], dtype))
    assert same_bits(dataset.parameter, np.array([s.parameter for s in expected]))
    assert same_bits(dataset.step, np.array([s.step for s in expected]))
    assert same_bits(dataset.stratum, np.array([s.stratum for s in expected], np.int8))
    assert same_bits(dataset.variation, np.array([s.variation for s in expected], dtype))


@st.composite
def finite_histories(draw: st.DrawFn) -> Recorded:
    """Histories of few values, so that variations tie; some weights never move."""
    size, rows = draw(st.integers(1, 12)), draw(st.integers(12, 30))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    kind = draw(st.sampled_from(["walk", "few values", "dead"]))
    if kind == "walk":
        weights = random.normal(size=(rows, size)).cumsum(axis=0)
    elif kind == "few values":
        weights = random.choice([-1.5, -0.0, 0.1], size=(rows, size))
    else:
        weights = np.tile(random.normal(size=size), (rows, 1))
    moving = random.random(size) < draw(st.sampled_from([0.3, 1.0]))
    weights = np.where(moving, weights, weights[0]).astype(dtype)
    stride = draw(st.sampled_from([1, 1, 3]))
    return Recorded(vector(size), list(range(0, rows * stride, stride)), weights)


@st.composite
def recipes(draw: st.DrawFn, recorded: Recorded) -> Recipe:
    """Recipes that mostly fit the history."""
    context, horizon, tolerance = draw(
        st.sampled_from(
            [
                ((1.0, 0.7, 0.4, 0.0), 2.0, 0.01),
                ((1.0, 0.7, 0.4, 0.0), 2.0, 0.3),
                ((1.0, 0.5), 1.5, 0.3),
                ((1.0,), 3.0, 0.0),
            ]
        )
    )
    cut = draw(
        st.sampled_from(
            [
                {},
                {"edges": (0.0, 1.0), "shares": (1.0,)},
                {"edges": (0.0, 0.2, 1.0), "shares": (0.0, 1.0)},
                {"edges": (0.0, 0.5, 1.0), "shares": (0.7, 0.3)},
            ]
        )
    )
    options = {"context": context, "horizon": horizon, "tolerance": tolerance, **cut}
    choices = len(reference_admissible(recorded.steps, Recipe(1, **options)))
    samples = draw(st.integers(1, max(1, recorded.table.size * choices // 2)))
    bound = draw(st.none() | st.just(recorded.steps[len(recorded.steps) // 3]))
    return Recipe(samples, seed=draw(st.integers(0, 2**64 - 1)), t_max=bound, **options)


def build(history: Path, path: Path, recipe: Recipe, **kwargs: Any) -> Dataset:
    options = {name: value for name, value in recipe.to_json().items() if name != "samples"}
    return build_dataset(
        history, path, recipe.samples, scheduler="synchronous", **options, **kwargs
    )


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_a_dataset_is_that_of_the_reference(data: st.DataObject) -> None:
    recorded = data.draw(finite_histories())
    recipe = data.draw(recipes(recorded))
    block, width = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 5))
    with tempfile.TemporaryDirectory() as folder:
        history = recorded.write(Path(folder) / "run.zarr", block=block, width=width)
        path = Path(folder) / "data.zarr"
        if reference_admissible(recorded.steps, recipe) and reference_dataset(recorded, recipe):
            assert_reference(build(history, path, recipe), recorded, recipe)
        else:
            with refuses(SamplingError):
                build(history, path, recipe)
            assert [p.name for p in Path(folder).iterdir()] == ["run.zarr"]


def test_a_table_of_several_tensors_is_sampled_as_one(tmp_path: Path) -> None:
    walk = wandering(9, 40)
    shapes = [("a", (2, 2)), ("empty", (0, 3)), ("s", ()), ("b", (4,))]
    table = ParameterTable.of((name, shape, "float32", "weight") for name, shape in shapes)
    recorded = Recorded(table, walk.steps, walk.weights)
    history = recorded.write(tmp_path / "run.zarr", width=2)
    recipe = Recipe(60)
    assert_reference(build(history, tmp_path / "data.zarr", recipe), recorded, recipe)


def test_values_are_those_of_the_history(tmp_path: Path) -> None:
    """What a sample says of itself can be looked up in the history."""
    recorded = wandering(20, 50)
    history = recorded.write(tmp_path / "run.zarr")
    dataset = build(history, tmp_path / "data.zarr", Recipe(200))
    weights = recorded.weights
    for row, (p, t) in enumerate(zip(dataset.parameter, dataset.step, strict=True)):
        x = [weights[round(t * 0.7 + 1e-9), p], weights[round(t * 0.4 + 1e-9), p], weights[0, p]]
        assert dataset.X[row].tolist() == [weights[t, p], *x]
        assert dataset.y[row] == weights[2 * t, p]
    pairs = set(zip(dataset.parameter.tolist(), dataset.step.tolist(), strict=True))
    assert len(pairs) == 200
    assert np.bincount(dataset.stratum).tolist() == [100, 50, 50]
    lowest = [dataset.variation[dataset.stratum == s].min() for s in (0, 1)]
    highest = [dataset.variation[dataset.stratum == s].max() for s in (1, 2)]
    assert all(low >= high for low, high in zip(lowest, highest, strict=True))
    assert (np.diff(dataset.parameter) >= 0).all()


# ---- the same bytes, however it is built


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recorded, dict[str, bytes]]:
    """A history half of whose weights are dead, its dataset's files from the simplest build."""
    folder = tmp_path_factory.mktemp("tied")
    walk = wandering(23, 60)
    weights = np.where(np.arange(23) % 2, walk.weights, walk.weights[0])
    recorded = Recorded(walk.table, walk.steps, weights)
    history = recorded.write(folder / "run.zarr")
    build_dataset(history, folder / "data.zarr", 300, scheduler="synchronous")
    return history, recorded, files(folder / "data.zarr")


@pytest.mark.parametrize(("block", "width"), [(1, 23), (7, 1), (64, 5), (60, 22)])
def test_chunks_do_not_change_a_byte(tmp_path: Path, tied: Any, block: int, width: int) -> None:
    _, recorded, expected = tied
    history = recorded.write(tmp_path / "run.zarr", block=block, width=width, sizes=[13, 20])
    assert History(history).info().chunks == (width, block)
    build_dataset(history, tmp_path / "data.zarr", 300, scheduler="synchronous")
    assert files(tmp_path / "data.zarr") == expected


@pytest.mark.parametrize(
    ("scheduler", "workers"),
    [("threads", None), ("threads", 1), ("threads", 2), ("processes", 2), ("synchronous", 2)],
)
def test_schedulers_and_workers_do_not_change_a_byte(
    tmp_path: Path, tied: Any, scheduler: Any, workers: int | None
) -> None:
    _, recorded, expected = tied
    history = recorded.write(tmp_path / "run.zarr", width=5)
    path = tmp_path / "data.zarr"
    build_dataset(history, path, 300, scheduler=scheduler, workers=workers)
    assert files(path) == expected


def test_another_seed_draws_other_samples(tmp_path: Path, tied: Any) -> None:
    history, _, expected = tied
    build_dataset(history, tmp_path / "data.zarr", 300, seed=1)
    assert files(tmp_path / "data.zarr") != expected


def test_an_open_history_and_its_path_give_the_same(tmp_path: Path, tied: Any) -> None:
    history, _, expected = tied
    dataset = build_dataset(History(history), tmp_path / "data.zarr", 300)
    assert files(tmp_path / "data.zarr") == expected
    assert dataset.source == str(history)


def test_rows_recorded_since_do_not_change_a_byte(tmp_path: Path, tied: Any) -> None:
    """A sampled range ends at t_max: what a longer history holds beyond it is not looked at."""
    _, recorded, expected = tied
    longer = np.concatenate([recorded.weights, np.full((10, 23), np.nan, np.float32)])
    history = Recorded(recorded.table, list(range(70)), longer).write(tmp_path / "run.zarr")
    build_dataset(history, tmp_path / "data.zarr", 300, t_max=29)
    assert files(tmp_path / "data.zarr") == expected


# ---- plans and progress


def test_a_plan_says_what_will_be_done(tmp_path: Path) -> None:
    history = History(wandering(10, 40).write(tmp_path / "run.zarr", width=4))
    plan = plan_sampling(history, Recipe(20))
    assert plan.tasks == ((0, 4), (4, 8), (8, 10))
    assert plan.choices == len(reference_admissible(list(range(40)), Recipe(20)))
    assert plan.draws == 2
    assert plan.bytes_decoded == 2 * 10 * 40 * 4
    for fact in ("20 samples", "10 weights", f"2 of {plan.choices}", "[10, 5, 5]", "3 tasks"):
        assert fact in str(plan)
    assert plan_sampling(history, Recipe(20), chunks_per_task=2).tasks == ((0, 8), (8, 10))


def test_progress_counts_every_task(tmp_path: Path) -> None:
    history = wandering(10, 40).write(tmp_path / "run.zarr", width=4)
    calls: list[tuple[str, int, int]] = []
    build_dataset(
        history,
        tmp_path / "data.zarr",
        30,
        scheduler="synchronous",
        progress=lambda *call: calls.append(call),
    )
    stages = list(dict.fromkeys(what for what, _, _ in calls))
    assert len(stages) == 2
    assert [(done, total) for _, done, total in calls] == [(n, 3) for n in range(4)] * 2


# ---- refusals


def left_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_the_most_samples_are_said_exactly(tmp_path: Path) -> None:
    history = wandering(7, 30).write(tmp_path / "run.zarr")
    with pytest.raises(SamplingError) as caught:
        build_dataset(history, tmp_path / "data.zarr", 10_000)
    found = re.search(r"at most (\d+)", str(caught.value))
    assert found is not None
    most = int(found[1])
    assert left_in(tmp_path) == ["run.zarr"]
    with refuses(SamplingError, most + 1, f"at most {most}"):
        build_dataset(history, tmp_path / "data.zarr", most + 1)
    assert len(build_dataset(history, tmp_path / "data.zarr", most)) == most


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_a_history_too_short(tmp_path: Path, rows: int) -> None:
    history = wandering(3, rows).write(tmp_path / "run.zarr")
    assert len(History(history)) == rows
    with refuses(SamplingError, "record more steps"):
        build_dataset(history, tmp_path / "data.zarr", 5)
    assert left_in(tmp_path) == ["run.zarr"]


def test_a_model_without_weights(tmp_path: Path) -> None:
    empty = Recorded(vector(0), list(range(40)), np.zeros((40, 0), np.float32))
    history = empty.write(tmp_path / "run.zarr")
    with refuses(SamplingError, "0 weights"):
        build_dataset(history, tmp_path / "data.zarr", 5)
    assert left_in(tmp_path) == ["run.zarr"]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 20, 40])  # of w(0); w(t) found in pass 1; a target: in pass 2
@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_weights_that_are_not_finite_are_refused(
    tmp_path: Path, bad: float, row: int, scheduler: Any
) -> None:
    walk = wandering(6, 41)
    walk.weights[row, 4] = bad
    table = ParameterTable.of([("b", (2,), "float32", "bias"), ("w", (2, 2), "float32", "weight")])
    history = Recorded(table, walk.steps, walk.weights).write(tmp_path / "run.zarr", width=2)
    with refuses(NonFiniteError, "w[1,0]", history, "--t-max"):
        build_dataset(history, tmp_path / "data.zarr", 60, scheduler=scheduler)
    assert left_in(tmp_path) == ["run.zarr"]


def test_weights_that_are_not_finite_are_no_matter_where_none_is_sampled(tmp_path: Path) -> None:
    """The advice of the message works: sample earlier steps only."""
    recorded = wandering(6, 41)
    recorded.weights[31:] = np.nan
    history = recorded.write(tmp_path / "run.zarr")
    with refuses(NonFiniteError):
        build_dataset(history, tmp_path / "data.zarr", 60)
    recipe = Recipe(40, t_max=15)
    assert_reference(build(history, tmp_path / "data.zarr", recipe), recorded, recipe)


def test_a_dataset_that_exists_is_replaced_only_when_told(tmp_path: Path) -> None:
    history = wandering(6, 41).write(tmp_path / "run.zarr")
    path = tmp_path / "data.zarr"
    build_dataset(history, path, 60)
    before = files(path)
    with refuses(OutputExistsError, path, "--overwrite"):
        build_dataset(history, path, 30)
    assert files(path) == before
    with refuses(SamplingError):  # a build that fails keeps the old one
        build_dataset(history, path, 10_000, overwrite=True)
    assert files(path) == before
    assert len(build_dataset(history, path, 30, overwrite=True)) == 30
    assert left_in(tmp_path) == ["data.zarr", "run.zarr"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_dataset_is_not_replaced(tmp_path: Path, overwrite: bool) -> None:
    history = wandering(6, 41).write(tmp_path / "run.zarr")
    wandering(6, 41, seed=1).write(tmp_path / "other.zarr")
    (tmp_path / "file").write_text("of another time")
    before = files(tmp_path)
    for name in ("other.zarr", "file"):
        with refuses(OutputExistsError, tmp_path / name):
            build_dataset(history, tmp_path / name, 30, overwrite=overwrite)
    assert files(tmp_path) == before


@pytest.mark.parametrize("spelling", ["run.zarr", "./run.zarr", "../{}/run.zarr"])
def test_a_dataset_never_replaces_its_own_history(
    tmp_path: Path, spelling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandering(6, 41).write(tmp_path / "run.zarr")
    before = files(tmp_path)
    monkeypatch.chdir(tmp_path)
    with refuses(OutputExistsError, "run.zarr"):
        build_dataset("run.zarr", spelling.format(tmp_path.name), 30, overwrite=True)
    assert files(tmp_path) == before


def test_a_failing_build_leaves_a_foreign_folder_alone(tmp_path: Path) -> None:
    history = wandering(6, 41).write(tmp_path / "run.zarr")
    (tmp_path / "data.zarr").mkdir()
    (tmp_path / "data.zarr/thesis.tex").write_text("ten years")
    with refuses(OutputExistsError):
        build_dataset(history, tmp_path / "data.zarr", 30, overwrite=True)
    assert (tmp_path / "data.zarr/thesis.tex").read_text() == "ten years"


BAD_ARGUMENTS: list[tuple[dict[str, Any], str]] = [
    ({"workers": 0}, "workers"),
    ({"workers": -2}, "workers"),
    ({"scheduler": "cluster"}, "scheduler"),
    ({"samples": 0}, "samples"),
    ({"samples": 5.5}, "samples"),
    ({"horizon": 1.0}, "horizon"),
]


@pytest.mark.parametrize(("change", "word"), BAD_ARGUMENTS, ids=lambda x: str(x))
def test_bad_arguments_are_refused(tmp_path: Path, change: dict[str, Any], word: str) -> None:
    history = wandering(6, 41).write(tmp_path / "run.zarr")
    with refuses(UsageError, word, next(iter(change.values()))):
        build_dataset(history, tmp_path / "data.zarr", **{"samples": 30, **change})
    assert left_in(tmp_path) == ["run.zarr"]


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    history = wandering(6, 41).write(tmp_path / "run.zarr")
    options = {"seed": np.uint64(3), "t_max": np.int64(20), "tolerance": np.float32(0)}
    build_dataset(history, tmp_path / "numpy.zarr", np.int64(30), **options)
    build_dataset(history, tmp_path / "python.zarr", 30, seed=3, t_max=20, tolerance=0.0)
    assert files(tmp_path / "numpy.zarr") == files(tmp_path / "python.zarr")
    assert Dataset(tmp_path / "numpy.zarr").recipe == Dataset(tmp_path / "python.zarr").recipe


def test_no_history_no_dataset(tmp_path: Path) -> None:
    with refuses(InputNotFoundError, tmp_path / "run.zarr"):
        build_dataset(tmp_path / "run.zarr", tmp_path / "data.zarr", 30)
    tmp_path.joinpath("run.zarr").mkdir()
    with refuses(FormatError, tmp_path / "run.zarr"):
        build_dataset(tmp_path / "run.zarr", tmp_path / "data.zarr", 30)


# ---- reading


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stored")
    build_dataset(wandering(40, 30).write(folder / "run.zarr"), folder / "data.zarr", 200)
    return folder / "data.zarr"


ARRAYS = ["X", "y", "parameter", "step", "stratum", "variation"]


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_are_mapped_not_read(stored: Path, name: str) -> None:
    array = getattr(Dataset(stored), name)
    assert isinstance(array, np.memmap)
    assert not array.flags.writeable
    assert array.flags.c_contiguous


@pytest.mark.parametrize("name", ARRAYS)
def test_other_zarr_readers_see_the_same(stored: Path, name: str) -> None:
    array = getattr(Dataset(stored), name)
    plain = zarr.open_group(stored, mode="r")[name]
    assert same_bits(np.asarray(plain[:]), np.asarray(array))
    dimensions = ("sample", "context")[: array.ndim]
    assert plain.metadata.dimension_names == dimensions
    with xarray.open_zarr(stored, consolidated=False) as opened:
        assert opened[name].dims == dimensions
        assert same_bits(opened[name].values, np.asarray(array))


def test_repr_and_length(stored: Path) -> None:
    dataset = Dataset(stored)
    assert len(dataset) == 200
    assert "200 samples" in repr(dataset)
    assert isinstance(open_stored(stored), Dataset)


@settings(max_examples=50, deadline=None)
@given(st.floats(0.001, 0.999), st.integers(0, 2**64 - 1))
def test_a_split_keeps_each_weight_on_one_side(stored: Path, held_out: float, seed: int) -> None:
    dataset = Dataset(stored)
    rest, held = dataset.split(held_out, seed)
    assert sorted([*rest.tolist(), *held.tolist()]) == list(range(200))
    assert not set(dataset.parameter[rest].tolist()) & set(dataset.parameter[held].tolist())
    keys = {p: int(words(seed, 1 << 62, p, p + 1)[0, 0]) for p in set(dataset.parameter.tolist())}
    assert held.tolist() == [r for r in range(200) if keys[dataset.parameter[r]] / 2**64 < held_out]


def test_a_split_does_not_depend_on_how_it_is_computed(
    stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = Dataset(stored).split(0.3)
    monkeypatch.setattr("weightcast.store.dataset._SPLIT_BLOCK", 7)
    in_blocks = Dataset(stored).split(0.3)
    assert [side.tolist() for side in in_blocks] == [side.tolist() for side in at_once]


def test_a_split_holds_out_the_share_asked_for(tmp_path: Path) -> None:
    walk = wandering(3000, 5)
    history = walk.write(tmp_path / "run.zarr", block=5)
    dataset = build_dataset(history, tmp_path / "data.zarr", 3000, context=(1.0, 0.0))
    rest, held = dataset.split(0.25)
    assert len(rest) + len(held) == 3000
    assert abs(len(held) - 750) < 5 * np.sqrt(3000 * 0.25 * 0.75)
    assert dataset.split(0.25, seed=1)[1].tolist() != held.tolist()


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 1.1, np.nan])
def test_a_split_needs_a_share_between(stored: Path, share: float) -> None:
    with refuses(UsageError, share):
        Dataset(stored).split(share)
