"""When a run jumps, and how far: plain data, known before the first step.

::

    schedule    every:1000                  1000    2000    3000   ...
    reach       1.5t, at most 2000 steps    1500    3000    4500   ...   never beyond the end
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace

from weightcast.apply.jumping import TELLING, horizon_of
from weightcast.apply.needs import earliest
from weightcast.apply.points import (
    MOST_JUMPS,
    named_points,
    parse_jump_points,
    scheduled_points,
)
from weightcast.apply.reach import Reach, whole
from weightcast.predictor import Forecaster
from weightcast.recorder.schedule import Schedule, Steps
from weightcast.store import UsageError

__all__ = ["MOST_JUMPS", "JumpPlan", "Reach", "parse_jump_points", "plan_jumps"]

_NAMED = 4  # jumps that are printed one by one


@dataclass(frozen=True)
class JumpPlan:
    """The jumps of a run.

    Parameters
    ----------
    targets : dict of int to int
        For each jump point the step whose weights are forecast, in order.
    reach : Reach
    end : int or None
        Last step of training, if it is known.

    Examples
    --------
    >>> print(JumpPlan({1000: 1500, 2000: 3000}, Reach(1.5), None))
    2 jumps: 1000 to 1500, 2000 to 3000 (1.5t)
    """

    targets: dict[int, int]
    reach: Reach
    end: int | None = None

    @property
    def points(self) -> list[int]:
        """The jump points, in order."""
        return list(self.targets)

    @property
    def gap(self) -> int | None:
        """Fewest steps between two jumps; None if there is only one."""
        return min((b - a for a, b in itertools.pairwise(self.points)), default=None)

    def judged(self, steps: int) -> JumpPlan:
        """The jumps that a probation of so many steps can follow before training ends.

        Raises
        ------
        UsageError
            If there is none.

        Examples
        --------
        >>> JumpPlan({1000: 1500, 1900: 2000}, Reach(1.5), end=2000).judged(200).points
        [1000]
        """
        if self.end is None:
            return self
        kept = {t: target for t, target in self.targets.items() if t + steps <= self.end}
        if not kept:
            raise UsageError(
                f"no jump can be judged before training ends at {self.end}: the first is at "
                f"{self.points[0]}, and its probation takes {steps} steps: jump earlier, give the "
                "guard fewer steps, or go without one (guard=None, --no-guard)"
            )
        return replace(self, targets=kept)

    def __str__(self) -> str:
        points, count = self.points, len(self.targets)
        shown = points if count <= _NAMED + 1 else [*points[:_NAMED], points[-1]]
        pairs = [f"{t} to {self.targets[t]}" for t in shown]
        if len(shown) < count:
            pairs.insert(_NAMED, "...")
        end = f", training ends at {self.end}" if self.end is not None else ""
        if count == MOST_JUMPS and self.end is None:  # of a schedule without an end
            return f"jumps: {', '.join(pairs[:-1])} ({self.reach})"
        return f"{count:,} jump{'s'[: count > 1]}: {', '.join(pairs)} ({self.reach}{end})"


def plan_jumps(
    forecaster: Forecaster,
    jump_points: Iterable[int] | Schedule | str,
    *,
    horizon: object = None,
    end: int | None = None,
) -> JumpPlan:
    """Settle the jumps of a run, or say why they cannot be.

    Parameters
    ----------
    forecaster : Forecaster
        Fitted, or one that needs no training.
    jump_points : iterable of int, Schedule or str
        Steps, or a schedule such as ``"every:1000"`` or ``"geometric:500x2"``. Of a schedule, steps
        before there is a context are left out, and so are jumps that would pass the end; of steps
        named one by one, these are errors.
    horizon : float, str or Reach, optional
        By default the forecaster's own single horizon.
    end : int, optional
        Last step of training, which no jump passes.

    Returns
    -------
    JumpPlan

    Raises
    ------
    UsageError
        If no jump is left, a jump point has no context or passes the end, the forecaster cannot
        have the horizon, or a schedule has no end where the context needs one.

    Examples
    --------
    >>> from weightcast.predictor import Line
    >>> print(plan_jumps(Line(), "every:1000", horizon=Reach(1.5, most=800), end=4000))
    3 jumps: 1000 to 1500, 2000 to 2800, 3000 to 3800 (1.5t, at most 800 steps, training ends at \
4000)
    """
    forecaster = forecaster.ready()
    end = None if end is None else whole("end, the last step of training,", end)
    reach = _reach(forecaster, horizon)
    if isinstance(jump_points, str):
        jump_points = parse_jump_points(jump_points)
    if isinstance(jump_points, Steps):
        jump_points = jump_points.steps
    if isinstance(jump_points, Iterable):
        points = named_points(forecaster.sees, jump_points)
    else:
        points = scheduled_points(forecaster.sees, jump_points, end)
    # one that is not told how far it looks cannot look less far at the end, nor not at all
    told = _told(forecaster)
    first = int(points[0]) if len(points) else 1
    targets = reach.target(points, first=first, end=end if told else None)
    fits = (targets > points) | (not told)
    if end is not None:
        fits &= (points < end) & (targets <= end)
    if isinstance(jump_points, Iterable) and not fits.all():
        _refuse(int(points[~fits][0]), int(targets[~fits][0]), reach, end)
    if not fits.any():
        before = "" if end is None else f" before the end of training at {end}"
        raise UsageError(
            f"jump_points must have at least one step: {jump_points} leaves none{before}: jumps go "
            f"to {reach}, and the first step with a context is {earliest(forecaster.sees, 1)}"
        )
    pairs = zip(points[fits].tolist(), targets[fits].tolist(), strict=True)
    return JumpPlan(dict(pairs), reach, end)


def _reach(forecaster: Forecaster, horizon: object) -> Reach:
    """The reach that is asked for, if the forecaster can have it."""
    given = horizon if isinstance(horizon, Reach) else None
    own = horizon_of(forecaster, horizon if given is None else given.horizon)
    reach = Reach(own) if given is None else given
    if reach.varies and not _told(forecaster):
        raise UsageError(
            f"a horizon that varies, {reach}, needs a forecaster that is told how far it looks, by "
            f"ahead or ratio in its context: this {type(forecaster).__name__} is for {own} only"
        )
    return reach


def _told(forecaster: Forecaster) -> bool:
    return not forecaster.sees.facts.isdisjoint(TELLING)


def _refuse(t: int, target: int, reach: Reach, end: int | None) -> None:
    """Say why a jump that is named cannot be made."""
    if end is not None and t >= end:
        raise UsageError(f"a jump point must be before the end of training at {end}: got {t}")
    if end is not None and target > end:
        raise UsageError(
            f"no jump passes the end of training at {end}: that at {t} goes to {target} ({reach}): "
            "jump earlier, or take a forecaster that is told how far it looks, by ahead or ratio "
            "in its context"
        )
    raise UsageError(
        f"a jump goes at least 1 step ahead: of {reach} nothing is left at {t}: give a larger "
        "horizon, or leave this jump point out"
    )
