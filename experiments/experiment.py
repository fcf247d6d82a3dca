"""What an experiment is, as plain data: a network, a task, an optimizer, and the arms compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from weightcast.predictor import Forecaster

Schedule = Literal["own", "one-cycle"]
Measure = Literal["accuracy", "top-5 accuracy", "steps to accuracy", "steps to plain's best"]

_FIRST = 5  # steps before a jump, at least


@dataclass(frozen=True)
class Rate:
    """How the paper's learning rate changes over training.

    Attributes
    ----------
    kind : {"constant", "inv", "staircase"}
        "inv" is Caffe's policy, ``(1 + gamma * step) ** -power``; "staircase" is
        ``gamma ** (step // every)``.
    gamma, power : float
    every : int
        Steps of a stair.

    Examples
    --------
    >>> Rate("inv", gamma=1e-4, power=0.75).factor(10_000)
    0.5946035575013605
    >>> [Rate("staircase", gamma=0.5, every=10).factor(step) for step in (0, 9, 10, 20)]
    [1.0, 1.0, 0.5, 0.25]
    """

    kind: Literal["constant", "inv", "staircase"] = "constant"
    gamma: float = 1.0
    power: float = 1.0
    every: int = 1

    def factor(self, step: int) -> float:
        """What the learning rate is multiplied by for the update after `step` steps."""
        if self.kind == "inv":
            return float((1 + self.gamma * step) ** -self.power)
        return float(self.gamma ** (step // self.every)) if self.kind == "staircase" else 1.0


@dataclass(frozen=True)
class Updates:
    """The optimizer.

    Attributes
    ----------
    name : str
        Of a class of `torch.optim`.
    lr : float
        Learning rate.
    options : mapping
        Its other arguments.
    rate : Rate
    """

    name: str
    lr: float
    options: Mapping[str, Any] = field(default_factory=dict)
    rate: Rate = Rate()


@dataclass(frozen=True)
class Arm:
    """One of the ways to train that are compared: from the same initial weights and batches.

    Attributes
    ----------
    name : str
    jumps : tuple of int
        Steps after which the weights jump.
    forecaster : str or Forecaster
        What forecasts: a name of `weightcast.predictor.load`, or of one that is fitted for the
        experiments, see `experiments.forecasters`; or a fitted forecaster of your own.
    schedule : {"own", "one-cycle"}
        The paper's learning rate, or a one-cycle schedule over the whole run with a tuned peak.
    guarded : bool
        Whether a jump that hurts is rolled back; the paper's are not.
    """

    name: str
    jumps: tuple[int, ...] = ()
    forecaster: str | Forecaster = "introspection-mnist"
    schedule: Schedule = "own"
    guarded: bool = False


@dataclass(frozen=True)
class Claim:
    """A number of a paper, and what to put beside it.

    Attributes
    ----------
    arm : str
        Whose number it is.
    measure : str
        "accuracy" or "top-5 accuracy" after `at` steps; "steps to accuracy" `at`; or "steps to
        plain's best" accuracy.
    value : float
        The paper's: an accuracy from 0 to 1, or steps.
    at : float
    """

    arm: str
    measure: Measure
    value: float
    at: float = 0


@dataclass(frozen=True)
class Experiment:
    """An entry of the catalogue.

    Attributes
    ----------
    name : str
        As it is called on the command line.
    title : str
    paper : str
        Where it comes from: "Sinha et al. 2017, section 4.2.1".
    data : str
        Of `experiments.loading`: "mnist", "fashion", "fashion-55000", "cifar10", "images".
    network : str
        Of `experiments.networks.NETWORKS`.
    updates : Updates
    batch : int
        Images of a step.
    steps : int
        Optimizer steps of each run.
    evaluate_every : int
        Steps between evaluations on the test images.
    arms : tuple of Arm
    claims : tuple of Claim
        What the paper says.
    targets : tuple of float
        Accuracies from 0 to 1, beside those of the claims, that arms race to.
    figures : str
        The paper's figures that its curves stand beside: "11", "16 to 19".
    notes : tuple of str
        What a reader must know: where the paper is silent, or contradicts itself.
    averaged : bool
        Whether the plain run has a moving average of its weights evaluated beside it, as the arm
        "averaging".
    quick_steps : int
        Steps of the quick budget.
    quick_batch : int, optional
        Images of a step of it; by default as many as ever.
    budget : {"paper", "quick"}
        Whether it has the paper's length.
    """

    name: str
    title: str
    paper: str
    data: str
    network: str
    updates: Updates
    batch: int
    steps: int
    evaluate_every: int
    arms: tuple[Arm, ...]
    claims: tuple[Claim, ...] = ()
    targets: tuple[float, ...] = ()
    figures: str = ""
    notes: tuple[str, ...] = ()
    averaged: bool = True
    quick_steps: int = 400
    quick_batch: int | None = None
    budget: str = "paper"

    @property
    def folder(self) -> str:
        """Name of its folder of results: other budgets have folders of their own."""
        return self.name if self.budget == "paper" else f"{self.name}-{self.budget}"

    def shortened(self, steps: int, batch: int | None = None) -> Experiment:
        """The same in fewer steps: jump points and schedule are scaled with it.

        Its claims are left out: they are of the whole length. There are twenty evaluations.
        """
        share = steps / self.steps
        rate = self.updates.rate
        if rate.kind == "inv":
            rate = replace(rate, gamma=rate.gamma / share)
        elif rate.kind == "staircase":
            rate = replace(rate, every=max(round(rate.every * share), 1))
        return replace(
            self,
            steps=steps,
            batch=batch or self.batch,
            evaluate_every=max(steps // 20, 1),
            arms=tuple(replace(arm, jumps=_sooner(arm.jumps, share)) for arm in self.arms),
            updates=replace(self.updates, rate=rate),
            claims=(),
            budget="quick",
        )

    def quick(self) -> Experiment:
        """At the quick budget, which shows that it runs, and says nothing about accuracy."""
        return self.shortened(self.quick_steps, self.quick_batch)


def _sooner(jumps: tuple[int, ...], share: float) -> tuple[int, ...]:
    """Jump points of a shorter run: still distinct, and none before there is a past."""
    points: list[int] = []
    for i, t in enumerate(jumps):
        points.append(max(round(t * share), _FIRST + i, *(p + 1 for p in points)))
    return tuple(points)
