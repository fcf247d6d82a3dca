"""Samples as training reads them: drawn by (seed, step), gathered, scaled."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from weightcast.predictor.scaling import Scaling
from weightcast.store.keyed import words

Float = npt.NDArray[np.floating]
Int = npt.NDArray[np.int64]

_BATCHES = 0x6261746368  # this use's own stream of the seed
_DIGESTED = 4096  # rows that a digest reads


@dataclass(frozen=True)
class Batch:
    """Scaled samples; the error of an output is |gain x output - target|, in units of 1 / factor.

    Parameters
    ----------
    inputs : float32 Tensor, shape (n, F)
    target : float32 Tensor, shape (n,)
        What is added to the base, times the factor.
    gain : float32 Tensor, shape (n,), or None
        The unit times the factor; None where that is 1 for all. A weight that never moved has 0:
        nothing can be learned from it.
    """

    inputs: torch.Tensor
    target: torch.Tensor
    gain: torch.Tensor | None

    def __len__(self) -> int:
        return len(self.target)

    def blocks(self, size: int) -> Iterator[Batch]:
        """The samples, up to `size` at a time."""
        gains = [None] * len(self) if self.gain is None else self.gain.split(size)
        yield from map(Batch, self.inputs.split(size), self.target.split(size), gains)


@dataclass(frozen=True)
class Samples:
    """Some rows of a dataset, and how they are scaled; memory-mapped arrays are read in place.

    Parameters
    ----------
    X : float array, shape (N, F)
    y : float array, shape (N,)
    rows : int array, or None
        None are all.
    scaling : Scaling
    """

    X: Float
    y: Float
    rows: Int | None
    scaling: Scaling

    def __len__(self) -> int:
        return len(self.X if self.rows is None else self.rows)

    def batches(self, seed: int, size: int, start: int, stop: int) -> Iterator[Batch]:
        """The batches of some steps, gathered in one read.

        They depend on (seed, step) only, not on where the reading starts.
        """
        each = -(-size // 4)  # a counter gives four words
        drawn = words(seed, _BATCHES, start * each, stop * each).reshape(stop - start, -1)
        places = (drawn[:, :size] % np.uint64(len(self))).astype(np.int64)
        yield from self._take(places.ravel()).blocks(size)

    def spread(self, most: int) -> Batch:
        """All samples, or so many of them that lie evenly among all."""
        return self._take(_evenly(len(self), most))

    def _take(self, places: Int) -> Batch:
        rows = places if self.rows is None else self.rows[places]
        seen = torch.from_numpy(np.array(self.X[rows].T, order="C"))  # [F, n]
        inputs, unit, base = self.scaling.apply(seen)
        factor = self.scaling.factor
        target = (torch.from_numpy(np.array(self.y[rows])) - base) * factor
        gain = unit * factor if isinstance(unit, torch.Tensor) else None
        columns = inputs.float().T.contiguous()  # [n, F]
        return Batch(columns, target.float(), None if gain is None else gain.float())

    def digest(self) -> str:
        """A cheap sign of which samples these are: shapes, dtypes and some evenly spread rows."""
        found = hashlib.sha256()
        for array in (self.X, self.y, np.zeros(0) if self.rows is None else self.rows):
            found.update(f"{array.shape} {array.dtype};".encode())
            found.update(np.ascontiguousarray(array[_evenly(len(array), _DIGESTED)]).tobytes())
        return found.hexdigest()


def _evenly(count: int, most: int) -> Int:
    """Up to `most` of the numbers below `count`, spread evenly."""
    return np.arange(min(count, most)) * count // max(min(count, most), 1)
