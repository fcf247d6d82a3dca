"""What becomes of a run that was stopped: when its checkpoint, history or disk is not as it was."""

from __future__ import annotations

import errno
import json
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_experiments import TINY, write_images

from weightcast.experiments import running
from weightcast.experiments.experiment import Arm
from weightcast.experiments.forecasters import file_of
from weightcast.experiments.loading import Data, load_data
from weightcast.experiments.queueing import _told
from weightcast.experiments.results import RunResult
from weightcast.experiments.running import run_arm
from weightcast.predictor import GaussianNoise, save
from weightcast.store import History, OutputExistsError

PLAIN = TINY.arms[0]


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint every five steps."""
    monkeypatch.setattr(running, "_CHECKPOINT", -1.0)
    monkeypatch.setattr(running, "_ADVANCE", 5)


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return load_data("mnist", write_images(tmp_path / "images"))


class StoppedError(Exception):
    pass


def stopped(folder: Path, data: Data, at: int = 20, **options: Any) -> Path:
    """Stop a run at a step; gives its checkpoint, which is of five steps before."""

    def progress(done: int, _: int) -> None:
        if done == at:
            raise StoppedError

    with pytest.raises(StoppedError):
        run_arm(TINY, PLAIN, 0, data=data, folder=folder, progress=progress, **options)
    (checkpoint,) = folder.rglob("*.pt")
    return checkpoint


def finish(folder: Path, data: Data, **options: Any) -> tuple[RunResult, int]:
    """Run to the end; gives the first step that was told, too."""
    told: list[int] = []
    result = run_arm(
        TINY, PLAIN, 0, data=data, folder=folder, progress=lambda d, _: told.append(d), **options
    )
    return result, told[0]


def losses(result: RunResult) -> list[float]:
    return result.traces["plain"].loss


def raising(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


PASSING = {
    "read": ("pathlib.Path.read_bytes", OSError(errno.EIO, "Input/output error")),
    "memory": ("torch.load", MemoryError()),
    "device memory": ("torch.load", torch.OutOfMemoryError("CUDA out of memory")),
    "torch's memory": ("torch.load", RuntimeError("DefaultCPUAllocator: can't allocate memory")),
    "state": ("torch.optim.Optimizer.load_state_dict", OSError(errno.EMFILE, "Too many files")),
}


@pytest.mark.parametrize("case", PASSING)
def test_an_error_that_passes_costs_no_step(
    case: str, tmp_path: Path, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, error = PASSING[case]
    checkpoint = stopped(tmp_path / "r", data)
    before = checkpoint.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(target, raising(error))
        with pytest.raises(type(error)):
            finish(tmp_path / "r", data)
    assert checkpoint.read_bytes() == before
    result, first = finish(tmp_path / "r", data)
    assert first == 20
    assert result.events == []


def test_a_damaged_checkpoint_is_kept_and_told_of(tmp_path: Path, data: Data) -> None:
    checkpoint = stopped(tmp_path / "r", data)
    damaged = checkpoint.read_bytes()[:5000]
    checkpoint.write_bytes(damaged)
    stopped(tmp_path / "r", data)  # which does not forget it
    result, first = finish(tmp_path / "r", data)
    assert first == 20
    assert result.events == [
        "begun anew: the checkpoint was damaged, and is .plain-seed0.pt.damaged now"
    ]
    assert checkpoint.with_name(".plain-seed0.pt.damaged").read_bytes() == damaged
    assert losses(result) == losses(finish(tmp_path / "whole", data)[0])


def test_without_its_history_a_recorded_run_begins_anew(tmp_path: Path, data: Data) -> None:
    stopped(tmp_path / "r", data, record=True)
    for path in (tmp_path / "r" / "tiny").glob("plain-seed0.zarr*"):
        path.rename(tmp_path / path.name)
    result, first = finish(tmp_path / "r", data, record=True)
    assert first == 5
    assert result.events == ["begun anew at step 15: plain-seed0.zarr was gone"]
    finish(tmp_path / "whole", data, record=True)
    found, whole = (History(tmp_path / f / "tiny" / "plain-seed0.zarr") for f in ("r", "whole"))
    assert found.steps.tolist() == whole.steps.tolist() == list(range(41))
    assert (found.snapshot(30) == whole.snapshot(30)).all()


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """What a full disk is like."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_checkpoint_that_cannot_be_written_is_told_of_in_words(
    tmp_path: Path, data: Data
) -> None:
    checkpoint = stopped(tmp_path / "r", data)
    before = checkpoint.read_bytes()
    with no_file_above(100_000), pytest.raises(OSError, match="File too large") as caught:
        finish(tmp_path / "r", data)
    assert _told(caught.value) == f"[Errno 27] File too large: '{checkpoint}'"
    assert checkpoint.read_bytes() == before
    assert [path.suffix for path in checkpoint.parent.iterdir()] == [".pt"]
    assert finish(tmp_path / "r", data)[1] == 20


# ---- forecasters


def test_another_forecaster_of_the_same_name_is_another_run(tmp_path: Path, data: Data) -> None:
    jumps = Arm("jumps", (20,), "noise")
    path = file_of("noise", tmp_path)
    path.parent.mkdir()

    def run() -> RunResult:
        return run_arm(TINY, jumps, 0, data=data, folder=tmp_path)

    save(GaussianNoise(0.1), path)
    first = run()
    assert len(first.made["forecaster_sha256"]) == 64
    assert run() == first
    save(GaussianNoise(0.1), path, card={"words": "others"}, overwrite=True)
    assert run() == first
    save(GaussianNoise(0.2), path, overwrite=True)
    with pytest.raises(OutputExistsError, match="another forecaster"):
        run()
    file = tmp_path / "tiny" / "jumps-seed0.json"
    older = json.loads(file.read_text())
    del older["made"]["forecaster_sha256"]
    file.write_text(json.dumps(older))
    assert run().made == older["made"]
    path.unlink()
    assert run().made == older["made"]  # it is done: nothing forecasts


def test_a_checkpoint_of_another_forecaster_is_not_gone_on_from(
    tmp_path: Path, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.PLAIN", Arm("plain", (20,), "noise"))
    path = file_of("noise", tmp_path / "r")
    path.parent.mkdir(parents=True)
    save(GaussianNoise(0.1), path)
    stopped(tmp_path / "r", data)
    save(GaussianNoise(0.2), path, overwrite=True)
    assert finish(tmp_path / "r", data)[1] == 5
