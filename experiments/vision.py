"""The papers' networks of colour images: CIFAR_1, AlexNet_1 and Inception V1.

Initial weights are drawn from torch's generator. Each is a sequence of layers, of which those with
weights jump as they are; shapes stand beside the layers, for images of the paper's size.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn


def cifar1(classes: int = 10) -> nn.Sequential:
    """CIFAR_1 of Sinha et al. 2017, for images [n, 3, 24, 24]: two convolutions with batch norm.

    Notes
    -----
    Section 4.2.2: the network of TensorFlow's CIFAR-10 tutorial, with batch norm in place of local
    response normalization, after each pooling (the tutorial's second one stood before it).
    Pooling that rounds up is TensorFlow's "same". Weights are from normal distributions of
    standard deviation 1e-4 in the convolutions, 0.04 in the hidden layers, and 1/192 in the last,
    as the paper's three numbers stand in the tutorial of its time. Of biases the paper says
    nothing: they are the tutorial's, 0 in the first and last layer and 0.1 in between. Batch norm
    is torch's own.

    Examples
    --------
    >>> sum(p.numel() for p in cifar1().parameters())
    1068554
    """
    network = nn.Sequential(
        *(nn.Conv2d(3, 64, 5, padding=2), nn.MaxPool2d(3, 2, ceil_mode=True)),  # [n, 64, 12, 12]
        *(nn.ReLU(), nn.BatchNorm2d(64)),
        *(nn.Conv2d(64, 64, 5, padding=2), nn.MaxPool2d(3, 2, ceil_mode=True)),  # [n, 64, 6, 6]
        *(nn.ReLU(), nn.BatchNorm2d(64)),
        *(nn.Flatten(), nn.Linear(2304, 384), nn.ReLU()),  # [n, 384]
        *(nn.Linear(384, 192), nn.ReLU(), nn.Linear(192, classes)),
    )
    return _drawn(
        network, deviations=(1e-4, 1e-4, 0.04, 0.04, 1 / 192), biases=(0, 0.1, 0.1, 0.1, 0)
    )


def alexnet1(classes: int = 1000) -> nn.Sequential:
    """AlexNet_1 of Sinha et al. 2017, for images [n, 3, 224, 224]: Krizhevsky et al.'s AlexNet.

    Images from 31 pixels on fit too, and have as many weights.

    Notes
    -----
    Section 4.2.3, after Krizhevsky et al. 2012: convolutions 2, 4 and 5 in the two groups that were
    on two GPUs then, weights from a normal distribution of standard deviation 0.01, biases 1 in
    these convolutions and in the hidden layers, else 0. Those weights are for pixels from 0 to
    255, less their mean: of pixels of deviation 1 the first logits depend some fifty times less.

    Torch divides the alpha of its normalization by the 5 channels, Krizhevsky's 1e-4 does not. The
    last pooling is 3x3 with stride 2 at 224 pixels; that it adapts makes other sizes fit.

    Examples
    --------
    >>> with torch.device("meta"):  # takes no memory
    ...     sum(p.numel() for p in alexnet1().parameters())
    60965224
    """
    network = nn.Sequential(
        *(nn.Conv2d(3, 96, 11, stride=4, padding=2), nn.ReLU()),  # [n, 96, 55, 55]
        *(nn.LocalResponseNorm(5, alpha=5e-4, k=2), nn.MaxPool2d(3, 2)),  # [n, 96, 27, 27]
        *(nn.Conv2d(96, 256, 5, padding=2, groups=2), nn.ReLU()),  # [n, 256, 27, 27]
        *(nn.LocalResponseNorm(5, alpha=5e-4, k=2), nn.MaxPool2d(3, 2)),  # [n, 256, 13, 13]
        *(nn.Conv2d(256, 384, 3, padding=1), nn.ReLU()),  # [n, 384, 13, 13]
        *(nn.Conv2d(384, 384, 3, padding=1, groups=2), nn.ReLU()),  # [n, 384, 13, 13]
        *(nn.Conv2d(384, 256, 3, padding=1, groups=2), nn.ReLU()),  # [n, 256, 13, 13]
        *(nn.AdaptiveMaxPool2d(6), nn.Flatten()),  # [n, 9216]
        *(nn.Linear(9216, 4096), nn.ReLU(), nn.Dropout()),  # [n, 4096]
        *(nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, classes)),
    )
    return _drawn(network, deviations=[0.01] * 8, biases=(0, 1, 0, 1, 1, 1, 1, 0))


def inception1(classes: int = 1000) -> nn.Sequential:
    """Inception V1 (GoogLeNet) for images [n, 3, 224, 224], or from 31 pixels on.

    Notes
    -----
    The appendix of Sinha et al. 2017, after table 1 of Szegedy et al. 2015. As in TensorFlow's slim
    models there are no auxiliary heads, and batch norm (epsilon 0.001) in place of biases and local
    response normalization; weights are from a normal distribution of standard deviation 0.01, cut
    off at two of them. Unlike there, 5x5 convolutions are 5x5, the last pooling is 3x3 and 40 % are
    dropped, as in the table; batch norm has scales, and its statistics move at torch's 0.1: at
    slim's 0.0003 they would be of the weights before a jump for thousands of steps.

    Examples
    --------
    >>> with torch.device("meta"):  # draws no weights
    ...     sum(p.numel() for p in inception1().parameters())
    7005832
    """
    network = nn.Sequential(
        *(_convolution(3, 64, 7, stride=2), _halved()),  # [n, 64, 56, 56]
        *(_convolution(64, 64, 1), _convolution(64, 192, 3), _halved()),  # [n, 192, 28, 28]
        _branches(192, 64, (96, 128), (16, 32), 32),  # 3a: [n, 256, 28, 28]
        _branches(256, 128, (128, 192), (32, 96), 64),  # 3b: [n, 480, 28, 28]
        _halved(),  # [n, 480, 14, 14]
        _branches(480, 192, (96, 208), (16, 48), 64),  # 4a: [n, 512, 14, 14]
        _branches(512, 160, (112, 224), (24, 64), 64),  # 4b: [n, 512, 14, 14]
        _branches(512, 128, (128, 256), (24, 64), 64),  # 4c: [n, 512, 14, 14]
        _branches(512, 112, (144, 288), (32, 64), 64),  # 4d: [n, 528, 14, 14]
        _branches(528, 256, (160, 320), (32, 128), 128),  # 4e: [n, 832, 14, 14]
        _halved(),  # [n, 832, 7, 7]
        _branches(832, 256, (160, 320), (32, 128), 128),  # 5a: [n, 832, 7, 7]
        _branches(832, 384, (192, 384), (48, 128), 128),  # 5b: [n, 1024, 7, 7]
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.4), nn.Linear(1024, classes)),
    )
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.01, a=-0.02, b=0.02)
    nn.init.zeros_(network[-1].get_parameter("bias"))
    return network


class Branches(nn.ModuleList):
    """Several networks of the same images [n, c, h, w]; their channels stand one after another."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Their outputs, [n, sum of channels, h, w]."""
        return torch.cat([branch(x) for branch in self], dim=1)


def _branches(
    channels: int, one: int, three: tuple[int, int], five: tuple[int, int], pooled: int
) -> Branches:
    """An inception module: 3x3 and 5x5 convolutions have fewer channels going in than it."""
    return Branches(
        [
            _convolution(channels, one, 1),
            nn.Sequential(_convolution(channels, three[0], 1), _convolution(*three, 3)),
            nn.Sequential(_convolution(channels, five[0], 1), _convolution(*five, 5)),
            nn.Sequential(nn.MaxPool2d(3, 1, padding=1), _convolution(channels, pooled, 1)),
        ]
    )


def _convolution(channels: int, out: int, size: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out, size, stride, padding=size // 2, bias=False),
        nn.BatchNorm2d(out, eps=1e-3),
        nn.ReLU(),
    )


def _halved() -> nn.MaxPool2d:
    return nn.MaxPool2d(3, 2, ceil_mode=True)


def _drawn(
    network: nn.Sequential, deviations: Iterable[float], biases: Iterable[float]
) -> nn.Sequential:
    """The network with normal weights and constant biases in its convolutions and linear layers."""
    layers = [layer for layer in network if isinstance(layer, nn.Conv2d | nn.Linear)]
    for layer, deviation, bias in zip(layers, deviations, biases, strict=True):
        nn.init.normal_(layer.weight, std=deviation)
        nn.init.constant_(layer.get_parameter("bias"), bias)
    return network
