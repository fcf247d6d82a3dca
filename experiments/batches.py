"""Which images a step trains on: a function of seed and step, so that no run needs to save it."""

from __future__ import annotations

import numpy as np
import torch


def seed_of(*key: int) -> int:
    """A seed of 63 bits for a key, such as a run's seed and a step.

    Examples
    --------
    >>> seed_of(0, 1) == seed_of(0, 1), seed_of(0, 1) == seed_of(1, 0)
    (True, False)
    """
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)


class Batches:
    """Rows of the training images for each step: every epoch in another order, none twice.

    What does not fill a last batch of an epoch is left out of it.

    Parameters
    ----------
    images : int
        Training images, N.
    batch : int
        Images of a step; all of them if there are fewer.
    seed : int

    Examples
    --------
    >>> batches = Batches(images=10, batch=4, seed=0)
    >>> [len(set(batches[step].tolist())) for step in (0, 1, 2)]
    [4, 4, 4]
    >>> len({*batches[0].tolist(), *batches[1].tolist()})
    8
    """

    def __init__(self, images: int, batch: int, seed: int) -> None:
        self.images, self.batch, self.seed = images, min(batch, images), seed
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def __getitem__(self, step: int) -> torch.Tensor:
        """Rows of the batch after `step` steps: int64 [batch]."""
        epoch, place = divmod(step, self.images // self.batch)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(seed_of(self.seed, epoch))
            self._order = torch.randperm(self.images, generator=generator)
            self._epoch = epoch
        return self._order[place * self.batch : (place + 1) * self.batch]
