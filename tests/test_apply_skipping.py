"""Skipping weight updates: when, that nothing of the weights moves, and where it cannot be."""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
import logging
import math
import pickle
import re
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from distributed_skipping import RANKS, VALUES
from hypothesis import given, settings
from hypothesis import strategies as st
from store_reference import refuses
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from weightcast.apply import SkipEvent, SkipRule, UpdateSkipper
from weightcast.apply.skip_rule import SkipState
from weightcast.recorder import Recorder
from weightcast.store import History, UsageError

SCRIPT = Path(__file__).parent / "distributed_skipping.py"


# ---- the rule


def naive_kinds(values: list[float], rule: SkipRule) -> list[str]:
    """What is decided at each evaluation, from all of them, by the rule's words."""
    kinds: list[str] = []
    begin = 0  # where the rule began anew
    for i, value in enumerate(values):
        skipping = bool(kinds) and kinds[-1] in ("entered", "skipping")
        if not math.isfinite(value):
            kinds.append("left" if skipping else "training")
            begin = i + 1
            continue
        changes = [j for j in range(i) if kinds[j] in ("entered", "left")]
        if skipping:
            entered = changes[-1]
            ended = i - entered >= (rule.longest or rule.window)
            worse = naive_gain(rule, value, values[entered]) < -rule.threshold
            kinds.append("left" if ended or worse else "skipping")
            continue
        since = max([begin, *(j + 1 for j in changes)])
        last = values[max(begin, i + 1 - rule.window) : i + 1]
        before = values[max(begin, i + 1 - 2 * rule.window) : i + 1 - len(last)]
        if i + 1 - since < rule.window or not before:
            kinds.append("training")
            continue
        best = max if rule.better == "higher" else min
        low = naive_gain(rule, best(last), best(before)) < rule.threshold
        kinds.append("entered" if low else "training")
    return kinds


def naive_gain(rule: SkipRule, value: float, before: float) -> float:
    if rule.better == "higher":
        return value - before
    return (before - value) / abs(before) if before else before - value


def kinds_of(values: list[float], rule: SkipRule) -> list[str]:
    state, kinds = SkipState(), []
    for value in values:
        state, decision = rule.judge(state, value)
        kinds.append(decision.kind)
        assert state.skipping == (decision.kind in ("entered", "skipping"))
        assert len(state.recent) <= 2 * rule.window
    return kinds


NUMBERS = st.integers(-4, 8).map(lambda n: n / 4)
RULES = st.builds(
    SkipRule,
    threshold=st.sampled_from([0, 0.25, 0.3, 1]),
    window=st.integers(1, 4),
    better=st.sampled_from(["higher", "lower"]),
    longest=st.none() | st.integers(1, 5),
)


@settings(deadline=None)
@given(st.lists(NUMBERS | st.sampled_from([math.nan, math.inf, 0.5]), max_size=40), RULES)
def test_the_rule_is_its_words(values: list[float], rule: SkipRule) -> None:
    assert kinds_of(values, rule) == naive_kinds(values, rule)


def test_a_plateau_is_skipped_in_part_and_gains_are_not() -> None:
    flat = kinds_of([0.9] * 10, SkipRule())
    assert flat == [
        *["training"] * 3,
        *["entered", "skipping", "skipping", "left"],
        *["training", "training", "entered"],
    ]
    rising = [0.5 + i / 500 for i in range(30)]
    assert set(kinds_of(rising, SkipRule())) == {"training"}
    assert set(kinds_of([1 - v for v in rising], SkipRule(better="lower"))) == {"training"}


