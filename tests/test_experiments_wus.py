"""The study of weight-update skipping: its runs, what it compares, and its document."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import nn

from weightcast.apply.skip_rule import SkipState
from weightcast.experiments import agreement, building, running
from weightcast.experiments.arm_run import Run, evaluate
from weightcast.experiments.digits import Task
from weightcast.experiments.jobs import Place
from weightcast.experiments.kept import required
from weightcast.experiments.loading import Data
from weightcast.experiments.study import Request, with_needs
from weightcast.experiments.wus import STUDY
from weightcast.experiments.wus_document import write_document
from weightcast.experiments.wus_findings import compared, overall, sentences
from weightcast.experiments.wus_numbers import Runs, read, runs_of
from weightcast.experiments.wus_runs import Parts, WusRun
from weightcast.experiments.wus_settings import ARMS, SHORTER, Setting, settings
from weightcast.experiments.wus_timed import in_full_steps
from weightcast.predictor import one_thread
from weightcast.store import (
    FormatError,
    History,
    InputNotFoundError,
    OutputExistsError,
    UsageError,
)

TINY = replace(
    settings()["alexnet", "quick"],
    network="tiny",
    lr=0.05,
    batch=8,
    steps=40,
    evaluate_every=2,
    images=48,
    held_out=20,
    tests=16,
    window=2,
    longest=2,
)


def images(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, 1, 6, 6, generator=generator)
    return x, (x[:, 0, :3].mean((1, 2)) > x[:, 0, 3:].mean((1, 2))).long()


def noisy(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return x + 0.1 * torch.rand(x.shape, generator=generator)


DATA = Data(Task(*images(80, 0), *images(30, 1)), {"file": "digest"}, 2, "80 images", noisy)


@dataclass(frozen=True)
class Here(Place):
    """Where the data are at hand."""

    at_hand: Data = DATA

    def data(self, name: str) -> Data:
        return self.at_hand


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def tiny(classes: int) -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(1, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten()),
            *(nn.Dropout(0.2), nn.Linear(48, classes)),
        )

    monkeypatch.setitem(building.NETWORKS, "tiny", tiny)


def perform(folder: Path, arm: str, seed: int = 1, setting: Setting = TINY, data: Data = DATA):  # type: ignore[no-untyped-def]
    """Run an arm and what it needs; its numbers."""
    job = WusRun(setting, arm, seed)
    for each in with_needs([job], folder):
        each.perform(Here(folder, {}, at_hand=data), lambda done, total: None)
    return required(job.result(folder))


def untimed(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Without what depends on the machine."""
    trace = {k: v for k, v in numbers["trace"].items() if k != "seconds"}
    timed = ("seconds", "seconds_of", "held_seconds", "wall")
    return {**{k: v for k, v in numbers.items() if k not in timed}, "trace": trace}


# ---- runs


@pytest.mark.parametrize("arm", ["WUS", "WUS + LR"])
def test_skipping_is_training_biases_and_norms_alone(tmp_path: Path, arm: str) -> None:
    """Beside a loop that switches the weights by hand."""
    numbers = perform(tmp_path, arm)
    parts, rule, state = Parts.of(DATA, TINY), TINY.rule, SkipState()
    experiment = TINY.experiment(arm)
    with one_thread(), torch.random.fork_rng(devices=[]):
        run = Run.begin(experiment, experiment.arms[0], 1, parts.data)
        run.measure()
        skipped = 0
        while run.step < TINY.steps:
            for name, parameter in run.network.named_parameters():
                if name in ("0.weight", "5.weight"):
                    parameter.requires_grad_(not state.skipping)
                    parameter.grad = None
            skipped += 2 * state.skipping
            run.advance(2)
            run.measure()
            accuracy = evaluate(run.network, *parts.held)[1]
            state, _ = rule.judge(state, accuracy)
    assert 0 < skipped < TINY.steps
    assert numbers["trace"]["accuracy"] == run.traces[arm].accuracy
    assert numbers["trace"]["loss"] == pytest.approx(run.traces[arm].loss, rel=1e-4)
    assert numbers["share"] == skipped / TINY.steps
    assert numbers["steps_of"] == {"full": TINY.steps - skipped, "skipping": skipped}


