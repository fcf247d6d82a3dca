"""Callbacks for Lightning, Transformers and Accelerate, each with the real library."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from store_reference import refuses
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from weightcast.recorder.accelerate import RecordWeights as AccelerateRecord
from weightcast.recorder.callback import metric_name
from weightcast.recorder.lightning import RecordWeights as LightningRecord
from weightcast.recorder.transformers import RecordWeights as TransformersRecord
from weightcast.store import (
    History,
    InputNotFoundError,
    OutputExistsError,
    RecordingError,
    UsageError,
)
from weightcast.store.layout import metric_path

import accelerate  # isort: skip
import lightning.pytorch as pl  # isort: skip
import pytorch_lightning  # isort: skip
import transformers  # isort: skip

State = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The libraries write beside the script and change global state."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()


def state_of(model: nn.Module) -> State:
    return {name: t.detach().clone() for name, t in model.state_dict().items()}


def assert_records(path: str, states: Any, steps: list[int] | None = None) -> None:
    """The history has these steps, and each row is the clone taken there."""
    history = History(path)
    assert history.steps.tolist() == (list(range(len(states))) if steps is None else steps)
    for step in history.steps.tolist():
        row = history.state(step)
        assert row.keys() == states[step].keys()
        for name, tensor in states[step].items():
            np.testing.assert_array_equal(row[name], tensor.numpy(), strict=False, err_msg=name)


def data(rows: int = 32) -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, 4, generator=generator)
    return TensorDataset(x, x.sum(dim=1, keepdim=True))


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))


# ---------------------------------------------------------------- Lightning


class Lit(pl.LightningModule):
    """Clones its weights whenever its optimizer has really stepped."""

    def __init__(self, fail_at: int = -1, error: type[BaseException] = ZeroDivisionError) -> None:
        super().__init__()
        self.net = net()
        self.fail_at, self.error = fail_at, error
        self.states: dict[int, State] = {}
        self.first = 0

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        if batch_idx == self.fail_at:
            raise self.error
        loss = nn.functional.mse_loss(self.net(batch[0]), batch[1])
        self.log("train loss", loss)
        self.log("rate", 0.5, on_step=False, on_epoch=True)
        return loss

    def on_train_start(self) -> None:
        self.states[self.first] = state_of(self)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.states[max(self.states) + 1] = state_of(self)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


class Validated(Lit):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", nn.functional.mse_loss(self.net(batch[0]), batch[1]))


def fit(
    model: Any, callback: Any, *, ckpt: str | None = None, library: Any = pl, **options: Any
) -> Any:
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "logger": False,
    }
    callbacks = callback if isinstance(callback, list) else [callback]
    trainer = library.Trainer(callbacks=callbacks, **{**quiet, **options})
    validation = DataLoader(data(8), batch_size=8) if isinstance(model, Validated) else None
    trainer.fit(model, DataLoader(data(), batch_size=4), validation, ckpt_path=ckpt)
    return trainer


few_workers = pytest.mark.filterwarnings("ignore:.*does not have many workers")
lightning_copies_a_pytree = pytest.mark.filterwarnings(
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated"
)


@few_workers
@lightning_copies_a_pytree
@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_lightning_records_steps_really_taken(accumulate: int) -> None:
    model = Lit()
    fit(model, LightningRecord("run.zarr"), max_epochs=2, accumulate_grad_batches=accumulate)
    assert len(model.states) == 1 + 2 * -(-8 // accumulate)
    assert_records("run.zarr", [model.states[i] for i in range(len(model.states))])


@few_workers
@lightning_copies_a_pytree
def test_lightning_options_and_metrics() -> None:
    model = Validated()
    record = LightningRecord("run.zarr", "every:4", exclude=["*.bias"], metadata={"a": 1})
    fit(model, record, max_epochs=2)
    history = History("run.zarr")
    assert history.steps.tolist() == [0, 4, 8, 12, 16]
    assert [p.name for p in history.parameters] == ["net.0.weight", "net.1.weight", "net.2.weight"]
    assert history.header.metadata == {"a": 1}
    assert sorted(history.metrics) == ["rate", "train_loss", "val/loss"]
    assert history.metric("train_loss")[0].tolist() == [4, 8, 12, 16]
    assert history.metric("val/loss")[0].tolist() == [8, 16]
    assert history.metric("rate")[0].tolist() == [8, 16]
    assert history.metric("rate")[1].tolist() == [0.5, 0.5]
    model.load_state_dict(model.states[15])
    x, y = (t[28:] for t in data().tensors)  # not shuffled: the last batch
    expected = nn.functional.mse_loss(model.train().net(x), y).item()
    assert history.metric("train_loss")[1][-1] == pytest.approx(expected, rel=1e-6)


class Manual(Lit):
    """Two optimizers; the second steps every second batch only."""

    def __init__(self, every: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.every = every

    def training_step(self, batch: Any, batch_idx: int) -> None:
        first, second = self.optimizers()
        loss = nn.functional.mse_loss(self.net(batch[0]), batch[1])
        first.zero_grad()
        second.zero_grad()
        self.manual_backward(loss)
        first.step()
        if batch_idx % self.every == 0:
            second.step()
        self.states[max(self.states) + 1] = state_of(self)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [
            torch.optim.SGD(layer.parameters(), lr=0.01) for layer in (self.net[0], self.net[2])
        ]


@few_workers
@lightning_copies_a_pytree
def test_lightning_two_optimizers_are_one_step() -> None:
    model = Manual(every=1)
    trainer = fit(model, LightningRecord("run.zarr"), max_epochs=1)
    assert trainer.global_step == 16  # Lightning counts each optimizer
    assert_records("run.zarr", [model.states[i] for i in range(9)])


@few_workers
@lightning_copies_a_pytree
def test_lightning_optimizer_that_steps_less_often() -> None:
    model = Manual(every=2)
    fit(model, LightningRecord("run.zarr"), max_epochs=1)
    history = History("run.zarr")
    assert history.steps.tolist() == list(range(8))  # the eighth is complete with the ninth
    for step in range(8):
        weight = history.state(step)["net.0.weight"]
        np.testing.assert_array_equal(weight, model.states[step]["net.0.weight"].numpy())


@few_workers
@lightning_copies_a_pytree
@pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path., callbacks")
@pytest.mark.parametrize("schedule", ["every:1", None])
def test_lightning_resumes(schedule: str | None) -> None:
    saved = pl.callbacks.ModelCheckpoint("saved", every_n_train_steps=8, save_top_k=-1)
    first, again = Lit(), Lit()
    record = LightningRecord("run.zarr", "every:1")
    fit(first, [record, saved], enable_checkpointing=True, max_epochs=2)
    again.first = 8
    record = LightningRecord("run.zarr", schedule, overwrite=True)
    fit(again, record, ckpt="saved/epoch=0-step=8.ckpt", max_epochs=3)
    assert (max(first.states), min(again.states), max(again.states)) == (16, 8, 24)
    assert_records("run.zarr", {**first.states, **again.states}, list(range(25)))


@few_workers
@lightning_copies_a_pytree
@pytest.mark.parametrize(
    ("error", "raised"), [(ZeroDivisionError, ZeroDivisionError), (KeyboardInterrupt, SystemExit)]
)
def test_lightning_failed_runs_are_complete(
    error: type[BaseException], raised: type[BaseException]
) -> None:
    model = Lit(fail_at=5, error=error)
    with pytest.raises(raised):
        fit(model, LightningRecord("run.zarr"), max_epochs=1)
    assert_records("run.zarr", [model.states[i] for i in range(6)])


@few_workers
@lightning_copies_a_pytree
def test_lightning_a_second_fit_goes_on() -> None:
    model, record = Lit(), LightningRecord("run.zarr")
    trainer = fit(model, record, max_epochs=1)
    trainer.fit_loop.max_epochs = 2
    model.first = 8
    trainer.fit(model, DataLoader(data(), batch_size=4))
    assert_records("run.zarr", [model.states[i] for i in range(17)])


class OldLit(pytorch_lightning.LightningModule):
    """Under the library's other name."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, 1)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


