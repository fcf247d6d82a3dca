"""How good a forecaster is, always beside the last value and the straight line."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from weightcast.predictor import grouping
from weightcast.predictor.forecaster import Forecaster
from weightcast.predictor.grouping import GROUPINGS
from weightcast.predictor.judging import Judge
from weightcast.predictor.pairs import Pairs
from weightcast.predictor.seeing import BLOCK, require_seen, seen, truth
from weightcast.predictor.tally import Errors, Tally
from weightcast.store import (
    Dataset,
    History,
    Recipe,
    SamplingError,
    ShapeError,
    UsageError,
)
from weightcast.store.admissible import admissible
from weightcast.store.gathering import ContextReader
from weightcast.store.horizon import Horizon, horizons

Int = npt.NDArray[np.integer[Any]]
Progress = Callable[[str, int, int], None]


def evaluate_dataset(
    forecaster: Forecaster,
    dataset: Dataset,
    rows: Int | None = None,
    *,
    by: Sequence[str] = GROUPINGS,
    pairs: Pairs | None = None,
    progress: Progress | None = None,
) -> list[Errors]:
    """Errors on the samples of a dataset.

    Parameters
    ----------
    forecaster : Forecaster
        What it sees may be part of the dataset's columns. If it sees ``ahead`` or ``ratio``, it is
        measured at any horizon, and else on the samples of its own.
    dataset : Dataset
    rows : int array, optional
        Samples to use; all of them by default.
    by : sequence of str
        Of `GROUPINGS`. Datasets of format 1 and 2 do not say what kind of parameter a weight is
        of; horizons are told apart where there are several.
    pairs : Pairs, optional
        Is given some of the forecasts, for a picture.
    progress : callable, optional
        Called with (what, done, total).

    Returns
    -------
    list of Errors
        One for each group of each grouping: strata from the most changed on, t by octaves; and one
        for all forecasts.

    Raises
    ------
    ShapeError
        If the dataset was drawn for another context, or has no sample of the forecaster's horizon.
    NonFiniteError
        If a sample is NaN or infinite.
    UsageError
        If a grouping is unknown, or there are no samples.
    """
    by, forecaster = grouping.checked(by), forecaster.ready()
    require_seen(forecaster.context_, dataset)
    rows = _measurable(forecaster, dataset, np.arange(len(dataset)) if rows is None else rows)
    groups, members = grouping.of_samples(dataset, rows, by)
    judge = Judge(forecaster, dataset.recipe.sees, dataset.recipe.horizons, pairs, len(rows))
    tally = Tally(groups)
    for low in range(0, len(rows), BLOCK):
        part = slice(low, low + BLOCK)
        values = seen(judge.context.entries, dataset, rows[part])
        errors = judge.errors(values, truth(dataset, rows[part]))
        tally.add(errors, {name: places[part] for name, places in members.items()})
        if progress is not None:
            progress("evaluate", min(part.stop, len(rows)), len(rows))
    return tally.errors()


def evaluate_history(
    forecaster: Forecaster,
    history: History,
    *,
    points: int = 10,
    tolerance: float = 0.01,
    horizon: Any = None,
    by: Sequence[str] = GROUPINGS,
    pairs: Pairs | None = None,
    progress: Progress | None = None,
) -> list[Errors]:
    """Errors on all weights of a history, at several steps t.

    A chunk's rows at a time: memory does not grow with the model.

    Parameters
    ----------
    forecaster : Forecaster
    history : History
    points : int
        Steps t to evaluate at, evenly spread over those that the history can give.
    tolerance : float
        As in `Recipe`.
    horizon : float, str, or tuple of them, optional
        By default the forecaster's own. Another one can be measured if it sees ``ahead`` or
        ``ratio``.
    by : sequence of str
        Of `GROUPINGS`; a history has no strata.
    pairs : Pairs, optional
        Is given some of the forecasts, for a picture.
    progress : callable, optional
        Called with (what, done, total).

    Returns
    -------
    list of Errors
        One for each group of each grouping, and one for all forecasts.

    Raises
    ------
    SamplingError
        If the history is too short or too sparse for the context and horizon.
    NonFiniteError
        If a weight is NaN or infinite.
    UsageError
        If there are no points, a grouping is unknown, or the horizon cannot be measured.
    """
    by, forecaster = grouping.checked(by), forecaster.ready()
    if points < 1:
        raise UsageError(f"points must be at least 1: got {points}")
    several = forecaster.horizons if horizon is None else horizons(horizon)
    _require_horizons(forecaster, several)
    t, target_of = _points(history, forecaster, several, points, tolerance)
    total = len(several) * len(t) * history.parameters.size
    judge = Judge(forecaster, forecaster.sees, several, pairs, total)
    reader = ContextReader(history, judge.context, tolerance)
    kinds, kind_of = grouping.of_weights(history)
    groups = {"kind": kinds, "t": [f"t = {step}" for step in t], "horizon": grouping.named(several)}
    tally = Tally({name: groups[name] for name in by if groups.get(name)})
    done = 0
    for i, step in enumerate(t):
        for j in range(len(several)):
            for block in reader.blocks(step, target_of[step, j]):
                assert block.truth is not None  # noqa: S101 - the target was asked for
                errors = judge.errors(block.seen, block.truth, block.now)
                places = {"t": i, "horizon": j}
                members = {name: np.full(len(block.now), at) for name, at in places.items()}
                tally.add(errors, members | {"kind": kind_of[block.low : block.high]})
            done += 1
            if progress is not None:
                progress("evaluate", done, len(t) * len(several))
    return tally.errors()


def sees_horizon(forecaster: Forecaster) -> bool:
    """Whether it is told how far ahead to look, and so can be asked for any horizon."""
    return bool(forecaster.sees.facts & {"ahead", "ratio"})


def _require_horizons(forecaster: Forecaster, asked: tuple[Horizon, ...]) -> None:
    other = [h for h in asked if h not in forecaster.horizons]
    if other and not sees_horizon(forecaster):
        raise UsageError(
            f"the forecaster looks ahead to {_several(forecaster.horizons)} only, as it does not "
            f"see 'ahead' or 'ratio': got horizon {_several(tuple(other))}"
        )


def _measurable(forecaster: Forecaster, dataset: Dataset, rows: Int) -> Int:
    """Of the given rows, those that the forecaster can be measured on."""
    if not len(rows):
        raise UsageError(f"evaluation needs samples: got no row of {dataset.path}")
    if sees_horizon(forecaster):
        return rows
    theirs = dataset.recipe.horizons
    mine = [i for i, horizon in enumerate(theirs) if horizon in forecaster.horizons]
    kept = rows[np.isin(dataset.horizon[rows], mine)]
    if not len(kept):
        raise ShapeError(
            f"the forecaster looks ahead to {_several(forecaster.horizons)}, the samples of "
            f"{dataset.path} to {_several(theirs)}: build a dataset of that --horizon, or fit a "
            "forecaster that sees 'ahead' or 'ratio'"
        )
    return kept


def _points(
    history: History,
    forecaster: Forecaster,
    several: tuple[Horizon, ...],
    points: int,
    tolerance: float,
) -> tuple[list[int], dict[tuple[int, int], int]]:
    """Steps t that the history can give for every horizon, evenly spread; and all targets.

    The targets are recorded ones, by t and the number of the horizon.
    """
    recipe = Recipe(1, forecaster.context_, [h.plain for h in several], tolerance=tolerance)
    choices = admissible(history.steps, recipe)
    each = [choices.t[choices.horizon == i] for i in range(len(several))]
    able = functools.reduce(np.intersect1d, each)
    if not len(able):
        raise SamplingError(
            f"{history.path} has no step from which all of {_several(several)} can be looked at: "
            "measure one horizon at a time"
        )
    chosen = np.linspace(0, len(able) - 1, min(points, len(able))).round().astype(int)
    pairs = zip(choices.t.tolist(), choices.horizon.tolist(), strict=True)
    target_of = dict(zip(pairs, choices.target.tolist(), strict=True))
    return able[np.unique(chosen)].tolist(), target_of


def _several(horizons: Sequence[Horizon]) -> str:
    return ", ".join(map(str, horizons))
