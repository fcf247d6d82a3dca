"""What recording costs: training N0 on MNIST unrecorded, with our recorder, and with what else
people use.

``make bench-recorder``, or ``python benchmarks/recorder.py --data DIR``: MNIST's IDX files. Each
training is a process of its own, with the same initial weights and batches, and a control that
records nothing runs right before or after each: a slowdown is the median, over the repetitions, of
the ratio of the two; the first row compares two controls, and so shows the noise. Linux only.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from arms import ARMS, CONTROL, COPY, OURS, TENTH
from common import Data, mnist
from measuring import WARM_UP, Run, in_a_process
from rich.console import Console
from rich.table import Table

from weightcast.experiments.networks import n0

CONSOLE = Console(width=140)
VALUES = sum(p.numel() for p in n0().parameters())
Pairs = dict[str, list[tuple[Run, Run]]]  # for each arm: (control, arm) of each repetition


@dataclass(frozen=True)
class Setting:
    """How to train: images a step, steps, torch's threads."""

    batch: int
    steps: int
    threads: int


def pairs(arms: Sequence[str], data: Data, how: Setting, repeats: int, path: Path) -> Pairs:
    """Train with each arm, right before or after a control."""
    found: Pairs = defaultdict(list)

    def train(name: str) -> Run:
        return in_a_process(ARMS[name], data, how.batch, how.steps, how.threads, path)

    turns = [CONTROL, *arms]
    for _ in range(repeats):
        for i in range(0, len(turns), 2):  # one arm, the control, the next arm
            before, *after = turns[i : i + 2]
            run, control = train(before), train(CONTROL)
            found[before].append((control, run))
            for name in after:
                found[name].append((control, train(name)))
    return found


def middle(values: Iterable[float], form: str = ".2f", between: str = " ") -> str:
    """Median, and from where to where."""
    values = list(values)
    text = f"{statistics.median(values):{form}}"
    low, high = (f"{end:{form}}" for end in (min(values), max(values)))
    return text if low == high or not between else f"{text}{between}({low} to {high})"


def percent(ratios: Iterable[float], between: str = " ") -> str:
    """How much more than 1 ratios are."""
    return middle((100 * (ratio - 1) for ratio in ratios), "+.1f", between)


def table(title: str, found: Pairs, steps: int) -> Table:
    """All arms beside the control."""
    printed = Table(
        *("arm", "ms a step", "slower, %", "slower, but for\nwaiting for a core, %"),
        *("thread's CPU\na step, ms", "CPU beside\nit, ms", "until on\ndisk, s", "bytes a\nvalue"),
        *("memory,\nMB", "what kill -9 leaves"),
        title=title,
    )
    for arm, both in found.items():
        rows = ARMS[arm].rows(steps)
        printed.add_row(
            arm,
            middle((1e3 * run.step for _, run in both), between="\n"),
            percent((run.step / control.step for control, run in both), "\n"),
            percent((run.unqueued / control.unqueued for control, run in both), "\n"),
            middle((1e3 * run.thread / run.steps for _, run in both), between="")
            + f"\n{percent((run.thread / c.thread for c, run in both), '')} %",
            middle((1e3 * (run.beside - c.beside) / steps for c, run in both), between=""),
            middle((run.after for _, run in both), between=""),
            middle((run.stored / VALUES / rows for _, run in both), between="") if rows else "-",
            middle(((run.memory - c.memory) / 1e6 for c, run in both), ".0f", ""),
            ARMS[arm].survives,
        )
    return printed


