"""Gradients and optimizer state beside the weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from store_reference import refuses
from torch import nn

from weightcast.recorder import Recorder
from weightcast.store import History, RecordingError, UsageError

STEPS = 5


class Run:
    """Adam on two layers, of which the second is frozen; every tensor of every step is kept."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
        self.model[1].requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.model[0].parameters(), lr=0.1)
        self.gradients: list[np.ndarray] = []
        self.averages: list[np.ndarray] = []

    def train(self, steps: int = STEPS) -> None:
        for _ in range(steps):
            self.optimizer.zero_grad()
            self.model(torch.randn(4, 3)).square().sum().backward()
            self.optimizer.step()
            missing = torch.full((3,), torch.nan)  # of the frozen layer's 3 parameters
            first = self.model[0].weight, self.model[0].bias
            for kept, tensors in (
                (self.gradients, [p.grad for p in first]),
                (self.averages, [self.optimizer.state[p]["exp_avg"] for p in first]),
            ):
                kept.append(torch.cat([*(t.flatten() for t in tensors), missing]).numpy().copy())


def test_gradients_and_state_are_those_of_each_step(tmp_path: Path) -> None:
    run = Run()
    options = {"gradients": True, "optimizer_state": ["exp_avg"]}
    with Recorder(run.model, tmp_path / "run.zarr", **options).attach(run.optimizer):
        run.train()
    history = History(tmp_path / "run.zarr")
    assert history.header.extras == ("gradients", "optimizer/exp_avg")
    for name, kept in (("gradients", run.gradients), ("optimizer/exp_avg", run.averages)):
        assert np.isnan(history.snapshot(0, name)).all()  # no gradient led to step 0
        rows = [history.snapshot(step, name) for step in range(1, STEPS + 1)]
        assert np.array_equal(rows, kept, equal_nan=True)
    with refuses(UsageError, "momentum", "exp_avg"):
        history.snapshot(1, "optimizer/momentum")


def test_gradients_that_were_freed_are_missing(tmp_path: Path) -> None:
    run = Run()
    with Recorder(run.model, tmp_path / "run.zarr", gradients=True) as recorder:
        run.train(1)
        run.optimizer.zero_grad(set_to_none=True)
        recorder()
    assert np.isnan(History(tmp_path / "run.zarr").snapshot(1, "gradients")).all()


def test_sparse_gradients_are_recorded_in_full(tmp_path: Path) -> None:
    model = nn.Embedding(4, 2, sparse=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Recorder(model, tmp_path / "run.zarr", gradients=True).attach(optimizer):
        model(torch.tensor([1, 3])).sum().backward()
        optimizer.step()
    rows = History(tmp_path / "run.zarr").snapshot(1, "gradients").reshape(4, 2)
    assert rows[:, 0].tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("attach", [True, False])
def test_state_that_the_optimizer_does_not_keep(tmp_path: Path, attach: bool) -> None:
    run = Run()
    recorder = Recorder(run.model, tmp_path / "run.zarr", optimizer_state=["momentum_buffer"])
    words = ("momentum_buffer", "exp_avg") if attach else ("momentum_buffer", "attach")
    with refuses(RecordingError, *words), recorder:
        if attach:
            recorder.attach(run.optimizer)
            run.train(1)
        else:
            recorder()


def test_state_whose_name_is_a_path(tmp_path: Path) -> None:
    with refuses(UsageError, "../weights"):
        Recorder(Run().model, tmp_path / "run.zarr", optimizer_state=["../weights"])
    assert not list(tmp_path.iterdir())


def test_a_resumed_recording_keeps_its_arrays(tmp_path: Path) -> None:
    run = Run()
    with Recorder(run.model, tmp_path / "run.zarr", gradients=True).attach(run.optimizer):
        run.train(2)
    with refuses(RecordingError, "gradients", "[]"):
        Recorder(run.model, tmp_path / "run.zarr", resume=True)
    again = Recorder(run.model, tmp_path / "run.zarr", resume=True, gradients=True)
    with again.attach(run.optimizer):
        run.train(2)
    history = History(tmp_path / "run.zarr")
    rows = [history.snapshot(step, "gradients") for step in range(1, 5)]
    assert np.array_equal(rows, run.gradients, equal_nan=True)
