"""The guard: when a jump is rolled back, and that nothing is left of it then."""

from __future__ import annotations

import copy
import io
import logging
import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from store_reference import refuses
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from weightcast.apply import Guard, Jumper, JumpEvent
from weightcast.apply.events import EventLog, JumpSummary
from weightcast.apply.judging import Judge
from weightcast.apply.keeping import Kept, kept_bytes
from weightcast.apply.plan import JumpPlan, Reach
from weightcast.apply.settling import recalibrate, settle_moments
from weightcast.apply.verdict import FEWEST, judge
from weightcast.predictor import LinearFit
from weightcast.store import ShapeError, UsageError

HALVES = (1.0, 0.5, 0.0)
FAR = LinearFit(HALVES, horizon=3.0)  # far enough to hurt
NEVER = math.inf


# ---- the rule


def curve(t: np.ndarray, power: float, floor: float, noise: float, seed: int) -> np.ndarray:
    size = np.random.default_rng(seed).lognormal(-noise * noise / 2, noise, len(t))
    return (20 * t**-power + floor) * size


def rolled_back(
    change: Callable[[np.ndarray], np.ndarray], tolerance: float = 2.0, trials: int = 100
) -> float:
    """Share of jumps that are rolled back, over curves and noises."""
    found = []
    for seed in range(trials):
        rng = np.random.default_rng(seed)
        t = int(rng.integers(400, 3000))
        power, floor, noise = rng.uniform(0.3, 1), rng.uniform(0, 1), rng.uniform(0.05, 0.3)
        steps = np.arange(t - 300, t + 151)
        losses = curve(steps.astype(float), power, floor, noise, seed)
        losses[301:] = change(losses[301:])
        pairs = list(zip(steps.tolist(), losses.tolist(), strict=True))
        found.append(not judge(pairs[:301], pairs[301:], tolerance).kept)
    return float(np.mean(found))


def test_jumps_that_do_nothing_or_help_are_kept_and_those_that_hurt_are_not() -> None:
    assert rolled_back(lambda v: v) <= 0.04
    assert rolled_back(lambda v: v * 0.9) == 0
    assert rolled_back(lambda v: v * 1.5) >= 0.97
    assert rolled_back(lambda v: v * 1.5, NEVER) == 0
    # a loss that was bad at first only has come back
    back = np.where(np.arange(150) < 75, 4.0, 1.0)
    assert rolled_back(lambda v: v * back) <= 0.04


@settings(deadline=None, max_examples=60)
@given(st.floats(0, 1), st.floats(0, 2), st.integers(1000, 5000), st.sampled_from([20, 50, 100]))
def test_curves_without_noise(power: float, floor: float, t: int, steps: int) -> None:
    """What goes on as it did is kept, though no power of the step has a floor."""

    def losses(low: int, high: int) -> list[tuple[int, float]]:
        return [(s, 20 * s**-power + floor) for s in range(low, high)]

    before, after = losses(max(t - 2 * steps, 1), t + 1), losses(t + 1, t + steps + 1)
    assert judge(before, after, 2.0).kept
    assert not judge(before, [(s, before[-1][1] * 1.02) for s, _ in after], 2.0).kept


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [
        ([0.0] * 8, [0.0] * 4, True),
        ([0.0] * 8, [0.0] * 3 + [1e-9], False),
        ([0.7] * 8, [0.7] * 4, True),
        ([0.7] * 8, [0.8] * 4, False),
        ([-1.0] * 8, [-1.0] * 4, True),
        ([-1.0] * 8, [-0.9] * 4, False),
        ([1e-300] * 8, [1e-300], True),
        ([1.0, 1.2] * 4, [1.1], True),  # one loss only
        ([1.0, 1.2] * 4, [9.0], False),
        ([1.0, 1.2] * 4, [9.0, 9.0, 1.0, 1.0], True),  # the first half is not judged
    ],
)
def test_small_cases(before: list[float], after: list[float], kept: bool) -> None:
    pairs = list(enumerate(before + after, start=100))
    verdict = judge(pairs[: len(before)], pairs[len(before) :], 2.0)
    assert verdict.kept == kept
    assert ("not above" in str(verdict)) == kept
    assert judge(pairs[: len(before)], pairs[len(before) :], NEVER).kept