def test_a_loss_is_judged_by_its_own_size() -> None:
    falling = [100 * 0.95**i for i in range(8)]
    small = [1e-6 * loss for loss in falling]
    for threshold, kinds in ((0.04, {"training"}), (0.2, {"training", "entered", "left"})):
        rule = SkipRule(threshold, window=1, better="lower")
        assert set(kinds_of(falling, rule)) == kinds
        assert kinds_of(small, rule) == kinds_of(falling, rule)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_evaluation_that_is_not_finite_ends_skipping(bad: float) -> None:
    kinds = kinds_of([0.9, 0.9, bad, 0.5, 0.9, 0.9], SkipRule(window=1))
    assert kinds == ["training", "entered", "left", "training", "training", "entered"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"threshold": -0.1}, "threshold"),
        ({"threshold": math.nan}, "threshold"),
        ({"threshold": math.inf}, "threshold"),
        ({"threshold": True}, "threshold"),
        ({"threshold": "0.1"}, "threshold"),
        ({"threshold": 1.5, "better": "lower"}, "from 0 to 1, a share of the loss: got 1.5"),
        ({"window": 0}, "window"),
        ({"window": 2.5}, "window"),
        ({"window": True}, "window"),
        ({"longest": 0}, "longest"),
        ({"better": "more"}, "'higher' or 'lower': got 'more'"),
    ],
)
def test_rules_that_are_none(options: dict[str, Any], said: str) -> None:
    with refuses(UsageError, said):
        SkipRule(**options)
    with refuses(UsageError, said):
        skipper_of(*run_of(), **options)


def test_rules_tell_what_they_do() -> None:
    assert str(SkipRule(0.002, 1, longest=4)) == (
        "skip weights when 1 evaluation gains less than 0.002, for at most 4 evaluations"
    )
    loss = SkipRule(0.01, 2, "lower", longest=1)
    assert "2 evaluations gain less than 1 %, for at most 1 evaluation" in str(loss)
    _, decision = SkipRule(window=1, better="lower").judge(SkipState((2.0,)), 1.999)
    assert "gains 0.05 % on the best of the 1 before, less than 0.1 %" in decision.reason


# ---- a run


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 4), nn.PReLU()
    return nn.Sequential(*layers, nn.Linear(4, 3))


WEIGHTS = ("0.weight", "3.weight", "5.weight")
Make = Callable[[Any], torch.optim.Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "sgd foreach": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.1, foreach=True),
    "sgd fused": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.1, fused=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1, amsgrad=True),
    "adam fused": lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "adamw foreach": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, foreach=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, weight_decay=0.1),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01, weight_decay=0.1),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.01, weight_decay=0.1),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.01, weight_decay=0.1),
    "adadelta": lambda p: torch.optim.Adadelta(p, weight_decay=0.1),
    "adamax": lambda p: torch.optim.Adamax(p, lr=0.01, weight_decay=0.1),
    "adafactor": lambda p: torch.optim.Adafactor(p, weight_decay=0.1),
    "asgd": lambda p: torch.optim.ASGD(p, lr=0.01, weight_decay=0.1),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
}


def run_of(kind: str = "sgd") -> tuple[nn.Sequential, torch.optim.Optimizer]:
    model = network()
    return model, OPTIMIZERS[kind](model.parameters())


