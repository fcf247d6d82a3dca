"""Jumping a checkpoint, offline, from a recorded history."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from weightcast.apply.jumping import jump
from weightcast.predictor import Forecaster
from weightcast.recorder.checkpoints import (
    find_state_dict,
    load_checkpoint,
    save_checkpoint,
    unwrapped,
)
from weightcast.store import (
    History,
    NonFiniteError,
    ShapeError,
    UsageError,
    context_steps,
)
from weightcast.store.output import refuse_existing, replacing


@dataclass(frozen=True)
class JumpReport:
    """What an offline jump did.

    Attributes
    ----------
    context : list of int
        Steps whose weights the forecast is made from, the latest first.
    target : int
        The step it is for.
    weights : int
        Weights replaced.
    moved : float
        Mean absolute change, in the weights' own units.
    drift : float
        Largest absolute difference between the checkpoint's weights and the history's at the jump
        point: not 0 means that the checkpoint is of another step or run.
    left : int
        Tensors of the model that the history does not have, left as they were.
    """

    context: list[int]
    target: int
    weights: int
    moved: float
    drift: float
    left: int = 0


def jump_checkpoint(
    history: History,
    step: int,
    forecaster: Forecaster,
    checkpoint: str | Path,
    output: str | Path,
    *,
    key: str | None = None,
    exact: bool = False,
    overwrite: bool = False,
) -> JumpReport:
    """Replace a checkpoint's weights by their forecast, made from a history.

    Everything else in the checkpoint, such as buffers and optimizer state, stays as it is.

    Parameters
    ----------
    history : History
        Of the run that the checkpoint is from.
    step : int
        Jump point t; recorded, and so are the steps of the forecaster's context.
    forecaster : Forecaster
        Fitted.
    checkpoint, output : str or Path
        Files of ``torch.save`` or, by their suffix, safetensors.
    key : str, optional
        Where the checkpoint keeps the model's ``state_dict``. By default the checkpoint is one
        itself, or has it under ``state_dict``, ``model_state_dict``, ``model`` or ``net``.
    exact : bool
        Refuse a checkpoint whose weights are not the history's at step t.
    overwrite : bool
        Replace a file that stands at `output`.

    Returns
    -------
    JumpReport

    Raises
    ------
    StepNotRecordedError
        If a step of the context is not in the history.
    ShapeError
        If names or shapes of checkpoint and history differ; with `exact`, also if weights do.
    FormatError
        If the checkpoint is no such file; it is loaded with ``weights_only=True``.
    NonFiniteError
        If a weight is NaN or infinite.
    """
    output = refuse_existing(output, overwrite=overwrite, kind="file")
    forecaster = forecaster.ready()
    steps, rows = _context(history, step, forecaster)
    document, notes = load_checkpoint(Path(checkpoint))
    state = find_state_dict(document, key, checkpoint)
    if output.suffix == ".safetensors" and state.keys() != document.keys():
        raise UsageError(
            f"a safetensors file holds tensors only, and {checkpoint} has more: give another "
            f"suffix than that of {output}"
        )
    named = unwrapped(state, {p.name for p in history.parameters})
    targets = dict(_match(history, named, checkpoint))
    snapshots = [[_piece(history, row, name) for name in targets] for row in rows]
    now = list(targets.values())
    drift = _largest(_distance(a, b) for a, b in zip(now, snapshots[0], strict=True))
    if exact and drift:
        raise ShapeError(
            f"{checkpoint} must be of step {step} of {history.path}: its weights differ by up to "
            f"{drift:.3g}: give that checkpoint, or jump all the same (--any-checkpoint)"
        )
    forecasts = jump(now, snapshots, forecaster)
    moved = sum(_distance(a, b).sum().item() for a, b in zip(forecasts, snapshots[0], strict=True))
    with torch.no_grad():
        for tensor, forecast in zip(now, forecasts, strict=True):
            tensor.copy_(forecast)
    with replacing(output) as temporary:
        save_checkpoint(document, temporary, notes)
    total = history.parameters.size
    target = int(context_steps(step, (forecaster.horizon,))[0])
    known = {p.name for p in (*history.parameters, *history.buffers)}
    left = len(state) - len(known & named.keys())
    return JumpReport(steps, target, total, moved / max(total, 1), drift, left)


def _context(
    history: History, step: int, forecaster: Forecaster
) -> tuple[list[int], list[npt.NDArray[Any]]]:
    """Steps of a jump's context and all weights at each, finite."""
    if step > 0:
        history.row(step)  # first of all: that the step is there
    steps: list[int] = context_steps(step, forecaster.context_).tolist()
    if step < 1 or len(set(steps)) != len(steps):
        raise UsageError(f"step {step} is too early to jump: its context would be {steps}")
    rows = [history.snapshot(s) for s in steps]
    for s, row in zip(steps, rows, strict=True):
        if not np.isfinite(row).all():
            raise NonFiniteError(
                f"weights must be finite to be forecast: {history.path} has NaN or infinite ones "
                f"at step {s}: jump at an earlier step"
            )
    return steps, rows


def _largest(distances: Iterator[torch.Tensor]) -> float:
    """Largest of all entries; NaN if any is."""
    largest = [d.max() for d in distances if d.numel()]
    return float(torch.stack(largest).max()) if largest else 0.0


def _distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a.detach().double() - b.double()).abs()


def _piece(history: History, row: Any, name: str) -> torch.Tensor:
    p = history.parameters[name]
    return torch.from_numpy(row[p.offset : p.stop].reshape(p.shape))


def _match(
    history: History, named: dict[str, torch.Tensor], path: object
) -> Iterator[tuple[str, torch.Tensor]]:
    """Pair the history's parameters with the checkpoint's tensors."""
    for p in history.parameters:
        tensor = named.get(p.name)
        if tensor is None:
            have = ", ".join(list(named)[:5])
            raise ShapeError(
                f"checkpoint and history must hold the same parameters: {path} has no {p.name!r}; "
                f"it has {have}, ..."
            )
        if tuple(tensor.shape) != p.shape:
            raise ShapeError(
                f"checkpoint and history must agree in shape: {p.name!r} is {list(tensor.shape)} "
                f"in {path} and {list(p.shape)} in {history.path}"
            )
        yield p.name, tensor
