"""Which steps count, and what a row then holds, on what torch really does.

The reference is a clone of the model's state wherever the loop itself knows a step to be over.
"""

from __future__ import annotations

import copy
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from store_reference import refuses
from torch import nn

from weightcast.recorder import Recorder, ScriptRecorder, record_script, select
from weightcast.recorder.distributed import writes_here
from weightcast.recorder.step import Rounds, plain_optimizer
from weightcast.store import History, RecordingError, WeightcastWarning

State = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)


def state_of(model: nn.Module) -> State:
    return {name: t.detach().clone() for name, t in model.state_dict().items()}


def assert_records(states: list[State], path: str = "run.zarr") -> None:
    """The history has these steps, and each row is the clone taken there, bit for bit."""
    history = History(path)
    assert history.steps.tolist() == list(range(len(states)))
    for step, state in enumerate(states):
        row = history.state(step)
        for p in (*history.parameters, *history.buffers):
            values = torch.from_numpy(np.asarray(row[p.name])).to(getattr(torch, p.dtype))
            assert torch.equal(values, state[p.name]), (step, p.name)


@contextmanager
def hooked(**options: Any) -> Iterator[ScriptRecorder]:
    """What `weightcast record` puts around a script."""
    recording = ScriptRecorder("run.zarr", **options)
    with recording.installed():
        yield recording


def layers(normed: bool = False) -> nn.Sequential:
    middle = nn.BatchNorm1d(3) if normed else nn.Tanh()
    return nn.Sequential(nn.Linear(2, 3), middle, nn.Linear(3, 1))


def sgd(*modules: nn.Module, kind: type = torch.optim.SGD, **options: Any) -> Any:
    return kind([p for m in modules for p in m.parameters()], lr=0.1, **options)


def loss_of(model: nn.Module) -> torch.Tensor:
    return model(torch.randn(4, 2)).square().mean()


# ------------------------------------------------------- several optimizers


def test_two_optimizers_of_one_model_take_one_step_together() -> None:
    """Also in the first round, and with the statistics that a checkpoint would have."""
    model = layers(normed=True)
    optimizers = [sgd(model[0], model[1]), sgd(model[2], kind=torch.optim.Adam)]
    states = [state_of(model)]
    with hooked() as recording:
        for _ in range(4):
            loss_of(model).backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            states.append(state_of(model))
    assert recording.others == 0
    assert History("run.zarr").steps.tolist() == [0, 1, 2, 3, 4]
    for step, state in enumerate(states):
        row = History("run.zarr").state(step)
        for name, tensor in state.items():
            if step or name.endswith(("weight", "bias")):
                np.testing.assert_array_equal(row[name], tensor.numpy(), err_msg=f"{step} {name}")


def test_step_0_is_not_touched_by_the_first_of_two() -> None:
    model = layers()
    optimizers = [sgd(model[2]), sgd(model[0])]
    states = [state_of(model)]
    with hooked():
        loss_of(model).backward()
        for optimizer in optimizers:
            optimizer.step()
        states.append(state_of(model))
    assert_records(states)


@pytest.mark.parametrize("fused", [False, True])
def test_scaler_that_skips_one_of_two(fused: bool) -> None:
    """``GradScaler`` judges each optimizer by its own gradients."""
    model = layers()
    optimizers = [sgd(model[0], fused=fused), sgd(model[2], fused=fused)]
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    states = [state_of(model)]
    with hooked():
        for bad in (None, 0, None, 1, None, None):
            scaler.scale(loss_of(model)).backward()
            if bad is not None:
                optimizers[bad].param_groups[0]["params"][0].grad.fill_(torch.inf)
            for optimizer in optimizers:
                scaler.step(optimizer)
            scaler.update()
            for optimizer in optimizers:
                optimizer.zero_grad()
            states.append(state_of(model))
    assert_records(states)


def test_scaler_that_skips_all_takes_no_step() -> None:
    model = layers()
    optimizers = [sgd(model[0]), sgd(model[2])]
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    states = [state_of(model)]
    with hooked():
        for bad in (False, True, True, False):
            scaler.scale(loss_of(model) * (torch.inf if bad else 1)).backward()
            for optimizer in optimizers:
                scaler.step(optimizer)
                optimizer.zero_grad()
            scaler.update()
            if not bad:
                states.append(state_of(model))
    assert_records(states)


