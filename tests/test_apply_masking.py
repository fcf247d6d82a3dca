"""Masks that hold: pruned weights stay exactly 0, and the others train as if they never were."""

from __future__ import annotations

import copy
import gc
import io
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from store_reference import refuses
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.optim.swa_utils import AveragedModel
from torch.testing._internal.distributed.fake_pg import FakeStore

from weightcast.apply import Jumper, hold, prune, random_mask, rewind
from weightcast.predictor import LinearFit
from weightcast.recorder import Recorder
from weightcast.store import History, ShapeError, UsageError

State = dict[str, torch.Tensor]
Optimizers = Callable[[Any], torch.optim.Optimizer]


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4)
        )
    return model.to(dtype, memory_format=torch.channels_last)


def mask_of(model: nn.Module) -> State:
    return random_mask(prune(model, 0.5), 0)


def loss_of(model: nn.Module, step: int) -> torch.Tensor:
    x = torch.randn(5, 2, 3, 3, generator=torch.Generator().manual_seed(step))
    return model(x.to(next(model.parameters()).dtype)).square().mean()


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, steps: range, check: State | None = None
) -> None:
    for step in steps:
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()
        if check is not None:
            assert holds(model, check)


def holds(model: nn.Module, mask: State) -> bool:
    """Whether pruned weights and their gradients are 0, and the others are not."""
    for name, kept in mask.items():
        p = model.get_parameter(name)
        assert p[kept].count_nonzero() == kept.sum()
        if p[~kept].any() or (p.grad is not None and p.grad[~kept].any()):
            return False
    return True


def same(one: nn.Module, two: nn.Module) -> bool:
    """Bit for bit, but for the sign of a 0."""
    pairs = zip(one.parameters(), two.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


# ---- beside a training loop that does the same by hand


@torch.no_grad()
def by_hand(model: nn.Module, mask: State, what: str) -> None:
    for name, kept in mask.items():
        p = model.get_parameter(name)
        part = p if what == "weights" else p.grad
        assert part is not None
        part[~kept] = 0


OPTIMIZERS: dict[str, Optimizers] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, foreach=True),
    "fused sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1, fused=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1, foreach=True),
    "fused adam": lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.5, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1, weight_decay=0.1),
}


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(sorted(OPTIMIZERS)),
    st.integers(0, 3),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 2**31),
)
def test_training_is_that_of_the_sub_network(
    kind: str, before: int, dtype: torch.dtype, fraction: float, seed: int
) -> None:
    """Also where the optimizer has momentum of weights that are pruned only now."""
    # torch 2.13's fused SGD mixes up the momentum of bfloat16 weights, without a mask too
    assume(kind != "fused sgd" or dtype != torch.bfloat16)
    ours, reference = network(dtype), network(dtype)
    optimizer, theirs = (OPTIMIZERS[kind](m.parameters()) for m in (ours, reference))
    train(ours, optimizer, range(before))
    train(reference, theirs, range(before))
    mask = random_mask(prune(ours, fraction), seed)
    with hold(ours, mask):
        by_hand(reference, mask, "weights")
        assert same(ours, reference)
        for step in range(before, before + 4):
            train(ours, optimizer, range(step, step + 1))
            theirs.zero_grad()
            loss_of(reference, step).backward()
            by_hand(reference, mask, "gradients")
            theirs.step()
            by_hand(reference, mask, "weights")
            assert same(ours, reference)
            for name, kept in mask.items():
                assert not ours.get_parameter(name)[~kept].any()
    assert all(
        not value[~mask[name]].any()
        for name in mask
        for value in optimizer.state[ours.get_parameter(name)].values()
        if isinstance(value, torch.Tensor) and value.ndim
    )


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_held_under_any_optimizer(kind: str) -> None:
    model = network()
    optimizer = OPTIMIZERS[kind](model.parameters())
    mask = mask_of(model)
    train(model, optimizer, range(3))
    with hold(model, mask, optimizer):
        assert holds(model, mask)  # gradients that are there already too
        train(model, optimizer, range(3, 6), mask)


# ---- what sees gradients


def test_gradient_norms_are_those_of_the_sub_network() -> None:
    model, reference = network(), network()
    mask = mask_of(model)
    by_hand(reference, mask, "weights")
    loss_of(reference, 0).backward()
    by_hand(reference, mask, "gradients")
    expected = torch.linalg.vector_norm(
        torch.cat([p.grad.reshape(-1) for p in reference.parameters() if p.grad is not None])
    )
    with hold(model, mask):
        for _ in range(2):
            model.zero_grad()
            loss_of(model, 0).backward()
            found = nn.utils.clip_grad_norm_(model.parameters(), 1e9)
            assert torch.allclose(found, expected, rtol=1e-6)


