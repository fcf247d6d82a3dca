"""What a forecaster sees of a weight: past values, statistics of windows, and known facts.

::

    step      0 ............. 0.4t ........ t-800 . . . . . . . t ................ target
    context   0               0.4           mean slope spread   1                  ahead  ratio
                                            over a window 800/25                   (facts)

Every column of a dataset's `X`, and every row that a live forecast reads, is one entry of a
context; both are computed by `Context.rows`.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from weightcast.store.columns import (
    HELP,
    MOST_ENTRIES,
    NOW,
    Column,
    Entry,
    Fact,
    Past,
    Statistic,
    expand,
    points_of,
    printed,
    read_column,
    text_of,
)
from weightcast.store.errors import UsageError
from weightcast.store.windows import Arriving, RunningSums, Window

PAPER_CONTEXT = (1.0, 0.7, 0.4, 0.0)  # section 4.1: w(t), w(0.7t), w(0.4t), w(0)
MOST_SEEN = 1 << 18  # snapshots of all windows together: a file may claim any


@dataclass(frozen=True)
class Context:
    """What a forecaster sees of a weight at step t, one entry a column.

    Parameters
    ----------
    entries : tuple of float and str
        Fractions of t, falling from 1; and, or, text: ``t-25`` is the value 25 steps before t;
        ``mean:800/25``, ``slope:800/25`` and ``spread:800/25`` are of the window of the last 800
        steps, of which every 25th is seen (``slope:800`` has 33 snapshots too); ``scale`` (root
        mean square of the weight's tensor at the first step), ``size``, ``fan-in`` and ``dims`` are
        of its tensor; ``step`` is t, ``ahead`` the steps to the target and ``ratio`` the target's
        step divided by t. ``last:3/25`` stands for ``1, t-25, t-50``.

    Attributes
    ----------
    columns : tuple of Past, Statistic and Fact
        One for each entry.

    Raises
    ------
    UsageError
        If an entry is unknown or there twice, there is none, or fractions do not fall from 1.

    Examples
    --------
    >>> Context.of((1, 0.7, 0.4, 0)).entries
    (1.0, 0.7, 0.4, 0.0)
    >>> context = Context.of("last:3/25,slope:100/25,ahead")
    >>> context.entries
    (1.0, 't-25', 't-50', 'slope:100/25', 'ahead')
    >>> context.steps(1000).tolist()  # of all points that it needs
    [1000, 975, 950, 900, 925]
    """

    entries: tuple[Entry, ...]
    columns: tuple[Column, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        given = self.entries
        expanded = itertools.chain.from_iterable(expand(e) for e in given)
        entries = tuple(itertools.islice(expanded, MOST_ENTRIES + 1))
        if not 1 <= len(entries) <= MOST_ENTRIES:
            raise UsageError(f"a context needs 1 to {MOST_ENTRIES} entries: got {given!r:.60}")
        columns = tuple(read_column(entry) for entry in entries)
        object.__setattr__(self, "entries", tuple(text_of(c) for c in columns))
        object.__setattr__(self, "columns", columns)
        self._require_each_once(given)
        self._require_order()
        if sum(w.count for w in self.windows) > MOST_SEEN:
            raise UsageError(
                f"the windows of a context can have {MOST_SEEN} snapshots together: got "
                f"{len(self.windows)} windows: take fewer, or longer strides"
            )

    def _require_each_once(self, given: tuple[Entry, ...]) -> None:
        twice, times = Counter(self.columns).most_common(1)[0]
        if times > 1:
            last = any(isinstance(e, str) and e.startswith("last:") for e in given)
            hint = " (last:M/STRIDE contains 1, which is w(t))" if last and twice == NOW else ""
            raise UsageError(
                f"a context must have each entry once: got {printed([text_of(twice)])} {times} "
                f"times{hint} in {given!s:.200}: leave the others out"
            )

    def _require_order(self) -> None:
        past = [c for c in self.columns if isinstance(c, Past)]
        fractions = [p.fraction for p in past if not p.back]
        backs = [p.back for p in past if p.back]
        falling = all(a > b for a, b in itertools.pairwise(fractions))
        from_1 = not fractions or (fractions[0] == 1 and fractions[-1] >= 0)
        if not (falling and from_1 and all(a < b for a, b in itertools.pairwise(backs))):
            raise UsageError(
                "context must be fractions of t that fall from 1 and stay above 0, and values from "
                f"the latest on: got {self.entries}"
            )

    @classmethod
    def of(cls, value: object) -> Context:
        """Read entries of a sequence, or of text with commas between them."""
        if isinstance(value, Context):
            return value
        if isinstance(value, str):
            return cls(tuple(part.strip() for part in value.split(",")))
        if not isinstance(value, Iterable):
            raise UsageError(f"{HELP}: got {value!r}")
        return cls(tuple(value))

    @cached_property
    def points(self) -> tuple[Past, ...]:
        """All values that must be at hand: that at t, past ones, and those of the windows."""
        past = (c for c in self.columns if isinstance(c, Past))
        return tuple(dict.fromkeys((NOW, *past, *itertools.chain(*map(points_of, self.windows)))))

    @cached_property
    def windows(self) -> tuple[Window, ...]:
        """Windows of which statistics are asked for."""
        return tuple(dict.fromkeys(c.window for c in self.columns if isinstance(c, Statistic)))

    @property
    def facts(self) -> frozenset[str]:
        """Names of the facts it has."""
        return frozenset(c.name for c in self.columns if isinstance(c, Fact))

    @property
    def series(self) -> tuple[tuple[Past, ...], ...]:
        """Points whose steps must fall strictly: fractions, values back, and each window's."""
        past = [c for c in self.columns if isinstance(c, Past)]
        fractions, back = [p for p in past if not p.back], [p for p in past if p.back]
        windows = (points_of(w)[::-1] for w in self.windows)
        return tuple(s for s in (tuple(fractions), (NOW, *back), *windows) if s)

    @cached_property
    def reach(self) -> int:
        """Most steps that it looks back from t by a number of steps."""
        return max(p.back for p in self.points)

    def steps(self, t: Any) -> Any:
        """Steps of all `points`.

        Parameters
        ----------
        t : int or int array, shape (M,)

        Returns
        -------
        int64 array, shape (R,) or (M, R)
        """
        return np.stack([p.step(t) for p in self.points], axis=-1)

    def needs_spread(self, window: Window) -> bool:
        """Whether the spread of a window is asked for; see `RunningSums`."""
        return Statistic("spread", window) in self.columns

    def rows(
        self,
        values: Mapping[Past, Any],
        sums: Mapping[Window, RunningSums | Arriving],
        facts: Mapping[str, Any],
    ) -> list[Any]:
        """One row for each entry, for a dataset or a live forecast.

        Parameters
        ----------
        values : mapping of Past to array, shape (P,)
            Of the points that are entries.
        sums : mapping of Window to RunningSums or Arriving
        facts : mapping of str to float or array, shape (P,)

        Returns
        -------
        list
            Of what `values` and `facts` hold, and rows computed where they are read.
        """

        def row(column: Column) -> Any:
            if isinstance(column, Past):
                return values[column]
            if isinstance(column, Statistic):
                return sums[column.window].row(column.kind)
            return facts[column.name]

        return [row(column) for column in self.columns]

    def places(self, entries: Iterable[Entry]) -> list[int]:
        """Columns of this context that another one's entries are.

        Raises
        ------
        UsageError
            If one is not there.
        """
        wanted = Context.of(tuple(entries))
        missing = [e for e in wanted.entries if e not in self.entries]
        if missing:
            both = dict.fromkeys((*wanted.columns, *self.columns))
            ordered = [text_of(column) for column in sorted(both, key=_place)]
            raise UsageError(
                f"context {printed(self.entries)} has no {printed(missing)}: build a dataset with "
                f"--context {printed(ordered)}"
            )
        return [self.entries.index(e) for e in wanted.entries]

    def __str__(self) -> str:
        return printed(self.entries)


def _place(column: Column) -> tuple[int, float]:
    """By what columns are put into an order that a context may have them in."""
    if isinstance(column, Past):
        return (1, column.back) if column.back else (0, -column.fraction)
    return (2, 0)
