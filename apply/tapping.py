"""The training losses of a run, seen without a change to its script.

Torch's ``backward`` is where a run shows its loss. While anything listens, the function behind it
tells the scalars that it is called on; under AMP the loss as it was before it was scaled.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch

from weightcast.recorder.step import untraced

_NO_BACKWARD = -1  # what torch gives outside of a backward pass
_UNSCALED = "_weightcast_unscaled"  # attribute of a scaled loss

Listener = Callable[[torch.Tensor], None]


class LossTap:
    """Tells listeners the losses that ``backward`` is called on, in this process.

    Losses are tensors of one number, whatever model they are of. A backward pass within another, as
    of checkpointed layers, is part of it and tells nothing.

    Examples
    --------
    >>> seen, weight = [], torch.ones(1, requires_grad=True)
    >>> tap.listen(seen.append)
    >>> (3 * weight).sum().backward()
    >>> tap.leave(seen.append)
    >>> seen
    [tensor(3.)]
    """

    def __init__(self) -> None:
        self._listeners: list[Listener] = []
        self._patches: list[_Patch] = []

    def listen(self, listener: Listener) -> None:
        """Call a function with every loss from now on, detached."""
        self._listeners.append(listener)
        if not self._patches:
            tell = untraced(self._tell)
            self._patches = [
                _Patch(torch.autograd, "backward", lambda inner: _telling(inner, tell)),
                *(_Patch(scaler, "scale", _marking) for scaler in _scalers()),
            ]

    def leave(self, listener: Listener) -> None:
        """Call it no more; with the last listener torch is as it was."""
        if listener in self._listeners:
            self._listeners.remove(listener)
        if not self._listeners:
            for patch in self._patches:
                patch.remove()
            self._patches = []

    def _tell(self, tensors: Any) -> None:
        if torch._C._current_graph_task_id() != _NO_BACKWARD:
            return
        for tensor in tensors:
            loss = getattr(tensor, _UNSCALED, tensor)
            if isinstance(loss, torch.Tensor) and loss.numel() == 1 and loss.is_floating_point():
                for listener in tuple(self._listeners):
                    listener(loss.detach())


class _Patch:
    """A function of torch in another's place, until it is removed.

    What somebody else has put around it since is left there: from then on ours does nothing.
    """

    def __init__(self, owner: Any, name: str, around: Callable[[Any], Any]) -> None:
        self._owner, self._name, self._inner = owner, name, getattr(owner, name)
        self._on, outer, inner = True, around(self._inner), self._inner

        @functools.wraps(self._inner)
        def patched(*args: Any, **kwargs: Any) -> Any:
            return (outer if self._on else inner)(*args, **kwargs)

        self._patched = patched
        setattr(owner, name, patched)

    def remove(self) -> None:
        self._on = False
        if getattr(self._owner, self._name) is self._patched:
            setattr(self._owner, self._name, self._inner)


def _telling(backward: Callable[..., Any], tell: Callable[[Any], None]) -> Callable[..., Any]:
    def telling(tensors: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(tensors, Iterator):  # it can be read only once
            tensors = tuple(tensors)
        tell((tensors,) if isinstance(tensors, torch.Tensor) else tensors)
        return backward(tensors, *args, **kwargs)

    return telling


def _marking(scale: Callable[..., Any]) -> Callable[..., Any]:
    """Let what a ``GradScaler`` scales tell what it was."""

    def marking(scaler: Any, outputs: Any) -> Any:
        one = isinstance(outputs, torch.Tensor)
        if not isinstance(outputs, torch.Tensor | list | tuple):  # what torch gives is of its type
            outputs = tuple(outputs)
        scaled = scale(scaler, outputs)
        pairs = [(outputs, scaled)] if one else zip(outputs, scaled, strict=True)
        for output, result in pairs:
            if isinstance(output, torch.Tensor) and result is not output:
                setattr(result, _UNSCALED, output.detach())
        return scaled

    return marking


def _scalers() -> list[type]:
    """The ``GradScaler`` classes there are that scale in a way of their own."""
    found = [torch.amp.GradScaler]
    for kind in found:
        found += kind.__subclasses__()
    return [kind for kind in dict.fromkeys(found) if "scale" in vars(kind)]


tap = LossTap()
