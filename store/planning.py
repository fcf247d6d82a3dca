"""What building a dataset will do, as plain data: which histories, ranges of weights, and numbers.

::

    scan      tasks = ranges of whole chunks of one history, each decoded once:
              the variation of every candidate, and the values of those that may be chosen
    cut       count bits of the variations until the cuts between strata are exact
    choose    count bits of the keys until the smallest keys of each stratum are known
    write     each task: its own rows of the dataset

Only `scan` reads the histories. It writes scratch files beside the dataset, which the other passes
read: 4 bytes a candidate, and some 60 for each that may be chosen, with 4 columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from weightcast.store.errors import ShapeError, UsageError
from weightcast.store.history import History
from weightcast.store.recipe import Recipe
from weightcast.store.shares import apportion
from weightcast.store.sources import ALL_KEYS, Source, kept_dtype, plan_source

TASK_BYTES = 64 << 20  # decoded: some 20 ms of work
TASK_CANDIDATES = 1 << 21
TASK_POINTS = 5 << 20  # values gathered at once
FEWEST_TASKS = 16  # so that the last worker to end is not waited for long; each costs a millisecond
SUMS = 8  # arrays that the running sums of a window need: what they hold, and while they add
POINT_BYTES = 38  # of memory for each value that is gathered: indices, their order, the value
WEIGHT_BYTES = 64  # of random words for each weight


@dataclass(frozen=True)
class Task:
    """A range of weights of one history: of whole rows of chunks, or a part of one."""

    run: int
    low: int
    high: int


@dataclass(frozen=True)
class SamplingPlan:
    """What building a dataset will do; of the histories, only the headers have been read.

    And the first snapshots, where a context asks for the scale of tensors.

    Attributes
    ----------
    recipe : Recipe
    sources : tuple of Source
        Histories; one that gives no sample has no task.
    tasks : tuple of Task
    opened : tuple of History
        The histories, as they were opened here; they do not travel to workers.
    """

    recipe: Recipe
    sources: tuple[Source, ...]
    tasks: tuple[Task, ...]
    opened: tuple[History, ...] = field(default=(), repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        """What a worker needs."""
        return {**self.__dict__, "opened": ()}

    @property
    def dtype(self) -> str:
        """Of the samples: float64 if any history is."""
        return "float64" if any(s.dtype == "float64" for s in self.sources) else "float32"

    @property
    def samples(self) -> int:
        """Samples of the dataset: those asked for, or fewer if the recipe allows it."""
        return sum(sum(s.quota.counts) for s in self.sources)

    @property
    def bytes_decoded(self) -> int:
        """Bytes of weights that are decoded in all."""
        return sum(
            _decoded_weights(s, t) * s.touched * np.dtype(s.dtype).itemsize
            for t in self.tasks
            for s in [self.sources[t.run]]
        )

    @property
    def scratch_bytes(self) -> int:
        """Bytes of the scratch files, about."""
        return sum(
            s.candidates * np.dtype(s.dtype).itemsize + s.kept * kept_dtype(s).itemsize
            for s in self.sources
        )

    @property
    def worker_bytes(self) -> int:
        """Memory that a worker's task needs at most, about; beside the Python of the worker."""
        return max((_task_bytes(self.sources[t.run], t) for t in self.tasks), default=0)

    def __str__(self) -> str:
        candidates = sum(s.candidates for s in self.sources)
        return (
            f"{self.samples} samples from {candidates} candidates of {len(self.sources)} histories;"
            f" {len(self.tasks)} tasks, {self.bytes_decoded / 1e9:.2f} GB decoded, "
            f"{self.scratch_bytes / 1e6:.1f} MB of scratch files, "
            f"{self.worker_bytes / 1e6:.0f} MB a worker"
        )


