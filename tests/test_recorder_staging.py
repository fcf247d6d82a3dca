"""Rows that go by way of a device's staging memory, with torch's CPU streams in place of CUDA's.

CI has no GPU: what is shown here is that every row arrives, in order and exact, however late its
copy is done; not that CUDA's streams do what they promise.
"""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support import eventually
from torch import nn

from weightcast.recorder import Recorder
from weightcast.recorder.staging import STAGES, common_device
from weightcast.store import History


class LateEvent:
    """An event that is done only some time after it was recorded."""

    generator = random.Random(0)
    waits = 0

    def __init__(self) -> None:
        self._left = 0

    def record(self, stream: object) -> None:
        self._left = self.generator.randrange(8)

    def query(self) -> bool:
        self._left -= 1
        return self._left < 0

    def synchronize(self) -> None:
        if self._left >= 0:
            LateEvent.waits += 1
        self._left = -1


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(
        Event=LateEvent,
        Stream=lambda device: torch.cpu.Stream(),
        stream=torch.cpu.stream,
        current_stream=torch.cpu.current_stream,
    )
    monkeypatch.setattr(torch, "get_device_module", lambda _: module)
    cpu = torch.device("cpu")
    monkeypatch.setattr("weightcast.recorder.intake.common_device", lambda _: cpu)


def trained(path: Path, steps: int, **options: object) -> list[np.ndarray]:
    """Train and record a small network; its flat weights after each step."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = [nn.utils.parameters_to_vector(model.parameters()).detach().numpy()]
    with Recorder(model, path, **options).attach(optimizer) as recorder:  # type: ignore[arg-type]
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.randn(4, 3)).square().sum().backward()
            optimizer.step()
            seen.append(nn.utils.parameters_to_vector(model.parameters()).detach().numpy())
            recorder.log(loss=1.0)
    return seen


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("schedule", ["every:1", "every:3"])
def test_every_row_arrives_in_order(tmp_path: Path, schedule: str) -> None:
    seen = trained(tmp_path / "run.zarr", 40, schedule=schedule)
    history = History(tmp_path / "run.zarr")
    stride = int(schedule[-1])
    assert history.steps.tolist() == list(range(0, 41, stride))
    assert np.array_equal([history.snapshot(s) for s in history.steps], seen[::stride])
    assert LateEvent.waits > 0  # more rows were taken than there are stages


@pytest.mark.usefixtures("device")
def test_buffers_and_gradients_come_along(tmp_path: Path) -> None:
    trained(tmp_path / "plain.zarr", 10, gradients=True)
    staged = History(tmp_path / "plain.zarr")
    assert np.isnan(staged.snapshot(0, "gradients")).all()
    assert np.isfinite(staged.snapshot(5, "gradients")).all()
    assert staged.state(10)["1.num_batches_tracked"] == 10


@pytest.mark.usefixtures("device")
def test_a_full_ring_holds_rows_back(tmp_path: Path) -> None:
    seen = trained(tmp_path / "run.zarr", 30, memory=1000)
    history = History(tmp_path / "run.zarr")
    assert np.array_equal([history.snapshot(s) for s in history.steps], seen)
    assert eventually(lambda: not (tmp_path / "run.zarr.ring").exists())


def test_only_a_gpu_is_staged() -> None:
    assert STAGES >= 2
    assert common_device({"weights": [torch.zeros(1)], "buffers": []}) is None
    assert common_device({"weights": [None], "buffers": []}) is None
