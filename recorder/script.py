"""Recording somebody else's training script, unchanged.

The script runs in this process as ``__main__``. Torch calls global hooks around every optimizer
step; at the first one the script's model is found among the live objects.
"""

from __future__ import annotations

import contextlib
import warnings
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from weightcast.recorder.distributed import writes_here
from weightcast.recorder.finding import Subject
from weightcast.recorder.recording import Recorder, RecordingSummary
from weightcast.recorder.resume import check_output
from weightcast.recorder.running import exit_code, script_runner, terminated_as_exit
from weightcast.recorder.schedule import parse_schedule
from weightcast.recorder.step import Rounds, StepCounter, untraced
from weightcast.store import RecordingError, WeightcastWarning
from weightcast.store.codecs import check_preset
from weightcast.store.output import check_writable
from weightcast.store.reading import one_line
from weightcast.store.remote import require_local


@dataclass(frozen=True)
class Outcome:
    """How a recorded script ended.

    Attributes
    ----------
    exit_code : int
        The script's own.
    summary : RecordingSummary or None
        None if no optimizer step was taken.
    failure : str
        Why the script ended early, on one line; empty if it ended by itself.
    others : int
        Steps that optimizers of other models took; these models are not recorded.
    other_models : tuple of str
        What these models are called.
    elsewhere : bool
        Whether another process of a distributed run records.
    unrecorded : str
        Why recording could not begin, where ``on_error="warn"`` let the script go on without.
    """

    exit_code: int
    summary: RecordingSummary | None
    failure: str
    others: int
    other_models: tuple[str, ...] = ()
    elsewhere: bool = False
    unrecorded: str = ""


class ScriptRecorder:
    """Global optimizer hooks that make a `Recorder` at the first step of a script.

    Parameters
    ----------
    path : str or Path
    model : str, optional
        Which model to record, if the script trains several: the name of a variable of the script,
        or of the model's class. By default the first to be trained.
    include, exclude : sequence of str
        Globs over qualified parameter names.
    **options
        Of `Recorder`.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        model: str | None = None,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        **options: Any,
    ) -> None:
        require_local(path)
        self.path = Path(path).absolute()  # the script may change its folder
        self.recorder: Recorder | None = None
        self.others = 0
        self.other_models: list[str] = []
        self._model = model
        self._globs = (include, exclude)
        self._options = options
        self.elsewhere = False
        self.unrecorded = ""
        self._warned = False
        self._subject: Subject | None = None
        self._met: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        self._other_steps = StepCounter()
        if writes_here():
            self._check()

    def _check(self) -> None:
        """Refuse bad options before the script runs."""
        options = self._options
        check_output(
            self.path,
            overwrite=options.get("overwrite", False),
            resume=options.get("resume", False),
            start_step=options.get("start_step"),
        )
        if isinstance(options.get("schedule"), str):
            options["schedule"] = parse_schedule(options["schedule"])
        check_preset(options.get("preset") or "fast", options.get("error"))
        check_writable(self.path)

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Count optimizer steps while the context is open; then write what is in memory."""
        handles = [
            register_optimizer_step_pre_hook(untraced(self._before)),
            register_optimizer_step_post_hook(untraced(self._after)),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            if self.recorder is not None:
                self.recorder.close()

    def _before(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if optimizer not in self._met:
            self._met.add(optimizer)
            self._meet(optimizer)
        elif self._subject is None and self.other_models and not self._warned:
            self._warned = True  # now, and not only at the end of a long run
            message = f"nothing is recorded so far: the script trains no model {self._model!r} yet"
            trained = f"{message}, but {', '.join(self.other_models)}"
            warnings.warn(trained, WeightcastWarning, stacklevel=2)
        if self._counts(optimizer):
            self._rounds.before(optimizer)
        else:
            self._other_steps.before(optimizer)

    def _after(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if self._counts(optimizer):
            self._rounds.after(optimizer)
        elif self._other_steps.after(optimizer):
            self.others += 1

    def _counts(self, optimizer: torch.optim.Optimizer) -> bool:
        return self._subject is not None and self._subject.trained_by(optimizer)

    def _meet(self, optimizer: torch.optim.Optimizer) -> None:
        """See whether an optimizer that steps for the first time trains what is to be recorded."""
        if self.unrecorded:
            return
        if self.recorder is not None and self._counts(optimizer):
            self.recorder.optimizers.append(optimizer)
            return
        subject = Subject(optimizer)
        if self._subject is None and self._model in (None, *subject.names):
            self._start(subject, optimizer)
        else:
            self.other_models += [n for n in subject.names[:1] if n not in self.other_models]

    def _start(self, subject: Subject, optimizer: torch.optim.Optimizer) -> None:
        self.elsewhere = not writes_here()
        try:
            self.recorder = Recorder(subject.select(*self._globs), self.path, **self._options)
        except (RecordingError, OSError) as error:
            if self._options.get("on_error") != "warn":
                raise
            self.unrecorded = one_line(error)
            message = f"{self.unrecorded}; the script goes on unrecorded"
            warnings.warn(message, WeightcastWarning, stacklevel=2)
            return
        self.recorder.optimizers.append(optimizer)
        self._rounds = Rounds(self.recorder)
        self._rounds.expect([optimizer, *subject.live_optimizers()])
        self._subject = subject


def record_script(argv: Sequence[str], path: str | Path, **options: Any) -> Outcome:
    """Run a training script and record the model of its first optimizer.

    Parameters
    ----------
    argv : sequence of str
        The script and its arguments, or ``-m``, a module and its arguments.
    path : str or Path
        Folder of the history. It is made at the first optimizer step.
    **options
        Of `ScriptRecorder` and `Recorder`.

    Returns
    -------
    Outcome

    Raises
    ------
    InputNotFoundError
        If there is no such script.
    WeightcastError
        If the recording fails; the script is stopped.
    """
    run = script_runner(argv)
    recording = ScriptRecorder(path, **options)
    with terminated_as_exit(), recording.installed():
        code, failure = exit_code(run)
    return Outcome(
        code,
        recording.recorder.summary() if recording.recorder and not recording.elsewhere else None,
        failure,
        recording.others,
        tuple(recording.other_models),
        recording.elsewhere,
        recording.unrecorded,
    )
