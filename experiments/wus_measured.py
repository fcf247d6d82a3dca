"""What a run of weight-update skipping measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from weightcast.experiments.results import Trace
from weightcast.experiments.wus_timed import in_full_steps


@dataclass(frozen=True)
class Measured:
    """A run.

    Attributes
    ----------
    steps : int
    seconds, wall : float
        Of training and of evaluations on held-out images: of the processor, and by the clock.
    cost : float
        `in_full_steps`.
    share : float
        Of the weight updates that were skipped.
    windows : list of (int, int)
        First and last step of each time that updates were skipped.
    skipping : float or None
        Processor seconds of a step that skips weights, over those of one that does not; None
        without either.
    trace : Trace
    diverged, device : str
    """

    steps: int
    seconds: float
    wall: float
    cost: float
    share: float
    windows: list[tuple[int, int]]
    skipping: float | None
    trace: Trace
    diverged: str
    device: str

    @classmethod
    def of(cls, numbers: Mapping[str, Any]) -> Measured:
        """From what `TimedRun.numbers` gave."""
        trace = Trace(**numbers["trace"])
        if not 0 < len(trace.steps) == len(trace.accuracy) == len(trace.seconds):
            raise ValueError("an evaluation lacks a number")
        steps = int(numbers["steps"])
        each = {
            part: float(numbers["seconds_of"][part]) / taken
            for part, taken in numbers["steps_of"].items()
            if taken
        }
        return cls(
            steps=steps,
            seconds=float(numbers["seconds"]),
            wall=float(numbers["wall"]),
            cost=in_full_steps(numbers),
            share=float(numbers["share"]),
            windows=_windows(numbers["decisions"], steps),
            skipping=each["skipping"] / each["full"] if "skipping" in each else None,
            trace=trace,
            diverged=str(numbers["diverged"]),
            device=str(numbers["device"]),
        )

    @property
    def final(self) -> float:
        """Accuracy at the end."""
        return self.trace.accuracy[-1]

    @property
    def best(self) -> float:
        """Highest accuracy."""
        return max(self.trace.accuracy)

    def after(self, steps: float) -> float:
        """Accuracy after so many steps, or at the end: between two evaluations, on the line."""
        return float(np.interp(steps, self.trace.steps, self.trace.accuracy))


def _windows(decisions: list[Mapping[str, Any]], steps: int) -> list[tuple[int, int]]:
    """From each decision to skip to the one that ends it, or to the end of the run.

    Examples
    --------
    >>> _windows([{"step": 20, "kind": "entered"}, {"step": 40, "kind": "left"}], 90)
    [(20, 40)]
    >>> _windows([{"step": 20, "kind": "entered"}], 90)
    [(20, 90)]
    """
    entered = [int(d["step"]) for d in decisions if d["kind"] == "entered"]
    left = [int(d["step"]) for d in decisions if d["kind"] == "left"]
    return list(zip(entered, [*left, steps][: len(entered)], strict=True))
