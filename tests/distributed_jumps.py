"""One of two gloo processes whose model jumps; both are started by test_apply_distributed.py."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Container
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from test_apply_windows import MIXED, Blend
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel

from weightcast.apply import Guard, Jumper, Placement, ranks
from weightcast.predictor import Forecaster, Line, LinearFit, load
from weightcast.store import WeightcastError

RANKS = 2
T, STEPS, END = 24, 13, 40  # the jump, its probation, the end
GUARD = Guard(steps=STEPS, window=16)
KEPT = (T, T + STEPS, END)
JUMPS = [(kind, "mixed") for kind in ("all", "part", "replicated")]
JUMPS += [("all", "line"), ("all", "network")]
Values = list[torch.Tensor]
Make = Callable[[int], nn.Module]
Shown = Callable[[int], float]


class InTurn(Blend):
    """Adds its columns one after the other: torch's sums depend on how many weights there are."""

    def _kernel(self, like: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        def values(seen: torch.Tensor) -> torch.Tensor:
            total = torch.zeros_like(seen[0])
            for share, row in zip(self.shares, seen, strict=True):
                total += share * row
            return total

        return values


FORECASTERS: dict[str, Callable[[], Forecaster]] = {
    "mixed": lambda: InTurn(MIXED),
    "line": lambda: Line(window=12, stride=4),
    "network": lambda: load("introspection-mnist"),
}


def network() -> nn.Sequential:
    """Rows that do not divide evenly, and layers of one row: of these a rank holds nothing."""
    torch.manual_seed(0)
    layers = nn.Linear(7, 5), nn.BatchNorm1d(5), nn.Linear(5, 3), nn.Linear(3, 1)
    return nn.Sequential(*layers)


def replicas(rank: int) -> nn.Module:
    return DistributedDataParallel(network())


def shards(rank: int, kind: str) -> nn.Module:
    model = network()
    copies = kind == "replicated"  # two copies of one shard each
    names = ("replicate", "shard") if copies else ("shard",)
    mesh = init_device_mesh("cpu", (RANKS, 1) if copies else (RANKS,), mesh_dim_names=names)
    fully_shard(model[0] if kind == "part" else model, mesh=mesh)  # the rest stays whole
    return model


def full(tensor: torch.Tensor) -> torch.Tensor:
    whole = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole.detach().clone()


class Run:
    """A model in training with a jumper, and what was seen of it.

    Losses are what `shown` says; gradients are those of batches that differ between ranks.
    """

    def __init__(
        self,
        rank: int,
        make: Make,
        kept: Container[int] = KEPT,
        **options: Any,
    ) -> None:
        self.rank, self.model, self.step, self.kept = rank, make(rank), 0, kept
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)
        self.before: dict[int, dict[str, Any]] = {}  # a jump that this very step may make
        self.after: dict[int, dict[str, Any]] = {}
        self.optimizer.register_step_post_hook(lambda *_: self.keep(self.before, self.step))
        known = {"forecaster": LinearFit(), "jump_points": [T], "guard": GUARD}
        options = {**known, "model": self.model, **options}
        self.jumper = Jumper(self.optimizer, **options)

    def keep(self, where: dict[int, dict[str, Any]], step: int) -> None:
        if step not in self.kept:
            return
        state = {i: self.optimizer.state[p] for i, p in enumerate(self.model.parameters())}
        where[step] = {
            "weights": [full(p) for p in self.model.parameters()],
            "state": [[full(v) for v in state[i].values()] for i in state if self.kept is KEPT],
            "buffers": [b.clone() for b in self.model.buffers()],
        }

    def train(self, last: int, shown: Shown, silent: bool = False) -> Run:
        if not self.step:
            self.keep(self.after, 0)
        while self.step < last:
            self.step += 1
            generator = torch.Generator().manual_seed(2 * self.step + self.rank)
            self.jumper.zero_grad()
            loss = self.model(torch.randn(8, 7, generator=generator)).square().mean()
            if silent:  # a backward without a loss, as of a pipeline's first stage
                torch.autograd.backward([loss.expand(2)], [torch.full((2,), 0.5)])
            else:
                (loss - loss.detach() + shown(self.step)).backward()
            self.jumper.step()
            self.keep(self.after, self.step)
        return self

    def found(self) -> dict[str, Any]:
        events = [str(event) for event in self.jumper.events]
        return {"before": self.before, "after": self.after, "events": events}


def losses(factor: Callable[[int], float]) -> Shown:
    """A falling loss, times something."""
    return lambda step: factor(step) * 100 / step


def by_rank(rank: int, before: tuple[float, float], after: tuple[float, float]) -> Shown:
    return losses(lambda step: (before if step <= T else after)[rank])


GOOD = (1.0, 1.0), (1.2, 0.4)  # rank 0 alone would roll back
BAD = (1.5, 0.5), (1.2, 1.2)  # and here keep
NAN = (1.0, 1.0), (0.1, float("nan"))


def decisions(rank: int, make: Make) -> dict[str, Any]:
    """What the losses of both ranks bring about."""
    found = {}
    for name, shown in {"good": GOOD, "bad": BAD, "nan": NAN}.items():
        run = Run(rank, make).train(END, by_rank(rank, *shown))
        found[name] = run.found()
        run.jumper.close()
    return found


