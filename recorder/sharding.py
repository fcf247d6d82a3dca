"""Models whose parameters several ranks share (DTensor, ``fully_shard``): who records what."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor import Shard as ShardPlacement
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from weightcast.recorder.distributed import writes_here
from weightcast.recorder.selection import Selection
from weightcast.store import ParameterTable, RecordingError
from weightcast.store.ringplan import Shard


class Part:
    """What this rank holds of a selection's parameters, and so records.

    Attributes
    ----------
    rank, ranks : int
        This rank, and how many record together; 0 and 1 unless the model is sharded.
    shards : tuple of Shard
        For each parameter, the box of it that this rank records; empty boxes are of others.
    sharded : bool
        Whether any parameter is shared between ranks.
    """

    def __init__(self, selection: Selection) -> None:
        parameters = selection.parameters
        self.sharded = any(isinstance(p, DTensor) for p in parameters.values())
        self.rank = torch.distributed.get_rank() if self.sharded else 0
        self.ranks = torch.distributed.get_world_size() if self.sharded else 1
        self._table = selection.parameter_table()
        self.shards = tuple(
            _shard(p.offset, p.name, tensor, self.rank)
            for p, tensor in zip(self._table, parameters.values(), strict=True)
        )

    @property
    def records(self) -> bool:
        """Whether this rank records anything at all."""
        return self.sharded or writes_here()

    def table(self) -> ParameterTable:
        """What a row of this rank holds."""
        return ParameterTable.of(
            (p.name, shard.size, p.dtype, p.kind)
            for p, shard in zip(self._table, self.shards, strict=True)
        )

    def holds(
        self, snapshot: npt.NDArray[Any], parameters: list[torch.Tensor], bound: float
    ) -> bool:
        """Whether this rank's parameters are those of a snapshot [P], within an error."""
        for shard, tensor in zip(self.shards, self.local(parameters), strict=True):
            if tensor is None or not shard.count:
                continue
            whole = snapshot[shard.offset : shard.stop].reshape(shard.shape)
            box = tuple(slice(s, s + n) for s, n in zip(shard.start, shard.size, strict=True))
            mine = tensor.detach().to("cpu", torch.float64).numpy()
            if not np.allclose(mine, whole[box], rtol=0, atol=bound, equal_nan=True):
                return False
        return True

    def local(self, tensors: Sequence[torch.Tensor | None]) -> Sequence[torch.Tensor | None]:
        """Of tensors over the parameters, what this rank records."""
        if not self.sharded:
            return tensors
        return [
            tensor if tensor is None else _local(tensor, shard)
            for tensor, shard in zip(tensors, self.shards, strict=True)
        ]


def _local(tensor: torch.Tensor, shard: Shard) -> torch.Tensor:
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return local if local.shape == shard.size else local.new_empty(shard.size)


def _shard(offset: int, name: str, tensor: torch.Tensor, rank: int) -> Shard:
    """The box of a parameter that this rank records."""
    shape = tuple(tensor.shape)
    if not isinstance(tensor, DTensor):
        mine, size, start = rank == 0, shape, (0,) * len(shape)
    else:
        kinds = {type(placement) for placement in tensor.placements}
        if not kinds <= {Replicate, ShardPlacement}:
            raise RecordingError(
                f"parameters must be sharded or replicated to be recorded: {name!r} has "
                f"{tensor.placements}: leave it out with exclude"
            )
        size, start = compute_local_shape_and_global_offset(
            tensor.shape, tensor.device_mesh, tensor.placements
        )
        place: Sequence[int] = tensor.device_mesh.get_coordinate() or ()
        copies = zip(place, tensor.placements, strict=True)
        # Of several copies of a shard, one rank records its own.
        mine = all(at == 0 for at, placement in copies if isinstance(placement, Replicate))
    if not mine:
        size, start = (0,) * len(shape), (0,) * len(shape)
    return Shard(offset, shape, tuple(start), tuple(size))


@contextmanager
def in_turn(part: Part) -> Iterator[None]:
    """Let rank 0 go first, then the others; what fails on one rank fails on all.

    Raises
    ------
    RecordingError
        On a rank where all went well, with the error of one where it did not.
    """
    if part.ranks == 1:
        yield
        return
    if part.rank:
        _share(part, None)
    error: Exception | None = None
    try:
        yield
    except Exception as caught:  # whatever it is, the other ranks must not wait for this one
        error = caught
    if not part.rank:
        _share(part, error)
    _share(part, error)


def _share(part: Part, error: Exception | None) -> None:
    """Tell all ranks of an error, and raise what any of them has."""
    mine = (str(error) if error else None, socket.gethostname())
    said: list[tuple[str | None, str]] = [mine] * part.ranks
    torch.distributed.all_gather_object(said, mine)
    if error is not None:
        raise error
    for rank, (text, host) in enumerate(said):
        if text is not None:
            raise RecordingError(f"rank {rank} cannot record: {text}")
        if host != mine[1]:
            raise RecordingError(
                "ranks that share a model must be on one host to record it, where they share "
                f"memory-mapped files: rank {rank} is on {host}, rank {part.rank} on {mine[1]}"
            )
