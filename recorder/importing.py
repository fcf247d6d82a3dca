"""Importing checkpoints: a history of a run that was never recorded.

::

    ImportPlan --read one checkpoint--> a row of the block --block full--> HistoryWriter.append
                                        [block, P]                         compress, commit
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from weightcast.recorder.checkpoints import State
from weightcast.recorder.contents import read_model, widest
from weightcast.recorder.import_plan import ImportPlan, Progress, Source
from weightcast.recorder.schedule import Every, Steps
from weightcast.recorder.storable import require_storable
from weightcast.store import (
    History,
    HistoryWriter,
    ParameterTable,
    RecordingError,
    ShapeError,
    UsageError,
)
from weightcast.store.layout import block_length
from weightcast.store.output import refuse_existing, replacing


def import_checkpoints(
    plan: ImportPlan,
    output: str | Path,
    *,
    preset: str = "fast",
    error: float | None = None,
    memory: int = 256 << 20,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> History:
    """Write a history from checkpoints.

    It stands at `output` only once all of it is there.

    Parameters
    ----------
    plan : ImportPlan
        Of `plan_import`.
    output : str or Path
        Folder of the history.
    preset : {"fast", "compact", "bounded"}
        Codec preset; the first two are lossless.
    error : float, optional
        Absolute error bound of the weights, for ``bounded``.
    memory : int
        Bytes that rows waiting to be compressed may take, beside one checkpoint.
    overwrite : bool
        Replace a history that stands at `output`.
    progress : callable, optional
        Called with (what, done, total).

    Returns
    -------
    History

    Raises
    ------
    OutputExistsError
        If `output` is taken.
    ShapeError
        If a checkpoint is not what it was when the import was planned.
    RecordingError
        If an integer buffer does not fit into float64 exactly.

    Examples
    --------
    >>> import tempfile
    >>> from weightcast.recorder import plan_import
    >>> folder = Path(tempfile.mkdtemp())
    >>> for step in (0, 20, 100):
    ...     torch.save({"w": torch.full((2,), float(step))}, folder / f"model_{step}.pt")
    >>> import_checkpoints(plan_import([folder]), folder / "run.zarr")["w"].tolist()
    [[0.0, 0.0], [20.0, 20.0], [100.0, 100.0]]
    """
    if memory < 1:
        raise UsageError(f"memory must be a number of bytes from 1 on: got {memory}")
    inputs = [source.path for source in plan.sources]
    output = refuse_existing(output, overwrite=overwrite, kind="history", inputs=inputs)
    wide = any(p.dtype == "float64" for p in plan.parameters)
    dtype = np.dtype(np.float64 if wide else np.float32)
    row_bytes = plan.parameters.size * dtype.itemsize + plan.buffers.size * 8
    blocks = math.ceil(len(plan.sources) / block_length(row_bytes, memory))
    block = math.ceil(len(plan.sources) / blocks)  # of equal length: the last has no empty columns
    with replacing(output) as temporary:
        writer = HistoryWriter.create(
            temporary,
            plan.parameters,
            buffers=plan.buffers,
            dtype=dtype,
            block=block,
            schedule=_schedule(plan.steps),
            preset=preset,
            error=error,
            versions={"torch": torch.__version__},
            metadata=_metadata(plan),
            ties=plan.ties,
        )
        with writer:
            _write(plan, writer, dtype, block, progress)
    return History(output)


def _write(
    plan: ImportPlan,
    writer: HistoryWriter,
    dtype: np.dtype[Any],
    block: int,
    progress: Progress | None,
) -> None:
    weights = np.empty((block, plan.parameters.size), dtype)
    buffers = np.empty((block, plan.buffers.size))
    for start in range(0, len(plan.sources), block):
        sources = plan.sources[start : start + block]
        for i, source in enumerate(sources):
            state, _, _ = read_model(source.path, plan.key)
            _require_exact(plan.buffers, state, source)
            _fill(weights[i], plan.parameters, state, source)
            _fill(buffers[i], plan.buffers, state, source)
            if progress:
                progress("importing", start + i + 1, len(plan.sources))
        n = len(sources)
        steps, times = [s.step for s in sources], [s.time for s in sources]
        writer.append(steps, times, weights[:n], buffers[:n])


def _require_exact(buffers: ParameterTable, state: State, source: Source) -> None:
    try:
        require_storable({}, {p.name: state[p.name] for p in buffers if p.name in state})
    except RecordingError as error:
        raise RecordingError(f"{source.label}: {error}") from error


@torch.no_grad()
def _fill(row: npt.NDArray[Any], table: ParameterTable, state: State, source: Source) -> None:
    """Copy a checkpoint's tensors to where the table has them."""
    for p in table:
        t, dtype = state.get(p.name), getattr(torch, p.dtype)
        if t is None or tuple(t.shape) != p.shape or widest([t.dtype, dtype]) != dtype:
            raise ShapeError(
                f"{source.label} changed while it was imported, {p.name!r} is not what it was: "
                "import again"
            )
        torch.from_numpy(row[p.offset : p.stop]).view(p.shape).copy_(t)


def _schedule(steps: list[int]) -> str:
    """As the recorder would have been told: regular steps shortly, or each of them."""
    after = [step for step in steps if step > 0]
    if not after:
        return ""
    first = after[0]
    regular = after == list(range(first, first * len(after) + 1, first))
    return str(Every(first) if regular else Steps.of(after))


def _metadata(plan: ImportPlan) -> dict[str, Any]:
    labels = [source.label for source in plan.sources]
    return {"imported": {"checkpoints": len(labels), "first": labels[0], "last": labels[-1]}}
