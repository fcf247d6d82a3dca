"""What a jump costs, and what the steps between jumps do: time beside a plain copy, and memory.

``make bench-jump``, or ``python benchmarks/jump.py --millions 1 30``. A model is a list of tensors
as a GPT has them: one huge, some large, many tiny. Its optimizer has nothing to do, so that the
step that jumps takes what the jump takes, all included. Each arm is a process of its own, on one
core; right before each of its jumps, a copy of as many bytes: those of every array that the jump
must read, once, and of every array that it must write, once. Seconds are on the core, without those
of waiting for it. Linux only.
"""

from __future__ import annotations

import argparse
import ctypes
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from forecasting import samples, whole_network
from rich.console import Console
from rich.table import Column, Table
from torch import nn
from turns import peak_begins, resident, resident_peak

from recorder import machine, middle  # noqa: TID251, that of this folder
from weightcast.apply import Guard, JumpEvent, plan_jumps
from weightcast.apply.live import LiveJumps
from weightcast.apply.writing import IN_PLACE
from weightcast.predictor import Forecaster, Introspection, Line, LinearFit

CONSOLE = Console(width=150)
SECTIONS = ("jump", "step")
GPT = {1: (4, 128, 1700), 30: (6, 384, 50_257), 300: (20, 1024, 50_257)}  # layers, width, words
WHOLE = 30  # million weights, up to which the naive arm takes part: 40 x 4 bytes a weight, thrice
COPIED = 1 << 26  # numbers at once: far more than a cache
STRIDE, STEPS = 25, 100  # of a short window: a jump's cost does not depend on how long it is
TARGET, STEP_TARGET = 1.5, 100.0  # times the copy; microseconds, 1 % of a step of 10 ms


@dataclass
class Found:
    """What an arm took: seconds, those of the whole step and of the copies, and bytes."""

    seconds: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    copied: list[float] = field(default_factory=list)
    stated: int = 0
    beyond: int = 0


@dataclass(frozen=True)
class Case:
    """A forecaster, guarded or not, and how many arrays of the weights' size its jump must pass."""

    forecaster: Callable[[], Forecaster]
    guarded: bool
    arrays: int


def line() -> Forecaster:
    """The line through a short window."""
    return Line(window=STEPS, stride=STRIDE)


def network() -> Introspection:
    """The paper's, hardly trained."""
    return Introspection(steps=500).fit(*samples(4))


# Four arrays are read and the weights written; a guard's jump writes the weights before it too, and
# reads and writes a copy of the momentum.
CASES = {
    "line": Case(line, False, 5),
    "line, guard": Case(line, True, 8),
    "linear fit": Case(LinearFit, False, 5),
    "linear fit, guard": Case(LinearFit, True, 8),
    "Introspection": Case(network, False, 5),
    "Introspection, guard": Case(network, True, 8),
}
NAIVE = "naive: whole tensors [40, P]"


def weights_of(millions: int) -> list[nn.Parameter]:
    """A model's tensors."""
    layers, width, words = GPT[millions]
    layer = [(3 * width, width), (3 * width,), (width, width), (width,), (4 * width, width)]
    layer += [(4 * width,), (width, 4 * width), *[(width,)] * 5]
    shapes = [(words, width), *layer * layers, (width,), (width,)]
    generator = torch.Generator().manual_seed(0)
    drawn = (torch.empty(s).normal_(0, 0.02, generator=generator) for s in shapes)
    return [nn.Parameter(weight) for weight in drawn]


class Copy:
    """A plain copy of as many bytes, from arrays that no cache holds to others."""

    def __init__(self, arrays: int, weights: int) -> None:
        self.left = arrays * weights // 2
        self.source = torch.ones(min(self.left, COPIED))
        self.target = torch.zeros_like(self.source)

    def __call__(self) -> None:
        """Copy them."""
        for low in range(0, self.left, COPIED):
            count = min(COPIED, self.left - low)
            self.target[:count].copy_(self.source[:count])


