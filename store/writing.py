"""Last pass: each task writes its own rows of the dataset."""

from __future__ import annotations

from typing import Any

import numpy as np

from weightcast.store.choosing import Stage
from weightcast.store.dataset_format import chunk_file, columns
from weightcast.store.scanning import open_source, refuse_non_finite
from weightcast.store.sources import Source
from weightcast.store.split import held_out_runs, held_out_weights


def write_rows(stage: Stage, index: int, first: int) -> None:
    """Write the samples of a task, ordered by weight and draw, from row `first` on."""
    work, plan = stage.work, stage.work.plan
    source, kept, strata = work.source(index), work.load(index, "kept"), work.load(index, "strata")
    chosen = stage.choice.chosen(source, kept, strata)
    kept, strata = kept[chosen], strata[chosen]
    if not len(kept):
        return
    opened = open_source(work, source)
    choices, choice = opened.choices, kept["choice"]
    step = choices.t[choice]
    good = np.isfinite(kept["X"]).all(axis=1) & np.isfinite(kept["y"])
    if not good.all():
        bad = int(np.argmin(good))
        refuse_non_finite(opened.history, kept["weight"][bad], step[bad])
    parts = {
        "X": kept["X"],
        "y": kept["y"],
        "parameter": kept["weight"],
        "step": step,
        "stratum": strata,
        "variation": kept["variation"],
        "run": np.full(len(kept), source.run),
        "validation": _held_out(source, kept["weight"], len(plan.sources)),
        "target": choices.target[choice],
        "horizon": choices.horizon[choice],
    }
    for column in columns(plan.dtype, len(plan.recipe.context)):
        # Not through a mapping: on a full disk, that kills the process.
        with chunk_file(work.folder, column).open("r+b") as file:
            part = parts[column.name].astype(column.dtype)
            file.seek(first * part[:1].nbytes)
            file.write(np.ascontiguousarray(part).data)


def _held_out(source: Source, weight: Any, runs: int) -> Any:
    recipe = source.recipe
    if recipe.validation_by == "run":
        return np.full(len(weight), held_out_runs(recipe.seed, recipe.validation, runs)[source.run])
    low, high = int(weight.min()), int(weight.max()) + 1
    return held_out_weights(recipe.seed, recipe.validation, low, high)[weight - low]
