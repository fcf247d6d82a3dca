"""Somebody's training script, unchanged, under `record_script` and ``weightcast record``."""

from __future__ import annotations

import gc
import os
import re
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from store_reference import refuses

from weightcast.cli.main import main
from weightcast.recorder import Outcome, record_script
from weightcast.store import (
    FormatError,
    History,
    InputNotFoundError,
    OutputExistsError,
    RecordingError,
    UsageError,
    WeightcastError,
)

SIBLING = """\
import torch


def make_model():
    layers = torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 1)
    return torch.nn.Sequential(*layers)
"""

# Saves what it held itself: the reference for what weightcast records.
TRAIN = '''\
"""A training script that knows nothing of weightcast."""

import argparse
import sys
from pathlib import Path

import torch

from sibling_of_train import make_model


def clone(model):
    return {name: t.clone() for name, t in model.state_dict().items()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--load")
    args = parser.parse_args()
    print("argv", sys.argv)
    torch.manual_seed(0)
    model = make_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    start = 0
    if args.load:
        saved = torch.load(args.load, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        start = saved["step"]
    states = {}
    for step in range(start + 1, args.steps + 1):
        x = torch.rand(4, 2, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        if step == 1:
            states[0] = clone(model)
        optimizer.step()
        states[step] = clone(model)
        both = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
        torch.save(both, f"checkpoint-{step}.pt")
    torch.save(states, "states.pt")
    print("rng", torch.rand(()).item())
    print("done", file=sys.stderr)


if __name__ == "__main__":
    main()
'''

# For scripts of a few lines. `go` takes optimizer steps.
PREAMBLE = """\
import sys

import torch
from torch import nn


def go(model, optimizer, steps=2):
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(3, 2)).square().sum().backward()
        optimizer.step()


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


"""


@pytest.fixture(autouse=True)
def as_in_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test has its own folder with the script in it, and no models but the script's.

    What is frozen is not among the live objects that are searched for the model.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "sibling_of_train", raising=False)
    write("train.py", TRAIN)
    write("sibling_of_train.py", SIBLING)
    gc.freeze()
    yield
    gc.unfreeze()


def write(name: str, text: str) -> Path:
    path = Path(name)
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def lines(body: str, **options: Any) -> Outcome:
    """Record a script of a few lines that come after the preamble."""
    write("short.py", PREAMBLE + body)
    return record_script(["short.py"], "run.zarr", **options)


def names(path: str = "run.zarr") -> list[str]:
    return [p.name for p in History(path).parameters]


def steps(path: str = "run.zarr") -> list[int]:
    return History(path).steps.tolist()


def tree(path: str) -> dict[str, bytes]:
    return {str(f): f.read_bytes() for f in sorted(Path(path).rglob("*")) if f.is_file()}


def assert_records_what_the_script_held(path: str = "run.zarr") -> None:
    history, states = History(path), torch.load("states.pt", weights_only=True)
    for step, state in states.items():
        recorded = history.state(step)
        assert list(recorded) == [*names(path), *(b.name for b in history.buffers)]
        assert sorted(recorded) == sorted(state)
        for name, tensor in state.items():
            assert np.array_equal(recorded[name], tensor.numpy()), (step, name)


def run_plainly(*argv: str) -> None:
    """The script as Python runs it, without a recorder."""
    kept = sys.argv, sys.path[:]
    sys.argv, sys.path[:] = list(argv), [str(Path.cwd()), *sys.path[1:]]
    try:
        runpy.run_path(argv[0], run_name="__main__")
    finally:
        sys.argv, sys.path[:] = kept


def test_unchanged_script(capsys: pytest.CaptureFixture[str]) -> None:
    run_plainly("train.py", "--steps", "5")
    plain, plain_states = capsys.readouterr(), torch.load("states.pt", weights_only=True)
    argv, path, main_module = sys.argv[:], sys.path[:], sys.modules["__main__"]
    outcome = record_script(["train.py", "--steps", "5"], "run.zarr")
    assert (sys.argv, sys.path, sys.modules["__main__"]) == (argv, path, main_module)
    assert capsys.readouterr() == plain  # its arguments, results and random numbers
    assert "['train.py', '--steps', '5']" in plain.out
    for step, state in torch.load("states.pt", weights_only=True).items():
        assert all(torch.equal(state[name], plain_states[step][name]) for name in state)
    assert (outcome.exit_code, outcome.failure, outcome.others) == (0, "", 0)
    assert outcome.summary is not None
    assert (outcome.summary.recorded, outcome.summary.steps) == (6, 5)
    assert steps() == [0, 1, 2, 3, 4, 5]
    assert names() == ["0.weight", "0.bias", "1.weight", "1.bias", "2.weight", "2.bias"]
    assert_records_what_the_script_held()


