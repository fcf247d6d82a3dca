"""Jumps in a live training run, through its optimizers' hooks.

::

    step   0 ......... 0.4t ......... 0.7t ......... t   t+1 ....... t+n
           copy        copy           copy           |   probation   kept, or rolled back
                                  sums of a window   jump: w := forecast of w(2t)

When jumps are and how far they go is in `plan`, what they need to have seen in `needs`, what is
held of it in `watching`, a forecast's arithmetic in `jumping`, the verdict's in `guard`, `judging`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from weightcast.apply.events import EventLog, JumpEvent, JumpSummary, Kind
from weightcast.apply.guard import Guard
from weightcast.apply.intent import intent
from weightcast.apply.judging import Judge
from weightcast.apply.keeping import Kept, kept_bytes
from weightcast.apply.leaping import leap
from weightcast.apply.members import Members
from weightcast.apply.needs import sees_any_of
from weightcast.apply.placing import AS_THEY_ARE, Placement
from weightcast.apply.plan import JumpPlan
from weightcast.apply.probation import Probation
from weightcast.apply.ranks import agree, refuse_flat_shards, shared
from weightcast.apply.recorded import RecordedWatch
from weightcast.apply.settling import (
    Moments,
    check_batches,
    check_moments,
    recalibrate,
    settle_moments,
)
from weightcast.apply.watching import Watch
from weightcast.predictor import Forecaster
from weightcast.recorder.finding import find_model
from weightcast.recorder.recording import Recorder
from weightcast.recorder.step import Rounds, plain_optimizer, untraced
from weightcast.store import NonFiniteError, UsageError


class LiveJumps:
    """Makes the parameters of live optimizers jump, and takes back jumps that hurt.

    `Jumper` is this for one optimizer, as an optimizer; commands and callbacks use it as it is.

    Parameters
    ----------
    optimizers : sequence of Optimizer
        All that train the model; of several, a step of the run is a round of all, see `Rounds`.
    forecaster : Forecaster
        Fitted.
    plan : JumpPlan
    guard : Guard or None
        None never takes a jump back, as in the paper.
    moments : {"keep", "clear"} or float
        What becomes of the optimizers' state at a jump: kept, cleared, or momentum (``exp_avg``,
        ``momentum_buffer``) scaled by a number.
    parameters : iterable of Tensor, optional
        Which of the optimizers' parameters jump; by default all that take gradients.
    model : nn.Module, optional
        Whose buffers a roll-back takes back too; by default the live module that holds all the
        parameters is found.
    placement : Placement
        Where snapshots are kept, and how precisely.
    history : Recorder, optional
        Of this run: keep no snapshots, and read them from there; see `RecordedWatch`.
    batches : iterable, optional
        Inputs of the model, by which BatchNorm statistics are estimated anew after each jump.
    listener : callable, optional
        Called with each `JumpEvent`.

    Attributes
    ----------
    step : int
        Steps counted.
    jumped : list of int
        Jump points that have been taken.

    Raises
    ------
    UsageError
        If `moments` or `parameters` break their rule, the guard does not fit the plan, or some of
        the parameters have another jumper.
    """

    def __init__(
        self,
        optimizers: Sequence[torch.optim.Optimizer],
        forecaster: Forecaster,
        plan: JumpPlan,
        *,
        guard: Guard | None = None,
        moments: Moments = "keep",
        parameters: Iterable[torch.Tensor] | None = None,
        model: nn.Module | None = None,
        placement: Placement = AS_THEY_ARE,
        history: Recorder | None = None,
        batches: Iterable[Any] | None = None,
        listener: Callable[[JumpEvent], object] | None = None,
    ) -> None:
        check_moments(moments)
        _check_types(guard, placement)
        self.optimizers = [plain_optimizer(optimizer) for optimizer in optimizers]
        self.forecaster, self.plan = forecaster.ready(), plan
        self.guard = None if guard is None else guard.settled(plan)
        if self.guard is not None:
            self.plan = plan = plan.judged(self.guard.steps or 0)
        self.step = 0
        self.seconds = 0.0
        self.jumped: list[int] = []
        self._moments, self._model, self._batches = moments, model, batches
        check_batches(batches, None if batches is None else self._the_model())
        self._log = EventLog(listener)
        self._placement, self._history = placement, history
        self._probation: Probation | None = None
        self._discarded: list[tuple[int, int]] = []  # steps whose weights were rolled back
        self._agreed = False
        self._members = Members(self.optimizers, parameters)
        try:
            refuse_flat_shards(self._parameters)
            self._watch = self._new_watch()
        except BaseException:
            self._members.release()  # whoever keeps the error keeps all of this
            raise
        self._rounds = Rounds(self._count)
        self._rounds.expect(self.optimizers)
        before = untraced(self._before)
        self._handles: list[RemovableHandle] = [
            optimizer.register_step_pre_hook(before) for optimizer in self.optimizers
        ]
        self._handles += self._rounds.hook(self.optimizers)
        self._judge = (
            None if self.guard is None else Judge(self.guard, plan, self._parameters[0].device)
        )

    @property
    def events(self) -> list[JumpEvent]:
        """What happened to the jumps, and why, in order."""
        return self._log.events

    def memory(self) -> int:
        """Most bytes that are held between steps at any time of the run, known before it starts."""
        self._take_added()
        model, others = self._the_model(), self._members.others()
        kept = kept_bytes(self.optimizers, model, others) if self.guard is not None else 0
        steps = self.guard.steps or 0 if self.guard is not None else 0
        return self._watch.memory(steps, kept)

    def summary(self) -> JumpSummary:
        """The jumps so far, counted."""
        kinds, guarded = self._log.count(), self.guard is not None
        return JumpSummary(
            steps=self.step,
            made=kinds["jumped"],
            kept=kinds["kept"] if guarded else kinds["jumped"] - kinds["rolled back"],
            rolled_back=kinds["rolled back"],
            refused=kinds["refused"],
            skipped=kinds["skipped"],
            lost=self._log.lost,
            seconds=self.seconds,
            memory=self.memory(),
        )

    def close(self) -> None:
        """Stop counting and jumping; drop what was collected. A jump on probation stays."""
        for handle in self._handles:
            handle.remove()
        if self._judge is not None:
            self._judge.close()
        self._members.release()
        self._watch.clear()
        self._probation = None

    @property
    def _parameters(self) -> list[torch.Tensor]:
        return self._members.jumping

    def _new_watch(self) -> Watch:
        context, points = self.forecaster.sees, self.plan.points
        if self._history is not None:
            return RecordedWatch(context, points, self._parameters, self._history)
        return Watch(context, points, self._parameters, self._placement)

    def _take_added(self) -> None:
        """Before the first step: take parameter groups that were added."""
        if self.step == 0 and not self._rounds.begun and not self._members.same():
            self._members.release()
            self._members.take()
            self._watch = self._new_watch()

    # ---- what happens at a step

    def _before(self, *_: Any) -> None:
        if not self._agreed:
            self._take_added()
            if shared():
                agree(self._intent())
            self._agreed = True
        if self.step == 0 and not self._rounds.begun:
            self._take_added()
            self._watch.see(0)

    def _intent(self) -> str:
        options = self.guard, self._moments, self._placement
        return intent(self.forecaster, self.plan, *options, self._parameters, self.step)

    def _count(self) -> None:
        begin = time.perf_counter()
        self.step += 1
        self._members.require_same(self.step)
        try:
            if self._judge is not None:
                self._judge.see(self.step)
                self._end_probation(self._judge)
            if self.step in self.plan.targets:
                self._try_jump()
        finally:  # a jump that was refused does not spoil the next
            self._watch.see(self.step)
            self.seconds += time.perf_counter() - begin

    def _end_probation(self, judge: Judge) -> None:
        verdict = judge.verdict(self.step)
        probation = self._probation
        if verdict is None or probation is None:
            return
        self._probation = None
        kept, why = verdict
        if not kept:
            probation.put_back_weights(self._parameters, self._watch.layouts)
            probation.kept.put_back(self.optimizers, self._the_model())
            self._discarded.append((probation.jump, self.step))
        self._tell(probation.jump, "kept" if kept else "rolled back", why)

    def _try_jump(self) -> None:
        t = self.step
        if why := self._lacking(t):
            self._tell(t, "skipped", why)
        else:
            self._jump(t, self.plan.targets[t])

    def _lacking(self, t: int) -> str:
        """Why there is no jump at t; empty if there can be one."""
        for low, high in self._discarded:
            if sees_any_of(self.forecaster.sees, t, low, high):
                return f"it would look back at steps {low} to {high - 1}, which were rolled back"
        if not self._members.moving():
            return "all parameters that would jump are frozen"
        return self._watch.lacking(t) or ("" if self._judge is None else self._judge.ready(t))

    def _jump(self, t: int, target: int) -> None:
        jumping = [p for p in self._parameters if p.requires_grad]
        kept = self._keep(jumping)
        made = leap(t, target, self._members, self._watch, self.forecaster)
        probation = Probation(t, made.moved, made.backups, kept)
        if bad := made.fault(math.inf if self.guard is None else self.guard.explosion):
            probation.put_back_weights(self._parameters, self._watch.layouts)
            self._refuse(t, bad, made.culprit)
            return
        self._recalibrate(probation)
        settle_moments(self.optimizers, jumping, self._moments)
        self.jumped.append(t)
        if self._judge is not None:
            self._probation = probation
            self._judge.begin(t)
        weights = sum(self._parameters[i].numel() for i in made.moved)
        self._tell(t, "jumped", f"{weights:,} weights to their forecast for step {target}")

    def _keep(self, jumping: list[torch.Tensor]) -> Kept:
        if self.guard is None:
            return Kept([], None)
        cleared = jumping if self._moments == "clear" else ()
        others = self._members.others()
        return Kept(self.optimizers, self._the_model(), cleared=cleared, others=others)

    def _recalibrate(self, probation: Probation) -> None:
        model = self._the_model() if self._batches is not None else None
        if model is None or self._batches is None:
            return
        try:
            recalibrate(model, self._batches)
        except BaseException:
            probation.put_back_weights(self._parameters, self._watch.layouts)
            raise

    def _refuse(self, t: int, why: str, culprit: str) -> None:
        if self.guard is not None:
            self._tell(t, "refused", why)
            return
        where = f"{culprit} is" if culprit else "some weights are"
        raise NonFiniteError(
            f"a forecast must be finite: {where} NaN or infinite in a snapshot or in its forecast; "
            "no weight was changed"
        )

    def _the_model(self) -> nn.Module | None:
        if self._model is None:
            self._model = find_model(*self.optimizers)
        return self._model

    def _tell(self, jump: int, kind: Kind, reason: str) -> None:
        self._log.add(JumpEvent(self.step, jump, kind, reason))

    # ---- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs beside weights and optimizer state."""
        probation = self._probation
        return {
            "step": self.step,
            "jumped": list(self.jumped),
            **self._watch.state_dict(),
            "events": self._log.state(),
            "discarded": [list(pair) for pair in self._discarded],
            "seconds": self.seconds,
            "judge": None if self._judge is None else self._judge.state_dict(),
            "probation": None if probation is None else probation.state_dict(self._watch.layouts),
        }

    def check_state(self, state: dict[str, Any]) -> None:
        """Check that a checkpoint fits, before anything of it is loaded.

        Raises
        ------
        ShapeError
            If the snapshots or sums are of other parameters.
        UsageError
            If one that a coming jump needs is not in it.
        """
        self._take_added()
        self._watch.check(state, int(state["step"]))
        self._probation_of(state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint, at the step where it was saved; see `check_state`."""
        self.check_state(state)
        step, jumped = int(state["step"]), [int(t) for t in state["jumped"]]
        self._watch.load_state_dict(state, step)
        self.step, self.jumped, self._agreed = step, jumped, False
        self._rounds.begun = False  # after step 0 it is seen anew
        # states of versions that had no guard end here
        self._log.load(state.get("events", ()))
        self._discarded = [(int(low), int(high)) for low, high in state.get("discarded", ())]
        self.seconds = float(state.get("seconds", 0.0))
        self._probation = self._probation_of(state)
        if self._judge is not None:
            self._judge.load_state_dict(state.get("judge"))

    def _probation_of(self, state: dict[str, Any]) -> Probation | None:
        """The probation that goes on; without a guard none does."""
        saved = state.get("probation")
        if saved is None or self._judge is None:
            return None
        return Probation.of(saved, self._parameters, self._watch.layouts, self.optimizers)


def _check_types(guard: object, placement: object) -> None:
    """Refuse what is easily given in their place: a word, or a number of steps."""
    if guard is not None and not isinstance(guard, Guard):
        raise UsageError(f"guard must be a Guard, such as Guard(steps=200), or None: got {guard!r}")
    if not isinstance(placement, Placement):
        raise UsageError(
            f"placement must be a Placement, such as Placement('host'): got {placement!r}"
        )
