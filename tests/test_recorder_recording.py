"""The recorder: what it stores is, bit for bit, what the model held after each optimizer step."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from store_reference import refuses
from support import eventually
from torch import nn

from weightcast.recorder import Every, Recorder, parse_schedule
from weightcast.store import History, OutputExistsError, RecordingError, UsageError

State = dict[str, torch.Tensor]
BATCH = 4


def state_of(model: nn.Module) -> State:
    """A clone of everything that ``state_dict`` keeps."""
    return {name: t.detach().clone() for name, t in model.state_dict().items()}


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def as_state(history: History, step: int) -> State:
    """One row, cast back to the model's own dtypes."""
    dtypes = {p.name: p.dtype for table in (history.parameters, history.buffers) for p in table}
    return {
        name: torch.tensor(values).to(getattr(torch, dtypes[name]))
        for name, values in history.state(step).items()
    }


def assert_same_state(got: State, expected: State) -> None:
    assert sorted(got) == sorted(expected)
    for name, tensor in expected.items():
        assert (got[name].shape, got[name].dtype) == (tensor.shape, tensor.dtype), name
        assert bits(got[name]) == bits(tensor), name


def assert_records(path: Path, states: list[State], steps: list[int] | None = None) -> None:
    """The history has these steps, by default all, and each row is the clone taken there."""
    history = History(path)
    assert history.steps.tolist() == (list(range(len(states))) if steps is None else steps)
    for step in history.steps.tolist():
        assert_same_state(as_state(history, step), states[step])


class Mixed(nn.Module):
    """Parameters and buffers of many dtypes, scalars and an empty one among them."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
        self.gains = nn.ParameterList(nn.Parameter(torch.rand((), dtype=d)) for d in self.dtypes)
        self.rows = nn.ParameterList(nn.Parameter(torch.rand(2, dtype=d)) for d in self.dtypes)
        self.empty = nn.Parameter(torch.empty(0, 3))
        self.register_buffer("seen", torch.tensor(2**53 - 1000))
        self.register_buffer("flag", torch.tensor([True, False]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += len(x)
        self.flag.logical_not_()
        return sum((g * r).double() for g, r in zip(self.gains, self.rows, strict=True)) * x


class Tied(nn.Sequential):
    """Two layers that share one weight; the second's name for it is in no table."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2))
        self[2].weight = self[0].weight


def frozen() -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    model[0].requires_grad_(False)
    return model


def transposed() -> nn.Module:
    model = nn.Linear(2, 3)
    model.weight = nn.Parameter(torch.rand(2, 3).T)
    assert not model.weight.is_contiguous()
    return model


def channels_last() -> nn.Module:
    layers = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 2)
    model = nn.Sequential(nn.Unflatten(1, (2, 4, 4)), *layers, nn.Flatten())
    model = model.to(memory_format=torch.channels_last)
    assert not model[1].weight.is_contiguous()
    return model


def linear(dtype: torch.dtype = torch.float32) -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).to(dtype)


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cell(x)[0]


MODELS: dict[str, tuple[Callable[[], nn.Module], int]] = {  # with the size of the input
    "float32": (linear, 2),
    "float64": (lambda: linear(torch.float64), 2),
    "bfloat16": (lambda: linear(torch.bfloat16), 2),
    "float16": (lambda: linear(torch.float16), 2),
    "mixed": (Mixed, 2),
    "BatchNorm": (normed, 2),
    "BatchNorm bfloat16": (lambda: normed().bfloat16(), 2),
    "transposed": (transposed, 2),
    "channels_last": (channels_last, 32),
    "tied": (Tied, 2),
    "frozen": (frozen, 2),
    "LSTM": (Recurrent, 2),
}
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "Adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01, eps=1e-4),  # not 0 in float16
}


