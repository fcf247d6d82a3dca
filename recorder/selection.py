"""Which tensors of a model are recorded, and what they are called."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from weightcast.store import ParameterTable, RecordingError, UsageError
from weightcast.store.parameters import Kind, matches

Place = tuple[Mapping[str, Any], str]
_LARGEST_EXACT_INTEGER = 2**53  # of float64, in which buffers are stored


@dataclass(frozen=True)
class Selection:
    """Tensors to record, by name, and where they live.

    A tensor is looked up each time: modules replace their buffers when they move to another device
    or dtype, or assign them anew.

    Attributes
    ----------
    places : dict of str to (dict, str)
        For each parameter, the ``_parameters`` of the module that owns it, and its key there.
    buffer_places : dict of str to (dict, str)
        The same for buffers.
    kinds : dict of str to str
        Kind of each parameter.
    """

    places: Mapping[str, Place]
    buffer_places: Mapping[str, Place] = field(default_factory=dict)
    kinds: Mapping[str, Kind] = field(default_factory=dict)

    @property
    def parameters(self) -> dict[str, torch.Tensor]:
        """The parameters as they are now, in the order of the table."""
        return {name: owner[key] for name, (owner, key) in self.places.items()}

    @property
    def buffers(self) -> dict[str, torch.Tensor]:
        """The buffers as they are now, in the order of the table."""
        return {name: owner[key] for name, (owner, key) in self.buffer_places.items()}

    def parameter_table(self) -> ParameterTable:
        """Table of the parameters."""
        return _table(self.parameters, self.kinds)

    def buffer_table(self) -> ParameterTable:
        """Table of the buffers."""
        return _table(self.buffers, dict.fromkeys(self.buffer_places, "buffer"))

    @property
    def stored_dtype(self) -> torch.dtype:
        """float64 if any parameter is, else float32; every other dtype fits into them exactly."""
        wide = any(p.dtype == torch.float64 for p in self.parameters.values())
        return torch.float64 if wide else torch.float32


def _table(tensors: Mapping[str, torch.Tensor], kinds: Mapping[str, Kind]) -> ParameterTable:
    return ParameterTable.of(
        (name, tuple(t.shape), str(t.dtype).removeprefix("torch."), kinds.get(name, "weight"))
        for name, t in tensors.items()
    )


def select(model: nn.Module, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> Selection:
    """Select a model's parameters, and the buffers that its ``state_dict`` keeps.

    Parameters
    ----------
    model : nn.Module
        Wrappers (``DataParallel``, ``DistributedDataParallel``, compiled modules) are looked
        through, so that names are those of the plain model.
    include, exclude : sequence of str
        Globs over qualified names, of parameters and buffers alike.

    Returns
    -------
    Selection
        Tied parameters stand once, under their first name.

    Raises
    ------
    UsageError
        If nothing is selected.
    RecordingError
        If a tensor cannot be stored exactly.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    >>> selection = select(model, exclude=["*.running_*", "*.num_batches_tracked"])
    >>> [(p.name, p.kind) for p in selection.parameter_table()]
    [('0.weight', 'weight'), ('0.bias', 'bias'), ('1.weight', 'norm'), ('1.bias', 'norm')]
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"give a torch.nn.Module to record: got a {type(model).__name__}")
    model = unwrap(model)
    kept = {name for name, _ in model.named_parameters() if matches(name, include, exclude)}
    parameters = {name: p for name, p in model.named_parameters() if name in kept}
    if not parameters:
        raise UsageError(
            f"include {list(include)} and exclude {list(exclude)} select none of the model's "
            f"{len(list(model.parameters()))} parameters: check the globs"
        )
    persistent = model.state_dict(keep_vars=True)
    buffers = {
        name: b
        for name, b in model.named_buffers()
        if name in persistent and matches(name, include, exclude)
    }
    _require_storable(parameters, buffers)
    return Selection(
        {name: _place(model, name, "_parameters") for name in parameters},
        {name: _place(model, name, "_buffers") for name in buffers},
        {name: _kind(model, name) for name in parameters},
    )


