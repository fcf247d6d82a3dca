"""What goes wrong while a run is recorded: nothing that was handed over is lost or changed.

Kills hit runs that a warm process forks (`fault_trainers`); the weights of each step are known, so
that every value of every row is compared. Full and read-only disks are small ones, mounted here.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fault_trainers import Nursery, base_weights, loss_at, make_model, take_step
from store_reference import refuses
from support import eventually

from weightcast.cli.main import main
from weightcast.recorder import Recorder, feed
from weightcast.store import (
    History,
    OutputExistsError,
    RecordingError,
    recover,
    verify,
)
from weightcast.store.ring import in_use, ring_path

KILLS = int(os.environ.get("WEIGHTCAST_KILLS", "12"))  # of each kind; 50 pass too
SIZES: dict[int, dict[str, Any]] = {  # weights: how a run of them is recorded
    50: {"steps": 200, "options": {"memory": 20_000}},  # 58 rows
    60_000: {"steps": 40, "options": {"memory": 2_000_000}},  # 8 rows
    250_000: {"steps": 20, "options": {"memory": 8_100_000}},  # 8 rows of 1 MB
}


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as started:
        yield started


def check(path: Path, size: int, low: int, high: int | None = None) -> int:
    """The history holds all steps from 0 to one of low to high, and every value is right.

    Returns that last step. Nothing else is left beside it.
    """
    history, base = History(path), base_weights(size)
    last = len(history) - 1
    assert low <= last <= (low if high is None else high)
    steps = np.arange(last + 1)
    np.testing.assert_array_equal(history.steps, steps)
    np.testing.assert_array_equal(history["w"], base + np.float32(steps)[:, None])
    np.testing.assert_array_equal(history.wide["buffers"][0, : last + 1], steps)
    assert verify(path).ok
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name]  # no ring, nothing partial
    return last


def logged(path: Path) -> list[int]:
    """Steps of the metric's entries, whose values are right."""
    history = History(path)
    steps, losses = history.metric("loss") if history.metrics else (np.arange(0), np.arange(0))
    assert losses.tolist() == [loss_at(step) for step in steps]
    return steps.tolist()


def go_on(path: Path, size: int, last: int, steps: int = 3, **options: Any) -> None:
    """Record a few more steps, as a run resumed from the last recorded weights does."""
    model, base = make_model(size), torch.from_numpy(base_weights(size))
    if last >= 0:
        take_step(model, base, last)
    with Recorder(model, path, resume=True, **options) as recorder:
        for step in range(max(last, 0) + 1, last + steps + 1):
            take_step(model, base, step)
            recorder()
            recorder.log(loss=loss_at(step))


def moment(who: str, number: int) -> dict[str, Any]:
    """The n-th moment to kill at, in the start of a run, its course, or its end."""
    draw = random.Random(f"{who} {number}")
    size = draw.choice([50, 50, 50, 60_000, 60_000, 60_000, 250_000])
    at: int | str = draw.randrange(SIZES[size]["steps"])
    delay = draw.uniform(0, 0.005)
    if number % 5 == 0:
        at, delay = -1, draw.uniform(0, 0.05)
    elif number % 5 == 4:
        at, delay = "closing", draw.uniform(0, 0.03)
    order = draw.choice([1, -1])
    return {"kill": who, "size": size, **SIZES[size], "at": at, "delay": delay, "order": order}


def check_killed(path: Path, job: dict[str, Any], end: dict[str, Any]) -> None:
    if not path.exists():
        assert end["done"] < 0  # killed before the recorder was there
        return
    done = end["done"]
    last = check(path, job["size"], done if done > 0 else -1, max(done, 0) + 1)
    metric = logged(path)
    assert metric == list(range(1, len(metric) + 1))  # none is lost, none is there twice
    assert max(end["logged"], 0) <= len(metric) <= max(done, 0)
    if job["size"] == 50:
        go_on(path, 50, last)
        check(path, 50, last + 3)
        first = max(last, 0) + 1
        assert logged(path) == [*metric, *range(first, last + 4)]


