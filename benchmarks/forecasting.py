"""Forecasts of many weights, ours and as one would write them first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from turns import Arm

from weightcast.predictor import (
    WNN,
    Forecaster,
    GaussianNoise,
    Introspection,
    Line,
    LinearFit,
    LinearIntrospection,
    QuadraticFit,
    make_forecaster,
)
from weightcast.store.windows import RunningSums, Window

Tensors = list[torch.Tensor]

AHEAD = 500  # steps that the lines look ahead
WINDOW = Window(800, 25)
SAMPLES = 20_000  # that the learned forecasters are fitted to: enough for trees as deep as usual
STATISTICS = ("mean", "slope", "spread")


@dataclass(frozen=True)
class Weights:
    """A random walk of P weights, as a recorder would have kept it.

    Attributes
    ----------
    past : list of Tensor, shape (P,)
        At 1, 0.7, 0.4 and 0 times t.
    window : list of Tensor, shape (P,)
        33 snapshots, the latest first.
    sums : RunningSums
        Of the window.
    out : Tensor, shape (P,)
    """

    past: Tensors
    window: Tensors
    sums: RunningSums
    out: torch.Tensor

    @classmethod
    def walk(cls, size: int, device: str) -> Weights:
        """Make one on a device."""
        generator = torch.Generator(device).manual_seed(0)

        def moved(start: torch.Tensor, by: float) -> torch.Tensor:
            return start + by * torch.randn(size, generator=generator, device=device)

        past = [moved(torch.zeros(size, device=device), 0.05)]
        for _ in range(3):
            past.insert(0, moved(past[0], 0.003))
        window = [past[0]]
        for _ in range(WINDOW.count - 1):
            window.append(moved(window[-1], 0.0005))
        sums = RunningSums(WINDOW, window[-1])
        for snapshot in window[-2::-1]:
            sums.add(snapshot)
        return cls(past, window, sums, torch.empty_like(past[0]))


def samples(columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of random walks, to fit to."""
    random = np.random.default_rng(0)
    steps = random.normal(0, 0.003, (SAMPLES, columns + 1)).astype(np.float32)
    walks = np.cumsum(steps, axis=1)[:, ::-1]
    return np.ascontiguousarray(walks[:, 1:]), np.ascontiguousarray(walks[:, 0])


def arms(weights: Weights) -> dict[str, Arm]:
    """All that is measured; the naive ones first."""
    past, out = weights.past, weights.out
    size = len(out)
    paper = Introspection(steps=500).fit(*samples(4))
    statistics = (f"{name}:{WINDOW}" for name in STATISTICS)
    seeing = Introspection(steps=500, context=("t", *statistics), horizon=f"+{AHEAD}")
    mean, slope, spread = (weights.sums.row(name) for name in STATISTICS)

    def forecast(forecaster: Forecaster, rows: Any, floats: int) -> Arm:
        return Arm(lambda: forecaster.forecast(rows, out=out), floats, size)

    def fitted(forecaster: Forecaster) -> Arm:
        return forecast(forecaster.fit(*samples(4)), past, 5)

    snapshots = Line(context=f"last:{WINDOW.count}/{WINDOW.stride}", horizon=f"+{AHEAD}").ready()
    found = {
        "naive: stack 33 snapshots, line": Arm(
            lambda: whole_line(weights.window, snapshots, out), WINDOW.count + 1, size
        ),
        "naive: stack 4, whole tensors [40, P]": Arm(
            lambda: whole_network(past, paper, out), 5, size
        ),
        "line, running sums": forecast(Line().ready(), [mean, slope, AHEAD], 4),
        "line, 33 snapshots": forecast(snapshots, weights.window, WINDOW.count + 1),
        "linear fit": forecast(LinearFit().ready(), past, 5),
        "quadratic fit": forecast(QuadraticFit().ready(), past, 5),
        "Introspection": forecast(paper, past, 5),
        "Introspection, running sums": forecast(
            seeing.fit(*samples(4)), [past[0], mean, slope, spread], 6
        ),
        "linear Introspection": fitted(LinearIntrospection(steps=500)),
        "WNN": fitted(WNN(steps=500)),
        "Gaussian noise": fitted(GaussianNoise()),
        "ridge": fitted(make_forecaster("ridge")),
        "RunningSums.add": Arm(Adding(weights), 8, size),
    }
    if out.device.type == "cpu":  # trees have no other; they are slow: a million will do
        trees = make_forecaster("gradient-boosting").fit(*samples(4))
        few = [row[: 1 << 20] for row in past]
        found["gradient boosting"] = Arm(
            lambda: trees.forecast(few, out=out[: 1 << 20]), 5, len(few[0])
        )
    return found


class Adding:
    """One more snapshot for running sums, which begin again when their window is complete."""

    def __init__(self, weights: Weights) -> None:
        self.window = weights.window
        self.sums = RunningSums(WINDOW, self.window[-1])

    def __call__(self) -> None:
        """Add one."""
        if self.sums.complete:
            self.sums.count = 1  # the numbers do not matter here, the time does
        self.sums.add(self.window[0])


@torch.no_grad()
def whole_network(past: Tensors, forecaster: Introspection, out: torch.Tensor) -> None:
    """As one would write it first: all hidden units of all weights."""
    x = torch.stack(past) * forecaster.scale  # [4, P]
    hidden, bias, last = (
        torch.as_tensor(values, device=out.device)
        for values in (
            forecaster.hidden_weight_,
            forecaster.hidden_bias_,
            forecaster.output_weight_,
        )
    )
    units = torch.relu(hidden @ x + bias[:, None])  # [40, P]
    out.copy_((last @ units + float(forecaster.output_bias_)) / forecaster.scale)


@torch.no_grad()
def whole_line(window: Tensors, line: Line, out: torch.Tensor) -> None:
    """As one would write it first: all snapshots in one tensor, and one product."""
    x = torch.stack(window)  # [33, P]
    backs = -WINDOW.stride * torch.arange(float(len(window)), device=out.device)
    centred = backs - backs.mean()
    weights = 1 / len(window) + (AHEAD - backs.mean()) * centred / (centred @ centred)
    out.copy_(weights @ x)
