"""Skipped weight updates in somebody's training script, unchanged."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from store_reference import refuses
from test_apply_script import (
    EXITS,
    PREAMBLE,
    as_in_a_process_of_its_own,  # noqa: F401 - a fixture
    same_bits,
    saved,
    write,
)

from weightcast.apply.metric_pattern import MetricPattern, parse_number
from weightcast.apply.output_tap import OutputTap
from weightcast.apply.skip_rule import SkipRule
from weightcast.apply.skip_script import SkipOutcome, skip_script
from weightcast.apply.skip_values import MeanLoss, PrintedMetric
from weightcast.apply.skipper import UpdateSkipper
from weightcast.cli.main import main
from weightcast.store import History, UsageError

# ---- a number in a line


@given(st.floats(allow_nan=False), st.sampled_from(["{}", " {} ", "{},", "{}."]))
def test_numbers_are_read_as_they_are_written(value: float, form: str) -> None:
    assert parse_number(form.format(value)) == value


@given(st.integers(0, 10**6), st.integers(1, 10**6), st.booleans())
def test_fractions_and_percentages(above: int, below: int, spaced: bool) -> None:
    space = " " * spaced
    assert parse_number(f"{above}{space}/{space}{below}") == above / below
    assert parse_number(f"{above}{space}%") == above / 100


@pytest.mark.parametrize("text", ["", "high", "/", "%", "1/", "/2", "1/2/3", "1 2", "tensor(1.)"])
def test_what_is_no_number(text: str) -> None:
    assert parse_number(text) is None


def test_fraction_of_nothing_is_not_a_number() -> None:
    value = parse_number("3/0")
    assert value is not None
    assert math.isnan(value)


def test_the_group_named_value_is_meant() -> None:
    pattern = MetricPattern(r"(val|test) acc (?P<value>\S+) of (\d+)")
    assert pattern.find("test acc 0.5 of 3") == 0.5
    assert (pattern.find("acc"), pattern.matched) == (None, 1)
    assert MetricPattern(r"(?:val|test) acc (\S+)").find("epoch 3: val acc 98%") == 0.98


def test_lines_that_match_without_a_number_are_told() -> None:
    pattern = MetricPattern(r"acc(?: (\S+))?")
    assert pattern.find("acc") is None  # the group took no part
    assert (pattern.matched, pattern.unread) == (0, "")
    assert pattern.find("acc high") is None
    assert (pattern.matched, pattern.unread) == (1, "high")


@pytest.mark.parametrize("regex", ["acc", "(a)(b)", "acc (", "(?P<v>a)(b)"])
def test_patterns_that_cannot_be(regex: str) -> None:
    with refuses(UsageError, "regular expression", repr(regex)):
        MetricPattern(regex)


# ---- the lines of the output


@pytest.fixture
def stdout() -> Any:
    """A stream in the place of ``sys.stdout``, from when the test says so."""
    return contextlib.redirect_stdout(io.StringIO(newline=""))


@given(st.lists(st.text("ab\r\n\u2028", max_size=6), max_size=12))
def test_lines_are_those_of_the_whole_text(parts: list[str]) -> None:
    with contextlib.redirect_stdout(io.StringIO(newline="")) as stream:
        seen: list[str] = []
        with OutputTap(seen.append).on():
            for part in parts:
                assert sys.stdout.write(part) == len(part)
        assert stream.getvalue() == "".join(parts)
    assert seen == [line for line in re.split("[\r\n]", "".join(parts)) if line]


def test_the_stream_is_what_it_was() -> None:
    with Path("out.txt").open("w") as file, contextlib.redirect_stdout(file):
        seen: list[str] = []
        with OutputTap(seen.append).on():
            assert sys.stdout is file
            assert (file.isatty(), file.encoding.lower()) == (False, "utf-8")
            print("one", 1)
            sys.stdout.writelines(["two\n", "three\n"])
            sys.stdout.buffer.write(b"")
        print("after")
        assert "write" not in vars(file)
    assert seen == ["one 1", "two", "three"]
    assert Path("out.txt").read_text() == "one 1\ntwo\nthree\nafter\n"


def test_logging_that_was_set_up_before(capsys: pytest.CaptureFixture[str]) -> None:
    handler = logging.StreamHandler(sys.stderr)
    log = logging.getLogger("somebodys")
    log.addHandler(handler)
    seen: list[str] = []
    with OutputTap(seen.append).on():
        log.warning("acc %s", 0.5)
    log.removeHandler(handler)
    assert seen == ["acc 0.5"]
    assert capsys.readouterr().err == "acc 0.5\n"


def test_what_the_listener_writes_is_not_told(stdout: Any) -> None:
    seen: list[str] = []

    def listener(line: str) -> None:
        seen.append(line)
        print("ours:", line)

    tap = OutputTap(listener)
    with stdout as stream, tap.on():
        print("half", end="")
        with tap.deaf(), tap.deaf():
            print(" and ours", end="")
        print(" and half")
    assert seen == ["half and half"]
    assert stream.getvalue() == "half and ours and half\nours: half and half\n"


def test_what_was_put_around_ours_is_left_there(stdout: Any) -> None:
    seen: list[str] = []
    with stdout as stream:
        with OutputTap(seen.append).on():
            inner = stream.write
            stream.write = lambda text: inner(text.upper())
            print("a")
        print("b")
    assert stream.getvalue() == "A\nB\n"
    assert seen == ["A"]


def test_a_write_of_somebody_else_is_given_back(stdout: Any) -> None:
    written: list[str] = []
    with stdout as stream:
        stream.write = theirs = written.append
        with OutputTap(written.remove).on():
            print("a")
        assert stream.write is theirs
    assert written == ["\n"]


def test_a_line_without_an_end_is_kept_in_bounds(stdout: Any) -> None:
    seen: list[str] = []
    with stdout, OutputTap(seen.append).on():
        for _ in range(5):
            print("x" * 50_000, end="")
        print(" acc 1")
    (line,) = seen
    assert line.endswith("x acc 1")
    assert len(line) < 120_000


def test_another_process_is_not_heard(stdout: Any, monkeypatch: Any) -> None:
    """A forked worker of a data loader has a copy of all that listens."""
    seen: list[str] = []
    with stdout, OutputTap(seen.append).on():
        monkeypatch.setattr(os, "getpid", lambda: -1)
        print("acc 1")
        monkeypatch.undo()
    assert seen == []


# ---- scripts

# One evaluation an epoch, as if it were measured.
ACCURACIES = [0.5, 0.8, 0.9, 0.9, 0.9, 0.7, 0.8, 0.85, 0.85, 0.85, 0.85, 0.95]
EPOCHS = """\
model = net()
optimizer = adam(model.parameters())
{begin}
for accuracy in {accuracies}:
    go(model, optimizer, 5)
    {report}