@pytest.mark.parametrize("size", [50, 60_000])
def test_a_run_that_nobody_kills(nursery: Nursery, tmp_path: Path, size: int) -> None:
    end = nursery.run(tmp_path / "run.zarr", size=size, **SIZES[size])
    assert (end["done"], end["code"], end["error"]) == (SIZES[size]["steps"], 0, "")
    check(tmp_path / "run.zarr", size, end["done"])
    assert logged(tmp_path / "run.zarr") == list(range(1, end["done"] + 1))


@pytest.mark.parametrize("who", ["trainer", "drain", "both"])
def test_killed_at_many_moments(nursery: Nursery, tmp_path: Path, who: str) -> None:
    hits = 0
    for number in range(KILLS):
        job, path = moment(who, number), tmp_path / str(number) / "run.zarr"
        end = nursery.run(path, **job)
        try:
            assert end["code"] == (0 if who == "drain" or not end["hit"] else -signal.SIGKILL)
            check_killed(path, job, end)
        except Exception as error:
            error.add_note(f"{job}: {end}")
            raise
        hits += end["hit"]
        shutil.rmtree(path.parent, ignore_errors=True)
    assert hits >= 0.8 * KILLS  # else these were no kills


@pytest.mark.parametrize("who", ["trainer", "drain", "both"])
@pytest.mark.parametrize("at", [8, "closing"])
def test_killed_beside_a_real_drain_process(
    nursery: Nursery, tmp_path: Path, who: str, at: int | str
) -> None:
    path = tmp_path / "run.zarr"
    job = {"size": 60_000, **SIZES[60_000], "real": True}
    end = nursery.run(path, **job, kill=who, at=at, delay=0.02)
    assert end["hit"]
    check_killed(path, job, end)


MEMORY = pytest.mark.parametrize("memory", [None, 20_000], ids=["inline", "drain process"])


@MEMORY
@pytest.mark.parametrize(
    ("act", "code"),
    [("exit", 3), ("raise", 3), ("terminate", -signal.SIGTERM), ("interrupt", 3)],
)
def test_ways_to_end(
    nursery: Nursery, tmp_path: Path, act: str, code: int, memory: int | None
) -> None:
    """``os._exit``, an exception, SIGTERM, and Ctrl-C, which goes to the whole group."""
    job = {"size": 50, "steps": 100, "act": act, "act_at": 60, "log": False}
    real = act == "interrupt"  # only the real process is started out of its way
    end = nursery.run(tmp_path / "run.zarr", **job, real=real, options={"memory": memory})
    assert (end["code"], bool(end["drain"])) == (code, memory is not None)
    check(tmp_path / "run.zarr", 50, 60)


@MEMORY
@pytest.mark.parametrize("act", ["child exits", "child leaves", "child trains", "child drops"])
@pytest.mark.parametrize("at", [1, 40])
def test_forked_children_do_not_record(
    nursery: Nursery, tmp_path: Path, act: str, at: int, memory: int | None
) -> None:
    job = {"size": 50, "steps": 100, "act": act, "act_at": at, "log": False, "pace": 1e-3}
    end = nursery.run(tmp_path / "run.zarr", **job, options={"memory": memory})
    assert (end["code"], end["error"]) == (0, "")
    check(tmp_path / "run.zarr", 50, 100)


def test_a_child_that_outlives_a_killed_trainer(nursery: Nursery, tmp_path: Path) -> None:
    """It holds the trainer's files open: the drain process finishes all the same."""
    path, ends = tmp_path / "run.zarr", []
    job = {"size": 50, **SIZES[50], "act": "child outlives", "act_at": 40, "pace": 1e-3}
    run = threading.Thread(
        target=lambda: ends.append(nursery.run(path, **job, kill="trainer", at=150))
    )
    run.start()
    assert eventually(lambda: path.exists() and len(History(path)) > 100)
    assert eventually(lambda: not ring_path(path).exists())
    assert run.is_alive()  # the child is still there
    go_on(path, 50, len(History(path)) - 1)
    run.join()
    last = check(path, 50, ends[0]["done"] + 3, ends[0]["done"] + 4)
    assert last > 150


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import torch
from fault_trainers import base_weights, make_model, take_step
from weightcast.recorder import Recorder
model, base = make_model(50), torch.from_numpy(base_weights(50))
recorder = Recorder(model, {path!r}, memory={memory})
for step in range(1, 101):
    take_step(model, base, step)
    recorder()
