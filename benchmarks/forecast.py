"""What forecasters cost: the paper's training, and forecasts of millions of weights on one core.

``make bench-forecast``, or ``python benchmarks/forecast.py --data DIR``: MNIST's IDX files. All
arms are in one process, on one core, and take turns in each repetition; right before each, a copy
of as many bytes as it has to read and write. If torch has a GPU, there is a table of it too. Linux
only.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path

import torch
from fitting import EVERY, Fitted, dataset, fits
from forecasting import Weights, arms
from rich.console import Console
from rich.table import Column, Table
from threadpoolctl import threadpool_limits
from turns import Arm, measure

from recorder import machine, middle  # noqa: TID251, that of this folder

CONSOLE = Console(width=150)
SECTIONS = ("fit", "forecast")
TARGETS = {"line, running sums": 0.001, "Introspection": 0.01}  # seconds a million weights
DEVICE_TARGETS = {"line, running sums": 0.5, "Introspection": 0.25}  # of the copy's bandwidth
FIT_TARGET = 15.0  # seconds


def fit_table(found: dict[str, Fitted], steps: int, history: str) -> Table:
    """Seconds and errors of all, beside the last value."""
    table = Table(
        Column("forecaster", no_wrap=True),
        *("seconds to fit", "held-out L1\nx 1000", "last value's\nis larger, x"),
        title=f"{history}; {steps:,} training steps on one core",
    )
    last = statistics.median(found["last value"].errors)
    for name, fitted in found.items():
        took = middle(fitted.seconds) if fitted.seconds else ""
        better = middle(last / error for error in fitted.errors)
        table.add_row(name, took, middle(fitted.errors, ".3f"), better)
    return table


def bench_fit(options: argparse.Namespace, folder: Path) -> None:
    """The paper's training on N0's history."""
    drawn = dataset(folder, options.data, options.steps, options.samples)
    found = fits(drawn, options.seeds, options.fit_steps)
    what = (
        f"{len(drawn.training_rows):,} samples of N0's history of {options.steps:,} steps, every "
        f"{EVERY}th recorded; {options.seeds} seeds"
    )
    CONSOLE.print(fit_table(found, options.fit_steps, what))
    ratios = zip(
        found["the same in a plain torch loop"].seconds, found["Introspection"].seconds, strict=True
    )
    CONSOLE.print(
        f"  Introspection: {middle(found['Introspection'].seconds)} s (target {FIT_TARGET:g} for "
        f"30,000 steps), {middle(plain / ours for plain, ours in ratios)} x faster than the plain "
        "loop\n",
        highlight=False,
    )


def forecast_table(found: dict[str, Arm], title: str) -> Table:
    """Every arm beside the copy."""
    table = Table(
        Column("arm", no_wrap=True),
        *("weights, M", "bytes a\nweight", "seconds a M weights", "a copy of as\nmany bytes"),
        *("slower than\nthe copy, x", "memory beside\nits input, MB"),
        title=title,
    )
    for name, arm in found.items():
        ratios = (mine / copy for mine, copy in zip(arm.seconds, arm.copied, strict=True))
        table.add_row(
            *(name, f"{arm.weights / 1e6:g}", f"{4 * arm.floats}"),
            *(middle(arm.seconds, ".5f", "\n"), f"{statistics.median(arm.copied):.5f}"),
            *(middle(ratios, ".1f", "\n"), f"{arm.memory / 1e6:,.1f}"),
        )
    return table


def bench_forecast(device: str, size: int, repeats: int) -> None:
    """Forecasts of that many weights on a device."""
    found = arms(Weights.walk(size, device))
    measure(list(found.values()), device, repeats)
    where = "one core" if device == "cpu" else torch.cuda.get_device_name()
    CONSOLE.print(forecast_table(found, f"float32 on {where}; {repeats} times, in turns"))
    for name, target in (TARGETS if device == "cpu" else DEVICE_TARGETS).items():
        arm = found[name]
        if device == "cpu":
            said = f"{middle(arm.seconds, '.5f')} s a million weights (target {target:g})"
        else:
            share = (c / s for s, c in zip(arm.seconds, arm.copied, strict=True))
            said = f"{middle(share)} of the copy's bandwidth (target {target:g})"
        CONSOLE.print(f"  {name}: {said}", highlight=False)
    CONSOLE.print()


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/mnist"))
    parser.add_argument("--folder", type=Path, help="Keeps N0's history; a temporary folder.")
    parser.add_argument("--steps", type=int, default=10_000, help="Training steps of N0.")
    parser.add_argument("--seeds", type=int, default=3, help="Fits of each forecaster.")
    parser.add_argument("--weights", type=float, default=4, help="Millions, to forecast.")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--quick", action="store_true", help="Small, twice: whether it works.")
    options = parser.parse_args()
    options.samples, options.fit_steps = 800_000, 30_000
    if options.quick:
        options.steps, options.samples, options.fit_steps, options.seeds = 200, 20_000, 500, 2
        options.weights, options.repeats = 0.3, 2
    return options


def main() -> None:
    """Print a table for each part."""
    options = parsed()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    with ExitStack() as stack:
        stack.enter_context(threadpool_limits(1))  # scikit-learn's trees
        temporary = tempfile.TemporaryDirectory
        folder = options.folder or Path(stack.enter_context(temporary()))
        folder.mkdir(parents=True, exist_ok=True)
        CONSOLE.print(machine(folder), highlight=False)
        if "fit" in options.only:
            bench_fit(options, folder)
        if "forecast" in options.only:
            size = round(options.weights * 1e6)
            bench_forecast("cpu", size, options.repeats)
            if torch.cuda.is_available():
                bench_forecast("cuda", 10 * size, options.repeats)


if __name__ == "__main__":
    main()
