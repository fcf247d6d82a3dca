"""Jump points: steps that are named one by one, or those of a schedule."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from numbers import Integral

import numpy as np
import numpy.typing as npt

from weightcast.apply.needs import earliest, has_context, require_context
from weightcast.apply.reach import LATEST, whole
from weightcast.recorder.schedule import Jump, Schedule, Union, parse_schedule
from weightcast.store import UsageError
from weightcast.store.columns import Past
from weightcast.store.context import Context

MOST_JUMPS = 100_000  # of a run
_BATCH = 10_000  # steps of a schedule that are looked at together

Points = npt.NDArray[np.int64]


def parse_jump_points(text: str) -> list[int] | Schedule:
    """Jump points as a command line has them: steps, or a schedule.

    Parameters
    ----------
    text : str

    Returns
    -------
    list of int or Schedule
        What `plan_jumps` takes.

    Raises
    ------
    UsageError
        If it is neither.

    Examples
    --------
    >>> parse_jump_points("3000,4000,5000"), str(parse_jump_points("geometric:500x2"))
    ([3000, 4000, 5000], 'geometric:500x2')
    """
    if ":" in text:
        return parse_schedule(text)
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(
            "jump points are steps with commas between them, or a schedule such as every:1000 or "
            f"geometric:500x2: got {text!r:.80}"
        ) from None


def named_points(context: Context, given: Iterable[object]) -> Points:
    """Jump points that are named one by one, in order; each must have a context."""
    points: set[int] = set()
    for t in given:
        if isinstance(t, Integral) and t < 1:
            require_context(context, int(t))
        points.add(whole("a jump point", t))
        if len(points) > MOST_JUMPS:
            raise UsageError(f"a run jumps at most {MOST_JUMPS} times: got more jump points")
    if not points:
        raise UsageError("jump_points must have at least one step: got none")
    found = np.array(sorted(points))
    for t in found[~has_context(context, found)]:
        require_context(context, int(t))
    return found


def scheduled_points(context: Context, schedule: Schedule, end: int | None) -> Points:
    """Steps of a schedule that have a context, in order, up to the end of training."""
    _require_jump_schedule(schedule)
    endless = schedule.count is None and end is None
    if endless and any(isinstance(c, Past) and 0 < c.fraction < 1 for c in context.columns):
        raise UsageError(
            f"{schedule} has no end, and a context {context} then needs ever more snapshots: give "
            "the last step of training (end=, --end)"
        )
    last, start = end or LATEST, 1
    found: Points = np.empty(0, np.int64)
    while len(found) <= MOST_JUMPS:
        steps = schedule.members(earliest(context, start))
        steps = itertools.takewhile(lambda step: step <= last, steps)
        batch: Points = np.fromiter(itertools.islice(steps, _BATCH), np.int64)
        if not len(batch):
            return found
        found = np.append(found, batch[has_context(context, batch)])
        start = int(batch[-1]) + 1
    if not endless:
        raise UsageError(
            f"a run jumps at most {MOST_JUMPS} times: {schedule} has more steps: jump less often"
        )
    return found[:MOST_JUMPS]


def _require_jump_schedule(schedule: object) -> None:
    parts = schedule.parts if isinstance(schedule, Union) else (schedule,)
    if any(isinstance(part, Jump) for part in parts):
        raise UsageError(
            f"{schedule} is what to record for jumps: give the jump points themselves, such as "
            "3000,4000"
        )
    if not all(hasattr(part, "members") for part in parts):
        raise UsageError(
            "jump_points are steps, or a schedule such as 'every:1000' or 'geometric:500x2': got "
            f"{schedule!r:.80}"
        )
