"""A picture of how far weights moved: histograms, and trajectories of weights drawn from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from weightcast.store.errors import UsageError
from weightcast.store.extras import require_matplotlib
from weightcast.store.history import History
from weightcast.store.output import check_writable, refuse_existing, replacing
from weightcast.store.sorted_runs import BINS, bin_edges
from weightcast.store.spread import GroupVariation, Measure, VariationReport
from weightcast.store.trajectories import trajectories

SUFFIXES = (".png", ".svg", ".pdf")
MOST_GROUPS = 8  # small histograms: of the tensors if they are so few, else of the kinds
ACROSS = 4
FEWER_BINS = 25  # of a small histogram
LONGEST = 34  # characters of a name
MOST_POINTS = 1000  # of a trajectory: a picture has no more columns
COLOURS: dict[Measure, str] = {"change": "#3465a4", "deviation": "#d9741a"}
THIRDS = {"lower third": "#8aa6c8", "middle third": "#5b86bd", "upper third": "#1f4e8c"}


def check_picture(
    path: str | Path, *, overwrite: bool = False, inputs: Sequence[str | Path] = ()
) -> Path:
    """Find out, before any work that ends in a picture, that it can be drawn and written.

    Parameters
    ----------
    path : str or Path
    overwrite : bool
        Accept a file that is there.
    inputs : sequence of str or Path
        What the picture must not replace.

    Raises
    ------
    UsageError
        If the path does not end in .png, .svg or .pdf.
    OutputExistsError
        If it is taken.
    MissingExtraError
        If matplotlib is not installed.
    """
    if Path(path).suffix not in SUFFIXES:
        raise UsageError(f"a picture must be called {', '.join(SUFFIXES)}: got {path}")
    refuse_existing(path, overwrite=overwrite, kind="file", inputs=inputs)
    check_writable(Path(path))
    require_matplotlib()
    return Path(path)


def save_variation_figure(
    report: VariationReport, history: History, path: str | Path, *, overwrite: bool = False
) -> None:
    """Draw the histograms of a report, and the trajectories of the weights it drew.

    Parameters
    ----------
    report : VariationReport
        Of `measure_variation`, with ``draw=5`` or so for trajectories.
    history : History
        What it reports on: only the chunks of the weights that were drawn are read.
    path : str or Path
        Picture to write; the suffix says the format: .png, .svg or .pdf.
    overwrite : bool
        Replace a file that is there.

    Raises
    ------
    UsageError, OutputExistsError, MissingExtraError
        If the path has another suffix, is taken, or matplotlib is not installed.

    Notes
    -----
    After figures 1 to 9 of Sinha et al. 2017.
    """
    check_picture(path, overwrite=overwrite, inputs=[history.path])
    figure = draw_figure(report, history)
    with replacing(path, new=not overwrite) as temporary:
        figure.savefig(temporary, dpi=150)


def draw_figure(report: VariationReport, history: History) -> Any:
    """The picture, as a Matplotlib figure."""
    from matplotlib.figure import Figure

    groups = _small_groups(report)
    heights = [3.6]
    heights += [3.4] if any(report.drawn) else []
    heights += [2.2] * -(-len(groups) // ACROSS)
    figure = Figure(figsize=(12, sum(heights) + 0.5), layout="constrained")
    figure.suptitle(
        f"{Path(report.source).name}: how far {report.model.weights:,} weights moved from step "
        f"{report.first_step:,} to {report.last_step:,}",
        fontsize=13,
        parse_math=False,
    )
    parts = list(figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])
    _draw_model(parts.pop(0), report)
    if any(report.drawn):
        _draw_trajectories(parts.pop(0), report, history)
    for part, start in zip(parts, range(0, len(groups), ACROSS), strict=True):
        _draw_groups(part, groups[start : start + ACROSS], first=start == 0)
    return figure


def _small_groups(report: VariationReport) -> list[GroupVariation]:
    """Tensors, or kinds where there are many tensors; none if there is but one."""
    tensors = [g for g in report.groups if g.what == "tensor"]
    kinds = [g for g in report.groups if g.what == "kind"]
    chosen = tensors if len(tensors) <= MOST_GROUPS else kinds
    return chosen if len(chosen) > 1 else []


def _draw_model(part: Any, report: VariationReport) -> None:
    for axes, measure in zip(part.subplots(1, 2), get_args(Measure), strict=True):
        draw_measure(axes, report, measure)


def draw_measure(axes: Any, report: VariationReport, measure: Measure) -> None:
    """Draw the whole model's histogram of a measure, its title, and some facts in words."""
    first, last = report.first_step, report.last_step
    titles = {
        "change": rf"change  $|\,w({last}) - w({first})\,|$",
        "deviation": rf"deviation  $\sqrt{{\mathrm{{mean}}_t\,(w(t) - w({first}))^2}}$",
    }
    _histogram(axes, report.model, measure, thirds=measure == report.by and any(report.drawn))
    axes.set_title(titles[measure], fontsize=11)
    axes.set(ylabel="weights in each of 100 bins")
    axes.text(
        *(0.98, 0.95, _facts(report, measure)),
        transform=axes.transAxes,
        ha="right",
        va="top",
        fontsize=9,
        linespacing=1.4,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8},
    )