def skipper_of(model: nn.Module, optimizer: Any, **options: Any) -> UpdateSkipper:
    return UpdateSkipper(model, optimizer, **options)


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, steps: range, *, none: bool = True
) -> None:
    """Steps with these numbers; each has its own images."""
    for step in steps:
        images = torch.randn(8, 6, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad(set_to_none=none)
        (model(images) - images[:, :3]).square().mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()


def values_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def state_of(optimizer: torch.optim.Optimizer, parameter: torch.Tensor) -> dict[str, Any]:
    return copy.deepcopy(dict(optimizer.state[parameter]))


def same(one: Any, two: Any) -> bool:
    """Whether all tensors in two trees are the same, bit for bit."""
    if isinstance(one, torch.Tensor):
        return one.dtype == two.dtype and _bytes(one) == _bytes(two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(same, one, two))
    return bool(one == two)


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def begin_skipping(skipper: UpdateSkipper) -> None:
    """By evaluations that gain nothing."""
    while not skipper.skipping:
        skipper.update(0.5)


@pytest.mark.parametrize("none", [True, False], ids=["to none", "to zero"])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_skipped_weights_and_their_state_stay_bit_for_bit(kind: str, none: bool) -> None:
    model, optimizer = run_of(kind)
    with skipper_of(model, optimizer, window=1) as skipper:
        train(model, optimizer, range(3), none=none)
        begin_skipping(skipper)
        assert skipper.frozen == WEIGHTS
        before = values_of(model)
        weights = [dict(model.named_parameters())[name] for name in WEIGHTS]
        states = [state_of(optimizer, p) for p in weights]
        train(model, optimizer, range(3, 6), none=none)
        after = values_of(model)
        for name in before:
            assert same(before[name], after[name]) == (name in WEIGHTS), name
        assert all(same(state_of(optimizer, p), s) for p, s in zip(weights, states, strict=True))
        assert all(p.grad is None for p in weights)
        assert skipper.update(0.5).kind == "left"
        assert not skipper.frozen
        train(model, optimizer, range(6, 7), none=none)
        assert not any(same(after[name], values_of(model)[name]) for name in WEIGHTS)


def by_hand(kind: str, parts: list[range]) -> nn.Module:
    """Every second part trains only what is no weight, by an optimizer of its own."""
    model, optimizer = run_of(kind)
    for number, steps in enumerate(parts):
        if number % 2 == 0:
            train(model, optimizer, steps)
            continue
        named = list(model.named_parameters())
        rest = [p for name, p in named if name not in WEIGHTS]
        only = OPTIMIZERS[kind](rest)
        for p in rest:
            only.state[p] = state_of(optimizer, p)
        for name, p in named:
            p.requires_grad_(name not in WEIGHTS)
            p.grad = None
        train(model, only, steps)
        for p in rest:
            optimizer.state[p] = state_of(only, p)
        model.requires_grad_(True)
    return model


PARTS = [range(4), range(4, 8), range(8, 11), range(11, 14), range(14, 16)]


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw", "nadam"])
def test_a_skipper_is_a_second_optimizer_of_the_rest(kind: str) -> None:
    model, optimizer = run_of(kind)
    skipped = []
    with skipper_of(model, optimizer, window=1) as skipper:
        skipper.update(0.5)
        for steps in PARTS:
            train(model, optimizer, steps)
            skipped.append(skipper.update(0.5).kind)
    assert skipped[:4] == ["entered", "left", "entered", "left"]
    assert same(values_of(model), values_of(by_hand(kind, PARTS)))
    assert skipper.summary().skipped == len(PARTS[1]) + len(PARTS[3])


def test_a_resumed_run_is_the_uninterrupted_one() -> None:
    def go_on(skipper: UpdateSkipper, parts: list[range], *made: Any) -> dict[str, torch.Tensor]:
        for steps in parts:
            train(*made, steps)
            skipper.update(0.5)
        return values_of(made[0])

    for stop in range(1, len(PARTS)):
        whole, resumed = run_of("adam"), run_of("adam")
        one = skipper_of(*whole, window=1)
        go_on(one, PARTS[:stop], *whole)
        saved = io.BytesIO()
        torch.save([whole[0].state_dict(), whole[1].state_dict(), one.state_dict()], saved)
        saved.seek(0)
        model, optimizer, skipper = torch.load(saved, weights_only=True)
        two = skipper_of(*resumed, window=1)
        resumed[0].load_state_dict(model)
        resumed[1].load_state_dict(optimizer)
        two.load_state_dict(skipper)
        assert two.frozen == one.frozen
        assert two.frozen or stop % 2
        ends = [go_on(s, PARTS[stop:], *r) for s, r in ((one, whole), (two, resumed))]
        assert same(*ends)
        assert one.events == two.events
        assert one.summary() == two.summary()
        assert one.state_dict() == two.state_dict()


def test_a_state_that_trains_ends_skipping() -> None:
    model, optimizer = run_of()
    skipper = skipper_of(model, optimizer, window=1)
    state = skipper.state_dict()
    begin_skipping(skipper)
    skipper.load_state_dict(state)
    assert not skipper.frozen
    assert model[0].weight.requires_grad


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.pop("rule"),
        lambda s: s.update(rule=[1, 2]),
        lambda s: s.update(step="many"),
        lambda s: s.update(events=[[1, "jumped", 0.5, None, ""]]),
        lambda s: s.clear(),
    ],
)
def test_a_foreign_state_is_refused_and_nothing_changes(change: Callable[[Any], Any]) -> None:
    model, optimizer = run_of()
    skipper = skipper_of(model, optimizer, window=1)
    begin_skipping(skipper)
    before = skipper.state_dict()
    state = copy.deepcopy(before)
    change(state)
    with refuses(UsageError, "state_dict"):
        skipper.load_state_dict(state)
    assert skipper.state_dict() == before
    assert skipper.frozen


