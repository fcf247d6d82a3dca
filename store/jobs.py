"""Building a dataset from a history, with Dask: plan as data, then two passes.

::

    plan      tasks = ranges of whole chunks along the parameter axis
    pass 1    each task: |w(t) - w(0)| of its candidates            decodes the history once
    select    exact strata over all candidates                      45 bytes a candidate in memory
    pass 2    each task: X, y of its chosen candidates, written     decodes the history once
              to its own rows of the dataset
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from dask.base import compute
from dask.callbacks import Callback
from dask.delayed import delayed

from weightcast.store.dataset import Dataset, chunk_file, columns, lay_out
from weightcast.store.errors import NonFiniteError, UsageError
from weightcast.store.history import History
from weightcast.store.output import refuse_existing, replacing
from weightcast.store.reading import read
from weightcast.store.recipe import PAPER_CONTEXT, PAPER_HORIZON, Recipe, admissible
from weightcast.store.sampling import draw, draws_needed, select
from weightcast.store.variation import variation

Int = npt.NDArray[np.int64]
Progress = Callable[[str, int, int], None]
Scheduler = Literal["threads", "processes", "synchronous"]


@dataclass(frozen=True)
class SamplingPlan:
    """What building a dataset will do; nothing has been read yet but the history's header.

    Attributes
    ----------
    history : str
        Path or URL of the history.
    recipe : Recipe
    draws : int
        Draws of t per weight, R.
    choices : int
        Admissible steps t, M.
    tasks : tuple of (int, int)
        Ranges of weights, each of whole chunks.
    bytes_decoded : int
        Bytes of weights that the two passes decode in all.
    opened : History
        The history itself; a worker process opens it again.
    """

    history: str
    recipe: Recipe
    draws: int
    choices: int
    tasks: tuple[tuple[int, int], ...]
    bytes_decoded: int
    opened: History = field(repr=False, compare=False)

    def __str__(self) -> str:
        return (
            f"{self.recipe.samples} samples from {self.tasks[-1][1]} weights x {self.draws} of "
            f"{self.choices} steps t; strata of {self.recipe.counts()}; {len(self.tasks)} tasks, "
            f"2 passes, {self.bytes_decoded / 1e9:.2f} GB decoded"
        )


def plan_sampling(history: History, recipe: Recipe, chunks_per_task: int = 1) -> SamplingPlan:
    """Plan a dataset, and find out before any work whether it can be drawn.

    Raises
    ------
    SamplingError
        If the history is too short or too sparse, or has too few candidates.
    """
    t, _ = admissible(history.steps, recipe)
    total = history.parameters.size
    width = history.weights.chunks[0] * chunks_per_task
    return SamplingPlan(
        history=str(history.path),
        recipe=recipe,
        draws=draws_needed(total, len(t), recipe),
        choices=len(t),
        tasks=tuple((low, min(low + width, total)) for low in range(0, total, width)),
        bytes_decoded=2 * total * len(history) * history.weights.dtype.itemsize,
        opened=history,
    )


def build_dataset(
    history: History | str | Path,
    path: str | Path,
    samples: int = 800_000,
    *,
    context: tuple[float, ...] = PAPER_CONTEXT,
    horizon: float = PAPER_HORIZON,
    edges: tuple[float, ...] = (0.0, 0.5, 0.75, 1.0),
    shares: tuple[float, ...] = (0.5, 0.25, 0.25),
    seed: int = 0,
    tolerance: float = 0.01,
    t_min: int | None = None,
    t_max: int | None = None,
    scheduler: Scheduler = "threads",
    workers: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Dataset:
    """Draw a forecasting dataset from a history, by the paper's recipe.

    The same history and recipe give the same bytes, whatever the chunks, scheduler and workers.

    Parameters
    ----------
    history : History or path
    path : str or Path
        Folder of the dataset to write; it appears only when it is complete.
    samples : int
        Samples to draw, N; the paper's 800,000 by default.
    context, horizon, edges, shares, seed, tolerance, t_min, t_max
        See `Recipe`.
    scheduler : {"threads", "processes", "synchronous"}
        Dask's scheduler.
    workers : int, optional
        Number of workers; Dask's default otherwise.
    overwrite : bool
        Replace a dataset that stands at `path`.
    progress : callable, optional
        Called with (what, done, total) after each task.

    Returns
    -------
    Dataset

    Raises
    ------
    SamplingError
        If the history cannot give these samples.
    NonFiniteError
        If a weight that would be sampled is NaN or infinite.

    Notes
    -----
    Section 4.1 of Sinha et al. 2017. Memory: about 45 bytes a candidate, and one decoded
    chunk a worker; a candidate is a weight and one of its steps t, and there are as many as weights
    at least.
    """
    opened = history if isinstance(history, History) else History(history)
    refuse_existing(path, overwrite=overwrite, kind="dataset", inputs=[opened.path])
    recipe = Recipe(
        samples, tuple(context), horizon, tuple(edges), tuple(shares), seed, tolerance, t_min, t_max
    )
    job = _Job(plan_sampling(opened, recipe), scheduler, workers, progress or _silent)
    chosen, strata = job.choose()
    with replacing(path) as temporary:
        lay_out(temporary, recipe, opened.weights.dtype, str(opened.path))
        job.write(temporary, chosen, strata)
    return Dataset(path)


def _silent(what: str, done: int, total: int) -> None:
    pass


@dataclass(frozen=True)
class _Job:
    plan: SamplingPlan
    scheduler: Scheduler
    workers: int | None
    progress: Progress

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"workers must be at least 1: got {self.workers}")
        if self.scheduler not in get_args(Scheduler):
            known = ", ".join(get_args(Scheduler))
            raise UsageError(f"scheduler must be one of {known}: got {self.scheduler!r}")

    def choose(self) -> tuple[Int, npt.NDArray[np.int8]]:
        """Pass 1: chosen candidates (draw * P + weight), ordered by weight; and their strata."""
        parts = self._run("sort by variation", _variations, [(t,) for t in self.plan.tasks])
        moved, keys = (np.concatenate(p, axis=1).ravel() for p in zip(*parts, strict=True))
        selected = select(moved, keys, self.plan.recipe)  # candidate = draw * P + weight
        chosen = np.concatenate(selected)
        strata = np.repeat(np.arange(len(selected)), [len(s) for s in selected]).astype(np.int8)
        total = self.plan.tasks[-1][1]
        order = np.lexsort((chosen // total, chosen % total))
        return chosen[order], strata[order]

    def write(self, path: Path, chosen: Int, strata: npt.NDArray[np.int8]) -> None:
        """Pass 2: gather the chosen samples and write each task's rows."""
        total = self.plan.tasks[-1][1]
        draw_of, weight = np.divmod(chosen, total)
        starts = np.searchsorted(weight, [low for low, _ in self.plan.tasks])
        stops = [*starts[1:], len(weight)]
        tasks = [
            (task, str(path), int(a), draw_of[a:b], weight[a:b], strata[a:b])
            for task, a, b in zip(self.plan.tasks, starts, stops, strict=True)
            if b > a
        ]
        self._run("write samples", _write_rows, tasks)

    def _run(
        self, what: str, function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]]
    ) -> Any:
        """Run the tasks with Dask; results in the order of the tasks."""
        done = 0

        def advance(*_: Any) -> None:
            nonlocal done
            done += 1
            self.progress(what, done, len(tasks))

        task = delayed(function, pure=False)
        # traverse=False: Dask would otherwise walk into plan and arrays looking for more tasks
        plan = delayed(self.plan, traverse=False)
        jobs = [task(plan, delayed(t, traverse=False)) for t in tasks]
        self.progress(what, 0, len(tasks))
        with Callback(posttask=advance):
            return compute(
                *jobs,
                scheduler=self.scheduler,
                num_workers=self.workers,
                optimize_graph=False,
            )


