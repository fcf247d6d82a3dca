"""Jumps in memory: the pure function, and live runs beside a loop that keeps every snapshot."""

from __future__ import annotations

import functools
import io
import itertools
import math
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from store_reference import refuses
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from weightcast.apply import Jumper, jump
from weightcast.predictor import Forecaster, Introspection, LastValue, LinearFit
from weightcast.store import NonFiniteError, ShapeError, UsageError, WeightcastError

PAPER = (1.0, 0.7, 0.4, 0.0)
HALVES = (1.0, 0.5, 0.0)
CONTEXTS = [PAPER, HALVES, (1.0, 0.5), (1.0, 0.9, 0.8), (1.0,)]
STEPS = 20
unguarded = functools.partial(Jumper, guard=None)  # as in the paper
Values = list[torch.Tensor]


def nearest(step: float) -> int:
    return math.floor(step + 0.5)


def same_bits(these: Sequence[torch.Tensor], those: Sequence[torch.Tensor]) -> bool:
    return len(these) == len(those) and all(
        a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(these, those, strict=True)
    )


def copies(parameters: Iterable[torch.Tensor]) -> Values:
    return [p.detach().clone() for p in parameters]


# ---- jump, beside one weight at a time


def slow_line(past: list[float], context: tuple[float, ...], horizon: float) -> float:
    if len(past) == 1:
        return past[0]
    return float(np.polyval(np.polyfit(context, past, 1), horizon))


LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "contiguous": lambda t: t,
    "every other": lambda t: torch.stack([t, t], dim=-1)[..., 0],
    "transposed": lambda t: t.transpose(0, -1).contiguous().transpose(0, -1) if t.ndim else t,
    "channels last": lambda t: t.to(memory_format=torch.channels_last) if t.ndim == 4 else t,
}
SHAPES = st.lists(st.integers(0, 3), max_size=4).map(tuple)
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 2e-2}


@st.composite
def pasts(draw: st.DrawFn, width: int) -> list[Values]:
    """Snapshots of a few parameters of any shape, dtype and memory layout, the latest first."""
    count = draw(st.integers(0, 3))
    dtypes = [draw(st.sampled_from(list(TOLERANCE))) for _ in range(count)]
    shapes = [draw(SHAPES) for _ in range(count)]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    return [
        [
            LAYOUTS[draw(st.sampled_from(list(LAYOUTS)))](
                torch.randn(shape, generator=generator).to(dtype)
            )
            for shape, dtype in zip(shapes, dtypes, strict=True)
        ]
        for _ in range(width)
    ]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(CONTEXTS), st.sampled_from([1.5, 2.0]), st.data())
def test_a_jump_is_one_weight_at_a_time(
    context: tuple[float, ...], horizon: float, data: st.DataObject
) -> None:
    snapshots = data.draw(pasts(len(context)))
    parameters = snapshots[0]
    kept = [copies(snapshot) for snapshot in snapshots]
    forecasts = jump(parameters, snapshots, LinearFit(context, horizon))
    assert all(same_bits(a, b) for a, b in zip(kept, snapshots, strict=True))
    assert len(forecasts) == len(parameters)
    for i, (parameter, forecast) in enumerate(zip(parameters, forecasts, strict=True)):
        assert (forecast.shape, forecast.dtype) == (parameter.shape, parameter.dtype)
        for place in itertools.product(*(range(n) for n in parameter.shape)):
            past = [float(snapshot[i][place]) for snapshot in snapshots]
            tolerance = TOLERANCE[parameter.dtype]
            assert float(forecast[place]) == pytest.approx(
                slow_line(past, context, horizon), rel=tolerance, abs=4 * tolerance
            )


@settings(max_examples=30, deadline=None)
@given(pasts(len(PAPER)))
def test_a_jump_to_the_last_value_changes_nothing(snapshots: list[Values]) -> None:
    assert same_bits(jump(snapshots[0], snapshots, LastValue()), snapshots[0])


