"""A Jumper as an optimizer: whatever uses an optimizer may use it, and parameters of every kind."""

from __future__ import annotations

import copy
import functools
import gc
import inspect
import io
import math
import pickle
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from store_reference import refuses
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.optim import lr_scheduler
from torch.optim.optimizer import register_optimizer_step_post_hook

from weightcast.apply import Guard, Jumper, LiveJumps, jump, plan_jumps
from weightcast.predictor import Line, LinearFit, one_thread
from weightcast.store import ShapeError, UsageError

HALVES = LinearFit((1.0, 0.5, 0.0), 1.5)
STEPS = 24
POINTS = [10, 20]
NEVER = [1000]
BRIEF = {"steps": 2, "window": 8}  # a guard that fits jumps ten steps apart
Values = list[torch.Tensor]
unguarded = functools.partial(Jumper, guard=None)


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    """Small networks share badly among threads; what is garbage is looked for again and again."""
    gc.collect()
    gc.freeze()
    with one_thread():
        yield
    gc.unfreeze()


def make_model(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2))


def inputs(step: int) -> torch.Tensor:
    return torch.randn(8, 3, generator=torch.Generator().manual_seed(step))


def loss_at(model: nn.Module, step: int) -> torch.Tensor:
    x = inputs(step)
    return (model(x) - x[:, :2].sin()).tanh().square().mean()


def train_step(model: nn.Module, optimizer: Any, step: int) -> None:
    optimizer.zero_grad()
    loss_at(model, step).backward()
    optimizer.step()


def train(model: nn.Module, optimizer: Any, first: int = 1, last: int = STEPS) -> None:
    for step in range(first, last + 1):
        train_step(model, optimizer, step)


def copies(parameters: Iterable[torch.Tensor]) -> Values:
    return [p.detach().clone() for p in parameters]


def same_bits(these: Iterable[torch.Tensor], those: Iterable[torch.Tensor]) -> bool:
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(these, those, strict=True))


def sgd(model: nn.Module, **options: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), **{"lr": 0.1, "momentum": 0.9, **options})


def by_hand(
    model: nn.Module, one_step: Callable[[int], object], points: Iterable[int] = POINTS
) -> Values:
    """The definition of jumps: a copy of every step."""
    snapshots = [copies(model.parameters())]
    for step in range(1, STEPS + 1):
        one_step(step)
        snapshots.append(copies(model.parameters()))
        if step in points:
            past = [snapshots[step], snapshots[math.floor(step / 2 + 0.5)], snapshots[0]]
            with torch.no_grad():
                for p, value in zip(
                    model.parameters(), jump(list(model.parameters()), past, HALVES), strict=True
                ):
                    p.copy_(value)
            snapshots[step] = copies(model.parameters())
    return copies(model.parameters())


@functools.cache
def jumped_by_hand() -> Values:
    model = make_model()
    optimizer = sgd(model)
    return by_hand(model, lambda step: train_step(model, optimizer, step))


def through_a_file(state: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


# ---- without jumps it is the optimizer


ALL = [
    kind
    for kind in vars(torch.optim).values()
    if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer)
]
ALL.remove(torch.optim.Optimizer)
OPTIONS: list[tuple[type[torch.optim.Optimizer], dict[str, Any]]] = [
    *((kind, {}) for kind in ALL),
    (torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "lr": 0.1}),
    *((kind, {"foreach": True}) for kind in (torch.optim.SGD, torch.optim.Adam)),
    *((kind, {"fused": True}) for kind in (torch.optim.SGD, torch.optim.AdamW)),
    (torch.optim.Adam, {"amsgrad": True, "maximize": True}),
    (torch.optim.AdamW, {"lr": torch.tensor(0.01), "foreach": False}),
]


def trained(kind: Any, options: dict[str, Any], wrap: Callable[[Any], tuple[Any, Any]]) -> Values:
    """Weights and optimizer state after a few steps; `wrap` gives the optimizer for the loop."""
    sparse = kind is torch.optim.SparseAdam
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        table, layer = nn.Embedding(5, 3, sparse=sparse), nn.Linear(3, 2, bias=False)
    model = table if sparse else nn.Sequential(table, layer)
    inner = kind(model.parameters(), **options)
    optimizer, _kept = wrap(inner)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(torch.tensor([step % 5, 1, 3])).sin().square().sum()
        loss.backward()
        return loss

    for step in range(12):  # noqa: B007, the closure reads it
        if kind is torch.optim.LBFGS:
            assert isinstance(optimizer.step(closure), torch.Tensor)
        else:
            closure()
            assert optimizer.step() is None
    state = inner.state_dict()["state"]
    tensors = [v for held in state.values() for v in held.values() if isinstance(v, torch.Tensor)]
    return copies([*model.parameters(), *tensors])


