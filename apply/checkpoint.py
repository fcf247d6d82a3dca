"""Jumping a checkpoint, offline, from a recorded history."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

import numpy as np
import torch

from weightcast.apply.jumping import all_finite, horizon_of
from weightcast.apply.matching import OpenCheckpoint, match, names_of
from weightcast.apply.needs import require_context
from weightcast.predictor import Forecaster
from weightcast.recorder.checkpoints import unwrapped
from weightcast.store import History, NonFiniteError, Parameter, ShapeError
from weightcast.store.columns import NOW
from weightcast.store.context import Context
from weightcast.store.gathering import ContextReader
from weightcast.store.output import refuse_existing


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
    horizon: object = None,
    key: str | None = None,
    exact: bool = False,
    overwrite: bool = False,
) -> JumpReport:
    """Replace a checkpoint's weights by their forecast, made from a history.

    Everything else in the checkpoint, such as buffers and optimizer state, stays as it is. The
    history is read block by block: memory is that of the checkpoint and of one block; tensors that
    are not contiguous (channels_last) take one copy more.

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
    horizon : float or str, optional
        How far to jump: a ratio of t (2) or steps ahead ("+500"), where the forecaster is told how
        far it looks; by default its own single horizon.
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
    UsageError
        If the step is too early for a context, or the horizon is not one of the forecaster's.
    ShapeError
        If names or shapes of checkpoint and history differ; with `exact`, also if weights do.
    FormatError
        If the checkpoint is no such file; it is loaded with ``weights_only=True``.
    NonFiniteError
        If a weight is NaN or infinite.
    """
    output = refuse_existing(output, overwrite=overwrite, kind="file", inputs=[history.path])
    forecaster = forecaster.ready()
    context, target = forecaster.sees, horizon_of(forecaster, horizon).target(step)
    if step > 0:
        history.row(step)  # first of all: that the step is there
    require_context(context, step)
    opened = OpenCheckpoint.load(checkpoint, output, key)
    named = unwrapped(opened.state, {p.name for p in history.parameters})
    ties = history.header.ties
    names = names_of(history.parameters, ties)
    pairs = list(match(history.parameters, named, checkpoint, history.path, names))
    targets = {p.name: tensor for p, tensor in reversed(pairs)}  # of tied ones the first
    # flat in C order, as in the history: views, where a tensor lies so in memory
    rows = {name: tensor.detach().reshape(-1) for name, tensor in targets.items()}
    drift = _drift(history, step, rows)
    if exact and drift:
        raise ShapeError(
            f"{checkpoint} must be of step {step} of {history.path}: its weights differ by up to "
            f"{drift:.3g}: give that checkpoint, or jump all the same (--any-checkpoint)"
        )
    moved = _jump(history, step, target, forecaster, rows)
    with torch.no_grad():
        for p, tensor in pairs:
            if tensor is not targets[p.name] or not tensor.is_contiguous():  # its row is a copy
                tensor.copy_(rows[p.name].view(tensor.shape))
    opened.save()
    total = history.parameters.size
    steps = sorted({int(s) for s in context.steps(step)}, reverse=True)
    known = {p.name for p in (*history.parameters, *history.buffers)} | ties.keys()
    left = len(opened.state) - len(known & named.keys())
    return JumpReport(steps, target, total, moved / max(total, 1), drift, left)


def _drift(history: History, step: int, rows: dict[str, torch.Tensor]) -> float:
    """Largest absolute difference from the history's weights; NaN if any is."""
    largest = 0.0
    for block in ContextReader(history, Context((NOW.fraction,))).blocks(step, None):
        now = torch.from_numpy(block.now)
        for p, here, there in _pieces(history, block.low, block.high):
            found = float(_distance(rows[p.name][there], now[here]).max())
            largest = float(np.maximum(largest, found))  # NaN stays
    return largest


def _jump(
    history: History,
    step: int,
    target: int,
    forecaster: Forecaster,
    rows: dict[str, torch.Tensor],
) -> float:
    """Write the forecasts of all weights into the rows; the sum of their absolute changes."""
    moved = 0.0
    reader = ContextReader(history, forecaster.sees)
    for block in reader.blocks(step, target, truth=False):
        forecast, now = forecaster.forecast(torch.from_numpy(block.seen)), block.now
        for p, here, there in _pieces(history, block.low, block.high):
            values = rows[p.name][there].copy_(forecast[here])
            if not all_finite(values):
                raise NonFiniteError(
                    f"a forecast must be finite: some of {p.name!r} are NaN or infinite at step "
                    f"{target}, from step {step} of {history.path}: jump less far, or earlier"
                )
            moved += float(_distance(values, torch.from_numpy(now[here])).sum())
    return moved


def _pieces(history: History, low: int, high: int) -> Iterator[tuple[Parameter, slice, slice]]:
    """The parameters in a range of weights: where each lies in the range, and which part of it."""
    table = history.parameters
    for p in table[bisect_right(table, low, key=attrgetter("stop")) :]:
        if p.offset >= high:
            break
        first, stop = max(p.offset, low), min(p.stop, high)
        if first < stop:
            yield p, slice(first - low, stop - low), slice(first - p.offset, stop - p.offset)


def _distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a.double() - b.double()).abs()
