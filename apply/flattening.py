"""Tensors of any shape and memory format as rows of numbers, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    axes : tuple of int
        From the slowest to the fastest in the parameter's memory: so flattened, a dense tensor
        (channels_last, transposed) is a view, and no copy is made.

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

    @classmethod
    def of(cls, parameter: torch.Tensor, name: str) -> Layout:
        """The layout in which flattening this parameter copies nothing, if there is one."""
        axes = sorted(range(parameter.ndim), key=parameter.stride, reverse=True)
        return cls(name, tuple(parameter.shape), tuple(axes))

    def flat(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor of the parameter's shape as a row, shape (n,).

        Raises
        ------
        ShapeError
            If it has another shape.
        """
        if tuple(tensor.shape) != self.shape:
            raise ShapeError(
                f"a snapshot of {self.name} must have its shape {self.shape}: got "
                f"{tuple(tensor.shape)}; give snapshots of the same model"
            )
        return tensor.detach().permute(self.axes).reshape(-1)

    def shaped(self, row: torch.Tensor) -> torch.Tensor:
        """A row, shape (n,), in the parameter's shape; a view."""
        places = sorted(range(len(self.axes)), key=self.axes.__getitem__)
        return row.view([self.shape[a] for a in self.axes]).permute(places)


def layouts_of(parameters: Sequence[torch.Tensor]) -> list[Layout]:
    """The layout of each parameter, named by its number."""
    return [Layout.of(p, f"parameter {i}") for i, p in enumerate(parameters)]
