"""Judging jumps while a run goes on: the losses that it shows, and what the guard makes of them."""

from __future__ import annotations

import math
import weakref
from bisect import bisect_left
from collections.abc import Callable
from typing import Any, ClassVar

import torch

from weightcast.apply.guard import STEPS, Guard
from weightcast.apply.keeping import own_randomness
from weightcast.apply.losses import CPU, LossLog
from weightcast.apply.plan import JumpPlan
from weightcast.apply.ranks import mean_of_ranks, shared
from weightcast.apply.tapping import tap
from weightcast.apply.verdict import FEWEST, judge
from weightcast.store import UsageError

LOOKS = 10  # steps between two looks at a loss of another device or rank: each look waits for it

Loss = tuple[int, float]


class Judge:
    """Follows the losses of a run, from when it is made until it is closed.

    Parameters
    ----------
    guard : Guard
        Settled for the plan.
    plan : JumpPlan
    device : torch.device
        As for `LossLog`.

    Attributes
    ----------
    jump : int or None
        The jump that is on probation.
    """

    EMPTY: ClassVar[dict[str, Any]] = {
        "log": {"losses": [], "highest": math.nan},
        "probe": False,
        "probed": [],
        "before": [],
        "highest": math.nan,
        "jump": None,
        "free": 0,
    }

    def __init__(self, guard: Guard, plan: JumpPlan, device: torch.device = CPU) -> None:
        self.guard, self._points, self._last = guard, plan.points, plan.end
        self._steps = guard.steps or STEPS
        self._window, self._every = guard.window or 2 * self._steps, guard.every or 1
        self.jump: int | None = None
        self._log = LossLog(self._steps + self._window + 1, device, summed=guard.summed)
        self._probed: list[Loss] = []
        self._before: list[Loss] = []
        self._highest = math.nan
        self._free = 0  # where the last probation ended; losses from before tell nothing of now
        self._seen = False
        tap.listen(self._log.add)
        self._leave = weakref.finalize(self, tap.leave, self._log.add)  # also if nobody closes it

    def hear(self, loss: torch.Tensor) -> None:
        """Take a loss of the step that is being taken, shown before this was made."""
        self._log.add(loss)

    def close(self) -> None:
        """Follow no more."""
        self._leave()

    def see(self, step: int) -> None:
        """A step was taken.

        Raises
        ------
        UsageError
            If the first one showed no loss, and there is no probe.
        """
        self._log.end(step)
        if self.guard.probe is None:
            if not (self._seen or len(self._log)):
                raise UsageError(
                    "a guard judges by the loss that backward is called on, and the first step "
                    "had none: give it a function that tells the loss (Guard(probe=...)), or jump "
                    "without a guard (guard=None, --no-guard)"
                )
            self._seen = True
        elif self._is_due(step):
            self._probe(self.guard.probe, step)

    def ready(self, t: int) -> str:
        """Why a jump at t, which is now, could not be judged; empty if it can be."""
        if self._last is not None and t + self._steps > self._last:
            return f"training ends at {self._last}, before its probation of {self._steps} steps"
        self._before = self._trend(t)
        if len(self._before) >= FEWEST:
            return ""
        return f"its guard has seen {len(self._before)} losses, and needs {FEWEST}"

    def begin(self, t: int) -> None:
        """A jump was made."""
        self.jump, self._highest = t, self._log.highest

    def verdict(self, step: int) -> tuple[bool, str] | None:
        """Whether the jump on probation is kept, and why; None while that is open."""
        if self.jump is None:
            return None
        if bad := self._exploded(step, self.jump):
            return self._end(step, False, bad)
        if step < self.jump + self._steps:
            return None
        after = self._losses(self.jump + 1, step + 1)
        if any(bad := self._wrong(loss, math.nan) for _, loss in after):
            return self._end(step, False, bad)
        if not after:
            return self._end(step, True, "there was no loss to judge it by")
        if not self._before:
            return self._end(step, True, "the losses before it were another guard's")
        found = judge(self._before, after, self.guard.tolerance)
        return self._end(step, found.kept, str(found))

    def _end(self, step: int, kept: bool, why: str) -> tuple[bool, str]:
        self.jump, self._free = None, step
        if not kept:
            self._log.forget_since(self._highest)
        return kept, why

    def _exploded(self, step: int, jump: int) -> str:
        """What is wrong with the latest losses, if they are not to be waited for any longer."""
        if self._probed and self._probed[-1][0] > jump:
            highest = max((loss for _, loss in self._before), default=math.nan)
            if bad := self._wrong(self._probed[-1][1], highest):
                return bad
        waits = shared() or not self._log.is_local
        if waits and step < jump + self._steps and (step - jump) % LOOKS:
            return ""
        latest = self._log.latest
        if latest is None or latest[0] <= jump:
            return ""
        return self._wrong(latest[1], self._highest)

    def _wrong(self, loss: float, highest: float) -> str:
        """What is wrong with a loss after a jump, whatever the others are."""
        if not math.isfinite(loss):
            return f"its loss is {loss}"
        limit = self.guard.explosion * highest
        if highest > 0 and loss > limit:
            times = f"{self.guard.explosion:g} times the highest before it"
            return f"its loss of {loss:.4g} is over {limit:.4g}, {times}"
        return ""

    def _trend(self, t: int) -> list[Loss]:
        """The losses before a jump."""
        found = self._losses(max(t - self._window, self._free) + 1, t + 1)
        return [(step, loss) for step, loss in found if math.isfinite(loss)]

    def _losses(self, low: int, high: int) -> list[Loss]:
        if self.guard.probe is None:
            return self._log.read(low, high)
        return [(step, loss) for step, loss in self._probed if low <= step < high]

    def _is_due(self, step: int) -> bool:
        """Whether the probe is called after this step."""
        if self.jump is not None and (step - self.jump) % self._every == 0:
            return True
        place = bisect_left(self._points, step)
        left = self._points[place] - step if place < len(self._points) else self._window
        return left < self._window and left % self._every == 0

    def _probe(self, probe: Callable[[], float], step: int) -> None:
        with torch.no_grad(), own_randomness():
            loss: Any = probe()
        try:
            if isinstance(loss, str):
                raise TypeError
            found = float(loss)
        except (TypeError, ValueError, RuntimeError):
            raise UsageError(f"a guard's probe must give one number: got {loss!r:.60}") from None
        self._probed.append((step, mean_of_ranks(found)))
        self._probed = [p for p in self._probed if p[0] > step - self._window - self._steps]

    def state_dict(self) -> dict[str, Any]:
        """All of it, as plain values."""
        return {
            "log": self._log.state_dict(),
            "probe": self.guard.probe is not None,
            "probed": [list(pair) for pair in self._probed],
            "before": [list(pair) for pair in self._before],
            "highest": self._highest,
            "jump": self.jump,
            "free": self._free,
        }

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Take back what `state_dict` gave; None is the state of a run that had no guard.

        A jump on probation is judged by this guard. If one of the two has a probe and the other
        none, its losses before and after cannot be compared, and it is kept unless it explodes.
        """
        if state is None:
            state = Judge.EMPTY
        self._log.load_state_dict(state["log"])
        self._probed = [(int(step), float(loss)) for step, loss in state["probed"]]
        same = state["probe"] == (self.guard.probe is not None)
        before = state["before"] if same else []
        self._before = [(int(step), float(loss)) for step, loss in before]
        self._highest, self._free = float(state["highest"]), int(state["free"])
        self.jump = None if state["jump"] is None else int(state["jump"])