def test_a_jump_takes_the_parameters_dtype_and_not_the_snapshots() -> None:
    parameter = torch.zeros(2, dtype=torch.float64)
    past = [torch.tensor([1 + 2**-40, 1.0], dtype=torch.float64), torch.zeros(2).double()]
    (forecast,) = jump([parameter], [[p] for p in past], LinearFit((1.0, 0.0)))
    assert forecast.tolist() == pytest.approx([2 + 2**-39, 2.0], rel=1e-14)
    (forecast,) = jump([parameter], [[p.float()] for p in past], LinearFit((1.0, 0.5)))
    assert forecast.dtype == torch.float64


def test_jumps_that_do_not_fit_are_refused() -> None:
    w = torch.zeros(2, 3)
    with refuses(ShapeError, "4 snapshots", "got 3"):
        jump([w], [[w]] * 3, LinearFit())
    with refuses(ShapeError, "2 tensors"):
        jump([w, w], [[w, w], [w], [w, w], [w, w]], LinearFit())
    with refuses(ShapeError, "parameter 0", "(2, 3)", "(3, 2)"):
        jump([w], [[w], [w.T], [w], [w]], LinearFit())


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_jump_that_is_not_finite_is_refused(value: float) -> None:
    good, bad = torch.zeros(3), torch.tensor([0.0, value, 0.0])
    with refuses(NonFiniteError, "parameter 1", "(3,)"):
        jump([good, good], [[good, good], [good, bad], [good, good], [good, good]], LinearFit())


def test_a_forecast_too_large_for_its_dtype_is_refused() -> None:
    big = torch.full((1,), 60_000.0).half()
    with refuses(NonFiniteError, "parameter 0"):
        jump([big], [[big], [torch.zeros(1).half()]], LinearFit((1.0, 0.0)))


# ---- live runs: a task, and a loop that keeps everything


def make_model(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Linear(4, 2))
    model[2].bias.requires_grad_(False)  # a frozen one in the middle
    return model


OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "sgd": lambda m: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9),
    "adam": lambda m: torch.optim.Adam(m.parameters(), lr=0.01),
    "adamw": lambda m: torch.optim.AdamW(m.parameters(), lr=0.01, weight_decay=0.1),
    "rmsprop": lambda m: torch.optim.RMSprop(m.parameters(), lr=0.01),
    "groups": lambda m: torch.optim.AdamW(
        [
            {"params": m[3].parameters(), "lr": 0.02},
            {"params": [*m[0].parameters(), *m[2].parameters()], "weight_decay": 0.0},
        ],
        lr=0.01,
    ),
    "lbfgs": lambda m: torch.optim.LBFGS(
        [p for p in m.parameters() if p.requires_grad], lr=0.1, max_iter=2
    ),
}


def loss_at(model: nn.Module, step: int) -> torch.Tensor:
    """Loss of a batch that depends on the step alone; bounded, so that no jump makes it diverge."""
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
    return (model(x) - x[:, :2].sin()).tanh().square().mean()


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    optimizer.zero_grad()
    loss_at(model, step).backward()
    optimizer.step()


