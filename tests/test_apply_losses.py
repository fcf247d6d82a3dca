"""The losses of a run, seen through torch's ``backward``; torch is afterwards as it was."""

from __future__ import annotations

import gc
import itertools
import math
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

from weightcast.apply.guard import Guard
from weightcast.apply.judging import Judge
from weightcast.apply.losses import LossLog
from weightcast.apply.plan import JumpPlan, Reach
from weightcast.apply.tapping import tap

PLAIN = torch.autograd.backward, torch.amp.GradScaler.scale


def torch_is_plain() -> bool:
    return (torch.autograd.backward, torch.amp.GradScaler.scale) == PLAIN


@pytest.fixture
def seen() -> Iterator[list[float]]:
    found: list[float] = []

    def listener(loss: torch.Tensor) -> None:
        found.append(float(loss))

    tap.listen(listener)
    yield found
    tap.leave(listener)
    assert torch_is_plain()


def weight() -> torch.Tensor:
    return torch.ones(1, requires_grad=True)


def scaled_in_parts(scaler: torch.amp.GradScaler, w: torch.Tensor) -> None:
    for loss in scaler.scale([2 * w.sum(), 3 * w.sum()]):
        loss.backward()


def inside_another(w: torch.Tensor) -> None:
    (checkpoint(lambda v: (5 * v).sum(), w, use_reentrant=True) * 2).backward()


def in_a_hook(w: torch.Tensor) -> None:
    other = weight()

    @torch.enable_grad()
    def hook(_: torch.Tensor) -> None:
        (7 * other).sum().backward()

    w.register_hook(hook)
    (2 * w).sum().backward()


def twice(w: torch.Tensor) -> None:
    loss = (2 * w * w).sum()
    loss.backward(retain_graph=True, create_graph=False)
    loss.backward()


def double(w: torch.Tensor) -> None:
    (slope,) = torch.autograd.grad((w**3).sum(), w, create_graph=True)
    slope.square().sum().backward()


def in_no_step(w: torch.Tensor) -> None:
    torch.autograd.backward(iter([2 * w.sum(), (4 * w).sum()]))


def compiled(w: torch.Tensor) -> None:
    torch.compile(lambda v: (6 * v).sum(), backend="eager")(w).backward()


