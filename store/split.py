"""What is held out for validation: by a key of its own, so that no sample decides it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from weightcast.store.keyed import words

Bool = npt.NDArray[np.bool_]

_WEIGHTS = 1 << 62  # streams apart from those of the draws
_RUNS = _WEIGHTS + 1


def held_out_weights(seed: int, share: float, low: int, high: int) -> Bool:
    """Which weights of a range are held out; the same ones in every run.

    Parameters
    ----------
    seed : int
    share : float
        Of all weights, from 0 to 1.
    low, high : int
        The range.

    Returns
    -------
    bool array, shape (high - low,)

    Examples
    --------
    >>> round(held_out_weights(0, 0.1, 0, 10_000).mean(), 2)
    np.float64(0.1)
    """
    key: Bool = words(seed, _WEIGHTS, low, high)[:, 0].astype(np.float64) / 2.0**64 < share
    return key


def held_out_runs(seed: int, share: float, runs: int) -> Bool:
    """Which runs are held out: the nearest number to that share, one at least and not all.

    Examples
    --------
    >>> int(held_out_runs(0, 0.2, 10).sum()), int(held_out_runs(0, 0.01, 3).sum())
    (2, 1)
    """
    held = np.zeros(runs, dtype=bool)
    count = min(max(round(share * runs), 1), runs - 1) if share else 0
    held[np.argsort(words(seed, _RUNS, 0, runs)[:, 0], kind="stable")[:count]] = True
    return held
