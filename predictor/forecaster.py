"""The contract of a forecaster: a scikit-learn regressor with a torch forecast."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from weightcast.predictor.rows import BLOCK, Combination, Row, apply, measure
from weightcast.predictor.validating import validated
from weightcast.store import ShapeError, WeightcastError
from weightcast.store.columns import Entry
from weightcast.store.context import PAPER_CONTEXT, Context
from weightcast.store.horizon import Horizon, horizons
from weightcast.store.recipe import check_context

_AT_ONCE = 1 << 18  # samples that predict forecasts


class UnfittedError(WeightcastError, NotFittedError):
    """A forecaster that learns is asked for a forecast before it was fitted."""

    exit_code = 2


class Forecaster(RegressorMixin, BaseEstimator):
    """Forecasts one weight's later value from what is seen of it.

    A scikit-learn regressor on X [N, F], one entry of its context a column, and y [N]; and
    `forecast`, in torch, on whole snapshots. Subclasses set `context` and `horizon` in
    ``__init__`` and implement `_learn`, `_kernel`, and `_combination` where they are linear.

    Attributes
    ----------
    context : tuple of float and str, or None
        What the columns are, as `weightcast.store.Context` has it. None means the paper's fractions
        of t (1, 0.7, 0.4, 0) for four columns, and else equal spacing from t to 0.
    horizon : float, str, or tuple of them
        The target is the value at `horizon` times t, or so many steps after it (``+500``); or at
        one of several.
    context_ : tuple of float and str
        The context that `fit` settled on.
    """

    block: ClassVar[int] = BLOCK
    context: tuple[Entry, ...] | None
    horizon: Any
    context_: tuple[Entry, ...]
    n_features_in_: int

    def fit(
        self,
        X: npt.ArrayLike,
        y: npt.ArrayLike,
        *,
        rows: npt.NDArray[Any] | None = None,
        **options: Any,
    ) -> Self:
        """Learn from samples.

        Parameters
        ----------
        X : float array, shape (N, F)
            What is seen of weights; memory-mapped arrays are read in place.
        y : float array, shape (N,)
            Later values.
        rows : int array, optional
            Samples to learn from, so that part of a memory-mapped dataset can be used without
            copying it; all of them by default.
        **options
            Of the forecaster's training, such as ``progress``, called with (what, done, total).

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
        NonFiniteError
            If X or y is NaN or infinite somewhere.
        ValueError
            If X or y is not of these shapes.
        """
        checked_X, checked_y = validated(self, X, y, reset=True)
        self.check_options()
        self.context_ = self.settled(self.n_features_in_)
        self._learn(checked_X, checked_y, rows=rows, **options)
        return self

    def predict(self, X: npt.ArrayLike) -> npt.NDArray[Any]:
        """Forecast samples.

        Parameters
        ----------
        X : float array, shape (N, F)

        Returns
        -------
        float array, shape (N,)

        Raises
        ------
        NonFiniteError
            If X is NaN or infinite somewhere.
        """
        self.require_fitted()
        checked = validated(self, X)
        forecast = np.empty(len(checked), checked.dtype)
        for low in range(0, len(checked), _AT_ONCE):
            part = slice(low, low + _AT_ONCE)
            columns = torch.from_numpy(np.array(checked[part].T, order="C"))  # [F, n]
            forecast[part] = self.forecast(columns).numpy()
        return forecast

    @torch.no_grad()
    def forecast(
        self, context: torch.Tensor | Sequence[Row], *, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Forecast whole snapshots, on the tensors' own device.

        Parameters
        ----------
        context : Tensor, shape (F, P), or sequence of F rows
            What is seen of P weights, row f as entry f of `context_` says. A row is a tensor of
            shape (P,), one number for all weights, or what `weightcast.store.RunningSums.row`
            gives. All are read block by block: no more than a block is ever copied.
        out : Tensor, shape (P,), optional
            Where to write; it may be one of the rows, such as the weights themselves.

        Returns
        -------
        Tensor, shape (P,)
            `out`, or a new one: in float64 if a row is, else in float32. Rows are not checked, as
            `predict` checks X: where one is NaN or infinite, so is the forecast, as a rule; only
            regressors that scikit-learn computes raise `NonFiniteError`.

        Raises
        ------
        ShapeError
            If there are not F rows, or their lengths differ.
        """
        self.require_fitted()
        size, like = measure(context, out, self.sees)
        out = like.new_empty(size) if out is None else out
        self._prepared(_numbers(context), like)(context, out)
        return out

    def writer(self) -> Callable[[Sequence[Row], torch.Tensor], None]:
        """A function (rows, out) that does what `forecast` does, again and again.

        What it takes from the forecaster it takes once, for all blocks of a model's weights.
        """
        self.require_fitted()
        known: dict[Any, Callable[[Sequence[Row], torch.Tensor], None]] = {}

        @torch.no_grad()
        def write(rows: Sequence[Row], out: torch.Tensor) -> None:
            _, like = measure(rows, out, self.sees)
            numbers = _numbers(rows)
            key = (numbers, like.dtype, like.device)
            if key not in known:
                known[key] = self._prepared(numbers, like)
            known[key](rows, out)

        return write

    def _prepared(
        self, numbers: Sequence[float | None], like: torch.Tensor
    ) -> Callable[[torch.Tensor | Sequence[Row], torch.Tensor], None]:
        """A function (rows, out) that forecasts rows of which these are numbers."""
        if combination := self._combination(numbers):
            return lambda rows, out: combination.into(out, rows, like)
        # autocast off: half precision would lose what weights moved
        with torch.autocast(like.device.type, enabled=False):
            kernel = self._kernel(like)

        def write(rows: torch.Tensor | Sequence[Row], out: torch.Tensor) -> None:
            with torch.autocast(like.device.type, enabled=False):
                apply(kernel, out, rows, like, self.block)

        return write

    def require_fitted(self) -> None:
        """Raise `UnfittedError`, which is also scikit-learn's NotFittedError, if need be."""
        try:
            check_is_fitted(self)
        except NotFittedError as error:
            raise UnfittedError(
                f"{type(self).__name__} is not fitted yet: fit it to a dataset, or load one that is"
            ) from error

    def ready(self) -> Self:
        """Return the forecaster, fitted: those that need no training fit themselves.

        Raises
        ------
        UnfittedError
            If it has to be trained first.
        """
        self.require_fitted()
        return self

    @property
    def sees(self) -> Context:
        """The context that `fit` settled on, read."""
        self.require_fitted()
        return _read(self.context_)

    @property
    def horizons(self) -> tuple[Horizon, ...]:
        """The horizon or horizons, read."""
        return horizons(self.horizon)

    def settled(self, width: int) -> tuple[Entry, ...]:
        """The context for that many columns; see the class.

        Raises
        ------
        ShapeError
            If `context` is given and has another length.
        """
        given = self.usual(width) if self.context is None else self.context
        entries = Context.of(given).entries
        if len(entries) != width:
            raise ShapeError(
                f"X must have one column per context entry: context {self.context}, {width} columns"
            )
        return entries

    def usual(self, width: int | None = None) -> tuple[Entry, ...]:
        """The context where none is given, of so many columns or of as many as it has best."""
        if width in (None, len(PAPER_CONTEXT)):
            return PAPER_CONTEXT
        return tuple(float(f) for f in np.linspace(1, 0, width))

    @abstractmethod
    def _learn(self, X: npt.NDArray[Any], y: npt.NDArray[Any], **options: Any) -> None:
        """Learn from validated arrays; learned names end in an underscore."""

    def _combination(self, numbers: Sequence[float | None]) -> Combination | None:
        """The forecast as a combination of rows, if it is one given those that are `numbers`."""
        return None

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
        check_context((1.0,) if self.context is None else self.context, self.horizon)

    def tensors(self) -> dict[str, torch.Tensor]:
        """What was learned, by name, for a file."""
        return {}

    def load_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take back what `tensors` gave."""


def _numbers(rows: torch.Tensor | Sequence[Row]) -> tuple[float | None, ...]:
    """Those of the rows that are one number for all weights."""
    return tuple(float(row) if isinstance(row, Real) else None for row in rows)


_read = functools.lru_cache(Context.of)  # a live forecast reads it several times for each tensor
