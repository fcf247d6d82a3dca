"""How far ahead a forecast looks: to a multiple of t, or some steps after t."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np

from weightcast.store.errors import UsageError

MOST_STEPS = 1 << 62
_HARDLY_MEANT = 100.0  # ratios from here on are steps whose plus sign was forgotten
_RULE = (
    "a horizon is a ratio above 1, such as 2 for the weights at 2t, or steps ahead, such as '+500'"
)


@dataclass(frozen=True)
class Horizon:
    """One horizon: ``ratio`` times t, or ``steps`` after t.

    Parameters
    ----------
    ratio : float
        Above 1; unused where `steps` are given.
    steps : int
        From 1 on; 0 where the horizon is a ratio.

    Raises
    ------
    UsageError
        If it does not lie ahead of t.

    Examples
    --------
    >>> Horizon.of(2), Horizon.of("+500")
    (Horizon(ratio=2.0, steps=0), Horizon(ratio=1.0, steps=500))
    >>> Horizon.of("+500").target(1000), str(Horizon.of(1.5)), str(Horizon.of("+500"))
    (1500, '1.5t', 't+500')
    """

    ratio: float = 1.0
    steps: int = 0

    def __post_init__(self) -> None:
        ahead = math.isfinite(self.ratio) and (self.ratio > 1) != (self.steps > 0)
        if not ahead or self.steps < 0 or self.ratio < 1 or self.steps > MOST_STEPS:
            got = self.steps or self.ratio
            raise UsageError(
                f"horizon must be greater than 1, or steps ahead: got {got!r}; {_RULE}"
            )

    @classmethod
    def of(cls, value: object) -> Horizon:
        """Read a number (a ratio) or text such as ``+500``; a `Horizon` stays what it is."""
        if isinstance(value, Horizon):
            return value
        try:
            if isinstance(value, str) and value.startswith("+"):
                return cls(steps=int(value[1:]))
            if isinstance(value, Real) and not isinstance(value, bool):
                return cls(ratio=float(value))
        except (ValueError, OverflowError) as error:
            if isinstance(error, UsageError):
                raise
        raise UsageError(f"{_RULE}: got horizon {value!r}")

    def target(self, t: Any) -> Any:
        """The step, or int64 array of steps, that is forecast from step t."""
        exact = np.asarray(t, dtype=np.float64) * self.ratio + self.steps
        found = np.floor(exact + 0.5).clip(max=2.0**62).astype(np.int64)
        return found if found.ndim else int(found)

    @property
    def plain(self) -> float | str:
        """As options and JSON have it: a number, or text such as ``+500``."""
        return f"+{self.steps}" if self.steps else self.ratio

    def __str__(self) -> str:
        return f"t+{self.steps}" if self.steps else f"{self.ratio:g}t"


def horizons(value: object) -> tuple[Horizon, ...]:
    """One horizon, or several of a list.

    Raises
    ------
    UsageError
        If there is none, or one twice.

    Examples
    --------
    >>> [str(h) for h in horizons(["+500", "+1000"])]
    ['t+500', 't+1000']
    """
    several = isinstance(value, Iterable) and not isinstance(value, str)
    found = tuple(Horizon.of(v) for v in value) if several else (Horizon.of(value),)  # type: ignore[attr-defined]
    if not found or len(set(found)) < len(found):
        raise UsageError(f"horizon must be one, or several that differ: got {value!r}")
    return found


def parse_horizon(text: str) -> Any:
    """A horizon, or several in a tuple, as a command line has them.

    Raises
    ------
    UsageError
        If it is not one, or a ratio of 100 or more.

    Examples
    --------
    >>> parse_horizon("2"), parse_horizon("1.5,+500")
    (2.0, (1.5, '+500'))
    """
    parts = [part.strip() for part in text.split(",")]
    try:
        found = tuple(part if part.startswith("+") else float(part) for part in parts)
    except ValueError:
        raise UsageError(f"{_RULE}, or several with commas between them: got {text!r}") from None
    for value in found:
        if isinstance(value, float) and _HARDLY_MEANT <= value < math.inf:
            raise UsageError(
                f"a horizon of {value:.12g} times t is hardly meant: give +{value:.12g} for "
                f"{value:.12g} steps ahead: got {text!r:.80}"
            )
    return plain(found if len(found) > 1 else found[0])


def plain(value: object) -> Any:
    """A horizon or several in their plain form: what options hold, and JSON.

    Examples
    --------
    >>> plain(2), plain("+500"), plain([1.5, 2])
    (2.0, '+500', (1.5, 2.0))
    """
    found = tuple(h.plain for h in horizons(value))
    single = isinstance(value, str | Integral | Real | Horizon)
    return found[0] if single else found
