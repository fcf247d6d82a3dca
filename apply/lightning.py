"""Jumps, and skipped updates, in a Lightning run: callbacks.

They need the extra ``weightcast[lightning]``.
"""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

from weightcast.apply.callback import TrainerJumps, unseen
from weightcast.apply.skip_callback import TrainerSkips, better_by_name
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
                "jumps in a Lightning run need lightning: pip install 'weightcast[lightning]'"
            ) from error


class JumpWeights(TrainerJumps, Callback):
    """Makes the weights of a ``LightningModule`` jump while a Lightning ``Trainer`` fits it.

    Parameters are those of `TrainerJumps`. The step counts optimizer steps really taken: not
    batches whose gradients accumulate, not those that mixed precision skipped. In manual
    optimization with several optimizers, a step is a round in which each of them steps once; see
    `Rounds`. In automatic optimization the trainer knows the end of training. Where it resumes
    (``ckpt_path``), the run goes on bit for bit as if it had not stopped. What happens is logged at
    ``weightcast.apply``, and counted in the trainer's loggers. With ``fast_dev_run`` nothing jumps.

    Put it before a callback that records weights: the history then has those after a jump.

    Examples
    --------
    >>> jumps = JumpWeights("line", every=1000)
    >>> trainer = Trainer(max_steps=10_000, callbacks=[jumps])  # doctest: +SKIP
    """

    @property
    def state_key(self) -> str:
        """What the callback's state is called in a checkpoint."""
        return "weightcast.JumpWeights"

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin, with the weights that training starts from."""
        if trainer.fast_dev_run:
            return
        state = None
        if step := trainer.global_step:
            # without a checkpoint it is a second fit of the same trainer, which goes on
            state = (self._loaded if trainer.ckpt_path else self._ended) or unseen(step)
        self._begin(
            pl_module,
            trainer.optimizers,
            state,
            end=_end(trainer, pl_module),
            tell=lambda: self._log(trainer),
        )

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """End the jumps."""
        self._close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """End the jumps when the run fails or is interrupted."""
        self._close()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """End the jumps, if nothing has yet."""
        self._close()

    def _log(self, trainer: Any) -> None:
        # not through the module's log, which writes at some steps only
        for logger in trainer.loggers:
            logger.log_metrics(self._counts(), step=trainer.global_step)


class SkipUpdates(TrainerSkips, Callback):
    """Skips weight updates while a Lightning ``Trainer`` fits a module and little is gained.

    Each validation is an evaluation; without validation, each epoch of training. Where the trainer
    resumes (``ckpt_path``), the run goes on bit for bit as if it had not stopped. What is decided
    is logged at ``weightcast.apply``, and in the trainer's loggers as ``skip/skipping``,
    ``skip/value`` and ``skip/gain``. Under DDP the trainer needs
    ``strategy="ddp_find_unused_parameters_true"``. With ``fast_dev_run`` nothing is skipped.

    Parameters
    ----------
    monitor : str
        A metric that the module logs, and that is there when validation ends: not one of training
        that is logged with ``on_epoch=True``, which comes later. If it is not there, training stops
        with an error that names those that are.
    **options
        Of `TrainerSkips`; ``better`` is by default "lower" for a name that ends in "loss".

    Examples
    --------
    >>> skips = SkipUpdates("val_acc", threshold=0.001, window=3)
    >>> trainer = Trainer(max_epochs=90, callbacks=[skips])  # doctest: +SKIP
    """

    def __init__(self, monitor: str, **options: Any) -> None:
        super().__init__(**{"better": better_by_name(monitor), **options})
        self.monitor = monitor

    @property
    def state_key(self) -> str:
        """What the callback's state is called in a checkpoint."""
        return "weightcast.SkipUpdates"

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin, with the weights that training starts from."""
        if trainer.fast_dev_run:
            return
        state = self._loaded if trainer.ckpt_path else self._ended
        self._begin(trainer.model, trainer.optimizers, state if trainer.global_step else None)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Decide, if this is a validation of training."""
        if not trainer.sanity_checking:
            self._evaluate(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Decide, if nothing is validated."""
        if not trainer.enable_validation:
            self._evaluate(trainer)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Train all weights again."""
        self._close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Train all weights again when the run fails or is interrupted."""
        self._close()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Train all weights again, if nothing has yet."""
        self._close()

    def _evaluate(self, trainer: Any) -> None:
        decided = self._decide(trainer.callback_metrics, self.monitor)
        if decided:
            for logger in trainer.loggers:
                logger.log_metrics(decided, step=trainer.global_step)


def _end(trainer: Any, pl_module: Any) -> int | None:
    """The last optimizer step, as far as the trainer knows it."""
    if not pl_module.automatic_optimization:  # how often a batch steps is for the module to say
        return None
    steps = trainer.estimated_stepping_batches
    return int(steps) if 0 < steps < math.inf else None
