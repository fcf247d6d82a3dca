"""The plan of a reproduction, its pace, and the workers that do it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_experiments import TINY, write_images

from weightcast.experiments import jobs, queueing, sources
from weightcast.experiments.catalogue import CATALOGUE, find
from weightcast.experiments.experiment import Arm
from weightcast.experiments.forecasters import FITTED, file_of
from weightcast.experiments.jobs import Fitting, Place, Run, Tuning, jobs_of
from weightcast.experiments.loading import load_data
from weightcast.experiments.pacing import Pace, seconds_of
from weightcast.experiments.queueing import Event, Progress, work
from weightcast.experiments.reproducing import MARKER, arms_of, held, plan, refuse_others
from weightcast.experiments.results import write_result
from weightcast.experiments.running import run_arm
from weightcast.experiments.sources import Found, Given, look_for, supplied
from weightcast.predictor import GaussianNoise, save
from weightcast.store import InputNotFoundError, OutputExistsError, UsageError


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that start at once: their jobs here do nothing with torch."""
    monkeypatch.setattr(queueing, "CONTEXT", multiprocessing.get_context("fork"))


def test_plan_has_every_run_once_the_shortest_experiments_first() -> None:
    runs = plan(list(CATALOGUE.values()), 3)
    assert len(runs) == 3 * sum(len(e.arms) for e in CATALOGUE.values())
    steps = [run.experiment.steps for run in runs]
    assert steps == sorted(steps)
    assert len({(r.experiment.name, r.arm.name, r.seed) for r in runs}) == len(runs)
    recorded = {(r.arm.name, r.seed) for r in runs if r.record}
    assert recorded == {("plain", 0), ("jumps", 0)}
    names = [run.experiment.name for run in runs]
    assert all(names[i] == names[i - 1] or names[i] not in names[:i] for i in range(1, len(names)))


def test_jobs_come_after_what_they_need_and_leave_out_what_is_done(tmp_path: Path) -> None:
    runs = plan([find("mnist2"), find("baselines")], 2)
    todo = jobs_of(runs, tmp_path)
    assert [job for job in todo if isinstance(job, Run)] == runs
    assert [job for job in todo if not isinstance(job, Run)] == [Tuning(find("mnist2")), Fitting()]
    for place, job in enumerate(todo):
        assert all(need in todo[:place] for need in job.needs)
    for run in runs:
        if run.arm.schedule == "one-cycle" or run.seed:
            run.result(tmp_path).parent.mkdir(parents=True, exist_ok=True)
            run.result(tmp_path).touch()
    left = jobs_of(runs, tmp_path)
    assert Tuning(find("mnist2")) not in left
    assert len(left) == 2 + len(find("baselines").arms) + 1


def test_arms_with_commas_in_their_names_are_found() -> None:
    entry = find("cifar1")
    names = [arm.name for arm in entry.arms]
    assert arms_of(",".join(names), [entry]) == names
    assert arms_of(" , ".join(names), [entry]) == names
    for none in ("", " ", ","):
        with pytest.raises(UsageError, match=r"name the arms.*: there are .*one-cycle"):
            arms_of(none, [entry])
    with pytest.raises(UsageError, match="it comes with plain"):
        arms_of("averaging", [entry])
    with pytest.raises(UsageError, match="no arm 'jumsp': did you mean 'jumps'"):
        arms_of("plain, jumsp", [entry])
    with pytest.raises(UsageError, match="no arm 'jumps at 1'"):
        arms_of("jumps at 1, 2", [entry])


def test_fitted_forecasters_find_mnist_where_the_runs_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = write_images(tmp_path / "mnist")
    asked = []
    monkeypatch.setattr(jobs, "prepare", lambda name, *rest: asked.append((name, *rest[:2])))
    Fitting().perform(Place(tmp_path, {"mnist": tmp_path}), lambda done, total: None)
    assert asked == [(name, tmp_path, images) for name in FITTED]


@given(
    st.lists(st.tuples(st.floats(0, 0.9), st.floats(0.1, 10)), min_size=1, max_size=5),
    st.integers(1, 3),
)
def test_time_left_counts_only_what_is_done_now(
    parts: list[tuple[float, float]], workers: int
) -> None:
    """Jobs of one network that resume at some share, and go at a pace of their own."""
    entry = find("mnist3")
    runs = plan([entry], len(parts), ["jumps"])
    clock = 0.0
    pace = Pace(runs, workers, clock=lambda: clock)
    expected = seconds_of(runs[0])
    assert pace.left == pytest.approx(max(len(parts) / workers, 1) * expected)
    took = measured = 0.0
    for job, (resumed, factor) in enumerate(parts):
        first, now = round(resumed * 1000), round(resumed * 1000) + 50
        pace.hear(Event(job, "running"))
        pace.hear(Event(job, "running", first, 1000))
        clock += factor * expected * 0.05
        pace.hear(Event(job, "running", now, 1000))
        took, measured = took + factor * expected * 0.05, measured + expected * 0.05
    each = [(1 - (round(s * 1000) + 50) / 1000) * expected * took / measured for s, _ in parts]
    assert pace.left == pytest.approx(max(sum(each) / workers, max(each)))
    for job in range(len(parts)):
        pace.hear(Event(job, "done"))
    assert pace.left == 0
    assert pace.done == 1


