"""Forecasters compared: cross-validated on the same folds, so that no run is on both sides."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from sklearn.exceptions import ConvergenceWarning

from weightcast.predictor.folds import Pooled
from weightcast.predictor.forecaster import Forecaster
from weightcast.predictor.models import MODELS, make_forecaster
from weightcast.predictor.seeing import BLOCK
from weightcast.predictor.tally import known
from weightcast.predictor.threads import one_thread
from weightcast.store import Dataset, ShapeError, UsageError
from weightcast.store.columns import NOW

ALWAYS = ("last-value", "linear-fit")  # what every forecaster must beat
TIMED = 1 << 18  # weights that are forecast to take the time
REPEATS = 3

Int = npt.NDArray[np.integer[Any]]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Compared:
    """One forecaster of a comparison.

    Attributes
    ----------
    name : str
        As `MODELS` has it.
    options : dict
        That it was made with; the others are its defaults.
    errors : tuple of float
        Mean |forecast - truth| on each fold's test samples, in the weights' units.
    skills : tuple of float or None
        1 - error / last-value error on each fold; None where that is 0 or not known.
    seconds_to_fit : float
        Median over the folds.
    seconds_per_million : float
        To forecast a million weights, on the CPU, torch in one thread.
    """

    name: str
    options: dict[str, Any]
    errors: tuple[float, ...]
    skills: tuple[float | None, ...]
    seconds_to_fit: float
    seconds_per_million: float

    @property
    def error(self) -> float:
        """Median error over the folds: what forecasters are ranked by."""
        return float(np.median(self.errors))

    @property
    def skill(self) -> float | None:
        """Median skill over the folds that have one."""
        skills = [skill for skill in self.skills if skill is not None]
        return float(np.median(skills)) if skills else None


@dataclass(frozen=True)
class Comparison:
    """What `compare` measured.

    Attributes
    ----------
    models : tuple of Compared
        The best first.
    left_out : dict of str to str
        Forecasters that cannot be given these samples, and why.
    folds : int
    by : {"run", "weight"}
        What is on one side of every fold only.
    runs, samples : int
        Different runs, and samples, of all datasets.
    """

    models: tuple[Compared, ...]
    left_out: dict[str, str]
    folds: int
    by: Literal["run", "weight"]
    runs: int
    samples: int

    def to_json(self) -> dict[str, Any]:
        """Plain data; what is not finite is None."""
        ranked = [
            asdict(m)
            | {"errors": [known(e) for e in m.errors], "error": known(m.error), "skill": m.skill}
            for m in self.models
        ]
        return asdict(self) | {"models": ranked}


def compare(
    datasets: Sequence[Dataset],
    models: Sequence[str] = (),
    *,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    folds: int = 5,
    seed: int = 0,
    progress: Progress | None = None,
) -> Comparison:
    """Cross-validate forecasters on the samples of one or several datasets.

    Parameters
    ----------
    datasets : sequence of Dataset
        Of one context and horizon. The samples of several are copied into memory.
    models : sequence of str
        Names of `MODELS`; by default all. The last value and the linear fit always take part.
    options : mapping of str to mapping, optional
        Options of forecasters, by name.
    folds : int
        At most; there are no more than runs, or weights.
    seed : int
        Of the folds, and of the forecasters' training.
    progress : callable, optional
        Called with (what, done, total).

    Returns
    -------
    Comparison

    Raises
    ------
    UsageError
        If a name or an option is unknown, a forecaster that was named cannot be given the samples,
        or there is nothing to divide into folds.
    ShapeError
        If the datasets' contexts or horizons differ.
    NonFiniteError
        If a sample is NaN or infinite.

    Notes
    -----
    All forecasters learn from the same samples and are tested on the same. A run that several
    datasets were drawn from is one run. Samples of a single run are divided by weight: the errors
    then are those on other weights of the run that was learned from. A regressor of scikit-learn's
    that stops at its most iterations is taken as it is then.
    """
    given = {name: dict(values) for name, values in (options or {}).items()}
    for name in (*models, *given):
        make_forecaster(name, given.get(name))  # what is misspelt is refused before any work
    samples = Pooled.of(datasets)
    parts = samples.folds(folds, seed)
    compared: list[Compared] = []
    left_out: dict[str, str] = {}
    for name in dict.fromkeys((*(models or MODELS), *given, *ALWAYS)):

        def advance(fold: int, what: str = f"compare {name}") -> None:
            if progress is not None:
                progress(what, fold, len(parts))

        try:
            compared.append(
                _cross_validated(name, given.get(name, {}), samples, parts, seed, advance)
            )
        except (UsageError, ShapeError) as error:
            if name in models or name in given:
                raise
            left_out[name] = str(error)
    ranked = sorted(compared, key=lambda m: (not np.isfinite(m.error), m.error))
    runs, count = samples.runs, len(samples.y)
    return Comparison(tuple(ranked), left_out, len(parts), samples.by, runs, count)


def mean_error(
    samples: Pooled, rows: Int, forecast: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
) -> float:
    """Mean |forecast - truth| of some samples; `forecast` is given their inputs [n, F]."""
    total = 0.0
    for low in range(0, len(rows), BLOCK):
        part = rows[low : low + BLOCK]
        total += float(np.abs(forecast(samples.X[part]) - samples.y[part]).sum(dtype=np.float64))
    return total / len(rows)


def _cross_validated(
    name: str,
    options: dict[str, Any],
    samples: Pooled,
    parts: Sequence[tuple[Int, Int]],
    seed: int,
    advance: Callable[[int], None],
) -> Compared:
    context, horizon = samples.recipe.context, samples.recipe.horizon
    columns = samples.recipe.sees.columns
    now = columns.index(NOW) if NOW in columns else None
    errors: list[float] = []
    skills: list[float | None] = []
    seconds: list[float] = []
    for fold, (train, test) in enumerate(parts, start=1):
        forecaster = make_forecaster(name, options, context=context, horizon=horizon, seed=seed)
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            forecaster.fit(samples.X, samples.y, rows=train)
        seconds.append(time.perf_counter() - start)
        errors.append(mean_error(samples, test, forecaster.predict))
        still = mean_error(samples, test, lambda seen: seen[:, now]) if now is not None else None
        skills.append(known(1 - errors[-1] / still) if still else None)
        advance(fold)
    speed = _seconds_per_million(forecaster, samples)
    return Compared(name, options, tuple(errors), tuple(skills), float(np.median(seconds)), speed)


def _seconds_per_million(forecaster: Forecaster, samples: Pooled) -> float:
    """The least of some tries: whatever else the machine does only adds to it."""
    rows = np.arange(TIMED) % min(len(samples.y), TIMED)
    snapshots = torch.from_numpy(np.ascontiguousarray(samples.X[rows].T))  # [F, P]
    out, seconds = torch.empty(TIMED, dtype=snapshots.dtype), []
    with one_thread():
        for _ in range(REPEATS):
            start = time.perf_counter()
            forecaster.forecast(snapshots, out=out)
            seconds.append(time.perf_counter() - start)
    return min(seconds) * 1e6 / TIMED
