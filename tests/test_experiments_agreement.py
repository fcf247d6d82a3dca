"""Runs that may not stand side by side are refused; a damaged file is told of where it matters."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from tiny_experiments import TINY

from weightcast.experiments.catalogue import CATALOGUE
from weightcast.experiments.experiment import Arm
from weightcast.experiments.merging import compact, gather, run_set
from weightcast.experiments.reporting import summaries
from weightcast.experiments.results import RunResult, Trace, file_name, write_result
from weightcast.experiments.running import _FREE
from weightcast.store import FormatError

ARMS = (
    Arm("plain"),
    Arm("jumps", (14, 25), "linear-fit@1.5"),
    Arm("one-cycle", schedule="one-cycle"),
    Arm("one-cycle + jumps", (14, 25), "linear-fit@1.5", schedule="one-cycle"),
)


@pytest.fixture(autouse=True)
def catalogued(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CATALOGUE, "tiny", replace(TINY, arms=ARMS))


def run(arm: Arm, seed: int, **more: Any) -> RunResult:
    """A run's result as `run_arm` makes it; `more` was it made with."""
    protocol = {k: v for k, v in asdict(TINY).items() if k not in _FREE}
    trace = Trace([0, 40], [1.0, 0.5], [0.1, 0.9], [], [0.0, 1.0])
    peak = 0.3 if arm.schedule == "one-cycle" else None
    made = {
        "experiment": json.loads(json.dumps(protocol)),
        "arm": {**asdict(arm), "jumps": list(arm.jumps)},
        "data": {"about": "nothing", "sha256": {"file": "0" * 64}},
        "budget": "paper",
        "versions": {"torch": "2.13.0"},
        "peak": peak,
    }
    result = RunResult("tiny", arm.name, seed, {**made, **more}, {arm.name: trace})
    return replace(result, peak=result.made["peak"])


def every() -> list[RunResult]:
    return [run(arm, seed) for arm in ARMS for seed in (0, 1)]


def test_runs_made_alike_stand_side_by_side() -> None:
    runs = every()
    runs[0] = run(ARMS[0], 0, device="cpu:0", versions={"torch": "3"})
    runs[2] = run(ARMS[1], 0, forecaster_sha256="a")  # an older result does not say it
    assert len(run_set(runs).runs) == 8
    assert compact(runs)


JUMPS, CYCLE = ARMS[1], ARMS[2]
OTHERS: dict[str, tuple[RunResult, str]] = {
    "jumps": (run(replace(JUMPS, jumps=(30,)), 1), "another forecaster, or other jumps"),
    "forecaster": (run(replace(JUMPS, forecaster="line"), 1), "another forecaster, or other jumps"),
    "digest": (run(JUMPS, 1, forecaster_sha256="b"), "another forecaster:"),
    "peak": (run(CYCLE, 1, peak=0.9), "another peak"),
    "peak of another arm": (run(ARMS[3], 1, peak=0.9), "another peak"),
    "device": (run(JUMPS, 1, device="cuda"), "another device"),
    "data": (run(JUMPS, 1, data={"about": "nothing", "sha256": {}}), "other data"),
}


@pytest.mark.parametrize("case", OTHERS)
@pytest.mark.parametrize("use", [compact, run_set])
def test_runs_made_differently_go_into_no_table(case: str, use: Callable[..., object]) -> None:
    other, words = OTHERS[case]
    runs = [r for r in every() if (r.arm, r.seed) != (other.arm, 1)]
    runs = [run(JUMPS, 0, forecaster_sha256="a") if r.arm == "jumps" else r for r in runs]
    use(runs)
    with pytest.raises(FormatError, match=words) as caught:
        use([*runs, other])
    assert f"{other.arm} with seed 1" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_file_is_told_of_where_it_is_asked_for(tmp_path: Path) -> None:
    for result in every():
        write_result(result, tmp_path / "tiny" / file_name(result.arm, result.seed))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "plain-seed0.json").write_text("half")
    told: list[str] = []
    assert list(gather(tmp_path, told=told.append)) == ["tiny"]
    assert len(told) == 1
    assert told[0].startswith("left out other: ")
    assert "plain-seed0.json" in told[0]
    assert [s.set.entry.name for s in summaries(tmp_path, ["tiny"])] == ["tiny"]
    assert summaries(tmp_path, []) == []
    for strict in (lambda: gather(tmp_path), lambda: summaries(tmp_path, ["tiny", "other"])):
        with pytest.raises(FormatError, match=r"plain-seed0\.json"):
            strict()
