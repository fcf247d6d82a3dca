"""A picture of the early phase of a run: curves over log-scaled steps, its sub-phases marked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from weightcast.store.early_report import EarlyReport
from weightcast.store.output import replacing
from weightcast.store.spread_figure import check_picture

COLOURS = ("#3465a4", "#d9741a")
SHADES = {"fall": "#f3e3d3", "between": "#dfe8f3", "settled": "#e6f0e0"}


def save_early_figure(report: EarlyReport, path: str | Path, *, overwrite: bool = False) -> None:
    """Draw the rows of a report: six panels, or five where no loss or accuracy was logged.

    Parameters
    ----------
    report : EarlyReport
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
    After figure 3 of Frankle, Schwab and Morcos 2020.
    """
    check_picture(path, overwrite=overwrite, inputs=[report.source])
    figure = draw_early(report)
    with replacing(path, new=not overwrite) as temporary:
        figure.savefig(temporary, dpi=120)


def draw_early(report: EarlyReport) -> Any:
    """The picture, as a Matplotlib figure."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6.6), layout="constrained")
    figure.suptitle(f"{Path(report.source).name}: {_title(report)}", fontsize=12, parse_math=False)
    panels = list(figure.subplots(2, 3, sharex=True).flat)
    start, end = report.start, report.end
    _draw(panels[0], report, *_motion(report))
    _draw(panels[1], report, "mean magnitude of a weight", {"|w|": "magnitude"})
    ends = {f"from step {start:,}": "from_start", f"to step {end:,}": "to_end"}
    _draw(panels[2], report, "Euclidean distance", ends)
    angles = {f"with step {start:,}": "cosine_start", f"with step {end:,}": "cosine_end"}
    _draw(panels[3], report, "cosine of weights", angles)
    shares = {"sign changed": "sign_changes", f"moved > {report.moved:g} |w({start})|": "moved"}
    _draw(panels[4], report, f"share of weights, against step {start:,}", shares)
    logged: dict[str, str] = {
        report.metrics[c]: c for c in ("loss", "accuracy") if c in report.metrics
    }
    if logged:
        _draw(panels[5], report, "logged metrics", logged, apart=True)
    else:
        panels[5].set_axis_off()
        said = "no loss or accuracy was logged"
        panels[5].text(0.5, 0.5, said, transform=panels[5].transAxes, ha="center", color="0.4")
        panels[2].tick_params(labelbottom=True)
    for axes in panels[3:]:
        axes.set_xlabel("step")
    return figure


def _title(report: EarlyReport) -> str:
    phases, last = report.phases, report.rows[-1].step
    said = f"{report.weights:,} weights to step {last:,}"
    if phases.minimum is None:
        return f"{said}; no sub-phases found in the {phases.of}"
    said += f"; {phases.of} at its minimum at step {phases.minimum:,}"
    return said if phases.settled is None else f"{said}, settled at {phases.settled:,}"


def _motion(report: EarlyReport) -> tuple[str, dict[str, str]]:
    """Title and column of the panel that sub-phases are found in."""
    if "gradient" not in report.metrics:
        return "mean way of a weight in a step", {"step size": "step_size"}
    name = report.metrics["gradient"]
    if name == "gradients":
        return "mean magnitude of a gradient", {"|gradient|": "gradient"}
    return "logged gradient magnitude", {name: "gradient"}


def _draw(
    axes: Any, report: EarlyReport, title: str, columns: Mapping[str, str], *, apart: bool = False
) -> None:
    """One or two columns over log-scaled steps; `apart`, the second has an axis of its own.

    Lines pass over rows where a column is unknown: a metric may be logged at few steps.
    """
    shown = [row for row in report.rows if row.step > 0]  # a logarithm has no 0
    steps = [row.step for row in shown]
    places = (axes, axes.twinx() if apart and len(columns) > 1 else axes)
    lines = []
    for place, colour, (label, column) in zip(places, COLOURS, columns.items(), strict=False):
        points = [(row.step, v) for row in shown if (v := getattr(row, column)) is not None]
        at, values = zip(*points, strict=True) if points else ((), ())
        lines += place.plot(at, values, ".-", color=colour, linewidth=1.3, markersize=4)
        lines[-1].set_label(f" {label}")  # what begins with "_" would be left out
        if place is not axes:
            place.tick_params(axis="y", colors=colour)
    _mark(axes, report, steps[0], steps[-1])
    axes.set_xscale("log")
    axes.set_xlim(steps[0], max(steps[-1], steps[0] + 1))
    axes.set_title(title, fontsize=10, parse_math=False)
    axes.grid(alpha=0.25)
    axes.spines["top"].set_visible(False)
    for text in axes.legend(handles=lines, fontsize=8, frameon=False).get_texts():
        text.set_parse_math(False)


def _mark(axes: Any, report: EarlyReport, first: int, last: int) -> None:
    """Shade the sub-phases that were found."""
    cuts = [report.phases.minimum, report.phases.settled]
    known = [cut for cut in cuts if cut is not None]
    if not known:
        return
    edges = [first, *known, last]
    for name, low, high in zip(SHADES, edges, edges[1:], strict=False):
        axes.axvspan(low, high, color=SHADES[name], zorder=0, linewidth=0)
        middle = np.sqrt(low * high)
        axes.text(
            middle,
            0.99,
            name,
            transform=axes.get_xaxis_transform(),
            va="top",
            ha="center",
            fontsize=7,
            color="0.45",
        )
