"""From sorted measures to a report."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from weightcast.store.keyed import words
from weightcast.store.parameters import Kind
from weightcast.store.sorted_runs import Int, largest_first, spread
from weightcast.store.spread import GroupVariation, Measure, WeightVariation
from weightcast.store.spread_scratch import Measured
from weightcast.store.spread_sorting import Found, Run, Sorted

BLOCK = 1 << 18  # weights for which random keys are made at a time: 8 MB
THIRDS = 3
What = Literal["model", "kind", "tensor"]


def most_changed(
    measured: Measured, pieces: Sequence[Sorted], by: Measure, top: int
) -> tuple[WeightVariation, ...]:
    """Name the most changed weights, of the largest of each piece; the largest first."""
    places = np.concatenate([piece.largest for piece in pieces])
    best = largest_first(measured.mapped(by)[places], top)
    return measured.describe(places[best])


def groups_of(
    measured: Measured,
    pieces: Sequence[Sorted],
    quantiles: tuple[float, ...],
    still: float,
) -> tuple[GroupVariation, ...]:
    """Describe the whole model, every kind and every tensor."""
    table = measured.table
    runs = [run for piece in pieces for run in piece.runs]
    known = {tensor: found for piece in pieces for tensor, found in piece.tensors.items()}
    parts: dict[int, list[Run]] = {}  # of tensors too large for one piece
    for run in runs:
        parts.setdefault(run.tensor, []).append(run)

    def group(what: What, name: str, weights: int, found: Found | Sequence[Run]) -> GroupVariation:
        if not isinstance(found, Found):
            found = _described(measured, found, quantiles, still)
        return GroupVariation(what, name, weights, weights - found.count, **found.spreads)

    sizes: dict[Kind, int] = {}
    for p in table:
        sizes[p.kind] = sizes.get(p.kind, 0) + p.size
    return (
        group("model", "whole model", table.size, runs),
        *(
            group("kind", kind, size, [r for r in runs if r.kind == kind])
            for kind, size in sizes.items()
        ),
        *(group("tensor", p.name, p.size, known.get(i) or parts[i]) for i, p in enumerate(table)),
    )


def _described(
    measured: Measured, runs: Sequence[Run], quantiles: tuple[float, ...], still: float
) -> Found:
    spreads = {}
    for measure in get_args(Measure):
        total = math.fsum(run.totals[measure] for run in runs)
        values = [run.values(measured, measure) for run in runs]
        spreads[measure] = spread(values, quantiles, still, total=total)
    return Found(sum(run.count for run in runs), spreads)


def draw_weights(
    measured: Measured, by: Measure, largest: float, count: int, seed: int
) -> tuple[tuple[WeightVariation, ...], ...]:
    """Draw weights from each third of the histogram: those with the smallest random keys.

    A weight's key depends on the seed and its place in the history alone.

    Parameters
    ----------
    measured : Measured
    by : {"change", "deviation"}
    largest : float
        Where the histogram ends.
    count : int
        Weights to draw from each third, if it has as many.
    seed : int
    """
    edges = np.array([1, 2]) / THIRDS * largest
    keys = [np.array([], np.uint64)] * THIRDS
    drawn = [np.array([], np.int64)] * THIRDS
    for low, high, shift in _spans(measured):
        for start in range(low, high, BLOCK):
            values = measured.values(by, start, min(start + BLOCK, high))
            first = start + shift
            key = words(seed, 0, first, first + len(values))[:, 0]
            third = np.searchsorted(edges, values)
            third[np.isnan(values)] = THIRDS
            for i in range(THIRDS):
                here = np.flatnonzero(third == i)
                both = np.concatenate([keys[i], key[here]])
                least = _smallest(both, count)
                keys[i] = both[least]
                drawn[i] = np.concatenate([drawn[i], start + here])[least]
    return tuple(measured.describe(np.sort(places)) for places in drawn)


def _spans(measured: Measured) -> Iterator[tuple[int, int, int]]:
    """Places whose tensors are neighbours in the history too, and how far along it they are."""
    pairs = zip(measured.table, measured.origins, strict=True)
    for shift, group in groupby(pairs, key=lambda pair: pair[1] - pair[0].offset):
        tensors = [p for p, _ in group]
        yield tensors[0].offset, tensors[-1].stop, shift


def _smallest(keys: npt.NDArray[np.uint64], count: int) -> Int:
    if count >= len(keys):
        return np.arange(len(keys))
    return np.argpartition(keys, count)[:count]
