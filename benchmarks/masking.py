"""What it costs to hold a mask: a training step plain, held, and under ``torch.nn.utils.prune``.

``python benchmarks/masking.py`` (15 s). LeNet-300-100 (266,610 weights) and N0 (551,818), Adam in
its plain and its fused form, random images, one thread, half of the weights pruned. The arms take
turns of some steps; what is printed is the median over the turns of a step's processor time, and of
its ratio to the plain turn beside it.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn.utils.prune import custom_from_mask

from weightcast.apply import hold, prune
from weightcast.experiments.networks import lenet, n0

TURNS, STEPS = 11, 10


def stepper(model: nn.Module, batch: int, fused: bool) -> Callable[[], None]:
    """One optimizer step on the same random images each time."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(batch, 1, 28, 28, generator=generator)
    y = torch.randint(10, (batch,), generator=generator)
    # it learns next to nothing: with small losses come small gradients, which are slow
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-6, fused=fused)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def arms(make: Callable[[], nn.Module], batch: int, fused: bool) -> dict[str, Callable[[], None]]:
    """A step of the same network in three ways."""
    plain, held, theirs = make(), make(), make()
    hold(held, prune(held, 0.5))
    for name, mask in prune(theirs, 0.5).items():
        owner, _, leaf = name.rpartition(".")
        custom_from_mask(theirs.get_submodule(owner), leaf, mask)
    made = {"plain": plain, "hold": held, "torch.nn.utils.prune": theirs}
    return {name: stepper(model, batch, fused) for name, model in made.items()}


def seconds(step: Callable[[], None]) -> float:
    """Of one step, over some."""
    begin = time.process_time()
    for _ in range(STEPS):
        step()
    return (time.process_time() - begin) / STEPS


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    table = Table("network", "Adam", "step", "ms", "times plain", title="Holding a mask")
    networks = (("LeNet-300-100", lenet, 60), ("N0", n0, 50))
    for (name, make, batch), fused in itertools.product(networks, (False, True)):
        calls = arms(make, batch, fused)
        taken: dict[str, list[float]] = {arm: [] for arm in calls}
        for turn in range(TURNS + 1):
            for arm, call in calls.items():
                taken[arm] += [seconds(call)] if turn else []  # the first warms up
        for arm, times in taken.items():
            ratio = statistics.median(t / p for t, p in zip(times, taken["plain"], strict=True))
            milliseconds = f"{1000 * statistics.median(times):.2f}"
            table.add_row(name, "fused" if fused else "plain", arm, milliseconds, f"{ratio:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
