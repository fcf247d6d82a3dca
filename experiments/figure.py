"""The demo's picture: accuracy and loss of every arm, with the jump points marked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from weightcast.experiments.demo import DemoResult
from weightcast.experiments.training import running_median
from weightcast.store.extras import require_matplotlib
from weightcast.store.output import replacing

COLOURS = {  # Okabe and Ito's, which colour-blind people tell apart; for all pictures of arms
    "plain": "0.35",
    "jumps": "#d55e00",
    "line jumps": "#e69f00",
    "averaging": "#009e73",
    "tuned rate": "#56b4e9",
    "one-cycle": "#0072b2",
}


def save_figure(result: DemoResult, path: str | Path) -> None:
    """Draw a demo's curves: a line a seed, and the median of the seeds in bold.

    Parameters
    ----------
    result : DemoResult
    path : str or Path
        Picture to write; the suffix says the format.

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    accuracy, loss = figure.subplots(1, 2)
    for arm, curves in result.curves.items():
        _draw(accuracy, arm, [(c.steps, [100 * a for a in c.accuracy]) for c in curves])
        _draw(loss, arm, [(c.steps, c.loss) for c in curves])
    plain = result.curves["plain"]
    top = 100 * max(max(c.accuracy) for arm in result.curves.values() for c in arm)
    late = [
        a for c in plain for s, a in zip(c.steps, c.accuracy, strict=True) if s > c.steps[-1] / 5
    ]
    accuracy.set_ylim(min(100 * min(late) - 2, top - 5), min(top + 0.7, 100.2))
    loss.set_yscale("log")
    for axes, name in ((accuracy, "validation accuracy, %"), (loss, "validation loss")):
        for i, point in enumerate(result.jump_points):
            label = "jump points" if i == 0 else None
            axes.axvline(point, color=COLOURS["jumps"], linestyle=":", linewidth=1, label=label)
        axes.set(xlabel="optimizer step", ylabel=name)
        axes.grid(alpha=0.3)
    accuracy.legend(loc="lower right")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _draw(axes: Any, arm: str, curves: list[tuple[list[int], list[float]]]) -> None:
    smooth = [(steps, running_median(values)) for steps, values in curves]
    for steps, values in smooth:
        axes.plot(steps, values, color=COLOURS[arm], alpha=0.25, linewidth=0.8)
    middle = np.median([values for _, values in smooth], axis=0)
    axes.plot(smooth[0][0], middle, color=COLOURS[arm], linewidth=2, label=arm)
