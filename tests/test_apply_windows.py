"""Jumps of any context, beside a reference that keeps every snapshot and knows no sums."""

from __future__ import annotations

import functools
import gc
import io
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from store_reference import refuses
from torch import nn

from weightcast.apply import Jumper, jump, jump_checkpoint
from weightcast.cli.main import main
from weightcast.predictor import Forecaster, LastValue, Line, LinearFit, save
from weightcast.recorder import Recorder
from weightcast.store import History, NonFiniteError, ShapeError, UsageError, build_dataset
from weightcast.store.columns import Past, Statistic
from weightcast.store.context import Context
from weightcast.store.horizon import Horizon

MIXED = (1.0, 0.7, 0.0, "t-3", "mean:12/4", "slope:12/4", "spread:12/4", "slope:5/1", "scale")
MIXED += ("size", "fan-in", "dims", "step", "ahead", "ratio")
STEPS = 40
unguarded = functools.partial(Jumper, guard=None)  # as in the paper
Values = list[torch.Tensor]


class Blend(Forecaster):
    """A fixed blend of all columns; it keeps what it saw in its last forecasts."""

    def __init__(self, context: Any, horizon: Any = "+10") -> None:
        self.context, self.horizon = Context.of(context).entries, horizon

    def ready(self) -> Blend:
        if not hasattr(self, "seen"):
            self.fit(np.zeros((1, len(self.context))), np.zeros(1))
            self.seen: list[torch.Tensor] = []
        return self

    @property
    def shares(self) -> list[float]:
        """Near those of a straight line, so that a run with many jumps stays finite."""
        count = len(self.context)
        return [(1.0 if i == 0 else 0.01 * (-1) ** i / (i + 1)) for i in range(count)]

    def _learn(self, X: Any, y: Any, **options: Any) -> None:
        pass

    def _kernel(self, like: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        shares = like.new_tensor(self.shares)[:, None]

        def values(seen: torch.Tensor) -> torch.Tensor:
            self.seen.append(seen.clone())
            return (shares * seen).sum(0)

        return values


# ---- the reference: one weight at a time, in Python's floats


def nearest(step: float) -> int:
    return math.floor(step + 0.5)


def slow_statistic(column: Statistic, t: int, past: Callable[[int], float]) -> float:
    steps = range(t - column.window.steps, t + 1, column.window.stride)
    values = [past(s) for s in steps]
    slope, level = np.polyfit(steps, values, 1)
    if column.kind == "mean":
        return float(np.mean(values))
    if column.kind == "slope":
        return float(slope * column.window.steps)
    left = [v - slope * s - level for s, v in zip(steps, values, strict=True)]
    return math.sqrt(sum(x * x for x in left) / len(left))


def slow_row(
    context: Context, t: int, target: int, tensors: Sequence[torch.Tensor], place: tuple[int, ...]
) -> list[float]:
    """What is seen of one weight; `tensors` has its tensor at every step."""

    def past(step: int) -> float:
        return float(tensors[step][place])

    first = [float(v) for v in tensors[0].flatten()]
    shape = tuple(tensors[0].shape)
    facts = {
        "scale": math.sqrt(sum(v * v for v in first) / len(first)),
        "size": math.prod(shape),
        "fan-in": math.prod(shape[1:]) if len(shape) > 1 else 1,
        "dims": len(shape),
        "step": t,
        "ahead": target - t,
        "ratio": target / t,
    }
    row = []
    for column in context.columns:
        if isinstance(column, Past):
            row.append(past(nearest(column.fraction * t) - column.back))
        elif isinstance(column, Statistic):
            row.append(slow_statistic(column, t, past))
        else:
            row.append(float(facts[column.name]))
    return row


def slow_line(window: int, stride: int, t: int, ahead: int, tensor: Any, place: Any) -> float:
    steps = range(t - window, t + 1, stride)
    values = [float(tensor[s][place]) for s in steps]
    return float(np.polyval(np.polyfit([s - t for s in steps], values, 1), ahead))


def places(tensor: torch.Tensor) -> Iterable[tuple[int, ...]]:
    return np.ndindex(*tensor.shape)


# ---- a task


def make_model(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(2, 3, 2), nn.Flatten(), nn.Tanh(), nn.Linear(12, 3), nn.Linear(3, 2)
        )
    model[3].bias.requires_grad_(False)  # a frozen one in the middle
    return model


def optimizer_of(name: str, model: nn.Module) -> torch.optim.Optimizer:
    if name == "sgd":
        return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return torch.optim.Adam(model.parameters(), lr=0.01)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    for step in range(first, last + 1):
        x = torch.randn(8, 2, 3, 3, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        (model(x) - x[:, 0, 0, :2].sin()).tanh().square().mean().backward()
        optimizer.step()


def copies(parameters: Iterable[torch.Tensor]) -> Values:
    return [p.detach().clone() for p in parameters]


def same_bits(these: Iterable[torch.Tensor], those: Iterable[torch.Tensor]) -> bool:
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(these, those, strict=True))


FORECASTERS: dict[str, Callable[[], Forecaster]] = {
    "line": lambda: Line(window=12, stride=4, horizon="+6"),
    "dense line": lambda: Line(window=8, stride=1, horizon="+6"),
    "last": lambda: Blend("last:5/2"),
    "line through last": lambda: Line(context="last:4/3", horizon="+6"),
    "mixed": lambda: Blend(MIXED),
    "windows alone": lambda: Blend("mean:12/4,slope:6/2"),
}


# ---- live runs are what the reference says


@pytest.mark.parametrize("optimizer_name", ["sgd", "adam"])
@pytest.mark.parametrize("name", FORECASTERS)
def test_a_live_jump_is_the_reference_one_weight_at_a_time(name: str, optimizer_name: str) -> None:
    """With windows that overlap, and that reach back behind another jump."""
    forecaster, points = FORECASTERS[name]().ready(), [15, 18, 35]
    model = make_model()
    optimizer = optimizer_of(optimizer_name, model)
    before: dict[int, Values] = {}
    optimizer.register_step_post_hook(lambda *_: before.update(now=copies(model.parameters())))
    jumper = unguarded(optimizer, forecaster, points)
    history = [copies(model.parameters())]
    for step in range(1, STEPS + 1):
        train(model, optimizer, step, step)
        after = copies(model.parameters())
        if step not in points:
            history.append(after)
            assert same_bits(after, before["now"])
            continue
        history.append(before["now"])  # the jump is made from the weights that it replaces
        target = jumper.plan.targets[step]
        for i, parameter in enumerate(model.parameters()):
            past = [snapshot[i] for snapshot in history]
            if not parameter.requires_grad:
                assert torch.equal(after[i], past[0])
                continue
            for place in places(parameter):
                if isinstance(forecaster, Line):
                    context = forecaster.sees
                    steps, stride = (12, 4) if name == "line" else (8, 1)
                    if not context.windows:
                        steps, stride = 9, 3
                    expected = slow_line(steps, stride, step, 6, past, place)
                else:
                    row = slow_row(forecaster.sees, step, target, past, place)
                    expected = sum(a * b for a, b in zip(forecaster.shares, row, strict=True))
                assert float(after[i][place]) == pytest.approx(expected, rel=2e-5, abs=2e-5)
        history[step] = after  # later jumps see the weights after it
    assert jumper.jumped == points


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([MIXED, ("slope:6/3",), ("t-4", 1.0, "spread:4/2")]),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    st.integers(0, 99),
)
def test_a_pure_jump_is_the_reference(entries: Any, dtype: torch.dtype, seed: int) -> None:
    forecaster = Blend(entries, ("+10", 3)).ready()
    context, t = forecaster.sees, 20
    generator = torch.Generator().manual_seed(seed)
    every = [
        [torch.randn(2, 3, generator=generator).to(dtype).T, torch.randn(1).to(dtype)]
        for _ in range(t + 1)
    ]
    scales = [float(p.double().square().mean().sqrt()) for p in every[0]]
    snapshots = [every[s] for s in context.steps(t).tolist()]
    found = jump(every[t], snapshots, forecaster, step=t, horizon=3, scales=scales)
    for i, forecast in enumerate(found):
        past = [snapshot[i] for snapshot in every]
        assert forecast.dtype == dtype
        for place in places(forecast):
            row = slow_row(context, t, 60, past, place)
            expected = sum(a * b for a, b in zip(forecaster.shares, row, strict=True))
            rel = 1e-2 if dtype == torch.bfloat16 else 1e-5
            assert float(forecast[place]) == pytest.approx(expected, rel=rel, abs=rel)
    # the last parameter's only weight: of half precision too, all is computed in float32
    expected = slow_row(context, t, 60, [snapshot[1] for snapshot in every], (0,))
    assert forecaster.seen[-1][:, 0].tolist() == pytest.approx(expected, rel=1e-5, abs=1e-5)