"""


@MEMORY
def test_a_script_that_ends_without_closing(tmp_path: Path, memory: int | None) -> None:
    path = tmp_path / "run.zarr"
    names = {"tests": str(Path(__file__).parent), "path": str(path), "memory": memory}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(**names)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert eventually(lambda: not in_use(path))
    check(path, 50, 100)


class Run:
    """A run in this process, step by step."""

    def __init__(self, path: Path, size: int = 50, **options: Any) -> None:
        self.path, self.size, self.done = path, size, 0
        self.model, self.base = make_model(size), torch.from_numpy(base_weights(size))
        self.recorder = Recorder(self.model, path, **options)

    def steps(self, count: int, pace: float = 0) -> None:
        for _ in range(count):
            take_step(self.model, self.base, self.done + 1)
            self.recorder()
            self.done += 1
            time.sleep(pace)

    def drain(self) -> int:
        """The number of its drain process."""
        assert eventually(lambda: drains(self.path))
        return drains(self.path)[0]


def drains(path: Path) -> list[int]:
    """Drain processes of a history that are alive."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # it has just ended
        if b"weightcast.store.drain" in words and os.fsencode(path) in words:
            found.append(int(process.name))
    return found


def idle(run: Run) -> bool:
    """Wait until the drain process has nothing to do: all whole chunks are in the history."""
    block = History(run.path).weights.chunks[1]
    return eventually(lambda: len(History(run.path)) == (run.done + 1) // block * block)


def stop_drain(run: Run) -> int:
    """Wait until the drain process has committed something, and stop it for a while."""
    assert eventually(lambda: len(History(run.path)))
    os.kill(run.drain(), signal.SIGSTOP)
    return run.drain()


def raising(run: Run) -> str:
    """Let a run go on until its recorder raises; what it says."""
    with pytest.raises(RecordingError) as caught:
        run.steps(100_000, pace=1e-3)
    return str(caught.value)


@pytest.fixture
def watchful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "WATCH_SECONDS", 0.01)


@pytest.mark.usefixtures("watchful")
def test_a_dead_drain_process_stops_the_run(tmp_path: Path) -> None:
    run = Run(tmp_path / "run.zarr", memory=20_000)
    with refuses(RecordingError, run.path, "drain process", "signal 9"), run.recorder:
        run.steps(100)
        assert os.getpgid(run.drain()) == run.drain()  # Ctrl-C is for the trainer alone
        os.kill(run.drain(), signal.SIGKILL)
        run.steps(100_000, pace=1e-3)
    check(run.path, 50, run.done, run.done + 1)  # the trainer has finished it itself


@pytest.mark.usefixtures("watchful")
def test_a_run_may_go_on_unrecorded(tmp_path: Path) -> None:
    run = Run(tmp_path / "run.zarr", memory=20_000, on_error="warn")
    with warnings.catch_warnings(record=True) as caught, run.recorder:
        warnings.simplefilter("always")
        run.steps(100)
        os.kill(run.drain(), signal.SIGKILL)
        while not caught and run.done < 100_000:
            run.steps(1, pace=1e-3)
        warned = run.done
        run.steps(200)
        run.recorder.log(loss=1.0)
    (warning,) = caught
    assert "signal 9; the run goes on unrecorded" in str(warning.message)
    assert run.recorder.step == run.done
    last = check(run.path, 50, warned - 1, warned)
    assert run.recorder.summary().recorded == last + 1


@pytest.mark.usefixtures("watchful")
def test_a_drain_process_that_cannot_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path.parent / "nowhere"))
    run = Run(tmp_path / "run.zarr", memory=20_000)
    with pytest.raises(OSError, match="nowhere"), run.recorder:
        run.steps(100)
    check(run.path, 50, run.done, run.done + 1)


