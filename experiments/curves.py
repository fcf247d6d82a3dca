"""An experiment's picture: accuracy and loss over training, as in the paper's figures 11 to 31."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from weightcast.experiments.comparing import falls
from weightcast.experiments.figure import COLOURS
from weightcast.experiments.results import Trace
from weightcast.experiments.saving import save
from weightcast.experiments.summary import ArmSummary, Summary, held
from weightcast.experiments.wording import listed
from weightcast.store.extras import require_matplotlib

Values = Callable[[Trace], npt.NDArray[np.float64]]

TOGETHER = 6  # arms that share a panel; more have one each
ACROSS = 4  # panels of a row then
_COLOURS = {**COLOURS, "one-cycle + jumps": "#cc79a7"}
_OTHERS = ("#56b4e9", "#e69f00", "#000000", "#f0e442")  # of arms that are in no other picture
_DASHED = ("averaging", "one-cycle + jumps")  # they may lie on plain and one-cycle
_BEHIND = {"plain": 1.3, "jumps": 0.9}  # widths in the panels of other arms
_TOLD = {"plain": "plain, same seeds", "jumps": "Introspection's jumps, same seeds"}
_LEAST = 1e-4  # what a logarithmic axis shows of none
_SMALL = {"fontsize": 9, "title_fontsize": 8}
_ABOUT = (
    "bold: running median of four evaluations, its median over the seeds, or each seed's where one "
    "collapsed; faint: every evaluation"
)


def save_curves(summary: Summary, path: str | Path) -> None:
    """Draw an experiment's curves: the median over the seeds of running medians, in bold.

    Of an arm with a seed that ends more than 5 points below its best, each seed has a line: the
    median would be one that no run took. Thin lines are the evaluations of each seed, as they are:
    where a jump first hurts, they show it. Dotted lines are jump points. Axes of the accuracy are
    logarithmic in the error, and begin below the lowest running median after the first jump.

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

    arms, entry = list(summary.arms.values()), summary.set.entry
    rows = len(arms) // ACROSS + 1  # of a panel for each but plain, and one for the legend
    height = 5.2 if len(arms) <= TOGETHER else 1 + 2.1 * rows
    figure = Figure(figsize=(11, height), layout="constrained")
    figure.suptitle(entry.title, fontsize=12, parse_math=False)
    if len(arms) <= TOGETHER:
        _together(figure, summary, arms)
    else:
        _apart(figure, summary, arms, rows)
    save(figure, path, overwrite=True)


def _together(figure: Any, summary: Summary, arms: Sequence[ArmSummary]) -> None:
    """Two panels: the accuracy and the loss."""
    accuracy, loss = figure.subplots(1, 2)
    points = sorted({p for arm in summary.set.entry.arms for p in arm.jumps})
    for axes, values, name in ((accuracy, _errors, "accuracy, %"), (loss, _losses, "loss")):
        others = cycle(_OTHERS)
        for arm in arms:
            _draw(axes, arm, values, colour=_COLOURS.get(arm.name) or next(others))
        _mark(axes, points)
        _scale(axes, arms, values, min(points, default=0))
        axes.set(xlabel="optimizer step", ylabel=name)
    _say(accuracy, [f"{arm.name}\n{lost}" for arm in arms if (lost := _lost(arm, accuracy))])
    handles, labels = accuracy.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=7, title=_ABOUT, **_SMALL)


def _apart(figure: Any, summary: Summary, arms: Sequence[ArmSummary], rows: int) -> None:
    """A panel for each arm, plain and jumps of the same seeds behind it, all with the same axes."""
    panels = figure.subplots(rows, ACROSS, sharex=True, sharey=True, squeeze=False).flatten()
    points = {arm.name: arm.jumps for arm in summary.set.entry.arms}
    first = min((p for jumps in points.values() for p in jumps), default=0)
    _scale(panels[0], arms, _errors, first)
    panels[0].set_xlim(0.8 * first, summary.set.entry.steps)
    others = [arm for arm in arms if arm.name != "plain"]
    for axes, arm in zip(panels, others, strict=False):
        _draw(axes, arm, _errors)
        for behind in (other for other in arms if other.name in _BEHIND and other is not arm):
            same = {seed: t for seed, t in behind.traces.items() if seed in arm.traces}
            _draw(axes, replace(behind, traces=same), _errors, _BEHIND[behind.name])
        _mark(axes, points.get(arm.name, ()))
        axes.set_title(arm.name, fontsize=9)
        axes.tick_params(labelsize=8)
        _say(axes, [lost] if (lost := _lost(arm, axes)) else [])
    for axes in panels[len(others) :]:
        axes.set_axis_off()
    for axes in panels[max(len(others) - ACROSS, 0) : len(others)]:
        axes.tick_params(labelbottom=True)  # nothing may stand below it
    handles = {
        _TOLD.get(label, "the arm of the panel" if label == arm.name else label): handle
        for axes, arm in zip(panels, others, strict=False)
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        if arm.name not in _COLOURS
    }
    panels[-1].legend(handles.values(), handles, loc="center", fontsize=9)
    figure.supxlabel(f"optimizer step\n{_ABOUT}", fontsize=9)
    figure.supylabel("accuracy, %", fontsize=9)


