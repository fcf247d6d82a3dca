"""One training in a process of its own: its seconds, its memory, and what runs beside it."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import shutil
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from arms import Arm
from common import Data, Training

WINDOW = 10  # steps between two looks at the system's counters, which are not timed themselves
WARM_UP = 100  # steps that are left out of the steady state
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Run:
    """What one training gave.

    Attributes
    ----------
    steps : int
        In the steady state.
    wall, queue, thread : float
        Seconds of the steady state: all of it, waiting for a core, on a core.
    whole : float
        Seconds a step, from the first to the last.
    beside : float
        Seconds that other threads and processes were on a core, from the first step to the end.
    call : float
        Seconds of one recording, the median; 0 if there is none.
    spent : float
        Seconds a step that all recordings of the steady state took.
    drain : float
        Seconds that the drain process is on a core for a row, once it runs.
    after : float
        Seconds from the last step until everything is on the disk.
    stored, memory, drain_memory, ring : int
        Bytes: on disk, the trainer's own at most, the drain process's, of the ring file.
    """

    steps: int = 0
    wall: float = 0.0
    queue: float = 0.0
    thread: float = 0.0
    whole: float = 0.0
    beside: float = 0.0
    call: float = 0.0
    spent: float = 0.0
    drain: float = 0.0
    after: float = 0.0
    stored: int = 0
    memory: int = 0
    drain_memory: int = 0
    ring: int = 0

    @property
    def step(self) -> float:
        """Seconds a step."""
        return self.wall / self.steps

    @property
    def unqueued(self) -> float:
        """Seconds a step without waiting for a core."""
        return (self.wall - self.queue) / self.steps


@dataclass
class Watch:
    """Looks at the trainer's memory, and at the drain process, between steps."""

    path: Path
    memory: int = 0
    drain_memory: int = 0
    ring: int = 0
    # Seconds on a core and committed rows, at the first and the latest commit of the steady state.
    commits: list[tuple[float, int]] = field(default_factory=list)

    def look(self, steady: bool) -> None:
        """Take note of the present state."""
        self.memory = max(self.memory, _status("self", "RssAnon"))
        ring = self.path.with_name(f"{self.path.name}.ring")
        if not ring.exists():
            return
        self.ring = ring.stat().st_size
        for process in Path("/proc/thread-self/children").read_text().split():
            self.drain_memory = max(self.drain_memory, _status(process, "RssAnon"))
            committed = _committed(self.path)
            if steady and committed and committed != (self.commits or [(0, 0)])[-1][1]:
                self.commits = [*self.commits[:1], (_on_core(process), committed)]

    @property
    def drain(self) -> float:
        """Seconds that a row keeps the drain process on a core; 0 if too few were committed."""
        if len(self.commits) < 2:
            return 0.0
        (seconds, rows), (now, all_rows) = self.commits
        return (now - seconds) / (all_rows - rows)


def in_a_process(arm: Arm, data: Data, batch: int, steps: int, threads: int, path: Path) -> Run:
    """Measure a training in a fork, so that no arm leaves memory or threads to the next."""
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)

    def target() -> None:
        torch.set_num_threads(threads)
        sending.send(measure(arm, Training(*data, batch), steps, path))

    process = context.Process(target=target)
    process.start()
    sending.close()
    try:
        return receiving.recv()
    except EOFError:
        raise SystemExit("a training died: its traceback is above") from None
    finally:
        process.join()
        for left in (path, path.with_name(f"{path.name}.ring")):
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(True)


def measure(arm: Arm, training: Training, steps: int, path: Path) -> Run:
    """Train and record, in this process."""
    after_step, close = arm.begin(training, path, steps)
    run, watch, calls = Run(), Watch(path), []
    warm_up = min(WARM_UP, steps // 2)
    used = _used()
    for first in range(0, steps, WINDOW):
        count = min(WINDOW, steps - first)
        queue, thread, begin = _queued(), time.thread_time(), time.perf_counter()
        spent = []
        for _ in range(count):
            training.step()
            called = time.perf_counter()
            after_step()
            spent.append(time.perf_counter() - called)
        wall = time.perf_counter() - begin
        run.whole += wall / steps
        if steady := first >= warm_up:
            run.steps += count
            run.wall += wall
            run.thread += time.thread_time() - thread
            run.queue += _queued() - queue
            calls += spent
        watch.look(steady)
    begin = time.perf_counter()
    close()
    stored = _flush(path)
    run.after = time.perf_counter() - begin
    run.beside = _used() - used
    run.spent = sum(calls) / run.steps
    if arm.every or arm.survives != "-":
        calls.sort()
        run.call = statistics.median(calls[-len(calls) // max(arm.every, 1) :])
    run.drain = watch.drain
    run.stored, run.memory = stored, watch.memory
    run.drain_memory, run.ring = watch.drain_memory, watch.ring
    return run


def _used() -> float:
    """Seconds that other threads of this process, and its ended children, were on a core."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(sum(usage[:2]) for usage in usages) - time.thread_time()


def _queued() -> float:
    """Seconds that this thread has waited for a core, ever."""
    return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9


def _on_core(process: str) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _status(process: str, name: str) -> int:
    """Bytes that a process has, by their name in its status."""
    try:
        text = Path(f"/proc/{process}/status").read_text()
    except OSError:  # it has ended
        return 0
    found = [line.split()[1] for line in text.splitlines() if line.startswith(f"{name}:")]
    return int(found[0]) * 1024 if found else 0


def _committed(history: Path) -> int:
    return int(
        json.loads((history / "zarr.json").read_text())["attributes"]["weightcast"]["committed"]
    )


def _flush(path: Path) -> int:
    """Put a file, or all files of a folder, on the disk; return their bytes."""
    files = [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    return sum(f.stat().st_size for f in files)
