"""A reader beside a live writer: never an uncommitted row, a fill value, or another history's."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live_writer import APPENDED, ROUNDS, append, create, values
from store_reference import Recorded, refuses, wandering

from weightcast.store import FormatError, History, InputNotFoundError


@contextmanager
def running(what: str, path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A writer process, killed at the end if it still runs."""
    program = Path(__file__).with_name("live_writer.py")
    process = subprocess.Popen([sys.executable, program, what, path])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def check(history: History, run: int | None = 0) -> None:
    """Every value of a history is what the writer wrote; `run` None if it may be any."""
    steps = history.steps
    assert np.array_equal(steps, np.arange(len(steps)))
    assert np.array_equal(history.times, 0.25 * steps)
    weights = history["w"]
    if run is None:
        run = int(2 * (weights[0, 0] - 1)) if len(steps) else 0
    assert np.array_equal(weights, values(steps, run))
    for step in steps[-4:]:
        assert np.array_equal(history.snapshot(step), values(np.array([step]), run)[0])
        assert np.array_equal(
            history.snapshot(step, "gradients"), -values(np.array([step]), run)[0]
        )
        assert history.state(step)["mean"].tolist() == [step, -step]
    if "loss" in history.metrics:
        at, losses = history.metric("loss")
        assert np.array_equal(at, np.arange(len(at)))
        assert np.array_equal(losses, 0.5 * at)


def test_readers_see_committed_rows_only(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    create(path)
    kept: list[History] = []
    seen = set()
    with running("write", path) as process:
        while process.poll() is None:
            history = History(path)
            if len(history) not in seen:
                kept.append(history)
            seen.add(len(history))
            check(history)
            history.info()
            check(kept[len(seen) // 2])  # one that was opened some appends ago
        assert process.returncode == 0
    assert len(History(path)) == ROUNDS * APPENDED
    assert len(seen) > 3  # it did read beside the writer
    for history in kept:
        check(history)


def test_a_reader_goes_on_after_a_writer_was_killed_and_another_resumed(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    create(path)
    append(path, 0)
    before = History(path)
    with running("write_on", path) as process:
        while len(History(path)) < 12:
            time.sleep(0.01)
        process.kill()
        process.wait()
        assert process.returncode == -signal.SIGKILL
    killed = History(path)
    append(path, len(killed))
    for history, rows in ((before, APPENDED), (killed, len(killed)), (History(path), None)):
        assert rows is None or len(history) == rows
        check_weights(history)


def check_weights(history: History) -> None:
    assert np.array_equal(history["w"], values(history.steps))
    assert np.array_equal(history.snapshot(history.steps[-1]), values(history.steps)[-1])


def test_readers_beside_one_that_overwrites(tmp_path: Path) -> None:
    """A history that is replaced while it is read is read, or refused; never mixed."""
    path = tmp_path / "run.zarr"
    create(path)
    append(path, 0, 0)
    read = refused = 0
    with running("rewrite", path) as process:
        while process.poll() is None:
            try:
                check(History(path), run=None)
                read += 1
            except (FormatError, InputNotFoundError):
                refused += 1
        assert process.returncode == 0
    assert read > refused
    check(History(path), run=8)


def replace(path: Path) -> None:
    create(path, overwrite=True)
    append(path, 0, run=1)


def delete(path: Path) -> None:
    shutil.rmtree(path)


def move(path: Path) -> None:
    path.rename(path.with_name("elsewhere.zarr"))


@pytest.mark.parametrize("change", [replace, delete, move])
def test_a_reader_from_before_is_told_to_open_again(tmp_path: Path, change: Any) -> None:
    path = tmp_path / "run.zarr"
    create(path)
    append(path, 0)
    before = History(path)
    assert len(before["w"]) == APPENDED
    change(path)
    for look in (lambda: before["w"], lambda: before.snapshot(1), lambda: before.times):
        with refuses(FormatError, path):
            look()


def test_raw_arrays_refuse_what_is_not_there(tmp_path: Path) -> None:
    recorded: Recorded = wandering(5, 6)
    path = recorded.write(tmp_path / "run.zarr")
    (path / "weights/c/0/1").unlink()
    with refuses(FormatError, "weights/c/0/1"):
        History(path).weights[:, 4:]
