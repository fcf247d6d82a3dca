"""Schedules: which optimizer steps are recorded. Values that print, parse and compose.

::

    every:10                  0 10 20 30 ...
    log:4                     1 2 3 6 10 18 32 56 100 ...    4 a decade, evenly spaced in log(step)
    dense:500                 0 1 2 ... 500
    steps:1,5,2000            1 5 2000
    jump:3000,4000            0 1200 2100 3000 1600 2800 4000  what jumps there need to look back at
    jump:3000@1,0.5,0         the same for a forecaster of another context
    jump:3000@slope:800/25    2200 2225 ... 3000: one that looks at a window
    dense:500+every:100       any of them

Step 0, the weights before the first optimizer step, is recorded by every schedule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Protocol

from weightcast.store import UsageError
from weightcast.store.columns import Entry
from weightcast.store.context import PAPER_CONTEXT, Context


class Schedule(Protocol):
    """Whether a step is recorded; ``str`` gives the text that `parse_schedule` reads."""

    @property
    def count(self) -> int | None:
        """How many steps it has, step 0 included; None if there is no end."""

    def __contains__(self, step: int) -> bool: ...


@dataclass(frozen=True)
class Every:
    """Every n-th step.

    Examples
    --------
    >>> 20 in Every(10), 21 in Every(10)
    (True, False)
    """

    n: int

    def __post_init__(self) -> None:
        _at_least_one("every", self.n)

    @property
    def count(self) -> None:
        """There is no end."""

    def __contains__(self, step: int) -> bool:
        return step % self.n == 0

    def __str__(self) -> str:
        return f"every:{self.n}"


@dataclass(frozen=True)
class Log:
    """A number of steps per decade, evenly spaced in the logarithm of the step.

    Examples
    --------
    >>> [step for step in range(101) if step in Log(4)]
    [0, 1, 2, 3, 6, 10, 18, 32, 56, 100]
    """

    per_decade: int

    def __post_init__(self) -> None:
        _at_least_one("log", self.per_decade)

    @property
    def count(self) -> None:
        """There is no end."""

    def __contains__(self, step: int) -> bool:
        if step < 1:
            return step == 0
        nearest = math.floor(math.log10(step) * self.per_decade)
        powers = (10 ** (k / self.per_decade) for k in range(max(nearest - 1, 0), nearest + 3))
        return any(math.floor(power + 0.5) == step for power in powers)

    def __str__(self) -> str:
        return f"log:{self.per_decade}"


@dataclass(frozen=True)
class Dense:
    """Every step up to and including the last.

    Examples
    --------
    >>> 500 in Dense(500), 501 in Dense(500)
    (True, False)
    """

    last: int

    def __post_init__(self) -> None:
        _at_least_one("dense", self.last)

    @property
    def count(self) -> int:
        """How many steps it has."""
        return self.last + 1

    def __contains__(self, step: int) -> bool:
        return step <= self.last

    def __str__(self) -> str:
        return f"dense:{self.last}"


@dataclass(frozen=True)
class Steps:
    """Explicit steps.

    Examples
    --------
    >>> print(Steps.of([300, 5]))
    steps:5,300
    """

    steps: frozenset[int]

    def __post_init__(self) -> None:
        _not_empty("steps", self.steps)
        for step in self.steps:
            _at_least_one("steps", step)

    @classmethod
    def of(cls, steps: Iterable[int]) -> Steps:
        """Build from any iterable of steps."""
        return cls(frozenset(steps))

    @property
    def count(self) -> int:
        """How many steps it has."""
        return len(self.steps) + 1

    def __contains__(self, step: int) -> bool:
        return step == 0 or step in self.steps

    def __str__(self) -> str:
        return f"steps:{','.join(str(s) for s in sorted(self.steps))}"


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
        _not_empty("jump", self.points)
        for point in self.points:
            _at_least_one("jump", point)
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
        _not_empty("+", self.parts)

    @property
    def count(self) -> int | None:
        """How many steps it has at most; None if there is no end."""
        counts = [part.count for part in self.parts]
        return None if None in counts else sum(n for n in counts if n is not None)

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
    weightcast.store.errors.UsageError: a schedule is every:N, log:N, dense:N, steps:A,B,... or \
jump:A,B,..., joined by '+': got 'weekly'
    """
    parts = [_parse_term(term.strip(), text) for term in text.split("+")]
    return parts[0] if len(parts) == 1 else Union(tuple(parts))


def _parse_term(term: str, text: str) -> Schedule:
    name, _, rest = term.partition(":")
    rest, at, context = rest.partition("@")
    try:
        numbers = [int(n) for n in rest.split(",")]
        if name == "jump":
            return Jump(tuple(numbers), Context.of(context).entries if at else PAPER_CONTEXT)
        parser = _PARSERS[name if not at else ""]
    except (KeyError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(
            "a schedule is every:N, log:N, dense:N, steps:A,B,... or jump:A,B,..., "
            f"joined by '+': got {text!r}"
        ) from None
    return parser(numbers)


def _one(name: str, numbers: list[int]) -> int:
    if len(numbers) != 1:
        raise UsageError(f"schedule {name!r} takes one number: got {numbers}")
    return numbers[0]


def _not_empty(name: str, values: Collection[object]) -> None:
    if not values:
        raise UsageError(f"schedule {name!r} needs at least one entry: got none")


def _at_least_one(name: str, number: int) -> None:
    if number < 1:
        raise UsageError(f"schedule {name!r} takes numbers from 1 on: got {number}")