def batch(size: int, step: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.rand(BATCH, size, generator=torch.Generator().manual_seed(step)).to(dtype)


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: int,
    *,
    size: int = 2,
    recorder: Recorder | None = None,
) -> list[State]:
    """The reference: train, and clone the whole state before the first and after every step.

    A recorder that is given is called after each step. One that is attached first sees the model
    when the optimizer is about to step: its buffers have seen the first batch by then.
    """
    dtype = next(model.parameters()).dtype
    states = [state_of(model)]
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        loss = model(batch(size, step, dtype)).float().square().mean()
        loss.backward()
        if step == 1 and recorder is None:
            states = [state_of(model)]
        optimizer.step()
        states.append(state_of(model))
        if recorder is not None:
            recorder()
    return states


def without_second_names(model: nn.Module, states: list[State]) -> list[State]:
    """States by the first name of each tensor only: what a history holds of tied weights."""
    first = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    return [{name: t for name, t in state.items() if name in first} for state in states]


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
@pytest.mark.parametrize("attached", [True, False], ids=["attach", "call"])
@pytest.mark.parametrize("name", MODELS)
def test_rows_are_the_clones(
    tmp_path: Path, name: str, attached: bool, optimizer_name: str
) -> None:
    torch.manual_seed(0)
    make, size = MODELS[name]
    model = make()
    optimizer = OPTIMIZERS[optimizer_name](model.parameters())
    with Recorder(model, tmp_path / "run.zarr") as recorder:
        if attached:
            recorder.attach(optimizer)
        states = train(model, optimizer, 5, size=size, recorder=None if attached else recorder)
    assert recorder.step == 5
    assert any(bits(states[0][k]) != bits(states[5][k]) for k in states[0])
    assert_records(tmp_path / "run.zarr", without_second_names(model, states))


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_any_schedule_and_memory(data: st.DataObject) -> None:
    """Which steps are kept, and how many wait in memory, changes no value."""
    texts = ["every:1", "every:3", "log:4", "dense:4", "steps:2,9", "jump:10+steps:7"]
    text = data.draw(st.sampled_from(texts))
    memory = data.draw(st.sampled_from([640, 1500, 1 << 20, None]))  # bytes; a slot takes 320
    steps, attached = data.draw(st.integers(0, 12)), data.draw(st.booleans())
    torch.manual_seed(0)
    model = normed()
    optimizer = OPTIMIZERS["SGD"](model.parameters())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.zarr"
        with Recorder(model, path, text, memory=memory) as recorder:
            if attached:
                recorder.attach(optimizer)
            states = train(model, optimizer, steps, recorder=None if attached else recorder)
        wanted = [step for step in range(steps + 1) if step in parse_schedule(text)]
        assert_records(path, states, wanted)
        assert History(path).header.schedule == text


def test_memory_bounds_the_rows_that_wait(tmp_path: Path) -> None:
    """With room for two rows, all others are on disk."""
    with Recorder(linear(), tmp_path / "run.zarr", memory=400) as recorder:
        for step in range(1, 5):
            recorder()
            assert len(History(tmp_path / "run.zarr")) >= step - 1
    assert History(tmp_path / "run.zarr").info().chunks[1] == 1


def test_memory_for_less_than_two_rows_is_refused(tmp_path: Path) -> None:
    with refuses(UsageError, "two snapshots", "384 bytes", "100"):
        Recorder(linear(), tmp_path / "run.zarr", memory=100)
    assert not list(tmp_path.iterdir())


def test_whole_blocks_are_on_disk_while_it_records(tmp_path: Path) -> None:
    with Recorder(linear(), tmp_path / "run.zarr", memory=40_000) as recorder:
        for _ in range(250):
            recorder()
        assert eventually(lambda: len(History(tmp_path / "run.zarr")) >= 192)  # blocks of 64
    assert len(History(tmp_path / "run.zarr")) == 251


@pytest.mark.parametrize("memory", [1 << 20, 400], ids=["block", "row by row"])
def test_step_0_is_what_training_starts_from(tmp_path: Path, memory: int) -> None:
    """Weights may be loaded or initialised after the recorder was made."""
    model = linear()
    optimizer = OPTIMIZERS["SGD"](model.parameters())
    with Recorder(model, tmp_path / "run.zarr", memory=memory).attach(optimizer):
        for p in model.parameters():
            nn.init.uniform_(p)
        states = train(model, optimizer, 3)
    assert_records(tmp_path / "run.zarr", states)