def test_a_jump_that_cost_some_steps_is_kept_and_one_that_cost_most_is_not() -> None:
    """Of 100 steps, of which the last 50 are judged."""

    def losses(first: int, last: int, behind: int = 0) -> list[tuple[int, float]]:
        return [(s, (s - behind) ** -0.5) for s in range(first, last)]

    before = losses(800, 1001)
    assert judge(before, losses(1001, 1101, behind=15), 2.0).kept
    assert not judge(before, losses(1001, 1101, behind=40), 2.0).kept


def test_a_rising_loss_may_rise_on() -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, 300)
    pairs = [(3000 + s, 1 + s / 300 + noise[s]) for s in range(1, 300)]
    assert judge(pairs[:200], pairs[200:], 2.0).kept
    assert not judge(pairs[:200], [(s, v + 0.3) for s, v in pairs[200:]], 2.0).kept


def test_the_first_half_of_the_run_tells_nothing_of_now() -> None:
    now = [(s, 1 + 0.01 * (-1) ** s) for s in range(101, 201)]
    after = [(s, 1.1) for s in range(201, 251)]
    early = [(s, 100.0) for s in range(1, 100)]
    assert judge(early + now, after, 2.0) == judge(now, after, 2.0)
    assert not judge(early + now, after, 2.0).kept


# ---- its options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 0}, ("steps", "0")),
        ({"steps": 2.5}, ("steps", "2.5")),
        ({"window": "100"}, ("window", "'100'")),
        ({"every": -1, "probe": float}, ("every", "-1")),
        ({"every": 5}, ("every", "probe")),
        ({"tolerance": -1}, ("tolerance", "-1")),
        ({"tolerance": math.nan}, ("tolerance", "nan")),
        ({"tolerance": "2"}, ("tolerance", "'2'")),
        ({"explosion": 1}, ("explosion", "1")),
        ({"probe": 0.5}, ("probe", "0.5")),
    ],
)
def test_options_that_break_their_rule(options: dict[str, Any], words: tuple[str, ...]) -> None:
    with refuses(UsageError, *words):
        Guard(**options)


def plan(*points: int, end: int | None = None) -> JumpPlan:
    return JumpPlan({t: 2 * t for t in points}, Reach(2.0), end)


def test_steps_settle_between_jumps() -> None:
    alone = Guard().settled(plan(1000))
    assert (alone.steps, alone.window, alone.every) == (200, 400, None)
    assert Guard().settled(plan(1000, 1100)).steps == 50
    probed = Guard(probe=float, steps=100).settled(plan(1000))
    assert (probed.every, probed.window) == (25, 200)
    for guard, points, words in [
        (Guard(steps=100), (500, 600), ("100 steps", "100 apart")),
        (Guard(steps=95), (500, 600), ("8 losses", "there are 5")),
        (Guard(steps=10), (7,), ("there are 7", "first jump at 7")),
        (Guard(window=5), (500,), ("there are 5",)),
        (Guard(probe=float, steps=10, every=11), (500,), ("every 11", "10 steps")),
        (Guard(probe=float, steps=10, every=10), (79,), ("there are 7",)),
    ]:
        with refuses(UsageError, *words):
            guard.settled(plan(*points))
    Guard(steps=92).settled(plan(500, 600))
    Guard(probe=float, steps=10, every=10).settled(plan(80))


# ---- runs


def noisy(model: nn.Module, step: int) -> torch.Tensor:
    """A loss of a batch of its own."""
    rng = torch.Generator().manual_seed(step)
    x = torch.randn(8, 3, generator=rng)
    return (model(x) - x.sum(1, keepdim=True)).square().mean()


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1))


Make = Callable[[Any], torch.optim.Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=1e-3),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "foreach": lambda p: torch.optim.Adam(p, lr=0.01, foreach=True),
    "fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3, history_size=2),
}


