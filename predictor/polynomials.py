"""Polynomials through a weight's past values, read off at the horizon; all in closed form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

from weightcast.predictor.baselines import Untrained
from weightcast.predictor.times import Reading
from weightcast.store import UsageError
from weightcast.store.columns import Entry, Past
from weightcast.store.context import Context

_NOTHING = 1e-28  # a sum of squares of rounding errors, of numbers up to 1


class PolynomialFit(Untrained):
    """Least-squares polynomial through the past values of a context, for each weight alone.

    See `LinearFit` and `QuadraticFit`.
    """

    degree: ClassVar[int]

    def settled(self, width: int) -> tuple[Entry, ...]:
        """The context for that many columns; see `Forecaster.settled`."""
        entries = super().settled(width)
        self._reading(Context.of(entries))
        return entries

    def _reading(self, context: Context) -> Reading:
        points = tuple(c for c in context.columns if isinstance(c, Past))
        if not points:
            raise UsageError(
                f"{type(self).__name__} needs past values of a weight: got context {context}: add "
                "some, such as 1,0.7,0.4,0 or last:33/25"
            )
        return Reading.of(points, context.facts, self.horizons)

    def _needs(self) -> tuple[str, ...]:
        return self._reading(self.sees).needs

    def _coefficients(self, facts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        reading, columns = self._reading(self.sees), self.sees.columns
        weights = combination(reading.positions(facts), reading.at(facts), self.degree)
        found = weights.new_zeros(len(columns), weights.shape[1])
        found[[isinstance(column, Past) for column in columns]] = weights
        return found


class LinearFit(PolynomialFit):
    """Least-squares line through a weight's past values, read off at the horizon.

    Parameters
    ----------
    context : tuple of float and str, optional
        See `Forecaster`. Its past values are fractions of t, for a horizon that is a ratio; or
        values some steps back, for one in steps. Fractions with a horizon in steps, or the other
        way, need ``step`` as an entry too. Other entries are not looked at, except that each weight
        is read off at its own ``ratio`` (for fractions) or ``ahead`` (for steps) where they are
        there: as they must be for several horizons.
    horizon : float, str, or tuple of them
        See `Forecaster`.

    Raises
    ------
    UsageError
        By `fit` and `ready`, if past values and horizon do not go together so.

    Notes
    -----
    Section 4.4.2 of Sinha et al. 2017. The line's value at the horizon is a fixed combination of
    the past values: at positions x of mean m, read off at h, it is the sum over i of
    (1/F + (h - m)(x_i - m) / sum_j (x_j - m)^2) w_i. One past value alone is its own forecast.

    Examples
    --------
    >>> line = LinearFit(context=(1.0, 0.5, 0.0)).fit([[2.0, 1.0, 0.0]], [4.0])
    >>> line.predict([[2.0, 1.0, 0.0]]).round(6)
    array([4.], dtype=float32)
    >>> LinearFit("last:2/100", "+300").ready().forecast([torch.ones(1), torch.zeros(1)])
    tensor([4.])
    """

    degree = 1


class QuadraticFit(PolynomialFit):
    """Least-squares parabola through a weight's past values, read off at the horizon.

    Parameters
    ----------
    context : tuple of float and str, optional
        As for `LinearFit`.
    horizon : float, str, or tuple of them
        As for `LinearFit`.

    Raises
    ------
    UsageError
        As for `LinearFit`.

    Notes
    -----
    Section 4.4.1 of Sinha et al. 2017. Through two past values it is the line, and one is its own
    forecast: the highest degree that the points allow, where least squares has no single answer.

    Examples
    --------
    >>> parabola = QuadraticFit(context=(1.0, 0.5, 0.0)).fit([[4.0, 1.0, 0.0]], [16.0])
    >>> parabola.predict([[4.0, 1.0, 0.0]]).round(5)
    array([16.], dtype=float32)
    """

    degree = 2


def combination(positions: torch.Tensor, at: torch.Tensor, degree: int) -> torch.Tensor:
    """Coefficients of the least-squares polynomial's value, for points that lie at `positions`.

    Parameters
    ----------
    positions : float64 Tensor, shape (F, n) or (F, 1)
    at : float64 Tensor, shape (n,) or (1,)
        Where it is read off.
    degree : int
        The highest that the points allow is taken, up to this one.

    Returns
    -------
    float64 Tensor, shape (F, n) or (F, 1)

    Notes
    -----
    Polynomials that are orthogonal on the points, by their three-term recurrence (Forsythe 1957):
    the fit is the sum of the projections on each, and no equations are solved.

    Examples
    --------
    >>> combination(torch.tensor([[0.0], [1.0]]).double(), torch.tensor([3.0]).double(), 2).tolist()
    [[-2.0], [3.0]]
    """
    centre = positions.mean(0)
    width = (positions - centre).abs().amax(0)
    width = torch.where(width > 0, width, 1)
    x, h = (positions - centre) / width, (at - centre) / width
    now, before = torch.ones_like(x), torch.zeros_like(x)
    now_h, before_h = torch.ones_like(h), torch.zeros_like(h)
    found, last = torch.zeros_like(x * h), torch.ones_like(h)
    for _ in range(degree + 1):
        square = (now * now).sum(0)
        # nothing is left of the polynomial where it has a zero at every point
        there = square > _NOTHING
        square = torch.where(there, square, 1)
        found += torch.where(there, now_h / square, 0) * now
        shift = (x * now * now).sum(0) / square
        pull = torch.where(there, square / last, 0)
        now, before = (x - shift) * now - pull * before, now
        now_h, before_h = (h - shift) * now_h - pull * before_h, now_h
        last = square
    return found
