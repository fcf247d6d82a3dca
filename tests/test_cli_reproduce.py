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
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import tiny_experiments
from tiny_experiments import TINY, write_images

from weightcast.cli.main import main
from weightcast.experiments import arm_run, queueing, reproducing
from weightcast.experiments.catalogue import CATALOGUE
from weightcast.experiments.checkpoints import save_checkpoint
from weightcast.experiments.experiment import Arm, Experiment
from weightcast.experiments.jobs import Job, Place, Run
from weightcast.experiments.loading import Data, load_data
from weightcast.experiments.queueing import Progress
from weightcast.experiments.reproducing import MARKER, held
from weightcast.experiments.results import RunResult, file_name, read_result
from weightcast.experiments.running import made_of, run_arm
from weightcast.experiments.studies import MODULES
from weightcast.experiments.tuning import TUNING_SEED, tuned_peak
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
    module.write_document = lambda *folders, **_: calls.append(folders)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "weightcast.experiments.document", module)
    return calls


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images")


def faked(monkeypatch: pytest.MonkeyPatch, perform: Callable[..., None]) -> None:
    """Workers that start at once, and do this instead of training."""
    monkeypatch.setattr(queueing, "CONTEXT", multiprocessing.get_context("fork"))
    monkeypatch.setattr(reproducing, "perform", perform)


def begun(experiment: Experiment, arm: Arm, data: Data, folder: Path, peak: float | None) -> int:
    """Leave the checkpoint of a run that stops in the middle; gives its step."""
    run = arm_run.Run.begin(experiment, arm, 0, data, peak=peak)
    run.advance(7)
    made = made_of(experiment, arm, 0, data, peak)
    path = folder / experiment.folder / f".{file_name(arm.name, 0, '.pt')}"
    path.parent.mkdir(exist_ok=True)
    save_checkpoint(run, made, path)
    return run.step


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
    assert (told["steps"], told["steps of the paper"]) == (40, 40)
    assert documented == [(results, results)]

    assert main([*words, "--arms", "jumps, plain"]) == 0  # all there: nobody works
    table = (results / "tiny" / "table.txt").read_text()
    assert "| one-cycle" in table
    shown = capsys.readouterr()
    also = "also has other runs of tiny (arms: one-cycle; seeds: 0): all are shown"
    assert shown.err.splitlines() == [f"weightcast: {results} {also}"]
    assert "one-cycle" in shown.out
    assert "Most accurate at the end: " in " ".join(shown.out.split())
    assert "Most accurate at the end: " in table
    assert "|" not in shown.out
    assert "tables, curves and numbers: " in shown.out
    other = write_images(tmp_path / "other", seed=1)
    assert main([*words, "--data", f"mnist={other}"]) == 2
    assert "plain-seed0.json was made with other data" in capsys.readouterr().err


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
    assert line.startswith("weightcast: interrupted, 1 of 3 done: the same command goes on in ")
    assert "from its last checkpoint" in line
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


def test_lists_fit_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for names in ([], *([name] for name in (*CATALOGUE, *MODULES))):
        assert main(["reproduce", *names, "--list"]) == 0
        text = capsys.readouterr().out
        assert max(map(len, text.splitlines())) <= 80
        words = " ".join(text.split())
        for name in names or (*CATALOGUE, *MODULES):
            assert name in words