def train_step_by_closure(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = loss_at(model, step)
        loss.backward()
        return loss

    optimizer.step(closure)


@dataclass
class Run:
    """A model in training."""

    name: str
    seed: int = 0
    train: Callable[..., None] = train_step
    model: nn.Module = field(init=False)
    optimizer: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        self.model = make_model(self.seed)
        self.optimizer = OPTIMIZERS[self.name](self.model)

    def steps(self, first: int, last: int) -> None:
        for step in range(first, last + 1):
            self.train(self.model, self.optimizer, step)

    def moving(self) -> Values:
        groups = self.optimizer.param_groups
        return [p for group in groups for p in group["params"] if p.requires_grad]

    def weights(self) -> Values:
        return copies(self.model.parameters())


def slow_run(
    run: Run,
    forecaster: Forecaster,
    points: Iterable[int],
    moments: str = "keep",
    after_step: Callable[[], object] = lambda: None,
) -> Values:
    """The definition of jumps, with a snapshot of every step."""
    snapshots = [copies(run.moving())]
    for step in range(1, STEPS + 1):
        run.train(run.model, run.optimizer, step)
        snapshots.append(copies(run.moving()))
        if step in points:
            context = [snapshots[nearest(f * step)] for f in forecaster.ready().context_]
            for p, forecast in zip(
                run.moving(), jump(run.moving(), context, forecaster), strict=True
            ):
                p.data.copy_(forecast)
            snapshots[step] = copies(run.moving())
            if moments == "clear":
                run.optimizer.state.clear()
        after_step()
    return run.weights()


def network(context: tuple[float, ...] = PAPER) -> Introspection:
    X = np.random.default_rng(0).normal(size=(50, len(context))).astype(np.float32)
    return Introspection(hidden=5, steps=50, context=context).fit(X, X[:, 0])


# Jumps follow one another here, each from the last one's landing: short ones stay finite.
FORECASTERS = [*(LinearFit(context, 1.1) for context in CONTEXTS), network(), network(HALVES)]
POINTS = st.sets(st.integers(1, STEPS), min_size=1, max_size=6)


def can_jump(forecaster: Forecaster, points: Iterable[int]) -> bool:
    """Whether each point has a context of distinct steps."""
    fractions = forecaster.ready().context_
    return all(len({nearest(f * t) for f in fractions}) == len(fractions) for t in points)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(OPTIMIZERS.keys() - {"lbfgs"})),
    st.sampled_from(FORECASTERS),
    POINTS,
    st.sampled_from(["keep", "clear"]),
)
def test_a_live_run_is_the_slow_run(
    name: str, forecaster: Forecaster, points: set[int], moments: Any
) -> None:
    """Bit for bit, wherever the contexts of the jumps lie among the jumps."""
    assume(can_jump(forecaster, points))
    run = Run(name)
    jumper = unguarded(run.optimizer, forecaster, points, moments=moments)
    run.steps(1, STEPS)
    assert jumper.jumped == sorted(points)
    assert jumper.step_count == STEPS
    assert same_bits(run.weights(), slow_run(Run(name), forecaster, points, moments))


@pytest.mark.parametrize("points", [[8, 16], [4, 8, 16], [6, 7, 8, 9, 10], [20]], ids=str)
def test_contexts_that_are_jump_points_hold_the_weights_after_the_jump(points: list[int]) -> None:
    run = Run("sgd")
    unguarded(run.optimizer, LinearFit(HALVES, 1.1), points)
    run.steps(1, STEPS)
    assert same_bits(run.weights(), slow_run(Run("sgd"), LinearFit(HALVES, 1.1), points))


@pytest.mark.parametrize("name", ["sgd", "adam", "lbfgs"])
def test_closures(name: str) -> None:
    run, slow = Run(name, train=train_step_by_closure), Run(name, train=train_step_by_closure)
    jumper = unguarded(run.optimizer, LinearFit(), [5, 10])
    run.steps(1, STEPS)
    assert jumper.jumped == [5, 10]
    assert same_bits(run.weights(), slow_run(slow, LinearFit(), [5, 10]))


def test_a_learning_rate_schedule_goes_on() -> None:
    run, slow = Run("sgd"), Run("sgd")
    fast_schedule, slow_schedule = (
        torch.optim.lr_scheduler.OneCycleLR(r.optimizer, 0.3, total_steps=STEPS + 1)
        for r in (run, slow)
    )
    jumper = unguarded(run.optimizer, LinearFit(), [6, 15])
    for step in range(1, STEPS + 1):
        run.steps(step, step)
        fast_schedule.step()
    expected = slow_run(slow, LinearFit(), [6, 15], after_step=slow_schedule.step)
    assert jumper.jumped == [6, 15]
    assert same_bits(run.weights(), expected)
    assert fast_schedule.get_last_lr() == slow_schedule.get_last_lr()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_jumper_that_does_not_jump_does_not_show(name: str) -> None:
    plain, run = (Run(name, train=train_step_by_closure) for _ in range(2))
    jumper = unguarded(run.optimizer, LinearFit(), [STEPS + 1])
    plain.steps(1, STEPS)
    run.steps(1, STEPS)
    assert jumper.jumped == []
    assert same_bits(run.weights(), plain.weights())


