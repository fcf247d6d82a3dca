"""``weightcast reproduce``: what it runs, that it goes on where it was stopped, what it refuses."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import tiny_experiments
from tiny_experiments import TINY, write_images

from weightcast.cli.main import main
from weightcast.experiments import queueing, reproducing
from weightcast.experiments.catalogue import CATALOGUE
from weightcast.experiments.jobs import Job, Place, Run
from weightcast.experiments.loading import load_data
from weightcast.experiments.queueing import Progress
from weightcast.experiments.reproducing import MARKER, held
from weightcast.experiments.results import RunResult, file_name, read_result
from weightcast.experiments.running import run_arm, tuned_peak
from weightcast.experiments.studies import MODULES
from weightcast.store.errors import RemoteError

SHOW_CURSOR = "\x1b[?25h"
Documented = list[tuple[Path, Path]]


@pytest.fixture(autouse=True)
def tiny_catalogue() -> Iterator[None]:
    kept = dict(CATALOGUE)  # in its order, which documents have too
    for name in ("mnist1", "baselines", "inception1"):
        del CATALOGUE[name]
    CATALOGUE["tiny"] = TINY
    yield
    CATALOGUE.clear()
    CATALOGUE.update(kept)


@pytest.fixture(autouse=True)
def documented(monkeypatch: pytest.MonkeyPatch) -> Documented:
    """Folders that the document was written for: it has tests of its own."""
    calls: Documented = []
    module = ModuleType("document")
    module.write_document = lambda *folders: calls.append(folders)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "weightcast.experiments.document", module)
    return calls


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images")


def faked(monkeypatch: pytest.MonkeyPatch, perform: Callable[..., None]) -> None:
    """Workers that start at once, and do this instead of training."""
    monkeypatch.setattr(queueing, "CONTEXT", multiprocessing.get_context("fork"))
    monkeypatch.setattr(reproducing, "perform", perform)


def measured(result: RunResult) -> dict[str, object]:
    """All that is in a result but processor time."""
    curves = {n: [t.steps, t.loss, t.accuracy, t.top5] for n, t in result.traces.items()}
    return {"curves": curves, "jumps": result.jumps, "events": result.events, "peak": result.peak}


def reference(folder: Path, images: Path) -> dict[str, dict[str, object]]:
    """Every arm that trains, one after the other, in this process."""
    data = load_data("mnist", images)
    results = {}
    for arm in TINY.arms:
        if arm.name != "bad":
            tunes = arm.schedule == "one-cycle"
            peak = tuned_peak(TINY, data=data, folder=folder) if tunes else None
            results[arm.name] = measured(run_arm(TINY, arm, 0, data=data, folder=folder, peak=peak))
    return results


def test_what_a_kill_interrupts_goes_on_to_the_same_numbers(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str], documented: Documented
) -> None:
    """One worker until the kill, two from there on, against none at all; one arm fails."""
    results = tmp_path / "results"
    words = ["reproduce", "tiny", "--seeds", "1", "--data", str(images), "-o", str(results)]
    script = [sys.executable, tiny_experiments.__file__, *words]
    killed = subprocess.run(script, capture_output=True, text=True, check=False, timeout=200)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    jumps = results / "tiny" / file_name("jumps", 0)
    assert (results / "tiny" / file_name("plain", 0)).exists()
    assert not jumps.exists()
    checkpoint = jumps.with_name(f".{file_name('jumps', 0, '.pt')}")
    assert checkpoint.exists()
    before = {path: path.read_bytes() for path in results.glob("*/*.json")}

    assert main([*words, "--workers", "2", "--json"]) == 1
    shown = capsys.readouterr()
    failure = shown.err.splitlines()[-1]
    assert failure.startswith("weightcast: tiny, bad, seed 0 failed: ")
    assert "no-such-forecaster" in failure
    found = {arm.name: results / "tiny" / file_name(arm.name, 0) for arm in TINY.arms}
    assert not found.pop("bad").exists()
    expected = reference(tmp_path / "reference", images)
    assert {name: measured(read_result(path)) for name, path in found.items()} == expected
    assert {path: path.read_bytes() for path in before} == before
    assert (results / "tiny" / "plain-seed0.zarr").exists()

    (told,) = json.loads(shown.out)
    assert told["experiment"] == "tiny"
    assert set(told["arms"]) == {"plain", "jumps", "one-cycle", "averaging"}
    assert 0 <= told["arms"]["jumps"]["final"]["0"] <= 1
    assert told["missing"] == {"bad": [0]}
    assert documented == [(results, results)]

    assert main([*words, "--arms", "jumps, plain"]) == 0  # all there: nobody works
    table = (results / "tiny" / "table.txt").read_text()
    assert "one-cycle" in table
    assert table in capsys.readouterr().out
    other = write_images(tmp_path / "other", seed=1)
    assert main([*words, "--data", f"mnist={other}"]) == 2
    assert "plain-seed0.json was made with another data" in capsys.readouterr().err


def test_a_dry_run_says_what_is_left_and_makes_nothing(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    words = ["reproduce", "tiny", "--data", str(images), "--dry-run", "-o", str(results)]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert shown.count("to do") == 14  # 3 x 4 runs, the tuning, and in all
    assert "13 of 13 to do, under a minute on one core" in shown
    assert not results.exists()
    assert main([*words, "--arms", "plain", "--seeds", "2", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [(row["job"], row["state"]) for row in shown] == [
        ("tiny, plain, seed 0", "to do"),
        ("tiny, plain, seed 1", "to do"),
    ]


def test_what_is_done_is_not_done_again(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, data = tmp_path / "results", load_data("mnist", images)
    with held(results):
        run_arm(TINY, TINY.arms[0], 1, data=data, folder=results)
    words = ["reproduce", "tiny", "--data", str(images), "-o", str(results), "--arms", "plain"]
    assert main([*words, "--dry-run", "--json"]) == 0
    states = {row["job"]: row["state"] for row in json.loads(capsys.readouterr().out)}
    assert states == {
        "tiny, plain, seed 0": "to do",
        "tiny, plain, seed 1": "done",
        "tiny, plain, seed 2": "to do",
    }


def interrupt(place: Place, job: Job, progress: Progress) -> None:
    """Be in the middle of a job, with another one done, when Ctrl-C is pressed."""
    assert isinstance(job, Run)
    (place.folder / f"{job.seed}").touch()
    if job.seed == 1:
        os.kill(os.getppid(), signal.SIGINT)
        time.sleep(60)


def test_ctrl_c_stops_the_workers_and_says_how_to_go_on(
    tmp_path: Path,
    images: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    faked(monkeypatch, interrupt)
    results = tmp_path / "results"
    words = ["reproduce", "tiny", "--data", str(images), "-o", str(results), "--arms", "plain"]
    assert main(words) == 130
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("weightcast: interrupted: what is done is in")
    assert "the same command goes on" in line
    assert {path.name for path in results.iterdir()} == {"0", "1", MARKER}
    assert not multiprocessing.active_children()
    with held(results):  # it is free again
        pass


def report_and_fail(place: Place, job: Job, progress: Progress) -> None:
    """Go through the steps; fail with the second seed."""
    for done in (0, 10, 20):
        progress(done, 40)
    if isinstance(job, Run) and job.seed == 1:
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_is_shown_on_stderr_and_failures_at_the_end(
    terminal: bool,
    tmp_path: Path,
    images: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    faked(monkeypatch, report_and_fail)
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.setenv(name, "1") if terminal else monkeypatch.delenv(name, raising=False)
    words = ["reproduce", "tiny", "--data", str(images), "-o", str(tmp_path / "results")]
    assert main([*words, "--arms", "plain"]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""  # there is no result
    assert "3 of 3" in shown.err
    assert "tiny, plain, seed 0" in shown.err
    last = shown.err.splitlines()[-1]
    assert last.removeprefix(SHOW_CURSOR) == (
        "weightcast: tiny, plain, seed 1 failed: [Errno 28] No space left on device"
    )
    if not terminal:
        assert "tiny, plain, seed 1: failed (2 of 3, " in shown.err


def test_experiments_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "--list"]) == 0
    text = capsys.readouterr().out
    for entry in CATALOGUE.values():
        assert entry.title in text
        assert f"{entry.steps:,}" in text
    assert main(["reproduce", "--list", "--json", "--budget", "quick"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == [*CATALOGUE, *MODULES]
    assert rows["mnist2"]["steps"] == CATALOGUE["mnist2"].quick_steps
    assert rows["tiny"]["arms"] == [arm.name for arm in TINY.arms]


def test_all_is_what_there_are_data_for(
    tmp_path: Path,
    images: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("weightcast.experiments.sources.DEFAULTS", {})
    words = ["reproduce", "all", "--data", f"mnist={images}", "--seeds", "1", "--dry-run"]
    assert main([*words, "-o", str(tmp_path / "results")]) == 0
    shown = capsys.readouterr()
    assert "mnist2, plain, seed 0" in shown.out
    assert "cifar1" not in shown.out
    assert "left out, without data: " in shown.err
    assert "cifar1: give its folder with --data cifar10=DIR" in shown.err
    assert "fm16: give its folder with --data fashion=DIR" in shown.err
    assert main(["reproduce", "all", "--dry-run"]) == 2
    assert "no data for " in capsys.readouterr().err


BAD_INPUT = {
    "no experiment": ("", ("--list",)),
    "unknown experiment": ("tinny --data {images}", ("no experiment 'tinny'", "'tiny'")),
    "unknown arm": ("tiny --data {images} --arms plain,jmps", ("no arm 'jmps'", "'jumps'")),
    "no seeds": ("tiny --data {images} --seeds 0", ("--seeds", "0")),
    "no workers": ("tiny --data {images} --workers 0", ("--workers", "0")),
    "unknown budget": ("tiny --data {images} --budget huge", ("--budget", "huge")),
    "data nowhere": ("tiny --data {folder}/nowhere", ("there is no", "nowhere")),
    "data not given": ("tiny cifar1", ("tiny: give", "cifar1: give", "--data mnist=DIR")),
    "data of nothing": ("tiny --data {folder}", ("tiny: no train-labels",)),
    "unknown data": ("tiny --data mnits={images}", ("no data set 'mnits'", "'mnist'")),
    "another's folder": ("tiny --data {images} -o {folder}", ("no reproduction made it",)),
    "a held folder": ("tiny --data {images} -o {held}", ("another process fills",)),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_gets_one_line(
    case: str,
    tmp_path: Path,
    images: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    faked(monkeypatch, lambda *_: pytest.fail("something ran"))
    words, texts = BAD_INPUT[case]
    with held(tmp_path / "held"):
        places = {"images": images, "folder": tmp_path, "held": tmp_path / "held"}
        assert main(["reproduce", *words.format(**places).split()]) == 2
    shown = capsys.readouterr()
    assert len(shown.err.splitlines()) == 1
    for text in texts:
        assert text in shown.err
    assert shown.out == ""
    assert {path.name for path in tmp_path.iterdir()} == {"images", "held"}


def test_data_that_are_missing_are_downloaded_where_they_are_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def fetch(name: str, folder: Path) -> list[Path]:
        asked.append((name, folder))
        raise RemoteError("no network here")

    monkeypatch.setattr("weightcast.experiments.openml.fetch", fetch)
    words = ["reproduce", "mnist4", "--fetch", str(tmp_path / "data"), "-o", str(tmp_path / "r")]
    assert main(words) == 1
    assert asked == [("mnist", tmp_path / "data" / "mnist")]
    assert capsys.readouterr().err == "weightcast: no network here\n"


@pytest.mark.parametrize("folder", ["", "mnist=", "~nobody-of-that-name/x"])
def test_a_folder_that_is_none(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reproduce", "mnist4", "--data", folder, "-o", str(tmp_path / "r")]) in (1, 2)
    assert capsys.readouterr().err.count("\n") == 1


def test_a_name_beside_all_is_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "all", "bogus", "--dry-run"]) == 2
    assert "no experiment 'bogus'" in capsys.readouterr().err
