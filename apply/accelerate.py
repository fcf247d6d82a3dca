"""Jumps in an Accelerate run: a tracker. Needs the extra ``weightcast[accelerate]``."""

from __future__ import annotations

from typing import Any, Self

from torch import nn

from weightcast.apply.callback import TrainerJumps
from weightcast.apply.live import LiveJumps
from weightcast.store import MissingExtraError

try:
    from accelerate.tracking import GeneralTracker
except ImportError as error:
    raise MissingExtraError(
        "jumps in an Accelerate run need accelerate: pip install 'weightcast[accelerate]'"
    ) from error


class JumpWeights(TrainerJumps, GeneralTracker):
    """Makes the weights of a prepared model jump in a loop written with Accelerate.

    Parameters are those of `TrainerJumps`. A tracker, so that ``accelerator.end_training`` ends the
    jumps. Accelerate tells trackers nothing of models: call `watch` right before the loop. The step
    counts optimizer steps really taken: not batches within ``accelerator.accumulate``, not those
    that mixed precision skipped. Only you know the end of training: give it as ``end``. To resume,
    register it with ``accelerator.register_for_checkpointing``: after ``accelerator.load_state``
    the run goes on bit for bit as if it had not stopped. What happens is logged at
    ``weightcast.apply``; for other trackers give a ``listener``, as below.

    Call `watch` before that of a `RecordWeights`: the history then has the weights after a jump.

    Examples
    --------
    >>> log = lambda event: accelerator.log({f"jump {event.kind}": event.jump}, step=event.step)
    >>> jumps = JumpWeights("line", every=1000, end=10_000, listener=log)
    >>> accelerator = Accelerator(log_with=jumps)  # doctest: +SKIP
    >>> model, optimizer = accelerator.prepare(model, optimizer)  # doctest: +SKIP
    >>> accelerator.init_trackers("run")  # doctest: +SKIP
    >>> jumps.watch(model, optimizer)  # doctest: +SKIP
    """

    name = "weightcast-jumps"
    requires_logging_directory = False
    main_process_only = False  # all ranks jump

    @property
    def tracker(self) -> LiveJumps | None:
        """The jumps: None before `watch` and after the end."""
        return self.live

    def watch(self, model: nn.Module, *optimizers: Any) -> Self:
        """Begin, with the weights that the model has; call it after ``prepare``.

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
        UsageError
            If the jumps cannot be; see `TrainerJumps`.
        """
        self._begin(model, optimizers, self._loaded)
        return self

    def finish(self) -> None:
        """End the jumps."""
        self._close()