@pytest.mark.parametrize(("kind", "options"), OPTIONS, ids=str)
def test_a_jumper_whose_jumps_never_come_does_not_show(kind: Any, options: dict[str, Any]) -> None:
    plain = trained(kind, options, lambda inner: (inner, None))

    def beside(inner: Any) -> tuple[Any, Any]:
        return inner, Jumper(inner, LinearFit(), NEVER)

    def in_place(inner: Any) -> tuple[Any, Any]:
        return Jumper(inner, LinearFit(), NEVER), None

    assert len(plain) > 1 - (kind is torch.optim.SparseAdam)
    assert same_bits(trained(kind, options, beside), plain)
    assert same_bits(trained(kind, options, in_place), plain)


def test_differentiable_optimizers() -> None:
    """Whose parameters are results themselves, through which gradients flow."""
    found = []
    for wrap in (lambda inner: inner, lambda inner: unguarded(inner, LinearFit(), NEVER)):
        start = torch.ones(3, requires_grad=True)
        weight = start.clone()
        weight.retain_grad()
        optimizer = wrap(torch.optim.SGD([weight], lr=0.1, differentiable=True))
        for _ in range(3):
            weight.grad = torch.full((3,), 0.5)
            optimizer.step()
        weight.square().sum().backward()
        found.append([weight.detach(), start.grad])
    assert same_bits(found[0], found[1])
    assert found[0][1] is not None


# ---- what is asked of an optimizer


def test_its_parts_are_those_of_the_optimizer_inside() -> None:
    model = make_model()
    inner = sgd(model)
    jumper = Jumper(inner, HALVES, NEVER)
    assert isinstance(jumper, torch.optim.Optimizer)
    assert jumper.param_groups is inner.param_groups
    assert jumper.state is inner.state
    assert jumper.defaults is inner.defaults
    jumper.param_groups[0]["lr"] = 0.5
    assert inner.param_groups[0]["lr"] == 0.5
    groups = [dict(group) for group in inner.param_groups]
    jumper.param_groups = groups
    assert inner.param_groups is groups
    for words in ("SGD", "momentum: 0.9", "LinearFit", "1000 to 1500"):
        assert words in repr(jumper)
    assert not hasattr(jumper, "no_such_thing")
    with refuses(UsageError, "int"):
        Jumper(3, HALVES, NEVER)  # type: ignore[arg-type]


@pytest.mark.parametrize("where", ["jumper", "inner"])
@pytest.mark.parametrize("step_by", ["jumper", "inner"])
def test_every_hook_runs_once(where: str, step_by: str) -> None:
    model = make_model()
    inner = sgd(model)
    jumper = unguarded(inner, HALVES, POINTS)
    ways, seen = {"jumper": jumper, "inner": inner}, []
    on, by = ways[where], ways[step_by]

    def hook(name: str) -> Callable[..., None]:
        return lambda *_: seen.append(name)

    handles = [
        on.register_step_pre_hook(hook("before")),
        on.register_step_post_hook(hook("after")),
        on.register_state_dict_pre_hook(hook("before saving")),
        on.register_state_dict_post_hook(hook("after saving")),
        on.register_load_state_dict_pre_hook(hook("before loading")),
        on.register_load_state_dict_post_hook(hook("after loading")),
        register_optimizer_step_post_hook(hook("global")),
    ]
    train(model, by, 1, 2)
    assert seen == ["before", "after", "global"] * 2
    seen.clear()
    jumper.load_state_dict(jumper.state_dict())
    assert seen == ["before saving", "after saving", "before loading", "after loading"]
    for handle in handles:
        handle.remove()
    train(model, by, 3, 3)
    assert len(seen) == 4


def test_hooks_may_change_what_is_saved_and_what_a_step_is_given() -> None:
    model = make_model()
    jumper = Jumper(sgd(model), HALVES, NEVER)
    jumper.register_state_dict_post_hook(lambda _, state: {**state, "note": 1})
    assert jumper.state_dict().keys() == {"state", "param_groups", "note", "jumper"}
    given = []
    jumper.register_step_pre_hook(lambda optimizer, args, _: ((optimizer, lambda: 3), {}))
    jumper.register_step_post_hook(lambda _, args, __: given.append(args[1]()))
    loss_at(model, 1).backward()
    assert jumper.step() == 3
    assert given == [3]


