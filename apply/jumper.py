"""Jumps in a live training run.

::

    step   0 ......... 0.4t ......... 0.7t ......... t   t+1 ...
           copy        copy           copy           jump: w := forecast of w(2t); copies dropped
"""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral
from typing import Any, Literal, Self

import torch
from torch.utils.hooks import RemovableHandle

from weightcast.apply.jumping import jump
from weightcast.predictor import Forecaster
from weightcast.recorder.step import StepCounter
from weightcast.store import ShapeError, UsageError, context_steps

Moments = Literal["keep", "clear"]


class Jumper:
    """Makes a live optimizer's parameters jump to their forecast after given steps.

    The training loop does not change: the jumper counts the steps that the optimizer really takes,
    through its hooks. It keeps only the snapshots that coming jumps need, on the parameters' own
    devices.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        All of its parameters jump, but frozen ones (``requires_grad`` off).
    forecaster : Forecaster
        Fitted, or one that needs no training.
    jump_points : iterable of int
        Steps t after which to jump. The weights become the forecast for ``forecaster.horizon``
        times t; the count of steps goes on from t.
    moments : {"keep", "clear"}
        What becomes of the optimizer's state, such as momentum, at a jump.

    Attributes
    ----------
    step : int
        Optimizer steps counted.
    jumped : list of int
        Jump points that have been taken.

    Raises
    ------
    UsageError
        If there are no jump points, one is too early to have a context, or `moments` is unknown.

    Notes
    -----
    Section 4.2 of Sinha et al. 2017. Step 0 is the weights right before the first counted step.
    After a jump the weights are at first worse than before, and better some tens of steps later:
    judge a jump by the run's later course.

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
        moments: Moments = "keep",
    ) -> None:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise UsageError(f"give a torch optimizer: got a {type(optimizer).__name__}")
        if moments not in ("keep", "clear"):
            raise UsageError(f"moments must be 'keep' or 'clear': got {moments!r}")
        self.optimizer = optimizer
        self.forecaster = forecaster.ready()
        self.moments = moments
        self.jump_points = sorted(set(jump_points))
        self._contexts = {t: _context(t, self.forecaster.context_) for t in self.jump_points}
        if not self.jump_points:
            raise UsageError("jump_points must name at least one step: got none")
        self.step = 0
        self.jumped: list[int] = []
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._snapshots: dict[int, list[torch.Tensor]] = {}
        self._steps = StepCounter()
        self._handles: list[RemovableHandle] = [
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
        ]

    def needed(self) -> set[int]:
        """Steps whose snapshots the coming jumps need."""
        return self._needed_after(self.step)

    def _needed_after(self, step: int) -> set[int]:
        return {s for t in self.jump_points if t > step for s in self._contexts[t]}

    def memory(self) -> int:
        """Most bytes that snapshots take at any time of the run, known before it starts."""
        steps = sorted({s for context in self._contexts.values() for s in context})
        last_use = {s: max(t for t, c in self._contexts.items() if s in c) for s in steps}
        most = max(sum(s <= now < last_use[s] for s in steps) for now in steps)
        size: int = sum(p.numel() * p.element_size() for p in self._parameters)
        return most * size

    def state_dict(self) -> dict[str, Any]:
        """Step count and snapshots, for a checkpoint beside the optimizer's own."""
        return {
            "step": self.step,
            "jumped": list(self.jumped),
            "snapshots": {s: [v.clone() for v in kept] for s, kept in self._snapshots.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint, at the step where it was saved; on error nothing changes.

        Raises
        ------
        ShapeError
            If the snapshots are of other parameters.
        UsageError
            If a snapshot that a coming jump needs is not in it.
        """
        for step, kept in state["snapshots"].items():
            if [v.shape for v in kept] != [p.shape for p in self._parameters]:
                raise ShapeError(
                    f"the snapshot of step {step} must have the optimizer's "
                    f"{len(self._parameters)} parameters in their shapes: load the checkpoint of "
                    "the same model"
                )
        step = int(state["step"])
        have = {int(s) for s in state["snapshots"]}
        missing = sorted(s for s in self._needed_after(step) if s <= step and s not in have)
        if step and missing:
            raise UsageError(
                f"jumps after step {step} need the snapshots of steps {missing}, which the "
                "checkpoint does not have: use the jump points it was saved with"
            )
        self.step, self.jumped = step, [int(t) for t in state["jumped"]]
        self._snapshots = {
            int(s): [
                # a copy: the caller's tensors may be the live ones of another jumper
                v.detach().to(p.device).clone()
                for v, p in zip(kept, self._parameters, strict=True)
            ]
            for s, kept in state["snapshots"].items()
        }

    def close(self) -> None:
        """Stop counting and jumping; drop the snapshots."""
        for handle in self._handles:
            handle.remove()
        self._snapshots.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _before(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if self._steps.before(optimizer) and self.step == 0:
            self._keep()

    def _after(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if not self._steps.after(optimizer):
            return
        self.step += 1
        try:
            if self.step in self._contexts:
                self._jump()
        finally:  # a jump that was refused does not spoil the next
            self._keep()

    def _keep(self) -> None:
        """Drop the snapshots that no coming jump needs, and take this step's if one does."""
        needed = self.needed()
        for step in [s for s in self._snapshots if s not in needed]:
            del self._snapshots[step]
        if self.step in needed:
            self._snapshots[self.step] = [p.detach().clone() for p in self._parameters]

    @torch.no_grad()
    def _jump(self) -> None:
        self._require_same_parameters()
        moving = [i for i, p in enumerate(self._parameters) if p.requires_grad]
        parameters = [self._parameters[i] for i in moving]
        kept = self._snapshots | {self.step: self._parameters}
        snapshots = [[kept[s][i] for i in moving] for s in self._contexts[self.step]]
        forecasts = jump(parameters, snapshots, self.forecaster)
        if forecasts:
            torch._foreach_copy_(parameters, forecasts)
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


def _context(t: int, fractions: tuple[float, ...]) -> list[int]:
    if not isinstance(t, Integral):
        raise UsageError(f"a jump point is a step, a whole number: got {t!r}")
    steps: list[int] = context_steps(t, fractions).tolist()
    if t < 1 or len(set(steps)) != len(steps):
        raise UsageError(
            f"a jump point needs distinct context steps at {fractions} of it: {t} gives {steps}; "
            "jump later"
        )
    return steps