def test_options_reach_the_recorder() -> None:
    record_script(
        ["train.py"],
        "run.zarr",
        schedule="every:2",
        include=["0.*", "2.*"],
        exclude=["*.bias"],
        preset="compact",
        memory=400,
        metadata={"tag": "x"},
    )
    info = History("run.zarr").info()
    assert steps() == [0, 2, 4]
    assert names() == ["0.weight", "2.weight"]
    assert (info.schedule, info.preset, info.metadata) == ("every:2", "compact", {"tag": "x"})
    assert info.chunks[1] == 1


def test_script_elsewhere_finds_what_lies_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    Path("project").mkdir()
    for name in ("train.py", "sibling_of_train.py"):
        Path(name).rename(Path("project") / name)
    assert record_script(["project/train.py"], "run.zarr").exit_code == 0
    assert "argv ['project/train.py']" in capsys.readouterr().out
    assert_records_what_the_script_held()


def test_module(capsys: pytest.CaptureFixture[str]) -> None:
    write("package_of_train/__init__.py", "")
    write("package_of_train/helper.py", SIBLING)
    relative = TRAIN.replace("sibling_of_train", "package_of_train.helper")
    write("package_of_train/__main__.py", relative)
    write("package_of_train/fit.py", relative)
    for module, file in (("package_of_train", "__main__.py"), ("package_of_train.fit", "fit.py")):
        argv = ["-m", module, "--steps", "3"]
        assert record_script(argv, f"{module}.zarr").exit_code == 0
        full = str(Path.cwd() / "package_of_train" / file)  # as python -m gives it
        assert f"argv {[full, '--steps', '3']}" in capsys.readouterr().out
        assert steps(f"{module}.zarr") == [0, 1, 2, 3]
        assert_records_what_the_script_held(f"{module}.zarr")


def test_script_sees_its_absolute_file(capsys: pytest.CaptureFixture[str]) -> None:
    """As Python itself gives it, so that it holds after a change of folder."""
    lines("print(__file__, sys.argv[0])")
    assert capsys.readouterr().out.split() == [str(Path.cwd() / "short.py"), "short.py"]


EXITS: dict[str, tuple[str, int, str]] = {  # the script's end, exit code, what stderr has
    "end": ("pass", 0, ""),
    "exit()": ("sys.exit()", 0, ""),
    "exit(0)": ("sys.exit(0)", 0, ""),
    "exit(3)": ("sys.exit(3)", 3, ""),
    "exit(True)": ("sys.exit(True)", 1, ""),
    "exit text": ("sys.exit('no data')", 1, "no data\n"),
    "interrupt": ("raise KeyboardInterrupt", 130, ""),
}


