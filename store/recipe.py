"""What to sample from a history, as plain data; and the arithmetic of contexts and strata.

::

    step        0 ........... 0.4t ........ 0.7t ........ t ................... kt
    a sample    x3            x2            x1            x0  (the context)     y (the target)
"""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import asdict, dataclass, fields
from numbers import Integral
from typing import Any

import numpy as np
import numpy.typing as npt

from weightcast.store.errors import FormatError, SamplingError, UsageError
from weightcast.store.keyed import check_seed

PAPER_CONTEXT = (1.0, 0.7, 0.4, 0.0)  # section 4.1: w(t), w(0.7t), w(0.4t), w(0)
PAPER_HORIZON = 2.0  # section 4.1: the target is w(2t)

Int = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Recipe:
    """How to draw a forecasting dataset; the defaults are the paper's.

    Every weight gets random steps t, without repetition; the candidates are sorted by variation
    |w(t) - w(0)| from the largest on, cut into strata, and each stratum gives its share.

    Parameters
    ----------
    samples : int
        Samples to draw, N.
    context : tuple of float
        Fractions of t whose weights are the inputs, falling.
    horizon : float
        The target is the weight at `horizon` times t.
    edges : tuple of float
        Cuts between strata, as fractions of the sorted candidates, from 0 to 1.
    shares : tuple of float
        Share of the samples that each stratum gives; they sum to 1.
    seed : int
        From 0 to 2**64 - 1.
    tolerance : float
        A context or target step that was not recorded may be replaced by the nearest recorded one
        within `tolerance` times t.
    t_min, t_max : int, optional
        Bounds of t.

    Raises
    ------
    UsageError
        If a value breaks its rule.

    Examples
    --------
    >>> Recipe(samples=800_000).counts()
    [400000, 200000, 200000]
    """

    samples: int
    context: tuple[float, ...] = PAPER_CONTEXT
    horizon: float = PAPER_HORIZON
    edges: tuple[float, ...] = (0.0, 0.5, 0.75, 1.0)
    shares: tuple[float, ...] = (0.5, 0.25, 0.25)
    seed: int = 0
    tolerance: float = 0.01
    t_min: int | None = None
    t_max: int | None = None

    def __post_init__(self) -> None:
        check_seed(self.seed)
        whole = isinstance(self.samples, Integral) and self.samples >= 1
        _require(whole, "samples must be a whole number from 1 on", self.samples)
        for name in ("t_min", "t_max"):
            bound = getattr(self, name)
            _require(bound is None or isinstance(bound, Integral), f"{name} must be a step", bound)
        if self.t_min is not None and self.t_max is not None:
            ordered = self.t_min <= self.t_max
            _require(ordered, "t_min must not be above t_max", (self.t_min, self.t_max))
        check_context(self.context, self.horizon)
        _require(0 <= self.tolerance < 1, "tolerance must be from 0 to 1", self.tolerance)
        rising = all(a < b for a, b in zip(self.edges, self.edges[1:], strict=False))
        from_0_to_1 = len(self.edges) >= 2 and self.edges[0] == 0 and self.edges[-1] == 1
        _require(rising and from_0_to_1, "edges must rise from 0 to 1", self.edges)
        fitting = len(self.shares) == len(self.edges) - 1 and min(self.shares) >= 0
        _require(
            fitting and math.isclose(sum(self.shares), 1),
            f"shares must be {len(self.edges) - 1} numbers that sum to 1",
            self.shares,
        )

    def counts(self) -> list[int]:
        """Samples of each stratum: shares of `samples`, largest remainders rounded up."""
        exact = [share * self.samples for share in self.shares]
        counts = [math.floor(x) for x in exact]
        by_remainder = sorted(range(len(exact)), key=lambda i: (counts[i] - exact[i], i))
        for i in by_remainder[: self.samples - sum(counts)]:
            counts[i] += 1
        return counts

    def cuts(self, candidates: int) -> list[int]:
        """Ranks at which the strata of that many sorted candidates begin and end."""
        return [round(edge * candidates) for edge in self.edges]

    def to_json(self) -> dict[str, Any]:
        """Plain data, for a dataset's attributes."""
        document: dict[str, Any] = json.loads(json.dumps(asdict(self), default=np.generic.item))
        return document

    @classmethod
    def from_json(cls, document: Any, path: object) -> Recipe:
        """Read a recipe from a dataset's attributes; `path` is for the messages only."""
        try:
            values = {f.name: document[f.name] for f in fields(cls)}
            for name in ("context", "edges", "shares"):
                values[name] = tuple(float(v) for v in values[name])
            return cls(**values)
        except (LookupError, TypeError, ValueError, ArithmeticError) as error:
            raise FormatError(f"{path} is damaged, its recipe: {error}") from error


def check_context(context: tuple[float, ...], horizon: float = PAPER_HORIZON) -> None:
    """Check that a context falls from at most 1 to at least 0, and the horizon lies ahead of it."""
    falling = all(a > b for a, b in itertools.pairwise(context))
    ok = len(context) >= 1 and falling and context[0] == 1 and context[-1] >= 0
    _require(ok, "context must be fractions of t that fall from 1 and stay above 0", context)
    _require(math.isfinite(horizon) and horizon > 1, "horizon must be greater than 1", horizon)


def context_steps(t: Any, fractions: tuple[float, ...]) -> Any:
    """Steps at the given fractions of t, to the nearest whole step.

    Parameters
    ----------
    t : int or int array, shape (M,)
    fractions : tuple of float, length F
        May include the horizon ratio.

    Returns
    -------
    int64 array, shape (F,) or (M, F)

    Examples
    --------
    >>> context_steps(90, (1.0, 0.7, 0.4, 0.0)).tolist()
    [90, 63, 36, 0]
    """
    exact = np.multiply.outer(np.asarray(t, dtype=np.float64), np.asarray(fractions))
    return np.floor(exact + 0.5).astype(np.int64)


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
    return t[ok], rows[ok]


def _nearest(steps: Int, wanted: Int) -> Int:
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


def _require(holds: bool, rule: str, value: object) -> None:
    if not holds:
        raise UsageError(f"{rule}: got {value}")
