"""Resuming: a history that was interrupted becomes the one of the uninterrupted run."""

from __future__ import annotations

import copy
import gc
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from store_reference import refuses
from support import eventually
from torch import nn

from weightcast.recorder import Recorder, parse_schedule
from weightcast.store import (
    FormatError,
    History,
    InputNotFoundError,
    RecordingError,
    ShapeError,
    UsageError,
    WeightcastError,
)
from weightcast.store.ring import in_use, ring_path


class Run:
    """A small training run that can be saved and restored at any step."""

    def __init__(self, width: int = 3) -> None:
        torch.manual_seed(0)
        layers = nn.Linear(2, width), nn.BatchNorm1d(width), nn.Linear(width, 1)
        self.model = nn.Sequential(*layers)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)
        self.step = 0

    def train(self, to: int, recorder: Recorder | None = None) -> None:
        """Train up to a step; batches depend on nothing but the step."""
        while self.step < to:
            self.step += 1
            x = torch.rand(4, 2, generator=torch.Generator().manual_seed(self.step))
            self.optimizer.zero_grad()
            self.model(x).square().mean().backward()
            self.optimizer.step()
            if recorder is not None:
                recorder()
                recorder.log(loss=self.step / 2)

    def record(self, path: Path, to: int, *, attach: bool = False, **options: Any) -> None:
        with Recorder(self.model, path, **options) as recorder:
            if attach:
                recorder.attach(self.optimizer)
            self.train(to, None if attach else recorder)

    def checkpoint(self) -> Any:
        parts = (self.model, self.optimizer)
        return self.step, [copy.deepcopy(part.state_dict()) for part in parts]

    @classmethod
    def restored(cls, step: int) -> Run:
        """As from a checkpoint file: new objects, with the state of that step."""
        (original := cls()).train(step)
        run = cls()
        run.step, states = original.checkpoint()
        for part, state in zip((run.model, run.optimizer), states, strict=True):
            part.load_state_dict(state)
        return run


@dataclass(frozen=True)
class Rows:
    """All that a history holds of the weights."""

    steps: list[int]
    weights: list[bytes]
    states: list[dict[str, bytes]]

    @classmethod
    def of(cls, path: Path) -> Rows:
        history = History(path)
        steps = history.steps.tolist()
        states = [{k: v.tobytes() for k, v in history.state(s).items()} for s in steps]
        return cls(steps, [history.snapshot(s).tobytes() for s in steps], states)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(f): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_resumed_history_is_the_uninterrupted_one(data: st.DataObject) -> None:
    """Stopped anywhere, by an exit or a kill; resumed from any checkpoint that leaves no gap."""
    texts = ["every:1", "every:3", "steps:2,9", "dense:3+every:5"]
    schedule = parse_schedule(data.draw(st.sampled_from(texts)))
    memory = data.draw(st.sampled_from([1500, 1 << 20, None]))  # bytes; a slot takes 320
    stop, end = sorted(data.draw(st.lists(st.integers(0, 10), min_size=2, max_size=2)))
    killed = data.draw(st.booleans())
    options = {"schedule": schedule, "memory": memory}
    with tempfile.TemporaryDirectory() as folder:
        whole, parts = Path(folder) / "whole.zarr", Path(folder) / "parts.zarr"
        Run().record(whole, end, **options)
        run = Run()
        recorder = Recorder(run.model, parts, **options)
        run.train(stop, recorder)
        if not killed:
            recorder.close()
        del recorder  # whoever opens the history next finishes from its ring file
        gc.collect()
        assert eventually(lambda: not ring_path(parts).exists() or not in_use(parts))

        lost = [s for s in range(stop + 1) if s in schedule and s not in History(parts).steps]
        latest = min(lost, default=stop + 1) - 1  # a later checkpoint would leave a gap
        start = data.draw(st.integers(0, max(latest, 0)))
        default = len(History(parts)) and start == History(parts).steps[-1]
        if not (default and data.draw(st.booleans())):
            options["start_step"] = start
        Run.restored(start).record(parts, end, resume=True, **options)
        assert Rows.of(parts) == Rows.of(whole)
        assert (np.diff(History(parts).times) > 0).all()


