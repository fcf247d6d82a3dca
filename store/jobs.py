"""Building a dataset from histories, with Dask; `planning` says what the passes read and cost."""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from weightcast.store.dataset import Dataset
from weightcast.store.errors import WeightcastWarning
from weightcast.store.history import History
from weightcast.store.output import refuse_existing, replacing
from weightcast.store.passes import Job
from weightcast.store.planning import SamplingPlan, plan_sampling
from weightcast.store.recipe import Recipe
from weightcast.store.scanning import Work, close_histories
from weightcast.store.scheduling import Progress, check_scheduler
from weightcast.store.scheduling import workers as start_workers

Place = History | str | Path


def build_dataset(
    histories: Place | Sequence[Place],
    path: str | Path,
    samples: int = 800_000,
    *,
    scheduler: str = "threads",
    workers: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    **recipe: Any,
) -> Dataset:
    """Draw a forecasting dataset from histories, by the paper's recipe.

    The same histories and recipe give the same bytes, whatever the chunks, scheduler and workers.

    Parameters
    ----------
    histories : History or path, or a sequence of them
    path : str or Path
        Folder of the dataset to write; it appears only when it is complete.
    samples : int
        Samples to draw, N; the paper's 800,000 by default.
    scheduler : str
        "threads", "processes", "synchronous", or the address of a Dask scheduler, such as
        "tcp://host:8786", whose workers see the same paths.
    workers : int, optional
        Number of threads or processes; by default the cores that there are.
    overwrite : bool
        Replace a dataset that stands at `path`.
    progress : callable, optional
        Called with (what, done, total): with done = 0 first, then after each task. What takes
        several passes begins with 0 again for each.
    **recipe
        Further fields of `Recipe`: context, horizon, edges, shares, seed, ...

    Returns
    -------
    Dataset

    Raises
    ------
    SamplingError
        If a history cannot give these samples.
    NonFiniteError
        If a weight that would be sampled is NaN or infinite.
    ShapeError
        If the models of the histories differ, and may not.
    SchedulerError
        If the workers cannot be reached, or do not finish.

    Notes
    -----
    Section 4.1 of Sinha et al. 2017. `plan_sampling` says before what is decoded, and what memory
    and scratch files it takes.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from weightcast.store import HistoryWriter, ParameterTable
    >>> table = ParameterTable.of([("w", (10,), "float32", "weight")])
    >>> folder = Path(tempfile.mkdtemp())
    >>> with HistoryWriter.create(folder / "run.zarr", table) as writer:
    ...     walk = np.float32(np.arange(100)[:, None] * np.arange(10))
    ...     writer.append(range(100), range(100), walk)
    >>> dataset = build_dataset(folder / "run.zarr", folder / "data.zarr", samples=40)
    >>> dataset.X.shape, dataset.y[0] == 2 * dataset.X[0, 0]
    ((40, 4), np.True_)
    """
    check_scheduler(scheduler, workers)
    places = [histories] if isinstance(histories, Place) else histories
    opened = [h if isinstance(h, History) else History(h) for h in places]
    refuse_existing(path, overwrite=overwrite, kind="dataset", inputs=[h.path for h in opened])
    plan = plan_sampling(opened, Recipe(samples, **recipe))
    return run_plan(
        plan, path, scheduler=scheduler, workers=workers, overwrite=overwrite, progress=progress
    )


def run_plan(
    plan: SamplingPlan,
    path: str | Path,
    *,
    scheduler: str = "threads",
    workers: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    check: Callable[[Dataset], object] | None = None,
) -> Dataset:
    """Build the dataset that was planned.

    Parameters and errors are those of `build_dataset`; `check` is given the dataset before it
    appears at `path`, and if it raises an error, it does not.
    """
    inputs = [history.path for history in plan.opened]
    refuse_existing(path, overwrite=overwrite, kind="dataset", inputs=inputs)
    _warn_of_shortfall(plan)
    token = secrets.token_hex(8)
    folder = Path(token, "dataset")
    with (
        start_workers(scheduler, workers) as pool,
        replacing(path, part=str(folder), new=not overwrite) as temporary,
    ):
        work = Work(plan, Path(temporary).absolute() / folder, token)
        work.scratch.mkdir(parents=True)
        try:
            Job(plan, pool, progress, work).run()
        finally:
            close_histories(work)
        for history in plan.opened:  # or what was read may be of two
            history.require_unchanged()
        if check:
            check(Dataset(work.folder))
    return Dataset(path)


def _warn_of_shortfall(plan: SamplingPlan) -> None:
    for source in plan.sources:
        given = source.quota
        if given.counts != given.wanted:
            warnings.warn(
                f"{source.path} has too few candidates: its strata give {list(given.counts)} "
                f"samples, not {list(given.wanted)}",
                WeightcastWarning,
                stacklevel=3,
            )
