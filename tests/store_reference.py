"""Slow, obvious counterparts of `weightcast.store`, and small histories to compare them on.

Nothing here is chunked, vectorised or lazy: a history is one array in memory, a candidate is a
Python object, and strata come from ``sorted``.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from fractions import Fraction
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


def left_in(folder: Path) -> list[str]:
    """What stands in a folder."""
    return sorted(p.name for p in folder.iterdir())


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


@dataclass(frozen=True)
class Choice:
    """A step t and a horizon that may be drawn."""

    t: int
    horizon: int
    target: int  # the recorded step
    rows: list[int]  # of the context's points, then of the target


Point = tuple[float, int]  # a fraction of t, less some steps


@functools.cache
def entries_of(context: tuple[Any, ...]) -> list[tuple[str, Any]]:
    """Entries of a context as (what it is, its numbers), read apart from `weightcast.store`."""
    found: list[tuple[str, Any]] = []
    for entry in context:
        if not isinstance(entry, str):
            found.append(("value", (float(entry), 0)))
        elif entry.startswith("t-"):
            found.append(("value", (1.0, int(entry[2:]))))
        elif ":" in entry:
            kind, _, size = entry.partition(":")
            steps, stride = map(int, size.split("/"))
            found.append((kind, [(1.0, back) for back in range(steps, -1, -stride)]))
        else:
            found.append((entry, None))
    return found


@functools.cache
def points_in_order(context: tuple[Any, ...]) -> list[Point]:
    """The weight at t, past values, and the values of windows from the earliest on; each once."""
    entries = entries_of(context)
    values = [numbers for kind, numbers in entries if kind == "value"]
    windows = [numbers for kind, numbers in entries if kind in STATISTICS]
    return list(dict.fromkeys([(1.0, 0), *values, *itertools.chain(*windows)]))


STATISTICS = ("mean", "slope", "spread")


def wanted_step(t: int, point: Point) -> int:
    return math.floor(t * point[0] + 0.5) - point[1]


def context_row(steps: Sequence[int], t: int, point: Point, within: float) -> int | None:
    """Row of a point's step, if one that is near enough is recorded."""
    wanted = wanted_step(t, point)
    row = nearest(steps, wanted)
    beyond = point[1] > 0 and wanted < steps[0]
    return None if beyond or abs(steps[row] - wanted) > within else row


def context_rows(steps: Sequence[int], t: int, recipe: Recipe) -> list[int] | None:
    """Rows of a context's points, or None if they are not all recorded and distinct."""
    points = points_in_order(recipe.context)
    reach = max(back for _, back in points)
    rows = {}
    for point in points:
        row = context_row(steps, t, point, recipe.tolerance * (reach if point[1] else t))
        if row is None:
            return None
        rows[point] = row
    values = [numbers for kind, numbers in entries_of(recipe.context) if kind == "value"]
    series = [numbers for kind, numbers in entries_of(recipe.context) if kind in STATISTICS]
    series.append([(1.0, 0), *(p for p in values if p[1])][::-1])
    series.append([p for p in values if not p[1]][::-1])
    for rising in series:
        if any(rows[a] >= rows[b] for a, b in itertools.pairwise(rising)):
            return None
    return list(rows.values())


def reference_admissible(steps: Sequence[int], recipe: Recipe) -> list[Choice]:
    """Pairs of a step t and a horizon that may be drawn; none if a horizon has none."""
    found = []
    rows_of = functools.cache(lambda t: context_rows(steps, t, recipe))
    given = recipe.horizon if isinstance(recipe.horizon, tuple) else (recipe.horizon,)
    for index, horizon in enumerate(given):
        of_horizon = []
        for t in steps:
            if t < max(1, 1 if recipe.t_min is None else recipe.t_min):
                continue
            if recipe.t_max is not None and t > recipe.t_max:
                continue
            if isinstance(horizon, str):
                wanted, within = t + int(horizon), recipe.tolerance * int(horizon)
            else:
                wanted, within = math.floor(t * horizon + 0.5), recipe.tolerance * t
            rows, target = rows_of(t), nearest(steps, wanted)
            if rows is None or abs(steps[target] - wanted) > within or target <= rows[0]:
                continue
            of_horizon.append(Choice(t, index, steps[target], [*rows, target]))
        if not of_horizon:
            return []
        found += log_spaced(of_horizon) if recipe.t_distribution == "log" else of_horizon
    return found