def test_an_experiment_is_shown_with_its_details(capsys: pytest.CaptureFixture[str]) -> None:
    entry = CATALOGUE["cifar1"]
    assert main(["reproduce", "cifar1", "--list", "--seeds", "2"]) == 0
    words = " ".join(capsys.readouterr().out.split())
    for text in (entry.title, entry.paper, "--data cifar10=DIR", "40,000, batches of 128", "for 2"):
        assert text in words
    for arm in entry.arms:
        assert arm.name in words
        assert ", ".join(f"{step:,}" for step in arm.jumps) in words
    assert "introspection-mnist" in words
    assert "averaging is no arm of its own" in words
    assert "mnist2" not in words
    assert main(["reproduce", "mnist3", "imp", "--list", "--json"]) == 0
    one, two = json.loads(capsys.readouterr().out)
    assert (one["name"], one["batch"], two["name"]) == ("mnist3", 100, "imp")
    assert one["jumps by arm"]["jumps"] == [6000, 8000, 10_000]
    assert main(["reproduce", "imp", "--list"]) == 0
    words = " ".join(capsys.readouterr().out.split())
    for text in ("--data mnist=DIR", "lenet, resnet20; by default lenet", "--rewind", "--rounds"):
        assert text in words
    assert main(["reproduce", "mnst3", "--list"]) == 2
    assert "no experiment 'mnst3': did you mean 'mnist3'? There are" in capsys.readouterr().err


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
    assert shown.out.startswith(
        "MNIST: 60 of 60,000 training images, 60 of 10,000 test images (in "
    )
    rows = {line.split()[0]: line.split()[1:4] for line in shown.out.splitlines() if " of " in line}
    assert rows["mnist2"] == ["5", "of", "5"]  # four runs and the tuning
    assert rows["tiny"] == ["5", "of", "5"]
    assert "cifar1" not in shown.out
    left_out = "weightcast: left out, without data: "
    hints = {line.removeprefix(left_out) for line in shown.err.splitlines()}
    assert hints == {
        "cifar1: give its folder with --data cifar10=DIR, or --fetch DIR",
        "fm16: give its folder with --data fashion=DIR, or --fetch DIR",
        "alexnet1: give its folder with --data images=DIR: --fetch cannot download it",
    }
    assert main(["reproduce", "all", "--dry-run"]) == 2
    assert "no data for " in capsys.readouterr().err


