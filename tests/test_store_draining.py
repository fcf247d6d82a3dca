"""From the ring to the history, whoever dies on the way: every row and entry arrives once."""

from __future__ import annotations

import json
import os
import random
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_reference import Killed, killed_after, refuses, same_bits, vector

from weightcast.store import (
    FormatError,
    History,
    HistoryWriter,
    InputNotFoundError,
    ParameterTable,
    RecordingError,
    WeightcastError,
    recover,
)
from weightcast.store.draining import Drain
from weightcast.store.ring import Ring, lock, ring_path
from weightcast.store.ringplan import DESCRIPTION, ENTRIES, LINE, PAGE, plan_ring

BUFFERS = ParameterTable.of([("seen", (), "int64", "buffer")])
WIDTHS = {"buffers": (1, "float64"), "weights": (5, "float32")}
MEMORY = 3000  # 15 rows


def weights_at(step: int) -> np.ndarray:
    return np.random.default_rng(step).random(5, np.float32)


class Recording:
    """A recorder without a model: its ring, and what was handed over to it."""

    def __init__(self, path: Path, block: int = 4, first: int = 0) -> None:
        self.path, self.steps, self.logged = path, list[int](), list[tuple[int, str]]()
        writer = HistoryWriter.create(path, vector(5), buffers=BUFFERS, block=block)
        self.begin(writer, first)

    def begin(self, writer: HistoryWriter, first: int) -> None:
        plan = plan_ring(WIDTHS, MEMORY, chunk=4)
        writer.append((), (), np.empty((0, 5)), np.empty((0, 1)), ring=(plan.name, 0))
        descriptor = lock(ring_path(self.path), create=True)
        assert descriptor is not None
        self.ring = Ring.create(ring_path(self.path), descriptor, plan, first)

    def put(self, step: int) -> bool:
        """Hand over a row, if there is room."""
        if self.ring.full:
            return False
        slot = self.ring.written % self.ring.plan.slots
        self.ring.steps[slot], self.ring.times[slot] = step, step / 4
        self.ring.rows("weights", slot, 1)[0] = weights_at(step)
        self.ring.rows("buffers", slot, 1)[0] = step
        self.ring.push()
        self.steps.append(step)
        return True

    def log(self, step: int, name: str = "loss") -> bool:
        if self.ring.crowded:
            return False
        self.ring.log(step, name, step / 3)
        self.logged.append((step, name))
        return True

    def drain(self) -> Drain:
        """What a drain process that has just started has."""
        return Drain([self.ring], HistoryWriter(self.path))

    def die(self) -> None:
        """The trainer is killed: its ring file stays."""
        self.ring.release()

    def check(self) -> None:
        """The history holds all that was handed over, once; nothing is left beside it."""
        history = check_rows(self.path, self.steps)
        for name in {name for _, name in self.logged}:
            steps, values = history.metric(name)
            assert steps.tolist() == [step for step, other in self.logged if other == name]
            assert values.tolist() == [step / 3 for step in steps.tolist()]
        assert len(history.metrics) == len({name for _, name in self.logged})
        assert [p.name for p in self.path.parent.iterdir()] == [self.path.name]


def check_rows(path: Path, steps: list[int]) -> History:
    history = History(path)
    assert history.steps.tolist() == steps
    assert history.times.tolist() == [step / 4 for step in steps]
    expected = np.array([weights_at(step) for step in steps], np.float32).reshape(-1, 5)
    assert same_bits(np.ascontiguousarray(history["w"]), expected)
    assert history.wide["buffers"][0, : len(steps)].tolist() == steps
    return history


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    return Recording(tmp_path / "run.zarr")