# ---- which parameters


class Odd(nn.Module):
    """Parameters outside of torch's modules."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.temperature = nn.Parameter(torch.ones(()))
        self.table = nn.Parameter(torch.ones(3, 3))


@pytest.mark.parametrize(
    ("module", "weights"),
    [
        (nn.Conv2d(1, 2, 3), {"weight"}),
        (nn.Embedding(3, 2), {"weight"}),
        (nn.LSTM(2, 2), {"weight_ih_l0", "weight_hh_l0"}),
        (nn.MultiheadAttention(2, 1), {"in_proj_weight", "out_proj.weight"}),
        (nn.LayerNorm([2, 2]), set()),
        (nn.GroupNorm(1, 2), set()),
        (nn.RMSNorm([2, 2]), set()),
        (nn.PReLU(), set()),
        (Odd(), {"table"}),
    ],
    ids=lambda x: type(x).__name__,
)
def test_what_a_weight_is(module: nn.Module, weights: set[str]) -> None:
    model = nn.ModuleDict({"it": module, "other": nn.Linear(2, 2)})
    with skipper_of(model, torch.optim.SGD(model.parameters(), lr=0.1)) as skipper:
        begin_skipping(skipper)
        assert set(skipper.frozen) == {f"it.{name}" for name in weights} | {"other.weight"}
    assert all(p.requires_grad for p in model.parameters())


def test_tied_weights_are_frozen_together() -> None:
    model = nn.ModuleDict({"in": nn.Embedding(3, 2), "out": nn.Linear(2, 3)})
    model["out"].weight = model["in"].weight
    with skipper_of(model, torch.optim.SGD(model.parameters(), lr=0.1)) as skipper:
        begin_skipping(skipper)
        assert skipper.frozen == ("in.weight",)
        assert not model["out"].weight.requires_grad
    assert model["out"].weight.requires_grad


def test_what_others_froze_or_do_not_train_is_left_alone() -> None:
    model = network()
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD([*model[0].parameters(), *model[3].parameters()], lr=0.1)
    skipper = skipper_of(model, optimizer)
    begin_skipping(skipper)
    assert skipper.frozen == ("3.weight",)
    assert model[5].weight.requires_grad  # no optimizer holds it
    model[3].bias.requires_grad_(False)
    skipper.close()
    assert model[3].weight.requires_grad
    assert not any(p.requires_grad for p in (*model[0].parameters(), model[3].bias))
    skipper.close()


def test_layers_that_are_unfrozen_later_are_skipped_then() -> None:
    model = network()
    model[0].weight.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with skipper_of(model, optimizer, window=1) as skipper:
        model[0].weight.requires_grad_(True)
        begin_skipping(skipper)
        assert skipper.frozen == WEIGHTS


def test_weights_that_others_switch_on_are_an_error() -> None:
    model, optimizer = run_of()
    skipper = skipper_of(model, optimizer, window=1)
    begin_skipping(skipper)
    model.requires_grad_(True)
    with refuses(UsageError, "requires_grad of '0.weight' was switched on by others"):
        skipper.update(0.5)


def test_steps_of_weights_that_others_switched_on_are_not_counted() -> None:
    model, optimizer = run_of()
    with skipper_of(model, optimizer, window=1) as skipper:
        begin_skipping(skipper)
        train(model, optimizer, range(2))
        model[3].requires_grad_(True)
        train(model, optimizer, range(2, 5))
        assert (skipper.summary().steps, skipper.summary().skipped) == (5, 2)


@pytest.mark.parametrize("part", [lambda model: model, lambda model: model[3]], ids=["all", "part"])
def test_a_model_has_one_skipper_at_a_time(part: Callable[[Any], nn.Module]) -> None:
    model, optimizer = run_of()
    with skipper_of(model, optimizer, window=1) as skipper:
        with refuses(UsageError, "one skipper at a time", "close()"):
            skipper_of(part(model), torch.optim.SGD(part(model).parameters(), lr=0.1))
        begin_skipping(skipper)
        assert skipper.frozen == WEIGHTS
        skipper_of(*run_of()).close()  # another model
    skipper_of(part(model), torch.optim.SGD(part(model).parameters(), lr=0.1)).close()


def test_a_skipper_that_was_dropped_with_its_optimizer_does_not_count() -> None:
    model, optimizer = run_of()
    skipper_of(model, optimizer)
    del optimizer
    skipper_of(model, torch.optim.SGD(model.parameters(), lr=0.1)).close()


def test_weights_come_back_a_step_late_between_forward_and_backward() -> None:
    """As documented: the graph that is there has none of their gradients."""
    model, optimizer = run_of()
    with skipper_of(model, optimizer, window=1) as skipper:
        begin_skipping(skipper)
        before = values_of(model)
        loss = model(torch.ones(4, 6)).square().mean()
        assert skipper.update(0.5).kind == "left"
        loss.backward()
        optimizer.step()
        assert same(before["0.weight"], values_of(model)["0.weight"])
        assert skipper.summary().skipped == 0
        train(model, optimizer, range(1))
        assert not same(before["0.weight"], values_of(model)["0.weight"])


# ---- what can stand between


def accumulate(model: nn.Module) -> None:
    model(torch.ones(4, 6)).square().mean().backward()


def test_a_switch_waits_for_gradients_that_no_step_has_used() -> None:
    model, optimizer = run_of()
    with skipper_of(model, optimizer, window=1) as skipper:
        skipper.update(0.5)
        accumulate(model)
        assert skipper.update(0.5).kind == "entered"
        assert skipper.skipping
        assert not skipper.frozen
        before = values_of(model)
        accumulate(model)
        optimizer.step()
        assert not same(before["0.weight"], values_of(model)["0.weight"])
        assert skipper.frozen == WEIGHTS
        accumulate(model)  # on top of what the step has used
        assert skipper.update(0.5).kind == "left"
        assert skipper.frozen  # half of a batch without them would be a wrong gradient
        optimizer.step()
        assert not skipper.frozen
        assert skipper.summary().skipped == 1


def test_a_switch_does_not_wait_for_used_gradients() -> None:
    model, optimizer = run_of()
    with skipper_of(model, optimizer, window=1) as skipper:
        train(model, optimizer, range(2))
        assert model[0].weight.grad is not None
        begin_skipping(skipper)
        assert skipper.frozen


def test_gradients_are_not_held() -> None:
    model, optimizer = run_of()
    with skipper_of(model, optimizer):
        train(model, optimizer, range(1))
        grad = weakref.ref(model[0].weight.grad)
        optimizer.zero_grad()
        assert grad() is None


def test_steps_that_a_scaler_leaves_out_are_not_counted() -> None:
    model, optimizer = run_of()
    scaler = torch.amp.GradScaler("cpu")
    with skipper_of(model, optimizer, window=1) as skipper:
        begin_skipping(skipper)
        for factor in (1.0, math.inf, 1.0):
            optimizer.zero_grad()
            scaler.scale(model(torch.ones(4, 6)).square().mean() * factor).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
        assert skipper.summary().steps == skipper.summary().skipped == 2
    assert all(p.isfinite().all() for p in model.parameters())


def test_several_optimizers_one_of_weights_only() -> None:
    model = nn.Sequential(nn.Embedding(5, 3, sparse=True), nn.Linear(3, 2))
    sparse = torch.optim.SparseAdam(model[0].parameters())
    dense = torch.optim.Adam(model[1].parameters())
    with skipper_of(model, [sparse, dense], window=1) as skipper:
        for value in (0.5, 0.5, 0.5):
            before = values_of(model)
            skipped = bool(skipper.frozen)
            sparse.zero_grad()
            dense.zero_grad()
            model(torch.tensor([1, 2])).square().sum().backward()
            sparse.step()
            dense.step()
            after = values_of(model)
            assert same(before["0.weight"], after["0.weight"]) == skipped
            assert same(before["1.weight"], after["1.weight"]) == skipped
            assert not same(before["1.bias"], after["1.bias"])
            skipper.update(value)
        assert (skipper.step, skipper.summary().skipped, skipper.summary().windows) == (3, 1, 1)


def convolutions() -> tuple[nn.Sequential, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(1, 2, 3), nn.Tanh(), nn.Conv1d(2, 3, 2), nn.Flatten())
    model.append(nn.Linear(9, 3))
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def test_a_compiled_model_is_the_plain_one() -> None:
    compiles = []

    def backend(graph: Any, inputs: Any) -> Any:
        from torch._dynamo.backends.debugging import aot_eager

        compiles.append(graph)
        return aot_eager(graph, inputs)

    ends = []
    for compiled in (False, True):
        torch._dynamo.reset()
        model, optimizer = convolutions()
        called = torch.compile(model, backend=backend) if compiled else model
        with skipper_of(called, optimizer, window=1) as skipper:
            for steps in PARTS:
                train(nn.Sequential(nn.Unflatten(1, (1, 6)), called), optimizer, steps)
                skipper.update(0.5)
                assert skipper.frozen in ((), ("0.weight", "2.weight", "4.weight"))
        ends.append(values_of(model))
        assert skipper.summary().windows == 2
    assert same(*ends)
    assert len(compiles) == 2  # once with weights, once without


class Backwards(TorchDispatchMode):
    """Notes of each convolution's backward if it gives gradients of images, weights, biases."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[bool]] = []

    def __torch_dispatch__(
        self, called: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if called is torch.ops.aten.convolution_backward.default:
            self.seen.append(list(args[-1]))
        return called(*args, **(kwargs or {}))


def test_convolutions_compute_no_gradients_of_their_weights() -> None:
    """On processors torch computes them with those of biases, and throws them away."""
    model, optimizer = convolutions()

    def computed() -> list[list[bool]]:
        with Backwards() as mode:
            model(torch.ones(4, 1, 6)).sum().backward()
        return mode.seen

    full = [[True, True, True], [False, True, True]]  # the last one first
    assert computed() == full
    with skipper_of(model, optimizer, window=1) as skipper:
        optimizer.zero_grad()
        begin_skipping(skipper)
        assert computed() == [[True, False, False]]
        assert all(model[i].bias.grad.abs().sum() > 0 for i in (0, 2))
    assert computed() == full


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d, nn.Conv3d])
def test_convolutions_give_the_same_while_weights_are_skipped(
    kind: type[nn.Conv2d], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    sizes = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}[kind]
    model = nn.Sequential(kind(2, 4, 3, padding=1, padding_mode="circular"), nn.Tanh())
    model.append(kind(4, 2, 2, stride=2, groups=2))
    images = torch.randn(3, 2, *[6] * sizes)

    def result() -> list[torch.Tensor]:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            out = model(images)
            one = model(images[0])
        model.zero_grad()
        (out.square().sum() + one.sum()).backward()
        return [out.detach(), one.detach(), *(layer.bias.grad for layer in (model[0], model[2]))]

    before = result()
    with skipper_of(model, torch.optim.SGD(model.parameters(), lr=0.1)) as skipper:
        model.zero_grad()  # which would wait for a step
        begin_skipping(skipper)
        assert skipper.frozen
        during = result()
        copied = copy.deepcopy(model)
        saved = io.BytesIO()
        torch.save(model, saved)
        saved.seek(0)
        loaded = torch.load(saved, weights_only=False)
        assert loaded[0]._conv_forward.__func__ is kind._conv_forward
        assert bool((copied(images) == model(images)).all())
        assert bool((loaded(images) == model(images)).all())
    loaded.requires_grad_(True)
    with skipper_of(loaded, torch.optim.SGD(loaded.parameters(), lr=0.1)) as skipper:
        begin_skipping(skipper)
        assert loaded[0]._conv_forward.__func__ is not kind._conv_forward
    for one, two in zip(before, during, strict=True):
        assert one.dtype == two.dtype
        rounding = 1e-5 if dtype == torch.float32 else 1e-2  # of gradients that autocast computes
        torch.testing.assert_close(one, two, rtol=rounding, atol=rounding)
    assert all(bool((a == b).all()) for a, b in zip(before[:2], during[:2], strict=True))
    assert same(result(), before)
    assert "_conv_forward" not in vars(model[0])


