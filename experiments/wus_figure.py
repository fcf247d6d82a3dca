"""A setting's picture: accuracy against processor seconds, with the windows that were skipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from weightcast.experiments.saving import save
from weightcast.experiments.wus_measured import Measured
from weightcast.experiments.wus_numbers import Runs
from weightcast.store.extras import require_matplotlib

PANELS = {
    "constant learning rate": {"plain": "0.35", "WUS": "tab:red"},
    "with a schedule (LR)": {
        "plain + LR": "0.35",
        "WUS + LR": "tab:red",
        "shorter + LR": "tab:blue",
    },
}


def save_curves(runs: Runs, path: Path) -> None:
    """Draw a setting: thin lines are seeds, bold ones their median, evaluation by evaluation.

    Bands are the windows in which the run that skips left weights alone, of the first seed.

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (title, colours) in zip(panels, PANELS.items(), strict=True):
        for arm, colour in colours.items():
            if found := runs.arms.get(arm):
                _draw(axes, arm, list(found.values()), colour)
                if arm.startswith("WUS"):
                    _shade(axes, found[min(found)], min(found))
        axes.set(xlabel="processor seconds of training", title=title)
        axes.grid(alpha=0.3)
        if axes.has_data():
            axes.legend(loc="lower right")
    panels[0].set_ylabel("test accuracy, %")
    panels[0].set_ylim(*_limits(runs))
    save(figure, path, overwrite=True)


def _draw(axes: Any, arm: str, runs: list[Measured], colour: str) -> None:
    for run in runs:
        axes.plot(run.trace.seconds, _percent(run), color=colour, alpha=0.35, linewidth=0.6)
    count = min(len(run.trace.steps) for run in runs)  # shorter runs differ in length
    seconds = np.median([run.trace.seconds[:count] for run in runs], axis=0)
    middle = np.median([_percent(run)[:count] for run in runs], axis=0)
    axes.plot(seconds, middle, color=colour, linewidth=1.8, label=arm)


def _shade(axes: Any, run: Measured, seed: int) -> None:
    for i, window in enumerate(run.windows):
        low, high = np.interp(window, run.trace.steps, run.trace.seconds)
        label = None if i else f"weights skipped, seed {seed}"
        axes.axvspan(low, high, color="tab:red", alpha=0.12, linewidth=0, label=label)


def _percent(run: Measured) -> np.ndarray:
    return 100 * np.asarray(run.trace.accuracy)


def _limits(runs: Runs) -> tuple[float, float]:
    """Between which the accuracies are in the last four fifths of training."""
    every = [run for found in runs.arms.values() for run in found.values()]
    late = np.concatenate([_percent(run)[len(run.trace.steps) // 5 :] for run in every])
    margin = 0.05 * (late.max() - late.min()) + 0.2
    return float(late.min() - margin), float(late.max() + margin)
