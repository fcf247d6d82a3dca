"""What tests run on workers of all kinds: a module that worker processes can import."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from weightcast.store import NonFiniteError


def collect(*values: Any) -> tuple[Any, ...]:
    """The arguments."""
    return values


def where() -> tuple[int, int]:
    """Process and thread of a call that takes long enough for all workers to get one."""
    time.sleep(0.02)
    return os.getpid(), threading.get_ident()


def fail_at(bad: int, folder: str, i: int) -> int:
    """Leave a file for each call; one of them fails."""
    (Path(folder) / f"{i}").touch()
    if i == bad:
        raise NonFiniteError(f"weights must be finite: {i}")
    return i


def fail_beside_a_slow_one(folder: str, i: int) -> None:
    """Call 0 fails once call 1 runs; call 1 goes on for a while, then leaves a file."""
    started, ended = Path(folder) / "started", Path(folder) / "ended"
    if i == 1:
        started.touch()
        time.sleep(0.5)
        ended.touch()
    else:
        while not started.exists():
            time.sleep(0.005)
        raise NonFiniteError("weights must be finite")


def die_once(folder: str, i: int, bad: int) -> int:
    """The first time that `bad` is called, its process is killed."""
    time.sleep(0.005)
    if i == bad:
        mark = Path(folder) / "killed"
        if not mark.exists():
            mark.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
    return i * i


def die(*_: Any) -> None:
    """Kill the process."""
    os.kill(os.getpid(), signal.SIGKILL)


def wait_a_while(folder: str, i: int) -> None:
    """Leave a file, and go on for a while: of a job to interrupt."""
    (Path(folder) / f"{i}.{os.getpid()}").touch()
    time.sleep(0.2)


class Common:
    """What all calls share; leaves a file in its folder where it is unpickled."""

    def __init__(self, folder: str, value: int) -> None:
        self.folder, self.value = folder, value

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        Path(self.folder, f"{os.getpid()}.{time.monotonic_ns()}").touch()


def add(common: Common, i: int) -> int:
    """What all share, and this call's own."""
    return common.value + i


def where_with(_: str) -> tuple[int, int]:
    """The same, with what all calls share."""
    return where()


def die_once_with(common: Common, folder: str, i: int, bad: int) -> int:
    """The same, with what all calls share."""
    return common.value + die_once(folder, i, bad)
