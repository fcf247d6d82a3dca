"""The rows that a forecast reads, block by block, and their fixed combinations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Protocol

import torch

from weightcast.store import ShapeError
from weightcast.store.context import Context

# Weights forecast at once. On a CPU, 40 hidden units x 4096 x 4 bytes stay in a core's cache; on
# other devices a block bounds the memory, at 40 x 1 M x 4 bytes. A combination of rows holds one
# number a weight: its block is as large as a core's cache takes, so that starting torch's operators
# costs little beside them.
BLOCK = 4096
DEVICE_BLOCK = 1 << 20
COMBINED = 1 << 17


class Sliceable(Protocol):
    """P numbers of which a slice gives a tensor: a tensor, or one that is computed where read."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> torch.Tensor: ...


Row = Sliceable | float


@dataclass(frozen=True)
class Combination:
    """A forecast that is a sum of rows, each times a coefficient, and a constant.

    Parameters
    ----------
    coefficients : sequence of float, length F
    constant : float
        In the weights' own units.

    Examples
    --------
    >>> rows, out = [torch.ones(3), torch.arange(3.0), 10.0], torch.empty(3)
    >>> Combination([1.0, 0.5, 0.1]).into(out, rows, out[:0])
    >>> out
    tensor([2.0000, 2.5000, 3.0000])
    """

    coefficients: Sequence[float]
    constant: float = 0.0

    def into(
        self, out: torch.Tensor, rows: torch.Tensor | Sequence[Row], like: torch.Tensor
    ) -> None:
        """Write the combination of `rows` to `out`, a block at a time.

        Parameters
        ----------
        out : Tensor, shape (P,)
            It may be one of the rows.
        rows : Tensor, shape (F, P), or sequence of F rows
        like : Tensor
            Of the device and dtype to compute in.
        """
        block = COMBINED if like.device.type == "cpu" else 4 * DEVICE_BLOCK
        constant = self.constant
        found: dict[int, tuple[Any, float]] = {}
        for row, coefficient in zip(rows, self.coefficients, strict=True):
            if isinstance(row, Real):
                constant += float(row) * coefficient
            elif coefficient:
                parts = getattr(row, "terms", ()) or ((row, 1.0),)
                for array, factor in parts:  # rows of one window have arrays in common
                    _, known = found.get(id(array), (array, 0.0))
                    found[id(array)] = array, known + factor * coefficient
        terms = list(found.values())
        # Rows are added where they lie: to stack a block of them first takes half as long again.
        held = like.new_empty(min(block, len(out)))
        alike = (out.dtype, out.device) == (like.dtype, like.device)
        for low in range(0, len(out), block):
            part = slice(low, low + block)
            into, total = out[part], held[: len(out) - low]
            if constant or not terms:
                total.fill_(constant)
            for place, (row, coefficient) in enumerate(terms):
                to = into if alike and place == len(terms) - 1 else total
                if place or constant:
                    torch.add(total, row[part].to(like), alpha=coefficient, out=to)
                else:
                    torch.mul(row[part].to(like), coefficient, out=to)
            if not alike or not terms:
                into.copy_(total)


def measure(
    rows: torch.Tensor | Sequence[Row], out: torch.Tensor | None, context: Context
) -> tuple[int, torch.Tensor]:
    """P, and an empty tensor of the device and dtype that is computed in.

    Raises
    ------
    ShapeError
        If there is not one row for each entry of the context, or their lengths differ.
    """
    given: list[Any] = [row for row in rows if not isinstance(row, Real)]
    given += [] if out is None else [out]
    sizes = {len(row) if len(getattr(row, "shape", "P")) == 1 else -1 for row in given}
    if len(rows) != len(context.columns) or len(sizes) != 1 or -1 in sizes:
        tensor = isinstance(rows, torch.Tensor)
        got = tuple(rows.shape) if tensor else f"{len(rows)} rows of {sizes} weights"  # type: ignore[union-attr]
        raise ShapeError(
            f"context must have shape ({len(context.columns)}, P), a row for each entry of "
            f"{context}: got {got}"
        )
    # where a row is computed, its terms are at hand, and nothing is computed for none of it
    empty = [row.terms[0][0][:0] if getattr(row, "terms", ()) else row[:0] for row in given]
    double = any(row.dtype == torch.float64 for row in empty)
    # rows may lie elsewhere, in the host's memory: it is computed where the result is
    like = empty[0] if out is None else empty[-1]
    return sizes.pop(), like.to(torch.float64 if double else torch.float32)


def apply(
    kernel: Callable[[torch.Tensor], torch.Tensor],
    out: torch.Tensor,
    rows: torch.Tensor | Sequence[Row],
    like: torch.Tensor,
    block: int,
) -> None:
    """Write a function of what is seen of each weight to `out`, a block at a time.

    Parameters
    ----------
    kernel : callable
        A function [F, n] -> [n].
    out : Tensor, shape (P,)
        It may be one of the rows.
    rows : Tensor, shape (F, P), or sequence of F rows
    like : Tensor
        Of the device and dtype to compute in.
    block : int
        Weights at once on a CPU.

    Examples
    --------
    >>> rows, out = [torch.arange(3.0), 10.0], torch.empty(3)
    >>> apply(lambda seen: seen.prod(0), out, rows, out[:0], block=2)
    >>> out
    tensor([ 0., 10., 20.])
    """
    block = block if like.device.type == "cpu" else DEVICE_BLOCK
    whole = isinstance(rows, torch.Tensor) and rows.dtype == like.dtype
    held = like.new_empty((0 if whole else len(rows), min(block, len(out))))
    for low in range(0, len(out), block):
        part = slice(low, low + block)
        if whole:
            out[part] = kernel(rows[:, part])  # type: ignore[call-overload]
            continue
        seen = held[:, : len(out) - low]
        for row, into in zip(rows, seen, strict=True):
            if isinstance(row, Real):
                into.fill_(float(row))
            else:
                into.copy_(row[part])
        out[part] = kernel(seen)