def test_whole_chunks_go_first_and_the_rest_when_asked(recording: Recording) -> None:
    drain = recording.drain()
    for step in range(11):
        recording.put(step)
        drain.run(everything=False)
        assert len(History(recording.path)) == (step + 1) // 4 * 4
    assert drain.run(everything=True) == 3
    assert len(History(recording.path)) == 11
    for step in range(11, 14):  # the chunk that was begun is filled
        recording.put(step)
        drain.run(everything=False)
    assert len(History(recording.path)) == 12
    recording.die()
    assert recover(recording.path) == 2
    recording.check()


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_anybody_may_die_at_any_point(tmp_path_factory: Any, data: st.DataObject) -> None:
    """Rows and entries are handed over while drain processes live, die within a change, restart."""
    folder = tmp_path_factory.mktemp("run")
    recording = Recording(folder / "run.zarr", data.draw(st.sampled_from([1, 3, 4, 64])))
    drain, step = recording.drain(), 0
    acts = st.sampled_from(["rows", "rows", "entries", "drain", "all", "killed", "restart"])
    for act in data.draw(st.lists(acts, max_size=12)):
        if act == "rows":
            for _ in range(data.draw(st.integers(1, 20))):
                step += data.draw(st.integers(1, 3)) if step else recording.put(0)
                recording.put(step)
        elif act == "entries":
            for _ in range(data.draw(st.sampled_from([1, 5, ENTRIES // 2 + 1]))):
                recording.log(step, data.draw(st.sampled_from(["loss", "val/loss"])))
        elif act == "killed":
            with killed_after(data.draw(st.integers(0, 12))):
                try:
                    drain.run(everything=data.draw(st.booleans()))
                except Killed:
                    drain = recording.drain()
        elif act == "restart":
            drain = recording.drain()
        else:
            drain.run(everything=act == "all")
    recording.die()
    recover(recording.path)
    recording.check()
    shutil.rmtree(folder)


def test_a_drain_process_killed_before_it_counts(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the commit and the counters, rows and entries are in both."""
    for step in range(6):
        recording.put(step)
        recording.log(step)
    append = HistoryWriter.append

    def killed(*arguments: Any, **options: Any) -> None:
        append(*arguments, **options)
        raise Killed

    monkeypatch.setattr(HistoryWriter, "append", killed)
    for n in (4, 6):
        with pytest.raises(Killed):
            recording.drain().run(everything=True)
        assert recording.ring.drained < n
    monkeypatch.undo()
    recording.die()
    assert recover(recording.path) == 0
    recording.check()


def test_entries_alone_are_committed_before_their_ring_is_full(recording: Recording) -> None:
    drain = recording.drain()
    for step in range(3 * ENTRIES):
        assert recording.log(step // 2)
        drain.run(everything=False)
    assert ENTRIES < History(recording.path).header.metrics["loss"] < 3 * ENTRIES
    recording.die()
    assert recover(recording.path) == 0
    recording.check()


@pytest.mark.parametrize("resumed", range(6))
def test_chunks_of_a_resumed_history_are_filled(tmp_path: Path, resumed: int) -> None:
    recording = Recording(tmp_path / "run.zarr")
    for step in range(resumed):
        recording.put(step)
    recording.die()
    recover(recording.path)
    recording.begin(HistoryWriter(recording.path), resumed % 4)
    drain = recording.drain()
    for step in range(resumed, 14):
        recording.put(step)
        drain.run(everything=False)
        assert len(History(recording.path)) == max((step + 1) // 4 * 4, resumed)
    recording.die()
    recover(recording.path)
    recording.check()


def test_recovering_when_there_is_nothing_to_do(recording: Recording, tmp_path: Path) -> None:
    with refuses(InputNotFoundError, tmp_path / "no.zarr"):
        recover(tmp_path / "no.zarr")
    with refuses(RecordingError, recording.path, "let it end"):
        recover(recording.path)
    recording.put(0)
    recording.die()
    assert recover(str(recording.path)) == 1
    assert recover(recording.path) == 0
    recording.check()


def test_opening_a_history_finishes_it(recording: Recording) -> None:
    for step in range(7):
        recording.put(step)
    assert len(History(recording.path)) == 0  # its recorder lives
    recording.die()
    assert len(History(recording.path)) == 7
    recording.check()


def test_a_ring_that_was_never_laid_out_is_removed(recording: Recording) -> None:
    recording.put(0)
    recording.die()
    recover(recording.path)
    ring_path(recording.path).touch()
    recording.check()
    ring_path(recording.path).write_bytes(bytes(1 << 20))
    assert recover(recording.path) == 0
    recording.check()


def test_what_cannot_be_added_waits(recording: Recording) -> None:
    """A warning on opening says so, and what is committed can be read."""
    for step in range(6):
        recording.put(step)
    recording.drain().run(everything=False)
    recording.die()
    ring = ring_path(recording.path)
    intact = ring.read_bytes()
    ring.write_bytes(intact[:-1])
    with refuses(FormatError, ring, "damaged"):
        recover(recording.path)
    with pytest.warns(UserWarning, match="wait in .*damaged.*weightcast recover"):
        assert len(History(recording.path)) == 4
    ring.write_bytes(intact)
    recording.check()


@pytest.mark.parametrize("other", ["other weights", "other buffers", "the same model"])
def test_a_ring_of_another_recording_is_refused(tmp_path: Path, other: str) -> None:
    recording = Recording(tmp_path / "run.zarr")
    for step in range(6):
        recording.put(step)
    recording.die()
    size, buffers = (6 if other == "other weights" else 5), BUFFERS
    if other == "other buffers":
        buffers = ParameterTable.of([("mean", (2,), "float32", "buffer")])
    HistoryWriter.create(tmp_path / "other.zarr", vector(size), buffers=buffers).close()
    recording.path.rename(tmp_path / "moved.zarr")
    (tmp_path / "other.zarr").rename(recording.path)
    with refuses(FormatError, ring_path(recording.path), recording.path, "recording"):
        recover(recording.path)
    with pytest.warns(UserWarning, match="recording"):
        assert len(History(recording.path)) == 0
    shutil.rmtree(recording.path)
    (tmp_path / "moved.zarr").rename(recording.path)
    recording.check()


class Left:
    """A history of 4 committed rows, with a ring of 3 more and 2 entries; to be damaged."""

    def __init__(self, folder: Path) -> None:
        recording = Recording(folder / "run.zarr")
        for step in range(7):
            recording.put(step)
        recording.drain().run(everything=False)
        for step in (5, 6):
            recording.log(step)
        recording.die()
        self.path = shutil.copytree(recording.path, folder / "kept" / "run.zarr")
        self.ring = ring_path(recording.path).read_bytes()
        self.plan = recording.ring.plan

    def opened(self, folder: Path, ring: bytes, header: dict[str, Any] | None = None) -> list[int]:
        """Steps after an attempt to recover; values are right, and errors are ours, in one line."""
        path = shutil.copytree(self.path, folder / "run.zarr", dirs_exist_ok=True)
        if header:
            document = json.loads((path / "zarr.json").read_text())
            document["attributes"]["weightcast"].update(header)
            (path / "zarr.json").write_text(json.dumps(document))
        ring_path(path).unlink(missing_ok=True)
        ring_path(path).write_bytes(ring)
        message = ""
        try:
            recover(path)
        except WeightcastError as error:
            message = str(error)
        assert "\n" not in message
        assert ring_path(path).exists() == bool(message)  # what is in it may yet be saved
        ring_path(path).unlink(missing_ok=True)
        steps = History(path).steps.tolist()
        assert steps[:4] == list(range(4))
        assert set(steps) <= set(range(7))
        check_rows(path, steps)
        for name in History(path).metrics:
            entries, values = History(path).metric(name)
            if name == "loss":
                assert entries.tolist() == [5, 6][: len(entries)]
                assert values.tolist() == [step / 3 for step in entries.tolist()]
        shutil.rmtree(path)
        return steps


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Left:
    return Left(tmp_path_factory.mktemp("left"))


def test_an_intact_ring_is_finished(left: Left, tmp_path: Path) -> None:
    assert left.opened(tmp_path, left.ring) == list(range(7))


HOSTILE = st.integers(-3, 40) | st.sampled_from([-(2**63), 2**63 - 1, 2**31, ENTRIES, ENTRIES + 2])


@settings(max_examples=40, deadline=None)
@given(values=st.dictionaries(st.integers(0, 4), HOSTILE, min_size=1))
def test_counters_that_lie_add_no_wrong_row(
    left: Left, tmp_path_factory: pytest.TempPathFactory, values: dict[int, int]
) -> None:
    head = np.frombuffer(left.ring, np.int64, PAGE // 8).copy()
    for line, value in values.items():
        if line in (2, 3) and value > 2:
            continue  # entries have no numbers: those that were never written read as 0 for ""
        head[(line + 1) * LINE // 8] = value
    left.opened(tmp_path_factory.getbasetemp(), head.tobytes() + left.ring[PAGE:])


@pytest.mark.parametrize("entries", [-5, 3, 4096, 2**62, 2**80, 10**40])
def test_a_header_that_counts_other_entries(left: Left, tmp_path: Path, entries: int) -> None:
    steps = left.opened(tmp_path, left.ring, {"ring": [left.plan.name, entries]})
    assert len(steps) == (7 if entries < 0 else 4)


@pytest.mark.parametrize(
    "name", [b"\xff\xfe", b"../weights", b"", b"__a", b"zarr.json", b"x" * 104]
)
def test_names_of_entries_are_checked(left: Left, tmp_path: Path, name: bytes) -> None:
    at = PAGE + DESCRIPTION + 16
    ring = left.ring[:at] + name.ljust(104, b"\0") + left.ring[at + 104 :]
    assert left.opened(tmp_path, ring) == list(range(4))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bits_in_the_head_add_no_wrong_row(left: Left, tmp_path: Path, seed: int) -> None:
    where = random.Random(seed)
    for _ in range(10):
        ring = bytearray(left.ring)
        for _ in range(where.choice([1, 1, 2])):
            at = where.choice([where.randrange(200), PAGE + where.randrange(260)])
            ring[at] ^= 1 << where.randrange(8)
        left.opened(tmp_path, bytes(ring))


def test_flipped_bits_before_a_row_are_noticed(left: Left, tmp_path: Path) -> None:
    """Where a row says its number; its values have no checksum before they are stored."""
    where = random.Random(0)
    start, stride = left.plan.first_slot, left.plan.offsets[""]
    for row in range(7):
        ring = bytearray(left.ring)
        at = start + row * stride + 16 + where.randrange(8)
        ring[at] ^= 1 << where.randrange(8)
        assert left.opened(tmp_path, bytes(ring)) == list(range(7 if row < 4 else 4))


def test_steps_that_do_not_increase_are_refused(left: Left, tmp_path: Path) -> None:
    at = left.plan.first_slot + 5 * left.plan.offsets[""]
    for step in (3, 4, 6, -1, -(2**63)):
        ring = left.ring[:at] + step.to_bytes(8, "little", signed=True) + left.ring[at + 8 :]
        assert left.opened(tmp_path, ring) == list(range(4))


@pytest.mark.parametrize("ranks", [2, 3, 10**9, 10**30])
def test_more_ranks_than_there_are(left: Left, tmp_path: Path, ranks: int) -> None:
    """At once, and without a file for each."""
    text = left.ring[PAGE:].split(b"\0", 1)[0].replace(b'"ranks": 1', b'"ranks": %d' % ranks)
    ring = left.ring[:PAGE] + text.ljust(DESCRIPTION, b"\0") + left.ring[PAGE + DESCRIPTION :]
    assert len(left.opened(tmp_path, ring)) in (4, 7)


def test_recovering_takes_a_block_of_memory(tmp_path: Path) -> None:
    """Not the ring: 40 MB wait in it, in blocks of 1 MB."""
    path, width = tmp_path / "run.zarr", 62_500
    writer = HistoryWriter.create(path, vector(width), block=4)
    plan = plan_ring({"weights": (width, "float32")}, 41_000_000, chunk=4)
    writer.append((), (), np.empty((0, width)), ring=(plan.name, 0))
    descriptor = lock(ring_path(path), create=True)
    assert descriptor is not None
    ring = Ring.create(ring_path(path), descriptor, plan)
    for step in range(plan.slots):
        ring.rows("weights", step, 1)[:] = step
        ring.steps[step] = step
        ring.push()
    assert plan.slots > 150
    ring.release()
    tracemalloc.start()
    try:
        assert recover(path) == plan.slots
        assert tracemalloc.get_traced_memory()[1] < 12 << 20
    finally:
        tracemalloc.stop()
    assert History(path).snapshot(plan.slots - 1)[-1] == plan.slots - 1
    assert os.listdir(tmp_path) == ["run.zarr"]  # noqa: PTH208
