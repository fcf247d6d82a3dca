"""Whether a jump has hurt: the losses after it, beside what those before it were heading to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FEWEST = 8  # losses that a trend is fitted to
BINS = 12  # means that they are put together to
FORGIVEN = 0.25  # of the steps of probation: so much of the way a jump may have cost
SLIGHT = 1e-3  # of the loss: what no jump is rolled back for

Losses = Sequence[tuple[int, float]]  # step and loss


@dataclass(frozen=True)
class Verdict:
    """How a probation ended.

    Attributes
    ----------
    kept : bool
    loss : float
        Mean of the losses that were judged.
    expected : float
        What the loss was heading to, a quarter of the steps before there.
    limit : float
        The most that it may be.
    """

    kept: bool
    loss: float
    expected: float
    limit: float

    def __str__(self) -> str:
        sign = "is not above" if self.kept else "is above"
        return (
            f"loss {self.loss:.4g} {sign} {self.limit:.4g}, the limit around {self.expected:.4g}, "
            "where it was heading before the jump"
        )


def judge(before: Losses, after: Losses, tolerance: float) -> Verdict:
    """Compare the losses after a jump with what those before it were heading to.

    Parameters
    ----------
    before : sequence of (step, loss)
        Of the window before the jump; `FEWEST` at least, all finite.
    after : sequence of (step, loss)
        Of the probation; its second half is judged.
    tolerance : float
        Standard errors.

    Returns
    -------
    Verdict

    Notes
    -----
    The losses of the second half of the run, `FEWEST` at least, make `BINS` means of equal parts;
    means, as losses of steps near each other are alike. Through them goes y = a + b x, with
    x = log(step), y being the log of the loss where all means are positive and the loss itself
    elsewhere: near t a power law, with or without a floor, is nearly that. The standard error at x'
    is s sqrt(1/n + (x' - mean x)^2 / Sxx + 1/r), s being the standard deviation of what the fit
    leaves of n means, and r how many such means the judged losses are worth. As s is known from few
    means only, `tolerance` is turned into the quantile of Student's t that is as rare.

    What it was heading to is read a quarter of the steps back, if the trend falls: a roll-back
    costs all of the steps, so a jump that has cost fewer is better kept; and a trend that levels
    off more than a power law does is not taken for harm. Nor is what differs by a thousandth.

    Examples
    --------
    >>> falling = [(t, 1000 / t) for t in range(800, 1000)]
    >>> judge(falling, [(t, 1000 / t) for t in range(1001, 1101)], 2.0).kept
    True
    >>> judge(falling, [(t, 1.1) for t in range(1001, 1101)], 2.0).kept
    False
    """
    means = _means(_recent(before), BINS)
    judged = np.asarray(after[len(after) // 2 :], dtype=np.float64)
    step, loss = (float(v) for v in judged.mean(axis=0))
    x, y = np.log(means[:, 0] / step), means[:, 1]
    power = bool((y > 0).all())
    y = np.log(y) if power else y
    slope, there = (float(v) for v in np.polyfit(x, y, 1))  # x is 0 where it is judged
    left = y - (there + slope * x)
    freedom = len(x) - 2
    away = x.mean() ** 2 / float(((x - x.mean()) ** 2).sum())
    worth = len(judged) * len(x) / len(_recent(before))
    error = math.sqrt(float(left @ left) / freedom * (1 / len(x) + away + 1 / worth))
    back = math.log1p(-FORGIVEN * (1 - before[-1][0] / step))
    heading = there + max(slope * back, 0.0)
    rare = _quantile(tolerance, freedom)
    limit = heading + (rare if math.isinf(rare) else rare * error)
    if power:
        heading, limit = (math.exp(min(v, 700.0)) if v < math.inf else v for v in (heading, limit))
    limit += SLIGHT * abs(heading)  # where there is no noise, the fit alone is off
    return Verdict(loss <= limit, loss, heading, limit)


def _recent(losses: Losses) -> Losses:
    """Those of the second half of the run; early ones follow another law."""
    recent = [(step, loss) for step, loss in losses if 2 * step > losses[-1][0]]
    return recent if len(recent) >= FEWEST else losses[-FEWEST:]


def _means(losses: Losses, most: int) -> np.ndarray:
    """Mean step and mean loss of equal parts, shape (parts, 2)."""
    parts = np.array_split(np.asarray(losses, dtype=np.float64), min(most, len(losses)))
    return np.array([part.mean(axis=0) for part in parts])


def _quantile(z: float, freedom: int) -> float:
    """What Student's t exceeds as rarely as a normal number exceeds z; by Cornish and Fisher."""
    first, second = z**3 + z, 5 * z**5 + 16 * z**3 + 3 * z
    return z + first / (4 * freedom) + second / (96 * freedom**2)