def test_a_full_ring_blocks(tmp_path: Path) -> None:
    run = Run(tmp_path / "run.zarr", memory=20_000)
    run.steps(60)
    pid = stop_drain(run)
    thread = threading.Thread(target=run.steps, args=(300,))
    thread.start()
    assert eventually(lambda: run.done > 60)
    time.sleep(0.1)
    seen = run.done
    time.sleep(0.1)
    assert (run.done, thread.is_alive()) == (seen, True)
    assert seen < 60 + 2 * 59
    os.kill(pid, signal.SIGCONT)
    thread.join()
    run.recorder.close()
    check(run.path, 50, 360)
    assert run.recorder.summary().skipped == 0


def test_a_full_ring_skips_and_counts(tmp_path: Path) -> None:
    run = Run(tmp_path / "run.zarr", memory=20_000, when_full="skip")
    run.steps(60)
    pid = stop_drain(run)
    run.steps(1000)
    os.kill(pid, signal.SIGCONT)
    assert eventually(lambda: len(History(run.path)) > 60)
    run.steps(10)
    run.recorder.close()
    history, summary = History(run.path), run.recorder.summary()
    assert summary.skipped > 800
    assert len(history) == summary.recorded == run.done + 1 - summary.skipped
    assert history.steps[-1] == run.done
    for row, step in enumerate(history.steps.tolist()):
        np.testing.assert_array_equal(history["w"][row], run.base.numpy() + np.float32(step))
    assert str(summary.skipped) in str(summary).replace(",", "")


