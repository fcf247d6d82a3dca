"""Which steps t of a history can give a whole sample: a context and a target, all recorded."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from weightcast.store.errors import SamplingError
from weightcast.store.recipe import Recipe, context_steps

Int = npt.NDArray[np.int64]
PER_OCTAVE = 32  # steps t of the distribution "log"


def admissible(steps: Int, recipe: Recipe) -> tuple[Int, Int]:
    """Steps t at which a history can give a whole sample.

    Parameters
    ----------
    steps : int64 array, shape (T,)
        The recorded steps.
    recipe : Recipe

    Returns
    -------
    t : int64 array, shape (M,)
        Recorded steps whose context and target are recorded too, all distinct.
    rows : int64 array, shape (M, F + 1)
        Rows of the history: the context's, then the target's.

    Raises
    ------
    SamplingError
        If there is none; the message says what the history would need.

    Examples
    --------
    >>> t, rows = admissible(np.arange(0, 101, 10), Recipe(samples=1, tolerance=0.2))
    >>> t.tolist(), rows[-1].tolist()
    ([30, 40, 50], [5, 3, 2, 0, 10])
    """
    low = 1 if recipe.t_min is None else recipe.t_min
    high = np.inf if recipe.t_max is None else recipe.t_max
    t = steps[(steps >= low) & (steps <= high)]
    wanted = context_steps(t, (*recipe.context, recipe.horizon))  # [M, F + 1]
    rows = _nearest(steps, wanted)
    near = np.abs(steps[rows] - wanted) <= recipe.tolerance * t[:, None]
    falling = np.diff(rows[:, :-1], axis=1) < 0
    ok = near.all(axis=1) & falling.all(axis=1) & (rows[:, -1] > rows[:, 0])
    if not ok.any():
        raise SamplingError(_why_none(steps, recipe))
    t, rows = t[ok], rows[ok]
    if recipe.t_distribution == "log":
        kept = _log_spaced(t)
        t, rows = t[kept], rows[kept]
    return t, rows


def _log_spaced(t: Int) -> Int:
    """Indices of the steps nearest to a geometric grid, without repetition."""
    octaves = np.log2(t[-1] / t[0])
    grid = np.geomspace(t[0], t[-1], int(np.ceil(PER_OCTAVE * octaves)) + 1)
    return np.unique(_nearest(t, grid))


def _nearest(steps: Int, wanted: npt.NDArray[np.int64 | np.float64]) -> Int:
    """Indices of the nearest steps; of two equally near ones the earlier."""
    above = np.searchsorted(steps, wanted).clip(0, len(steps) - 1)
    below = (above - 1).clip(0)
    nearer = np.abs(steps[below] - wanted) <= np.abs(steps[above] - wanted)
    return np.where(nearer, below, above)


def _why_none(steps: Int, recipe: Recipe) -> str:
    if not len(steps):
        return "the history has no committed steps: record more steps"
    rule = (
        f"a sample needs the steps {', '.join(f'{f:g}t' for f in recipe.context)} and "
        f"{recipe.horizon:g}t, all recorded and distinct"
    )
    span = f"{len(steps)} recorded steps from {steps[0]} to {steps[-1]} give none"
    bounds = [f"{n} {b}" for n in ("t_min", "t_max") if (b := getattr(recipe, n)) is not None]
    within = " and ".join([*bounds, f"tolerance {recipe.tolerance:g}"])
    return (
        f"the history is too short or too sparse: {rule}; {span} within {within}: record more "
        "steps, lower the horizon, or widen the bounds and the tolerance"
    )