# ---- telling


def test_every_decision_is_logged_told_and_stored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "weightcast.apply")
    model, optimizer = run_of()
    told: list[SkipEvent] = []
    with (
        Recorder(model, tmp_path / "run.zarr", "every:2").attach(optimizer) as recorder,
        skipper_of(model, optimizer, window=1, history=recorder, listener=told.append) as skipper,
    ):
        for i, value in enumerate((0.5, 0.8, 0.8, math.nan, 0.7)):
            train(model, optimizer, range(2 * i, 2 * i + 2))
            assert skipper.update(value) is skipper.events[-1]
    assert told == skipper.events
    assert [event.step for event in told] == [2, 4, 6, 8, 10]
    assert [event.kind for event in told] == ["training", "training", "entered", "left", "training"]
    assert [r.getMessage() for r in caplog.records] == [str(event) for event in told]
    assert "step 6: 0.8: weights are skipped from here on: the best of the last 1" in str(told[2])
    metrics = {name: steps_and_values(tmp_path, name) for name in ("skipping", "value", "gain")}
    assert metrics["skipping"] == ([2, 4, 6, 8, 10], [0, 0, 1, 0, 0])
    assert metrics["value"][0] == [2, 4, 6, 8, 10]
    np.testing.assert_allclose(metrics["value"][1], [0.5, 0.8, 0.8, math.nan, 0.7])
    assert metrics["gain"] == ([4, 6], pytest.approx([0.3, 0.0]))


