"""Drawing a dataset again, from what it says of itself, and proving that it is the same."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from weightcast.store.dataset import Dataset
from weightcast.store.dataset_format import Column, Origin, columns
from weightcast.store.errors import FormatError, InputNotFoundError, UsageError
from weightcast.store.history import History
from weightcast.store.jobs import Place, run_plan
from weightcast.store.output import refuse_existing
from weightcast.store.planning import SamplingPlan, plan_sampling
from weightcast.store.scheduling import Progress, check_scheduler
from weightcast.store.sources import digest

_BLOCK = 1 << 20  # rows compared at once


def rebuild_dataset(
    dataset: Dataset | str | Path,
    path: str | Path,
    *,
    histories: Place | Sequence[Place] | None = None,
    scheduler: str = "threads",
    workers: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Dataset:
    """Draw a dataset again from its histories, and check that every array is the same, bit by bit.

    Of a history that has grown since, only the rows that were there are used.

    Parameters
    ----------
    dataset : Dataset or path
    path : str or Path
        Folder of the dataset to write; it appears only when it is complete and the same.
    histories : History or path, or a sequence of them, optional
        Where the histories are now, in the order of `dataset.origins`; by default where they were.
    scheduler, workers, overwrite, progress
        As for `build_dataset`.

    Returns
    -------
    Dataset
        Its arrays are those of `dataset`; its origins name the paths that were used.

    Raises
    ------
    FormatError
        If a history is not the one that the dataset was drawn from; if what is drawn is not the
        same, as of a history that was compacted within an error since: the message says which
        arrays differ; or if the dataset is of format 1, which does not say enough of its history.
    InputNotFoundError
        If a history is not where it was.

    Examples
    --------
    >>> import tempfile
    >>> from weightcast.store import HistoryWriter, ParameterTable, build_dataset
    >>> folder = Path(tempfile.mkdtemp())
    >>> table = ParameterTable.of([("w", (10,), "float32", "weight")])
    >>> with HistoryWriter.create(folder / "run.zarr", table) as writer:
    ...     walk = np.float32(np.arange(100)[:, None] * np.arange(10))
    ...     writer.append(range(100), range(100), walk)
    >>> dataset = build_dataset(folder / "run.zarr", folder / "data.zarr", 40)
    >>> again = rebuild_dataset(dataset, folder / "again.zarr")
    >>> bool((again.X == dataset.X).all())
    True
    """
    check_scheduler(scheduler, workers)
    original = dataset if isinstance(dataset, Dataset) else Dataset(dataset)
    opened = _open(original, histories)
    inputs = [original.path, *(history.path for history in opened)]
    refuse_existing(path, overwrite=overwrite, kind="dataset", inputs=inputs)
    plan = _plan(original, opened)
    return run_plan(
        plan,
        path,
        scheduler=scheduler,
        workers=workers,
        overwrite=overwrite,
        progress=progress,
        check=lambda again: _require_same(original, again),
    )


def _open(dataset: Dataset, histories: Place | Sequence[Place] | None) -> list[History]:
    """The histories of a dataset, each known by its digest."""
    if dataset.version < 2:
        raise FormatError(
            f"{dataset.path} has dataset format {dataset.version}, which does not say how much of "
            "which history it was drawn from: build it again, with the command that "
            f"'weightcast dataset show {dataset.path}' gives"
        )
    origins = dataset.origins
    if histories is None:
        return [_check(dataset, origin, _where_it_was(dataset, origin)) for origin in origins]
    places = [histories] if isinstance(histories, Place) else list(histories)
    if len(places) != len(origins):
        raise UsageError(
            f"give --history (histories) once for each of the {len(origins)} that {dataset.path} "
            f"was drawn from, in their order ({dataset.source}): got {len(places)}"
        )
    opened = [p if isinstance(p, History) else History(p) for p in places]
    return [_check(dataset, *pair) for pair in zip(origins, opened, strict=True)]


def _where_it_was(dataset: Dataset, origin: Origin) -> History:
    try:
        return History(origin.path)
    except InputNotFoundError as error:
        raise InputNotFoundError(
            f"{origin.path}, which {dataset.path} was drawn from, is not there: say where it is "
            "now, with --history (histories)"
        ) from error
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise FormatError(
            f"{dataset.path} is damaged: the path of a history that it was drawn from, "
            f"{origin.path[:40]}..., is too long: say where that is, with --history (histories)"
        ) from error


def _check(dataset: Dataset, origin: Origin, history: History) -> History:
    if len(history) < origin.recorded or digest(history, origin.recorded) != origin.digest:
        raise FormatError(
            f"{history.path} is not the history that {dataset.path} was drawn from: its parameters "
            f"or its first {origin.recorded} steps are others; give that one with --history "
            "(histories)"
        )
    return history


def _plan(original: Dataset, histories: list[History]) -> SamplingPlan:
    """Plan to draw the same from the rows that were there."""
    recorded = [origin.recorded for origin in original.origins]
    plan = plan_sampling(histories, original.recipe, recorded=recorded)
    now, then = (plan.samples, plan.dtype), (len(original), str(original.X.dtype))
    if now != then:
        raise FormatError(
            f"{original.path} cannot be drawn again: it has {then[0]} samples of {then[1]}, its "
            f"histories give {now[0]} of {now[1]}"
        )
    return plan


def _require_same(original: Dataset, again: Dataset) -> None:
    """Check that all arrays have the same bytes."""
    arrays = columns(original.X.dtype, len(original.recipe.context), original.version)
    counts = {array.name: _differing(original, again, array) for array in arrays}
    differing = [f"{name} in {count}" for name, count in counts.items() if count]
    if differing:
        raise FormatError(
            f"what was drawn again is not {original.path}, so it was not kept: of {len(original)} "
            f"samples, {', '.join(differing)} differ; give its histories in their order, with the "
            "values that they had: compacting them within an error changes those"
        )


def _differing(original: Dataset, again: Dataset, column: Column) -> int:
    """Samples whose bytes differ; NaN equals itself, and 0.0 is not -0.0."""
    count = 0
    for low in range(0, len(original), _BLOCK):
        one, other = (
            np.ascontiguousarray(getattr(d, column.name)[low : low + _BLOCK])
            for d in (original, again)
        )
        rows = (a.view(np.uint8).reshape(len(a), -1) for a in (one, other))
        count += int(np.not_equal(*rows).any(axis=1).sum())
    return count
