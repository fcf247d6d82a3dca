"""Exporting a step of a history as a model's weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from weightcast.recorder.checkpoints import save_checkpoint
from weightcast.recorder.folders import SUFFIXES
from weightcast.store import FormatError, History, StepNotRecordedError, UsageError
from weightcast.store.output import refuse_existing, replacing
from weightcast.store.parameters import matches


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote: a step, tensors of the model, numbers in them, bytes.

    `error` is the absolute error bound of the history's weights; None if they are exact.
    """

    path: str
    step: int
    tensors: int
    values: int
    bytes: int
    error: float | None


def state_dict(
    history: History,
    step: int | str,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> dict[str, torch.Tensor]:
    """The model's weights and buffers at a step, for ``model.load_state_dict``.

    Parameters
    ----------
    history : History
    step : int or "last"
        A recorded step.
    include, exclude : sequence of str
        Globs over the tensors' names.

    Returns
    -------
    dict of str to Tensor
        Each in its own dtype, with memory of its own. A tied parameter stands under all its names,
        which are then one tensor; in histories from before their ties were kept, under its first.

    Raises
    ------
    StepNotRecordedError
        Naming the recorded steps on both sides of it.
    UsageError
        If the globs leave nothing.

    Examples
    --------
    >>> import tempfile
    >>> from weightcast.store import HistoryWriter, ParameterTable
    >>> table = ParameterTable.of([("weight", (1, 2), "bfloat16", "weight")])
    >>> with HistoryWriter.create(tempfile.mkdtemp() + "/run.zarr", table) as writer:
    ...     writer.append([0, 10], [0.0, 0.5], np.float32([[1, 2], [3, 4]]))
    >>> state_dict(History(writer.path), 10)
    {'weight': tensor([[3., 4.]], dtype=torch.bfloat16)}
    """
    empty = {p.name: np.empty(p.shape) for p in history.buffers if not p.size}
    values = empty | history.state(_step(history, step))  # without any, if all buffers are empty
    tables = {p.name: p for p in (*history.parameters, *history.buffers)}
    chosen = [name for name in tables if matches(name, include, exclude)]
    tied = {
        name: first
        for name, first in history.header.ties.items()
        if matches(name, include, exclude) and first in tables and name not in tables
    }
    if not chosen and not tied:
        raise UsageError(
            f"include {list(include)} and exclude {list(exclude)} leave none of the {len(tables)} "
            f"tensors of {history.path}: check the globs"
        )
    needed = dict.fromkeys([*chosen, *tied.values()])
    made = {name: _tensor(values[name], tables[name].dtype, history) for name in needed}
    return {name: made[name] for name in chosen} | {n: made[first] for n, first in tied.items()}


def export(
    history: History,
    step: int | str,
    path: str | Path,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    overwrite: bool = False,
) -> ExportReport:
    """Write a model's weights at a step to a file.

    Parameters
    ----------
    history : History
    step : int or "last"
        A recorded step.
    path : str or Path
        To write, by its suffix: ``.safetensors``, which also says the step and the source; or
        ``.pt``, ``.pth``, ``.bin``, ``.ckpt``: a plain ``state_dict``, as ``torch.save`` writes it.
    include, exclude : sequence of str
        Globs over the tensors' names.
    overwrite : bool
        Replace a file that stands at `path`.

    Returns
    -------
    ExportReport

    Raises
    ------
    OutputExistsError
        If `path` is taken.
    StepNotRecordedError, UsageError
        As `state_dict`; also of another suffix.
    """
    path = refuse_existing(path, overwrite=overwrite, kind="file")
    if path.suffix not in SUFFIXES:
        raise UsageError(f"an export must be one of {', '.join(SUFFIXES)}: got {str(path)!r}")
    step = _step(history, step)
    state = state_dict(history, step, include, exclude)
    notes = {
        "format": "pt",  # Transformers refuses a file that does not say so
        "step": str(step),
        "source": str(history.path),
        "weightcast": version("weightcast"),
    }
    with replacing(path) as temporary:
        save_checkpoint(state, temporary, notes)
    return ExportReport(
        path=str(path),
        step=step,
        tensors=len(state),
        values=sum(t.numel() for t in state.values()),
        bytes=path.stat().st_size,
        error=history.header.error,
    )


def _step(history: History, step: int | str) -> int:
    if isinstance(step, str):
        if step != "last":
            raise UsageError(f"a step is a whole number or 'last': got {step!r}")
        if not len(history):
            raise StepNotRecordedError(f"{history.path} has no steps yet")
        return int(history.steps[-1])
    history.row(step)
    return int(step)


def _tensor(values: Any, dtype: str, history: History) -> torch.Tensor:
    kind = getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype):
        raise FormatError(f"{history.path} is damaged: {dtype!r} is not a dtype of torch")
    try:
        return torch.from_numpy(np.array(values)).to(kind)
    except (RuntimeError, TypeError) as error:
        raise FormatError(f"{history.path} is damaged: {dtype} does not hold weights") from error
