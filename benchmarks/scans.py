"""Arms of the sampling benchmark, each in a process of its own: ``python scans.py TASK``.

A task is JSON. The process prepares, says ``ready``, waits for a line, does the job, and says what
it took; then it waits for the end of its input, and checks what it made.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from calibrating import calibrate

from weightcast.store import Dataset, build_dataset, context_steps
from weightcast.store.recipe import PAPER_CONTEXT, PAPER_HORIZON

BLOCK = 16384  # weights at once, as wide as a chunk of N0's history
SHARES = (0.5, 0.25, 0.25)
COLUMNS = ("X", "y", "parameter", "step", "stratum", "variation")
Job = Callable[[], Any]
Block = Callable[[int, int, np.ndarray], np.ndarray]  # weights low to high, by a buffer: [n, T]


@dataclass(frozen=True)
class Task:
    """What an arm is to do.

    Attributes
    ----------
    kind : {"ours", "scan", "whole", "straight", "zarr", "calibrate"}
    history : tuple of str
        Histories, or the raw file.
    out : str
        A folder for what is made.
    order : {"TP", "PT"}
        Axes of the raw file.
    shape : (int, int)
        Weights and steps, P and T.
    scheduler : {"threads", "processes", "cluster"}
        A cluster of so many workers is started before the clock is.
    workers, samples : int
    reference : str
        A dataset: its points are gathered, or it is what must come out.
    tiny : tuple of str
        Two small histories, to warm up.
    """

    kind: str
    history: tuple[str, ...]
    out: str = ""
    order: str = ""
    shape: tuple[int, int] = (0, 0)
    scheduler: str = "threads"
    workers: int = 1
    samples: int = 0
    reference: str = ""
    tiny: tuple[str, ...] = ()


def main() -> None:
    """Do the task of the command line."""
    task = Task(**json.loads(sys.argv[1]))
    kinds = {"ours": ours, "whole": whole, "calibrate": calibration}
    with ExitStack() as stack:
        job, check = kinds.get(task.kind, gathering)(task, stack)
        print("ready", flush=True)
        sys.stdin.readline()
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
        begin = time.perf_counter()
        answer = job()
        seconds = time.perf_counter() - begin
        print(json.dumps({"seconds": seconds, "answer": answer}), flush=True)
        sys.stdin.read()
        check()


def ours(task: Task, stack: ExitStack) -> tuple[Job, Job]:
    """`build_dataset`; what must come out is the reference, byte for byte."""
    scheduler, workers, out = task.scheduler, task.workers or None, Path(task.out)
    if scheduler == "cluster":
        from distributed import LocalCluster

        # Port 0: two at once must not warn of each other's dashboards.
        cluster = LocalCluster(n_workers=task.workers, threads_per_worker=1, dashboard_address=":0")
        scheduler, workers = stack.enter_context(cluster).scheduler_address, None

    def build(source: Any, path: Path, samples: int) -> Dataset:
        return build_dataset(source, path, samples, scheduler=scheduler, workers=workers, seed=0)

    def job() -> None:
        build(task.history, out / "dataset", task.samples)

    def check() -> None:
        made = Dataset(out / "dataset")
        expected = Dataset(task.reference) if task.reference else made
        for name in COLUMNS:
            assert np.array_equal(getattr(made, name), getattr(expected, name)), name

    with tempfile.TemporaryDirectory(dir=task.out) as name:
        build(task.tiny, Path(name) / "warm-up", 32)
    return job, check


def gathering(task: Task, stack: ExitStack) -> tuple[Job, Job]:
    """Only the gather of points that are chosen already: those of the reference."""
    dataset = Dataset(task.reference)
    weight = np.array(dataset.parameter)
    row = rows(dataset.step, task.shape[1])
    values = np.empty(row.shape, np.float32)
    if task.kind == "straight":
        found = mapped(task)

        def job() -> None:
            for part in (slice(a, a + BLOCK) for a in range(0, len(weight), BLOCK)):
                values[part] = found[weight[part, None], row[part]]
    else:
        block = zarr_block(task) if task.kind == "zarr" else raw_block(task)

        def job() -> None:
            scan(block, task, weight, row, values)

    def check() -> None:
        assert np.array_equal(values[:, :-1], dataset.X), "X"
        assert np.array_equal(values[:, -1], dataset.y), "y"

    return job, check


def whole(task: Task, stack: ExitStack) -> tuple[Job, Job]:
    """The whole job on a raw file, all candidates in memory: one scan, strata, a dataset on disk.

    Its candidates are its own, drawn by NumPy: other samples than ours, as many of each stratum.
    """
    block, (size, steps) = raw_block(task), task.shape
    made: dict[str, np.ndarray] = {}

    def job() -> None:
        random = np.random.default_rng(0)
        t = np.arange(1, (steps - 1) // 2 + 1)
        t = t[(np.diff(rows(t, steps)[:, :-1], axis=1) < 0).all(axis=1)]
        draws = -(-task.samples // size)
        first = random.integers(0, len(t), size)[:, None]
        step = t[(first + np.arange(draws) * (len(t) // draws)) % len(t)].ravel()  # [P * draws]
        weight = np.repeat(np.arange(size), draws)
        values = np.empty((len(step), len(PAPER_CONTEXT) + 1), np.float32)
        scan(block, task, weight, rows(step, steps), values)
        moved = np.abs(values[:, 0] - values[:, -2])
        cuts = [len(moved) // 2, len(moved) * 3 // 4]
        strata = np.split(np.argpartition(-moved, cuts), cuts)
        counts = [round(share * task.samples) for share in SHARES]
        drawn = [random.permutation(s)[:n] for s, n in zip(strata, counts, strict=True)]
        chosen = np.concatenate(drawn)
        order = np.argsort(chosen, kind="stable")
        stratum, chosen = np.repeat(np.arange(3, dtype=np.int8), counts)[order], chosen[order]
        made.update(X=values[chosen, :-1], y=values[chosen, -1], parameter=weight[chosen])
        made.update(step=step[chosen], stratum=stratum, variation=moved[chosen])
        for name, column in made.items():
            np.save(Path(task.out) / name, column)

    def check() -> None:
        expected = mapped(task)[made["parameter"][:, None], rows(made["step"], steps)]
        assert np.array_equal(np.column_stack([made["X"], made["y"]]), expected)
        apart = [made["variation"][made["stratum"] == s] for s in range(3)]
        assert apart[0].min() >= apart[1].max()
        assert apart[1].min() >= apart[2].max()

    return job, check


def rows(step: np.ndarray, steps: int) -> np.ndarray:
    """Rows of context and target, [N, 5]: a step is a row, and the last stands for the next few."""
    return context_steps(step, (*PAPER_CONTEXT, PAPER_HORIZON)).clip(max=steps - 1)


def scan(block: Block, task: Task, weight: np.ndarray, row: np.ndarray, out: np.ndarray) -> None:
    """Gather points, ordered by weight, a block of weights at a time; blocks go round threads."""
    size, steps = task.shape
    lows = range(0, size, BLOCK)
    cuts = np.searchsorted(weight, [*lows, size])

    def run(first: int) -> None:
        buffer = np.empty(BLOCK * steps, np.float32)
        for i in range(first, len(lows), task.workers):
            part, low = slice(cuts[i], cuts[i + 1]), lows[i]
            values = block(low, min(low + BLOCK, size), buffer)  # [n, T]
            out[part] = values[weight[part, None] - low, row[part]]

    with ThreadPoolExecutor(task.workers) as pool:
        list(pool.map(run, range(task.workers)))


def mapped(task: Task) -> np.ndarray:
    """The raw file as [P, T]: of a naive recorder's rows [T, P] a transposed view."""
    shape = task.shape if task.order == "PT" else task.shape[::-1]
    values = np.memmap(task.history[0], np.float32, "r", shape=shape)
    return values if task.order == "PT" else values.T


def raw_block(task: Task) -> Block:
    """Blocks of a raw file, copied into the buffer as they lie in the file."""
    values, order = mapped(task), "C" if task.order == "PT" else "F"

    def block(low: int, high: int, buffer: np.ndarray) -> np.ndarray:
        part = values[low:high]
        copied = buffer[: part.size].reshape(part.shape, order=order)
        np.copyto(copied, part)
        return copied

    return block


def zarr_block(task: Task) -> Block:
    """Columns of chunks, as zarr-python reads them, on threads of its own."""
    weights = zarr.open_group(task.history[0], mode="r")["weights"]
    return lambda low, high, _: weights[low:high, : task.shape[1]]


def calibration(task: Task, stack: ExitStack) -> tuple[Job, Job]:
    """What two workers gain on this machine at this moment."""
    return lambda: calibrate(task.scheduler, task.history), lambda: None


if __name__ == "__main__":
    main()
