"""Jumps, and skipped updates, in an Accelerate run: trackers.

They need the extra ``weightcast[accelerate]``.
"""

from __future__ import annotations

from typing import Any, Self

from torch import nn

from weightcast.apply.callback import TrainerJumps
from weightcast.apply.live import LiveJumps
from weightcast.apply.skip_callback import TrainerSkips
from weightcast.apply.skip_events import SkipEvent
from weightcast.apply.skipper import UpdateSkipper
from weightcast.store import MissingExtraError, UsageError

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


class SkipUpdates(TrainerSkips, GeneralTracker):
    """Skips weight updates of a prepared model in a loop written with Accelerate.

    Parameters are those of `TrainerSkips`. A tracker, so that ``accelerator.end_training`` ends the
    skipping. Call `watch` right before the loop, and `update` after each evaluation, on all
    processes. To resume, register it with ``accelerator.register_for_checkpointing``: after
    ``accelerator.load_state`` the run goes on bit for bit as if it had not stopped. What is decided
    is logged at ``weightcast.apply``; for other trackers give a ``listener``. Of several processes,
    prepare the model with ``DistributedDataParallelKwargs(find_unused_parameters=True)``.

    Examples
    --------
    >>> skips = SkipUpdates(threshold=0.001, window=3)
    >>> accelerator = Accelerator(log_with=skips)  # doctest: +SKIP
    >>> model, optimizer = accelerator.prepare(model, optimizer)  # doctest: +SKIP
    >>> accelerator.init_trackers("run")  # doctest: +SKIP
    >>> skips.watch(model, optimizer)  # doctest: +SKIP
    >>> skips.update(accuracy)  # after each evaluation  # doctest: +SKIP
    """

    name = "weightcast-skips"
    requires_logging_directory = False
    main_process_only = False  # all ranks skip

    @property
    def tracker(self) -> UpdateSkipper | None:
        """The skipper: None before `watch` and after the end."""
        return self.skipper

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
        UsageError
            If the model's weights cannot be skipped; see `UpdateSkipper`.
        """
        self._begin(model, optimizers, self._loaded)
        return self

    def update(self, value: float) -> SkipEvent:
        """Take in an evaluation, and decide; see `UpdateSkipper.update`.

        Raises
        ------
        UsageError
            If nothing is watched, or it is not a number.
        """
        if self.skipper is None:
            raise UsageError("an evaluation decides within training: call watch before the loop")
        return self.skipper.update(value)

    def finish(self) -> None:
        """Train all weights again."""
        self._close()