def reference_seen(
    recorded: Recorded,
    weight: int,
    t: int,
    target: int,
    context: tuple[Any, ...],
    rows: Sequence[int],
) -> list[float]:
    """What a context sees of a weight: lines fitted by `numpy.polyfit`, all in float64.

    `rows` are those of its points, and maybe others after them.
    """
    row = dict(zip(points_in_order(context), rows, strict=False))
    tensor = next(p for p in recorded.table if p.offset <= weight < p.stop)
    first = recorded.weights[0, tensor.offset : tensor.stop].astype(float)

    def value(point: Point) -> float:
        return float(recorded.weights[row[point], weight])

    seen = []
    for kind, numbers in entries_of(context):
        if kind == "value":
            seen.append(value(numbers))
        elif kind in STATISTICS:
            w, x = np.array([value(point) for point in numbers]), np.arange(len(numbers))
            line = np.polyfit(x, w - w[0], 1)
            left = w - w[0] - np.polyval(line, x)
            fitted = (w.mean(), line[0] * x[-1], math.sqrt((left**2).mean()))
            seen.append(float(fitted[STATISTICS.index(kind)]))
        else:
            facts = {
                "scale": math.sqrt((first**2).mean()),
                "size": tensor.size,
                "fan-in": math.prod(tensor.shape[1:]),
                "dims": len(tensor.shape),
                "step": t,
                "ahead": target - t,
                "ratio": target / t,
            }
            seen.append(facts[kind])
    return seen


def assert_seen(found: np.ndarray, expected: np.ndarray, context: tuple[Any, ...]) -> None:
    """Columns [N, F] are those of the reference: past values exactly, others to their precision."""
    assert found.shape == expected.shape
    eps = float(np.finfo(found.dtype).eps)
    size = np.abs(expected).max(initial=1.0)  # of the weights: slopes that cancel have their error
    for f, (kind, _) in enumerate(entries_of(context)):
        exact = expected[:, f].astype(found.dtype)
        if kind == "spread":  # a root of a difference: half of the digits
            assert np.abs(found[:, f] - exact).max() <= 8 * math.sqrt(eps) * size
        elif kind in STATISTICS:
            assert np.abs(found[:, f] - exact).max() <= 64 * eps * size
        elif kind == "scale":
            np.testing.assert_allclose(found[:, f], exact, rtol=4 * eps)
        else:
            assert same_values(found[:, f], exact), kind


def same_values(a: np.ndarray, b: np.ndarray) -> bool:
    """The same bits, of arrays whose rows may lie apart in memory."""
    return same_bits(np.ascontiguousarray(a), np.ascontiguousarray(b))


def nearest(steps: Sequence[int], wanted: float) -> int:
    """Row of the nearest step; of two equally near ones the earlier."""
    return min(range(len(steps)), key=lambda row: (abs(steps[row] - wanted), row))


def log_spaced(found: list[Choice]) -> list[Choice]:
    """Those nearest to a geometric grid from the first to the last, of 32 points an octave."""
    steps = [choice.t for choice in found]
    points = math.ceil(32 * math.log2(steps[-1] / steps[0])) + 1
    grid = np.geomspace(steps[0], steps[-1], points).tolist()
    return [found[i] for i in sorted({nearest(steps, point) for point in grid})]


def reference_apportion(total: int, shares: Sequence[float]) -> list[int]:
    """Whole numbers in these proportions: the remainder goes to the largest fractions."""
    exact = [Fraction(share) * total / sum(map(Fraction, shares)) for share in shares]
    counts = [int(x) for x in exact]
    while sum(counts) < total:
        furthest = max(range(len(exact)), key=lambda i: (exact[i] - counts[i], -i))
        counts[furthest] += 1
    return counts


def reference_counts(recipe: Recipe) -> list[int]:
    """Samples that each stratum should give."""
    return reference_apportion(recipe.samples, recipe.shares)


def stratum_ranges(recipe: Recipe, candidates: int) -> list[tuple[int, int]]:
    cuts = [round(edge * candidates) for edge in recipe.edges]
    return list(itertools.pairwise(cuts))


def fits(recipe: Recipe, candidates: int) -> bool:
    """Whether every stratum of that many candidates can give its samples."""
    ranges = stratum_ranges(recipe, candidates)
    pairs = zip(reference_counts(recipe), ranges, strict=True)
    return all(count <= high - low for count, (low, high) in pairs)


def reference_draws(weights: int, choices: int, recipe: Recipe) -> int | None:
    """Steps t for each weight: the fewest that do, or as told; None if they are too few."""
    tried = range(1, choices + 1) if recipe.draws is None else [recipe.draws]
    enough = [draws for draws in tried if draws <= choices and fits(recipe, draws * weights)]
    if enough:
        return min(enough)
    return min(tried[-1], choices) if recipe.shortfall == "fewer" else None


def tie_order(key: int) -> int:
    """By what candidates of equal variation are ordered, the largest first.

    By the low half of the key. The high half decides which candidates of a stratum are chosen: if
    it ordered ties too, those in the upper of two strata would be the ones not to be chosen.
    """
    return (key << 32 | key >> 32) % 2**64


def reference_draw(seed: int, weight: int, r: int, choices: int, run: int = 0) -> tuple[int, int]:
    """Draw r of one weight: (index of the step, key), as `weightcast.store.sampling` says."""
    steps = list(range(choices))
    for i in range(r + 1):  # Fisher and Yates
        word, _, key, _ = (int(w) for w in words(seed, run << 32 | i, weight, weight + 1)[0])
        pick = i + ((word >> 32) * (choices - i) >> 32)
        steps[i], steps[pick] = steps[pick], steps[i]
    return steps[r], key


