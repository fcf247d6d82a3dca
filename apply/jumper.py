"""Jumps in a live training run.

::

    step   0 ......... 0.4t ......... 0.7t ......... t   t+1 ...
           copy        copy           copy           jump: w := forecast of w(2t); copies dropped
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, Self

import torch
from torch.utils.hooks import RemovableHandle

from weightcast.apply.jumping import jump
from weightcast.predictor import Forecaster
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
        self._snapshots: dict[int, list[torch.Tensor]] = {}
        self._handles: list[RemovableHandle] = [
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
        ]

    def parameters(self) -> list[torch.Tensor]:
        """The parameters that jump, in the optimizer's order."""
        groups = self.optimizer.param_groups
        return [p for group in groups for p in group["params"] if p.requires_grad]

    def needed(self) -> set[int]:
        """Steps whose snapshots the coming jumps need."""
        coming = [t for t in self.jump_points if t > self.step]
        return {s for t in coming for s in self._contexts[t]}

    def memory(self) -> int:
        """Most bytes that snapshots take at any time of the run, known before it starts."""
        steps = sorted({s for context in self._contexts.values() for s in context})
        last_use = {s: max(t for t, c in self._contexts.items() if s in c) for s in steps}
        most = max(sum(s <= now < last_use[s] for s in steps) for now in steps)
        return most * sum(p.numel() * p.element_size() for p in self.parameters())

    def state_dict(self) -> dict[str, Any]:
        """Step count and snapshots, for a checkpoint beside the optimizer's own."""
        return {
            "step": self.step,
            "jumped": list(self.jumped),
            "snapshots": {s: [v.clone() for v in kept] for s, kept in self._snapshots.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint, at the step where it was saved.

        Raises
        ------
        ShapeError
            If the snapshots are of other parameters.
        UsageError
            If a snapshot that a coming jump needs is not in it.
        """
        parameters = self.parameters()
        for step, kept in state["snapshots"].items():
            if [v.shape for v in kept] != [p.shape for p in parameters]:
                raise ShapeError(
                    f"the snapshot of step {step} must have the optimizer's {len(parameters)} "
                    "parameters in their shapes: load the checkpoint of the same model"
                )
        self.step, self.jumped = int(state["step"]), [int(t) for t in state["jumped"]]
        self._snapshots = {
            int(step): [v.to(p.device) for v, p in zip(kept, parameters, strict=True)]
            for step, kept in state["snapshots"].items()
        }
        missing = sorted(s for s in self.needed() if s <= self.step and s not in self._snapshots)
        if self.step and missing:
            raise UsageError(
                f"jumps after step {self.step} need the snapshots of steps {missing}, which the "
                "checkpoint does not have: use the jump points it was saved with"
            )

    def close(self) -> None:
        """Stop counting and jumping; drop the snapshots."""
        for handle in self._handles:
            handle.remove()
        self._snapshots.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _before(self, *_: Any) -> None:
        if self.step == 0:
            self._keep()

    def _after(self, *_: Any) -> None:
        self.step += 1
        if self.step in self._contexts:
            self._jump()
        self._keep()
        needed = self.needed()
        for step in [s for s in self._snapshots if s not in needed]:
            del self._snapshots[step]

    def _keep(self) -> None:
        if self.step in self.needed():
            self._snapshots[self.step] = [p.detach().clone() for p in self.parameters()]

    @torch.no_grad()
    def _jump(self) -> None:
        parameters = self.parameters()
        kept = self._snapshots | {self.step: [p.detach() for p in parameters]}
        snapshots = [kept[s] for s in self._contexts[self.step]]
        torch._foreach_copy_(parameters, jump(parameters, snapshots, self.forecaster))
        if self.moments == "clear":
            self.optimizer.state.clear()
        self.jumped.append(self.step)


def _context(t: int, fractions: tuple[float, ...]) -> list[int]:
    steps: list[int] = context_steps(t, fractions).tolist()
    if t < 1 or len(set(steps)) != len(steps):
        raise UsageError(
            f"a jump point needs distinct context steps at {fractions} of it: {t} gives {steps}; "
            "jump later"
        )
    return steps
