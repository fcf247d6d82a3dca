"""Schedules: which optimizer steps are recorded. Values that print, parse and compose.

::

    every:10                  0 10 20 30 ...
    log:4                     1 2 3 6 10 18 32 56 100 ...    4 a decade, evenly spaced in log(step)
    geometric:500x2           0 500 1000 2000 4000 ...
    dense:500                 0 1 2 ... 500
    steps:1,5,2000            1 5 2000
    jump:3000,4000            0 1200 2100 3000 1600 2800 4000  what jumps there need to look back at
    jump:3000@1,0.5,0         the same for a forecaster of another context
    jump:3000@slope:800/25    2200 2225 ... 3000: one that looks at a window
    dense:500+every:100       any of them

Step 0, the weights before the first optimizer step, is recorded by every schedule.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from weightcast.recorder.series import (
    Dense,
    Every,
    Geometric,
    Log,
    Steps,
    require_some,
    require_step,
)
from weightcast.store import UsageError
from weightcast.store.columns import Entry
from weightcast.store.context import PAPER_CONTEXT, Context

__all__ = [
    "Dense",
    "Every",
    "Geometric",
    "Jump",
    "Log",
    "Schedule",
    "Steps",
    "Union",
    "parse_schedule",
]

_RULE = (
    "a schedule is every:N, log:N, geometric:AxRATIO, dense:N, steps:A,B,... or jump:A,B,..., "
    "joined by '+'"
)


class Schedule(Protocol):
    """Whether a step is recorded; ``str`` gives the text that `parse_schedule` reads."""

    @property
    def count(self) -> int | None:
        """How many steps it has, step 0 included; None if there is no end."""

    def members(self, start: int = 1) -> Iterator[int]:
        """Its steps from `start` on, which is 1 or later; in order, each once."""

    def __contains__(self, step: int) -> bool: ...


@dataclass(frozen=True)
class Jump:
    """The steps that jumps at the given points need to look back at.

    Parameters
    ----------
    points : tuple of int
        Jump points t.
    context : tuple of float and str
        What the forecaster sees, as `weightcast.store.Context` has it: all its points are recorded.

    Raises
    ------
    UsageError
        If a jump would look back beyond the beginning of the run.

    Examples
    --------
    >>> [step for step in range(101) if step in Jump((100,))]
    [0, 40, 70, 100]
    >>> [step for step in range(101) if step in Jump((100,), ("slope:50/25",))]
    [0, 50, 75, 100]
    """

    points: tuple[int, ...]
    context: tuple[Entry, ...] = PAPER_CONTEXT

    def __post_init__(self) -> None:
        context = Context.of(self.context)
        object.__setattr__(self, "context", context.entries)
        require_some("jump", self.points)
        for point in self.points:
            require_step("jump", point)
        if (first := min(self.points)) < context.reach:
            raise UsageError(
                f"a jump at step {first} cannot look back {context.reach} steps, as context "
                f"{context} does: jump later, or take a shorter window; got {self}"
            )
        needed = context.steps(self.points).ravel().tolist()
        object.__setattr__(self, "_needed", frozenset(needed) | {0})

    @property
    def count(self) -> int:
        """How many steps it has."""
        return len(self._needed)  # type: ignore[attr-defined]

    def members(self, start: int = 1) -> Iterator[int]:
        """Its steps from `start` on, in order."""
        needed: frozenset[int] = self._needed  # type: ignore[attr-defined]
        return iter(sorted(step for step in needed if step >= start))

    def __contains__(self, step: int) -> bool:
        return step in self._needed  # type: ignore[attr-defined]

    def __str__(self) -> str:
        text = f"jump:{','.join(str(p) for p in self.points)}"
        if self.context == PAPER_CONTEXT:
            return text
        return f"{text}@{','.join(e if isinstance(e, str) else repr(e) for e in self.context)}"


@dataclass(frozen=True)
class Union:
    """Any of several schedules."""

    parts: tuple[Schedule, ...]

    def __post_init__(self) -> None:
        require_some("+", self.parts)

    @property
    def count(self) -> int | None:
        """How many steps it has at most; None if there is no end."""
        counts = [part.count for part in self.parts]
        return None if None in counts else sum(n for n in counts if n is not None)

    def members(self, start: int = 1) -> Iterator[int]:
        """Steps of its parts from `start` on, in order and each once."""
        merged = heapq.merge(*(part.members(start) for part in self.parts))
        return (step for step, _ in itertools.groupby(merged))

    def __contains__(self, step: int) -> bool:
        return any(step in part for part in self.parts)

    def __str__(self) -> str:
        return "+".join(str(part) for part in self.parts)


_PARSERS: dict[str, Callable[[list[int]], Schedule]] = {
    "every": lambda numbers: Every(_one("every", numbers)),
    "log": lambda numbers: Log(_one("log", numbers)),
    "dense": lambda numbers: Dense(_one("dense", numbers)),
    "steps": Steps.of,
}


def parse_schedule(text: str) -> Schedule:
    """Read a schedule from its text.

    Parameters
    ----------
    text : str
        Terms joined by ``+``; see the module's drawing.

    Raises
    ------
    UsageError
        If it is not one.

    Examples
    --------
    >>> print(parse_schedule("dense:500 + every:100"))
    dense:500+every:100
    >>> parse_schedule("weekly")
    Traceback (most recent call last):
    weightcast.store.errors.UsageError: a schedule is every:N, log:N, geometric:AxRATIO, dense:N, \
steps:A,B,... or jump:A,B,..., joined by '+': got 'weekly'
    """
    parts = [_parse_term(term.strip(), text) for term in text.split("+")]
    return parts[0] if len(parts) == 1 else Union(tuple(parts))


def _parse_term(term: str, text: str) -> Schedule:
    name, _, rest = term.partition(":")
    rest, at, context = rest.partition("@")
    try:
        if name == "geometric" and not at:
            first, _, ratio = rest.partition("x")
            return Geometric(int(first), float(ratio))
        numbers = [int(n) for n in rest.split(",")]
        if name == "jump":
            return Jump(tuple(numbers), Context.of(context).entries if at else PAPER_CONTEXT)
        parser = _PARSERS[name if not at else ""]
    except (KeyError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{_RULE}: got {text!r:.200}") from None
    return parser(numbers)


def _one(name: str, numbers: list[int]) -> int:
    if len(numbers) != 1:
        raise UsageError(f"schedule {name!r} takes one number: got {len(numbers)}")
    return numbers[0]
