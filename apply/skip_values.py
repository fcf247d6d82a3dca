"""Where the evaluations of somebody else's script come from: what it prints, or its losses.

A source is asked for a value after every step; all ranks of a distributed run ask, and get the
same. ::

    PrintedMetric   a line of the output matches  -> the number in it, at once
    MeanLoss        every N steps                 -> the mean of the losses of the last N
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from statistics import fmean

import torch
import torch.distributed as dist

from weightcast.apply.losses import MOST, LossLog
from weightcast.apply.metric_pattern import MetricPattern
from weightcast.apply.output_tap import OutputTap
from weightcast.apply.ranks import common_device, shared, summing
from weightcast.apply.tapping import tap

CPU = torch.device("cpu")


class PrintedMetric:
    """Evaluations that a script prints.

    Parameters
    ----------
    regex : str
        Of `MetricPattern`.

    Attributes
    ----------
    pattern : MetricPattern

    Raises
    ------
    UsageError
        If `regex` breaks the pattern's rule.
    """

    def __init__(self, regex: str) -> None:
        self.pattern = MetricPattern(regex)
        self._take: Callable[[float], object] | None = None
        self._output = OutputTap(self._read)
        self._waiting: list[float] = []
        self._awaited: tuple[torch.Tensor, dist.Work] | None = None
        self._device = CPU

    def listening(self) -> AbstractContextManager[None]:
        """Read what is printed while the context is open."""
        return self._output.on()

    def aside(self) -> AbstractContextManager[None]:
        """What is printed while the context is open is not the script's."""
        return self._output.deaf()

    def begin(self, take: Callable[[float], object], device: torch.device) -> None:
        """Give the values so far, and those to come, to a function."""
        self._take, self._device = take, device
        early, self._waiting = self._waiting, []
        for value in early:
            self._give(value)

    def _read(self, line: str) -> None:
        value = self.pattern.find(line)
        if value is not None:
            self._give(value)

    def _give(self, value: float) -> None:
        if self._take is None or shared():  # a rank that prints nothing must know of it too
            self._waiting.append(value)
        else:
            self._take(value)

    def end(self, step: int) -> None:
        """A step is complete: let ranks know what any of them has printed in the step before."""
        if self._take is None or not shared():
            return
        pair = torch.zeros(2, dtype=torch.float64, device=common_device(self._device))
        if self._waiting:
            pair[0], pair[1] = fmean(self._waiting), 1
            self._waiting = []
        before, self._awaited = self._awaited, (pair, summing(pair))
        if before is not None:
            sums, work = before
            work.wait()
            total, printed = sums.tolist()
            if printed:
                self._take(total / printed)

    def pass_over(self) -> None:
        """A step was another model's."""


class MeanLoss:
    """The training loss that ``backward`` is called on, as an evaluation every so many steps.

    Parameters
    ----------
    every : int
        Steps of an evaluation, over which the loss is averaged.
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self._shown: deque[torch.Tensor] = deque(maxlen=MOST)
        self._take: Callable[[float], object] | None = None
        self._log: LossLog | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hear losses while the context is open."""
        tap.listen(self._hear)
        try:
            yield
        finally:
            tap.leave(self._hear)

    def aside(self) -> AbstractContextManager[None]:
        """What is printed is nothing to it."""
        return nullcontext()

    def begin(self, take: Callable[[float], object], device: torch.device) -> None:
        """Give the values to come to a function."""
        self._take, self._log = take, LossLog(self.every, device)

    def _hear(self, loss: torch.Tensor) -> None:
        """Keep a loss until a step tells which model it is of."""
        self._shown.append(loss.clone())

    def end(self, step: int) -> None:
        """A step is complete: its losses are these."""
        if self._take is None or self._log is None:
            return
        for loss in self._shown:
            self._log.add(loss)
        self._shown.clear()
        self._log.end(step)
        if step % self.every == 0:
            losses = [loss for _, loss in self._log.read(step - self.every + 1)]
            if losses:
                self._take(fmean(losses))

    def pass_over(self) -> None:
        """A step was another model's, and so were the losses before it."""
        self._shown.clear()
