r"""Rows on their way from a CUDA device to the ring; the training stream never waits for one.

::

    training stream   ... step | copy on the device | step | step ...      one read, one write of P
    side stream                     \-> copy to pinned memory -> event
    host, at later steps                                          \-> copy into the ring's slot
"""

from __future__ import annotations

from collections import deque
from typing import Any

import torch

from weightcast.recorder.feed import Feed
from weightcast.recorder.rows import Rows, Tensors, Views, copy_row, row_views
from weightcast.store import RecordingError
from weightcast.store.reading import one_line

STAGES = 3  # rows under way at once; each takes its bytes on the device, and pinned on the host


def common_device(sources: dict[str, Tensors]) -> torch.device | None:
    """The one accelerator that all tensors of a row are on; None if there is no such."""
    if not torch.cuda.is_initialized():
        return None
    devices = {t.device for tensors in sources.values() for t in tensors if t is not None}
    (device,) = devices if len(devices) == 1 else (None,)
    return device if device is not None and device.type == "cuda" else None


class _Stage:
    """Memory for one row, on the device and pinned on the host."""

    def __init__(self, rows: Rows, device: torch.device) -> None:
        module: Any = torch.get_device_module(device)
        widths = {a: (row.numel(), row.dtype) for a, row in rows.next_slot().items()}
        self.device, self.host = (
            {a: torch.empty(n, dtype=dtype, **where) for a, (n, dtype) in widths.items()}
            for where in ({"device": device}, {"pin_memory": device.type == "cuda"})
        )
        self.views: Views = row_views(rows.tables, self.device)
        self.copied, self.arrived = module.Event(), module.Event()
        self.step, self.seconds = 0, 0.0


class Staging:
    """Takes rows on a device and hands them to the feed once they have arrived on the host.

    Parameters
    ----------
    rows : Rows
    feed : Feed
    device : torch.device
    """

    def __init__(self, rows: Rows, feed: Feed, device: torch.device) -> None:
        self._rows, self._feed, self._device = rows, feed, device
        self._module: Any = torch.get_device_module(device)
        self._side = self._module.Stream(device)
        self._free: list[_Stage] = []
        self._under_way: deque[_Stage] = deque()

    def take(self, sources: dict[str, Tensors], step: int, seconds: float) -> None:
        """Copy tensors on their device, and let the rest happen beside the training.

        Raises
        ------
        RecordingError
            If the device has no memory for a row.
        """
        stage = self._stage()
        training = self._module.current_stream(self._device)
        try:
            copy_row(self._rows.tables, stage.views, sources, step)
        except BaseException:
            self._free.append(stage)
            raise
        stage.copied.record(training)
        self._side.wait_event(stage.copied)
        with self._module.stream(self._side):
            for array, row in stage.device.items():
                stage.host[array].copy_(row, non_blocking=True)
            stage.arrived.record(self._side)
        stage.step, stage.seconds = step, seconds
        self._under_way.append(stage)

    def deliver(self, *, wait: bool, all_rows: bool = False) -> None:
        """Hand over the rows that have arrived; with `wait`, the oldest in any case."""
        while self._under_way and (wait or self._under_way[0].arrived.query()):
            stage = self._under_way[0]
            stage.arrived.synchronize()
            if self._feed.room():
                for array, row in self._rows.next_slot().items():
                    row.copy_(stage.host[array])
                self._rows.stamp(stage.step, stage.seconds)
                self._feed.push()
            self._free.append(self._under_way.popleft())
            wait = all_rows

    def _stage(self) -> _Stage:
        """Memory for a row: free, new, or that of the oldest once it has arrived."""
        self.deliver(wait=False)
        if not self._free and len(self._under_way) < STAGES:
            try:
                return _Stage(self._rows, self._device)
            except torch.OutOfMemoryError as error:
                if not self._under_way:
                    raise RecordingError(
                        f"recording needs memory for a row on {self._device}: record fewer "
                        f"parameters (include, exclude): {one_line(error)}"
                    ) from error
        self.deliver(wait=not self._free)
        return self._free.pop()
