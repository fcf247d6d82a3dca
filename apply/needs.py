"""What a jump needs to have seen, as plain data: steps, and from when to when each is held.

::

    step        0 ........ 0.4t ........ t-800 . . . . . . . . t
    snapshots   held ------------------------------------------|   read by the jump, dropped
                           held -------------------------------|
    sums                                 held (+ + + + + + + +)|
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from weightcast.store import UsageError
from weightcast.store.columns import NOW, Past
from weightcast.store.context import Context
from weightcast.store.windows import Window

Key = int | tuple[int, Window]  # a snapshot's step; or a jump point and one of its windows
Life = tuple[int, int]  # from which step on it is held, and the step at which it is dropped
SEARCHED = 10_000
MOST_BACK = 1 << 62


def past_steps(context: Context, t: int) -> dict[Past, int]:
    """Steps before t of which a jump at t needs a snapshot.

    Examples
    --------
    >>> list(past_steps(Context.of("1,0.4,t-25,slope:50/25"), 100).values())
    [40, 75]
    """
    return {c: int(c.step(t)) for c in _past(context)}


def lives(context: Context, jump_points: Iterable[int]) -> dict[Key, Life]:
    """When what jumps need is held; a snapshot once for all of them.

    Examples
    --------
    >>> plan = lives(Context.of("1,0.5,slope:20/10"), [100, 110])
    >>> plan[50], plan[100, Window(20, 10)], plan[110, Window(20, 10)]
    ((50, 100), (80, 100), (90, 110))
    """
    points = sorted(jump_points)
    steps = np.stack([np.asarray(points), *(p.step(points) for p in _past(context))], axis=-1)
    found: dict[Key, Life] = {}
    for t, *past in steps.tolist():
        for step in past:
            found[step] = (step, t)
        for window in context.windows:
            found[t, window] = (t - window.steps, t)
    return found


def sees_any_of(context: Context, t: int, low: int, high: int) -> bool:
    """Whether a jump at t looks back at a step from `low` on and before `high`.

    Examples
    --------
    >>> context = Context.of("1,0.5,0")
    >>> sees_any_of(context, 100, 40, 51), sees_any_of(context, 90, 46, 60)
    (True, False)
    """
    steps = context.steps(t)
    return bool(((steps >= low) & (steps < high)).any())


def require_context(context: Context, t: int) -> None:
    """Check that there is a whole context at step t.

    Raises
    ------
    UsageError
        If not; the message has the next step that has one.

    Examples
    --------
    >>> require_context(Context.of("slope:800/25"), 700)
    Traceback (most recent call last):
    weightcast.store.errors.UsageError: step 700 is too early to jump: ...
    """
    if t < 1 or not has_context(context, t):
        raise UsageError(
            f"step {t} is too early to jump: the steps of its context {context} must be distinct "
            f"and from 0 on; the earliest jump point is {earliest(context, t)}"
        )


def earliest(context: Context, t: int) -> int:
    """The first step from t on that has a whole context.

    Examples
    --------
    >>> earliest(Context.of((1, 0.7, 0.4, 0)), 0), earliest(Context.of("slope:800/25"), 700)
    (3, 800)
    """
    low = min(max(t, context.reach, 1), MOST_BACK)
    candidates = np.arange(low, low + SEARCHED)
    found = candidates[has_context(context, candidates)]
    if len(found):
        return int(found[0])
    # where fractions of t are a whole step apart, so are the steps nearest to them
    fractions = [p.fraction for p in context.points if not p.back]
    apart = max(1 / (a - b) for a, b in itertools.pairwise(fractions))
    return max(low, math.ceil(min(apart, MOST_BACK)))


def has_context(context: Context, t: Any) -> Any:
    """Whether the steps of the context are distinct and from 0 on.

    Parameters
    ----------
    context : Context
    t : int, or int64 array

    Returns
    -------
    bool, or bool array of the shape of `t`

    Examples
    --------
    >>> has_context(Context.of("1,0.5,0,t-3"), np.arange(5)).tolist()
    [False, False, False, True, True]
    """
    found = np.asarray(t) >= max(context.reach, 1)  # values so many steps back are distinct
    fractions = [p.step(t) for p in context.points if not p.back]
    for later, earlier in itertools.pairwise(fractions):
        found = found & (later > earlier)
    return found


def _past(context: Context) -> list[Past]:
    """Values before t that are entries."""
    return [c for c in context.columns if isinstance(c, Past) and c != NOW]
