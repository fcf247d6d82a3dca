"""What building a dataset will take: as plain data, before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from weightcast.store.admissible import admissible
from weightcast.store.dataset_format import columns
from weightcast.store.describing import RunInfo, StratumInfo
from weightcast.store.errors import FormatError, RemoteError
from weightcast.store.history import History
from weightcast.store.info import prefix_bytes
from weightcast.store.planning import SamplingPlan, Task
from weightcast.store.sources import Source

MOST_FILES = 100_000  # whose sizes are looked at one by one: half a second
SOME_FILES = 10_000  # looked at where there are more: within 1 % or so


@dataclass(frozen=True)
class PlanInfo:
    """What `describe_plan` gives; sizes in bytes.

    Attributes
    ----------
    samples, tasks : int
    read : int, optional
        Stored chunks to read, once; None if a store does not list them.
    read_estimated : bool
        Whether `read` is about so much: of very many files some are looked at, and of a remote
        history all chunks count alike.
    decoded, scratch, size, worker : int
        Weights to decode; files beside the dataset, deleted at the end; the dataset; and memory
        that a worker needs at most, beside Python itself.
    recipe : dict
    runs : tuple of RunInfo
    """

    samples: int
    tasks: int
    read: int | None
    read_estimated: bool
    decoded: int
    scratch: int
    size: int
    worker: int
    recipe: dict[str, Any]
    runs: tuple[RunInfo, ...]


def describe_plan(plan: SamplingPlan) -> PlanInfo:
    """What building a dataset will take; of the histories, only the sizes of files are looked at.

    Raises
    ------
    FormatError
        If a chunk that is needed is missing; of very many chunks, not all are looked at.
    """
    tasks: dict[int, list[Task]] = {source.run: [] for source in plan.sources}
    for task in plan.tasks:
        tasks[task.run].append(task)
    opened = plan.opened or tuple(_open(source) for source in plan.sources)
    described = [
        _planned(source, history, tasks[source.run])
        for source, history in zip(plan.sources, opened, strict=True)
    ]
    row = sum(
        np.dtype(column.dtype).itemsize * (column.width or 1)
        for column in columns(plan.dtype, len(plan.recipe.context))
    )
    read = [run.read for run, _ in described if run.read is not None]
    return PlanInfo(
        samples=plan.samples,
        tasks=len(plan.tasks),
        read=sum(read) if len(read) == len(described) else None,
        read_estimated=any(estimated for _, estimated in described),
        decoded=plan.bytes_decoded,
        scratch=plan.scratch_bytes,
        size=plan.samples * row,
        worker=plan.worker_bytes,
        recipe=plan.recipe.to_json(),
        runs=tuple(run for run, _ in described),
    )


def _open(source: Source) -> History:
    place, options = source.arguments
    return History(place, storage_options=options)


def _planned(source: Source, history: History, tasks: Sequence[Task]) -> tuple[RunInfo, bool]:
    """What one history gives; and whether its bytes to read are an estimate."""
    choices = admissible(history.steps[: source.recorded], source.recipe)
    given, t = source.quota, choices.t
    read, estimated = _stored_bytes(history, tasks, choices.used())
    return RunInfo(
        path=source.path,
        recorded=source.recorded,
        draws=given.draws,
        weights=source.selected,
        t=(int(t.min()), int(t.max())),
        steps=len(np.unique(t)),
        strata=tuple(map(StratumInfo, given.counts, given.wanted, given.sizes)),
        read=read,
    ), estimated


def _stored_bytes(
    history: History, tasks: Sequence[Task], rows: npt.NDArray[np.int64]
) -> tuple[int | None, bool]:
    """Bytes of the chunk files that hold what may be sampled; and whether that is an estimate."""
    array = history.weights
    width, length = array.shards or array.chunks
    bands = [b for t in tasks for b in range(t.low // width, -(-t.high // width))]
    if array.shards:  # of which each task reads its own part; a chunk is read by each of its tasks
        bands = sorted(set(bands))
    times = np.unique(rows // length).tolist()
    cells = range(len(bands) * len(times))
    if isinstance(history.path, Path):
        few = len(cells) <= MOST_FILES
        looked_at: Sequence[int] = cells
        if not few:
            random = np.random.default_rng(0)
            looked_at = random.choice(len(cells), SOME_FILES, replace=False).tolist()
        folder, key = history.path / array.path, array.metadata.encode_chunk_key
        places = ((bands[cell // len(times)], times[cell % len(times)]) for cell in looked_at)
        found = sum(_size(folder / key(place)) for place in places)
        return found * len(cells) // max(len(looked_at), 1), not few
    try:
        listed = prefix_bytes(history, f"{array.path}/c")
    except RemoteError:
        return None, False
    files = -(-array.shape[0] // width) * -(-array.shape[1] // length)
    return round(listed * len(cells) / files) or None, len(cells) != files


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        raise FormatError(
            f"{file} is damaged: the chunk is missing: weightcast verify says what is lost"
        ) from None