def _facts(report: VariationReport, measure: Measure) -> str:
    spread = report.model.spread(measure)
    if spread is None:
        return ""
    shown = {
        q: v
        for q, v in zip(report.quantiles, spread.quantiles, strict=True)
        if q in (0.5, 0.9, 0.99)
    }
    lines = [f"{'median' if q == 0.5 else f'{100 * q:.0f} %'}: {v:.3g}" for q, v in shown.items()]
    lines += [
        f"{100 * spread.still:.1f} % moved by at most\n{100 * report.still:g} % of the furthest"
    ]
    lines += [f"{100 * spread.unmoved:.1f} % did not move"] if spread.unmoved else []
    return "\n".join(lines)


def _draw_groups(part: Any, groups: Sequence[GroupVariation], *, first: bool) -> None:
    """Both measures of each group over each other, on an axis of its own."""
    for axes, group in zip(part.subplots(1, ACROSS, squeeze=False)[0], groups, strict=False):
        _histogram(axes, group, "change", bins=FEWER_BINS)
        _histogram(axes, group, "deviation", bins=FEWER_BINS, line=True)
        name = group.name if len(group.name) <= LONGEST else f"...{group.name[3 - LONGEST :]}"
        axes.set_title(f"{name}  ({group.weights:,})", fontsize=9, parse_math=False)
        axes.tick_params(labelsize=8)
        if first and axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8, frameon=False, handlelength=1.2, loc="upper right")
            first = False
    for axes in part.axes[len(groups) :]:
        axes.set_axis_off()


def _histogram(
    axes: Any,
    group: GroupVariation,
    measure: Measure,
    *,
    bins: int = BINS,
    thirds: bool = False,
    line: bool = False,
) -> None:
    spread = group.spread(measure)
    axes.spines[["top", "right"]].set_visible(False)
    if spread is None or not spread.largest:
        why = "no weight moved" if spread else "no weight is finite"
        axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", color="0.4")
        axes.set(xticks=[], yticks=[])
        return
    edges = bin_edges(spread.largest)[:: BINS // bins]
    counts = np.array(spread.histogram).reshape(bins, -1).sum(axis=1)
    style: dict[str, Any] = {"baseline": 0.5, "fill": not line}
    style |= {"linewidth": 1.2} if line else {"alpha": 0.85}
    cuts = np.linspace(0, bins, 4).round().astype(int) if thirds else [0, bins]
    colours = list(THIRDS.values()) if thirds else [COLOURS[measure]]
    for low, high, colour in zip(cuts, cuts[1:], colours, strict=False):
        axes.stairs(counts[low:high], edges[low : high + 1], color=colour, label=measure, **style)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.yaxis.set_minor_formatter(lambda *_: "")
    axes.set_ylim(0.5, max(1.6 * counts.max(), 12, axes.get_ylim()[1]))
    axes.set_xlim(left=0)
    axes.grid(axis="y", alpha=0.25)


def _draw_trajectories(part: Any, report: VariationReport, history: History) -> None:
    first, last = history.row(report.first_step), history.row(report.last_step)
    count = min(last - first + 1, MOST_POINTS)
    rows = np.unique(np.linspace(first, last, count).round().astype(np.int64))
    panels = part.subplots(1, 3, sharey=True)
    for axes, third, weights in zip(panels, THIRDS, report.drawn, strict=True):
        places = np.array([w.parameter for w in weights], np.int64)
        values = trajectories(history, places, rows).astype(np.float64)
        for weight, line in zip(weights, values, strict=True):
            # A label that begins with "_" would be left out, as torch.compile's "_orig_mod" does.
            axes.plot(history.steps[rows], line - line[0], linewidth=1, label=f" {weight}")
        axes.axhline(0, color="0.6", linewidth=0.8, zorder=0)
        axes.set_title(f"{third} of the {report.by}", color=THIRDS[third], fontsize=11)
        axes.set(xlabel="step", xlim=(report.first_step, report.last_step))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        if weights:
            legend = axes.legend(fontsize=7, frameon=False, loc="best", handlelength=1.2)
            for text in legend.get_texts():
                text.set_parse_math(False)
    panels[0].set_ylabel(f"$w(t) - w({report.first_step})$")
