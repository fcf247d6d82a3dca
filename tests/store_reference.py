"""Slow, obvious counterparts of `weightcast.store`, and small histories to compare them on.

Nothing here is chunked, vectorised or lazy: a history is one array in memory, a candidate is a
Python object, and strata come from ``sorted``.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import strategies as st
from zarr.storage import LocalStore

from weightcast.store import HistoryWriter, ParameterTable, Recipe, layout
from weightcast.store.keyed import words

NO_BUFFERS = ParameterTable(())
Key = tuple[Any, ...]


@dataclass(frozen=True)
class Recorded:
    """A history in memory: one row a recorded step."""

    table: ParameterTable
    steps: list[int]
    weights: np.ndarray  # [T, P]
    buffer_table: ParameterTable = NO_BUFFERS
    buffers: np.ndarray | None = None  # [T, B]

    @property
    def times(self) -> list[float]:
        return [0.25 * step for step in self.steps]

    def rows(self, low: int, high: int) -> tuple[Any, ...]:
        """What `HistoryWriter.append` takes for a range of rows."""
        buffers = None if self.buffers is None else self.buffers[low:high]
        return self.steps[low:high], self.times[low:high], self.weights[low:high], buffers

    def write(
        self, path: Path, *, block: int = 4, width: int = 16384, sizes: Sequence[int] = (), **kwargs
    ) -> Path:
        """Record it on disk: `width` parameters a chunk, appends of the given sizes, then the rest.

        The writer is closed and opened again before each append.
        """
        with mock.patch.object(layout, "PARAMETERS_PER_CHUNK", width):
            HistoryWriter.create(
                path,
                self.table,
                buffers=self.buffer_table,
                dtype=self.weights.dtype,
                block=block,
                **kwargs,
            ).close()
        low = 0
        for size in (*sizes, len(self.steps)):
            with HistoryWriter.open(path) as writer:
                writer.append(*self.rows(low, low + size))
            low += size
        return path


def vector(size: int) -> ParameterTable:
    """A table of one weight vector."""
    return ParameterTable.of([("w", (size,), "float32", "weight")])


def wandering(parameters: int, rows: int, seed: int = 0, dtype: Any = np.float32) -> Recorded:
    """Random walks, recorded at the steps 0 to rows - 1."""
    moves = np.random.default_rng(seed).normal(size=(rows, parameters))
    return Recorded(vector(parameters), list(range(rows)), moves.cumsum(axis=0).astype(dtype))


SHAPES = st.lists(st.integers(0, 3), max_size=3).map(tuple)


@st.composite
def tables(draw: st.DrawFn, kind: Any = "weight", min_size: int = 1) -> ParameterTable:
    """Parameter tables of a few tensors, scalars and empty ones among them."""
    shapes = draw(st.lists(SHAPES, min_size=min_size, max_size=4))
    return ParameterTable.of((f"{kind}.{i}", s, "float32", kind) for i, s in enumerate(shapes))


@st.composite
def histories(draw: st.DrawFn) -> Recorded:
    """Histories of any bit patterns: NaN, infinities, -0.0 and denormals among them."""
    table, buffer_table = draw(tables()), draw(tables("buffer", min_size=0))
    gaps = draw(st.lists(st.integers(1, 100), max_size=20))
    first = draw(st.integers(0, 3))
    steps = [first + sum(gaps[:i]) for i in range(len(gaps))]
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def any_bits(table: ParameterTable, dtype: Any) -> np.ndarray:
        size = len(steps) * table.size * np.dtype(dtype).itemsize
        return np.frombuffer(random.bytes(size), dtype).reshape(len(steps), table.size)

    buffers = any_bits(buffer_table, np.float64) if buffer_table.size else None
    return Recorded(table, steps, any_bits(table, dtype), buffer_table, buffers)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays agree in shape, dtype and every bit, so that NaN equals NaN."""
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def files(path: Path) -> dict[str, bytes]:
    """Every file of a folder, but for the header of the group: that one names the source."""
    found = {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}
    return {name: data for name, data in found.items() if name != "zarr.json"}


@contextmanager
def refuses(kind: type[Exception], *words: object) -> Iterator[None]:
    """The block raises this error, with a message of one line that has all the words."""
    with pytest.raises(kind) as caught:
        yield
    message = str(caught.value)
    assert message
    assert "\n" not in message
    for word in words:
        assert str(word) in message


class Killed(BaseException):
    """Stands for a ``kill -9``: no handler for exceptions catches it."""


@contextmanager
def killed_after(changes: int) -> Iterator[list[str]]:
    """Let that many changes of files happen, then raise `Killed` at every further one.

    Yields the changes so far. What happens inside is what a process killed there leaves on disk:
    zarr replaces each file in one step.
    """
    seen: list[str] = []
    turn = asyncio.Lock()  # so that no change is still under way in a thread when one is refused

    def counted(name: str) -> Any:
        original = getattr(LocalStore, name)

        async def change(self: LocalStore, key: str, *args: Any) -> None:
            async with turn:
                if len(seen) >= changes:
                    raise Killed
                seen.append(f"{name} {key}")
                await original(self, key, *args)

        return mock.patch.object(LocalStore, name, change)

    with counted("set"), counted("set_if_not_exists"), counted("delete"):
        yield seen


