"""The peak of a one-cycle schedule: by accuracy, among enough of them, on training images alone."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from weightcast.experiments import building, tuning
from weightcast.experiments.catalogue import find
from weightcast.experiments.digits import Task
from weightcast.experiments.experiment import Arm, Experiment
from weightcast.experiments.loading import Data
from weightcast.experiments.results import RunResult, Trace, file_name, read_result, write_result
from weightcast.experiments.tuning import tried, tuned_peak
from weightcast.store import UsageError

NAN = math.nan
ENTRY = replace(find("mnist3"), name="small", network="small", batch=8, steps=400)


@pytest.fixture(autouse=True)
def small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def small(classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))

    monkeypatch.setitem(building.NETWORKS, "small", small)


def data(judged: float | None = None) -> Data:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(150, 1, 8, 8, generator=generator)
    y = (x[:, 0, :4].mean((1, 2)) > x[:, 0, 4:].mean((1, 2))).long()
    held_out = x[90:] if judged is None else torch.full_like(x[90:], judged)
    return Data(Task(x[:90], y[:90], held_out, y[90:]), {"made": "here"}, 2, "made here")


@pytest.mark.parametrize(
    ("ends", "count", "best"),
    [  # (accuracy, loss) at the end, of peaks of 1, 3, 10, ... times the learning rate
        ([(0.1, 9), (0.3, 5), (0.9, 1), (0.8, 2)], 4, 10),
        ([(0.1, 9), (0.3, 5), (0.8, 1), (0.9, 2), (0.2, 3)], 5, 30),
        ([(0.1, 9), (0.3, 5), (0.8, 1), (0.9, 2), (0.3, 0.1)], 5, 30),  # collapsed: a low loss
        ([(0.1, 9), (0.3, 5), (0.8, 1), (0.9, 2), (0.95, 3), (0.5, NAN)], 6, 100),
        ([(0.1 * i, 9) for i in range(1, 8)], 7, 1000),
        ([(0.9, 2), (0.9, 1), (0.9, 3), (0.9, 4)], 4, 3),  # of equals, the lowest loss
        ([(0.3, 2), (0.99, NAN), (0.99, math.inf), (0.99, NAN)], 4, 1),
    ],
)
def test_peaks_go_on_while_the_largest_is_the_best(
    ends: list[tuple[float, float]],
    count: int,
    best: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[float] = []

    def run(short: Experiment, arm: Arm, seed: int, *, peak: float, **_: Any) -> RunResult:
        asked.append(peak)
        accuracy, loss = ends[len(asked) - 1]
        trace = Trace([short.steps], [loss], [accuracy], [], [1.0])
        result = RunResult(short.name, arm.name, seed, {}, {arm.name: trace}, peak=peak)
        write_result(result, tmp_path / short.folder / file_name(arm.name, seed))
        assert tried(ENTRY, tmp_path)[0] == len(asked)
        return result

    monkeypatch.setattr(tuning, "run_arm", run)
    assert tried(ENTRY, tmp_path) == (0, 4)
    found = tuned_peak(ENTRY, data=data(), folder=tmp_path)
    assert found == best * ENTRY.updates.lr
    assert asked == [factor * ENTRY.updates.lr for factor in tuning.PEAKS[:count]]
    assert tried(ENTRY, tmp_path) == (count, count)


def test_the_images_that_judge_the_arms_are_not_looked_at(tmp_path: Path) -> None:
    peak = tuned_peak(ENTRY, data=data(), folder=tmp_path / "a")
    assert tuned_peak(ENTRY, data=data(judged=0.0), folder=tmp_path / "b") == peak
    runs = [read_result(path) for path in (tmp_path / "a").rglob("*.json")]
    assert len(runs) == tried(ENTRY, tmp_path / "a")[0] >= 4
    ends = {run.peak: run.traces[run.arm].accuracy[-1] for run in runs}
    assert ends[peak] == max(ends.values())
    assert {path.parent.name for path in tmp_path.rglob("*.json")} == {"small-paper-tuning"}
    assert all(run.made["steps"] == ENTRY.steps // 10 for run in runs)


def test_progress_comes_to_its_end(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    tuned_peak(ENTRY, data=data(), folder=tmp_path, progress=lambda *at: told.append(at))
    assert told[-1][0] == told[-1][1]
    assert all(done <= total for done, total in told)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_training_that_diverges_with_every_peak_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(short: Experiment, arm: Arm, seed: int, **_: Any) -> RunResult:
        trace = Trace([short.steps], [NAN], [0.1], [], [1.0])
        return RunResult(short.name, arm.name, seed, {}, {arm.name: trace})

    monkeypatch.setattr(tuning, "run_arm", run)
    with pytest.raises(UsageError, match=r"diverges with every peak tried, 0\.005, 0\.015, 0\.05"):
        tuned_peak(ENTRY, data=data(), folder=tmp_path)
