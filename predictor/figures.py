"""Pictures of a training, of a forecaster's errors, and of a comparison of forecasters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from weightcast.predictor.pairs import Pairs
from weightcast.predictor.tally import RIVALS, Errors
from weightcast.store.output import replacing

if TYPE_CHECKING:
    from weightcast.predictor.comparing import Comparison

COLOURS = {"forecaster": "#1f4e8c", "last_value": "#8a8a8a", "linear_fit": "#d9741a"}
MOST_TICKS = 7
SHOWN = 0.995  # of the true changes lie inside the axes
_L1 = r"mean |error| $\times$ 1000"


def save_curve_figure(
    curve: Sequence[tuple[int, float, float | None]],
    path: str | Path,
    *,
    last_value: float | None = None,
    title: str = "",
    overwrite: bool = False,
) -> None:
    """Draw training and validation error over the training's steps.

    Parameters
    ----------
    curve : sequence of (int, float, float or None)
        Step, training error and validation error, in the weights' units: `curve_` of a forecaster.
    path : str or Path
        Picture to write; the suffix says the format: .png, .svg or .pdf.
    last_value : float, optional
        Error of the last value on the samples of validation.
    title : str
    overwrite : bool
        Replace a file that is there.
    """
    figure = _figure(7, 4)
    axes = figure.subplots()
    parts = {
        "training": [(step, error) for step, error, _ in curve],
        "validation": [(step, error) for step, _, error in curve if error is not None],
    }
    colours = {"training": "#9db8d9", "validation": COLOURS["forecaster"]}
    for name, points in parts.items():
        if points:
            steps, errors = np.array(points, np.float64).T
            marker = "o" if len(points) < 30 else ""
            axes.plot(
                steps, 1000 * errors, label=name, color=colours[name], marker=marker, markersize=3
            )
    if last_value is not None:
        style = {"color": COLOURS["last_value"], "linestyle": "--", "linewidth": 1.2}
        axes.axhline(1000 * last_value, label="last value, validation", **style)
    axes.set(xlabel="training step", ylabel=_L1, xlim=(0, None))
    _scale(axes.yaxis, [error for points in parts.values() for _, error in points])
    _finish(axes, title)
    _save(figure, path, overwrite=overwrite)


def save_errors_figure(
    parts: Sequence[tuple[str, Sequence[Errors], Pairs]],
    path: str | Path,
    *,
    overwrite: bool = False,
) -> None:
    """Draw forecast change against true change, and beside it the error by t.

    Parameters
    ----------
    parts : sequence of (str, sequence of Errors, Pairs)
        For each set of data a title, its errors, and forecasts that were kept of it.
    path : str or Path
        Picture to write; the suffix says the format: .png, .svg or .pdf.
    overwrite : bool
        Replace a file that is there.
    """
    figure = _figure(11, 4.6 * len(parts))
    for row, (title, errors, pairs) in zip(
        figure.subfigures(len(parts), 1, squeeze=False)[:, 0], parts, strict=True
    ):
        row.suptitle(title, fontsize=11, parse_math=False)
        left, right = row.subplots(1, 2, width_ratios=(1, 1.15))
        _draw_pairs(left, pairs)
        _draw_by_t(right, [e for e in errors if e.by == "t"])
    _save(figure, path, overwrite=overwrite)


def save_comparison_figure(
    comparison: Comparison, path: str | Path, *, overwrite: bool = False
) -> None:
    """Draw the errors of every forecaster on every fold, the best on top.

    Parameters
    ----------
    comparison : Comparison
    path : str or Path
        Picture to write; the suffix says the format: .png, .svg or .pdf.
    overwrite : bool
        Replace a file that is there.
    """
    models = comparison.models
    figure = _figure(8, 1.3 + 0.36 * len(models))
    axes = figure.subplots()
    for place, model in enumerate(models):
        errors = 1000 * np.array(model.errors)
        axes.plot([errors.min(), errors.max()], [place, place], color="#9db8d9", linewidth=4)
        axes.plot(errors, [place] * len(errors), "|", color=COLOURS["forecaster"], markersize=8)
        axes.plot(np.median(errors), place, "o", color=COLOURS["forecaster"], markersize=5)
    still = [m for m in models if m.name == "last-value"]
    if still:
        style = {"color": COLOURS["last_value"], "linestyle": "--", "linewidth": 1.2}
        axes.axvline(1000 * still[0].error, label="last value", **style)
    axes.set_yticks(range(len(models)), [m.name for m in models], parse_math=False)
    axes.invert_yaxis()
    axes.set(xlabel=f"{_L1}  (dot: median of {comparison.folds} folds)")
    _scale(axes.xaxis, [error for model in models for error in model.errors])
    _finish(axes, "")
    axes.grid(axis="y", visible=False)
    _save(figure, path, overwrite=overwrite)


def _draw_pairs(axes: Any, pairs: Pairs) -> None:
    """Density of forecasts: on the diagonal they are right."""
    truth, forecast = (1000 * values for values in pairs.values())
    what = "change" if pairs.changes else "value"
    axes.set(xlabel=rf"true {what} $\times$ 1000", ylabel=rf"forecast {what} $\times$ 1000")
    axes.set_title(f"{len(truth):,} of {pairs.total:,} forecasts", fontsize=10)
    finite = np.isfinite(truth) & np.isfinite(forecast)
    truth, forecast = truth[finite], forecast[finite]
    reach = float(np.quantile(np.abs(truth), SHOWN)) if len(truth) else 0.0
    reach = reach or 1.0
    low, high = (-reach, reach) if (truth < 0).any() else (0.0, reach)
    drawn = axes.hexbin(
        truth,
        forecast,
        gridsize=60,
        extent=(low, high, low, high),
        bins="log",
        mincnt=1,
        cmap="viridis",
        linewidths=0.1,
    )
    axes.plot([low, high], [low, high], color="#c02020", linewidth=1, label="forecast = truth")
    if pairs.changes:
        axes.axhline(0, color="0.4", linewidth=0.8, linestyle=":", label="last value")
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.legend(fontsize=8, loc="upper left", framealpha=0.85)
    axes.spines[["top", "right"]].set_visible(False)
    bar = axes.figure.colorbar(drawn, ax=axes, shrink=0.85, pad=0.02)
    bar.set_label("forecasts", fontsize=9)


def _draw_by_t(axes: Any, errors: Sequence[Errors]) -> None:
    names = [e.group.removeprefix("t").lstrip(" =") for e in errors]
    for rival in reversed(RIVALS):  # the forecaster on top
        values = [getattr(e, rival) for e in errors]
        if all(value is not None for value in values):
            label = rival.replace("_", " ")
            axes.plot(
                range(len(values)),
                [1000 * value for value in values],
                color=COLOURS[rival],
                linestyle="-" if rival == RIVALS[0] else "--",
                marker="o",
                markersize=4,
                label=label,
            )
    every = max(-(-len(names) // MOST_TICKS), 1)
    axes.set_xticks(range(0, len(names), every), names[::every])
    if max(map(len, names), default=0) > 8:
        axes.tick_params(axis="x", labelrotation=25, labelsize=8)
    axes.set(xlabel="t, the step that is forecast from", ylabel=_L1, ylim=(0, None))
    _finish(axes, "error by t")


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.06)  # type: ignore[union-attr, call-arg]
    return figure


def _scale(axis: Any, values: Sequence[float]) -> None:
    """A logarithmic axis, in plain numbers, where values differ by more than a factor of 10."""
    from matplotlib.ticker import LogLocator

    positive = [v for v in values if v > 0]
    if not positive or max(positive) <= 10 * min(positive):
        return
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(lambda *_: "")


def _finish(axes: Any, title: str) -> None:
    axes.set_title(title, fontsize=10, parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=False)


def _save(figure: Any, path: str | Path, *, overwrite: bool) -> None:
    with replacing(path, new=not overwrite) as temporary:
        figure.savefig(temporary, dpi=150)