class Live:
    """A run whose optimizer has nothing to do."""

    def __init__(self, case: Case | None, millions: int, points: list[int]) -> None:
        self.weights = weights_of(millions)
        self.optimizer = torch.optim.SGD(self.weights, lr=0.1, momentum=0.9)
        if case is not None and case.guarded:
            for weight in self.weights:
                self.optimizer.state[weight] = {"momentum_buffer": torch.zeros_like(weight)}
        self.shown = torch.ones((), requires_grad=True)
        self.jumps = case and self._jumps(case, points)

    def _jumps(self, case: Case, points: list[int]) -> LiveJumps:
        forecaster, guard = case.forecaster(), Guard() if case.guarded else None
        plan, model = plan_jumps(forecaster, points), nn.ParameterList(self.weights)
        return LiveJumps(
            *([self.optimizer], forecaster, plan),
            guard=guard,
            model=model,
            listener=self._jumped,
        )

    def _jumped(self, event: JumpEvent) -> None:
        if event.kind == "jumped":
            self.jumped = time.thread_time()

    def jump(self) -> tuple[float, float]:
        """Take a step that jumps; seconds of the jump, and of the step with what it drops."""
        begin, self.jumped = time.thread_time(), math.nan
        self.step()
        return self.jumped - begin, time.thread_time() - begin

    def step(self) -> None:
        """Show a loss, and take a step that changes nothing."""
        (1.0 * self.shown).backward()
        self.optimizer.step()


def seconds(call: Callable[[], object]) -> float:
    """Of one call, on the core."""
    begin = time.thread_time()
    call()
    return time.thread_time() - begin


def jump_points(repeats: int) -> list[int]:
    """So far apart that nothing for a jump is held while another is made, but for step 0."""
    return [STEPS * 3**k for k in range(repeats)]


def live_arm(case: Case, millions: int, repeats: int) -> Found:
    """Jumps of a run."""
    points = jump_points(repeats)
    warm = Live(case, 1, [STEPS])  # so that the code it needs is loaded
    for _ in range(STEPS):
        warm.step()
    warm.jumps.close()
    del warm
    run, found = Live(case, millions, points), Found()
    copy = Copy(case.arrays, sum(w.numel() for w in run.weights))
    found.stated = run.jumps.memory()
    ctypes.CDLL(None).malloc_trim(0)
    peak_begins()
    before = resident()
    for step in range(1, points[-1] + 1):
        if step in points:
            found.copied.append(seconds(copy))
            jump, whole = run.jump()
            found.seconds.append(jump)
            found.whole.append(whole)
        else:
            run.step()
    found.beyond = resident_peak() - before - found.stated
    return found


def naive_arm(millions: int, repeats: int) -> Found:
    """As one would write it first: tensor by tensor, all hidden units of all its weights."""
    weights, forecaster, found = weights_of(millions), network(), Found()
    past = [[w.detach().clone() for w in weights] for _ in range(3)]
    copy = Copy(5, sum(w.numel() for w in weights))

    def jump() -> None:
        for weight, *others in zip(weights, *past, strict=True):
            rows = [v.detach().view(-1) for v in (weight, *others)]
            whole_network(rows, forecaster, rows[0])

    ctypes.CDLL(None).malloc_trim(0)
    peak_begins()
    before = resident()
    for _ in range(min(repeats, 2)):
        found.copied.append(seconds(copy))
        found.seconds.append(seconds(jump))
    found.beyond = resident_peak() - before
    return found


def in_a_process(call: Callable[..., Found], *given: object) -> Found:
    """Measure in a fork, so that no arm leaves memory to the next."""
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sending.send(call(*given)))
    process.start()
    sending.close()
    try:
        return receiving.recv()
    except EOFError:
        raise SystemExit("an arm died: its traceback is above, or memory was short") from None
    finally:
        process.join()


def jump_table(millions: int, repeats: int) -> Table:
    """All arms with one model."""
    weights = weights_of(millions)
    size = sum(w.numel() for w in weights) / 1e6
    table = Table(
        Column("jump", no_wrap=True),
        *("ms", "with what\nit drops", "of the copy", "times the copy"),
        *("memory()\nMB", "peak beyond\nMB"),
        title=f"{size:.1f} M weights in {len(weights)} tensors, float32; {repeats} jumps",
    )
    arms = {name: (live_arm, case) for name, case in CASES.items()}
    for name, arm in arms.items() if millions > WHOLE else [*arms.items(), (NAIVE, (naive_arm,))]:
        found = in_a_process(*arm, millions, repeats)
        ratios = [a / b for a, b in zip(found.seconds, found.copied, strict=True)]
        table.add_row(
            *(name, middle([1e3 * s for s in found.seconds])),
            f"{1e3 * statistics.median(found.whole):.2f}" if found.whole else "",
            f"{1e3 * statistics.median(found.copied):.2f}",
            middle(ratios),
            f"{found.stated / 1e6:,.1f}" if found.stated else "",
            f"{found.beyond / 1e6:,.1f}",
        )
    return table