def steps_and_values(folder: Path, name: str) -> tuple[list[int], list[float]]:
    steps, values = History(folder / "run.zarr").metric(f"skip/{name}")
    return steps.tolist(), values.tolist()


@pytest.mark.parametrize(
    "value", [1, 0.5, np.float32(0.5), np.array(0.5), torch.tensor(0.5), torch.tensor([1])]
)
def test_evaluations_are_numbers_of_any_kind(value: Any) -> None:
    with skipper_of(*run_of()) as skipper:
        assert skipper.update(value).value == float(value)


@pytest.mark.parametrize(
    "value", [True, "0.5", None, 1j, [0.5], torch.ones(2), np.ones((30, 2)), np.True_, 10**400]
)
def test_what_is_no_evaluation(value: Any) -> None:
    with skipper_of(*run_of()) as skipper:
        with refuses(UsageError, "an evaluation is one number"):
            skipper.update(value)
        assert not skipper.events


# ---- what cannot be


def without_biases() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))


def only_biases() -> nn.Module:
    model = nn.Linear(2, 2)
    model.weight.requires_grad_(False)
    return model


@pytest.mark.parametrize(
    ("model", "made", "said"),
    [
        (without_biases(), torch.optim.SGD, "backward would have nothing to do"),
        (only_biases(), torch.optim.SGD, "the optimizer trains 1, none of them a weight"),
        (network(), torch.optim.LBFGS, "LBFGS"),
        (network(), lambda _: torch.optim.SGD([torch.zeros(2, 2)]), "the optimizer trains 0"),
        (network(), lambda _: [], "got none"),
        (network(), lambda _: "sgd", "got str, str, str"),
        (network(), lambda _: None, "got NoneType"),
    ],
)
def test_runs_that_cannot_skip(model: nn.Module, made: Callable[[Any], Any], said: str) -> None:
    before = [p.requires_grad for p in model.parameters()]
    with refuses(UsageError, said):
        skipper_of(model, made(model.parameters()))
    assert [p.requires_grad for p in model.parameters()] == before


