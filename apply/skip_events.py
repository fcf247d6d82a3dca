"""Evaluations, what was decided by them about skipping weights, and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from numbers import Real
from typing import Any

from weightcast.apply.skip_rule import Kind, SkipState
from weightcast.store import UsageError

_SAID: dict[Kind, str] = {
    "training": "weights are trained",
    "entered": "weights are skipped from here on",
    "skipping": "weights are skipped",
    "left": "weights are trained again",
}


@dataclass(frozen=True)
class SkipEvent:
    """One evaluation, and what was decided by it.

    Attributes
    ----------
    step : int
        When: optimizer steps counted.
    kind : {"training", "entered", "skipping", "left"}
    value : float
        The evaluation.
    gain : float or None
        By which it was decided, in the rule's units; None if it could not be told.
    reason : str

    Examples
    --------
    >>> print(SkipEvent(500, "left", 0.91, 0.002, "3 of at most 3 evaluations"))
    step 500: 0.91: weights are trained again: 3 of at most 3 evaluations
    """

    step: int
    kind: Kind
    value: float
    gain: float | None
    reason: str

    def __str__(self) -> str:
        return f"step {self.step}: {self.value:.6g}: {_SAID[self.kind]}: {self.reason}"


@dataclass(frozen=True)
class SkipSummary:
    """The skipping of a run, counted.

    Attributes
    ----------
    steps : int
        Optimizer steps.
    skipped : int
        Those of them that did not update weights.
    windows : int
        How many times weights began to be skipped.

    Examples
    --------
    >>> print(SkipSummary(steps=5000, skipped=1200, windows=2))
    weights were skipped in 1,200 of 5,000 steps (24.0 %), in 2 windows
    """

    steps: int
    skipped: int
    windows: int

    @property
    def share(self) -> float:
        """Share of weight updates that were skipped, from 0 to 1."""
        return self.skipped / self.steps if self.steps else 0.0

    def __str__(self) -> str:
        return (
            f"weights were skipped in {self.skipped:,} of {self.steps:,} "
            f"step{'s' * (self.steps != 1)} ({100 * self.share:.1f} %), "
            f"in {self.windows:,} window{'s' * (self.windows != 1)}"
        )


def evaluation(value: Any) -> float:
    """An evaluation as a number: a float, an int, or an array or tensor of one number.

    Raises
    ------
    UsageError
        If it is not a number. NaN and infinity are.

    Examples
    --------
    >>> evaluation(1)
    1.0
    """
    try:
        number = value.item() if hasattr(value, "item") else value
        if isinstance(number, Real) and not isinstance(number, bool):
            return float(number)
    except (RuntimeError, ValueError, OverflowError):  # of many numbers, or beyond all floats
        pass
    raise UsageError(
        "an evaluation is one number, an accuracy or a loss: got "
        f"{value!r:.60} of type {type(value).__name__}".replace("\n", " ")
    )


Plain = dict[str, Any]


def to_plain(state: SkipState, events: Iterable[SkipEvent]) -> Plain:
    """What a rule remembers, and its events, as lists, numbers and words."""
    recent, *others = astuple(state)
    return {"rule": [list(recent), *others], "events": [list(astuple(event)) for event in events]}


def from_plain(saved: Plain) -> tuple[SkipState, list[SkipEvent]]:
    """Take back what `to_plain` gave.

    Raises
    ------
    KeyError, TypeError, ValueError
        If it is something else.

    Examples
    --------
    >>> from_plain(to_plain(SkipState((0.5, 0.6), 2), []))
    (SkipState(recent=(0.5, 0.6), trained=2, skipped=0, entered=None), [])
    """
    recent, trained, skipped, entered = saved["rule"]
    state = SkipState(tuple(map(float, recent)), int(trained), int(skipped), _number(entered))
    return state, [_event(*row) for row in saved["events"]]


def _event(step: Any, kind: Any, value: Any, gain: Any, reason: Any) -> SkipEvent:
    if kind not in _SAID:
        raise ValueError(kind)
    return SkipEvent(int(step), kind, float(value), _number(gain), str(reason))


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
