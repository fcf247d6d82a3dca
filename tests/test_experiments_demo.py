"""The demo: its pieces beside slow ones, its words for every outcome, and a small run of it all."""

from __future__ import annotations

import functools
import json
import math
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from store_reference import refuses
from torch import nn

from weightcast.apply import jump
from weightcast.experiments import DemoResult, demo, run_demo
from weightcast.experiments.digits import Task, digits, source_network, target_network
from weightcast.experiments.figure import save_figure
from weightcast.experiments.report import steps_to_best, table, verdict
from weightcast.experiments.training import Curve, evaluate, running_median, steps_to, train
from weightcast.predictor import Errors, Introspection, LinearFit, load, one_thread
from weightcast.store import Dataset, History, MissingExtraError, OutputExistsError

STEPS = 60
EVERY = 3  # steps between evaluations
POINTS = [9, 12, 15]
WEIGHTS = sum(p.numel() for p in target_network(0).parameters())


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    """Small networks share badly among threads."""
    with one_thread():
        yield


# ---- curves


VALUES = st.lists(st.floats(0, 1), max_size=20)


@settings(max_examples=100, deadline=None)
@given(VALUES, st.integers(1, 7))
def test_running_median_is_the_median_of_the_last_few(values: list[float], width: int) -> None:
    expected, window = [], []
    for value in values:
        window = [*window, value][-width:]
        expected.append(statistics.median(window))
    assert running_median(values, width) == pytest.approx(expected, rel=1e-15)


