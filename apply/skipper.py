"""Skipping weight updates in a live training run, through its optimizers' hooks.

::

    evaluation    update(0.91)           update(0.9104)               update(0.9101)
    steps         weights and biases ... | biases, normalization only ... | weights and biases ...

When is in `skip_rule`; which weights, and how they are left alone, in `freezing`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, Self

import torch
from torch import nn

from weightcast.apply.freezable import plain_optimizers
from weightcast.apply.freezing import Freezer, Gradients, held_by
from weightcast.apply.ranks import mean_of_ranks
from weightcast.apply.skip_events import SkipEvent, SkipSummary, evaluation, from_plain, to_plain
from weightcast.apply.skip_rule import Better, SkipRule, SkipState
from weightcast.recorder.recording import Recorder
from weightcast.recorder.selection import unwrap
from weightcast.recorder.step import Rounds
from weightcast.store import UsageError

logger = logging.getLogger("weightcast.apply")


class UpdateSkipper:
    """Leaves a model's weights alone while training gains little, and goes on with its biases.

    It is fed with each evaluation, and decides by a `SkipRule`. While weights are skipped their
    gradients are not computed; biases and normalization parameters are trained as before. What was
    frozen by others stays frozen.

    Parameters
    ----------
    model : nn.Module
        Also one that is compiled, or in DistributedDataParallel with ``find_unused_parameters``.
    optimizers : Optimizer or sequence of Optimizer
        All that train it.
    threshold, window, better, longest
        See `SkipRule`.
    rule : SkipRule, optional
        In place of these four.
    history : Recorder, optional
        Of this run: keeps each decision, as metrics ``skip/skipping`` (1 while weights are
        skipped), ``skip/value`` and ``skip/gain``.
    listener : callable, optional
        Called with each `SkipEvent`.

    Attributes
    ----------
    rule : SkipRule
    step : int
        Optimizer steps counted.
    events : list of SkipEvent
        What was decided at each evaluation, and why.

    Raises
    ------
    UsageError
        If the rule is not one, the model has no weights or nothing else that the optimizers train,
        it is sharded (FSDP), in DDP that waits for all gradients, or has another open skipper, or
        an optimizer is LBFGS.

    Notes
    -----
    After Weight Update Skipping, Safayenikoo and Akturk 2020 (arXiv 2012.02792).

    A decision in the middle of an accumulated batch takes effect after the step that uses it; call
    `update` outside of a forward pass and its backward. In a distributed run every rank makes a
    skipper and calls `update` at the same steps; the mean of their values decides.

    Examples
    --------
    >>> model = nn.Linear(2, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> with UpdateSkipper(model, optimizer, window=1) as skipper:
    ...     for accuracy in (0.5, 0.8, 0.8, 0.8):
    ...         model(torch.ones(1, 2)).sum().backward()
    ...         optimizer.step()
    ...         print(skipper.update(accuracy).kind, *skipper.frozen)
    training
    training
    entered weight
    left
    >>> print(skipper.summary())
    weights were skipped in 1 of 4 steps (25.0 %), in 1 window
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
        *,
        threshold: float = 0.001,
        window: int = 3,
        better: Better = "higher",
        longest: int | None = None,
        rule: SkipRule | None = None,
        history: Recorder | None = None,
        listener: Callable[[SkipEvent], object] | None = None,
    ) -> None:
        self.rule = _one_rule(SkipRule(threshold, window, better, longest), rule)
        if not isinstance(model, nn.Module):
            raise UsageError(f"give the torch.nn.Module to train: got a {type(model).__name__}")
        if history is not None and not isinstance(history, Recorder):
            raise UsageError(f"history is the run's Recorder: got a {type(history).__name__}")
        self.step = 0
        self.events: list[SkipEvent] = []
        self._optimizers = plain_optimizers(optimizers)
        self._freezer = Freezer(unwrap(model), self._optimizers)
        self._gradients = Gradients()
        self._state = SkipState()
        self._skipped = self._windows = 0
        self._history, self._listener = history, listener
        self._closed = False
        rounds = Rounds(self._count)
        rounds.expect(self._optimizers)
        self._handles = rounds.hook(self._optimizers)

    @property
    def skipping(self) -> bool:
        """Whether the rule has it that weights are skipped."""
        return self._state.skipping

    @property
    def frozen(self) -> tuple[str, ...]:
        """Names of the weights that are being skipped."""
        return self._freezer.frozen

    def update(self, value: float) -> SkipEvent:
        """Take in an evaluation, and decide.

        Parameters
        ----------
        value : float
            An accuracy or a loss. NaN or infinity ends skipping, and nothing else.

        Returns
        -------
        SkipEvent

        Raises
        ------
        UsageError
            If it is not a number, or the run switches requires_grad itself, or trains nothing else.
        """
        if self._closed:
            raise UsageError("this skipper is closed and takes no more evaluations: make another")
        value = mean_of_ranks(evaluation(value))
        self._freezer.require_frozen()
        self._state, decision = self.rule.judge(self._state, value)
        if not self._gradients.waiting(held_by(self._optimizers)):
            self._settle()
        event = SkipEvent(self.step, decision.kind, value, decision.gain, decision.reason)
        self._tell(event)
        return event

    def summary(self) -> SkipSummary:
        """The skipping so far, counted."""
        return SkipSummary(self.step, self._skipped, self._windows)

    def close(self) -> None:
        """Stop counting, and give weights their gradients back. Closing again does nothing."""
        for handle in self._handles:
            handle.remove()
        self._closed = True
        self._freezer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce_ex__(self, _: object) -> NoReturn:
        raise UsageError(
            "a skipper is bound to live weights and is not copied or pickled: make another, and "
            "give it this one's state_dict()"
        )

    # ---- what happens at a step

    def _count(self) -> None:
        self.step += 1
        self._skipped += bool(self.frozen) and not self._freezer.thawed()
        self._gradients.use(held_by(self._optimizers))
        self._settle()

    def _settle(self) -> None:
        """Let the weights be as the rule has it."""
        if self.skipping and not self.frozen:
            self._freezer.freeze()
            self._windows += 1
        elif self.frozen and not self.skipping:
            self._freezer.thaw()

    def _tell(self, event: SkipEvent) -> None:
        self.events.append(event)
        logger.info("%s", event)
        if self._history is not None:
            gain = {} if event.gain is None else {"skip/gain": event.gain}
            told = {"skip/skipping": float(self.skipping), "skip/value": event.value}
            self._history.log(**told, **gain)
        if self._listener is not None:
            self._listener(event)

    # ---- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside weights and optimizer state: plain numbers and words."""
        counts = {"step": self.step, "skipped": self._skipped, "windows": self._windows}
        return {**counts, **to_plain(self._state, self.events)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint, skipping weights if it did.

        Raises
        ------
        UsageError
            If it is not a skipper's state; then nothing changes.
        """
        try:
            counts = [int(state[name]) for name in ("step", "skipped", "windows")]
            rule_state, events = from_plain(state)
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"give a skipper's state_dict(): got {state!r:.60}") from error
        self._freezer.thaw()
        self.step, self._skipped, self._windows = counts
        self._state, self.events = rule_state, events
        if self.skipping:
            self._freezer.freeze()


def _one_rule(made: SkipRule, given: object) -> SkipRule:
    """The rule that is given, or made of the options; not both."""
    if given is None:
        return made
    if not isinstance(given, SkipRule):
        raise UsageError(f"rule is a SkipRule, such as SkipRule(window=5): got {given!r:.60}")
    if made != SkipRule():
        raise UsageError("give either a rule or its options (threshold, window, ...), and not both")
    return given
