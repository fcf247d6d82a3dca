"""Any scikit-learn regressor as a forecaster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import clone
from sklearn.linear_model import (
    BayesianRidge,
    ElasticNet,
    ElasticNetCV,
    HuberRegressor,
    Lasso,
    LassoCV,
    LinearRegression,
    Ridge,
    RidgeCV,
    SGDRegressor,
)
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVR

from weightcast.predictor.forecaster import Forecaster
from weightcast.predictor.rows import Combination
from weightcast.predictor.scaling import Scaling, check_scaling
from weightcast.store import NonFiniteError, UsageError
from weightcast.store.columns import NOW, Entry
from weightcast.store.context import Context
from weightcast.store.reading import one_line
from weightcast.store.recipe import PAPER_HORIZON

_AT_ONCE = 1 << 18  # samples that are scaled at once
_METHODS = ("fit", "predict", "get_params")
# Others have coefficients too, and a link behind them: only what is known to be linear is taken.
_LINEAR = (
    BayesianRidge,
    ElasticNet,
    ElasticNetCV,
    HuberRegressor,
    Lasso,
    LassoCV,
    LinearRegression,
    Ridge,
    RidgeCV,
    SGDRegressor,
    LinearSVR,
)


class SklearnForecaster(Forecaster):
    """A scikit-learn regressor that learns from scaled samples.

    Parameters
    ----------
    regressor : estimator
        With ``fit`` and ``predict``, such as ``Ridge()`` or a pipeline; it is cloned before it is
        fitted. Its own options are reached as ``regressor__alpha``.
    scale : float
        The factor of the scaling "fixed": weights move by thousandths.
    scaling : {"fixed", "tensor", "weight"}
        See `weightcast.predictor.scaling.Scaling`.
    target : {"change", "value"}
        What the regressor learns: how far the later value is from w(t), or the value itself.
    context : tuple of float and str, optional
        See `Forecaster`.
    horizon : float, str, or tuple of them
        See `Forecaster`.

    Attributes
    ----------
    regressor_ : estimator
        The fitted clone.

    Notes
    -----
    scikit-learn's linear models, such as `Ridge`, also after a `StandardScaler` in a pipeline, are
    computed by torch on the weights' own device. Others get NumPy arrays on the CPU, of one block
    of weights after the other. All samples are in memory, scaled and in float64, while it is
    fitted. What `MLPRegressor` needs only while it is fitted, its optimizer, is not kept.

    Examples
    --------
    >>> from sklearn.linear_model import Ridge
    >>> X = np.float32([[0.2, 0.1, 0.05, 0.0], [0.4, 0.2, 0.1, 0.0], [0.1, 0.1, 0.1, 0.1]])
    >>> model = SklearnForecaster(Ridge(alpha=1e-3)).fit(X, [0.4, 0.8, 0.1])
    >>> model.predict(X).round(3)
    array([0.4, 0.8, 0.1], dtype=float32)
    """

    block = 1 << 16

    def __init__(
        self,
        regressor: Any,
        scale: float = 1000.0,
        scaling: str = "fixed",
        target: str = "change",
        context: tuple[Entry, ...] | None = None,
        horizon: Any = PAPER_HORIZON,
    ) -> None:
        self.regressor = regressor
        self.scale = scale
        self.scaling = scaling
        self.target = target
        self.context = context
        self.horizon = horizon

    def check_options(self) -> None:
        """Check the options; see `Forecaster.check_options`."""
        super().check_options()
        check_scaling(self.scaling, self.scale, self.target)
        able = all(callable(getattr(self.regressor, m, None)) for m in _METHODS)
        if isinstance(self.regressor, type) or not able:
            raise UsageError(
                f"regressor must be a scikit-learn regressor, with {', '.join(_METHODS)}: got "
                f"{self.regressor!r:.60}: give one such as Ridge()"
            )

    def settled(self, width: int) -> tuple[Entry, ...]:
        """The context for that many columns; see `Forecaster.settled`."""
        entries = super().settled(width)
        self._scaling(entries)
        return entries

    def _scaling(self, entries: tuple[Entry, ...]) -> Scaling:
        return Scaling(self.scaling, self.scale, self.target, Context.of(entries))

    def _learn(
        self,
        X: npt.NDArray[Any],
        y: npt.NDArray[Any],
        progress: Callable[[str, int, int], None] | None = None,
        rows: npt.NDArray[np.int64] | None = None,
        **options: Any,
    ) -> None:
        if rows is not None and not len(rows):
            raise UsageError("there must be samples to learn from: got no rows")
        scaling, count = self._scaling(self.context_), len(X) if rows is None else len(rows)
        inputs, outputs = np.empty((count, X.shape[1])), np.empty(count)
        for low in range(0, count, _AT_ONCE):
            part = slice(low, low + _AT_ONCE)
            chosen = part if rows is None else rows[part]
            # float64: the normal equations of columns that are nearly alike need it
            scaled, unit, base = scaling.apply(X[chosen].T.astype(np.float64))
            inputs[part] = scaled.T
            outputs[part] = scaling.scaled(y[chosen], unit, base)
        try:
            self.regressor_ = clone(self.regressor).fit(inputs, outputs)
        except (ValueError, TypeError) as error:
            raise UsageError(
                f"{type(self.regressor).__name__} cannot be fitted: {one_line(error)}"
            ) from error
        _drop_optimizers(self.regressor_)
        if progress is not None:
            progress("fit", 1, 1)

    def _combination(self, numbers: Sequence[float | None]) -> Combination | None:
        scaling = self._scaling(self.context_)
        if scaling.matrix is None or (linear := linear_form(self.regressor_)) is None:
            return None
        coefficients, constant = linear
        coefficients = coefficients @ scaling.matrix / self.scale
        if self.target == "change":
            coefficients[self.sees.columns.index(NOW)] += 1
        return Combination(coefficients.tolist(), constant / self.scale)

    def _kernel(self, like: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        scaling, linear = self._scaling(self.context_), linear_form(self.regressor_)

        def values(seen: torch.Tensor) -> torch.Tensor:
            inputs, unit, base = scaling.apply(seen)  # [F, n]
            if linear is not None:
                output = seen.new_tensor(linear[0]) @ inputs + linear[1]
            else:
                output = self._predicted(inputs).to(seen)
            found: torch.Tensor = base + unit * output
            return found

        return values

    def _predicted(self, inputs: torch.Tensor) -> torch.Tensor:
        if not inputs.isfinite().all():
            raise NonFiniteError(
                f"weights must be finite to be forecast by {type(self.regressor).__name__}: some "
                "are NaN or infinite"
            )
        samples = np.ascontiguousarray(inputs.T.cpu().numpy())
        return torch.from_numpy(np.asarray(self.regressor_.predict(samples)).reshape(-1))


def _drop_optimizers(regressor: Any) -> None:
    """Those of networks are of types that a file would have to be trusted for."""
    steps = regressor.steps if isinstance(regressor, Pipeline) else [("", regressor)]
    for _, part in steps:
        if isinstance(part, MLPRegressor):
            vars(part).pop("_optimizer", None)


def linear_form(regressor: Any) -> tuple[npt.NDArray[np.float64], float] | None:
    """Coefficients and intercept of a fitted regressor, if its prediction is linear in its inputs.

    Parameters
    ----------
    regressor : estimator
        Fitted. Of pipelines, those of `StandardScaler` and a linear model are recognized.

    Returns
    -------
    tuple of float64 array, shape (F,), and float; or None

    Examples
    --------
    >>> linear_form(LinearRegression().fit([[0.0], [1.0]], [1.0, 3.0]))[0].round(6)
    array([2.])
    """
    before = []
    if isinstance(regressor, Pipeline):
        *before, regressor = (step for _, step in regressor.steps)
    if type(regressor) not in _LINEAR or not all(type(step) is StandardScaler for step in before):
        return None
    coefficients = np.asarray(regressor.coef_, dtype=np.float64).reshape(-1)
    constant = float(np.asarray(regressor.intercept_).reshape(()))
    for scaler in reversed(before):
        if scaler.with_std:
            coefficients = coefficients / scaler.scale_
        if scaler.with_mean:
            constant -= float(coefficients @ scaler.mean_)
    return coefficients, constant
