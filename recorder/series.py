"""Series of steps that schedules are made of; `weightcast.recorder.schedule` has their texts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from numbers import Integral

from weightcast.store import UsageError

LAST_STEP = 1 << 53  # beyond it floating point does not have every step
LAST_NAMED = 1 << 62  # of steps that are named, or counted in whole numbers


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
        require_step("every", self.n)

    @property
    def count(self) -> None:
        """There is no end."""

    def members(self, start: int = 1) -> Iterator[int]:
        """Its steps from `start` on, in order."""
        return itertools.count(-(-start // self.n) * self.n, self.n)

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
        require_step("log", self.per_decade)

    @property
    def count(self) -> None:
        """There is no end."""

    def members(self, start: int = 1) -> Iterator[int]:
        """Its steps from `start` on, in order."""
        return _following(self._first_from, start)

    def __contains__(self, step: int) -> bool:
        return step == 0 or (step <= LAST_STEP and self._first_from(step) == step)

    def _first_from(self, step: int) -> int:
        guess = math.log10(max(step - 0.5, 1)) * self.per_decade
        return _first_from(lambda k: 10.0 ** (k / self.per_decade), guess, step)

    def __str__(self) -> str:
        return f"log:{self.per_decade}"


@dataclass(frozen=True)
class Geometric:
    """Steps of which each is a multiple of the one before.

    Parameters
    ----------
    first : int
        The first of them after step 0.
    ratio : float
        Above 1.

    Examples
    --------
    >>> [step for step in range(2001) if step in Geometric(500, 2)]
    [0, 500, 1000, 2000]
    """

    first: int
    ratio: float

    def __post_init__(self) -> None:
        require_step("geometric", self.first, LAST_STEP)
        if not (math.isfinite(self.ratio) and self.ratio > 1):
            raise UsageError(f"schedule 'geometric' takes a ratio above 1: got {self.ratio!r}")
        object.__setattr__(self, "ratio", float(self.ratio))

    @property
    def count(self) -> None:
        """There is no end."""

    def members(self, start: int = 1) -> Iterator[int]:
        """Its steps from `start` on, in order."""
        return _following(self._first_from, start)

    def __contains__(self, step: int) -> bool:
        return step == 0 or (step <= LAST_STEP and self._first_from(step) == step)

    def _first_from(self, step: int) -> int:
        guess = math.log(max((step - 0.5) / self.first, 1)) / math.log(self.ratio)
        return _first_from(lambda k: self.first * self.ratio**k, guess, step)

    def __str__(self) -> str:
        # '+' joins schedules
        return f"geometric:{self.first}x{self.ratio!r}".removesuffix(".0").replace("e+", "e")


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
        require_step("dense", self.last)

    @property
    def count(self) -> int:
        """How many steps it has."""
        return self.last + 1

    def members(self, start: int = 1) -> Iterator[int]:
        """Its steps from `start` on, in order."""
        return iter(range(start, self.last + 1))

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
        require_some("steps", self.steps)
        for step in self.steps:
            require_step("steps", step)

    @classmethod
    def of(cls, steps: Iterable[int]) -> Steps:
        """Build from any iterable of steps."""
        return cls(frozenset(steps))

    @property
    def count(self) -> int:
        """How many steps it has."""
        return len(self.steps) + 1

    def members(self, start: int = 1) -> Iterator[int]:
        """Its steps from `start` on, in order."""
        return iter(sorted(step for step in self.steps if step >= start))

    def __contains__(self, step: int) -> bool:
        return step == 0 or step in self.steps

    def __str__(self) -> str:
        return f"steps:{','.join(str(s) for s in sorted(self.steps))}"


def _following(first_from: Callable[[int], int], start: int) -> Iterator[int]:
    """Steps of a series of powers, up to the last that there can be."""
    step = first_from(start)
    while step <= LAST_STEP:
        yield step
        step = first_from(step + 1)


def _first_from(power: Callable[[int], float], guess: float, step: int) -> int:
    """The first of a series of powers, to the nearest whole step, that is not before a step.

    Powers may lie closer than whole steps: so its number is worked out, near `guess`, not counted.
    """

    def at(k: int) -> int:
        try:
            exact = min(power(k), LAST_STEP + 1)
        except OverflowError:
            return LAST_STEP + 1
        whole = math.floor(exact)
        return whole + (exact - whole >= 0.5)

    k = max(math.floor(guess), 0)
    while k > 0 and at(k - 1) >= step:
        k -= 1
    while at(k) < step:
        k += 1
    return at(k)


def require_some(name: str, values: Collection[object]) -> None:
    """Check that a schedule has an entry."""
    if not values:
        raise UsageError(f"schedule {name!r} needs at least one entry: got none")


def require_step(name: str, number: object, most: int = LAST_NAMED) -> None:
    """Check that a number of a schedule is one."""
    whole = isinstance(number, Integral) and not isinstance(number, bool)
    if not whole or not 1 <= number <= most:  # type: ignore[operator]
        raise UsageError(
            f"schedule {name!r} takes whole numbers from 1 to {most}: got {number!r:.40}"
        )
