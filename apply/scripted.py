"""What jumps in somebody else's script hang on: torch's global hooks, and the first step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from weightcast.apply.driving import DrivenJumps
from weightcast.apply.events import JumpEvent, JumpSummary
from weightcast.apply.guard import Guard
from weightcast.apply.jumper import GUARD
from weightcast.apply.placing import AS_THEY_ARE, Placement
from weightcast.apply.plan import JumpPlan
from weightcast.apply.settling import Moments, check_moments
from weightcast.apply.tapping import tap
from weightcast.predictor import Forecaster
from weightcast.recorder.finding import Subject
from weightcast.recorder.hooks import ScriptHooks
from weightcast.recorder.script import ScriptRecorder
from weightcast.store import UsageError

MOST_SHOWN = 4096  # losses before the first step: micro-batches of one step


@dataclass(frozen=True)
class Begun:
    """What jumps in a script begin with, at its first step.

    Attributes
    ----------
    model : str
        What the script calls it.
    weights : int
        How many of its weights jump.
    memory : int
        Most bytes that will be held.
    """

    model: str
    weights: int
    memory: int


class ScriptJumps(ScriptHooks):
    """Global optimizer hooks that make `DrivenJumps` at the first step of a script.

    Parameters
    ----------
    forecaster, plan, guard, moments, placement, listener
        Of `LiveJumps`.
    model : str, optional
        Which model jumps, if the script trains several: the name of a variable of the script, or
        of the model's class. By default the first to be trained.
    include, exclude : sequence of str
        Globs over qualified names of the parameters that jump.
    recording : ScriptRecorder, optional
        Records the model at the same time: at a jump point the weights after the jump.
    begun : callable, optional
        Called once, with a `Begun`.
    """

    IDLE = "no weights jump so far"

    def __init__(
        self,
        forecaster: Forecaster,
        plan: JumpPlan,
        *,
        model: str | None = None,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        guard: Guard | None = GUARD,
        moments: Moments = "keep",
        placement: Placement = AS_THEY_ARE,
        listener: Callable[[JumpEvent], object] | None = None,
        recording: ScriptRecorder | None = None,
        begun: Callable[[Begun], object] | None = None,
    ) -> None:
        super().__init__(model)
        check_moments(moments)
        self._forecaster, self._plan = forecaster.ready(), plan
        self._options: dict[str, Any] = {
            "guard": None if guard is None else guard.settled(plan),
            "moments": moments,
            "placement": placement,
            "listener": listener,
        }
        self._globs = (include, exclude)
        self._begun = begun
        self._shown: deque[torch.Tensor] = deque(maxlen=MOST_SHOWN)
        self.recording = recording
        self.live: DrivenJumps | None = None
        self.summary: JumpSummary | None = None
        if guard is not None and guard.probe is None:
            tap.listen(self._hear)

    def _hear(self, loss: torch.Tensor) -> None:
        """Keep a loss that is shown before the first step: the model is not known yet."""
        self._shown.append(loss.clone())

    def begin(self, subject: Subject, optimizers: Sequence[torch.optim.Optimizer]) -> bool:
        """Begin to jump, and to record."""
        tap.leave(self._hear)
        self.live = DrivenJumps(
            optimizers,
            self._forecaster,
            self._plan,
            model=subject.model,
            parameters=self._chosen(subject, optimizers),
            **self._options,
        )
        self.live.begin(self._shown)
        self._shown.clear()
        if self._begun is not None:
            name = next(iter(subject.names), "the optimizer's parameters")
            self._begun(Begun(name, self.live.weights, self.live.memory()))
        return self.recording is None or self.recording.begin(subject, optimizers)

    def _chosen(
        self, subject: Subject, optimizers: Sequence[torch.optim.Optimizer]
    ) -> list[torch.Tensor] | None:
        """The trained parameters that match the globs; None for all of them."""
        if not any(self._globs):
            return None
        matching = {id(p) for p in subject.select(*self._globs).parameters.values()}
        trained = (p for o in optimizers for group in o.param_groups for p in group["params"])
        found = [p for p in trained if id(p) in matching and p.requires_grad]
        if not found:
            include, exclude = map(list, self._globs)
            raise UsageError(
                f"some parameters must jump: include {include} and exclude {exclude} select none "
                "that is trained"
            )
        return found

    def join(self, optimizer: torch.optim.Optimizer) -> None:
        """Go on with an optimizer that was made late."""
        if self.live is not None:
            self.live.take_on(optimizer)
        if self.recording is not None:
            self.recording.join(optimizer)

    def count(self) -> None:
        """Jump if it is time; only then record, as training goes on from there."""
        if self.live is not None:
            self.live.count()
        if self.recording is not None:
            self.recording.count()

    def pass_over(self) -> None:
        """Losses before were those of another model."""
        self._shown.clear()

    def close(self) -> None:
        """End the jumps; write what is in memory."""
        tap.leave(self._hear)
        if self.live is not None:
            self.summary = self.live.summary()
            self.live.close()
        if self.recording is not None:
            self.recording.close()
