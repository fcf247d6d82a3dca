"""Sorting the measures, a million at a time.

::

    a piece     a.weight a.bias b.weight b.bias ...        whole tensors, or a part of a large one
    each        sorted -> its statistics                   of a whole tensor, at once
    by kind     weight: one run, bias: one run             on disk, where the piece was in the model
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import get_args

import numpy as np

from weightcast.store.parameters import Kind
from weightcast.store.sorted_runs import Float, Int, largest_first, spread
from weightcast.store.spread import Measure, Spread
from weightcast.store.spread_scratch import Measured


@dataclass(frozen=True)
class Run:
    """Values of one kind, sorted.

    Attributes
    ----------
    kind : str
    tensor : int
        The tensor that they belong to, or the first of several.
    start : int
        Where the run begins in the files.
    count : int
        Finite values: what it has of them.
    totals : dict of str to float
        Their sum, by measure.
    """

    kind: Kind
    tensor: int
    start: int
    count: int
    totals: dict[Measure, float]

    def values(self, measured: Measured, measure: Measure) -> Float:
        """The run itself, memory-mapped."""
        return measured.mapped(measure, in_order=True)[self.start : self.start + self.count]


@dataclass(frozen=True)
class Found:
    """How many values of a group are finite, and their statistics by measure."""

    count: int
    spreads: dict[Measure, Spread | None]


@dataclass(frozen=True)
class Sorted:
    """What is known of a piece.

    Attributes
    ----------
    runs : tuple of Run
    tensors : dict of int to Found
        Of each tensor that lies in it wholly.
    largest : int64 array
        Places of the largest values.
    """

    runs: tuple[Run, ...]
    tensors: dict[int, Found]
    largest: Int


@dataclass(frozen=True)
class Sorter:
    """Sorts pieces.

    Attributes
    ----------
    measured : Measured
    quantiles : tuple of float
    still : float
    by : {"change", "deviation"}
        What the largest are found by.
    top : int
        How many of them.
    """

    measured: Measured
    quantiles: tuple[float, ...]
    still: float
    by: Measure
    top: int

    def sort(self, start: int, stop: int) -> Sorted:
        """Sort the values of a range of places; the runs go to scratch files of their own."""
        values = {m: self.measured.values(m, start, stop) for m in get_args(Measure)}
        tensors, kinds = {}, defaultdict(list)
        for tensor in self.measured.tensors_between(start, stop):
            p = self.measured.table[tensor]
            here = slice(max(p.offset - start, 0), p.stop - start)
            found = {m: _finite_sorted(values[m][here]) for m in values}
            kinds[p.kind].append((tensor, found))
            if start <= p.offset and p.stop <= stop:
                spreads = {m: spread([v], self.quantiles, self.still) for m, v in found.items()}
                tensors[tensor] = Found(len(found[self.by]), spreads)
        runs, place = [], start
        for kind, parts in kinds.items():
            runs.append(self._write(kind, parts[0][0], place, [found for _, found in parts]))
            place += runs[-1].count
        largest = largest_first(values[self.by], self.top) + start
        return Sorted(tuple(runs), tensors, largest)

    def _write(self, kind: Kind, tensor: int, place: int, parts: list[dict[Measure, Float]]) -> Run:
        """Put sorted values of one kind together, to one run."""
        totals, count = {}, 0
        for measure in get_args(Measure):
            run = np.concatenate([part[measure] for part in parts])
            if len(parts) > 1:
                run.sort()
            self.measured.put(measure, [(place, run)], in_order=True)
            totals[measure], count = float(run.sum(dtype=np.float64)), len(run)
        return Run(kind, tensor, place, count, totals)


def _finite_sorted(values: Float) -> Float:
    return np.sort(values[~np.isnan(values)])
