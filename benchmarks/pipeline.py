"""What each stage of the pipeline costs on the paper's N0 network, beside a simple alternative.

``make bench``, or ``python benchmarks/pipeline.py --data DIR``: MNIST's IDX files. Arms alternate
within each repetition, so that a machine that slows down slows all of them.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from common import Training, flat, mnist
from rich.console import Console
from rich.table import Table

from weightcast.apply import jump
from weightcast.predictor import Introspection, LinearFit
from weightcast.recorder import Recorder
from weightcast.store import History, build_dataset


def recording_arms(data: tuple[torch.Tensor, torch.Tensor], steps: int, folder: Path) -> dict:
    """Functions that train N0 and record it in different ways; each takes its output path."""

    def nothing(path: Path) -> None:
        Training(*data).run(steps)

    def ours(schedule: str) -> Callable[[Path], None]:
        def arm(path: Path) -> None:
            training = Training(*data)
            with Recorder(training.model, path, schedule).attach(training.optimizer):
                training.run(steps)

        return arm

    def memmap(path: Path) -> None:
        training = Training(*data)
        size = len(flat(training.model))
        rows = np.memmap(path, dtype=np.float32, mode="w+", shape=(steps, size))
        count = iter(range(steps))
        training.run(steps, lambda: rows.__setitem__(next(count), flat(training.model)))
        rows.flush()

    def torch_save(path: Path) -> None:
        path.mkdir()
        training = Training(*data)
        count = iter(range(steps))
        training.run(
            steps, lambda: torch.save(training.model.state_dict(), path / f"{next(count)}.pt")
        )

    return {
        "no recording": nothing,
        "weightcast every:1": ours("every:1"),
        "weightcast every:10": ours("every:10"),
        "np.memmap append, every step": memmap,
        "torch.save, every step": torch_save,
    }


def timed(call: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def table(title: str, rows: dict[str, list[float]], unit: str, scale: float, **extra: dict) -> None:
    """Print medians, spreads, and ratios to the first row."""
    printed = Table("arm", f"median, {unit}", "spread", "ratio", *extra, title=title)
    first = statistics.median(next(iter(rows.values())))
    for arm, seconds in rows.items():
        middle = statistics.median(seconds)
        spread = f"{min(seconds) * scale:.3g} to {max(seconds) * scale:.3g}"
        more = [column.get(arm, "") for column in extra.values()]
        printed.add_row(arm, f"{middle * scale:.3g}", spread, f"{middle / first:.2f}", *more)
    Console(width=110).print(printed)


def bench_recording(data: tuple, steps: int, repeats: int, folder: Path) -> None:
    """Training with and without a recording."""
    arms = recording_arms(data, steps, folder)
    seconds: dict[str, list[float]] = {arm: [] for arm in arms}
    sizes = {}
    Training(*data).run(20)  # warm up
    for repeat in range(repeats):
        for i, (arm, function) in enumerate(arms.items()):
            path = folder / f"{i}-{repeat}"
            seconds[arm].append(timed(lambda f=function, p=path: f(p)) / steps)
            files = [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]
            sizes[arm] = f"{sum(f.stat().st_size for f in files if f.exists()) / 1e6:.0f} MB"
    table(f"Recording N0, {steps} steps", seconds, "ms a step", 1e3, size=sizes)


def bench_sampling(history: History, repeats: int, folder: Path) -> None:
    """Drawing 800,000 samples, beside loading all of it into memory."""
    samples = 800_000
    seconds = {
        "read it all, np.abs, np.argsort": [],
        "weightcast, one worker": [],
        "weightcast, two workers": [],
    }
    for repeat in range(repeats):
        for workers, arm in enumerate(seconds):
            path = folder / f"samples-{repeat}-{workers}"
            if workers:
                call = lambda p=path, w=workers: build_dataset(history, p, samples, workers=w)  # noqa: E731
            else:
                call = lambda: in_memory(history, samples)  # noqa: E731
            seconds[arm].append(timed(call))
    table(f"{samples} samples from {history.weights.shape}", seconds, "s", 1)


def in_memory(history: History, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """The paper's recipe as a short script would do it: everything in memory, one t a sample."""
    values = history.weights[:, : len(history)]
    random = np.random.default_rng(0)
    weight = random.integers(0, len(values), 2 * samples)
    t = random.integers(3, len(history) // 2, 2 * samples)
    order = np.argsort(-np.abs(values[weight, t] - values[weight, 0]))
    cuts = np.split(order, [samples, samples + samples // 2])
    counts = (samples // 2, samples // 4, samples // 4)
    chosen = np.concatenate([random.permutation(c)[:n] for c, n in zip(cuts, counts, strict=True)])
    steps = np.stack([(t[chosen] * f).astype(int) for f in (1, 0.7, 0.4, 0)], axis=1)
    return values[weight[chosen, None], steps], values[weight[chosen], 2 * t[chosen]]


def bench_jump(data: tuple, repeats: int) -> None:
    """One jump of all weights of N0, beside one training step."""
    training = Training(*data)
    parameters = list(training.model.parameters())
    past = [[p.detach().clone() for p in parameters] for _ in range(4)]
    samples = np.random.default_rng(0).normal(size=(100, 4))
    network = Introspection(steps=10).fit(samples, samples[:, 0])
    calls = {
        "one training step": lambda: training.run(1),
        "jump, introspection": lambda: jump(parameters, past, network),
        "jump, straight line": lambda: jump(parameters, past, LinearFit()),
    }
    for call in calls.values():
        call()
    seconds = {arm: [timed(call) for _ in range(10 * repeats)] for arm, call in calls.items()}
    table("One jump of N0", seconds, "ms", 1e3)


def main() -> None:
    """Run all three benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/mnist"))
    parser.add_argument("--steps", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="Where to write; a temporary folder.")
    options = parser.parse_args()
    data = mnist(options.data)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        bench_recording(data, options.steps, options.repeats, folder)
        path = folder / "long"
        training = Training(*data)
        with Recorder(training.model, path).attach(training.optimizer):
            training.run(options.steps)
        bench_sampling(History(path), options.repeats, folder)
    bench_jump(data, options.repeats)


if __name__ == "__main__":
    main()
