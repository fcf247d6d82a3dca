"""Jumps in somebody's training script, unchanged, under `run_script` and ``weightcast run``."""

from __future__ import annotations

import gc
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from store_reference import refuses

from weightcast.apply import Guard, Jumper, Placement, plan_jumps
from weightcast.apply.script import RunOutcome, run_script
from weightcast.apply.tapping import tap
from weightcast.cli.main import main
from weightcast.predictor import LinearFit
from weightcast.store import (
    History,
    InputNotFoundError,
    OutputExistsError,
    ShapeError,
    UsageError,
)

FORECASTER = LinearFit(horizon=1.1)  # short jumps: the runs stay where they are

# For scripts of a few lines. `go` takes optimizer steps on data of its own.
PREAMBLE = """\
import sys

import torch
from torch import nn

torch.manual_seed(0)
DATA = torch.Generator().manual_seed(1)


def loss_of(model):
    return (model(torch.randn(4, 2, generator=DATA)) - 1).square().mean()


def go(model, optimizer, steps=50):
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.01)


def net():
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))


"""
TRAIN = """\
model = net()
go(model, adam(model.parameters()))
torch.save(model.state_dict(), "end.pt")
"""
# The same loop with a jumper in it.
BY_HAND = """\
model = net()
optimizer = adam(model.parameters())
jumper = Jumper(optimizer, FORECASTER, POINTS, guard=GUARD)
go(model, optimizer)
jumper.close()
"""
POINTS = [10, 25, 40]
GUARD = Guard(steps=5, tolerance=1e9)


def strict() -> Guard:
    """Takes every jump back: the loss that it is told rises faster than any power of the step."""
    calls = itertools.count()
    return Guard(steps=5, probe=lambda: 1.3 ** next(calls), every=1)


@pytest.fixture(autouse=True)
def as_in_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test has its own folder, and no models but the script's."""
    monkeypatch.chdir(tmp_path)
    gc.freeze()
    yield
    gc.unfreeze()
    assert not tap._listeners  # nothing of ours stays in torch


def write(name: str, text: str) -> Path:
    path = Path(name)
    path.write_text(PREAMBLE + text)
    return path


def run(body: str = TRAIN, points: Any = POINTS, **options: Any) -> RunOutcome:
    write("train.py", body)
    forecaster = options.pop("forecaster", FORECASTER)
    plan = plan_jumps(forecaster, points)
    return run_script(["train.py"], forecaster, plan, **{"guard": GUARD, **options})


def saved(name: str = "end.pt") -> dict[str, torch.Tensor]:
    return torch.load(name, weights_only=True)


def by_hand(guard: Guard | None = GUARD, body: str = BY_HAND, **more: Any) -> dict[str, Any]:
    """A loop of our own, with `Jumper`; gives its variables."""
    space: dict[str, Any] = {"Jumper": Jumper, "FORECASTER": FORECASTER, "POINTS": POINTS}
    space |= {"GUARD": guard, **more}
    exec(compile(PREAMBLE + body, "by_hand.py", "exec"), space)
    return space


def same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def kinds(outcome: RunOutcome) -> list[tuple[int, str]]:
    return [(event.jump, event.kind) for event in outcome.events]


ALL_KEPT = [(t, kind) for t in POINTS for kind in ("jumped", "kept")]


@pytest.mark.parametrize("make", [lambda: None, lambda: GUARD, strict, lambda: Guard(steps=5)])
def test_a_script_is_the_loop_with_a_jumper(make: Callable[[], Guard | None]) -> None:
    outcome = run(guard=make())
    loop = by_hand(make())
    assert same_bits(saved(), loop["model"].state_dict())
    assert list(outcome.events) == loop["jumper"].events
    assert (outcome.exit_code, outcome.failure, outcome.others) == (0, "", 0)
    assert outcome.summary is not None
    assert outcome.summary.steps == 50
    assert outcome.summary.made == len(loop["jumper"].jumped) > 0
    assert bool(outcome.summary.rolled_back) == (make is strict)
    assert not same_bits(saved(), by_hand(POINTS=[50])["model"].state_dict())


