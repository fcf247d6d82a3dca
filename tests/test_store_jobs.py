"""What goes on around a sampling job: inputs that change, workers that are late, paths, limits."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from dataset_cases import build
from store_reference import Recorded, files, left_in, refuses, vector, wandering

from weightcast.store import (
    Dataset,
    FormatError,
    History,
    OutputExistsError,
    Recipe,
    UsageError,
    build_dataset,
    describe_plan,
    plan_sampling,
    rebuild_dataset,
)
from weightcast.store import passes as passes_module
from weightcast.store.passes import Job
from weightcast.store.scanning import Work, scan
from weightcast.store.scratch import NewFile
from weightcast.store.shares import apportion
from weightcast.store.writing import write_rows


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return wandering(30, 60).write(tmp_path / "run.zarr", width=7)


# ---- outputs and inputs


def test_an_output_never_holds_an_input(tmp_path: Path) -> None:
    """--overwrite would delete it."""
    outer = wandering(9, 30).write(tmp_path / "outer.zarr")
    build_dataset(outer, tmp_path / "data.zarr", 20)
    inner = wandering(9, 30).write(tmp_path / "data.zarr" / "run.zarr")
    with refuses(OutputExistsError, "data.zarr", "run.zarr", "must not lie in each other"):
        build_dataset(inner, tmp_path / "data.zarr", 20, overwrite=True)
    assert len(History(inner)) == 30
    for place in (outer / "data.zarr", outer / "a" / "data.zarr"):
        with refuses(OutputExistsError, "must not lie in each other"):
            build_dataset(outer, place, 20)
    assert left_in(outer) == left_in(inner)


@pytest.mark.parametrize("kept_open", [0, 4])
def test_a_history_replaced_meanwhile_fails_the_job(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept_open: int
) -> None:
    """Also by one of the same model and steps: the samples would be of two histories."""
    monkeypatch.setattr("weightcast.store.scanning.MOST_OPEN", kept_open)
    other = wandering(30, 60, seed=9).write(tmp_path / "other.zarr", width=7)

    def replace(what: str, done: int, total: int) -> None:
        if (what, done) == ("decode", 2):
            shutil.rmtree(run)
            shutil.copytree(other, run)

    with refuses(FormatError, "run.zarr", "replaced"):
        build_dataset(run, tmp_path / "d.zarr", 90, scheduler="synchronous", progress=replace)
    assert left_in(tmp_path) == ["other.zarr", "run.zarr"]


def test_a_history_that_grows_meanwhile_does_no_harm(tmp_path: Path) -> None:
    from weightcast.store import HistoryWriter

    walk = wandering(30, 90)
    first = Recorded(walk.table, walk.steps[:60], walk.weights[:60])
    run = first.write(tmp_path / "run.zarr", width=7)
    build_dataset(run, tmp_path / "before.zarr", 90)

    def grow(what: str, done: int, total: int) -> None:
        if (what, done) == ("decode", 2):
            with HistoryWriter.open(run) as writer:
                writer.append(*walk.rows(60, 90))

    build_dataset(run, tmp_path / "during.zarr", 90, scheduler="synchronous", progress=grow)
    assert len(History(run)) == 90
    assert files(tmp_path / "during.zarr") == files(tmp_path / "before.zarr")


def test_paths_hold_in_every_working_directory(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    build_dataset("run.zarr", "d.zarr", 90)
    plan = plan_sampling(History("run.zarr"), Recipe(90))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert str(plan.sources[0].arguments[0]) == Dataset(tmp_path / "d.zarr").origins[0].path
    rebuild_dataset(tmp_path / "d.zarr", "again.zarr")
    assert files(Path("again.zarr")) == files(tmp_path / "d.zarr")


# ---- workers that were cut off


@pytest.fixture
def late(tmp_path: Path) -> Iterator[list[Any]]:
    """The `Work` of every job, as a worker that was cut off still holds it."""
    seen: list[Any] = []
    real = Job.run

    def run(job: Job) -> None:
        seen.append(job.work)
        try:
            real(job)
        finally:
            seen[-1] = job.work

    with mock.patch.object(Job, "run", run):
        yield seen


def test_a_late_worker_of_a_failed_job_writes_nowhere(
    run: Path, tmp_path: Path, late: list[Work]
) -> None:
    path = tmp_path / "d.zarr"

    def stop(what: str, done: int, total: int) -> None:
        if what == "write samples":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(run, path, Recipe(90, seed=1), progress=stop)

    def disturb(what: str, done: int, total: int) -> None:
        with pytest.raises(OSError, match="No such file"):
            scan(late[0], 0)

    dataset = build(run, path, Recipe(90, seed=2), progress=disturb)
    assert files(path) == files(build(run, tmp_path / "other.zarr", Recipe(90, seed=2)).path)
    assert dataset.recipe.seed == 2
    assert left_in(tmp_path) == ["d.zarr", "other.zarr", "run.zarr"]


def test_a_late_first_scan_does_not_undo_the_second(run: Path, tmp_path: Path) -> None:
    recipe = Recipe(90)
    expected = files(build(run, tmp_path / "expected.zarr", recipe).path)
    first: list[Work] = []
    real = passes_module.scan

    def scan_and_be_late(work: Work, index: int) -> Any:
        found = real(work, index)
        if not work.keep_all:
            first.append(work)
        else:
            real(first[0], index)
        return found

    with (
        mock.patch("weightcast.store.sources._least_key", return_value=1),
        mock.patch.object(passes_module, "scan", scan_and_be_late),
    ):
        build(run, tmp_path / "d.zarr", recipe)
    assert files(tmp_path / "d.zarr") == expected


def test_a_task_that_runs_twice_writes_the_same(run: Path, tmp_path: Path) -> None:
    expected = files(build(run, tmp_path / "expected.zarr", Recipe(90)).path)

    def twice(function: Any) -> Any:
        def call(*task: Any) -> Any:
            function(*task)
            return function(*task)

        return call

    names = ("scan", "stratify", "count_chosen", "write_rows", "census_of_keys")
    patches = {name: twice(getattr(passes_module, name)) for name in names}
    with mock.patch.multiple(passes_module, **patches):
        build(run, tmp_path / "d.zarr", Recipe(90))
    assert files(tmp_path / "d.zarr") == expected
    assert patches["write_rows"] is not write_rows


def test_a_scratch_file_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "0-kept"
    with suppress(KeyboardInterrupt), NewFile(path) as file:
        file.write(np.arange(5))
        raise KeyboardInterrupt
    assert not path.exists()
    with NewFile(path) as file, NewFile(path) as other:  # two workers
        file.write(np.arange(5))
        other.write(np.arange(5))
    assert np.fromfile(path, np.int64).tolist() == list(range(5))


def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "0-kept"
    with Path("/dev/full").open("wb") as full:
        opened = mock.patch.object(Path, "open", return_value=full)
        with refuses(OSError, "No space left on device", path), opened, NewFile(path) as file:
            file.write(np.arange(50_000))
    assert not path.exists()


# ---- limits


def test_strata_fit_their_column(tmp_path: Path) -> None:
    run = wandering(300, 30).write(tmp_path / "run.zarr")
    edges, shares = np.linspace(0, 1, 128), np.full(127, 1 / 127)
    dataset = build(run, tmp_path / "d.zarr", Recipe(254, edges=edges, shares=shares))
    assert np.bincount(dataset.stratum).tolist() == [2] * 127
    with refuses(UsageError, "127 strata at most", 128):
        Recipe(256, edges=np.linspace(0, 1, 129), shares=np.full(128, 1 / 128))


@pytest.mark.parametrize("total", [1, 7, 10**10, (1 << 48) - 1])
@pytest.mark.parametrize("shares", [(0.5000000001, 0.5), (0.1,) * 10, (1 / 3,) * 3, (1.0, 0.0)])
def test_parts_sum_to_the_whole(total: int, shares: tuple[float, ...]) -> None:
    parts = apportion(total, shares)
    assert sum(parts) == total
    exact = [total * share / sum(shares) for share in shares]
    assert all(abs(a - b) <= 1.001 for a, b in zip(parts, exact, strict=True))


def test_a_chunk_with_many_candidates_is_several_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Recorded(vector(20), list(range(40)), wandering(20, 40).weights).write(
        tmp_path / "run.zarr", width=8
    )
    monkeypatch.setattr("weightcast.store.planning.TASK_CANDIDATES", 3 * 4)
    plan = plan_sampling(History(run), Recipe(10, draws=4))
    assert [(t.low, t.high) for t in plan.tasks] == [
        *((0, 3), (3, 6), (6, 8)),
        *((8, 11), (11, 14), (14, 16)),
        *((16, 18), (18, 20)),
    ]
    assert plan.bytes_decoded == (3 * 8 + 3 * 8 + 2 * 4) * 40 * 4


def test_what_appears_meanwhile_is_not_replaced(run: Path, tmp_path: Path) -> None:
    """Two builds to one path: the second to end is told, and the first one's dataset stays."""
    path = tmp_path / "d.zarr"
    other: list[dict[str, bytes]] = []

    def build_another(what: str, done: int, total: int) -> None:
        if what == "write samples" and not other:
            other.append({})
            moved = build(run, tmp_path / "first.zarr", Recipe(90, seed=1)).path.rename(path)
            other[0] = files(moved)

    with refuses(OutputExistsError, path, "meanwhile"):
        build(run, path, Recipe(90, seed=2), progress=build_another)
    assert files(path) == other[0]
    assert left_in(tmp_path) == ["d.zarr", "run.zarr"]
    build(run, path, Recipe(90, seed=2), overwrite=True)
    assert files(path) != other[0]


def test_the_plan_counts_a_chunk_for_each_task_that_reads_it(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = History(run)
    once = describe_plan(plan_sampling(history, Recipe(90)))
    assert once.read == sum(f.stat().st_size for f in run.glob("weights/c/*/*"))
    monkeypatch.setattr("weightcast.store.planning.TASK_POINTS", 1)  # a task a weight
    read = describe_plan(plan_sampling(history, Recipe(90))).read
    assert read is not None
    assert read > 4 * (once.read or 0)
