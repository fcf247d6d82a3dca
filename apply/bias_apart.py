"""Convolutions that add their biases by themselves, while their weights are frozen.

On processors torch computes the gradients of a convolution's weights whenever it computes those of
its biases (oneDNN has one operation for both), so that training the biases alone would cost as much
as training all. Apart from the convolution, a bias costs a sum. ::

    convolve(x, w, b)   -->   convolve(x, w, b without gradient) + (b - b without gradient)

What is added is zero: the outputs are the same numbers, and the gradients too, but for rounding.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import nn

_NAME = "_conv_forward"  # torch's own, which `forward` of every convolution calls
_Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d


def set_apart(model: nn.Module) -> None:
    """Let the model's convolutions of frozen weights add their biases by themselves.

    Examples
    --------
    >>> layer, images = nn.Conv2d(1, 2, 3), torch.randn(4, 1, 5, 5)
    >>> _ = layer.weight.requires_grad_(False)
    >>> before = layer(images)
    >>> set_apart(layer)
    >>> type(before.grad_fn).__name__, type(layer(images).grad_fn).__name__
    ('ConvolutionBackward0', 'AddBackward0')
    >>> bool((layer(images) == before).all())
    True
    >>> put_together(layer)
    """
    for module in model.modules():
        plain = isinstance(module, _Convolution) and _function(module) is type(module)._conv_forward
        if plain and module.bias is not None and not module.weight.requires_grad:
            setattr(module, _NAME, MethodType(_conv_forward, module))


def put_together(model: nn.Module) -> None:
    """Undo `set_apart`."""
    for module in model.modules():
        if _function(module) is _conv_forward:
            delattr(module, _NAME)


def _function(module: nn.Module) -> object:
    return getattr(getattr(module, _NAME, None), "__func__", None)


# Of the name that it stands under: a model that is pickled meanwhile comes back with torch's own.
def _conv_forward(
    module: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    plain = type(module)._conv_forward
    if bias is None or x.device.type != "cpu":
        return plain(module, x, weight, bias)  # type: ignore[no-any-return]
    out: torch.Tensor = plain(module, x, weight, bias.detach())
    zero = (bias - bias.detach()).to(out.dtype)  # autocast computes in another
    return out + zero.view(-1, *[1] * (weight.ndim - 2))
