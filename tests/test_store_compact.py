"""A compacted history is the same history, and killing, full disks and mistakes lose nothing."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import xarray
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from store_everything import EXTRAS, Everything, assert_same, contents
from store_reference import (
    Killed,
    Recorded,
    files,
    histories,
    killed_after,
    refuses,
    same_bits,
    vector,
    wandering,
)
from zarr.core.buffer import cpu
from zarr.storage import LocalStore, MemoryStore

from weightcast.cli.main import main
from weightcast.store import (
    FormatError,
    History,
    HistoryWriter,
    NonFiniteError,
    OutputExistsError,
    ParameterTable,
    RecordingError,
    UsageError,
    compact,
    compact_in_place,
    compare,
    plan_compaction,
    verify,
)
from weightcast.store.rechunking import Options
from weightcast.store.ring import lock, ring_path

BUFFERS = ParameterTable.of([("mean", (2,), "float32", "buffer")])


def everything(rows: int = 13, parameters: int = 9) -> Everything:
    walk = wandering(parameters, rows)
    buffers = np.random.default_rng(2).normal(size=(rows, 2))
    return Everything.of(Recorded(walk.table, walk.steps, walk.weights, BUFFERS, buffers))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A history of 9 weights x 13 steps, with everything, in chunks of 3 x 4."""
    return everything().write(tmp_path / "run.zarr", width=3)


@pytest.fixture
def before(path: Path) -> dict[str, np.ndarray]:
    return contents(History(path))


# ---- the copy


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_copy_is_the_same_bits_in_other_chunks(tmp_path_factory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("copy")
    extras = tuple(data.draw(st.sets(st.sampled_from(EXTRAS))))
    source = Everything.of(data.draw(histories()), extras)
    t, p = source.recorded.weights.shape
    block, width = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 9))
    path = source.write(folder / "run.zarr", block=block, width=width)
    size = source.recorded.weights.itemsize
    low, high = (data.draw(st.none() | st.integers(0, 8)) for _ in range(2))
    options = Options(low or None, high or None, data.draw(st.none() | st.integers(1, 600)))
    least = 5 * 8 * max(t, options.steps_per_chunk or 1, 1) * max(p, 4) * 20
    options = Options(*list(vars(options).values())[:3], data.draw(st.integers(least, 8 * least)))
    preset = data.draw(st.sampled_from(["fast", "compact"]))
    history = History(path)
    plan = plan_compaction(history, preset=preset, options=options)
    found = compact(history, folder / "copy.zarr", plan)
    assert all(d.ok and not d.different for d in found)
    assert {d.array for d in found} >= {"step", "time", "weights", *extras}
    assert_same(folder / "copy.zarr", contents(history))
    copy = History(folder / "copy.zarr")
    kept = {n: v for n, v in vars(history.header).items() if n not in ("preset", "versions")}
    assert kept.items() <= vars(copy.header).items()
    assert copy.header.preset == preset
    assert history.header.versions.items() < copy.header.versions.items()
    for name, array in copy.wide.items():
        wanted = (options.parameters_per_chunk, options.steps_per_chunk)
        assert all(
            w in (None, c) or c == max(array.shape[0], 1)
            for w, c in zip(wanted, array.chunks, strict=True)
        )
        if array.shards:
            numbers = np.prod(array.shards)
            assert numbers * array.dtype.itemsize <= max(options.shard or 0, size)
        assert array.metadata.dimension_names == history.wide[name].metadata.dimension_names
    assert verify(copy).ok
    assert verify(copy).unchecked == []
    assert verify(copy).leftovers == 0
    shutil.rmtree(folder)


def test_chunks_of_nothing_but_the_fill_value_are_written(tmp_path: Path) -> None:
    # a missing one would be damage
    nothing = np.full((1, 5), np.nan, np.float32)
    for i, shard in enumerate((None, 48)):
        path = Recorded(vector(5), [0], nothing).write(tmp_path / f"run{i}.zarr")
        options = Options(steps_per_chunk=4, parameters_per_chunk=2, shard=shard)
        history = History(path)
        compact(history, tmp_path / f"copy{i}.zarr", plan_compaction(history, options=options))
        assert verify(tmp_path / f"copy{i}.zarr").ok
        assert_same(tmp_path / f"copy{i}.zarr", contents(history))


