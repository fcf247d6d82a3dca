"""Two histories, value by value: equal, or within an error bound."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from weightcast.store.bounded import BoundedCodec
from weightcast.store.errors import ShapeError
from weightcast.store.history import History
from weightcast.store.layout import metric_path
from weightcast.store.reading import read
from weightcast.store.rechunking import MEMORY, bands

Values = npt.NDArray[Any]
Rows = npt.NDArray[np.int64]
Progress = Callable[[str, int, int], None]

TEMPORARIES = 10  # of a band: two of them, source chunks, and what comparing makes; measured


@dataclass(frozen=True)
class Difference:
    """How an array of a copy differs from that of the original.

    Parameters
    ----------
    array : str
        Its path in the group.
    values : int
        Values compared.
    different : int
        Values whose bits differ.
    largest : float
        Largest absolute difference; infinite where only one of two values is a number, or where
        the lengths differ.
    bound : float
        What it may be: 0 where every bit must agree.
    """

    array: str
    values: int
    different: int
    largest: float
    bound: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the copy is as exact as it has to be."""
        return self.largest <= self.bound if self.bound else not self.different


def difference(copy: Values, original: Values) -> tuple[int, float]:
    """Values whose bits differ, and the largest absolute difference.

    NaN is no different from NaN of other bits but in the first number.

    Examples
    --------
    >>> difference(np.float32([1, 2, np.nan]), np.float32([1, 2.5, np.nan]))
    (1, 0.5)
    """
    bits = f"u{copy.dtype.itemsize}"
    apart = copy.view(bits) != original.view(bits)
    if not apart.any():
        return 0, 0.0
    a, b = (np.asarray(values[apart], dtype=np.float64) for values in (copy, original))
    with np.errstate(invalid="ignore", over="ignore"):
        gap = np.abs(a - b)
    gap[np.isnan(a) & np.isnan(b)] = 0.0
    gap[np.isnan(gap)] = math.inf
    return int(apart.sum()), float(gap.max())


def gather(history: History, name: str, where: slice, rows: Rows) -> Values:
    """Columns of a wide array, a row of chunks at a time: [parameters, rows].

    Parameters
    ----------
    history : History
    name : str
        A name of `History.wide`.
    where : slice
        Range of parameters.
    rows : int64 array
        Rows of the history, rising.

    Returns
    -------
    array, shape (where.stop - where.start, len(rows))
    """
    array = history.wide[name]
    values = np.empty((where.stop - where.start, len(rows)), array.dtype)
    cuts = np.flatnonzero(np.diff(rows // array.chunks[1])) + 1
    for at in np.split(np.arange(len(rows)), cuts) if len(rows) else ():
        first, last = rows[at[0]], rows[at[-1]]
        part = read(array, (where, slice(int(first), int(last) + 1)))
        every = len(at) == last - first + 1
        values[:, at[0] : at[-1] + 1] = part if every else part[:, rows[at] - first]
    return values


def compare(
    copy: History,
    original: History,
    *,
    bound: float = 0.0,
    memory: int = MEMORY,
    progress: Progress | None = None,
) -> list[Difference]:
    """Compare a history with the one it was made from, in bounded memory.

    Parameters
    ----------
    copy, original : History
        The copy may hold fewer steps.
    bound : float
        Largest absolute difference that the weights may have; everything else must be exact.
    memory : int
        Bytes to hold at a time, or one chunk where that is more.
    progress : callable, optional
        Called with ("comparing", chunks done, chunks).

    Returns
    -------
    list of Difference
        One for each array.

    Raises
    ------
    ShapeError
        If the two hold other parameters or buffers.
    FormatError
        If a chunk of either is damaged.

    Examples
    --------
    >>> import tempfile
    >>> from weightcast.store import HistoryWriter, ParameterTable
    >>> table = ParameterTable.of([("w", (2,), "float32", "weight")])
    >>> path = tempfile.mkdtemp() + "/run.zarr"
    >>> with HistoryWriter.create(path, table) as writer:
    ...     writer.append([0, 10], [0.0, 0.5], np.float32([[1, 2], [3, 4]]))
    >>> all(d.ok for d in compare(History(path), History(path)))
    True
    """
    names = (str(copy.path), str(original.path))
    copy.parameters.require_same(original.parameters, *names)
    copy.buffers.require_same(original.buffers, *names)
    if copy.weights.dtype != original.weights.dtype:
        raise ShapeError(
            f"{names[0]} and {names[1]} must hold the same dtype: they hold {copy.weights.dtype} "
            f"and {original.weights.dtype}"
        )
    _, kept, rows = np.intersect1d(
        copy.steps, original.steps, assume_unique=True, return_indices=True
    )
    return [
        *_short(copy, original, kept, rows),
        *_wide(copy, original, kept, rows, bound, memory, progress or _silent),
    ]


def _silent(what: str, done: int, total: int) -> None:
    pass


def _short(copy: History, original: History, kept: Rows, rows: Rows) -> Iterator[Difference]:
    """Steps, times and metrics: they fit in memory."""
    unknown = len(copy) - len(kept)  # steps that the original does not have
    yield Difference("step", len(copy), unknown, math.inf if unknown else 0.0)
    times = difference(copy.times[kept], original.times[rows])
    yield Difference("time", len(kept), *times)
    for name in sorted({*copy.metrics, *original.metrics}):
        path = metric_path(name)
        if name not in copy.metrics or name not in original.metrics:
            yield Difference(path, 0, 1, math.inf)
            continue
        for part, a, b in zip(
            ("step", "value"), copy.metric(name), original.metric(name), strict=True
        ):
            same = len(a) == len(b)
            found = difference(a, b) if same else (abs(len(a) - len(b)), math.inf)
            yield Difference(f"{path}/{part}", len(a), *found)


def _wide(
    copy: History,
    original: History,
    kept: Rows,
    rows: Rows,
    bound: float,
    memory: int,
    progress: Progress,
) -> Iterator[Difference]:
    shapes = {name: (array.shape[0], len(kept)) for name, array in copy.wide.items()}
    plans = {
        name: list(bands(shapes[name], _band(array, shapes[name], memory)))
        for name, array in copy.wide.items()
        if name in original.wide
    }
    done, total = 0, sum(map(len, plans.values()))
    for name in [*copy.wide, *(original.wide.keys() - copy.wide.keys())]:
        if name not in plans:
            yield Difference(name, 0, 1, math.inf)
            continue
        different, largest = 0, 0.0
        for where, at in plans[name]:
            count, gap = difference(
                gather(copy, name, where, kept[at]), gather(original, name, where, rows[at])
            )
            different, largest, done = different + count, max(largest, gap), done + 1
            progress("comparing", done, total)
        limit = bound if name == "weights" else 0.0
        yield Difference(name, math.prod(shapes[name]), different, largest, limit)


def _band(array: Any, shape: tuple[int, int], memory: int) -> tuple[int, int]:
    """Whole chunks of the copy, as many side by side as fit."""
    wide, long = array.chunks
    held = 3 * TEMPORARIES if isinstance(array.serializer, BoundedCodec) else TEMPORARIES
    chunk = held * min(wide, shape[0]) * min(long, shape[1]) * array.dtype.itemsize
    return wide * max(1, memory // max(chunk, 1)), long