def reference_admissible(steps: Sequence[int], recipe: Recipe) -> list[tuple[int, list[int]]]:
    """Steps t whose context and target are recorded and distinct, and their rows."""
    found = []
    for t in steps:
        if t < (1 if recipe.t_min is None else recipe.t_min):
            continue
        if recipe.t_max is not None and t > recipe.t_max:
            continue
        rows = []
        for fraction in (*recipe.context, recipe.horizon):
            wanted = math.floor(t * fraction + 0.5)
            # of two equally near steps the earlier one
            row = min(range(len(steps)), key=lambda r: (abs(steps[r] - wanted), r))
            if abs(steps[row] - wanted) <= recipe.tolerance * t:
                rows.append(row)
        if len(rows) == len(recipe.context) + 1 == len(set(rows)):
            found.append((t, rows))
    return found


def reference_counts(recipe: Recipe) -> list[int]:
    """Samples of each stratum: the remainder goes to the largest fractions."""
    exact = [share * recipe.samples for share in recipe.shares]
    counts = [int(x) for x in exact]
    while sum(counts) < recipe.samples:
        furthest = max(range(len(exact)), key=lambda i: (exact[i] - counts[i], -i))
        counts[furthest] += 1
    return counts


def stratum_ranges(recipe: Recipe, candidates: int) -> list[tuple[int, int]]:
    cuts = [round(edge * candidates) for edge in recipe.edges]
    return list(itertools.pairwise(cuts))


def fits(recipe: Recipe, candidates: int) -> bool:
    """Whether every stratum of that many candidates can give its samples."""
    ranges = stratum_ranges(recipe, candidates)
    pairs = zip(reference_counts(recipe), ranges, strict=True)
    return all(count <= high - low for count, (low, high) in pairs)


def tie_order(key: int) -> int:
    """By what candidates of equal variation are ordered, the largest first.

    By the low half of the key. The high half decides which candidates of a stratum are chosen: if
    it ordered ties too, those in the upper of two strata would be the ones not to be chosen.
    """
    return (key << 32 | key >> 32) % 2**64


def reference_select(variation: Sequence[float], keys: Sequence[int], recipe: Recipe) -> list[Any]:
    """Chosen candidates of each stratum, rising."""
    everyone = range(len(keys))
    ranked = sorted(everyone, key=lambda c: (variation[c], tie_order(keys[c]), c), reverse=True)
    chosen = []
    for count, (low, high) in zip(
        reference_counts(recipe), stratum_ranges(recipe, len(ranked)), strict=True
    ):
        smallest = sorted(ranked[low:high], key=lambda c: (keys[c], c))[:count]
        chosen.append(sorted(smallest))
    return chosen


def reference_draw(seed: int, weight: int, r: int, choices: int) -> tuple[int, int]:
    """Draw r of one weight: (index of the step, key), as `weightcast.store.sampling` says."""
    first = [int(word) for word in words(seed, 0, weight, weight + 1)[0]]
    prime = [b for b in range(1, choices + 1) if math.gcd(b, choices) == 1]
    offset = (first[0] >> 32) * choices >> 32
    stride = prime[(first[1] >> 32) * len(prime) >> 32]
    key = int(words(seed, r, weight, weight + 1)[0, 2])
    return (offset + r * stride) % choices, key


@dataclass(frozen=True)
class Sample:
    """One row of a dataset."""

    parameter: int
    step: int
    stratum: int
    variation: Any
    x: list[Any]
    y: Any


def reference_dataset(recorded: Recorded, recipe: Recipe) -> list[Sample] | None:
    """Every sample of the dataset in order, or None if there are too few candidates."""
    choices = reference_admissible(recorded.steps, recipe)
    total = recorded.table.size
    enough = [r for r in range(1, len(choices) + 1) if fits(recipe, r * total)]
    if not enough:
        return None
    candidates = [(r, weight) for r in range(min(enough)) for weight in range(total)]
    drawn = [reference_draw(recipe.seed, weight, r, len(choices)) for r, weight in candidates]
    w = recorded.weights
    moved = [
        abs(w[choices[chosen][1][0], weight] - w[0, weight])
        for (_, weight), (chosen, _) in zip(candidates, drawn, strict=True)
    ]
    samples = []
    strata = reference_select(moved, [key for _, key in drawn], recipe)
    for stratum, members in enumerate(strata):
        for c in members:
            (r, weight), (t, rows) = candidates[c], choices[drawn[c][0]]
            *x, y = (w[row, weight] for row in rows)
            samples.append(((weight, r), Sample(weight, t, stratum, moved[c], x, y)))
    return [sample for _, sample in sorted(samples, key=lambda pair: pair[0])]
