"""What a forecaster sees of a dataset's samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from weightcast.store import Dataset, NonFiniteError, ShapeError
from weightcast.store.columns import Entry, printed
from weightcast.store.facts import TIMES, time_facts

BLOCK = 1 << 16  # samples that are looked at together

Int = npt.NDArray[np.integer[Any]]
Float = npt.NDArray[np.floating[Any]]


def require_seen(entries: Sequence[Entry], dataset: Dataset) -> None:
    """Check that a dataset's samples hold what a forecaster sees; times they always have.

    Raises
    ------
    ShapeError
        If an entry of the context is not there.
    """
    missing = [e for e in entries if e not in TIMES and e not in dataset.recipe.context]
    if missing:
        raise ShapeError(
            f"{dataset.path} is a dataset of another context than the forecaster's: it has "
            f"{printed(dataset.recipe.context)}, the forecaster sees {printed(entries)}: build one "
            f"with --context {printed(entries)}"
        )


def seen(entries: Sequence[Entry], dataset: Dataset, rows: Int) -> Float:
    """The columns of a context, of some samples: shape (F, n), of the dataset's dtype.

    Raises
    ------
    NonFiniteError
        If one is NaN or infinite.
    """
    given = {entry: column for column, entry in enumerate(dataset.recipe.context)}
    samples = np.asarray(dataset.X[rows])  # [n, F of the dataset]
    _require_finite(samples, dataset, rows, "X")
    times = time_facts(dataset.step[rows], dataset.target[rows])
    found = np.empty((len(entries), len(rows)), samples.dtype)
    for into, entry in zip(found, entries, strict=True):
        into[:] = samples[:, given[entry]] if entry in given else times[str(entry)]
    return found


def truth(dataset: Dataset, rows: Int) -> Float:
    """The targets of some samples, shape (n,); NonFiniteError if one is NaN or infinite."""
    found = np.asarray(dataset.y[rows])
    _require_finite(found, dataset, rows, "y")
    return found


def require_finite(dataset: Dataset) -> None:
    """Check all samples of a dataset: NonFiniteError if one is NaN or infinite."""
    for low in range(0, len(dataset), BLOCK):
        rows = np.arange(low, min(low + BLOCK, len(dataset)))
        _require_finite(dataset.X[rows], dataset, rows, "X")
        _require_finite(dataset.y[rows], dataset, rows, "y")


def _require_finite(values: Float, dataset: Dataset, rows: Int, name: str) -> None:
    finite = np.isfinite(values)
    if not finite.all():
        row = rows[np.argwhere(~finite)[0, 0]]
        raise NonFiniteError(
            f"samples must be finite: {dataset.path} has NaN or infinity in {name}, row {row}: "
            "build it again from histories that did not diverge, or with a lower --t-max"
        )
