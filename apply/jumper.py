"""Jumps in a live training run.

::

    step   0 ......... 0.4t ......... 0.7t ......... t   t+1 ...
           copy        copy           copy           jump: w := forecast of w(2t); copies dropped
                                  sums of a window

What jumps need to have seen, and when, is in `needs`; what is held of it, in `watching`.
"""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral
from typing import Any, Literal, Self

import torch
from torch.utils.hooks import RemovableHandle

from weightcast.apply.jumping import forecasts, horizon_of
from weightcast.apply.needs import require_context
from weightcast.apply.watching import Watch
from weightcast.predictor import Forecaster
from weightcast.recorder.step import StepCounter
from weightcast.store import ShapeError, UsageError

Moments = Literal["keep", "clear"]


class Jumper:
    """Makes a live optimizer's parameters jump to their forecast after given steps.

    The training loop does not change: the jumper counts the steps that the optimizer really takes,
    through its hooks. It keeps only what coming jumps need, on the parameters' own devices: of past
    values a snapshot from their step on, and of a window running sums, from its first step on.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        All of its parameters jump, but frozen ones (``requires_grad`` off).
    forecaster : Forecaster
        Fitted, or one that needs no training.
    jump_points : iterable of int
        Steps t after which to jump. The weights become their forecast; the count of steps goes on
        from t. A context or window that reaches back behind an earlier jump sees that jump too.
    horizon : float or str, optional
        How far to jump: a ratio of t (2) or steps ahead ("+500"), where the forecaster is told how
        far it looks; by default its own single horizon.
    moments : {"keep", "clear"}
        What becomes of the optimizer's state, such as momentum, at a jump.

    Attributes
    ----------
    step : int
        Optimizer steps counted.
    jumped : list of int
        Jump points that have been taken.
    horizon : Horizon

    Raises
    ------
    UsageError
        If there are no jump points, one is too early to have a context, `moments` is unknown, or
        the forecaster cannot have the horizon, or needs one to be chosen.

    Notes
    -----
    Section 4.2 of Sinha et al. 2017. Step 0 is the weights right before the first counted step.
    After a jump the weights are at first worse than before, and better some tens of steps later:
    judge a jump by the run's later course.

    A jump takes one more copy of the weights while it lasts: a forecast that is not finite is a
    NonFiniteError out of ``optimizer.step()``, and then no weight was changed.

    Examples
    --------
    >>> from weightcast.predictor import LinearFit
    >>> weight = torch.nn.Parameter(torch.zeros(1))
    >>> optimizer = torch.optim.SGD([weight], lr=1.0)
    >>> jumper = Jumper(optimizer, LinearFit(), jump_points=[10])
    >>> for _ in range(10):
    ...     weight.grad = torch.ones(1)
    ...     optimizer.step()
    >>> round(weight.item(), 3)  # ten steps of -1, then as far again
    -20.0
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        forecaster: Forecaster,
        jump_points: Iterable[int],
        *,
        horizon: object = None,
        moments: Moments = "keep",
    ) -> None:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise UsageError(f"give a torch optimizer: got a {type(optimizer).__name__}")
        if moments not in ("keep", "clear"):
            raise UsageError(f"moments must be 'keep' or 'clear': got {moments!r}")
        self.optimizer = optimizer
        self.forecaster = forecaster.ready()
        self.horizon = horizon_of(self.forecaster, horizon)
        self.moments = moments
        self.jump_points = sorted(set(jump_points))
        if not self.jump_points:
            raise UsageError("jump_points must name at least one step: got none")
        for t in self.jump_points:
            if not isinstance(t, Integral):
                raise UsageError(f"a jump point is a step, a whole number: got {t!r}")
            require_context(self.forecaster.sees, t)
        self.step = 0
        self.jumped: list[int] = []
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._watch = Watch(self.forecaster.sees, self.jump_points, self._parameters)
        self._steps = StepCounter()
        self._handles: list[RemovableHandle] = [
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
        ]

    def memory(self) -> int:
        """Most bytes that are held between steps at any time of the run, known before it starts."""
        return self._watch.memory()

    def state_dict(self) -> dict[str, Any]:
        """Step count, snapshots and sums, for a checkpoint beside the optimizer's own."""
        return {"step": self.step, "jumped": list(self.jumped), **self._watch.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint, at the step where it was saved; on error nothing changes.

        Raises
        ------
        ShapeError
            If the snapshots or sums are of other parameters.
        UsageError
            If one that a coming jump needs is not in it.
        """
        step, jumped = int(state["step"]), [int(t) for t in state["jumped"]]
        self._watch.load_state_dict(state, step)
        self.step, self.jumped = step, jumped

    def close(self) -> None:
        """Stop counting and jumping; drop what was collected."""
        for handle in self._handles:
            handle.remove()
        self._watch.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _before(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if self._steps.before(optimizer) and self.step == 0:
            self._watch.see(0)

    def _after(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if not self._steps.after(optimizer):
            return
        self.step += 1
        try:
            if self.step in self.jump_points:
                self._jump()
        finally:  # a jump that was refused does not spoil the next
            self._watch.see(self.step)

    @torch.no_grad()
    def _jump(self) -> None:
        self._require_same_parameters()
        rows = self._watch.rows(self.step, self.horizon.target(self.step))
        moving = [i for i, p in enumerate(self._parameters) if p.requires_grad]
        parameters = [self._parameters[i] for i in moving]
        layouts = [self._watch.layouts[i] for i in moving]
        found = forecasts(parameters, layouts, map(rows, moving), self.forecaster)
        if found:
            torch._foreach_copy_(parameters, found)
        if self.moments == "clear":
            self.optimizer.state.clear()
        self.jumped.append(self.step)

    def _require_same_parameters(self) -> None:
        now = [p for group in self.optimizer.param_groups for p in group["params"]]
        if [id(p) for p in now] != [id(p) for p in self._parameters]:
            raise ShapeError(
                f"the optimizer must keep its parameters: it had {len(self._parameters)} when the "
                f"jumper was made, and has others at step {self.step}: make the jumper after all "
                "parameter groups are added"
            )