@pytest.mark.parametrize("words", [{"when_full": "wait"}, {"on_error": "ignore"}])
def test_policies_have_names(tmp_path: Path, words: dict[str, str]) -> None:
    with refuses(ValueError, *words, *words.values()):
        Recorder(make_model(5), tmp_path / "run.zarr", **words)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Mount things below the test's folder, until the test ends."""
    mounted = []

    if subprocess.run(["unshare", "--mount", "true"], check=False).returncode:
        pytest.skip("small and read-only disks need the right to mount")

    def command(*words: object) -> None:
        line = ["mount", *map(str, words)]
        assert eventually(lambda: subprocess.run(line, check=False).returncode == 0)  # or busy
        if "remount" not in str(words):
            mounted.append(words[-1])

    yield command
    gc.collect()  # rings of dropped recorders are open files
    for place in reversed(mounted):
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def disk(tmp_path: Path, mount: Callable[..., None]) -> Path:
    """A disk of 6 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount("-t", "tmpfs", "-o", "size=6m", "tmpfs", folder)
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    return {str(f): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.mark.parametrize("overwrite", [False, True])
def test_no_room_for_the_ring(disk: Path, overwrite: bool) -> None:
    path = disk / "run.zarr"
    if overwrite:
        with Run(path).recorder:
            pass
    before = tree(disk)
    with refuses(RecordingError, ring_path(path), "allocated", "bytes", "space", "--memory"):
        Recorder(make_model(20_000), path, overwrite=overwrite)
    assert tree(disk) == before
    with Run(path, overwrite=overwrite).recorder:  # with less memory all is well
        pass
    check(path, 50, 0)


def fill_disk(run: Run) -> None:
    """Let a run go on until its drain process finds the disk full, and close it."""
    with pytest.raises(RecordingError) as closing, run.recorder:
        told = raising(run)
    for message in (told, str(closing.value)):
        assert "No space left" in message
        assert str(run.path) in message
    assert str(ring_path(run.path)) in str(closing.value)
    assert f"weightcast recover {run.path}" in str(closing.value)


@pytest.mark.usefixtures("watchful")
def test_a_disk_that_fills_up(
    disk: Path, mount: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(disk / "run.zarr", 20_000, memory=1_000_000)  # 12 rows
    fill_disk(run)
    with pytest.warns(UserWarning, match="wait in .*No space left.*weightcast recover"):
        history = History(run.path)
    committed = len(history)
    assert 12 < committed < run.done
    for step in range(committed):
        np.testing.assert_array_equal(history.state(step)["w"], run.base.numpy() + np.float32(step))
    assert main(["recover", str(run.path)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "No space left" in lines[0]
    mount("-o", "remount,size=64m", disk)
    assert main(["recover", str(run.path)]) == 0
    shown = capsys.readouterr().out
    last = check(run.path, 20_000, run.done, run.done + 1)
    assert (
        shown == f"added {last + 1 - committed} steps: {run.path} has {last + 1}, the last is "
        f"{last}\n"
    )


@pytest.mark.usefixtures("watchful")
def test_a_full_disk_may_only_warn(disk: Path, mount: Callable[..., None]) -> None:
    run = Run(disk / "run.zarr", 20_000, memory=1_000_000, on_error="warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with run.recorder:
            while not caught and run.done < 10_000:
                run.steps(1)
                time.sleep(1e-3)
            warned = run.done
            run.steps(50)
    texts = [str(w.message) for w in caught if "unrecorded" in str(w.message)]
    assert len(texts) == 2  # in the middle, and at the end
    assert all("No space left" in text for text in texts)
    mount("-o", "remount,size=64m", disk)
    assert recover(run.path) > 0
    check(run.path, 20_000, warned - 1, warned)


@pytest.mark.usefixtures("watchful")
def test_space_that_comes_back_before_the_end(disk: Path, mount: Callable[..., None]) -> None:
    run = Run(disk / "run.zarr", 20_000, memory=1_000_000)
    raising(run)
    mount("-o", "remount,size=64m", disk)
    run.recorder.close()
    check(run.path, 20_000, run.done, run.done + 1)


def read_only(mount: Callable[..., None], folder: Path) -> None:
    mount("--bind", folder, folder)
    mount("-o", "remount,ro,bind", folder)


def test_a_read_only_folder(tmp_path: Path, mount: Callable[..., None]) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    read_only(mount, folder)
    with pytest.raises(OSError, match=r"Read-only file system.*run\.zarr"):
        Recorder(make_model(5), folder / "run.zarr")


@pytest.mark.usefixtures("watchful")
def test_a_history_that_becomes_read_only(tmp_path: Path, mount: Callable[..., None]) -> None:
    run = Run(tmp_path / "run.zarr", memory=20_000)
    run.steps(100)
    assert eventually(lambda: len(History(run.path)))
    read_only(mount, run.path)
    with refuses(RecordingError, "Read-only", ring_path(run.path)), run.recorder:
        assert "Read-only" in raising(run)
    with pytest.warns(UserWarning, match="wait in"):
        committed = len(History(run.path))
    assert 0 < committed <= run.done
    mount("-o", "remount,rw,bind", run.path)
    added = recover(run.path)
    assert check(run.path, 50, run.done, run.done + 1) == committed + added - 1


def test_reading_what_a_dead_run_left_on_a_read_only_disk(
    nursery: Nursery, tmp_path: Path, mount: Callable[..., None]
) -> None:
    folder = tmp_path / "disk"
    path = folder / "run.zarr"
    end = nursery.run(path, size=50, **SIZES[50], kill="both", at=100)
    before = tree(folder)
    read_only(mount, folder)
    with pytest.warns(UserWarning, match=rf"wait in {ring_path(path)}.*Read-only"):
        history = History(path)
    assert 0 < len(history) <= end["done"] + 2
    np.testing.assert_array_equal(history["w"][-1], base_weights(50) + np.float32(len(history) - 1))
    assert tree(folder) == before
    with pytest.raises(OSError, match="Read-only"):
        recover(path)
    mount("-o", "remount,rw,bind", folder)
    check(path, 50, end["done"], end["done"] + 1)


@pytest.mark.usefixtures("watchful")
def test_a_chunk_that_cannot_be_written(tmp_path: Path) -> None:
    run = Run(tmp_path / "run.zarr", memory=20_000)
    chunk = run.path / "weights/c/0/5"
    (chunk / "in the way").mkdir(parents=True)
    with refuses(RecordingError, "could not be added", "weights/c/0/5"), run.recorder:
        assert str(chunk) in raising(run)
    with pytest.warns(UserWarning, match="wait in"):
        history = History(run.path)
    assert len(history) == 5 * history.weights.chunks[1]
    shutil.rmtree(chunk)
    recover(run.path)
    check(run.path, 50, run.done, run.done + 1)


@pytest.mark.usefixtures("watchful")
def test_a_history_that_is_moved_away(tmp_path: Path) -> None:
    run = Run(tmp_path / "run.zarr", memory=20_000)
    run.steps(100)
    assert idle(run)
    run.path.rename(tmp_path / "moved.zarr")
    with refuses(RecordingError, "could not be added", ring_path(run.path)), run.recorder:
        assert str(run.path) in raising(run)
    assert not run.path.exists()
    (tmp_path / "moved.zarr").rename(run.path)
    recover(run.path)
    check(run.path, 50, run.done, run.done + 1)


@pytest.mark.usefixtures("watchful")
def test_a_history_that_is_deleted(tmp_path: Path) -> None:
    run = Run(tmp_path / "run.zarr", memory=20_000)
    run.steps(100)
    assert idle(run)
    shutil.rmtree(run.path)
    with pytest.raises(RecordingError), run.recorder:
        raising(run)
    again = Run(run.path, memory=20_000)  # the ring of a history that is gone is no obstacle
    with again.recorder:
        again.steps(3)
    check(run.path, 50, 3)


@pytest.mark.usefixtures("watchful")
@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_going_on_after_a_damaged_chunk(tmp_path: Path, damage: str) -> None:
    """The chunk that is half full is written again: then its damage shows."""
    run = Run(tmp_path / "run.zarr", memory=20_000)
    with run.recorder:
        run.steps(60)
    block = History(run.path).weights.chunks[1]
    chunk = run.path / f"weights/c/0/{60 // block}"
    intact = chunk.read_bytes()
    bad = intact[:-9] if damage == "truncated" else intact[:-9] + bytes(9)
    chunk.write_bytes(bad)
    whole = 60 // block * block
    np.testing.assert_array_equal(
        History(run.path).snapshot(whole - 1), run.base.numpy() + np.float32(whole - 1)
    )
    with pytest.raises(ValueError, match="damaged"):
        go_on(run.path, 50, 60)  # its weights at step 60 cannot be compared
    chunk.write_bytes(intact)
    model = make_model(50)
    take_step(model, run.base, 60)
    recorder = Recorder(model, run.path, resume=True)
    chunk.write_bytes(bad)
    take_step(model, run.base, 61)
    recorder()
    with refuses(RecordingError, "1 recorded steps", "weights", ring_path(run.path)):
        recorder.close()
    with pytest.warns(UserWarning, match="does not decode"):
        assert len(History(run.path)) == 61
    chunk.write_bytes(intact)
    check(run.path, 50, 61)


def test_one_recorder_on_a_path(nursery: Nursery, tmp_path: Path) -> None:
    path, ends = tmp_path / "run.zarr", []
    job = {"size": 50, "steps": 1000, "options": {"memory": 20_000}, "pace": 2e-3}
    thread = threading.Thread(target=lambda: ends.append(nursery.run(path, **job)))
    thread.start()
    assert eventually(lambda: path.exists() and len(History(path)))
    model, base = make_model(50), torch.from_numpy(base_weights(50))
    with refuses(OutputExistsError, "exists"):
        Recorder(model, path)
    with refuses(RecordingError, path, "recorded"):
        Recorder(model, path, overwrite=True)
    take_step(model, base, len(History(path)) - 1)
    with refuses(RecordingError, path, "recorded"):
        Recorder(model, path, resume=True, start_step=10**6, allow_gap=True)
    with refuses(RecordingError, path, "runs"):
        recover(path)
    assert in_use(path)
    assert thread.is_alive()
    thread.join()
    assert not in_use(path)
    assert ends[0]["error"] == ""
    check(path, 50, 1000)


def test_one_recorder_on_a_path_in_one_process(tmp_path: Path) -> None:
    run = Run(tmp_path / "run.zarr")
    run.steps(10)
    with refuses(OutputExistsError, "exists"):
        Recorder(run.model, run.path)
    with refuses(RecordingError, run.path, "recorded"):
        Recorder(run.model, run.path, overwrite=True)
    with refuses(RecordingError, run.path, "recorded"):
        Recorder(run.model, run.path, resume=True)
    run.steps(10)
    run.recorder.close()
    check(run.path, 50, 20)


def test_a_taken_path_stays_as_it_is(tmp_path: Path) -> None:
    """A recorder that is refused deletes nothing of the recording that runs."""
    run = Run(tmp_path / "run.zarr", memory=20_000)
    run.steps(5)
    for options in ({"overwrite": True}, {"resume": True}):
        with pytest.raises(RecordingError):
            Recorder(make_model(7), run.path, **options)
    assert ring_path(run.path).exists()
    run.recorder.close()
    check(run.path, 50, 5)


@MEMORY
def test_a_recorder_that_is_dropped(tmp_path: Path, memory: int | None) -> None:
    run = Run(tmp_path / "run.zarr", memory=memory)
    run.steps(58)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # subprocess: it is still running
        del run.recorder
        gc.collect()
    assert eventually(lambda: not in_use(run.path))
    check(run.path, 50, 58)


@MEMORY
def test_closed_in_a_thread(tmp_path: Path, memory: int | None) -> None:
    run = Run(tmp_path / "run.zarr", memory=memory)
    run.steps(100)
    threads = [threading.Thread(target=run.recorder.close) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run.recorder.close()
    check(run.path, 50, 100)


def test_pickling_a_recorder_fails_and_costs_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path / "run.zarr")
    run.steps(5)
    with pytest.raises((TypeError, AttributeError), match="pickle"):
        pickle.dumps(run.recorder)
    run.steps(5)
    run.recorder.close()
    check(run.path, 50, 10)


def test_a_reader_sees_committed_rows_only(nursery: Nursery, tmp_path: Path) -> None:
    path, size, ends = tmp_path / "run.zarr", 60_000, []
    job = {"size": size, "steps": 80, "options": {"memory": 2_000_000}, "pace": 5e-3}
    thread = threading.Thread(target=lambda: ends.append(nursery.run(path, **job)))
    thread.start()
    base, lengths = base_weights(size), set()
    while thread.is_alive():
        if not (path / "zarr.json").exists():
            continue
        history = History(path)
        lengths.add(len(history))
        assert history.steps.tolist() == list(range(len(history)))
        for step in history.steps[-2:]:
            np.testing.assert_array_equal(history.snapshot(step), base + np.float32(step))
        metric = logged(path)
        assert metric == list(range(1, len(metric) + 1))
    thread.join()
    assert len(lengths) > 5
    check(path, size, 80)


def anonymous_memory(pid: int) -> int:
    """Bytes of a process that are its own: not of mapped files, such as the ring."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) << 10
    return 0