def test_gradients_that_add_up_and_that_are_differentiated() -> None:
    model = network(torch.float64)
    mask = mask_of(model)
    held = hold(model, mask)
    loss_of(model, 0).backward()
    loss_of(model, 1).backward()
    assert holds(model, mask)
    weight = model[4].weight
    (first,) = torch.autograd.grad(loss_of(model, 0), [weight], create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), [weight])
    assert second[mask["4.weight"]].any()
    held.close()


def test_what_is_not_finite_in_a_pruned_weight_is_nothing() -> None:
    weight = nn.Parameter(torch.tensor([[float("nan"), 1.0]]))
    model = nn.Module()
    model.w = weight
    optimizer = torch.optim.Adam([weight])
    with hold(model, {"w": torch.tensor([[False, True]])}):
        (weight * torch.tensor([[float("inf"), 1.0]])).sum().backward()
        optimizer.step()
        assert weight[0, 0] == 0
        assert weight[0, 1].isfinite()
        assert weight.grad is not None
        assert weight.grad.tolist() == [[0, 1]]


def test_sparse_gradients_train_and_weights_are_held() -> None:
    model = nn.Embedding(4, 2, sparse=True)
    mask = {"weight": torch.tensor([[True, False]] * 4)}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model.weight.detach().clone()
    with hold(model, mask):
        model(torch.tensor([1, 1, 2])).sum().backward()
        optimizer.step()
    assert not model.weight[:, 1].any()
    assert model.weight[:, 0].ne(before[:, 0]).tolist() == [False, True, True, False]


# ---- ways to step


def test_lbfgs() -> None:
    model = network().to(memory_format=torch.contiguous_format)  # it takes no other
    mask = mask_of(model)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=4, history_size=3)
    seen = []

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, 0)
        loss.backward()
        seen.append(holds(model, mask))
        return loss

    with hold(model, mask):
        for _ in range(3):
            optimizer.step(closure)
            assert holds(model, mask)
    assert len(seen) > 3
    assert all(seen)


def test_scaled_losses_that_overflow() -> None:
    model = network()
    mask = mask_of(model)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    with hold(model, mask):
        for step, factor in enumerate([1.0, float("inf"), 1.0]):
            optimizer.zero_grad()
            scaler.scale(loss_of(model, step) * factor).backward()
            scaler.unscale_(optimizer)
            before = model[4].weight.detach().clone()
            scaler.step(optimizer)
            scaler.update()
            assert torch.equal(before, model[4].weight) == (step == 1)
            for name, kept in mask.items():
                assert not model.get_parameter(name)[~kept].any()


