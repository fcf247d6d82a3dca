"""What jumps gain, and what their options change: small networks on scikit-learn's digits.

``make bench-choices``, or ``python benchmarks/choices.py --seeds 5``. For each optimizer and seed
all arms train the same network from the same initial weights on the same batches; the constant rate
and the peak of the one-cycle schedule are tuned with another seed on a part of the training images.
An arm is judged by the steps until the running median of its validation loss is as low as the plain
run's lowest: that moves with no lucky evaluation, and unlike accuracy it has no ties. Half of the
images that are held out judge the arms; the other half is there for guards that look at a loss of
their own.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from weightcast.apply import Guard, Jumper, JumpEvent, Placement, Reach
from weightcast.experiments.digits import Task, digits, target_network
from weightcast.experiments.training import Curve, evaluate, running_median, train
from weightcast.predictor import Forecaster, Line, LinearFit, load, one_thread

CONSOLE = Console(width=140)
EVERY = 20  # steps between evaluations
TUNING_SEED = 101
OPTIMIZERS: dict[str, tuple[Callable[..., torch.optim.Optimizer], tuple[float, ...]]] = {
    "SGD": (torch.optim.SGD, (0.03, 0.1, 0.3)),
    "SGD, momentum 0.9": (
        lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9),
        (0.003, 0.01, 0.03),
    ),
    "AdamW": (torch.optim.AdamW, (0.001, 0.003, 0.01)),
}
UNTUNED = {"SGD": 0.01, "SGD, momentum 0.9": 0.001, "AdamW": 0.0003}  # of plain and all jumps
COLOURS = {
    "plain": "0.35",
    "one-cycle": "tab:blue",
    "line": "tab:orange",
    "line, guard": "tab:red",
    "a straight line to 8t": "tab:olive",
    "a straight line to 8t, guard": "tab:green",
}
PEAKS = 3.0  # peaks of one-cycle are tuned among the rates times this


@dataclass
class Runs:
    """An arm's runs, one a seed."""

    curves: list[Curve] = field(default_factory=list)
    events: list[list[JumpEvent]] = field(default_factory=list)
    kept: int = 0
    made: int = 0


def line() -> Forecaster:
    """The straight line through the last 200 steps."""
    return Line(window=200, stride=10)


def jump_arms(steps: int) -> dict[str, dict]:
    """Options of `Jumper` for each arm that jumps."""
    every = steps // 12
    usual = {
        "forecaster": line,
        "every": every,
        "horizon": Reach(1.5, most=2 * every),
        "end": steps,
    }
    paper = [round(share * steps) for share in (0.15, 0.2, 0.25)]
    network = {"forecaster": lambda: load("introspection-mnist"), "jump_points": paper}
    far = {"forecaster": lambda: LinearFit(horizon=8.0), "jump_points": paper}
    shrinking = Reach(f"+{every}", shrink=True)
    return {
        "line": {**usual, "guard": None},
        "line, guard": usual,
        "line, guard, moments cleared": {**usual, "moments": "clear"},
        "line, guard, momentum 0": {**usual, "moments": 0.0},
        "line, guard, momentum x 0.5": {**usual, "moments": 0.5},
        "line, guard of half the steps": {**usual, "guard": Guard(steps=every // 4)},
        "line, guard, tolerance 0": {**usual, "guard": Guard(tolerance=0.0)},
        "line, guard by held-out loss": {**usual, "guard": "probe"},
        "line, +N": {**usual, "horizon": f"+{every}", "guard": None},
        "line, +N, guard": {**usual, "horizon": f"+{every}"},
        "line, +N shrinking, guard": {**usual, "horizon": shrinking},
        "Introspection": {**network, "guard": None},
        "Introspection, guard": network,
        "Introspection, guard by held-out loss": {**network, "guard": "probe"},
        "Introspection, half precision": {
            **network,
            "guard": None,
            "placement": Placement(half=True),
        },
        "a straight line to 8t": {**far, "guard": None},
        "a straight line to 8t, guard": far,
    }


class Arms:
    """All arms of one optimizer on one task."""

    def __init__(self, name: str, steps: int, task: Task) -> None:
        self.make, self.rates = OPTIMIZERS[name]
        self.rate, self.steps = UNTUNED[name], steps
        half = len(task.validation_x) // 2
        self.task = replace(
            task, validation_x=task.validation_x[half:], validation_y=task.validation_y[half:]
        )
        self.probed = replace(
            task, validation_x=task.validation_x[:half], validation_y=task.validation_y[:half]
        )

    def _train(
        self, seed: int, optimizer: torch.optim.Optimizer, network: nn.Module, *after: Callable
    ) -> Curve:
        return train(
            network,
            optimizer,
            self.task,
            steps=self.steps,
            seed=seed,
            evaluate_every=EVERY,
            after_step=after,
        )

    def constant(self, seed: int, rate: float) -> Curve:
        """A constant learning rate."""
        network = target_network(seed)
        return self._train(seed, self.make(network.parameters(), lr=rate), network)

    def one_cycle(self, seed: int, peak: float) -> Curve:
        """A one-cycle schedule over all steps."""
        network = target_network(seed)
        optimizer = self.make(network.parameters(), lr=self.rate)
        schedule = OneCycleLR(optimizer, peak, total_steps=self.steps + 1, cycle_momentum=False)
        return self._train(seed, optimizer, network, schedule.step)

    def averaging(self, seed: int) -> Curve:
        """A moving average of the plain run, for evaluation only."""
        network = target_network(seed)
        optimizer = self.make(network.parameters(), lr=self.rate)
        average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.99))
        curve, step = Curve(), 0

        def update() -> None:
            nonlocal step
            step += 1
            average.update_parameters(network)
            if step % EVERY == 0:
                curve.add(step, average, self.task)

        self._train(seed, optimizer, network, update)
        return curve

    def jumps(self, seed: int, options: dict, runs: Runs) -> Curve:
        """The plain run, with jumps."""
        network = target_network(seed)
        optimizer = self.make(network.parameters(), lr=self.rate)
        given = {**options, "forecaster": options["forecaster"]()}
        if given.get("guard") == "probe":
            given["guard"] = Guard(probe=lambda: evaluate(network, self.probed)[0])
        with Jumper(optimizer, model=network, **given) as jumper:
            curve = self._train(seed, jumper, network)
            summary = jumper.summary()
            runs.events.append(jumper.events)
        runs.made += summary.made
        runs.kept += summary.kept
        return curve


