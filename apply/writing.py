"""A jump in place: forecasts are written over the weights that they are of, block by block.

::

    rows of a block  --forecast-->  held     the block's weights  -->  backup
                                    held  -->  the block's weights

Each array is passed once, as a block stays in a core's cache meanwhile.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import torch

from weightcast.apply.flattening import Layout
from weightcast.apply.packing import AT_ONCE, packs
from weightcast.apply.summing import summing_dtype
from weightcast.predictor import Forecaster
from weightcast.predictor.rows import Row
from weightcast.store import NonFiniteError
from weightcast.store.windows import Row as ComputedRow

IN_PLACE = AT_ONCE  # weights of a block
ON_DEVICE = 1 << 22  # on other devices few launches count more than a cache

RowsOf = Callable[[int, slice], list[Row]]


@dataclass(frozen=True)
class Block:
    """Weights that are forecast at once: a part of a large tensor, or all of a small one.

    Attributes
    ----------
    number : int
        Of the parameter.
    part : slice
    rows : list of rows
        Of these weights.
    """

    number: int
    part: slice
    rows: list[Row]

    @property
    def size(self) -> int:
        """Weights in it."""
        return int(self.part.stop - self.part.start)


@torch.no_grad()
def write_forecasts(
    parameters: Sequence[torch.Tensor],
    layouts: Sequence[Layout],
    rows: RowsOf,
    forecaster: Forecaster,
    backups: Sequence[torch.Tensor],
) -> list[tuple[float, float]]:
    """Write the forecast of each parameter in its place, block by block.

    Parameters
    ----------
    parameters : sequence of Tensor
        What this rank holds of them; changed.
    layouts : sequence of Layout
        How the rows of each are flattened.
    rows : function
        From a parameter's number and a slice of its weights to the rows of these; called once for
        each block.
    forecaster : Forecaster
        Fitted.
    backups : sequence of Tensor, shape (n,)
        For each parameter where its present values go, in its layout. They may be among the rows: a
        block is written only after its forecast was read.

    Returns
    -------
    list of pairs of float
        For each parameter its sum of squares before and after; infinite or NaN where a number is.
        Where the forecaster refuses numbers, the weights are as before, and what comes after is
        NaN.

    Notes
    -----
    If anything else fails on the way, an interrupt included, the weights are as before.
    """
    writing = _Writing(parameters, layouts, forecaster, backups)
    try:
        for pack in _packed(parameters, rows):
            writing.write(pack)
    except NonFiniteError:  # out of regressors that scikit-learn computes
        writing.undo()
        writing.back_up()
        return [(0.0, math.nan)] * len(parameters)
    except BaseException:
        writing.undo()
        raise
    return writing.squares()


def _packed(parameters: Sequence[torch.Tensor], rows: RowsOf) -> Iterator[list[Block]]:
    """Parts of large tensors one by one; small tensors of which facts are the same together."""

    def blocks() -> Iterator[tuple[Block, int, Hashable]]:
        for i, p in enumerate(parameters):
            most = _most(p)
            for low in range(0, p.numel(), most):
                part = slice(low, min(low + most, p.numel()))
                block = Block(i, part, rows(i, part))
                facts = tuple(row if isinstance(row, Real) else None for row in block.rows)
                # what is left of a large tensor goes alone too, in its turn
                yield block, max(block.size, min(p.numel(), most)), (p.dtype, p.device, facts)

    return packs(blocks(), IN_PLACE)


def _most(tensor: torch.Tensor) -> int:
    return IN_PLACE if tensor.device.type == "cpu" else ON_DEVICE


class _Writing:
    """A jump that is being made, and can be unmade as far as it got."""

    def __init__(
        self,
        parameters: Sequence[torch.Tensor],
        layouts: Sequence[Layout],
        forecaster: Forecaster,
        backups: Sequence[torch.Tensor],
    ) -> None:
        self._parameters, self._layouts, self._backups = parameters, layouts, backups
        self._forecast = forecaster.writer()
        self._copies: dict[int, torch.Tensor] = {}  # of what has no flat view: every other number
        self._held: dict[Hashable, torch.Tensor] = {}
        self._written: list[Block] = []
        self._norms: list[list[torch.Tensor]] = [[] for _ in parameters]  # before, after, before...

    def write(self, pack: Sequence[Block]) -> None:
        """Forecast these weights, back them up, and write."""
        now = [self._flat(b.number)[b.part] for b in pack]
        sizes = [b.size for b in pack]
        held = self._room(now[0], sum(sizes))
        self._forecast(_joined([b.rows for b in pack]), held)
        after = held.split(sizes)
        torch._foreach_copy_([self._backups[b.number][b.part] for b in pack], now)
        dtype = summing_dtype(held)
        norms = (torch._foreach_norm(values, 2, dtype=dtype) for values in (now, list(after)))
        for block, *pair in zip(pack, *norms, strict=True):
            self._norms[block.number] += pair
        self._written += (replace(b, rows=[]) for b in pack)
        torch._foreach_copy_(now, list(after))
        for block in pack:
            self._write_through(block)

    def undo(self) -> None:
        """Make the weights what they were."""
        for block in self._written:
            # where there is no view and its copy was written back: by another, with the last block
            self._flat(block.number)[block.part] = self._backups[block.number][block.part]
            self._write_through(block)

    def back_up(self) -> None:
        """Copy the weights to all backups."""
        for i, backup in enumerate(self._backups):
            backup.copy_(self._flat(i))

    def squares(self) -> list[tuple[float, float]]:
        """Sums of squares before and after, for each parameter; the only wait for a device."""
        norms = [norm.double() for found in self._norms for norm in found]
        numbers = torch.stack([n.to(norms[0].device) for n in norms]).tolist() if norms else []
        squares = (norm * norm for norm in numbers)
        own = [list(itertools.islice(squares, len(found))) for found in self._norms]
        return [(math.fsum(s[::2]), math.fsum(s[1::2])) for s in own]

    def _flat(self, i: int) -> torch.Tensor:
        """A parameter as a row; where there is no view of it, a copy while its blocks pass."""
        if i in self._copies:
            return self._copies[i]
        parameter = self._parameters[i]
        flat = self._layouts[i].flat(parameter)
        if flat.data_ptr() != parameter.data_ptr():
            self._copies[i] = flat
        return flat

    def _write_through(self, block: Block) -> None:
        """Write a copy back when its last block was written."""
        i = block.number
        if i in self._copies and block.part.stop == self._parameters[i].numel():
            self._parameters[i].copy_(self._layouts[i].shaped(self._copies.pop(i)))

    def _room(self, like: torch.Tensor, size: int) -> torch.Tensor:
        """Where forecasts are written to, block after block."""
        key = like.dtype, like.device
        if key not in self._held:
            sizes = (p.numel() for p in self._parameters if (p.dtype, p.device) == key)
            self._held[key] = like.new_empty(min(sum(sizes), _most(like)))
        return self._held[key][:size]


def _joined(rows: Sequence[list[Row]]) -> list[Row]:
    """The rows of several blocks, of which the same facts are seen, as those of one."""
    return list(rows[0]) if len(rows) == 1 else [_one_row(each) for each in zip(*rows, strict=True)]


def _one_row(rows: Sequence[Any]) -> Row:
    first = rows[0]
    if isinstance(first, Real):
        return float(first)
    if not isinstance(first, ComputedRow):
        return torch.cat(list(rows))
    terms = tuple(
        (torch.cat([row.terms[k][0] for row in rows]), factor)
        for k, (_, factor) in enumerate(first.terms)
    )
    values = functools.cache(lambda: torch.cat([row[:] for row in rows]))
    return ComputedRow(sum(map(len, rows)), lambda part: values()[part], terms)
