"""Sub-phases of early training, found in a curve: it falls to a minimum, moves on, and settles.

::

    |*
    | *          *             peak: the highest point after the minimum
    |   *      *    * * * *    settled: four points within 10 % of the median of what follows
    |      * *                 minimum: the lowest point before a rise of 10 %
    +------------------------
      fall |  between  | settled
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

TOLERANCE = 0.1
FEWEST = 5  # points of a curve in which anything is looked for
LATER = 3  # points behind the settled one that must lie as near to the later median


@dataclass(frozen=True)
class SubPhases:
    """Where a curve has its minimum, and where it is stable again.

    Attributes
    ----------
    of : str
        What the curve is of: "gradient" or "step size".
    minimum, peak, settled : int or None
        Steps; None where there is none. The peak is the highest point after the minimum.
    why : str
        What was not found, in words; empty if both were.
    """

    of: str
    minimum: int | None = None
    peak: int | None = None
    settled: int | None = None
    why: str = ""


def find_sub_phases(of: str, steps: Sequence[int], values: Sequence[float]) -> SubPhases:
    """Find the minimum of a curve after its first fall, and where it settles after that.

    Parameters
    ----------
    of : str
        What the curve is of.
    steps : sequence of int, shape (n,)
    values : sequence of float, shape (n,)
        Positive.

    Returns
    -------
    SubPhases

    Notes
    -----
    The curve is first smoothed by a running median of three points. Its minimum is the lowest point
    before it first stands 10 % above the lowest so far, if it has fallen by 10 % until there. It is
    settled at the first point after that which lies, as do the three behind it, within 10 % of the
    median of itself and all that follows: one point alone may pass that median on its way up. Where
    smoothing makes points equally high, the peak is that which was highest before. These numbers
    are ours: Frankle, Schwab and Morcos 2020 read their sub-phases off the curves.

    Examples
    --------
    >>> curve = [9, 6, 3, 1, 1, 2, 4, 5, 5, 5, 5]
    >>> find_sub_phases("gradient", range(0, 1100, 100), curve)
    SubPhases(of='gradient', minimum=300, peak=700, settled=700, why='')
    """
    if len(values) < FEWEST:
        return SubPhases(of, why=f"a curve of {len(values)} points is too short")
    raw = np.asarray(values, np.float64)
    curve = _smoothed(raw)
    lowest = np.minimum.accumulate(curve)
    risen = np.flatnonzero(curve > (1 + TOLERANCE) * lowest)
    if not len(risen):
        return SubPhases(of, why="it has no minimum: it never rises by 10 %")
    at = int(np.argmin(curve[: risen[0]]))
    if curve[at] > (1 - TOLERANCE) * curve[0]:
        return SubPhases(of, why="it has no minimum: it rises before it falls by 10 %")
    peak = max(range(at + 1, len(curve)), key=lambda i: (curve[i], raw[i]))
    found = SubPhases(of, int(steps[at]), int(steps[peak]))
    for i in range(at + 1, len(curve) - LATER):
        later = np.median(curve[i:])
        if (np.abs(curve[i : i + LATER + 1] - later) <= TOLERANCE * later).all():
            return replace(found, settled=int(steps[i]))
    return replace(found, why="it does not settle after its minimum")


def _smoothed(curve: np.ndarray) -> np.ndarray:
    """Running median of three; the ends stay."""
    inner = np.median([curve[:-2], curve[1:-1], curve[2:]], axis=0)
    return np.concatenate([curve[:1], inner, curve[-1:]])