def step_of(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = noisy(model, step)
        loss.backward()
        return loss

    optimizer.step(closure)


def everything(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Weights, buffers and optimizer state, copied."""
    return copy.deepcopy({"model": model.state_dict(), "state": optimizer.state_dict()["state"]})


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


@pytest.mark.parametrize("moments", ["keep", "clear", 0.5])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_roll_back_is_exact_and_the_run_goes_on_as_if_put_back_by_hand(
    name: str, moments: Any
) -> None:
    """Jump at 20, rolled back at 26; the other run is put back by hand, with deep copies."""
    runs = []
    for jumps in (True, False):
        model = net()
        optimizer = OPTIMIZERS[name](model.parameters())
        losses = iter([1.0] * 8 + [2.0] * 6)
        guard = Guard(steps=6, window=8, probe=lambda losses=losses: next(losses), every=1)
        jumper = None
        if jumps:
            jumper = Jumper(optimizer, FAR, [20], guard=guard, moments=moments, model=model)
        saved: dict[str, Any] = {}
        for step in range(1, 33):
            step_of(model, optimizer, step)
            if step == 20 and not jumps:
                saved = copy.deepcopy([model.state_dict(), optimizer.state_dict()])
            if step == 26 and not jumps:
                model.load_state_dict(saved[0])
                optimizer.load_state_dict(saved[1])
            if step in (26, 32):
                runs.append(everything(model, optimizer))
        if jumper is not None:
            assert [e.kind for e in jumper.events] == ["jumped", "rolled back"]
            jumper.close()
    assert same(runs[0], runs[2])
    assert same(runs[1], runs[3])


def test_parameters_that_do_not_jump_are_put_back_too() -> None:
    for moments in ("keep", "clear"):
        model = net()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        losses = iter([1.0] * 8 + [2.0] * 6)
        guard = Guard(steps=6, window=8, probe=lambda losses=losses: next(losses), every=1)
        only = [model[0].weight]
        with Jumper(optimizer, FAR, [20], guard=guard, parameters=only, moments=moments) as jumper:
            for step in range(1, 27):
                step_of(model, optimizer, step)
                if step == 19:
                    twin = copy.deepcopy(model)
                    other = torch.optim.Adam(twin.parameters(), lr=0.01)
                    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
                    step_of(twin, other, 20)
            assert jumper.events[-1].kind == "rolled back"
        assert same(everything(model, optimizer), everything(twin, other))


class Changing(nn.Module):
    """Its buffers are written, replaced, resized, taken away, and come."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("written", torch.zeros(2))
        self.register_buffer("replaced", torch.zeros(2))
        self.register_buffer("resized", torch.zeros(2), persistent=False)
        self.register_buffer("gone", torch.zeros(2))
        self.register_buffer("count", torch.tensor(0))

    def change(self) -> None:
        self.written.add_(1)
        self.replaced = self.replaced + 1
        self.resized = torch.ones(3)
        self.gone = None
        self.count += 1
        self.register_buffer("come", torch.ones(1))


def test_buffers_are_put_back_whatever_became_of_them() -> None:
    inner = Changing()
    model = nn.Sequential(nn.Linear(2, 2), inner)
    kept = Kept([], model)
    before = {name: b.clone() for name, b in model.named_buffers()}
    written = inner.written
    inner.change()
    kept.put_back([], model)
    after = dict(model.named_buffers())
    assert after.pop("1.come").tolist() == [1.0]
    assert same(before, after)
    assert inner.written is written  # in place, for compiled steps and DDP
    kept.put_back([], model)
    inner.written.add_(1)
    kept.put_back([], model)
    assert same(before["1.written"], inner.written)  # what is kept is not what is live


def test_state_of_any_kind_is_put_back() -> None:
    w = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=1.0)
    here = torch.ones(2)
    optimizer.state[w] = {"a": here, "list": [torch.ones(1), None], "n": 1, "in": {"b": here + 1}}
    before = copy.deepcopy(dict(optimizer.state[w]))
    kept = Kept([optimizer], None)
    loaded = Kept([], None)
    file = io.BytesIO()
    torch.save(kept.state_dict(), file)
    file.seek(0)
    loaded.load_state_dict(torch.load(file, weights_only=True), [optimizer])
    for one in (kept, loaded):
        optimizer.state[w]["a"].add_(1)
        optimizer.state[w]["in"]["b"] = torch.ones(5)
        optimizer.state[w]["list"].append(3)
        optimizer.state[w]["new"] = 1
        one.put_back([optimizer], None)
        assert same(before, optimizer.state[w])
        assert optimizer.state[w]["a"] is here


# ---- memory


@pytest.mark.parametrize("name", [n for n in OPTIMIZERS if n != "lbfgs"])
def test_what_is_kept_is_told_before_the_first_step(name: str) -> None:
    model = net()
    optimizer = OPTIMIZERS[name](
        [{"params": model[0].parameters()}, {"params": model[3].parameters(), "lr": 1e-3}]
    )
    calls = []
    handle = register_optimizer_step_post_hook(lambda *_: calls.append(1))
    seed = torch.get_rng_state()
    told = kept_bytes([optimizer], model)
    handle.remove()
    assert not calls  # it is no step of the run
    assert torch.equal(seed, torch.get_rng_state())
    step_of(model, optimizer, 1)
    kept = Kept([optimizer], model)
    states = [v for state in kept.states[0].values() for v in state.values()]
    tensors = [t for t in (*states, *kept.buffers.values()) if isinstance(t, torch.Tensor)]
    live = {t.data_ptr() for state in optimizer.state.values() for t in state.values()
            if isinstance(t, torch.Tensor)}  # fmt: skip
    assert live.isdisjoint(t.data_ptr() for t in tensors)
    held = sum(t.untyped_storage().nbytes() for t in tensors)
    assert told == held == kept_bytes([optimizer], model)


def test_an_optimizer_that_cannot_be_tried_is_not_foretold() -> None:
    class Own(torch.optim.SGD):
        def __init__(self, params: Any, secret: object) -> None:
            super().__init__(params, lr=0.1)

    assert kept_bytes([Own([torch.zeros(2, requires_grad=True)], 1)], None) == 0


# ---- the losses of a run


def judged(guard: Guard, *points: int) -> Judge:
    jumps = plan(*points)
    return Judge(guard.settled(jumps), jumps)


def drive(
    judge: Judge, losses: dict[int, float], points: tuple[int, ...], last: int
) -> Iterator[tuple[int, bool, str]]:
    for step in range(1, last + 1):
        (torch.ones(1, requires_grad=True) * losses.get(step, 1.0)).backward()
        judge.see(step)
        found = judge.verdict(step)
        if found is not None:
            yield step, *found
        if step in points and not judge.ready(step):
            judge.begin(step)
    judge.close()


@pytest.mark.parametrize(
    ("loss", "words"),
    [(math.nan, "nan"), (math.inf, "inf"), (10.5, "over 10, 10 times the highest")],
)
def test_what_explodes_is_rolled_back_at_once(loss: float, words: str) -> None:
    ((step, kept, why),) = drive(judged(Guard(steps=10), 20), {23: loss, 24: loss}, (20,), 40)
    assert (step, kept) == (23, False)
    assert words in why
    ((step, kept, why),) = drive(judged(Guard(steps=10), 20), {23: 9.5}, (20,), 40)
    assert (step, kept) == (30, True)


def test_what_was_high_after_a_jump_that_was_taken_back_is_no_measure_for_the_next() -> None:
    losses = {33: 9.0, 83: 50.0} | dict.fromkeys(range(34, 41), 9.0)
    first, second = drive(judged(Guard(steps=10), 30, 80), losses, (30, 80), 99)
    assert first[:2] == (40, False)
    assert second[:2] == (83, False)
    assert "over 10," in second[2]


def test_losses_of_a_probation_tell_nothing_of_the_next_trend() -> None:
    judge = judged(Guard(steps=10, window=30), 30, 50)
    losses = dict.fromkeys(range(31, 41), 5.0)
    list(drive(judge, losses, (30,), 50))
    assert not judge.ready(50)
    assert [step for step, _ in judge._before] == list(range(41, 51))
    assert "needs 8" in judge.ready(40)


def test_a_run_without_a_loss_is_refused_at_its_first_step() -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Jumper(optimizer, FAR, [20], guard=Guard(steps=5)):
        model(torch.ones(3, 2)).backward(torch.ones(3, 1))  # no scalar
        with refuses(UsageError, "first step", "probe", "guard=None"):
            optimizer.step()
    with Jumper(optimizer, FAR, [20], guard=Guard(steps=5, probe=lambda: 1.0)) as jumper:
        for _ in range(30):
            model(torch.ones(3, 2)).backward(torch.ones(3, 1))
            optimizer.step()
    # there is a probe: that the run shows no loss of its own is nothing bad
    assert [e.kind for e in jumper.events] == ["jumped", "kept"]


# ---- the probe


def test_a_probe_is_called_at_its_steps_and_leaves_no_trace() -> None:
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    called: list[int] = []

    def probe() -> torch.Tensor:
        assert not torch.is_grad_enabled()
        torch.rand(100)
        called.append(jumper.step_count)
        return torch.tensor(1.0)

    guard = Guard(steps=20, window=40, probe=probe, every=5)
    jumper = Jumper(optimizer, FAR, [60, 130], guard=guard)
    drawn = []
    torch.manual_seed(1)
    for step in range(1, 161):
        step_of(model, optimizer, step)
        drawn.append(float(torch.rand(())))
    torch.manual_seed(1)
    assert drawn == [float(torch.rand(())) for _ in range(160)]
    assert called == [*range(25, 81, 5), *range(95, 151, 5)]
    assert [e.kind for e in jumper.events] == ["jumped", "kept"] * 2
    jumper.close()


@pytest.mark.parametrize(
    "given", ["0.5", None, torch.ones(2), [1.0], 1j], ids=["text", "none", "two", "list", "complex"]
)
def test_a_probe_that_gives_no_number(given: object) -> None:
    judge = judged(Guard(steps=4, probe=lambda: given, every=1), 8)
    with refuses(UsageError, "probe", "one number"):
        list(drive(judge, {}, (8,), 20))
    judge.close()


@pytest.mark.parametrize("given", [np.float32(1), torch.ones(1), 1, True])
def test_a_probe_that_gives_a_number_of_any_kind(given: Any) -> None:
    judge = judged(Guard(steps=4, probe=lambda: given, every=1), 8)
    assert [v[:2] for v in drive(judge, {}, (8,), 20)] == [(12, True)]


def test_a_probe_that_raises_ends_the_run_and_leaves_its_randomness() -> None:
    def probe() -> float:
        torch.rand(3)
        raise KeyError("mine")

    judge, seed = judged(Guard(steps=4, probe=probe, every=1), 8), torch.get_rng_state()
    with pytest.raises(KeyError, match="mine"):
        list(drive(judge, {}, (8,), 20))
    assert torch.equal(seed, torch.get_rng_state())
    assert torch.is_grad_enabled()
    judge.close()


@pytest.mark.parametrize("bad", [math.nan, math.inf, 30.0])
def test_a_probe_that_finds_an_explosion(bad: float) -> None:
    found = iter([1.0] * 8 + [bad] * 4)
    judge = judged(Guard(steps=12, probe=lambda: next(found), every=3), 30)
    ((step, kept, why),) = drive(judge, {}, (30,), 50)
    assert (step, kept) == (33, False)
    assert str(bad)[:2] in why


# ---- resume


class Run:
    """A run whose jumps are rolled back or kept by chance, and that can be stopped anywhere."""

    def __init__(self, moments: Any, probe: bool) -> None:
        self.model = net()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.02)
        own = {"probe": self.loss, "every": 2} if probe else {}
        self.jumper = Jumper(
            self.optimizer,
            LinearFit(HALVES, horizon=1.6),
            [30, 60, 90],
            guard=Guard(steps=12, tolerance=0.5, **own),
            moments=moments,
            model=self.model,
        )

    def loss(self) -> float:
        self.model.eval()
        loss = float(noisy(self.model, 0))
        self.model.train()
        return loss

    def go(self, first: int, last: int) -> None:
        for step in range(first, last + 1):
            step_of(self.model, self.optimizer, step)

    def saved(self) -> Any:
        file = io.BytesIO()
        torch.save([self.model.state_dict(), self.jumper.state_dict()], file)
        file.seek(0)
        return torch.load(file, weights_only=True)

    def load(self, saved: Any) -> None:
        self.model.load_state_dict(saved[0])
        self.jumper.load_state_dict(saved[1])

    def result(self) -> Any:
        return everything(self.model, self.optimizer), self.jumper.events