def test_an_experiment_that_has_not_run_is_judged_by_the_others() -> None:
    runs = plan([find("mnist3"), find("mnist4")], 1, ["jumps"])
    clock = 0.0
    pace = Pace(runs, 1, clock=lambda: clock)
    slow = [run.experiment.name for run in runs].index("mnist3")
    pace.hear(Event(slow, "running", 0, 100))
    clock = seconds_of(runs[slow])  # for half of it: twice as slow as expected
    pace.hear(Event(slow, "running", 50, 100))
    assert pace.left == pytest.approx(2 * (seconds_of(runs[slow]) / 2 + seconds_of(runs[1 - slow])))


def quick_job(job: tuple[str, Path], progress: Progress) -> None:
    """What a job's name says; and a file to show that it was done."""
    name, folder = job
    if name == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "fail":
        raise OutputExistsError("it is\nthere")
    if name == "break":
        raise ZeroDivisionError("no number")
    for done in range(3):
        progress(done, 3)
    (folder / f"{name}-{os.getpid()}").touch()
    if name == "hang":
        time.sleep(60)


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("workers", [1, 3])
def test_a_job_that_fails_stops_no_other(workers: int, tmp_path: Path) -> None:
    names = ["die", "a", "fail", "needs fail", "b", "break", "c", "die", "needs a"]
    needs = [[], [], [], [2], [], [], [], [], [1]]
    given_jobs = [(name, tmp_path) for name in names]
    events = list(work(quick_job, given_jobs, needs, workers))
    ends = {e.job: e for e in events if e.state != "running"}
    assert len([e for e in events if e.state != "running"]) == len(names)
    assert {names[j] for j, e in ends.items() if e.state == "done"} == {"a", "b", "c", "needs a"}
    assert {path.name.split("-")[0] for path in tmp_path.iterdir()} == {"a", "b", "c", "needs a"}
    assert "killed, or out of memory" in ends[0].text
    assert "exit code -9" in ends[7].text
    assert ends[2].text == "it is there"
    assert ends[3].text == "what it needs failed"
    assert ends[5].text.startswith("ZeroDivisionError: no number (test_experiments_reproducing.py:")
    place = {(e.job, e.state): i for i, e in enumerate(events)}
    assert place[1, "done"] < place[8, "running"]
    assert all(event.job != 3 or event.state == "failed" for event in events)


@pytest.mark.usefixtures("forked")
def test_workers_are_used_again_and_there_are_no_more_than_asked_for(tmp_path: Path) -> None:
    numbered = [(str(i), tmp_path) for i in range(6)]
    assert len(list(work(quick_job, numbered, [()] * 6, 2))) >= 12
    by_worker = [path.name.split("-")[1] for path in tmp_path.iterdir()]
    assert len(by_worker) == 6
    assert len(set(by_worker)) <= 2


@pytest.mark.usefixtures("forked")
def test_whoever_stops_listening_ends_the_workers(tmp_path: Path) -> None:
    with closing(work(quick_job, [("hang", tmp_path), ("a", tmp_path)], [(), ()], 1)) as events:
        next(event for event in events if event.total)
        while not (found := list(tmp_path.iterdir())):
            time.sleep(0.01)
    with pytest.raises(ProcessLookupError):
        os.kill(int(found[0].name.split("-")[1]), 0)
    assert [path.name.split("-")[0] for path in tmp_path.iterdir()] == ["hang"]


SIGNALS = """\
import signal
from weightcast.experiments.queueing import work

def refuse_ctrl_c(job, progress):
    raise OSError(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))

if __name__ == "__main__":
    print([event.text for event in work(refuse_ctrl_c, [0, 1], [(), ()], 2) if event.text])
    print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))
"""


def test_no_worker_gets_ctrl_c_also_not_the_first(tmp_path: Path) -> None:
    """In a process of its own: Python's resource tracker, that it starts once, unblocks it."""
    (tmp_path / "script.py").write_text(SIGNALS)
    words = [sys.executable, tmp_path / "script.py"]
    said = subprocess.run(words, capture_output=True, text=True, check=True, timeout=120)
    assert said.stdout.splitlines() == ["['True', 'True']", "False"]