def test_arms_are_the_same_until_updates_are_skipped(tmp_path: Path) -> None:
    plain, skipped = (perform(tmp_path, arm) for arm in ("plain", "WUS"))
    entered = next(d["step"] for d in skipped["decisions"] if d["kind"] == "entered")
    until = plain["trace"]["steps"].index(entered) + 1
    assert plain["trace"]["loss"][:until] == skipped["trace"]["loss"][:until]
    assert plain["trace"]["loss"][until:] != skipped["trace"]["loss"][until:]
    assert plain["decisions"] == []


def test_no_decision_looks_at_a_test_image(tmp_path: Path) -> None:
    ours = perform(tmp_path / "a", "WUS")
    others = replace(DATA.task, validation_y=1 - DATA.task.validation_y)
    theirs = perform(tmp_path / "b", "WUS", data=replace(DATA, task=others))
    assert ours["decisions"] == theirs["decisions"]
    accuracy = [1 - a for a in theirs["trace"]["accuracy"]]
    assert ours["trace"]["accuracy"] == pytest.approx(accuracy)


def test_held_out_images_are_not_trained_on() -> None:
    x = torch.arange(80.0).reshape(-1, 1, 1, 1)
    data = replace(DATA, task=replace(DATA.task, train_x=x, train_y=torch.arange(80)))
    parts = Parts.of(data, TINY)
    held, trained = parts.held[0][:20].flatten(), parts.data.task.train_x[:48].flatten()
    assert len({*held.tolist(), *trained.tolist()}) == 68
    assert torch.equal(held.long(), parts.held[1])
    assert torch.equal(trained.long(), parts.data.task.train_y)
    assert torch.equal(parts.data.task.validation_x[:16], DATA.task.validation_x[:16])
    assert len(parts.data.task.validation_y) == 16


def test_held_out_evaluations_count_and_those_of_the_test_images_do_not(tmp_path: Path) -> None:
    numbers = perform(tmp_path, "WUS")
    parts = sum(numbers["seconds_of"].values())
    assert numbers["seconds"] == pytest.approx(parts + numbers["held_seconds"])
    assert numbers["held_seconds"] > 0
    assert numbers["wall"] > 0
    assert len(numbers["decisions"]) == 19  # not before the first step, nor after the last
    assert perform(tmp_path, "plain")["held_seconds"] == 0


@pytest.mark.parametrize("arm", ["plain", "WUS"])
def test_a_stopped_run_goes_on_to_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arm: str
) -> None:
    whole = perform(tmp_path / "whole", arm, seed=0)
    monkeypatch.setattr(running, "_CHECKPOINT", 0.0)
    job, place = WusRun(TINY, arm, 0), Here(tmp_path / "parts", {})
    for stop in (10, 16, 22):

        def stopped(done: int, total: int, stop: int = stop) -> None:
            if done > stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            job.perform(place, stopped)
    assert not job.result(place.folder).exists()
    job.perform(place, lambda done, total: None)
    assert untimed(required(job.result(place.folder))) == untimed(whole)
    assert not list(place.folder.rglob("*.pt"))
    if arm == "WUS":
        histories = [History(f / "wus/alexnet-quick/wus-seed0.zarr") for f in tmp_path.iterdir()]
        one, other = (np.asarray(h.metric("skip/skipping")) for h in histories)
        np.testing.assert_array_equal(one, other)


def test_the_history_of_the_first_seed_has_every_decision(tmp_path: Path) -> None:
    numbers = perform(tmp_path, "WUS", seed=0)
    history = History(tmp_path / "wus" / "alexnet-quick" / "wus-seed0.zarr")
    steps, skipping = history.metric("skip/skipping")
    decisions = numbers["decisions"]
    assert steps.tolist() == [d["step"] for d in decisions]
    assert skipping.tolist() == [d["kind"] in ("entered", "skipping") for d in decisions]
    assert history.metric("skip/value")[1].tolist() == pytest.approx(
        [d["value"] for d in decisions]
    )
    assert [p.name for p in history.parameters] == ["0.weight", "1.bias", "5.bias"]
    perform(tmp_path, "WUS", seed=1)
    assert len(list(tmp_path.rglob("*.zarr"))) == 1


def test_what_is_done_is_not_done_again_nor_taken_for_another(tmp_path: Path) -> None:
    perform(tmp_path, "WUS")
    path = WusRun(TINY, "WUS", 1).result(tmp_path)
    before = path.stat().st_mtime_ns
    WusRun(TINY, "WUS", 1).perform(Here(tmp_path, {}), lambda done, total: None)
    assert path.stat().st_mtime_ns == before
    for other in (replace(TINY, lr=0.1), replace(TINY, threshold=0.02)):
        with pytest.raises(OutputExistsError, match="another setting"):
            WusRun(other, "WUS", 1).perform(Here(tmp_path, {}), lambda done, total: None)


