"""Sampling as histories grow, and as there are more of them: random walks that move like N0."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from probing import Probe, size, take_turns
from rich.console import Console
from rich.table import Table
from scans import Task
from synthetic import DEAD, Variation, write_walks

from recorder import middle  # noqa: TID251, that of this folder

STEPS = 64
FIXED = 400_000  # fewer than the weights of the smallest size, so that each gives one candidate
ARMS = {
    f"threads, {FIXED:,} samples": ("threads", False),
    "threads, P / 2 samples": ("threads", True),
    f"processes, {FIXED:,} samples": ("processes", False),
}


@dataclass(frozen=True)
class Grown:
    """One size: its weights, bytes on disk, weights in a chunk, and what each arm took."""

    weights: int
    stored: int
    chunk: int
    probes: dict[str, list[Probe]]

    def seconds(self, arm: str) -> float:
        """The median."""
        return statistics.median(p.seconds for p in self.probes[arm])


def bench_growth(
    console: Console,
    folder: Path,
    variation: Variation,
    tiny: tuple[str, ...],
    sizes: Sequence[int],
    repeats: int,
) -> list[Grown]:
    """Histories of `STEPS` steps and so many weights, one after the other."""
    grown = []
    for weights in sizes:
        with tempfile.TemporaryDirectory(dir=folder) as name:
            history = write_walks(Path(name) / "run.zarr", weights, STEPS, variation, weights)
            tasks = {
                arm: Task(
                    *("ours", (str(history.path),)),
                    scheduler=scheduler,
                    workers=2,
                    samples=weights // 2 if rises else min(FIXED, weights // 2),
                    tiny=tiny,
                )
                for arm, (scheduler, rises) in ARMS.items()
            }
            probes = take_turns(tasks, repeats, folder)
            chunk = history.weights.chunks[0]
            grown.append(Grown(weights, size([history.path]), chunk, probes))
        console.print(f"  {weights / 1e6:g} M weights done", highlight=False)
    console.print(_growth_table(grown, variation, repeats))
    for line in _growth_targets(grown):
        console.print(f"  {line}", highlight=False, soft_wrap=True)
    console.print()
    return grown


def _growth_table(grown: Sequence[Grown], variation: Variation, repeats: int) -> Table:
    table = Table(
        *("arm", "M weights", "seconds", "seconds a\nM weights", "from the\nfitted line, %"),
        *("driver, MB:\npeak / anon.", "worker, MB:\npeak / anon.", "disk at its\npeak, MB"),
        *("history,\nbytes a value", "chunk,\nMB"),
        title=f"Growth: random walks of {STEPS} steps that move as N0's weights do, "
        f"{max(variation.dead, DEAD):.1%} dead; warm; 2 workers; {repeats} times; of threads, the "
        "driver is the worker",
    )
    for arm in ARMS:
        off = fit([g.weights for g in grown], [g.seconds(arm) for g in grown])[2]
        for g, percent in zip(grown, off, strict=True):
            probes = g.probes[arm]
            table.add_row(
                *(arm, f"{g.weights / 1e6:g}", middle((p.seconds for p in probes), between="\n")),
                f"{g.seconds(arm) / g.weights * 1e6:.3f}",
                f"{percent:+.0f}" if len(grown) > 2 else "-",
                memory([p.driver for p in probes]),
                memory([p.worker for p in probes]) if "processes" in arm else "",
                f"{max(p.most for p in probes) / 1e6:.0f}",
                f"{g.stored / g.weights / STEPS:.2f}",
                f"{g.chunk * STEPS * 4 / 1e6:.1f}",
            )
        table.add_section()
    return table


def memory(processes: Sequence[object]) -> str:
    """Peak, and anonymous, of the largest of some processes."""
    return " / ".join(
        f"{max(getattr(p, name) for p in processes) / 1e6:.0f}" for name in ("peak", "anonymous")
    )


def fit(sizes: Sequence[int], seconds: Sequence[float]) -> tuple[float, float, list[float]]:
    """The line a + b P through some seconds, by relative errors; how far each is off, in %."""
    one, both = np.asarray(seconds, float), np.asarray(sizes, float)
    line = np.linalg.lstsq(np.column_stack([1 / one, both / one]), np.ones(len(one)), rcond=None)[0]
    return line[0], line[1], list(100 * (one / (line[0] + line[1] * both) - 1))


def _growth_targets(grown: Sequence[Grown]) -> list[str]:
    lines, sizes = [], [g.weights for g in grown]
    if len(grown) < 3:
        return ["too few sizes for a line"]
    for arm in ARMS:
        start, slope, off = fit(sizes, [g.seconds(arm) for g in grown])
        power = np.polyfit(np.log(sizes), np.log([g.seconds(arm) for g in grown]), 1)[0]
        used = [max(p.worker.peak for p in g.probes[arm]) / 1e6 for g in grown]
        lines.append(
            f"{arm}: {start:.2f} s + {slope * 1e6:.3f} s a M weights, at most "
            f"{max(map(abs, off)):.0f} % from it (target 15 %); seconds grow as P to the "
            f"{power:.2f}; peak of the worker {used[0]:.0f} MB at {sizes[0] / 1e6:g} M weights, "
            f"{used[-1]:.0f} MB at {sizes[-1] / 1e6:g} M (target flat)"
        )
    return lines


def bench_many(
    console: Console,
    folder: Path,
    variation: Variation,
    tiny: tuple[str, ...],
    counts: Sequence[int],
    weights: int,
    repeats: int,
) -> None:
    """Datasets of several histories at once."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        made = [
            str(write_walks(Path(name) / f"{i}.zarr", weights, STEPS, variation, i).path)
            for i in range(max(counts))
        ]
        tasks = {
            f"{count}": Task(
                *("ours", tuple(made[:count])),
                workers=2,
                samples=count * weights // 2,
                tiny=tiny,
            )
            for count in counts
        }
        found = take_turns(tasks, repeats, folder)
    table = Table(
        *("histories", "seconds", "seconds a run", "x one run", "process, MB:\npeak / anon."),
        title=f"Many runs, as one list: {weights:,} weights x {STEPS} steps and {weights // 2:,} "
        f"samples each; warm; 2 threads; {repeats} times",
    )
    first = statistics.median(p.seconds / counts[0] for p in found[f"{counts[0]}"])
    for count in counts:
        probes = found[f"{count}"]
        a_run = statistics.median(p.seconds / count for p in probes)
        table.add_row(
            *(
                f"{count}",
                middle(p.seconds for p in probes),
                f"{a_run:.3f}",
                f"{a_run / first:.2f}",
            ),
            memory([p.driver for p in probes]),
        )
    console.print(table)
    console.print("  linear in runs: the seconds a run stay, or fall\n", highlight=False)
