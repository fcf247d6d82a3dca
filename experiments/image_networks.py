"""Networks in the forms that CIFAR is trained with: images [n, 3, 32, 32].

AlexNet, VGG-11, VGG-16 and ResNet-18 are those of weight-update skipping, ResNet-20 that of
iterative magnitude pruning. Weights of convolutions and linear layers are He et al.'s (2015):
normal, of variance 2 / fan-in; biases 0; batch norm is torch's own. All draw from torch's
generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)

# Channels of VGG's 3x3 convolutions, between its five poolings.
_VGG11 = ((64,), (128,), (256, 256), (512, 512), (512, 512))
_VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def alexnet_cifar(classes: int = 10) -> nn.Sequential:
    """AlexNet in its smallest usual CIFAR form: one linear layer, no normalization, no dropout.

    Notes
    -----
    Krizhevsky et al. 2012 with the channels of its one-GPU form (2014), an 11x11 convolution of
    stride 4 with "same" padding, poolings of 2x2, and the two hidden layers left out, as in the
    common CIFAR benchmarks for torch.

    Examples
    --------
    >>> sum(p.numel() for p in alexnet_cifar().parameters())
    2472266
    """
    return _drawn(
        nn.Sequential(
            *(Biased(3, 64, 11, stride=4, padding=5), nn.ReLU()),  # [n, 64, 8, 8]
            nn.MaxPool2d(2),  # [n, 64, 4, 4]
            *(Biased(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),  # [n, 192, 2, 2]
            *(Biased(192, 384, 3, padding=1), nn.ReLU()),  # [n, 384, 2, 2]
            *(Biased(384, 256, 3, padding=1), nn.ReLU()),  # [n, 256, 2, 2]
            *(Biased(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),  # [n, 256, 1, 1]
            *(nn.Flatten(), nn.Linear(256, classes)),
        )
    )


def vgg11(classes: int = 10) -> nn.Sequential:
    """VGG-11 (A of Simonyan and Zisserman 2015) with batch norm and one linear layer.

    Convolutions have no biases of their own: batch norm would take them away.

    Examples
    --------
    >>> sum(p.numel() for p in vgg11().parameters())
    9228362
    """
    return _vgg(_VGG11, classes)


def vgg16(classes: int = 10) -> nn.Sequential:
    """VGG-16 (D of Simonyan and Zisserman 2015) with batch norm and one linear layer.

    Examples
    --------
    >>> sum(p.numel() for p in vgg16().parameters())
    14724042
    """
    return _vgg(_VGG16, classes)


def resnet18(classes: int = 10) -> nn.Sequential:
    """ResNet-18 of He et al. 2016 with a 3x3 stem in place of a 7x7 one and its pooling.

    Examples
    --------
    >>> sum(p.numel() for p in resnet18().parameters())
    11173962
    """
    return _resnet((64, 128, 256, 512), 2, classes)


def resnet20(classes: int = 10) -> nn.Sequential:
    """ResNet-20 of He et al. 2016, section 4.2.

    Notes
    -----
    Where the number of channels changes, the shortcut is a 1x1 convolution with batch norm (their
    option B), as in the lottery-ticket papers; He et al. have zeros there (A), and 2,752 weights
    less.

    Examples
    --------
    >>> sum(p.numel() for p in resnet20().parameters())
    272474
    """
    return _resnet((16, 32, 64), 3, classes)


class Biased(nn.Conv2d):
    """A convolution that adds its biases by themselves, with the same values.

    On processors, torch computes the gradients of a convolution's weights whenever it computes
    those of its biases: training the biases alone would take as long as training all.
    `weightcast.apply.UpdateSkipper` does the same for any convolution while its weights are left
    alone. This one adds its biases so throughout, which rounds otherwise: it stays so that the
    recorded results of `alexnet_cifar` can be run again to the same numbers.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images [n, channels, h, w] to [n, out, h', w']."""
        filtered: torch.Tensor = self._conv_forward(x, self.weight, None)
        return filtered + self.get_parameter("bias")[:, None, None]


class Residual(nn.Module):
    """A basic block: two 3x3 convolutions, added to what goes in.

    Parameters
    ----------
    channels, out : int
        Going in and out.
    stride : int
        Of the first convolution.
    """

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(*_convolution(channels, out, 3, stride), nn.ReLU()),
            *_convolution(out, out, 3),
        )
        same = channels == out and stride == 1
        self.shortcut = nn.Sequential(*(() if same else _convolution(channels, out, 1, stride)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images [n, channels, h, w] to [n, out, h / stride, w / stride]."""
        return torch.relu(self.body(x) + self.shortcut(x))


def _vgg(groups: Sequence[Sequence[int]], classes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 3
    for group in groups:
        for out in group:
            layers += [*_convolution(channels, out, 3), nn.ReLU()]
            channels = out
        layers.append(nn.MaxPool2d(2))  # 16, 8, 4, 2 and 1 pixels are left
    return _drawn(nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels, classes)))


def _resnet(widths: Sequence[int], blocks: int, classes: int) -> nn.Sequential:
    """Stages of so many blocks; each but the first halves the image: 32, 16, 8, ... pixels."""
    layers: list[nn.Module] = [*_convolution(3, widths[0], 3), nn.ReLU()]
    channels = widths[0]
    for stage, width in enumerate(widths):
        for block in range(blocks):
            layers.append(Residual(channels, width, 2 if stage and not block else 1))
            channels = width
    pooled = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
    return _drawn(nn.Sequential(*layers, *pooled))


def _convolution(channels: int, out: int, size: int, stride: int = 1) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(channels, out, size, stride, padding=size // 2, bias=False)
    return convolution, nn.BatchNorm2d(out)


def _drawn(network: Network) -> Network:
    """The network with He et al.'s weights, and no biases yet, in front of its ReLUs."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return network
