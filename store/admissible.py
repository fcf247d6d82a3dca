"""Which steps t of a history can give a whole sample: a context and a target, all recorded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from weightcast.store.columns import Past
from weightcast.store.context import Context
from weightcast.store.errors import SamplingError
from weightcast.store.horizon import Horizon
from weightcast.store.recipe import Recipe

Int = npt.NDArray[np.int64]
PER_OCTAVE = 32  # steps t of the distribution "log"
_AT_ONCE = 1 << 17  # steps that are looked up at once


@dataclass(frozen=True)
class Choices:
    """What a weight's samples are drawn from: M pairs of a step t and a horizon.

    Attributes
    ----------
    steps : int64 array, shape (T,)
        The recorded steps.
    context : Context
    row, target_row : int64 arrays, shape (M,)
        Rows of the history of t, and of the target.
    horizon : int8 array, shape (M,)
        Index into the recipe's horizons.

    Examples
    --------
    >>> choices = admissible(np.arange(0, 101, 10), Recipe(1, horizon=(2, "+20"), tolerance=0.2))
    >>> choices.t.tolist(), choices.target.tolist(), choices.horizon.tolist()
    ([30, 40, 50, 30, 40, 50, 60, 70, 80], [60, 80, 100, 50, 60, 70, 80, 90, 100], \
[0, 0, 0, 1, 1, 1, 1, 1, 1])
    >>> choices.rows([0, 8]).tolist()
    [[3, 2, 1, 0, 6], [8, 6, 3, 0, 10]]
    """

    steps: Int
    context: Context
    row: Int
    target_row: Int
    horizon: npt.NDArray[np.int8]

    def __len__(self) -> int:
        """How many there are, M."""
        return len(self.row)

    @property
    def t(self) -> Int:
        """Steps t, int64, shape (M,)."""
        return self.steps[self.row]

    @property
    def target(self) -> Int:
        """Recorded steps of the targets, int64, shape (M,)."""
        return self.steps[self.target_row]

    def rows(self, which: Any = slice(None)) -> npt.NDArray[np.int32]:
        """Rows of the history of some choices: of all `context.points`, then the target's.

        They are looked up here, and not kept: a window may have very many.

        Parameters
        ----------
        which : int array, shape (n,), or slice

        Returns
        -------
        int32 array, shape (n, R + 1)
        """
        t, points = self.t[which], len(self.context.points)
        rows = np.empty((len(t), points + 1), np.int32)
        for part in _parts(len(t), points):
            rows[part, :-1] = nearest(self.steps, self.context.steps(t[part]))
        rows[:, -1] = self.target_row[which]
        return rows

    def used(self) -> Int:
        """All rows of the history that a sample may need, its first one among them; sorted."""
        seen = np.zeros(len(self.steps), bool)
        seen[0] = True  # w(0), which the variation is measured from
        for part in _parts(len(self), len(self.context.points)):
            seen[self.rows(part)] = True
        return np.flatnonzero(seen)


def admissible(steps: Int, recipe: Recipe) -> Choices:
    """Steps t at which a history can give a whole sample, for each of the recipe's horizons.

    Parameters
    ----------
    steps : int64 array, shape (T,)
        The recorded steps.
    recipe : Recipe

    Returns
    -------
    Choices
        Recorded steps whose context and target are recorded too: those of one horizon after those
        of another. Rows fall strictly within each of `context.series`, and the target's is later.

    Raises
    ------
    SamplingError
        If there is none for a horizon; the message says what the history would need.

    Examples
    --------
    >>> choices = admissible(np.arange(0, 101, 10), Recipe(samples=1, tolerance=0.2))
    >>> choices.t.tolist(), choices.rows()[-1].tolist()
    ([30, 40, 50], [5, 3, 2, 0, 10])
    """
    context = recipe.sees
    seen = _whole(steps, context, recipe)
    found = [_ahead(steps, seen, horizon, recipe) for horizon in recipe.horizons]
    row, target = (np.concatenate([pair[i] for pair in found]) for i in range(2))
    index = np.repeat(np.arange(len(found), dtype=np.int8), [len(pair[0]) for pair in found])
    return Choices(steps, context, row, target, index)


def near(
    steps: Int, context: Context, t: Any, tolerance: float
) -> tuple[Int, npt.NDArray[np.bool_]]:
    """Recorded steps nearest to a context's points.

    Parameters
    ----------
    steps : int64 array, shape (T,)
    context : Context
    t : int or int array, shape (M,)
    tolerance : float
        A point counts if a recorded step is within this fraction: of t for a fraction of t, of
        `context.reach` for one some steps back; and that must not be before the first step.

    Returns
    -------
    rows : int64 array, shape (R,) or (M, R)
        For each of `context.points`.
    good : bool array of the same shape
    """
    wanted = context.steps(t)
    rows = nearest(steps, wanted)
    back = np.array([p.back > 0 for p in context.points])
    within = tolerance * np.where(back, context.reach, np.asarray(t)[..., None])
    good = np.abs(steps[rows] - wanted) <= within
    return rows, good & ~(back & (wanted < steps[0]))


def nearest(steps: Int, wanted: npt.NDArray[np.int64 | np.float64]) -> Int:
    """Indices of the nearest steps; of two equally near ones the earlier."""
    above = np.searchsorted(steps, wanted).clip(0, len(steps) - 1)
    below = (above - 1).clip(0)
    nearer = np.abs(steps[below] - wanted) <= np.abs(steps[above] - wanted)
    return np.where(nearer, below, above)


def _whole(steps: Int, context: Context, recipe: Recipe) -> Int:
    """Rows of the steps t, in their bounds, whose contexts are recorded."""
    low = max(1, recipe.t_min or 1)  # the ratio of a target to step 0 would be infinite
    high = np.inf if recipe.t_max is None else recipe.t_max
    within = np.flatnonzero((steps >= low) & (steps <= high))
    place = {point: i for i, point in enumerate(context.points)}
    series = [[place[point] for point in points] for points in context.series]
    found = [within[:0]]
    for part in _parts(len(within), len(context.points)):
        rows, good = near(steps, context, steps[within[part]], recipe.tolerance)
        whole = good.all(axis=1)
        for places in series:
            whole &= (np.diff(rows[:, places], axis=1) < 0).all(axis=1)
        found.append(within[part][whole])
    return np.concatenate(found)


def _ahead(steps: Int, seen: Int, horizon: Horizon, recipe: Recipe) -> tuple[Int, Int]:
    """Of rows whose contexts are recorded: those whose target is too, and the target's rows."""
    if not len(seen):
        raise SamplingError(_why_none(steps, recipe, horizon))
    t = steps[seen]
    wanted = horizon.target(t)
    target = nearest(steps, wanted)
    within = recipe.tolerance * (horizon.steps or t)
    ok = (np.abs(steps[target] - wanted) <= within) & (target > seen)
    if not ok.any():
        raise SamplingError(_why_none(steps, recipe, horizon))
    seen, target = seen[ok], target[ok]
    if recipe.t_distribution == "log":
        kept = _log_spaced(steps[seen])
        seen, target = seen[kept], target[kept]
    return seen, target