torch.save(model.state_dict(), "end.pt")
"""
PRINTED = EPOCHS.format(
    begin="",
    accuracies=ACCURACIES,
    report="print(f'Test set: Average loss: 0.0512, Accuracy: {round(1e4 * accuracy)}/10000')",
)
BY_HAND = EPOCHS.format(
    begin="skipper = UpdateSkipper(model, optimizer, rule=RULE)",
    accuracies=ACCURACIES,
    report="skipper.update(accuracy)",
)
RULE = SkipRule(threshold=0.001, window=2)
METRIC = r"Accuracy: (\S+)"


def run(body: str = PRINTED, metric: str | int = METRIC, **options: Any) -> SkipOutcome:
    """Run a script; a number is the steps of an evaluation by the training loss."""
    write("train.py", body)
    values = MeanLoss(metric) if isinstance(metric, int) else PrintedMetric(metric)
    streams = [sys.stdout, sys.stderr]
    before = [dict(vars(stream)) for stream in streams]
    try:
        return skip_script(["train.py"], options.pop("rule", RULE), values, **options)
    finally:  # nothing of ours stays
        assert [dict(vars(stream)) for stream in streams] == before


def by_hand(body: str = BY_HAND, rule: SkipRule = RULE) -> dict[str, Any]:
    """A loop with a skipper in it; gives its variables, and what it saved."""
    space: dict[str, Any] = {"UpdateSkipper": UpdateSkipper, "RULE": rule}
    exec(compile(PREAMBLE + body, "by_hand.py", "exec"), space)
    space["skipper"].close()
    return space


def kinds(outcome: SkipOutcome) -> list[str]:
    return [event.kind for event in outcome.events]


def test_a_script_is_the_loop_with_a_skipper(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = run()
    script = saved()
    assert capsys.readouterr().out.count("Accuracy") == len(ACCURACIES)
    loop = by_hand()
    assert same_bits(script, loop["model"].state_dict())
    assert list(outcome.events) == loop["skipper"].events
    assert outcome.summary == loop["skipper"].summary()
    assert kinds(outcome)[4:6] == ["entered", "left"]
    assert outcome.summary is not None
    assert (outcome.summary.windows, outcome.summary.skipped) == (2, 15)
    assert (outcome.exit_code, outcome.failure, outcome.others) == (0, "", 0)
    plain = by_hand(BY_HAND, SkipRule(threshold=0.0, window=99))
    assert not same_bits(script, plain["model"].state_dict())


ELSEWHERE = {
    "stderr": "print('Accuracy:', accuracy, file=sys.stderr)",
    "in parts": "print('Accuracy:', end=' '); print(accuracy)",
    "a progress bar": "print(f'\\r 10%|#  | Accuracy: {accuracy}', end='')",
    "logging": "import logging; record = logging.makeLogRecord({'msg': f'Accuracy: {accuracy}'}); "
    "logging.StreamHandler().emit(record)",
    "a percentage": "print(f'Accuracy: {100 * accuracy}%')",
    "subprocess too": "import subprocess; subprocess.run(['true']); print('Accuracy:', accuracy)",
}


@pytest.mark.parametrize("case", ELSEWHERE)
def test_however_it_is_printed(case: str) -> None:
    body = EPOCHS.format(begin="", accuracies=ACCURACIES, report=ELSEWHERE[case])
    outcome = run(body)
    assert [e.value for e in outcome.events] == pytest.approx(ACCURACIES)
    # the end of a progress bar's line comes with the next
    assert [e.step for e in outcome.events] == [
        5 * (i + (case == "a progress bar" and i < 12)) for i in range(1, 13)
    ]


def test_a_value_before_the_first_step_counts() -> None:
    body = f"print('Accuracy: 0.1')\n{PRINTED}"
    outcome = run(body)
    assert (outcome.events[0].step, outcome.events[0].value) == (0, 0.1)
    assert len(outcome.events) == len(ACCURACIES) + 1


def test_a_value_that_is_not_finite_ends_skipping() -> None:
    accuracies = [0.9, 0.9, 0.9, float("nan"), 0.9]
    body = EPOCHS.format(
        begin="", accuracies=[0.9, 0.9, 0.9], report="print('Accuracy:', accuracy)"
    )
    body += "print('Accuracy: nan')\ngo(model, optimizer, 5)\nprint('Accuracy: 0.9')\n"
    outcome = run(body)
    assert outcome.exit_code == 0
    assert kinds(outcome)[2:] == ["entered", "left", "training"]
    assert len(outcome.events) == len(accuracies)


ANEW = """\
model = net()
{begin}
for accuracy in ACCURACIES:
    optimizer = adam(model.parameters())
    {on}
    go(model, optimizer, 5)
    {report}