@pytest.mark.parametrize("case", EXITS)
def test_exit_codes_are_the_script_s(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    end, code, text = EXITS[case]
    outcome = lines(f"model = nn.Linear(2, 1)\ngo(model, sgd(model.parameters()))\n{end}\n")
    assert outcome.exit_code == code
    assert outcome.failure == ("KeyboardInterrupt" if code == 130 else "")
    assert capsys.readouterr().err == text
    assert steps() == [0, 1, 2]


@pytest.fixture
def own_handler() -> Iterator[Callable[..., None]]:
    """A handler of the process that records, so that a stray signal ends a test and not pytest."""

    def handler(*_: object) -> None:
        raise AssertionError("the signal reached the handler of the process that records")

    kept = signal.signal(signal.SIGTERM, handler)
    yield handler
    signal.signal(signal.SIGTERM, kept)


@pytest.mark.parametrize(
    ("handling", "code"),
    [("", 128 + signal.SIGTERM), ("signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))", 5)],
    ids=["by us", "by the script"],
)
def test_termination_keeps_what_was_recorded(
    handling: str, code: int, own_handler: Callable[..., None]
) -> None:
    """As a job scheduler ends a run; afterwards the signal does what it did before."""
    outcome = lines(f"""\
import signal
{handling}
model = nn.Linear(2, 1)
go(model, sgd(model.parameters()))
signal.raise_signal(signal.SIGTERM)
""")
    assert outcome.exit_code == code
    assert steps() == [0, 1, 2]
    assert signal.getsignal(signal.SIGTERM) is own_handler


def test_exception_keeps_what_was_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = lines("""\
def inner():
    raise ValueError("two\\nlines")

model = nn.Linear(2, 1)
go(model, sgd(model.parameters()), 70)
inner()
""")
    assert (outcome.exit_code, outcome.failure) == (1, "ValueError: two lines")
    assert steps() == list(range(71))
    err = capsys.readouterr().err
    assert err.startswith("Traceback (most recent call last):\n")
    assert err.endswith("ValueError: two\nlines\n")
    places = re.findall(r'File ".*?([^/"]+)", line \d+, in (\S+)', err)
    assert places == [("short.py", "<module>"), ("short.py", "inner")]


def test_syntax_error_shows_the_script_only(capsys: pytest.CaptureFixture[str]) -> None:
    """As Python does: no frames, for the script has not begun."""
    write("broken.py", "x = (\n")
    outcome = record_script(["broken.py"], "run.zarr")
    assert outcome.exit_code == 1
    assert outcome.failure.startswith("SyntaxError")
    err = capsys.readouterr().err
    assert "broken.py" in err
    assert "recorder" not in err
    assert "runpy" not in err


def test_traceback_of_a_script_below_a_folder_called_runpy(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Frames are ours or runpy's by their module, not by letters in a path."""
    write("runpytorch/crash.py", "def inner():\n    raise ValueError\n\ninner()\n")
    record_script(["runpytorch/crash.py"], "run.zarr")
    err = capsys.readouterr().err
    assert re.findall(r", in (\S+)", err) == ["<module>", "inner"]


def test_traceback_has_no_frames_of_ours_where_the_script_stepped(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A closure runs below torch's hooks, which are not ours."""
    lines("""\
def closure():
    raise ValueError("inside")

model = nn.Linear(2, 1)
sgd(model.parameters()).step(closure)
""")
    err = capsys.readouterr().err
    assert "in closure" in err
    assert "weightcast" not in err
    assert "recorder/" not in err
    assert steps() == [0]


MODELS = {
    "plain": ("model = nn.Linear(2, 1)", ["weight", "bias"]),
    "data parallel": ("model = nn.DataParallel(nn.Linear(2, 1))", ["weight", "bias"]),
    "nested": (
        """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone, self.head = nn.Linear(2, 2), nn.Linear(2, 1)
    def forward(self, x):
        return self.head(self.backbone(x))
model = Net()
""",
        ["backbone.weight", "backbone.bias", "head.weight", "head.bias"],
    ),
    "made in a function": ("model = (lambda: nn.Linear(2, 1))()", ["weight", "bias"]),
    "in a container": ("model = {'net': [nn.Linear(2, 1)]}['net'][0]", ["weight", "bias"]),
}


@pytest.mark.parametrize("case", MODELS)
def test_model_is_found(case: str) -> None:
    make, expected = MODELS[case]
    assert lines(f"{make}\ngo(model, sgd(model.parameters()))").exit_code == 0
    assert names() == expected
    assert steps() == [0, 1, 2]


def test_frozen_backbone_is_recorded_with_the_head() -> None:
    """The optimizer has the head only; names are those of the script's own state_dict()."""
    lines("""\
model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
model[0].requires_grad_(False)
go(model, sgd(p for p in model.parameters() if p.requires_grad))
""")
    assert names() == ["0.weight", "0.bias", "1.weight", "1.bias"]
    history = History("run.zarr")
    assert np.array_equal(history["0.weight"][0], history["0.weight"][2])
    assert not np.array_equal(history["1.weight"][0], history["1.weight"][2])


def test_parameters_without_a_module() -> None:
    outcome = lines("""\
w, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.zeros(()))
go(lambda x: x @ w + b, sgd([{"params": [w]}, {"params": [b], "lr": 0.01}]))
""")
    assert outcome.exit_code == 0
    assert names() == ["group0.param0", "group1.param0"]
    first = History("run.zarr").state(0)
    assert first["group0.param0"].tolist() == [1, 1]
    assert first["group1.param0"].tolist() == 0


GAN = """\
generator, critic = nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 1))
first, second = sgd(generator.parameters()), sgd(critic.parameters())
for _ in range(3):
    go(generator, first, 1)
    go(critic, second, 2)
"""


def test_first_of_several_optimizers_is_counted() -> None:
    outcome = lines(GAN)
    assert outcome.others == 6
    assert steps() == [0, 1, 2, 3]
    assert names() == ["weight", "bias"]
    assert History("run.zarr").parameters["weight"].shape == (2, 2)


def test_two_optimizers_of_one_model() -> None:
    lines("""\
model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
first, second = sgd(model[0].parameters()), sgd(model[1].parameters())
for _ in range(3):
    go(model, first, 1)
    go(model, second, 1)
""")
    assert names() == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert steps() == [0, 1, 2, 3]


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
def test_steps_that_amp_skips_are_not_counted(fused: bool) -> None:
    lines(f"""\
model = nn.Linear(2, 1)
optimizer = torch.optim.Adam(model.parameters(), fused={fused})
scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
for step in range(5):
    optimizer.zero_grad()
    loss = model(torch.ones(3, 2)).square().sum() * (float("inf") if step < 2 else 1)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
""")
    assert steps() == [0, 1, 2, 3]


def test_optimizer_built_on_another_counts_once_a_step() -> None:
    """Torch hooks the step of both classes once the base class was used by itself too."""
    lines("""\
class Mine(torch.optim.SGD):
    def step(self, closure=None):
        return super().step(closure)

model, other = nn.Linear(2, 1), nn.Linear(2, 1)
sgd(other.parameters())
go(model, Mine(model.parameters(), lr=0.1), 3)
""")
    assert steps() == [0, 1, 2, 3]


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_data_loader_with_a_worker(context: str) -> None:
    """A worker that is started afresh imports the script once more, under another name."""
    body = f"""\
class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 12
    def __getitem__(self, i):
        return torch.full((2,), float(i))

if __name__ == "__main__":
    loader = torch.utils.data.DataLoader(
        Numbers(), batch_size=4, num_workers=1, multiprocessing_context={context!r}
    )
    model = nn.Linear(2, 1)
    optimizer = sgd(model.parameters())
    for x in loader:
        optimizer.zero_grad()
        model(x).mean().backward()
        optimizer.step()
"""
    script = write("load.py", PREAMBLE + body).absolute()
    assert record_script([str(script)], "run.zarr").exit_code == 0
    assert steps() == [0, 1, 2, 3]


@pytest.mark.parametrize("when", ["before", "after"])
def test_script_that_changes_its_folder(when: str) -> None:
    """The history stands where the command line said, as seen from where it was given."""
    move = 'os.chdir("elsewhere")'
    before, after = (move, "") if when == "before" else ("", move)
    Path("elsewhere").mkdir()
    start = Path.cwd()
    try:
        lines(f"""\
import os
model = nn.Linear(2, 1)
optimizer = sgd(model.parameters())
{before}
go(model, optimizer, 1)
{after}
go(model, optimizer, 70)
""")
    finally:
        os.chdir(start)
    assert not list(Path("elsewhere").iterdir())
    assert steps() == list(range(72))


def test_half_built_module_in_the_script() -> None:
    """A module whose ``__init__`` failed early must not stop the search for the model."""
    outcome = lines("""\
class Optional(nn.Module):
    def __init__(self):
        raise ImportError("not installed")

try:
    Optional()
except ImportError as error:
    frame = error.__traceback__.tb_next.tb_frame  # keeps the module alive, as a debugger would
model = nn.Linear(2, 1)
try:
    go(model, sgd(model.parameters()))
finally:
    nn.Module.__init__(frame.f_locals["self"])  # other tests run in this process
""")
    assert (outcome.exit_code, outcome.failure) == (0, "")
    assert steps() == [0, 1, 2]


def test_script_without_an_optimizer_step() -> None:
    outcome = lines("model = nn.Linear(2, 1)\nsgd(model.parameters())\n")
    assert (outcome.exit_code, outcome.summary, outcome.failure) == (0, None, "")
    assert not Path("run.zarr").exists()


def test_hooks_are_gone_afterwards() -> None:
    lines(f"{GAN}\nsys.exit(3)")
    before = tree("run.zarr")
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert tree("run.zarr") == before


def test_scripts_one_after_the_other() -> None:
    for name in ("a", "b"):
        write("short.py", PREAMBLE + "model = nn.Linear(2, 1)\ngo(model, sgd(model.parameters()))")
        record_script(["short.py"], f"{name}.zarr")
        assert steps(f"{name}.zarr") == [0, 1, 2]


BAD_SCRIPTS: dict[str, tuple[list[str], type[Exception], tuple[str, ...]]] = {
    "nothing": ([], UsageError, ("train.py",)),
    "-m alone": (["-m"], UsageError, ("train.py",)),
    "missing": (["nowhere.py", "--x"], InputNotFoundError, ("'nowhere.py'", "check the path")),
    "interpreter": (["python", "train.py"], WeightcastError, ("without the interpreter",)),
    "interpreter's version": (["python3.11", "t.py"], WeightcastError, ("without the inter",)),
    "interpreter's path": ([sys.executable, "t.py"], WeightcastError, ("without the interpreter",)),
    "missing, called python_": (["python_fit.py"], InputNotFoundError, ("check the path",)),
    "missing module": (["-m", "nosuchmodule"], InputNotFoundError, ("nosuchmodule",)),
    "missing submodule": (["-m", "nosuch.module"], InputNotFoundError, ("nosuch.module",)),
    "folder": (["empty"], InputNotFoundError, ("empty",)),
}


@pytest.mark.parametrize("case", BAD_SCRIPTS)
def test_bad_scripts_are_refused(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    argv, kind, texts = BAD_SCRIPTS[case]
    Path("empty").mkdir()
    with refuses(kind, *texts):
        record_script(argv, "run.zarr")
    assert capsys.readouterr() == ("", "")
    assert not Path("run.zarr").exists()


BAD_OUTPUTS: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    "taken": ({}, OutputExistsError),
    "overwrite and resume": ({"overwrite": True, "resume": True}, UsageError),
    "start without resume": ({"start_step": 1}, UsageError),
    "schedule": ({"overwrite": True, "schedule": "daily"}, UsageError),
    "preset": ({"overwrite": True, "preset": "zip"}, UsageError),
}


@pytest.mark.parametrize("case", BAD_OUTPUTS)
def test_bad_options_are_refused_before_the_script_runs(case: str) -> None:
    """Hours of set-up may come before the first optimizer step."""
    options, kind = BAD_OUTPUTS[case]
    record_script(["train.py"], "run.zarr")
    before = tree("run.zarr")
    with pytest.raises(kind):
        lines(
            "open('ran', 'w').close()\nmodel = nn.Linear(2, 1)\ngo(model, sgd(model.parameters()))",
            **options,
        )
    assert tree("run.zarr") == before
    assert not Path("ran").exists()


def test_output_that_cannot_be_written_is_refused_before_the_script_runs() -> None:
    write("notes.txt", "keep me")
    write("side_effect.py", "open('ran', 'w').close()")
    with pytest.raises((WeightcastError, OSError)):
        record_script(["side_effect.py"], "notes.txt/run.zarr")
    assert not Path("ran").exists()
    assert Path("notes.txt").read_text() == "keep me"


def test_output_in_a_folder_to_be_made() -> None:
    assert record_script(["train.py"], "runs/today/run.zarr").exit_code == 0
    assert_records_what_the_script_held("runs/today/run.zarr")


STOPPED = {
    "globs": ("nn.Linear(2, 1)", {"include": ["nope"]}, UsageError),
    "complex": ("nn.Linear(2, 1, dtype=torch.complex64)", {}, RecordingError),
}


@pytest.mark.parametrize("case", STOPPED)
def test_what_cannot_be_recorded_stops_the_script(case: str) -> None:
    model, options, kind = STOPPED[case]
    with pytest.raises(kind):
        lines(
            f"model = {model}\noptimizer = sgd(model.parameters())\n"
            "optimizer.step()\nopen('ran', 'w').close()\n",
            **options,
        )
    assert not Path("ran").exists()
    assert not Path("run.zarr").exists()


@pytest.mark.parametrize("start", [None, 0, 2, 4])
def test_resume(start: int | None) -> None:
    record_script(["train.py", "--steps", "7"], "whole.zarr")
    record_script(["train.py", "--steps", "4"], "run.zarr")
    argv = ["train.py", "--steps", "7"]
    if start != 0:
        argv += ["--load", f"checkpoint-{start or 4}.pt"]
    outcome = record_script(argv, "run.zarr", resume=True, start_step=start)
    assert outcome.exit_code == 0
    assert outcome.summary is not None
    assert (outcome.summary.recorded, outcome.summary.steps) == (8, 7)
    whole, parts = History("whole.zarr"), History("run.zarr")
    assert parts.steps.tolist() == whole.steps.tolist() == list(range(8))
    for step in range(8):
        expected = whole.state(step)
        got = parts.state(step)
        assert all(np.array_equal(got[name], expected[name]) for name in expected)


def test_resume_with_the_wrong_checkpoint_stops_the_script() -> None:
    record_script(["train.py", "--steps", "4"], "run.zarr")
    before = tree("run.zarr")
    argv = ["train.py", "--steps", "7", "--load", "checkpoint-3.pt"]
    with refuses(RecordingError, "step 4", "--start-step"):
        record_script(argv, "run.zarr", resume=True)
    assert tree("run.zarr") == before


def cli(*words: str) -> int:
    return main(["record", "-o", "run.zarr", *words])


def messages(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Our own lines on stderr; stdout is the script's alone."""
    shown = capsys.readouterr()
    assert "weightcast" not in shown.out
    return [line for line in shown.err.splitlines() if line.startswith("weightcast: ")]


def test_command_reports_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--schedule", "every:2", "--include", "[02].*", "--include", "1.*"]
    options += ["--exclude", "*.bias", "--preset", "compact", "--memory", "1"]
    assert cli(*options, "--", "train.py", "--steps", "5") == 0
    (line,) = messages(capsys)
    for part in ("3 snapshots", "5 steps", "run.zarr"):
        assert part in line
    assert steps() == [0, 2, 4]
    assert names() == ["0.weight", "1.weight", "2.weight"]
    info = History("run.zarr").info()
    assert info.metadata == {"command": ["train.py", "--steps", "5"]}
    assert (info.schedule, info.preset) == ("every:2", "compact")


def test_quiet_command_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    write("gan.py", PREAMBLE + GAN)
    assert cli("-q", "--", "gan.py") == 0
    assert messages(capsys) == []


def test_command_needs_no_dashes_before_the_script() -> None:
    assert cli("train.py", "--steps", "2") == 0
    assert steps() == [0, 1, 2]


def test_command_names_other_optimizers(capsys: pytest.CaptureFixture[str]) -> None:
    write("gan.py", PREAMBLE + GAN)
    assert cli("--", "gan.py") == 0
    assert any("other optimizers took 6 steps" in line for line in messages(capsys))


def test_command_gives_the_script_s_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    train = PREAMBLE + "model = nn.Linear(2, 1)\ngo(model, sgd(model.parameters()))\n"
    write("exit.py", train + "sys.exit(3)")
    assert cli("--", "exit.py") == 3
    assert len(messages(capsys)) == 1
    write("crash.py", train + "raise ValueError('bad data')")
    assert cli("--overwrite", "--", "crash.py") == 1
    first, second = messages(capsys)
    assert "crash.py stopped early: ValueError: bad data" in first
    assert "3 snapshots" in second


@pytest.mark.parametrize(("end", "code"), [("", 1), ("import sys; sys.exit(5)", 5)])
def test_command_says_where_nothing_was_recorded(
    end: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    write("idle.py", end)
    assert cli("--", "idle.py") == code
    (line,) = messages(capsys)
    assert "idle.py took no torch optimizer step" in line
    assert not Path("run.zarr").exists()


def test_messages_name_the_module(capsys: pytest.CaptureFixture[str]) -> None:
    write("idle_module.py", "raise ValueError('early')")
    assert cli("--", "-m", "idle_module") == 1
    assert len(found := messages(capsys)) == 2
    assert all("idle_module" in line for line in found)


REFUSED = {
    "missing script": (["--", "nowhere.py"], 2),
    "missing module": (["--", "-m", "nosuchmodule"], 2),
    "interpreter": (["--", "python", "train.py"], 2),
    "no script": ([], 2),
    "crash before the first step": (["--", "crash.py"], 1),
    "no step at all": (["--", "idle.py"], 1),
    "globs": (["--include", "nope", "--", "train.py"], 2),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]], ids=["", "overwrite"])
def test_existing_history_survives(
    case: str, overwrite: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Only the first step of a new recording replaces the old one."""
    words, code = REFUSED[case]
    write("crash.py", "raise ValueError")
    write("idle.py", "")
    record_script(["train.py", "--steps", "2"], "run.zarr")
    before = tree("run.zarr")
    assert cli(*overwrite, *words) == (code if overwrite else 2)
    assert tree("run.zarr") == before
    assert messages(capsys)


def test_taken_output_is_refused_before_the_script_runs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write("side_effect.py", "open('ran', 'w').close()")
    record_script(["train.py"], "run.zarr")
    for words in ([], ["--overwrite", "--resume"], ["--start-step", "1"]):
        assert cli(*words, "--", "side_effect.py") == 2
        assert len(messages(capsys)) == 1
    assert not Path("ran").exists()


def test_overwrite_replaces_at_the_first_step() -> None:
    assert cli("--", "train.py", "--steps", "5") == 0
    write("short.py", PREAMBLE + "model = nn.Linear(2, 1)\ngo(model, sgd(model.parameters()))")
    assert cli("--overwrite", "--", "short.py") == 0
    assert names() == ["weight", "bias"]
    assert steps() == [0, 1, 2]


def test_command_resumes(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("--", "train.py", "--steps", "4") == 0
    load = ["--", "train.py", "--steps", "6", "--load", "checkpoint-3.pt"]
    assert cli("--resume", *load) == 1
    assert "--start-step" in messages(capsys)[-1]
    assert cli("--resume", "--start-step", "3", *load) == 0
    assert steps() == [0, 1, 2, 3, 4, 5, 6]
    assert_records_what_the_script_held()


def test_resume_of_something_else_is_refused_before_the_script_runs() -> None:
    Path("folder").mkdir()
    write("side_effect.py", "open('ran', 'w').close()")
    with pytest.raises(FormatError):
        record_script(["side_effect.py"], "folder", resume=True)
    assert main(["record", "-o", "folder", "--resume", "--", "side_effect.py"]) == 1
    assert not Path("ran").exists()


def in_a_process(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "weightcast.cli.main", "record", "-o", "run.zarr", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_process_of_a_script_that_exits() -> None:
    """Exit code and stdout are the script's, stderr has one line more."""
    write("sub/exit.py", TRAIN + "    sys.exit(7)\n")
    Path("sibling_of_train.py").rename("sub/sibling_of_train.py")
    done = in_a_process("--", "sub/exit.py", "--steps", "3")
    assert done.returncode == 7
    first, second = done.stdout.splitlines()
    assert first == "argv ['sub/exit.py', '--steps', '3']"
    assert second.startswith("rng ")
    own, ours = done.stderr.splitlines()
    assert own == "done"
    assert ours.startswith("weightcast: ")
    assert "4 snapshots of 3 steps" in ours
    assert_records_what_the_script_held()


def test_process_of_a_script_that_crashes() -> None:
    body = "model = nn.Linear(2, 1)\ngo(model, sgd(model.parameters()))\nprint('so far')\n1 / 0\n"
    write("crash.py", PREAMBLE + body)
    done = in_a_process("--", "crash.py")
    assert done.returncode == 1
    assert done.stdout == "so far\n"
    shown = done.stderr.splitlines()
    assert shown[0] == "Traceback (most recent call last):"
    assert "ZeroDivisionError: division by zero" in shown
    assert [line for line in shown if line.startswith("weightcast: ")] == shown[-2:]
    assert not re.search(r'File ".*(recorder|cli|runpy)', done.stderr)
    assert steps() == [0, 1, 2]
