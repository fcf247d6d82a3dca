"""What counts as one optimizer step."""

from __future__ import annotations

import sys
from typing import Any

import torch


class StepCounter:
    """Tells, from an optimizer's hooks, when it has really taken a step.

    An optimizer class built on another runs its hooks twice in one step, once inside the other;
    a fused optimizer is called by AMP's ``GradScaler`` also when the gradients overflowed, and then
    changes nothing.

    Examples
    --------
    >>> counter, optimizer = StepCounter(), torch.optim.SGD([torch.zeros(1)])
    >>> counter.before(optimizer), counter.after(optimizer)
    (True, True)
    """

    def __init__(self) -> None:
        self._depth = 0

    def before(self, optimizer: torch.optim.Optimizer) -> bool:
        """Call in the pre-hook: whether a step begins here."""
        if self._depth and not _is_nested(optimizer):
            self._depth = 0  # the step before ended in an exception, without its post-hook
        self._depth += 1
        return self._depth == 1

    def after(self, optimizer: torch.optim.Optimizer) -> bool:
        """Call in the post-hook: whether a step has been taken."""
        self._depth = max(self._depth - 1, 0)
        overflow = getattr(optimizer, "found_inf", None)
        return self._depth == 0 and (overflow is None or not bool(overflow))


def _is_nested(optimizer: torch.optim.Optimizer) -> bool:
    """Whether two hooked ``step`` methods of this optimizer are on the call stack."""
    hooked = 0
    frame: Any = sys._getframe()
    while frame is not None:
        wrapper = frame.f_code.co_name == "wrapper" and "optimizer" in frame.f_code.co_filename
        hooked += wrapper and frame.f_locals.get("self") is optimizer
        frame = frame.f_back
    return hooked > 1