@pytest.mark.parametrize("start", [0, 3, 5])
def test_resume_attached(tmp_path: Path, start: int) -> None:
    """The hook that takes step 0 again must not do so where step 0 is already stored."""
    Run().record(tmp_path / "whole.zarr", 8, attach=True)
    Run().record(tmp_path / "parts.zarr", 5, attach=True)
    run = Run.restored(start)
    run.record(tmp_path / "parts.zarr", 8, attach=True, resume=True, start_step=start)
    assert Rows.of(tmp_path / "parts.zarr") == Rows.of(tmp_path / "whole.zarr")


def test_checkpoint_after_the_last_scheduled_step(tmp_path: Path) -> None:
    """With a sparse schedule most checkpoints are not of a recorded step; that is no gap."""
    options = {"schedule": "every:5"}
    Run().record(tmp_path / "whole.zarr", 20, **options)
    Run().record(tmp_path / "parts.zarr", 12, **options)
    run = Run.restored(12)
    run.record(tmp_path / "parts.zarr", 20, resume=True, start_step=12, **options)
    assert Rows.of(tmp_path / "parts.zarr") == Rows.of(tmp_path / "whole.zarr")


@pytest.mark.parametrize("schedule", ["every:1", "every:4"])
def test_metrics_are_not_doubled(tmp_path: Path, schedule: str) -> None:
    """The steps from the checkpoint to where the first run ended are trained a second time."""
    Run().record(tmp_path / "run.zarr", 6, schedule=schedule)
    run = Run.restored(4)
    run.record(tmp_path / "run.zarr", 8, schedule=schedule, resume=True, start_step=4)
    steps, values = History(tmp_path / "run.zarr").metric("loss")
    assert steps.tolist() == list(range(1, 9))
    assert values.tolist() == [step / 2 for step in range(1, 9)]


def test_resume_where_nothing_is_starts_anew(tmp_path: Path) -> None:
    Run().record(tmp_path / "run.zarr", 3, resume=True)
    Run().record(tmp_path / "whole.zarr", 3)
    assert Rows.of(tmp_path / "run.zarr") == Rows.of(tmp_path / "whole.zarr")


def test_late_start_needs_a_history_that_leads_there(tmp_path: Path) -> None:
    """Weights of step 5 would stand as step 0, or step 0 would be missing for ever."""
    with refuses(InputNotFoundError, "none.zarr"):
        Recorder(Run.restored(5).model, tmp_path / "none.zarr", resume=True, start_step=5)
    assert not (tmp_path / "none.zarr").exists()
    Recorder(Run().model, tmp_path / "empty.zarr")  # as killed before the first commit
    with refuses(WeightcastError, "empty.zarr", "5"):
        Recorder(Run.restored(5).model, tmp_path / "empty.zarr", resume=True, start_step=5)
    assert len(History(tmp_path / "empty.zarr")) == 0


def test_gaps_are_refused_or_allowed(tmp_path: Path) -> None:
    """Where the rows of scheduled steps were lost, what follows still has its right steps."""
    Run().record(tmp_path / "whole.zarr", 12)
    Run().record(tmp_path / "run.zarr", 5)
    before = tree(tmp_path / "run.zarr")
    options = {"resume": True, "start_step": 9}
    with refuses(RecordingError, "gap", "start step 9", "5", "allow_gap"):
        Run.restored(9).record(tmp_path / "run.zarr", 12, **options)
    assert tree(tmp_path / "run.zarr") == before
    Run.restored(9).record(tmp_path / "run.zarr", 12, allow_gap=True, **options)
    whole, parts = History(tmp_path / "whole.zarr"), History(tmp_path / "run.zarr")
    assert parts.steps.tolist() == [0, 1, 2, 3, 4, 5, 10, 11, 12]
    for step in parts.steps.tolist():
        assert parts.snapshot(step).tobytes() == whole.snapshot(step).tobytes()


