"""Rewriting a history: other chunks, another codec preset, fewer steps; never half of it.

::

    plan       what to read, what to write, in bands that fit in memory
    write      every array, under a temporary name
    compare    every value of the copy with the original; nothing moves if one is wrong
    swap       the copy takes its place; only now may the original go
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from weightcast.store.compaction import CompactionPlan, plan_compaction
from weightcast.store.comparing import Difference, compare
from weightcast.store.errors import FormatError, OutputExistsError, RecordingError, UsageError
from weightcast.store.history import History
from weightcast.store.output import refuse_existing, replacing
from weightcast.store.remote import is_remote
from weightcast.store.rewriting import rewrite
from weightcast.store.ring import in_use, lock, ring_path
from weightcast.store.swapping import discard, flush

Progress = Callable[[str, int, int], None]

_RECORDED = "{} is being recorded: compact it when the recording has ended"


def compact(
    history: History,
    output: str | Path,
    plan: CompactionPlan | None = None,
    *,
    overwrite: bool = False,
    delete_original: bool = False,
    progress: Progress | None = None,
) -> list[Difference]:
    """Write a history anew, and check every value of the copy before it gets its name.

    Parameters
    ----------
    history : History
    output : str or Path
        Folder of the copy.
    plan : CompactionPlan, optional
        From `plan_compaction`, whose defaults are taken otherwise.
    overwrite : bool
        Replace a history that stands at `output`.
    delete_original : bool
        Delete the history in the end. Whatever `compact_in_place` refuses, this does too.
    progress : callable, optional
        Called with (what, bands done, bands).

    Returns
    -------
    list of Difference
        How each array of the copy differs: within the bound for ``bounded``, else not at all.

    Raises
    ------
    OutputExistsError
        If `output` is taken.
    RecordingError
        If the history is being recorded.
    FormatError
        If a chunk of the history is damaged, or the copy is not what it should be; nothing is
        left of it then.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from weightcast.store import HistoryWriter, ParameterTable
    >>> table = ParameterTable.of([("w", (2,), "float32", "weight")])
    >>> path = Path(tempfile.mkdtemp()) / "run.zarr"
    >>> with HistoryWriter.create(path, table) as writer:
    ...     writer.append([0, 10], [0.0, 0.5], np.float32([[1, 2], [3, 4]]))
    >>> found = compact(History(path), path.with_name("small.zarr"))
    >>> History(path.with_name("small.zarr")).snapshot(10)
    array([3., 4.], dtype=float32)
    """
    if is_remote(output):
        raise UsageError(f"a copy is written to a local folder: got {output}")
    local = isinstance(history.path, Path)
    inputs = [history.folder] if local else []
    output = refuse_existing(output, overwrite=overwrite, kind="history", inputs=inputs)
    here = output.resolve()
    for there in (path.resolve() for path in inputs):
        if here.is_relative_to(there) or there.is_relative_to(here):
            raise OutputExistsError(f"output {output} and {there} must not lie in each other")
    plan = plan or plan_compaction(history)
    with ExitStack() as held:
        if delete_original:
            held.enter_context(replaceable(history, plan))
        elif local and in_use(history.folder):
            raise RecordingError(_RECORDED.format(history.path))
        with replacing(output) as temporary:
            found = _write_checked(history, temporary, plan, progress)
            flush(temporary)
        if delete_original:
            discard(history.folder.resolve())
    return found


def compact_in_place(
    history: History, plan: CompactionPlan | None = None, *, progress: Progress | None = None
) -> list[Difference]:
    """Put a copy of a history in its own place, once every value of it has been checked.

    Killed at any moment, this leaves the history or the checked copy. No recording can begin
    meanwhile. What it takes and raises is as for `compact`.

    Raises
    ------
    RecordingError
        If the history is being recorded, or steps of a recording wait in its ring file.
    UsageError
        If the plan leaves out steps, the folder holds what is not the history's, or it is remote.
    """
    plan = plan or plan_compaction(history)
    with replaceable(history, plan), replacing(history.folder.resolve()) as temporary:
        found = _write_checked(history, temporary, plan, progress)
        flush(temporary)
        return found


@contextmanager
def replaceable(history: History, plan: CompactionPlan) -> Iterator[None]:
    """Check that nothing is lost when a copy stands in for the original, and keep it so.

    Raises
    ------
    RecordingError
        If the history is being recorded, has been since it was opened, or steps wait in its ring.
    UsageError
        If the plan leaves out steps, or the folder holds what the copy will not.
    """
    if plan.thins:
        raise UsageError(
            f"{plan.recorded - len(plan.rows)} recorded steps would be lost: write the copy to "
            "another path, with -o, and keep the original"
        )
    known = {"zarr.json", "step", "time", "metrics", "optimizer", *history.wide}
    names = {p.name for p in history.folder.iterdir()} - known
    # What a killed process was writing in place of zarr.json is Zarr's, and is nothing.
    foreign = sorted(n for n in names if not re.fullmatch(r"zarr\.[0-9a-f]{32}\.partial", n))
    if foreign:
        raise UsageError(
            f"{history.path} holds more than a history, which would be lost: {foreign[0]!r}; move "
            "it away, or write the copy to another path, with -o"
        )
    with ExitStack() as locks:
        link = history.folder.parent.resolve() / history.folder.name
        for path in {link, history.folder.resolve()}:  # a recording goes by either name
            locks.enter_context(_locked(ring_path(path), history))
        if History(history.path).header != history.header:
            raise RecordingError(_RECORDED.format(history.path))
        yield


@contextmanager
def _locked(ring: Path, history: History) -> Iterator[None]:
    """Hold the lock that a recording needs; an empty ring file is what there is to lock."""
    descriptor = lock(ring, create=True)
    if descriptor is None:
        raise RecordingError(_RECORDED.format(history.path))
    try:
        if os.fstat(descriptor).st_size:
            raise RecordingError(
                f"recorded steps of {history.path} wait in {ring}: run 'weightcast recover "
                f"{history.path}' first"
            )
        try:
            yield
        finally:
            ring.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _write_checked(
    history: History, path: Path, plan: CompactionPlan, progress: Progress | None
) -> list[Difference]:
    rewrite(history, path, plan, progress)
    memory = max(plan.memory, 1)
    bound = plan.error or 0.0
    found = compare(History(path), history, bound=bound, memory=memory, progress=progress)
    wrong = next((d for d in found if not d.ok), None)
    if wrong:
        raise FormatError(
            f"the copy of {history.path} is not exact enough: {wrong.different} of {wrong.values} "
            f"values of {wrong.array} differ, by up to {wrong.largest:g}, and {wrong.bound:g} is "
            "allowed; nothing was replaced"
        )
    return found
