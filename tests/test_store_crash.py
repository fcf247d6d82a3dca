"""A writer that dies, or fails, at any point: what was committed stays, and nothing else is seen.

`killed_after(n)` stops the writer after the n-th change of a file, so that a loop over n visits
every state that a crash can leave on disk.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr
from store_reference import Killed, Recorded, killed_after, same_bits, vector, wandering

from weightcast.store import History, HistoryWriter, ParameterTable

BUFFERS = ParameterTable.of([("mean", (2,), "float32", "buffer")])


def recorded(rows: int, seed: int = 0) -> Recorded:
    walk = wandering(5, rows, seed)
    return Recorded(walk.table, walk.steps, walk.weights, BUFFERS, np.ones((rows, 2)) * seed)


def append(path: Path, source: Recorded, low: int, high: int) -> None:
    with HistoryWriter.open(path) as writer:
        writer.append(*source.rows(low, high))


def log(path: Path, steps: list[int]) -> None:
    with HistoryWriter.open(path) as writer:
        writer.log("loss", steps, [step / 2 for step in steps])


def assert_rows(path: Path, source: Recorded, rows: int) -> None:
    history = History(path)
    assert history.steps.tolist() == source.steps[:rows]
    assert history.times.tolist() == source.times[:rows]
    assert same_bits(history["w"], source.weights[:rows])
    for row in (0, rows // 2, rows - 1):
        assert same_bits(history.state(row)["mean"], source.buffers[row])


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A history of 6 rows, whose last chunks are half full."""
    return recorded(6).write(tmp_path_factory.mktemp("intact") / "run.zarr", width=3)


@pytest.fixture
def copies(intact: Path, tmp_path: Path) -> Iterator[Path]:
    """Any number of copies of the intact history, one at a time."""

    def each() -> Iterator[Path]:
        while True:
            path = shutil.copytree(intact, tmp_path / "run.zarr")
            yield path
            shutil.rmtree(path)

    return each()


def kill_points(
    copies: Iterator[Path], action: Callable[[Path], None]
) -> Iterator[tuple[int, Path]]:
    """How many changes of files to let happen: every number less than the action makes."""
    with killed_after(10**6) as seen:
        action(next(copies))
    assert len(seen) > 3
    return zip(range(len(seen)), copies, strict=False)


def crashes(copies: Iterator[Path], action: Callable[[Path], None]) -> Iterator[Path]:
    """Histories of 6 rows on which the action was killed, once at each change of a file."""
    for n, path in kill_points(copies, action):
        with killed_after(n), pytest.raises(Killed):
            action(path)
        yield path


@pytest.mark.parametrize("rows", [1, 9])
def test_a_killed_append_is_not_seen_and_the_next_goes_on(copies, rows: int) -> None:
    # the rows go into the half full chunks, or also over two more
    killed, then = recorded(6 + rows, seed=1), recorded(13)
    for path in crashes(copies, lambda path: append(path, killed, 6, 6 + rows)):
        assert_rows(path, recorded(6), 6)
        append(path, then, 6, 8)
        assert_rows(path, then, 8)
        append(path, then, 8, 13)
        assert_rows(path, then, 13)


def test_a_reader_keeps_what_was_committed_when_it_opened(copies) -> None:
    before = recorded(6)

    def append_more(path: Path) -> None:
        append(path, recorded(15, seed=1), 6, 15)

    with killed_after(10**6) as seen:
        append_more(next(copies))
    path = next(copies)
    early = History(path)
    for n in range(len(seen)):
        with killed_after(n), pytest.raises(Killed):
            append_more(path)  # each dies a little later than the last, on top of its remains
        for history in (early, History(path)):
            assert len(history) == 6
            assert same_bits(history["w"], before.weights)
            assert same_bits(history.snapshot(5), before.weights[5])
    append_more(path)
    assert (len(early), len(History(path))) == (6, 15)
    assert same_bits(early["w"], before.weights)


def test_committed_rows_are_complete_to_other_readers(copies) -> None:
    for path in crashes(copies, lambda path: append(path, recorded(15, seed=1), 6, 15)):
        group = zarr.open_group(path, mode="r")
        committed = group.attrs["weightcast"]["committed"]
        assert committed == 6
        assert same_bits(group["weights"][:, :committed].T.copy(), recorded(6).weights)
        assert group["step"][:committed].tolist() == recorded(6).steps


