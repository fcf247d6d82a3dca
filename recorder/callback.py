"""What the callbacks of training libraries have in common: one recording of their run."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from weightcast.recorder.distributed import writes_here
from weightcast.recorder.recording import Recorder
from weightcast.recorder.schedule import Schedule, parse_schedule
from weightcast.recorder.step import Rounds, plain_optimizer
from weightcast.store import UsageError


class TrainerRecording:
    """A recording that begins and ends with a library's training loop.

    All ranks of a distributed run begin and end it; which of them write is for `Recorder` to know.

    Parameters
    ----------
    path : str or Path
        Folder of the history.
    schedule : str or Schedule, optional
    options : dict
        Further ones of `Recorder`.

    Attributes
    ----------
    recorder : Recorder or None
        While training.
    step : int
        Optimizer steps really taken.

    Raises
    ------
    UsageError
        If the schedule does not parse, or an option is not one of `Recorder`'s.
    """

    def __init__(
        self, path: str | Path, schedule: str | Schedule | None, options: dict[str, Any]
    ) -> None:
        known = inspect.signature(Recorder).parameters.keys() - {"model", "start_step"}
        if not options.keys() <= known:
            raise UsageError(
                f"options are those of Recorder, {', '.join(sorted(known))}: got "
                f"{', '.join(sorted(options.keys() - known))}"
            )
        self.path = Path(path).absolute()
        self.recorder: Recorder | None = None
        self.step = 0
        self._schedule = parse_schedule(schedule) if isinstance(schedule, str) else schedule
        self._options = dict(options)
        self._handles: list[RemovableHandle] = []
        self._names: dict[str, str] = {}

    def begin(self, model: nn.Module, optimizers: Sequence[Any], step: int) -> None:
        """Begin to record, right before training does.

        Parameters
        ----------
        model : nn.Module
            Already with the weights that training starts from.
        optimizers : sequence of optimizer
            Those that train it, with or without the library's wrappers.
        step : int
            Where training starts: after 0, it goes on from a checkpoint, and the history with it.
        """
        self.end()
        self.step = step
        options = dict(self._options)
        if step:
            options.update(overwrite=False, resume=True, start_step=step)
        plain = [plain_optimizer(optimizer) for optimizer in optimizers]
        self.recorder = Recorder(model, self.path, self._schedule, **options)
        self.recorder.optimizers.extend(plain)
        rounds = Rounds(self._count)
        rounds.expect(plain)
        self._handles = rounds.hook(plain)

    def add_metadata(self, values: Mapping[str, Any]) -> None:
        """Keep plain values with the history, if it has not begun."""
        plain = {k: v for k, v in values.items() if isinstance(v, str | int | float | None)}
        self._options["metadata"] = {**(self._options.get("metadata") or {}), **plain}

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Record the numbers among a library's metrics; all else is left to other loggers."""
        if self.recorder is None or not writes_here():
            return
        for name, value in metrics.items():
            if isinstance(value, torch.Tensor):
                number = value.numel() == 1 and not value.is_complex()
            else:
                number = isinstance(value, Real)
            if number:
                self.recorder.log(**{self._kept_name(name): float(value)})

    def end(self) -> None:
        """Write what is in memory. Without a recording, nothing happens."""
        recorder, self.recorder = self.recorder, None
        if recorder is None:
            return
        for handle in self._handles:
            handle.remove()
        recorder.close()

    @property
    def recorded_step(self) -> bool:
        """Whether the schedule has the current step."""
        return self.recorder is not None and self.step in self.recorder.schedule

    def _count(self) -> None:
        if self.recorder is not None:
            self.recorder()
            self.step = self.recorder.step

    def _kept_name(self, name: str) -> str:
        """A metric's name in the history; two names never become one."""
        if name not in self._names:
            kept = free = metric_name(name)
            number = 1
            while free in self._names.values():
                number += 1
                free = f"{kept[:90]}_{number}"
            self._names[name] = free
        return self._names[name]


def metric_name(name: str) -> str:
    """A library's name for a metric, with ``_`` for what a history's names cannot have.

    Examples
    --------
    >>> metric_name("val/loss"), metric_name("loss (train)"), metric_name("__private")
    ('val/loss', 'loss__train_', 'metric___private')
    """
    kept = re.sub(r"[^A-Za-z0-9_./-]", "_", str(name))[:90]
    odd = not kept or kept[0] in "./-" or kept.startswith("__") or kept == "zarr.json"
    return f"metric_{kept}" if odd else kept