def test_the_guard_sees_the_first_loss_too() -> None:
    """The model is found at the first step, when its loss has been shown."""
    outcome = run(points=[8])
    assert kinds(outcome) == [(8, "jumped"), (8, "kept")]  # a guard needs 8 losses


def test_losses_of_another_model_before_the_first_step_are_not_its() -> None:
    """The highest loss of the run says what explodes."""
    other = """\
critic = net()
optimizer = adam(critic.parameters())
for _ in range(1):
    (1e9 * loss_of(critic)).backward()
    optimizer.step()
"""
    seen: list[float] = []
    run(other + TRAIN, model="model", begun=lambda _: seen.extend(shown()))
    (first,) = seen
    assert first < 1e6


def shown() -> list[float]:
    """Losses that the judge has of the step that is being taken."""
    (log,) = (listener.__self__ for listener in tap._listeners)  # type: ignore[attr-defined]
    return [float(loss) for loss in log._now]


def test_options_reach_the_jumps() -> None:
    half = Placement("host", half=True)
    run(guard=None, moments="clear", placement=half)
    body = BY_HAND.replace("guard=GUARD", "guard=None, moments='clear', placement=HALF")
    assert same_bits(saved(), by_hand(body=body, HALF=half)["model"].state_dict())


def test_globs_choose_what_jumps() -> None:
    outcome = run(guard=None, include=["[02].*"], exclude=["*.bias"])
    chosen = "[model[0].weight, model[2].weight]"
    body = BY_HAND.replace("guard=GUARD", f"guard=None, parameters={chosen}")
    assert same_bits(saved(), by_hand(body=body)["model"].state_dict())
    assert outcome.events[0].reason.startswith("9 weights")


def test_what_begins_is_told() -> None:
    told: list[Any] = []
    run(begun=told.append)
    (begun,) = told
    assert (begun.model, begun.weights) == ("model", 6 + 3 + 3 + 3 + 3 + 1)
    assert begun.memory == by_hand()["jumper"].memory()


def test_recording_at_the_same_time() -> None:
    """At a jump point the history has the weights after the jump, and training is not disturbed."""
    outcome = run(record="run.zarr", recording={"schedule": "every:1"}, guard=None)
    history, loop = History("run.zarr"), by_hand(None)
    assert history.steps.tolist() == list(range(51))
    assert outcome.recorded is not None
    assert outcome.recorded.recorded == 51
    assert same_bits(saved(), loop["model"].state_dict())
    t = 10
    now, before, first = (history.state(s)["0.weight"] for s in (t, t - 1, 0))
    landed = plain_forecast(t)["0.weight"]
    assert np.array_equal(now, landed)
    assert np.abs(now - before).max() > 0
    assert np.abs(now - first).max() > 0
    # all of the model is there, whatever jumps
    run(record="all.zarr", include=["0.weight"])
    assert [p.name for p in History("all.zarr").parameters] == [
        *dict(loop["model"].named_parameters())
    ]


def plain_forecast(t: int) -> dict[str, np.ndarray]:
    """The weights that a loop has right after its jump at t."""
    space = by_hand(None, BY_HAND.replace("go(model, optimizer)", f"go(model, optimizer, {t})"))
    return {name: v.numpy() for name, v in space["model"].state_dict().items()}


def test_a_roll_back_is_recorded_as_what_training_went_on_from() -> None:
    outcome = run(record="run.zarr", guard=strict(), points=[20])
    assert kinds(outcome) == [(20, "jumped"), (20, "rolled back")]
    run(record="plain.zarr", guard=None, points=[50])
    history, plain = History("run.zarr"), History("plain.zarr")
    assert np.array_equal(history.state(25)["0.weight"], plain.state(20)["0.weight"])
    assert not np.array_equal(history.state(24)["0.weight"], plain.state(20)["0.weight"])


