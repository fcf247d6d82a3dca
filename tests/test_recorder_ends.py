"""How a ring ends and what must not disturb it: rows that keep coming, children, other files."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from store_reference import refuses
from torch import nn

from weightcast.recorder import Recorder
from weightcast.store import FormatError, History, HistoryWriter, ParameterTable
from weightcast.store.draining import Drain
from weightcast.store.ring import Ring, lock, ring_path
from weightcast.store.ringplan import plan_ring

TABLE = ParameterTable.of([("w", (3,), "float32", "weight")])


def ring_of(history: Path) -> Ring:
    """An empty history of three weights, and its ring."""
    HistoryWriter.create(history, TABLE, block=4)
    plan = plan_ring({"weights": (3, "float32")}, 4000, 4)
    with HistoryWriter(history) as writer:
        writer.append([], [], np.empty((0, 3)), ring=(plan.name, 0))
    descriptor = lock(ring_path(history), create=True)
    assert descriptor is not None
    return Ring.create(ring_path(history), descriptor, plan)


def push(ring: Ring, step: int) -> None:
    slot = ring.written % ring.plan.slots
    ring.rows("weights", ring.written, 1)[:] = step
    ring.steps[slot], ring.times[slot] = step, step
    ring.push()


def test_a_drain_returns_while_rows_keep_coming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written meanwhile waits for whole chunks, and is not committed row by row."""
    history = tmp_path / "run.zarr"
    ring = ring_of(history)
    commits = []
    append = HistoryWriter.append

    def busy(writer: HistoryWriter, steps: np.ndarray, *args: object, **kw: object) -> None:
        append(writer, steps, *args, **kw)  # type: ignore[arg-type]
        commits.append(len(steps))
        if len(commits) < 50:
            push(ring, ring.written)

    monkeypatch.setattr(HistoryWriter, "append", busy)
    for step in range(6):
        push(ring, step)
    assert Drain([ring], HistoryWriter(history)).run(everything=True) == 6
    assert commits == [4, 2]
    ring.release()


@pytest.mark.parametrize("content", [b"notes of mine", b"Xcring01" + bytes(8000)])
def test_a_file_that_is_no_ring_is_left_alone(tmp_path: Path, content: bytes) -> None:
    history = tmp_path / "run.zarr"
    HistoryWriter.create(history, TABLE)
    ring_path(history).write_bytes(content)
    with pytest.warns(UserWarning, match="could not be added"):
        assert len(History(history)) == 0
    assert ring_path(history).read_bytes() == content
    from weightcast.store import recover

    with refuses(FormatError, "run.zarr.ring", "no ring file"):
        recover(history)


def test_histories_are_found_by_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Recorder(nn.Linear(2, 1), tmp_path / "run.zarr"):
        pass
    monkeypatch.chdir(tmp_path / "run.zarr")
    assert len(History(".")) == 1
    monkeypatch.chdir(tmp_path / "run.zarr" / "weights")
    assert len(History("..")) == 1
    assert ring_path(Path()) == tmp_path / "run.zarr" / "weights.ring"


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_does_not_touch_step_0(tmp_path: Path) -> None:
    model = nn.Linear(2, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model.weight.detach().clone()
    with Recorder(model, tmp_path / "run.zarr").attach(optimizer) as recorder:
        child = os.fork()
        if not child:
            with torch.no_grad():
                model.weight.fill_(-777)
            model.weight.grad = torch.zeros_like(model.weight)
            optimizer.step()
            os._exit(0)
        os.waitpid(child, 0)
        recorder()
    history = History(tmp_path / "run.zarr")
    assert np.array_equal(history["weight"][0], before.numpy())


def test_errors_before_the_first_step_follow_the_choice(tmp_path: Path) -> None:
    """A model that changed between the recorder and the first step does not end the run."""
    model = nn.Sequential(nn.Linear(2, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with Recorder(model, tmp_path / "run.zarr", on_error="warn").attach(optimizer):
            model.append(nn.Linear(1, 1))
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
    assert any("goes on unrecorded" in str(w.message) for w in caught)
