"""What sampling costs: of N0's history, of larger ones, of many, with one worker and with two.

``make bench-sampling``, or ``python benchmarks/sampling.py --data DIR``: MNIST's IDX files. Each
measurement is a process of its own, and arms take turns in each repetition. What only gathers is
given the points that ours chose, and must find the same numbers; what builds a dataset of ours must
give the same bytes. Linux only.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from common import mnist
from growth import bench_growth, bench_many, memory
from paper import calculation
from probing import Probe, drop, resident, take_turns
from rich.console import Console
from rich.table import Column, Table
from scans import Task
from speedup import apart, bench_speedup, ratios
from synthetic import RAW, Variation, raw_copies, recorded, write_walks

from recorder import machine, middle  # noqa: TID251, that of this folder
from weightcast.store import History, build_dataset

CONSOLE = Console(width=164)
SECTIONS = ("scan", "growth", "many", "speedup")
SIZES = (500_000, 1_600_000, 5_000_000, 16_000_000, 50_000_000)
OURS = "weightcast, {}"
SCAN, WHOLE = "raw {}, scan, {}", "raw {}, whole job, {}"
BASE, BASE_WHOLE = SCAN.format(RAW["TP"], "1 thread"), WHOLE.format(RAW["TP"], "1 thread")
TWO_THREADS = OURS.format("2 threads")


@dataclass(frozen=True)
class Bench:
    """What all parts need: the folder, N0's history, how to build of it, and how often."""

    folder: Path
    history: History
    ours: Task
    repeats: int

    @property
    def shape(self) -> tuple[int, int]:
        """Weights and steps, P and T."""
        return self.history.parameters.size, len(self.history)

    def workers(self, counts: Iterable[int]) -> dict[str, Task]:
        """Our arms."""
        names = {"threads": "thread", "processes": "process", "cluster": "cluster of {}, started"}
        found = {}
        for scheduler, name in names.items():
            for n in counts:
                text = name.format(n) if "{" in name else f"{n} {scheduler if n > 1 else name}"
                found[OURS.format(text)] = replace(self.ours, scheduler=scheduler, workers=n)
        return found


def bench_scan(bench: Bench) -> list[Probe]:
    """Of N0's history, beside raw files and zarr-python; warm, then cold."""
    raw = raw_copies(bench.history)
    mine = bench.workers((1, 2))
    tasks = {name: task for name, task in mine.items() if "2" in name or "thread" in name}
    base = replace(bench.ours, shape=bench.shape)
    for kind, name in (("scan", SCAN), ("whole", WHOLE)):
        for order, axes in RAW.items():
            one = replace(base, kind=kind, history=(str(raw[order]),), order=order)
            tasks[name.format(axes, "1 thread")] = one
            tasks[name.format(axes, "2 threads")] = replace(one, workers=2)
    for order, axes in RAW.items():
        one = replace(base, kind="straight", history=(str(raw[order]),), order=order)
        tasks[f"raw {axes}, indexed, no scan"] = one
    tasks["zarr-python, its own threads"] = replace(base, kind="zarr")
    CONSOLE.print(f"  {disk(raw['PT'])}", highlight=False)
    found = {}
    for state in ("warm", "cold"):
        found[state] = take_turns(tasks, bench.repeats, bench.folder, cold=state == "cold")
        CONSOLE.print(scan_table(bench, found[state], state))
        for line in scan_targets(found[state], state):
            CONSOLE.print(f"  {line}", highlight=False, soft_wrap=True)
        CONSOLE.print()
    return found["warm"][TWO_THREADS]


def disk(path: Path) -> str:
    """How fast a file is read in order, cold and warm: whether cold means anything here."""
    drop([path])
    left, rates, buffer = resident([path]), [], bytearray(8 << 20)
    for _ in range(2):
        begin = time.perf_counter()
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
        rates.append(path.stat().st_size / 1e9 / (time.perf_counter() - begin))
    verdict = "cold is cold" if left < 0.01 and rates[1] > 1.5 * rates[0] else "COLD IS NOT COLD"
    return (
        f"a raw file read in order: {rates[0]:.2f} GB/s after posix_fadvise DONTNEED, "
        f"{rates[1]:.2f} GB/s again; in the page cache after it, by mincore: {left:.1%}: {verdict} "
        "for this kernel (a host below it may have a cache of its own)"
    )