@pytest.mark.parametrize("through", ["jumper", "inner"])
def test_parameter_groups_are_added_before_the_first_step(through: str) -> None:
    models = [make_model(), make_model()]
    jumpers = []
    for model in models:
        inner = torch.optim.SGD(model[0].parameters(), lr=0.1, momentum=0.9)
        jumpers.append(unguarded(inner, HALVES, POINTS))
        few = jumpers[-1].memory()
        on = jumpers[-1] if through == "jumper" else inner
        on.add_param_group({"params": [*model[1].parameters(), *model[3].parameters()], "lr": 0.1})
        assert jumpers[-1].memory() > few
    train(models[0], jumpers[0])
    assert same_bits(models[0].parameters(), jumped_by_hand())
    # and a run may be resumed that had them added
    state = through_a_file(jumpers[0].state_dict())
    jumpers[1].load_state_dict(state)
    assert jumpers[1].step_count == STEPS
    for jumper, inner in zip(jumpers, [j.optimizer for j in jumpers], strict=True):
        late = {"params": [nn.Parameter(torch.zeros(1))]}
        with refuses(UsageError, "before the first step", f"step {STEPS}"):
            jumper.add_param_group(late)
        inner.add_param_group(late)
        inner.param_groups[-1]["params"][0].grad = torch.ones(1)
        with refuses(ShapeError, "before the first step", f"step {STEPS + 1}"):
            jumper.step()


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.LBFGS])
def test_closures(kind: Any) -> None:
    models = [make_model(), make_model()]
    for model in models:
        del model[1]  # a closure is called again and again, and BatchNorm counts
    optimizers = [kind(model.parameters(), lr=0.1) for model in models]
    jumper = unguarded(optimizers[0], HALVES, POINTS)
    calls = []

    def closure(model: nn.Module, optimizer: Any, step: int) -> torch.Tensor:
        optimizer.zero_grad()
        loss = loss_at(model, step)
        loss.backward()
        calls.append(step)
        return loss

    by_closure = [
        lambda step, m=m, o=o: o.step(functools.partial(closure, m, o, step))
        for m, o in zip(models, (jumper, optimizers[1]), strict=True)
    ]
    for step in range(1, STEPS + 1):
        assert by_closure[0](step) > 0
    assert jumper.step_count == STEPS
    expected = by_hand(models[1], by_closure[1])
    assert same_bits(models[0].parameters(), expected)
    assert calls[: len(calls) // 2] == calls[len(calls) // 2 :]


@pytest.mark.parametrize("to_none", [True, False])
def test_gradients_are_reset(to_none: bool) -> None:
    model = make_model()
    jumper = Jumper(sgd(model), HALVES, NEVER)
    loss_at(model, 1).backward()
    jumper.zero_grad(set_to_none=to_none)
    grads = [p.grad for p in model.parameters()]
    assert all(g is None if to_none else bool((g == 0).all()) for g in grads)


def test_a_jumper_is_not_copied_and_the_optimizer_inside_is() -> None:
    model = make_model()
    jumper = unguarded(sgd(model), HALVES, POINTS)
    for how in (copy.copy, copy.deepcopy, pickle.dumps):
        with refuses(UsageError, "state_dict()"):
            how(jumper)
    other, optimizer = copy.deepcopy((model, jumper.optimizer))
    plain = make_model()
    train(plain, sgd(plain))
    train(other, optimizer)
    assert same_bits(other.parameters(), plain.parameters())
    assert jumper.step_count == 0


# ---- mixed precision, accumulation, steps within backward


@pytest.mark.parametrize("fused", [False, True])
def test_a_scaler_steps_it_and_skipped_steps_are_not_counted(fused: bool) -> None:
    """Every third step overflows; losses are judged as they were before they were scaled."""
    runs = [make_model(), make_model()]
    optimizers = [sgd(model, fused=fused) for model in runs]
    jumper = Jumper(optimizers[0], HALVES, POINTS, guard=Guard(**BRIEF, tolerance=math.inf))
    steps = [0, 0]

    def scaled(which: int, model: nn.Module, optimizer: Any, scaler: Any) -> None:
        while True:
            steps[which] += 1
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = loss_at(model, steps[which])
            scaler.scale(loss).backward()
            if overflows := steps[which] % 3 == 0:
                model[0].weight.grad[0] = math.inf
            scaler.step(optimizer)
            scaler.update()
            if not overflows:
                return

    scalers = [torch.amp.GradScaler("cpu", init_scale=64.0) for _ in runs]
    for _ in range(STEPS):
        scaled(0, runs[0], jumper, scalers[0])
    expected = by_hand(runs[1], lambda _: scaled(1, runs[1], optimizers[1], scalers[1]))
    assert (jumper.step_count, jumper.jumped) == (STEPS, POINTS)
    assert steps[0] == steps[1] > STEPS
    assert same_bits(runs[0].parameters(), expected)
    assert [e.kind for e in jumper.events] == ["jumped", "kept"] * 2
    assert not hasattr(jumper, "found_inf")


def test_gradients_that_accumulate_are_one_step() -> None:
    model = make_model()
    jumper = unguarded(sgd(model), HALVES, POINTS)
    for step in range(1, STEPS + 1):
        jumper.zero_grad()
        for share in (0.25, 0.75):
            (share * loss_at(model, step)).backward()
        jumper.step()
    other = make_model()
    optimizer = sgd(other)

    def one_step(step: int) -> None:
        optimizer.zero_grad()
        for share in (0.25, 0.75):
            (share * loss_at(other, step)).backward()
        optimizer.step()

    assert same_bits(model.parameters(), by_hand(other, one_step))
    assert jumper.step_count == STEPS


def test_optimizers_that_step_within_the_backward_pass() -> None:
    models = [make_model(), make_model()]
    live = None
    for model in models:
        optimizers = {p: torch.optim.SGD([p], lr=0.1, momentum=0.9) for p in model.parameters()}

        def in_backward(p: torch.Tensor, own: Any = optimizers) -> None:
            own[p].step()
            own[p].zero_grad()

        for p in model.parameters():
            p.register_post_accumulate_grad_hook(in_backward)
        if live is None:
            live = LiveJumps(list(optimizers.values()), HALVES, plan_jumps(HALVES, POINTS))
            for step in range(1, STEPS + 1):
                loss_at(model, step).backward()
    assert live is not None
    expected = by_hand(models[1], lambda step: loss_at(models[1], step).backward())
    assert (live.step, live.jumped) == (STEPS, POINTS)
    assert same_bits(models[0].parameters(), expected)


# ---- schedules of the learning rate


SCHEDULES: dict[str, Callable[[Any], Any]] = {
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda step: 0.9**step),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, 0.2, total_steps=STEPS + 1),
    "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS),
    "sequence": lambda o: lr_scheduler.SequentialLR(
        o,
        [lr_scheduler.ConstantLR(o, 0.1, total_iters=5), lr_scheduler.ExponentialLR(o, 0.9)],
        milestones=[5],
    ),
}


