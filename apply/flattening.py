"""Tensors of any shape and memory format as rows of numbers, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from weightcast.store import ShapeError


@dataclass(frozen=True)
class Layout:
    """How a parameter, its snapshots and its forecast are flattened, all in the same order.

    Parameters
    ----------
    name : str
        What messages call the parameter.
    shape : tuple of int
        Of a DTensor, as of a tensor that is flattened, that of this rank's shard.
    axes : tuple of int
        From the slowest to the fastest in the parameter's memory: so flattened, a dense tensor
        (channels_last, transposed) is a view, and no copy is made.
    sharding : dict, optional
        Of a DTensor what ``DTensor.from_local`` needs to know.

    Examples
    --------
    >>> turned = torch.arange(6).reshape(2, 3).T
    >>> layout = Layout.of(turned, "parameter 0")
    >>> layout.flat(turned)
    tensor([0, 1, 2, 3, 4, 5])
    >>> layout.flat(turned.contiguous())  # whatever the memory of the others is
    tensor([0, 1, 2, 3, 4, 5])
    >>> layout.shaped(layout.flat(turned)).stride() == turned.stride()
    True
    """

    name: str
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    sharding: dict[str, Any] | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, parameter: torch.Tensor, name: str) -> Layout:
        """The layout in which flattening this parameter copies nothing, if there is one."""
        held = local(parameter)
        axes = sorted(range(held.ndim), key=held.stride, reverse=True)
        return cls(name, tuple(held.shape), tuple(axes), _sharding(parameter))

    def flat(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor of the parameter's shape as a row, shape (n,).

        Raises
        ------
        ShapeError
            If it has another shape.
        """
        held = local(tensor)
        if tuple(held.shape) != self.shape:
            raise ShapeError(
                f"a snapshot of {self.name} must have its shape {self.shape}: got "
                f"{tuple(held.shape)}; give snapshots of the same model"
            )
        return held.permute(self.axes).reshape(-1)

    def shaped(self, row: torch.Tensor) -> torch.Tensor:
        """A row, shape (n,), in the parameter's shape; a view."""
        places = sorted(range(len(self.axes)), key=self.axes.__getitem__)
        return row.view([self.shape[a] for a in self.axes]).permute(places)

    def saved(self, row: torch.Tensor) -> torch.Tensor:
        """A copy of a row in the parameter's shape, for a checkpoint: a DTensor as it is one."""
        copy = self.shaped(row).clone()
        if self.sharding is None:
            return copy
        from torch.distributed.tensor import DTensor  # there already, by the parameter

        return DTensor.from_local(copy, **self.sharding, run_check=False)


def local(tensor: torch.Tensor) -> torch.Tensor:
    """What this rank holds of a tensor: of a DTensor its shard, of any other all of it."""
    held = tensor.detach()
    return held.to_local() if hasattr(held, "to_local") else held


def _sharding(parameter: Any) -> dict[str, Any] | None:
    if not hasattr(parameter, "to_local"):
        return None
    return {
        "device_mesh": parameter.device_mesh,
        "placements": parameter.placements,
        "shape": parameter.shape,
        "stride": parameter.stride(),
    }


def layouts_of(parameters: Sequence[torch.Tensor]) -> list[Layout]:
    """The layout of what this rank holds of each parameter, named by its number."""
    return [Layout.of(p, f"parameter {i}") for i, p in enumerate(parameters)]
