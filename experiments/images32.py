"""Images as CIFAR networks are trained on them: [n, 3, 32, 32], cropped, mirrored, normalized."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from weightcast.experiments.pictures import random_crop

SIZE = 32
MARGIN = 4  # black pixels around an image, before a random crop


@dataclass(frozen=True)
class Form:
    """Means and standard deviations of a data set's training pixels, by channel.

    Attributes
    ----------
    mean, deviation : tuple of float

    Notes
    -----
    `CIFAR` has the numbers of CIFAR-10, and CIFAR-100 is brought to this form by them too. Its own
    differ by a few units of 255, so its images are not quite of mean 0 and deviation 1.
    """

    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]

    def plain(self, x: torch.Tensor) -> torch.Tensor:
        """Pixels [n, 3, 32, 32] less their mean, over their deviation: what evaluations see.

        Examples
        --------
        >>> FASHION.plain(torch.tensor([0.286, 0.639]).reshape(2, 1, 1, 1))[:, 0].flatten()
        tensor([0., 1.])
        """
        mean, deviation = (
            torch.tensor(channels)[:, None, None] for channels in (self.mean, self.deviation)
        )
        return (x - mean) / deviation

    def augment(self, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """The same of random crops of the image in a black margin, half of them mirrored.

        Notes
        -----
        Section 4.2 of He et al. 2016.
        """
        padded = functional.pad(x, (MARGIN,) * 4)
        return self.plain(random_crop(padded, SIZE, generator))


FASHION = Form(mean=(0.286,) * 3, deviation=(0.353,) * 3)  # of pixels from 0 to 1
CIFAR = Form(mean=(125.3, 123.0, 113.9), deviation=(63.0, 62.1, 66.7))  # CIFAR-10's, 0 to 255


def widened(x: torch.Tensor) -> torch.Tensor:
    """Grey images [n, 1, 28, 28] in a black margin, three times: [n, 3, 32, 32].

    Examples
    --------
    >>> tuple(widened(torch.ones(5, 1, 28, 28)).shape)
    (5, 3, 32, 32)
    """
    margin = (SIZE - x.shape[-1]) // 2
    return functional.pad(x, (margin,) * 4).expand(-1, 3, -1, -1)