def test_lbfgs_after_adam_and_back() -> None:
    model = layers()
    adam = sgd(model, kind=torch.optim.Adam)
    lbfgs = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)
    states = [state_of(model)]

    def closure() -> torch.Tensor:
        model.zero_grad()
        loss = model(torch.ones(4, 2)).square().mean()
        loss.backward()
        return loss

    with hooked() as recording:
        for optimizer in (adam, adam, lbfgs, lbfgs, adam, adam):
            optimizer.step(closure)
            states.append(state_of(model))
    assert recording.others == 0
    assert_records(states)


def test_optimizer_made_anew_every_epoch() -> None:
    model = layers()
    states = [state_of(model)]
    with hooked():
        for _ in range(3):
            optimizer = sgd(model, kind=torch.optim.Adam)
            for _ in range(2):
                loss_of(model).backward()
                optimizer.step()
                states.append(state_of(model))
    assert_records(states)


class Outer(torch.optim.Optimizer):
    """Calls another optimizer within its step, as wrappers (lookahead, SAM) do."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        super().__init__([p for g in inner.param_groups for p in g["params"]], {})
        self.inner = inner

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.inner.step()
        self.inner.step()


def test_optimizer_within_another_is_part_of_its_step() -> None:
    model = layers()
    optimizer = Outer(sgd(model))
    states = [state_of(model)]
    with hooked() as recording:
        for _ in range(3):
            loss_of(model).backward()
            optimizer.step()
            states.append(state_of(model))
    assert recording.others == 0
    assert_records(states)


@settings(max_examples=60)
@given(st.lists(st.sets(st.integers(0, 2), min_size=1), min_size=1, max_size=8))
def test_rounds_are_rising_runs(iterations: list[set[int]]) -> None:
    """A slow, obvious reference: a round ends with the last optimizer, or when one is due again."""
    model = nn.ParameterList(nn.Parameter(torch.zeros(1)) for _ in range(3))
    optimizers = [torch.optim.SGD([p], lr=1.0) for p in model]
    for p in model:
        p.grad = torch.ones(1)
    rows: list[list[float]] = []
    rounds = Rounds(lambda: rows.append([p.item() for p in model]))
    rounds.expect(optimizers)
    handles = rounds.hook(optimizers)
    expected: list[list[float]] = []
    last = -1
    for stepping in ({0, 1, 2}, *iterations):
        for i in sorted(stepping):
            if i <= last:
                expected.append([p.item() for p in model])
            optimizers[i].step()
            last = i
            if i == 2:
                expected.append([p.item() for p in model])
                last = -1
    for handle in handles:
        handle.remove()
    assert rows == expected


GAN = """\
import torch
from torch import nn

class Critic(nn.Sequential): pass

generator, critic = nn.Linear(2, 2), Critic(nn.Linear(2, 1))
first, second = (torch.optim.SGD(m.parameters(), lr=0.1) for m in (generator, critic))
for _ in range(3):
    critic(generator(torch.ones(1, 2))).sum().backward()
    first.step()
    second.step()
    second.step()
"""


@pytest.mark.parametrize(
    ("model", "weights", "steps", "others", "named"),
    [
        (None, (2, 2), 3, 6, ("critic",)),
        ("generator", (2, 2), 3, 6, ("critic",)),
        ("critic", (1, 2), 6, 3, ("generator",)),
        ("Critic", (1, 2), 6, 3, ("generator",)),
    ],
)
def test_one_of_two_models_is_recorded(
    model: str | None, weights: tuple[int, int], steps: int, others: int, named: tuple[str, ...]
) -> None:
    Path("gan.py").write_text(GAN)
    outcome = record_script(["gan.py"], "run.zarr", model=model)
    assert (outcome.exit_code, outcome.others, outcome.other_models) == (0, others, named)
    history = History("run.zarr")
    assert history.steps.tolist() == list(range(steps + 1))
    assert next(iter(history.parameters)).shape == weights


LOCAL = """\
import torch
from torch import nn

def main():
    net = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(2):
        net(torch.ones(1, 2)).sum().backward()
        optimizer.step()

