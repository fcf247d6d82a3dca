"""The losses of a run, step by step, on the device where they are."""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
import torch.distributed as dist

from weightcast.apply.ranks import common_device, shared, summing

CPU = torch.device("cpu")
MOST = 4096  # losses of one step: a model that never steps shows no end of them


class LossLog:
    """The losses of the last steps, kept on their own device until they are read.

    Of several in one step the mean is kept: micro-batches whose gradients accumulate, or a closure
    that is called again and again; or their sum, where they are parts of one. Those that are not
    finite do not count beside others: ``GradScaler`` skipped their step. Of several ranks the mean
    of those that have a loss is kept, so that all keep the same; each has to end the same steps.

    Parameters
    ----------
    kept : int
        Steps.
    device : torch.device
        Where ranks put their losses together, if their backend can.
    summed : bool
        Keep the sum of several in one step.

    Examples
    --------
    >>> log = LossLog(2)
    >>> for step in (1, 2, 3):
    ...     log.add(torch.tensor(float(step)))
    ...     log.end(step)
    >>> log.read(), log.highest
    ([(2, 2.0), (3, 3.0)], 3.0)
    """

    def __init__(self, kept: int, device: torch.device = CPU, *, summed: bool = False) -> None:
        # a step, its loss, and whether it has one: of ranks that is known when it is read
        self._kept: deque[tuple[int, torch.Tensor, bool | torch.Tensor]] = deque(maxlen=kept)
        self._device = device
        self._awaited: tuple[int, torch.Tensor, dist.Work] | None = None
        self._now: deque[torch.Tensor] = deque(maxlen=MOST)
        self._summed = summed
        self._highest: torch.Tensor | None = None

    @torch.no_grad()
    def add(self, loss: torch.Tensor) -> None:
        """Take a loss of the step that is being taken; no device waits."""
        # a tensor of its own: a script may change its loss in place
        self._now.append(loss.detach().reshape(()) + 0)

    @torch.no_grad()
    def end(self, step: int) -> None:
        """The step was taken; without a loss there is none of it."""
        self._settle()
        now = self._of_step()
        self._now.clear()
        if shared():
            pair = torch.zeros(2, dtype=torch.float64, device=common_device(self._device))
            if now is not None:
                pair[0].copy_(now)
                pair[1].fill_(1)
            self._awaited = step, pair, summing(pair)
        elif now is not None:
            self._keep(step, now, True)

    def _of_step(self) -> torch.Tensor | None:
        """The one loss of the step that ends."""
        if len(self._now) < 2:
            return self._now[0] if self._now else None
        losses = torch.stack([loss.to(self._now[-1]) for loss in self._now])
        finite = losses.isfinite()
        total = torch.where(finite, losses, 0).sum()
        whole = torch.where(finite.any(), total, losses[-1])
        return whole if self._summed else whole / finite.sum().clamp(min=1)

    @torch.no_grad()
    def _settle(self) -> None:
        """Take the losses that ranks have put together since the last step."""
        if self._awaited is not None:
            (step, pair, work), self._awaited = self._awaited, None
            work.wait()
            self._keep(step, pair[0] / pair[1], pair[1] > 0)

    def _keep(self, step: int, now: torch.Tensor, there: bool | torch.Tensor) -> None:
        self._kept.append((step, now, there))
        known = torch.where(now.isfinite(), now, torch.nan)
        highest = self._highest
        self._highest = known if highest is None else torch.fmax(highest.to(known), known)

    def forget_since(self, highest: float) -> None:
        """Make the highest loss what it was before: the later ones were of a jump taken back."""
        self._settle()
        self._highest = torch.tensor(highest, dtype=torch.float64)

    def __len__(self) -> int:
        self._settle()
        return sum(bool(there) for _, _, there in self._kept)

    @property
    def highest(self) -> float:
        """The highest finite loss of the run so far; NaN is none."""
        self._settle()
        return float("nan") if self._highest is None else float(self._highest)

    @property
    def latest(self) -> tuple[int, float] | None:
        """The last loss and its step, if there is one."""
        self._settle()
        found = next(((step, loss) for step, loss, there in reversed(self._kept) if there), None)
        return None if found is None else (found[0], float(found[1]))

    @property
    def is_local(self) -> bool:
        """Whether reading the last loss waits for no device."""
        return bool(self._kept) and self._kept[-1][1].device.type == "cpu"

    def read(self, low: int = 0, high: int | None = None) -> list[tuple[int, float]]:
        """Steps from `low` on and before `high`, and their losses."""
        self._settle()
        within = [k for k in self._kept if low <= k[0] and (high is None or k[0] < high)]
        kept = [(step, loss) for step, loss, there in within if there]
        values = torch.stack([v.double().cpu() for _, v in kept]).tolist() if kept else []
        return [(step, value) for (step, _), value in zip(kept, values, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """What is kept, as plain numbers."""
        return {"losses": [list(pair) for pair in self.read()], "highest": self.highest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self._settle()
        self._kept.clear()
        for step, value in state["losses"]:
            self._kept.append((int(step), torch.tensor(value, dtype=torch.float64), True))
        self._highest = torch.tensor(state["highest"], dtype=torch.float64)
        self._now.clear()
