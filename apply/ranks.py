"""What the processes of a distributed run decide together, so that none goes its own way.

All ranks of the default process group take the same steps and make the same jumps, or none does::

    before the first step   each tells the others what jumps it is going to make      `agree`
    every step, guarded     the mean of their losses, which no host waits for         `summing`
    a jump                  how much the weights grow, where ranks hold shards: all   `growth`
    a call of a probe       the mean of what they give                            `mean_of_ranks`

From then on all know the same numbers, come to the same decisions, and any of them can save all.
Every collective is of one size, whatever a rank has to tell.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from weightcast.store import UsageError

PATIENCE = timedelta(minutes=5)  # for a rank that has not begun
SOON = timedelta(seconds=10)  # after which it is said who is waited for

logger = logging.getLogger("weightcast.apply")


def shared() -> bool:
    """Whether several processes train together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def agree(what: str) -> None:
    """Check that all ranks are about to do the same, in words; waits for all of them.

    Raises
    ------
    UsageError
        If one is about to do something else, or nothing for `PATIENCE`.

    Notes
    -----
    By the process group's store: a rank without a jumper would take a collective for the next of
    its own, and both would hang, or worse.
    """
    if not shared():
        return
    store, rank = dist.distributed_c10d._get_default_store(), dist.get_rank()
    # the store outlives jumpers, and a rank may have had others in another process
    number = store.add(f"weightcast/jumpers/{rank}", 1)
    store.set(f"weightcast/jumper/{number}/{rank}", what)
    for other in range(dist.get_world_size()):
        said = _wait(store, f"weightcast/jumper/{number}/{other}", other)
        if said != what:
            raise UsageError(
                f"all ranks of a distributed run jump alike: rank {rank} has {what}, and rank "
                f"{other} has {said}: make the same jumper on all of them"
            )


def _wait(store: Any, key: str, rank: int) -> str:
    """What another rank has said, once it has."""
    for patience in (SOON, PATIENCE):
        try:
            store.wait([key], patience)
        except RuntimeError:  # of what kind depends on the store
            if patience == SOON:
                logger.warning("jumps wait for rank %d, which has not taken a step yet", rank)
            continue
        said: bytes = store.get(key)
        return said.decode()
    raise UsageError(
        f"all ranks of a distributed run jump, or none: rank {rank} has made no jumper, or taken "
        f"no step, for {PATIENCE.total_seconds():.0f} s: make the same jumper on all of them"
    )


def summing(values: torch.Tensor) -> dist.Work:
    """Begin to sum numbers over all ranks, in place; no host waits for it."""
    return dist.all_reduce(values, async_op=True)  # type: ignore[no-any-return]


def common_device(wanted: torch.device) -> torch.device:
    """Where ranks can sum: the device that is wanted, if their backend has it."""
    there = [pair.partition(":")[0] for pair in str(dist.get_backend_config()).split(",")]
    return wanted if wanted.type in there else torch.device(there[0])


def sum_of_ranks(values: Sequence[float]) -> list[float]:
    """The sum of each number over all ranks, the same on all of them."""
    if not shared():
        return list(values)
    device = common_device(torch.device("cpu"))
    sums = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(sums)
    return sums.tolist()


def mean_of_ranks(value: float) -> float:
    """The mean of a number over all ranks, the same on all of them.

    Examples
    --------
    >>> mean_of_ranks(2.0)
    2.0
    """
    total, ranks = sum_of_ranks([value, 1.0])
    return total / ranks


def growth(squares: Sequence[Sequence[float]], parameters: Sequence[torch.Tensor]) -> float:
    """How many times as large weights have become, in root mean square.

    Parameters
    ----------
    squares : sequence of pairs of float
        For each parameter the sum of squares of what this rank holds, before and after.
    parameters : sequence of Tensor
        Which of them other ranks hold too is theirs to tell.

    Returns
    -------
    float
        Infinite or NaN if a weight is, on any rank.

    Examples
    --------
    >>> growth([(1.0, 4.0), (0.0, 0.0)], [torch.ones(1), torch.zeros(1)])
    2.0
    """
    shares = [1 / _copies(p) for p in parameters]
    sums = [
        sum(pair[side] * share for pair, share in zip(squares, shares, strict=True))
        for side in (0, 1)
    ]
    before, after = sum_of_ranks(sums)
    if not before:
        return 1.0 if math.isfinite(after) else after
    return math.sqrt(after / before) if after >= 0 else after  # NaN is not


def _copies(parameter: Any) -> int:
    """How many ranks hold each of a parameter's numbers."""
    if not hasattr(parameter, "placements"):
        return dist.get_world_size() if shared() else 1
    pairs = enumerate(parameter.placements)
    return math.prod(parameter.device_mesh.size(i) for i, p in pairs if p.is_replicate())


def refuse_flat_shards(parameters: Sequence[torch.Tensor]) -> None:
    """Refuse FSDP's first form: its parameters are pieces of flat ones, whose tensors are unknown.

    Raises
    ------
    UsageError
    """
    if any(getattr(p, "_fsdp_flattened", False) for p in parameters):  # its own mark
        raise UsageError(
            "a sharded model must be sharded with torch.distributed.fsdp.fully_shard (FSDP2) to "
            "jump: these parameters are of a FullyShardedDataParallel module, and pieces of flat "
            "tensors"
        )