WAYS: dict[str, tuple[Callable[[torch.Tensor], None], list[float]]] = {
    "Tensor.backward": (lambda w: (3 * w).sum().backward(), [3.0]),
    "shape (1,)": (lambda w: (3 * w).backward(), [3.0]),
    "autograd.backward": (lambda w: torch.autograd.backward((3 * w).sum()), [3.0]),
    "by keyword": (lambda w: torch.autograd.backward(tensors=(3 * w).sum()), [3.0]),
    "several roots": (lambda w: torch.autograd.backward([w.sum(), 2 * w.sum()]), [1.0, 2.0]),
    "roots of an iterator": (in_no_step, [2.0, 4.0]),
    "not one number": (lambda w: (w * torch.ones(3)).backward(torch.ones(3)), []),
    "twice": (twice, [2.0, 2.0]),
    "double backward": (double, [9.0]),
    "scaled": (lambda w: torch.amp.GradScaler("cpu").scale((3 * w).sum()).backward(), [3.0]),
    "scaled in parts": (lambda w: scaled_in_parts(torch.amp.GradScaler("cpu"), w), [2.0, 3.0]),
    "scaler off": (
        lambda w: torch.amp.GradScaler("cpu", enabled=False).scale((3 * w).sum()).backward(),
        [3.0],
    ),
    "a reentrant checkpoint": (inside_another, [10.0]),
    "backward in a hook": (in_a_hook, [2.0]),
    "compiled": (compiled, [6.0]),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_loss_is_seen_however_backward_is_called(way: str, seen: list[float]) -> None:
    run, losses = WAYS[way]
    w = weight()
    run(w)
    assert seen == losses
    assert w.grad is not None


@pytest.mark.parametrize("kind", [list, tuple, iter])
def test_a_scaler_gives_what_it_gave(kind: Callable[[Any], Any], seen: list[float]) -> None:
    scaled = torch.amp.GradScaler("cpu").scale(kind([2 * weight().sum(), 3 * weight().sum()]))
    if kind is not iter:
        assert isinstance(scaled, kind)  # type: ignore[arg-type]
    for loss in scaled:
        loss.backward()
    assert seen == [2.0, 3.0]


def test_a_scaler_of_its_own_kind_is_seen_too() -> None:
    class Scaler(torch.amp.GradScaler):
        def scale(self, outputs):  # type: ignore[no-untyped-def]
            return super().scale(outputs) * 2

    before, found = vars(Scaler)["scale"], []
    tap.listen(found.append)
    Scaler("cpu").scale((3 * weight()).sum()).backward()
    tap.leave(found.append)
    assert [float(loss) for loss in found] == [3.0]
    assert vars(Scaler)["scale"] is before
    del Scaler
    gc.collect()


@settings(deadline=None, max_examples=50)
@given(st.permutations(list(range(3)) * 2))
def test_torch_is_as_it_was_when_the_last_has_left(order: list[int]) -> None:
    heard: list[list[float]] = [[], [], []]
    listeners = [lambda loss, own=own: own.append(float(loss)) for own in heard]
    there: set[int] = set()
    expected: list[list[float]] = [[], [], []]
    for value, i in enumerate(order):
        if i in there:
            tap.leave(listeners[i])
        else:
            tap.listen(listeners[i])
        there ^= {i}
        assert torch_is_plain() == (not there)
        (weight() * value).sum().backward()
        for j in there:
            expected[j].append(float(value))
    assert heard == expected


@pytest.mark.parametrize("theirs_last", [True, False])
def test_what_somebody_else_has_put_around_backward_stays(theirs_last: bool) -> None:
    found: list[torch.Tensor] = []
    calls = []
    tap.listen(found.append)
    ours = torch.autograd.backward

    def theirs(*args, **kwargs):  # type: ignore[no-untyped-def]
        calls.append(1)
        ours(*args, **kwargs)

    torch.autograd.backward = theirs
    try:
        tap.leave(found.append)
        assert torch.autograd.backward is theirs
        weight().sum().backward()
        assert (len(calls), len(found)) == (1, 0)
        tap.listen(found.append)  # once more, around theirs, which has ours in it
        weight().sum().backward()
        assert (len(calls), len(found)) == (2, 1)
        if theirs_last:  # they put back what they found, which is ours of before
            torch.autograd.backward = ours
            weight().sum().backward()
            assert (len(calls), len(found)) == (2, 1)
        tap.leave(found.append)
        assert torch.autograd.backward is (ours if theirs_last else theirs)
        weight().sum().backward()
        assert len(found) == 1
    finally:
        torch.autograd.backward = PLAIN[0]
        tap.leave(found.append)
    assert torch_is_plain()


def test_a_judge_that_nobody_closes_leaves_with_its_last_name() -> None:
    plan = JumpPlan({100: 200}, Reach(2.0), None)
    judge = Judge(Guard(steps=10).settled(plan), plan)
    assert not torch_is_plain()
    del judge
    gc.collect()
    assert torch_is_plain()


# ---- the log


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.lists(st.floats(-1e3, 1e3) | st.just(math.inf), max_size=3), max_size=12),
    st.integers(1, 8),
    st.integers(0, 12),
)
def test_the_log_is_means_of_steps(losses: list[list[float]], kept: int, saved: int) -> None:
    log = LossLog(kept)
    expected: list[tuple[int, float]] = []
    for step, those in enumerate(losses, start=1):
        for loss in those:
            log.add(torch.tensor(loss, dtype=torch.float64, requires_grad=True))
        log.end(step)
        if those:
            counted = [loss for loss in those if math.isfinite(loss)] or those[-1:]
            expected.append((step, sum(counted) / len(counted)))
        if step == saved:
            other = LossLog(kept)
            other.load_state_dict(log.state_dict())
            log = other
    assert log.read() == expected[-kept:]
    assert log.read(2, 5) == [(s, v) for s, v in expected[-kept:] if 2 <= s < 5]
    assert len(log) == len(expected[-kept:])
    finite = [v for _, v in expected if math.isfinite(v)]
    assert log.highest == max(finite) if finite else math.isnan(log.highest)
    assert log.latest == (expected[-1] if expected else None)


def test_a_loss_that_is_changed_in_place_afterwards_is_seen_as_it_was() -> None:
    log, loss = LossLog(2), torch.tensor(3.0)
    log.add(loss)
    loss.zero_()
    log.end(1)
    assert log.read() == [(1, 3.0)]


def test_losses_do_not_hold_the_graph_nor_the_model() -> None:
    plan = JumpPlan({100: 200}, Reach(2.0), None)
    judge = Judge(Guard(steps=10).settled(plan), plan)
    model = nn.Linear(2, 1)
    for step in itertools.count(1):
        model(torch.ones(1, 2)).sum().backward()
        judge.see(step)
        if step == 3:
            break
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None
    judge.close()


def test_a_loss_of_a_skipped_step_does_not_count_beside_others() -> None:
    log = LossLog(4)
    for loss in (torch.inf, 2.0, 4.0):
        log.add(torch.tensor(loss))
    log.end(1)
    log.add(torch.tensor(torch.nan))
    log.add(torch.tensor(torch.inf))
    log.end(2)
    log.add(torch.tensor(5.0))
    log.end(3)
    steps, losses = zip(*log.read(), strict=True)
    assert (steps, losses[0], losses[2]) == ((1, 2, 3), 3.0, 5.0)
    assert not math.isfinite(losses[1])
    assert log.highest == 5.0
