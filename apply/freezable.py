"""Where weights can be left alone for a while, and where not."""

from __future__ import annotations

import gc
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from weightcast.recorder.step import plain_optimizer
from weightcast.store import RecordingError, UsageError

_SHARDED = {"FullyShardedDataParallel", "FSDPModule"}


def plain_optimizers(optimizers: object) -> list[torch.optim.Optimizer]:
    """One or more torch optimizers, without the wrappers of Accelerate and others.

    Raises
    ------
    UsageError
        If it is something else, or one moves weights that have no gradient.
    """
    given = list(optimizers) if isinstance(optimizers, Iterable) else [optimizers]
    try:
        plain = [plain_optimizer(optimizer) for optimizer in given]
    except RecordingError:
        plain = []
    if not plain:
        names = ", ".join(type(optimizer).__name__ for optimizer in given[:3]) or "none"
        raise UsageError(f"give the torch optimizers that train the model: got {names}")
    if any(isinstance(optimizer, torch.optim.LBFGS) for optimizer in plain):
        raise UsageError(
            "an optimizer must leave weights without gradients alone for them to be skipped: LBFGS "
            "moves them along its past steps: use another, such as SGD or AdamW"
        )
    return plain


def refuse_shards(model: nn.Module) -> None:
    """Refuse FSDP: it takes over requires_grad when it begins, and does not look again.

    Raises
    ------
    UsageError
    """
    for name, module in model.named_modules():
        if _SHARDED & {c.__name__ for c in type(module).__mro__}:
            raise UsageError(
                "weights that are sharded cannot be skipped, as FSDP goes on computing their "
                f"gradients: {name or 'the model'} is sharded: use DistributedDataParallel("
                "find_unused_parameters=True)"
            )


def replicas(parameters: Iterable[torch.Tensor]) -> list[DistributedDataParallel]:
    """Live DDP wrappers of any of these parameters, whichever module was given to us."""
    if not (dist.is_available() and dist.is_initialized()):
        return []
    wanted = set(map(id, parameters))
    return [
        o
        for o in gc.get_objects()
        if DistributedDataParallel in type(o).__mro__  # it is an ABC, whose issubclass is slow
        and "reducer" in vars(o)  # else it is half built
        and not wanted.isdisjoint(map(id, o.parameters()))
    ]


def fit_replicas(parameters: Iterable[torch.Tensor]) -> list[DistributedDataParallel]:
    """The same, which must not wait for the gradients of skipped weights.

    Raises
    ------
    UsageError
    """
    held = list(parameters)
    found = replicas(held)
    if any(map(_waits, found)):
        del found
        gc.collect()  # a wrapper that is no longer used may be garbage
        found = replicas(held)
    if any(map(_waits, found)):
        raise UsageError(
            "DistributedDataParallel must be made with find_unused_parameters=True, and without "
            "static_graph, for weights to be skipped: it waits for the gradients of all parameters"
        )
    return found


def _waits(replica: DistributedDataParallel) -> bool:
    return not replica.find_unused_parameters or bool(replica.static_graph)