def _variations(plan: SamplingPlan, task: tuple[tuple[int, int]]) -> tuple[Any, Any]:
    """Variation and key of each candidate of a range of weights: two arrays [R, n]."""
    ((low, high),) = task
    history = plan.opened
    chosen, keys = draw(plan.recipe.seed, low, high, plan.draws, plan.choices)
    t, rows = admissible(history.steps, plan.recipe)
    local = np.broadcast_to(np.arange(high - low), chosen.shape)
    wanted = np.stack([rows[chosen, 0], np.zeros_like(chosen)])  # [2, R, n]
    weight = np.broadcast_to(local, wanted.shape)
    values = gather(history, low, high, weight.ravel(), wanted.ravel()).reshape(wanted.shape)
    _require_finite(values, weight + low, np.broadcast_to(t[chosen], wanted.shape), history)
    return variation(values[0], values[1]), keys


def _write_rows(plan: SamplingPlan, task: tuple[Any, ...]) -> None:
    """Gather the chosen samples of a range of weights into rows of the dataset."""
    (low, high), path, first, draw_of, weight, strata = task
    history = plan.opened
    chosen, _ = draw(plan.recipe.seed, low, high, plan.draws, plan.choices)
    t, rows = admissible(history.steps, plan.recipe)
    choice = chosen[draw_of, weight - low]  # [n]
    step = t[choice]
    wanted = np.column_stack([rows[choice], np.zeros_like(choice)])  # [n, F + 2]: y, w(0) last
    local = np.broadcast_to((weight - low)[:, None], wanted.shape)
    values = gather(history, low, high, local.ravel(), wanted.ravel()).reshape(wanted.shape)
    _require_finite(values, local + low, np.broadcast_to(step[:, None], wanted.shape), history)
    parts = {
        "X": values[:, :-2],
        "y": values[:, -2],
        "parameter": weight,
        "step": step,
        "stratum": strata,
        "variation": variation(values[:, 0], values[:, -1]),
    }
    for column in columns(history.weights.dtype, len(plan.recipe.context)):
        shape = column.shape(plan.recipe.samples)
        file = chunk_file(Path(path), column)
        mapped = np.memmap(file, dtype=column.dtype, mode="r+", shape=shape)
        mapped[first : first + len(weight)] = parts[column.name]
        mapped.flush()


