"""Errors of a forecaster and of the two that it must beat, block by block."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from weightcast.predictor.forecaster import Forecaster
from weightcast.predictor.line import Line
from weightcast.predictor.pairs import Pairs
from weightcast.predictor.polynomials import LinearFit
from weightcast.store import UsageError
from weightcast.store.columns import NOW, Entry, Past, Statistic, printed
from weightcast.store.context import Context
from weightcast.store.facts import TIMES
from weightcast.store.horizon import Horizon, plain
from weightcast.store.windows import Window

_SHOWN = 6
Float = npt.NDArray[np.floating[Any]]


class Judge:
    """Forecasts blocks of weights, and says how far off the forecasts are.

    Parameters
    ----------
    forecaster : Forecaster
        Fitted.
    context : Context
        What is known of the weights; its past values and windows are what the straight line goes
        through.
    horizons : tuple of Horizon
        That are looked ahead to.
    pairs : Pairs, optional
        Is given some of the forecasts.
    total : int
        Forecasts that will be made.

    Attributes
    ----------
    context : Context
        What `errors` has to be given.
    """

    def __init__(
        self,
        forecaster: Forecaster,
        context: Context,
        horizons: tuple[Horizon, ...],
        pairs: Pairs | None = None,
        total: int = 0,
    ) -> None:
        self._forecaster, self._pairs = forecaster, pairs
        self._line = straight_line(context, horizons)
        line = () if self._line is None else self._line.context_
        wanted = {*forecaster.context_, *line, 1.0}
        self.context = Context(tuple(e for e in _with_times(context) if e in wanted))
        self._now = self.context.columns.index(NOW) if NOW in context.columns else None
        if pairs is not None:
            pairs.expect(total)

    def errors(self, seen: Float, truth: Float, now: Float | None = None) -> list[Float | None]:
        """Absolute errors of the forecaster, the last value and the straight line.

        Parameters
        ----------
        seen : float array, shape (F, n)
            A row for each entry of `context`.
        truth : float array, shape (n,)
        now : float array, shape (n,), optional
            The weights at t, where they are not among the rows.

        Returns
        -------
        list of float array, shape (n,), or None
            None for one that these samples cannot be given to.
        """
        if now is None and self._now is not None:
            now = seen[self._now]
        forecast = self._forecast(self._forecaster, seen)
        line = None if self._line is None else self._forecast(self._line, seen)
        if self._pairs is not None:
            self._pairs.add(truth, forecast, now)
        return [None if f is None else np.abs(f - truth) for f in (forecast, now, line)]

    def _forecast(self, forecaster: Forecaster, seen: Float) -> Float:
        places = self.context.places(forecaster.context_)
        return forecaster.forecast([torch.from_numpy(seen[place]) for place in places]).numpy()


def straight_line(context: Context, horizons: tuple[Horizon, ...]) -> Forecaster | None:
    """The straight line that can be laid through a context, or None.

    Through a window whose mean and slope are known, and else through two past values or more: that
    through one would be the last value again. What it needs to know of the time it is told, whether
    that is in the context or not.

    Examples
    --------
    >>> straight_line(Context.of("1,0.5,0"), (Horizon(2.0),))
    LinearFit(context=(1.0, 0.5, 0.0))
    >>> straight_line(Context.of("1,mean:40/10,slope:40/10"), (Horizon(2.0),)).window
    40
    >>> straight_line(Context.of("1,scale"), (Horizon(2.0),)) is None
    True
    """
    horizon = plain(horizons if len(horizons) > 1 else horizons[0])
    if window := _seen(context):
        entries = _with_times(context)
        return Line(window.steps, window.stride, context=entries, horizon=horizon).ready()
    if len(_past(context)) < 2:
        return None
    for entries in (context.entries, _with_times(context)):
        try:
            return LinearFit(context=entries, horizon=horizon).ready()
        except UsageError:
            continue
    return None


def linear_fit_name(context: Context | tuple[Entry, ...] | str) -> str | None:
    """Which line `straight_line` is, in words; None where there is none.

    Parameters
    ----------
    context : Context, or what `Context.of` reads
        That of a dataset, or of the forecaster that is evaluated on a history.

    Examples
    --------
    >>> linear_fit_name("1,0.7,0.4,0,scale")
    'line through 1,0.7,0.4,0'
    >>> linear_fit_name("last:33/25")
    'line through 1,t-25,t-50,...,t-800'
    >>> linear_fit_name("1,mean:800/25,slope:800/25")
    'line through the window 800/25'
    >>> linear_fit_name("1,scale") is None
    True
    """
    read = Context.of(context)
    if window := _seen(read):
        return f"line through the window {window}"
    past = _past(read)
    if len(past) < 2:
        return None
    if len(past) <= _SHOWN:
        return f"line through {printed(past)}"
    return f"line through {printed(past[:3])},...,{printed(past[-1:])}"


def _seen(context: Context) -> Window | None:
    """The first window whose mean and slope are known."""
    for window in context.windows:
        if {Statistic(kind, window) for kind in ("mean", "slope")} <= set(context.columns):
            return window
    return None


def _past(context: Context) -> tuple[Entry, ...]:
    """Entries that are past values."""
    pairs = zip(context.entries, context.columns, strict=True)
    return tuple(entry for entry, column in pairs if isinstance(column, Past))


def _with_times(context: Context) -> tuple[Entry, ...]:
    return tuple(dict.fromkeys((*context.entries, *TIMES)))
