"""How good a forecaster is, always beside the last value and the straight line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from weightcast.predictor.baselines import LastValue, LinearFit
from weightcast.predictor.forecaster import Forecaster
from weightcast.store import (
    Dataset,
    History,
    NonFiniteError,
    Recipe,
    ShapeError,
    UsageError,
    admissible,
)

Float = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Errors:
    """Mean absolute errors of a group of forecasts, in the weights' own units.

    Attributes
    ----------
    group : str
        What the group is, such as ``t = 500``.
    count : int
        Forecasts in it.
    forecaster, last_value, linear_fit : float
        Mean |forecast - truth| of the forecaster, and of the two that it must beat.

    Examples
    --------
    >>> Errors("all", 10, forecaster=0.003, last_value=0.004, linear_fit=0.005).skill
    0.25
    """

    group: str
    count: int
    forecaster: float
    last_value: float
    linear_fit: float

    @property
    def skill(self) -> float:
        """1 - error / last-value error: 1 is perfect, 0 is no better than doing nothing."""
        return 1 - self.forecaster / self.last_value if self.last_value else float("nan")


def errors(forecaster: Forecaster, context: Float, truth: Float, group: str = "all") -> Errors:
    """Errors of a forecaster on given values.

    Parameters
    ----------
    forecaster : Forecaster
        Fitted.
    context : float array, shape (F, n)
    truth : float array, shape (n,)
    group : str
        Name of the result.
    """
    forecaster = forecaster.ready()
    values, target = torch.tensor(context), torch.tensor(truth)
    simple = [model(forecaster.context_, forecaster.horizon) for model in (LastValue, LinearFit)]
    rivals = [forecaster, *(model.ready() for model in simple)]
    # in float64: a float32 mean of millions of errors loses digits
    means = [float((r.forecast(values) - target).abs().double().mean()) for r in rivals]
    return Errors(group, len(truth), *means)


def evaluate_history(
    forecaster: Forecaster,
    history: History,
    *,
    points: int = 10,
    tolerance: float = 0.01,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Errors]:
    """Errors on all weights of a history, at several steps t.

    Parameters
    ----------
    forecaster : Forecaster
        Its own context and horizon are used.
    history : History
    points : int
        Steps t to evaluate at, evenly spread over those that the history can give.
    tolerance : float
        As in `Recipe`.
    progress : callable, optional
        Called with (what, done, total).

    Returns
    -------
    list of Errors
        One for each t, rising, and one for all of them.

    Raises
    ------
    SamplingError
        If the history is too short or too sparse for the context and horizon.
    NonFiniteError
        If a weight is NaN or infinite.
    """
    forecaster = forecaster.ready()
    if points < 1:
        raise UsageError(f"points must be at least 1: got {points}")
    recipe = Recipe(1, forecaster.context_, forecaster.horizon, tolerance=tolerance)
    t, rows = admissible(history.steps, recipe)
    chosen = np.unique(np.linspace(0, len(t) - 1, min(points, len(t))).round().astype(int))
    results = []
    for done, i in enumerate(chosen, start=1):
        values = np.stack([history.snapshot(int(step)) for step in history.steps[rows[i]]])
        if not np.isfinite(values).all():
            raise NonFiniteError(
                f"weights must be finite to be forecast: {history.path} has NaN or infinite ones "
                f"for t = {t[i]}: evaluate a history that did not diverge"
            )
        results.append(errors(forecaster, values[:-1], values[-1], f"t = {t[i]}"))
        if progress is not None:
            progress("evaluate", done, len(chosen))
    return [*results, overall(results)]


def evaluate_dataset(
    forecaster: Forecaster, dataset: Dataset, rows: npt.NDArray[Any] | None = None
) -> list[Errors]:
    """Errors on the samples of a dataset.

    Parameters
    ----------
    forecaster : Forecaster
    dataset : Dataset
    rows : int array, optional
        Samples to use; all of them by default.

    Returns
    -------
    list of Errors
        One for each stratum, the most changed first, and one for all of them.

    Raises
    ------
    ShapeError
        If the dataset was drawn for another context or horizon.
    """
    forecaster = forecaster.ready()
    mine = (forecaster.context_, forecaster.horizon)
    theirs = (dataset.recipe.context, dataset.recipe.horizon)
    if mine != theirs:
        raise ShapeError(
            f"forecaster and dataset must have one context and horizon: the forecaster's are "
            f"{mine}, those of {dataset.path} {theirs}"
        )
    rows = np.arange(len(dataset)) if rows is None else rows
    return list(_by_stratum(forecaster, dataset, rows))


def _by_stratum(
    forecaster: Forecaster, dataset: Dataset, rows: npt.NDArray[Any]
) -> Iterator[Errors]:
    results = []
    for stratum in np.unique(dataset.stratum[rows]):
        members = rows[dataset.stratum[rows] == stratum]
        context, truth = np.ascontiguousarray(dataset.X[members].T), dataset.y[members]
        results.append(errors(forecaster, context, truth, f"stratum {stratum}"))
        yield results[-1]
    yield overall(results)


def overall(groups: list[Errors]) -> Errors:
    """Errors of all forecasts of several groups together."""
    total = sum(g.count for g in groups)
    names = ("forecaster", "last_value", "linear_fit")
    means = [sum(getattr(g, name) * g.count for g in groups) / max(total, 1) for name in names]
    return Errors("all", total, *means)