main()
"""


def test_a_model_in_a_function_is_known_by_its_variable() -> None:
    Path("local.py").write_text(LOCAL)
    assert record_script(["local.py"], "run.zarr", model="net").summary is not None
    assert len(History("run.zarr")) == 3


def test_no_model_of_that_name() -> None:
    Path("gan.py").write_text(GAN)
    with pytest.warns(WeightcastWarning, match="no model 'nope' yet, but generator, critic"):
        outcome = record_script(["gan.py"], "run.zarr", model="nope")
    assert (outcome.summary, outcome.others) == (None, 9)
    assert outcome.other_models == ("generator", "critic")
    assert not Path("run.zarr").exists()


# -------------------------------------------------------- optimizer in backward


def by_torch(model: nn.Module) -> None:
    from torch.distributed.optim import _apply_optimizer_in_backward

    _apply_optimizer_in_backward(torch.optim.SGD, model.parameters(), {"lr": 0.1})


def by_tutorial(model: nn.Module) -> None:
    """One optimizer a parameter, that steps in a hook and frees the gradient."""
    optimizers = {p: torch.optim.Adam([p], lr=0.1) for p in model.parameters()}

    def step(p: torch.Tensor) -> None:
        optimizers[p].step()  # type: ignore[index]
        optimizers[p].zero_grad()  # type: ignore[index]

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(step)


@pytest.mark.filterwarnings("ignore:.torch.jit")
@pytest.mark.parametrize("within", [by_torch, by_tutorial])
def test_optimizer_in_backward(within: Callable[[nn.Module], None]) -> None:
    """One step a backward pass, whichever parameters took part, recorded after all stepped."""
    model = nn.ModuleList([layers(normed=True), layers(normed=True)])
    within(model)
    states = [state_of(model)]
    with hooked() as recording:
        for parts in ([0, 1], [0], [1], [1, 0], [0, 1]):
            sum(loss_of(model[i]) for i in parts).backward()
            states.append(state_of(model))
    assert recording.others == 0
    first = {n: t for n, t in states[1].items() if "running" in n or "tracked" in n}
    states[0] = {**states[0], **first}  # step 0 is taken at the first optimizer step
    assert_records(states)


def test_optimizer_in_backward_beside_another() -> None:
    model = layers()
    by_tutorial(model[0])
    optimizer = sgd(model[2])
    states = [state_of(model)]
    with hooked():
        for _ in range(4):
            optimizer.zero_grad()
            loss_of(model).backward()
            optimizer.step()
            states.append(state_of(model))
    assert_records(states)


def test_backward_that_fails_is_no_step() -> None:
    model = layers()
    by_tutorial(model)
    states = [state_of(model)]

    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
            raise ZeroDivisionError

    with hooked():
        for fails in (False, True, False):
            hidden = model[1](model[0](torch.ones(1, 2)))
            output = model[2](Fails.apply(hidden) if fails else hidden).sum()
            if fails:
                with pytest.raises(ZeroDivisionError):
                    output.backward()
                continue
            output.backward()
            states.append(state_of(model))
    assert_records(states)


# ------------------------------------------------------------------- compiled


@pytest.mark.filterwarnings("ignore:.torch.jit")
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_model_and_step(backend: str) -> None:
    """The hooks run outside of the graph, and nothing is compiled a second time for them."""
    plain = layers()
    model = torch.compile(plain, backend=backend)
    optimizer = sgd(plain, kind=torch.optim.Adam)
    step = torch.compile(optimizer.step, backend=backend)
    states = [state_of(plain)]
    torch._dynamo.reset()
    for _ in range(2):
        loss_of(model).backward()  # compile without a recorder first: Adam's state begins
    torch._dynamo.reset()
    states = [state_of(plain)]
    with torch._dynamo.config.patch(recompile_limit=2, fail_on_recompile_limit_hit=True), hooked():
        for _ in range(6):
            optimizer.zero_grad()
            loss_of(model).backward()
            step()
            states.append(state_of(plain))
    assert_records(states)
    assert "0.weight" in {p.name for p in History("run.zarr").parameters}


# ---------------------------------------------------------------- distributed


DDP = """\
import os, sys
import torch
from torch import nn
import torch.distributed as dist
from weightcast.recorder.distributed import writes_here