torch.save(model.state_dict(), "end.pt")
""".replace("ACCURACIES", repr(ACCURACIES))


def test_an_optimizer_that_is_made_anew_goes_on() -> None:
    """Its parameters are the same; a step of it counts."""
    script = ANEW.format(begin="", on="", report="print('Accuracy:', accuracy)")
    outcome = run(script)
    weights = saved()
    loop = by_hand(
        ANEW.format(
            begin="SKIP, STATE = None, None",
            on="skipper = UpdateSkipper(model, optimizer, rule=RULE)\n"
            "    if STATE: skipper.load_state_dict(STATE)",
            report="skipper.update(accuracy); STATE = skipper.state_dict(); skipper.close()",
        )
    )
    assert list(outcome.events) == loop["skipper"].events
    assert outcome.summary == loop["skipper"].summary()
    assert same_bits(weights, loop["model"].state_dict())


FLAT = EPOCHS.format(begin="", accuracies=[0.5] * 4, report="REPORT")
SWALLOWED = {
    "logging": "import logging; log = logging.getLogger('somebodys')\n"
    "    log.handlers = [logging.StreamHandler()]; log.warning('Accuracy: %s', accuracy)",
    "a try": "try: print('Accuracy:', accuracy)\n    except Exception: pass",
}


@pytest.mark.parametrize("last", [False, True], ids=["", "at the end"])
@pytest.mark.parametrize("case", SWALLOWED)
def test_an_error_within_a_print_stops_the_script(
    case: str, last: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """There it would be swallowed; the next step is not taken."""
    switched = f"{SWALLOWED[case]}\n    print('at', accuracy); model.requires_grad_(True)"
    body = FLAT.replace("REPORT", switched)
    accuracies = [0.5, 0.5, 0.5, 0.25] if last else [0.5, 0.5, 0.5, 0.25, 0.125]
    body = body.replace(repr([0.5] * 4), repr(accuracies))
    with refuses(UsageError, "requires_grad of '0.weight' was switched on by others"):
        run(body, record="run.zarr")
    shown = capsys.readouterr()
    assert "Logging error" not in shown.err
    assert shown.out.count("at 0.") == 4
    assert Path("end.pt").exists() == last
    assert History("run.zarr").steps[-1] == 20  # all that was recorded is there


FILTERED = ANEW.format(begin="", on="", report="print('Accuracy:', accuracy)").replace(
    "adam(model.parameters())", "adam(p for p in model.parameters() if p.requires_grad)"
)


def test_an_optimizer_that_leaves_skipped_weights_out_stops_the_script() -> None:
    with refuses(UsageError, "Adam leaves out '0.weight'", "model.parameters()"):
        run(FILTERED)


SHOWN = """\
model = net()
optimizer = adam(model.parameters())
losses = []
{begin}
for step in range(1, 61):
    optimizer.zero_grad()
    loss = loss_of(model)
    loss.backward()
    losses.append(loss.item())
    optimizer.step()
    {each}