def _draw(
    axes: Any, arm: ArmSummary, values: Values, behind: float = 0, colour: str | None = None
) -> None:
    """An arm's lines; of one that stands behind another, of a width, no evaluations."""
    colour = colour or _COLOURS.get(arm.name, _OTHERS[0])
    lines = [(trace.steps, np.array(held(list(values(trace))))) for trace in arm.traces.values()]
    if not behind:
        for trace in arm.traces.values():
            axes.plot(trace.steps, values(trace), color=colour, alpha=0.35, linewidth=0.6)
    width = 1.1
    if lines and not falls(arm):
        steps = lines[0][0]
        lines = [(steps, np.median([np.interp(steps, *line) for line in lines], axis=0))]
        width = 1.9
    style = {"linestyle": (0, (4, 2.5))} if arm.name in _DASHED else {}
    for i, line in enumerate(lines):
        label = arm.name if i == 0 else None
        axes.plot(*line, color=colour, linewidth=behind or width, label=label, **style)


def _errors(trace: Trace) -> npt.NDArray[np.float64]:
    return np.asarray(100 * np.maximum(1 - np.array(trace.accuracy), _LEAST))


def _losses(trace: Trace) -> npt.NDArray[np.float64]:
    losses = np.array(trace.loss, float)
    return np.where(np.isfinite(losses), np.maximum(losses, _LEAST), np.nan)


def _mark(axes: Any, points: Sequence[int]) -> None:
    for i, point in enumerate(points):
        label = "jump points" if i == 0 else None
        style = {"color": COLOURS["jumps"], "linestyle": ":", "linewidth": 1}
        axes.axvline(point, **style, label=label)
    axes.grid(alpha=0.3)


def _scale(axes: Any, arms: Sequence[ArmSummary], values: Values, first: int) -> None:
    """Logarithmic, between the best and the worst running median from the first jump on.

    The worst is not that of seeds that collapsed, nor that of averages, which lag behind at first.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    late = [
        (arm.name != "averaging" and seed not in falls(arm), smooth)
        for arm in arms
        for seed, trace in arm.traces.items()
        if len(smooth := np.array(held(list(values(trace))))[np.array(trace.steps) >= first])
    ]
    worst = [np.nanmax(smooth) for usual, smooth in late if usual and np.isfinite(smooth).any()]
    best = [np.nanmin(smooth) for _, smooth in late if np.isfinite(smooth).any()]
    axes.set_yscale("log")
    if worst:
        ends = 0.9 * min(best), 1.2 * max(worst)
        axes.set_ylim(*(ends if values is _losses else ends[::-1]))
    shown = (lambda y, _: f"{y:g}") if values is _losses else (lambda y, _: f"{100 - y:g}")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.2, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(shown))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter("{x:,.0f}")


def _lost(arm: ArmSummary, axes: Any) -> str:
    """Where seeds end that are below the axis, if any."""
    worst = max(axes.get_ylim())
    ends = {s: 100 * a for s, a in arm.final.by_seed.items() if 100 * (1 - a) > worst}
    if not ends:
        return ""
    shares = dict.fromkeys(f"{share:.0f}" for share in (min(ends.values()), max(ends.values())))
    seeds = f"seed{'s' * (len(ends) > 1)} {listed(ends)}"
    return f"off the axis: {' to '.join(shares)} % at the end, {seeds}"


def _say(axes: Any, words: Sequence[str]) -> None:
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
    place = {"transform": axes.transAxes, "ha": "right", "va": "bottom", "fontsize": 8}
    if words:
        axes.text(0.98, 0.03, "\n".join(words), **place, bbox=box, parse_math=False)
