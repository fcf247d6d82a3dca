"""What becomes of a run's other state when its weights jump: momentum, BatchNorm statistics."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from numbers import Real
from operator import length_hint
from typing import Any, Literal

import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from weightcast.apply.keeping import like, own_randomness
from weightcast.store import UsageError

Moments = Literal["keep", "clear"] | float

DIRECTIONS = ("momentum_buffer", "exp_avg")  # of the state of torch's optimizers: where it heads


def check_moments(moments: object) -> None:
    """Check what is to become of moments.

    Raises
    ------
    UsageError

    Examples
    --------
    >>> check_moments(0.5)
    """
    number = isinstance(moments, Real) and not isinstance(moments, bool)
    if moments not in ("keep", "clear") and not (number and 0 <= moments <= 1):  # type: ignore[operator]
        raise UsageError(
            f"moments must be 'keep', 'clear' or a factor for momentum from 0 to 1: got {moments!r}"
        )


@torch.no_grad()
def settle_moments(
    optimizers: Sequence[torch.optim.Optimizer], moved: Iterable[torch.Tensor], moments: Moments
) -> None:
    """Keep, clear or scale the optimizers' state of the parameters that jumped.

    Cleared, it is what it was before the first step.

    Examples
    --------
    >>> w = torch.ones(1, requires_grad=True)
    >>> optimizer = torch.optim.SGD([w], lr=0.1, momentum=0.9)
    >>> w.sum().backward(), optimizer.step()
    (None, None)
    >>> settle_moments([optimizer], [w], 0.5)
    >>> optimizer.state[w]["momentum_buffer"]
    tensor([0.5000])
    """
    if moments == "keep":
        return
    ids = {id(p) for p in moved}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            parameters = [p for p in group["params"] if id(p) in ids]
            if moments == "clear":
                _clear(optimizer, group, parameters)
            else:
                _scale(optimizer, parameters, moments)


def _clear(
    optimizer: torch.optim.Optimizer, group: dict[str, Any], parameters: list[torch.Tensor]
) -> None:
    held = [p for p in parameters if p in optimizer.state]
    if not held:
        return
    begun: Mapping[Any, Any] = {}
    with suppress(Exception):  # somebody's own optimizer may want anything
        begun = like(optimizer, group, held).state
    for p in held:
        del optimizer.state[p]
        if p in begun:  # some, as Adagrad, have a state before the first step
            optimizer.state[p] = begun[p]


def _scale(optimizer: torch.optim.Optimizer, parameters: list[torch.Tensor], factor: float) -> None:
    for p in parameters:
        state = optimizer.state.get(p, {})
        for name in DIRECTIONS:
            if isinstance(state.get(name), torch.Tensor):
                state[name].mul_(factor)


def check_batches(batches: Iterable[Any] | None, model: nn.Module | None) -> None:
    """Check that BatchNorm statistics can be estimated from some batches.

    Raises
    ------
    UsageError

    Examples
    --------
    >>> check_batches([torch.zeros(4, 2)], nn.BatchNorm1d(2))
    """
    if batches is None:
        return
    if not isinstance(batches, Iterable) or isinstance(batches, Iterator):
        raise UsageError(
            "batches are read anew after each jump, as a list or a DataLoader can be: got a "
            f"{type(batches).__name__}"
        )
    if length_hint(batches, 1) == 0:
        raise UsageError("batches for BatchNorm statistics must be at least one: got none")
    if model is None:
        raise UsageError("BatchNorm statistics are those of a model: give model= with batches=")


def recalibrate(model: nn.Module, batches: Iterable[Any]) -> None:
    """Estimate the statistics of BatchNorm layers anew from inputs of the model.

    Torch's own ``update_bn``: layers end with the plain average over all batches. A batch is an
    input, or a list or tuple whose first member is one. Torch's random numbers and the mode of each
    module are left as they are, and so are layers that a model in training has in evaluation mode.

    Raises
    ------
    UsageError
        If there is no batch. Whatever fails, the model is then as it was.
    """
    device = next((p.device for p in model.parameters()), None)
    modes = {module: module.training for module in model.modules()}
    shares = {m: m.momentum for m in modes if hasattr(m, "momentum")}  # update_bn takes them away
    frozen = {module for module, training in modes.items() if model.training and not training}
    kept = [(m, b, b.clone()) for m in modes for b in m.buffers(recurse=False)]
    done = False
    try:
        with own_randomness():
            found = iter(batches)
            first = next(found, None)
            if first is None:
                raise UsageError("batches for BatchNorm statistics must be at least one: got none")
            update_bn(itertools.chain([first], found), model, device)
        done = True
    finally:
        for module, training in modes.items():
            module.training = training
        for module, share in shares.items():
            module.momentum = share
        with torch.no_grad():
            for module, buffer, values in kept:
                if module in frozen or not done:
                    buffer.copy_(values)