def scheduled(model: nn.Module, optimizer: Any, schedule: Any, step: int) -> float:
    train_step(model, optimizer, step)
    plateau = isinstance(schedule, lr_scheduler.ReduceLROnPlateau)
    schedule.step(*[1.0] * plateau)
    return schedule.get_last_lr()[0]


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_on_the_jumper_and_on_the_optimizer_inside(name: str) -> None:
    """Warnings are errors here."""
    model, rates = make_model(), []
    optimizer = sgd(model)
    schedule = SCHEDULES[name](optimizer)
    expected = by_hand(
        model, lambda step: rates.append(scheduled(model, optimizer, schedule, step))
    )
    assert len(set(rates)) > 2
    for on in ("jumper", "inner"):
        for by in ("jumper", "inner"):
            model = make_model()
            inner = sgd(model)
            ways = {"inner": inner, "jumper": unguarded(inner, HALVES, POINTS)}
            schedule = SCHEDULES[name](ways[on])
            found = [scheduled(model, ways[by], schedule, s) for s in range(1, STEPS + 1)]
            assert found == rates
            assert same_bits(model.parameters(), expected)


def test_a_roll_back_leaves_the_learning_rate_to_its_schedule() -> None:
    model = make_model()
    worse = [0.0]
    guard = Guard(**BRIEF, probe=lambda: worse[0], every=1)
    jumper = Jumper(sgd(model), HALVES, [10], guard=guard)
    schedule = SCHEDULES["lambda"](jumper)
    for step in range(1, STEPS + 1):
        worse[0] += step > 10  # the loss rises once it has jumped
        scheduled(model, jumper, schedule, step)
    assert [event.kind for event in jumper.events] == ["jumped", "rolled back"]
    assert schedule.get_last_lr() == [pytest.approx(0.1 * 0.9**STEPS)]


# ---- compiled


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")
@pytest.mark.parametrize("by", ["jumper", "inner"])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
def test_nothing_is_compiled_anew_after_a_jump_or_a_roll_back(by: str, kind: Any) -> None:
    torch._dynamo.reset()
    worse = [0.0]
    guard = Guard(**BRIEF, probe=lambda: worse[0], every=1)
    runs = []
    for compile_ in (True, False):
        model, counter, counts = make_model(), CompileCounter(), []
        del model[1]  # a bias before BatchNorm has no gradient but rounding, which Adam makes large
        inner = kind(model.parameters(), lr=0.01)
        jumper = Jumper(inner, HALVES, POINTS, guard=guard)
        optimizer = {"jumper": jumper, "inner": inner}[by]

        def one_step(optimizer: Any = optimizer) -> None:
            optimizer.step()

        forward = model
        if compile_:
            forward = torch.compile(model, backend=counter)
            one_step = torch.compile(one_step, backend=counter)
        worse[0] = 0.0
        for step in range(1, STEPS + 1):
            worse[0] += 10 < step < 13  # the first jump is rolled back
            optimizer.zero_grad()
            loss_at(forward, step).backward()
            one_step()
            counts.append(counter.frame_count)
        kinds = [event.kind for event in jumper.events]
        runs.append((copies(model.parameters()), counts, kinds))
        jumper.close()
    (compiled, counts, kinds), (eager, _, expected) = runs
    assert kinds == expected
    assert kinds[:2] == ["jumped", "rolled back"]
    assert counts[2] == counts[-1] > 1
    for a, b in zip(compiled, eager, strict=True):  # compiled, Adam rounds its steps otherwise
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