torch.save(model.state_dict(), "end.pt")
"""
BY_LOSS = SkipRule(threshold=0.1, window=1, better="lower")


def test_the_training_loss_decides() -> None:
    outcome = run(SHOWN.format(begin="", each=""), 4, rule=BY_LOSS)
    script = saved()
    loop = by_hand(
        SHOWN.format(
            begin="skipper = UpdateSkipper(model, optimizer, rule=RULE)",
            each="if step % 4 == 0: skipper.update(sum(losses[-4:]) / 4)",
        ),
        BY_LOSS,
    )
    assert [e.step for e in outcome.events] == list(range(4, 61, 4))
    assert {"entered", "left"} <= set(kinds(outcome))
    assert kinds(outcome) == [e.kind for e in loop["skipper"].events]
    assert same_bits(script, loop["model"].state_dict())
    means = [fmean(loop["losses"][i : i + 4]) for i in range(0, 60, 4)]
    assert [e.value for e in outcome.events] == pytest.approx(means, rel=1e-6)


TWO = """\
generator, critic = net(), net()
first, second = adam(generator.parameters()), adam(critic.parameters())
for _ in range(20):
    first.zero_grad()
    loss_of(generator).backward()
    first.step()
    second.zero_grad()
    (1e6 * loss_of(critic)).backward()
    second.step()
"""


def test_losses_of_another_model_are_not_its() -> None:
    outcome = run(TWO, 5)
    assert all(event.value < 1e3 for event in outcome.events)
    assert (len(outcome.events), outcome.others, outcome.other_models) == (4, 20, ("critic",))
    chosen = run(TWO, 5, model="critic")
    assert all(event.value > 1e3 for event in chosen.events)


def test_decisions_are_in_the_history() -> None:
    outcome = run(record="run.zarr", recording={"schedule": "every:5"})
    history = History("run.zarr")
    assert history.steps.tolist() == list(range(0, 61, 5))
    steps, values = history.metric("skip/value")
    assert (steps.tolist(), values.tolist()) == ([e.step for e in outcome.events], ACCURACIES)
    skipping = [e.kind in ("entered", "skipping") for e in outcome.events]
    assert history.metric("skip/skipping")[1].astype(bool).tolist() == skipping
    frozen, trained = history.state(30)["0.weight"], history.state(25)["0.weight"]
    assert np.array_equal(frozen, trained)  # entered at step 25, left at 30
    assert not np.array_equal(history.state(30)["0.bias"], history.state(25)["0.bias"])
    assert not np.array_equal(history.state(35)["0.weight"], frozen)


@pytest.mark.parametrize("case", EXITS)
def test_scripts_that_end_early(case: str) -> None:
    end, code, failure = EXITS[case]
    outcome = run(f"{PRINTED}print('Accuracy: 0.99', end='')\n{end}\n")
    assert (outcome.exit_code, outcome.failure) == (code, failure)
    assert len(outcome.events) == len(ACCURACIES) + 1  # what was printed last is read too
    assert outcome.summary is not None
    assert outcome.summary.steps == 60


def test_a_script_that_never_trains() -> None:
    outcome = run("print('Accuracy: 0.5')", record="run.zarr")
    assert (outcome.exit_code, outcome.summary, outcome.events) == (0, None, ())
    assert not Path("run.zarr").exists()


@pytest.fixture
def alone() -> Iterator[None]:
    """A distributed run of this process alone."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