def _log_spaced(t: Int) -> Int:
    """Indices of the steps nearest to a geometric grid, without repetition."""
    octaves = np.log2(t[-1] / t[0])
    grid = np.geomspace(t[0], t[-1], int(np.ceil(PER_OCTAVE * octaves)) + 1)
    return np.unique(nearest(t, grid))


def _parts(count: int, points: int) -> Iterator[slice]:
    """Ranges of so many steps t that few enough points are looked up at once."""
    width = max(_AT_ONCE // points, 1)
    for low in range(0, count, width):
        yield slice(low, low + width)


def _why_none(steps: Int, recipe: Recipe, horizon: Horizon) -> str:
    if not len(steps):
        return "the history has no committed steps: record more steps"
    context = recipe.sees
    rule = f"a sample needs {_needs(context)} and {horizon}, all recorded and distinct"
    span = f"{len(steps)} recorded steps from {steps[0]} to {steps[-1]} give none"
    bounds = [f"{n} {b}" for n in ("t_min", "t_max") if (b := getattr(recipe, n)) is not None]
    within = " and ".join([*bounds, f"tolerance {recipe.tolerance:g}"])
    windows = ", ".join(dict.fromkeys(f"every {w.stride} steps" for w in context.windows))
    return (
        f"the history is too short or too sparse: {rule}; {span} within {within}: record more "
        + (f"steps ({windows}, for its windows, or take shorter ones)" if windows else "steps")
        + ", lower the horizon, or widen the bounds and the tolerance"
    )


def _needs(context: Context) -> str:
    """The steps of a context, in words."""
    points = [c for c in context.columns if isinstance(c, Past)]
    words = [f"t-{p.back}" if p.back else f"{p.fraction:g}t" for p in points]
    if len(words) > 6:
        words[3:-1] = ["..."]
    words += [f"every {w.stride} steps from t-{w.steps} to t" for w in context.windows]
    return f"the steps {', '.join(words or ['t'])}"
