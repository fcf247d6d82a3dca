"""The contract of a forecaster: a scikit-learn regressor with a torch forecast."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from weightcast.store import ShapeError
from weightcast.store.recipe import PAPER_CONTEXT, check_context

# Weights forecast at once. On a CPU, 40 hidden units x 4096 x 4 bytes stay in a core's cache; on
# other devices a block bounds the memory, at 40 x 1 M x 4 bytes.
BLOCK = 4096
DEVICE_BLOCK = 1 << 20


class Forecaster(RegressorMixin, BaseEstimator):
    """Forecasts one weight's later value from its past values.

    A scikit-learn regressor on X [N, F], one past value a column, and y [N]; and `forecast`, in
    torch, on whole snapshots. Subclasses set `context` and `horizon` in ``__init__`` and implement
    `_learn` and `_kernel`.

    Attributes
    ----------
    context : tuple of float or None
        Fractions of t that the columns are values at. None means the paper's (1, 0.7, 0.4, 0) for
        four columns, and else equal spacing from t to 0.
    horizon : float
        The target is the value at `horizon` times t.
    context_ : tuple of float
        The context that `fit` settled on.
    """

    context: tuple[float, ...] | None
    horizon: float
    context_: tuple[float, ...]
    n_features_in_: int

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike, **options: Any) -> Self:
        """Learn from samples.

        Parameters
        ----------
        X : float array, shape (N, F)
            Past values; memory-mapped arrays are read in place.
        y : float array, shape (N,)
            Later values.
        **options
            Of the forecaster's training: ``progress``, called with (what, done, total), and
            ``rows``, an int array of the samples to learn from, so that part of a memory-mapped
            dataset can be used without copying it.

        Returns
        -------
        Forecaster
            Itself.

        Raises
        ------
        ShapeError
            If `context` does not have F entries.
        UsageError
            If an option breaks its rule.
        ValueError
            If X or y is not finite, or not of these shapes.
        """
        checked: Any = validate_data(self, X, y, dtype=[np.float32, np.float64], y_numeric=True)
        self.check_options()
        self.context_ = self.fractions(self.n_features_in_)
        self._learn(*checked, **options)
        return self

    def predict(self, X: npt.ArrayLike) -> npt.NDArray[Any]:
        """Forecast samples.

        Parameters
        ----------
        X : float array, shape (N, F)

        Returns
        -------
        float array, shape (N,)
        """
        check_is_fitted(self)
        checked: Any = validate_data(self, X, dtype=[np.float32, np.float64], reset=False)
        columns = torch.from_numpy(checked.T.copy())  # [F, N]
        return self.forecast(columns).numpy()

    @torch.no_grad()
    def forecast(self, context: torch.Tensor) -> torch.Tensor:
        """Forecast whole snapshots, on the tensor's own device.

        Parameters
        ----------
        context : Tensor, shape (F, P)
            Past values of P weights: row f at ``context_[f]`` times t.

        Returns
        -------
        Tensor, shape (P,)
            In float64 if `context` is, else in float32.

        Raises
        ------
        ShapeError
            If there are not F rows.
        """
        check_is_fitted(self)
        if context.ndim != 2 or context.shape[0] != self.n_features_in_:
            raise ShapeError(
                f"context must have shape ({self.n_features_in_}, P): got {tuple(context.shape)}"
            )
        if context.dtype != torch.float64:
            context = context.float()
        device = context.device.type
        block = BLOCK if device == "cpu" else DEVICE_BLOCK
        forecast = torch.empty_like(context[0])
        with torch.autocast(device, enabled=False):  # half precision would lose what weights moved
            values = self._kernel(context)
            for rows, out in zip(context.split(block, dim=1), forecast.split(block), strict=True):
                out.copy_(values(rows))
        return forecast

    def ready(self) -> Self:
        """Return the forecaster, fitted: those that need no training fit themselves.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If it has to be trained first.
        """
        check_is_fitted(self)
        return self

    def fractions(self, width: int) -> tuple[float, ...]:
        """The context for that many columns; see the class.

        Raises
        ------
        ShapeError
            If `context` is given and has another length.
        """
        if self.context is not None:
            if len(self.context) != width:
                raise ShapeError(
                    f"X must have one column per context entry: context {self.context}, "
                    f"{width} columns"
                )
            return tuple(self.context)
        if width == len(PAPER_CONTEXT):
            return PAPER_CONTEXT
        return tuple(float(f) for f in np.linspace(1, 0, width))

    @abstractmethod
    def _learn(self, X: npt.NDArray[Any], y: npt.NDArray[Any], **options: Any) -> None:
        """Learn from validated arrays; learned names end in an underscore."""

    @abstractmethod
    def _kernel(self, like: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        """A function [F, n] -> [n], for tensors of the device and dtype of `like`."""

    def check_options(self) -> None:
        """Check the options that ``__init__`` stored.

        Raises
        ------
        UsageError
            If one breaks its rule.
        """
        check_context((1.0,) if self.context is None else tuple(self.context), self.horizon)

    def tensors(self) -> dict[str, torch.Tensor]:
        """What was learned, by name, for a file."""
        return {}

    def load_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take back what `tensors` gave."""