def targets(found: Pairs) -> list[str]:
    """What the recorder was asked for, and what it does."""
    lines = []
    if COPY in found and OURS in found:
        runs = zip(found[OURS], found[COPY], strict=True)
        both = [(mine.call, copy.call) for (_, mine), (_, copy) in runs]
        lines.append(
            f"a call of the recorder: {middle(1e3 * mine for mine, _ in both)} ms; a plain copy: "
            f"{middle(1e3 * copy for _, copy in both)} ms; ratio "
            f"{middle(mine / copy for mine, copy in both)} (at most 1.2)"
        )
    for arm, limit in ((OURS, 3), (TENTH, 0.5)):
        if arm in found:
            share = [100 * run.spent / control.step for control, run in found[arm]]
            whole = [run.whole / control.whole for control, run in found[arm]]
            slower = percent(run.unqueued / control.unqueued for control, run in found[arm])
            thread = percent(run.thread / control.thread for control, run in found[arm])
            lines.append(
                f"{arm}: {slower} % slower (at most {limit} %, given a free core), its thread's "
                f"CPU {thread} %, its calls {middle(share)} % of a step; the start included, wall "
                f"time {percent(whole)} %"
            )
    drains = [run.drain * 1e3 for _, run in found.get(OURS, []) if run.drain]
    if drains:
        cores = [ms / 10 for ms in drains]
        lines.append(
            f"drain process: {middle(drains)} ms of CPU a row, {middle(cores)} cores at a 10 ms "
            "step (at most 0.25)"
        )
    for arm in (OURS, TENTH):
        if arm in found:
            _, run = found[arm][-1]
            mine = ((run.memory - control.memory) / 1e6 for control, run in found[arm])
            lines.append(
                f"{arm}: ring file {run.ring / 1e6:.0f} MB; trainer {middle(mine, '.0f')} MB more; "
                f"drain process {run.drain_memory / 1e6:.0f} MB beside the ring"
            )
    return lines


def bench(arms: Sequence[str], data: Data, how: Setting, repeats: int, path: Path) -> None:
    """Print a table of one setting, and the targets under it."""
    cores = len(os.sched_getaffinity(0))
    free = f"{cores - how.threads} of {cores} cores free" if how.threads < cores else "none free"
    found = pairs(arms, data, how, repeats, path)
    title = (
        f"N0 on MNIST, batch {how.batch}; {how.steps} steps, {min(WARM_UP, how.steps // 2)} of "
        f"them to warm up; {repeats} times; torch threads: {how.threads}, {free}"
    )
    CONSOLE.print(table(title, found, how.steps))
    for line in targets(found):
        CONSOLE.print(f"  {line}", highlight=False, soft_wrap=True)
    CONSOLE.print()


def machine(folder: Path) -> str:
    """The cores, and where the output goes."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    inside = [m for m in mounts if folder.resolve().is_relative_to(m[1])]
    device, _, kind = max(inside, key=lambda mount: len(mount[1]))[:3]
    return (
        f"{len(models)} cores, {models[0] if models else platform.processor()}; "
        f"output on {kind} ({device}); load {os.getloadavg()[0]:.1f} at the start; "
        f"torch {torch.__version__}, Python {platform.python_version()}"
    )


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/mnist"))
    parser.add_argument("--steps", type=int, default=320, help="Of batch 50; of 512, a quarter.")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch", type=int, nargs="+", default=[50, 512])
    parser.add_argument("--arms", nargs="+", help=f"Of {', '.join(list(ARMS)[1:])}.")
    parser.add_argument("--quick", action="store_true", help="A minute: batch 50, once.")
    parser.add_argument("--folder", type=Path, help="Where to write; a temporary folder.")
    options = parser.parse_args()
    if options.quick:
        options.steps, options.repeats, options.batch = 240, 1, options.batch[:1]
    unknown = sorted(set(options.arms or ()) - set(ARMS))
    if unknown:
        parser.error(f"no arm {unknown[0]!r}: they are {', '.join(list(ARMS)[1:])}")
    return options


def main() -> None:
    """Print a table for each batch, with a free core and with none."""
    options = parsed()
    data = mnist(options.data)
    arms = [arm for arm in options.arms or ARMS if arm != CONTROL]
    for arm in [arm for arm in arms if ARMS[arm].missing]:
        CONSOLE.print(f"{arm} is left out: pip install {ARMS[arm].needs}")
        arms.remove(arm)
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        CONSOLE.print(machine(folder), highlight=False)
        for batch in options.batch:
            steps = options.steps if batch < 256 else options.steps // 4
            bench(arms, data, Setting(batch, steps, 1), options.repeats, folder / "run")
            busy = [arm for arm in arms if arm in (OURS, TENTH, "np.memmap")]
            if not options.quick and busy and cores > 1:
                bench(busy, data, Setting(batch, steps, cores), options.repeats, folder / "run")


if __name__ == "__main__":
    main()
