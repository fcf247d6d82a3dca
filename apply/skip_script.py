"""Weight updates skipped in somebody else's training script, unchanged.

The script runs in this process as ``__main__``. Torch calls global hooks around every optimizer
step; at the first one the script's model is found, and from then on its evaluations decide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch

from weightcast.apply.script_outcome import ScriptOutcome, script_recorder
from weightcast.apply.skip_driving import DrivenSkipper
from weightcast.apply.skip_events import SkipEvent, SkipSummary
from weightcast.apply.skip_rule import SkipRule
from weightcast.apply.skip_values import MeanLoss, PrintedMetric
from weightcast.recorder.distributed import writes_here
from weightcast.recorder.finding import Subject
from weightcast.recorder.hooks import ScriptHooks
from weightcast.recorder.running import exit_code, script_runner, terminated_as_exit
from weightcast.recorder.script import ScriptRecorder
from weightcast.store import UsageError, WeightcastError

SkipOutcome: TypeAlias = ScriptOutcome[SkipSummary, SkipEvent]


class ScriptSkips(ScriptHooks):
    """Global optimizer hooks that make a `DrivenSkipper` at the first step of a script.

    Parameters
    ----------
    rule : SkipRule
    values : PrintedMetric or MeanLoss
        Where the evaluations come from.
    model : str, optional
        Which model, if the script trains several: the name of a variable of the script, or of the
        model's class. By default the first to be trained.
    listener : callable, optional
        Called with each `SkipEvent`.
    recording : ScriptRecorder, optional
        Records the model at the same time, and each decision.
    begun : callable, optional
        Called once, with what the script calls its model.
    """

    IDLE = "no weight updates are skipped so far"

    def __init__(
        self,
        rule: SkipRule,
        values: PrintedMetric | MeanLoss,
        *,
        model: str | None = None,
        listener: Callable[[SkipEvent], object] | None = None,
        recording: ScriptRecorder | None = None,
        begun: Callable[[str], object] | None = None,
    ) -> None:
        super().__init__(model)
        self._rule, self._values = rule, values
        self._listener, self._begun = listener, begun
        self.recording = recording
        self.skipper: DrivenSkipper | None = None
        self.summary: SkipSummary | None = None
        self._error: WeightcastError | None = None

    def begin(self, subject: Subject, optimizers: Sequence[torch.optim.Optimizer]) -> bool:
        """Begin to decide, and to record."""
        if subject.model is None:
            raise UsageError(
                "weights and biases are told apart by the names that a module gives them: the "
                f"parameters of this {type(optimizers[0]).__name__} are in no one nn.Module"
            )
        self.skipper = DrivenSkipper(
            subject.model, optimizers, rule=self._rule, listener=self._listener
        )
        goes_on = True
        if self.recording is not None:  # only now: what cannot be skipped leaves no history
            goes_on = self.recording.begin(subject, optimizers)
            self.skipper.log_to(self.recording.recorder)
        with self._values.aside():
            if self._begun is not None:
                self._begun(subject.names[0])
        self._values.begin(self._decide, next(subject.model.parameters()).device)
        return goes_on

    def _decide(self, value: float) -> None:
        if self.skipper is None or self._error is not None:
            return
        with self._values.aside():  # what is told of it is no evaluation
            try:
                self.skipper.update(value)
            except WeightcastError as error:
                # we are inside the script's print, where logging and many a try would swallow it
                self._error = error

    def require_no_error(self) -> None:
        """Raise what stood against a decision; what is printed after it decides nothing.

        Raises
        ------
        WeightcastError
        """
        if self._error is not None:
            raise self._error

    def join(self, optimizer: torch.optim.Optimizer) -> None:
        """Go on with an optimizer that was made late."""
        self.require_no_error()
        if self.skipper is not None:
            self.skipper.take_on(optimizer)
        if self.recording is not None:
            self.recording.join(optimizer)

    def count(self) -> None:
        """Record the step; only then decide, as what is decided is of this step."""
        if self.skipper is None:
            return
        if self.recording is not None:
            self.recording.count()
        self.skipper.count()
        self._values.end(self.skipper.step)
        self.require_no_error()

    def pass_over(self) -> None:
        """Losses before were those of another model."""
        self._values.pass_over()

    def close(self) -> None:
        """Train all weights again; write what is in memory."""
        if self.skipper is not None:
            self.summary = self.skipper.summary()
            self.skipper.close()
        if self.recording is not None:
            self.recording.close()


def skip_script(
    argv: Sequence[str],
    rule: SkipRule,
    values: PrintedMetric | MeanLoss,
    *,
    record: str | Path | None = None,
    recording: dict[str, Any] | None = None,
    starting: Callable[[], object] | None = None,
    **options: Any,
) -> SkipOutcome:
    """Run a training script, and skip weight updates while they gain little.

    Parameters
    ----------
    argv : sequence of str
        The script and its arguments, or ``-m``, a module and its arguments.
    rule : SkipRule
    values : PrintedMetric or MeanLoss
        Where the evaluations come from: of one script.
    record : str or Path, optional
        Folder of a history to record at the same time. Each decision is in its metrics, as
        ``skip/skipping``, ``skip/value`` and ``skip/gain``.
    recording : dict, optional
        Options of `Recorder` for it, such as ``schedule``, ``preset`` or ``overwrite``.
    starting : callable, optional
        Called when all that can be refused before the script runs has passed.
    **options
        Of `ScriptSkips`.

    Returns
    -------
    SkipOutcome

    Raises
    ------
    InputNotFoundError
        If there is no such script.
    WeightcastError
        If something cannot be as it is asked for, before the script runs; or if the script's model
        cannot skip updates, or the recording fails, which stops the script.
    """
    run = script_runner(argv)
    recorder = script_recorder(record, recording)
    skips = ScriptSkips(rule, values, recording=recorder, **options)
    with terminated_as_exit(), skips.installed():
        if starting is not None:
            starting()
        with values.listening():
            code, failure = exit_code(run)
    skips.require_no_error()
    return SkipOutcome(
        code,
        failure,
        skips.summary,
        tuple(skips.skipper.events) if skips.skipper is not None else (),
        recorder.summary() if recorder is not None else None,
        skips.others,
        tuple(skips.other_models),
        not writes_here(),
    )