WHOLE: dict[Any, Any] = {}


@settings(deadline=None, max_examples=12)
@given(
    st.lists(st.integers(1, 109), min_size=1, max_size=3, unique=True).map(sorted),
    st.sampled_from(["keep", "clear", 0.3]),
    st.booleans(),
)
def test_a_run_that_is_stopped_and_resumed_goes_the_same_way(
    stops: list[int], moments: Any, probe: bool
) -> None:
    if (moments, probe) not in WHOLE:
        run = Run(moments, probe)
        run.go(1, 110)
        run.jumper.close()
        WHOLE[moments, probe] = run.result()
    state, done, run = None, 0, Run(moments, probe)
    for stop in [*stops, 110]:
        if state is not None:
            run = Run(moments, probe)
            run.load(state)
        run.go(done + 1, stop)
        done, state = stop, run.saved()
        run.jumper.close()
    assert run.jumper.events == WHOLE[moments, probe][1]
    assert same(run.result()[0], WHOLE[moments, probe][0])


def test_the_resumed_runs_have_seen_both_ends() -> None:
    run = Run("keep", True)
    run.go(1, 110)
    run.jumper.close()
    assert {"kept", "rolled back"} & {e.kind for e in run.jumper.events}


OTHERS = {"fewer": nn.Linear(3, 4), "of other shapes": nn.Sequential(*[nn.Linear(2, 2)] * 4, net())}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_a_state_on_probation_of_another_model_changes_nothing(other: nn.Module) -> None:
    saved_by = Run("keep", True)
    saved_by.go(1, 35)
    _, state = saved_by.saved()
    saved_by.jumper.close()
    own = {**state["jumper"], "snapshots": {}}  # what is kept of the jump is checked by itself
    with Jumper(torch.optim.SGD(other.parameters(), lr=0.1), FAR, [30]) as jumper:
        assert own["probation"] is not None
        with refuses(ShapeError):
            jumper.load_state_dict(own)
        assert (jumper.step_count, jumper.jumped, jumper.events) == (0, [], [])