def scan_table(bench: Bench, found: dict[str, list[Probe]], state: str) -> Table:
    """All arms beside a raw file."""
    size, steps = bench.shape
    samples = bench.ours.samples
    table = Table(
        Column("arm", no_wrap=True),
        *("seconds", "M samples\na second", "x scan", "x whole job", "process, MB:\npeak / anon."),
        *("a worker, MB:\npeak / anon.", "read from\ndisk, MB"),
        title=f"N0, {size:,} weights x {steps} steps, {size * steps * 4 / 1e9:.2f} GB, to "
        f"{samples:,} samples; {state}: input {'in' if state == 'warm' else 'dropped from'} the "
        f"page cache, {max(p.resident for ps in found.values() for p in ps):.0%} of it there at "
        f"the start; {bench.repeats} times\nx = how many times faster than raw [T, P] with 1 "
        "thread, above 1 is better: scan = only the gather of points chosen already, whole job = "
        "candidates, strata, gather, a dataset on disk, as weightcast does; anon. = anonymous, "
        "without mapped files",
    )
    for arm, probes in found.items():
        rate = statistics.median(samples / p.seconds / 1e6 for p in probes)
        table.add_row(
            *(arm, middle((p.seconds for p in probes), ".3f"), f"{rate:#.3g}"),
            *(middle(ratios(found, arm, base)) for base in (BASE, BASE_WHOLE)),
            memory([p.driver for p in probes]),
            memory([p.worker for p in probes]) if apart(probes) else "",
            f"{statistics.median(p.disk for p in probes) / 1e6:,.0f}",
        )
    return table


def scan_targets(found: dict[str, list[Probe]], state: str) -> list[str]:
    """What was asked for, and what is."""
    target, lines = {"warm": 1.0, "cold": 1.4}[state], []
    bases = (BASE, BASE.replace("1 thread", "2 threads"), BASE_WHOLE)
    for arm in [arm for arm in found if arm.startswith("weightcast") and "2" in arm]:
        fast = "; ".join(f"{middle(ratios(found, arm, base))} x {base}" for base in bases)
        peak = max(p.worker.peak for p in found[arm]) / 1e6
        lines.append(
            f"{state}, {arm}: {fast} (target {target:g} x the first); the largest process that "
            f"samples {peak:.0f} MB (target 400)"
        )
    return lines


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/mnist"))
    parser.add_argument("--folder", type=Path, help="Keeps N0's history; a temporary folder.")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--largest", type=float, default=50, help="Millions of weights, of growth.")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--quick", action="store_true", help="Small, twice: whether it works.")
    options = parser.parse_args()
    options.rows, options.samples, options.counts = 1024, 800_000, (1, 10, 100)
    options.sizes, options.weights = SIZES, 50_000
    if options.quick:
        options.repeats, options.rows, options.samples = 2, 64, 200_000
        options.sizes, options.counts = [100_000, 300_000, 1_000_000], (1, 10)
        options.weights = 5_000
    options.sizes = [n for n in options.sizes if n <= options.largest * 1e6]
    return options


def main() -> None:
    """Print a table for each part."""
    options = parsed()
    with ExitStack() as stack:
        kept = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        kept.mkdir(parents=True, exist_ok=True)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=kept)))
        CONSOLE.print(machine(kept), highlight=False)
        history = recorded(kept, lambda: mnist(options.data), options.rows)
        variation = Variation.of(history)
        reference = build_dataset(history, folder / "reference", options.samples, seed=0)
        small = [write_walks(folder / f"tiny-{i}.zarr", 64, 64, variation, i) for i in (0, 1)]
        ours = Task(
            *("ours", (str(history.path),)),
            samples=options.samples,
            reference=str(reference.path),
            tiny=tuple(str(history.path) for history in small),
        )
        bench = Bench(folder, history, ours, options.repeats)
        run(bench, variation, options)


def run(bench: Bench, variation: Variation, options: argparse.Namespace) -> None:
    """The parts that were asked for."""
    long, grown = None, None
    if "scan" in options.only:
        long = bench_scan(bench)
    if "speedup" in options.only:
        bench_speedup(CONSOLE, bench.folder, bench.history, bench.workers((1, 2)), bench.repeats)
    walks = (bench.folder, variation, bench.ours.tiny)
    if "growth" in options.only:
        grown = bench_growth(CONSOLE, *walks, options.sizes, min(bench.repeats, 3))
    if "many" in options.only:
        bench_many(CONSOLE, *walks, options.counts, options.weights, bench.repeats)
    if long and grown:
        CONSOLE.print("Paper calculation: a billion weights on 64 workers", style="italic")
        for line in calculation(grown, long, bench.shape):
            CONSOLE.print(f"  {line}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
