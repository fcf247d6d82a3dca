"""Jumps in a training loop of one's own: an optimizer around an optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NoReturn, Self

import torch
from torch import nn

from weightcast.apply.events import JumpEvent, JumpSummary
from weightcast.apply.guard import Guard
from weightcast.apply.live import LiveJumps
from weightcast.apply.placing import AS_THEY_ARE, Placement
from weightcast.apply.plan import JumpPlan, plan_jumps
from weightcast.apply.settling import Moments
from weightcast.predictor import Forecaster
from weightcast.recorder.recording import Recorder
from weightcast.recorder.schedule import Schedule
from weightcast.store import UsageError

GUARD = Guard()
_SHARED = (  # with the optimizer inside
    "param_groups",
    "state",
    "defaults",
    "_optimizer_step_pre_hooks",
    "_optimizer_step_post_hooks",
    "_optimizer_state_dict_pre_hooks",
    "_optimizer_state_dict_post_hooks",
    "_optimizer_load_state_dict_pre_hooks",
    "_optimizer_load_state_dict_post_hooks",
)
_SCALING = ("grad_scale", "found_inf")  # what GradScaler gives a fused optimizer for one step


class Jumper(torch.optim.Optimizer):
    """Makes a live optimizer's parameters jump to their forecast after given steps.

    It counts the steps that the optimizer really takes, through its hooks. So it works in two ways:
    made beside the optimizer, with a training loop that does not change; or in its place, as the
    optimizer that the loop, learning-rate schedules and ``GradScaler`` use, whose ``state_dict``
    then has both. It keeps only what coming jumps need: of past values a snapshot from their step
    on, and of a window running sums.

    A jump is on probation: if the loss does not come back to what it was heading to, weights,
    optimizer state and buffers become what they were before the jump, bit for bit.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        All of its parameters jump, but frozen ones (``requires_grad`` off).
    forecaster : Forecaster
        Fitted, or one that needs no training.
    jump_points : iterable of int, Schedule or str, optional
        Steps t after which to jump, or a schedule of them: ``"every:1000"``, ``"geometric:500x2"``.
        The weights become their forecast; the count of steps goes on from t. A context or window
        that reaches back behind an earlier jump sees that jump too.
    every : int, optional
        In place of `jump_points`: jump every so many steps.
    horizon : float, str or Reach, optional
        How far to jump: a ratio of t (2) or steps ahead ("+500"), where the forecaster is told how
        far it looks, or a `Reach` that varies; by default the forecaster's own single horizon.
    end : int, optional
        Last step of training, which no jump passes.
    guard : Guard or None
        When a jump is rolled back. None keeps every jump, as in the paper.
    moments : {"keep", "clear"} or float
        What becomes of the optimizer's state at a jump: kept, cleared, or momentum scaled by a
        number.
    parameters : iterable of Tensor, optional
        Which parameters jump, such as ``optimizer.param_groups[0]["params"]``; by default all.
    model : nn.Module, optional
        Whose buffers a roll-back takes back too. By default the live module that holds all of the
        optimizer's parameters is found.
    placement : Placement
        Where snapshots are kept, and how precisely.
    history : Recorder, optional
        Of this run, lossless, attached after the jumper is made: no snapshots are kept; each jump
        reads them from the recording, whose schedule must have their steps
        (``"jump:3000,4000@CONTEXT"``).
    batches : iterable, optional
        Inputs of the model, by which BatchNorm statistics are estimated anew after each jump.
    listener : callable, optional
        Called with each `JumpEvent`.

    Attributes
    ----------
    optimizer : torch.optim.Optimizer
        The one inside.
    plan : JumpPlan
        All jumps to come; print it.
    step_count : int
        Optimizer steps counted.
    jumped : list of int
        Jump points that have been taken.
    events : list of JumpEvent
        What happened to the jumps, and why.

    Raises
    ------
    UsageError
        If there are no jump points, one is too early to have a context or passes the end, an option
        breaks its rule, the forecaster cannot have the horizon or needs one to be chosen, or the
        parameters have another jumper.

    Notes
    -----
    Section 4.2 of Sinha et al. 2017. Step 0 is the weights right before the first counted step.
    After a jump the weights are at first worse than before, and better some tens of steps later.

    In a distributed run all ranks of the default process group make the same jumper and take the
    same steps. Losses count as their mean over ranks, so that all decide the same; a rank that
    jumps alone, or otherwise than the others, is a UsageError at its first step.

    Without a guard, a forecast that is not finite is a NonFiniteError out of ``step()``, and then
    no weight was changed; a guard refuses such jumps, and says so in `events`.

    Examples
    --------
    >>> from weightcast.predictor import LinearFit
    >>> weight = torch.nn.Parameter(torch.zeros(1))
    >>> optimizer = torch.optim.SGD([weight], lr=1.0)
    >>> optimizer = Jumper(optimizer, LinearFit(), jump_points=[10], guard=None)
    >>> print(optimizer.plan)
    1 jump: 10 to 20 (2t)
    >>> for _ in range(10):
    ...     optimizer.zero_grad()
    ...     weight.sum().backward()
    ...     optimizer.step()
    >>> round(weight.item(), 3)  # ten steps of -1, then as far again
    -20.0
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        forecaster: Forecaster,
        jump_points: Iterable[int] | Schedule | str | None = None,
        *,
        every: int | None = None,
        horizon: object = None,
        end: int | None = None,
        guard: Guard | None = GUARD,
        moments: Moments = "keep",
        parameters: Iterable[torch.Tensor] | None = None,
        model: nn.Module | None = None,
        placement: Placement = AS_THEY_ARE,
        history: Recorder | None = None,
        batches: Iterable[Any] | None = None,
        listener: Callable[[JumpEvent], object] | None = None,
    ) -> None:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise UsageError(f"give a torch optimizer: got a {type(optimizer).__name__}")
        if (jump_points is None) == (every is None):
            raise UsageError("give either jump_points or every, and not both")
        points = f"every:{every}" if jump_points is None else jump_points
        plan = plan_jumps(forecaster, points, horizon=horizon, end=end)
        self.optimizer = optimizer
        self.live = LiveJumps(
            [optimizer],
            forecaster,
            plan,
            guard=guard,
            moments=moments,
            parameters=parameters,
            model=model,
            placement=placement,
            history=history,
            batches=batches,
            listener=listener,
        )

    # ---- as an optimizer

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Let the optimizer take a step, after which the weights may jump.

        Parameters
        ----------
        closure : callable, optional
            As the optimizer takes it.

        Returns
        -------
        Any
            What the optimizer gives: the closure's loss, or None.
        """
        return self.optimizer.step() if closure is None else self.optimizer.step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset the gradients, as the optimizer does."""
        self.optimizer.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group, before the first step.

        Raises
        ------
        UsageError
            After the first step: jumps need the past of every parameter.
        """
        if self.step_count:
            raise UsageError(
                "a jumper takes parameter groups before the first step, as jumps need the past of "
                f"all parameters: this is step {self.step_count}: close() it, add the group, and "
                "make another"
            )
        self.optimizer.add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state, and under ``jumper`` all that a resumed run needs for its jumps.

        As in every optimizer's, state tensors are the live ones; those of the jumper are copies.
        A run that loads it goes on bit for bit as if it had not stopped. Loaded into a plain
        optimizer, its jumps are left out.

        Of several processes that hold the same weights one saves it, and all load it. Of sharded
        parameters (DTensor) each saves and loads what it holds: snapshots are DTensors too.
        """
        return {**self.optimizer.state_dict(), "jumper": self.live.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint, at the step where it was saved; on error nothing changes.

        Raises
        ------
        ShapeError
            If the snapshots or sums are of other parameters.
        UsageError
            If one that a coming jump needs is not in it, or it is of an optimizer without a jumper.
        """
        # beside an optimizer there was a jumper's state alone, in versions that had no guard
        own = state_dict if "snapshots" in state_dict else state_dict.get("jumper")
        if own is None:
            raise UsageError(
                "this state is of an optimizer without a jumper, and has not the past that jumps "
                "need: load it into the optimizer inside (jumper.optimizer.load_state_dict)"
            )
        self.live.check_state(own)
        if "param_groups" in state_dict:
            self.optimizer.load_state_dict({k: v for k, v in state_dict.items() if k != "jumper"})
        self.live.load_state_dict(own)

    def __getattr__(self, name: str) -> Any:
        if name in ("optimizer", "live"):  # before __init__ has set them
            raise AttributeError(name)
        if name == "_opt_called":  # schedules ask whether there was a step; it may be the other's
            return self.step_count > 0
        return getattr(self.live.optimizers[0] if name in _SHARED else self.optimizer, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in (*_SHARED, *_SCALING):
            setattr(self.live.optimizers[0], name, value)
        else:
            super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        if name in _SCALING:
            delattr(self.live.optimizers[0], name)
        else:
            super().__delattr__(name)

    def __reduce_ex__(self, _: object) -> NoReturn:
        raise UsageError(
            "a jumper is bound to live parameters and is not copied or pickled: copy the optimizer "
            "inside (jumper.optimizer), make another jumper, and give it this one's state_dict()"
        )

    def __repr__(self) -> str:
        return f"Jumper({self.optimizer!r}, {type(self.live.forecaster).__name__}, {self.plan})"

    # ---- as a jumper

    @property
    def step_count(self) -> int:
        """Optimizer steps counted."""
        return self.live.step

    @property
    def plan(self) -> JumpPlan:
        """All jumps of the run."""
        return self.live.plan

    @property
    def jump_points(self) -> list[int]:
        """Steps after which to jump."""
        return self.plan.points

    @property
    def jumped(self) -> list[int]:
        """Jump points that have been taken."""
        return self.live.jumped

    @property
    def events(self) -> list[JumpEvent]:
        """What happened to the jumps, and why, in order."""
        return self.live.events

    def memory(self) -> int:
        """Most bytes that are held at any time of the run, known before it starts."""
        return self.live.memory()

    def summary(self) -> JumpSummary:
        """The jumps so far, counted; print it."""
        return self.live.summary()

    def close(self) -> None:
        """Stop counting and jumping; drop what was collected."""
        self.live.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