def test_a_results_folder_has_one_owner(tmp_path: Path) -> None:
    with held(tmp_path / "results"):
        pass
    with held(tmp_path / "results"):  # it is ours, so again
        refused = pytest.raises(OutputExistsError, match="another process fills")
        with refused, held(tmp_path / "results"):
            pass
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    refused = pytest.raises(OutputExistsError, match="no reproduction made it")
    with refused, held(tmp_path / "mine"):
        pass
    assert not (tmp_path / "mine" / MARKER).exists()


def test_what_is_done_is_of_the_same_device(tmp_path: Path) -> None:
    data = {"mnist": load_data("mnist", write_images(tmp_path / "images"))}
    runs = [Run(TINY, TINY.arms[0], seed) for seed in range(3)]
    result = run_arm(TINY, TINY.arms[0], 0, data=data["mnist"], folder=tmp_path, device="cpu:0")
    assert "device" not in result.made
    refuse_others(runs, tmp_path, data)
    refuse_others(runs, tmp_path, data, "cpu:0")
    with pytest.raises(OutputExistsError, match="another device"):
        refuse_others(runs, tmp_path, data, "cuda")
    made = {**result.made, "device": "cuda"}
    write_result(replace(result, made=made), runs[0].result(tmp_path))
    for device in ("cuda", "cuda:0"):
        refuse_others(runs, tmp_path, data, device)
    for device in ("cpu", "cuda:1"):
        with pytest.raises(OutputExistsError, match="another device"):
            refuse_others(runs, tmp_path, data, device)


def test_what_is_done_is_of_the_same_forecaster(tmp_path: Path) -> None:
    data = {"mnist": load_data("mnist", write_images(tmp_path / "images"))}
    jumps, path = Arm("jumps", (20,), "noise"), file_of("noise", tmp_path)
    path.parent.mkdir()
    save(GaussianNoise(0.1), path)
    run_arm(TINY, jumps, 0, data=data["mnist"], folder=tmp_path)
    refuse_others([Run(TINY, jumps, 0)], tmp_path, data)
    save(GaussianNoise(0.2), path, overwrite=True)
    with pytest.raises(OutputExistsError, match="another forecaster"):
        refuse_others([Run(TINY, jumps, 0)], tmp_path, data)


def test_folders_of_data_are_for_all_or_for_one(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two=2"
    one.mkdir()
    two.mkdir()
    given = Given.parse([f"fashion={one}", str(two)])
    assert given.folders_of("fashion-55000") == [one]
    assert given.folders_of("fashion") == [one]
    assert given.folders_of("mnist") == [two]
    with pytest.raises(UsageError, match="no data set 'fashoin': did you mean 'fashion'"):
        Given.parse([f"fashoin={one}"])
    for text in (str(tmp_path / "none"), f"mnist={tmp_path / 'none'}"):
        with pytest.raises(InputNotFoundError, match=r"there is no .*none"):
            Given.parse([text])


def test_files_are_not_taken_for_mnist_and_fashion_mnist_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both come in files of these names, and a part of either has a digest that nobody knows."""
    here, there = tmp_path / "here", tmp_path / "there"
    for seed, folder in enumerate((here, there)):
        write_images(folder, seed=seed)
    monkeypatch.setattr(sources, "DEFAULTS", {"fashion": there})
    names = ["fashion-55000", "mnist"]
    assert look_for(names, Given((here,))).folders == {"mnist": here, "fashion-55000": there}
    monkeypatch.setattr(sources, "DEFAULTS", {"fashion": tmp_path / "none"})
    found = look_for(names, Given((here,)))
    assert found.folders == {"mnist": here}
    assert "are taken for mnist's" in found.missing["fashion-55000"]
    named = Given.parse([f"mnist={here}", f"fashion={there}"])
    assert look_for(names, named).folders == {"mnist": here, "fashion-55000": there}


def test_what_lacks_data_is_told_all_at_once(tmp_path: Path) -> None:
    runs = plan([find("cifar1"), find("alexnet1"), find("mnist1"), find("baselines")], 1)
    found = look_for(["cifar10", "mnist"], Given())
    assert set(found.missing) == {"cifar10", "mnist"}
    with pytest.raises(InputNotFoundError) as caught:
        supplied(runs, found, any_of_them=False)
    for text in ("cifar1: give its folder with --data cifar10=DIR", "mnist1", "baselines"):
        assert text in str(caught.value)
    assert "alexnet1" not in str(caught.value)
    some = Found({}, {}, {"cifar10": "why"})
    kept, left_out = supplied(runs, some, any_of_them=True)
    assert {run.experiment.name for run in kept} == {"alexnet1", "mnist1", "baselines"}
    assert left_out == ["left out, without data: cifar1: why"]
    with pytest.raises(InputNotFoundError, match="cifar1: why"):
        supplied(
            runs[:0] + [r for r in runs if r.experiment.name == "cifar1"], some, any_of_them=True
        )
