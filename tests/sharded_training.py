"""Two gloo processes that train and record one sharded model; run by test_recorder_sharding.py."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from weightcast.recorder import Recorder
from weightcast.store import WeightcastError

RANKS = 2
KINDS = ("all", "part", "replicated")


def sharded_model(kind: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model in shards: 5 and 3 rows do not divide evenly, and one layer is frozen."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.BatchNorm1d(5), nn.Linear(5, 3))
    model[3].requires_grad_(False)
    if kind == "replicated":  # two copies of one shard each
        mesh = init_device_mesh("cpu", (RANKS, 1), mesh_dim_names=("replicate", "shard"))
    else:
        mesh = init_device_mesh("cpu", (RANKS,))
    if kind == "part":  # the rest stays whole, the same on all ranks
        fully_shard(model[0], mesh=mesh)
    else:
        fully_shard(model, mesh=mesh)
    return model, torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)


def full(tensor: torch.Tensor) -> torch.Tensor:
    whole = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole.detach().clone()


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: range,
    after: Callable[[], object] = lambda: None,
) -> list[list[torch.Tensor]]:
    """Train, and keep the full weights after each step."""
    seen = []
    for step in steps:
        x = torch.randn(8, 7, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        seen.append([full(p) for p in model.parameters()])
        after()
    return seen


def record(rank: int, folder: Path, kind: str) -> None:
    """Record 20 steps, and after a restart 10 more."""
    model, optimizer = sharded_model(kind)
    seen = [[full(p) for p in model.parameters()]]
    recorder = Recorder(model, folder / "run.zarr", gradients=True, memory=2000)
    with recorder.attach(optimizer):
        seen += train(model, optimizer, range(1, 21), lambda: recorder.log(loss=recorder.step))
    recorder = Recorder(model, folder / "run.zarr", resume=True, gradients=True)
    with recorder.attach(optimizer):
        seen += train(model, optimizer, range(21, 31))
    gradients = [full(p.grad) for p in model.parameters() if p.grad is not None]
    if rank == 0:
        torch.save({"seen": seen, "gradients": gradients}, folder / "seen.pt")


def taken(rank: int, folder: Path, kind: str) -> None:
    """What fails on one rank must fail on both, and not leave the other waiting."""
    model, _ = sharded_model(kind)
    if rank == 0:
        (folder / "run.zarr").mkdir()
    dist.barrier()
    try:
        Recorder(model, folder / "run.zarr")
    except WeightcastError as error:
        (folder / f"error-{rank}").write_text(str(error))


def killed(rank: int, folder: Path, kind: str) -> None:
    """One rank dies after step 12, the other goes on by itself and closes."""
    model, optimizer = sharded_model(kind)
    recorder: Any = Recorder(model, folder / "run.zarr", memory=2000).attach(optimizer)
    seen = train(model, optimizer, range(1, 13))
    if rank == 0:
        torch.save(seen, folder / "seen.pt")
    dist.barrier()
    if rank:
        os.kill(os.getpid(), signal.SIGKILL)
    recorder()  # a row without its other half
    recorder.close()


def main(rank: int, folder: str) -> None:
    """All scenarios in one pair of processes: to start torch takes longer than they do."""
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/rendezvous", RANKS)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS)
    for kind in KINDS:
        record(rank, Path(folder) / kind, kind)
        dist.barrier()
    taken(rank, Path(folder), "all")
    dist.barrier()
    killed(rank, Path(folder) / "killed", "all")


if __name__ == "__main__":
    context = torch.multiprocessing.get_context("spawn")
    ranks = [context.Process(target=main, args=(rank, sys.argv[1])) for rank in range(RANKS)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    sys.exit(ranks[0].exitcode)
