"""Forecasters that need no training: what every learned one is measured against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from weightcast.predictor.forecaster import Forecaster
from weightcast.store.recipe import PAPER_CONTEXT, PAPER_HORIZON


class Untrained(Forecaster):
    """A forecaster that learns nothing: `fit` only settles its context.

    Parameters
    ----------
    context : tuple of float, optional
        See `Forecaster`.
    horizon : float
        See `Forecaster`.
    """

    def __init__(
        self, context: tuple[float, ...] | None = None, horizon: float = PAPER_HORIZON
    ) -> None:
        self.context = context
        self.horizon = horizon

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = True  # it does not learn from y
        return tags

    def ready(self) -> Self:
        """Return the forecaster, fitted."""
        if hasattr(self, "context_"):
            return self
        width = len(PAPER_CONTEXT if self.context is None else self.context)
        return self.fit(np.zeros((1, width)), np.zeros(1))

    def _learn(self, X: npt.NDArray[Any], y: npt.NDArray[Any], **options: Any) -> None:
        pass


class LastValue(Untrained):
    """Forecasts that a weight stays what it is: the error to beat.

    Parameters
    ----------
    context : tuple of float, optional
        See `Forecaster`.
    horizon : float
        See `Forecaster`.

    Examples
    --------
    >>> LastValue().fit([[3.0, 2.0, 1.0, 0.0]], [4.0]).predict([[3.0, 2.0, 1.0, 0.0]])
    array([3.], dtype=float32)
    """

    def _kernel(self, like: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda context: context[0]


class LinearFit(Untrained):
    """Least-squares line through a weight's context, read off at the horizon.

    Parameters
    ----------
    context : tuple of float, optional
        See `Forecaster`.
    horizon : float
        See `Forecaster`.

    Notes
    -----
    Section 4.4.2 of Sinha et al. 2017. The line's value at the horizon is a fixed combination of
    the context: with fractions f of mean m, sum over i of
    (1/F + (k - m)(f_i - m) / sum_j (f_j - m)^2) w_i.

    Examples
    --------
    >>> line = LinearFit(context=(1.0, 0.5, 0.0)).fit([[2.0, 1.0, 0.0]], [4.0])
    >>> line.predict([[2.0, 1.0, 0.0]]).round(6)
    array([4.], dtype=float32)
    """

    def _kernel(self, like: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        fractions = np.asarray(self.context_)
        centred = fractions - fractions.mean()
        slope = centred / max(float(centred @ centred), np.finfo(np.float64).tiny)
        combination = 1 / len(fractions) + (self.horizon - fractions.mean()) * slope
        row = like.new_tensor(combination)
        return lambda context: row @ context  # [F] @ [F, n]