def gather(history: History, low: int, high: int, weight: Int, row: Int) -> npt.NDArray[Any]:
    """Values at scattered (weight, row) points of a range of weights, a chunk at a time.

    Parameters
    ----------
    history : History
    low, high : int
        The range of weights.
    weight, row : int64 arrays, shape (m,)
        Points: index from `low`, and row of the history.

    Returns
    -------
    array, shape (m,)
    """
    block = history.weights.chunks[1]
    order = np.argsort(row, kind="stable")
    edges = np.arange(0, len(history) + block, block)
    bounds = np.searchsorted(row[order], edges)
    values = np.empty(len(row), dtype=history.weights.dtype)
    for start, a, b in zip(edges, bounds, bounds[1:], strict=False):
        if a == b:
            continue
        points = order[a:b]
        decoded = read(
            history.weights, (slice(low, high), slice(start, min(start + block, len(history))))
        )
        values[points] = decoded[weight[points], row[points] - start]
    return values


def _require_finite(values: npt.NDArray[Any], weight: Int, step: Int, history: History) -> None:
    bad = ~np.isfinite(values)
    if bad.any():
        raise NonFiniteError(
            f"weights must be finite to be sampled: {history.parameters.locate(weight[bad][0])} is "
            f"NaN or infinite in the sample at t = {step[bad][0]} of {history.path}: sample "
            "earlier steps only, with --t-max (t_max)"
        )
