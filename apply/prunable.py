"""The weights of a model, a state_dict or a recorded step, by name, for whatever compares them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from torch import nn
from torch.distributed.tensor import DTensor

from weightcast.apply.matching import names_of
from weightcast.recorder.checkpoints import find_state_dict, load_checkpoint, plain_names
from weightcast.recorder.selection import select
from weightcast.store import (
    History,
    Parameter,
    ParameterTable,
    StepNotRecordedError,
    UsageError,
)
from weightcast.store.parameters import matches


@dataclass(frozen=True)
class Weights:
    """Parameters by name, and how their values are read.

    Attributes
    ----------
    place : str
        Where they are, for messages.
    parameters : ParameterTable
        A tied one once.
    names : dict of str to list of str
        All names of each.
    read : callable
        The values under a name: array of its shape, float32, or float64 for float64.
    """

    place: str
    parameters: ParameterTable
    names: dict[str, list[str]]
    read: Callable[[str], npt.NDArray[Any]]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each, by name."""
        return {p.name: p.shape for p in self.parameters}


def weights_of(
    source: nn.Module | Mapping[str, torch.Tensor] | History | str | Path,
    step: int | None = None,
    key: str | None = None,
) -> Weights:
    """The weights of a live model, of its ``state_dict``, a checkpoint, or a step of a history.

    Raises
    ------
    UsageError
        If it is none of them, or has no steps or keys and one is given.
    StepNotRecordedError
        Naming the recorded steps on both sides of it.
    RecordingError
        If the model has parameters without values, or that are no real numbers.

    Examples
    --------
    >>> weights = weights_of(nn.Linear(2, 1))
    >>> [(p.name, weights.read(p.name).shape) for p in weights.parameters]
    [('weight', (1, 2)), ('bias', (1,))]
    """
    path = source if isinstance(source, str | Path) else None
    file = Path(path) if path is not None and Path(path).is_file() else None
    what = f"a {type(source).__name__}" if path is None else str(path)
    if step is not None and (file or not isinstance(source, History | str | Path)):
        raise UsageError(f"only a history has steps: got step {step} for {what}")
    if key is not None and not file:
        raise UsageError(f"only a checkpoint file has keys: got key {key!r} for {what}")
    if file:
        document, _ = load_checkpoint(file)
        state, _ = plain_names(find_state_dict(document, key, file))
        return _of_state(state, str(file))
    if isinstance(source, History | str | Path):
        return _of_history(source if isinstance(source, History) else History(source), step)
    if isinstance(source, nn.Module):
        return _of_model(source)
    if isinstance(source, Mapping):
        return _of_state(source, "the state_dict")
    raise UsageError(
        "weights are pruned of a torch.nn.Module, its state_dict, a history or a path: "
        f"got a {type(source).__name__}"
    )


def chosen_of(
    parameters: Iterable[Parameter], include: Sequence[str], exclude: Sequence[str]
) -> list[Parameter]:
    """Those that globs choose: by default weights of two or more dimensions that are no norm's.

    Examples
    --------
    >>> table = weights_of(nn.Linear(2, 1)).parameters
    >>> [p.name for p in chosen_of(table, (), ())], len(chosen_of(table, ["*"], ()))
    (['weight'], 2)
    """
    return [
        p
        for p in parameters
        if p.size
        and (include or (p.kind == "weight" and len(p.shape) >= 2))
        and matches(p.name, include, exclude)
    ]


def _of_history(history: History, step: int | None) -> Weights:
    if step is None and not len(history):
        raise StepNotRecordedError(f"{history.path} has no steps yet")
    at = int(history.steps[-1]) if step is None else step
    values, table = history.snapshot(at), history.parameters

    def read(name: str) -> npt.NDArray[Any]:
        p = table[name]
        return values[p.offset : p.stop].reshape(p.shape)

    return Weights(
        f"step {at} of {history.path}", table, names_of(table, history.header.ties), read
    )


def _of_model(model: nn.Module) -> Weights:
    selection = select(model)
    tensors, table = selection.parameters, selection.parameter_table()
    names = names_of(table, selection.ties)
    return Weights("the model", table, names, lambda name: _numbers(tensors[name]))


def _of_state(state: Mapping[str, torch.Tensor], place: str) -> Weights:
    """A state_dict does not say what its tensors are: real numbers are taken for parameters."""
    tensors: dict[str, torch.Tensor] = {}
    ties: dict[str, str] = {}
    firsts: dict[object, str] = {}
    for name, t in state.items():
        if not isinstance(t, torch.Tensor) or not t.is_floating_point():
            continue
        first = firsts.setdefault((t.data_ptr(), t.shape, t.stride()) if t.numel() else name, name)
        if first == name:
            tensors[name] = t
        else:
            ties[name] = first
    table = ParameterTable.of(
        (name, tuple(t.shape), str(t.dtype), "bias" if "bias" in name else "weight")
        for name, t in tensors.items()
    )
    return Weights(place, table, names_of(table, ties), lambda name: _numbers(tensors[name]))


def _numbers(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """All of a tensor's numbers, exactly: narrower ones than float32 fit into it."""
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    wide = torch.float64 if whole.dtype == torch.float64 else torch.float32
    return whole.detach().to("cpu", wide).numpy()
