r"""The guard of a jump: a probation. Its rule; its arithmetic is in `verdict`.

::

    loss  |\
          | \_                    * * jump: at first it is worse
          |   \__              *      * *
          |      \___ trend   *           * * judged: the mean of these, beside the trend there
          |          \______ *. . . . . . . .*.*.*.*.
          +---------|--------|---------------|-------|
               t - window    t                       t + steps

A jump that is judged right away is always found bad (DESIGN.md, section 7), so the run goes on for
some steps. What the loss was heading to is a power law of the step, fitted to means of the losses
before the jump; what it leaves of them tells how far off chance alone may be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Integral, Real

from weightcast.apply.plan import JumpPlan
from weightcast.apply.verdict import FEWEST
from weightcast.store import UsageError

STEPS = 200  # of probation, unless jumps follow one another faster
PROBES = 4  # of a callable, in as many steps as the probation has


@dataclass(frozen=True)
class Guard:
    """When a jump is rolled back.

    Parameters
    ----------
    steps : int, optional
        Steps of probation after a jump. By default 200, or half of the fewest steps between two
        jumps if that is less.
    window : int, optional
        Steps before the jump that the trend is fitted to; twice `steps` by default.
    tolerance : float
        How far above the trend the loss may be, in standard errors: a jump that does nothing is
        rolled back by mistake with the chance that a normal number exceeds it, 2 % at 2. 0 rolls
        back whatever chance has put above the trend, ``inf`` only what explodes.
    explosion : float
        A loss so many times the highest that the run has had is rolled back at once, as is one that
        is NaN or infinite. A jump to weights so many times as large as before, in root mean square,
        is refused.
    probe : callable, optional
        A loss to judge by, such as one of validation data: called without arguments, gives a
        number. By default the run's own training loss: the mean of all that ``backward`` is called
        on in a step; where the process trains other models too, give a probe.
    every : int, optional
        Steps between two calls of `probe`; by default a quarter of `steps`, or as few as it takes
        for eight calls between a probation and the next jump.
    summed : bool
        Of several losses in a step take the sum, not the mean: for a loop that divides each by how
        many there are, and in a last step of an epoch by fewer.

    Raises
    ------
    UsageError
        If an option breaks its rule.

    Notes
    -----
    A probe is called without gradients, in the steps of probations and of the windows before jumps
    only, and torch's random numbers are afterwards what they were. The mode of the model is the
    probe's to set, and to set back: ``model.eval()``, ``model.train()``. What it raises ends the
    run.

    Examples
    --------
    >>> Guard(steps=100).settled(None)
    Guard(steps=100, window=200, tolerance=2.0, explosion=10.0, probe=None, every=None, \
summed=False)
    """

    steps: int | None = None
    window: int | None = None
    tolerance: float = 2.0
    explosion: float = 10.0
    probe: Callable[[], float] | None = None
    every: int | None = None
    summed: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "window", "every"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, Integral) and int(value) >= 1):
                raise UsageError(f"a guard's {name} are steps, from 1 on: got {value!r}")
        numbers = isinstance(self.tolerance, Real) and isinstance(self.explosion, Real)
        if not (numbers and self.tolerance >= 0 and self.explosion > 1):
            raise UsageError(
                "a guard's tolerance is a number from 0 on, and its explosion one above 1: got "
                f"{self.tolerance!r} and {self.explosion!r}"
            )
        if self.probe is not None and not callable(self.probe):
            raise UsageError(f"a guard's probe is a function that gives a loss: got {self.probe!r}")
        if self.every is not None and self.probe is None:
            raise UsageError("a guard's every is between calls of its probe: give a probe too")

    def settled(self, plan: JumpPlan | None) -> Guard:
        """The guard with all steps given, fit for a plan.

        Raises
        ------
        UsageError
            If a jump would come within the probation of another, or before there are enough losses.
        """
        gap = plan.gap if plan is not None else None
        steps = self.steps or min(STEPS, STEPS if gap is None else max(gap // 2, 1))
        every = None
        if self.probe is not None:
            room = steps * FEWEST if plan is None else _room(plan, steps)
            every = self.every or max(min(steps // PROBES, room // FEWEST), 1)
        window = self.window or max(2 * steps, FEWEST * (every or 1))
        if every is not None and every > steps:
            raise UsageError(
                f"a guard's probe must be called in the {steps} steps of probation: got one call "
                f"every {every}"
            )
        if plan is not None:
            _require_room(plan, steps, window, every or 1)
        return replace(self, steps=steps, window=window, every=every)


def _room(plan: JumpPlan, steps: int) -> int:
    """Fewest steps before a jump, since the start or the last probation."""
    first, gap = plan.points[0], plan.gap
    return first if gap is None else min(first, gap - steps)


def _require_room(plan: JumpPlan, steps: int, window: int, every: int) -> None:
    """Check that there are enough losses before each jump, and none within a probation."""
    first, gap = plan.points[0], plan.gap
    if gap is not None and gap <= steps:
        raise UsageError(
            f"a jump must not come within the probation of another: {steps} steps, and two jumps "
            f"are {gap} apart: give the guard fewer steps, or jump less often"
        )
    free = min(window, _room(plan, steps))
    if free < FEWEST * every:
        raise UsageError(
            f"a guard needs {FEWEST} losses before a jump, and there are {free // every} in the "
            f"{free} steps of its window, before the first jump at {first} and since the last "
            "probation: jump later or less often, widen the window, or go without a guard "
            "(guard=None, --no-guard)"
        )
