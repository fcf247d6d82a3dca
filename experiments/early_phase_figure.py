"""A network's picture: accuracy from every start, and against how far it is from rewinding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from weightcast.experiments.early_phase_numbers import Outcome
from weightcast.experiments.early_phase_starts import REWOUND
from weightcast.experiments.saving import save
from weightcast.store.extras import require_matplotlib

COLOURS = {False: "0.35", True: "tab:red"}
_WORDS = {False: "dense", True: "sparse"}


def save_figure(outcome: Outcome, path: Path) -> None:
    """Draw a network: a row of two panels for each step that runs begin at.

    Left, a mark for the median over the seeds of a start's accuracy at the end, and a line for the
    range; dashed lines are rewinding. Right, the same accuracies, a point a run, against the
    distance of the start from the recorded step, as a multiple of that step's from step 0.

    Parameters
    ----------
    outcome : Outcome
    path : Path
        Picture to write; the suffix says the format.

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    rows = len(outcome.steps)
    figure = Figure(figsize=(11, 0.4 + 4.2 * rows), layout="constrained")
    panels = figure.subplots(rows, 2, squeeze=False, width_ratios=(3, 2))
    for (left, right), k in zip(panels, outcome.steps, strict=True):
        _starts(left, outcome, k)
        _distances(right, outcome, k)
    panels[0][0].legend(loc="best", fontsize=9)
    save(figure, path, overwrite=True)


def _starts(axes: Any, outcome: Outcome, k: int) -> None:
    names = outcome.starts()
    for sparse, colour in COLOURS.items():
        label: str | None = _WORDS[sparse]
        for place, name in enumerate(names):
            numbers = outcome.accuracy(name, k, sparse=sparse)
            if numbers.median is None:
                continue
            y = place + (0.15 if sparse else -0.15)
            ends = [100 * numbers.low, 100 * numbers.high]
            axes.plot(ends, [y, y], color=colour, linewidth=1.5)
            axes.plot(100 * numbers.median, y, "o", color=colour, markersize=5, label=label)
            label = None  # once in the legend
            if name == REWOUND.name:
                axes.axvline(100 * numbers.median, color=colour, linestyle="--", linewidth=0.8)
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.invert_yaxis()
    axes.set(xlabel="test accuracy at the end, %", title=f"from step {k:,}")
    axes.grid(alpha=0.3)


def _distances(axes: Any, outcome: Outcome, k: int) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for sparse, colour in COLOURS.items():
        points = [
            (r.moved / r.change, 100 * r.accuracy)
            for r in outcome.rows
            if (r.k, r.sparse) == (k, sparse) and r.moved and r.change
        ]
        x, y = zip(*points, strict=True) if points else ((), ())
        axes.plot(x, y, "o", color=colour, markersize=4, alpha=0.6)
        rewound = outcome.accuracy(REWOUND.name, k, sparse=sparse)
        if rewound.median is not None:
            axes.axhline(100 * rewound.median, color=colour, linestyle="--", linewidth=0.8)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel=f"moved, in changes from step 0 to {k:,}")
    axes.set(ylabel="test accuracy at the end, %", title="dashed: rewinding")
    axes.grid(alpha=0.3)
