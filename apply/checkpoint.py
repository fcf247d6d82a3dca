"""Jumping a checkpoint, offline, from a recorded history."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from weightcast.apply.jumping import jump
from weightcast.predictor import Forecaster
from weightcast.store import (
    FormatError,
    History,
    InputNotFoundError,
    NonFiniteError,
    ShapeError,
    UsageError,
    context_steps,
)
from weightcast.store.output import refuse_existing, replacing

_USUAL_KEYS = ("state_dict", "model_state_dict", "model", "net")
_PREFIXES = ("module.", "_orig_mod.")


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
    """

    context: list[int]
    target: int
    weights: int
    moved: float
    drift: float


def jump_checkpoint(
    history: History,
    step: int,
    forecaster: Forecaster,
    checkpoint: str | Path,
    output: str | Path,
    *,
    key: str | None = None,
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
        If names or shapes of checkpoint and history differ.
    FormatError
        If the checkpoint is no such file; it is loaded with ``weights_only=True``.
    NonFiniteError
        If a weight is NaN or infinite.
    """
    output, forecaster = refuse_existing(output, overwrite=overwrite), forecaster.ready()
    steps: list[int] = context_steps(step, forecaster.context_).tolist()
    if step < 1 or len(set(steps)) != len(steps):
        raise UsageError(f"step {step} is too early to jump: its context would be {steps}")
    rows = [history.snapshot(s) for s in steps]
    document = _load(Path(checkpoint))
    state = _state_dict(document, key, checkpoint)
    targets = dict(_match(history, state, checkpoint))
    snapshots = [[_piece(history, row, name) for name in targets] for row in rows]
    for s, row in zip(steps, rows, strict=True):
        if not np.isfinite(row).all():
            raise NonFiniteError(
                f"weights must be finite to be forecast: {history.path} has NaN or infinite ones "
                f"at step {s}: jump at an earlier step"
            )
    now = list(targets.values())
    forecasts = jump(now, snapshots, forecaster)
    drift = max(_distance(a, b).max().item() for a, b in zip(now, snapshots[0], strict=True))
    moved = sum(_distance(a, b).sum().item() for a, b in zip(forecasts, snapshots[0], strict=True))
    for tensor, forecast in zip(now, forecasts, strict=True):
        tensor.copy_(forecast)
    with replacing(output) as temporary:
        _save(document, temporary)
    total = history.parameters.size
    target = int(context_steps(step, (forecaster.horizon,))[0])
    return JumpReport(steps, target, total, moved / total, drift)


def _distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a.double() - b.double()).abs()


def _piece(history: History, row: Any, name: str) -> torch.Tensor:
    p = history.parameters[name]
    return torch.from_numpy(row[p.offset : p.stop].reshape(p.shape))


def _load(path: Path) -> Any:
    if not path.is_file():
        raise InputNotFoundError(f"no checkpoint {path}: give a file of torch.save or safetensors")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise FormatError(f"{path} is not a checkpoint that can be loaded: {reason}") from error


def _save(document: Any, path: Path) -> None:
    if path.suffix == ".safetensors":
        save_file(document, path)
    else:
        torch.save(document, path)


def _state_dict(document: Any, key: str | None, path: object) -> dict[str, torch.Tensor]:
    if not isinstance(document, dict):
        raise FormatError(f"{path} must hold a dict of tensors: it holds {type(document).__name__}")
    keys = (
        [key] if key is not None else [k for k in _USUAL_KEYS if isinstance(document.get(k), dict)]
    )
    found = document[keys[0]] if keys and keys[0] in document else document
    if key is not None and key not in document:
        raise UsageError(f"{path} has no key {key!r}: it has {', '.join(map(str, document))}")
    tensors = {k: v for k, v in found.items() if isinstance(v, torch.Tensor)}
    if not tensors:
        raise FormatError(
            f"{path} has no tensors where a state_dict is expected: name the place with --key; "
            f"it has {', '.join(map(str, document))}"
        )
    return tensors


def _match(
    history: History, state: dict[str, torch.Tensor], path: object
) -> Iterator[tuple[str, torch.Tensor]]:
    """Pair the history's parameters with the checkpoint's tensors."""
    plain = {_plain_name(name): tensor for name, tensor in state.items()}
    for p in history.parameters:
        tensor = plain.get(p.name)
        if tensor is None:
            have = ", ".join(list(plain)[:5])
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


def _plain_name(name: str) -> str:
    """A name without what data-parallel and compiled wrappers put before it."""
    while name.startswith(_PREFIXES):
        name = name.split(".", 1)[1]
    return name
