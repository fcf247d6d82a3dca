"""A skipper whose steps are counted from outside, by what follows a whole script."""

from __future__ import annotations

from typing import Any

import torch

from weightcast.apply.freezable import plain_optimizers
from weightcast.apply.skipper import UpdateSkipper
from weightcast.recorder.recording import Recorder


class DrivenSkipper(UpdateSkipper):
    """`UpdateSkipper` without hooks of its own, for optimizers that may come and go.

    Parameters
    ----------
    *args, **kwargs
        Of `UpdateSkipper`.

    Examples
    --------
    >>> model = torch.nn.Linear(2, 1)
    >>> skipper = DrivenSkipper(model, torch.optim.SGD(model.parameters()), window=1)
    >>> kinds = [skipper.update(0.5).kind for _ in range(2)]
    >>> skipper.take_on(torch.optim.Adam(model.parameters()))
    >>> skipper.count()
    >>> kinds, skipper.summary().skipped
    (['training', 'entered'], 1)
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for handle in self._handles:
            handle.remove()

    def log_to(self, history: Recorder | None) -> None:
        """Keep decisions in a recording that begins later than the skipper."""
        self._history = history

    def count(self) -> None:
        """A step is complete."""
        self._count()

    def take_on(self, optimizer: torch.optim.Optimizer) -> None:
        """An optimizer is about to step; a new one takes the place of those it shares weights with.

        Raises
        ------
        UsageError
            If it moves weights that have no gradient, or leaves out weights that are skipped.
        """
        if any(known is optimizer for known in self._optimizers):
            return
        mine = _ids(*plain_optimizers(optimizer))
        others = [o for o in self._optimizers if mine.isdisjoint(_ids(o))]
        replaced = [o for o in self._optimizers if o not in others]
        self._freezer.require_held(replaced, optimizer)
        self._optimizers[:] = [*others, optimizer]  # in place: the freezer has this list too


def _ids(optimizer: torch.optim.Optimizer) -> set[int]:
    return {id(p) for group in optimizer.param_groups for p in group["params"]}
