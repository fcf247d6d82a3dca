"""Noticing that a model is no longer made of the same modules and parameters."""

from __future__ import annotations

from itertools import chain
from operator import attrgetter, is_
from typing import Any

from torch import nn

_parameters = attrgetter("_parameters")


class Structure:
    """The modules, parameters and buffers that a model is made of, to be compared with later.

    The comparison is a few passes in C: a training step leaves nothing of ours in the processor's
    caches, and then every line of Python takes microseconds.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    >>> structure = Structure(model)
    >>> structure.changed()
    False
    >>> model[1] = nn.Linear(2, 3)
    >>> structure.changed()
    True
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules: list[Any] = list(model.modules())
        self._owned = [module._parameters for module in self._modules]
        children = [module._modules for module in self._modules]
        self._members = [members.values() for members in (*self._owned, *children)]
        self._expected = list(chain.from_iterable(self._members))
        self._buffers = [module._buffers.values() for module in self._modules]
        self._kinds = list(map(type, chain.from_iterable(self._buffers)))

    def changed(self) -> bool:
        """Whether a parameter or module was added, removed or replaced, or a buffer went."""
        return not (
            sum(map(len, self._members)) == len(self._expected)
            and all(map(is_, chain.from_iterable(self._members), self._expected))
            and all(map(is_, map(_parameters, self._modules), self._owned))
            and list(map(type, chain.from_iterable(self._buffers))) == self._kinds
        )
