"""Jumps, and skipped updates, in a Transformers run: callbacks.

They need the extra ``weightcast[transformers]``.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from torch.utils.hooks import RemovableHandle

from weightcast.apply.callback import TrainerJumps, is_sharded, unseen
from weightcast.apply.skip_callback import TrainerSkips, better_by_name
from weightcast.recorder.step import plain_optimizer
from weightcast.store import MissingExtraError

try:
    from transformers.trainer_callback import ExportableState, TrainerCallback
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


class SkipUpdates(TrainerSkips, TrainerCallback, ExportableState):
    """Skips weight updates while the ``Trainer`` of Transformers trains and little is gained.

    Each evaluation within training decides (``eval_strategy``). Where the trainer resumes
    (``resume_from_checkpoint``), the run goes on bit for bit as if it had not stopped. What is
    decided is logged at ``weightcast.apply``, and in the trainer's ``log_history`` as
    ``skip/skipping``, ``skip/value`` and ``skip/gain``. The trainer calls nothing back when its
    loop fails: use ``with``, as below, to train all weights again.

    Parameters
    ----------
    metric : str
        Of the evaluation, with or without ``eval_``; of several data sets, such as
        ``"eval_a_loss"``. If it is not there, the next step stops training with an error that names
        those that are.
    **options
        Of `TrainerSkips`; ``better`` is by default "lower" for a name that ends in "loss".

    Examples
    --------
    >>> with SkipUpdates("eval_accuracy", threshold=0.001) as skips:
    ...     trainer = Trainer(model, args, callbacks=[skips])  # doctest: +SKIP
    ...     trainer.train()  # doctest: +SKIP
    """

    _trainer_step = 0  # at the last checkpoint

    def __init__(self, metric: str = "eval_loss", **options: Any) -> None:
        super().__init__(**{"better": better_by_name(metric), **options})
        self.metric = metric if metric.startswith("eval_") else f"eval_{metric}"
        self._seen: dict[str, float] = {}  # metrics of the evaluations since the last step

    def state(self) -> dict[str, Any]:
        """What the callback is made from, and its state, for the trainer's checkpoints."""
        saved = {"trainer_step": self._trainer_step, "skips": self.state_dict()}
        return {"args": {"metric": self.metric, **asdict(self.rule)}, "attributes": saved}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin, with the weights that training starts from."""
        name, step = type(self).__name__, state.global_step
        saved = state.stateful_callbacks.get(name, {}).get("attributes", {})
        # what is there may be older, where training went on without the callback for a while
        going_on = bool(step) and saved.get("trainer_step") == step
        self._seen = {}
        self._begin(kwargs["model"], [kwargs["optimizer"]], saved["skips"] if going_on else None)
        # the trainer looks for it there when it saves; a checkpoint from before lacks it
        state.stateful_callbacks.setdefault(name, self.state())

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Check that one of the evaluations before had the metric: each data set has its own."""
        seen, self._seen = self._seen, {}
        if seen:
            self._value_of(seen, self.metric)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Know which step a checkpoint is of."""
        self._trainer_step = state.global_step

    def on_evaluate(
        self,
        args: Any,
        state: Any,
        control: Any,
        metrics: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Decide, if this is an evaluation within training."""
        found = metrics or {}
        self._seen |= found
        decided = self._decide(found, self.metric) if self.metric in found else {}
        if decided:
            entry = {**decided, "epoch": state.epoch, "step": state.global_step}
            state.log_history.append(entry)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Train all weights again."""
        self._close()