def test_steps_that_are_not_taken_are_not_counted() -> None:
    """Accumulated gradients: what counts is the optimizer's own step."""
    run = Run("sgd")
    jumper = unguarded(run.optimizer, LinearFit(), [5])
    for _ in range(3):
        loss_at(run.model, 1).backward()
    assert jumper.step_count == 0
    run.optimizer.step()
    assert jumper.step_count == 1


def test_a_step_skipped_for_its_overflow_is_not_counted() -> None:
    """AMP's scaler calls a fused optimizer all the same, and nothing changes."""
    weight = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight], lr=1.0, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    jumper = unguarded(optimizer, LinearFit((1.0, 0.0)), [3])
    for slope in (1.0, math.inf, 1.0, 1.0):
        optimizer.zero_grad()
        scaler.scale((slope * weight).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    assert (jumper.step_count, jumper.jumped) == (3, [3])
    assert weight.tolist() == [-6.0, -6.0]


class Wrapping(torch.optim.SGD):
    """An optimizer built on another: the hooks of both run."""

    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


def test_a_step_inside_a_step_counts_once() -> None:
    weight = nn.Parameter(torch.zeros(1))
    torch.optim.SGD([weight])  # from now on the inner class has hooks too
    optimizer = Wrapping([weight], lr=1.0)
    jumper = unguarded(optimizer, LinearFit((1.0, 0.0)), [4])
    for _ in range(4):
        weight.grad = torch.ones(1)
        optimizer.step()
    assert (jumper.step_count, jumper.jumped) == (4, [4])
    assert weight.item() == -8.0


def test_step_0_is_the_weights_before_the_first_step() -> None:
    """Also where they were loaded after the jumper was made."""
    weight = nn.Parameter(torch.tensor([5.0]))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    unguarded(optimizer, LinearFit((1.0, 0.0)), [4])
    weight.data.fill_(100.0)
    for _ in range(4):
        weight.grad = torch.ones(1)
        optimizer.step()
    assert weight.item() == pytest.approx(92.0, rel=1e-6)  # 100 - 4, and as far again


def test_clearing_the_moments_clears_them() -> None:
    for moments, expected in (("keep", {"step", "exp_avg", "exp_avg_sq"}), ("clear", set())):
        run = Run("adam")
        unguarded(run.optimizer, LinearFit(), [5], moments=moments)
        run.steps(1, 5)
        found = {key for p in run.moving() for key in run.optimizer.state.get(p, {})}
        assert found == expected


def test_the_moments_stay_as_they_are() -> None:
    plain, run = Run("adam"), Run("adam")
    unguarded(run.optimizer, LinearFit(), [5])
    plain.steps(1, 5)
    run.steps(1, 5)
    assert not same_bits(run.weights(), plain.weights())
    for p, q in zip(run.moving(), plain.moving(), strict=True):
        assert torch.equal(run.optimizer.state[p]["exp_avg"], plain.optimizer.state[q]["exp_avg"])


def test_closing_stops() -> None:
    plain, run = Run("adam"), Run("adam")
    plain.steps(1, STEPS)
    with unguarded(run.optimizer, LinearFit(), [10, 15]) as jumper:
        run.steps(1, 9)
        assert jumper.state_dict()["jumper"]["snapshots"]
    run.steps(10, STEPS)
    assert (jumper.step_count, jumper.jumped) == (9, [])
    assert jumper.state_dict()["jumper"]["snapshots"] == {}
    assert same_bits(run.weights(), plain.weights())
    jumper.close()


def test_jump_points_may_come_in_any_order_and_twice() -> None:
    run, other = Run("sgd"), Run("sgd")
    jumper = unguarded(run.optimizer, LinearFit(), (t for t in [10, 5, 10]))
    unguarded(other.optimizer, LinearFit(), np.array([5, 10]))
    run.steps(1, STEPS)
    other.steps(1, STEPS)
    assert jumper.jumped == [5, 10]
    assert same_bits(run.weights(), other.weights())


# ---- parameters: frozen ones, memory formats, dtypes


def test_frozen_parameters_stay_bit_identical() -> None:
    run = Run("adamw")
    frozen = [p for p in run.model.parameters() if not p.requires_grad]
    kept = copies(frozen)
    unguarded(run.optimizer, network(), [4, 9])
    run.steps(1, STEPS)
    assert len(frozen) == 1
    assert same_bits(frozen, kept)


def by_hand(parameters: list[nn.Parameter], steps: int, jumper_of: Callable[..., Any]) -> Any:
    """Train by gradients of 1."""
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    jumper = jumper_of(optimizer)
    for _ in range(steps):
        for p in parameters:
            p.grad = torch.ones_like(p)
        optimizer.step()
    return jumper


def test_memory_formats_are_kept() -> None:
    start = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    last = nn.Parameter(start.to(memory_format=torch.channels_last))
    first, turned = nn.Parameter(start.clone()), nn.Parameter(start.transpose(0, 1))
    strides = [p.stride() for p in (last, first, turned)]
    pointers = [p.data_ptr() for p in (last, first, turned)]
    by_hand([last, first, turned], 10, lambda o: unguarded(o, network(), [5, 10]))
    assert [p.stride() for p in (last, first, turned)] == strides
    assert [p.data_ptr() for p in (last, first, turned)] == pointers
    assert torch.equal(last, first)
    assert torch.equal(turned.transpose(0, 1), first)
    assert not torch.equal(first, start - 10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_parameters_of_other_dtypes_jump(dtype: torch.dtype) -> None:
    weight = nn.Parameter(torch.zeros(3, dtype=dtype))
    by_hand([weight], 10, lambda o: unguarded(o, LinearFit(), [10]))
    assert weight.dtype == dtype
    assert weight.tolist() == pytest.approx([-20.0] * 3, rel=1e-2)


def test_no_parameter_is_forecast_from_anothers_past() -> None:
    """One parameter is thawed while another of the same shape is frozen, between two snapshots."""
    a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.full((1,), 50.0), requires_grad=False)
    optimizer = torch.optim.SGD([a, b], lr=1.0)
    unguarded(optimizer, LinearFit((1.0, 0.0)), [10])
    with suppress(WeightcastError):  # to refuse is as good
        for step in range(10):
            a.requires_grad_(step < 6)
            b.requires_grad_(step >= 6)
            a.grad, b.grad = (torch.ones(1) if p.requires_grad else None for p in (a, b))
            optimizer.step()
    assert a.item() == -6.0
    assert b.item() in (46.0, 42.0)  # as trained, or as far again


def test_parameters_added_later_are_refused_at_once() -> None:
    first, second = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([first], lr=1.0)
    unguarded(optimizer, LinearFit((1.0, 0.0)), [4])
    first.grad = second.grad = torch.ones(1)
    for _ in range(2):
        optimizer.step()
    optimizer.add_param_group({"params": [second]})
    for step in (3, 4):
        with refuses(ShapeError, f"step {step}", "before the first step"):
            optimizer.step()
    assert (first.item(), second.item()) == (-4.0, -2.0)  # the steps were taken, the jump was not


# ---- memory


def snapshots_of(jumper: Jumper) -> dict[int, Values]:
    return jumper.state_dict()["jumper"]["snapshots"]


def held(jumper: Jumper) -> int:
    kept = snapshots_of(jumper).values()
    return sum(v.numel() * v.element_size() for values in kept for v in values)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(FORECASTERS), POINTS)
