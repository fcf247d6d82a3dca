"""What the callbacks of training libraries have in common: the skipper of their run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from torch import nn

from weightcast.apply.skip_events import SkipEvent, SkipSummary
from weightcast.apply.skip_rule import Better, SkipRule
from weightcast.apply.skipper import UpdateSkipper
from weightcast.recorder.distributed import writes_here
from weightcast.recorder.recording import Recorder
from weightcast.store import UsageError

State = dict[str, Any]


class TrainerSkips:
    """Skipped weight updates that begin and end with a library's training loop.

    All ranks of a distributed run begin and end them, and have the evaluations.

    Parameters
    ----------
    threshold, window, better, longest
        Of `SkipRule`.
    history : RecordWeights, optional
        Of the same library and run, and begun before: its history keeps each decision, as metrics
        ``skip/skipping``, ``skip/value`` and ``skip/gain``.
    listener : callable, optional
        Called with each `SkipEvent`.

    Attributes
    ----------
    rule : SkipRule
    skipper : UpdateSkipper or None
        While training.

    Raises
    ------
    UsageError
        If an option breaks its rule; or, when training begins, if the model's weights cannot be
        skipped.
    """

    def __init__(
        self,
        *,
        threshold: float = 0.001,
        window: int = 3,
        better: Better = "higher",
        longest: int | None = None,
        history: Any = None,
        listener: Callable[[SkipEvent], object] | None = None,
    ) -> None:
        self.rule = SkipRule(threshold, window, better, longest)
        if history is not None and not hasattr(history, "_recording"):
            raise UsageError(
                f"history is the RecordWeights of the same library: got a {type(history).__name__}"
            )
        self.skipper: UpdateSkipper | None = None
        self._history, self._listener = history, listener
        self._events: list[SkipEvent] = []
        self._summary: SkipSummary | None = None
        self._loaded: State | None = None  # of a checkpoint, until training begins
        self._ended: State | None = None  # where training ended

    @property
    def events(self) -> list[SkipEvent]:
        """What was decided at each evaluation, and why, in order."""
        return self._events if self.skipper is None else self.skipper.events

    def summary(self) -> SkipSummary | None:
        """The skipping so far, counted; None before training."""
        return self._summary if self.skipper is None else self.skipper.summary()

    def state_dict(self) -> State:
        """All that a resumed run needs beside weights and optimizer state, for a checkpoint."""
        if self.skipper is not None:
            return self.skipper.state_dict()
        return self._loaded or self._ended or {}

    def load_state_dict(self, state_dict: State) -> None:
        """Go on from a checkpoint: when training begins, or now if it has begun."""
        if self.skipper is not None:
            self.skipper.load_state_dict(state_dict)
        else:
            self._loaded = dict(state_dict) or None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _begin(self, model: nn.Module, optimizers: Sequence[Any], state: State | None) -> None:
        """Begin, right before training does.

        Parameters
        ----------
        model : nn.Module
            With or without wrappers.
        optimizers : sequence of optimizer
            Those that train it, with or without the library's wrappers.
        state : dict, optional
            Of a checkpoint that training goes on from.
        """
        self._close()
        skipper = UpdateSkipper(
            model,
            optimizers,
            rule=self.rule,
            history=self._recorder(),
            listener=self._listener,
        )
        try:
            if state:
                skipper.load_state_dict(state)
        except BaseException:
            skipper.close()
            raise
        self.skipper, self._loaded, self._ended = skipper, None, None

    def _recorder(self) -> Recorder | None:
        if self._history is None:
            return None
        recorder: Recorder | None = self._history._recording.recorder
        if recorder is None and writes_here():
            raise UsageError(
                "a RecordWeights that keeps decisions must begin before SkipUpdates: put it before "
                "this one in callbacks, or call its watch first"
            )
        return recorder

    def _decide(self, metrics: Mapping[str, Any], name: str) -> dict[str, float]:
        """Take an evaluation from a library's metrics; gives what to log of it.

        Raises
        ------
        UsageError
            If it is not there.
        """
        if self.skipper is None:
            return {}
        event = self.skipper.update(self._value_of(metrics, name))
        gain = {} if event.gain is None else {"skip/gain": event.gain}
        skipping = float(self.skipper.skipping)
        return {"skip/skipping": skipping, "skip/value": event.value, **gain}

    def _value_of(self, metrics: Mapping[str, Any], name: str) -> Any:
        if name not in metrics:
            raise UsageError(
                f"SkipUpdates decides by the metric {name!r}, which is not there when the "
                f"evaluation ends, but {', '.join(sorted(map(str, metrics))) or 'nothing'}: log it "
                "in the evaluation (an epoch's mean of training comes later), or give the name of "
                "another"
            )
        return metrics[name]

    def _close(self) -> None:
        """Train all weights again. Without a skipper, nothing happens."""
        skipper, self.skipper = self.skipper, None
        if skipper is not None:
            self._ended = skipper.state_dict()
            self._events, self._summary = skipper.events, skipper.summary()
            skipper.close()


def better_by_name(name: str) -> Better:
    """Which values of a metric are better, by its name, as Transformers' ``greater_is_better``.

    Examples
    --------
    >>> better_by_name("val_loss"), better_by_name("eval_accuracy")
    ('lower', 'higher')
    """
    return "lower" if name.lower().endswith("loss") else "higher"
