"""Random numbers that depend on (seed, stream, index) only.

A sample drawn with them does not depend on how the work was cut into chunks, how many workers did
it, or in which order. The generator is NumPy's Philox, whose counter is the index.
"""

from __future__ import annotations

from numbers import Integral

import numpy as np
import numpy.typing as npt

from weightcast.store.errors import UsageError

Words = npt.NDArray[np.uint64]


def words(seed: int, stream: int, start: int, stop: int) -> Words:
    """Four random words for each index of a range.

    Parameters
    ----------
    seed : int
        From 0 to 2**64 - 1.
    stream : int
        Independent sequences of one seed, from 0 to 2**64 - 1.
    start, stop : int
        The range of indices.

    Returns
    -------
    uint64 array, shape (stop - start, 4)

    Examples
    --------
    >>> bool((words(7, 0, 0, 100)[40:60] == words(7, 0, 40, 60)).all())
    True
    """
    generator = np.random.Philox(key=check_seed(seed) | stream << 64, counter=start)
    return generator.random_raw(4 * (stop - start)).reshape(-1, 4)


def below(word: Words, bound: int) -> npt.NDArray[np.int64]:
    """Turn random words into integers in [0, bound), by multiplication and shift.

    The bias, at most bound / 2**32, is far under what any sample could show.

    Examples
    --------
    >>> below(np.uint64([0, 2**63, 2**64 - 1]), 10)
    array([0, 5, 9])
    """
    high = word >> np.uint64(32)
    return ((high * np.uint64(bound)) >> np.uint64(32)).astype(np.int64)


def check_seed(seed: int) -> int:
    """Return a seed that the generator takes, or refuse it."""
    if not isinstance(seed, Integral) or not 0 <= seed < 1 << 64:
        raise UsageError(f"a seed must be a whole number from 0 to 2**64 - 1: got {seed!r}")
    return int(seed)