def test_a_state_on_probation_in_another_guard() -> None:
    saved_by = Run("keep", False)
    saved_by.go(1, 35)
    state = saved_by.saved()
    saved_by.jumper.close()

    with_probe = Run("keep", True)
    with_probe.load(state)
    with_probe.go(36, 50)
    with_probe.jumper.close()
    assert with_probe.jumper.events[-1].kind == "kept"
    assert "another guard" in with_probe.jumper.events[-1].reason

    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    line = LinearFit(HALVES, horizon=1.6)
    with Jumper(optimizer, line, [30, 60, 90], guard=None) as without:
        model.load_state_dict(state[0])
        without.load_state_dict(state[1])
        for step in range(36, 62):
            step_of(model, optimizer, step)
        summary = without.summary()
        assert [e.kind for e in without.events] == ["jumped", "jumped"]
        assert (summary.made, summary.kept, summary.rolled_back, summary.pending) == (2, 2, 0, 0)
        unguarded = copy.deepcopy([model.state_dict(), without.state_dict()])

    again = Run("keep", False)  # a state without a guard's: it begins to look now
    again.go(1, 35)
    again.load(unguarded)
    again.go(62, 110)
    again.jumper.close()
    assert [e.jump for e in again.jumper.events] == [30, 60, 90, 90]


