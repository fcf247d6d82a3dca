"""The ring file: its layout, its lock, and what becomes of a damaged one."""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import sys
import tracemalloc
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_reference import refuses

from weightcast.store import FormatError, RecordingError, UsageError
from weightcast.store.ring import MAGIC, Ring, in_use, lock, ring_path
from weightcast.store.ringplan import (
    DESCRIPTION,
    ENTRIES,
    LINE,
    MEMORY,
    PAGE,
    RingPlan,
    plan_ring,
)

WIDTHS = {"buffers": (2, "float64"), "weights": (5, "float32")}


def make_ring(path: Path, memory: int = 3000, first: int = 0, **widths: tuple[int, str]) -> Ring:
    descriptor = lock(path, create=True)
    assert descriptor is not None
    return Ring.create(path, descriptor, plan_ring(widths or WIDTHS, memory), first)


def reopened(path: Path) -> Ring | None:
    """As a process does that finds the file after its recorder died."""
    descriptor = lock(path)
    assert descriptor is not None
    return Ring.open(path, descriptor)


def put(ring: Ring, step: int) -> None:
    """Write and count a row: all its numbers are the step's."""
    slot = ring.written % ring.plan.slots
    ring.steps[slot], ring.times[slot] = step, step / 4
    for array in ring.plan.widths:
        ring.rows(array, ring.written, 1)[:] = step
    ring.push()


widths_strategy = st.dictionaries(
    st.sampled_from(["buffers", "weights", "gradients", "optimizer/exp_avg"]),
    st.tuples(st.integers(0, 100_000), st.sampled_from(["float32", "float64"])),
    min_size=1,
)