def plan_sampling(
    histories: History | Sequence[History],
    recipe: Recipe,
    *,
    recorded: Sequence[int] | None = None,
) -> SamplingPlan:
    """Plan a dataset, and find out before any work whether it can be drawn.

    Parameters
    ----------
    histories : History or sequence of History
    recipe : Recipe
    recorded : sequence of int, optional
        Rows of each history to use, the first ones; by default all that are committed.

    Raises
    ------
    SamplingError
        If a history is too short or too sparse, or has too few candidates.
    ShapeError
        If the models differ, and may not.
    UsageError
        If a history is given twice, there is none, or the recipe does not fit their number.
    """
    histories = [histories] if isinstance(histories, History) else list(histories)
    _check_histories(histories, recipe)
    shares = recipe.run_shares or (1.0,) * len(histories)
    counts = apportion(recipe.samples, shares)
    if not all(counts):
        raise UsageError(
            f"each history must give a sample: {recipe.samples} samples leave none for "
            f"{histories[counts.index(0)].path}: leave it out, or ask for more"
        )
    used = [None] * len(histories) if recorded is None else recorded
    if len(used) != len(histories):
        raise UsageError(f"recorded must be one number a history: got {len(used)}")
    sources = tuple(
        plan_source(history, replace(recipe, samples=count), run, rows)
        for run, (history, count, rows) in enumerate(zip(histories, counts, used, strict=True))
    )
    tasks = tuple(t for s in sources for t in _tasks(s))
    return SamplingPlan(recipe, sources, tasks, tuple(histories))


def _tasks(source: Source) -> Iterator[Task]:
    """Some whole rows of chunks each; or a part of one, where that has too many candidates."""
    width, total = source.chunks[0], source.parameters
    parts = math.ceil(
        max(width * source.points / TASK_POINTS, width * source.quota.draws / TASK_CANDIDATES)
    )
    per_cell = width * source.touched * np.dtype(source.dtype).itemsize
    cells = source.cells()
    many = max(
        min(
            TASK_BYTES // per_cell,
            TASK_CANDIDATES // (width * source.quota.draws),
            len(cells) // FEWEST_TASKS,
        ),
        1,
    )
    for group in _neighbours(cells, many):
        low, high = group[0] * width, min((group[-1] + 1) * width, total)
        step = -(-(high - low) // parts)
        for start in range(low, high, step):
            if len(source.chosen_weights(start, min(start + step, high))):
                yield Task(source.run, start, min(start + step, high))


def _neighbours(numbers: Sequence[int], many: int) -> Iterator[list[int]]:
    """Groups of up to `many` consecutive numbers.

    Examples
    --------
    >>> list(_neighbours([0, 1, 2, 5, 6], 2))
    [[0, 1], [2], [5, 6]]
    """
    group: list[int] = []
    for number in numbers:
        if group and (len(group) == many or number != group[-1] + 1):
            yield group
            group = []
        group.append(number)
    if group:
        yield group


def _decoded_weights(source: Source, task: Task) -> int:
    """Weights of the chunks that a task decodes."""
    width = source.chunks[0]
    low, high = task.low // width * width, -(-task.high // width) * width
    return min(high, source.parameters) - low


def _task_bytes(source: Source, task: Task) -> int:
    """Memory of a scan: a chunk, decoded and as it is stored; what is gathered; candidates."""
    item = np.dtype(source.dtype).itemsize
    height = min(source.chunks[0], task.high - task.low)
    candidates = height * source.quota.draws
    share = source.least_key / ALL_KEYS
    context = source.recipe.sees
    columns = len(context.entries) + SUMS * len(context.windows)
    return round(
        2 * source.chunks[0] * source.chunks[1] * item
        + height * (POINT_BYTES * source.points + WEIGHT_BYTES)
        + candidates * (40 + 2 * item + share * (kept_dtype(source).itemsize + columns * item))
    )


def _check_histories(histories: list[History], recipe: Recipe) -> None:
    if not histories:
        raise UsageError("give at least one history to sample from: got none")
    if recipe.run_shares and len(recipe.run_shares) != len(histories):
        raise UsageError(
            f"run_shares must be one number a history: got {len(recipe.run_shares)} for "
            f"{len(histories)} histories"
        )
    if recipe.validation and recipe.validation_by == "run" and len(histories) < 2:
        raise UsageError("validation by run needs two histories at least: got 1")
    first, seen = histories[0], set[Any]()
    for history in histories:
        place = history.path.resolve() if isinstance(history.path, Path) else history.path
        if place in seen:
            raise UsageError(f"each history can be given once: {history.path} is given twice")
        seen.add(place)
        if not recipe.different_models:
            _require_same_model(first, history)


def _require_same_model(first: History, other: History) -> None:
    mine, theirs = ({p.name: p.shape for p in h.parameters} for h in (first, other))
    if mine != theirs:
        name = min(n for n in {**mine, **theirs} if mine.get(n) != theirs.get(n))
        raise ShapeError(
            f"histories must be of one model: parameter {name!r} has shape {mine.get(name)} in "
            f"{first.path}, {theirs.get(name)} in {other.path}: leave one out, or pass "
            "--different-models (different_models)"
        )