WRAPPED = PRINTED.replace(
    "optimizer =",
    "plain = model\nmodel = nn.parallel.DistributedDataParallel(model, OPTIONS)\noptimizer =",
)


def test_ddp_must_look_for_unused_parameters(alone: None) -> None:
    with refuses(UsageError, "find_unused_parameters=True"):
        run(WRAPPED.replace("OPTIONS", ""), record="run.zarr")
    assert not Path("run.zarr").exists()
    body = WRAPPED.replace("model.state_dict()", "plain.state_dict()")
    assert kinds(run(body.replace("OPTIONS", "find_unused_parameters=True")))[4] == "entered"
    wrapped = saved()
    run()
    assert same_bits(wrapped, saved())


@pytest.mark.parametrize(
    "body",
    ["w = nn.Parameter(torch.randn(2))\ngo(lambda x: x @ w, adam([w]))\n"],
    ids=["no module"],
)
def test_models_that_cannot_skip_stop_the_script(body: str) -> None:
    with refuses(UsageError, "module"):
        run(body, record="run.zarr")
    assert not Path("run.zarr").exists()


def test_options_of_a_recording_need_its_path() -> None:
    with refuses(UsageError, "path", "schedule"):
        run(recording={"schedule": "every:2"})


RANKS = """\
import os
import torch.distributed as dist
dist.init_process_group("gloo")
torch.manual_seed(0)
model = net()
wrapped = nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
DATA.manual_seed(dist.get_rank())
optimizer = adam(model.parameters())
for accuracy in [0.5, 0.9, 0.9, 0.9, 0.5, 0.6]:
    go(wrapped, optimizer, 5)
    if dist.get_rank() == 0:
        print("Accuracy:", accuracy)
torch.save(dict(model.named_parameters()), f"{dist.get_rank()}.pt")
dist.destroy_process_group()
"""


# Both ranks by one process that forks, as imports are most of what they would do.
FORKED = """\
import os
import sys

import torch._dynamo

import weightcast.apply.skip_script
from weightcast.cli.main import main

other = os.fork()
rank = 0 if other else 1
os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
os.dup2(os.open(f"{rank}.log", os.O_CREAT | os.O_WRONLY), 2)
code = main(sys.argv[1:])
if other:
    code |= os.waitstatus_to_exitcode(os.waitpid(other, 0)[1])
sys.exit(code)
"""


def test_what_one_rank_prints_decides_for_all() -> None:
    """The other one prints nothing, and would wait for ever for its gradients."""
    write("train.py", RANKS)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-c", FORKED, "run", "--skip-updates", "--metric"]
    command += [METRIC, "--window", "1", "--json", "run.json", "--", "train.py"]
    ended = subprocess.run(command, env=shared, capture_output=True, timeout=300, check=False)
    said = [Path(f"{rank}.log").read_text() for rank in (0, 1)]
    assert ended.returncode == 0, said
    assert "weightcast" in said[0]
    assert "weightcast" not in said[1]
    written = json.loads(Path("run.json").read_text())
    # it is known to all two steps later; of the last one, the run has ended
    assert [(e["step"], e["kind"]) for e in written["events"]] == [
        (7, "training"),
        (12, "training"),
        (17, "entered"),
        (22, "left"),
        (27, "entered"),
    ]
    assert written["summary"]["skipped"] == 5 + 3
    assert same_bits(saved("0.pt"), saved("1.pt"))


# ---- the command


def cli(*words: str) -> int:
    return main(["run", "--skip-updates", *words])


