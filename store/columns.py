"""The columns that a context can have, and their text: ``0.7``, ``t-25``, ``slope:800/25``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from weightcast.store.errors import UsageError
from weightcast.store.facts import TENSORS, TIMES
from weightcast.store.windows import STATISTICS, Window

Entry = float | str
MOST_ENTRIES = 4096
HELP = (
    "a context entry is a fraction of t such as 0.7, a value some steps back such as t-25, "
    "last:M/STRIDE for the last M snapshots, mean:, slope: or spread:STEPS/STRIDE, or one of "
    f"{', '.join(TENSORS + TIMES)}"
)


@dataclass(frozen=True)
class Past:
    """A weight's value at a fraction of t, or some steps before t.

    Examples
    --------
    >>> Past(0.7).step([90, 100]).tolist(), int(Past(back=25).step(90))
    ([63, 70], 65)
    """

    fraction: float = 1.0
    back: int = 0

    def step(self, t: Any) -> Any:
        """The step, to the nearest whole one; int64, of the shape of `t`."""
        exact = np.floor(np.asarray(t, dtype=np.float64) * self.fraction + 0.5)
        return exact.clip(max=2.0**62).astype(np.int64) - self.back


@dataclass(frozen=True)
class Statistic:
    """Mean, slope or spread of a weight over a window; see `RunningSums`."""

    kind: str
    window: Window


@dataclass(frozen=True)
class Fact:
    """What is known of a weight's tensor (`TENSORS`) or of the forecast's time (`TIMES`)."""

    name: str


Column = Past | Statistic | Fact
NOW = Past()


def points_of(window: Window) -> tuple[Past, ...]:
    """Values that a window is made of, from the earliest on."""
    return tuple(Past(back=back) for back in range(window.steps, -1, -window.stride))


def printed(entries: Iterable[Entry]) -> str:
    """Entries as text that `Context.of` reads.

    Examples
    --------
    >>> printed((1.0, 0.7, "slope:800/25"))
    '1,0.7,slope:800/25'
    """
    return ",".join(e if isinstance(e, str) else f"{e!r}".removesuffix(".0") for e in entries)


def expand(entry: object) -> Iterator[Any]:
    """An entry, or those that ``last:M/STRIDE`` stands for."""
    found = re.fullmatch(r"last:(\d{1,9})/(\d{1,9})", entry) if isinstance(entry, str) else None
    if found is None:
        yield entry
        return
    count, stride = int(found[1]), int(found[2])
    if not 1 <= count <= MOST_ENTRIES or stride < 1:
        raise UsageError(f"last:M/STRIDE needs M from 1 to {MOST_ENTRIES}: got {entry!r}")
    yield 1.0
    yield from (f"t-{stride * i}" for i in range(1, count))


def read_column(entry: object) -> Column:
    """What an entry means; `UsageError` if it means nothing."""
    if isinstance(entry, Real) and not isinstance(entry, bool):
        return Past(float(entry))
    if isinstance(entry, str):
        if entry in TIMES + TENSORS:
            return Fact(entry)
        if entry == "t":
            return NOW
        if found := re.fullmatch(r"t-([1-9]\d{0,17})", entry):
            return Past(back=int(found[1]))
        if found := re.fullmatch(r"([a-z]+):(\d{1,9})(?:/(\d{1,9}))?", entry):
            kind, steps = found[1], int(found[2])
            if kind in STATISTICS:
                return Statistic(kind, Window(steps, int(found[3] or max(steps // 32, 1))))
        if re.fullmatch(r"[01](\.\d*)?(e-\d+)?|\.\d+", entry):
            return Past(float(entry))
    raise UsageError(f"{HELP}: got {entry!r}")


def text_of(column: Column) -> Entry:
    """The entry that means a column, in one spelling."""
    if isinstance(column, Past):
        return f"t-{column.back}" if column.back else column.fraction
    return f"{column.kind}:{column.window}" if isinstance(column, Statistic) else column.name
