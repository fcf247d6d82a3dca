"""Jumps that read the run's own recording are those with snapshots in memory, bit for bit."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from store_reference import refuses
from torch import nn

from weightcast.apply import Guard, Jumper
from weightcast.predictor import Forecaster, Line, LinearFit
from weightcast.recorder import Recorder
from weightcast.store import Context, History, UsageError

STEPS = 40
MIXED = "1,0.7,0,t-3,mean:12/4,slope:12/4,spread:12/4,slope:5/1,scale,fan-in,ahead"
unguarded = functools.partial(Jumper, guard=None)


class Blend(Forecaster):
    """A fixed blend of all columns."""

    def __init__(self, context: Any, horizon: Any = "+10") -> None:
        self.context, self.horizon = Context.of(context).entries, horizon

    def ready(self) -> Blend:
        self.fit(np.zeros((1, len(self.context))), np.zeros(1))
        return self

    def _learn(self, X: Any, y: Any, **options: Any) -> None:
        pass

    def _kernel(self, like: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        shares = [(1.0 if i == 0 else 0.01 * (-1) ** i / (i + 1)) for i in range(len(self.context))]
        return lambda seen: (like.new_tensor(shares)[:, None] * seen).sum(0)


def make(dtype: torch.dtype = torch.float32) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2), nn.Linear(2, 2)
        )
    model[4].bias.requires_grad_(False)
    return model.to(dtype, memory_format=torch.channels_last)


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def train(model: nn.Module, optimizer: Any, first: int = 1, last: int = STEPS) -> None:
    for step in range(first, last + 1):
        x = torch.randn(8, 2, 3, 3, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        x = x.to(next(model.parameters()).dtype)
        (model(x) - x[:, 0, 0, :2].sin()).tanh().square().mean().backward()
        optimizer.step()


def from_memory(forecaster: Any, points: list[int], **options: Any) -> tuple[nn.Module, Jumper]:
    model = make(options.pop("dtype", torch.float32))
    with unguarded(make_optimizer(model), forecaster, points, **options) as jumper:
        train(model, jumper)
    return model, jumper


def from_recording(
    forecaster: Any, points: list[int], schedule: str, *, memory: int | None = None, **options: Any
) -> tuple[nn.Module, Jumper]:
    model = make(options.pop("dtype", torch.float32))
    with (
        TemporaryDirectory() as folder,
        Recorder(model, folder + "/run.zarr", schedule, memory=memory) as recorder,
    ):
        jumper = unguarded(make_optimizer(model), forecaster, points, history=recorder, **options)
        with jumper, recorder.attach(jumper.optimizer):
            train(model, jumper)
    return model, jumper


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


FORECASTERS: dict[str, Callable[[], Forecaster]] = {
    "paper": LinearFit,
    "line": lambda: Line(window=12, stride=4, horizon="+6"),
    "dense line": lambda: Line(window=8, stride=1, horizon="+6"),
    "mixed": lambda: Blend(MIXED),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["paper", "mixed"])
def test_the_jumps_are_those_with_snapshots_in_memory(name: str, dtype: torch.dtype) -> None:
    points = [15, 20, 33]  # 33 - 12 lies right after a jump, and 20 - 5 at one
    expected, held = from_memory(FORECASTERS[name](), points, dtype=dtype)
    found, read = from_recording(FORECASTERS[name](), points, "every:1", dtype=dtype)
    assert read.jumped == held.jumped == points
    assert same(found, expected)
    plain = make(dtype)
    train(plain, make_optimizer(plain))
    assert not same(found, plain)


@pytest.mark.parametrize("name", FORECASTERS)
def test_rows_come_from_disk_and_from_the_ring(name: str) -> None:
    """A ring of few rows: most are on disk by the time of the last jump."""
    points = [15, 33]
    expected, _ = from_memory(FORECASTERS[name](), points)
    found, _ = from_recording(FORECASTERS[name](), points, "every:1", memory=6000)
    assert same(found, expected)


def test_both_kinds_of_rows_are_there(tmp_path: Path) -> None:
    """What the test before is about."""
    model, places = make(), []
    with Recorder(model, tmp_path / "run.zarr", memory=6000) as recorder:
        for step in range(1, STEPS):
            recorder()
            waiting = recorder.waiting()
            steps = set(History(recorder.path).steps.tolist())
            assert steps | waiting.keys() == set(range(step + 1))
            places.append((len(steps), len(waiting)))
    assert any(disk and ring for disk, ring in places)
    assert recorder.waiting() == {}


@settings(max_examples=5)
@given(st.lists(st.integers(13, STEPS), min_size=1, max_size=5, unique=True))
def test_any_jump_points(points: list[int]) -> None:
    points = sorted(points)
    expected, _ = from_memory(Blend(MIXED), points)
    schedule = f"jump:{','.join(map(str, points))}@{MIXED}"
    found, jumper = from_recording(Blend(MIXED), points, schedule)
    assert jumper.jumped == points
    assert same(found, expected)


def test_only_some_parameters_jump(tmp_path: Path) -> None:
    """And only those have to be recorded."""
    models = [make(), make()]
    optimizers = [make_optimizer(model) for model in models]
    line = Line(window=8, stride=1, horizon="+6")
    with unguarded(optimizers[0], line, [20], parameters=[models[0][3].weight]):
        train(models[0], optimizers[0])
    with Recorder(models[1], tmp_path / "run.zarr", include=["3.*"]) as recorder:
        only = {"parameters": [models[1][3].weight], "history": recorder}
        with unguarded(optimizers[1], line, [20], **only):
            recorder.attach(optimizers[1])
            train(models[1], optimizers[1])
    assert same(*models)


def test_a_jump_that_is_rolled_back_leaves_the_plain_run(tmp_path: Path) -> None:
    """And jumps that would look back at what was rolled back are left out, as ever."""
    kinds = []
    guard = Guard(steps=4, window=8, tolerance=0.0)
    for history in (False, True):
        model = make()
        optimizer = make_optimizer(model)
        with Recorder(model, tmp_path / f"{history}.zarr") as recorder:
            jumper = Jumper(
                optimizer,
                Line(window=12, stride=4, horizon="+60"),
                [14, 28],
                guard=guard,
                history=recorder if history else None,
            )
            recorder.attach(optimizer)
            train(model, optimizer)
        kinds.append(([(e.step, e.kind) for e in jumper.events], model))
        jumper.close()
    assert kinds[0][0] == kinds[1][0] == [(14, "jumped"), (18, "rolled back"), (28, "skipped")]
    assert same(kinds[0][1], kinds[1][1])


def test_nothing_is_held_between_jumps(tmp_path: Path) -> None:
    model = make()
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    with Recorder(model, tmp_path / "run.zarr") as recorder:
        with unguarded(make_optimizer(model), Blend(MIXED), [20, 30]) as holding:
            assert holding.memory() > 5 * weights
        with unguarded(make_optimizer(model), Blend(MIXED), [20, 30], history=recorder) as jumper:
            assert jumper.memory() == weights
            recorder.attach(jumper.optimizer)
            train(model, jumper, 1, 19)
            state = jumper.state_dict()["jumper"]
            assert state["snapshots"] == {}
            assert state["sums"] == []


@pytest.mark.parametrize("step", [7, 20, 26])
def test_a_resumed_run_is_the_uninterrupted_one(step: int, tmp_path: Path) -> None:
    points = [15, 20, 33]
    expected, _ = from_memory(Blend(MIXED), points)
    model = make()
    optimizer = make_optimizer(model)
    with (
        Recorder(model, tmp_path / "run.zarr") as recorder,
        unguarded(optimizer, Blend(MIXED), points, history=recorder) as jumper,
    ):
        recorder.attach(optimizer)
        train(model, jumper, 1, step)
        torch.save([model.state_dict(), jumper.state_dict()], tmp_path / "saved.pt")
    weights, state = torch.load(tmp_path / "saved.pt", weights_only=True)
    again = make()
    again.load_state_dict(weights)
    optimizer = make_optimizer(again)
    with (
        Recorder(again, tmp_path / "run.zarr", resume=True) as recorder,
        unguarded(optimizer, Blend(MIXED), points, history=recorder) as jumper,
    ):
        jumper.load_state_dict(state)
        recorder.attach(optimizer)
        train(again, jumper, step + 1, STEPS)
    assert same(again, expected)
    other = make()
    with (
        Recorder(other, tmp_path / "other.zarr") as recorder,  # has nothing of the past
        unguarded(make_optimizer(other), Blend(MIXED), points, history=recorder) as jumper,
        refuses(UsageError, f"after step {step} need step", tmp_path / "other.zarr"),
    ):
        jumper.load_state_dict(state)


# ---- what is refused, before training where it can be


def refused(recorder: Recorder, model: nn.Module, *words: object, points: Any = (20,)) -> None:
    with recorder, refuses(UsageError, *words):
        unguarded(make_optimizer(model), LinearFit(), points, history=recorder)


def test_a_schedule_without_the_steps(tmp_path: Path) -> None:
    model = make()
    recorder = Recorder(model, tmp_path / "run.zarr", "every:4")
    refused(recorder, model, "step 14", "every:4", "record jump:20,")
    text = "jump:20"
    with Recorder(model, tmp_path / "other.zarr", text) as recorder:
        unguarded(make_optimizer(model), LinearFit(), [20], history=recorder).close()


def test_a_refused_jumper_does_not_keep_the_parameters(tmp_path: Path) -> None:
    model = make()
    with Recorder(model, tmp_path / "run.zarr", "every:4") as recorder:
        with pytest.raises(UsageError) as kept:  # as a notebook keeps the last error
            unguarded(make_optimizer(model), LinearFit(), [20], history=recorder)
        unguarded(make_optimizer(model), LinearFit(), [20]).close()
    assert kept.value


def test_many_jump_points_are_not_listed(tmp_path: Path) -> None:
    model = make()
    recorder = Recorder(model, tmp_path / "run.zarr", "steps:5")
    refused(recorder, model, "step 40", "record every:10,", points=range(100, 4000, 100))


def test_a_recording_that_is_not_exact(tmp_path: Path) -> None:
    model = make()
    recorder = Recorder(model, tmp_path / "run.zarr", preset="bounded", error=1e-3)
    refused(recorder, model, "lossless", "0.001")


def test_a_parameter_that_is_not_recorded(tmp_path: Path) -> None:
    model = make()
    recorder = Recorder(model, tmp_path / "run.zarr", exclude=["3.*"])
    refused(recorder, model, "2 of 8", "record them too")


def test_a_recorder_that_comes_first(tmp_path: Path) -> None:
    model = make()
    optimizer = make_optimizer(model)
    with (
        Recorder(model, tmp_path / "run.zarr").attach(optimizer) as recorder,
        unguarded(optimizer, LinearFit(), [20], history=recorder),
        refuses(UsageError, "at step 1 it has counted 1", "after the jumper"),
    ):
        train(model, optimizer, 1, 1)


def test_a_recorder_that_does_not_count(tmp_path: Path) -> None:
    model = make()
    optimizer = make_optimizer(model)
    with (
        Recorder(model, tmp_path / "run.zarr") as recorder,
        unguarded(optimizer, LinearFit(), [20], history=recorder),
        refuses(UsageError, "at step 2 it has counted 0"),
    ):
        train(model, optimizer, 1, 2)


@pytest.mark.filterwarnings("ignore:.*goes on unrecorded")
def test_where_the_recording_failed_jumps_are_skipped(tmp_path: Path) -> None:
    model = make()
    optimizer = make_optimizer(model)
    with (
        Recorder(model, tmp_path / "run.zarr", on_error="warn") as recorder,
        unguarded(optimizer, LinearFit(), [20, 30], history=recorder) as jumper,
    ):
        recorder.attach(optimizer)
        train(model, optimizer, 1, 10)
        recorder._fail(OSError("disk full"))
        train(model, optimizer, 11, STEPS)
    assert jumper.jumped == []
    assert [(e.jump, e.kind) for e in jumper.events] == [(20, "skipped"), (30, "skipped")]
    assert "step 14, which is not in" in jumper.events[0].reason
