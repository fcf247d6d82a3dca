"""Magnitude pruning with rewinding: the networks, how they are trained, and how far to rewind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from weightcast.experiments.experiment import Experiment, Rate, Updates
from weightcast.experiments.pictures import Pictures

if TYPE_CHECKING:
    from weightcast.experiments.loading import Data

FRACTION = 0.2  # of the remaining weights, pruned in every round
PAPER = "Frankle et al. 2020"


@dataclass(frozen=True)
class Drops(Rate):
    """A learning rate that is multiplied by `gamma` at given steps.

    Attributes
    ----------
    at : tuple of int

    Examples
    --------
    >>> [Drops(gamma=0.5, at=(10, 30)).factor(step) for step in (9, 10, 29, 30)]
    [1.0, 0.5, 0.5, 0.25]
    """

    at: tuple[int, ...] = ()

    def factor(self, step: int) -> float:
        """What the learning rate is multiplied by for the update after `step` steps."""
        return float(self.gamma ** sum(step >= drop for drop in self.at))


@dataclass(frozen=True)
class Protocol:
    """How one network is studied, at one length.

    Attributes
    ----------
    experiment : Experiment
        How the dense network is trained.
    rewind : tuple of int
        Steps to rewind to, if the user names none.
    control : int
        The controls have the masks of the line that rewinds closest to this step.
    rounds : int
        Of pruning, if the user names no number.
    step_seconds : float
        Roughly, of one step on one core, evaluations included.
    published : mapping of str to str
        What the papers say of lines, by name.
    tests : int, optional
        How many of the test images judge; all by default.
    """

    experiment: Experiment
    rewind: tuple[int, ...]
    control: int
    rounds: int
    step_seconds: float
    published: Mapping[str, str]
    tests: int | None = None

    def judged(self, data: Data) -> Data:
        """The data, with no more test images than judge."""
        if self.tests is None:
            return data
        rows = torch.arange(min(self.tests, len(data.task.validation_y)))
        x: Any = Pictures(data.task.validation_x, torch.Tensor.contiguous, rows)
        task = replace(data.task, validation_x=x, validation_y=data.task.validation_y[rows])
        return replace(data, task=task)


_LENET = Experiment(
    name="lenet",
    title="LeNet-300-100 on MNIST",
    paper=PAPER,
    data="mnist",
    network="lenet",
    updates=Updates("Adam", 1.2e-3, {"fused": True}),
    batch=60,
    steps=8_000,
    evaluate_every=400,
    arms=(),
    notes=(
        "The paper trains 24,000 steps on 60,000 images: 24 passes over them. 8,000 steps are 8 "
        "passes over as many images, or 48 over 10,000.",
        "A step to rewind to is an iteration, as in the paper, though the runs are shorter.",
        "All layers are pruned alike; Frankle and Carbin 2019 prune LeNet layer by layer, its last "
        "one at half the rate.",
    ),
    averaged=False,
)
_RESNET20 = Experiment(
    name="resnet20",
    title="ResNet-20 on Fashion-MNIST",
    paper=PAPER,
    data="fashion-32",
    network="resnet20",
    updates=Updates(
        "SGD",
        0.1,
        {"momentum": 0.9, "weight_decay": 1e-4},
        Drops(gamma=0.1, at=(32_000, 48_000)),
    ),
    batch=128,
    steps=63_000,
    evaluate_every=3_150,
    arms=(),
    notes=("The paper's data are CIFAR-10.",),
    averaged=False,
)


def _quick(entry: Experiment, steps: int, batch: int, rate: Rate, note: str) -> Experiment:
    """An entry in few steps, with five evaluations."""
    return replace(
        entry,
        steps=steps,
        batch=batch,
        evaluate_every=steps // 5,
        updates=replace(entry.updates, rate=rate),
        notes=(*entry.notes, note),
        budget="quick",
    )


_QUICK_LENET = _quick(_LENET, 300, 60, Rate(), "Quick: 300 steps.")
_QUICK_RESNET20 = _quick(
    _RESNET20,
    400,
    32,
    Drops(gamma=0.1, at=(203, 305)),
    "Quick: 400 steps of 32 images where the paper takes 63,000 of 128. Learning rates drop at the "
    "same shares of the length; steps 3 and 13 to rewind to are the paper's 500 and 2,000, as "
    "shares of it. The first 1,000 test images judge.",
)

_ON_LENET = {
    "rewind 0": "matches the dense network (Frankle and Carbin 2019)",
    "random re-init 500": "worse than the weights rewound, at small shares (the same)",
    "random pruning 500": "worse than magnitude pruning, at small shares (the same)",
}
_ON_RESNET20 = {
    "rewind 0": "does not match the dense network",
    "rewind 500": "matches it down to 16.8 %",
    "rewind 2000": "matches it down to 16.8 %; steps after 2,000 add nothing",
}
_ON_QUICK_RESNET20 = {
    "rewind 0": _ON_RESNET20["rewind 0"],
    "rewind 3": f"{_ON_RESNET20['rewind 500']} (its step 500)",
    "rewind 13": f"{_ON_RESNET20['rewind 2000']} (its step 2,000)",
}
_STEPS = (0, 100, 500, 2000)

PROTOCOLS = {
    ("lenet", "paper"): Protocol(_LENET, _STEPS, 500, 10, 0.0021, _ON_LENET),
    ("lenet", "quick"): Protocol(_QUICK_LENET, (0, 4, 20, 75), 20, 2, 0.003, {}),
    ("resnet20", "paper"): Protocol(_RESNET20, _STEPS, 500, 10, 0.35, _ON_RESNET20),
    ("resnet20", "quick"): Protocol(
        _QUICK_RESNET20, (0, 3, 13, 60), 3, 3, 0.08, _ON_QUICK_RESNET20, tests=1_000
    ),
}