# ---- one piece of code: what a live jump reads is what a dataset has


@pytest.mark.parametrize("entries", [MIXED, "last:4/3,ahead", "slope:12/4,mean:12/4,t-12"], ids=str)
def test_a_live_jump_reads_the_rows_of_a_dataset_of_the_same_run(
    entries: Any, tmp_path: Path
) -> None:
    t, model = 21, make_model()
    model[3].bias.requires_grad_(True)
    optimizer, forecaster = optimizer_of("adam", model), Blend(entries)
    with Recorder(model, tmp_path / "run.zarr").attach(optimizer):
        jumper = unguarded(optimizer, forecaster, [t])
        train(model, optimizer, 1, STEPS)
    live = torch.cat(forecaster.seen, dim=1).numpy()  # [F, P]; one block a parameter, in order
    assert jumper.jumped == [t]
    dataset = build_dataset(
        tmp_path / "run.zarr",
        tmp_path / "data.zarr",
        samples=live.shape[1],
        context=forecaster.context_,
        horizon="+10",
        tolerance=0,
        t_min=t,
        t_max=t,
        edges=(0, 1),
        shares=(1,),
        scheduler="synchronous",
    )
    assert sorted(dataset.parameter.tolist()) == list(range(live.shape[1]))
    # the parameters are flattened in C order here too: all are contiguous
    for column, found, expected in zip(
        forecaster.sees.columns, np.asarray(dataset.X).T, live[:, dataset.parameter], strict=True
    ):
        if isinstance(column, Statistic) and column.kind == "spread":
            # the square roots of torch, out of MKL, are not always the nearest number
            np.testing.assert_allclose(found, expected, rtol=3e-7)
        else:
            np.testing.assert_array_equal(found, expected, err_msg=str(column))


