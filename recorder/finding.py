"""Finding what an optimizer trains, among the live objects of somebody else's script."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from weightcast.recorder.selection import Selection, select, unwrap
from weightcast.recorder.storable import require_storable
from weightcast.store import RecordingError, UsageError
from weightcast.store.parameters import matches


class Subject:
    """The model that an optimizer trains, and which other optimizers train it too.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        The first to step.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._model = find_model(optimizer)
        self._held = _ids(optimizer.param_groups)
        # Of each optimizer: how many parameters it had, and whether it trains the model.
        self._seen: weakref.WeakKeyDictionary[torch.optim.Optimizer, tuple[int, bool]] = (
            weakref.WeakKeyDictionary()
        )

    @property
    def model(self) -> nn.Module | None:
        """The model; None of parameters without a module."""
        return self._model

    @property
    def names(self) -> list[str]:
        """The variables of the script that hold the model, then its class."""
        if self._model is None:
            return []
        variables = [
            name
            for name, value in _variables()
            if issubclass(type(value), nn.Module) and unwrap(value) is self._model
        ]
        return [*dict.fromkeys(variables), type(self._model).__name__]

    def select(self, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> Selection:
        """Select the model's tensors, or those of the optimizer's groups if there is no model."""
        if self._model is not None:
            return select(self._model, include, exclude)
        return _select_loose(self._optimizer, include, exclude)

    def trained_by(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether an optimizer trains parameters of this model.

        Raises
        ------
        RecordingError
            If it did, and has taken on parameters that are not the model's.
        """
        count = sum(len(group["params"]) for group in optimizer.param_groups)
        before, trains = self._seen.get(optimizer, (None, False))
        if count == before:
            return trains
        held = self._held if self._model is None else {id(p) for p in self._model.parameters()}
        ids = _ids(optimizer.param_groups)
        if trains and not ids <= held:
            raise RecordingError(
                "an optimizer must not take on parameters outside of the model it trains: it had "
                f"{before}, and has {count} now: add them to the model, and all parameter groups "
                "before the first step"
            )
        trains = not ids.isdisjoint(held)
        self._seen[optimizer] = count, trains
        return trains

    def live_optimizers(self) -> Iterator[torch.optim.Optimizer]:
        """Other optimizers that are there to train the rest of this model."""
        taken = _ids(self._optimizer.param_groups)
        for found in gc.get_objects():
            if issubclass(type(found), torch.optim.Optimizer) and "param_groups" in vars(found):
                ids = _ids(found.param_groups)
                if ids.isdisjoint(taken) and self.trained_by(found):
                    taken |= ids
                    yield found


def _variables() -> Iterator[tuple[str, Any]]:
    """Variables of the script: of its module, and of the functions that are being called."""
    yield from list(vars(sys.modules["__main__"]).items())
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_globals.get("__name__", "").partition(".")[0] not in ("weightcast", "torch"):
            yield from list(frame.f_locals.items())


def find_model(*optimizers: torch.optim.Optimizer) -> nn.Module | None:
    """Find the live module whose parameters one or more optimizers update.

    Returns
    -------
    nn.Module or None
        The outermost module that holds all parameters of the optimizers, so that names are those of
        the script's own ``model.state_dict()``; None if there is no such module.
    """
    wanted = set().union(*(_ids(optimizer.param_groups) for optimizer in optimizers))
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


def _select_loose(
    optimizer: torch.optim.Optimizer, include: Sequence[str], exclude: Sequence[str]
) -> Selection:
    """Select from the optimizer's groups, by its ``param_names``, or ``group0.param3``."""
    named: dict[str, torch.Tensor] = {}
    for name, parameter in _group_names(optimizer.param_groups):
        if matches(name, include, exclude):
            named[name if name not in named else f"{name}.{len(named)}"] = parameter
    if not named:
        raise UsageError(
            f"include {list(include)} and exclude {list(exclude)} select none of the optimizer's "
            "parameters: without a module they are called group0.param0, group0.param1, ..."
        )
    require_storable(named, {})
    return Selection({name: (named, name) for name in named})


def _ids(groups: Iterable[Mapping[str, Any]]) -> set[int]:
    return {id(p) for group in groups for p in group["params"]}


def _group_names(groups: Iterable[dict[str, object]]) -> Iterable[tuple[str, torch.Tensor]]:
    for g, group in enumerate(groups):
        params: list[torch.Tensor] = group["params"]  # type: ignore[assignment]
        names = group.get("param_names") or [f"group{g}.param{i}" for i in range(len(params))]
        yield from zip(names, params, strict=True)  # type: ignore[call-overload]