def resumed(rank: int, make: Make, folder: Path, own: bool) -> dict[str, Any]:
    """As "bad", stopped before and after the jump; rank 0 saves for all, or each its own."""
    shown, found = by_rank(rank, *BAD), {}
    for stop in (T - 3, T + 7):
        run = Run(rank, make).train(stop, shown)
        file = folder / f"stop-{stop}-{rank if own else 0}.pt"
        if own or rank == 0:
            torch.save({"model": run.model.state_dict(), "jumper": run.jumper.state_dict()}, file)
        run.jumper.close()
        dist.barrier()
        saved = torch.load(file, weights_only=True)
        again = Run(rank, make)
        again.model.load_state_dict(saved["model"])
        again.jumper.load_state_dict(saved["jumper"])
        again.step = stop
        found[stop] = again.train(END, shown).found()
        again.jumper.close()
    return found


def poisoned(rank: int, make: Make, guard: Guard | None) -> dict[str, Any]:
    """A snapshot has a NaN, on rank 1 only."""
    run = Run(rank, make, guard=guard).train(T - 1, losses(lambda step: 1.0))
    state = run.jumper.live.state_dict()
    if rank == 1:
        tensor = next(iter(state["snapshots"].values()))[0]
        (tensor.to_local() if hasattr(tensor, "to_local") else tensor)[0, 0] = float("nan")
    run.jumper.live.load_state_dict(state)
    error = ""
    try:
        run.train(T, losses(lambda step: 1.0))
    except WeightcastError as raised:
        error = str(raised)
    run.keep(run.after, T)
    run.jumper.close()
    return {**run.found(), "error": error}


def silent(rank: int) -> dict[str, Any]:
    """Rank 1 has no losses; what rank 0 has is what there is."""
    run = Run(rank, replicas).train(END, by_rank(rank, *GOOD), silent=rank == 1)
    run.jumper.close()
    return run.found()


def probed(rank: int) -> dict[str, Any]:
    """A probe that tells every rank something else."""
    steps = iter(range(1000))
    guard = Guard(steps=STEPS, window=16, probe=lambda: 2.0 + rank - next(steps) / 100, every=2)
    run = Run(rank, replicas, guard=guard).train(END, by_rank(rank, *GOOD))
    run.jumper.close()
    return {**run.found(), "judge": run.jumper.live.state_dict()["judge"]}


def forecast(rank: int, kind: str, forecaster: Forecaster) -> dict[str, Any]:
    """Unguarded jumps of sharded models, with everything that a context may have."""
    make = functools.partial(shards, kind=kind)
    options = {"guard": None, "jump_points": [20, T], "forecaster": forecaster}
    # the batches are those of rank 0: nobody sums the gradients of parameters that stay whole
    run = Run(0, make, range(T + 3), **options).train(T + 2, losses(lambda step: 1.0))
    run.jumper.close()
    held = [p.to_local() if hasattr(p, "to_local") else p for p in run.model.parameters()]
    return {**run.found(), "held": [p.numel() for p in held], "memory": run.jumper.memory()}


def refused(rank: int, **options: Any) -> str:
    try:
        run = Run(rank, **options)
        with run.jumper:
            run.train(2, losses(lambda step: 1.0))
    except WeightcastError as error:
        return str(error)
    return ""


def network_of(seed: int) -> Forecaster:
    found = load("introspection-mnist")
    found.load_tensors({name: t + seed for name, t in found.tensors().items()})
    return found


def flat_shards(original: bool) -> Callable[[int], nn.Module]:
    return lambda rank: FullyShardedDataParallel(
        network(), device_id=torch.device("cpu"), use_orig_params=original
    )


def alone(rank: int) -> str:
    """Rank 0 jumps, rank 1 does not; it has gone on to a collective of its own."""
    ranks.SOON, ranks.PATIENCE = timedelta(seconds=0.1), timedelta(seconds=0.3)
    error = "" if rank else refused(rank, make=lambda rank: network())
    dist.all_reduce(torch.zeros(3))
    return error


def main(rank: int, folder: str) -> None:
    """All scenarios in one pair of processes: to start torch takes longer than they do."""
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/rendezvous", RANKS)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS)
    sharded = functools.partial(shards, kind="all")
    found: dict[str, Any] = {"silent": silent(rank), "probed": probed(rank)}
    for name, make in {"replicas": replicas, "shards": sharded}.items():
        files = Path(folder) / name
        files.mkdir(exist_ok=True)
        found[name] = {
            **decisions(rank, make),
            "resumed": resumed(rank, make, files, own=name == "shards"),
            "refused": poisoned(rank, make, GUARD),
            "unguarded": poisoned(rank, make, None),
        }
    for kind, name in JUMPS:
        found[f"{kind} {name}"] = forecast(rank, kind, FORECASTERS[name]())
    found["flat"] = [refused(rank, make=flat_shards(original)) for original in (False, True)]
    found["unlike"] = refused(rank, make=replicas, jump_points=[T + rank])
    many = [20, 40, 60, 80, 100 + rank, 120]  # of which the fifth is not printed
    found["hardly unlike"] = [
        refused(rank, make=replicas, **options)
        for options in (
            {"jump_points": many, "guard": None},
            {"placement": Placement(half=bool(rank))},
            {"forecaster": network_of(rank)},
        )
    ]
    found["alone"] = alone(rank)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[2]), sys.argv[1])