# ---- offline


@pytest.mark.parametrize("name", FORECASTERS)
def test_an_offline_jump_is_the_live_one(name: str, tmp_path: Path) -> None:
    """But for rounding: a forecast adds with one rounding or two, by its place in a vector."""
    t, model, forecaster = 30, make_model(), FORECASTERS[name]()
    model[3].bias.requires_grad_(True)
    optimizer = optimizer_of("sgd", model)
    with Recorder(model, tmp_path / "run.zarr").attach(optimizer):
        optimizer.register_step_post_hook(  # before the jump
            lambda *_: torch.save(model.state_dict(), tmp_path / "in.pt")
        )
        unguarded(optimizer, forecaster, [t])
        train(model, optimizer, 1, t)
    report = jump_checkpoint(
        History(tmp_path / "run.zarr"),
        t,
        FORECASTERS[name](),
        tmp_path / "in.pt",
        tmp_path / "out.pt",
        exact=True,
    )
    assert report.target == forecaster.horizons[0].target(t)
    assert report.context == sorted(set(forecaster.sees.steps(t).tolist()), reverse=True)
    found, before = (torch.load(tmp_path / n, weights_only=True) for n in ("out.pt", "in.pt"))
    for key, tensor in model.state_dict().items():
        torch.testing.assert_close(found[key], tensor, rtol=1e-6, atol=1e-7)
        assert (found[key] - before[key]).abs().max() > 1e-4


def test_an_offline_jump_takes_a_horizon_and_crosses_chunks(tmp_path: Path) -> None:
    """Weights of one tensor lie in two rows of chunks, a channels_last one among them."""
    model = nn.Sequential(nn.Conv2d(50, 60, 3), nn.Conv2d(60, 10, 1))  # 27,060 and 610 weights
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    start = copies(model.parameters())
    with Recorder(model, tmp_path / "run.zarr").attach(optimizer):
        for _ in range(8):
            for p in model.parameters():
                p.grad = torch.arange(p.numel()).reshape(p.shape) / p.numel()
            optimizer.step()
    torch.save(model.state_dict(), tmp_path / "in.pt")
    assert History(tmp_path / "run.zarr").weights.chunks[0] < 27_060
    report = jump_checkpoint(
        History(tmp_path / "run.zarr"),
        8,
        Line(window=6, stride=2),
        tmp_path / "in.pt",
        tmp_path / "out.pt",
        horizon="+4",
    )
    assert report.target == 12
    found = torch.load(tmp_path / "out.pt", weights_only=True)
    for first, tensor in zip(start, found.values(), strict=True):
        expected = first - 12 * torch.arange(first.numel()).reshape(first.shape) / first.numel()
        torch.testing.assert_close(tensor, expected, rtol=1e-4, atol=1e-5)
        assert tensor.stride() == first.stride()


