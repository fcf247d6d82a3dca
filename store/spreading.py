"""Measuring how far weights moved, with one decode of the history.

::

    measure   each task: a chunk's weights at all steps -> change, deviation      one decode
    sort      each task: a million values -> a sorted run of each kind, its largest,
              and the statistics of the tensors that lie in it wholly
    report    binary searches in the runs                                         no pass at all

The two measures, and the same in sorted runs, lie in scratch files: 16 bytes a float32 weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt

from weightcast.store import scheduling
from weightcast.store.decoding import ChunkReader
from weightcast.store.errors import UsageError
from weightcast.store.history import History
from weightcast.store.keyed import check_seed
from weightcast.store.scheduling import Progress
from weightcast.store.sorted_runs import Float
from weightcast.store.spread import QUANTILES, Measure, VariationReport, WeightVariation
from weightcast.store.spread_files import check_output, write_output
from weightcast.store.spread_plan import SpreadPlan, plan_spread
from weightcast.store.spread_report import draw_weights, groups_of, most_changed
from weightcast.store.spread_scratch import Measured, scratch_folder
from weightcast.store.spread_sorting import Sorted, Sorter
from weightcast.store.variation import variation

ROWS, COLUMNS = 2048, 64  # weights and steps whose squares are added at a time: 1 MB


def measure_variation(
    history: History | str | Path,
    *,
    output: str | Path | None = None,
    quantiles: tuple[float, ...] = QUANTILES,
    still: float = 0.01,
    top: int = 10,
    by: Measure = "change",
    include: str | tuple[str, ...] = (),
    exclude: str | tuple[str, ...] = (),
    from_step: int | None = None,
    to_step: int | None = None,
    draw: int = 0,
    seed: int = 0,
    scheduler: str = "threads",
    workers: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> VariationReport:
    """Measure how far the weights of a history moved: all of them, by kind, and by tensor.

    Two measures: the change ``|w(T) - w(0)|``, and the deviation, the square root of the second
    moment about the initial value: ``sqrt(mean((w(t) - w(0)) ** 2))`` over the recorded steps after
    the first.

    Parameters
    ----------
    history : History or path
    output : str or Path, optional
        Where to write both measures of every weight: a ``.zarr`` group or a ``.parquet`` file.
    quantiles : tuple of float
        Which to report, each from 0 to 1.
    still : float
        A weight barely moved if by at most this fraction of the largest value of its group.
    top : int
        How many of the most changed weights to name.
    by : {"change", "deviation"}
        What they are the most changed by.
    include, exclude : str or tuple of str
        Globs of the names of the parameters to measure.
    from_step, to_step : int, optional
        Measure between the first and the last recorded step within these bounds.
    draw : int
        How many weights to draw at random from each third of the histogram.
    seed : int
        Of that draw.
    scheduler, workers
        See `weightcast.store.scheduling.workers`.
    overwrite : bool
    progress : callable, optional
        Called with (what, done, total).

    Returns
    -------
    VariationReport

    Raises
    ------
    UsageError, SamplingError
        If an option is out of range, no parameter is selected, or there are fewer than two steps.
    OutputExistsError
        If the output is taken.
    FormatError
        If a chunk is damaged.

    Notes
    -----
    Section 3 of Sinha et al. 2017. Sums are float64, and added in the order of the steps: the
    result does not depend on chunks or workers. A task holds one decoded chunk.

    Examples
    --------
    >>> import tempfile
    >>> from weightcast.store import HistoryWriter, ParameterTable
    >>> table = ParameterTable.of([("w", (4,), "float32", "weight")])
    >>> path = tempfile.mkdtemp() + "/run.zarr"
    >>> with HistoryWriter.create(path, table) as writer:
    ...     rows = np.float32([[0, 0, 0, 0], [0, 4, 0, 1], [0, 4, 1, 1]])
    ...     writer.append([0, 10, 20], np.zeros(3), rows)
    >>> report = measure_variation(path, quantiles=(0.5, 1), top=1)
    >>> report.model.change.quantiles, report.model.change.unmoved
    ((1.0, 4.0), 0.25)
    >>> print(report.top[0], report.top[0].deviation)
    w[1] 4.0
    """
    options = _Options(tuple(quantiles), still, top, by, draw, seed)
    scheduling.check_scheduler(scheduler, workers)
    opened = history if isinstance(history, History) else History(history)
    plan = plan_spread(opened, include, exclude, from_step, to_step)
    if output is not None:
        check_output(output, overwrite=overwrite, inputs=[opened.path])
    with scratch_folder(output) as folder:
        measured = Measured(folder, str(opened.weights.dtype), plan.table, plan.origins)
        measured.allocate()
        with scheduling.workers(scheduler, workers) as pool:
            pool.run("measure", _measure, plan.tasks(), progress, common=(plan, measured))
            sorter = Sorter(measured, options.quantiles, still, by, top)
            pieces = pool.run("sort", Sorter.sort, plan.pieces(), progress, common=sorter)
        report = _report(plan, measured, options, pieces)
        if output is not None:
            write_output(Path(output), report, measured, overwrite=overwrite)
    return report


@dataclass(frozen=True)
class _Options:
    """What to report, checked."""

    quantiles: tuple[float, ...]
    still: float
    top: int
    by: Measure
    draw: int
    seed: int

    def __post_init__(self) -> None:
        if not self.quantiles or not all(0 <= q <= 1 for q in self.quantiles):
            raise UsageError(f"quantiles must be numbers from 0 to 1: got {self.quantiles}")
        if not 0 <= self.still <= 1:
            raise UsageError(f"still must be a fraction from 0 to 1: got {self.still}")
        if self.by not in get_args(Measure):
            raise UsageError(f"by must be one of {', '.join(get_args(Measure))}: got {self.by!r}")
        for name, count in (("top", self.top), ("draw", self.draw)):
            if count < 0:
                raise UsageError(f"{name} must be at least 0: got {count}")
        check_seed(self.seed)


def _report(
    plan: SpreadPlan, measured: Measured, options: _Options, pieces: Sequence[Sorted]
) -> VariationReport:
    groups = groups_of(measured, pieces, options.quantiles, options.still)
    whole = groups[0].spread(options.by)
    drawn: tuple[tuple[WeightVariation, ...], ...] = ()
    if options.draw and whole:
        drawn = draw_weights(measured, options.by, whole.largest, options.draw, options.seed)
    steps = plan.history.steps
    return VariationReport(
        source=str(plan.history.path),
        first_step=int(steps[plan.rows[0]]),
        last_step=int(steps[plan.rows[-1]]),
        steps=len(plan.rows),
        quantiles=options.quantiles,
        still=options.still,
        by=options.by,
        groups=groups,
        top=most_changed(measured, pieces, options.by, options.top),
        drawn=drawn,
    )


def _measure(common: tuple[SpreadPlan, Measured], low: int, high: int) -> None:
    """Both measures of a chunk's weights, into the scratch files."""
    plan, measured = common
    array = plan.history.weights
    reader = ChunkReader(array)
    initial = np.zeros(high - low, array.dtype)
    squares = np.zeros(high - low, np.float64)
    with np.errstate(invalid="ignore", over="ignore"):  # weights that are not finite
        for start, stop in plan.columns():
            values = reader.read(low, high, start, stop)
            if start == plan.rows.start:
                initial[:] = values[:, 0]
            _add_squares(squares, values, initial)
        change = variation(values[:, -1], initial)
        deviation = np.sqrt(squares / (len(plan.rows) - 1)).astype(array.dtype)
    unknown = ~(np.isfinite(change) & np.isfinite(deviation))
    change[unknown] = deviation[unknown] = np.nan
    parts = list(plan.parts(low, high))
    measured.put("change", [(at, change[a:b]) for a, b, at in parts])
    measured.put("deviation", [(at, deviation[a:b]) for a, b, at in parts])


def _add_squares(total: npt.NDArray[np.float64], values: Float, initial: Float) -> None:
    """Add (w(t) - w(0))^2 in the order of the steps, so that chunks do not change the rounding."""
    steps = values.shape[1]
    moved = np.empty((min(COLUMNS, steps), min(ROWS, len(total))), np.float64)
    for low in range(0, len(total), ROWS):
        sums, here = total[low : low + ROWS], slice(low, low + ROWS)
        for start in range(0, steps, COLUMNS):
            block = values[here, start : start + COLUMNS].T  # [steps, weights]
            squares = moved[: len(block), : len(sums)]
            np.subtract(block, initial[here], out=squares, dtype=np.float64)
            np.multiply(squares, squares, out=squares)
            for row in squares:
                sums += row
