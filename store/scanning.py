"""First pass over a history: the variation of every candidate, and values of those that may count.

One task is a range of whole chunks. They are decoded once, into a buffer that is reused, and the
scattered values that candidates need are picked out of each::

    chunk of weights x steps     sort the points by the chunk that holds them, then take from each
    +------+------+------+       ......... w(0), w(t)          of every candidate
    |  .  .|   .  |.    .|       .......... the whole sample   of those with a small key
    +------+------+------+
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from weightcast.store.admissible import Choices, admissible
from weightcast.store.columns import points_of
from weightcast.store.decoding import ChunkReader
from weightcast.store.errors import FormatError, NonFiniteError
from weightcast.store.facts import time_facts
from weightcast.store.gathering import fill
from weightcast.store.history import History
from weightcast.store.planning import SamplingPlan
from weightcast.store.radix import Bracket, Sparse, Tally, ordered_bits, sparse
from weightcast.store.sampling import draw
from weightcast.store.scratch import NewFile
from weightcast.store.sources import ALL_KEYS, Source, digest, kept_dtype
from weightcast.store.tensors import TensorFacts
from weightcast.store.variation import variation
from weightcast.store.windows import sums_of

Int = npt.NDArray[np.int64]
Small = npt.NDArray[np.int32]

MOST_OPEN = 4  # histories that a worker process keeps open
_open: OrderedDict[tuple[str, int], Opened] = OrderedDict()
_turn = threading.Lock()


@dataclass(frozen=True)
class Opened:
    """A history that a process keeps open: what its weights' samples are drawn from, and facts."""

    history: History
    choices: Choices
    tensors: TensorFacts


@dataclass(frozen=True)
class Work:
    """What all tasks of a job share.

    Attributes
    ----------
    plan : SamplingPlan
    folder : Path
        The dataset, as it is being written; below a folder of this job alone, so that a worker
        that was cut off from an earlier one writes nowhere else.
    token : str
        Of this job alone: histories that a worker keeps open for another are not used.
    keep_all : frozenset of int
        Runs of which the values of all candidates are kept, for too few were.
    """

    plan: SamplingPlan
    folder: Path
    token: str
    keep_all: frozenset[int] = frozenset()

    @property
    def scratch(self) -> Path:
        """Folder of the scratch files, beside the dataset."""
        return self.folder.with_name("scratch")

    def source(self, index: int) -> Source:
        """History of a task."""
        return self.plan.sources[self.plan.tasks[index].run]

    def file(self, index: int, what: str) -> Path:
        """A scratch file of a task: ``variation``, ``kept`` or ``strata``.

        A second scan has names of its own: a worker that was cut off may still be at the first.
        """
        again = "-all" if self.source(index).run in self.keep_all else ""
        return self.scratch / f"{index}-{what}{again}"

    def load(self, index: int, what: str) -> npt.NDArray[Any]:
        """Read a scratch file: a plain array."""
        source = self.source(index)
        dtypes = {"variation": np.dtype(source.dtype), "kept": kept_dtype(source)}
        return np.fromfile(self.file(index, what), dtypes.get(what, np.dtype(np.int8)))