@settings(max_examples=100, deadline=None)
@given(VALUES, st.floats(0, 1))
def test_steps_to_is_the_first_step_that_holds(accuracy: list[float], level: float) -> None:
    curve = Curve([10 * i for i in range(len(accuracy))], [0.0] * len(accuracy), accuracy)
    found = steps_to(curve, level)
    held = running_median(accuracy)
    if found is None:
        assert all(value < level for value in held)
    else:
        assert held[found // 10] >= level
        assert all(value < level for value in held[: found // 10])


def test_one_lucky_evaluation_is_not_enough() -> None:
    lucky = Curve(list(range(7)), [1.0] * 7, [0.1, 0.1, 0.1, 0.9, 0.1, 0.1, 0.1])
    assert steps_to(lucky, 0.9) is None


# ---- the task and the loop


@pytest.fixture(scope="module")
def task() -> Task:
    return digits()


def small(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Dropout(0.5), nn.Linear(8, 10))


def test_the_digits_are_split_the_same_way_every_time(task: Task) -> None:
    again = digits()
    assert torch.equal(again.validation_x, task.validation_x)
    assert len(task.train_y) + len(task.validation_y) == 1797
    assert (task.train_x.min(), task.train_x.max()) == (0, 1)
    trained = {x.numpy().tobytes() for x in task.train_x}
    assert len(trained & {x.numpy().tobytes() for x in task.validation_x}) <= 1


def test_evaluate_is_the_slow_loop(task: Task) -> None:
    network = small().eval()
    losses, right = [], 0
    for x, y in zip(task.validation_x, task.validation_y.tolist(), strict=True):
        logits = network(x[None])[0].tolist()
        losses.append(math.log(sum(math.exp(v) for v in logits)) - logits[y])
        right += logits.index(max(logits)) == y
    loss, accuracy = evaluate(network, task)
    assert loss == pytest.approx(statistics.mean(losses), rel=1e-5)
    assert accuracy == pytest.approx(right / len(losses), rel=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_evaluate_leaves_the_mode_as_it_was(training: bool, task: Task) -> None:
    network = small().train(training)
    assert evaluate(network, task) == evaluate(network, task)  # without the dropout
    assert network.training is training


@pytest.mark.parametrize(("steps", "expected"), [(7, [0, 3, 6, 7]), (6, [0, 3, 6]), (2, [0, 2])])
def test_train_evaluates_before_between_and_after(
    steps: int, expected: list[int], task: Task
) -> None:
    network, calls = small(), []
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    curve = train(
        network,
        optimizer,
        task,
        steps=steps,
        seed=0,
        evaluate_every=3,
        after_step=[lambda: calls.append("a"), lambda: calls.append("b")],
    )
    assert curve.steps == expected
    assert len(curve.loss) == len(curve.accuracy) == len(expected)
    assert calls == ["a", "b"] * steps
    assert (curve.loss[-1], curve.accuracy[-1]) == evaluate(network, task)


def final_loss(task: Task, weights: int, batches: int, disturb: int) -> float:
    network = target_network(weights)
    torch.manual_seed(disturb)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    curve = train(network, optimizer, task, steps=5, seed=batches, evaluate_every=5)
    return curve.loss[-1]


def test_training_depends_on_its_seeds_alone(task: Task) -> None:
    first = final_loss(task, 0, 0, disturb=1)
    assert final_loss(task, 0, 0, disturb=2) == first
    assert final_loss(task, 1, 0, disturb=1) != first
    assert final_loss(task, 0, 1, disturb=1) != first


@pytest.mark.parametrize("build", [source_network, target_network])
def test_networks_are_as_large_as_they_say(build: Any) -> None:
    weights = sum(p.numel() for p in build(0).parameters())
    assert f"{weights:,} weights" in build.__doc__


# ---- the report, for every outcome


def rising(held: int | None, loss: float = 0.5) -> Curve:
    """A curve of 0 to 200 steps that holds 90 % from step `held` on, or never."""
    # three of five evaluations make the median
    accuracy = [0.9 if held is not None and step >= held - 2 else 0.1 for step in range(201)]
    return Curve(list(range(201)), [loss] * 201, accuracy)


Held = Sequence[int | None]


def made(
    jumps: Held,
    plain: Sequence[int] = (100, 100),
    line: Held = (None, None),
    averaging: Held = (None, None),
    tuned: Held = (None, None),
    one_cycle: Held = (None, None),
    forecast: tuple[float, float, float] = (0.003, 0.004, 0.002),
    losses: tuple[float, float] = (0.5, 0.5),
) -> DemoResult:
    """A result of two seeds, from the steps at which each arm holds the plain run's best."""
    curves = {
        "plain": [rising(h, losses[0]) for h in plain],
        "jumps": [rising(h, losses[1]) for h in jumps],
        "line jumps": [rising(h) for h in line],
        "averaging": [rising(h) for h in averaging],
        "tuned rate": [rising(h) for h in tuned],
        "one-cycle": [rising(h) for h in one_cycle],
    }
    errors = [Errors("t = 30", 10, 1.0, 1.0, 1.0), Errors("all", 20, *forecast)]
    return DemoResult(200, [30, 40, 50], 0.03, 0.1, curves, errors)


def test_steps_to_best_are_each_seeds_own() -> None:
    result = made(jumps=[60, None], plain=[100, 150])
    assert steps_to_best(result, "plain") == [100, 150]
    assert steps_to_best(result, "jumps") == [60, None]


def test_one_lucky_evaluation_of_the_plain_run_is_not_its_best() -> None:
    result = made(jumps=[60, 60])
    result.curves["plain"][0].accuracy[150] = 1.0
    assert steps_to_best(result, "jumps") == [60, 60]


def about_jumps(result: DemoResult) -> str:
    (line,) = [line for line in verdict(result).splitlines() if line.startswith("Jumps: ")]
    return line


@pytest.mark.parametrize(
    ("jumps", "words"),
    [
        ([60, 50], "-40%, -50%; jumps helped in every run."),
        ([60, 110], "-40%, +10%; mixed: jumps helped in 1 of 2 runs, and hurt in 1."),
        ([60, None], "-40%, never; mixed: jumps helped in 1 of 2 runs, and hurt in 1."),
        ([60, 98], "-40%, -2%; mixed: jumps helped in 1 of 2 runs, and hurt in 0."),
        ([120, 150], "+20%, +50%; jumps helped in no run, and hurt in 2 of 2."),
        ([None, None], "never, never; jumps helped in no run, and hurt in 2 of 2."),
        ([None, 98], "never, -2%; jumps helped in no run, and hurt in 1 of 2."),
        ([94, 94], "-6%, -6%; jumps helped in every run."),
        ([96, 96], "-4%, -4%; no difference to speak of: jumps did not help."),  # as good as equal
        ([100, 100], "+0%, +0%; no difference to speak of: jumps did not help."),
    ],
    ids=str,
)
def test_verdict_says_whether_jumps_helped(jumps: list[int | None], words: str) -> None:
    assert words in about_jumps(made(jumps))


@pytest.mark.parametrize(
    ("losses", "words"), [((0.5, 0.4), "was 20% below"), ((0.5, 0.6), "was 20% above")]
)
def test_verdict_says_how_the_losses_ended(losses: tuple[float, float], words: str) -> None:
    assert words in about_jumps(made([60, 60], losses=losses))


@pytest.mark.parametrize(
    ("forecast", "words"),
    [
        ((0.003, 0.004, 0.002), ("25% below the last value's", "50% above the straight line's")),
        ((0.006, 0.004, 0.012), ("50% above the last value's", "50% below the straight line's")),
    ],
)
def test_verdict_says_how_good_the_forecast_is(
    forecast: tuple[float, float, float], words: tuple[str, str]
) -> None:
    first = verdict(made([60, 60], forecast=forecast)).splitlines()[0]
    assert first.startswith("Forecast: ")
    assert all(word in first for word in words)


@pytest.mark.parametrize(
    ("arms", "words"),
    [
        ({"jumps": [60, 60]}, "none of them reached that accuracy."),
        (
            {"jumps": [60, 60], "line": [70, 90], "one_cycle": [100, 110]},
            "line jumps 80, one-cycle 105; jumps were the quickest way there.",
        ),
        (
            {"jumps": [60, 60], "averaging": [70, None], "one_cycle": [40, 50]},
            "accuracy: one-cycle 45; one-cycle is quicker than jumps, without a trained "
            "forecaster.",
        ),
        (
            {"jumps": [None, 60], "averaging": [150, 170], "line": [190, 180]},
            "line jumps 185, averaging 160; plain is quicker than jumps, without a trained "
            "forecaster.",
        ),
        (  # quicker than the alternatives, and slower than no jumps at all
            {"jumps": [130, 130], "one_cycle": [150, 150]},
            "one-cycle 150; plain is quicker than jumps, without a trained forecaster.",
        ),
        (  # a tie is no win
            {"jumps": [60, 60], "tuned": [60, 60], "one_cycle": [62, 62]},
            "tuned rate 60, one-cycle 62; jumps were no quicker than tuned rate and one-cycle.",
        ),
    ],
    ids=lambda v: str(v)[:40],
)
def test_verdict_compares_with_the_alternatives(arms: dict[str, Any], words: str) -> None:
    last = verdict(made(**arms)).splitlines()[-1]
    assert last.startswith("Alternatives")
    assert words in last


def test_table_shows_every_arm() -> None:
    result = made([60, None], line=[80, 90], losses=(0.5, 0.25))
    columns, rows = table(result)
    assert [c for c in columns if "at" in c] == [f"accuracy, loss\nat {s}" for s in (50, 100, 200)]
    assert {len(row) for row in rows} == {len(columns)}
    cells = {row[0]: row[1:] for row in rows}
    assert list(cells) == list(demo.ARMS)
    # medians of two seeds, of which one never gets there
    assert cells["jumps"] == [
        "10.0% 0.250",
        "50.0% 0.250",
        "50.0% 0.250",
        "not reached (60, -)",
        "3.000",
    ]
    assert cells["plain"][2:] == ["90.0% 0.500", "100 (100, 100)", "4.000 (last value)"]
    assert cells["line jumps"][3:] == ["85 (80, 90)", "2.000"]
    assert cells["averaging"][3:] == ["not reached (-, -)", ""]


def test_table_takes_the_nearest_evaluation() -> None:
    """A quarter, half and all of 32 steps are 8, 16 and 32."""
    curve = Curve([0, 10, 20, 30], [4.0, 3.0, 2.0, 1.0], [0.0, 0.2, 0.4, 0.6])
    result = DemoResult(32, [5], 0.03, 0.1, {"plain": [curve]}, [Errors("all", 1, 1.0, 1.0, 1.0)])
    _, [row] = table(result)
    assert row[1:4] == ["10.0% 3.500", "20.0% 3.000", "30.0% 2.500"]  # running medians


# ---- the figure


def test_the_figure_is_a_picture(tmp_path: Path) -> None:
    save_figure(made([60, 70]), tmp_path / "a.png")
    assert_png(tmp_path / "a.png")
    save_figure(made([60, 70]), tmp_path / "a.svg")
    assert "<svg" in (tmp_path / "a.svg").read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "a.svg"]


def assert_png(path: Path) -> None:
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = (int.from_bytes(data[i : i + 4], "big") for i in (16, 20))
    assert width > 500
    assert height > 200


@pytest.fixture
def no_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.usefixtures("no_matplotlib")
def test_a_figure_without_matplotlib_names_the_extra(tmp_path: Path) -> None:
    with refuses(MissingExtraError, "matplotlib", "weightcast[plot]"):
        save_figure(made([60, 70]), tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


# ---- the whole of it, small


@dataclass(frozen=True)
class Ran:
    """A small demo: what it returned, wrote and reported."""

    folder: Path
    result: DemoResult
    calls: list[tuple[str, int, int]]


@pytest.fixture(scope="module")
def smaller() -> Iterator[None]:
    """Fewer samples and evaluations, and a shorter fit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "EVALUATIONS", STEPS // EVERY)
        patch.setattr(demo, "SAMPLES", 3000)
        patch.setattr(demo, "Introspection", functools.partial(Introspection, steps=200))
        yield


@pytest.fixture(scope="module")
def ran(smaller: None, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder, calls = tmp_path_factory.mktemp("demo") / "demo", []
    result = run_demo(folder, seeds=2, steps=STEPS, progress=lambda *call: calls.append(call))
    return Ran(folder, result, calls)


def test_the_demo_writes_everything(ran: Ran) -> None:
    expected = {
        "source.zarr",
        "dataset.zarr",
        "introspection.safetensors",
        "plain-0.zarr",
        "plain-1.zarr",
        "demo.json",
        "demo.png",
        demo.MARKER,
    }
    assert {p.name for p in ran.folder.iterdir()} == expected
    assert History(ran.folder / "source.zarr").steps.tolist() == list(range(STEPS + 1))
    dataset = Dataset(ran.folder / "dataset.zarr")
    assert len(dataset) == 3000
    assert dataset.source == str(ran.folder / "source.zarr")
    assert isinstance(load(ran.folder / "introspection.safetensors"), Introspection)
    assert_png(ran.folder / "demo.png")


def test_the_numbers_are_what_is_returned(ran: Ran) -> None:
    numbers = json.loads((ran.folder / "demo.json").read_text())
    assert numbers == json.loads(json.dumps(asdict(ran.result)))
    assert (numbers["steps"], numbers["jump_points"]) == (STEPS, POINTS)
    assert {numbers["rate"], numbers["peak"]} <= set(demo.RATES)
    assert list(numbers["curves"]) == list(demo.ARMS)
    for curves in ran.result.curves.values():
        assert [c.steps for c in curves] == [list(range(0, STEPS + 1, EVERY))] * 2
        assert all(len(c.loss) == len(c.accuracy) == len(c.steps) for c in curves)


@pytest.mark.usefixtures("smaller")
def test_the_same_call_gives_the_same_numbers(ran: Ran, tmp_path: Path) -> None:
    """Into a folder that has an earlier demo's files: they are replaced."""
    (tmp_path / "demo.json").write_text("earlier")
    (tmp_path / demo.MARKER).touch()
    run_demo(tmp_path, seeds=2, steps=STEPS)
    for name in ("demo.json", "introspection.safetensors"):
        assert (tmp_path / name).read_bytes() == (ran.folder / name).read_bytes()


@pytest.mark.parametrize("arm", ["jumps", "line jumps"])
def test_runs_are_the_plain_run_until_they_jump(ran: Ran, arm: str) -> None:
    for plain, jumps in zip(ran.result.curves["plain"], ran.result.curves[arm], strict=True):
        first = plain.steps.index(POINTS[0])
        assert jumps.loss[:first] == plain.loss[:first]
        assert all(a != b for a, b in zip(jumps.loss[first:], plain.loss[first:], strict=True))


def test_every_arm_starts_from_the_same_weights(ran: Ran) -> None:
    for seed in range(2):
        starts = {curves[seed].loss[0] for curves in ran.result.curves.values()}
        assert len(starts) == 1
    first, second = ran.result.curves["plain"]
    assert first.loss[0] != second.loss[0]


def test_the_first_jump_is_the_forecast_of_the_recorded_weights(ran: Ran, task: Task) -> None:
    history = History(ran.folder / "plain-0.zarr")
    snapshots = [[torch.tensor(v) for v in history.state(step).values()] for step in (9, 6, 4, 0)]
    forecasters = {
        "jumps": load(ran.folder / "introspection.safetensors"),
        "line jumps": LinearFit(),
    }
    for arm, forecaster in forecasters.items():
        network = target_network(0)
        weights = jump(snapshots[0], snapshots, forecaster)
        network.load_state_dict(dict(zip(network.state_dict(), weights, strict=True)))
        curve = ran.result.curves[arm][0]
        at = curve.steps.index(POINTS[0])
        assert (curve.loss[at], curve.accuracy[at]) == pytest.approx(evaluate(network, task))


def test_averaging_is_a_moving_average_of_the_plain_run(ran: Ran, task: Task) -> None:
    network, average = target_network(0), None
    optimizer = torch.optim.SGD(network.parameters(), lr=demo.LEARNING_RATE)

    @torch.no_grad()
    def update() -> None:
        nonlocal average
        now = [p.detach().double() for p in network.parameters()]
        if average is None:
            average = now
        average = [
            demo.AVERAGING * a + (1 - demo.AVERAGING) * p for a, p in zip(average, now, strict=True)
        ]

    curve = train(
        network, optimizer, task, steps=STEPS, seed=0, evaluate_every=STEPS, after_step=[update]
    )
    assert curve.loss == [ran.result.curves["plain"][0].loss[i] for i in (0, -1)]
    with torch.no_grad():
        for p, value in zip(network.parameters(), average, strict=True):
            p.copy_(value)
    assert ran.result.curves["averaging"][0].loss[-1] == pytest.approx(
        evaluate(network, task)[0], rel=1e-4
    )


def test_the_forecast_errors_are_those_at_the_jump_points(ran: Ran) -> None:
    *points, total = ran.result.forecast
    assert [e.group for e in points] == [f"t = {t}" for t in POINTS]
    forecaster = load(ran.folder / "introspection.safetensors")
    histories = [History(ran.folder / f"plain-{seed}.zarr") for seed in range(2)]
    for t, found in zip(POINTS, points, strict=True):
        mine, last = [], []
        for history in histories:
            steps = [math.floor(f * t + 0.5) for f in (1, 0.7, 0.4, 0)]
            past = np.column_stack([history.snapshot(step) for step in steps])
            truth = history.snapshot(2 * t)
            mine.append(np.abs(forecaster.predict(past) - truth).mean())
            last.append(np.abs(past[:, 0] - truth).mean())
        assert found.count == 2 * WEIGHTS
        assert found.forecaster == pytest.approx(np.mean(mine), rel=1e-5)
        assert found.last_value == pytest.approx(np.mean(last), rel=1e-5)
    assert total.group == "all"
    assert total.count == 6 * WEIGHTS
    assert total.forecaster == pytest.approx(np.mean([e.forecaster for e in points]), rel=1e-9)


def test_the_report_takes_the_demos_result(ran: Ran) -> None:
    columns, rows = table(ran.result)
    assert [row[0] for row in rows] == list(demo.ARMS)
    assert {len(row) for row in rows} == {len(columns)}
    assert len(verdict(ran.result).splitlines()) == 3


def test_progress_reaches_every_total(ran: Ran) -> None:
    for what in {what for what, _, _ in ran.calls}:
        (total,) = {total for name, _, total in ran.calls if name == what}
        passes: list[list[int]] = []  # of sampling, some have one name: each begins with 0
        for done in (done for name, done, _ in ran.calls if name == what):
            if not done or not passes:
                passes.append([])
            passes[-1].append(done)
        assert all(one == sorted(one) and one[-1] == total for one in passes)
        assert len(passes) == 1 or what in ("cut strata", "choose")
    assert ("train the target networks", 16 * STEPS, 16 * STEPS) in ran.calls


@pytest.mark.usefixtures("smaller", "no_matplotlib")
def test_a_missing_matplotlib_is_noticed_before_the_training(tmp_path: Path) -> None:
    """Minutes of training must not be lost to a picture that cannot be drawn."""
    with refuses(MissingExtraError, "weightcast[plot]"):
        run_demo(tmp_path / "demo", seeds=1, steps=STEPS)
    assert not (tmp_path / "demo" / "source.zarr").exists()


def test_a_folder_that_no_demo_made_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "dataset.zarr").mkdir()
    with refuses(OutputExistsError, tmp_path, "no demo made it"):
        run_demo(tmp_path, seeds=1, steps=STEPS)
    assert [p.name for p in tmp_path.iterdir()] == ["dataset.zarr"]


def test_settings_are_tuned_on_training_images_only(task: Task) -> None:
    """Those that judge the arms have no part in choosing a rate."""
    tuning = task.for_tuning()
    images = {x.numpy().tobytes() for x in task.train_x}
    assert {x.numpy().tobytes() for x in (*tuning.train_x, *tuning.validation_x)} <= images
    assert len(tuning.train_x) + len(tuning.validation_x) == len(task.train_x)
    assert len(tuning.validation_x) == pytest.approx(0.2 * len(task.train_x), abs=1)


def tuned(task: Task, seed: int, rate: float, *, one_cycle: bool) -> float:
    """Last loss of the target network at a constant rate, or on a one-cycle schedule."""
    network = target_network(seed)
    optimizer = torch.optim.SGD(network.parameters(), lr=rate)
    after = []
    if one_cycle:
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, rate, total_steps=STEPS + 1, cycle_momentum=False
        )
        after = [schedule.step]
    curve = train(
        network, optimizer, task, steps=STEPS, seed=seed, evaluate_every=STEPS, after_step=after
    )
    return curve.loss[-1]


@pytest.mark.parametrize(("arm", "chosen"), [("tuned rate", "rate"), ("one-cycle", "peak")])
def test_the_tuned_arms_run_at_the_best_rate(ran: Ran, arm: str, chosen: str, task: Task) -> None:
    """The best on the tuning seed and images; then on the seeds and images that all arms have."""
    one_cycle = arm == "one-cycle"
    part = task.for_tuning()
    losses = {r: tuned(part, demo.TUNING_SEED, r, one_cycle=one_cycle) for r in demo.RATES}
    best = min(losses, key=losses.__getitem__)
    assert getattr(ran.result, chosen) == best
    expected = [tuned(task, seed, best, one_cycle=one_cycle) for seed in range(2)]
    assert [curve.loss[-1] for curve in ran.result.curves[arm]] == expected