rank = int(os.environ["RANK"])
assert writes_here() == (rank == 0)
dist.init_process_group("gloo")
assert writes_here() == (rank == 0)
torch.manual_seed(rank)
model = nn.parallel.DistributedDataParallel(nn.Linear(2, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
saved = [model.module.weight.detach().clone()]
for step in range(5):
    optimizer.zero_grad()
    model(torch.randn(3, 2)).square().sum().backward()
    optimizer.step()
    saved.append(model.module.weight.detach().clone())
torch.save(saved, f"rank{rank}.pt")
dist.barrier()
torch.kept = model  # gloo's process group joins its threads with the GIL held when it goes: a race
"""


def test_rank_0_of_a_data_parallel_run_writes() -> None:
    Path("train.py").write_text(DDP)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = """\
import os
from weightcast.recorder import record_script
outcome = record_script(["train.py"], "run.zarr")
print(outcome.exit_code, outcome.elsewhere, outcome.summary is not None, flush=True)
os._exit(0)
"""
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=os.environ
            | {"RANK": str(rank), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
            | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [run.communicate(timeout=100) for run in runs]
    assert [out for out, _ in outputs] == ["0 False True\n", "0 True False\n"], outputs
    saved = [torch.load(f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    history = History("run.zarr")
    assert history.steps.tolist() == [0, 1, 2, 3, 4, 5]
    for step, (mine, other) in enumerate(zip(*saved, strict=True)):
        assert torch.equal(mine, other)
        np.testing.assert_array_equal(history.state(step)["weight"], mine.numpy())


@pytest.mark.parametrize(("rank", "writes"), [("", True), ("0", True), ("1", False), ("x", True)])
def test_the_launcher_gives_the_rank(
    rank: str, writes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", rank)
    assert writes_here() is writes


def test_optimizers_in_wrappers_without_hooks() -> None:
    class Wrapper:
        def __init__(self, optimizer: Any) -> None:
            self.optimizer = optimizer

    optimizer = sgd(layers())
    assert plain_optimizer(Wrapper(Wrapper(optimizer))) is optimizer
    with refuses(RecordingError, "Wrapper", "hooks"):
        plain_optimizer(Wrapper(None))


# ------------------------------------------------------------- what is recorded


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(4, 3)
        self.mix = nn.Linear(3, 3)
        self.head = nn.Linear(3, 4, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.mix(self.embed(x)))


def test_ties_are_kept_by_name() -> None:
    model = Tied()
    assert select(model).ties == {"head.weight": "embed.weight"}
    assert select(layers()).ties == {}
    only = select(model, ["head.*"])
    assert list(only.parameters) == ["head.weight"]
    assert only.ties == {"embed.weight": "head.weight"}
    assert select(model, ["mix.*"]).ties == {}
    double = nn.Sequential(norm := nn.BatchNorm1d(2), norm)
    assert select(double).ties == {
        **{f"1.{n}": f"0.{n}" for n in ("weight", "bias")},
        **{f"1.{n}": f"0.{n}" for n in ("running_mean", "running_var", "num_batches_tracked")},
    }


def test_ties_restore_the_whole_model() -> None:
    model = Tied()
    selection = select(model)
    with Recorder(selection, "run.zarr") as recorder:
        optimizer = sgd(model)
        for _ in range(2):
            model(torch.tensor([0, 1])).square().sum().backward()
            optimizer.step()
            recorder()
    row = {n: torch.from_numpy(v) for n, v in History("run.zarr").state(2).items()}
    row |= {other: row[name] for other, name in selection.ties.items()}
    again = Tied()
    again.load_state_dict(row)
    assert torch.equal(again.head.weight, model.head.weight)


def test_frozen_parameters_are_part_of_every_row() -> None:
    model = layers()
    model[0].requires_grad_(False)
    optimizer = sgd(model[2])
    states = [state_of(model)]
    with hooked():
        for _ in range(3):
            loss_of(model).backward()
            optimizer.step()
            states.append(state_of(model))
    assert_records(states)
    assert len(History("run.zarr").parameters) == 4


def test_parameters_unfrozen_later_join_the_same_step() -> None:
    """The usual fine-tuning: the backbone's group is added to the optimizer after a while."""
    model = layers()
    model[0].requires_grad_(False)
    optimizer = sgd(model[2])
    states = [state_of(model)]
    with hooked():
        for step in range(4):
            if step == 2:
                model[0].requires_grad_(True)
                optimizer.add_param_group({"params": list(model[0].parameters())})
            loss_of(model).backward()
            optimizer.step()
            states.append(state_of(model))
    assert not torch.equal(states[3]["0.weight"], states[4]["0.weight"])
    assert_records(states)


def test_parameters_outside_of_the_model_that_join_the_optimizer() -> None:
    model, extra = layers(), nn.Linear(1, 1)
    optimizer = sgd(model)
    with refuses(RecordingError, "4", "5", "parameter"), hooked():
        for step in range(3):
            if step == 2:
                optimizer.add_param_group({"params": [extra.weight]})
            loss_of(model).backward()
            optimizer.step()
    assert History("run.zarr").steps.tolist() == [0, 1, 2]


CHANGES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "module added": (lambda m: m.append(nn.Linear(1, 1)), "'5.bias' was added"),
    "parameter added": (
        lambda m: m[0].register_parameter("scale", nn.Parameter(torch.ones(1))),
        "'0.scale' was added",
    ),
    "bias filled in": (
        lambda m: setattr(m[3], "bias", nn.Parameter(torch.ones(1))),
        "'3.bias' was added",
    ),
    "module removed": (lambda m: m.pop(2), "'2.bias' is gone"),
    "parameter removed": (lambda m: delattr(m[0], "bias"), "'0.bias' is gone"),
    "parametrised": (
        lambda m: nn.utils.parametrizations.weight_norm(m[0]),
        "'0.parametrizations.weight.original0' was added",
    ),
    "buffer added": (lambda m: m.register_buffer("n", torch.ones(1)), "'n' was added"),
    "untied": (
        lambda m: setattr(m[4], "weight", nn.Parameter(torch.ones(3, 2))),
        "'4.weight' was added",
    ),
    "tied": (lambda m: setattr(m[2], "weight", m[3].weight), "'3.weight' is gone"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_models_are_refused(change: str) -> None:
    model = nn.Sequential(
        nn.Linear(2, 3),
        nn.Tanh(),
        nn.Linear(3, 1),
        nn.Linear(3, 1, bias=False),
        nn.Linear(2, 3, bias=False),
    )
    model[4].weight = model[0].weight
    function, message = CHANGES[change]
    recorder = Recorder(model, "run.zarr")
    recorder()
    function(model)
    with refuses(RecordingError, message, "recorder"):
        recorder()
    recorder.close()
    assert History("run.zarr").steps.tolist() == [0, 1]


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.add_module("extra", nn.Linear(1, 1)),
        lambda m: m.register_buffer("mask", torch.ones(1), persistent=False),
        lambda m: setattr(m[1], "extra", nn.Parameter(torch.ones(1))),
    ],
    ids=["excluded module", "buffer that is not kept", "excluded parameter"],
)
def test_changes_outside_of_the_selection_do_not_matter(change: Callable[[Any], Any]) -> None:
    model = layers()
    states = [state_of(model)]
    with Recorder(model, "run.zarr", exclude=["*extra*"]) as recorder:
        for step in range(3):
            if step == 1:
                change(model)
            with torch.no_grad():
                model[0].weight += 1
            recorder()
            states.append(state_of(model))
    assert_records(states)


@pytest.mark.parametrize(
    "replace",
    [
        lambda m: setattr(m[0], "weight", nn.Parameter(torch.full((3, 2), 7.0))),
        lambda m: m.__setitem__(0, nn.Linear(2, 3)),
        lambda m: m.load_state_dict(copy.deepcopy(m.state_dict()), assign=True),
        lambda m: m.__setitem__(1, nn.ReLU()),
        lambda m: m.to(torch.bfloat16),
    ],
    ids=["parameter", "module", "assigned", "activation", "narrower"],
)
def test_replaced_tensors_are_followed(replace: Callable[[Any], Any]) -> None:
    """A row is what ``state_dict`` gives, whichever tensor now stands under a name."""
    model = layers()
    states = [state_of(model)]
    with Recorder(model, "run.zarr") as recorder:
        for step in range(3):
            if step == 1:
                replace(model)
            with torch.no_grad():
                model[0].weight += 1
            recorder()
            states.append({n: t.float() for n, t in state_of(model).items()})
    assert_records(states)


def test_wider_tensors_are_refused() -> None:
    model = layers()
    recorder = Recorder(model, "run.zarr")
    model.double()
    with refuses(RecordingError, "'0.weight'", "float32", "float64"):
        recorder()
    recorder.close()


class Mixture(nn.Module):
    def __init__(self, count: int) -> None:
        super().__init__()
        dtypes = (torch.bfloat16, torch.float16, torch.float32, torch.float64)[:count]
        self.parts = nn.ParameterList(nn.Parameter(torch.randn(5).to(d)) for d in dtypes)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_mixed_dtypes_come_back_exactly(count: int) -> None:
    model = Mixture(count)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.3)
    states = [state_of(model)]
    with hooked():
        for _ in range(3):
            sum(p.square().sum().double() for p in model.parts).backward()
            optimizer.step()
            optimizer.zero_grad()
            states.append(state_of(model))
    assert_records(states)


