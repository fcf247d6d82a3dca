"""Recording an Accelerate run: a tracker. Needs the extra ``weightcast[accelerate]``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import nn

from weightcast.recorder.callback import TrainerRecording
from weightcast.recorder.recording import Recorder
from weightcast.recorder.schedule import Schedule
from weightcast.store import MissingExtraError, RecordingError

try:
    from accelerate.tracking import GeneralTracker
except ImportError as error:
    raise MissingExtraError(
        "recording an Accelerate run needs accelerate: pip install 'weightcast[accelerate]'"
    ) from error


class RecordWeights(GeneralTracker):
    """Records the weights of a prepared model while a loop written with Accelerate trains it.

    A tracker, so that ``accelerator.log`` records its numbers beside the weights (with ``_`` for
    what a history's names cannot have) and ``accelerator.end_training`` completes the history.
    Accelerate tells trackers nothing of models: call `watch` right before the loop. The step counts
    optimizer steps really taken: not batches within ``accelerator.accumulate``, not those that
    mixed precision skipped. To resume, register the tracker with
    ``accelerator.register_for_checkpointing``: ``accelerator.load_state`` then gives it the step,
    and `watch`, called after it, goes on with the history there.

    Parameters
    ----------
    path : str or Path
        Folder of the history.
    schedule : str or Schedule, optional
        Which steps, such as ``"every:10"``; see `parse_schedule`. By default every step.
    **options
        Of `Recorder`. After ``load_state``, ``overwrite`` has no effect.

    Examples
    --------
    >>> record = RecordWeights("run.zarr", schedule="every:10")
    >>> accelerator = Accelerator(log_with=record)  # doctest: +SKIP
    >>> model, optimizer = accelerator.prepare(model, optimizer)  # doctest: +SKIP
    >>> accelerator.init_trackers("run", config={"lr": 1e-3})  # doctest: +SKIP
    >>> record.watch(model, optimizer)  # doctest: +SKIP
    """

    name = "weightcast"
    requires_logging_directory = False
    main_process_only = True

    def __init__(
        self, path: str | Path, schedule: str | Schedule | None = None, **options: Any
    ) -> None:
        super().__init__()
        self._recording = TrainerRecording(path, schedule, options)

    @property
    def tracker(self) -> Recorder | None:
        """The recorder: None before `watch`, after the end, and on ranks that do not write."""
        return self._recording.recorder

    def watch(self, model: nn.Module, *optimizers: Any) -> Self:
        """Begin to record a model; call it after ``prepare`` and ``load_state``.

        Parameters
        ----------
        model : nn.Module
            Prepared or not.
        *optimizers : optimizer
            All that train it, prepared or not.

        Raises
        ------
        RecordingError
            If an optimizer has no torch hooks (DeepSpeed).
        """
        self._recording.begin(model, optimizers, self._recording.step)
        return self

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Keep the ``config`` of ``init_trackers``, called before `watch`, in the metadata."""
        self._recording.add_metadata(values)

    def log(self, values: Mapping[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Record numbers at the current optimizer step; ``step`` is for other trackers."""
        self._recording.log(values)

    def finish(self) -> None:
        """End the recording."""
        self._recording.end()

    def state_dict(self) -> dict[str, int]:
        """The step, for ``accelerator.save_state``."""
        return {"step": self._recording.step}

    def load_state_dict(self, state_dict: Mapping[str, int]) -> None:
        """Take the step of a checkpoint.

        Raises
        ------
        RecordingError
            If the recording has begun.
        """
        if self._recording.recorder is not None:
            raise RecordingError(
                "a checkpoint is loaded before the recording begins: call watch after load_state"
            )
        self._recording.step = int(state_dict["step"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._recording.end()