def scan(work: Work, index: int) -> Sparse:
    """Write the scratch files of a task; returns the counts of the first digit of its variations.

    The files are ``variation``, shape (weights, draws), and ``kept``, ordered by weight and draw.
    """
    task, source = work.plan.tasks[index], work.source(index)
    opened = open_source(work, source)
    reader = ChunkReader(opened.history.weights)
    first_digit, tally = Bracket(candidate_bits(source), rank=0, size=1), Tally()
    least_key = ALL_KEYS if source.run in work.keep_all else source.least_key
    with (
        NewFile(work.file(index, "kept")) as kept,
        NewFile(work.file(index, "variation")) as variations,
    ):
        for low in _cell_starts(task.low, task.high, source.chunks[0]):
            high = min((low // source.chunks[0] + 1) * source.chunks[0], task.high)
            moved, found = _Cell(source, opened, reader, low, high, least_key).scan()
            kept.write(found)
            variations.write(moved)
            tally.add(sparse(first_digit.counts([ordered_bits(moved)])))
    return sparse(tally.counts)


def candidate_bits(source: Source) -> tuple[int, int, int]:
    """Bits of the words by which candidates are ordered: variation, tie order, number."""
    return 8 * np.dtype(source.dtype).itemsize, 64, 64


@dataclass
class _Cell:
    """Weights of one row of chunks."""

    source: Source
    opened: Opened
    reader: ChunkReader
    low: int
    high: int
    least_key: int

    def scan(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Variations [n, R], and kept candidates by weight and draw, of the selected weights."""
        source = self.source
        local = source.chosen_weights(self.low, self.high)
        chosen, keys = draw(
            source.recipe.seed, self.low, self.high, source.quota.draws, source.choices, source.run
        )
        if len(local) < self.high - self.low:
            chosen, keys = chosen[:, local], keys[:, local]
        choices = self.opened.choices
        which, of_draw = np.nonzero(_below(keys, self.least_key).T)
        choice = chosen[of_draw, which]
        rest = choices.rows(choice)[:, 1:]
        now, first, others = self._values(local, choices.row[chosen], which, rest)
        self._require_finite(now, local, choices.t[chosen])
        self._require_finite(first[None], local, np.full((1, len(local)), choices.steps[0]))
        moved = variation(now, np.broadcast_to(first, now.shape))
        found = np.empty(len(which), kept_dtype(source))
        found["weight"], found["draw"] = local[which] + self.low, of_draw
        found["choice"], found["key"] = choice, keys[of_draw, which]
        found["variation"], found["y"] = moved[of_draw, which], others[:, -1]
        seen = [now[of_draw, which], *np.ascontiguousarray(others[:, :-1].T)]
        self._see(found, seen)
        return np.ascontiguousarray(moved.T), found

    def _see(self, found: npt.NDArray[Any], seen: list[npt.NDArray[Any]]) -> None:
        """Compute the columns of kept samples, from the values [R, k] of the context's points."""
        context, choices = self.opened.choices.context, self.opened.choices
        values = dict(zip(context.points, seen, strict=True))
        t, target = choices.t[found["choice"]], choices.target[found["choice"]]
        facts = {**time_facts(t, target), **self.opened.tensors.of(found["weight"])}
        with np.errstate(over="ignore", invalid="ignore"):  # refused later, where it is chosen
            sums = {
                w: sums_of(w, [values[p] for p in points_of(w)], spread=context.needs_spread(w))
                for w in context.windows
            }
            fill(found["X"].T, context.rows(values, sums, facts))

    def _values(self, local: Int, rows: Int, which: Int, rest: Small) -> tuple[Any, Any, Any]:
        """w(t) [R, n], w(0) [n], and the other points and targets of the kept samples [k, R]."""
        weight = [np.broadcast_to(local, rows.shape).ravel(), local]
        weight.append(np.repeat(local[which].astype(np.int32), rest.shape[1]))
        row = [rows.ravel(), np.zeros_like(local), rest.ravel()]
        values = self._gather(_small(weight), _small(row))
        now, first, others = np.split(values, np.cumsum([rows.size, local.size]))
        return now.reshape(rows.shape), first, others.reshape(rest.shape)

    def _gather(self, weight: Small, row: Small) -> npt.NDArray[Any]:
        """Values at scattered points (index from `low`, row of the history), chunk by chunk."""
        block, length = self.source.chunks[1], self.source.recorded
        chunks = -(-length // block)
        # NumPy sorts 16-bit numbers by radix, ten times as fast as longer ones.
        cell = (row // block).astype(np.uint16 if chunks <= 1 << 16 else np.int64)
        order = np.argsort(cell, kind="stable")
        ends = np.cumsum(np.bincount(cell, minlength=chunks))
        within = (weight * block + row % block)[order]  # place in its chunk
        found = np.empty(len(order), self.source.dtype)
        for i in np.flatnonzero(np.diff(ends, prepend=0)):
            a, b, start = (ends[i - 1] if i else 0), ends[i], int(i) * block
            decoded = self.reader.read(self.low, self.high, start, min(start + block, length))
            if decoded.shape[1] < block:  # the last chunk
                decoded = np.pad(decoded, [(0, 0), (0, block - decoded.shape[1])])
            found[a:b] = decoded.ravel().take(within[a:b])
        values = np.empty_like(found)
        values[order] = found
        return values

    def _require_finite(self, values: npt.NDArray[Any], local: Int, step: Int) -> None:
        if not np.isfinite(values).all():
            draw_of, which = np.argwhere(~np.isfinite(values))[0]
            refuse_non_finite(self.opened.history, local[which] + self.low, step[draw_of, which])


def refuse_non_finite(history: History, weight: int, step: int) -> None:
    """Raise the error that names a weight that cannot be sampled."""
    raise NonFiniteError(
        f"weights must be finite to be sampled: {history.parameters.locate(weight)} is NaN or "
        f"infinite in the sample at t = {step} of {history.path}: sample earlier steps only, with "
        "--t-max (t_max), or leave the parameter out, with --exclude (exclude)"
    )


def open_source(work: Work, source: Source) -> Opened:
    """The history of a source, kept open by this process for the tasks to come.

    Raises
    ------
    FormatError
        If it is not the one that was planned for.
    """
    key = (work.token, source.run)
    with _turn:
        if key in _open:
            _open.move_to_end(key)
            return _open[key]
    place, options = source.arguments
    history = History(place, storage_options=options)
    if len(history) < source.recorded or digest(history, source.recorded) != source.digest:
        raise FormatError(f"{source.path} was replaced after it was opened: start again")
    found = Opened(
        history,
        admissible(history.steps[: source.recorded], source.recipe),
        TensorFacts(history.parameters, source.recipe.sees, source.scales),
    )
    with _turn:
        _open[key] = found
        while len(_open) > MOST_OPEN:
            _open.popitem(last=False)
    return found


def close_histories(work: Work) -> None:
    """Let go of what this process keeps open for a job."""
    with _turn:
        for key in [key for key in _open if key[0] == work.token]:
            del _open[key]


def _small(parts: list[Any]) -> Small:
    """One array of 32 bits, enough for places in a chunk and for rows, and half the memory."""
    return np.concatenate(parts, dtype=np.int32, casting="same_kind")


def _cell_starts(low: int, high: int, width: int) -> Iterator[int]:
    """Where the parts of a range of weights begin that lie in one row of chunks each."""
    yield low
    yield from range((low // width + 1) * width, high, width)


def _below(keys: npt.NDArray[np.uint64], bound: int) -> npt.NDArray[np.bool_]:
    return keys < np.uint64(bound) if bound < ALL_KEYS else np.ones(keys.shape, bool)
