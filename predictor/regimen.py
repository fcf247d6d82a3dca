"""How a network is trained, as plain data: how long, how fast, and when to look."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_STRETCH = 500  # steps whose batches are gathered from the memory-mapped samples in one read,
_GATHERED = 1 << 18  # of so many samples at most


@dataclass(frozen=True)
class Regimen:
    """How a network is trained: Adam on batches of samples drawn with replacement.

    Parameters
    ----------
    seed : int
        From 0 to 2**64 - 1.
    batch_size, steps : int
    learning_rate : float
    decay_every : int
        Steps between decays of the learning rate.
    decay : float
        Factor of each decay.
    validate_every : int
        Steps between points of the curve.
    patience : int, optional
        Points without a smaller validation error after which training ends, with the best weights;
        None takes all steps and the last weights.

    Examples
    --------
    >>> regimen = Regimen(0, 20, 1100, 1.0, 400, 0.5, 600, None)
    >>> regimen.rate(399), regimen.rate(400), regimen.rate(800)
    (1.0, 0.5, 0.25)
    >>> regimen.stretch(0), regimen.stretch(500), regimen.stretch(600), regimen.stretch(1000)
    (500, 600, 1000, 1100)
    """

    seed: int
    batch_size: int
    steps: int
    learning_rate: float
    decay_every: int
    decay: float
    validate_every: int
    patience: int | None

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        return float(self.learning_rate * self.decay ** (step // self.decay_every))

    def stretch(self, step: int) -> int:
        """Where the stretch that begins at a step ends; the same ones whether resumed or not."""
        most = min(_STRETCH, max(_GATHERED // self.batch_size, 1))
        every = self.validate_every
        return min(self.steps, (step // most + 1) * most, (step // every + 1) * every)

    def validates(self, step: int) -> bool:
        """Whether the curve has a point after that many steps."""
        return step % self.validate_every == 0 or step == self.steps

    def points(self, step: int) -> int:
        """How many points the curve has after that many steps."""
        return step // self.validate_every + (step == self.steps and step % self.validate_every > 0)

    def ends(self, curve: list[tuple[int, float, float]], step: int) -> bool:
        """Whether training ends here: all steps are taken, or patience is out."""
        if self.patience is None or not curve:
            return step >= self.steps
        since_best = len(curve) - 1 - int(np.argmin([validation for *_, validation in curve]))
        return step >= self.steps or since_best >= self.patience