def test_sparse_gradients() -> None:
    model = nn.Embedding(5, 2, sparse=True)
    optimizer = torch.optim.SparseAdam(model.parameters(), lr=0.1)
    states = [state_of(model)]
    with hooked():
        for row in (1, 3, 1):
            model(torch.tensor([row])).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            states.append(state_of(model))
    assert_records(states)


def test_lazy_model_is_recorded_after_its_first_batch() -> None:
    model = nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 1))
    with refuses(RecordingError, "'0.weight' is lazy", "batch"):
        Recorder(model, "run.zarr")
    optimizer = sgd(model)
    loss_of(model)
    states = [state_of(model)]
    with hooked():
        loss_of(model).backward()
        optimizer.step()
        states.append(state_of(model))
    assert_records(states)


@pytest.mark.parametrize(
    ("parameter", "words"),
    [
        (nn.Parameter(torch.ones(2, dtype=torch.complex64)), ["complex64", "exclude"]),
        (nn.Parameter(torch.eye(2).to_sparse()), ["sparse_coo", "exclude"]),
        (nn.Parameter(torch.ones(2, device="meta")), ["meta device", "initialise"]),
    ],
    ids=["complex", "sparse", "meta"],
)
def test_what_cannot_be_stored_is_refused(parameter: nn.Parameter, words: list[str]) -> None:
    model = layers()
    model.register_parameter("odd", parameter)
    with refuses(RecordingError, "'odd'", *words):
        Recorder(model, "run.zarr")
    assert not Path("run.zarr").exists()