def test_parameters_that_are_replaced_before_the_first_step(tmp_path: Path) -> None:
    """``assign=True`` puts other tensors into the model: the optimizer updates those."""
    model, checkpoint = linear(), linear().state_dict()
    recorder = Recorder(model, tmp_path / "run.zarr")
    model.load_state_dict(checkpoint, assign=True)
    optimizer = OPTIMIZERS["SGD"](model.parameters())
    with recorder.attach(optimizer):
        states = train(model, optimizer, 3)
    assert_records(tmp_path / "run.zarr", states)


class Counting(nn.Module):
    """Assigns its buffer anew in every forward pass, as averages and schedules often do."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)
        self.register_buffer("mean", torch.zeros(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.mean = 0.9 * self.mean + 0.1 * x.mean(dim=0)
        return self.fc(x - self.mean)


def test_buffers_that_the_model_assigns_anew(tmp_path: Path) -> None:
    model = Counting()
    optimizer = OPTIMIZERS["SGD"](model.parameters())
    with Recorder(model, tmp_path / "run.zarr").attach(optimizer):
        states = train(model, optimizer, 3)
    assert not torch.equal(states[0]["mean"], states[3]["mean"])
    assert_records(tmp_path / "run.zarr", states)


def test_gradient_accumulation_counts_optimizer_steps(tmp_path: Path) -> None:
    model = linear()
    optimizer = OPTIMIZERS["Adam"](model.parameters())
    states = [state_of(model)]
    with Recorder(model, tmp_path / "run.zarr").attach(optimizer) as recorder:
        for backward in range(1, 10):
            model(batch(2, backward, torch.float32)).square().mean().backward()
            if backward % 3 == 0:
                optimizer.step()
                optimizer.zero_grad()
                states.append(state_of(model))
    assert recorder.step == 3
    assert_records(tmp_path / "run.zarr", states)


def test_closures_count_once_a_step(tmp_path: Path) -> None:
    """LBFGS evaluates the loss many times within one step."""
    model = linear()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=4)
    calls, states = [], [state_of(model)]

    def closure() -> torch.Tensor:
        calls.append(1)
        optimizer.zero_grad()
        loss = model(batch(2, 0, torch.float32)).square().mean()
        loss.backward()
        return loss

    with Recorder(model, tmp_path / "run.zarr").attach(optimizer):
        for _ in range(3):
            optimizer.step(closure)
            states.append(state_of(model))
    assert len(calls) > 3
    assert_records(tmp_path / "run.zarr", states)


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
def test_steps_that_amp_skips_are_not_counted(tmp_path: Path, fused: bool) -> None:
    """GradScaler does not call a plain optimizer at all; a fused one skips the step inside."""
    model = linear()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    states = [state_of(model)]
    with Recorder(model, tmp_path / "run.zarr").attach(optimizer) as recorder:
        for step in range(5):
            overflow = step in (0, 2)
            optimizer.zero_grad()
            loss = model(batch(2, step, torch.float32)).square().mean()
            scaler.scale(loss * float("inf") if overflow else loss).backward()
            scaler.step(optimizer)
            scaler.update()
            if overflow:
                assert_same_state(state_of(model), states[-1])
            else:
                states.append(state_of(model))
    assert recorder.step == 3
    assert_records(tmp_path / "run.zarr", states)


class Scaled(torch.optim.SGD):
    """An optimizer built on another, whose step is hooked as well as its own."""

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        for group in self.param_groups:
            for p in group["params"]:
                p.grad.mul_(0.5)
        return super().step(closure)


def test_optimizer_built_on_another_counts_once_a_step(tmp_path: Path) -> None:
    model = linear()
    torch.optim.SGD(model.parameters())  # torch hooks the base class when one is made
    optimizer = Scaled(model.parameters(), lr=0.1)
    with Recorder(model, tmp_path / "run.zarr").attach(optimizer):
        states = train(model, optimizer, 3)
    assert_records(tmp_path / "run.zarr", states)


def test_steps_of_every_attached_optimizer_count(tmp_path: Path) -> None:
    model = linear()
    first, second = (OPTIMIZERS["SGD"](layer.parameters()) for layer in (model[0], model[2]))
    with Recorder(model, tmp_path / "run.zarr").attach(first).attach(second) as recorder:
        before = train(model, first, 2)
        after = train(model, second, 2)
    assert recorder.step == 4
    assert_records(tmp_path / "run.zarr", [*before, *after[1:]])


def test_wrapped_model_has_the_names_of_the_plain_one(tmp_path: Path) -> None:
    plain = normed()
    model = nn.DataParallel(plain)
    optimizer = OPTIMIZERS["SGD"](model.parameters())
    with Recorder(model, tmp_path / "run.zarr").attach(optimizer):
        train(model, optimizer, 2)
    plain.load_state_dict(as_state(History(tmp_path / "run.zarr"), 2))
    assert [p.name for p in History(tmp_path / "run.zarr").parameters] == [
        name for name, _ in plain.named_parameters()
    ]


def test_globs_choose_what_is_stored(tmp_path: Path) -> None:
    model = normed()
    optimizer = OPTIMIZERS["SGD"](model.parameters())
    globs = {"include": ["1.*", "2.*"], "exclude": ["*.bias", "*running_var"]}
    kept = ["1.weight", "2.weight", "1.running_mean", "1.num_batches_tracked"]
    with Recorder(model, tmp_path / "run.zarr", **globs).attach(optimizer):
        states = train(model, optimizer, 3)
    assert_records(tmp_path / "run.zarr", [{k: state[k] for k in kept} for state in states])


@pytest.mark.parametrize("name", MODELS)
def test_every_row_loads_and_gives_the_same_outputs(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    make, size = MODELS[name]
    model, fresh = make(), make()
    dtype = next(model.parameters()).dtype
    x, outputs = batch(size, 99, dtype), []

    def evaluate(model: nn.Module) -> torch.Tensor:
        model.eval()
        with torch.no_grad():
            y = model(x)
        model.train()
        return y

    optimizer = OPTIMIZERS["Adam"](model.parameters())
    with Recorder(model, tmp_path / "run.zarr") as recorder:
        for step in range(4):
            if step:
                train(model, optimizer, 1, size=size, recorder=recorder)
            outputs.append(evaluate(model) if name != "mixed" else torch.zeros(1))
    history = History(tmp_path / "run.zarr")
    for step in (3, 0, 2, 1):
        state = {k: torch.tensor(v) for k, v in history.state(step).items()}
        fresh.load_state_dict(state, strict=name != "tied")
        if name != "mixed":  # its forward pass changes its buffers
            assert bits(evaluate(fresh)) == bits(outputs[step])
        assert_same_state(state_of(fresh) | as_state(history, step), state_of(fresh))


def test_recording_changes_nothing_in_the_run(tmp_path: Path) -> None:
    """Weights and random numbers are those of the run without a recorder."""

    def run(recorded: bool) -> tuple[list[State], torch.Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 3), nn.Dropout(), nn.Linear(3, 1))
        optimizer = OPTIMIZERS["Adam"](model.parameters())
        path = tmp_path / "run.zarr"
        with Recorder(model, path).attach(optimizer) if recorded else nullcontext():
            return train(model, optimizer, 10), torch.get_rng_state()

    (plain, plain_rng), (recorded, recorded_rng) = run(False), run(True)
    assert_same_state(recorded[-1], plain[-1])
    assert torch.equal(recorded_rng, plain_rng)
    assert_records(tmp_path / "run.zarr", plain)


def test_default_device_of_the_script_is_not_the_recorder_s(tmp_path: Path) -> None:
    """Scripts may make tensors on an accelerator by default; "meta" stands for one."""
    model = linear()
    with torch.device("meta"), Recorder(model, tmp_path / "run.zarr") as recorder:
        recorder()
    assert_records(tmp_path / "run.zarr", [state_of(model)] * 2)


def test_exception_in_the_loop_keeps_what_was_recorded(tmp_path: Path) -> None:
    model = linear()
    optimizer = OPTIMIZERS["SGD"](model.parameters())
    states = []

    def run() -> None:
        with Recorder(model, tmp_path / "run.zarr").attach(optimizer) as recorder:
            states.extend(train(model, optimizer, 3))
            recorder.log(loss=2.0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run()
    assert_records(tmp_path / "run.zarr", states)
    assert History(tmp_path / "run.zarr").metric("loss")[1].tolist() == [2.0]


def test_step_that_raises_is_not_counted(tmp_path: Path) -> None:
    model = linear()
    optimizer = OPTIMIZERS["SGD"](model.parameters())

    def failing() -> float:
        raise ZeroDivisionError

    with Recorder(model, tmp_path / "run.zarr").attach(optimizer):
        states = train(model, optimizer, 1)
        with pytest.raises(ZeroDivisionError):
            optimizer.step(failing)
        states += train(model, optimizer, 1)[1:]
    assert_records(tmp_path / "run.zarr", states)


def test_metrics_come_back(tmp_path: Path) -> None:
    with Recorder(linear(), tmp_path / "run.zarr", "every:2") as recorder:
        for step in range(1, 151):
            recorder()
            recorder.log(loss=1 / step)
            if step % 50 == 0:
                recorder.log(**{"val.accuracy": np.float32(0.5), "n": torch.tensor(step)})
    history = History(tmp_path / "run.zarr")
    assert history.metrics == ["loss", "n", "val.accuracy"]
    steps, losses = history.metric("loss")
    assert steps.tolist() == list(range(1, 151))
    assert losses.tolist() == [1 / step for step in range(1, 151)]
    assert [values.tolist() for values in history.metric("n")] == [[50, 100, 150]] * 2
    assert history.metric("val.accuracy")[1].tolist() == [0.5] * 3


def test_metrics_of_bad_names_are_refused_at_once(tmp_path: Path) -> None:
    with Recorder(linear(), tmp_path / "run.zarr") as recorder:
        with refuses(UsageError, "../loss"):
            recorder.log(**{"../loss": 1.0})
        recorder.log(loss=3.0)
    assert History(tmp_path / "run.zarr").metrics == ["loss"]


def test_metric_that_is_no_number_costs_no_other(tmp_path: Path) -> None:
    with Recorder(linear(), tmp_path / "run.zarr") as recorder:
        recorder.log(accuracy=0.5)
        with pytest.raises((TypeError, ValueError)):
            recorder.log(loss="unknown")
    history = History(tmp_path / "run.zarr")
    assert history.metric("accuracy")[1].tolist() == [0.5]
    assert len(history) == 1


def test_loss_that_still_has_its_graph_can_be_logged(tmp_path: Path) -> None:
    model = linear()
    loss = model(batch(2, 0, torch.float32)).square().mean()
    with Recorder(model, tmp_path / "run.zarr") as recorder:
        recorder.log(loss=loss)
    assert History(tmp_path / "run.zarr").metric("loss")[1].tolist() == [loss.item()]


def test_summary_gives_the_numbers(tmp_path: Path) -> None:
    model = normed()
    weights = sum(p.numel() for p in model.parameters())
    with Recorder(model, tmp_path / "run.zarr", "every:3") as recorder:
        for _ in range(10):
            recorder()
    summary = recorder.summary()
    assert (summary.recorded, summary.steps) == (4, 10)
    assert summary.path == str(tmp_path / "run.zarr")
    buffers = sum(b.numel() for b in model.buffers())
    assert summary.raw_bytes == 4 * (weights * 4 + buffers * 8)
    files = [f for f in (tmp_path / "run.zarr").rglob("*") if f.is_file()]
    assert summary.stored_bytes == sum(f.stat().st_size for f in files)
    for part in ("4 snapshots", "10 steps", str(tmp_path / "run.zarr")):
        assert part in str(summary)


def test_seconds_of_the_summary_include_the_last_block(tmp_path: Path) -> None:
    """Of a short run that is nearly all the time there is."""
    recorder = Recorder(linear(), tmp_path / "run.zarr")
    before = recorder.summary().seconds
    recorder.close()
    assert recorder.summary().seconds > before


def test_times_rise_from_the_beginning(tmp_path: Path) -> None:
    with Recorder(linear(), tmp_path / "run.zarr") as recorder:
        for _ in range(5):
            recorder()
    times = History(tmp_path / "run.zarr").times
    assert times[0] >= 0
    assert (np.diff(times) > 0).all()


@pytest.mark.parametrize(
    "use",
    [
        lambda recorder, _: recorder(),
        lambda recorder, _: recorder.log(loss=1.0),
        lambda recorder, optimizer: recorder.attach(optimizer),
    ],
    ids=["call", "log", "attach"],
)
@pytest.mark.parametrize("schedule", ["every:1", "every:10"])
def test_closed_recorder_refuses(
    tmp_path: Path, schedule: str, use: Callable[[Recorder, object], object]
) -> None:
    """Whether or not the schedule has the step: what is not stored is not silently dropped."""
    model = linear()
    recorder = Recorder(model, tmp_path / "run.zarr", schedule)
    recorder.close()
    recorder.close()
    with refuses(RecordingError, "closed"):
        use(recorder, OPTIMIZERS["SGD"](model.parameters()))
    assert len(History(tmp_path / "run.zarr")) == 1


def test_optimizer_goes_on_after_the_recorder_closed(tmp_path: Path) -> None:
    model = linear()
    optimizer = OPTIMIZERS["SGD"](model.parameters())
    with Recorder(model, tmp_path / "run.zarr").attach(optimizer):
        states = train(model, optimizer, 2)
    train(model, optimizer, 2)
    assert_records(tmp_path / "run.zarr", states)


def test_relative_path_stays_where_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training code that changes its folder, as Hydra does, takes no rows elsewhere."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with Recorder(linear(), "run.zarr", memory=400) as recorder:
        monkeypatch.chdir(tmp_path / "elsewhere")
        recorder()
    assert recorder.summary().recorded == 2
    assert len(History(tmp_path / "run.zarr")) == 2
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("preset", ["fast", "compact"])
def test_header_says_how_it_was_recorded(tmp_path: Path, preset: str) -> None:
    recorder = Recorder(
        linear(), tmp_path / "run.zarr", Every(7), preset=preset, metadata={"lr": 0.1}
    )
    recorder.close()
    info = History(tmp_path / "run.zarr").info()
    assert (info.schedule, info.preset, info.metadata) == ("every:7", preset, {"lr": 0.1})
    assert info.versions["torch"] == torch.__version__


def tree(folder: Path) -> dict[str, bytes]:
    return {str(f): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


BAD = {
    "taken": (OutputExistsError, {}, ("exists", "overwrite")),
    "no parameters left": (UsageError, {"overwrite": True, "include": ["x"]}, ("globs",)),
    "preset": (UsageError, {"overwrite": True, "preset": "zip"}, ("zip", "fast", "compact")),
    "schedule": (UsageError, {"overwrite": True, "schedule": "daily"}, ("daily", "every:N")),
    "metadata": (UsageError, {"overwrite": True, "metadata": {"data": Path()}}, ("metadata",)),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_leave_the_old_history_alone(tmp_path: Path, case: str) -> None:
    kind, arguments, texts = BAD[case]
    Recorder(linear(), tmp_path / "run.zarr").close()
    before = tree(tmp_path)
    with refuses(kind, *texts):
        Recorder(linear(), tmp_path / "run.zarr", **arguments)
    assert tree(tmp_path) == before


def test_overwrite_replaces_the_history(tmp_path: Path) -> None:
    Recorder(normed(), tmp_path / "run.zarr").close()
    model = linear()
    Recorder(model, tmp_path / "run.zarr", overwrite=True).close()
    assert_records(tmp_path / "run.zarr", [state_of(model)])


def test_complex_parameters_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    model = linear()
    model.phase = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    with refuses(RecordingError, "'phase'", "complex64", "exclude"):
        Recorder(model, tmp_path / "run.zarr")
    assert not list(tmp_path.iterdir())
    with Recorder(model, tmp_path / "run.zarr", exclude=["phase"]):
        pass
    assert "phase" not in History(tmp_path / "run.zarr").parameters