BY_METRIC = ["--metric", METRIC, "--window", "2"]


def messages(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Our own lines on stderr; stdout is the script's alone."""
    shown = capsys.readouterr()
    assert "weightcast" not in shown.out
    return [line for line in shown.err.splitlines() if line.startswith("weightcast: ")]


def test_command_tells_what_is_decided(capsys: pytest.CaptureFixture[str]) -> None:
    write("train.py", PRINTED)
    words = [*BY_METRIC, "--record", "run.zarr", "--schedule", "every:20", "--json", "run.json"]
    assert cli(*words, "--", "train.py") == 0
    rule, begun, *decided, summary, recorded = messages(capsys)
    assert str(RULE) in rule
    assert f"'{METRIC}'" in rule
    assert "updates of model" in begun
    outcome = run()
    told = [event for event in outcome.events if event.kind in ("entered", "left")]
    assert decided == [f"weightcast: {event}" for event in told]
    assert summary == "weightcast: weights were skipped in 15 of 60 steps (25.0 %), in 2 windows"
    assert "4 snapshots of 60 steps" in recorded
    written = json.loads(Path("run.json").read_text())
    assert [(e["step"], e["kind"], e["value"]) for e in written["events"]] == [
        (e.step, e.kind, e.value) for e in outcome.events
    ]
    assert written["summary"] == {"steps": 60, "skipped": 15, "windows": 2, "share": 0.25}
    assert (written["command"], written["exit_code"]) == (["train.py"], 0)
    asked = {"threshold": 0.001, "window": 2, "better": "higher", "longest": None}
    asked |= {"metric": METRIC, "evaluate_every": None}
    about = History("run.zarr").info().metadata
    assert written["rule"] == about["skips"] == asked
    assert about["command"] == ["train.py"]


def test_command_by_the_training_loss(capsys: pytest.CaptureFixture[str]) -> None:
    write("train.py", SHOWN.format(begin="", each=""))
    words = ["--evaluate-every", "4", "--threshold", "0.1", "--window", "1", "--longest", "2"]
    assert cli(*words, "--json", "run.json", "--", "train.py") == 0
    rule, *_ = messages(capsys)
    assert "mean training loss of 4 steps" in rule
    written = json.loads(Path("run.json").read_text())
    assert written["rule"] == {
        "threshold": 0.1,
        "window": 1,
        "better": "lower",
        "longest": 2,
        "metric": None,
        "evaluate_every": 4,
    }
    assert len(written["events"]) == 15


def test_what_is_not_finite_is_null_for_programs() -> None:
    write("train.py", PRINTED + "print('Accuracy: nan')\n")
    assert cli(*BY_METRIC, "--json", "run.json", "--", "train.py") == 0

    def none(constant: str) -> None:
        raise AssertionError(constant)  # NaN is no JSON

    written = json.loads(Path("run.json").read_text(), parse_constant=none)
    assert written["events"][-1]["value"] is None


def test_our_own_lines_are_not_evaluations(capsys: pytest.CaptureFixture[str]) -> None:
    """The messages have numbers too."""
    write("train.py", PRINTED)
    metric = r"(?:Accuracy|step \d+): (?P<value>[\d./]+)"
    assert cli("--metric", metric, "--window", "2", "--json", "run.json", "--", "train.py") == 0
    assert len(json.loads(Path("run.json").read_text())["events"]) == len(ACCURACIES)
    assert any(re.search(metric, line) for line in messages(capsys))


MISSING: dict[str, tuple[str, list[str], tuple[str, ...]]] = {
    "no line": (PRINTED, ["--metric", r"accuracy = (\d+)"], ("no line", r"accuracy = (\d+)")),
    "no number": (
        EPOCHS.format(begin="", accuracies=[0.5], report="print('Accuracy: high')"),
        ["--metric", METRIC],
        ("'high'", "no number", "nothing was skipped"),
    ),
    "too few steps": (SHOWN.format(begin="", each=""), [], ("60 steps", "500", "--evaluate-every")),
    "no loss": (
        "model = net()\noptimizer = adam(model.parameters())\n"
        "for p in model.parameters():\n    p.grad = torch.ones_like(p)\n"
        "for _ in range(5):\n    optimizer.step()\n",
        ["--evaluate-every", "2"],
        ("no loss", "--metric"),
    ),
}


@pytest.mark.parametrize("quiet", [False, True])
@pytest.mark.parametrize("case", MISSING)
def test_command_says_where_evaluations_never_came(
    case: str, quiet: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    body, words, said = MISSING[case]
    write("train.py", body + "sys.exit(3)\n")
    assert cli(*words, *["-q"] * quiet, "--", "train.py") == 3
    ours = messages(capsys)
    (why,) = ours if quiet else [line for line in ours if all(part in line for part in said)]
    assert all(part in why for part in said)
    assert quiet or "skipped in 0 of" in ours[-1]


def test_command_says_why_nothing_was_skipped(capsys: pytest.CaptureFixture[str]) -> None:
    write("train.py", PRINTED.replace(repr(ACCURACIES), "[0.5, 0.6, 0.7]"))
    assert cli(*BY_METRIC, "--", "train.py") == 0
    assert "nothing was skipped: the best of the last 2" in messages(capsys)[-1]
    assert cli("-q", *BY_METRIC, "--", "train.py") == 0
    assert messages(capsys) == []


def test_command_gives_the_scripts_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    write("crash.py", f"{PRINTED}raise ValueError('bad data')")
    assert cli(*BY_METRIC, "-q", "--", "crash.py") == 1
    shown = capsys.readouterr()
    assert "weightcast: crash.py stopped early: ValueError: bad data" in shown.err
    trace = shown.err.partition("Traceback")[2].splitlines()
    assert "crash.py" in trace[1]  # and no frame of ours
    write("idle.py", "")
    assert cli(*BY_METRIC, "--", "idle.py") == 1
    assert "took no torch optimizer step" in messages(capsys)[-1]
    write("train.py", PRINTED)
    assert cli(*BY_METRIC, "--model", "nope", "--", "train.py") == 1
    assert "no model called 'nope', so nothing was skipped" in messages(capsys)[-1]


def test_command_names_other_models(capsys: pytest.CaptureFixture[str]) -> None:
    write("two.py", TWO)
    assert cli("--evaluate-every", "5", "--", "two.py") == 0
    last = messages(capsys)[-1]
    assert "20 steps" in last
    assert "--model: critic" in last


BAD_COMMANDS: dict[str, list[str]] = {
    "jumps": ["--every", "10"],
    "jump points": ["--jump-points", "10"],
    "a jump option": ["--no-guard"],
    "a default, given": ["--forecaster", "line"],
    "globs": ["--include", "*"],
    "no group": ["--metric", "Accuracy"],
    "no expression": ["--metric", "Accuracy: ("],
    "two places": ["--metric", METRIC, "--evaluate-every", "5"],
    "no steps": ["--evaluate-every", "0"],
    "better": ["--better", "faster"],
    "threshold": ["--threshold", "-1"],
    "threshold of a loss": ["--threshold", "1.5"],
    "threshold that is no number": ["--threshold", "nan"],
    "window": ["--window", "0"],
    "longest": ["--longest", "0"],
    "history taken": ["--record", "taken"],
    "json taken": ["--json", "taken"],
    "json is the script": ["--json", "train.py", "--overwrite"],
    "schedule alone": ["--schedule", "every:2"],
    "overwrite alone": ["--overwrite"],
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


@pytest.mark.parametrize("option", ["--metric", "--evaluate-every", "--better", "--threshold"])
def test_options_of_skipping_go_with_it(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    write("train.py", "open('ran', 'w').close()")
    value = {"--metric": "(a)", "--better": "lower"}.get(option, "1")
    assert main(["run", "--every", "900", option, value, "--", "train.py"]) == 2
    assert f"{option} goes with --skip-updates" in capsys.readouterr().err
    assert not Path("ran").exists()


def test_the_help_has_the_rules_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    rule = SkipRule()
    assert f"by default {rule.threshold}." in shown.partition("--threshold")[2]
    assert f"by default {rule.window}." in shown.partition("--window")[2]
    assert rule.most == rule.window


def test_only_rank_0_speaks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write("train.py", PRINTED)
    monkeypatch.setenv("RANK", "1")
    assert cli(*BY_METRIC, "--record", "run.zarr", "--json", "run.json", "--", "train.py") == 0
    assert messages(capsys) == []
    assert not Path("run.zarr").exists()
    assert not Path("run.json").exists()