def test_schedule_is_that_of_the_history_by_default(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    Run().record(path, 4, schedule="every:3")
    Run.restored(4).record(path, 7, resume=True, start_step=4)
    assert History(path).steps.tolist() == [0, 3, 6]
    Run.restored(7).record(path, 11, resume=True, start_step=7, schedule="steps:8,9+steps:20")
    assert History(path).steps.tolist() == [0, 3, 6, 8, 9]
    Run.restored(11).record(path, 25, resume=True, start_step=11)
    assert History(path).steps.tolist() == [0, 3, 6, 8, 9, 20]
    for text in ("every:3", "steps:8,9+steps:20"):
        assert text in History(path).info().schedule


@pytest.mark.parametrize("same", [True, False])
def test_run_that_took_another_path_is_named(tmp_path: Path, same: bool) -> None:
    """Repeated steps that give other weights than those recorded make a history of two runs."""
    Run().record(tmp_path / "run.zarr", 6)
    run = Run.restored(3)
    if not same:
        run.optimizer.param_groups[0]["lr"] *= 2
    with nullcontext() if same else pytest.warns(UserWarning, match="step 6"):
        run.record(tmp_path / "run.zarr", 8, resume=True, start_step=3)
    assert History(tmp_path / "run.zarr").steps.tolist() == list(range(9))
    after = History(tmp_path / "run.zarr").state(8)
    assert np.array_equal(after["0.weight"], run.model[0].weight.detach().numpy())


def renamed() -> nn.Module:
    model = Run().model
    model.extra, model[2] = model[2], nn.Identity()
    return model


def without_buffers() -> nn.Module:
    model = Run().model
    model[1] = nn.LayerNorm(3)
    return model


OTHER_MODELS = {
    "wider": (lambda: Run(width=5).model, "0.weight"),
    "renamed": (renamed, "2.weight"),
    "longer": (lambda: Run().model.append(nn.Linear(1, 1)), "6"),
    "shorter": (lambda: Run().model[:2], "4"),
    "without buffers": (without_buffers, "buffers"),
}


@pytest.mark.parametrize("case", OTHER_MODELS)
def test_another_model_is_refused(tmp_path: Path, case: str) -> None:
    make, difference = OTHER_MODELS[case]
    Run().record(tmp_path / "run.zarr", 3)
    before = tree(tmp_path)
    with refuses(ShapeError, difference, tmp_path / "run.zarr"):
        Recorder(make(), tmp_path / "run.zarr", resume=True)
    assert tree(tmp_path) == before


def test_other_weights_are_refused(tmp_path: Path) -> None:
    Run().record(tmp_path / "run.zarr", 5)
    before = tree(tmp_path)
    for trained, start in ((4, None), (5, 4), (0, 5)):
        with refuses(RecordingError, f"step {start or 5}", "checkpoint", "start_step"):
            model = Run.restored(trained).model
            Recorder(model, tmp_path / "run.zarr", resume=True, start_step=start)
    assert tree(tmp_path) == before


def test_wider_numbers_are_refused(tmp_path: Path) -> None:
    """A float32 history cannot hold what a float64 model trains on to."""
    Run().record(tmp_path / "run.zarr", 5)
    with refuses(WeightcastError, "float64", "float32"):
        Recorder(Run.restored(5).model.double(), tmp_path / "run.zarr", resume=True)


@pytest.mark.parametrize(
    ("kind", "options", "texts"),
    [
        (UsageError, {"resume": True, "overwrite": True}, ("overwrite", "resume")),
        (UsageError, {"start_step": 3}, ("resume", "3")),
        (UsageError, {"overwrite": True, "start_step": 3}, ("resume", "3")),
        (UsageError, {"resume": True, "start_step": -1}, ("-1",)),
    ],
)
def test_bad_combinations(
    tmp_path: Path, kind: type[Exception], options: dict[str, Any], texts: tuple[str, ...]
) -> None:
    Run().record(tmp_path / "run.zarr", 5)
    before = tree(tmp_path)
    with refuses(kind, *texts):
        Recorder(Run.restored(5).model, tmp_path / "run.zarr", **options)
    assert tree(tmp_path) == before


def test_what_is_no_history_is_not_resumed(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("keep me")
    with refuses(FormatError, "Zarr"):
        Recorder(Run().model, tmp_path, resume=True)
    with refuses(FormatError, "Zarr"):
        Recorder(Run().model, tmp_path / "notes.txt", resume=True)
    assert (tmp_path / "notes.txt").read_text() == "keep me"


def test_schedules_of_resumed_runs_are_kept_once(tmp_path: Path) -> None:
    """The latest goes on by default, and is not written down again each time."""
    path = tmp_path / "run.zarr"
    Run().record(path, 4, schedule="every:2")
    for start, schedule in ((4, "every:1"), (6, None), (8, None)):
        run = Run.restored(start)
        run.record(path, start + 2, schedule=schedule, resume=True)
    history = History(path)
    assert history.header.schedule == "every:2, from step 4 every:1"
    assert history.steps.tolist() == [0, 2, 4, 5, 6, 7, 8, 9, 10]
