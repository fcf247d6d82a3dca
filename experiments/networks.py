"""The papers' networks."""

from __future__ import annotations

from torch import nn


def n0() -> nn.Sequential:
    """The N0 of Sinha et al. 2017, from whose history Introspection learned.

    Three 5x5 convolutions with as many channels as the paper's, each with ReLU and 2x2 max
    pooling, then 1024 hidden units with dropout: 551,818 weights for images [n, 1, 28, 28]. Its
    initial weights are torch's own, from torch's generator.

    Notes
    -----
    Section 4.1, trained by Adam at 1e-4 on batches of 50. "Same" padding makes 4 of 7 pixels in the
    last pooling, which is why it rounds up.

    Examples
    --------
    >>> sum(p.numel() for p in n0().parameters())
    551818
    """
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),  # [n, 8, 14, 14]
        *(nn.Conv2d(8, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),  # [n, 16, 7, 7]
        *(nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)),
        *(nn.Flatten(), nn.Linear(512, 1024), nn.ReLU(), nn.Dropout(), nn.Linear(1024, 10)),
    )
