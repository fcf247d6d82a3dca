"""What to sample from a history, as plain data; and the arithmetic of contexts and strata.

::

    step        0 ........... 0.4t ........ 0.7t ........ t ................... kt
    a sample    x3            x2            x1            x0  (the context)     y (the target)
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from numbers import Integral, Real
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from weightcast.store.columns import Entry
from weightcast.store.context import PAPER_CONTEXT, Context
from weightcast.store.errors import FormatError, UsageError
from weightcast.store.horizon import Horizon, horizons, plain
from weightcast.store.keyed import check_seed
from weightcast.store.shares import apportion

MOST_SAMPLES = 1 << 48
MOST_STRATA = MOST_HORIZONS = 127  # their columns are int8
PAPER_HORIZON = 2.0  # section 4.1: the target is w(2t)

Int = npt.NDArray[np.int64]
Distribution = Literal["uniform", "log"]
Unit = Literal["weight", "run"]
Shortfall = Literal["error", "fewer"]


@dataclass(frozen=True)
class Recipe:
    """How to draw a forecasting dataset; the defaults are the paper's.

    Every weight gets random steps t, without repetition; the candidates are sorted by variation
    |w(t) - w(0)| from the largest on, cut into strata, and each stratum gives its share.

    Parameters
    ----------
    samples : int
        Samples to draw, N.
    context : tuple of float and str
        What the inputs are; see `Context`.
    horizon : float, str, or tuple of them
        The target is the weight at `horizon` times t, or so many steps after it (``+500``). Of
        several, each sample has one: all pairs of t and horizon are drawn from alike.
    edges : tuple of float
        Cuts between strata, as fractions of the sorted candidates, from 0 to 1.
    shares : tuple of float
        Share of the samples that each stratum gives; they sum to 1.
    seed : int
        From 0 to 2**64 - 1.
    tolerance : float
        A step that was not recorded may be replaced by the nearest recorded one within this
        fraction: of t for a fraction of t or a horizon that is a ratio, of the longest look back
        for values some steps back and windows, of the steps ahead for a horizon in steps.
    t_min, t_max : int, optional
        Bounds of t.
    t_distribution : {"uniform", "log"}
        Random steps t among all that can be drawn; or among 32 an octave of them, so that early
        training counts as much as late.
    draws : int, optional
        Steps t for each weight; by default as few as give the samples.
    include, exclude : tuple of str
        Globs of the parameters to sample from.
    different_models : bool
        Whether the histories may be of models whose parameters differ.
    run_shares : tuple of float
        Share of the samples that each history gives, in any unit; by default all give the same.
        Each history has strata of its own: one whose weights move further does not crowd out the
        others.
    validation : float
        Share of the weights, or of the runs, whose samples are marked for validation.
    validation_by : {"weight", "run"}
        What is on one side only: a weight, the same one in all runs; or a whole run.
    shortfall : {"error", "fewer"}
        What to do where a stratum has fewer candidates than it should give samples.

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
    context: tuple[Entry, ...] = PAPER_CONTEXT
    horizon: Any = PAPER_HORIZON
    edges: tuple[float, ...] = (0.0, 0.5, 0.75, 1.0)
    shares: tuple[float, ...] = (0.5, 0.25, 0.25)
    seed: int = 0
    tolerance: float = 0.01
    t_min: int | None = None
    t_max: int | None = None
    t_distribution: Distribution = "uniform"
    draws: int | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    different_models: bool = False
    run_shares: tuple[float, ...] = ()
    validation: float = 0.0
    validation_by: Unit = "weight"
    shortfall: Shortfall = "error"

    def __post_init__(self) -> None:
        object.__setattr__(self, "context", Context.of(self.context).entries)
        object.__setattr__(self, "horizon", plain(self.horizon))
        for name in _NUMBERS | _GLOBS:
            self._make_tuple(name)
        check_seed(self.seed)
        whole = _is_whole(self.samples) and 1 <= self.samples <= MOST_SAMPLES
        _require(whole, f"samples must be a whole number from 1 to {MOST_SAMPLES}", self.samples)
        for name in ("tolerance", "validation"):
            value = getattr(self, name)
            _require(isinstance(value, Real), f"{name} must be a number", value)
        for name in ("t_min", "t_max"):
            bound = getattr(self, name)
            _require(bound is None or _is_whole(bound), f"{name} must be a step", bound)
        if self.t_min is not None and self.t_max is not None:
            ordered = self.t_min <= self.t_max
            _require(ordered, "t_min must not be above t_max", (self.t_min, self.t_max))
        few = len(self.horizons) <= MOST_HORIZONS
        _require(few, f"there can be {MOST_HORIZONS} horizons at most", len(self.horizons))
        few = len(self.shares) <= MOST_STRATA
        _require(few, f"there can be {MOST_STRATA} strata at most", len(self.shares))
        _require(0 <= self.tolerance < 1, "tolerance must be from 0 to 1", self.tolerance)
        rising = all(a < b for a, b in zip(self.edges, self.edges[1:], strict=False))
        from_0_to_1 = len(self.edges) >= 2 and self.edges[0] == 0 and self.edges[-1] == 1
        _require(rising and from_0_to_1, "edges must rise from 0 to 1", self.edges)
        self._check_choices()
        fitting = len(self.shares) == len(self.edges) - 1 and min(self.shares) >= 0
        _require(
            fitting and math.isclose(sum(self.shares), 1),
            f"shares must be {len(self.edges) - 1} numbers that sum to 1",
            self.shares,
        )

    def _make_tuple(self, name: str) -> None:
        """Accept any sequence, and a single glob."""
        given = getattr(self, name)
        kind, what = (str, "globs of parameter names") if name in _GLOBS else (Real, "numbers")
        values = (given,) if isinstance(given, str) and kind is str else given
        fitting = isinstance(values, Iterable) and not isinstance(values, str)
        values = tuple(values) if fitting else ()
        right = all(isinstance(v, kind) and not isinstance(v, bool) for v in values)
        _require(fitting and right, f"{name} must be {what}", given)
        object.__setattr__(self, name, values)

    def _check_choices(self) -> None:
        for name, kind in _CHOICES.items():
            known, value = get_args(kind), getattr(self, name)
            _require(value in known, f"{name} must be one of {', '.join(known)}", repr(value))
        mixed = self.different_models
        _require(isinstance(mixed, bool), "different_models must be true or false", repr(mixed))
        least = self.draws is None or (_is_whole(self.draws) and self.draws >= 1)
        _require(least, "draws must be a whole number from 1 on", self.draws)
        _require(0 <= self.validation < 1, "validation must be from 0 to below 1", self.validation)
        finite = all(math.isfinite(share) and share >= 0 for share in self.run_shares)
        _require(
            finite and (not self.run_shares or sum(self.run_shares) > 0),
            "run_shares must not be negative, and one at least above 0",
            self.run_shares,
        )

    @cached_property
    def sees(self) -> Context:
        """The context, read."""
        return Context.of(self.context)

    @property
    def horizons(self) -> tuple[Horizon, ...]:
        """The horizon or horizons, read."""
        return horizons(self.horizon)

    def counts(self) -> list[int]:
        """Samples of each stratum: shares of `samples`, largest remainders rounded up."""
        return apportion(self.samples, self.shares)

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
            _require(isinstance(document, dict), "it must be a JSON object", document)
            values = {f.name: document[f.name] for f in fields(cls) if f.name in document}
            # Datasets of format 1 have none of the fields after t_max.
            missing = {f.name for f in fields(cls)} - _SINCE_FORMAT_2 - values.keys()
            _require(not missing, "all fields must be there", f"no {', '.join(sorted(missing))}")
            for name, given in ((name, values[name]) for name in _NUMBERS & values.keys()):
                _require(isinstance(given, list), f"{name} must be numbers", given)
                values[name] = [float(v) if _is_whole(v) else v for v in given]
            seen = values["context"]
            _require(isinstance(seen, list), "context must be a list", seen)
            return cls(**values)
        except (LookupError, TypeError, ValueError, ArithmeticError) as error:
            raise FormatError(f"{path} is damaged, its recipe: {error}") from error


_CHOICES = {"t_distribution": Distribution, "validation_by": Unit, "shortfall": Shortfall}
_NUMBERS = {"edges", "shares", "run_shares"}
_GLOBS = {"include", "exclude"}
_SINCE_FORMAT_2 = {
    *_CHOICES,
    *_GLOBS,
    "draws",
    "different_models",
    "run_shares",
    "validation",
}


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_context(context: tuple[Entry, ...], horizon: object = PAPER_HORIZON) -> None:
    """Check a context and a horizon: `UsageError` if one breaks its rule."""
    Context.of(context)
    horizons(horizon)


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
    return np.floor(exact + 0.5).clip(max=2.0**62).astype(np.int64)


def _require(holds: bool, rule: str, value: object) -> None:
    if not holds:
        raise UsageError(f"{rule}: got {value}")
