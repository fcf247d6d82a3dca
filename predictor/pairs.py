"""Some of many forecasts, kept for a picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.floating[Any]]
MOST = 200_000


class Pairs:
    """What was true and what was forecast, of a random part of all forecasts.

    Attributes
    ----------
    total : int
        Forecasts seen.
    changes : bool
        Whether w(t) was known of all of them: values are then changes since t.

    Examples
    --------
    >>> pairs = Pairs()
    >>> pairs.expect(3)
    >>> pairs.add(np.array([1.0, 2, 3]), np.array([1.5, 2, 2]), now=np.ones(3))
    >>> pairs.values()
    (array([0., 1., 2.]), array([0.5, 1. , 1. ]))
    """

    def __init__(self) -> None:
        self.total, self.changes = 0, True
        self._random = np.random.default_rng(0)
        self._share = 1.0
        self._kept: list[tuple[Float, Float]] = []

    def expect(self, total: int) -> None:
        """Say how many forecasts will come, so that about `MOST` of them are kept."""
        self._share = MOST / max(total, 1)

    def add(self, truth: Float, forecast: Float, now: Float | None) -> None:
        """Look at n forecasts; arrays of shape (n,)."""
        # drawn one after the other: which are kept does not depend on blocks
        kept = self._random.random(len(truth)) < self._share
        self.total += len(truth)
        self.changes = self.changes and now is not None
        start = 0.0 if now is None else now[kept].astype(np.float64)
        self._kept.append((truth[kept] - start, forecast[kept] - start))

    def values(self) -> tuple[Float, Float]:
        """What was true, and what was forecast."""
        if not self._kept:
            return np.empty(0), np.empty(0)
        truth, forecast = (np.concatenate(part) for part in zip(*self._kept, strict=True))
        return truth, forecast