def test_the_command_takes_a_name_and_a_horizon(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_model()
    optimizer = optimizer_of("sgd", model)
    with Recorder(model, tmp_path / "run.zarr").attach(optimizer):
        train(model, optimizer, 1, 20)
    torch.save(model.state_dict(), tmp_path / "in.pt")
    save(Line(window=12, stride=2).ready(), tmp_path / "line.safetensors")
    where = ["--history", tmp_path / "run.zarr", "--checkpoint", tmp_path / "in.pt"]
    words = ["jump", *where, "--step", 20, "-o", tmp_path / "out.pt", "--forecaster"]
    run = lambda *more: main([*map(str, words), *map(str, more)])  # noqa: E731
    assert run(tmp_path / "line.safetensors", "--horizon", "+5") == 0
    assert "from 7 steps between 8 and 20 to the forecast for step 25" in capsys.readouterr().out
    jump_checkpoint(
        History(tmp_path / "run.zarr"),
        20,
        Line(window=12, stride=2),
        tmp_path / "in.pt",
        tmp_path / "again.pt",
        horizon="+5",
    )
    found, again = (torch.load(tmp_path / n, weights_only=True) for n in ("out.pt", "again.pt"))
    assert same_bits(found.values(), again.values())
    assert run("linear-fit", "--overwrite") == 0
    assert "20, 14, 8, 0 to the forecast for step 40" in capsys.readouterr().out
    for more, words_of_error in (
        (["linear-fit", "--horizon", "+5", "--overwrite"], "is for 2t"),
        (["line", "--overwrite"], "earliest jump point is 800"),
        (["line", "--horizon", "soon", "--overwrite"], "a horizon is a ratio"),
    ):
        assert run(*more) == 2
        error = capsys.readouterr().err
        assert words_of_error in error
        assert error.count("\n") == 1


# ---- memory


def held_by_tensors() -> int:
    """Bytes of all tensors that came after ``gc.freeze``."""
    storages = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
        for t in gc.get_objects()
        if type(t) is torch.Tensor
    }
    return sum(storages.values())


@pytest.mark.parametrize("name", FORECASTERS)
@pytest.mark.parametrize("points", [[20], [15, 18, 35], [16, 17, 18]], ids=str)
def test_memory_is_what_is_really_held(name: str, points: list[int]) -> None:
    weights = [nn.Parameter(torch.zeros(64)), nn.Parameter(torch.zeros(6, 8).bfloat16())]
    optimizer, forecaster = torch.optim.SGD(weights, lr=1.0), FORECASTERS[name]().ready()
    for w in weights:
        w.grad = torch.ones_like(w)
    most = []
    gc.collect()
    gc.freeze()
    try:
        jumper = unguarded(optimizer, forecaster, points)
        for _ in range(max(points)):
            optimizer.step()
            getattr(forecaster, "seen", []).clear()
            most.append(held_by_tensors())
    finally:
        gc.unfreeze()
    assert jumper.memory() == max(most) > 0
    assert most[-1] == 0


def test_a_window_is_kept_as_three_arrays_and_its_first_weights() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1000))], lr=1.0)

    def copies_held(forecaster: Forecaster, points: list[int]) -> float:
        with unguarded(optimizer, forecaster, points) as jumper:
            return jumper.memory() / 4000

    assert copies_held(Line(), [800]) == 3  # no spread
    assert copies_held(Blend("spread:800/25"), [800]) == 4
    assert copies_held(Line(), [800, 1000]) == 2 * 3  # they overlap
    assert copies_held(Line(), [800, 1600]) == 3
    assert copies_held(LastValue((1.0,)), [800]) == 1  # while it jumps, the weights before


# ---- stopping and resuming


