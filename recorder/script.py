"""Recording somebody else's training script, unchanged.

The script runs in this process as ``__main__``. Torch calls global hooks around every optimizer
step; at the first one the script's model is found among the live objects.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from weightcast.recorder.distributed import writes_here
from weightcast.recorder.finding import Subject
from weightcast.recorder.hooks import ScriptHooks
from weightcast.recorder.recording import Recorder, RecordingSummary
from weightcast.recorder.resume import check_output
from weightcast.recorder.running import exit_code, script_runner, terminated_as_exit
from weightcast.recorder.schedule import parse_schedule
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


class ScriptRecorder(ScriptHooks):
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

    IDLE = "nothing is recorded so far"

    def __init__(
        self,
        path: str | Path,
        *,
        model: str | None = None,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        **options: Any,
    ) -> None:
        super().__init__(model)
        require_local(path)
        self.path = Path(path).absolute()  # the script may change its folder
        self.recorder: Recorder | None = None
        self._globs = (include, exclude)
        self._options = options
        self.elsewhere = False
        self.unrecorded = ""
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

    def begin(self, subject: Subject, optimizers: Sequence[torch.optim.Optimizer]) -> bool:
        """Make the recorder."""
        self.elsewhere = not writes_here()
        try:
            self.recorder = Recorder(subject.select(*self._globs), self.path, **self._options)
        except (RecordingError, OSError) as error:
            if self._options.get("on_error") != "warn":
                raise
            self.unrecorded = one_line(error)
            message = f"{self.unrecorded}; the script goes on unrecorded"
            warnings.warn(message, WeightcastWarning, stacklevel=2)
        return self.recorder is not None

    def join(self, optimizer: torch.optim.Optimizer) -> None:
        """Record this optimizer's state too, if such is recorded."""
        if self.recorder is not None and optimizer not in self.recorder.optimizers:
            self.recorder.optimizers.append(optimizer)

    def count(self) -> None:
        """Record the weights, if the schedule has the step."""
        if self.recorder is not None:
            self.recorder()

    def close(self) -> None:
        """Write what is in memory."""
        if self.recorder is not None:
            self.recorder.close()

    def summary(self) -> RecordingSummary | None:
        """What was recorded; None if nothing was, or by another process."""
        return self.recorder.summary() if self.recorder and not self.elsewhere else None


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
        recording.summary(),
        failure,
        recording.others,
        tuple(recording.other_models),
        recording.elsewhere,
        recording.unrecorded,
    )