# ---- what becomes of other state


@settings(deadline=None, max_examples=30)
@given(st.floats(0, 1), st.sampled_from(["momentum", "adam", "rmsprop", "nadam"]), st.booleans())
def test_scaled_momentum(factor: float, name: str, only_one: bool) -> None:
    model = net()
    optimizer = OPTIMIZERS[name](model.parameters())
    for step in range(1, 4):
        step_of(model, optimizer, step)
    before = everything(model, optimizer)
    moved = [model[0].weight] if only_one else list(model.parameters())
    settle_moments([optimizer], moved, factor)
    after = everything(model, optimizer)
    assert same(before["model"], after["model"])
    for i, p in enumerate(model.parameters()):
        for key, value in before["state"][i].items():
            scaled = key in ("exp_avg", "momentum_buffer") and any(p is m for m in moved)
            assert same(after["state"][i][key], value * factor if scaled else value)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_cleared_state_is_that_of_an_optimizer_that_has_not_stepped(name: str) -> None:
    model = net()
    optimizer = OPTIMIZERS[name](model.parameters())
    for step in range(1, 4):
        step_of(model, optimizer, step)
    settle_moments([optimizer], list(model.parameters()), "clear")
    twin = copy.deepcopy(model)
    other = OPTIMIZERS[name](twin.parameters())
    assert same(everything(model, optimizer), everything(twin, other))
    step_of(model, optimizer, 4)
    step_of(twin, other, 4)
    assert same(everything(model, optimizer), everything(twin, other))


