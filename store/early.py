"""The early phase of a run, measured from its history."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import takewhile
from numbers import Real
from pathlib import Path

import numpy as np
import numpy.typing as npt

from weightcast.store.early_report import COLUMNS, EarlyReport, EarlyRow
from weightcast.store.early_rows import gradientless, rows_of
from weightcast.store.early_sums import GRADIENTS, Plan, add_up
from weightcast.store.errors import SamplingError, UsageError
from weightcast.store.history import History
from weightcast.store.output import refuse_existing, replacing
from weightcast.store.parameters import matches
from weightcast.store.subphases import SubPhases, find_sub_phases

FEWEST = 3  # recorded steps
POINTS = 40
USUAL = {  # names that metrics go by, the likeliest first
    "gradient": ("grad_norm", "gradient_norm", "grad_magnitude", "gradient_magnitude"),
    "loss": ("loss", "train_loss", "training_loss"),
    "accuracy": ("accuracy", "test_accuracy", "val_accuracy", "eval_accuracy", "acc", "val_acc"),
}


def measure_early(
    history: History | str | Path,
    *,
    until: int | None = None,
    steps: Sequence[int] = (),
    points: int = POINTS,
    moved: float = 0.5,
    gradient: str | None = None,
    loss: str | None = None,
    accuracy: str | None = None,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    progress: Callable[[str, int, int], None] | None = None,
) -> EarlyReport:
    """Measure how weights move in the first steps of a run.

    Parameters
    ----------
    history : History or path
    until : int, optional
        Measure recorded steps up to this one; all by default.
    steps : sequence of int
        Recorded steps to measure beside the first; by default some are chosen.
    points : int
        How many to choose about: evenly spaced in log(step), the first and the last among them.
    moved : float
        A weight has moved if by more than this times its own magnitude at the first step.
    gradient, loss, accuracy : str, optional
        Names of logged metrics. By default such as are usual: `USUAL`, alone or after a "/". A
        history with recorded gradients needs none for them.
    include, exclude : str or sequence of str
        Globs of the names of the parameters to measure.
    progress : callable, optional
        Called with (what, done, total).

    Returns
    -------
    EarlyReport

    Raises
    ------
    SamplingError
        If there are fewer than three recorded steps to measure.
    StepNotRecordedError
        Naming the recorded steps on both sides of it.
    UsageError
        If an option is out of range, a metric was not logged, or no parameter is selected.
    FormatError
        If the history is damaged.

    Notes
    -----
    After Frankle, Schwab and Morcos 2020 (ICLR, arXiv 2002.10365). Sums are float64, over the same
    groups of weights whatever the chunks are. One pass over the recorded steps up to the last that
    is measured; memory: some decoded chunks.

    Examples
    --------
    >>> import tempfile
    >>> from weightcast.store import HistoryWriter, ParameterTable
    >>> table = ParameterTable.of([("w", (2,), "float32", "weight")])
    >>> path = tempfile.mkdtemp() + "/run.zarr"
    >>> with HistoryWriter.create(path, table) as writer:
    ...     writer.append([0, 1, 2], np.zeros(3), np.float32([[1, 1], [0, 1], [-2, 1]]))
    >>> last = measure_early(path).rows[-1]
    >>> last.step, last.step_size, last.from_start, last.sign_changes
    (2, 1.0, 3.0, 0.5)
    """
    opened = history if isinstance(history, History) else History(history)
    if not isinstance(moved, Real) or not 0 <= moved < math.inf:
        raise UsageError(f"moved must be a number from 0 on: got {moved!r:.60}")
    parameters = tuple(p for p in opened.parameters if p.size and matches(p.name, include, exclude))
    if not parameters:
        raise UsageError(
            f"include {include!r} and exclude {exclude!r} select none of the parameters of "
            f"{opened.path}: 'weightcast info' lists them"
        )
    rows = _rows(opened, until, steps, points)
    metrics = _metrics(opened, {"gradient": gradient, "loss": loss, "accuracy": accuracy})
    plan = Plan(opened, parameters, rows, moved)
    totals = add_up(plan, progress)
    table = rows_of(plan, totals, metrics)
    gaps = np.diff(opened.steps[: rows[-1] + 1])
    return EarlyReport(
        source=str(opened.path),
        weights=plan.weights,
        start=int(opened.steps[0]),
        end=int(opened.steps[-1]),
        moved=moved,
        metrics=metrics,
        gradientless=gradientless(plan, totals) if metrics.get("gradient") == GRADIENTS else 0,
        rows=table,
        phases=_phases(table, gaps, "gradient" if "gradient" in metrics else "step_size"),
    )


def save_table(report: EarlyReport, path: str | Path, *, overwrite: bool = False) -> None:
    """Write the rows of a report as CSV; what is not known is an empty field.

    Raises
    ------
    OutputExistsError
        If the path is taken.
    """
    refuse_existing(path, overwrite=overwrite, kind="file", inputs=[report.source])
    with replacing(path, new=not overwrite) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([getattr(row, name) for name in COLUMNS] for row in report.rows)


def _rows(
    history: History, until: int | None, steps: Sequence[int], points: int
) -> tuple[int, ...]:
    """Rows to measure: the first, and those asked for or chosen."""
    recorded = history.steps
    count = len(recorded) if until is None else int(np.searchsorted(recorded, until, side="right"))
    if count < FEWEST:
        which = "" if until is None else f" up to step {until}"
        raise SamplingError(
            f"an early phase needs {FEWEST} recorded steps at least: {history.path} has "
            f"{count}{which}: record more, as with --schedule dense:500+every:100, or raise until"
        )
    if steps:
        if beyond := [s for s in steps if until is not None and s > until]:
            raise UsageError(f"steps must lie up to until, {until}: got {beyond[0]}")
        rows = {0, *(history.row(step) for step in steps)}
        if len(rows) < 2:
            raise UsageError(f"steps must be others than the first, {recorded[0]}: got {steps[0]}")
        return tuple(sorted(rows))
    if points < FEWEST:
        raise UsageError(f"points must be at least {FEWEST}: got {points}")
    first, last = int(recorded[0]), int(recorded[count - 1])
    wanted = first + np.geomspace(max(int(recorded[1]) - first, 1), last - first, points - 1)
    # the nearest at or after each, in whole steps: 99.99... is 100
    near = np.searchsorted(recorded[:count], np.rint(wanted).astype(np.int64))
    return tuple(sorted({0, *np.minimum(near, count - 1).tolist()}))


def _metrics(history: History, asked: dict[str, str | None]) -> dict[str, str]:
    """What each column of metrics is from; none of those that nobody asked for and are not there.

    Raises
    ------
    UsageError
        If a metric that was asked for was not logged.
    """
    found = {}
    for column, name in asked.items():
        if name is not None:
            history.metric(name)
            found[column] = name
        elif column == "gradient" and GRADIENTS in history.wide:
            found[column] = GRADIENTS
        elif usual := _usual(history.metrics, USUAL[column]):
            found[column] = usual
    return found


def _usual(names: Sequence[str], usual: Sequence[str]) -> str | None:
    """The first of some names that goes by a usual one, alone before those after a "/"."""
    plain = {name: name.lower().replace("-", "_") for name in names}
    ends = {name: text.rpartition("/")[2] for name, text in plain.items()}
    for texts in (plain, ends):
        for wanted in usual:
            if name := next((name for name, text in texts.items() if text == wanted), None):
                return name
    return None


def _phases(table: Sequence[EarlyRow], gaps: npt.NDArray[np.int64], of: str) -> SubPhases:
    """Sub-phases of the gradient if there is one, else of the step size.

    Rows where that is unknown are left out, as a metric may be logged at few steps; where weights
    are no longer finite the curve ends. A weight that wanders goes a shorter way between recorded
    steps that lie further apart: step sizes are compared only as long as the recorded steps lie
    equally far apart.
    """
    until = math.inf
    if of == "step_size" and len(other := np.flatnonzero(gaps != gaps[0])):
        until = int(gaps[: other[0]].sum()) + table[0].step
    finite = takewhile(lambda row: not row.not_finite, table[1:])
    curve = [(row.step, getattr(row, of)) for row in finite if row.step <= until]
    known = [point for point in curve if point[1] is not None]
    found = find_sub_phases(
        of.replace("_", " "), *(zip(*known, strict=True) if known else ((), ()))
    )
    if until < math.inf:
        note = f"looked at up to step {until}, where the recorded steps cease to be evenly spaced"
        found = replace(found, why=f"{found.why}; {note}" if found.why else note)
    return found
