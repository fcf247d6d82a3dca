"""A run in progress: an arm of an experiment with one seed.

What a step does depends on seed and step alone (initial weights, batch, dropout), so that arms
differ in nothing but what they are compared for, and a resumed run in nothing at all.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from weightcast.apply import Guard, Jumper
from weightcast.experiments.batches import Batches, seed_of
from weightcast.experiments.building import network_of, optimizer_of, schedule_of
from weightcast.experiments.experiment import Arm, Experiment
from weightcast.experiments.results import Trace
from weightcast.predictor import Forecaster

if TYPE_CHECKING:
    from weightcast.experiments.loading import Data

AVERAGING = 0.99  # decay of the moving average, an update
AVERAGINGS = 2000  # updates of it in a run, so that it looks back over some 5 % of the run
_EVALUATED = 250  # images at once


@torch.no_grad()
def evaluate(network: nn.Module, x: Any, y: torch.Tensor) -> tuple[float, float, float]:
    """Mean cross-entropy, accuracy and top-5 accuracy; the network stays in the mode it was in."""
    training, device = network.training, next(network.parameters()).device
    network.eval()
    loss = right = five = 0.0
    for low in range(0, len(y), _EVALUATED):
        images, labels = x[low : low + _EVALUATED], y[low : low + _EVALUATED].to(device)
        logits = network(channels_last(images, device))  # [n, classes]
        loss += float(nn.functional.cross_entropy(logits, labels, reduction="sum"))
        best = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
        right, five = right + int(best[:, 0].sum()), five + int(best.sum())
    network.train(training)
    return loss / len(y), right / len(y), five / len(y)


def channels_last(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Images in the memory format that convolutions on processors are a third faster with."""
    return images.to(device, memory_format=torch.channels_last)


@dataclass
class Run:
    """A run in progress: what trains, and what it has measured.

    Attributes
    ----------
    experiment : Experiment
    arm : Arm
    seed : int
    data : Data
    network : nn.Module
    optimizer : torch.optim.Optimizer
        A `Jumper` where the arm jumps.
    schedule : LRScheduler
    average : AveragedModel or None
    traces : dict of str to Trace
    step : int
        Optimizer steps taken.
    seconds : float
        Processor seconds of training so far; on another device, seconds.
    notes : list of str
        What happened to the run, in words.
    """

    experiment: Experiment
    arm: Arm
    seed: int
    data: Data
    network: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    average: AveragedModel | None
    traces: dict[str, Trace]
    step: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    @classmethod
    def begin(
        cls,
        experiment: Experiment,
        arm: Arm,
        seed: int,
        data: Data,
        *,
        forecaster: Forecaster | None = None,
        peak: float | None = None,
        device: str = "cpu",
    ) -> Run:
        """A run before its first step."""
        network = network_of(experiment, data.classes, seed).to(device)
        inner = optimizer_of(experiment.updates, network)
        schedule = schedule_of(experiment, arm, inner, peak)
        optimizer = inner
        if forecaster is not None and arm.jumps:
            guard = Guard() if arm.guarded else None
            optimizer = Jumper(inner, forecaster, arm.jumps, guard=guard, model=network)
        average = None
        names = [arm.name]
        if experiment.averaged and arm.name == "plain":
            averaging = get_ema_multi_avg_fn(AVERAGING)
            average = AveragedModel(network, multi_avg_fn=averaging, use_buffers=True)
            names.append("averaging")
        traces = {name: Trace() for name in names}
        return cls(experiment, arm, seed, data, network, optimizer, schedule, average, traces)

    def measure(self) -> None:
        """Evaluate the network, and its average, on the test images."""
        task = self.data.task
        for trace, network in zip(self.traces.values(), (self.network, self.average), strict=False):
            if network is None:
                continue
            loss, accuracy, five = evaluate(network, task.validation_x, task.validation_y)
            trace.steps.append(self.step)
            trace.loss.append(loss)
            trace.accuracy.append(accuracy)
            trace.seconds.append(round(self.seconds, 3))
            if self.data.classes >= 20:
                trace.top5.append(five)

    def advance(self, steps: int) -> None:
        """Take so many steps."""
        begin = self._clock()
        try:
            self._advance(steps)
        finally:
            self.seconds += self._clock() - begin

    def _advance(self, steps: int) -> None:
        task, seed = self.data.task, self.seed
        device = next(self.network.parameters()).device
        batches = Batches(len(task.train_y), self.experiment.batch, seed)
        every = max(self.experiment.steps // AVERAGINGS, 1)
        for step in range(self.step, self.step + steps):
            torch.manual_seed(seed_of(seed, step, 1))  # of dropout
            rows = batches[step]
            images = task.train_x[rows]  # [batch, C, H, W]
            if self.data.augment is not None:
                drawn = torch.Generator().manual_seed(seed_of(seed, step, 2))
                images = self.data.augment(images, drawn)
            logits = self.network(channels_last(images, device))  # [batch, classes]
            loss = nn.functional.cross_entropy(logits, task.train_y[rows].to(device))
            self.optimizer.zero_grad()
            loss.backward()
            self.step += 1  # before, as a jump may fail after the update
            self.optimizer.step()
            self.schedule.step()
            if self.average is not None and self.step % every == 0:
                self.average.update_parameters(self.network)

    def _clock(self) -> float:
        device = next(self.network.parameters()).device
        if device.type == "cpu":
            return time.process_time()  # whatever else runs on this machine
        torch.accelerator.synchronize(device)
        return time.perf_counter()

    def diverged(self) -> bool:
        """Whether a weight is not finite: no step of training makes it so again."""
        return not all(bool(p.isfinite().all()) for p in self.network.parameters())

    def stay(self) -> None:
        """Fill the curves to the end with what they have: training has stopped."""
        every, total = self.experiment.evaluate_every, self.experiment.steps
        for step in range(self.step + 1, total + 1):
            if step % every == 0 or step == total:
                for trace in self.traces.values():
                    trace.steps.append(step)
                    for values in (trace.loss, trace.accuracy, trace.top5, trace.seconds):
                        values.extend(values[-1:])

    def state(self) -> dict[str, Any]:
        """All that the run needs to go on from here."""
        return {
            "step": self.step,
            "seconds": self.seconds,
            "notes": self.notes,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
            "traces": {name: asdict(trace) for name, trace in self.traces.items()},
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.step, self.seconds = state["step"], state["seconds"]
        self.notes = list(state.get("notes", ()))  # older ones have none
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.traces = {name: Trace(**trace) for name, trace in state["traces"].items()}