@given(
    widths=widths_strategy,
    memory=st.integers(0, 1 << 24) | st.none(),
    chunk=st.sampled_from([1, 7, 64]),
)
def test_plans_hold_what_they_promise(
    widths: dict[str, tuple[int, str]], memory: int | None, chunk: int
) -> None:
    numbers = sum(n * np.dtype(dtype).itemsize for n, dtype in widths.values())
    try:
        plan = plan_ring(widths, memory, chunk)
    except UsageError:
        assert memory is not None
        assert memory < 2 * (numbers + 8 * LINE)
        return
    offsets = plan.offsets
    assert plan.slots * offsets[""] <= (MEMORY if memory is None else memory)
    assert plan.size <= plan.first_slot + plan.slots * offsets[""] + PAGE
    assert plan.slots >= 2 * plan.block >= 2
    assert plan.slots % plan.block == 0
    assert plan.block <= min(chunk, 64)
    assert (offsets[""] // LINE) % 2 == 1
    ends = {a: offsets[a] + n * np.dtype(dtype).itemsize for a, (n, dtype) in widths.items()}
    places = sorted((offsets[a], ends[a]) for a in widths)
    assert all(start % LINE == 0 for start, _ in places)
    assert places[0][0] >= 24  # after step, time and number
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(places))
    assert places[-1][1] <= offsets[""]


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_both_ends_see_one_queue(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    """Rows and entries come out as they went in, however often the rings go round."""
    folder = tmp_path_factory.mktemp("ring")
    ring = make_ring(folder / "run.zarr.ring", first=data.draw(st.integers(0, 3)))
    other = Ring.open(ring.path, os.dup(ring.descriptor))
    assert other is not None
    rows: deque[int] = deque()
    entries: deque[tuple[int, float]] = deque()
    step = 0
    for many in data.draw(st.lists(st.integers(-2000, 2000), max_size=12)):
        for _ in range(many):
            assert ring.full == (len(rows) == ring.plan.slots)
            assert ring.crowded == (len(entries) == ENTRIES)
            step += 1
            if not ring.full:
                put(ring, step)
                rows.append(step)
            if not ring.crowded:
                ring.log(step, "loss", step / 3)
                entries.append((step, step / 3))
        waiting = other.entries(other.entries_written).get("loss", ([], []))
        assert list(zip(*waiting, strict=True)) == list(entries)
        for _ in range(min(-many, len(rows))):
            slot = other.drained % other.plan.slots
            for array, (width, _) in WIDTHS.items():
                assert other.rows(array, other.drained, 1).tolist() == [[rows[0]] * width]
            assert (other.steps[slot], other.times[slot]) == (rows[0], rows.popleft() / 4)
            other.drained += 1
        for _ in range(min(-many, len(entries))):
            entries.popleft()
            other.entries_drained += 1
    assert ring.written - ring.drained == len(rows)


def test_a_ring_is_found_again_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr.ring"
    ring = make_ring(path, first=3)
    for step in range(5):
        put(ring, step)
    ring.log(4, "loss", 0.5)
    plan = ring.plan
    del ring
    again = reopened(path)
    assert again is not None
    assert again.plan == plan
    assert (again.drained, again.written, again.closing) == (3, 8, 0)
    assert again.rows("weights", 3, 2).tolist() == [[0.0] * 5, [1.0] * 5]
    assert again.entries(1) == {"loss": ([4], [0.5])}
    assert path.stat().st_size == plan.size
    assert path.stat().st_blocks * 512 >= plan.size  # allocated: writing to it cannot fail
    again.remove()
    assert not list(tmp_path.iterdir())


def test_a_description_that_is_too_long(tmp_path: Path) -> None:
    names = {f"optimizer/{'x' * 50}{i}": (1, "float32") for i in range(DESCRIPTION // 50)}
    with refuses(RecordingError, DESCRIPTION):
        make_ring(tmp_path / "r", 1 << 30, **names)


def test_a_file_that_was_never_laid_out_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "r"
    for content in (b"", bytes(PAGE), bytes(1 << 21)):
        path.write_bytes(content)
        assert reopened(path) is None
        assert not path.exists()


@pytest.mark.parametrize("message", ["disk full", "", "ü" * 5000])
def test_a_drain_process_leaves_why_it_failed(tmp_path: Path, message: str) -> None:
    ring = make_ring(tmp_path / "r")
    put(ring, 7)
    ring.fail(message)
    assert message.startswith(ring.failure.rstrip("\ufffd"))
    assert bool(ring.failure) == bool(message)
    assert (ring.written, ring.rows("weights", 0, 1)[0, 0]) == (1, 7)


HOLD = """
import sys, time
from pathlib import Path
from weightcast.store.ring import lock
assert lock(Path(sys.argv[1]), create=True) is not None
print("locked", flush=True)
sys.stdin.read()
"""


def test_the_lock_is_one_process_s_until_it_dies(tmp_path: Path) -> None:
    path = ring_path(tmp_path / "run.zarr")
    assert not in_use(tmp_path / "run.zarr")
    with pytest.raises(FileNotFoundError):
        lock(path)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        assert lock(path) is lock(path, create=True) is None
        assert in_use(tmp_path / "run.zarr")
        holder.kill()
    assert not in_use(tmp_path / "run.zarr")
    descriptor = lock(path)
    assert descriptor is not None
    os.close(descriptor)


def test_the_lock_is_inherited(tmp_path: Path) -> None:
    """A drain process holds it on; whoever is the last to go frees it."""
    history = tmp_path / "run.zarr"
    ring = make_ring(ring_path(history))
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[ring.descriptor]) as child:
        del ring
        assert in_use(history)
        child.kill()
    assert not in_use(history)


def test_the_lock_can_be_freed_although_the_file_is_mapped(tmp_path: Path) -> None:
    history = tmp_path / "run.zarr"
    ring = make_ring(ring_path(history))
    view = ring.rows("weights", 0, 1)
    assert in_use(history)
    ring.release()
    assert not in_use(history)
    view[:] = 3  # it still is


def test_a_lock_on_a_file_that_was_just_deleted_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process before deletes its ring between our opening and our locking of it."""
    path, opened = tmp_path / "r", os.open
    path.touch()
    seen = []

    def deleted_behind_our_back(*arguments: Any) -> int:
        descriptor = opened(*arguments)
        seen.append(descriptor)
        if len(seen) == 1:
            path.unlink()
        return descriptor

    monkeypatch.setattr(os, "open", deleted_behind_our_back)
    descriptor = lock(path, create=True)
    assert descriptor is not None
    assert os.path.samestat(os.fstat(descriptor), path.stat())
    assert len(seen) == 2
    os.close(descriptor)


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ring of 8 rows, of which 3 wait, and of 2 entries."""
    ring = make_ring(tmp_path_factory.mktemp("intact") / "r")
    for step in range(7):
        put(ring, step)
    ring.drained = 4
    ring.log(5, "loss", 0.5)
    ring.log(6, "loss", 0.25)
    return ring.path


def open_damaged(path: Path, content: bytes) -> Ring | None:
    path.unlink(missing_ok=True)  # the one before may still be locked
    path.write_bytes(content)
    return reopened(path)


def with_counters(content: bytes, values: dict[int, int]) -> bytes:
    head = np.frombuffer(content, np.int64, PAGE // 8).copy()
    for line, value in values.items():
        head[(line + 1) * LINE // 8] = value
    return head.tobytes() + content[PAGE:]


COUNTERS = st.integers(-3, 40) | st.integers(-(2**63), 2**63 - 1)


@settings(max_examples=300, deadline=None)
@given(values=st.dictionaries(st.integers(0, 3), COUNTERS, min_size=1))
def test_counters_that_lie(
    tmp_path_factory: pytest.TempPathFactory, intact: Path, values: dict[int, int]
) -> None:
    """They are refused, or the rows that they promise are there."""
    try:
        ring = open_damaged(
            tmp_path_factory.getbasetemp() / "r", with_counters(intact.read_bytes(), values)
        )
    except FormatError:
        return
    assert ring is not None
    assert ring.written <= 7 or ring.written == ring.drained
    for row in range(ring.drained, ring.written):
        assert ring.steps[row % ring.plan.slots] == row
        assert ring.rows("weights", row, 1)[0, 0] == row
    assert ring.entries_written - ring.entries_drained <= ENTRIES


DESCRIPTIONS: list[Any] = [
    *(None, [], {}, 5, "x", {"widths": {}}, {"widths": [], "slots": 1, "block": 1, "name": ""}),
    *(b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"widths": ' * 9000, b"x" * DESCRIPTION),
]
VALUES = st.sampled_from(
    [None, -1, 0, 1, 2, 7, 2**31, 2**62, 10**30, True, 1.0, "1", "|O8", [], {}]
)


def described(content: bytes, description: bytes) -> bytes:
    return content[:PAGE] + description.ljust(DESCRIPTION, b"\0") + content[PAGE + DESCRIPTION :]


@pytest.mark.parametrize("document", DESCRIPTIONS, ids=lambda d: repr(d)[:20])
def test_garbage_for_a_description(tmp_path: Path, intact: Path, document: Any) -> None:
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    with refuses(FormatError, tmp_path / "r", "damaged"):
        open_damaged(tmp_path / "r", described(intact.read_bytes(), text))
    assert (tmp_path / "r").exists()


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_description_that_lies(
    tmp_path_factory: pytest.TempPathFactory, intact: Path, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "r"
    document = json.loads(intact.read_bytes()[PAGE:].split(b"\0", 1)[0])
    key = data.draw(st.sampled_from([*document, "width", "shard"]))
    value = data.draw(VALUES)
    if key == "width":
        document["widths"]["weights"][data.draw(st.integers(0, 1))] = value
    elif key == "shard":
        shard = {"offset": 0, "shape": [5], "start": [0], "size": [5]}
        wrong = data.draw(st.sampled_from(list(shard)))
        shard[wrong] = [value] if data.draw(st.booleans()) else value
        document["shards"] = [shard]
    else:
        document[key] = value
    try:
        ring = open_damaged(path, described(intact.read_bytes(), json.dumps(document).encode()))
    except FormatError:
        return
    assert ring is not None
    assert ring.plan.size == intact.stat().st_size
    json.dumps([ring.plan.slots, ring.plan.name])
    for array, (width, _) in ring.plan.widths.items():
        assert ring.rows(array, 0, 1).shape == (1, width)


@pytest.mark.parametrize("seed", range(20))
def test_flipped_bits_and_cut_ends(tmp_path: Path, intact: Path, seed: int) -> None:
    where = random.Random(seed)
    ring = None
    for _ in range(20):
        del ring  # and its lock
        ring, content = None, bytearray(intact.read_bytes())
        for _ in range(where.choice([1, 1, 3])):
            content[where.choice([where.randrange(400), PAGE + where.randrange(300)])] ^= (
                1 << where.randrange(8)
            )
        cut = where.choice([None, None, where.randrange(len(content)), PAGE, PAGE + 100])
        try:
            ring = open_damaged(tmp_path / "r", bytes(content[:cut]))
        except FormatError:
            continue
        assert ring is None or (cut is None and ring.written <= 7)


@pytest.mark.parametrize("size", [1 << 40, 1 << 43])
def test_a_sparse_file_of_any_size_costs_no_memory(tmp_path: Path, size: int) -> None:
    """A ring that says it has 2**30 slots, and has the size for it, is a hole."""
    plan = RingPlan(WIDTHS, 1, 1, "x")
    slots = (size - plan.first_slot) // plan.offsets[""]
    plan = RingPlan(WIDTHS, slots, 1, "x")
    text = json.dumps({"widths": WIDTHS, "slots": slots, "block": 1, "name": "x"}).encode()
    path = tmp_path / "r"
    path.write_bytes(MAGIC.ljust(PAGE, b"\0") + text)
    os.truncate(path, plan.size)
    with path.open("r+b") as file:
        file.seek(2 * LINE)
        file.write((slots).to_bytes(8, "little"))  # drained
    tracemalloc.start()
    try:
        with refuses(FormatError, "damaged"):
            reopened(path)
        os.truncate(path, plan.size)
        with path.open("r+b") as file:
            file.seek(LINE)
            file.write((slots).to_bytes(8, "little"))  # written: all of them wait
            file.write(bytes(LINE))
        with refuses(FormatError, "damaged"):
            reopened(path)
        assert tracemalloc.get_traced_memory()[1] < 50 << 20
    finally:
        tracemalloc.stop()