@pytest.mark.parametrize("together", [True, False])
def test_attach_to_several_optimizers_takes_one_step_of_all(together: bool) -> None:
    model = layers()
    optimizers = [sgd(model[0]), sgd(model[2], kind=torch.optim.Adam)]
    recorder = Recorder(model, "run.zarr")
    for p in model.parameters():
        nn.init.uniform_(p)  # step 0 is taken again, before the first optimizer steps
    states = [state_of(model)]
    if together:
        recorder.attach(*optimizers)
    else:
        recorder.attach(optimizers[0]).attach(optimizers[1])
    with recorder:
        for _ in range(3):
            loss_of(model).backward()
            for optimizer in optimizers:
                optimizer.step()
            states.append(state_of(model))
    assert_records(states)


def test_two_models_under_names_of_their_own() -> None:
    pair = nn.ModuleDict({"generator": layers(), "critic": layers()})
    optimizers = [sgd(pair["generator"]), sgd(pair["critic"])]
    states = [state_of(pair)]
    with Recorder(pair, "run.zarr").attach(*optimizers):
        for _ in range(3):
            sum(loss_of(m) for m in pair.values()).backward()
            for optimizer in optimizers:
                optimizer.step()
            states.append(state_of(pair))
    assert_records(states)


def test_attach_in_backward() -> None:
    model = layers()
    optimizers = {p: torch.optim.SGD([p], lr=0.1) for p in model.parameters()}
    for p in model.parameters():
        p.register_post_accumulate_grad_hook(lambda p: optimizers[p].step())
    states = [state_of(model)]
    with Recorder(model, "run.zarr").attach(*optimizers.values()):
        for _ in range(3):
            model.zero_grad()
            loss_of(model).backward()
            states.append(state_of(model))
    assert_records(states)


def test_another_rank_counts_and_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    model = layers()
    optimizer = sgd(model)
    with Recorder(model, "run.zarr").attach(optimizer) as recorder:
        loss_of(model).backward()
        optimizer.step()
        recorder.log(loss=1.0)
        assert recorder.step == 1
    optimizer.step()
    assert recorder.step == 1
    assert not Path("run.zarr").exists()


def test_another_rank_may_resume_while_rank_0_records(monkeypatch: pytest.MonkeyPatch) -> None:
    model = layers()
    with Recorder(model, "run.zarr") as recorder:
        recorder()
    with Recorder(model, "run.zarr", resume=True):
        monkeypatch.setenv("RANK", "1")
        with Recorder(model, "run.zarr", resume=True) as other:
            other()
        monkeypatch.delenv("RANK")
    assert History("run.zarr").steps.tolist() == [0, 1]


def test_optimizer_state_of_a_script() -> None:
    model = layers()
    optimizer = torch.optim.Adam(model.parameters())
    with hooked(optimizer_state=["exp_avg"]):
        loss_of(model).backward()
        optimizer.step()
    assert History("run.zarr").header.extras == ("optimizer/exp_avg",)
