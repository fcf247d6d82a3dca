"""The papers' small networks: of MNIST and Fashion-MNIST, for images [n, 1, 28, 28].

Each has its paper's initial weights, drawn from torch's generator. Pooling stands before ReLU where
the papers have it after: the values are the same, and a quarter of them is left to rectify.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

Draw = Callable[[torch.Tensor], object]


def n0(classes: int = 10) -> nn.Sequential:
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
        *(nn.Flatten(), nn.Linear(512, 1024), nn.ReLU(), nn.Dropout(), nn.Linear(1024, classes)),
    )


def mnist1(classes: int = 10) -> nn.Module:
    """MNIST_1 of Sinha et al. 2017: two convolutions, 1024 hidden units, dropout.

    Notes
    -----
    Section 4.2.1. The paper prints 8 channels into the second convolution, where only 32 fit.
    Weights are from a normal distribution of standard deviation 0.01, cut off at two of them; of
    biases the paper says nothing: 0.1, as in the TensorFlow tutorial that has this very network.

    Examples
    --------
    >>> sum(p.numel() for p in mnist1().parameters())
    3274634
    """
    network = nn.Sequential(
        *(nn.Conv2d(1, 32, 5, padding=2), nn.MaxPool2d(2), nn.ReLU()),  # [n, 32, 14, 14]
        *(nn.Conv2d(32, 64, 5, padding=2), nn.MaxPool2d(2), nn.ReLU()),  # [n, 64, 7, 7]
        *(nn.Flatten(), nn.Linear(3136, 1024), nn.ReLU(), nn.Dropout(), nn.Linear(1024, classes)),
    )
    truncated = partial(nn.init.trunc_normal_, std=0.01, a=-0.02, b=0.02)
    return drawn(network, truncated, partial(nn.init.constant_, val=0.1))


def mnist2(classes: int = 10) -> nn.Module:
    """MNIST_2 of Sinha et al. 2017: Caffe's LeNet.

    Notes
    -----
    Section 4.2.1. As in Caffe there is a ReLU after the hidden layer only. Weights are Xavier's,
    biases 0.

    Examples
    --------
    >>> sum(p.numel() for p in mnist2().parameters())
    431080
    """
    network = nn.Sequential(
        *(nn.Conv2d(1, 20, 5), nn.MaxPool2d(2)),  # [n, 20, 12, 12]
        *(nn.Conv2d(20, 50, 5), nn.MaxPool2d(2)),  # [n, 50, 4, 4]
        *(nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, classes)),
    )
    return drawn(network, nn.init.xavier_uniform_, nn.init.zeros_)


def mnist3(classes: int = 10) -> nn.Module:
    """MNIST_3 of Sinha et al. 2017: two hidden layers of 256 units.

    Notes
    -----
    Section 4.2.1. All weights and biases are from a standard normal distribution, so that the
    first logits are in the thousands.

    Examples
    --------
    >>> sum(p.numel() for p in mnist3().parameters())
    269322
    """
    network = nn.Sequential(
        *(nn.Flatten(), nn.Linear(784, 256), nn.ReLU()),  # [n, 256]
        *(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, classes)),
    )
    return drawn(network, nn.init.normal_, nn.init.normal_)


class Mnist4(nn.Module):
    """MNIST_4 of Sinha et al. 2017: an LSTM of 128 units over the rows of an image.

    Notes
    -----
    Section 4.2.1, which gives no initial weights: they are torch's own.

    Examples
    --------
    >>> sum(p.numel() for p in Mnist4().parameters())
    82186
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.lstm = nn.LSTM(28, 128, batch_first=True)
        self.last = nn.Linear(128, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of images [n, 1, 28, 28]: each row is what the LSTM sees at a time."""
        states, _ = self.lstm(x.flatten(1, 2))  # [n, 28, 128]
        logits: torch.Tensor = self.last(states[:, -1])
        return logits


def lenet(classes: int = 10) -> nn.Module:
    """LeNet-300-100, as Frankle and Carbin 2019 train it.

    Notes
    -----
    Their section 2: two hidden layers with ReLU, Glorot normal weights, biases 0.

    Examples
    --------
    >>> sum(p.numel() for p in lenet().parameters())
    266610
    """
    network = nn.Sequential(
        *(nn.Flatten(), nn.Linear(784, 300), nn.ReLU()),  # [n, 300]
        *(nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, classes)),
    )
    return drawn(network, nn.init.xavier_normal_, nn.init.zeros_)


def fm16(classes: int = 10) -> nn.Module:
    """NiNo's FM-16 (Knyazev et al. 2025): three convolutions and global average pooling.

    Initial weights are torch's own.

    Examples
    --------
    >>> sum(p.numel() for p in fm16().parameters())
    14378
    """
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, stride=2), nn.ReLU()),  # [n, 16, 13, 13]
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()),  # [n, 32, 13, 13]
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, classes)),
    )


def drawn(network: nn.Module, weights: Draw, biases: Draw) -> nn.Module:
    """The network with its weights, of more than one dimension, and its biases drawn anew."""
    for parameter in network.parameters():
        (weights if parameter.dim() > 1 else biases)(parameter)
    return network


def seeded(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A network whose initial weights depend on the seed only.

    Examples
    --------
    >>> one, other = (seeded(fm16, seed=3) for _ in range(2))
    >>> bool(one[0].weight.equal(other[0].weight))
    True
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()
