"""The straight line through the recent dense window: the cheapest good forecaster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from weightcast.predictor.polynomials import PolynomialFit
from weightcast.predictor.times import Reading
from weightcast.store import UsageError
from weightcast.store.columns import Entry, Past, Statistic, points_of
from weightcast.store.context import Context
from weightcast.store.windows import Window

_USUAL = Window(800, 25)


class Line(PolynomialFit):
    """Least-squares line through the last `window` steps, read off some steps ahead.

    It needs no training. In a live run it needs no snapshots either: it sees the window's mean and
    slope, which running sums keep.

    Parameters
    ----------
    window, stride : int
        Steps of the window, of which every `stride`-th is seen.
    context : tuple of float and str, optional
        By default ``mean:800/25,slope:800/25,ahead``, of the `window` and `stride` given. Of a
        context with mean and slope of other windows only, the longest is used; without, the line
        is that through its past values, such as ``last:33/25``. Where ``ahead`` is an entry, each
        weight is read off so many steps ahead.
    horizon : float, str, or tuple of them
        Steps ahead such as ``+500``; unused where the context has ``ahead``.

    Raises
    ------
    UsageError
        By `fit` and `ready`, if the horizon is a ratio and the context has neither ``ahead`` nor
        ``step``; if a context is given that has neither mean and slope of a window nor values some
        steps back; or if it lacks a `window` and `stride` that are given too.

    Notes
    -----
    With mean m and rise s over the window of S steps, the line is m in the middle of it, and
    m + s (1/2 + ahead / S) at the target.

    Examples
    --------
    >>> Line().ready().forecast([torch.tensor([2.0]), torch.tensor([0.8]), 400])
    tensor([2.8000])
    >>> Line(context="last:33/25").ready().context_[:3]
    (1.0, 't-25', 't-50')
    """

    degree = 1

    def __init__(
        self,
        window: int = _USUAL.steps,
        stride: int = _USUAL.stride,
        context: tuple[Entry, ...] | None = None,
        horizon: Any = "+500",
    ) -> None:
        self.window = window
        self.stride = stride
        super().__init__(context, horizon)

    def check_options(self) -> None:
        """Check the options; see `Forecaster.check_options`."""
        super().check_options()
        Window(self.window, self.stride)

    def usual(self, width: int | None = None) -> tuple[Entry, ...]:
        """Mean, slope and ``ahead`` for three columns, and else values at equal strides back."""
        window = Window(self.window, self.stride)
        if width in (None, 3):
            return (f"mean:{window}", f"slope:{window}", "ahead")
        return Context.of(f"last:{width}/{self.stride}").entries

    def settled(self, width: int) -> tuple[Entry, ...]:
        """The context for that many columns; see `Forecaster.settled`."""
        if self.context is not None and len(Context.of(self.context).columns) == width:
            self._check(Context.of(self.context))
        return super().settled(width)

    def _check(self, context: Context) -> None:
        """Check a context that was given."""
        seen, mine = self._seen(context), Window(self.window, self.stride)
        if mine not in (_USUAL, seen):
            raise UsageError(
                f"line of the window {mine} needs mean:{mine},slope:{mine} in its context: got "
                f"context {context}: add them, or leave out window and stride"
            )
        if seen is None and not any(isinstance(c, Past) and c.back for c in context.columns):
            raise UsageError(
                "line needs a recent window: mean:800/25,slope:800/25, or last:33/25; for "
                f"fractions of t use linear-fit: got context {context}"
            )

    def _seen(self, context: Context) -> Window | None:
        """The window whose mean and slope are read: that of the options, or else the longest."""
        columns, mine = set(context.columns), Window(self.window, self.stride)
        seen = [
            w for w in context.windows if {Statistic("mean", w), Statistic("slope", w)} <= columns
        ]
        return mine if mine in seen else max(seen, key=lambda w: w.steps, default=None)

    def _reading(self, context: Context) -> Reading:
        if window := self._seen(context):
            return Reading.of(points_of(window), context.facts, self.horizons)
        return super()._reading(context)

    def _coefficients(self, facts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        window = self._seen(self.sees)
        if window is None:
            return super()._coefficients(facts)
        mean, slope = (
            self.sees.columns.index(Statistic(kind, window)) for kind in ("mean", "slope")
        )
        ahead = self._reading(self.sees).at(facts)
        found = ahead.new_zeros(self.n_features_in_, len(ahead))
        found[mean] = 1
        found[slope] = 0.5 + ahead / window.steps
        return found