def test_several_optimizers_and_one_made_late() -> None:
    model = network()
    mask = mask_of(model)
    encoder = torch.optim.SGD(model[0].parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    head = torch.optim.Adam([*model[1].parameters(), *model[4].parameters()], weight_decay=0.1)
    with hold(model, mask, [encoder, head]):
        for step in range(4):
            if step == 2:
                head = torch.optim.AdamW(model[4].parameters(), weight_decay=0.5)
            model.zero_grad()
            loss_of(model, step).backward()
            encoder.step()
            head.step()
            assert holds(model, mask)


def test_steps_within_the_backward_pass() -> None:
    model = network()
    mask = mask_of(model)

    def step(p: torch.Tensor) -> None:
        optimizers[p].step()
        optimizers[p].zero_grad()

    optimizers = {p: torch.optim.SGD([p], lr=0.1, weight_decay=0.1) for p in model.parameters()}
    for p in optimizers:
        p.register_post_accumulate_grad_hook(step)
    with hold(model, mask):
        for batch in range(3):
            loss_of(model, batch).backward()
            assert holds(model, mask)


@pytest.mark.parametrize("jumper_first", [True, False])
def test_jumps_leave_pruned_weights_alone(jumper_first: bool) -> None:
    """The snapshots of a jump may be from before the weights were pruned."""
    model = network()
    mask = mask_of(model)
    inner = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    def jumper() -> Jumper:
        return Jumper(inner, LinearFit(), jump_points=[6, 10], guard=None)

    optimizer = jumper() if jumper_first else None
    train(model, optimizer or inner, range(3))
    with hold(model, mask, inner):
        optimizer = optimizer or jumper()
        train(model, optimizer, range(3, 16), mask)
    assert len(optimizer.live.jumped) == 2


def test_a_history_has_zeros(tmp_path: Path) -> None:
    """Also one whose recorder was there first, and of an optimizer with momentum."""
    model = network()
    mask = mask_of(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with Recorder(model, tmp_path / "run.zarr").attach(optimizer):
        train(model, optimizer, range(3))
        with hold(model, mask):
            train(model, optimizer, range(3, 6))
    history = History(tmp_path / "run.zarr")
    for name, kept in mask.items():
        recorded = torch.from_numpy(history[name][:])
        assert not recorded[4:, ~kept].any()
        assert recorded[:4, ~kept].all()


def test_compiled() -> None:
    model = network()
    mask = mask_of(model)
    compiled = torch.compile(model, backend="aot_eager")
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.1)
    with hold(compiled, mask):  # type: ignore[arg-type]
        train(compiled, optimizer, range(3))  # type: ignore[arg-type]
        assert holds(model, mask)


@pytest.fixture
def one_rank() -> Iterator[None]:
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("held_first", [True, False])
def test_data_parallel(held_first: bool) -> None:
    model, reference = network(), network()
    mask = mask_of(model)
    held = hold(model, mask) if held_first else None
    parallel = nn.parallel.DistributedDataParallel(model)
    held = held or hold(parallel, mask)
    optimizer = torch.optim.SGD(parallel.parameters(), lr=0.1, momentum=0.9)
    train(parallel, optimizer, range(3))
    assert holds(model, mask)
    with hold(reference, mask):
        train(reference, torch.optim.SGD(reference.parameters(), lr=0.1, momentum=0.9), range(3))
    assert same(model, reference)
    held.close()


def test_of_a_dtensor_each_rank_holds_its_own() -> None:
    """This is the last of three ranks, as in the tests of rewinding."""
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=2, world_size=3)
    try:
        mesh = DeviceMesh("cpu", [0, 1, 2])
        model = nn.Module()
        ones = distribute_tensor(torch.ones(5, 3), mesh, [Shard(0)], src_data_rank=None)
        model.w = nn.Parameter(ones)
        kept = torch.arange(15).view(5, 3) % 2 == 0
        optimizer = torch.optim.SGD([model.w], lr=0.5, momentum=0.9)
        model.w.to_local().sum().backward()
        optimizer.step()
        with hold(model, {"w": kept}):
            assert model.w.to_local().tolist() == [[0.5, 0, 0.5]]
            model.w.to_local().sum().backward()
            assert model.w.grad.to_local().tolist() == [[2, 0, 2]]
            optimizer.step()
            assert model.w.to_local()[0, 1] == 0
            assert model.w.to_local()[0, 0] < 0
    finally:
        torch.distributed.destroy_process_group()


