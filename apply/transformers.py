"""Jumps in a Transformers run: a callback. Needs the extra ``weightcast[transformers]``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch.utils.hooks import RemovableHandle

from weightcast.apply.callback import TrainerJumps, is_sharded, unseen
from weightcast.recorder.step import plain_optimizer
from weightcast.store import MissingExtraError

try:
    from transformers.trainer_callback import TrainerCallback
except ImportError as error:
    raise MissingExtraError(
        "jumps in a Transformers run need transformers: pip install 'weightcast[transformers]'"
    ) from error

KEY = "weightcast.JumpWeights"  # of the jumps, among the state of parameters in optimizer.pt


class JumpWeights(TrainerJumps, TrainerCallback):
    """Makes the weights of a model jump while the ``Trainer`` of Transformers trains it.

    Parameters are those of `TrainerJumps`. The step counts optimizer steps really taken: not
    batches whose gradients accumulate, not those that mixed precision skipped. The trainer knows
    the end of training. Where it resumes (``resume_from_checkpoint``), the run goes on bit for bit
    as if it had not stopped: what that takes is in the checkpoint's ``optimizer.pt``, which is the
    one file of tensors that the trainer reads back for us wherever a checkpoint has been moved to.
    What happens is logged at ``weightcast.apply``, and counted in the trainer's ``log_history``.
    The trainer calls nothing back when its loop fails: use ``with``, as below, to end the jumps.

    Put it before a callback that records weights: the history then has those after a jump.

    Examples
    --------
    >>> with JumpWeights("line", every=1000) as jumps:
    ...     trainer = Trainer(model, args, callbacks=[jumps])  # doctest: +SKIP
    ...     trainer.train()  # doctest: +SKIP
    """

    _handle: RemovableHandle | None = None
    _told = 0  # events that are in the trainer's log

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin, with the weights that training starts from."""
        optimizer = plain_optimizer(kwargs["optimizer"])
        states: dict[Any, Any] = optimizer.state
        saved = states.pop(KEY, {})  # torch keeps keys that are no parameters
        jumps = None
        if step := state.global_step:
            # what is there may be older, where training went on without the callback for a while
            jumps = saved["jumps"] if saved.get("trainer_step") == step else unseen(step)
        if self._guard is not None:  # the trainer divides by how many batches a step really has
            self._guard = replace(self._guard, summed=True)
        self._begin(kwargs["model"], [optimizer], jumps, end=state.max_steps)
        self._told = len(self.events)
        if not is_sharded(kwargs["model"]):  # those are saved by other means, which know no keys

            def add(_: Any, saved: dict[str, Any]) -> None:
                saved["state"][KEY] = {
                    "trainer_step": state.global_step,
                    "jumps": self.state_dict(),
                }

            self._handle = optimizer.register_state_dict_post_hook(add)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Log what happened."""
        if len(self.events) > self._told:
            self._told = len(self.events)
            entry = {**self._counts(), "epoch": state.epoch, "step": state.global_step}
            state.log_history.append(entry)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """End the jumps."""
        self._close()

    def _close(self) -> None:
        super()._close()
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