def through_a_file(state: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(sorted(FORECASTERS)),
    st.sampled_from(["sgd", "adam"]),
    st.sets(st.integers(15, STEPS), min_size=1, max_size=4),
    st.integers(0, STEPS),
    st.booleans(),
)
def test_a_resumed_run_is_the_uninterrupted_one(
    name: str, optimizer_name: str, points: set[int], stop: int, last: bool
) -> None:
    """Also where the memory format of the model changes between."""
    whole, first, second = make_model(), make_model(), make_model(seed=1)
    if last:
        second.to(memory_format=torch.channels_last)
    optimizers = [optimizer_of(optimizer_name, m) for m in (whole, first, second)]
    jumpers = [unguarded(o, FORECASTERS[name](), points) for o in optimizers]
    train(whole, optimizers[0], 1, STEPS)
    train(first, optimizers[1], 1, stop)
    parts = (first, optimizers[1], jumpers[1])
    states = through_a_file([part.state_dict() for part in parts])
    train(first, optimizers[1], stop + 1, STEPS)  # what goes on must not change what was saved
    for part, state in zip((second, optimizers[2], jumpers[2]), states, strict=True):
        part.load_state_dict(state)
    train(second, optimizers[2], stop + 1, STEPS)
    assert jumpers[2].jumped == sorted(points)
    assert same_bits(first.parameters(), whole.parameters())
    for a, b in zip(second.parameters(), whole.parameters(), strict=True):
        if last:  # convolutions of another memory format sum in another order
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
        else:
            assert torch.equal(a, b)


OLDEST = ("step", "jumped", "snapshots")  # of a state of the first version


def saved(forecaster: Forecaster, points: list[int], step: int) -> Any:
    model = make_model()
    optimizer = optimizer_of("sgd", model)
    jumper = unguarded(optimizer, forecaster, points)
    train(model, optimizer, 1, step)
    return jumper.state_dict()


def fresh(forecaster: Forecaster, points: list[int], model: nn.Module | None = None) -> Jumper:
    return unguarded(optimizer_of("sgd", model or make_model()), forecaster, points)


def test_states_without_what_is_needed_are_refused() -> None:
    line = Line(window=12, stride=4)
    for state, forecaster, words in (
        (saved(line, [20], 10), Line(window=12, stride=2), ["12/2", "step 20"]),
        (saved(line, [20], 10), Blend("spread:12/4"), ["12/4", "step 20"]),
        (saved(line, [30], 10), line, ["12/4", "step 20"]),
        (saved(line, [20], 10), Blend("1,scale"), ["scale"]),
        (saved(line, [20], 10), Blend("1,t-12"), ["[8]"]),
    ):
        jumper = fresh(forecaster, [20])
        with refuses(UsageError, "after step 10", *words):
            jumper.load_state_dict(state)
        assert (jumper.step_count, jumper.state_dict()["jumper"]["sums"]) == (0, [])
    with refuses(ShapeError, "12/4", "step 20", "same model"):
        fresh(line, [20], nn.Linear(2, 2)).load_state_dict(saved(line, [20], 10))


def test_a_state_is_a_copy_and_is_copied() -> None:
    models = [make_model() for _ in range(2)]
    optimizers = [optimizer_of("sgd", m) for m in models]
    jumpers = [unguarded(o, Blend(MIXED), [20]) for o in optimizers]
    train(models[0], optimizers[0], 1, 15)
    train(models[1], optimizers[1], 1, 15)
    state = jumpers[0].state_dict()["jumper"]  # without the optimizer's, which torch does not copy
    train(models[0], optimizers[0], 16, 20)
    jumpers[1].load_state_dict(state)
    arrays = [kept for s in state["sums"] for kept in s["arrays"].values()]
    for v in [v for kept in (*arrays, *state["snapshots"].values()) for v in kept]:
        v.fill_(torch.nan)
    train(models[1], optimizers[1], 16, 20)
    assert same_bits(models[0].parameters(), models[1].parameters())


def test_a_state_of_a_version_without_windows_goes_on() -> None:
    state = {key: saved(LinearFit(), [20], 10)["jumper"][key] for key in OLDEST}
    jumper = fresh(LinearFit(), [20])
    jumper.load_state_dict(state)
    assert jumper.step_count == 10
    assert sorted(jumper.state_dict()["jumper"]["snapshots"]) == [0, 8]