def _place(model: nn.Module, name: str, kind: str) -> Place:
    owner, _, leaf = name.rpartition(".")
    return getattr(model.get_submodule(owner), kind), leaf


def _kind(model: nn.Module, name: str) -> Kind:
    owner, _, leaf = name.rpartition(".")
    if "Norm" in type(model.get_submodule(owner)).__name__:
        return "norm"
    return "bias" if "bias" in leaf else "weight"


def _require_storable(
    parameters: Mapping[str, torch.Tensor], buffers: Mapping[str, torch.Tensor]
) -> None:
    for name, p in parameters.items():
        if isinstance(p, (UninitializedParameter, UninitializedBuffer)):
            raise RecordingError(
                f"parameters must have their shape to be recorded: {name!r} is lazy: run one batch "
                "through the model first"
            )
        if not p.dtype.is_floating_point:
            raise RecordingError(
                f"parameters must be real floating-point numbers to be recorded: {name!r} is "
                f"{p.dtype}: leave it out with exclude"
            )
    for name, b in buffers.items():
        fits = not b.dtype.is_complex and (
            b.dtype.is_floating_point
            or b.numel() == 0
            or b.dtype == torch.bool
            or float(b.double().abs().max()) < _LARGEST_EXACT_INTEGER
        )
        if not fits:
            raise RecordingError(
                f"buffers must fit into float64 exactly to be recorded: {name!r} ({b.dtype}) does "
                "not: leave it out with exclude"
            )


def unwrap(model: nn.Module) -> nn.Module:
    """The plain model inside data-parallel and compiled wrappers."""
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while True:
        if isinstance(model, wrappers):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


def find_model(optimizer: torch.optim.Optimizer) -> nn.Module | None:
    """Find the live module whose parameters an optimizer updates.

    Returns
    -------
    nn.Module or None
        The outermost module that holds all parameters of the optimizer, so that names are those of
        the script's own ``model.state_dict()``; None if there is no such module.
    """
    wanted = {id(p) for group in optimizer.param_groups for p in group["params"]}
    # type(), not isinstance(): live objects may have a __class__ property with side effects
    modules = [
        o
        for o in gc.get_objects()
        if issubclass(type(o), nn.Module) and "_parameters" in vars(o)  # else it is half built
    ]
    holders = [m for m in modules if wanted <= {id(p) for p in m.parameters()}]
    inner = {id(child) for m in holders for child in m.modules() if child is not m}
    outermost = [m for m in holders if id(m) not in inner]
    if not outermost:
        return None
    return unwrap(min(outermost, key=lambda m: sum(1 for _ in m.parameters())))


def select_from_optimizer(
    optimizer: torch.optim.Optimizer, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> Selection:
    """Select by the optimizer alone: the model it belongs to, or its own parameter groups.

    Without a module, names are the optimizer's own (``param_names``), or ``group0.param3``.
    """
    model = find_model(optimizer)
    if model is not None:
        return select(model, include, exclude)
    named: dict[str, torch.Tensor] = {}
    for name, parameter in _group_names(optimizer.param_groups):
        if matches(name, include, exclude):
            named[name if name not in named else f"{name}.{len(named)}"] = parameter
    if not named:
        raise UsageError(
            f"include {list(include)} and exclude {list(exclude)} select none of the optimizer's "
            "parameters: without a module they are called group0.param0, group0.param1, ..."
        )
    _require_storable(named, {})
    return Selection({name: (named, name) for name in named})


def _group_names(groups: Iterable[dict[str, object]]) -> Iterable[tuple[str, torch.Tensor]]:
    for g, group in enumerate(groups):
        params: list[torch.Tensor] = group["params"]  # type: ignore[assignment]
        names = group.get("param_names") or [f"group{g}.param{i}" for i in range(len(params))]
        yield from zip(names, params, strict=True)  # type: ignore[call-overload]