def test_memory_is_bounded_whatever_the_number_of_steps(tmp_path: Path) -> None:
    """150 MB go through a ring of 4 MB."""
    run = Run(tmp_path / "run.zarr", 62_500, memory=4_000_000)
    with run.recorder:
        run.steps(100)
        pids = (os.getpid(), run.drain())
        early = [anonymous_memory(pid) for pid in pids]
        for _ in range(50):
            run.steps(10)
            late = [anonymous_memory(pid) for pid in pids]
            assert all(b - a < 50 << 20 for a, b in zip(early, late, strict=True))
    assert late[1] < 200 << 20
    assert len(History(run.path)) == 601


def test_a_ring_beside_another_history_is_left_alone(nursery: Nursery, tmp_path: Path) -> None:
    """The rows of a run that was killed are not those of a history put in its place."""
    path = tmp_path / "run.zarr"
    nursery.run(path, size=50, **SIZES[50], kill="both", at=150)
    shutil.rmtree(path)
    with Run(tmp_path / "other.zarr").recorder:
        pass
    (tmp_path / "other.zarr").rename(path)
    with pytest.warns(UserWarning, match="another recording"):
        assert len(History(path)) == 1


def test_waiting_rows_survive_a_recorder_that_cannot_start(
    nursery: Nursery, disk: Path, mount: Callable[..., None]
) -> None:
    path = disk / "run.zarr"
    end = nursery.run(path, size=50, **SIZES[50], kill="both", at=150)
    ballast = disk / "ballast"
    with contextlib.suppress(OSError):
        ballast.write_bytes(bytes(8 << 20))
    with pytest.raises((OSError, RecordingError), match="space"):
        Recorder(make_model(50), path, overwrite=True)
    ballast.unlink()
    check(path, 50, end["done"], end["done"] + 1)
