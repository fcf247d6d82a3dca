"""Runs one arm in a process of its own and looks at it: seconds, memory, disk. Linux only."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from scans import Task

POLL = 0.01  # seconds between two looks
LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass
class Process:
    """The most memory that was seen of a process, in bytes: all of it, and the anonymous part."""

    peak: int = 0
    anonymous: int = 0


@dataclass
class Probe:
    """What an arm took.

    Attributes
    ----------
    seconds : float
        Of the job alone.
    answer : any
        What the arm found out itself.
    driver, worker : Process
        The process that does the job, and the largest of those that it had do it; the same one if
        it works in threads.
    disk, read : int
        Bytes read from the disk, and read at all, by all of them; a map is not counted as read.
    most : int
        Bytes that it had on disk at its peak: scratch files, and what it made.
    resident : float
        Share of the input that was in the page cache at the start.
    """

    seconds: float = 0.0
    answer: Any = None
    driver: Process = field(default_factory=Process)
    worker: Process = field(default_factory=Process)
    disk: int = 0
    read: int = 0
    most: int = 0
    resident: float = 0.0


def take_turns(
    tasks: Mapping[str, Task], repeats: int, folder: Path, cold: bool = False
) -> dict[str, list[Probe]]:
    """Run each task so many times, all of them once before any again."""
    found: dict[str, list[Probe]] = {name: [] for name in tasks}
    for _ in range(repeats):
        for name in found:
            with tempfile.TemporaryDirectory(dir=folder) as out:
                found[name].append(probe(replace(tasks[name], out=out), cold))
    return found


def probe(task: Task, cold: bool = False) -> Probe:
    """Run a task, with its input in the page cache, or dropped from it."""
    command = [sys.executable, str(Path(__file__).with_name("scans.py")), json.dumps(asdict(task))]
    pipe, inputs = subprocess.PIPE, [Path(path) for path in task.history]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        said = process.stdout.readline().strip()
        if said != "ready":
            raise SystemExit(f"an arm died: its traceback is above; it was {task}")
        (drop if cold else load)(inputs)
        found = Probe(resident=resident(inputs))
        _watch(process, found, Path(task.out))
        process.stdin.close()
        if process.wait():
            raise SystemExit(f"an arm made what it should not: its traceback is above; {task}")
    return found


def _watch(process: subprocess.Popen[str], found: Probe, out: Path) -> None:
    """Let it begin, and look at it until it has done the job."""
    seen: dict[int, Process] = {}
    before = _io(_family(process.pid))
    looks = 0
    process.stdin.write("go\n")
    process.stdin.flush()
    done = False
    while not done:
        done = bool(select.select([process.stdout], [], [], POLL)[0])
        family = _family(process.pid)
        for pid in family:
            _look(pid, seen.setdefault(pid, Process()))
        now = _io(family)
        found.read = max(found.read, now[0] - before[0])
        found.disk = max(found.disk, now[1] - before[1])
        looks += 1
        if looks % 10 == 0 or done:
            found.most = max(found.most, size([out]))
    said = process.stdout.readline()
    if not said:
        raise SystemExit("an arm died: its traceback is above")
    found.seconds, found.answer = json.loads(said).values()
    found.driver = seen.pop(process.pid)
    found.worker = max(seen.values(), key=lambda p: p.anonymous, default=found.driver)


def _family(pid: int) -> list[int]:
    """A process and all that it started."""
    found = [pid]
    for parent in found:
        with suppress(OSError):  # it has ended
            for thread in Path(f"/proc/{parent}/task").iterdir():
                found += map(int, (thread / "children").read_text().split())
    return found


def _look(pid: int, process: Process) -> None:
    with suppress(OSError, LookupError):  # it has ended
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        status = {name: rest for name, _, rest in (line.partition(":") for line in lines)}
        process.peak = max(process.peak, int(status["VmHWM"].split()[0]) * 1024)
        process.anonymous = max(process.anonymous, int(status["RssAnon"].split()[0]) * 1024)


def _io(family: Iterable[int]) -> tuple[int, int]:
    """Bytes that processes have read at all, and from the disk; with those of children they had."""
    read = disk = 0
    for pid in family:
        with suppress(OSError):
            lines = Path(f"/proc/{pid}/io").read_text().splitlines()
            counts = dict(line.split(": ") for line in lines)
            read, disk = read + int(counts["rchar"]), disk + int(counts["read_bytes"])
    return read, disk


def size(paths: Iterable[Path]) -> int:
    """Bytes of files and folders, of what is still there."""
    total = 0
    for file in contents(paths):
        with suppress(OSError):
            total += file.stat().st_size
    return total


def contents(paths: Iterable[Path]) -> list[Path]:
    """The files among paths, and in the folders among them."""
    found = []
    for path in paths:
        if path.is_file():
            found.append(path)
        for root, _, names in os.walk(path):
            found += [Path(root, name) for name in names]
    return found


def load(paths: Iterable[Path]) -> None:
    """Bring files into the page cache."""
    buffer = bytearray(8 << 20)
    for file in contents(paths):
        if resident([file]) < 1:
            with file.open("rb", buffering=0) as opened:
                while opened.readinto(buffer):
                    pass


def drop(paths: Iterable[Path]) -> None:
    """Put files on the disk, and out of the page cache."""
    for file in contents(paths):
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)  # a dirty page stays
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def resident(paths: Iterable[Path]) -> float:
    """Share of the pages of files that the page cache holds, by mincore."""
    pages = held = 0
    for file in contents(paths):
        with file.open("rb") as opened:
            if not (length := os.fstat(opened.fileno()).st_size):
                continue
            mapped = mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ)
        view = np.frombuffer(mapped, np.uint8)
        answer = np.zeros(-(-length // mmap.PAGESIZE), np.uint8)
        place = (ctypes.c_void_p(view.ctypes.data), ctypes.c_size_t(length))
        if LIBC.mincore(*place, ctypes.c_void_p(answer.ctypes.data)):
            raise OSError(ctypes.get_errno(), "mincore")
        pages += len(answer)
        held += int((answer & 1).sum())
    return held / pages if pages else 1.0
