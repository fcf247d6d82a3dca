"""Recording a Transformers run: a callback. Needs the extra ``weightcast[transformers]``."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

from weightcast.recorder.callback import TrainerRecording
from weightcast.recorder.schedule import Schedule
from weightcast.store import MissingExtraError

try:
    from transformers.trainer_callback import ExportableState, TrainerCallback
except ImportError as error:
    raise MissingExtraError(
        "recording a Transformers run needs transformers: pip install 'weightcast[transformers]'"
    ) from error


class RecordWeights(TrainerCallback, ExportableState):
    """Records the weights of a model while the ``Trainer`` of Transformers trains it.

    The step counts optimizer steps really taken: not batches whose gradients accumulate, not those
    that mixed precision skipped. Where the trainer resumes (``resume_from_checkpoint``), the
    history goes on at the checkpoint's step. Logged numbers are recorded, with ``_`` for what a
    history's names cannot have. The trainer calls nothing back when its loop fails: use ``with``,
    as below, to complete the history then; else the next to open it does, once the process ended.

    Parameters
    ----------
    path : str or Path
        Folder of the history.
    schedule : str or Schedule, optional
        Which steps, such as ``"every:10"``; see `parse_schedule`. By default every step.
    **options
        Of `Recorder`. When the trainer resumes, ``overwrite`` has no effect.

    Examples
    --------
    >>> with RecordWeights("run.zarr", schedule="every:10") as record:
    ...     trainer = Trainer(model, args, callbacks=[record])  # doctest: +SKIP
    ...     trainer.train()  # doctest: +SKIP
    """

    def __init__(
        self, path: str | Path, schedule: str | Schedule | None = None, **options: Any
    ) -> None:
        self._recording = TrainerRecording(path, schedule, options)
        self._arguments = {
            "path": str(path),
            "schedule": None if schedule is None else str(schedule),
            **options,
        }

    def state(self) -> dict[str, Any]:
        """What the callback is made from and the step, for the trainer's checkpoints."""
        return {"args": self._arguments, "attributes": {"step": self._recording.step}}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin, with the weights that training starts from."""
        saved = _saved(state.stateful_callbacks.get(type(self).__name__), self._arguments["path"])
        step = (saved or state.global_step) if state.global_step else 0
        # The trainer looks for it there when it saves; a checkpoint from before lacks it.
        state.stateful_callbacks.setdefault(type(self).__name__, self.state())
        self._recording.begin(kwargs["model"], [kwargs["optimizer"]], step)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Record what the trainer logs."""
        self._recording.log(logs or {})

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """End the recording."""
        self._recording.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._recording.end()


def _saved(states: Any, path: str) -> int:
    """The step that the recording of a path had in a checkpoint; 0 if it is not there."""
    found = states if isinstance(states, list) else [states] if states else []
    steps = [s["attributes"]["step"] for s in found if s.get("args", {}).get("path") == path]
    return int(steps[-1]) if steps else 0
