"""What happened to the jumps of a run, and why: a log in words and numbers."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Literal

Kind = Literal["jumped", "kept", "rolled back", "refused", "skipped"]

logger = logging.getLogger("weightcast.apply")


@dataclass(frozen=True)
class JumpEvent:
    """One thing that happened.

    Attributes
    ----------
    step : int
        When.
    jump : int
        The jump point that it is about.
    kind : {"jumped", "kept", "rolled back", "refused", "skipped"}
        A jump is made; kept or rolled back after its probation; not made as the forecast is of no
        use, or as what it would be made from is not there.
    reason : str

    Examples
    --------
    >>> print(JumpEvent(1200, 1000, "kept", "the loss is low"))
    step 1200: jump at 1000 kept: the loss is low
    """

    step: int
    jump: int
    kind: Kind
    reason: str

    def __str__(self) -> str:
        what = "jumped" if self.kind == "jumped" else f"jump at {self.jump} {self.kind}"
        return f"step {self.step}: {what}: {self.reason}"


@dataclass(frozen=True)
class JumpSummary:
    """The jumps of a run, counted.

    Attributes
    ----------
    steps : int
        Optimizer steps.
    made, kept, rolled_back, refused, skipped : int
        Jumps. Those made are kept or rolled back, but for one that is still on probation.
    lost : int
        Steps of training that roll-backs took back.
    seconds : float
        Spent on jumps, snapshots and their guard.
    memory : int
        Most bytes held, as foretold.

    Examples
    --------
    >>> print(JumpSummary(5000, 3, 1, 1, 1, 0, lost=200, seconds=0.31, memory=4_200_000))
    3 jumps in 5,000 steps: 1 kept, 1 rolled back, 1 still on probation, and 1 refused; roll-backs \
cost 200 steps; 0.3 s and at most 4.2 MB for jumps
    """

    steps: int
    made: int
    kept: int
    rolled_back: int
    refused: int
    skipped: int
    lost: int
    seconds: float
    memory: int

    @property
    def pending(self) -> int:
        """Jumps made that are still on probation."""
        return self.made - self.kept - self.rolled_back

    def __str__(self) -> str:
        fates = {"kept": self.kept, "rolled back": self.rolled_back}
        fates["still on probation"] = self.pending
        counts = [f"{n:,} {fate}" for fate, n in fates.items() if n]
        others = {"refused": self.refused, "skipped": self.skipped}
        missed = " and ".join(f"{n:,} {fate}" for fate, n in others.items() if n)
        said = ", ".join(counts + ([f"and {missed}" if counts else missed] if missed else []))
        lost = f"; roll-backs cost {_counted(self.lost, 'step')}" if self.lost else ""
        return (
            f"{_counted(self.made, 'jump')} in {_counted(self.steps, 'step')}"
            f"{': ' if said else ''}{said}{lost}; "
            f"{self.seconds:.1f} s and at most {self.memory / 1e6:.1f} MB for jumps"
        )


def _counted(n: int, what: str) -> str:
    many = f"{n:,}" if n else "no"
    return f"{many} {what}{'s' if n != 1 else ''}"


class EventLog:
    """The events of a run, in order; each is also logged and told to a listener.

    Parameters
    ----------
    listener : callable, optional
        Called with each `JumpEvent`.
    """

    def __init__(self, listener: Callable[[JumpEvent], object] | None = None) -> None:
        self.events: list[JumpEvent] = []
        self._listener = listener

    def add(self, event: JumpEvent) -> None:
        """Append an event."""
        self.events.append(event)
        logger.info("%s", event)
        if self._listener is not None:
            self._listener(event)

    def count(self) -> Counter[str]:
        """How many there are of each kind."""
        return Counter(event.kind for event in self.events)

    @property
    def lost(self) -> int:
        """Steps that roll-backs took back."""
        return sum(e.step - e.jump for e in self.events if e.kind == "rolled back")

    def state(self) -> list[list[object]]:
        """The events as plain values."""
        return [list(astuple(event)) for event in self.events]

    def load(self, state: Iterable[Sequence[Any]]) -> None:
        """Take back what `state` gave."""
        self.events = [
            JumpEvent(int(step), int(jump), kind, str(reason)) for step, jump, kind, reason in state
        ]
