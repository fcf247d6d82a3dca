"""Jumps in Lightning, Transformers and Accelerate, each with the real library.

Every run has the same model, batches and optimizer, so that each is bit for bit the plain loop.
"""

from __future__ import annotations

import functools
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from store_reference import refuses
from torch import nn
from torch.utils.data import DataLoader, SequentialSampler, TensorDataset

from weightcast.apply import Guard, Jumper, LiveJumps, jump, plan_jumps
from weightcast.apply.accelerate import JumpWeights as AccelerateJumps
from weightcast.apply.lightning import JumpWeights as LightningJumps
from weightcast.apply.script import run_script
from weightcast.apply.transformers import JumpWeights as TransformersJumps
from weightcast.predictor import LinearFit, load, one_thread
from weightcast.recorder.accelerate import RecordWeights as AccelerateRecord
from weightcast.recorder.lightning import RecordWeights as LightningRecord
from weightcast.recorder.transformers import RecordWeights as TransformersRecord
from weightcast.store import History, InputNotFoundError, RecordingError, UsageError

import accelerate  # isort: skip
import lightning.pytorch as pl  # isort: skip
import transformers  # isort: skip

State = dict[str, torch.Tensor]
STEPS, EPOCH = 100, 5  # steps of a run, and of an epoch
PAPER = (30, 40, 50)  # MNIST_1 jumps at 3000, 4000 and 5000

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated"),
    pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path., callbacks"),
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The libraries write beside the script and change global state."""
    monkeypatch.chdir(tmp_path)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    fresh_accelerator()
    with one_thread():  # more are slower on so little
        yield


def fresh_accelerator() -> None:
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()


# ---- one model, one list of batches, one optimizer


class Net(nn.Module):
    """With running statistics, and the forward that the Trainer needs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 1))

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        output = self.layers(x)
        return {"loss": nn.functional.mse_loss(output, labels), "logits": output}


def rows() -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4 * EPOCH, 4, generator=generator)
    return TensorDataset(x, x.sin().sum(dim=1, keepdim=True))


def batches() -> DataLoader[Any]:
    return DataLoader(rows(), batch_size=4)


def sgd(model: nn.Module, lr: float = 0.02) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr)


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.005)


Make = Callable[[nn.Module], torch.optim.Optimizer]


def state_of(model: nn.Module) -> State:
    return {name: t.detach().clone() for name, t in model.state_dict().items()}


def assert_same(these: State, those: State) -> None:
    assert these.keys() == those.keys()
    assert all(torch.equal(these[name], those[name]) for name in those)


def differ(these: State, those: State) -> bool:
    return any(not torch.equal(these[name], those[name]) for name in those)


def plain(
    make: Make,
    jumps: Callable[[torch.optim.Optimizer], Any] | None = None,
    steps: int = STEPS,
    amp: bool = False,
) -> tuple[State, Any]:
    """A loop of one's own; `jumps` may give an optimizer to use in the other's place."""
    model = Net()
    optimizer = make(model)
    made = None if jumps is None else jumps(optimizer)
    used = made if isinstance(made, torch.optim.Optimizer) else optimizer
    for _ in range(steps // EPOCH):
        for x, y in batches():
            used.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=amp):
                loss = model(x, y)["loss"]
            loss.backward()
            used.step()
    if made is not None:
        made.close()
    return state_of(model), made