def test_a_state_of_a_version_without_guards_goes_on() -> None:
    """It had no optimizer in it either, and was saved beside one."""
    models = [make_model() for _ in range(2)]
    optimizers = [optimizer_of("adam", m) for m in models]
    jumpers = [unguarded(o, Blend(MIXED), [20, 30]) for o in optimizers]
    train(models[0], optimizers[0], 1, 24)
    own = jumpers[0].state_dict()["jumper"]
    state = through_a_file({key: own[key] for key in (*OLDEST, "sums", "scales")})
    models[1].load_state_dict(through_a_file(models[0].state_dict()))
    optimizers[1].load_state_dict(through_a_file(optimizers[0].state_dict()))
    jumpers[1].load_state_dict(state)
    for model, optimizer in zip(models, optimizers, strict=True):
        train(model, optimizer, 25, STEPS)
    assert jumpers[1].jumped == [20, 30]
    assert same_bits(models[1].parameters(), models[0].parameters())


# ---- parameters


def by_hand(parameters: list[nn.Parameter], steps: int, forecaster: Forecaster, **options: Any):
    """Train by gradients that differ from weight to weight; jump after the last step."""
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    jumper = unguarded(optimizer, forecaster, [steps], **options)
    for _ in range(steps):
        for p in parameters:
            p.grad = (torch.arange(p.numel()).reshape(p.shape) / 16).to(p.dtype)
        optimizer.step()
    return jumper


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float32])
def test_memory_formats_and_dtypes_are_kept(dtype: torch.dtype) -> None:
    shape = (2, 3, 2, 2)
    last = nn.Parameter(torch.zeros(shape, dtype=dtype).to(memory_format=torch.channels_last))
    turned = nn.Parameter(torch.zeros(3, 2, 2, 2, dtype=dtype).transpose(0, 1))
    sparse = nn.Parameter(torch.zeros(*shape, 2, dtype=dtype)[..., 0])
    parameters = [last, turned, sparse]
    before = [(p.stride(), p.data_ptr()) for p in parameters]
    by_hand(parameters, 8, Line(window=4, stride=2), horizon="+8")
    assert [(p.stride(), p.data_ptr()) for p in parameters] == before
    expected = -16 * torch.arange(24).reshape(shape) / 16  # eight steps, and eight more
    for p in parameters:
        assert p.dtype == dtype
        torch.testing.assert_close(p.detach().float(), expected, rtol=1e-2, atol=1e-5)


def test_a_memory_format_may_change_on_the_way() -> None:
    weight = nn.Parameter(torch.zeros(2, 3, 2, 2))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    unguarded(optimizer, Blend("1,t-4,slope:4/1"), [8])
    for step in range(8):
        if step == 6:
            weight.data = weight.data.to(memory_format=torch.channels_last)
        weight.grad = torch.arange(24.0).reshape(weight.shape)
        optimizer.step()
    rise = torch.arange(24.0).reshape(weight.shape)
    shares = Blend("1,t-4,slope:4/1").shares
    expected = shares[0] * -8 * rise + shares[1] * -4 * rise + shares[2] * -4 * rise
    torch.testing.assert_close(weight.detach(), expected)


def test_sums_of_half_precision_are_kept_in_float32() -> None:
    """In bfloat16 a drift of a thousandth a step would be lost."""
    weight = nn.Parameter(torch.ones(4).bfloat16())
    optimizer = torch.optim.SGD([weight], lr=1.0)
    jumper = unguarded(optimizer, Line(window=8, stride=1), [20])
    for _ in range(15):
        weight.grad = torch.zeros(4).bfloat16()
        optimizer.step()
    arrays = jumper.state_dict()["jumper"]["sums"][0]["arrays"]
    assert {v.dtype for kept in arrays.values() for v in kept} == {torch.float32}


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_window_that_was_not_finite_leaves_all_weights_alone(value: float) -> None:
    """Step 14 is in the window of step 20's jump; step 30 jumps all the same."""
    weights = [nn.Parameter(torch.zeros(3)) for _ in range(2)]
    optimizer = torch.optim.SGD(weights, lr=1.0)
    jumper = unguarded(optimizer, Line(window=8, stride=2), [20, 30])
    for step in range(1, 31):
        for w in weights:
            w.grad = torch.ones(3)
        if step == 14:
            weights[1].data[1] = value
        if step == 15:
            weights[1].data[1] = -14.0
        if step == 20:
            with refuses(NonFiniteError, "parameter 1", "no weight was changed"):
                optimizer.step()
            assert [w.tolist() for w in weights] == [[-20.0] * 3] * 2
        else:
            optimizer.step()
    assert jumper.jumped == [30]
    assert weights[1].tolist() == pytest.approx([-530.0] * 3, rel=1e-4)