def test_memory_is_what_the_snapshots_take(forecaster: Forecaster, points: set[int]) -> None:
    """And for the time of a jump the weights before it, where no snapshot ends with the jump."""
    assume(can_jump(forecaster, points))
    run = Run("sgd")
    jumper = unguarded(run.optimizer, forecaster, points)
    foretold, seen = jumper.memory(), [0]
    weights = sum(4 * p.numel() for p in run.model.parameters())
    for step in range(1, max(points) + 1):
        before = held(jumper)
        run.steps(step, step)
        seen.append(held(jumper))
        past = {nearest(f * step) for f in forecaster.ready().context_} - {step}
        if step in points and not (past - snapshots_of(jumper).keys()):
            seen.append(before + weights)
    assert foretold == max(seen)
    assert held(jumper) == 0


class CloneCounter(TorchDispatchMode):
    """Counts the copies of a tensor's size that are alive at once."""

    COPYING = (torch.ops.aten.clone.default, torch.ops.aten._to_copy.default)
    COPYING += (torch.ops.aten.empty_like.default,)

    def __init__(self, numel: int) -> None:
        super().__init__()
        self.numel = numel
        self.clones: list[weakref.ref[torch.Tensor]] = []
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in self.COPYING and result.numel() == self.numel:
            self.clones.append(weakref.ref(result))
            self.most = max(self.most, sum(ref() is not None for ref in self.clones))
        return result