class Lit(pl.LightningModule):
    def __init__(self, make: Make) -> None:
        super().__init__()
        self.net, self.make = Net(), make

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.net(*batch)["loss"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.make(self.net)


def fit(
    make: Make | Lit,
    callbacks: Any = (),
    steps: int = STEPS,
    *,
    save: int = 0,
    resume: int = 0,
    **options: Any,
) -> State:
    saving = pl.callbacks.ModelCheckpoint(
        "saved", "{step}", every_n_train_steps=save, save_top_k=-1
    )
    trainer = pl.Trainer(
        **{
            "accelerator": "cpu",
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": bool(save),
            "logger": False,
            "max_steps": steps,
            "callbacks": [*callbacks, *([saving] if save else [])],
            **options,
        }
    )
    module = make if isinstance(make, Lit) else Lit(make)
    trainer.fit(module, batches(), ckpt_path=f"saved/step={resume}.ckpt" if resume else None)
    return state_of(module.net)


class InOrder(transformers.Trainer):
    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


def train(
    make: Make,
    callbacks: Any = (),
    steps: int = STEPS,
    *,
    save: int = 0,
    resume: int | str = 0,
    **options: Any,
) -> State:
    model, saving = Net(), "steps" if save else "no"
    optimizer = make(model)
    arguments = transformers.TrainingArguments(
        **{
            "output_dir": "out",
            "report_to": [],
            "disable_tqdm": True,
            "use_cpu": True,
            "per_device_train_batch_size": 4,
            "dataloader_pin_memory": False,
            "max_grad_norm": 0.0,
            "max_steps": steps,
            "save_strategy": saving,
            "save_steps": save or 1,
            **options,
        }
    )
    constant = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    trainer = InOrder(
        model,
        arguments,
        train_dataset=[{"x": x, "labels": y} for x, y in rows()],
        callbacks=list(callbacks),
        optimizers=(optimizer, constant),
    )
    path = f"out/checkpoint-{resume}" if isinstance(resume, int) else resume
    trainer.train(resume_from_checkpoint=path if resume else None)
    train.log = trainer.state.log_history  # type: ignore[attr-defined]
    return state_of(model)


def loop(
    make: Make,
    callbacks: Any = (),
    steps: int = STEPS,
    *,
    save: int = 0,
    resume: int = 0,
    clip: float = 0.0,
    **options: Any,
) -> State:
    fresh_accelerator()
    accelerator = accelerate.Accelerator(cpu=True, log_with=list(callbacks) or None, **options)
    model = Net()
    model, optimizer, loader = accelerator.prepare(model, make(model), batches())
    for callback in callbacks:
        accelerator.register_for_checkpointing(callback)
    if resume:
        accelerator.load_state(f"saved-{resume}")
    accelerator.init_trackers("run")
    for callback in callbacks:
        callback.watch(model, optimizer)
    done = resume
    while done < steps:
        for x, y in loader:
            with accelerator.accumulate(model):
                accelerator.backward(model(x, y)["loss"])
                if accelerator.sync_gradients and clip:
                    accelerator.clip_grad_norm_(model.parameters(), clip)
                optimizer.step()
                optimizer.zero_grad()
            done += accelerator.sync_gradients
            if save and done % save == 0 and accelerator.sync_gradients:
                accelerator.save_state(f"saved-{done}")
    accelerator.end_training()
    return state_of(accelerator.unwrap_model(model))


LIBRARIES = {
    "lightning": (fit, LightningJumps, LightningRecord),
    "transformers": (train, TransformersJumps, TransformersRecord),
    "accelerate": (loop, AccelerateJumps, AccelerateRecord),
}


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> Any:
    return LIBRARIES[request.param]


each_callback = pytest.mark.parametrize(
    "jumps", [LightningJumps, TransformersJumps, AccelerateJumps]
)


# ---- the paper's schedule


@functools.cache
def papers_run() -> tuple[State, dict[int, list[torch.Tensor]], dict[int, list[torch.Tensor]]]:
    """Every snapshot kept, and the pure function called at each jump point.

    The last state; the weights of jump points right before and right after the jump.
    """
    model, forecaster = Net(), load("introspection-mnist")
    optimizer, parameters = sgd(model), list(model.parameters())
    kept = {0: [p.detach().clone() for p in parameters]}
    before, step = {}, 0
    for _ in range(STEPS // EPOCH):
        for x, y in batches():
            optimizer.zero_grad()
            model(x, y)["loss"].backward()
            optimizer.step()
            step += 1
            kept[step] = [p.detach().clone() for p in parameters]
            if step in PAPER:
                before[step] = kept[step]
                past = [kept[round(fraction * step)] for fraction in (1, 0.7, 0.4, 0)]
                kept[step] = jump(parameters, past, forecaster)
                with torch.no_grad():
                    for p, forecast in zip(parameters, kept[step], strict=True):
                        p.copy_(forecast)
    return state_of(model), before, kept


def test_the_papers_schedule_in_a_plain_loop() -> None:
    forecaster = load("introspection-mnist")
    plan = plan_jumps(forecaster, PAPER)
    assert list(plan.targets.items()) == [(30, 60), (40, 80), (50, 100)]

    def beside(optimizer: torch.optim.Optimizer) -> LiveJumps:
        return LiveJumps([optimizer], forecaster, plan)

    def in_its_place(optimizer: torch.optim.Optimizer) -> Jumper:
        return Jumper(optimizer, forecaster, PAPER, guard=None)

    for jumps in (beside, in_its_place):
        state, made = plain(sgd, jumps)
        assert made.jumped == list(PAPER)
        assert_same(state, papers_run()[0])
    assert differ(plain(sgd)[0], papers_run()[0])


def test_the_papers_schedule_in_a_script(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under torch's global hooks; the script is the plain loop, and knows nothing of jumps."""
    Path("train.py").write_text("""\
import torch
from test_apply_callbacks import EPOCH, STEPS, Net, batches, sgd
model = Net()
optimizer = sgd(model)
for _ in range(STEPS // EPOCH):
    for x, y in batches():
        optimizer.zero_grad()
        model(x, y)["loss"].backward()
        optimizer.step()
torch.save(model.state_dict(), "last.pt")
""")
    monkeypatch.setitem(sys.modules, "test_apply_callbacks", sys.modules[__name__])
    forecaster = load("introspection-mnist")
    outcome = run_script(["train.py"], forecaster, plan_jumps(forecaster, PAPER), guard=None)
    assert outcome.exit_code == 0, outcome.failure
    assert outcome.summary is not None
    assert outcome.summary.made == 3
    assert_same(torch.load("last.pt", weights_only=True), papers_run()[0])


def test_the_papers_schedule_in_each_library(library: Any) -> None:
    run, jumps, _ = library
    made = jumps("introspection-mnist", PAPER, guard=None)
    assert_same(run(sgd, [made]), papers_run()[0])
    assert made.live is None
    assert (made.summary().steps, made.summary().made) == (STEPS, 3)
    assert [(e.step, e.kind) for e in made.events] == [(t, "jumped") for t in PAPER]
    assert_same(run(sgd), plain(sgd)[0])  # nothing is left behind


# ---- the guard, and going on

LINE = LinearFit(horizon=1.6)
GUARDS = {"kept": Guard(steps=10), "rolled back": Guard(steps=10, tolerance=0.0)}


@functools.cache
def guarded_run(kind: str) -> tuple[State, Any]:
    state, jumper = plain(adamw, lambda o: Jumper(o, LINE, [30, 60], guard=GUARDS[kind]))
    return state, jumper.events


@pytest.mark.parametrize("kind", GUARDS)
def test_the_guard_judges_as_in_a_plain_loop(
    kind: str, library: Any, caplog: pytest.LogCaptureFixture
) -> None:
    run, jumps, _ = library
    told: list[Any] = []
    made = jumps(LINE, [30, 60], guard=GUARDS[kind], listener=told.append)
    state, events = guarded_run(kind)
    assert [e.kind for e in events if e.jump == 30] == ["jumped", kind]
    with caplog.at_level(logging.INFO, "weightcast.apply"):
        assert_same(run(adamw, [made]), state)
    assert made.events == told == events
    assert [r.message for r in caplog.records if r.name == "weightcast.apply"] == [*map(str, told)]
    assert differ(state, plain(adamw)[0])


@pytest.mark.parametrize(
    ("kind", "step"), [("kept", 5), ("kept", 30), ("rolled back", 35), ("rolled back", 45)]
)
def test_a_resumed_run_is_the_uninterrupted_one(kind: str, step: int, library: Any) -> None:
    run, jumps, _ = library

    def made() -> Any:
        return jumps(LINE, [30, 60], guard=GUARDS[kind], end=STEPS)

    state, events = guarded_run(kind)
    run(adamw, [made()], step, save=step)
    again = made()
    assert_same(run(adamw, [again], resume=step), state)
    assert again.events == events
    assert again.summary().steps == STEPS


def test_a_second_fit_goes_on() -> None:
    made, module = LightningJumps("introspection-mnist", PAPER, guard=None, end=STEPS), Lit(sgd)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = pl.Trainer(
        accelerator="cpu", callbacks=[made], enable_checkpointing=False, max_steps=45, **quiet
    )
    trainer.fit(module, batches())
    trainer.fit_loop.epoch_loop.max_steps = STEPS
    trainer.fit(module, batches())
    assert_same(state_of(module.net), papers_run()[0])
    assert made.summary().made == 3


@pytest.fixture
def mesh() -> Iterator[Any]:
    """A distributed run of this process alone."""
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    yield torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def test_sharded_weights_are_not_gone_on_with(mesh: Any) -> None:
    """A checkpoint has the shards of one rank, which would pass for those of all."""
    model = nn.Linear(4, 1)
    torch.distributed.tensor.distribute_module(model, mesh)
    optimizer = sgd(model)
    made, again = (AccelerateJumps(LINE, [30], guard=None) for _ in range(2))
    with made.watch(model, optimizer):
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
    again.load_state_dict(made.state_dict())
    with refuses(UsageError, "sharded", "one rank"):
        again.watch(model, optimizer)
    with AccelerateJumps(LINE, [30], guard=None).watch(model, optimizer) as other:
        assert other.tracker.step == 0  # the refused ones have let go of the model


@pytest.mark.parametrize("run", [fit, train])
def test_a_checkpoint_from_before_the_jumps(run: Any) -> None:
    """Enough where nothing of before is needed; else it says what is missing."""
    jumps = LightningJumps if run is fit else TransformersJumps
    run(adamw, steps=20, save=20)
    with refuses(UsageError, "step 20", "snapshots of steps [0, 12]"):
        run(adamw, [jumps(LinearFit(), [30], guard=None)], resume=20)
    near = LinearFit((1.0, 0.7))
    state, _ = plain(adamw, lambda o: Jumper(o, near, [30], guard=None))
    assert_same(run(adamw, [jumps(near, [30], guard=None)], resume=20), state)


def test_another_runs_state_is_not_gone_on_with() -> None:
    """One callback, in one process: its own run ended, and the next goes on from a checkpoint."""
    fit(adamw, steps=20, save=20)
    made = LightningJumps(LINE, [30], guard=None, end=STEPS)
    fit(adamw, [made], 25)
    with refuses(UsageError, "step 20", "snapshots"):
        fit(adamw, [made], resume=20)


def test_transformers_state_that_was_left_behind_is_not_gone_on_with() -> None:
    train(adamw, [TransformersJumps(LINE, [60], guard=None, end=STEPS)], 20, save=20)
    train(adamw, steps=25, resume=20, save=25)
    with refuses(UsageError, "step 25", "snapshots of steps [0, 24]"):
        train(adamw, [TransformersJumps(LINE, [60], guard=None)], resume=25)


def test_transformers_checkpoints_may_be_moved() -> None:
    made = functools.partial(TransformersJumps, LINE, [30, 60], guard=GUARDS["kept"], end=STEPS)
    train(adamw, [made()], 35, save=35)
    Path("out").rename("moved")
    state, events = guarded_run("kept")
    again = made()
    assert_same(train(adamw, [again], resume="moved/checkpoint-35"), state)
    assert again.events == events
    saved = torch.load("moved/checkpoint-35/optimizer.pt", weights_only=True)
    adamw(Net()).load_state_dict(saved)  # and without us


def test_accelerate_state_is_loaded_before_or_after_watch() -> None:
    made = AccelerateJumps(LINE, [10], guard=None)
    model = Net()
    optimizer = sgd(model)
    with made.watch(model, optimizer):
        for x, y in batches():
            model(x, y)["loss"].backward()
            optimizer.step()
        saved, step = made.state_dict(), made.tracker.step
        again = AccelerateJumps(LINE, [10], guard=None)
    with again.watch(model, optimizer):
        again.load_state_dict(saved)
        assert again.tracker.step == step == EPOCH
    again.load_state_dict(saved)
    with again.watch(model, optimizer):
        assert again.tracker.step == EPOCH
    with again.watch(model, optimizer):  # it does not go on by itself
        assert again.tracker.step == 0


# ---- what else trainers do


def accumulated(batched: int, parts: bool, steps: int) -> tuple[State, list[Any]]:
    """Clipped gradients; `parts`: the last batch of an epoch, alone in its step, is a whole."""
    model = Net()
    optimizer = adamw(model)
    guard = replace(GUARDS["kept"], summed=parts)
    with Jumper(optimizer, LINE, [30, 60], guard=guard) as jumper:
        while jumper.step_count < steps:
            for i, (x, y) in enumerate(batches()):
                last = i == EPOCH - 1
                (model(x, y)["loss"] / (1 if last and parts else batched)).backward()
                if last or i % batched == batched - 1:
                    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
                    optimizer.step()
                    optimizer.zero_grad()
    return state_of(model), jumper.events


@pytest.mark.parametrize("batched", [2, 4])
def test_accumulated_and_clipped_gradients(batched: int, library: Any) -> None:
    """The last step of an epoch has one batch only."""
    run, jumps, _ = library
    options: dict[Any, dict[str, Any]] = {
        fit: {"accumulate_grad_batches": batched, "gradient_clip_val": 0.5},
        train: {"gradient_accumulation_steps": batched, "max_grad_norm": 0.5},
        loop: {"gradient_accumulation_steps": batched, "clip": 0.5},
    }
    steps = 102  # whole epochs, of 2 or 3 steps
    made = jumps(LINE, [30, 60], guard=GUARDS["kept"])
    state, events = accumulated(batched, run is train, steps)
    assert_same(run(adamw, [made], steps, **options[run]), state)
    assert made.summary().steps == steps
    assert made.events == events


def test_transformers_losses_of_steps_with_fewer_batches_are_no_higher() -> None:
    """It divides the loss of each batch by how many its step has."""
    seen: list[float] = []

    class Steps(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            ((_, loss),) = made.live.state_dict()["judge"]["log"]["losses"][-1:]
            seen.append(loss)

    made = TransformersJumps(LINE, [30], guard=Guard(steps=10), end=STEPS)
    train(functools.partial(sgd, lr=0.0), [made, Steps()], 2, gradient_accumulation_steps=4)
    model = Net()
    losses = [model(x, y)["loss"].item() for x, y in batches()]
    assert seen == pytest.approx([sum(losses[:4]) / 4, losses[4]], rel=1e-6)


def test_bfloat16(library: Any) -> None:
    run, jumps, _ = library
    options: dict[Any, dict[str, Any]] = {
        fit: {"precision": "bf16-mixed"},
        train: {"bf16": True},
        loop: {"mixed_precision": "bf16"},
    }
    made = jumps(LINE, [30], guard=GUARDS["kept"])
    state = run(adamw, [made], 50, **options[run])
    assert [(e.step, e.kind) for e in made.events] == [(30, "jumped"), (40, "kept")]
    guarded = functools.partial(Jumper, guard=GUARDS["kept"])
    expected, _ = plain(adamw, lambda o: guarded(o, LINE, [30]), 50, amp=True)
    assert {t.dtype for t in state.values() if t.ndim} == {torch.float32}
    assert_same(state, expected)


def test_steps_that_overflow_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    accelerator = accelerate.Accelerator(cpu=True)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)  # else for fp16 on GPUs only
    model = Net()
    model, optimizer = accelerator.prepare(model, adamw(model))
    monkeypatch.setattr(accelerator.state, "_mixed_precision", "fp16")
    state, events = guarded_run("kept")
    with AccelerateJumps(LINE, [30, 60], guard=GUARDS["kept"]).watch(model, optimizer) as made:
        for epoch in range(STEPS // EPOCH):
            for i, (x, y) in enumerate(batches()):
                if (epoch, i) == (7, 2):
                    buffers = [b.clone() for b in model.buffers()]
                    overflow = model.layers[0].weight.register_hook(lambda g: g * float("inf"))
                    accelerator.backward(model(x, y)["loss"])
                    overflow.remove()
                    optimizer.step()
                    optimizer.zero_grad()
                    for b, kept in zip(model.buffers(), buffers, strict=True):
                        b.copy_(kept)
                accelerator.backward(model(x, y)["loss"])
                optimizer.step()
                optimizer.zero_grad()
    assert_same(state_of(model), state)
    assert [(e.step, e.kind) for e in made.events] == [(e.step, e.kind) for e in events]


class Manual(Lit):
    """Two optimizers in one step, and a loss that the trainer scales and calls backward on."""

    def __init__(self) -> None:
        super().__init__(sgd)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        self.manual_backward(self.net(*batch)["loss"])
        for optimizer in self.optimizers():
            optimizer.step()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [adamw(self.net.layers[0]), adamw(self.net.layers[1:])]


@pytest.mark.parametrize("kind", GUARDS)
def test_manual_optimization_with_two_optimizers(kind: str) -> None:
    made = LightningJumps(LINE, [30, 60], guard=GUARDS[kind])
    state, events = guarded_run(kind)
    assert_same(fit(Manual(), [made], 2 * STEPS), state)  # Lightning counts both
    assert made.events == events


@pytest.mark.parametrize("jumps_first", [True, False])
def test_recorded_at_the_same_time(jumps_first: bool, library: Any) -> None:
    run, jumps, record = library
    made = jumps("introspection-mnist", PAPER, guard=None)
    both = [made, record("run.zarr")]
    state, before, after = papers_run()
    assert_same(run(sgd, both if jumps_first else both[::-1]), state)
    history = History("run.zarr")
    assert history.steps.tolist() == list(range(STEPS + 1))
    for t in PAPER:
        row = history.state(t)
        expected = (after if jumps_first else before)[t]
        pairs = [(v, e) for (n, v), e in zip(row.items(), expected, strict=False)]
        assert len(pairs) == len(expected)
        for found, wanted in pairs:
            np.testing.assert_array_equal(found, wanted.numpy())
    last = history.state(STEPS)
    for name, found in last.items():
        (wanted,) = (t for key, t in state.items() if name.endswith(key))
        np.testing.assert_array_equal(found, wanted.numpy())


# ---- the end of training


@pytest.mark.parametrize("run", [fit, train])
def test_the_trainer_knows_the_end(run: Any) -> None:
    jumps = LightningJumps if run is fit else TransformersJumps
    made = jumps(LINE, every=30, guard=GUARDS["kept"])  # 90 to 144 is left out
    run(adamw, [made])
    assert made.summary().made == 2
    told = jumps(LINE, every=30, guard=GUARDS["kept"], end=150)
    run(adamw, [told])
    assert told.summary().made == 3
    make = functools.partial(torch.optim.SGD, lr=float("nan"))  # fails if a step is taken
    with refuses(UsageError, "end of training at 100", "90"):
        run(lambda model: make(model.parameters()), [jumps(LINE, [90], guard=None)])


def test_lightning_counts_epochs_too() -> None:
    made = LightningJumps(LINE, every=30, guard=GUARDS["kept"])
    fit(adamw, [made], -1, max_epochs=STEPS // EPOCH)
    assert made.summary().made == 2


def test_accelerate_does_not() -> None:
    with refuses(UsageError, "no end", "end="):
        AccelerateJumps(LINE, every=30).watch(net := Net(), sgd(net))
    assert AccelerateJumps(LINE, every=30, end=STEPS, guard=None).watch(net, sgd(net)).tracker


def test_a_fast_dev_run_does_not_jump() -> None:
    made = LightningJumps(LINE, [30, 60])
    fit(adamw, [made], fast_dev_run=True)
    assert made.summary() is None
    assert made.events == []


# ---- what is said


class Metrics(pl.loggers.logger.DummyLogger):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.seen += [(step or 0, metrics)] if any("jump" in name for name in metrics) else []


def test_lightning_loggers_count_jumps() -> None:
    metrics = Metrics()
    fit(
        adamw,
        [LightningJumps(LINE, [30, 60], guard=GUARDS["rolled back"])],
        logger=metrics,
        log_every_n_steps=1,
    )
    assert [set(m.items()) for _, m in metrics.seen] == [
        {("jumps/jumped", 1)},
        {("jumps/jumped", 1), ("jumps/rolled_back", 1)},
        {("jumps/jumped", 2), ("jumps/rolled_back", 1)},
        {("jumps/jumped", 2), ("jumps/rolled_back", 2)},
    ]
    assert [step for step, _ in metrics.seen] == [29, 39, 59, 69]  # as Lightning numbers them


def test_transformers_log_counts_jumps() -> None:
    made = functools.partial(TransformersJumps, LINE, [30, 60], guard=GUARDS["kept"], end=STEPS)
    train(adamw, [made()], 45, save=45)
    train(adamw, [made()], resume=45)
    entries = [e for e in train.log if "jumps/jumped" in e]  # type: ignore[attr-defined]
    assert [(e["step"], e["epoch"]) for e in entries] == [(30, 6), (40, 8), (60, 12), (70, 14)]
    assert entries[-1]["jumps/jumped"] == entries[-1]["jumps/kept"] == 2


# ---- what cannot be


class Failing(Lit):
    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        if batch_idx == 3:
            raise ZeroDivisionError
        return super().training_step(batch, batch_idx)


def test_a_run_that_fails_leaves_nothing_behind() -> None:
    backward = torch.autograd.backward
    made = LightningJumps(LINE, [30, 60])
    with pytest.raises(ZeroDivisionError):
        fit(Failing(sgd), [made])
    assert made.summary().steps == 3
    assert torch.autograd.backward is backward
    other = TransformersJumps(LINE, [30, 60])
    with pytest.raises(ZeroDivisionError), other:
        train(sgd, [other, Stopping()])
    assert other.summary().steps == 3
    assert torch.autograd.backward is backward


class Stopping(transformers.TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3:
            raise ZeroDivisionError


def test_a_model_has_one_jumper(library: Any) -> None:
    run, jumps, _ = library

    def taken(model: nn.Module) -> torch.optim.Optimizer:
        return Jumper(sgd(model), LINE, [30], guard=None)

    with refuses(UsageError, "one jumper"):
        run(taken, [jumps(LINE, [30], guard=None)])


def test_an_optimizer_without_hooks_is_refused() -> None:
    with refuses(RecordingError, "object", "hooks"):
        AccelerateJumps(LINE, [30], guard=None).watch(Net(), object())


@each_callback
def test_bad_options_are_refused_at_once(jumps: Callable[..., Any]) -> None:
    with refuses(UsageError, "moments", "placement", "got momenta"):
        jumps(LINE, [30], momenta="clear")
    with refuses(UsageError, "jump_points or every"):
        jumps(LINE)
    with refuses(UsageError, "jump_points or every"):
        jumps(LINE, [30], every=10)
    with refuses(UsageError, "every:x"):
        jumps(LINE, "every:x")
    with refuses(UsageError, "moments", "half"):
        jumps(LINE, [30], moments="half")
    with refuses(UsageError, "LinearFit", "3t"):
        jumps(LINE, [30], horizon=3)
    with refuses(UsageError, "probation", "200"):
        jumps(LINE, [3000, 3100], guard=Guard(steps=200))
    with refuses(UsageError, "end of training", "40"):
        jumps(LINE, [30], end=40)
    with refuses(InputNotFoundError, "lime"):
        jumps("lime", [30])


def test_missing_libraries_name_their_extra() -> None:
    code = """\
import importlib, sys
import weightcast.apply
from weightcast.store import MissingExtraError
for name in ("accelerate", "lightning", "pytorch_lightning", "transformers"):
    assert name not in sys.modules
    sys.modules[name] = None
for name in ("accelerate", "lightning", "transformers"):
    try: importlib.import_module(f"weightcast.apply.{name}")
    except MissingExtraError as error: print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    for line, name in zip(lines, ("accelerate", "lightning", "transformers"), strict=True):
        assert f"pip install 'weightcast[{name}]'" in line
