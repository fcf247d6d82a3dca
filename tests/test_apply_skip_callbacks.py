"""Skipped weight updates in Lightning, Transformers and Accelerate, each with the real library.

Every run has the same model, batches and optimizer, so that each is bit for bit the plain loop.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from store_reference import refuses
from test_apply_callbacks import (
    EPOCH,
    InOrder,
    Lit,
    Net,
    adamw,
    assert_same,
    batches,
    differ,
    elsewhere,  # noqa: F401 - a fixture
    fresh_accelerator,
    rows,
    state_of,
)
from torch import nn

from weightcast.apply.accelerate import SkipUpdates as AccelerateSkips
from weightcast.apply.lightning import SkipUpdates as LightningSkips
from weightcast.apply.skipper import UpdateSkipper
from weightcast.apply.transformers import SkipUpdates as TransformersSkips
from weightcast.recorder.accelerate import RecordWeights as AccelerateRecord
from weightcast.recorder.lightning import RecordWeights as LightningRecord
from weightcast.recorder.transformers import RecordWeights as TransformersRecord
from weightcast.store import History, UsageError

import accelerate  # isort: skip
import lightning.pytorch as pl  # isort: skip
import transformers  # isort: skip

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path., callbacks"),
]

# One evaluation an epoch, as if it were measured.
ACCURACIES = [0.5, 0.75, 0.75, 0.75, 0.75, 0.5, 0.875, 0.875]  # the same as float32
EPOCHS = len(ACCURACIES)
STEPS = EPOCHS * EPOCH


@functools.cache
def plain(better: str = "higher", skip: bool = True) -> tuple[dict[str, torch.Tensor], Any]:
    """A loop of one's own, with a skipper."""
    model = Net()
    optimizer = adamw(model)
    skipper = UpdateSkipper(model, optimizer, window=1, better=better)  # type: ignore[arg-type]
    for accuracy in ACCURACIES:
        for x, y in batches():
            optimizer.zero_grad()
            model(x, y)["loss"].backward()
            optimizer.step()
        if skip:
            skipper.update(accuracy)
    skipper.close()
    return state_of(model), skipper


class Validated(Lit):
    """It logs the accuracy of the epoch, where it validates."""

    def __init__(self, name: str) -> None:
        super().__init__(adamw)
        self.name = name

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log(self.name, ACCURACIES[self.current_epoch])


class Untested(Lit):
    """It logs one where it trains."""

    def __init__(self, name: str) -> None:
        super().__init__(adamw)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.log("accuracy", ACCURACIES[self.current_epoch], on_epoch=True, on_step=False)
        return super().training_step(batch, batch_idx)


def fit(
    callbacks: list[Any],
    epochs: int = EPOCHS,
    *,
    resume: int = 0,
    module: Any = Validated,
    name: str = "accuracy",
    **options: Any,
) -> Any:
    saving = pl.callbacks.ModelCheckpoint("saved", "{epoch}", save_top_k=-1)
    made = module(name)
    trainer = pl.Trainer(
        **{
            "accelerator": "cpu",
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "logger": False,
            "log_every_n_steps": 1,
            "max_epochs": epochs,
            "callbacks": [*callbacks, saving],
            **options,
        }
    )
    tested = () if module is Untested else (batches(),)
    path = f"saved/epoch={resume - 1}.ckpt" if resume else None
    trainer.fit(made, batches(), *tested, ckpt_path=path)
    return made.net