@pytest.mark.parametrize("context", [HALVES, (1.0, 0.0), (1.0,)], ids=str)
@pytest.mark.parametrize("points", [[10], [10, 20], [5, 10, 20], [4, 20]], ids=str)
def test_memory_holds_at_every_moment(points: list[int], context: tuple[float, ...]) -> None:
    """Also in the middle of a step: where one jump's snapshots go as another's come."""
    weight = nn.Parameter(torch.zeros(8))
    with CloneCounter(8) as counter:
        jumper = by_hand([weight], 20, lambda o: unguarded(o, LinearFit(context), points))
    assert counter.most * 8 * 4 == jumper.memory()


def test_memory_holds_where_the_first_steps_are_skipped() -> None:
    """AMP's scaler begins with a scale that overflows: step 0 is seen again and again."""
    weight = nn.Parameter(torch.zeros(8))
    optimizer = torch.optim.SGD([weight], lr=1.0, fused=True)
    with CloneCounter(8) as counter:
        jumper = unguarded(optimizer, LinearFit((1.0, 0.0)), [10])
        for step in range(12):
            weight.grad = torch.ones(8)
            optimizer.found_inf = torch.tensor(float(step < 2))
            optimizer.grad_scale = torch.ones(())
            optimizer.step()
    assert jumper.jumped == [10]
    assert counter.most * 8 * 4 == jumper.memory()


# ---- stopping and resuming