def test_a_skipped_step_is_in_no_window() -> None:
    """AMP's scaler calls a fused optimizer all the same, and nothing changes."""
    weight = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight], lr=1.0, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    jumper = unguarded(optimizer, Line(window=3, stride=1), [4], horizon="+6")
    for slope in (1.0, math.inf, 1.0, math.inf, 1.0, 1.0):
        optimizer.zero_grad()
        scaler.scale((slope * weight).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    assert jumper.jumped == [4]
    assert weight.tolist() == pytest.approx([-10.0, -10.0], rel=1e-6)


# ---- jump points and horizons


@pytest.mark.parametrize(
    ("entries", "point", "first"),
    [
        ("slope:800/25", 799, 800),
        ("1,t-25", 10, 25),
        ("1,0.7,0.4,0", 2, 3),
        ("1,0.9,0.8", 5, 8),
        ("1,0.999,slope:20/10", 30, 501),
        ("1,0.99999999", 30, 50_000_000),
        ("slope:90000/2500", 5, 90_000),
        ("step,ahead", 0, 1),
    ],
)
def test_a_jump_point_too_early_is_refused_with_the_earliest(
    entries: str, point: int, first: int
) -> None:
    forecaster = Blend(entries)
    with refuses(UsageError, f"step {point} is too early", entries):
        fresh(forecaster, [first + 1000, point])
    with pytest.raises(UsageError) as caught:
        fresh(forecaster, [point])
    said = int(str(caught.value).rsplit(" ", 1)[1])
    fresh(forecaster, [said])
    assert said == first if first < 100_000 else said <= 2 * first + 1
    if 0 < said - 1 > point and first < 100_000:
        with pytest.raises(UsageError):
            fresh(forecaster, [said - 1])


class TestHorizons:
    def test_the_forecasters_own(self) -> None:
        assert fresh(LinearFit(horizon=1.5), [20]).plan.reach.horizon == Horizon(1.5)
        assert fresh(LinearFit(horizon=1.5), [20]).plan.targets == {20: 30}

    def test_several_need_a_choice(self) -> None:
        forecaster = Blend("1,ahead", ("+10", 2))
        with refuses(UsageError, "t+10 and 2t", "horizon="):
            fresh(forecaster, [20])
        jumper = unguarded(optimizer_of("sgd", make_model()), forecaster, [20], horizon=2)
        assert jumper.plan.targets == {20: 40}

    @pytest.mark.parametrize("fact", ["ahead", "ratio"])
    def test_one_that_is_told_takes_any(self, fact: str) -> None:
        forecaster, weight = Blend(f"1,{fact}"), nn.Parameter(torch.zeros(2))
        by_hand([weight], 20, forecaster, horizon="+30")
        told = {"ahead": 30.0, "ratio": 2.5}[fact]
        assert forecaster.seen[-1][1].tolist() == [told] * 2

    def test_one_that_is_not_told_is_for_its_own(self) -> None:
        optimizer = optimizer_of("sgd", make_model())
        with refuses(UsageError, "LinearFit", "2t", "t+500", "ahead or ratio"):
            unguarded(optimizer, LinearFit(), [20], horizon="+500")
        assert unguarded(optimizer, LinearFit(), [20], horizon=2).plan.targets == {20: 40}
        with refuses(UsageError, "horizon", "'soon'"):
            unguarded(optimizer, LinearFit(), [20], horizon="soon")


def test_a_pure_jump_needs_the_facts_of_its_context() -> None:
    w = [torch.zeros(2)]
    with refuses(UsageError, "step=t"):
        jump(w, [w], Blend("1,ahead"))
    with refuses(UsageError, "scales", "1 parameters"):
        jump(w, [w], Blend("1,scale"), scales=[1.0, 2.0])
    with refuses(ShapeError, "4 snapshots", "got 1"):
        jump(w, [w], Blend("slope:3/1"))
