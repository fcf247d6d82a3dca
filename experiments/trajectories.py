"""Weights over training: figures 1 to 3 of Sinha et al. 2017."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from weightcast.experiments.saving import save
from weightcast.store import (
    History,
    NonFiniteError,
    UsageError,
    WeightVariation,
    measure_variation,
)
from weightcast.store.spread import Measure
from weightcast.store.spread_figure import check_picture
from weightcast.store.trajectories import trajectories as read

Float = npt.NDArray[np.floating[Any]]
Int = npt.NDArray[np.int64]

MOST_POINTS = 500  # of a trajectory: a panel has fewer columns
LONGEST = 26  # characters of a name
VARIATIONS = ("high", "middle", "low")


@dataclass(frozen=True)
class Trajectories:
    """Weights of high, middle and low variation, over training.

    Attributes
    ----------
    steps : int64 array, shape (m,)
        Recorded steps, the first and the last among them.
    by : {"change", "deviation"}
        The measure of variation.
    weights : dict of str to tuple of WeightVariation
        For "high", "middle" and "low" the weights that were drawn from this third of the histogram:
        fewer than asked for, or none, where it holds fewer.
    bounds : dict of str to (float, float)
        Between which values of the measure each third lies.
    values : dict of str to float array, shape (n, m)
        Their values at `steps`, in the history's dtype.
    """

    steps: Int
    by: Measure
    weights: dict[str, tuple[WeightVariation, ...]]
    bounds: dict[str, tuple[float, float]]
    values: dict[str, Float]


def trajectories(
    history: History,
    *,
    weights: int = 5,
    seed: int = 0,
    by: Measure = "change",
    log: bool = False,
) -> Trajectories:
    """Draw weights at random from each third of the histogram of variation, and follow them.

    Parameters
    ----------
    history : History
    weights : int
        How many to draw from each third, at least 1.
    seed : int
        Of the draw; it depends on nothing else.
    by : {"change", "deviation"}
        The measure: |w(T) - w(0)|, or the root second moment about w(0).
    log : bool
        Whether the steps, 500 at most, lie evenly on a logarithmic axis.

    Returns
    -------
    Trajectories

    Raises
    ------
    UsageError, SamplingError
        If an option is out of range, or the history has fewer than two steps.
    NonFiniteError
        If it has no weight that is finite at every step.

    Notes
    -----
    Figures 1 to 3 of Sinha et al. 2017. The history is decoded once, a chunk at a time; then the
    chunks that hold the weights drawn.

    Examples
    --------
    >>> import tempfile
    >>> from weightcast.store import HistoryWriter, ParameterTable
    >>> path = tempfile.mkdtemp() + "/run.zarr"
    >>> table = ParameterTable.of([("w", (3,), "float32", "weight")])
    >>> with HistoryWriter.create(path, table) as writer:
    ...     writer.append([0, 10], [0.0, 0.5], np.float32([[1, 1, 1], [1, 3, 5]]))
    >>> found = trajectories(History(path))
    >>> [str(weight) for weight in found.weights["high"]], found.values["high"]
    (['w[2]'], array([[1., 5.]], dtype=float32))
    """
    if weights < 1:
        raise UsageError(f"weights must be at least 1: got {weights}")
    report = measure_variation(history, draw=weights, seed=seed, by=by, top=0)
    spread = report.model.spread(by)
    if spread is None:
        raise NonFiniteError(
            f"no weight of {history.path} is finite at every step: draw a run that did not diverge"
        )
    rows = _spaced(history.steps, log=log)
    drawn = dict(zip(VARIATIONS, reversed(report.drawn), strict=True))
    edges = np.linspace(0, spread.largest, len(VARIATIONS) + 1)[::-1].tolist()
    return Trajectories(
        history.steps[rows],
        by,
        drawn,
        {name: (edges[i + 1], edges[i]) for i, name in enumerate(VARIATIONS)},
        {
            name: read(history, np.array([w.parameter for w in those], np.int64), rows)
            for name, those in drawn.items()
        },
    )


def _spaced(steps: Int, *, log: bool) -> Int:
    """Rows about evenly spaced along the axis: the first and the last among them."""
    if log:  # a logarithm has no step 0, but the first weights are what changes are relative to
        grid = np.geomspace(max(steps[0], 1), steps[-1], MOST_POINTS - 1)
        grid = np.concatenate([steps[:1], grid])
    else:
        grid = np.linspace(steps[0], steps[-1], MOST_POINTS)
    return np.unique(np.searchsorted(steps, np.rint(grid))).astype(np.int64)


def save_trajectories(
    path: str | Path,
    histories: Mapping[str, History],
    *,
    weights: int = 5,
    seed: int = 0,
    by: Measure = "change",
    log: bool = False,
    overwrite: bool = False,
) -> None:
    """Draw weights of high, middle and low variation over training, a row of panels a history.

    Parameters
    ----------
    path : str or Path
        Picture to write: .png, .svg or .pdf.
    histories : mapping of str to History
        By the title of its row.
    weights, seed, by, log
        As of `trajectories`; with `log` the axis of steps is logarithmic.
    overwrite : bool
        Replace a file that is there.

    Raises
    ------
    UsageError, OutputExistsError, MissingExtraError
        If there is no history, the path has another suffix or is taken, or matplotlib is missing;
        and as of `trajectories`.
    """
    check_picture(path, overwrite=overwrite, inputs=[h.path for h in histories.values()])
    if not histories:
        raise UsageError("a picture of weights needs one history at least: got none")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.7 * len(histories)), layout="constrained")
    rows = figure.subfigures(len(histories), 1, squeeze=False)[:, 0]
    for row, (title, history) in zip(rows, histories.items(), strict=True):
        row.suptitle(title, fontsize=12, parse_math=False)
        found = trajectories(history, weights=weights, seed=seed, by=by, log=log)
        for axes, name in zip(row.subplots(1, len(VARIATIONS)), VARIATIONS, strict=True):
            _draw_third(axes, found, name, log=log)
    save(figure, path, overwrite=overwrite)


def _draw_third(axes: Any, found: Trajectories, name: str, *, log: bool) -> None:
    low, high = found.bounds[name]
    axes.set_title(f"{name} variation: {found.by} from {low:.2g} to {high:.2g}", fontsize=10)
    shown = found.steps > 0 if log else np.ones(len(found.steps), bool)
    values = found.values[name].astype(np.float64)
    for weight, line in zip(found.weights[name], values - values[:, :1], strict=True):
        axes.plot(found.steps[shown], line[shown], linewidth=1, label=short(str(weight)))
    axes.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    axes.set_ylabel(f"$w(t) - w({found.steps[0]})$")
    if log:
        axes.set_xscale("log")
    if not found.weights[name]:
        axes.text(0.5, 0.6, "no weight", transform=axes.transAxes, ha="center", color="0.4")
    finish(axes)


def short(name: str) -> str:
    """A weight's name for a legend: its end is what tells weights apart.

    A label that began with "_" would be left out, as torch.compile's "_orig_mod" does.
    """
    return f" {name}" if len(name) <= LONGEST else f" ...{name[3 - LONGEST :]}"


def finish(axes: Any) -> None:
    """What all panels of weights share; the legend stands below, where it hides no line."""
    axes.set_xlabel("optimizer step")
    if axes.get_xscale() == "linear":
        axes.locator_params(axis="x", nbins=6, steps=[1, 2, 5, 10])
        axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.margins(x=0)
    handles, labels = axes.get_legend_handles_labels()
    if not handles:
        return
    below = {"loc": "upper center", "bbox_to_anchor": (0.45, -0.2), "ncols": 2}
    legend = axes.legend(handles, labels, **below, fontsize=8, frameon=False, handlelength=1.2)
    for text in legend.get_texts():
        text.set_parse_math(False)
