"""One of two gloo processes whose weights are skipped; started by test_apply_skipping.py."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from weightcast.apply import UpdateSkipper
from weightcast.store import UsageError

RANKS = 2
# Means over ranks: 0.5, 0.8, 0.8 (skip), 0.8 (train), 0.9, 0.9 (skip). Each rank alone differs.
VALUES = [[0.3, 0.7, 0.9, 0.7, 1.1, 1.1], [0.7, 0.9, 0.7, 0.9, 0.7, 0.7]]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))


def run(rank: int, **options: Any) -> dict[str, Any]:
    """A run in which each rank sees other images; what it decided, and the weights after it."""
    model = DistributedDataParallel(network(), find_unused_parameters=True, **options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    images = torch.Generator().manual_seed(rank)
    weights = []
    with UpdateSkipper(model, optimizer, window=1) as skipper:
        for value in VALUES[rank]:
            for _ in range(3):
                optimizer.zero_grad()
                model(torch.randn(8, 4, generator=images)).square().mean().backward()
                optimizer.step()
            weights.append([p.detach().clone() for p in model.parameters()])
            skipper.update(value)
    return {"kinds": [event.kind for event in skipper.events], "weights": weights}


def refused(call: Any) -> str:
    """What an error says."""
    try:
        call()
    except UsageError as error:
        return str(error)
    return ""


def skipper_of(wrapped: nn.Module, model: nn.Module) -> UpdateSkipper:
    return UpdateSkipper(model, torch.optim.SGD(wrapped.parameters(), lr=0.1), window=1)


def refusals() -> dict[str, str]:
    """Of wrappers that cannot be; given the wrapper, or the plain model inside."""
    plain = DistributedDataParallel(network())
    static = DistributedDataParallel(network(), find_unused_parameters=True, static_graph=True)
    found = {
        "wrapper": refused(lambda: skipper_of(plain, plain)),
        "inside": refused(lambda: skipper_of(plain, plain.module)),
        "static": refused(lambda: skipper_of(static, static)),
    }
    model = network()
    skipper = skipper_of(model, model)
    late = DistributedDataParallel(model)
    skipper.update(0.5)
    found["late"] = refused(lambda: skipper.update(0.5))
    del late  # garbage does not count
    skipper.close()
    skipper = skipper_of(model, model)
    skipper.update(0.5)
    skipper.update(0.5)
    made_while_frozen = DistributedDataParallel(model, find_unused_parameters=True)
    found["frozen"] = refused(lambda: skipper.update(0.5))
    del made_while_frozen
    sharded = network()
    fully_shard(sharded)
    found["sharded"] = refused(lambda: skipper_of(sharded, sharded))
    return found


def main(folder: Path, rank: int) -> None:
    torch.set_num_threads(1)
    gc.freeze()  # wrappers are looked for among all objects but those of the imports
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=RANKS)
    found = {"plain": run(rank), "views": run(rank, gradient_as_bucket_view=True)}
    torch.save({**found, "refused": refusals()}, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
