"""Which live parameters are somebody's to move: no two may move the same."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterable

import torch
from torch.utils.weak import WeakIdKeyDictionary

from weightcast.store import UsageError

_owners: WeakIdKeyDictionary = WeakIdKeyDictionary()  # a parameter's owner, weakly


class Ownership:
    """Takes parameters until it is released, or gone.

    An optimizer holds its jumper by its hooks, and that its ownership: all end together.

    Raises
    ------
    UsageError
        If another has one of them.

    Examples
    --------
    >>> weight = torch.zeros(1)
    >>> mine = Ownership([weight])
    >>> Ownership([weight])
    Traceback (most recent call last):
    weightcast.store.errors.UsageError: a model takes one jumper: ...
    >>> mine.release()
    """

    def __init__(self, parameters: Iterable[torch.Tensor]) -> None:
        self._parameters = list(parameters)
        if self._any_owned():
            gc.collect()  # a jumper and its optimizer hold each other, and may both be garbage
        if self._any_owned():
            raise UsageError(
                "a model takes one jumper: some of these parameters have one already: close() it "
                "first, or give it all jump points"
            )
        for parameter in self._parameters:
            _owners[parameter] = weakref.ref(self)

    def _any_owned(self) -> bool:
        owners = (_owners.get(parameter) for parameter in self._parameters)
        return any(owner is not None and owner() is not None for owner in owners)

    def release(self) -> None:
        """Give them up."""
        for parameter in self._parameters:
            _owners.pop(parameter, None)
        self._parameters = []
