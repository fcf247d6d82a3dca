"""Runs of experiments: the same for all arms but for what is compared, and resumed bit for bit."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_experiments import write_images
from torch import nn

from weightcast.apply import plan_jumps
from weightcast.experiments import arm_run, building, forecasters, running, weight_figures
from weightcast.experiments.batches import Batches
from weightcast.experiments.building import network_of, optimizer_of, schedule_of
from weightcast.experiments.catalogue import CATALOGUE, find
from weightcast.experiments.digits import Task
from weightcast.experiments.experiment import Arm, Experiment, Rate, Updates
from weightcast.experiments.forecasters import FITTED, digest_of, forecaster_for, prepare
from weightcast.experiments.loading import Data
from weightcast.experiments.pictures import Pictures
from weightcast.experiments.results import RunResult, Trace, file_name, read_result, write_result
from weightcast.experiments.running import run_arm
from weightcast.experiments.weight_figures import save_weight_figures
from weightcast.predictor import GaussianNoise, QuadraticFit, load, save
from weightcast.store import (
    FormatError,
    History,
    InputNotFoundError,
    OutputExistsError,
    UsageError,
)


@pytest.fixture(autouse=True)
def small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def small(classes: int) -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten()),
            *(nn.Dropout(0.2), nn.Linear(108, classes)),
        )

    monkeypatch.setitem(building.NETWORKS, "small", small)


def images(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, 1, 8, 8, generator=generator)
    return x, (x[:, 0, :4].mean((1, 2)) > x[:, 0, 4:].mean((1, 2))).long()


def data() -> Data:
    return Data(Task(*images(90, 0), *images(60, 1)), {"made": "here"}, 2, "made here")


ARMS = (
    Arm("plain"),
    Arm("jumps", (12, 20), "linear-fit@1.5"),
    Arm("guarded", (22,), "linear-fit@1.5", guarded=True),
    Arm("one-cycle", schedule="one-cycle"),
)
SMALL = Experiment(
    name="small",
    title="A small one",
    paper="none",
    data="mnist",
    network="small",
    updates=Updates("SGD", 0.05, {"momentum": 0.5}, Rate("inv", gamma=0.1, power=0.5)),
    batch=8,
    steps=40,
    evaluate_every=4,
    arms=ARMS,
)


def curves(result: RunResult) -> dict[str, list[list[float]]]:
    """All that a run measured, but for the time it took."""
    return {n: [t.steps, t.loss, t.accuracy, t.top5] for n, t in result.traces.items()}


# ---- runs


def test_arms_are_the_same_until_what_they_are_compared_for(tmp_path: Path) -> None:
    made = {a.name: run_arm(SMALL, a, 0, data=data(), folder=tmp_path, peak=0.1) for a in ARMS}
    plain, jumps = made["plain"].traces["plain"], made["jumps"].traces["jumps"]
    assert plain.steps == jumps.steps == list(range(0, 41, 4))
    assert plain.loss[:3] == jumps.loss[:3]  # of steps 0, 4, 8
    assert plain.loss[3:] != jumps.loss[3:]  # the jump at 12 is evaluated at 12
    assert plain.loss[3] != jumps.loss[3]
    assert made["one-cycle"].traces["one-cycle"].loss[0] == plain.loss[0]
    assert made["one-cycle"].traces["one-cycle"].loss[1] != plain.loss[1]
    assert made["jumps"].jumps == [12, 20]
    assert made["jumps"].forecast_seconds > 0
    assert made["one-cycle"].peak == 0.1
    assert made["plain"].peak is None


def test_another_seed_is_another_run(tmp_path: Path) -> None:
    one, other = (run_arm(SMALL, ARMS[0], s, data=data(), folder=tmp_path) for s in (0, 1))
    assert one.traces["plain"].loss[0] != other.traces["plain"].loss[0]


def test_a_run_as_a_plain_loop_has_it(tmp_path: Path) -> None:
    """A slow and obvious reference: an average that is computed by hand included."""
    found = run_arm(SMALL, ARMS[0], 3, data=data(), folder=tmp_path).traces
    network = network_of(SMALL, 2, 3)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.5)
    average = network_of(SMALL, 2, 3)
    task, batches = data().task, Batches(90, 8, 3)
    for step in range(40):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (1 + 0.1 * step) ** -0.5
        torch.manual_seed(arm_run.seed_of(3, step, 1))
        rows = batches[step]
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(task.train_x[rows]), task.train_y[rows]).backward()
        optimizer.step()
        with torch.no_grad():
            pairs = zip(average.state_dict().values(), network.state_dict().values(), strict=True)
            for mean, new in pairs:
                mean.copy_(new if step == 0 else 0.99 * mean + 0.01 * new)
    for name, model in (("plain", network), ("averaging", average)):
        model.eval()
        logits = model(task.validation_x)
        loss = nn.functional.cross_entropy(logits, task.validation_y).item()
        assert found[name].loss[-1] == pytest.approx(loss, rel=1e-5)
        right = (logits.argmax(1) == task.validation_y).float().mean()
        assert found[name].accuracy[-1] == pytest.approx(float(right))


class StoppedError(Exception):
    pass


def stopping(at: int) -> Callable[[int, int], None]:
    def progress(done: int, _: int) -> None:
        if done >= at:
            raise StoppedError

    return progress


@pytest.mark.parametrize("arm", ARMS, ids=lambda a: a.name)
@pytest.mark.parametrize("at", [16, 28])
def test_a_stopped_run_goes_on_as_if_nothing_was(
    arm: Arm, at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "_CHECKPOINT", -1.0)
    options = {"data": data(), "peak": 0.1, "record": True}
    whole = run_arm(SMALL, arm, 0, **options, folder=tmp_path / "whole")
    with pytest.raises(StoppedError):
        run_arm(SMALL, arm, 0, **options, folder=tmp_path / "parts", progress=stopping(at))
    told: list[int] = []
    parts = run_arm(
        SMALL, arm, 0, **options, folder=tmp_path / "parts", progress=lambda d, _: told.append(d)
    )
    assert told[0] > at - 8  # it did not begin anew
    assert curves(parts) == curves(whole)
    assert parts.jumps == whole.jumps
    assert parts.events == whole.events
    name = file_name(arm.name, 0, ".zarr")
    one, other = (History(tmp_path / place / "small" / name) for place in ("whole", "parts"))
    assert one.steps.tolist() == other.steps.tolist()
    for step in one.steps:
        assert (one.snapshot(step) == other.snapshot(step)).all()
    assert not list((tmp_path / "parts").rglob("*.pt"))


def test_a_damaged_checkpoint_costs_time_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "_CHECKPOINT", -1.0)
    with pytest.raises(StoppedError):
        run_arm(SMALL, ARMS[0], 0, data=data(), folder=tmp_path / "a", progress=stopping(20))
    (checkpoint,) = (tmp_path / "a").rglob("*.pt")
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    again = run_arm(SMALL, ARMS[0], 0, data=data(), folder=tmp_path / "a")
    assert curves(again) == curves(run_arm(SMALL, ARMS[0], 0, data=data(), folder=tmp_path / "b"))


def test_a_checkpoint_of_other_code_leaves_no_half_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "_CHECKPOINT", -1.0)
    with pytest.raises(StoppedError):
        run_arm(SMALL, ARMS[0], 0, data=data(), folder=tmp_path / "a", progress=stopping(20))
    (path,) = (tmp_path / "a").rglob("*.pt")
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["optimizer"]["param_groups"][0]["params"].pop()
    torch.save(checkpoint, path)
    again = run_arm(SMALL, ARMS[0], 0, data=data(), folder=tmp_path / "a")
    assert curves(again) == curves(run_arm(SMALL, ARMS[0], 0, data=data(), folder=tmp_path / "b"))


def test_jumps_that_were_rolled_back_did_not_stay(tmp_path: Path) -> None:
    far = Arm("far", (20, 40), "quadratic-fit@3", guarded=True)
    longer = replace(SMALL, steps=100, evaluate_every=50)
    result = run_arm(longer, far, 0, data=data(), folder=tmp_path)
    assert sum("rolled back" in event for event in result.events) == 2
    assert result.jumps == []


def test_a_one_cycle_schedule_needs_its_peak(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give its peak"):
        run_arm(SMALL, ARMS[3], 0, data=data(), folder=tmp_path)


def test_a_finished_run_is_taken_up(tmp_path: Path) -> None:
    first = run_arm(SMALL, ARMS[0], 0, data=data(), folder=tmp_path)
    other_words = replace(SMALL, title="Other words", notes=("and notes",))
    described = replace(data(), about="described otherwise")
    again = run_arm(other_words, ARMS[0], 0, data=described, folder=tmp_path)
    assert again.seconds == first.seconds  # it would not be, to the nanosecond


@pytest.mark.parametrize(
    "other",
    [
        (replace(SMALL, batch=9), data()),
        (replace(SMALL, updates=Updates("SGD", 0.1)), data()),
        (SMALL, replace(data(), sha256={"made": "elsewhere"})),
    ],
    ids=["batch", "rate", "data"],
)
def test_a_result_of_another_protocol_is_not_replaced(
    other: tuple[Experiment, Data], tmp_path: Path
) -> None:
    run_arm(SMALL, ARMS[0], 0, data=data(), folder=tmp_path)
    (path,) = tmp_path.rglob("*.json")
    before = path.read_bytes()
    with pytest.raises(OutputExistsError, match=r"was made with (another|other) "):
        run_arm(other[0], ARMS[0], 0, data=other[1], folder=tmp_path)
    assert path.read_bytes() == before


def test_pictures_that_are_decoded_as_they_are_asked_for(tmp_path: Path) -> None:
    here = data()
    task = here.task
    order = torch.arange(90)
    lazily: Any = Pictures(task.train_x, torch.Tensor.contiguous, order)
    lazy = replace(here, task=replace(task, train_x=lazily))
    one = run_arm(SMALL, ARMS[0], 0, data=here, folder=tmp_path / "a")
    other = run_arm(SMALL, ARMS[0], 0, data=lazy, folder=tmp_path / "b")
    assert curves(one) == curves(other)


def test_images_are_changed_as_the_data_says_by_the_seed_alone(tmp_path: Path) -> None:
    def noisy(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return x + torch.rand(x.shape, generator=generator)

    changed = replace(data(), augment=noisy)
    runs = [run_arm(SMALL, ARMS[0], 0, data=changed, folder=tmp_path / n) for n in "ab"]
    assert curves(runs[0]) == curves(runs[1])
    assert curves(runs[0]) != curves(run_arm(SMALL, ARMS[0], 0, data=data(), folder=tmp_path))


def test_top_5_is_measured_where_there_are_many_classes(tmp_path: Path) -> None:
    many = replace(data(), classes=24)
    trace = run_arm(SMALL, ARMS[0], 0, data=many, folder=tmp_path).traces["plain"]
    assert len(trace.top5) == len(trace.accuracy)
    assert all(five >= one for five, one in zip(trace.top5, trace.accuracy, strict=True))


@pytest.mark.parametrize("arm", [ARMS[0], ARMS[1]], ids=lambda a: a.name)
def test_a_run_that_diverges_is_a_result(arm: Arm, tmp_path: Path) -> None:
    wild = replace(SMALL, updates=Updates("SGD", 1e30))
    result = run_arm(wild, arm, 0, data=data(), folder=tmp_path)
    trace = result.traces[arm.name]
    assert trace.steps[-1] == SMALL.steps
    assert len({len(v) for v in (trace.steps, trace.loss, trace.accuracy, trace.seconds)}) == 1
    assert not math.isfinite(trace.loss[-1])
    assert trace.accuracy[-1] == trace.accuracy[5]
    assert result.events[-1].endswith("training diverged: weights are not finite")
    assert result.jumps == []


def test_a_run_that_diverges_where_it_jumps_is_a_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = building.schedule_of

    def wild(*args: object) -> object:  # its rate is finite until two steps before the jump
        found = schedule(*args)  # type: ignore[arg-type]
        found.lr_lambdas = [lambda step: 1e38 if step >= 10 else 1.0]  # type: ignore[attr-defined]
        return found

    monkeypatch.setattr(arm_run, "schedule_of", wild)
    monkeypatch.setattr(running, "_ADVANCE", 40)
    late = replace(SMALL, evaluate_every=40)
    result = run_arm(late, ARMS[1], 0, data=data(), folder=tmp_path)
    assert result.traces["jumps"].steps == [0, 12, 40]
    assert result.events[-1] == "step 12: training diverged: weights are not finite"


# ---- batches


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 60), st.integers(1, 70), st.integers(0, 9), st.data())
def test_batches_are_a_function_of_the_step(
    n: int, batch: int, seed: int, d: st.DataObject
) -> None:
    steps = d.draw(st.lists(st.integers(0, 40), min_size=1, max_size=9))
    batches = Batches(n, batch, seed)
    in_order = {step: batches[step].tolist() for step in range(61)}
    batches = Batches(n, batch, seed)
    assert all(batches[step].tolist() == in_order[step] for step in steps)
    size = min(batch, n)
    first = [row for step in range(n // size) for row in in_order[step]]
    assert len(first) == len(set(first)) == n // size * size
    assert all(0 <= row < n for row in first)


# ---- the catalogue


@pytest.mark.parametrize("entry", CATALOGUE.values(), ids=CATALOGUE.keys())
@pytest.mark.parametrize("quick", [False, True], ids=["paper", "quick"])
def test_every_entry_can_be_run(entry: Experiment, quick: bool) -> None:
    entry = entry.quick() if quick else entry
    names = {file_name(arm.name, 0) for arm in entry.arms}
    assert len(names) == len(entry.arms)
    assert entry.arms[0] == Arm("plain")
    assert {claim.arm for claim in entry.claims} <= {arm.name for arm in entry.arms}
    with torch.device("meta"):
        network = building.NETWORKS[entry.network](10)
    for arm in entry.arms:
        optimizer = optimizer_of(entry.updates, network)
        schedule_of(entry, arm, optimizer, entry.updates.lr)
        if arm.jumps and arm.forecaster not in FITTED:
            forecaster = forecaster_for(arm.forecaster, "nowhere")
            assert plan_jumps(forecaster, arm.jumps).points == list(arm.jumps)
        assert all(t < entry.steps for t in arm.jumps)


def test_an_entry_that_is_not_there_names_the_nearest() -> None:
    assert find("mnist3-adam").updates.name == "Adam"
    with pytest.raises(UsageError, match="did you mean 'mnist1'"):
        find("mnist_1")


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(sorted(CATALOGUE)), st.integers(40, 2000))
def test_a_shorter_run_has_the_same_rates_at_the_same_share(name: str, steps: int) -> None:
    whole = find(name)
    short = whole.shortened(steps)
    rate, other = whole.updates.rate, short.updates.rate
    share = steps / whole.steps
    for part in (0.0, 0.3, 0.99):
        if rate.kind == "staircase" and other.every < 20:
            continue  # a stair is rounded to steps
        found = other.factor(round(part * steps))
        stairs = [rate.factor(round(p * whole.steps)) for p in (part - 0.05, part, part + 0.05)]
        assert min(stairs) * 0.99 <= found <= max(stairs) * 1.01
    for arm, sooner in zip(whole.arms, short.arms, strict=True):
        assert sorted(set(sooner.jumps)) == list(sooner.jumps)
        pairs = zip(arm.jumps, sooner.jumps, strict=True)
        assert all(b == round(a * share) or b < 5 + len(arm.jumps) + a * share for a, b in pairs)
    assert short.claims == ()
    assert short.folder == f"{name}-quick"


# ---- forecasters


def test_forecasters_by_their_names(tmp_path: Path) -> None:
    fit = forecaster_for("quadratic-fit@1.25", tmp_path)
    assert isinstance(fit, QuadraticFit)
    assert fit.horizon == 1.25
    with pytest.raises(InputNotFoundError):
        forecaster_for("noise", tmp_path)
    with pytest.raises(InputNotFoundError):
        forecaster_for("no-such", tmp_path)


def test_forecasters_that_are_fitted_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mnist, other = (write_images(tmp_path / f"images{seed}", seed) for seed in (0, 1))
    monkeypatch.setattr(forecasters, "STEPS", 60)
    monkeypatch.setattr(forecasters, "EVERY", 2)
    monkeypatch.setattr(forecasters, "FIT_STEPS", 5)
    monkeypatch.setattr(forecasters, "SAMPLES", 500)
    for name in FITTED:
        prepare(name, tmp_path, mnist, lambda *_: None)
    loaded = {name: forecaster_for(name, tmp_path) for name in FITTED}
    assert loaded["introspection@2.2"].horizon == 2.2
    noise, tenth = loaded["noise"], loaded["noise/10"]
    assert isinstance(noise, GaussianNoise)
    assert isinstance(tenth, GaussianNoise)
    assert tenth.std_ == pytest.approx(noise.std_ / 10)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.safetensors")}
    prepare("noise", tmp_path, mnist, lambda *_: None)  # is there: nothing to do
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.safetensors")}
    path = forecasters.file_of("noise", tmp_path)
    first = digest_of(load(path))
    prepare("noise", tmp_path, other, lambda *_: None)  # of other images
    second = digest_of(load(path))
    monkeypatch.setattr(forecasters, "SAMPLES", 400)
    prepare("noise", tmp_path, other, lambda *_: None)  # of other settings
    assert len({first, second, digest_of(load(path))}) == 3
    save(noise, path, card={"seed": 0}, overwrite=True)  # an older card does not say what of
    prepare("noise", tmp_path, other, lambda *_: None)
    assert digest_of(load(path)) == first


# ---- results


numbers = st.floats(allow_nan=False)
finite = st.floats(allow_nan=False, allow_infinity=False)


@settings(deadline=None, max_examples=30)
@given(
    st.lists(numbers, min_size=1, max_size=5),
    st.dictionaries(st.text(max_size=5), finite | st.just("NaN"), max_size=3),
)
def test_results_come_back(values: list[float], made: dict[str, Any]) -> None:
    trace = Trace([*range(len(values))], values, values, [], values)
    result = RunResult("e", "a", 1, made, {"a": trace}, [3], ["x"], 1.5)
    with TemporaryDirectory() as folder:
        path = Path(folder, "a.json")
        write_result(result, path)
        assert read_result(path) == result


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"version": 2}', '{"version": 1}', "nul", "3"])
def test_what_is_no_result(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(FormatError):
        read_result(path)


@pytest.mark.parametrize("old", [False, True])
def test_losses_that_are_not_finite_come_back(tmp_path: Path, old: bool) -> None:
    path = tmp_path / "a.json"
    trace = Trace([0, 1, 2], [math.inf, math.nan, -math.inf], [0.1] * 3, [], [0.0] * 3)
    result = RunResult("e", "a", 0, {}, {"a": trace})
    write_result(result, path)
    if old:
        path.write_text(json.dumps({"version": 1, **asdict(result)}))
    else:
        json.loads(path.read_text(), parse_constant=pytest.fail)  # they are not JSON
    loss = read_result(path).traces["a"].loss
    assert [loss[0], loss[2]] == [math.inf, -math.inf]
    assert math.isnan(loss[1])


WRONG = [
    ("made", [], "made must be dict, not list"),
    ("made", {"data": "x"}, "data in made must be dict, not str"),
    ("seed", 0.5, "seed must be int, not float"),
    ("seed", True, "seed must be int, not bool"),
    ("peak", "x", "peak must be int or float or NoneType"),
    ("jumps", None, "jumps must be list"),
    ("jumps", ["x"], "jumps must be int"),
    ("events", {}, "events must be list"),
    ("events", [[]], "events must be str"),
    ("experiment", 1, "experiment must be str"),
    ("arm", [], "arm must be str"),
    ("arm", "b", "no curve of its arm 'b'"),
    ("seconds", "1", "seconds must be int or float"),
    ("forecast_seconds", None, "forecast_seconds must be int or float"),
    ("traces", [], "'list' object"),
    ("traces", {"a": 3}, "not int"),
    ("a\nb", 1, "unexpected keyword argument 'a b'"),
]
WRONG_CURVES = [
    ("steps", [0, 1.0], "steps of 'a' must be int, not float"),
    ("steps", ["NaN", 1], "steps of 'a' must be int, not str"),
    ("steps", [0], "ragged"),
    ("loss", 7, "loss of 'a' must be list, not int"),
    ("loss", [0.1, 10**400], "too large"),
    ("loss", [0.1, None], "loss of 'a' must be int or float, not NoneType"),
    ("accuracy", 7, "accuracy of 'a' must be list"),
    ("accuracy", ["a", "b"], "accuracy of 'a' must be int or float, not str"),
    ("accuracy", [True, False], "must be int or float, not bool"),
    ("accuracy", [], "ragged"),
    ("top5", [0.5], "ragged"),
    ("seconds", [], "ragged"),
    ("worst", [], "unexpected keyword"),
]


@pytest.mark.parametrize(("name", "value", "words"), WRONG + WRONG_CURVES)
def test_a_result_of_wrong_kinds_is_refused(
    name: str, value: object, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.json"
    trace = Trace([0, 1], [0.5, 0.25], [0.1, 0.2], [], [0.0, 1.0])
    write_result(RunResult("e", "a", 0, {"data": {}}, {"a": trace}), path)
    found = json.loads(path.read_text())
    curve = (name, value, words) in WRONG_CURVES
    (found["traces"]["a"] if curve else found)[name] = value
    path.write_text(json.dumps(found))
    with pytest.raises(FormatError) as caught:
        read_result(path)
    said = str(caught.value)
    assert said.startswith(f"{path} ")
    assert words in said
    assert said.endswith(": remove it to run it again")
    assert "\n" not in said


def test_curves_that_are_empty_are_refused(tmp_path: Path) -> None:
    write_result(RunResult("e", "a", 0, {}, {"a": Trace()}), tmp_path / "a.json")
    with pytest.raises(FormatError, match="empty"):
        read_result(tmp_path / "a.json")


# ---- figures of weights


def test_pictures_of_the_weights_that_runs_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_figures, "CATALOGUE", {"small": SMALL, "other": SMALL})
    assert save_weight_figures(tmp_path, tmp_path) == []
    for arm in ARMS[:2]:
        run_arm(SMALL, arm, 0, data=data(), folder=tmp_path, record=True)
    again = replace(SMALL, name="other")  # the same network: it is shown once
    run_arm(again, ARMS[0], 0, data=data(), folder=tmp_path, record=True)
    names = save_weight_figures(tmp_path, tmp_path)
    listed = json.loads((tmp_path / "figures.json").read_text())
    assert names == [f["file"] for f in listed]
    assert names == ["trajectories.png", "changes.png", "one-weight.png"]
    assert all((tmp_path / n).read_bytes().startswith(b"\x89PNG") for n in names)
    assert "small" in listed[0]["caption"]
    change = json.loads((tmp_path / "changes.json").read_text())["small"]["change"]
    weights = sum(change["histogram"])
    low = 100 * sum(change["histogram"][:33]) / weights
    (least,) = re.findall(r"holds ([\d.]+) % of the weights", listed[0]["caption"])
    assert low - 0.1 < float(least) <= low
    assert f" {100 * change['barely_moved']:.0f} % in small of the weights" in listed[1]["caption"]
    assert json.loads((tmp_path / "changes.json").read_text()).keys() == {"small"}


def test_a_history_that_is_not_whole_is_not_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_figures, "CATALOGUE", {"small": replace(SMALL, steps=50)})
    run_arm(SMALL, ARMS[0], 0, data=data(), folder=tmp_path, record=True)
    assert save_weight_figures(tmp_path, tmp_path) == []


def test_another_network_of_the_same_name_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_arm(SMALL, ARMS[0], 0, data=data(), folder=tmp_path)
    monkeypatch.setitem(
        building.NETWORKS, "small", lambda n: nn.Sequential(nn.Flatten(), nn.Linear(64, n))
    )
    with pytest.raises(OutputExistsError, match="another network"):
        run_arm(SMALL, ARMS[0], 0, data=data(), folder=tmp_path)