def test_arguments_of_other_types() -> None:
    model, optimizer = run_of()
    with refuses(UsageError, "give the torch.nn.Module"):
        skipper_of([model], optimizer)
    with refuses(UsageError, "Recorder: got a str"):
        skipper_of(model, optimizer, history="run.zarr")
    with refuses(UsageError, "rule is a SkipRule"):
        skipper_of(model, optimizer, rule=0.001)
    with refuses(UsageError, "and not both"):
        skipper_of(model, optimizer, rule=SkipRule(), window=2)
    assert skipper_of(model, optimizer, rule=SkipRule(window=2)).rule.window == 2


def test_a_closed_skipper_counts_and_decides_no_more() -> None:
    model, optimizer = run_of()
    with skipper_of(model, optimizer) as skipper:
        train(model, optimizer, range(2))
    train(model, optimizer, range(2))
    assert skipper.step == 2
    with refuses(UsageError, "closed"):
        skipper.update(0.5)
    with refuses(UsageError, "not copied or pickled"):
        pickle.dumps(skipper)


# ---- as documented


def test_the_loop_of_the_document(capsys: pytest.CaptureFixture[str]) -> None:
    """The first code of docs/skipping.md; its model gains until epoch 50."""
    text = (Path(__file__).parent.parent / "docs/skipping.md").read_text()
    program, _ = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    values = iter([min(0.9, 0.4 + i / 100) for i in range(100)])
    known: dict[str, Any] = {"torch": torch, "model": network(), "accuracy": lambda _: next(values)}
    known["train"] = lambda model, optimizer: train(model, optimizer, range(2))
    exec(compile(program, "docs/skipping.md", "exec"), known)
    skipper = known["skipper"]
    *told, summary = capsys.readouterr().out.splitlines()
    assert told == [str(event) for event in skipper.events]
    assert summary == str(skipper.summary())
    # the last three are no better than the three before for the first time at the 54th
    entered = [event.step for event in skipper.events if event.kind == "entered"]
    assert entered == [2 * epoch for epoch in range(54, 101, 6)]
    assert all(p.requires_grad for p in known["model"].parameters())