def test_an_average_is_of_zeros() -> None:
    model = network()
    mask = mask_of(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    averaged = AveragedModel(model)  # what it starts with is overwritten by its first update
    with hold(model, mask):
        for step in range(3):
            train(model, optimizer, range(step, step + 1))
            averaged.update_parameters(model)
    for name, kept in mask.items():
        assert not averaged.module.get_parameter(name)[~kept].any()


# ---- its beginning and its end


def test_closed_it_lets_go() -> None:
    model, reference = network(), network()
    mask = mask_of(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    held = hold(model, mask)
    train(model, optimizer, range(2))
    held.close()
    held.close()
    reference.load_state_dict(model.state_dict())
    train(model, optimizer, range(2, 4))
    train(reference, torch.optim.SGD(reference.parameters(), lr=0.1), range(2, 4))
    assert same(model, reference)
    assert all(model.get_parameter(name)[~kept].all() for name, kept in mask.items())


def test_the_next_round_can_begin_within_the_last() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    first = prune(model, 0.3)
    outer = hold(model, first)
    train(model, optimizer, range(2))
    second = prune(model, 0.3, mask=first)
    with hold(model, second):
        train(model, optimizer, range(2, 4), second)
    train(model, optimizer, range(4, 6), first)
    outer.close()


def test_an_error_lets_go_too() -> None:
    model = network()
    with pytest.raises(RuntimeError, match="mine"), hold(model, mask_of(model)):
        raise RuntimeError("mine")
    train(model, torch.optim.SGD(model.parameters(), lr=0.1), range(1))
    assert model[4].weight.all()


def test_a_model_is_not_kept_alive() -> None:
    model, other = network(), network()
    held = hold(model, mask_of(model))
    gone = weakref.ref(model[4].weight)
    del model
    gc.collect()
    assert gone() is None
    train(other, torch.optim.SGD(other.parameters(), lr=0.1), range(1))
    held.close()


def test_models_beside_it_are_left_alone() -> None:
    model, other, reference = network(), network(), network()
    with hold(model, mask_of(model)):
        for one in (other, reference):
            train(one, torch.optim.SGD(one.parameters(), lr=0.1, momentum=0.9), range(2))
    assert same(other, reference)
    assert other[4].weight.all()


def test_copies_and_files_are_as_of_any_model() -> None:
    model = network()
    mask = mask_of(model)
    names = list(model.state_dict())
    with hold(model, mask):
        copied = copy.deepcopy(model)
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        loaded = torch.load(buffer, weights_only=False)
        assert list(model.state_dict()) == names
        for free in (copied, loaded):
            assert same(free, model)
            train(free, torch.optim.SGD(free.parameters(), lr=0.1), range(1))
            assert free[4].weight.all()
        assert holds(model, mask)


def test_frozen_weights_can_be_trained_later() -> None:
    model = network()
    mask = mask_of(model)
    model[4].weight.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with hold(model, mask, optimizer):
        assert not model[4].weight.requires_grad
        train(model, optimizer, range(2), mask)
        model[4].weight.requires_grad_(True)
        train(model, optimizer, range(2, 4), mask)
    assert model[4].weight.grad is not None


def test_loaded_weights_are_pruned_at_the_next_step_or_at_once(tmp_path: Path) -> None:
    model = network()
    mask = mask_of(model)
    state = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with hold(model, mask) as held:
        model.load_state_dict(state)
        held.apply()
        assert holds(model, mask)
        model.load_state_dict(copy.deepcopy(state), assign=True)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        train(model, optimizer, range(1))
        for name, kept in mask.items():
            assert not model.get_parameter(name)[~kept].any()
        train(model, optimizer, range(1, 3), mask)
        model.double()
        train(model, torch.optim.SGD(model.parameters(), lr=0.1), range(3, 5), mask)


def test_prune_rewind_hold(tmp_path: Path) -> None:
    """A round of Frankle et al. 2020, by hand."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Recorder(model, tmp_path / "run.zarr").attach(optimizer):
        train(model, optimizer, range(6))
    mask = prune(tmp_path / "run.zarr", 0.5)
    rewind(model, tmp_path / "run.zarr", 2, mask=mask, zero=True)
    with hold(model, mask):
        assert holds(model, mask)
        train(model, optimizer, range(2, 6), mask)


# ---- what is refused


def test_masks_that_do_not_fit() -> None:
    model = network()
    before = copy.deepcopy(model)
    good = mask_of(model)
    for name, tensor, words in (
        ("5.weight", torch.ones(2).bool(), ("none of the", "of the model")),
        ("1.running_mean", torch.ones(3).bool(), ("none of the",)),
        ("4.weight", torch.ones(12, 4).bool(), ("[12, 4]", "[4, 12]")),
        ("4.weight", torch.ones(4, 12), ("torch.float32", "torch.bool")),
    ):
        with refuses(ShapeError, repr(name), *words):
            hold(model, good | {name: tensor})
    with refuses(UsageError, "mapping", "list"):
        hold(model, [1])  # type: ignore[arg-type]
    assert same(model, before)


def test_optimizers_that_do_not_train_it() -> None:
    model = network()
    mask = mask_of(model)
    head = torch.optim.SGD(model[4].parameters())
    with refuses(UsageError, "'0.weight'", "none of the 1"):
        hold(model, mask, head)
    with refuses(UsageError, "hooks", "Held.apply()"):
        hold(model, mask, [object()])  # type: ignore[list-item]
    assert model[4].weight.all()


@pytest.mark.parametrize("change", ["gone", "shape"])
def test_a_model_that_changes_is_told(change: str) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    held = hold(model, mask_of(model))
    if change == "gone":
        del model[4].weight
    else:
        model[4].weight = nn.Parameter(torch.ones(2, 12))
    with refuses(ShapeError, "'4.weight'", "gone" if change == "gone" else "[2, 12]", "close()"):
        optimizer.step()
    held.close()


def test_a_mask_that_would_hold_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="a mask to hold must have tensors: got one without any"):
        hold(network(), {})
