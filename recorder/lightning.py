"""Recording a Lightning run: a callback. Needs the extra ``weightcast[lightning]``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weightcast.recorder.callback import TrainerRecording
from weightcast.recorder.schedule import Schedule
from weightcast.store import MissingExtraError

if TYPE_CHECKING:
    from lightning.pytorch import Callback
else:
    try:  # the one of its two names that the run uses; a second copy takes seconds to import
        if "pytorch_lightning" in sys.modules and "lightning" not in sys.modules:
            from pytorch_lightning import Callback
        else:
            from lightning.pytorch import Callback
    except ImportError:
        try:
            from pytorch_lightning import Callback
        except ImportError as error:
            raise MissingExtraError(
                "recording a Lightning run needs lightning: pip install 'weightcast[lightning]'"
            ) from error


class RecordWeights(Callback):
    """Records the weights of a ``LightningModule`` while a Lightning ``Trainer`` fits it.

    The step counts optimizer steps really taken: not batches whose gradients accumulate, not those
    that mixed precision skipped. In manual optimization with several optimizers, a step is a round
    in which each of them steps once; see `Rounds`. Where the trainer resumes (``ckpt_path``), the
    history goes on at the checkpoint's step. Logged numbers are recorded at recorded steps and at
    the end of epochs and validations, under the names that they have there, ``_`` for what a
    history's names cannot have. The history is complete after an exception or an interrupt too.

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
    >>> record = RecordWeights("run.zarr", schedule="every:10", exclude=["*.bias"])
    >>> trainer = Trainer(max_steps=1000, callbacks=[record])  # doctest: +SKIP
    """

    def __init__(
        self, path: str | Path, schedule: str | Schedule | None = None, **options: Any
    ) -> None:
        self._recording = TrainerRecording(path, schedule, options)
        self._kept: dict[str, Any] = {}  # metrics that were recorded, to tell new ones from these

    @property
    def state_key(self) -> str:
        """What the callback's state is called in a checkpoint."""
        return f"weightcast.RecordWeights({self._recording.path.name})"

    def state_dict(self) -> dict[str, Any]:
        """The step, for a checkpoint: it may be less than the trainer's ``global_step``."""
        return {"step": self._recording.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the step of a checkpoint."""
        self._recording.step = int(state_dict["step"])

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin, with the weights that training starts from."""
        step = (self._recording.step or trainer.global_step) if trainer.global_step else 0
        self._kept = dict(trainer.logged_metrics)
        self._recording.begin(pl_module, trainer.optimizers, step)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record what the training step logged, if its weights are recorded."""
        if self._recording.recorded_step:
            self._log(trainer)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Record what the validation logged."""
        if not trainer.sanity_checking:
            self._log(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Record what the epoch logged."""
        self._log(trainer)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """End the recording."""
        self._recording.end()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """End the recording when the run fails or is interrupted."""
        self._recording.end()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """End the recording, if nothing has yet."""
        self._recording.end()

    def _log(self, trainer: Any) -> None:
        metrics = dict(trainer.logged_metrics)
        new = {name: value for name, value in metrics.items() if not self._is_kept(name, value)}
        self._recording.log(new)
        self._kept.update(new)

    def _is_kept(self, name: str, value: Any) -> bool:
        """Whether a metric was not logged again since: the trainer then shows the same memory."""
        kept = self._kept.get(name)  # it is alive, so that its memory is not another's by now
        return kept is not None and kept.data_ptr() == value.data_ptr()