def test_a_plan_knows_what_was_begun_and_tuned(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, data = tmp_path / "results", load_data("mnist", images)
    with held(results):
        peak = tuned_peak(TINY, data=data, folder=results)
        plain = begun(TINY, TINY.arms[0], data, results, None)
        (results / "tiny" / "plain-seed0.zarr").mkdir()
        begun(TINY, TINY.arms[3], data, results, peak)
        (results / "tiny" / f".{file_name('jumps', 0, '.pt')}").write_bytes(b"damaged")
    words = ["reproduce", "tiny", "--data", str(images), "-o", str(results), "--seeds", "1"]
    words += ["--arms", "plain, jumps, one-cycle", "--dry-run"]

    def states() -> dict[str, tuple[str, int, int]]:
        assert main([*words, "--json"]) == 0
        shown = json.loads(capsys.readouterr().out)
        return {row["job"].split(", ")[1]: (row["state"], row["done"], row["of"]) for row in shown}

    far = ("begun", plain, 40)
    told = {"plain": far, "jumps": ("to do", 0, 40), "tuning": ("done", 4, 4), "one-cycle": far}
    assert states() == told
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert f"begun, step {plain}" in shown
    assert "3 of 4 to do" in shown
    (results / "tiny-paper-tuning" / file_name("peak 1.5", TUNING_SEED)).unlink()
    assert states() == {**told, "tuning": ("begun", 3, 4)}
    (results / "tiny" / "plain-seed0.zarr").rmdir()  # without its history, it begins anew
    assert states()["plain"] == ("to do", 0, 40)
    words[3] = str(write_images(tmp_path / "other", seed=1))  # and with other data
    assert states()["one-cycle"] == ("to do", 0, 40)


def test_a_quick_run_says_nothing_about_accuracy(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, quick = tmp_path / "results", replace(TINY.shortened(20), quick_steps=20)
    CATALOGUE["tiny"] = replace(TINY, quick_steps=20)
    with held(results):
        for arm in (quick.arms[0], quick.arms[2]):
            run_arm(quick, arm, 0, data=load_data("mnist", images), folder=results)
    words = ["reproduce", "tiny", "--budget", "quick", "--seeds", "1", "--arms", "plain,jumps"]
    words += ["--data", str(images), "-o", str(results)]
    assert main(words) == 0
    text = capsys.readouterr().out
    warning = "20 of 40 steps: this shows that it runs, and says nothing about accuracy\n"
    table = (results / "tiny-quick" / "table.txt").read_text()
    assert text.startswith(warning)
    assert table.startswith(warning)
    for words_of_it in (text, table):
        assert "Most accurate" not in words_of_it
        assert "\n- " not in words_of_it
        assert "jumps" in words_of_it
    assert "curves" not in text
    assert text.splitlines()[-1].startswith("what ran: ")
    assert main([*words, "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["steps"], told["steps of the paper"]) == (20, 40)


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
    "no device": ("tiny --data {images} --device tpu9", ("device must be one", "'tpu9'")),
    "an arm that is none": ("tiny --data {images} --arms averaging", ("it comes with plain",)),
    "no arm": ("tiny --data {images} --arms=", ("name the arms", "one-cycle")),
    "no download": ("alexnet1 --fetch {folder}/d", ("alexnet1: give", "--fetch cannot")),
}


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_gets_one_line(
    case: str,
    dry_run: bool,
    tmp_path: Path,
    images: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    faked(monkeypatch, lambda *_: pytest.fail("something ran"))
    words, texts = BAD_INPUT[case]
    given = [*words.format(images=images, folder=tmp_path).split(), *["--dry-run"] * dry_run]
    assert main(["reproduce", *given]) == 2
    shown = capsys.readouterr()
    assert len(shown.err.splitlines()) == 1
    for text in texts:
        assert text in shown.err
    assert shown.out == ""
    assert {path.name for path in tmp_path.iterdir()} == {"images"}


def test_of_a_folder_that_another_process_fills_only_the_plan_is_shown(
    tmp_path: Path,
    images: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    faked(monkeypatch, lambda *_: pytest.fail("something ran"))
    words = ["reproduce", "tiny", "--data", str(images), "-o", str(tmp_path / "held")]
    with held(tmp_path / "held"):
        assert main(words) == 2
        assert "another process fills" in capsys.readouterr().err
        assert main([*words, "--dry-run"]) == 0
        assert "to do" in capsys.readouterr().out


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
    assert main([*words, "--dry-run"]) == 0
    assert len(asked) == 1
    text = capsys.readouterr().out
    assert text.startswith(f"mnist: would be downloaded to {tmp_path / 'data' / 'mnist'}\n")
    assert "mnist4, plain, seed 0" in text
    (tmp_path / "data").mkdir()
    write_images(tmp_path / "data" / "mnist")
    assert main([*words, "--dry-run"]) == 0  # what was downloaded before is found
    assert capsys.readouterr().out.startswith("MNIST: 60 of 60,000 training images")


@pytest.mark.parametrize("name", ["tiny/plain-seed2.json", "tiny-paper-tuning/peak-1-seed101.json"])
def test_a_damaged_file_is_named_before_anything_runs(
    name: str,
    tmp_path: Path,
    images: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    faked(monkeypatch, lambda *_: pytest.fail("something ran"))
    results = tmp_path / "results"
    with held(results):
        run_arm(TINY, TINY.arms[0], 0, data=load_data("mnist", images), folder=results)
    damaged = results / name
    damaged.parent.mkdir(exist_ok=True)
    text = (results / "tiny" / "plain-seed0.json").read_text()
    damaged.write_text(text[: len(text) // 2])
    words = ["reproduce", "tiny", "--seeds", "1", "--data", str(images), "-o", str(results)]
    assert main(words) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"weightcast: {damaged} is not the result of a run")
    assert error.endswith("remove it to run it again\n")
    assert error.count("\n") == 1


@pytest.mark.parametrize("folder", ["", "mnist=", "~nobody-of-that-name/x"])
def test_a_folder_that_is_none(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reproduce", "mnist4", "--data", folder, "-o", str(tmp_path / "r")]) in (1, 2)
    assert capsys.readouterr().err.count("\n") == 1


def test_a_name_beside_all_is_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "all", "bogus", "--dry-run"]) == 2
    assert "no experiment 'bogus'" in capsys.readouterr().err
