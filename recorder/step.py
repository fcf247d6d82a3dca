"""What counts as one optimizer step, and as one step of a run with several optimizers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.autograd import Variable
from torch.utils.hooks import RemovableHandle

from weightcast.store import RecordingError

_NO_BACKWARD = -1  # what torch gives outside of a backward pass


class StepCounter:
    """Tells, from optimizers' hooks, when one has really taken a step.

    An optimizer class built on another runs its hooks twice in one step, once inside the other, and
    so does an optimizer that calls another one; a fused optimizer is called by AMP's ``GradScaler``
    also when the gradients overflowed, and then changes nothing.

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
        if self._depth and not _is_nested():
            self._depth = 0  # the step before ended in an exception, without its post-hook
        self._depth += 1
        return self._depth == 1

    def after(self, optimizer: torch.optim.Optimizer) -> bool:
        """Call in the post-hook: whether a step has been taken."""
        self._depth = max(self._depth - 1, 0)
        overflow = getattr(optimizer, "found_inf", None)
        return self._depth == 0 and (overflow is None or not bool(overflow))


class Rounds:
    """Puts the steps of all optimizers of one model together into the steps of the run.

    One step of the run is a round, in which every optimizer steps once; the weights are then those
    that a checkpoint would have. ::

        encoder.step(), decoder.step()  | encoder.step(), decoder.step()  | ...
                              round 1 --^                       round 2 --^

    Where one steps more often, each of its steps ends a round. A round in which the last optimizer
    does not step (``GradScaler`` skipped it) ends when the next one begins. All steps taken within
    one backward pass (optimizer-in-backward) are one, which ends with the pass. An optimizer that
    steps parameters of others for the first time takes their place: LBFGS after Adam.

    Parameters
    ----------
    count : function
        Called when a step of the run is complete.

    Attributes
    ----------
    begun : bool
        Whether any optimizer has stepped.

    Examples
    --------
    >>> model, steps = torch.nn.Linear(2, 1), []
    >>> rounds = Rounds(lambda: steps.append(1))
    >>> first, second = (torch.optim.SGD([p], lr=0.1) for p in model.parameters())
    >>> rounds.expect([first, second])
    >>> handles = rounds.hook([first, second])
    >>> first.step(), len(steps), second.step(), len(steps)
    (None, 0, None, 1)
    """

    def __init__(self, count: Callable[[], None]) -> None:
        self.begun = False
        self._count = count
        self._steps = StepCounter()
        self._order: list[object] = []  # the members of a round, in the order of their steps
        self._waiting: list[object] = []  # in the first round: those that have not stepped yet
        self._last = -1  # place in the order of the last that stepped in this round
        self._backward = _NO_BACKWARD

    def expect(self, optimizers: Iterable[torch.optim.Optimizer]) -> None:
        """Let the first round wait for these, as far as it has not ended."""
        self._waiting += [o for o in optimizers if o not in self._order + self._waiting]

    def hook(self, optimizers: Iterable[torch.optim.Optimizer]) -> list[RemovableHandle]:
        """Count the steps of these optimizers from now on, until the handles are removed."""
        before, after = untraced(self.before), untraced(self.after)
        handles = []
        for optimizer in map(plain_optimizer, optimizers):
            handles.append(optimizer.register_step_pre_hook(before))
            handles.append(optimizer.register_step_post_hook(after))
        return handles

    def before(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """Call in the pre-hook."""
        if self._steps.before(optimizer) and _backward() == _NO_BACKWARD:
            self._begin(optimizer)

    def after(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """Call in the post-hook."""
        if not self._steps.after(optimizer):
            return
        self.begun = True
        backward = _backward()
        if backward == _NO_BACKWARD:
            self._end(optimizer)
            return
        self._leave_off(optimizer)
        if backward != self._backward:
            self._backward = backward
            Variable._execution_engine.queue_callback(self._end_of_backward)

    def _end_of_backward(self) -> None:
        self._begin("backward")
        self._end("backward")

    def _begin(self, member: object) -> None:
        if member not in self._order:
            others = [m for m in self._order if not _overlap(m, member)]
            if self._last >= 0 and others != self._order:
                self._complete()
            self._order = [*others, member]
        elif self._order.index(member) <= self._last:
            self._waiting.clear()  # what did not step in the first round is not waited for again
            self._complete()

    def _end(self, member: object) -> None:
        self._leave_off(member)
        self._last = self._order.index(member)
        if self._last == len(self._order) - 1 and not self._waiting:
            self._complete()

    def _complete(self) -> None:
        self._last = -1
        self._count()

    def _leave_off(self, member: object) -> None:
        """Wait no more for an optimizer, nor for those that share its parameters."""
        self._waiting = [m for m in self._waiting if not _overlap(m, member)]


def plain_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    """The torch optimizer inside the wrappers of Accelerate and others, which have no hooks.

    Raises
    ------
    RecordingError
        If there is none.
    """
    inner = optimizer
    while not hasattr(inner, "_optimizer_step_post_hooks"):
        inner = getattr(inner, "optimizer", None)
        if inner is None:
            raise RecordingError(
                "steps are counted by the hooks of a torch.optim.Optimizer: a "
                f"{type(optimizer).__name__} has none: call the recorder after each step instead"
            )
    return inner  # type: ignore[no-any-return]


def untraced(hook: Callable[..., Any]) -> Callable[..., Any]:
    """A hook that ``torch.compile`` leaves alone where it compiles an optimizer's step."""
    return torch.compiler.disable(hook)  # type: ignore[no-any-return]


def _overlap(first: object, second: object) -> bool:
    return not _parameter_ids(first).isdisjoint(_parameter_ids(second))


def _parameter_ids(member: object) -> set[int]:
    groups = getattr(member, "param_groups", [])  # none for a backward pass
    return {id(p) for group in groups for p in group["params"]}


def _backward() -> int:
    """Number of the backward pass that this is called in."""
    return torch._C._current_graph_task_id()


def _is_nested() -> bool:
    """Whether two hooked ``step`` methods are on the call stack."""
    hooked = 0
    frame: Any = sys._getframe()
    while frame is not None:
        wrapper = frame.f_code.co_name == "wrapper" and "optimizer" in frame.f_code.co_filename
        hooked += wrapper and isinstance(frame.f_locals.get("self"), torch.optim.Optimizer)
        frame = frame.f_back
    return hooked > 1