@few_workers
@lightning_copies_a_pytree
def test_pytorch_lightning_takes_the_callback_too() -> None:
    record = LightningRecord("run.zarr")
    fit(OldLit(), record, library=pytorch_lightning, max_epochs=1)
    assert History("run.zarr").steps.tolist() == list(range(9))


@few_workers
@lightning_copies_a_pytree
def test_lightning_taken_path_is_refused_before_training() -> None:
    Path("run.zarr").mkdir()
    model = Lit()
    with refuses(OutputExistsError, "run.zarr"):
        fit(model, LightningRecord("run.zarr"), max_epochs=1)
    assert list(model.states) == []


# ------------------------------------------------------------- Transformers


class ForTrainer(nn.Module):
    """What the Trainer needs: a forward that returns the loss."""

    def __init__(self, fail_at: int = -1) -> None:
        super().__init__()
        self.net = net()
        self.calls, self.fail_at = 0, fail_at

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        self.calls += self.training
        if self.calls == self.fail_at:
            raise ZeroDivisionError
        output = self.net(x)
        return {"loss": nn.functional.mse_loss(output, labels), "logits": output}


class Clones(transformers.TrainerCallback):
    """Clones the weights at the trainer's own steps."""

    def __init__(self) -> None:
        self.states: dict[int, State] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.states[state.global_step] = state_of(kwargs["model"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.states[state.global_step] = state_of(kwargs["model"])


def hugging(
    model: nn.Module, callback: Any, *, resume: str | None = None, **options: Any
) -> dict[int, State]:
    clones = Clones()
    quiet: dict[str, Any] = {
        "output_dir": "out",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "per_device_train_batch_size": 4,
        "learning_rate": 0.01,
        "save_strategy": "no",
        "dataloader_pin_memory": False,
    }
    rows = [{"x": x, "labels": y} for x, y in data()]
    trainer = transformers.Trainer(
        model,
        transformers.TrainingArguments(**{**quiet, **options}),
        train_dataset=rows,
        eval_dataset=rows[:8],
        callbacks=[callback, clones],
    )
    trainer.train(resume_from_checkpoint=resume)
    return clones.states


@pytest.mark.parametrize("accumulate", [1, 3])
def test_transformers_records_steps_really_taken(accumulate: int) -> None:
    record = TransformersRecord("run.zarr")
    states = hugging(
        ForTrainer(), record, num_train_epochs=2, gradient_accumulation_steps=accumulate
    )
    assert len(states) == 1 + 2 * -(-8 // accumulate)
    assert_records("run.zarr", states)


def test_transformers_own_model_with_options_and_metrics(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A tied model, whose head is stored once."""
    config = transformers.BertConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=8,
    )
    model = transformers.BertForMaskedLM(config)
    rows = [{"input_ids": torch.arange(5) + i, "labels": torch.arange(5)} for i in range(12)]
    record = TransformersRecord("run.zarr", "every:2", exclude=["*LayerNorm*"])
    arguments = transformers.TrainingArguments(
        "out",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        num_train_epochs=2,
        per_device_train_batch_size=4,
        logging_steps=2,
        eval_strategy="epoch",
        save_strategy="no",
        dataloader_pin_memory=False,
    )
    trainer = transformers.Trainer(
        model, arguments, train_dataset=rows, eval_dataset=rows[:4], callbacks=[record]
    )
    trainer.train()
    history = History("run.zarr")
    assert history.steps.tolist() == [0, 2, 4, 6]
    assert not any("LayerNorm" in p.name for p in history.parameters)
    embedding = "bert.embeddings.word_embeddings.weight"
    last = history.state(6)
    np.testing.assert_array_equal(last[embedding], model.state_dict()[embedding].numpy())
    assert "cls.predictions.decoder.weight" not in last
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    steps, values = history.metric("loss")
    assert steps.tolist() == [entry["step"] for entry in logged] == [2, 4, 6]
    assert values.tolist() == [entry["loss"] for entry in logged]
    assert history.metric("eval_loss")[0].tolist() == [3, 6]


@pytest.mark.parametrize("restore", [False, True])
def test_transformers_resumes(restore: bool) -> None:
    options = {"lr_scheduler_type": "constant", "save_strategy": "steps", "save_steps": 5}
    first = hugging(ForTrainer(), TransformersRecord("run.zarr"), num_train_epochs=2, **options)
    again = hugging(
        ForTrainer(),
        TransformersRecord("run.zarr", overwrite=True),
        resume="out/checkpoint-10",
        restore_callback_states_from_checkpoint=restore,
        num_train_epochs=3,
        **options,
    )
    assert (max(first), min(again), max(again)) == (16, 10, 24)
    assert_records("run.zarr", {**first, **again}, list(range(25)))


def test_transformers_checkpoint_from_before_the_callback() -> None:
    hugging(ForTrainer(), Clones(), save_strategy="steps", save_steps=4, max_steps=4)
    record = TransformersRecord("run.zarr")
    with refuses(InputNotFoundError, "start step 4", "run.zarr"):
        hugging(ForTrainer(), record, resume="out/checkpoint-4", max_steps=8)


def test_transformers_failed_run_is_complete() -> None:
    record = TransformersRecord("run.zarr")
    with pytest.raises(ZeroDivisionError), record:
        hugging(ForTrainer(fail_at=4), record, num_train_epochs=1)
    assert History("run.zarr").steps.tolist() == [0, 1, 2, 3]


# --------------------------------------------------------------- Accelerate


def loop(
    accelerator: accelerate.Accelerator,
    model: nn.Module,
    optimizer: Any,
    epochs: int = 1,
    poison: int = -1,
) -> list[State]:
    """Train, and clone the weights where the real optimizer has stepped."""
    states = []
    loader = accelerator.prepare(DataLoader(data(), batch_size=4))
    for epoch in range(epochs):
        for i, (x, y) in enumerate(loader):
            with accelerator.accumulate(model):
                loss = nn.functional.mse_loss(model(x), y)
                poisoned = loss * float("inf") if (epoch, i) == (0, poison) else loss
                accelerator.backward(poisoned)
                optimizer.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients and not optimizer.step_was_skipped:
                states.append(state_of(accelerator.unwrap_model(model)))
            accelerator.log({"loss": loss.item(), "stage": "train"})
    return states


@pytest.mark.parametrize("accumulate", [1, 3])
def test_accelerate_records_steps_really_taken(accumulate: int) -> None:
    record = AccelerateRecord("run.zarr")
    accelerator = accelerate.Accelerator(
        cpu=True, log_with=record, gradient_accumulation_steps=accumulate
    )
    model = net()
    model, optimizer = accelerator.prepare(model, torch.optim.Adam(model.parameters(), lr=0.01))
    accelerator.init_trackers("run", config={"lr": 0.01, "odd": [1]})
    record.watch(model, optimizer)
    assert accelerator.get_tracker("weightcast", unwrap=True) is record.tracker
    states = [state_of(model), *loop(accelerator, model, optimizer)]
    accelerator.end_training()
    assert record.tracker is None
    assert len(states) == 1 + -(-8 // accumulate)
    assert_records("run.zarr", states)
    history = History("run.zarr")
    assert history.header.metadata == {"lr": 0.01}
    assert list(history.metrics) == ["loss"]
    assert len(history.metric("loss")[0]) == 8
    assert history.metric("loss")[0][-1] == len(states) - 1


@pytest.mark.parametrize("fused", [False, True])
def test_accelerate_steps_that_overflow_are_not_counted(
    fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = AccelerateRecord("run.zarr")
    accelerator = accelerate.Accelerator(cpu=True, log_with=record)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)  # else for fp16 on GPUs only
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=fused)
    model, optimizer = accelerator.prepare(model, optimizer)
    record.watch(model, optimizer)
    monkeypatch.setattr(accelerator.state, "_mixed_precision", "fp16")
    start = state_of(model)
    states = loop(accelerator, model, optimizer, poison=2)
    record.finish()
    before = states.pop(1) if fused else None  # Accelerate takes a fused optimizer's for a step
    assert len(states) == 7
    weights = [s["0.weight"] for s in [start, *states]]
    history = History("run.zarr")
    assert history.steps.tolist() == list(range(8))
    for step, weight in enumerate(weights):
        np.testing.assert_array_equal(history.state(step)["0.weight"], weight.numpy())
    assert before is None or torch.equal(before["0.weight"], states[1]["0.weight"])


def test_accelerate_resumes() -> None:
    start, runs = net().state_dict(), []
    for first, epochs in ((True, 2), (False, 1)):
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
        record = AccelerateRecord("run.zarr", overwrite=True)
        accelerator = accelerate.Accelerator(cpu=True, log_with=record)
        accelerator.register_for_checkpointing(record)
        model = net()
        model.load_state_dict(start)
        model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
        accelerator.init_trackers("run")
        if not first:
            accelerator.load_state("saved")
        with record.watch(model, optimizer):
            runs += loop(accelerator, model, optimizer, 1)
            if first:
                accelerator.save_state("saved")
                loop(accelerator, model, optimizer, epochs - 1)
    assert History("run.zarr").steps.tolist() == list(range(17))
    history = History("run.zarr")
    for step, state in enumerate(runs, 1):
        np.testing.assert_array_equal(
            history.state(step)["0.weight"], state["0.weight"].numpy(), err_msg=str(step)
        )


def test_accelerate_checkpoint_after_watch_is_refused() -> None:
    record = AccelerateRecord("run.zarr")
    model = net()
    record.watch(model, torch.optim.SGD(model.parameters()))
    with refuses(RecordingError, "watch after load_state"), record:
        record.load_state_dict({"step": 3})


def test_accelerate_optimizer_without_hooks_is_refused() -> None:
    with refuses(RecordingError, "object", "hooks"):
        AccelerateRecord("run.zarr").watch(net(), object())
    assert not Path("run.zarr").exists()


def test_accelerate_failed_process_leaves_a_complete_history() -> None:
    Path("train.py").write_text("""\
import torch
from weightcast.recorder.accelerate import RecordWeights
model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters())
RecordWeights("run.zarr").watch(model, optimizer)
for _ in range(3):
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
1 / 0
""")
    done = subprocess.run([sys.executable, "train.py"], capture_output=True, text=True)
    assert done.stderr.endswith("ZeroDivisionError: division by zero\n")
    assert History("run.zarr").steps.tolist() == [0, 1, 2, 3]


# --------------------------------------------------------------------- all


@pytest.mark.parametrize("record", [LightningRecord, TransformersRecord, AccelerateRecord])
def test_bad_options_are_refused_at_once(record: Callable[..., Any]) -> None:
    with refuses(UsageError, "options", "shedule"):
        record("run.zarr", shedule="every:2")
    with refuses(UsageError, "every:x"):
        record("run.zarr", "every:x")


@pytest.mark.parametrize("record", [LightningRecord, TransformersRecord, AccelerateRecord])
def test_other_ranks_write_nothing(
    record: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    model = net()
    optimizer = torch.optim.SGD(model.parameters())
    recording = record("run.zarr")._recording
    recording.begin(model, [optimizer], 0)
    optimizer.step()
    recording.log({"loss": 1.0})
    recording.end()
    assert not Path("run.zarr").exists()


@pytest.mark.parametrize(
    "name", ["loss", "val/loss", "a b", "", ".x", "__x", "zarr.json", "/x", "é", "x" * 200, "-"]
)
def test_metric_names_can_be_kept(name: str) -> None:
    assert metric_path(metric_name(name))
    if name in ("loss", "val/loss"):
        assert metric_name(name) == name


def test_metrics_of_like_names_stay_apart_and_what_is_no_number_is_left_out() -> None:
    record, model = AccelerateRecord("run.zarr"), net()
    with record.watch(model, torch.optim.SGD(model.parameters())):
        record.log({"a b": 1, "a_b": torch.tensor([2.0]), "a/b": np.float32(3), "d": True})
        record.log({"text": "x", "many": torch.ones(2), "none": None, "z": 1j, "a b": 4})
    history = History("run.zarr")
    values = {name: history.metric(name)[1].tolist() for name in history.metrics}
    assert values == {"a_b": [1, 4], "a_b_2": [2], "a/b": [3], "d": [1]}


def test_missing_libraries_name_their_extra() -> None:
    code = """\
import importlib, sys
from weightcast.store import MissingExtraError
for name in ("accelerate", "lightning", "pytorch_lightning", "transformers"):
    sys.modules[name] = None
for name in ("accelerate", "lightning", "transformers"):
    try: importlib.import_module(f"weightcast.recorder.{name}")
    except MissingExtraError as error: print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    for line, name in zip(lines, ("accelerate", "lightning", "transformers"), strict=True):
        assert f"pip install 'weightcast[{name}]'" in line


def test_libraries_are_not_shadowed_from_the_repository_root() -> None:
    code = """\
import importlib.util, weightcast.recorder.accelerate
for name in ("accelerate", "lightning", "transformers"):
    print(importlib.util.find_spec(name).origin)
"""
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout.count("site-packages") == 3
