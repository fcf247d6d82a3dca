"""Tasks other than the labels, to train a network on before it sees them.

::

    random labels   images, their labels dealt out anew     --k steps-->  weights at step k
    rotation        images turned by 0, 90, 180, 270 degrees --k steps-->  weights at step k
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from weightcast.experiments.batches import seed_of
from weightcast.experiments.digits import Task
from weightcast.experiments.loading import Data
from weightcast.experiments.pictures import Pictures, Prepare

TURNS = 4  # quarters of a circle
_LABELS = 4  # in the key of random labels: batches, dropout and augmentation have others


def supervised(data: Data, seed: int) -> Data:
    """The labels after all: `data` itself."""
    return data


def random_labels(data: Data, seed: int) -> Data:
    """Training labels dealt out among the training images, once and for all.

    Each class keeps its number of images. The images that judge are the training images with these
    labels too, as evaluation sees images: others have nothing to say of labels that can only be
    learned by heart.

    Parameters
    ----------
    data : Data
    seed : int
        Of the permutation.

    Returns
    -------
    Data

    Notes
    -----
    Section 6 of Frankle, Schwab and Morcos 2020 trains on random labels first.

    Examples
    --------
    >>> x, y = torch.zeros(4, 1, 2, 2), torch.tensor([0, 1, 2, 3])
    >>> random_labels(Data(Task(x, y, x, y), {}, 4, "four images"), 0).task.train_y.tolist()
    [1, 2, 3, 0]
    """
    task = data.task
    generator = torch.Generator().manual_seed(seed_of(seed, 0, _LABELS))
    dealt = task.train_y[torch.randperm(len(task.train_y), generator=generator)]
    judging: Any = Pictures(task.train_x, data.plain)
    return replace(data, task=Task(task.train_x, dealt, judging, dealt))


def rotations(data: Data, seed: int) -> Data:
    """Every image turned by 0, 90, 180 and 270 degrees; the class is the number of quarter turns.

    Row ``4 i + q`` is image ``i``, turned ``q`` times. Training images are as evaluation would see
    them: a mirrored image would swap the classes 1 and 3.

    Parameters
    ----------
    data : Data
        Of square images.
    seed : int
        Not used: nothing is drawn.

    Returns
    -------
    Data
        Of as many classes as ever, of which the first four occur.

    Notes
    -----
    Self-supervised rotation prediction, with which section 6 of Frankle, Schwab and Morcos 2020
    trains first. Images are turned when they are asked for.

    Examples
    --------
    >>> x, y = torch.arange(4.0).reshape(1, 1, 2, 2), torch.tensor([7])
    >>> turned = rotations(Data(Task(x, y, x, y), {}, 10, "an image"), 0).task
    >>> turned.train_x[torch.tensor([0, 1])].flatten(1).tolist(), turned.train_y.tolist()
    ([[0.0, 1.0, 2.0, 3.0], [1.0, 3.0, 0.0, 2.0]], [0, 1, 2, 3])
    """
    task = data.task
    plain = torch.Tensor.contiguous if data.augment is None else data.plain
    train: Any = Turned(task.train_x, plain)
    test: Any = Turned(task.validation_x, torch.Tensor.contiguous)
    turned = Task(train, _turns(len(task.train_y)), test, _turns(len(task.validation_y)))
    return replace(data, task=turned, augment=None, plain=torch.Tensor.contiguous)


PRETEXTS: dict[str, Callable[[Data, int], Data]] = {
    "supervised": supervised,
    "random labels": random_labels,
    "rotation": rotations,
}


@dataclass(frozen=True)
class Turned:
    """Images in place of a tensor [4 N, C, S, S]; see `rotations`.

    Attributes
    ----------
    source : Tensor or other sequence of images
        Indexed by an int64 tensor of rows, it gives a tensor [n, ...].
    prepare : callable
        Those, to float32 [n, C, S, S].
    """

    source: Any
    prepare: Prepare

    def __len__(self) -> int:
        return TURNS * len(self.source)

    def __getitem__(self, rows: torch.Tensor | slice) -> torch.Tensor:
        wanted = torch.arange(len(self))[rows] if isinstance(rows, slice) else rows
        images = self.prepare(self.source[wanted // TURNS])  # [n, C, S, S]
        turned = torch.empty_like(images)
        for quarters in range(TURNS):
            these = wanted % TURNS == quarters
            turned[these] = torch.rot90(images[these], quarters, (2, 3))
        return turned


def _turns(images: int) -> torch.Tensor:
    return torch.arange(TURNS).repeat(images)  # [4 N]