def through_a_file(state: Any) -> Any:
    """Save and load as a checkpoint is, without running code from it."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(sorted(OPTIMIZERS.keys() - {"lbfgs"})),
    st.sampled_from(FORECASTERS),
    POINTS,
    st.integers(0, STEPS),
)
def test_a_resumed_run_is_the_uninterrupted_one(
    name: str, forecaster: Forecaster, points: set[int], stop: int
) -> None:
    assume(can_jump(forecaster, points))
    whole, first, second = Run(name), Run(name), Run(name, seed=1)
    unguarded(whole.optimizer, forecaster, points)
    whole.steps(1, STEPS)
    before = unguarded(first.optimizer, forecaster, points)
    first.steps(1, stop)
    parts = {"model": first.model, "optimizer": first.optimizer, "jumper": before}
    states = through_a_file({what: part.state_dict() for what, part in parts.items()})
    first.steps(stop + 1, STEPS)  # what goes on must not change what was saved
    after = unguarded(second.optimizer, forecaster, points)
    for what, part in {
        "model": second.model,
        "optimizer": second.optimizer,
        "jumper": after,
    }.items():
        part.load_state_dict(states[what])
    assert after.step_count == stop
    assert after.jumped == [t for t in sorted(points) if t <= stop]
    second.steps(stop + 1, STEPS)
    assert same_bits(second.weights(), whole.weights())
    assert after.jumped == sorted(points)


def test_a_state_is_a_copy() -> None:
    run, other = Run("sgd"), Run("sgd")
    jumper = unguarded(run.optimizer, LinearFit(), [10])
    unguarded(other.optimizer, LinearFit(), [10])
    run.steps(1, 5)
    state = jumper.state_dict()
    state["jumper"]["snapshots"][0][0].fill_(torch.nan)
    state["jumper"]["jumped"].append(3)
    run.steps(6, 10)
    other.steps(1, 10)
    assert jumper.jumped == [10]
    assert same_bits(run.weights(), other.weights())


def saved(points: list[int], step: int) -> dict[str, Any]:
    run = Run("sgd")
    jumper = unguarded(run.optimizer, LinearFit(), points)
    run.steps(1, step)
    return jumper.state_dict()


def test_a_state_of_another_model_is_refused() -> None:
    other = nn.Linear(3, 4)
    jumper = unguarded(torch.optim.SGD(other.parameters(), lr=0.1), LinearFit(), [10])
    with refuses(ShapeError, "step 0", "same model"):
        jumper.load_state_dict(saved([10], 5))
    assert (jumper.step_count, jumper.state_dict()["jumper"]["snapshots"]) == (0, {})


def test_a_state_without_the_needed_snapshots_is_refused() -> None:
    run = Run("sgd")
    jumper = unguarded(run.optimizer, LinearFit(), [10, 15])
    with refuses(UsageError, "step 12", "[0, 6, 11]", "jump points"):
        jumper.load_state_dict(saved([10], 12))
    assert (jumper.step_count, jumper.jumped) == (
        0,
        [],
    )  # a refused state leaves the jumper as it was


def test_a_state_may_go_on_with_fewer_jump_points() -> None:
    run = Run("sgd")
    jumper = unguarded(run.optimizer, LinearFit(), [10])
    jumper.load_state_dict(saved([10, 20], 8))
    run.steps(9, STEPS)
    assert jumper.jumped == [10]
    assert held(jumper) == 0


# ---- what is refused


@pytest.mark.parametrize("points", [[], [0], [1], [2], [-3], [10, 0]], ids=str)
def test_jump_points_without_a_context_are_refused(points: list[int]) -> None:
    with refuses(UsageError, "jump"):
        unguarded(Run("sgd").optimizer, LinearFit(), points)


@pytest.mark.parametrize("point", [10.5, math.nan])
def test_jump_points_that_are_no_steps_are_refused(point: float) -> None:
    """Else the run would pass by them without a jump."""
    with refuses(UsageError, point):
        unguarded(Run("sgd").optimizer, LinearFit(), [point])  # type: ignore[list-item]


def test_unknown_moments_are_refused() -> None:
    with refuses(UsageError, "'keep'", "'clear'", "'drop'"):
        unguarded(Run("sgd").optimizer, LinearFit(), [10], moments="drop")  # type: ignore[arg-type]


def test_a_refused_jumper_leaves_no_hook() -> None:
    run, plain = Run("sgd"), Run("sgd")
    with pytest.raises(UsageError):
        unguarded(run.optimizer, LinearFit(), [10, 1])
    run.steps(1, STEPS)
    plain.steps(1, STEPS)
    assert same_bits(run.weights(), plain.weights())


def test_a_snapshot_that_is_not_finite_leaves_all_weights_alone() -> None:
    """The bad value is in the last parameter: the first must not have jumped by then."""
    plain, run = Run("sgd"), Run("sgd")
    jumper = unguarded(run.optimizer, LinearFit(), [10])
    for r in (plain, run):
        r.steps(1, 4)  # step 4 is in the context
    state = jumper.state_dict()
    state["jumper"]["snapshots"][4][-1][0] = torch.nan
    jumper.load_state_dict(state)
    plain.steps(5, 10)
    with refuses(NonFiniteError, "finite", "no weight was changed"):
        run.steps(5, 10)
    assert same_bits(run.weights(), plain.weights())
    assert jumper.jumped == []


def test_a_refused_jump_does_not_spoil_the_next() -> None:
    """Step 4's jump overflows float16; its weights are in the context of step 8's jump."""
    weight = nn.Parameter(torch.zeros(1).half())
    optimizer = torch.optim.SGD([weight], lr=1.0)
    jumper = unguarded(optimizer, LinearFit(HALVES), [4, 8])
    for step in range(1, 9):
        weight.grad = torch.full((1,), -40_000.0 if step == 4 else 0.0).half()
        if step == 5:
            weight.data.zero_()
        if step == 4:
            with pytest.raises(NonFiniteError):
                optimizer.step()
        else:
            optimizer.step()
    assert jumper.jumped == [8]
    expected = slow_line([0.0, 40_000.0, 0.0], HALVES, 2.0)
    assert weight.item() == pytest.approx(expected, rel=1e-3)
