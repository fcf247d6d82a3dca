"""An experiment's picture: accuracy and error over training, as in the paper's figures 11 to 31."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from weightcast.experiments.figure import COLOURS
from weightcast.experiments.summary import ArmSummary, Summary, held
from weightcast.store.extras import require_matplotlib
from weightcast.store.output import replacing

TOGETHER = 6  # arms in one panel; more have a panel each, against plain
_COLOURS = {**COLOURS, "one-cycle + jumps": "tab:purple"}
_LEAST_ERROR = 1e-4  # what a logarithmic axis shows of none
_DPI = 76


def save_curves(summary: Summary, path: str | Path) -> None:
    """Draw an experiment's curves: the median over the seeds of running medians, in bold.

    Thin lines are the evaluations of each seed, as they are: where a jump first hurts, they show
    it. Dotted lines are jump points.

    Parameters
    ----------
    summary : Summary
    path : str or Path
        Picture to write; the suffix says the format.

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    arms = list(summary.arms.values())
    if len(arms) <= TOGETHER:
        figure = Figure(figsize=(11, 4.5), layout="constrained")
        _together(figure, summary, arms)
    else:
        rows = -(-(len(arms) - 1) // 4)
        figure = Figure(figsize=(11, 0.6 + 2.1 * rows), layout="constrained")
        _apart(figure, summary, arms, rows)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=_DPI, metadata={"Software": None})


def _together(figure: Any, summary: Summary, arms: Sequence[ArmSummary]) -> None:
    """Two panels: the top of the accuracy, and the error on a logarithmic axis."""
    accuracy, error = figure.subplots(1, 2)
    for arm in arms:
        colour = _COLOURS.get(arm.name, "tab:red")
        _draw(accuracy, arm, colour, lambda share: 100 * share)
        _draw(error, arm, colour, _error)
    points = sorted({p for arm in summary.set.entry.arms for p in arm.jumps})
    _mark(accuracy, points)
    _mark(error, points)
    accuracy.set_ylim(*_top(arms))
    accuracy.set(xlabel="optimizer step", ylabel="test accuracy, %")
    error.set(xlabel="optimizer step", ylabel="test error, %")
    _logarithmic(error, arms)
    figure.legend(*accuracy.get_legend_handles_labels(), loc="outside upper center", ncols=7)


def _apart(figure: Any, summary: Summary, arms: Sequence[ArmSummary], rows: int) -> None:
    """A panel for each arm with plain behind it, all with the same axes."""
    panels = figure.subplots(rows, 4, sharex=True, sharey=True, squeeze=False).flatten()
    points = {arm.name: arm.jumps for arm in summary.set.entry.arms}
    plain = [arm for arm in arms if arm.name == "plain"]
    others = [arm for arm in arms if arm.name != "plain"]
    for axes, arm in zip(panels, others, strict=False):
        for behind in plain:
            _draw(axes, behind, _COLOURS["plain"], _error, seeds=False)
        _draw(axes, arm, _COLOURS.get(arm.name, "tab:red"), _error)
        _mark(axes, points.get(arm.name, ()))
        axes.set_title(arm.name, fontsize=9)
        axes.tick_params(labelsize=8)
        top = _logarithmic(axes, arms)
        if (last := _error(np.median(arm.final.values))) > top:
            said = f"off the top: {last:.3g} % at the end"
            axes.text(0.97, 0.9, said, transform=axes.transAxes, ha="right", fontsize=8)
    for axes in panels[len(others) :]:
        axes.set_axis_off()
    for axes in panels[max(len(others) - 4, 0) : len(others)]:
        axes.tick_params(labelbottom=True)  # nothing may stand below it
    figure.supxlabel("optimizer step", fontsize=9)
    figure.supylabel("test error, %; plain in grey", fontsize=9)


def _draw(
    axes: Any,
    arm: ArmSummary,
    colour: str,
    shown: Callable[[Any], Any],
    *,
    seeds: bool = True,
) -> None:
    """A line a seed and their median, at the steps of the first."""
    steps = next(iter(arm.traces.values())).steps
    for trace in arm.traces.values() if seeds else ():
        values = shown(np.asarray(trace.accuracy))
        axes.plot(trace.steps, values, color=colour, alpha=0.35, linewidth=0.6)
    smooth = [np.interp(steps, t.steps, held(t.accuracy)) for t in arm.traces.values()]
    middle = np.median(smooth, axis=0)
    axes.plot(steps, shown(middle), color=colour, linewidth=1.6, label=arm.name)


def _error(accuracy: Any) -> Any:
    return 100 * np.maximum(1 - accuracy, _LEAST_ERROR)


def _mark(axes: Any, points: Sequence[int]) -> None:
    for i, point in enumerate(points):
        label = "jump points" if i == 0 else None
        axes.axvline(point, color="tab:red", linestyle=":", linewidth=1, label=label)
    axes.grid(alpha=0.3)


def _late(arms: Sequence[ArmSummary]) -> np.ndarray:
    """Running medians of the accuracy in the last four fifths of all runs."""
    traces = [trace for arm in arms for trace in arm.traces.values()]
    medians = [np.asarray(held(t.accuracy))[np.asarray(t.steps) >= t.steps[-1] / 5] for t in traces]
    return np.concatenate(medians)


def _reference(arms: Sequence[ArmSummary]) -> Sequence[ArmSummary]:
    """Whose lowest accuracy the axes begin at: plain, as others may collapse."""
    return [arm for arm in arms if arm.name == "plain"] or arms


def _top(arms: Sequence[ArmSummary]) -> tuple[float, float]:
    """Limits, in percent, between which most of the accuracies late in training lie."""
    low, high = 100 * np.quantile(_late(_reference(arms)), 0.05), 100 * _late(arms).max()
    margin = 0.15 * (high - low) + 0.05
    return low - margin, high + margin


def _logarithmic(axes: Any, arms: Sequence[ArmSummary]) -> float:
    """Make the axis of errors logarithmic; its upper end is a few times plain's errors."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    top = float(min(4 * _error(np.quantile(_late(_reference(arms)), 0.05)), 100))
    axes.set_yscale("log")
    axes.set_ylim(0.85 * _error(_late(arms).max()), top)
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    return top