def test_a_rule_is_nothing_to_arms_that_do_not_skip(tmp_path: Path) -> None:
    perform(tmp_path, "plain")
    other = WusRun(replace(TINY, threshold=0.02, step_seconds=1.0), "plain", 1)
    other.perform(Here(tmp_path, {}), lambda done, total: None)


def test_the_shorter_run_costs_what_the_one_that_skips_did(tmp_path: Path) -> None:
    shorter = perform(tmp_path, "shorter + LR")
    cost = in_full_steps(required(WusRun(TINY, "WUS + LR", 1).result(tmp_path)))
    assert shorter["steps"] == round(cost) == shorter["trace"]["steps"][-1]


def test_a_control_of_another_cost_is_not_taken(tmp_path: Path) -> None:
    perform(tmp_path, "shorter + LR")
    job = WusRun(TINY, "shorter + LR", 1)
    job.perform(Here(tmp_path, {}), lambda done, total: None)
    other = WusRun(TINY, "WUS + LR", 1).result(tmp_path)
    whole = json.loads(other.read_text())
    whole["numbers"]["seconds"] *= 2  # as if it had been run again
    other.write_text(json.dumps(whole))
    before = job.result(tmp_path).read_bytes()
    with pytest.raises(OutputExistsError, match=r"shorter-lr-seed1\.json has .* remove the file"):
        job.perform(Here(tmp_path, {}), lambda done, total: None)
    assert job.result(tmp_path).read_bytes() == before
    for read_ in (STUDY.tables, STUDY.facts, lambda r: write_document(r, tmp_path / "docs")):
        with pytest.raises(FormatError, match=r"remove shorter-lr-seed1\.json and run it again"):
            read_(tmp_path)
    assert not (tmp_path / "docs" / "wus").exists()


@pytest.mark.parametrize(
    ("device", "another", "goes_on"),
    [("cpu", False, True), ("cpu:0", False, True), ("cpu:0", True, False)],
)
def test_a_checkpoint_of_another_device_is_not_gone_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, another: bool, goes_on: bool
) -> None:
    monkeypatch.setattr(running, "_CHECKPOINT", 0.0)
    if another:  # here is one only: let its other name be another
        for module in (agreement, running):
            monkeypatch.setattr(module, "device_name", str)
    job, steps = WusRun(TINY, "plain", 1), []

    def stopped(done: int, total: int) -> None:
        if done > 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        job.perform(Here(tmp_path, {}), stopped)
    job.perform(Here(tmp_path, {}, device), lambda done, total: steps.append(done))
    assert (steps[0] > 2) == goes_on
    assert required(job.result(tmp_path))["device"] == device


def test_a_schedule_is_shortened_as_a_whole() -> None:
    for steps in (40, 20):
        experiment = TINY.experiment("shorter + LR", steps)
        rate = experiment.updates.rate
        factors = [rate.factor(step) for step in range(experiment.steps)]
        assert factors == pytest.approx(
            [0.1 ** (step >= 0.4 * steps) * 0.1 ** (step >= 0.8 * steps) for step in range(steps)]
        )
    assert TINY.experiment("WUS").updates.rate.factor(39) == 1.0


@pytest.mark.parametrize("change", [{"images": 61}, {"held_out": 33}, {"tests": 31}])
def test_too_few_images_are_refused(tmp_path: Path, change: dict[str, int]) -> None:
    with pytest.raises(FormatError, match=r"alexnet takes .* there are 80 images"):
        perform(tmp_path, "plain", setting=replace(TINY, **change))


def test_a_run_that_diverges_says_so_and_ends(tmp_path: Path) -> None:
    numbers = perform(tmp_path, "WUS", setting=replace(TINY, lr=1e30))
    assert "diverged" in numbers["diverged"]
    assert numbers["trace"]["steps"][-1] == TINY.steps


# ---- the plan


