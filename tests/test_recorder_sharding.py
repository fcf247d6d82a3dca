"""Models that ranks share: every rank writes its own range of one history."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from weightcast.store import History

TRAINING = Path(__file__).parent / "sharded_training.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What all scenarios left."""
    folder = tmp_path_factory.mktemp("sharded")
    command = [sys.executable, str(TRAINING), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("kind", ["all", "part", "replicated"])
def test_the_history_is_that_of_the_whole_model(folder: Path, kind: str) -> None:
    history = History(folder / kind / "run.zarr")
    kept = torch.load(folder / kind / "seen.pt", weights_only=True)
    assert history.steps.tolist() == list(range(31))
    names = ["0.weight", "0.bias", "2.weight", "2.bias", "3.weight", "3.bias"]
    assert [p.name for p in history.parameters] == names
    for step, tensors in enumerate(kept["seen"]):
        state = history.state(step)
        for name, tensor in zip(names, tensors, strict=True):
            assert np.array_equal(state[name], tensor.numpy()), (step, name)
    assert history.state(30)["2.num_batches_tracked"] == 30
    trained = np.concatenate([g.flatten().numpy() for g in kept["gradients"]])
    gradients = history.snapshot(30, "gradients")
    assert np.array_equal(gradients[: len(trained)], trained)
    assert np.isnan(gradients[len(trained) :]).all()  # the frozen layer has none
    assert history.metric("loss")[0].tolist() == list(range(1, 21))
    assert [p.name for p in (folder / kind).glob("run.zarr*")] == ["run.zarr"]


def test_what_fails_on_one_rank_fails_on_all(folder: Path) -> None:
    for rank in range(2):
        assert "exists" in (folder / f"error-{rank}").read_text()
    assert not list((folder / "run.zarr").iterdir())
    assert not list(folder.glob("*.ring*"))


def test_rows_are_whole_when_a_rank_is_killed(folder: Path) -> None:
    """The row that only one rank has written is not there."""
    history = History(folder / "killed" / "run.zarr")
    assert not list((folder / "killed").glob("*.ring*"))
    assert history.steps.tolist() == list(range(13))
    seen = torch.load(folder / "killed" / "seen.pt", weights_only=True)
    last = torch.cat([t.flatten() for t in seen[-1]]).numpy()
    assert np.array_equal(history.snapshot(12), last)