def test_module(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("package_of_run").mkdir()
    write("package_of_run/__init__.py", "")
    write("package_of_run/fit.py", TRAIN)
    plan = plan_jumps(FORECASTER, POINTS)
    outcome = run_script(["-m", "package_of_run.fit"], FORECASTER, plan, guard=GUARD)
    assert kinds(outcome) == ALL_KEPT
    assert same_bits(saved(), by_hand()["model"].state_dict())


EXITS: dict[str, tuple[str, int, str]] = {
    "exit": ("sys.exit(3)", 3, ""),
    "raise": ("raise ValueError('bad data')", 1, "ValueError: bad data"),
    "interrupt": ("raise KeyboardInterrupt", 130, "KeyboardInterrupt"),
    "terminated": ("import signal; signal.raise_signal(signal.SIGTERM)", 143, ""),
}


@pytest.mark.parametrize("case", EXITS)
def test_scripts_that_end_early(case: str) -> None:
    """The exit code is the script's, and so are the weights that it has then."""
    end, code, failure = EXITS[case]
    body = f"model = net()\ngo(model, adam(model.parameters()), 27)\n{end}\n"
    outcome = run(body, record="run.zarr")
    assert (outcome.exit_code, outcome.failure) == (code, failure)
    assert kinds(outcome) == [(10, "jumped"), (10, "kept"), (25, "jumped")]
    assert outcome.summary is not None
    assert (outcome.summary.made, outcome.summary.kept) == (2, 1)
    assert History("run.zarr").steps.tolist() == list(range(28))


class Disturbed(LinearFit):
    """Somebody presses Ctrl-C while it forecasts."""

    def writer(self) -> Any:
        write = super().writer()

        def disturbed(*args: Any, **kwargs: Any) -> Any:
            signal.raise_signal(signal.SIGINT)
            return write(*args, **kwargs)

        return disturbed


def test_an_interrupt_waits_for_the_end_of_a_jump() -> None:
    """What a script saves then has all of its weights jumped, or none."""
    outcome = run(
        """\
model = net()
try:
    go(model, adam(model.parameters()))
except KeyboardInterrupt:
    torch.save(dict(model.named_parameters()), "end.pt")
""",
        forecaster=Disturbed(horizon=1.1),
    )
    assert (outcome.exit_code, kinds(outcome)) == (0, [(10, "jumped")])
    expected = plain_forecast(10)
    for name, value in saved().items():
        assert np.array_equal(value.detach().numpy(), expected[name])


def test_the_first_model_jumps_of_two() -> None:
    gan = """\
generator, critic = net(), net()
first, second = adam(generator.parameters()), adam(critic.parameters())
for _ in range(50):
    go(generator, first, 1)
    go(critic, second, 2)
torch.save(generator.state_dict(), "first.pt")
torch.save(critic.state_dict(), "second.pt")
"""
    outcome = run(gan, guard=None)
    assert (outcome.others, outcome.other_models) == (100, ("critic",))
    first = saved("first.pt"), saved("second.pt")
    chosen = run(gan, guard=None, model="critic")
    assert (chosen.others, chosen.other_models) == (50, ("generator",))
    assert chosen.summary is not None
    assert chosen.summary.steps == 100
    second = saved("first.pt"), saved("second.pt")
    none = run(gan, guard=None, points=[1000])
    assert none.summary is not None
    assert none.summary.made == 0
    plain = saved("first.pt"), saved("second.pt")
    assert [same_bits(a, b) for a, b in zip(first, plain, strict=True)] == [False, True]
    assert [same_bits(a, b) for a, b in zip(second, plain, strict=True)] == [True, False]


def test_a_script_that_never_trains() -> None:
    outcome = run("print('hello')", record="run.zarr")
    assert (outcome.exit_code, outcome.summary, outcome.recorded) == (0, None, None)
    assert not Path("run.zarr").exists()


SEVERAL = """\
model = net()
first, second = adam(model[:2].parameters()), torch.optim.SGD(model[2].parameters(), lr=0.01)
{jumper}
for _ in range(50):
    loss_of(model).backward()
    for optimizer in (first, second):
        optimizer.step()
        optimizer.zero_grad()
torch.save(model.state_dict(), "end.pt")
"""


def test_several_optimizers_of_one_model() -> None:
    """They jump together, after a round of all."""
    from weightcast.apply import LiveJumps

    outcome = run(SEVERAL.format(jumper=""))
    jumper = "live = LiveJumps([first, second], FORECASTER, PLAN, guard=GUARD)"
    plan = plan_jumps(FORECASTER, POINTS)
    space = by_hand(body=SEVERAL.format(jumper=jumper), LiveJumps=LiveJumps, PLAN=plan)
    script = saved()
    assert same_bits(script, space["model"].state_dict())
    assert kinds(outcome) == ALL_KEPT
    assert outcome.events[0].reason.startswith("19 weights")
    assert outcome.summary is not None
    assert outcome.summary.steps == 50
    space["live"].close()


def test_closures() -> None:
    closures = """\
model = net()
optimizer = torch.optim.LBFGS(model.parameters(), lr=0.05, max_iter=3)
{jumper}
x = torch.randn(16, 2, generator=DATA)
def closure():
    optimizer.zero_grad()
    loss = (model(x) - 1).square().mean()
    loss.backward()
    return loss
for _ in range(50):
    optimizer.step(closure)
torch.save(model.state_dict(), "end.pt")
"""
    outcome = run(closures.format(jumper=""))
    script = saved()
    jumper = "jumper = Jumper(optimizer, FORECASTER, POINTS, guard=GUARD)"
    space = by_hand(body=closures.format(jumper=jumper))
    assert list(outcome.events) == space["jumper"].events
    assert len(outcome.events) == 6
    assert same_bits(script, space["model"].state_dict())
    space["jumper"].close()


@pytest.mark.parametrize("make", [lambda: GUARD, strict], ids=["lenient", "strict"])
def test_accumulated_gradients_and_steps_that_amp_skips(make: Callable[[], Guard]) -> None:
    """A step is one of the optimizer; its loss is the mean of its micro-batches, unscaled."""
    amp = """\
model = net()
optimizer = adam(model.parameters())
{jumper}
scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
for batch in range(3 * 52):
    loss = loss_of(model) * (float("inf") if batch in (10, 70) else 1)
    scaler.scale(loss).backward()
    if batch % 3 == 2:
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
torch.save(model.state_dict(), "end.pt")
"""
    outcome = run(amp.format(jumper=""), guard=make())
    script = saved()
    jumper = "jumper = Jumper(optimizer, FORECASTER, POINTS, guard=GUARD)"
    space = by_hand(make(), body=amp.format(jumper=jumper))
    assert outcome.summary is not None
    assert outcome.summary.steps == 50
    assert list(outcome.events) == space["jumper"].events
    assert same_bits(script, space["model"].state_dict())
    space["jumper"].close()


def test_data_loader_with_forked_workers() -> None:
    outcome = run("""\
class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 100
    def __getitem__(self, i):
        return torch.tensor([float(i % 3), float(i % 5)])

model = net()
optimizer = adam(model.parameters())
loader = torch.utils.data.DataLoader(
    Numbers(), batch_size=4, num_workers=1, multiprocessing_context="fork"
)
for _ in range(2):
    for x in loader:
        optimizer.zero_grad()
        (model(x) - 1).square().mean().backward()
        optimizer.step()
""")
    assert outcome.failure == ""
    assert kinds(outcome) == ALL_KEPT


ANEW = """\
model = net()
for epoch in range(4):
    optimizer = adam(model.parameters())
    go(model, optimizer, 10)
    torch.save(model.state_dict(), f"{epoch}.pt")
"""


@pytest.mark.parametrize("guard", [None, strict()], ids=["none", "strict"])
def test_an_optimizer_that_is_made_anew_goes_on(guard: Guard | None) -> None:
    """Jumps and their probation pass from one optimizer to the next; the new one starts afresh."""
    outcome = run(ANEW, guard=guard, points=[18, 36])
    assert outcome.summary is not None
    assert outcome.summary.steps == 40
    if guard is None:
        assert kinds(outcome) == [(18, "jumped"), (36, "jumped")]
        return
    assert kinds(outcome)[:2] == [(18, "jumped"), (18, "rolled back")]
    back = outcome.events[1].step
    assert back == 23  # of the optimizer of steps 21 to 30, the jump was in the one before
    at_the_end = saved("2.pt")
    # from step 23 on it is as from step 18, with an optimizer that has no state
    space = by_hand(
        body=f"""\
model = net()
go(model, adam(model.parameters()), 10)
go(model, adam(model.parameters()), 8)
weights = {{name: v.clone() for name, v in model.state_dict().items()}}
go(model, adam(model.parameters()), {back - 18})  # the batches go on
model.load_state_dict(weights)
go(model, adam(model.parameters()), {30 - back})
"""
    )
    floats = {k: v for k, v in space["model"].state_dict().items() if v.is_floating_point()}
    assert same_bits(floats, {k: at_the_end[k] for k in floats})


def test_another_optimizer_takes_over() -> None:
    outcome = run("""\
model = net()
go(model, adam(model.parameters()), 20)
optimizer = torch.optim.SGD([*model.parameters()][::-1], lr=0.01, momentum=0.9)
go(model, optimizer, 30)
""")
    assert kinds(outcome) == ALL_KEPT


def test_weights_whose_optimizer_is_gone_jump_no_more() -> None:
    outcome = run("""\
model = net()
go(model, adam(model.parameters()), 20)
go(model, adam(model[2].parameters()), 30)
""")
    jumped = [e.reason.split()[0] for e in outcome.events if e.kind == "jumped"]
    assert jumped == ["19", "4", "4"]


def test_optimizer_with_parameters_that_have_no_past_stops_the_script() -> None:
    with refuses(ShapeError, "keep its parameters", "step 20"):
        run("""\
model = net()
go(model, adam(model[2].parameters()), 20)
go(model, adam(model.parameters()), 30)
""")


def test_optimizer_that_is_built_late() -> None:
    """After other work, backward passes too, that is not of the training."""
    outcome = run("""\
x = torch.ones(2, requires_grad=True)
x.sum().backward()
model = net()
loss_of(model).backward()
go(model, adam(model.parameters()))
""")
    assert kinds(outcome) == ALL_KEPT


def test_parameters_without_a_module() -> None:
    outcome = run("""\
w = nn.Parameter(torch.randn(2))
go(lambda x: x @ w, adam([w]))
""")
    assert kinds(outcome) == ALL_KEPT


NO_LOSS = """\
import pathlib
model = net()
optimizer = adam(model.parameters())
for p in model.parameters():
    p.grad = torch.ones_like(p)
for _ in range(50):
    optimizer.step()
    pathlib.Path("steps").touch()
"""


def test_a_script_that_shows_no_loss() -> None:
    """It calls no backward: without a guard it is fine, with one it stops at its first step."""
    with refuses(UsageError, "backward", "--no-guard"):
        run(NO_LOSS)
    assert not Path("steps").exists()
    assert run(NO_LOSS, guard=None).summary.made == 3  # type: ignore[union-attr]
    assert run(NO_LOSS, guard=Guard(5, probe=lambda: 1.0, every=1)).summary.kept == 3  # type: ignore[union-attr]


def test_a_script_with_a_jumper_of_its_own() -> None:
    write("train.py", "")
    with refuses(UsageError, "one jumper"):
        run("""\
from weightcast.apply import Jumper
from weightcast.predictor import LinearFit
model = net()
optimizer = Jumper(adam(model.parameters()), LinearFit(), [30], guard=None)
go(model, optimizer)
""")


REFUSED: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    "moments": ({"moments": "half"}, UsageError),
    "guard": ({"guard": Guard(steps=90)}, UsageError),
    "taken": ({"record": "taken"}, OutputExistsError),
    "schedule": ({"record": "run.zarr", "recording": {"schedule": "daily"}}, UsageError),
    "no record": ({"recording": {"schedule": "every:2"}}, UsageError),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_before_the_script_runs(case: str) -> None:
    options, kind = REFUSED[case]
    Path("taken").mkdir()
    with pytest.raises(kind):
        run("open('ran', 'w').close()", **options)
    with pytest.raises(InputNotFoundError):
        run_script(["nowhere.py"], FORECASTER, plan_jumps(FORECASTER, POINTS))
    assert not Path("ran").exists()


def test_globs_that_choose_nothing_stop_the_script() -> None:
    frozen = "model = net()\nmodel[0].requires_grad_(False)\n" + TRAIN.split("\n", 1)[1]
    with refuses(UsageError, "select none"):
        run(frozen, include=["0.*"])
    assert not Path("end.pt").exists()


# ---- the command


def cli(*words: str) -> int:
    return main(["run", "--forecaster", "line", *words])


SHORT = ["--jump-points", "800,850", "--guard-steps", "20"]
LONG = """\
model = net()
go(model, adam(model.parameters()), 890)
print("the script's own")
"""


def messages(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Our own lines on stderr; stdout is the script's alone."""
    shown = capsys.readouterr()
    assert "weightcast" not in shown.out
    return [line for line in shown.err.splitlines() if line.startswith("weightcast: ")]


def test_command_tells_what_happens(capsys: pytest.CaptureFixture[str]) -> None:
    write("train.py", LONG)
    words = [*SHORT, "--horizon", "1.01", "--tolerance", "1e9", "--record", "run.zarr"]
    words += ["--schedule", "every:100", "--json", "run.json", "--moments", "0.5"]
    assert cli(*words, "--", "train.py") == 0
    plan, begun, *events, summary, recorded = messages(capsys)
    assert "800 to 808, 850 to 859 (1.01t); each is judged after 20 steps" in plan
    assert re.search(r"jumps in model, 19 weights: at most .* MB", begun)
    assert [line.split(":")[1].strip() for line in events] == [
        f"step {s}" for s in (800, 820, 850, 870)
    ]
    assert summary.startswith("weightcast: 2 jumps in 890 steps: 2 kept;")
    assert "9 snapshots of 890 steps" in recorded
    written = json.loads(Path("run.json").read_text())
    assert (written["exit_code"], written["summary"]["kept"], written["command"]) == (
        0,
        2,
        ["train.py"],
    )
    assert [(e["step"], e["kind"]) for e in written["events"]] == [
        (800, "jumped"),
        (820, "kept"),
        (850, "jumped"),
        (870, "kept"),
    ]
    about = History("run.zarr").info().metadata
    assert about["command"] == ["train.py"]
    assert about["jumps"]["forecaster"] == "line"
    assert "800 to 808" in about["jumps"]["plan"]


def test_command_with_every_and_reach(capsys: pytest.CaptureFixture[str]) -> None:
    write("train.py", LONG)
    words = ["--every", "400", "--most-ahead", "5", "--shrink", "--end", "1200", "--no-guard"]
    assert cli(*words, "--", "train.py") == 0
    plan, _, event, _ = messages(capsys)
    assert "800 to 805" not in plan
    assert "at most 5 steps, shrinking" in plan
    assert "no guard" in plan
    assert "step 800: jumped" in event


def test_quiet_command_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    write("train.py", LONG)
    assert cli(*SHORT, "-q", "--", "train.py") == 0
    assert messages(capsys) == []


def test_command_says_where_a_jump_was_not_judged(capsys: pytest.CaptureFixture[str]) -> None:
    write("train.py", LONG.replace("890", "860"))
    assert cli(*SHORT, "--tolerance", "1e9", "--horizon", "1.01", "--", "train.py") == 0
    *_, summary, advice = messages(capsys)
    assert "1 still on probation" in summary
    assert "not judged" in advice
    assert "--end" in advice


def test_command_says_that_training_ended_before_the_first_jump(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write("train.py", LONG.replace("890", "70"))
    assert cli(*SHORT, "--", "train.py") == 0
    *_, last = messages(capsys)
    assert "no jump was made" in last
    assert "70 steps" in last
    assert "step 800" in last


def test_command_gives_the_script_s_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    train = "model = net()\ngo(model, adam(model.parameters()), 3)\n"
    write("exit.py", train + "sys.exit(3)")
    assert cli(*SHORT, "--", "exit.py") == 3
    write("crash.py", train + "raise ValueError('bad data')")
    assert cli(*SHORT, "-q", "--", "crash.py") == 1
    assert "crash.py stopped early: ValueError: bad data" in messages(capsys)[-1]


def test_command_says_where_nothing_jumped(capsys: pytest.CaptureFixture[str]) -> None:
    write("idle.py", "")
    assert cli(*SHORT, "--", "idle.py") == 1
    assert "took no torch optimizer step" in messages(capsys)[-1]
    write("train.py", "model = net()\ngo(model, adam(model.parameters()), 3)\n")
    assert cli(*SHORT, "--model", "nope", "--", "train.py") == 1
    assert "no model called 'nope', so nothing jumped: it trains model" in messages(capsys)[-1]


def test_command_names_other_models(capsys: pytest.CaptureFixture[str]) -> None:
    body = "a, b = net(), net()\ngo(a, adam(a.parameters()), 3)\ngo(b, adam(b.parameters()), 5)\n"
    write("two.py", body)
    assert cli(*SHORT, "--", "two.py") == 0
    assert "other optimizers took 5 steps" in messages(capsys)[-1]


BAD_COMMANDS: dict[str, list[str]] = {
    "no points": [],
    "both": ["--every", "900", "--jump-points", "900"],
    "points": ["--jump-points", "soon"],
    "too early": ["--jump-points", "10"],
    "past the end": ["--jump-points", "900", "--end", "900"],
    "horizon": ["--every", "900", "--horizon", "far"],
    "most": ["--every", "900", "--most-ahead", "0"],
    "guard": ["--every", "900", "--guard-steps", "1000"],
    "no guard and guard": ["--every", "900", "--no-guard", "--guard-steps", "10"],
    "tolerance": ["--every", "900", "--tolerance", "-1"],
    "moments": ["--every", "900", "--moments", "lose"],
    "moments out of range": ["--every", "900", "--moments", "2"],
    "snapshots": ["--every", "900", "--snapshots", "moon"],
    "forecaster": ["--every", "900", "--forecaster", "oracle"],
    "history taken": ["--every", "900", "--record", "taken"],
    "json taken": ["--every", "900", "--json", "taken"],
    "json is the script": ["--every", "900", "--json", "train.py", "--overwrite"],
    "json is the history": ["--every", "900", "--json", "new", "--record", "new"],
    "schedule alone": ["--every", "900", "--schedule", "every:2"],
    "schedule": ["--every", "900", "--schedule", "daily", "--record", "new"],
    "overwrite alone": ["--every", "900", "--overwrite"],
}


@pytest.mark.parametrize("case", BAD_COMMANDS)
def test_bad_commands_are_refused_before_the_script_runs(
    case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("taken").mkdir()
    write("train.py", "open('ran', 'w').close()")
    assert cli(*BAD_COMMANDS[case], "--", "train.py") == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not Path("ran").exists()
    assert not Path("new").exists()


@pytest.mark.parametrize("words", [[], ["--", "nowhere.py"], ["--", "python", "train.py"]], ids=str)
def test_bad_scripts_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("--every", "900", *words) == 2
    assert len(messages(capsys)) == 1


def test_command_stops_a_script_without_a_loss(capsys: pytest.CaptureFixture[str]) -> None:
    write("train.py", NO_LOSS)
    assert cli(*SHORT, "--", "train.py") == 2
    *_, last = messages(capsys)
    assert "--no-guard" in last
    assert not Path("steps").exists()


def test_only_rank_0_speaks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write("train.py", LONG)
    monkeypatch.setenv("RANK", "1")
    assert cli(*SHORT, "--record", "run.zarr", "--json", "run.json", "--", "train.py") == 0
    assert messages(capsys) == []
    assert not Path("run.zarr").exists()
    assert not Path("run.json").exists()


def test_process_that_is_interrupted() -> None:
    """One line of why, and the summary; what was recorded is there."""
    write(
        "train.py",
        "model = net()\noptimizer = adam(model.parameters())\n"
        "go(model, optimizer, 5)\nopen('now', 'w').close()\ngo(model, optimizer, 10**9)\n",
    )
    command = [sys.executable, "-m", "weightcast.cli.main", "run", "--every", "10000000"]
    command += ["--record", "run.zarr", "--schedule", "steps:1,2,3", "--", "train.py"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        end = time.monotonic() + 120
        while not Path("now").exists() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in err
    ours = [line for line in err.splitlines() if line.startswith("weightcast: ")]
    assert "train.py stopped early: KeyboardInterrupt" in ours[-3]
    assert "no jump was made" in ours[-2]
    assert "4 snapshots" in ours[-1]
    assert History("run.zarr").steps.tolist() == [0, 1, 2, 3]
