"""What a user may choose wrongly, and hears of at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from store_reference import refuses
from torch import nn

from weightcast.cli.main import main
from weightcast.recorder import Recorder
from weightcast.store import (
    History,
    HistoryWriter,
    RecordingError,
    UsageError,
    WeightcastWarning,
    compact,
    plan_compaction,
    verify,
)
from weightcast.store.ring import ring_path


def record(path: Path, **options: object) -> Recorder:
    return Recorder(nn.Linear(2, 1), path, **options)  # type: ignore[arg-type]


def test_an_optimizer_of_another_model_is_refused(tmp_path: Path) -> None:
    other = torch.optim.SGD(nn.Linear(2, 1).parameters(), lr=0.1)
    with record(tmp_path / "run.zarr") as recorder, refuses(UsageError, "SGD", "none of its"):
        recorder.attach(other)


def test_one_key_of_optimizer_state_is_not_taken_apart(tmp_path: Path) -> None:
    with record(tmp_path / "run.zarr", optimizer_state="exp_avg"):
        pass
    assert History(tmp_path / "run.zarr").info().arrays == ["weights", "optimizer/exp_avg"]


def test_state_that_is_no_array_is_not_offered(tmp_path: Path) -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.Adam(model.parameters())
    recorder = Recorder(model, tmp_path / "run.zarr", optimizer_state="step").attach(optimizer)
    model(torch.ones(1, 2)).sum().backward()
    with pytest.raises(RecordingError, match=r"got 'step', it has \['exp_avg', 'exp_avg_sq'\]"):
        optimizer.step()
    recorder.close()


@pytest.mark.parametrize(
    ("schedule", "steps"),
    [
        ("steps:1,5,20", 4),
        ("jump:100", 4),
        ("dense:9", 10),
        ("dense:9+steps:50", 12),
        ("dense:500", 64),
        ("every:10", 64),
        ("dense:9+every:10", 64),
    ],
)
def test_a_schedule_that_ends_soon_has_short_chunks(
    tmp_path: Path, schedule: str, steps: int
) -> None:
    """A chunk that is never filled may be larger than the numbers in it."""
    record(tmp_path / "run.zarr", schedule=schedule).close()
    assert History(tmp_path / "run.zarr").info().chunks[1] == steps


@pytest.mark.parametrize("options", [{"preset": "compact"}, {"error": 1e-3}])
def test_a_resumed_history_keeps_its_preset(tmp_path: Path, options: dict[str, object]) -> None:
    model = nn.Linear(2, 1)
    Recorder(model, tmp_path / "run.zarr").close()
    with refuses(RecordingError, "fast", "weightcast compact"):
        Recorder(model, tmp_path / "run.zarr", resume=True, **options)  # type: ignore[arg-type]
    Recorder(model, tmp_path / "run.zarr", resume=True, preset="fast").close()


def test_what_is_being_recorded_is_nobody_elses_to_write(tmp_path: Path) -> None:
    live, other = tmp_path / "live.zarr", tmp_path / "other.zarr"
    record(other).close()
    with record(live) as recorder:
        recorder()
        assert History(live).info().recording
        with refuses(RecordingError, "live.zarr", "being recorded"):
            compact(History(other), live, plan_compaction(History(other)), overwrite=True)
        with refuses(RecordingError, "live.zarr", "being recorded"):
            HistoryWriter.open(live)
        recorder()
    assert History(live).steps.tolist() == [0, 1, 2]
    assert not History(live).info().recording


def abandoned(path: Path) -> None:
    """Leave two steps in a ring file, as a process that is killed does."""
    code = (
        "import os, torch; from weightcast.recorder import Recorder\n"
        f"r = Recorder(torch.nn.Linear(2, 1), {str(path)!r}); r(); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert ring_path(path).exists()


def test_verify_adds_what_waits_and_says_what_cannot_be_added(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    abandoned(tmp_path / "run.zarr")
    assert verify(tmp_path / "run.zarr").committed == 2
    abandoned(tmp_path / "torn.zarr")
    ring = ring_path(tmp_path / "torn.zarr")
    ring.write_bytes(b"X" + ring.read_bytes()[1:])
    with pytest.warns(WeightcastWarning, match="could not be added"):
        found = verify(tmp_path / "torn.zarr")
    assert (found.ok, found.waiting, found.damage) == (False, True, [])


def test_a_warning_is_one_line_on_the_command_line(tmp_path: Path) -> None:
    abandoned(tmp_path / "torn.zarr")
    ring = ring_path(tmp_path / "torn.zarr")
    ring.write_bytes(b"X" + ring.read_bytes()[1:])
    code = "import sys; from weightcast.cli.main import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, "info", str(tmp_path / "torn.zarr")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.startswith("weightcast: warning: steps that were recorded wait in ")
    assert done.stderr.count("\n") == 1


def test_compact_refuses_its_output_before_it_shows_a_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(tmp_path / "run.zarr").close()
    for output in (str(tmp_path / "run.zarr"), "s3://bucket/run.zarr"):
        assert main(["compact", str(tmp_path / "run.zarr"), "-o", output, "--dry-run"]) == 2
    assert capsys.readouterr().out == ""