# ---- several processes


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What both processes found."""
    folder = tmp_path_factory.mktemp("distributed")
    with contextlib.ExitStack() as stack:
        logs = [stack.enter_context((folder / f"{rank}.log").open("w+")) for rank in range(RANKS)]
        command = [sys.executable, str(SCRIPT), str(folder)]
        running = [
            stack.enter_context(subprocess.Popen([*command, str(i)], stdout=log, stderr=log))
            for i, log in enumerate(logs)
        ]
        try:
            codes = [process.wait(timeout=300) for process in running]
        finally:
            for process in running:
                process.kill()
    assert codes == [0] * RANKS, "".join((folder / f"{i}.log").read_text() for i in range(RANKS))
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]


@pytest.mark.parametrize("kind", ["plain", "views"])
def test_ranks_decide_together_and_stay_the_same(ranks: list[dict[str, Any]], kind: str) -> None:
    first, second = (found[kind] for found in ranks)
    expected = ["training", "training", "entered", "left", "training", "entered"]
    assert first["kinds"] == second["kinds"] == expected
    for values in VALUES:
        assert kinds_of(values, SkipRule(window=1)) != expected  # none alone
    assert same(first["weights"], second["weights"])
    for i, (before, after) in enumerate(itertools.pairwise(first["weights"])):
        moved = [not same(one, two) for one, two in zip(before, after, strict=True)]
        assert moved == [i != 2, True, i != 2, True]  # weight, bias, weight, bias


def test_wrappers_that_wait_for_all_gradients_are_refused(ranks: list[dict[str, Any]]) -> None:
    for found in (rank["refused"] for rank in ranks):
        for name in ("wrapper", "inside", "static", "late"):
            assert "find_unused_parameters=True" in found[name], name
        assert "must be made while all weights take gradients" in found["frozen"]
        assert "sharded" in found["sharded"]