def test_a_killed_log_is_not_seen_and_the_next_goes_on(copies) -> None:
    for path in crashes(copies, lambda path: log(path, [1, 2, 3])):
        assert History(path).metrics == []
        log(path, [4, 5])
        log(path, [6])
        steps, values = History(path).metric("loss")
        assert (steps.tolist(), values.tolist()) == ([4, 5, 6], [2.0, 2.5, 3.0])
        assert_rows(path, recorded(6), 6)


def test_a_killed_second_log_keeps_the_first(tmp_path: Path) -> None:
    path = recorded(6).write(tmp_path / "run.zarr")
    log(path, [1])
    other = shutil.copytree(path, tmp_path / "other.zarr")
    with killed_after(10**6) as seen:
        log(other, [2, 3])
    for n in range(len(seen)):
        with killed_after(n), pytest.raises(Killed):
            log(path, [2, 3])
        assert History(path).metric("loss")[0].tolist() == [1]
    log(path, [7])
    assert History(path).metric("loss")[0].tolist() == [1, 7]


def test_an_append_that_failed_can_be_tried_again(copies) -> None:
    # a full disk, say, and the caller makes room: the writer must not count the rows twice
    more = recorded(9, seed=1)
    for n, path in kill_points(copies, lambda path: append(path, more, 6, 9)):
        with HistoryWriter.open(path) as writer:
            with killed_after(n), pytest.raises(Killed):
                writer.append(*more.rows(6, 9))
            assert (writer.header.committed, writer.last_step) == (6, 5)
            writer.append(*more.rows(6, 9))
        assert len(History(path)) == 9
        assert same_bits(History(path)["w"][6:], more.weights[6:])


def test_a_failed_append_is_not_committed_by_what_follows(copies) -> None:
    for n, path in kill_points(copies, lambda path: append(path, recorded(9), 6, 9)):
        with HistoryWriter.open(path) as writer:
            with killed_after(n), pytest.raises(Killed):
                writer.append(*recorded(9).rows(6, 9))
            writer.log("loss", [5], [0.5])
        assert_rows(path, recorded(6), 6)


def test_a_log_that_failed_can_be_tried_again(copies) -> None:
    for n, path in kill_points(copies, lambda path: log(path, [1, 2])):
        with HistoryWriter.open(path) as writer:
            with killed_after(n), pytest.raises(Killed):
                writer.log("loss", [1, 2], [0.5, 1.0])
            writer.log("loss", [1, 2], [0.5, 1.0])
        assert History(path).metric("loss")[0].tolist() == [1, 2]


def test_a_killed_create_can_be_tried_again(tmp_path: Path) -> None:
    def create(path: Path, *, overwrite: bool = False) -> None:
        HistoryWriter.create(path, vector(5), buffers=BUFFERS, block=4, overwrite=overwrite).close()

    with killed_after(10**6) as seen:
        create(tmp_path / "counted.zarr")
    for n in range(len(seen)):
        path = tmp_path / f"run{n}.zarr"
        with killed_after(n), pytest.raises(Killed):
            create(path)
        create(path, overwrite=True)
        append(path, recorded(6), 0, 6)
        assert_rows(path, recorded(6), 6)


def test_a_killed_overwrite_keeps_the_old(copies) -> None:
    def overwrite(path: Path) -> None:
        HistoryWriter.create(path, vector(2), overwrite=True).close()

    for path in crashes(copies, overwrite):
        assert_rows(path, recorded(6), 6)
        overwrite(path)
        assert len(History(path)) == 0


def test_readers_beside_a_running_writer_see_whole_rows(tmp_path: Path) -> None:
    # every row r holds r everywhere: a fill value, or a row of another step, stands out
    weights = np.repeat(np.arange(60, dtype=np.float32)[:, None], 5, axis=1)
    source = Recorded(vector(5), list(range(60)), weights)
    path = tmp_path / "run.zarr"
    HistoryWriter.create(path, source.table, block=4).close()
    wrong: list[object] = []
    seen: set[int] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            history = History(path)
            seen.add(len(history))
            if not np.array_equal(history["w"], weights[: len(history)]):
                wrong.append(history["w"])

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        for low in range(0, 60, 3):
            append(path, source, low, low + 3)
    finally:
        done.set()
        thread.join()
    assert wrong == []
    assert seen <= set(range(0, 61, 3))
    assert len(History(path)) == 60
