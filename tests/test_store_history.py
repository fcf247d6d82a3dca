"""Histories: what is appended is what is read, here and in other Zarr readers."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import xarray
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from store_reference import (
    Recorded,
    files,
    histories,
    refuses,
    same_bits,
    tables,
    vector,
    wandering,
)

from weightcast.store import (
    History,
    HistoryWriter,
    OutputExistsError,
    ParameterTable,
    ShapeError,
    StepNotRecordedError,
    UsageError,
    open_stored,
)
from weightcast.store.layout import block_length, chunk_shape

SIZES = st.lists(st.integers(0, 6), max_size=5)


def assert_holds(history: History, recorded: Recorded) -> None:
    """Every way to read the history gives the bits that were recorded."""
    weights, tables_and_rows = recorded.weights, [(recorded.table, recorded.weights)]
    if recorded.buffers is not None:
        tables_and_rows.append((recorded.buffer_table, recorded.buffers))
    assert history.steps.tolist() == recorded.steps
    assert history.times.tolist() == recorded.times
    assert history.parameters == recorded.table
    assert history.buffers == recorded.buffer_table
    for p in recorded.table:
        expected = weights[:, p.offset : p.stop].reshape(len(weights), *p.shape)
        assert same_bits(history[p.name], expected)
    for row, step in enumerate(recorded.steps):
        assert history.row(step) == row
        assert same_bits(history.snapshot(step), weights[row])
        state = history.state(step)
        expected = {
            p.name: rows[row, p.offset : p.stop].reshape(p.shape)
            for table, rows in tables_and_rows
            for p in table
        }
        assert list(state) == list(expected)
        assert all(same_bits(state[name], expected[name]) for name in expected)


@settings(max_examples=30, deadline=None)
@given(histories(), st.integers(1, 7), st.integers(1, 5), SIZES)
def test_what_is_appended_is_what_is_read(
    recorded: Recorded, block: int, width: int, sizes: list[int]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = recorded.write(Path(folder) / "run.zarr", block=block, width=width, sizes=sizes)
        assert_holds(History(path), recorded)


@pytest.mark.parametrize("preset", ["fast", "compact"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_presets_keep_every_bit(tmp_path: Path, preset: str, dtype: type) -> None:
    tiny = np.finfo(dtype).smallest_subnormal
    special = np.array([np.nan, -np.nan, np.inf, -np.inf, -0.0, 0.0, tiny, -tiny], dtype)
    payload = np.frombuffer(b"\x01\x02\xa3\xff\x01\x02\xf3\xff", dtype)  # NaN with a payload
    weights = np.tile(np.concatenate([special, payload]), (9, 1))
    recorded = Recorded(vector(weights.shape[1]), list(range(9)), weights)
    recorded.write(tmp_path / "run.zarr", preset=preset)
    assert_holds(History(tmp_path / "run.zarr"), recorded)
    assert History(tmp_path / "run.zarr").info().preset == preset


def test_header_keeps_what_the_caller_said(tmp_path: Path) -> None:
    path = wandering(3, 5).write(
        tmp_path / "run.zarr",
        schedule="every:10",
        versions={"torch": "9.9"},
        metadata={"seed": 7, "tags": ["a", None]},
    )
    info = History(path).info()
    assert info.schedule == "every:10"
    assert info.versions["torch"] == "9.9"
    assert "weightcast" in info.versions
    assert info.metadata == {"seed": 7, "tags": ["a", None]}
    assert (info.weights, info.recorded, info.first_step, info.last_step) == (3, 5, 0, 4)
    assert info.raw_bytes == 3 * 5 * 4
    assert info.stored_bytes == sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    assert info.ratio == info.raw_bytes / info.stored_bytes


def test_another_schedule_is_kept_beside_the_first(tmp_path: Path) -> None:
    path = wandering(3, 5).write(tmp_path / "run.zarr", schedule="every:10")
    HistoryWriter.open(path).add_schedule("every:10", 5)
    assert History(path).info().schedule == "every:10"
    HistoryWriter.open(path).add_schedule("every:2", 5)
    assert History(path).info().schedule == "every:10, from step 5 every:2"
    assert len(History(path)) == 5


def test_history_without_steps(tmp_path: Path) -> None:
    HistoryWriter.create(tmp_path / "run.zarr", vector(3)).close()
    history = History(tmp_path / "run.zarr")
    assert len(history) == 0
    assert history["w"].shape == (0, 3)
    assert (history.info().first_step, history.info().last_step) == (None, None)
    assert "3 weights x 0" in repr(history)
    with refuses(StepNotRecordedError, "step 0", "no steps yet"):
        history.snapshot(0)


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_metrics_are_read_as_logged(data: st.DataObject) -> None:
    names = st.sampled_from(["loss", "val/loss", "a/../b", "val.loss", "step", "value", "c"])
    entries = st.lists(st.tuples(st.integers(-5, 2**40), st.floats()), max_size=5)
    logged = data.draw(st.lists(st.tuples(names, entries), max_size=6))
    expected: dict[str, list[tuple[int, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = wandering(2, 3).write(Path(folder) / "run.zarr")
        for name, pairs in logged:
            with HistoryWriter.open(path) as writer:
                writer.log(name, [s for s, _ in pairs], [v for _, v in pairs])
            expected.setdefault(name, []).extend(pairs)
        history = History(path)
        assert history.metrics == sorted(expected)
        here = {p.name for p in path.iterdir()} - {"metrics"}
        assert here == {"zarr.json", "weights", "step", "time"}
        for name, pairs in expected.items():
            steps, values = history.metric(name)
            assert steps.tolist() == [s for s, _ in pairs]
            assert same_bits(values, np.array([v for _, v in pairs], dtype=np.float64))


@pytest.mark.parametrize("name", ["", ".", "../w", "/w", ".hidden", "__a", "a b", "é", "x" * 101])
def test_metric_names_are_never_paths(tmp_path: Path, name: str) -> None:
    path = wandering(2, 3).write(tmp_path / "run.zarr")
    before = files(tmp_path)
    with refuses(UsageError, "metric's name"), HistoryWriter.open(path) as writer:
        writer.log(name, [1], [2.0])
    assert files(tmp_path) == before


def test_metric_named_as_the_files_of_zarr(tmp_path: Path) -> None:
    path = wandering(2, 3).write(tmp_path / "run.zarr")
    with refuses(UsageError, "metric's name", "zarr.json"), HistoryWriter.open(path) as writer:
        writer.log("zarr.json", [1], [2.0])
    assert History(path).metrics == []


def test_unknown_metric_and_uneven_metric(tmp_path: Path) -> None:
    path = wandering(2, 3).write(tmp_path / "run.zarr")
    with HistoryWriter.open(path) as writer:
        writer.log("loss", [1], [2.0])
        with refuses(ShapeError, "loss", "2", "1"):
            writer.log("loss", [1, 2], [2.0])
    with refuses(UsageError, "val", "loss", path):
        History(path).metric("val")


@pytest.mark.parametrize("steps", [[3], [2], [-1], [5, 5], [6, 5], [5, 7, 6]])
def test_steps_must_increase(tmp_path: Path, steps: list[int]) -> None:
    path = wandering(2, 4).write(tmp_path / "run.zarr")
    before = files(tmp_path)
    rows = np.zeros((len(steps), 2), np.float32)
    with refuses(UsageError, "3", steps[0], steps[-1]), HistoryWriter.open(path) as writer:
        writer.append(steps, [0.0] * len(steps), rows)
    assert files(tmp_path) == before


def test_first_step_is_not_negative(tmp_path: Path) -> None:
    with HistoryWriter.create(tmp_path / "run.zarr", vector(2)) as writer:
        with refuses(UsageError, "-5"):
            writer.append([-5], [0.0], np.zeros((1, 2), np.float32))
        writer.append([0], [0.0], np.zeros((1, 2), np.float32))
        assert writer.last_step == 0


BAD_ROWS = {
    "too few weights": ([1], [0.0], (1, 1), (1, 1)),
    "too many rows": ([1], [0.0], (2, 2), (1, 1)),
    "transposed": ([1, 2, 3], [0.0] * 3, (2, 3), (3, 1)),
    "flat": ([1], [0.0], (2,), (1, 1)),
    "too few times": ([1, 2], [0.0], (2, 2), (2, 1)),
    "too many buffers": ([1], [0.0], (1, 2), (1, 2)),
    "no buffers": ([1], [0.0], (1, 2), None),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_wrong_shapes_are_refused(tmp_path: Path, case: str) -> None:
    steps, times, weights, buffers = BAD_ROWS[case]
    table = ParameterTable.of([("m", (1,), "float32", "buffer")])
    path = tmp_path / "run.zarr"
    HistoryWriter.create(path, vector(2), buffers=table).close()
    before = files(tmp_path)
    given_buffers = None if buffers is None else np.zeros(buffers)
    with refuses(ShapeError), HistoryWriter.open(path) as writer:
        writer.append(steps, times, np.zeros(weights, np.float32), given_buffers)
    assert files(tmp_path) == before


def test_steps_are_whole_numbers(tmp_path: Path) -> None:
    with HistoryWriter.create(tmp_path / "run.zarr", vector(2)) as writer:
        with refuses(UsageError, "0.5"):
            writer.append([0.5, 1.5], [0.0, 1.0], np.zeros((2, 2), np.float32))
        assert len(History(tmp_path / "run.zarr")) == 0


def test_buffers_for_a_history_without_them_are_refused(tmp_path: Path) -> None:
    with HistoryWriter.create(tmp_path / "run.zarr", vector(2)) as writer:
        with refuses(ShapeError, "buffers"):
            writer.append([0], [0.0], np.zeros((1, 2), np.float32), np.zeros((1, 3)))
        assert len(History(tmp_path / "run.zarr")) == 0


def test_rows_may_be_plain_lists(tmp_path: Path) -> None:
    with HistoryWriter.create(tmp_path / "run.zarr", vector(2)) as writer:
        writer.append([0, 5], [0.0, 1.0], [[1.0, 2.0], [3.0, 4.0]])
    assert History(tmp_path / "run.zarr")["w"].tolist() == [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize(
    ("step", "near"),
    [(-1, ["0"]), (1, ["0", "10"]), (15, ["10", "30"]), (31, ["30"]), (2**70, ["30"])],
)
def test_a_step_that_was_not_recorded_names_its_neighbours(
    tmp_path: Path, step: int, near: list[str]
) -> None:
    rows = np.zeros((3, 2), np.float32)
    path = Recorded(vector(2), [0, 10, 30], rows).write(tmp_path / "run.zarr")
    history = History(path)
    for read in (history.row, history.snapshot, history.state):
        with refuses(StepNotRecordedError, f"step {step} ", path, " and ".join(near)):
            read(step)
    with pytest.raises(LookupError):
        history.row(step)


def test_an_unknown_parameter_is_refused(tmp_path: Path) -> None:
    history = History(wandering(2, 3).write(tmp_path / "run.zarr"))
    with refuses(UsageError, "'v'", "w"):
        history["v"]
    # positions mean steps to one reader and parameters to another
    with refuses(UsageError, "0"):
        history[0]


def test_opens_in_plain_zarr(tmp_path: Path) -> None:
    recorded = wandering(5, 7)
    path = recorded.write(tmp_path / "run.zarr", width=2)
    with HistoryWriter.open(path) as writer:
        writer.log("loss", [1, 2], [0.5, 0.25])
    group = zarr.open_group(path, mode="r")
    assert group.metadata.zarr_format == 3
    assert np.array_equal(group["weights"][:], recorded.weights.T)
    assert group["weights"].metadata.dimension_names == ("parameter", "step")
    assert group["step"][:].tolist() == recorded.steps
    assert group["time"][:].tolist() == recorded.times
    assert group["metrics/loss/value"][:].tolist() == [0.5, 0.25]
    assert group.attrs["weightcast"]["committed"] == 7


def test_opens_in_xarray(tmp_path: Path) -> None:
    table = ParameterTable.of([("m", (2,), "float32", "buffer")])
    walk = wandering(5, 7)
    buffers = np.arange(14.0).reshape(7, 2)
    recorded = Recorded(walk.table, walk.steps, walk.weights, table, buffers)
    path = recorded.write(tmp_path / "run.zarr", width=2)
    with xarray.open_zarr(path, consolidated=False) as opened:
        assert opened["weights"].dims == ("parameter", "step")
        assert opened["buffers"].dims == ("buffer", "step")
        assert opened["time"].dims == ("step",)
        assert np.array_equal(opened["weights"].values, walk.weights.T)
        assert np.array_equal(opened["buffers"].values, buffers.T)
        assert opened["weights"].sel(step=3).values.tolist() == walk.weights[3].tolist()


def test_open_stored_tells_a_history(tmp_path: Path) -> None:
    opened = open_stored(wandering(2, 3).write(tmp_path / "run.zarr"))
    assert isinstance(opened, History)
    assert len(opened) == 3


def test_names_of_a_model_are_never_paths(tmp_path: Path) -> None:
    names = ["../../up", "/abs", "zarr.json", "a\nb", "", "weights"]
    table = ParameterTable.of((name, (1,), "float32", "weight") for name in names)
    weights = np.arange(12, dtype=np.float32).reshape(2, 6)
    recorded = Recorded(table, [0, 1], weights)
    recorded.write(tmp_path / "in" / "run.zarr")
    assert [p.name for p in tmp_path.rglob("*.zarr")] == ["run.zarr"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]
    assert_holds(History(tmp_path / "in" / "run.zarr"), recorded)


def test_create_refuses_to_overwrite_unless_told(tmp_path: Path) -> None:
    path = wandering(2, 3).write(tmp_path / "run.zarr")
    before = files(tmp_path)
    with refuses(OutputExistsError, path, "--overwrite"):
        HistoryWriter.create(path, vector(5))
    assert files(tmp_path) == before
    HistoryWriter.create(path, vector(5), overwrite=True).close()
    assert (len(History(path)), History(path).parameters) == (0, vector(5))
    assert [p.name for p in tmp_path.iterdir()] == ["run.zarr"]


def foreign_folder(path: Path) -> None:
    path.mkdir()
    (path / "thesis.tex").write_text("ten years")


def foreign_zarr(path: Path) -> None:
    zarr.create_group(path, attributes={"mine": 1})


def foreign_named_attribute(path: Path) -> None:
    zarr.create_group(path, attributes={"weightcast": "a note on the tool, not written by it"})


FOREIGN = [Path.mkdir, foreign_folder, foreign_zarr, foreign_named_attribute]


@pytest.mark.parametrize("make", FOREIGN)
@pytest.mark.parametrize("overwrite", [False, True])
def test_create_never_deletes_a_foreign_folder(tmp_path: Path, make, overwrite: bool) -> None:
    make(tmp_path / "run.zarr")
    before = sorted(tmp_path.rglob("*"))
    with refuses(OutputExistsError, tmp_path / "run.zarr"):
        HistoryWriter.create(tmp_path / "run.zarr", vector(2), overwrite=overwrite)
    assert sorted(tmp_path.rglob("*")) == before


BAD_ARGUMENTS = {
    "preset": {"preset": "best"},
    "dtype": {"dtype": np.float16},
    "no dtype": {"dtype": "bogus"},
    "integer dtype": {"dtype": np.int32},
    "empty block": {"block": 0},
    "negative block": {"block": -1},
    "metadata": {"metadata": {"model": object()}},
    "metadata a list": {"metadata": [1, 2]},
    "versions": {"versions": {"torch": object()}},
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_bad_arguments_are_refused_before_anything_is_replaced(tmp_path: Path, case: str) -> None:
    path = wandering(2, 3).write(tmp_path / "run.zarr")
    before = files(tmp_path)
    with refuses(UsageError):
        HistoryWriter.create(path, vector(2), overwrite=True, **BAD_ARGUMENTS[case])
    assert files(tmp_path) == before


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_bad_arguments_leave_nothing_behind(tmp_path: Path, case: str) -> None:
    with refuses(UsageError):
        HistoryWriter.create(tmp_path / "run.zarr", vector(2), **BAD_ARGUMENTS[case])
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**12), st.integers(1, 64))
def test_one_block_is_at_most_a_thousand_files(parameters: int, block: int) -> None:
    wide, long = chunk_shape(parameters, block)
    assert long == block
    assert -(-parameters // wide) <= 1000
    assert 1 <= wide <= max(parameters, 1)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 10**12), st.integers(0, 10**12))
def test_a_block_is_as_long_as_its_memory_allows(row_bytes: int, budget: int) -> None:
    length = block_length(row_bytes, budget)
    assert 1 <= length <= 64
    assert length == 1 or length * row_bytes <= budget
    assert length == 64 or (length + 1) * row_bytes > budget


@settings(max_examples=15, deadline=None)
@given(tables())
def test_header_is_json_that_says_its_format(table: ParameterTable) -> None:
    with tempfile.TemporaryDirectory() as folder:
        HistoryWriter.create(Path(folder) / "run.zarr", table).close()
        document = json.loads((Path(folder) / "run.zarr/zarr.json").read_text())
        header = document["attributes"]["weightcast"]
        assert header["format"] == 1
        assert ParameterTable.from_json(header["parameters"]) == table
