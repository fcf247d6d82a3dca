"""Masks: which weights of a model stay, as bool tensors by parameter name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from weightcast.recorder.checkpoints import State, plain_names
from weightcast.store import ShapeError, UsageError

Mask = Mapping[str, torch.Tensor] | nn.Module


def named_tensors(mask: Mask | None) -> Mapping[str, torch.Tensor]:
    """What a mask has by name; nothing without a mask.

    Raises
    ------
    UsageError
        If it is no mapping.
    """
    given = mask.state_dict() if isinstance(mask, nn.Module) else mask
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise UsageError(
            f"a mask must be a mapping of bool tensors by parameter name: got {type(mask).__name__}"
        )
    return given


def checked_mask(
    mask: Mask | None,
    shapes: Mapping[str, tuple[int, ...]],
    names: Mapping[str, Sequence[str]],
    of: str,
    among: object,
) -> State:
    """A mask's tensors by the first names of those that they are for; whole, on the CPU.

    Parameters
    ----------
    mask : mapping of str to bool Tensor, or nn.Module with such a ``state_dict``, or None
        Names may have the prefix of a wrapper.
    shapes : mapping of str to tuple of int
        Of what may have a mask, by name.
    names : mapping of str to sequence of str
        All names of each of these, see `matching.names_of`.
    of, among : str, object
        What these are, and where: for the message.

    Raises
    ------
    ShapeError
        If a name, a shape or a dtype is wrong.

    Examples
    --------
    >>> mask = {"module.w": torch.tensor([True, False])}
    >>> checked_mask(mask, {"w": (2,)}, {"w": ["w"]}, "parameters", "the model")
    {'w': tensor([ True, False])}
    """
    given = named_tensors(mask)
    firsts = {name: first for first, those in names.items() for name in those}
    if not given.keys() <= firsts.keys():
        given, _ = plain_names(dict(given))
    found: State = {}
    for name, tensor in given.items():
        if name not in firsts:
            such = f", such as {next(iter(firsts))!r}" if firsts else ""
            raise ShapeError(
                f"a mask must be of {of}: {name!r} is none of the {len(shapes)} {among}{such}"
            )
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        first = firsts[name]
        _require_mask(name, whole, shapes[first])
        if first in found and not torch.equal(found[first], whole.cpu()):
            raise ShapeError(f"a tied tensor has one mask: that of {name!r} differs from another's")
        found[first] = whole.cpu()
    return found


def _require_mask(name: str, tensor: Any, shape: tuple[int, ...]) -> None:
    good = isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided
    if not good or tensor.dtype != torch.bool or tensor.is_meta or tuple(tensor.shape) != shape:
        got = f"{tensor.dtype} {list(tensor.shape)}" if good else f"a {type(tensor).__name__}"
        raise ShapeError(
            f"a mask must be a bool tensor of its parameter's shape: that of {name!r} is {got}, "
            f"not torch.bool {list(shape)}"
        )