def run(name: str, steps: int, seeds: int) -> dict[str, Runs]:
    """All arms and seeds of an optimizer."""
    task = digits()
    arms, tuning = Arms(name, steps, task), Arms(name, steps, task.for_tuning())
    rate = min(arms.rates, key=lambda r: lowest(tuning.constant(TUNING_SEED, r)))
    peak = min(arms.rates, key=lambda r: lowest(tuning.one_cycle(TUNING_SEED, PEAKS * r)))
    found: dict[str, Runs] = {}
    for seed in track(range(seeds), name, console=CONSOLE):
        plain = {
            "plain": lambda s=seed: arms.constant(s, arms.rate),
            "averaging": lambda s=seed: arms.averaging(s),
            f"tuned rate {rate:g}": lambda s=seed: arms.constant(s, rate),
            f"one-cycle to {PEAKS * peak:g}": lambda s=seed: arms.one_cycle(s, PEAKS * peak),
        }
        for arm, call in plain.items():
            found.setdefault(arm, Runs()).curves.append(call())
        for arm, options in jump_arms(steps).items():
            runs = found.setdefault(arm, Runs())
            runs.curves.append(arms.jumps(seed, options, runs))
    return found


def lowest(curve: Curve) -> float:
    """The lowest running median of the validation loss."""
    return min(running_median(curve.loss))


def steps_to(curve: Curve, loss: float) -> int | None:
    """Steps until the running median of the validation loss is that low; None if it never is."""
    medians = zip(curve.steps, running_median(curve.loss), strict=True)
    return next((step for step, median in medians if median <= loss), None)


def middle(values: list[float], form: str) -> str:
    """Median and range."""
    low, high = min(values), max(values)
    return f"{statistics.median(values):{form}} ({low:{form}} to {high:{form}})"


def table(name: str, found: dict[str, Runs], steps: int) -> Table:
    """What all arms of an optimizer came to."""
    printed = Table(
        "arm",
        "steps to plain's lowest loss",
        "never",
        "lowest loss x 1000",
        "accuracy at the end, %",
        "jumps kept",
        title=f"{name}, rate {UNTUNED[name]:g}, {steps:,} steps, "
        f"{len(found['plain'].curves)} seeds",
    )
    goals = [lowest(curve) for curve in found["plain"].curves]
    for arm, runs in found.items():
        reached = [steps_to(c, goal) for c, goal in zip(runs.curves, goals, strict=True)]
        there = [float(step) for step in reached if step is not None]
        printed.add_row(
            arm,
            middle(there, ".0f") if there else "-",
            str(reached.count(None) or ""),
            middle([1000 * lowest(c) for c in runs.curves], ".1f"),
            middle([100 * running_median(c.accuracy)[-1] for c in runs.curves], ".1f"),
            f"{runs.kept} of {runs.made}" if runs.made else "",
        )
    return printed


def draw(all_found: dict[str, dict[str, Runs]], path: Path) -> None:
    """Loss of the first seed of some arms, with what became of their jumps."""
    figure = Figure(figsize=(5.5 * len(all_found), 4.4), layout="constrained")
    for axes, (name, found) in zip(
        figure.subplots(1, len(all_found), squeeze=False)[0], all_found.items(), strict=True
    ):
        for arm in found:
            colour = COLOURS.get(arm, COLOURS.get(arm.partition(" to ")[0]))
            if colour is None or ", guard " in arm:
                continue
            curve, events = found[arm].curves[0], (found[arm].events or [[]])[0]
            axes.plot(curve.steps, running_median(curve.loss), color=colour, label=arm, lw=1.2)
            for kind, mark in (("kept", "o"), ("rolled back", "x")):
                steps = [e.step for e in events if e.kind == kind]
                heights = np.interp(steps, curve.steps, running_median(curve.loss))
                axes.plot(steps, heights, mark, color=colour, ms=5)
        axes.set(title=name, xlabel="optimizer step", ylabel="held-out loss", yscale="log")
        axes.set_ylim(top=3 * found["plain"].curves[0].loss[0])  # what has exploded is far above
        axes.grid(alpha=0.3)
    axes.legend(title="dots: kept, crosses: rolled back", fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run all optimizers and print a table of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(OPTIMIZERS), default=list(OPTIMIZERS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--json", type=Path, help="Where to write all curves.")
    parser.add_argument("--plot", type=Path, help="Where to draw the first seed's.")
    options = parser.parse_args()
    kept, all_found = {}, {}
    with one_thread():
        for name in options.only:
            found = all_found[name] = run(name, options.steps, options.seeds)
            CONSOLE.print(table(name, found, options.steps))
            kept[name] = {arm: [vars(c) for c in runs.curves] for arm, runs in found.items()}
    if options.json:
        options.json.write_text(json.dumps(kept))
    if options.plot:
        draw(all_found, options.plot)


if __name__ == "__main__":
    main()