class Loader:
    """Batches in an order of chance, anew each time."""

    def __init__(self, pairs: bool) -> None:
        self.pairs, self.read = pairs, 0

    def __iter__(self) -> Iterator[Any]:
        self.read += 1
        for i in torch.randperm(4).tolist():
            x = torch.randn(8, 3, generator=torch.Generator().manual_seed(int(i)))
            yield (x, x.sum(1)) if self.pairs else x


@pytest.mark.parametrize("pairs", [True, False])
def test_statistics_are_estimated_anew(pairs: bool) -> None:
    model, loader = net(), Loader(pairs)
    frozen = nn.BatchNorm1d(1)
    frozen.eval()
    model.append(frozen).append(nn.Dropout(0.5))
    model[1].running_mean.fill_(100.0)
    seed = torch.get_rng_state()
    recalibrate(model, loader)
    assert torch.equal(seed, torch.get_rng_state())
    assert [m.training for m in model] == [True, True, True, True, False, True]
    assert same(frozen.state_dict(), nn.BatchNorm1d(1).state_dict())
    inputs = [x[0] if pairs else x for x in Loader(pairs)]
    mean = torch.stack([model[0](x).mean(0) for x in inputs]).mean(0)
    torch.testing.assert_close(model[1].running_mean, mean)
    model.eval()
    recalibrate(model, loader)
    assert not any(m.training for m in model.modules())
    torch.testing.assert_close(model[1].running_mean, mean)
    assert loader.read == 2


def test_batches_that_cannot_be_used() -> None:
    loose = torch.zeros(3, requires_grad=True)
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with refuses(UsageError, "model="):
        Jumper(torch.optim.SGD([loose], lr=0.1), FAR, [20], batches=[torch.ones(2, 3)])
    with refuses(UsageError, "batches", "generator"):
        Jumper(optimizer, FAR, [20], batches=(x for x in [1]), model=model)  # type: ignore[misc]
    with refuses(UsageError, "batches", "int"):
        Jumper(optimizer, FAR, [20], batches=3, model=model)  # type: ignore[arg-type]
    with refuses(UsageError, "at least one"):
        Jumper(optimizer, FAR, [20], batches=[], model=model)
    before = copy.deepcopy(model.state_dict())
    with refuses(UsageError, "at least one"):
        recalibrate(model, [])
    assert same(before, model.state_dict())
    Jumper(optimizer, FAR, [20], batches=[torch.ones(2, 3)], model=model).close()


def test_a_jump_of_frozen_parameters_alone_is_none() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with Jumper(optimizer, FAR, [10], model=model, guard=None) as jumper:
        for step in range(1, 11):
            model.requires_grad_(step < 10)
            if step < 10:
                step_of(model, optimizer, step)
        optimizer.step()
        assert [(e.kind, e.jump) for e in jumper.events] == [("skipped", 10)]
        assert "frozen" in jumper.events[0].reason
        assert jumper.jumped == []


def test_a_batch_that_fails_leaves_no_half_made_jump() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    batches = [torch.ones(8, 3), torch.ones(8, 4)]
    with Jumper(
        optimizer, FAR, [10], batches=batches, model=model, guard=None, moments="clear"
    ) as jumper:
        for step in range(1, 10):
            step_of(model, optimizer, step)
        plain = copy.deepcopy(model)
        other = torch.optim.SGD(plain.parameters(), lr=0.01, momentum=0.9)
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        step_of(plain, other, 10)
        with pytest.raises(RuntimeError, match="shapes"):
            step_of(model, optimizer, 10)
        assert same(model.state_dict(), plain.state_dict())
        assert same(optimizer.state_dict(), other.state_dict())
        assert (model[1].momentum, model[1].training, jumper.jumped) == (0.1, True, [])