@pytest.mark.parametrize("budget", ["paper", "quick"])
def test_every_network_has_all_arms_of_all_seeds(budget: str) -> None:
    jobs = STUDY.plan(Request(STUDY.networks, 2, budget))
    assert len(set(jobs)) == len(jobs) == 12 * 2 * len(ARMS)
    ordered = with_needs(jobs)
    for job in ordered:
        assert all(ordered.index(need) < ordered.index(job) for need in job.needs)
        assert job.seconds > 0
    assert {"fashion-32", "cifar10-32", "cifar100-32"} == set().union(*(j.data for j in jobs))
    assert len({job.result(Path()) for job in jobs}) == len(jobs)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (Request(networks=("lenet",)), "network must be one of alexnet, .* got 'lenet'"),
        (Request(seeds=0), "seeds must be at least 1: got 0"),
    ],
)
def test_what_cannot_be_planned_is_refused(request_: Request, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        STUDY.plan(request_)


# ---- numbers and the document


def run(
    accuracy: list[float], *, cost: float = 1.0, skips: bool = False, length: int = 40
) -> dict[str, Any]:
    """Numbers of a run of 40 steps, or of its length; cost is a share of plain's."""
    steps = np.linspace(0, length, len(accuracy)).round().tolist()
    kinds = (("entered", 20), ("skipping", 24), ("left", 30)) if skips else ()
    return {
        "steps": length,
        "seconds": 40.0 * cost,
        "steps_of": {"full": 30, "skipping": 10} if skips else {"full": 40, "skipping": 0},
        "seconds_of": {"full": 30.0, "skipping": 5.0} if skips else {"full": 40.0, "skipping": 0.0},
        "held_seconds": 0.0,
        "wall": 50.0,
        "share": 0.25 if skips else 0.0,
        "decisions": [
            {"step": s, "kind": k, "value": 0.5, "gain": 0.0, "reason": "it"} for k, s in kinds
        ],
        "trace": {
            "steps": [int(s) for s in steps],
            "loss": accuracy,
            "accuracy": accuracy,
            "seconds": steps,
        },
        "diverged": "",
        "device": "cpu",
    }


def whole(skipped: list[float], plain: list[float], cost: float = 0.9) -> dict[str, Any]:
    """A setting in which an accuracy at the end is given for each seed."""
    arms = {
        arm: {
            str(seed): run([0.1, 0.5 + end / 2, end], cost=cost, skips=True)
            if arm.startswith("WUS")
            else run([0.1, end, end], length=round(40 * cost) if arm in SHORTER else 40)
            for seed, end in enumerate(skipped if arm.startswith("WUS") else plain)
        }
        for arm in ARMS
    }
    made = WusRun(TINY, "WUS", 0).made({TINY.data: DATA})["setting"]
    return {"setting": made, "data": {}, "torch": ["2.0"], "runs": json.loads(json.dumps(arms))}


shares = st.lists(st.integers(0, 100), min_size=3, max_size=3)


@given(skipped=shares, plain=shares)
@hypothesis_settings(deadline=None, max_examples=50)
def test_the_sentences_say_what_the_numbers_say(skipped: list[int], plain: list[int]) -> None:
    pairs = [(s / 100, p / 100) for s, p in zip(skipped, plain, strict=True)]
    runs = runs_of("alexnet-quick", whole([s for s, _ in pairs], [p for _, p in pairs]))
    gains = [s - p for s, p in pairs]
    better, worse = sum(g > 0 for g in gains), sum(g < 0 for g in gains)
    beyond = abs(np.median(gains)) > max(gains) - min(gains)
    assume(abs(abs(np.median(gains)) - (max(gains) - min(gains))) > 1e-9)
    text = " ".join(sentences(runs))
    assert len(re.findall(rf"better in {better} of 3 seeds, worse in {worse}\b", text)) == 4
    assert ("better beyond" in text) == (beyond and float(np.median(gains)) > 0)
    assert ("worse beyond" in text) == (beyond and float(np.median(gains)) < 0)
    assert ("never skipped") not in text


@given(accuracy=st.lists(st.floats(0, 1), min_size=3, max_size=9), cost=st.floats(0.1, 1.5))
@hypothesis_settings(deadline=None, max_examples=50)
def test_the_control_is_on_plain_s_curve_at_the_same_cost(
    accuracy: list[float], cost: float
) -> None:
    made = whole([0.5], [0.5], cost)
    made["runs"]["plain"] = {"0": run(accuracy)}
    runs = runs_of("alexnet-quick", made)
    one = next(compared(runs))
    (control,) = one.control.values
    at = min(40 * cost, 40)
    steps = runs.arms["plain"][0].trace.steps
    left = max(i for i in range(len(steps) - 1) if steps[i] <= at)
    share = (at - steps[left]) / (steps[left + 1] - steps[left])
    assert control == pytest.approx(accuracy[left] * (1 - share) + accuracy[left + 1] * share)
    assert one.gained.values == pytest.approx([0.5 - control])
    assert one.lost.values == pytest.approx([0.5 - accuracy[-1]])
    assert one.cost.values == pytest.approx([cost - 1])
    assert one.time.values == pytest.approx([cost - 1])
    assert one.most.values == pytest.approx([-0.5])
    assert any("cost more than plain" in s for s in sentences(runs)) == (one.cost.values[0] > 0)


def test_runs_of_a_busy_machine_are_measured_by_their_own_steps() -> None:
    made = whole([0.5], [0.5])
    slow = made["runs"]["WUS"]["0"]
    slow["seconds"] *= 2
    slow["seconds_of"] = {part: 2 * s for part, s in slow["seconds_of"].items()}
    one = next(compared(runs_of("alexnet-quick", made)))
    assert one.time.values == pytest.approx([0.8])
    assert one.cost.values == pytest.approx([-0.1])


def test_a_schedule_is_compared_with_the_one_that_is_shorter() -> None:
    made = whole([0.5], [0.7])
    made["runs"]["shorter + LR"] = {"0": run([0.1, 0.4], length=36)}
    _, one = compared(runs_of("alexnet-quick", made))
    assert one.control.values == [0.4]
    assert one.gained.values == pytest.approx([0.1])
    assert one.lost.values == pytest.approx([-0.2])


def test_a_run_that_diverged_is_not_compared() -> None:
    """It stopped, and so cost little."""
    made = whole([0.5, 0.6, 0.7], [0.4, 0.6, 0.8])
    made["setting"]["budget"] = "paper"
    sound = json.loads(json.dumps(made))
    made["runs"]["WUS"]["0"].update(diverged="step 3: weights are not finite", seconds=1.0)
    made["runs"]["plain"]["2"].update(diverged="step 3: weights are not finite")
    runs, whole_runs = runs_of("alexnet", made), runs_of("alexnet", sound)
    one, all_of_it = next(compared(runs)), next(compared(whole_runs))
    assert one.cost.by_seed == {s: all_of_it.cost.by_seed[s] for s in (1, 2)}
    assert set(one.share.by_seed) == {1, 2}
    for name in ("time", "lost", "control", "gained"):
        assert set(getattr(one, name).by_seed) == {1}, name
    assert next(overall([runs])).endswith("in 0 of 1 pairs of runs, and won in 0.")
    assert sentences(runs)[-1].startswith(
        "Training diverged: plain with seed 2 and WUS with seed 0. "
    )
    assert "left out of all that is compared" in sentences(runs)[-1]
    assert not any("diverged" in s for s in sentences(whole_runs))


def test_an_arm_that_only_diverged_is_not_compared(tmp_path: Path) -> None:
    made = whole([0.5], [0.5])
    made["runs"]["WUS"]["0"].update(diverged="step 3: weights are not finite")
    put(tmp_path, made)
    assert [one.arm for one in compared(runs_of("alexnet-quick", made))] == ["WUS + LR"]
    assert "Training diverged: WUS with seed 0." in write_document(None, tmp_path).read_text()


def test_runs_of_two_devices_are_not_compared(tmp_path: Path) -> None:
    made = whole([0.5, 0.6], [0.5, 0.6])
    for by_seed in made["runs"].values():
        by_seed["1"]["device"] = "cuda"
    put(tmp_path, made)
    with pytest.raises(FormatError, match=r"alexnet-quick.* are of cpu and cuda, whose times"):
        write_document(None, tmp_path)
    for by_seed in made["runs"].values():
        by_seed["0"]["device"] = "cuda"
    put(tmp_path, made)
    assert "on cuda." in write_document(None, tmp_path).read_text()


def test_an_arm_that_never_skipped_is_said_to() -> None:
    made = whole([0.5], [0.5])
    made["runs"]["WUS"] = {"0": run([0.1, 0.4])}
    text = sentences(runs_of("alexnet-quick", made))
    assert text[0].startswith("WUS never skipped")
    assert sum(s.startswith("WUS against") for s in text) == 0


def put(docs: Path, made: Mapping[str, Any]) -> None:
    (docs / "wus").mkdir(parents=True, exist_ok=True)
    (docs / "wus" / "alexnet-quick.json").write_text(json.dumps(made))


def test_the_document_is_made_of_the_numbers_alone(tmp_path: Path) -> None:
    for arm in ARMS:
        for seed in (1, 2):
            perform(tmp_path / "results", arm, seed)
    first = write_document(tmp_path / "results", tmp_path / "docs")
    text = first.read_text()
    for arm in ARMS:
        assert f"| {arm} |" in text
    assert "weightcast reproduce wus --network alexnet --data DATA --seeds 2 --budget quick" in text
    assert "Not complete" not in text
    assert "-54 % | -43 %" in text
    assert (tmp_path / "docs" / "wus" / "alexnet-quick.png").read_bytes()[:4] == b"\x89PNG"
    again = STUDY.document(None, tmp_path / "docs")
    assert again == first
    assert again.read_text() == text
    (runs,) = read(tmp_path / "docs")
    assert runs.seeds == [1, 2]
    assert "against plain" in STUDY.tables(tmp_path / "results")
    facts = json.loads(json.dumps(STUDY.facts(tmp_path / "results")))
    assert set(facts["alexnet-quick"]) == {"WUS", "WUS + LR"}
    share = facts["alexnet-quick"]["WUS"]["share"]["by_seed"]
    assert share == {str(s): r.share for s, r in runs.arms["WUS"].items()}


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    made = whole([0.5, 0.6], [0.5, 0.6])
    del made["runs"]["plain"], made["runs"]["WUS + LR"]["1"]
    put(tmp_path, made)
    text = write_document(None, tmp_path).read_text()
    assert "no run of plain with seed 0 and 1; WUS + LR with seed 1." in text
    assert "WUS against plain of the whole length: there is no pair of runs to compare." in text


def test_the_paper_s_length_is_apart_from_quick_runs(tmp_path: Path) -> None:
    made = whole([0.5, 0.7], [0.6, 0.6])
    made["setting"]["budget"] = "paper"
    (tmp_path / "wus").mkdir()
    (tmp_path / "wus" / "alexnet.json").write_text(json.dumps(made))
    text = write_document(None, tmp_path).read_text()
    assert "## Summary" in text
    assert "## Quick runs" not in text
    assert (
        "WUS lost to plain stopped at the same cost in 1 of 2 pairs of runs, and won in 1." in text
    )


def test_no_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError, match="give a folder of results"):
        write_document(None, tmp_path / "docs")
    put(tmp_path / "docs", whole([0.5], [0.5]))
    with pytest.raises(InputNotFoundError, match=f"no results of wus in {tmp_path}"):
        write_document(tmp_path, tmp_path / "docs")
    assert STUDY.tables(tmp_path) == ""


