"""Which tensors of a model are recorded, and what they are called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import torch
from torch import nn

from weightcast.recorder.storable import require_fitting, require_storable, stored_dtype
from weightcast.recorder.structure import Structure
from weightcast.store import ParameterTable, RecordingError, UsageError
from weightcast.store.parameters import Kind, matches

Place = tuple[Mapping[str, Any], str]
_dtype = attrgetter("dtype")


@dataclass
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
    ties : dict of str to str
        Further names of the same tensors, each with the name that the tensor is stored under.
    again : callable, optional
        Selects anew, if the model has changed since; returns None if it has not.
    stored_dtype : torch.dtype
        float64 if any parameter is, else float32; every other dtype fits into them exactly.
    """

    places: Mapping[str, Place]
    buffer_places: Mapping[str, Place] = field(default_factory=dict)
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    ties: Mapping[str, str] = field(default_factory=dict)
    again: Callable[[], Selection | None] = lambda: None
    stored_dtype: torch.dtype = field(init=False)
    _fitting: set[torch.dtype] = field(init=False)

    def __post_init__(self) -> None:
        parameters = _look_up(self.places)
        self.stored_dtype = stored_dtype(parameters)
        self._fitting = {p.dtype for p in parameters.values()}

    @property
    def parameters(self) -> dict[str, torch.Tensor]:
        """The parameters as they are now, in the order of the table.

        Raises
        ------
        RecordingError
            If the model has other parameters than were selected, or wider ones.
        """
        now = self.again()
        if now is not None:
            self._follow(now)
        found = _look_up(self.places)
        dtypes = set(map(_dtype, found.values()))
        if not dtypes <= self._fitting:
            require_fitting(found, self.stored_dtype)
            self._fitting |= dtypes
        return found

    @property
    def buffers(self) -> dict[str, torch.Tensor]:
        """The buffers as they are now, in the order of the table."""
        return _look_up(self.buffer_places)

    def parameter_table(self) -> ParameterTable:
        """Table of the parameters."""
        return _table(self.parameters, self.kinds)

    def buffer_table(self) -> ParameterTable:
        """Table of the buffers."""
        return _table(self.buffers, dict.fromkeys(self.buffer_places, "buffer"))

    def _follow(self, now: Selection) -> None:
        """Take the tensors that stand under the same names now, or say which names do not."""
        known, found = ({**s.places, **s.buffer_places}.keys() for s in (self, now))
        for names, what in ((found - known, "was added"), (known - found, "is gone")):
            if names:
                raise RecordingError(
                    "a model must keep its parameters and buffers while it is recorded: "
                    f"{min(names)!r} {what}: make the recorder after the model is complete, leave "
                    "it out with exclude, or record the changed model into a new history"
                )
        if self.ties != now.ties:
            name = min(dict(self.ties.items() ^ now.ties.items()))
            raise RecordingError(
                "a model must keep its tied parameters while it is recorded: "
                f"{name!r} was tied to {self.ties.get(name)!r}, is tied to {now.ties.get(name)!r}: "
                "tie them before the recorder is made"
            )
        self.places, self.buffer_places = now.places, now.buffer_places


def _look_up(places: Mapping[str, Place]) -> dict[str, torch.Tensor]:
    return {name: owner[key] for name, (owner, key) in places.items()}


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
        Tied parameters stand once, under the first of their names that is selected.

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
    return _select(unwrap(model), include, exclude)


def _select(model: nn.Module, include: Sequence[str], exclude: Sequence[str]) -> Selection:
    _refuse_flat_shards(model)
    persistent = model.state_dict(keep_vars=True)
    named = list(model.named_parameters(remove_duplicate=False))
    named_buffers = [
        (n, b) for n, b in model.named_buffers(remove_duplicate=False) if n in persistent
    ]
    parameters, ties = _first_names(named, include, exclude)
    buffers, buffer_ties = _first_names(named_buffers, include, exclude)
    if not parameters:
        raise UsageError(
            f"include {list(include)} and exclude {list(exclude)} select none of the model's "
            f"{len(list(model.parameters()))} parameters: check the globs"
        )
    require_storable(parameters, buffers)
    structure = Structure(model)

    def again() -> Selection | None:
        nonlocal structure
        if not structure.changed():
            return None
        now = _select(model, include, exclude)
        structure = Structure(model)
        return now

    return Selection(
        {name: _place(model, name, "_parameters") for name in parameters},
        {name: _place(model, name, "_buffers") for name in buffers},
        {name: kind_of(model, name) for name in parameters},
        {**ties, **buffer_ties},
        again,
    )


def _refuse_flat_shards(model: nn.Module) -> None:
    """Refuse FSDP's first form: its parameters are pieces of flat ones, other on each rank."""
    for name, module in model.named_modules():
        if any(c.__name__ == "FullyShardedDataParallel" for c in type(module).__mro__):
            raise RecordingError(
                "a sharded model must be sharded with torch.distributed.fsdp.fully_shard (FSDP2) "
                f"to be recorded: {name or 'the model'} is a FullyShardedDataParallel module, "
                "whose parameters are pieces of flat tensors"
            )


def _first_names(
    named: Sequence[tuple[str, torch.Tensor]], include: Sequence[str], exclude: Sequence[str]
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Each selected tensor under its first name, and the name it has for each other name."""
    first: dict[int, str] = {}
    for name, tensor in named:
        if matches(name, include, exclude):
            first.setdefault(id(tensor), name)
    kept = {name: tensor for name, tensor in named if first.get(id(tensor)) == name}
    ties = {name: first[id(tensor)] for name, tensor in named if id(tensor) in first}
    return kept, {name: stored for name, stored in ties.items() if name != stored}


def _place(model: nn.Module, name: str, kind: str) -> Place:
    owner, _, leaf = name.rpartition(".")
    return getattr(model.get_submodule(owner), kind), leaf


def kind_of(model: nn.Module, name: str) -> Kind:
    """What a parameter is for, by the module that owns it and by its name.

    Examples
    --------
    >>> kind_of(nn.LayerNorm(3), "weight"), kind_of(nn.LSTM(1, 1), "bias_hh_l0")
    ('norm', 'bias')
    """
    owner, _, leaf = name.rpartition(".")
    if "Norm" in type(model.get_submodule(owner)).__name__:
        return "norm"
    return "bias" if "bias" in leaf else "weight"


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
