"""When to skip updating weights: a rule over the evaluations of a run, as plain data.

::

    evaluation   1    2    3    4    5    6    7    8    9    10   ...       window 3
    accuracy    .50  .70  .80  .85  .85  .85  .85  .85  .85  .85
                before |--- last ---|    entered             left: 3 evaluations
                                         |--- weights skipped ---|--- trained, at least 3 ---

What is done about it is in `freezing` and `skipper`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Literal

from weightcast.apply.reach import whole
from weightcast.store import UsageError

Better = Literal["higher", "lower"]
Kind = Literal["training", "entered", "skipping", "left"]


@dataclass(frozen=True)
class SkipState:
    """What the rule remembers from one evaluation to the next.

    Attributes
    ----------
    recent : tuple of float
        The last evaluations, at most two windows of them.
    trained : int
        Evaluations since weights were last skipped.
    skipped : int
        Evaluations since the rule began to skip; 0 if it does not.
    entered : float or None
        The evaluation at which it began to skip; None if it does not.
    """

    recent: tuple[float, ...] = ()
    trained: int = 0
    skipped: int = 0
    entered: float | None = None

    @property
    def skipping(self) -> bool:
        """Whether weights are to be skipped from here on."""
        return self.entered is not None


@dataclass(frozen=True)
class SkipDecision:
    """What the rule makes of one evaluation.

    Attributes
    ----------
    kind : {"training", "entered", "skipping", "left"}
        Weights go on being trained, are skipped from now on, go on being skipped, or are trained
        from now on.
    gain : float or None
        By which it was decided; None if there are too few evaluations, or one that is not finite.
    reason : str
    """

    kind: Kind
    gain: float | None
    reason: str


@dataclass(frozen=True)
class SkipRule:
    """Skip weights after evaluations that gained little; train them again soon.

    The gain is the best of the last `window` evaluations minus the best of the `window` before
    them, as far as there are so many. If it is below the threshold, weights are skipped from there
    on, until an evaluation is worse by more than the threshold than that at which this began, or
    `longest` evaluations have passed. Then they are trained for at least `window` evaluations
    before they are judged again.

    Parameters
    ----------
    threshold : float
        Where higher is better: in the units of the evaluations, 0.001 for accuracies from 0 to 1
        (0.1 for per cent: nobody else can know). Where lower is better: a share of the value that
        is compared with, from 0 to 1; of the value 0, absolute.
    window : int
        Evaluations.
    better : {"higher", "lower"}
        Accuracies or losses.
    longest : int, optional
        Evaluations that weights are skipped at a time, at most; by default `window`.

    Raises
    ------
    UsageError
        If an option breaks its rule.

    Notes
    -----
    The idea is Weight Update Skipping, Safayenikoo and Akturk 2020 (arXiv 2012.02792): improvements
    of the accuracy vary with time, and weights need no update while "the variation is minuscule";
    biases are still updated. Its abstract states neither how that is measured nor when it ends:
    gain, window, and the ways out are ours.

    Examples
    --------
    >>> rule, state = SkipRule(window=2), SkipState()
    >>> for accuracy in (0.8, 0.9, 0.9, 0.9004, 0.9, 0.9, 0.91):
    ...     state, decision = rule.judge(state, accuracy)
    ...     print(accuracy, decision.kind)
    0.8 training
    0.9 training
    0.9 training
    0.9004 entered
    0.9 skipping
    0.9 left
    0.91 training
    >>> print(rule)
    skip weights when 2 evaluations gain less than 0.001, for at most 2 evaluations
    """

    threshold: float = 0.001
    window: int = 3
    better: Better = "higher"
    longest: int | None = None

    def __post_init__(self) -> None:
        if self.better not in ("higher", "lower"):
            raise UsageError(f"better is 'higher' or 'lower': got {self.better!r:.60}")
        whole("a skipping rule's window, in evaluations,", self.window)
        if self.longest is not None:
            whole("longest, the evaluations that weights are skipped at most,", self.longest)
        most = math.inf if self.better == "higher" else 1
        real = isinstance(self.threshold, Real) and not isinstance(self.threshold, bool)
        if not (real and 0 <= self.threshold <= most and math.isfinite(self.threshold)):
            limit = "0 on" if self.better == "higher" else "0 to 1, a share of the loss"
            raise UsageError(
                f"threshold, where {self.better} is better, is a number from {limit}: "
                f"got {self.threshold!r:.60}"
            )

    @property
    def most(self) -> int:
        """Evaluations that weights are skipped at a time, at most."""
        return self.longest or self.window

    def gain(self, value: float, before: float) -> float:
        """How much better a value is than one before it, in the threshold's units.

        Examples
        --------
        >>> SkipRule().gain(0.75, 0.5), SkipRule(better="lower").gain(3.0, 4.0)
        (0.25, 0.25)
        """
        if self.better == "higher":
            return value - before
        return (before - value) / (abs(before) or 1.0)

    def judge(self, state: SkipState, value: float) -> tuple[SkipState, SkipDecision]:
        """Decide after one more evaluation.

        Parameters
        ----------
        state : SkipState
            As after the evaluation before; ``SkipState()`` at the beginning.
        value : float
            What is not finite ends skipping; the rule then begins anew.

        Returns
        -------
        tuple of SkipState and SkipDecision
        """
        if not math.isfinite(value):
            kind: Kind = "left" if state.skipping else "training"
            reason = f"the evaluation is {value}, which cannot be judged: the rule begins anew"
            return SkipState(), SkipDecision(kind, None, reason)
        recent = (*state.recent, value)[-2 * self.window :]
        if state.entered is not None:
            return self._go_on(recent, state.skipped + 1, state.entered)
        return self._begin(recent, state.trained + 1)

    def _begin(self, recent: tuple[float, ...], trained: int) -> tuple[SkipState, SkipDecision]:
        """Decide while weights are trained."""
        before, last = recent[: -self.window], recent[-self.window :]
        if trained < self.window or not before:
            need = self.window + (len(recent) == trained)
            reason = (
                f"{trained} of the {need} evaluations with weights trained that a verdict needs"
            )
            return SkipState(recent, trained), SkipDecision("training", None, reason)
        best = max if self.better == "higher" else min
        gain = self.gain(best(last), best(before))
        low = gain < self.threshold
        reason = (
            f"the best of the last {self.window} evaluations gains {self._said(gain)} on the best "
            f"of the {len(before)} before, {'less than' if low else 'at least'} "
            f"{self._said(self.threshold)}"
        )
        if low:
            return SkipState(recent, 0, 0, recent[-1]), SkipDecision("entered", gain, reason)
        return SkipState(recent, trained), SkipDecision("training", gain, reason)

    def _go_on(
        self, recent: tuple[float, ...], skipped: int, entered: float
    ) -> tuple[SkipState, SkipDecision]:
        """Decide while weights are skipped."""
        gain = self.gain(recent[-1], entered)
        if gain < -self.threshold:
            reason = (
                f"it is worse by {self._said(-gain)} than when weights began to be skipped, more "
                f"than {self._said(self.threshold)}"
            )
            return SkipState(recent), SkipDecision("left", gain, reason)
        reason = f"weights were skipped for {skipped} of at most {self.most} evaluations"
        if skipped >= self.most:
            return SkipState(recent), SkipDecision("left", gain, reason)
        return SkipState(recent, 0, skipped, entered), SkipDecision("skipping", gain, reason)

    def _said(self, gain: float) -> str:
        return f"{gain:.3g}" if self.better == "higher" else f"{100 * gain:.3g} %"

    def __str__(self) -> str:
        many = f"{self.most} evaluation{'s' * (self.most > 1)}"
        return (
            f"skip weights when {self.window} evaluation{'s' * (self.window > 1)} "
            f"gain{'s' * (self.window == 1)} less than {self._said(self.threshold)}, for at most "
            f"{many}"
        )
