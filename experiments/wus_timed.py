"""Training that is timed, and may skip weight updates."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from weightcast.apply import SkipRule, UpdateSkipper
from weightcast.experiments.arm_run import Run, evaluate
from weightcast.recorder import Recorder


@dataclass
class TimedRun(Run):
    """A run whose steps are timed apart: those that update all, and those that skip weights.

    Attributes
    ----------
    skipper : UpdateSkipper or None
        Fed with the accuracy on held-out images after every evaluation but the first and the last.
    steps_of, seconds_of : dict of str to int and float
        Steps, and their processor seconds: "full" and "skipping".
    held_seconds : float
        Processor seconds of evaluations on held-out images; they count as training.
    wall : float
        Seconds by the clock of all that.
    """

    skipper: UpdateSkipper | None = None
    steps_of: dict[str, int] = field(default_factory=lambda: {"full": 0, "skipping": 0})
    seconds_of: dict[str, float] = field(default_factory=lambda: {"full": 0.0, "skipping": 0.0})
    held_seconds: float = 0.0
    wall: float = 0.0
    _held: tuple[Any, torch.Tensor] | None = None
    _resumed: dict[str, Any] | None = None

    def skip(
        self, rule: SkipRule, held: tuple[Any, torch.Tensor], history: Recorder | None
    ) -> UpdateSkipper:
        """Skip updates from here on, or as before; history keeps the decisions."""
        self.skipper = UpdateSkipper(self.network, self.optimizer, rule=rule, history=history)
        if self._resumed is not None:
            self.skipper.load_state_dict(self._resumed)
        self._held = held
        return self.skipper

    def advance(self, steps: int) -> None:
        """Take so many steps."""
        part = "skipping" if self.skipper is not None and self.skipper.frozen else "full"
        before, begin, wall = self.step, self.seconds, time.perf_counter()
        try:
            super().advance(steps)
        finally:
            self.wall += time.perf_counter() - wall
            self.steps_of[part] += self.step - before
            self.seconds_of[part] += self.seconds - begin

    def measure(self) -> None:
        """Evaluate on the test images; and decide by the held-out images."""
        super().measure()
        if self.skipper is None or not 0 < self.step < self.experiment.steps:
            return
        begin, wall = self._clock(), time.perf_counter()
        _, accuracy, _ = evaluate(self.network, *(self._held or ()))
        self.skipper.update(accuracy)
        self.held_seconds += (spent := self._clock() - begin)
        self.seconds += spent
        self.wall += time.perf_counter() - wall

    def state(self) -> dict[str, Any]:
        """All that the run needs to go on from here."""
        skipper = None if self.skipper is None else self.skipper.state_dict()
        return {**super().state(), "skipper": skipper, "timed": self._timed()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave; of a skipper when there is one."""
        super().load_state(state)
        self._resumed = state["skipper"]
        for name, value in state["timed"].items():
            setattr(self, name, value)

    def _timed(self) -> dict[str, Any]:
        names = ("steps_of", "seconds_of", "held_seconds", "wall")
        return {name: getattr(self, name) for name in names}

    def numbers(self) -> dict[str, Any]:
        """What it measured, as JSON."""
        (trace,) = self.traces.values()
        events = [] if self.skipper is None else self.skipper.events
        return {
            "steps": self.experiment.steps,
            "seconds": self.seconds,
            **self._timed(),
            "share": self.skipper.summary().share if self.skipper is not None else 0.0,
            "decisions": [asdict(event) for event in events],
            "trace": {
                "steps": trace.steps,
                "loss": [float(f"{loss:.5g}") for loss in trace.loss],
                "accuracy": trace.accuracy,
                "seconds": trace.seconds,
            },
        }


def in_full_steps(numbers: Mapping[str, Any]) -> float:
    """A run's cost: how many steps that update all would take its processor seconds.

    They are those of the run itself, so that what else the machine did then is in both.

    Examples
    --------
    >>> in_full_steps({"seconds": 9.0, "seconds_of": {"full": 6.0}, "steps_of": {"full": 3}})
    4.5
    """
    return float(numbers["seconds"] / (numbers["seconds_of"]["full"] / numbers["steps_of"]["full"]))


def steps_at_cost(cost: float) -> int:
    """Length of a run that updates all and costs so many full steps.

    Examples
    --------
    >>> steps_at_cost(4.6), steps_at_cost(0.2)
    (5, 1)
    """
    return max(round(cost), 1)
