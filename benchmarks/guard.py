"""How often a guard is wrong: simulated losses, with jumps that do nothing, help or hurt.

``python benchmarks/guard.py``. Losses fall by four laws of the step, with lognormal noise that is
independent from step to step; jumps come at steps 500, 2000 and 5000 and multiply the loss by a
factor, from the next step on. What is printed is the share of jumps that are rolled back.
"""

from __future__ import annotations

import argparse
import itertools

import numpy as np
from rich.console import Console
from rich.table import Table

from weightcast.apply import judge

CURVES = {
    "20 t^-0.5": lambda t: 20 * t**-0.5,
    "20 t^-0.5 + 0.3": lambda t: 20 * t**-0.5 + 0.3,
    "500 / t + 0.2": lambda t: 500 / t + 0.2,
    "3 t^-0.2": lambda t: 3 * t**-0.2,
}
JUMPS = (500, 2000, 5000)
FACTORS = {"nothing": 1.0, "helps, x0.8": 0.8, "hurts, x1.1": 1.1, "x1.2": 1.2, "x1.5": 1.5}
TOLERANCES = (1.0, 2.0, 3.0)


def noise(random: np.random.Generator, count: int, spread: float) -> np.ndarray:
    """Factors of mean 1 and relative standard deviation `spread`, shape (count,)."""
    sigma = np.sqrt(np.log1p(spread**2))
    return random.lognormal(-(sigma**2) / 2, sigma, count)


def rolled_back(spread: float, steps: int, factor: float, trials: int) -> list[float]:
    """Per cent of jumps that are rolled back, for each tolerance; the same seed for all."""
    random, found = np.random.default_rng(7), np.zeros(len(TOLERANCES))
    cases = list(itertools.product(JUMPS, CURVES.values(), range(trials)))
    for t, curve, _ in cases:
        before, after = np.arange(t - 2 * steps + 1, t + 1), np.arange(t + 1, t + steps + 1)
        before = before[before > 0]
        losses = curve(before) * noise(random, len(before), spread)
        later = factor * curve(after) * noise(random, steps, spread)
        seen = [
            list(zip(s.tolist(), v.tolist(), strict=True))
            for s, v in ((before, losses), (after, later))
        ]
        found += [not judge(*seen, tolerance).kept for tolerance in TOLERANCES]
    return (100 * found / len(cases)).tolist()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=40, help="Of each law and jump.")
    options = parser.parse_args()
    table = Table("noise", "probation, steps", "tolerance", *FACTORS, title="rolled back, %")
    for spread, steps in itertools.product((0.2, 0.4, 0.6), (50, 100, 200)):
        shares = [rolled_back(spread, steps, f, options.trials) for f in FACTORS.values()]
        for i, tolerance in enumerate(TOLERANCES):
            shown = (f"{share[i]:.1f}" for share in shares)
            table.add_row(f"{spread:.0%}", str(steps), f"{tolerance:g}", *shown)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
