"""Images that are decoded when they are asked for; crops, and the part held out for tuning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.model_selection import train_test_split

from weightcast.store import FormatError

Prepare = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Pictures:
    """Images in place of a float32 tensor [N, C, H, W]: what is indexed is prepared then.

    Attributes
    ----------
    source : Tensor or other sequence of images
        Indexed by an int64 tensor of rows, it gives a tensor [n, ...].
    prepare : callable
        Those, to float32 [n, C, H, W].
    rows : int64 Tensor, shape (N,), optional
        Which of the source's images these are; all by default.

    Examples
    --------
    >>> pictures = Pictures(torch.arange(6).reshape(3, 1, 1, 2), torch.Tensor.float)
    >>> len(pictures), pictures[1:].flatten().tolist()
    (3, [2.0, 3.0, 4.0, 5.0])
    >>> Pictures(pictures, torch.neg, torch.tensor([2, 0]))[:1].flatten().tolist()
    [-4.0, -5.0]
    """

    source: Any
    prepare: Prepare
    rows: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.source if self.rows is None else self.rows)

    def __getitem__(self, rows: torch.Tensor | slice) -> torch.Tensor:
        wanted = torch.arange(len(self))[rows] if isinstance(rows, slice) else rows
        return self.prepare(self.source[wanted if self.rows is None else self.rows[wanted]])


def central_crop(x: torch.Tensor, size: int) -> torch.Tensor:
    """The middle of images [n, C, H, W]: [n, C, size, size].

    Examples
    --------
    >>> central_crop(torch.arange(16).reshape(1, 1, 4, 4), 2).tolist()
    [[[[5, 6], [9, 10]]]]
    """
    top, left = ((side - size) // 2 for side in x.shape[2:])
    return x[:, :, top : top + size, left : left + size]


def random_crop(x: torch.Tensor, size: int, generator: torch.Generator) -> torch.Tensor:
    """A random piece of each image, half of them mirrored left to right.

    Parameters
    ----------
    x : Tensor, shape (n, C, H, W)
    size : int
    generator : torch.Generator

    Returns
    -------
    Tensor, shape (n, C, size, size)

    Examples
    --------
    >>> generator = torch.Generator().manual_seed(0)
    >>> random_crop(torch.arange(9).reshape(1, 1, 3, 3), 2, generator).tolist()
    [[[[2, 1], [5, 4]]]]
    """
    count, _, height, width = x.shape
    tops, lefts = (
        torch.randint(side - size + 1, (count,), generator=generator).tolist()
        for side in (height, width)
    )
    mirrored = (torch.rand(count, generator=generator) < 0.5).tolist()
    pieces = [
        image[:, top : top + size, left : left + size]
        for image, top, left in zip(x, tops, lefts, strict=True)
    ]
    return torch.stack([p.flip(-1) if m else p for p, m in zip(pieces, mirrored, strict=True)])


def hold_out(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of four fifths of the images and of the rest, the same every time.

    Of each class the same share, as nearly as it goes.

    Raises
    ------
    FormatError
        If there are too few images.

    Examples
    --------
    >>> kept, held = hold_out(torch.tensor([0, 1] * 5))
    >>> len(kept), held.tolist()
    (8, [3, 6])
    """
    try:
        parts = train_test_split(
            np.arange(len(labels)), test_size=0.2, random_state=1, stratify=labels.numpy()
        )
    except ValueError as error:
        raise FormatError(
            f"a fifth of {len(labels)} images cannot be held out, five of each class would do: "
            f"{error}"
        ) from error
    return torch.from_numpy(parts[0]), torch.from_numpy(parts[1])
