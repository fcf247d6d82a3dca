"""Live jumps whose steps are counted from outside, by what follows a whole script."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from weightcast.apply.live import LiveJumps
from weightcast.recorder.running import undisturbed


class DrivenJumps(LiveJumps):
    """`LiveJumps` without hooks of its own, for optimizers that may come and go.

    It is told of the first step, of optimizers that are made late, and of every complete step.

    Parameters
    ----------
    *args, **kwargs
        Of `LiveJumps`.

    Examples
    --------
    >>> from weightcast.apply.plan import plan_jumps
    >>> from weightcast.predictor import LinearFit
    >>> weight = torch.nn.Parameter(torch.zeros(1))
    >>> optimizer, forecaster = torch.optim.SGD([weight], lr=1.0), LinearFit()
    >>> jumps = DrivenJumps([optimizer], forecaster, plan_jumps(forecaster, [10]))
    >>> jumps.begin()
    >>> for _ in range(10):
    ...     weight.grad = torch.ones(1)
    ...     optimizer.step()
    ...     jumps.count()
    >>> jumps.jumped
    [10]
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for handle in self._handles:
            handle.remove()

    @property
    def weights(self) -> int:
        """How many weights jump."""
        return sum(self._parameters[i].numel() for i in self._members.moving())

    def begin(self, losses: Iterable[torch.Tensor] = ()) -> None:
        """The first step is about to be taken.

        Parameters
        ----------
        losses : iterable of scalar Tensor
            What ``backward`` was called on for it already.
        """
        if self._judge is not None:
            for loss in losses:
                self._judge.hear(loss)
        self._before()

    def count(self) -> None:
        """A step is complete; the weights may jump. Signals wait for that: scripts save on them."""
        if self.step + 1 in self.plan.targets or self._probation is not None:
            with undisturbed():
                self._count()
        else:
            self._count()

    def take_on(self, optimizer: torch.optim.Optimizer) -> None:
        """An optimizer is about to step; a new one takes the place of those it shares weights with.

        Raises
        ------
        ShapeError
            If it has parameters that no optimizer had at the first step.
        """
        if any(known is optimizer for known in self.optimizers):
            return
        mine = _ids(optimizer)
        before = self.optimizers
        self.optimizers = [*(o for o in before if mine.isdisjoint(_ids(o))), optimizer]
        self._members.hand_over(self.optimizers, self.step)
        if self._probation is not None:
            self._probation.kept.hand_over(before, self.optimizers)


def _ids(optimizer: torch.optim.Optimizer) -> set[int]:
    return {id(p) for group in optimizer.param_groups for p in group["params"]}