def test_a_jump_with_batches() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    loader = Loader(True)
    with Jumper(optimizer, FAR, [10, 20], batches=loader, model=model, guard=None) as jumper:
        for step in range(1, 21):
            step_of(model, optimizer, step)
        assert (jumper.jumped, loader.read) == ([10, 20], 2)
        mean = torch.stack([model[0](x).mean(0) for x, _ in Loader(True)]).mean(0)
        torch.testing.assert_close(model[1].running_mean, mean)


# ---- what is said of it


def test_every_decision_is_logged_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "weightcast.apply")
    heard: list[JumpEvent] = []
    run = Run("keep", True)
    run.jumper.close()
    log = EventLog(heard.append)
    events = [
        JumpEvent(30, 30, "jumped", "9 weights to their forecast for step 60"),
        JumpEvent(42, 30, "rolled back", "its loss is nan"),
        JumpEvent(60, 60, "skipped", "its guard has seen 3 losses, and needs 8"),
    ]
    for event in events:
        log.add(event)
    assert heard == log.events == events
    assert [r.getMessage() for r in caplog.records] == [
        "step 30: jumped: 9 weights to their forecast for step 60",
        "step 42: jump at 30 rolled back: its loss is nan",
        "step 60: jump at 60 skipped: its guard has seen 3 losses, and needs 8",
    ]
    assert log.lost == 12
    other = EventLog()
    other.load(log.state())
    assert other.events == events


@pytest.mark.parametrize("steps", [1, 30, 35, 60, 99, 110])
def test_the_summary_adds_up(steps: int) -> None:
    run = Run("keep", probe=True)
    run.go(1, steps)
    summary, events = run.jumper.summary(), run.jumper.events
    run.jumper.close()
    kinds = [e.kind for e in events]
    assert summary.steps == steps
    assert summary.made == kinds.count("jumped")
    assert summary.made == summary.kept + summary.rolled_back + summary.pending
    assert 0 <= summary.pending <= 1
    ended = summary.made - summary.pending + summary.refused + summary.skipped
    assert ended + summary.pending == sum(t <= steps for t in (30, 60, 90))
    assert summary.lost == sum(
        b.step - a.step for a, b in pairwise(events) if b.kind == "rolled back"
    )
    assert summary.memory == run.jumper.memory()


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ((0, 0, 0, 0, 0, 0), "no jumps in no steps; "),
        ((1, 0, 0, 0, 0, 0), "no jumps in 1 step; "),
        ((2000, 1, 1, 0, 0, 0), "1 jump in 2,000 steps: 1 kept; "),
        ((9, 2, 0, 1, 0, 0, 1), "2 jumps in 9 steps: 1 rolled back, 1 still on probation; roll-"),
        ((9, 0, 0, 0, 2, 1), "no jumps in 9 steps: 2 refused and 1 skipped; "),
        ((9, 1, 1, 0, 0, 1), "1 jump in 9 steps: 1 kept, and 1 skipped; "),
    ],
)
def test_the_summary_reads_well(counts: tuple[int, ...], text: str) -> None:
    steps, made, kept, back, refused, skipped, *lost = counts
    summary = JumpSummary(
        steps, made, kept, back, refused, skipped, (*lost, 0)[0], seconds=0.5, memory=2_000_000
    )
    assert str(summary).startswith(text)
    assert str(summary).endswith("0.5 s and at most 2.0 MB for jumps")
    assert ("cost 1 step;" in str(summary)) == bool(lost)


def test_few_losses_are_enough() -> None:
    pairs = [(s, 1.0 + 0.01 * (s % 2)) for s in range(100, 100 + FEWEST)]
    assert judge(pairs, [(200, 1.0)], 2.0).kept


@pytest.mark.parametrize("every", [20, 50, 200, 1000])
def test_a_probe_is_called_often_enough_by_default(every: int) -> None:
    """However close jumps are, its usual interval leaves eight losses before each."""
    plan = JumpPlan({t: t + 1 for t in range(every, 5 * every, every)}, Reach(1.5))
    settled = Guard(probe=lambda: 0.0).settled(plan)
    assert settled.steps is not None
    assert settled.every is not None
    assert 8 * settled.every <= every - settled.steps
    assert settled.every <= settled.steps