@pytest.mark.parametrize(
    "damage",
    [
        lambda made: made.pop("setting"),
        lambda made: made["runs"]["WUS"]["0"].pop("decisions"),
        lambda made: made["runs"]["WUS"]["0"]["trace"].update(accuracy=[]),
        lambda made: made["runs"]["WUS"]["0"].update(seconds=None),
        lambda made: made["runs"]["WUS"].update(one=None),
        lambda made: made["runs"]["WUS"]["0"]["seconds_of"].update(full=0),
        lambda made: made.update(runs=[]),
        lambda made: made.update(runs={}),
        lambda made: made["setting"].pop("lr"),
        lambda made: made["setting"].update(steps="many"),
    ],
)
def test_damaged_numbers_are_refused(tmp_path: Path, damage: Any) -> None:
    made = whole([0.5], [0.5])
    damage(made)
    put(tmp_path, made)
    with pytest.raises(FormatError, match="wus"):
        write_document(None, tmp_path)


def test_what_is_no_json_is_refused(tmp_path: Path) -> None:
    put(tmp_path, {})
    (tmp_path / "wus" / "alexnet-quick.json").write_text("{")
    with pytest.raises(FormatError, match=r"alexnet-quick\.json does not hold"):
        write_document(None, tmp_path)


def test_runs_that_were_made_otherwise_are_not_put_together(tmp_path: Path) -> None:
    perform(tmp_path, "plain")
    perform(tmp_path, "WUS", setting=replace(TINY, lr=0.1))
    with pytest.raises(FormatError, match="WUS, seed 1 was made otherwise"):
        write_document(tmp_path, tmp_path / "docs")


def test_a_setting_has_one_name() -> None:
    folders = [setting.folder for setting in settings().values()]
    assert len(set(folders)) == len(folders) == 24
    assert isinstance(Runs("x", {}, [], {}).seeds, list)
