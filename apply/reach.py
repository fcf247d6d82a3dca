"""How far jumps go: as far each time, at most so far, or less and less."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np

from weightcast.store import UsageError
from weightcast.store.horizon import Horizon

LATEST = 1 << 40  # no run takes more steps


@dataclass(frozen=True)
class Reach:
    """How far jumps go.

    Parameters
    ----------
    horizon : float or str
        A ratio of t (1.5), or steps ahead ("+500").
    most : int, optional
        Steps ahead at most.
    shrink : bool
        Less and less as training goes on: by the share of it that is left where its end is known,
        else inversely to t, from the first jump on.

    Raises
    ------
    UsageError
        If `most` is below 1, or the horizon is none.

    Examples
    --------
    >>> reach = Reach(1.5, most=2000)
    >>> str(reach), reach.target(1000), reach.target(6000)
    ('1.5t, at most 2000 steps', 1500, 8000)
    >>> Reach("+500", shrink=True).target(np.array([1000, 5000, 9000]), end=10_000).tolist()
    [1450, 5250, 9050]
    """

    horizon: float | str | Horizon
    most: int | None = None
    shrink: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "horizon", Horizon.of(self.horizon))
        if self.most is not None:
            object.__setattr__(self, "most", whole("most, the steps ahead,", self.most))

    @property
    def varies(self) -> bool:
        """Whether jumps go less far than the horizon."""
        return self.most is not None or self.shrink

    def target(self, t: Any, *, first: int = 1, end: int | None = None) -> Any:
        """The step that a jump at t goes to; t itself, where nothing is left of the way.

        Parameters
        ----------
        t : int, or int64 array
        first : int
            The first jump point, where shrinking begins if the end is unknown.
        end : int, optional
            Last step of training, which no jump passes.

        Returns
        -------
        int, or int64 array
            Of the shape of `t`.
        """
        ahead = Horizon.of(self.horizon).target(t) - t
        if self.most is not None:
            ahead = np.minimum(ahead, self.most)
        if self.shrink:
            left = first / t if end is None else np.maximum(1 - t / end, 0)
            ahead = np.floor(ahead * left + 0.5)
        if end is not None:
            ahead = np.clip(ahead, 0, np.maximum(end - t, 0))
        target = np.asarray(t + ahead).astype(np.int64)
        return target if target.ndim else int(target)

    def __str__(self) -> str:
        most = f", at most {self.most} step{'s' * (self.most > 1)}" if self.most else ""
        return f"{self.horizon}{most}{', shrinking' if self.shrink else ''}"


def whole(what: str, value: object) -> int:
    """A number of steps that a user gave.

    Raises
    ------
    UsageError
        If it is not a whole number from 1 to `LATEST`.
    """
    if isinstance(value, Integral) and not isinstance(value, bool):
        number = int(value)
        if 1 <= number <= LATEST:
            return number
    raise UsageError(f"{what} is a whole number from 1 to {LATEST}: got {value!r:.60}")
