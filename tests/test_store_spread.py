"""How far weights moved, against NumPy on the whole history in memory."""

from __future__ import annotations

import errno
import json
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import xarray
import zarr
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet
from store_reference import Recorded, histories, vector, wandering

from weightcast.store import (
    FormatError,
    History,
    InputNotFoundError,
    MissingExtraError,
    OutputExistsError,
    ParameterTable,
    SamplingError,
    SchedulerError,
    UsageError,
    VariationReport,
    measure_variation,
    save_variation_figure,
    spread_files,
    spread_plan,
    spread_report,
    spreading,
)
from weightcast.store.parameters import matches
from weightcast.store.scheduling import Workers
from weightcast.store.sorted_runs import at_most, largest_first, select
from weightcast.store.spread import Measure, Spread
from weightcast.store.spread_figure import draw_figure
from weightcast.store.spread_scratch import Measured
from weightcast.store.swapping import HOST
from weightcast.store.trajectories import trajectories

MEASURES: tuple[Measure, ...] = ("change", "deviation")
QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.77, 0.99, 1.0)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs, blocks and slices of a few values, so that small histories have several."""
    monkeypatch.setattr(spread_plan, "RUN", 5)
    monkeypatch.setattr(spread_plan, "TENSORS", 2)
    monkeypatch.setattr(spreading, "ROWS", 3)
    monkeypatch.setattr(spreading, "COLUMNS", 2)
    monkeypatch.setattr(spread_report, "BLOCK", 4)
    monkeypatch.setattr(spread_files, "CHUNK", 7)


def moved(rows: np.ndarray) -> dict[str, np.ndarray]:
    """Both measures of rows [T, P], a step at a time; NaN where either is not finite."""
    with np.errstate(all="ignore"):
        squares = np.zeros(rows.shape[1])
        for row in rows[1:]:
            squares += (row.astype(np.float64) - rows[0].astype(np.float64)) ** 2
        change = np.abs(rows[-1] - rows[0])
        deviation = np.sqrt(squares / (len(rows) - 1)).astype(rows.dtype)
    unknown = ~(np.isfinite(change) & np.isfinite(deviation))
    change[unknown] = deviation[unknown] = np.nan
    return {"change": change, "deviation": deviation}


def check_spread(found: Spread | None, values: np.ndarray, still: float) -> None:
    values = values[~np.isnan(values)]
    if not len(values):
        assert found is None
        return
    assert found is not None
    largest = float(values.max())
    expected = np.quantile(values, QUANTILES, method="inverted_cdf")
    assert found.quantiles == tuple(expected.tolist())
    assert found.largest == largest
    assert found.mean == pytest.approx(values.mean(dtype=np.float64), rel=1e-12)
    assert found.unmoved == (values == 0).sum() / len(values)
    assert found.still == (values.astype(np.float64) <= still * largest).sum() / len(values)
    edges = np.linspace(0, 1, 101)[1:] * largest
    inside = [(values.astype(np.float64) <= edge).sum() for edge in edges]
    assert found.histogram == tuple(np.diff(inside, prepend=0))


def check_report(report: VariationReport, recorded: Recorded, rows: slice, still: float) -> None:
    """Compare every number of a report with the same in one array."""
    measures = moved(recorded.weights[rows])
    tensors = [g for g in report.groups if g.what == "tensor"]
    chosen = [recorded.table[g.name] for g in tensors]
    where = {
        ("model", "whole model"): chosen,
        **{("kind", p.kind): [q for q in chosen if q.kind == p.kind] for p in chosen},
        **{("tensor", p.name): [p] for p in chosen},
    }
    assert [(g.what, g.name) for g in report.groups] == list(where)
    for group, parameters in zip(report.groups, where.values(), strict=True):
        places = np.concatenate([np.arange(p.offset, p.stop) for p in parameters])
        assert group.weights == len(places)
        assert group.not_finite == np.isnan(measures["change"][places]).sum()
        for measure in MEASURES:
            check_spread(group.spread(measure), measures[measure][places], still)
    places = np.concatenate([np.arange(p.offset, p.stop) for p in chosen])
    by = measures[report.by]
    best = sorted((p for p in places if not np.isnan(by[p])), key=lambda p: (-by[p], p))
    assert [w.parameter for w in report.top] == best[: len(report.top)]
    assert len(report.top) == min(6, len(best))
    for weight in report.top:
        assert str(weight) == recorded.table.locate(weight.parameter)
        assert weight.change == measures["change"][weight.parameter]
        assert weight.deviation == measures["deviation"][weight.parameter]


def measure(path: Path, **options: Any) -> VariationReport:
    return measure_variation(path, **{"quantiles": QUANTILES, "top": 6, **options})


@pytest.mark.usefixtures("small_parts")
@given(histories(), st.data())
def test_any_history_is_reported_as_numpy_sees_it(
    tmp_path_factory: pytest.TempPathFactory, recorded: Recorded, data: st.DataObject
) -> None:
    """Random bits: NaN and infinities, and values of any size; any tensors, chunks and steps."""
    weights = recorded.weights.copy()
    tame = data.draw(st.integers(1, 3))
    small = np.random.default_rng(tame).integers(-4, 5, weights[:, ::tame].shape)
    weights[:, ::tame] = small  # many are equal
    weights[:, 2 :: data.draw(st.integers(1, 9))] = 2.5  # and some do not move
    kinds = st.sampled_from(["weight", "bias", "norm"])
    table = ParameterTable.of((p.name, p.shape, p.dtype, data.draw(kinds)) for p in recorded.table)
    recorded = replace(recorded, table=table, weights=weights)
    path = tmp_path_factory.mktemp("spread") / "run.zarr"
    recorded.write(path, block=data.draw(st.integers(1, 6)), width=data.draw(st.integers(1, 9)))
    exclude = data.draw(st.sampled_from([(), "weight.1", ("weight.0", "*.2")]))
    chosen = [p for p in table if p.size and matches(p.name, (), exclude)]
    bounds = sorted(data.draw(st.lists(st.integers(0, 400), min_size=2, max_size=2)))
    bounds = data.draw(st.sampled_from([bounds, [None, None]]))
    low = 0 if bounds[0] is None else sum(s < bounds[0] for s in recorded.steps)
    high = len(weights) if bounds[1] is None else sum(s <= bounds[1] for s in recorded.steps)
    options = {
        "by": data.draw(st.sampled_from(MEASURES)),
        "still": data.draw(st.sampled_from([0.0, 0.01, 0.3, 1.0])),
        "from_step": bounds[0],
        "to_step": bounds[1],
        "exclude": exclude,
        "scheduler": "synchronous",
    }
    if not chosen:
        with pytest.raises(UsageError, match="select none of the parameters"):
            measure(path, **options)
    elif high - low < 2:
        with pytest.raises(SamplingError, match="two recorded steps"):
            measure(path, **options)
    else:
        report = measure(path, **options)
        assert (report.first_step, report.last_step) == (
            recorded.steps[low],
            recorded.steps[high - 1],
        )
        assert report.steps == high - low
        check_report(report, recorded, slice(low, high), options["still"])


def walk(table: ParameterTable, rows: int = 9, seed: int = 0) -> Recorded:
    """Random walks of the given tensors; every fourth weight never moves."""
    recorded = wandering(table.size, rows, seed)
    recorded.weights[:, ::4] = 0.25
    return Recorded(table, recorded.steps, recorded.weights)


MODEL = ParameterTable.of(
    [
        ("conv.weight", (2, 3, 2), "float32", "weight"),
        ("conv.bias", (2,), "float32", "bias"),
        ("none", (0, 4), "float32", "weight"),
        ("scale", (), "float32", "norm"),
        ("fc.weight", (5, 7), "float32", "weight"),
    ]
)


@pytest.mark.parametrize("scheduler", ["threads", "processes", "synchronous"])
def test_chunks_and_workers_do_not_change_the_report(tmp_path: Path, scheduler: str) -> None:
    recorded = walk(MODEL, 40)
    reports = []
    for block, width in ((64, 99), (3, 7), (1, 1)):
        path = tmp_path / f"{block}.zarr"
        recorded.write(path, block=block, width=width)
        made = measure(path, draw=3, scheduler=scheduler, workers=2 if block == 64 else 1)
        reports.append(replace(made, source=""))
        if scheduler == "processes":
            break
    assert all(report == reports[0] for report in reports)
    check_report(reports[0], recorded, slice(None), 0.01)


@pytest.mark.usefixtures("small_parts")
def test_progress_counts_tasks_of_one_decode(tmp_path: Path) -> None:
    path = walk(MODEL).write(tmp_path / "run.zarr", block=4, width=16)
    calls: list[tuple[str, int, int]] = []
    read = []
    original = spreading.ChunkReader.read

    def counted(self: Any, *place: int) -> Any:
        read.append(place)
        return original(self, *place)

    with mock.patch.object(spreading.ChunkReader, "read", counted):
        measure(
            path,
            from_step=2,
            scheduler="synchronous",
            progress=lambda *call: calls.append(call),
        )
    assert [call for call in calls if call[0] == "measure"] == [
        ("measure", done, 4) for done in range(5)
    ]
    assert calls[-1][0] == "sort"
    assert calls[-1][1] == calls[-1][2]
    assert len(read) == len(set(read)) == 4 * 3  # each chunk once


def test_chunks_without_selected_weights_are_not_read(tmp_path: Path) -> None:
    path = walk(MODEL).write(tmp_path / "run.zarr", width=14)
    for chunk in (path / "weights/c").glob("[123]/*"):
        chunk.write_bytes(b"damaged")
    assert measure(path, include="conv.*").model.weights == 14
    with pytest.raises(FormatError, match="damaged"):
        measure(path)


@given(st.lists(st.sampled_from([0, 1, 1, 2, 5, 30]), max_size=30), st.integers(1, 9))
def test_pieces_are_whole_tensors_or_parts_of_a_large_one(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], run: int
) -> None:
    rows: Sequence[Any] = [(f"{i}", (n,), "float32", "weight") for i, n in enumerate([3, *sizes])]
    path = wandering(3 + sum(sizes), 2).write(tmp_path_factory.mktemp("pieces") / "run.zarr")
    table = ParameterTable.of(row for row in rows if row[1][0])
    plan = replace(spread_plan.plan_spread(History(path), (), (), None, None), table=table)
    with mock.patch.multiple(spread_plan, RUN=run, TENSORS=3):
        pieces = plan.pieces()
    assert [place for piece in pieces for place in range(*piece)] == list(range(table.size))
    large = [p for p in table if p.size > run]
    inside = {place for p in large for place in range(p.offset, p.stop)}
    borders = {p.offset for p in table} | {table.size}
    for start, stop in pieces:
        tensors = [p for p in table if p.offset < stop and p.stop > start]
        assert 0 < stop - start <= run
        assert len(tensors) <= 3
        if {start, stop} <= borders:
            continue
        assert set(range(start, stop)) <= inside
        assert len(tensors) == 1


def test_many_tensors_lie_in_few_runs(tmp_path: Path) -> None:
    """A tensor that a task has in memory is described there, and needs no search in files."""
    path = walk(many(200)).write(tmp_path / "run.zarr")
    described = []
    original = spread_report.spread

    def counted(runs: Any, *options: Any, **more: Any) -> Any:
        described.append(len(runs))
        return original(runs, *options, **more)

    with mock.patch.object(spread_report, "spread", counted):
        report = measure(path)
    assert len(report.groups) == 203
    assert described == [2, 2, 1, 1, 1, 1]  # the model, and two kinds, by both measures


# ---- workers elsewhere


class Elsewhere(Workers):
    """Calls with what was pickled and unpickled, in another working directory."""

    def __init__(self, folder: Path, before: Callable[[str, Any], None]) -> None:
        super().__init__("synchronous")
        self._folder, self._before = folder, before

    @property
    def count(self) -> int:
        return 1

    def _run(
        self, what: str, function: Any, tasks: Any, common: object, finished: Any
    ) -> list[Any]:
        sent = pickle.dumps((function, common, tasks))
        with chdir(self._folder):
            call, there, arguments = pickle.loads(sent)
            self._before(what, there)
            return [call(there, *task) for task in arguments]


@contextmanager
def workers_in(folder: Path, before: Callable[[str, Any], None] = lambda *_: None) -> Iterator[Any]:
    """Measure by workers whose working directory is another one."""

    @contextmanager
    def workers(*_: Any) -> Iterator[Workers]:
        yield Elsewhere(folder, before)

    with mock.patch.object(spreading.scheduling, "workers", workers):
        yield


@pytest.mark.parametrize("output", [None, "out/moved.zarr"])
def test_workers_may_have_another_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str | None
) -> None:
    recorded = walk(MODEL)
    recorded.write(tmp_path / "run.zarr")
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path)
    with workers_in(tmp_path / "there"):
        report = measure(Path("run.zarr"), output=output)
    check_report(report, recorded, slice(None), 0.01)
    assert list((tmp_path / "there").iterdir()) == []
    if output:
        assert [p.name for p in (tmp_path / "out").iterdir()] == ["moved.zarr"]


@pytest.mark.parametrize("output", [None, "moved.zarr"])
def test_a_late_worker_of_an_earlier_job_writes_nowhere(tmp_path: Path, output: str | None) -> None:
    recorded = walk(MODEL)
    path, place = recorded.write(tmp_path / "run.zarr"), output and tmp_path / output
    earlier: list[Measured] = []

    def write_late(what: str, common: Any) -> None:
        if what != "sort":
            return
        for measured in earlier:
            with pytest.raises(SchedulerError):
                measured.put("change", [(0, np.float32([1e9]))])
        earlier.append(common.measured)

    with workers_in(tmp_path, write_late):
        for _ in range(2):
            report = measure(path, output=place, overwrite=True)
    assert len(earlier) == 2
    check_report(report, recorded, slice(None), 0.01)


@pytest.mark.parametrize("name", ["moved.zarr", "moved.parquet"])
def test_what_another_process_wrote_meanwhile_is_kept(tmp_path: Path, name: str) -> None:
    path, out = walk(MODEL).write(tmp_path / "run.zarr"), tmp_path / name

    def write_too(what: str, _: Any) -> None:
        if what == "sort":
            out.write_text("theirs")

    with workers_in(tmp_path, write_too), pytest.raises(OutputExistsError, match="meanwhile"):
        measure(path, output=out)
    assert out.read_text() == "theirs"


@pytest.mark.parametrize("output", [None, "moved.zarr"])
def test_a_full_disk_is_told_before_any_work_and_with_the_size(
    tmp_path: Path, output: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = walk(vector(5000)).write(tmp_path / "run.zarr")
    before = sorted(tmp_path.iterdir())

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(OSError, match=r"No space left .* take 8e-05 GB.* TMPDIR") as caught:
        measure(path, output=output and tmp_path / output)
    assert caught.value.errno == errno.ENOSPC
    assert sorted(tmp_path.iterdir()) == before


# ---- weights drawn at random


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("by", MEASURES)
def test_weights_are_drawn_from_each_third(tmp_path: Path, by: Measure) -> None:
    recorded = walk(vector(300), 12)
    recorded.weights[5, 7] = np.nan
    path = recorded.write(tmp_path / "run.zarr", width=50)
    values = moved(recorded.weights)[by]
    edges = np.array([0, 1, 2, 3]) / 3 * np.nanmax(values)
    reports = [measure(path, by=by, draw=4, seed=seed) for seed in (1, 1, 2)]
    assert reports[0] == reports[1]
    assert reports[0].drawn != reports[2].drawn
    for third, weights in enumerate(reports[0].drawn):
        low, high = edges[third] if third else -1, edges[third + 1]
        members = [p for p in range(300) if low < values[p] <= high]
        places = [w.parameter for w in weights]
        assert len(set(places)) == len(places) == min(4, len(members))
        assert set(places) <= set(members)
    # A weight's luck does not depend on how many are drawn.
    more = measure(path, by=by, draw=9, seed=1)
    for few, many in zip(reports[0].drawn, more.drawn, strict=True):
        assert set(few) <= set(many)


def test_a_weight_s_luck_does_not_depend_on_what_else_is_measured(tmp_path: Path) -> None:
    table = ParameterTable.of(
        [("a", (150,), "float32", "weight"), ("b", (150,), "float32", "weight")]
    )
    recorded = wandering(300, 8)
    recorded.weights[-1, 299] = 100  # the histogram of b alone has the same thirds
    path = Recorded(table, recorded.steps, recorded.weights).write(tmp_path / "run.zarr")
    together, alone = (measure(path, draw=20, include=i).drawn[0] for i in (("a", "b"), "b"))
    assert 0 < len({w for w in together if w.name == "b"}) < 20
    assert {w for w in together if w.name == "b"} < set(alone)
    assert len({w.index for w in together}) > 15  # and tensors have keys of their own


def test_each_weight_of_a_third_is_as_likely(tmp_path: Path) -> None:
    recorded = wandering(30, 2)
    recorded.weights[:] = 0
    recorded.weights[1] = np.arange(30) % 3 + 1  # ten in each third
    path = recorded.write(tmp_path / "run.zarr")
    drawn = [
        w.parameter
        for seed in range(200)
        for third in measure(path, draw=2, seed=seed, scheduler="synchronous").drawn
        for w in third
    ]
    counts = np.bincount(drawn, minlength=30)
    assert len(drawn) == 1200
    assert np.abs(counts - 40).max() < 30  # of 40 +- 5.7


# ---- outputs


@pytest.mark.usefixtures("small_parts")
def test_zarr_output_opens_anywhere_and_says_what_it_is(tmp_path: Path) -> None:
    recorded = walk(MODEL)
    recorded.weights[3, 4] = np.inf
    path = recorded.write(tmp_path / "run.zarr", width=10)
    out = tmp_path / "moved.zarr"
    report = measure(path, output=out, exclude="conv.bias")
    kept = np.r_[0:12, 14:50]
    group = zarr.open_group(out, mode="r")
    opened = xarray.open_zarr(out, consolidated=False)
    for name, values in moved(recorded.weights).items():
        assert group[name][:].dtype == np.float32
        assert np.array_equal(group[name][:], values[kept], equal_nan=True)
        assert opened[name].dims == ("parameter",)
        assert np.array_equal(opened[name].values, values[kept], equal_nan=True)
    header = dict(group.attrs)["weightcast"]
    assert header["source"] == str(path)
    assert (header["first_step"], header["last_step"], header["steps"]) == (0, 8, 9)
    assert header["groups"][0]["change"]["quantiles"] == list(report.model.change.quantiles)
    assert header["groups"][0]["not_finite"] == 1
    assert [(t["name"], t["offset"], t["origin"]) for t in header["tensors"]] == [
        ("conv.weight", 0, 0),
        ("scale", 12, 14),
        ("fc.weight", 13, 15),
    ]
    assert header["top"][0]["name"] == report.top[0].name
    check_report(report, recorded, slice(None), 0.01)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["moved.zarr", "run.zarr"]


@pytest.mark.usefixtures("small_parts")
def test_parquet_output_has_a_row_for_each_weight(tmp_path: Path) -> None:
    recorded = walk(MODEL)
    recorded.weights[3, 4] = np.nan
    path = recorded.write(tmp_path / "run.zarr", width=10)
    out = tmp_path / "moved.parquet"
    measure(path, output=out, exclude="conv.bias")
    rows = parquet.read_table(out).to_pylist()
    expected = moved(recorded.weights)
    assert parquet.ParquetFile(out).num_row_groups == 7  # of at most seven rows
    places = [*range(12), *range(14, 50)]
    assert len(rows) == len(places)
    for row, place in zip(rows, places, strict=True):
        p = next(p for p in MODEL if p.offset <= place < p.stop)
        assert (row["name"], row["kind"], row["index"]) == (p.name, p.kind, place - p.offset)
        for name in MEASURES:
            assert row[name] == (None if place == 4 else expected[name][place])
    header = json.loads(parquet.read_schema(out).metadata[b"weightcast"])
    assert header["tensors"][0]["shape"] == [2, 3, 2]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["moved.parquet", "run.zarr"]


def test_only_what_we_wrote_is_replaced(tmp_path: Path) -> None:
    path = walk(MODEL).write(tmp_path / "run.zarr")
    for name in ("moved.zarr", "moved.parquet"):
        out = tmp_path / name
        measure(path, output=out)
        with pytest.raises(OutputExistsError, match="--overwrite"):
            measure(path, output=out)
        measure(path, output=out, include="fc.*", overwrite=True)
    assert zarr.open_group(tmp_path / "moved.zarr", mode="r")["change"].shape == (35,)
    assert parquet.read_metadata(tmp_path / "moved.parquet").num_rows == 35
    other = walk(MODEL).write(tmp_path / "other.zarr")
    with pytest.raises(OutputExistsError, match="not a weightcast variation"):
        measure(path, output=other, overwrite=True)
    with pytest.raises(OutputExistsError, match="is an input"):
        measure(path, output=path, overwrite=True)
    assert History(other).parameters == MODEL
    with pytest.raises(FormatError, match="not a weightcast history"):
        History(tmp_path / "moved.zarr")


@pytest.mark.parametrize("name", ["moved.zarr", "moved.parquet", None])
def test_a_damaged_chunk_leaves_nothing_behind(
    tmp_path: Path, name: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    path = walk(MODEL).write(tmp_path / "run.zarr", width=10)
    damaged = path / "weights/c/3/1"
    damaged.write_bytes(damaged.read_bytes()[:-7])
    with pytest.raises(FormatError, match="c/3/1"):
        measure(path, output=name and tmp_path / name)
    assert sorted(p.name for p in tmp_path.rglob("*") if "run.zarr" not in str(p)) == ["tmp"]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    path = walk(MODEL).write(tmp_path / "run.zarr")
    left = tmp_path / f".moved.partial-{HOST}-99999999.scratch"  # no process has this number
    left.mkdir()
    (left / "change").write_bytes(b"...")
    measure(path, output=tmp_path / "moved.zarr")
    assert not left.exists()


def test_workers_that_do_not_see_the_scratch_files_say_so(tmp_path: Path) -> None:
    elsewhere = Measured(tmp_path / "elsewhere", "float32", MODEL, (0,))
    with pytest.raises(SchedulerError, match="share the folder"):
        elsewhere.put("change", [(0, np.float32([1]))])


# ---- wrong choices

WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "quantile above 1": ({"quantiles": (0.5, 50)}, UsageError, "from 0 to 1: got"),
    "quantile NaN": ({"quantiles": (float("nan"),)}, UsageError, "from 0 to 1"),
    "no quantile": ({"quantiles": ()}, UsageError, "from 0 to 1"),
    "still": ({"still": 1.5}, UsageError, "still must be"),
    "by": ({"by": "size"}, UsageError, "change, deviation: got 'size'"),
    "top": ({"top": -1}, UsageError, "top must be at least 0"),
    "draw": ({"draw": -1}, UsageError, "draw must be at least 0"),
    "seed": ({"draw": 1, "seed": -1}, UsageError, "seed"),
    "scheduler": ({"scheduler": "magic"}, UsageError, "scheduler"),
    "workers": ({"workers": 0}, UsageError, "at least 1"),
    "include": ({"include": "x*"}, UsageError, "select none"),
    "one step": ({"from_step": 8}, SamplingError, "1 of the 9 steps"),
    "no step": ({"from_step": 5, "to_step": 4}, SamplingError, "0 of the 9 steps"),
    "suffix": ({"output": "moved.csv"}, UsageError, ".zarr or .parquet"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_choices_are_refused_before_any_work(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = walk(MODEL).write(tmp_path / "run.zarr")
    options, error, text = WRONG[case]
    with pytest.raises(error, match=text):
        measure_variation(path, **options)
    assert [p.name for p in tmp_path.iterdir()] == ["run.zarr"]


def test_a_history_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError, match=r"none\.zarr"):
        measure_variation(tmp_path / "none.zarr")


@pytest.mark.parametrize(
    ("module", "name"), [("pyarrow.parquet", "out.parquet"), ("matplotlib.figure", "out.png")]
)
def test_a_missing_extra_is_named(
    module: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = walk(MODEL).write(tmp_path / "run.zarr")
    report = measure(path)
    monkeypatch.setitem(sys.modules, module, None)
    work = {
        "out.png": lambda out: save_variation_figure(report, History(path), out),
        "out.parquet": lambda out: measure(path, output=out),
    }
    with pytest.raises(MissingExtraError, match=r"weightcast\[p"):
        work[name](tmp_path / name)
    assert not (tmp_path / name).exists()


# ---- the picture


@pytest.mark.parametrize(
    ("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")]
)
def test_a_picture_is_what_its_name_says(tmp_path: Path, suffix: str, start: bytes) -> None:
    path = walk(MODEL).write(tmp_path / "run.zarr")
    out = tmp_path / f"moved{suffix}"
    report = measure(path, draw=2)
    save_variation_figure(report, History(path), out)
    assert out.read_bytes().startswith(start)
    with pytest.raises(OutputExistsError, match="--overwrite"):
        save_variation_figure(report, History(path), out)
    save_variation_figure(report, History(path), out, overwrite=True)


def texts(figure: Any) -> str:
    parts = [figure, *figure.subfigs]
    axes = [a for part in parts for a in part.axes]
    return "\n".join([a.get_title() for a in axes] + [t.get_text() for a in axes for t in a.texts])


def many(tensors: int) -> ParameterTable:
    rows: Sequence[Any] = [
        (f"${i}_x", (3,), "float32", "bias" if i % 2 else "weight") for i in range(tensors)
    ]
    return ParameterTable.of(rows)


@pytest.mark.parametrize(
    ("table", "shown", "hidden"),
    [
        (MODEL, ["conv.weight", "fc.weight", "upper third"], ["none"]),
        (many(9), ["weight  (15)", "bias  (12)"], ["$1_x"]),  # too many tensors: kinds
        (vector(20), ["change"], ["w  ("]),  # one tensor is the whole model
    ],
)
def test_the_picture_shows_tensors_or_kinds(
    tmp_path: Path, table: ParameterTable, shown: list[str], hidden: list[str]
) -> None:
    path = walk(table).write(tmp_path / "run.zarr")
    figure = draw_figure(measure(path, draw=2), History(path))
    figure.canvas.draw()
    found = texts(figure)
    assert [text for text in shown if text not in found] == []
    assert [text for text in hidden if text in found] == []


def test_names_in_the_picture_are_text(tmp_path: Path) -> None:
    """No formulas, and none is left out: Matplotlib reads "$" and a leading "_" otherwise."""
    name = "_orig_mod.$\\bad$_[w]"
    table = ParameterTable.of(
        [(name, (9,), "float32", "weight"), ("$x$$", (3,), "float32", "bias")]
    )
    path = walk(table).write(tmp_path / "run.zarr")
    figure = draw_figure(measure(path, draw=9), History(path))
    figure.canvas.draw()
    assert f"{name}  (9)" in texts(figure)
    legends = [axes.get_legend() for part in figure.subfigs for axes in part.axes]
    shown = [t.get_text().strip() for legend in legends if legend for t in legend.get_texts()]
    assert {f"{name}[{i}]" for i in range(9)} <= set(shown)


@pytest.mark.parametrize(("value", "text"), [(1.0, "no weight moved"), (np.nan, "is finite")])
def test_a_picture_of_nothing_says_so(tmp_path: Path, value: float, text: str) -> None:
    recorded = walk(MODEL)
    recorded.weights[:] = value
    path = recorded.write(tmp_path / "run.zarr")
    figure = draw_figure(measure(path, draw=2), History(path))
    figure.canvas.draw()
    assert text in texts(figure)


@given(st.data())
def test_trajectories_are_those_of_the_history(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    recorded = wandering(13, 17)
    path = tmp_path_factory.mktemp("few") / "run.zarr"
    recorded.write(path, block=data.draw(st.integers(1, 20)), width=data.draw(st.integers(1, 20)))
    weights = np.array(data.draw(st.lists(st.integers(0, 12), max_size=6)), np.int64)
    rows = np.array(data.draw(st.lists(st.integers(0, 16), max_size=6)), np.int64)
    found = trajectories(History(path), weights, rows)
    assert np.array_equal(found, recorded.weights[np.ix_(rows, weights)].T)


def test_a_long_history_is_drawn_with_few_points(tmp_path: Path) -> None:
    path = wandering(4, 3000).write(tmp_path / "run.zarr", block=64)
    figure = draw_figure(measure(path, draw=1), History(path))
    lines = [line for axes in figure.axes for line in axes.lines if len(line.get_xdata()) > 2]
    assert lines
    for line in lines:
        assert len(line.get_xdata()) == 1000
        assert (line.get_xdata()[0], line.get_xdata()[-1]) == (0, 2999)


# ---- the arithmetic


@st.composite
def sorted_runs(draw: st.DrawFn) -> list[np.ndarray]:
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    width = 8 * np.dtype(dtype).itemsize
    few = st.sampled_from([0.0, 1.0, 2.0])
    numbers = st.one_of(few, st.floats(0, allow_nan=False, allow_infinity=False, width=width))
    runs = draw(st.lists(st.lists(numbers, min_size=1, max_size=9), min_size=1, max_size=4))
    return [np.sort(np.array(run, dtype)) for run in runs]


@given(sorted_runs())
def test_every_rank_is_selected_from_runs(runs: list[np.ndarray]) -> None:
    together = np.sort(np.concatenate(runs))
    found = select(runs, np.arange(len(together)))
    assert found.dtype == together.dtype
    assert np.array_equal(found, together)


@given(sorted_runs(), st.lists(st.floats(allow_nan=False), max_size=5))
def test_numbers_at_most_a_bound_are_counted_exactly(
    runs: list[np.ndarray], bounds: list[float]
) -> None:
    """Also for bounds that the dtype of the runs does not have."""
    near = [float(run[0]) for run in runs]
    with np.errstate(over="ignore"):  # next to the largest number is infinity
        bounds = [*bounds, *near, *np.nextafter(near, np.inf), *np.nextafter(near, -np.inf)]
    together = np.concatenate(runs).astype(np.float64)
    expected = [(together <= bound).sum() for bound in bounds]
    assert at_most(runs, np.array(bounds, np.float64)).tolist() == expected


@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, np.nan, 5.0]), max_size=30), st.integers(0, 40))
def test_largest_first_breaks_ties_by_the_index(values: list[float], count: int) -> None:
    numbers = [i for i, v in enumerate(values) if not np.isnan(v)]
    expected = sorted(numbers, key=lambda i: (-values[i], i))[:count]
    assert largest_first(np.array(values, np.float32), count).tolist() == expected
