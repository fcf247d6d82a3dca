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
from dataset_cases import (
    assert_reference,
    build,
    build_counting,
    finite_histories,
    recipes,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from store_reference import (
    Recorded,
    files,
    left_in,
    reference_admissible,
    reference_dataset,
    refuses,
    same_bits,
    selected,
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
    rebuild_dataset,
)
from weightcast.store.keyed import words
from weightcast.store.tensors import first_scales


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_a_dataset_is_that_of_the_reference(data: st.DataObject) -> None:
    recorded = data.draw(finite_histories())
    recipe = data.draw(recipes([recorded]))
    block, width = data.draw(st.integers(2, 9)), data.draw(st.integers(2, 6))
    with tempfile.TemporaryDirectory() as folder:
        history = recorded.write(Path(folder) / "run.zarr", block=block, width=width)
        path = Path(folder) / "data.zarr"
        if reference_dataset([recorded], recipe):
            dataset, warned = build_counting(history, path, recipe)
            (drawn,) = assert_reference(dataset, recorded, recipe)
            assert warned == (drawn.given != drawn.wanted)
        else:
            none = UsageError if not selected(recorded.table, recipe) else SamplingError
            with refuses(none, history):
                build(history, path, recipe)
            assert left_in(Path(folder)) == ["run.zarr"]


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


RICH: dict[str, Any] = {
    "context": "1,0.5,t-3,mean:4/2,slope:4/2,spread:4/2,slope:6/1,scale,size,ahead",
    "horizon": (1.5, "+4"),
}


@pytest.fixture(scope="module")
def rich(tied: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a dataset of windows, facts and two horizons."""
    folder = tmp_path_factory.mktemp("rich")
    build_dataset(tied[0], folder / "data.zarr", 300, scheduler="synchronous", **RICH)
    return files(folder / "data.zarr")


@pytest.mark.parametrize(("block", "width"), [(1, 23), (7, 1), (60, 22)])
@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"])
def test_windows_do_not_depend_on_chunks_and_workers(
    tmp_path: Path, tied: Any, rich: Any, block: int, width: int, scheduler: Any
) -> None:
    _, recorded, _ = tied
    history = recorded.write(tmp_path / "run.zarr", block=block, width=width)
    path = tmp_path / "data.zarr"
    dataset = build_dataset(history, path, 300, scheduler=scheduler, workers=2, **RICH)
    assert files(path) == rich
    rebuild_dataset(dataset, tmp_path / "again.zarr")
    assert files(tmp_path / "again.zarr") == rich


def test_scales_do_not_depend_on_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor on where a block of the sum ends within tensors, but for what float64 rounds."""
    shapes = [("a", (5, 3)), ("empty", (0, 3)), ("s", ()), ("b", (4,))]
    table = ParameterTable.of((name, shape, "float32", "weight") for name, shape in shapes)
    recorded = Recorded(table, [0, 1], wandering(20, 2).weights)
    first = np.split(recorded.weights[0].astype(float), [15, 15, 16])
    expected = [np.sqrt(np.square(w).mean()) if len(w) else 0.0 for w in first]
    histories = [
        History(recorded.write(tmp_path / f"{width}.zarr", width=width)) for width in (3, 20)
    ]
    assert first_scales(histories[0]) == first_scales(histories[1])
    np.testing.assert_allclose(first_scales(histories[0]), expected, rtol=1e-12)
    monkeypatch.setattr("weightcast.store.tensors.SCALE_BLOCK", 4)
    np.testing.assert_allclose(first_scales(histories[0]), expected, rtol=1e-12)


def test_inputs_are_the_columns_of_a_context(tmp_path: Path, tied: Any) -> None:
    dataset = build_dataset(tied[0], tmp_path / "data.zarr", 300, **RICH)
    assert dataset.inputs(RICH["context"]) is dataset.X
    part = dataset.inputs("t-3,mean:4/2")  # side by side: no copy
    assert isinstance(part, np.memmap)
    assert np.array_equal(part, dataset.X[:, 2:4])
    assert np.array_equal(dataset.inputs(("ahead", 1.0)), dataset.X[:, [9, 0]])
    ahead = dataset.target - dataset.step
    assert np.array_equal(dataset.inputs("ahead")[:, 0], ahead)
    assert set(ahead[dataset.horizon == 1].tolist()) == {4}
    with refuses(UsageError, "has no t-4", "--context"):
        dataset.inputs("1,t-4")


def test_samples_of_several_horizons_are_those_of_each(tmp_path: Path, tied: Any) -> None:
    """All that exist are drawn: each horizon's are what it gives alone."""
    history, _, _ = tied
    alone = set()
    for index, horizon in enumerate(RICH["horizon"]):
        most = 23 * plan_sampling(History(history), Recipe(1, horizon=horizon)).sources[0].choices
        one = build_dataset(history, tmp_path / f"{index}.zarr", most, horizon=horizon, **ALL)
        ends = zip(one.parameter.tolist(), one.step.tolist(), one.target.tolist(), strict=True)
        alone |= {(index, *end) for end in ends}
    both = build_dataset(
        history, tmp_path / "both.zarr", len(alone), horizon=RICH["horizon"], **ALL
    )
    columns = (both.horizon, both.parameter, both.step, both.target)
    assert set(zip(*(c.tolist() for c in columns), strict=True)) == alone


ALL: dict[str, Any] = {"edges": (0.0, 1.0), "shares": (1.0,)}


@pytest.mark.parametrize("row", [8, 30])  # of windows alone, and of a target
@pytest.mark.parametrize("entry", ["mean:8/2", "slope:8/2", "spread:8/2"])
def test_what_a_window_reads_must_be_finite(tmp_path: Path, row: int, entry: str) -> None:
    walk = wandering(6, 41)
    walk.weights[row, 4] = np.inf
    history = walk.write(tmp_path / "run.zarr")
    bounds = {"t_min": 10, "t_max": 20}
    with refuses(NonFiniteError, "w[4]", history):
        build_dataset(history, tmp_path / "d.zarr", 6 * 11, context=entry, **bounds, **ALL)


def test_a_history_too_sparse_for_a_window_is_told_what_it_needs(tmp_path: Path) -> None:
    walk = wandering(3, 20)
    history = Recorded(walk.table, list(range(0, 200, 10)), walk.weights).write(tmp_path / "r.zarr")
    with refuses(SamplingError, history, "every 2 steps from t-8 to t", "shorter ones", "2t"):
        build_dataset(history, tmp_path / "d.zarr", 5, context="1,slope:8/2")
    with refuses(SamplingError, "every 10 steps from t-300 to t", "record more steps"):
        build_dataset(history, tmp_path / "d.zarr", 5, context="1,slope:300/10")
    assert left_in(tmp_path) == ["r.zarr"]


def test_too_many_horizons_are_refused(tmp_path: Path, tied: Any) -> None:
    with refuses(UsageError, "127 horizons", 128):
        build_dataset(tied[0], tmp_path / "d.zarr", 5, horizon=[f"+{n}" for n in range(1, 129)])


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
    (source,) = plan.sources
    assert [(task.run, task.low, task.high) for task in plan.tasks] == [
        (0, 0, 4),
        (0, 4, 8),
        (0, 8, 10),
    ]
    assert source.choices == len(reference_admissible(list(range(40)), Recipe(20)))
    assert source.quota.draws == 2
    assert source.quota.counts == source.quota.wanted == (10, 5, 5)
    assert source.quota.sizes == [10, 5, 5]
    assert source.candidates == 20
    assert source.recorded == 40
    assert plan.samples == 20
    assert plan.dtype == "float32"
    assert plan.bytes_decoded == 10 * 40 * 4
    for fact in ("20 samples", "20 candidates", "1 histories", "3 tasks"):
        assert fact in str(plan)


@pytest.mark.parametrize(
    ("bounds", "rows"),
    [({}, 40), ({"t_max": 6}, 16), ({"t_max": 3}, 8), ({"t_min": 18, "t_max": 19}, 24 + 8)],
)
def test_a_plan_counts_only_the_chunks_that_hold_samples(
    tmp_path: Path, bounds: dict[str, int], rows: int
) -> None:
    """Of 8 steps each: from t = 18 on, those of steps 16 to 23 and not those of 24 to 31, say."""
    history = History(wandering(10, 40).write(tmp_path / "run.zarr", block=8))
    assert plan_sampling(history, Recipe(10, **bounds)).bytes_decoded == 10 * rows * 4


def test_tasks_are_whole_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many rows of chunks as fit; none of those that hold no selected weight."""
    monkeypatch.setattr("weightcast.store.planning.FEWEST_TASKS", 1)
    sizes = {"a": 6, "b": 9, "c": 5}
    table = ParameterTable.of((name, (n,), "float32", "weight") for name, n in sizes.items())
    walk = wandering(20, 40)
    path = Recorded(table, walk.steps, walk.weights).write(tmp_path / "run.zarr", width=2)

    def tasks(**recipe: Any) -> list[tuple[int, int]]:
        plan = plan_sampling(History(path), Recipe(10, draws=3, **recipe))
        return [(task.low, task.high) for task in plan.tasks]

    assert tasks() == [(0, 20)]
    assert tasks(exclude=("b",)) == [(0, 6), (14, 20)]
    monkeypatch.setattr("weightcast.store.planning.TASK_BYTES", 3 * 2 * 40 * 4)
    assert tasks() == [(0, 6), (6, 12), (12, 18), (18, 20)]
    monkeypatch.setattr("weightcast.store.planning.TASK_CANDIDATES", 4 * 3)
    assert tasks(include=("a",)) == [(0, 4), (4, 6)]
    monkeypatch.setattr("weightcast.store.planning.FEWEST_TASKS", 10)
    assert len(tasks()) == 10


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
    assert len(stages) == 4
    passes = [calls[i : i + 4] for i in range(0, len(calls), 4)]
    assert all([call[1:] for call in one] == [(n, 3) for n in range(4)] for one in passes)
    assert all(len({what for what, _, _ in one}) == 1 for one in passes)
    assert [sum(one[0][0] == what for one in passes) for what in (stages[0], stages[-1])] == [1, 1]


# ---- refusals


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
    with refuses(SamplingError, "holds no weights"):
        build_dataset(history, tmp_path / "data.zarr", 5)
    assert left_in(tmp_path) == ["run.zarr"]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 20, 40])  # of w(0); w(t) found in pass 1; a target: in pass 2
@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_weights_that_are_not_finite_are_refused(
    tmp_path: Path, bad: float, row: int, scheduler: Any
) -> None:
    walk = wandering(6, 41)  # 18 steps t of each: 108 samples are all that there are
    walk.weights[row, 4] = bad
    table = ParameterTable.of([("b", (2,), "float32", "bias"), ("w", (2, 2), "float32", "weight")])
    history = Recorded(table, walk.steps, walk.weights).write(tmp_path / "run.zarr", width=2)
    with refuses(NonFiniteError, "w[1,0]", history, "--t-max"):
        build_dataset(history, tmp_path / "data.zarr", 108, scheduler=scheduler)
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


ARRAYS = ["X", "y", "parameter", "step", "stratum", "variation", "run", "validation"]
ARRAYS += ["target", "horizon"]


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
