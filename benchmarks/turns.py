"""Arms that take turns, each right after a plain copy of as many bytes; and their memory."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch


@dataclass
class Arm:
    """Something to do with P weights, and what it took.

    Attributes
    ----------
    call : callable
    floats : int
        Numbers that it has to read and write for each weight.
    weights : int
        How many it is given.
    seconds, copied : list of float
        Of each repetition, for a million weights: its own, and of a copy of as many bytes right
        before.
    memory : int
        Bytes more than before, at most, while it ran.
    """

    call: Callable[[], object]
    floats: int
    weights: int
    seconds: list[float] = field(default_factory=list)
    copied: list[float] = field(default_factory=list)
    memory: int = 0


def measure(arms: Sequence[Arm], device: str, repeats: int) -> None:
    """Fill in seconds and memory of arms that take turns."""
    largest = max(arm.floats * arm.weights for arm in arms)
    source = torch.zeros(largest // 2, device=device)
    target = torch.zeros_like(source)
    for arm in arms:
        arm.memory = (memory if device == "cpu" else device_memory)(arm.call)
    for _ in range(repeats):
        for arm in arms:
            half = arm.floats * arm.weights // 2
            million = arm.weights / 1e6
            part = target[:half]
            arm.copied.append(seconds(lambda p=part: p.copy_(source[: len(p)]), device) / million)
            arm.seconds.append(seconds(arm.call, device) / million)


def seconds(call: Callable[[], object], device: str) -> float:
    """Of one call, the device's work included."""
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    synchronize()
    begin = time.perf_counter()
    call()
    synchronize()
    return time.perf_counter() - begin


def memory(call: Callable[[], object]) -> int:
    """Bytes that a call makes the process grow by at most."""
    call()  # so that the code it needs is loaded
    ctypes.CDLL(None).malloc_trim(0)  # and there is no memory to reuse
    peak_begins()
    before = resident()
    call()
    return resident_peak() - before


def peak_begins() -> None:
    """Let the process's peak be what it has now."""
    Path("/proc/self/clear_refs").write_text("5")


def resident() -> int:
    """Bytes of memory that the process has."""
    return _status("VmRSS")


def resident_peak() -> int:
    """The most that it had since `peak_begins`."""
    return _status("VmHWM")


def device_memory(call: Callable[[], object]) -> int:
    """The same on a GPU, as torch counts it."""
    call()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    return torch.cuda.max_memory_allocated() - before


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