def step_times(name: str, millions: int, steps: int) -> list[float]:
    """Microseconds of each step of a run without a jump; some see snapshots and sums."""
    jump = 2 * steps  # its window, and its snapshots but for the first, come later
    case = None if name == "no jumper" else Case(line, name.endswith("guard"), 0)
    run = Live(case, millions, [jump])
    return [1e6 * seconds(run.step) for _ in range(steps)][steps // 10 :]


def seen_times(context: str, millions: int) -> Found:
    """Seconds of the steps that update a window's sums, or of those that take a snapshot."""
    sums = context.startswith("mean")
    forecaster: Forecaster = line() if sums else LinearFit(context, horizon="+500")
    steps = [STEPS + STRIDE * k for k in range(1, 4)] if sums else [STRIDE * k for k in range(4, 8)]
    run, found = Live(Case(lambda: forecaster, False, 0), millions, [2 * STEPS]), Found()
    copy = Copy(6 if sums else 2, sum(w.numel() for w in run.weights))
    for step in range(1, 2 * STEPS):
        if step in steps:
            found.copied.append(seconds(copy))
            found.seconds.append(seconds(run.step))
        else:
            run.step()
    return found


def step_tables(millions: int, steps: int) -> list[Table]:
    """Steps without a jump."""
    quiet = Table(
        Column("step", no_wrap=True),
        *("microseconds", "more than without"),
        title=f"{millions} M weights: steps that see nothing; target {STEP_TARGET:g} microseconds",
    )
    found = {
        name: in_a_process(step_times, name, millions, steps)
        for name in ("no jumper", "jumper", "jumper with a guard")
    }
    plain = statistics.median(found["no jumper"])
    for name, times in found.items():
        low, middle_, high = statistics.quantiles(times, n=4)
        quiet.add_row(name, f"{middle_:.1f} ({low:.1f} to {high:.1f})", f"{middle_ - plain:+.1f}")
    busy = Table(
        Column("step", no_wrap=True),
        *("ms", "of the copy", "times the copy"),
        title=f"{millions} M weights: steps that see something",
    )
    snapshots = ",".join(["1", *(f"t-{STEPS - STRIDE * k}" for k in range(3, -1, -1))])
    arms = {"sums of a window, added to": f"mean:{STEPS}", "snapshot, taken": snapshots}
    for name, context in arms.items():
        seen = in_a_process(seen_times, context, millions)
        ratios = [a / b for a, b in zip(seen.seconds, seen.copied, strict=True)]
        busy.add_row(
            *(name, middle([1e3 * s for s in seen.seconds])),
            *(f"{1e3 * statistics.median(seen.copied):.2f}", middle(ratios)),
        )
    return [quiet, busy]


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--millions", type=int, nargs="+", choices=sorted(GPT), default=[1, 30], help="Weights."
    )
    parser.add_argument("--repeats", type=int, default=6, help="Jumps of each arm.")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--quick", action="store_true", help="Small, twice: whether it works.")
    options = parser.parse_args()
    options.steps = 2000
    if options.quick:
        options.millions, options.repeats, options.steps = [1], 2, 200
    return options


def main() -> None:
    """Print the tables."""
    options = parsed()
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    CONSOLE.print(f"{machine(Path.cwd())}; a block: {4 * IN_PLACE / 1e6:.1f} MB", highlight=False)
    for millions in options.millions:
        if "jump" in options.only:
            CONSOLE.print(jump_table(millions, 2 if millions == max(GPT) else options.repeats))
        if "step" in options.only:
            CONSOLE.print(*step_tables(millions, options.steps))
    CONSOLE.print(f"target of line: {TARGET:g} times the copy", highlight=False)


if __name__ == "__main__":
    main()
