"""Taking rows: straight into the ring, or by way of the staging memory of a CUDA device."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from weightcast.recorder.feed import Feed
from weightcast.recorder.rows import Rows
from weightcast.recorder.sources import Sources
from weightcast.recorder.staging import Staging, common_device


class Intake:
    """Copies what the sources give into the ring, and hands it over.

    Parameters
    ----------
    feed : Feed
    sources : Sources
    first : bool
        Whether to begin with step 0. It is copied at once, and may be copied anew until
        `hand_over_first`.
    """

    def __init__(self, feed: Feed, sources: Sources, *, first: bool) -> None:
        self.feed = feed
        self._sources = sources
        self._rows = Rows(feed.ring, sources.tables(list(feed.ring.plan.widths)))
        self._staging: Staging | None = None
        self._first = first
        self.copy_first()

    def copy_first(self) -> None:
        """Copy the weights before the first step, if they are not handed over yet."""
        if self._first and not self.feed.forked:
            self._rows.copy(self._sources(trained=False), 0, 0.0)

    def hand_over_first(self) -> None:
        """From now on step 0 stays as it is."""
        if self._first:
            self._first = False
            self.feed.push()

    def take(self, step: int, seconds: float) -> None:
        """Copy a row, if there is room for it."""
        sources = self._sources()
        if self._staging is None and (device := common_device(sources)) is not None:
            self._staging = Staging(self._rows, self.feed, device)
        if self._staging is not None:
            self._staging.take(sources, step, seconds)
        elif self.feed.room():
            self._rows.copy(sources, step, seconds)
            self.feed.push()

    def poll(self) -> None:
        """Hand over what has arrived from a device meanwhile."""
        if self._staging is not None:
            self._staging.deliver(wait=False)

    def waiting(self) -> dict[int, npt.NDArray[Any]]:
        """Weights, shape (P,), of each step that may not be in the history yet.

        Views of the ring's slots: good until the next row is taken.
        """
        if self._staging is not None:
            self._staging.deliver(wait=True, all_rows=True)
        ring = self.feed.ring
        rows = range(ring.drained, ring.written)
        return {int(ring.steps[r % ring.plan.slots]): ring.rows("weights", r, 1)[0] for r in rows}

    def close(self) -> None:
        """Bring all rows into the history."""
        self.hand_over_first()
        try:
            if self._staging is not None:
                self._staging.deliver(wait=True, all_rows=True)
        finally:
            self.feed.close()