class Evaluated(InOrder):
    name = "eval_accuracy"

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        metrics = {self.name: ACCURACIES[self.state.global_step // EPOCH - 1]}
        handler = self.callback_handler
        self.control = handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def train(
    callbacks: list[Any], epochs: int = EPOCHS, *, resume: int = 0, name: str = "accuracy"
) -> Any:
    model = Net()
    optimizer = adamw(model)
    arguments = transformers.TrainingArguments(
        output_dir="out",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        per_device_train_batch_size=4,
        dataloader_pin_memory=False,
        max_grad_norm=0.0,
        max_steps=epochs * EPOCH,
        save_strategy="steps",
        save_steps=EPOCH,
        eval_strategy="steps",
        eval_steps=EPOCH,
    )
    data = [{"x": x, "labels": y} for x, y in rows()]
    trainer = Evaluated(
        model,
        arguments,
        train_dataset=data,
        eval_dataset=data,
        callbacks=list(callbacks),
        optimizers=(optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)),
    )
    trainer.name = f"eval_{name}"
    train.trainer = trainer  # type: ignore[attr-defined]
    trainer.train(resume_from_checkpoint=f"out/checkpoint-{resume * EPOCH}" if resume else None)
    return model


def loop(callbacks: list[Any], epochs: int = EPOCHS, *, resume: int = 0) -> Any:
    fresh_accelerator()
    accelerator = accelerate.Accelerator(cpu=True, log_with=callbacks)
    model = Net()
    model, optimizer, loader = accelerator.prepare(model, adamw(model), batches())
    for callback in callbacks:
        accelerator.register_for_checkpointing(callback)
    if resume:
        accelerator.load_state(f"saved-{resume}")
    accelerator.init_trackers("run")
    for callback in callbacks:
        callback.watch(model, optimizer)
    for epoch in range(resume, epochs):
        for x, y in loader:
            accelerator.backward(model(x, y)["loss"])
            optimizer.step()
            optimizer.zero_grad()
        callbacks[-1].update(ACCURACIES[epoch])
        accelerator.save_state(f"saved-{epoch + 1}")
    accelerator.end_training()
    return accelerator.unwrap_model(model)


LIBRARIES: dict[str, tuple[Any, Any, Any]] = {
    "lightning": (fit, functools.partial(LightningSkips, "accuracy"), LightningRecord),
    "transformers": (train, functools.partial(TransformersSkips, "accuracy"), TransformersRecord),
    "accelerate": (loop, AccelerateSkips, AccelerateRecord),
}


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> Any:
    return LIBRARIES[request.param]


def test_a_trained_run_is_the_loop_with_a_skipper(library: Any) -> None:
    run, skips, _ = library
    state, skipper = plain()
    told: list[Any] = []
    made = skips(window=1, listener=told.append)
    model = run([made])
    assert_same(state_of(model), state)
    assert made.events == told == skipper.events
    assert made.summary() == skipper.summary()
    assert made.summary().skipped == 2 * EPOCH
    assert made.skipper is None
    assert all(p.requires_grad for p in model.parameters())  # the last window was open
    assert differ(state, plain(skip=False)[0])


@pytest.mark.parametrize("epoch", [2, 3])  # before, and within, a window
def test_a_resumed_run_is_the_uninterrupted_one(epoch: int, library: Any) -> None:
    run, skips, _ = library
    state, skipper = plain()
    run([skips(window=1)], epoch)
    again = skips(window=1)
    assert_same(state_of(run([again], resume=epoch)), state)
    assert again.events == skipper.events
    assert again.summary() == skipper.summary()


def test_decisions_are_in_the_history(library: Any) -> None:
    run, skips, record = library
    recorded = record("run.zarr")
    made = skips(window=1, history=recorded)
    assert_same(state_of(run([recorded, made])), plain()[0])
    history = History("run.zarr")
    steps, values = history.metric("skip/value")
    assert steps.tolist() == [e.step for e in made.events] == [*range(EPOCH, STEPS + 1, EPOCH)]
    assert values.tolist() == ACCURACIES
    skipping = [e.kind in ("entered", "skipping") for e in made.events]
    assert history.metric("skip/skipping")[1].astype(bool).tolist() == skipping


def test_a_recording_that_begins_too_late_is_refused(library: Any) -> None:
    run, skips, record = library
    recorded = record("run.zarr")
    with refuses(UsageError, "before"):
        run([skips(history=recorded), recorded])


def test_losses_are_better_lower() -> None:
    for run, skips, name in (
        (fit, LightningSkips, "val_loss"),
        (train, TransformersSkips, "eval_loss"),
    ):
        made = skips(name, window=1)
        assert made.rule.better == "lower"
        model = run([made], name=name.removeprefix("eval_"))
        state, skipper = plain("lower")
        assert_same(state_of(model), state)
        assert [e.kind for e in made.events] == [e.kind for e in skipper.events]
        assert skips(name, better="higher").rule.better == "higher"
    assert TransformersSkips().metric == "eval_loss"
    assert TransformersSkips("loss").metric == "eval_loss"
    assert AccelerateSkips().rule.better == "higher"


@pytest.mark.parametrize("run", [fit, train])
def test_a_metric_that_is_not_there_is_named(run: Any) -> None:
    skips = LightningSkips if run is fit else TransformersSkips
    made = skips("exactness")
    with refuses(UsageError, "exactness'", "accuracy"), made:
        run([made])
    assert made.skipper is None
    assert made.summary().steps == EPOCH  # told at the first evaluation


def test_the_trainer_of_the_document() -> None:
    """The second code of docs/skipping.md."""
    text = (Path(__file__).parent.parent / "docs/skipping.md").read_text()
    _, program = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    known: dict[str, Any] = {"Trainer": functools.partial(pl.Trainer, logger=False)}
    exec(compile(program, "docs/skipping.md", "exec"), known)
    (made,) = (c for c in known["trainer"].callbacks if isinstance(c, LightningSkips))
    assert (made.monitor, str(made.rule)) == ("val_acc", str(LightningSkips("val_acc").rule))


def test_lightning_without_validation_decides_by_epochs_of_training() -> None:
    made = LightningSkips("accuracy", window=1)
    assert_same(state_of(fit([made], module=Untested)), plain()[0])
    assert made.events == plain()[1].events


def test_lightning_may_validate_later_than_the_first_epoch() -> None:
    made = LightningSkips("accuracy", window=1)
    fit([made], 5, check_val_every_n_epoch=2, num_sanity_val_steps=0)
    assert [e.step for e in made.events] == [2 * EPOCH, 4 * EPOCH]


class Both(Validated):
    """It logs a metric of training too, which Lightning has after validation only."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.log("exactness", 0.5, on_epoch=True, on_step=False)
        return super().training_step(batch, batch_idx)


def test_a_metric_of_training_comes_too_late_for_validation() -> None:
    with refuses(UsageError, "'exactness'", "when the evaluation ends", "training comes later"):
        fit([LightningSkips("exactness")], module=Both)


class Metrics(pl.loggers.logger.DummyLogger):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[dict[str, float]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.seen += [metrics] if "skip/value" in metrics else []


def logged(events: list[Any]) -> list[dict[str, float]]:
    gains = [{} if e.gain is None else {"skip/gain": e.gain} for e in events]
    return [
        {"skip/skipping": float(e.kind in ("entered", "skipping")), "skip/value": e.value, **gain}
        for e, gain in zip(events, gains, strict=True)
    ]


def test_lightning_loggers_have_the_decisions() -> None:
    metrics, made = Metrics(), LightningSkips("accuracy", window=1)
    fit([made], logger=metrics)
    assert metrics.seen == logged(made.events)


def test_transformers_log_has_the_decisions() -> None:
    made = TransformersSkips("accuracy", window=1)
    train([made], 5)
    entries = [e for e in train.trainer.state.log_history if "skip/value" in e]  # type: ignore[attr-defined]
    assert [e.pop("step") for e in entries] == [e.step for e in made.events]
    assert [e.pop("epoch") for e in entries] == [1, 2, 3, 4, 5]
    assert entries == logged(made.events)


def test_evaluations_outside_of_training_decide_nothing() -> None:
    made = TransformersSkips("accuracy", window=1)
    train([made], 3)
    train.trainer.evaluate()  # type: ignore[attr-defined]
    assert len(made.events) == 3
    lightning = LightningSkips("accuracy", window=1)
    fit([lightning], 3, num_sanity_val_steps=2)
    assert len(lightning.events) == 3
    fit([fast := LightningSkips("accuracy")], 1, fast_dev_run=True)
    assert (fast.events, fast.summary()) == ([], None)


def test_transformers_with_several_data_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is an evaluation of its own, with metrics of its own."""
    one = Evaluated.evaluate

    def both(self: Any, *args: Any, **kwargs: Any) -> dict[str, float]:
        found: dict[str, float] = {}
        for name in ("a", "b"):
            self.name = f"eval_{name}_accuracy"
            found |= one(self)
        return found

    monkeypatch.setattr(Evaluated, "evaluate", both)
    for name in ("a_accuracy", "b_accuracy"):
        made = TransformersSkips(name, window=1)
        assert_same(state_of(train([made])), plain()[0])
        assert made.events == plain()[1].events
    wrong = TransformersSkips("accuracy")
    with refuses(UsageError, "'eval_accuracy'", "eval_a_accuracy, eval_b_accuracy"), wrong:
        train([wrong])


def test_transformers_state_that_was_left_behind_is_not_gone_on_with() -> None:
    train([TransformersSkips("accuracy", window=1)], 3)
    train([], 4, resume=3)
    made = TransformersSkips("accuracy", window=1)
    train([made], 5, resume=4)
    assert len(made.events) == 1


class Failing(Validated):
    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.current_epoch == 3:  # within a window
            raise ZeroDivisionError
        return super().training_step(batch, batch_idx)


def test_a_run_that_fails_leaves_nothing_behind() -> None:
    nets: list[nn.Module] = []

    def module(name: str) -> Failing:
        made = Failing(name)
        nets.append(made.net)
        return made

    made = LightningSkips("accuracy", window=1)
    with pytest.raises(ZeroDivisionError):
        fit([made], module=module)
    assert [e.kind for e in made.events][-1] == "entered"
    assert all(p.requires_grad for p in nets[0].parameters())


def test_accelerate_state_is_loaded_before_or_after_watch() -> None:
    model = Net()
    optimizer = adamw(model)
    made = AccelerateSkips(window=1)
    with made.watch(model, optimizer):
        kinds = [made.update(0.5).kind for _ in range(2)]
        saved = made.state_dict()
    assert kinds == ["training", "entered"]
    before, after = AccelerateSkips(window=1), AccelerateSkips(window=1)
    before.load_state_dict(saved)
    for again in (before, after):
        with again.watch(model, optimizer):
            if again is after:
                again.load_state_dict(saved)
            assert not model.layers[0].weight.requires_grad
        assert model.layers[0].weight.requires_grad


def test_accelerate_update_needs_watch() -> None:
    with refuses(UsageError, "watch"):
        AccelerateSkips().update(0.5)


def test_bad_options_are_refused_at_once(library: Any) -> None:
    _, skips, _ = library
    with refuses(UsageError, "threshold", "-1"):
        skips(threshold=-1)
    with refuses(UsageError, "window", "0"):
        skips(window=0)
    with refuses(UsageError, "better", "faster"):
        skips(better="faster")
    with refuses(UsageError, "RecordWeights", "str"):
        skips(history="run.zarr")
