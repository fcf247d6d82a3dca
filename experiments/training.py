"""One readable training loop, and the curve it leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from weightcast.experiments.digits import Task
from weightcast.experiments.results import Trace

BATCH = 50  # the paper's, section 4.3


@dataclass
class Curve:
    """Validation loss and accuracy over training.

    Attributes
    ----------
    steps : list of int
        Optimizer steps taken before each evaluation.
    loss, accuracy : list of float
        Mean cross-entropy; share of correct answers, from 0 to 1.
    """

    steps: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)

    def add(self, step: int, network: nn.Module, task: Task) -> None:
        """Evaluate a network and append the result."""
        loss, accuracy = evaluate(network, task)
        self.steps.append(step)
        self.loss.append(loss)
        self.accuracy.append(accuracy)


@torch.no_grad()
def evaluate(network: nn.Module, task: Task) -> tuple[float, float]:
    """Validation loss and accuracy of a network, which stays in the mode it was in."""
    training = network.training
    network.eval()
    logits = network(task.validation_x)  # [n, classes]
    network.train(training)
    loss = nn.functional.cross_entropy(logits, task.validation_y)
    return float(loss), float((logits.argmax(1) == task.validation_y).float().mean())


def train(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    task: Task,
    *,
    steps: int,
    seed: int,
    evaluate_every: int,
    after_step: Sequence[Callable[[], object]] = (),
) -> Curve:
    """Train a network on batches that depend on the seed only.

    Parameters
    ----------
    network : nn.Module
    optimizer : torch.optim.Optimizer
        Of its parameters; recorders and jumpers attached to it work as in any loop.
    task : Task
    steps : int
        Optimizer steps.
    seed : int
        Of the batches.
    evaluate_every : int
        Steps between evaluations; there is one before the first step and one after the last.
    after_step : sequence of callables
        Called after each step, such as a learning-rate schedule's ``step``.

    Returns
    -------
    Curve
    """
    generator = torch.Generator().manual_seed(seed)
    curve = Curve()
    curve.add(0, network, task)
    for step in range(1, steps + 1):
        rows = torch.randint(len(task.train_x), (BATCH,), generator=generator)
        loss = nn.functional.cross_entropy(network(task.train_x[rows]), task.train_y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for call in after_step:
            call()
        if step % evaluate_every == 0 or step == steps:
            curve.add(step, network, task)
    return curve


def running_median(values: Sequence[float], width: int = 5) -> list[float]:
    """Median of each value and the ones before it: what a lucky evaluation does not move.

    Parameters
    ----------
    values : sequence of float
    width : int
        Values that a median is taken over; fewer at the start.

    Examples
    --------
    >>> running_median([0, 9, 1, 2, 2], width=3)
    [0.0, 4.5, 1.0, 2.0, 2.0]
    """
    return [float(np.median(values[max(i - width + 1, 0) : i + 1])) for i in range(len(values))]


def steps_to(curve: Curve | Trace, accuracy: float, width: int = 5) -> int | None:
    """First step at which the running median of the accuracy reaches a level, or None.

    Examples
    --------
    >>> steps_to(Curve([0, 10, 20], [1.0, 0.5, 0.4], [0.1, 0.8, 0.9]), 0.8), steps_to(Curve(), 0.5)
    (20, None)
    """
    reached = (
        step
        for step, median in zip(curve.steps, running_median(curve.accuracy, width), strict=True)
        if median >= accuracy
    )
    return next(reached, None)