def reference_held_out(recipe: Recipe, run: int, runs: int, weight: int) -> bool:
    """Whether the samples of a weight of a run are for validation."""
    if recipe.validation_by == "weight":
        key = int(words(recipe.seed, 1 << 62, weight, weight + 1)[0, 0])
        return key / 2**64 < recipe.validation
    if not recipe.validation:
        return False
    by_key = sorted(
        range(runs), key=lambda r: int(words(recipe.seed, (1 << 62) + 1, r, r + 1)[0, 0])
    )
    held = min(max(round(recipe.validation * runs), 1), runs - 1)
    return run in by_key[:held]


@dataclass(frozen=True)
class Candidate:
    """One weight at one step."""

    weight: int
    r: int
    t: int
    key: int
    variation: Any
    x: list[float]
    y: Any
    target: int
    horizon: int
    first: Any  # w(0)


@dataclass(frozen=True)
class Sample:
    """One row of a dataset."""

    run: int
    parameter: int
    step: int
    stratum: int
    variation: Any
    x: list[float]
    y: Any
    validation: bool
    target: int
    horizon: int


@dataclass(frozen=True)
class Drawn:
    """What one history gives: for each stratum, counts; and the samples in their order."""

    draws: int
    candidates: list[int]
    wanted: list[int]
    given: list[int]
    ties: list[int]
    samples: list[Sample]


def selected(table: ParameterTable, recipe: Recipe) -> list[int]:
    """Indices of the weights whose parameter the globs choose."""
    found: list[int] = []
    for parameter in table:
        included = any(fnmatchcase(parameter.name, glob) for glob in recipe.include or ["*"])
        excluded = any(fnmatchcase(parameter.name, glob) for glob in recipe.exclude)
        if included and not excluded:
            found += range(parameter.offset, parameter.stop)
    return found


def reference_candidates(recorded: Recorded, recipe: Recipe, run: int = 0) -> list[Candidate]:
    """Every candidate of a history; none if there are too few."""
    choices, everyone = (
        reference_admissible(recorded.steps, recipe),
        selected(recorded.table, recipe),
    )
    draws = reference_draws(len(everyone), len(choices), recipe) if choices and everyone else None
    w, found = recorded.weights, []
    for r, weight in itertools.product(range(draws or 0), everyone):
        chosen, key = reference_draw(recipe.seed, weight, r, len(choices), run)
        choice = choices[chosen]
        now, y = w[choice.rows[0], weight], w[choice.rows[-1], weight]
        x = reference_seen(recorded, weight, choice.t, choice.target, recipe.context, choice.rows)
        moved = abs(now - w[0, weight])
        of_choice = choice.target, choice.horizon, w[0, weight]
        found.append(Candidate(weight, r, choice.t, key, moved, x, y, *of_choice))
    return found


def reference_run(recorded: Recorded, recipe: Recipe, run: int, runs: int) -> Drawn | None:
    """What one history gives of the samples that `recipe` asks of it, or None if it cannot."""
    candidates = reference_candidates(recorded, recipe, run)
    if not candidates:
        return None
    order = range(len(candidates))

    def place(c: int) -> Key:
        return candidates[c].variation, tie_order(candidates[c].key), c

    ranked = [candidates[c] for c in sorted(order, key=place, reverse=True)]
    number = {id(candidate): c for c, candidate in enumerate(candidates)}
    ranges, wanted = stratum_ranges(recipe, len(ranked)), reference_counts(recipe)
    given, ties, samples = [], [], []
    for stratum, ((low, high), count) in enumerate(zip(ranges, wanted, strict=True)):
        by_key = sorted(ranked[low:high], key=lambda c: (c.key, number[id(c)]))
        for c in by_key[:count]:
            held = reference_held_out(recipe, run, runs, c.weight)
            ahead = c.target, c.horizon
            sample = Sample(run, c.weight, c.t, stratum, c.variation, c.x, c.y, held, *ahead)
            samples.append(((c.weight, c.r), sample))
        given.append(len(by_key[:count]))
        last = ranked[high - 1].variation if 0 < high < len(ranked) else None
        ties.append(sum(c.variation == last for c in ranked))
    return Drawn(
        draws=1 + max(c.r for c in candidates),
        candidates=[high - low for low, high in ranges],
        wanted=wanted,
        given=given,
        ties=ties,
        samples=[sample for _, sample in sorted(samples, key=lambda pair: pair[0])],
    )


def reference_shares(recipe: Recipe, runs: int) -> list[int]:
    """Samples that each history gives."""
    return reference_apportion(recipe.samples, recipe.run_shares or [1.0] * runs)


def reference_dataset(histories: Sequence[Recorded], recipe: Recipe) -> list[Drawn] | None:
    """What every history gives, in order, or None if one cannot give a sample, or not enough."""
    counts = reference_shares(recipe, len(histories))
    if not all(counts):
        return None
    drawn = [
        reference_run(recorded, replace(recipe, samples=count), run, len(histories))
        for run, (recorded, count) in enumerate(zip(histories, counts, strict=True))
    ]
    found = [one for one in drawn if one is not None and any(one.given)]
    return found if len(found) == len(drawn) else None