def test_the_plan_counts_what_is_read_and_written(path: Path, tmp_path: Path) -> None:
    options = Options(steps_per_chunk=6, parameters_per_chunk=2, memory=5 * 4 * 6 * 4)
    history = History(path)
    plan = plan_compaction(history, options=options)
    weights = next(a for a in plan.arrays if a.name == "weights")
    assert weights.band == (4, 6)
    read = 0
    for parameters, steps in weights.bands():
        wide = {p // 3 for p in range(parameters.start, parameters.stop)}
        read += len(wide) * len({t // 4 for t in range(steps.start, steps.stop)})
    assert weights.reads == read == (2 + 2 + 1) * (2 + 2 + 1)
    compact(history, tmp_path / "copy.zarr", plan)
    written = [f for f in (tmp_path / "copy.zarr/weights/c").rglob("*") if f.is_file()]
    assert weights.files == len(written) == 5 * 3
    assert weights.bytes == 9 * 13 * 4
    for text in ("13 of 13 steps", "compact", "(2, 6)", "15 files", "(3, 4)"):
        assert text in repr(plan)


def test_what_does_not_fit_in_memory_is_refused(path: Path) -> None:
    needed = 5 * 4 * 3 * 8
    chunks = {"steps_per_chunk": 8, "parameters_per_chunk": 3}
    with refuses(UsageError, "chunk", "3 weights x 8 steps", "--memory", "--steps-per-chunk"):
        plan_compaction(History(path), options=Options(**chunks, memory=needed - 1))
    with refuses(UsageError, "steps_per_chunk", 0):
        Options(steps_per_chunk=0)


def test_chunks_are_as_large_as_recorded_ones_but_longer(tmp_path: Path) -> None:
    history = History(wandering(40_000, 3).write(tmp_path / "run.zarr", block=1))
    for rows, chunk in ((3, (16384, 64)), (100, (10485, 100)), (2000, (4096, 256))):
        history.steps = np.arange(rows)
        (weights,) = plan_compaction(history).arrays
        assert weights.chunk == chunk
    # a bounded chunk that is not full is stored without loss: as few steps as can be are in one
    for rows, steps in ((1, 1), (13, 13), (256, 256), (257, 256), (300, 150), (1025, 205)):
        history.steps = np.arange(rows)
        (weights,) = plan_compaction(history, preset="bounded", error=1).arrays
        assert weights.chunk[1] == steps
        assert rows % steps == min(rows % n for n in range(min(rows, 128), min(rows, 256) + 1))
    # of a huge model, whole chunks still fit in memory
    huge = mock.Mock(shape=(10**9, 4), chunks=(10**6, 2), dtype=np.dtype("float32"))
    with mock.patch.dict(history.wide, {"weights": huge}):
        plan = plan_compaction(history, options=Options(memory=64 << 20))
    assert plan.memory <= 64 << 20


def test_memory_stays_within_its_bound(tmp_path: Path) -> None:
    path = wandering(60_000, 64).write(tmp_path / "run.zarr", block=16, width=4096)  # 15 MB
    history, copy = History(path), tmp_path / "copy.zarr"
    plan = plan_compaction(history, preset="fast", options=Options(memory=4 << 20))
    compact(history, tmp_path / "warm.zarr", plan)
    tracemalloc.start()
    try:
        compact(history, copy, plan)
        assert tracemalloc.get_traced_memory()[1] < 5 << 20
    finally:
        tracemalloc.stop()


# ---- thinning


@pytest.mark.parametrize(
    ("choice", "kept"),
    [
        ({"every": 3}, [0, 3, 6, 9, 12]),
        ({"from_step": 2, "to_step": 5}, [2, 3, 4, 5]),
        ({"from_step": 5, "every": 4}, [8, 12]),
        ({"to_step": 0}, [0]),
    ],
)
def test_thinning_keeps_the_steps_asked_for(
    path: Path, before, tmp_path: Path, choice: dict[str, int], kept: list[int]
) -> None:
    options, history = Options(steps_per_chunk=2), History(path)
    plan = plan_compaction(history, options=options, **choice)
    compact(history, tmp_path / "thin.zarr", plan)
    thin = {name: v if "loss" in name else v[..., kept] for name, v in before.items()}
    assert_same(tmp_path / "thin.zarr", thin)
    note = History(tmp_path / "thin.zarr").header.versions["compacted"]
    assert f"{len(kept)} of 13 steps" in note
    assert all(d.ok for d in compare(History(tmp_path / "thin.zarr"), history))


def test_thinning_to_nothing_is_refused(path: Path) -> None:
    with refuses(UsageError, "no step", "0 to 12", 20):
        plan_compaction(History(path), from_step=20)
    with refuses(UsageError, "every", 0):
        plan_compaction(History(path), every=0)


# ---- what can be done with a copy


@pytest.mark.parametrize("shard", [None, 120])
@pytest.mark.parametrize("preset", ["fast", "compact", "bounded"])
def test_a_copy_is_resumed(tmp_path: Path, preset: str, shard: int | None) -> None:
    source = everything(rows=20)
    path = source.write(tmp_path / "run.zarr", width=3, rows=13)
    options = Options(steps_per_chunk=5, parameters_per_chunk=3, shard=shard)
    plan = plan_compaction(History(path), preset=preset, options=options)
    compact_in_place(History(path), plan)
    assert (History(path).weights.shards is not None) == (shard is not None)
    for low, high in ((13, 14), (14, 20)):
        source.append(path, low, high)
    history, recorded = History(path), source.recorded
    assert history.steps.tolist() == recorded.steps
    error = plan.error or 0
    assert np.abs(history["w"] - recorded.weights).max() <= error
    assert same_bits(history.snapshot(19, "gradients"), source.extras["gradients"][19])
    assert same_bits(history.state(19)["mean"], recorded.buffers[19])
    with HistoryWriter.open(path) as writer:
        writer.log("val/loss", [19], [0.125])
    assert History(path).metric("val/loss")[1][-1] == 0.125
    assert verify(path).ok


def test_a_copy_opens_in_zarr_and_xarray(path: Path, before, tmp_path: Path) -> None:
    compact(History(path), tmp_path / "copy.zarr")
    group = zarr.open_group(tmp_path / "copy.zarr", mode="r")
    assert same_bits(group["weights"][:], before["weights"])
    with xarray.open_zarr(tmp_path / "copy.zarr", consolidated=False) as opened:
        assert opened["weights"].dims == ("parameter", "step")
        assert same_bits(opened["weights"].values, before["weights"])
        assert opened["weights"].sel(step=3).values.tolist() == before["weights"][:, 3].tolist()


def test_attributes_of_the_user_are_kept(path: Path, tmp_path: Path) -> None:
    group = zarr.open_group(path, mode="r+")
    group.attrs["lab"] = {"room": 7}
    group["weights"].attrs["units"] = "1"
    compact(History(path), tmp_path / "copy.zarr")
    copy = zarr.open_group(tmp_path / "copy.zarr", mode="r")
    assert copy.attrs["lab"] == {"room": 7}
    assert dict(copy["weights"].attrs) == {"units": "1"}


def test_a_remote_history_is_copied_and_never_replaced(path: Path, before, tmp_path: Path) -> None:
    found = {str(f.relative_to(path)): f for f in path.rglob("*") if f.is_file()}
    store = MemoryStore({key: cpu.Buffer.from_bytes(f.read_bytes()) for key, f in found.items()})
    remote, copy = History(store), tmp_path / "copy.zarr"
    assert verify(remote).ok
    compact(remote, copy)
    assert_same(copy, before)
    with refuses(UsageError, "local"):
        compact_in_place(remote)
    with refuses(UsageError, "local"):
        compact(remote, tmp_path / "other.zarr", delete_original=True)
    with refuses(UsageError, "local", "memory://x"):
        compact(remote, "memory://x")
    del store._store_dict["weights/c/1/1"]
    (damage,) = verify(remote).damage
    assert (damage.array, damage.chunk, damage.steps) == ("weights", "c/1/1", (4, 7))


# ---- bounded


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("parameters", [1, 8, 9])
def test_the_default_bound_is_of_the_median_change(tmp_path: Path, dtype, parameters) -> None:
    walk = wandering(parameters, 13, seed=parameters, dtype=dtype)
    history = History(walk.write(tmp_path / "run.zarr", width=3))
    for choice, rows in (({}, (0, 12)), ({"from_step": 2, "to_step": 7}, (2, 7))):
        change = sorted(np.abs(walk.weights[rows[1]] - walk.weights[rows[0]]))
        median = float(change[(parameters - 1) // 2])
        plan = plan_compaction(history, preset="bounded", **choice)
        assert plan.error == 1e-3 * median
        plan = plan_compaction(history, preset="bounded", relative_error=0.25, **choice)
        assert plan.error == 0.25 * median


def test_a_bounded_copy_keeps_its_bound_and_says_so(tmp_path: Path) -> None:
    path = everything(rows=60, parameters=90).write(tmp_path / "run.zarr", block=16)
    before = contents(History(path))
    once, twice = tmp_path / "once.zarr", tmp_path / "twice.zarr"
    for source, copy, error in ((path, once, 0.01), (once, twice, 0.02)):
        plan = plan_compaction(History(source), preset="bounded", error=error)
        found = {d.array: d for d in compact(History(source), copy, plan)}
        assert 0 < found["weights"].largest <= error
        assert found["weights"].bound == error
        assert [n for n, d in found.items() if d.different] == ["weights"]
    assert History(once).header.error == 0.01
    assert History(twice).header.error == pytest.approx(0.03)
    gap = np.abs(contents(History(twice))["weights"] - before["weights"])
    assert 0.01 < gap.max() <= 0.03
    exact = {n: v for n, v in before.items() if n != "weights"}
    assert_same(once, exact | {"weights": contents(History(once))["weights"]})
    lossless = tmp_path / "lossless.zarr"
    compact(History(twice), lossless)
    assert History(lossless).header.error == pytest.approx(0.03)  # it is no more exact for that
    assert main(["verify", str(lossless), "--against", str(path)]) == 0


def changed(tmp_path: Path, last: list[float]) -> History:
    rows = np.float32([[0] * len(last), last])
    return History(Recorded(vector(len(last)), [0, 9], rows).write(tmp_path / "moved.zarr"))


def test_a_bound_that_cannot_be_found_is_refused_with_advice(path: Path, tmp_path: Path) -> None:
    with refuses(UsageError, "did not change", "--error"):
        plan_compaction(changed(tmp_path, [0, 0, 5]), preset="bounded")
    shutil.rmtree(tmp_path / "moved.zarr")
    with refuses(NonFiniteError, "step 0", "9", "--error"):
        plan_compaction(changed(tmp_path, [np.nan, np.inf, 5]), preset="bounded")
    with refuses(UsageError, "two steps", "--error"):
        plan_compaction(History(path), preset="bounded", to_step=0)
    for wrong in ({"relative_error": 0.0, "preset": "bounded"}, {"relative_error": 0.1}):
        with refuses(UsageError, "relative error"):
            plan_compaction(History(path), **wrong)
    with refuses(UsageError, "relative error"):
        plan_compaction(History(path), preset="bounded", relative_error=0.1, error=0.1)
    with refuses(UsageError, "lossless"):
        plan_compaction(History(path), error=0.1)
    with refuses(UsageError, "preset", "tiny"):
        plan_compaction(History(path), preset="tiny")


# ---- nothing is lost


def left_beside(path: Path) -> list[str]:
    return sorted(p.name for p in path.parent.iterdir() if p != path)


def shuffle_first(values: np.ndarray) -> np.ndarray:
    values = values.copy()
    values[0, 0] += 1
    return values


def test_a_copy_that_is_wrong_replaces_nothing(path: Path, before, tmp_path: Path) -> None:
    # a disk, a memory or a codec that changes one value on the way
    kept, write = files(path), zarr.Array.__setitem__

    def wrong(array: zarr.Array, where: object, values: np.ndarray) -> None:
        write(array, where, shuffle_first(values) if values.ndim == 2 else values)

    copy = tmp_path / "copy.zarr"
    for action in (compact_in_place, lambda h: compact(h, copy, delete_original=True)):
        with (
            mock.patch.object(zarr.Array, "__setitem__", wrong),
            refuses(FormatError, "weights", "differ", "by up to 1", "nothing was replaced"),
        ):
            action(History(path))
        assert files(path) == kept
        assert left_beside(path) == []


@contextmanager
def full_disk(writes: int) -> Iterator[None]:
    """A disk that takes that many files and no more."""
    original, done = LocalStore.set, []

    async def put(self: LocalStore, key: str, *args: object) -> None:
        if len(done) >= writes:
            raise OSError(errno.ENOSPC, "No space left on device", key)
        done.append(key)
        await original(self, key, *args)

    with mock.patch.object(LocalStore, "set", put):
        yield


@pytest.mark.parametrize("writes", [0, 3, 15])
def test_a_full_disk_leaves_the_original_and_nothing_else(
    path: Path, writes: int, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = files(path)
    for words in (["--in-place"], ["-o", str(path.with_name("copy.zarr")), "--delete-original"]):
        with full_disk(writes):
            assert main(["compact", str(path), *words]) == 1
        (line,) = [x for x in capsys.readouterr().err.splitlines() if "weightcast:" in x]
        assert "No space left" in line
        assert files(path) == kept
        assert left_beside(path) == []


def test_a_damaged_original_is_not_replaced(path: Path) -> None:
    chunk = path / "weights/c/1/1"
    chunk.write_bytes(chunk.read_bytes()[:-1])
    kept = files(path)
    with refuses(FormatError, "weights", "damaged"):
        compact_in_place(History(path))
    assert files(path) == kept
    assert left_beside(path) == []


def test_killed_at_any_change_of_a_file_leaves_the_original(path: Path, before) -> None:
    def shrink() -> None:
        compact_in_place(History(path), plan_compaction(History(path), preset="fast"))

    with killed_after(10**6) as seen:
        shrink()
    assert len(seen) > 20
    kept = files(path)
    for n in range(0, len(seen) - 1, 3):
        with killed_after(n), pytest.raises(Killed):
            shrink()
        assert files(path) == kept
    shrink()
    assert_same(path, before)


COMPACTOR = """
import os, sys
import weightcast.store, rich.progress, rich.table
from weightcast.cli.main import main
while line := sys.stdin.readline():
    child = os.fork()
    if not child:
        sys.stdout = open(os.devnull, "w")
        os._exit(main(["compact", *line.split()]))
    print(child, flush=True)
    sys.stdin.readline()  # until then the number is the child's, dead or alive
    print(os.waitpid(child, 0)[1], flush=True)
"""


@contextmanager
def compactor() -> Iterator[Callable[[str, float | None], int]]:
    """Runs `weightcast compact` in a process of its own, and kills that after some seconds."""
    process = subprocess.Popen(
        [sys.executable, "-c", COMPACTOR],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin
    assert process.stdout

    def run(words: str, seconds: float | None) -> int:
        print(words, file=process.stdin, flush=True)
        child = int(process.stdout.readline())
        if seconds is not None:
            time.sleep(seconds)
            os.kill(child, signal.SIGKILL)
        print(file=process.stdin, flush=True)
        return int(process.stdout.readline())

    try:
        yield run
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


def test_killed_by_the_system_it_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    path = wandering(40, 60).write(tmp_path / "run.zarr", width=20, block=16)
    before, moment = contents(History(path)), random.Random(0)
    ends = set()
    with compactor() as run:
        for _ in range(2):  # the first waits for imports
            begin = time.perf_counter()
            assert run(f"{path} --in-place --steps-per-chunk 16", None) == 0
            whole = time.perf_counter() - begin
        for i in range(20):
            steps = 8 + i % 2 * 8
            code = run(f"{path} --in-place --steps-per-chunk {steps}", moment.random() * whole)
            ends.add(code)
            assert_same(path, before)
            assert verify(path).ok
        assert signal.SIGKILL in ends
        assert run(f"{path} --in-place --preset fast", None) == 0
    assert_same(path, before)
    assert History(path).header.preset == "fast"
    assert left_beside(path) == []


def test_a_recording_goes_on_in_the_compacted_history(path: Path) -> None:
    link = path.with_name("link.zarr")
    link.symlink_to(path)
    compact_in_place(History(link))
    assert link.is_symlink()
    assert History(path).header.versions["compacted"]
    assert left_beside(path) == ["link.zarr"]


def test_what_is_being_recorded_is_refused(path: Path, tmp_path: Path) -> None:
    copy, kept = tmp_path / "copy.zarr", files(path)
    actions = [
        compact_in_place,
        lambda h: compact(h, copy),
        lambda h: compact(h, copy, delete_original=True),
    ]
    descriptor = lock(ring_path(path), create=True)
    assert descriptor is not None
    try:
        for action in actions:
            with refuses(RecordingError, path, "being recorded"):
                action(History(path))
    finally:
        os.close(descriptor)
    history = History(path)  # which adds what waits, if it can
    ring_path(path).write_bytes(b"steps that wait")
    for action in actions[::2]:
        with refuses(RecordingError, path, "weightcast recover"):
            action(history)
    assert ring_path(path).read_bytes() == b"steps that wait"
    ring_path(path).unlink()
    assert files(path) == kept
    assert left_beside(path) == []


def test_no_recording_begins_while_a_history_is_replaced(path: Path) -> None:
    locked = []

    def look(*_: object) -> None:
        locked.append(lock(ring_path(path), create=True))

    compact_in_place(History(path), progress=look)
    assert set(locked) == {None}
    descriptor = lock(ring_path(path), create=True)
    assert descriptor is not None
    os.close(descriptor)


def test_what_was_recorded_since_it_was_opened_is_not_lost(path: Path, tmp_path: Path) -> None:
    history = History(path)
    everything(rows=14).append(path, 13, 14)
    with refuses(RecordingError, path):
        compact_in_place(history)
    with refuses(RecordingError, path):
        compact(history, tmp_path / "copy.zarr", delete_original=True)
    assert len(History(path)) == 14


def test_what_is_not_the_historys_is_not_lost(path: Path, tmp_path: Path) -> None:
    (path / "notes.txt").write_text("mine")
    for action in (
        compact_in_place,
        lambda h: compact(h, tmp_path / "copy.zarr", delete_original=True),
    ):
        with refuses(UsageError, path, "notes.txt"):
            action(History(path))
    assert (path / "notes.txt").read_text() == "mine"


def test_thinned_copies_never_replace_the_original(path: Path, tmp_path: Path) -> None:
    plan = plan_compaction(History(path), every=2)
    with refuses(UsageError, "6 recorded steps", "-o"):
        compact_in_place(History(path), plan)
    with refuses(UsageError, "6 recorded steps", "-o"):
        compact(History(path), tmp_path / "copy.zarr", plan, delete_original=True)
    assert len(History(path)) == 13


def test_outputs_are_checked_first(path: Path, tmp_path: Path) -> None:
    kept = files(path)
    for output in (path, path / "copy.zarr", tmp_path):
        with refuses(OutputExistsError, output):
            compact(History(path), output, overwrite=True)
    other = wandering(2, 3).write(tmp_path / "other.zarr")
    with refuses(OutputExistsError, other, "--overwrite"):
        compact(History(path), other)
    assert len(History(other)) == 3
    compact(History(path), other, overwrite=True)
    assert len(History(other)) == 13
    assert files(path) == kept


# ---- the command


def test_the_command_compacts(
    path: Path, before, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy, kept = tmp_path / "copy.zarr", files(path)
    words = ["compact", str(path), "-o", str(copy), "--steps-per-chunk", "8"]
    assert main([*words, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    for text in ("weights", "12 of 3 x 4", "2 of 9 x 8", "13 of 13 steps", "compact"):
        assert text in shown
    assert left_beside(path) == []
    assert main([*words, "--parameters-per-chunk", "3", "--shard", "1"]) == 0
    assert "every bit the same" in capsys.readouterr().out
    assert_same(copy, before)
    assert History(copy).weights.shards == (9, 16)
    assert files(path) == kept
    assert main([*words, "--overwrite", "--every", "4", "--from-step", "4"]) == 0
    assert History(copy).steps.tolist() == [4, 8, 12]
    assert main([*words, "--overwrite", "--delete-original"]) == 0
    assert_same(copy, before)
    assert left_beside(copy) == []
    assert main(["compact", str(copy), "--in-place", "--preset", "bounded"]) == 0
    shown = capsys.readouterr().out
    assert "weights within" in shown
    assert "largest error" in shown
    assert main(["verify", str(copy), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["error"] == History(copy).header.error
