"""Following one model of somebody else's script, through torch's global optimizer hooks."""

from __future__ import annotations

import contextlib
import warnings
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from weightcast.recorder.finding import Subject
from weightcast.recorder.step import Rounds, StepCounter, untraced
from weightcast.store import WeightcastWarning


class ScriptHooks:
    """Finds the model that a script trains at its first optimizer step, and counts its steps.

    A subclass says what is to be done then: `begin`, `join`, `count` and `close`.

    Parameters
    ----------
    model : str, optional
        Which model to follow, if the script trains several: the name of a variable of the script,
        or of the model's class. By default the first to be trained.

    Attributes
    ----------
    others : int
        Steps that optimizers of other models took.
    other_models : list of str
        What these models are called.
    """

    IDLE = "nothing is done so far"  # how a warning begins while the named model is not trained

    def __init__(self, model: str | None = None) -> None:
        self.others = 0
        self.other_models: list[str] = []
        self._model = model
        self._warned = False
        self._given_up = False
        self._subject: Subject | None = None
        self._met: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        self._rounds = Rounds(self.count)
        self._other_steps = StepCounter()

    def begin(self, subject: Subject, optimizers: Sequence[torch.optim.Optimizer]) -> bool:
        """The model's first step is about to be taken: whether to follow it.

        Parameters
        ----------
        subject : Subject
        optimizers : sequence of Optimizer
            Those that train it: the one that steps first comes first.
        """
        raise NotImplementedError

    def join(self, optimizer: torch.optim.Optimizer) -> None:
        """An optimizer of the model is about to step; it may be one that was made late."""

    def count(self) -> None:
        """A step of the run is complete."""

    def pass_over(self) -> None:
        """An optimizer of another model has stepped."""

    def close(self) -> None:
        """The script has ended."""

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Follow optimizer steps while the context is open."""
        handles = [
            register_optimizer_step_pre_hook(untraced(self._before)),
            register_optimizer_step_post_hook(untraced(self._after)),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self.close()

    def _before(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if optimizer not in self._met:
            self._met.add(optimizer)
            self._meet(optimizer)
        elif self._subject is None and self.other_models and not self._warned:
            self._warned = True  # now, and not only at the end of a long run
            message = f"{self.IDLE}: the script trains no model {self._model!r} yet"
            trained = f"{message}, but {', '.join(self.other_models)}"
            warnings.warn(trained, WeightcastWarning, stacklevel=2)
        if self._counts(optimizer):
            self.join(optimizer)
            self._rounds.before(optimizer)
        else:
            self._other_steps.before(optimizer)

    def _after(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if self._counts(optimizer):
            self._rounds.after(optimizer)
        elif self._other_steps.after(optimizer):
            self.others += 1
            self.pass_over()

    def _counts(self, optimizer: torch.optim.Optimizer) -> bool:
        return self._subject is not None and self._subject.trained_by(optimizer)

    def _meet(self, optimizer: torch.optim.Optimizer) -> None:
        """See whether an optimizer that steps for the first time trains what is to be followed."""
        if self._given_up or self._counts(optimizer):
            return
        subject = Subject(optimizer)
        if self._subject is None and self._model in (None, *subject.names):
            self._start(subject, optimizer)
        else:
            self.other_models += [n for n in subject.names[:1] if n not in self.other_models]

    def _start(self, subject: Subject, optimizer: torch.optim.Optimizer) -> None:
        optimizers = [optimizer, *subject.live_optimizers()]
        if not self.begin(subject, optimizers):
            self._given_up = True
            return
        self._rounds.expect(optimizers)
        self._subject = subject
