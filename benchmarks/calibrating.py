"""How much faster two workers are than one at work that shares nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numcodecs import blosc

BUSY = 0.4  # seconds that one measurement takes


def calibrate(scheduler: str, files: Sequence[str]) -> dict[str, float]:
    """Speed-up of two workers over one: decoding Blosc chunks, and pure arithmetic.

    Parameters
    ----------
    scheduler : {"threads", "processes"}
    files : sequence of str
        Chunks of a history of the preset ``fast``.
    """
    pool: Executor = ThreadPoolExecutor(2)
    if scheduler == "processes":
        pool = ProcessPoolExecutor(2, mp_context=get_context("spawn"))
    with pool:
        list(pool.map(_warm_up, [files] * 8))
        return {what: _gain(pool, work, files) for what, work in WORKS.items()}


def _gain(pool: Executor, work: Callable[..., None], files: Sequence[str]) -> float:
    begin = time.perf_counter()
    work(files, 1)
    times = max(1, round(BUSY / (time.perf_counter() - begin)))

    def seconds(workers: int) -> float:
        begin = time.perf_counter()
        list(pool.map(work, [files] * workers, [times] * workers))
        return time.perf_counter() - begin

    one, two, again = seconds(1), seconds(2), seconds(1)
    return (one + again) / two


def _warm_up(files: Sequence[str]) -> None:
    """Import what there is to import; slowly, so that each worker gets some."""
    decode(files[:1], 1)
    time.sleep(0.1)


def decode(files: Sequence[str], times: int) -> None:
    """Decode chunks that are in memory, over and over; their checksum is left out."""
    blosc.use_threads = False  # its own would make one worker two
    chunks = [Path(file).read_bytes()[:-4] for file in files]
    sizes = [int.from_bytes(chunk[4:8], "little") for chunk in chunks]  # decoded: Blosc's header
    out = np.empty(max(sizes), np.uint8)
    for _ in range(times):
        for chunk, size in zip(chunks, sizes, strict=True):
            blosc.decompress(chunk, out[:size])


def arithmetic(files: Sequence[str], times: int) -> None:
    """Numbers that fit in the cache."""
    values, out = np.linspace(0, 1, 1 << 16, dtype=np.float32), np.empty(1 << 16, np.float32)
    for _ in range(100 * times):
        np.exp(values, out=out)


WORKS = {"decoding": decode, "arithmetic": arithmetic}
