"""What the callbacks of training libraries have in common: the jumps of their run."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import nn

from weightcast.apply.events import JumpEvent, JumpSummary
from weightcast.apply.guard import Guard
from weightcast.apply.jumper import GUARD
from weightcast.apply.live import LiveJumps
from weightcast.apply.plan import JumpPlan, plan_jumps
from weightcast.apply.settling import check_moments
from weightcast.predictor import Forecaster, load
from weightcast.recorder.schedule import Schedule, Steps, parse_schedule
from weightcast.store import UsageError

State = dict[str, Any]


class TrainerJumps:
    """Jumps that begin and end with a library's training loop.

    All ranks of a distributed run begin and end them.

    Parameters
    ----------
    forecaster : Forecaster, str or Path
        Fitted, or one that needs no training; or what `weightcast.predictor.load` takes: a file, or
        a name, such as ``"line"``.
    jump_points : iterable of int, Schedule or str, optional
        Optimizer steps after which to jump, or a schedule of them, such as ``"geometric:500x2"``.
    every : int, optional
        In place of `jump_points`: jump every so many steps.
    horizon : float, str or Reach, optional
        How far to jump; by default the forecaster's own single horizon.
    end : int, optional
        Last step of training, which no jump passes; by default the trainer's, if it knows one.
    guard : Guard or None
        When a jump is rolled back. None keeps every jump, as in the paper.
    **options
        Further ones of `LiveJumps`: ``moments``, ``parameters``, ``placement``, ``batches``,
        ``listener``.

    Attributes
    ----------
    live : LiveJumps or None
        While training.

    Raises
    ------
    UsageError
        If an option is unknown or breaks its rule, or the jumps cannot be; where that hangs on the
        end of training, when it begins.
    """

    def __init__(
        self,
        forecaster: Forecaster | str | Path,
        jump_points: Iterable[int] | Schedule | str | None = None,
        *,
        every: int | None = None,
        horizon: object = None,
        end: int | None = None,
        guard: Guard | None = GUARD,
        **options: Any,
    ) -> None:
        ours = {"optimizers", "forecaster", "plan", "guard", "model"}
        known = inspect.signature(LiveJumps).parameters.keys() - ours
        if not options.keys() <= known:
            raise UsageError(
                "options are every, horizon, end, guard and those of LiveJumps, "
                f"{', '.join(sorted(known))}: got {', '.join(sorted(options.keys() - known))}"
            )
        if (jump_points is None) == (every is None):
            raise UsageError("give either jump_points or every, and not both")
        check_moments(options.get("moments", "keep"))
        given = load(forecaster) if isinstance(forecaster, str | Path) else forecaster
        self.forecaster = given.ready()
        self.live: LiveJumps | None = None
        self._points = _settled(f"every:{every}" if jump_points is None else jump_points)
        self._horizon, self._end, self._guard = horizon, end, guard
        self._options = dict(options)
        self._events: list[JumpEvent] = []
        self._summary: JumpSummary | None = None
        self._loaded: State | None = None  # of a checkpoint, until training begins
        self._ended: State | None = None  # where training ended
        self._sharded = False
        if end is not None or isinstance(self._points, list | Steps):
            self._plan(end)  # what is wrong without the trainer is told before there is one

    @property
    def events(self) -> list[JumpEvent]:
        """What happened to the jumps, and why, in order."""
        return self._events if self.live is None else self.live.events

    def summary(self) -> JumpSummary | None:
        """The jumps so far, counted; None before training."""
        return self._summary if self.live is None else self.live.summary()

    def state_dict(self) -> State:
        """All that a resumed run needs beside weights and optimizer state, for a checkpoint."""
        if self.live is not None:
            return self.live.state_dict()
        return self._loaded or self._ended or {}

    def load_state_dict(self, state_dict: State) -> None:
        """Go on from a checkpoint: when training begins, or now if it has begun."""
        if self.live is not None:
            self._go_on(self.live, state_dict)
        else:
            self._loaded = dict(state_dict) or None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()

    def _begin(
        self,
        model: nn.Module,
        optimizers: Sequence[Any],
        state: State | None = None,
        *,
        end: int | None = None,
        tell: Callable[[], object] | None = None,
    ) -> None:
        """Begin to jump, right before training does.

        Parameters
        ----------
        model : nn.Module
            Already with the weights that training starts from.
        optimizers : sequence of optimizer
            Those that train it, with or without the library's wrappers.
        state : dict, optional
            Of a checkpoint that training goes on from; see `unseen` for one that has none.
        end : int, optional
            Last step of training, as far as the trainer knows.
        tell : callable, optional
            Called after each event.
        """
        self._close()
        self._sharded = is_sharded(model)
        plan = self._plan(end if self._end is None else self._end)
        options = dict(self._options)
        listeners = [listen for listen in (options.pop("listener", None),) if listen is not None]
        listeners += [lambda event: tell()] if tell is not None else []

        def listener(event: JumpEvent) -> None:
            for listen in listeners:
                listen(event)

        live = LiveJumps(
            optimizers,
            self.forecaster,
            plan,
            guard=self._guard,
            model=model,
            listener=listener,
            **options,
        )
        try:
            if state is not None:
                self._go_on(live, state)
        except BaseException:
            live.close()
            raise
        self.live, self._loaded, self._ended = live, None, None

    def _go_on(self, live: LiveJumps, state: State) -> None:
        if self._sharded and (state["snapshots"] or state.get("sums")):
            raise UsageError(
                "a run whose weights are sharded cannot go on with its jumps, as a trainer's "
                "checkpoint has those of one rank only: train on without jumps"
            )
        live.load_state_dict(state)

    def _close(self) -> None:
        """End the jumps. Without any, nothing happens."""
        live, self.live = self.live, None
        if live is not None:
            self._ended = live.state_dict()
            self._events, self._summary = live.events, live.summary()
            live.close()

    def _counts(self) -> dict[str, int]:
        """How many events of each kind there were, by names for a log."""
        kinds = Counter(event.kind for event in self.events)
        return {f"jumps/{kind.replace(' ', '_')}": number for kind, number in kinds.items()}

    def _plan(self, end: int | None) -> JumpPlan:
        plan = plan_jumps(self.forecaster, self._points, horizon=self._horizon, end=end)
        if self._guard is not None:
            self._guard.settled(plan)
        return plan


def unseen(step: int) -> State:
    """The state of a run that goes on at a step, of whose past no jumps have seen anything.

    Enough for jumps that look back no further; others are refused.
    """
    return {"step": step, "jumped": [], "snapshots": {}}


def is_sharded(model: nn.Module) -> bool:
    """Whether a rank has only a part of the weights (FSDP)."""
    return any(hasattr(p, "to_local") for p in model.parameters()) or any(
        type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()
    )


def _settled(points: Iterable[int] | Schedule | str) -> list[int] | Schedule:
    if isinstance(points, str):
        return parse_schedule(points)
    return list(points) if isinstance(points, Iterable) else points
