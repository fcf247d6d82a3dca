"""The picture of pruning with rewinding: accuracy against the share of weights that remain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from weightcast.experiments.imp_numbers import Imp
from weightcast.experiments.saving import save
from weightcast.store.extras import require_matplotlib

_COLOURS = ("tab:blue", "tab:green", "tab:orange", "tab:red", "tab:purple", "tab:brown")
_CONTROLS = {"random re-init": "0.55", "random pruning": "0.2"}


def save_picture(imp: Imp, path: Path) -> None:
    """Draw each line's median over the seeds, and a band from the least to the most.

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullLocator

    figure = Figure(figsize=(9, 4.8), layout="constrained")
    axes = figure.subplots()
    if imp.dense.median is not None:
        _dense(axes, imp)
    for place, line in enumerate(imp.lines):
        _draw(axes, imp, line, place)
    axes.set_xscale("log")
    axes.invert_xaxis()
    axes.set_xticks([100 * share for share in (1.0, *imp.remaining.values())])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(xlabel="weights that remain, %", ylabel="test accuracy at the last step, %")
    axes.set_title(imp.protocol.experiment.title, fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(loc="best", fontsize=8)
    save(figure, path, overwrite=True)


def _dense(axes: Any, imp: Imp) -> None:
    """A level across the picture."""
    axes.axhspan(100 * imp.dense.low, 100 * imp.dense.high, color="0.5", alpha=0.12, linewidth=0)
    level = 100 * (imp.dense.median or 0)
    axes.axhline(level, color="0.5", linestyle="--", linewidth=1, label="dense")


def _draw(axes: Any, imp: Imp, line: str, place: int) -> None:
    spreads = {n: imp.at_end(line, n) for n in imp.remaining}
    there = [n for n in spreads if spreads[n].by_seed]
    x = [100 * imp.remaining[n] for n in there]
    low, high = ([100 * getattr(spreads[n], end) for n in there] for end in ("low", "high"))
    control = _CONTROLS.get(line.rpartition(" ")[0])
    colour = control or _COLOURS[place % len(_COLOURS)]
    style: Any = {"color": colour, "linestyle": ":" if control else "-", "marker": "."}
    axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
    axes.plot(x, [100 * (spreads[n].median or 0) for n in there], label=line, **style)