# ---- wrapped by others


def test_accelerate_wraps_it() -> None:
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    for outside in (True, False):
        model = make_model()
        if outside:  # the wrapper around the jumper
            jumper = unguarded(sgd(model), HALVES, POINTS)
            prepared, optimizer = accelerator.prepare(model, jumper)
        else:
            prepared, wrapped = accelerator.prepare(model, sgd(model))
            jumper = optimizer = unguarded(wrapped, HALVES, POINTS)
        schedule = accelerator.prepare(SCHEDULES["cosine"](optimizer))
        for step in range(1, 2 * STEPS + 1):
            with accelerator.accumulate(prepared):
                accelerator.backward(loss_at(prepared, (step + 1) // 2))
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
        assert (jumper.step_count, jumper.jumped) == (STEPS, POINTS)
        other = make_model()
        plain = sgd(other)
        own = SCHEDULES["cosine"](plain)
        expected = by_hand(other, lambda step, p=plain, o=own, m=other: scheduled(m, p, o, step))
        assert same_bits(model.parameters(), expected)
        accelerator.free_memory()
        jumper.close()


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated")
def test_lightning_wraps_it(tmp_path: Any) -> None:
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):  # type: ignore[name-defined,misc]
        def __init__(self, seed: int = 0) -> None:
            super().__init__()
            self.model = make_model(seed)

        def training_step(self, *_: Any) -> torch.Tensor:
            return loss_at(self.model, self.trainer.global_step + 1)

        def configure_optimizers(self) -> Any:
            self.jumper = unguarded(sgd(self.model), HALVES, POINTS)
            schedule = SCHEDULES["cosine"](self.jumper)
            return [self.jumper], [{"scheduler": schedule, "interval": "step"}]

    def fit(module: Any, steps: int, **more: Any) -> Any:
        quiet = ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing")
        trainer = lightning.Trainer(
            max_steps=steps,
            accelerator="cpu",
            default_root_dir=tmp_path,
            **dict.fromkeys(quiet, False),
        )
        data = torch.utils.data.DataLoader(torch.arange(STEPS // 2), batch_size=None)
        trainer.fit(module, data, **more)
        return trainer

    whole, first, second = Module(), Module(), Module(seed=1)
    fit(whole, STEPS)
    other = make_model()
    plain = sgd(other)
    own = SCHEDULES["cosine"](plain)
    expected = by_hand(other, lambda step: scheduled(other, plain, own, step))
    fit(first, STEPS // 2).save_checkpoint(tmp_path / "run.ckpt")
    fit(second, STEPS, ckpt_path=tmp_path / "run.ckpt")
    for module in (whole, second):
        assert module.jumper.jumped == POINTS
        assert same_bits(module.model.parameters(), expected)


# ---- one jumper a model


def test_two_jumpers_on_one_model_are_refused() -> None:
    model = make_model()
    inner = sgd(model)
    first = unguarded(inner, HALVES, POINTS)
    shares_one = torch.optim.SGD([model[3].bias, nn.Parameter(torch.zeros(1))], lr=0.1)
    for optimizer in (inner, first, sgd(model), shares_one):
        with refuses(UsageError, "one jumper", "close()"):
            unguarded(optimizer, HALVES, POINTS)
    train(model, inner)  # and those refused have left no hook
    assert same_bits(model.parameters(), jumped_by_hand())
    assert first.step_count == STEPS
    first.close()
    unguarded(shares_one, HALVES, POINTS).close()
    with unguarded(inner, HALVES, POINTS):
        pass
    unguarded(inner, HALVES, POINTS)


@pytest.mark.parametrize("guard", [None, Guard()])
def test_a_jumper_ends_with_its_optimizer(guard: Any) -> None:
    """And not with the name that it was given: the optimizer holds it."""
    model = make_model()
    gc.disable()  # it may go at any time, and it need not have gone
    try:
        for steps in (3, 12):
            optimizer = sgd(model)
            jumper = Jumper(optimizer, HALVES, [40], guard=guard)
            train(model, optimizer, 1, steps)
            del jumper
            gc.collect()
            with refuses(UsageError, "one jumper"):
                unguarded(optimizer, HALVES, POINTS)
            del optimizer
    finally:
        gc.enable()


def test_groups_that_are_anothers_are_refused() -> None:
    model = make_model()
    first = unguarded(torch.optim.SGD(model[0].parameters(), lr=0.1), HALVES, POINTS)
    second = torch.optim.SGD(model[3].parameters(), lr=0.1)
    jumper = unguarded(second, HALVES, POINTS)
    second.add_param_group({"params": model[0].parameters()})
    loss_at(model, 1).backward()
    for _ in range(2):
        with refuses(UsageError, "one jumper"):
            jumper.step()
    assert (first.step_count, jumper.step_count) == (0, 0)


# ---- parameters of every kind


def drift(parameters: Iterable[torch.Tensor], optimizer: Any, steps: int) -> None:
    """Every weight goes down, each at its own rate."""
    for _ in range(steps):
        for p in parameters:
            if p.requires_grad:
                p.grad = rates(p)
        optimizer.step()


def rates(p: torch.Tensor) -> torch.Tensor:
    return (torch.arange(p.numel()).reshape(p.shape) / 16 + 0.5).to(p.dtype)


LINE = LinearFit((1.0, 0.0))  # twice as far
MAKERS: dict[str, Callable[[], torch.Tensor]] = {
    "0-dim": lambda: torch.zeros(()),
    "empty": lambda: torch.zeros(3, 0, 2),
    "float64": lambda: torch.zeros(5, dtype=torch.float64),
    "float16": lambda: torch.zeros(5, dtype=torch.float16),
    "bfloat16": lambda: torch.zeros(5, dtype=torch.bfloat16),
    "channels last": lambda: torch.zeros(2, 3, 2, 2).to(memory_format=torch.channels_last),
    "transposed": lambda: torch.zeros(3, 2).T,
    "every other": lambda: torch.zeros(3, 2, 2)[..., 0],
    "within a buffer": lambda: torch.zeros(20)[3:11].view(2, 4),
}


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.sampled_from(sorted(MAKERS)), min_size=1, max_size=4),
    st.sampled_from([LINE, Line(window=4, stride=1, horizon="+8")]),
    st.booleans(),
)
def test_parameters_of_every_kind_jump_in_place(
    names: list[str], forecaster: Any, guarded: bool
) -> None:
    parameters = [nn.Parameter(MAKERS[name]()) for name in names]
    places = [(p.data_ptr(), p.stride(), p.dtype) for p in parameters]
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    guard = Guard(steps=2, probe=lambda: 1.0, every=1) if guarded else None
    jumper = Jumper(optimizer, forecaster, [8], guard=guard)
    drift(parameters, jumper, 8)
    assert jumper.jumped == [8]
    assert [(p.data_ptr(), p.stride(), p.dtype) for p in parameters] == places
    for p in parameters:
        expected = -16 * rates(p).double()
        torch.testing.assert_close(p.detach().double(), expected, rtol=2e-2, atol=1e-4)
    state = jumper.state_dict()
    drift(parameters, jumper, 1)
    jumper.close()
    other = [nn.Parameter(MAKERS[name]()) for name in names]
    resumed = Jumper(torch.optim.SGD(other, lr=1.0), forecaster, [8], guard=guard)
    resumed.load_state_dict(through_a_file(state))
    assert resumed.step_count == 8


def test_only_chosen_parameters_jump() -> None:
    """And only their moments are cleared; a roll-back takes back the others too."""
    plain, model, taken_back = make_model(), make_model(), make_model()
    reference = torch.optim.Adam(plain.parameters(), lr=0.01)
    train(plain, reference, 1, 10)
    inner = torch.optim.Adam(model.parameters(), lr=0.01)
    chosen = list(model[3].parameters())
    unguarded(inner, HALVES, [10], parameters=(p for p in chosen), moments="clear")
    train(model, inner, 1, 10)
    assert same_bits(model[:3].parameters(), plain[:3].parameters())
    assert not same_bits(chosen, plain[3].parameters())
    assert {id(p) for p, state in inner.state.items() if state} == {
        id(p) for p in model[:3].parameters()
    }
    inner = torch.optim.Adam(taken_back.parameters(), lr=0.01)
    worse = [0.0]
    guard = Guard(**BRIEF, probe=lambda: worse[0], every=1)
    chosen = list(taken_back[3].parameters())
    jumper = Jumper(inner, HALVES, [10], guard=guard, parameters=chosen, moments="clear")
    train(taken_back, jumper, 1, 10)
    worse[0] = 9.0
    train(taken_back, jumper, 11, 12)
    assert [event.kind for event in jumper.events] == ["jumped", "rolled back"]
    assert same_bits(taken_back.state_dict().values(), plain.state_dict().values())
    for p, q in zip(taken_back.parameters(), plain.parameters(), strict=True):
        assert same_bits(inner.state[p].values(), reference.state[q].values())


def test_what_does_not_jump_takes_no_memory() -> None:
    big, small = nn.Parameter(torch.zeros(1000)), nn.Parameter(torch.zeros(10))
    jumper = unguarded(torch.optim.SGD([big, small], lr=1.0), LINE, [8], parameters=[small])
    assert jumper.memory() == 40
    drift([big, small], jumper, 4)
    assert [len(v) for v in jumper.state_dict()["jumper"]["snapshots"][0]] == [10]


def test_parameters_that_cannot_be_chosen_are_refused() -> None:
    weight = nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    for chosen, words in (([], ["none"]), ([nn.Parameter(torch.zeros(3)), weight], ["1 others"])):
        with refuses(UsageError, "parameters", *words):
            unguarded(optimizer, LINE, [8], parameters=chosen)
    turning = nn.Parameter(torch.zeros(3, dtype=torch.complex64))
    counts = nn.Parameter(torch.zeros(3, dtype=torch.int64), requires_grad=False)
    optimizer = torch.optim.SGD([weight, turning, counts], lr=1.0)
    for chosen in (None, [turning], [weight, counts]):
        with refuses(UsageError, "real numbers", "(3,)", "parameters="):
            unguarded(optimizer, LINE, [8], parameters=chosen)
    jumper = unguarded(optimizer, LINE, [8], parameters=[weight])
    drift([weight, turning], jumper, 8)
    jumper.close()
    assert (weight[0].item(), turning[0].item(), counts.tolist()) == (-8.0, -4.0, [0, 0, 0])
    jumper = unguarded(torch.optim.SGD([weight, counts], lr=1.0), LINE, [8])  # counts are left out
    drift([weight], jumper, 8)
    assert (weight[0].item(), counts.tolist()) == (-16.0, [0, 0, 0])


def test_frozen_parameters_stay() -> None:
    model, plain = make_model(), make_model()
    for m in (model, plain):
        m[0].weight.requires_grad_(False)
    unguarded(inner := sgd(model), HALVES, POINTS)
    train(model, inner)
    assert torch.equal(model[0].weight, make_model()[0].weight)
    train(plain, sgd(plain))
    assert not same_bits(model[3].parameters(), plain[3].parameters())


TIES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "the same": lambda t: t,
    "turned": lambda t: t.T,
    "in another shape": lambda t: t.view(1, *t.shape),
}


@pytest.mark.parametrize("name", TIES)
def test_parameters_that_share_memory_jump_once(name: str) -> None:
    numbers = torch.zeros(3, 2)
    first, second = nn.Parameter(numbers), nn.Parameter(TIES[name](numbers))
    optimizer = torch.optim.SGD([first, second], lr=1.0, momentum=0.9)
    jumper = unguarded(optimizer, LINE, [8], moments="clear")
    for step in range(8):
        if step == 7:
            before = first.detach().clone()
        first.grad, second.grad = torch.ones_like(first), torch.ones_like(second)
        optimizer.step()
    step_of_both = -2 * sum(0.9**k for k in range(8))
    torch.testing.assert_close(first.detach(), 2 * (before + step_of_both))
    assert torch.equal(TIES[name](first.detach()), second)
    assert not any(state.get("momentum_buffer") is not None for state in optimizer.state.values())
    assert jumper.events[0].reason.startswith("6 weights")


def test_a_parameter_of_two_modules_jumps_once() -> None:
    found = []
    for tied in (True, False):
        model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
        torch.nn.init.eye_(model[0].weight)
        if tied:
            model[1].weight = model[0].weight
        jumper = unguarded(torch.optim.SGD(model.parameters(), lr=0.1), HALVES, POINTS)
        for step in range(1, STEPS + 1):
            jumper.zero_grad()
            second = model[1] if tied else model[0]
            second(model[0](inputs(step))).tanh().sum().backward()
            jumper.step()
        found.append(model[0].weight.detach())
    assert torch.equal(found[0], found[1])


def test_weights_alone_decide_where_a_jump_goes() -> None:
    """Weight decay, momentum and rates act on the steps, not on the jump."""
    for options in ({}, {"weight_decay": 0.3}, {"momentum": 0.9, "lr": 0.5}):
        weight = nn.Parameter(torch.full((3,), 4.0))
        optimizer = torch.optim.SGD([weight], **{"lr": 0.1, **options})
        unguarded(optimizer, LINE, [8])
        seen = []
        optimizer.register_step_post_hook(lambda *_, w=weight, s=seen: s.append(w.detach().clone()))
        # hooks run in order: make the last one before the jump see the weights that it replaces
        optimizer._optimizer_step_post_hooks.move_to_end(
            next(reversed(optimizer._optimizer_step_post_hooks)), last=False
        )
        drift([weight], optimizer, 8)
        torch.testing.assert_close(weight.detach(), 2 * seen[-1] - 4.0)


@pytest.mark.parametrize(
    ("forecaster", "rule"),
    [(LINE, "keep their shapes"), (Line(window=8, stride=1, horizon="+8"), "shape")],
    ids=str,
)
def test_parameters_that_change_shape_are_refused(forecaster: Any, rule: str) -> None:
    weights = [nn.Parameter(torch.zeros(4)) for _ in range(2)]
    optimizer = torch.optim.SGD(weights, lr=1.0)
    jumper = unguarded(optimizer, forecaster, [8])
    drift(weights, jumper, 7)
    weights[1].data = torch.zeros(3)
    with refuses(ShapeError, rule, "(4,)", "(3,)"):
        drift(weights, jumper, 1)
    assert jumper.jumped == []
    assert torch.equal(weights[0], -8 * rates(weights[0]))  # no half of a jump


# ---- stopping and resuming


RECOVERY = {"kept": math.inf, "rolled back": 0.0}


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, STEPS),
    st.booleans(),
    st.sampled_from([None, *RECOVERY]),
    st.sampled_from([HALVES, Line(window=6, stride=2, horizon="+5")]),
    st.sampled_from(["keep", "clear", 0.5]),
)
def test_a_resumed_run_is_the_uninterrupted_one(
    stop: int, in_place: bool, outcome: str | None, forecaster: Any, moments: Any
) -> None:
    def run(seed: int) -> tuple[nn.Module, Any, Jumper, Any]:
        model = make_model(seed)
        inner = torch.optim.Adam(model.parameters(), lr=0.05)
        guard = None
        if outcome is not None:  # a loss that never falls rolls back, unless all is tolerated
            guard = Guard(**BRIEF, probe=rise, every=1, tolerance=RECOVERY[outcome])
        jumper = Jumper(inner, forecaster, POINTS, guard=guard, moments=moments)
        optimizer = jumper if in_place else inner
        return model, optimizer, jumper, SCHEDULES["one cycle"](optimizer)

    now = [0]

    def rise() -> float:
        return 1.0 + now[0] ** 2

    def steps(model: nn.Module, optimizer: Any, schedule: Any, first: int, last: int) -> None:
        for now[0] in range(first, last + 1):
            scheduled(model, optimizer, schedule, now[0])

    model, optimizer, whole, schedule = run(0)
    steps(model, optimizer, schedule, 1, STEPS)
    first, optimizer, jumper, schedule = run(0)
    steps(first, optimizer, schedule, 1, stop)
    parts = [first, jumper, schedule] if in_place else [first, optimizer, jumper, schedule]
    states = through_a_file([part.state_dict() for part in parts])
    steps(first, optimizer, schedule, stop + 1, STEPS)  # what goes on does not change what is saved
    second, optimizer, jumper, schedule = run(1)
    parts = [second, jumper, schedule] if in_place else [second, optimizer, jumper, schedule]
    for part, state in zip(parts, states, strict=True):
        part.load_state_dict(state)
    assert jumper.step_count == stop
    steps(second, optimizer, schedule, stop + 1, STEPS)
    assert (jumper.jumped, jumper.events) == (whole.jumped, whole.events)
    kinds = {event.kind for event in whole.events}
    assert outcome in (None, *kinds)
    for other in (first, second):
        assert same_bits(other.state_dict().values(), model.state_dict().values())


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    model, other = make_model(), make_model(1)
    jumper, full = unguarded(sgd(model), HALVES, POINTS), unguarded(sgd(other), HALVES, POINTS)
    train(model, jumper, 1, 12)
    train(other, full, 1, 14)
    good = full.state_dict()
    no_snapshots = {**good, "jumper": {**good["jumper"], "snapshots": {}}}
    no_jumper = {key: good[key] for key in ("state", "param_groups")}
    groups = {**good, "param_groups": []}
    states = [(no_snapshots, UsageError), (no_jumper, UsageError), (groups, ValueError)]
    for bad, error in states:
        with pytest.raises(error):
            jumper.load_state_dict(copy.deepcopy(bad))
    train(model, jumper, 13, STEPS)
    assert same_bits(model.parameters(), jumped_by_hand())


def test_a_run_may_begin_anew_from_its_first_state() -> None:
    model = make_model()
    jumper = unguarded(sgd(model), HALVES, POINTS)
    states = copy.deepcopy([model.state_dict(), jumper.state_dict()])
    train(model, jumper, 1, 12)
    model.load_state_dict(states[0])
    jumper.load_state_dict(states[1])
    train(model, jumper)
    assert same_bits(model.parameters(), jumped_by_hand())
    assert (jumper.step_count, jumper.jumped) == (STEPS, POINTS)
