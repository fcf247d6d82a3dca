"""The whole pipeline on a small task: record, build a dataset, fit, jump, compare.

::

    source network --record--> source.zarr --sample--> dataset.zarr --fit--> introspection
                                                                                  |
    target network, for each seed, from the same initial weights and batches:     v
        plain        constant learning rate, recorded for the forecast error
        jumps        the same, with jumps                                    <-- forecaster
        line jumps   the same, jumping along a least-squares straight line
        averaging    moving average of the plain run's weights, evaluation only
        tuned rate   no forecaster, a constant rate that was tuned
        one-cycle    no forecaster, a one-cycle schedule whose peak was tuned

Tuning uses another seed and a fifth of the training images, never those that judge the arms. The
rate of the first four arms is the paper's and is not tuned.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from weightcast.apply import Jumper
from weightcast.experiments.digits import Task, digits, source_network, target_network
from weightcast.experiments.training import Curve, train
from weightcast.predictor import (
    Errors,
    Forecaster,
    Introspection,
    LinearFit,
    evaluate_history,
    one_thread,
    save,
)
from weightcast.predictor.tally import overall
from weightcast.recorder import Jump, Recorder, Steps, Union
from weightcast.store import Dataset, History, OutputExistsError, build_dataset, context_steps
from weightcast.store.extras import require_matplotlib
from weightcast.store.output import write_text

Progress = Callable[[str, int, int], None]

LEARNING_RATE = 0.01  # SGD, as the paper's MNIST_1
SOURCE_LEARNING_RATE = 1e-3  # Adam; the paper's N0 has 1e-4 for a hundred times the steps
JUMPS = (0.15, 0.20, 0.25)  # of the run, as the paper's 3000, 4000 and 5000 of 20,000
ARMS = ("plain", "jumps", "line jumps", "averaging", "tuned rate", "one-cycle")
RATES = (0.03, 0.1, 0.3)  # learning rates among which the tuned arms choose
AVERAGING = 0.99  # decay of the moving average, a step
SAMPLES = 200_000
EVALUATIONS = 100  # along each curve
SOURCE_SEED = 100
TUNING_SEED = 101
MARKER = ".weightcast-demo"  # in a folder that a demo may write again


@dataclass(frozen=True)
class DemoResult:
    """What the demo measured.

    Attributes
    ----------
    steps : int
        Optimizer steps of each run.
    jump_points : list of int
    rate, peak : float
        Learning rates that the tuning chose: the constant one, and the one-cycle schedule's peak.
    curves : dict of str to list of Curve
        For each arm, one curve a seed.
    forecast : list of Errors
        Of the forecasts for 2t, at each jump point t of the plain runs; the last is over all.
    """

    steps: int
    jump_points: list[int]
    rate: float
    peak: float
    curves: dict[str, list[Curve]]
    forecast: list[Errors]


def run_demo(
    output: str | Path,
    *,
    seeds: int = 3,
    steps: int = 4000,
    progress: Progress | None = None,
) -> DemoResult:
    """Run the pipeline and write histories, dataset, forecaster, numbers and picture.

    Parameters
    ----------
    output : str or Path
        Folder; what an earlier demo wrote there is replaced.
    seeds : int
        Target networks to train, each from its own initial weights.
    steps : int
        Training steps of every network.
    progress : callable, optional
        Called with (what, done, total).

    Returns
    -------
    DemoResult
    """
    from weightcast.experiments.figure import save_figure

    require_matplotlib()
    folder, task = claim(Path(output)), digits()
    progress = progress or (lambda what, done, total: None)
    with one_thread(), _counted(progress, "train the source network", steps) as tick:
        record_source(folder / "source.zarr", task, steps, tick)
    dataset = build_dataset(
        folder / "source.zarr", folder / "dataset.zarr", SAMPLES, overwrite=True, progress=progress
    )
    forecaster = fit(dataset, progress)
    save(forecaster, folder / "introspection.safetensors", overwrite=True)
    runs = 5 * seeds + 2 * len(RATES)
    with one_thread(), _counted(progress, "train the target networks", steps * runs) as tick:
        result = compare(folder, task, forecaster, seeds, steps, tick)
    write_text(folder / "demo.json", json.dumps(asdict(result), indent=1))
    save_figure(result, folder / "demo.png")
    return result


def claim(folder: Path, name: str = MARKER, maker: str = "demo") -> Path:
    """Make the demo's folder, or take one that a demo made; anything else is not ours to fill.

    Raises
    ------
    OutputExistsError
        If the folder holds anything, and no demo made it.
    """
    refuse_another(folder, name, maker)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).touch()
    return folder


def refuse_another(folder: Path, name: str, maker: str) -> None:
    """Check what `claim` does, and make nothing."""
    taken = folder.exists() and not (folder / name).exists()
    if taken and (folder.is_file() or any(folder.iterdir())):
        raise OutputExistsError(
            f"output {folder} exists, and no {maker} made it: choose another folder with -o"
        )


def record_source(path: Path, task: Task, steps: int, tick: Callable[[], object]) -> None:
    """Train the source network and record every step of it."""
    network = source_network(SOURCE_SEED)
    optimizer = torch.optim.Adam(network.parameters(), lr=SOURCE_LEARNING_RATE)
    with Recorder(network, path, "every:1", overwrite=True).attach(optimizer):
        train(
            network,
            optimizer,
            task,
            steps=steps,
            seed=SOURCE_SEED,
            evaluate_every=steps,
            after_step=[tick],
        )


def fit(dataset: Dataset, progress: Progress) -> Forecaster:
    """Fit the Introspection network as in the paper."""
    return Introspection().fit(dataset.X, dataset.y, progress=progress)


def compare(
    folder: Path,
    task: Task,
    forecaster: Forecaster,
    seeds: int,
    steps: int,
    tick: Callable[[], object],
) -> DemoResult:
    """Train the target network in every arm and for every seed."""
    run = _Run(task, steps, tick)
    jump_points = [round(share * steps) for share in JUMPS]
    tuning = _Run(task.for_tuning(), steps, tick)
    rate = min(RATES, key=lambda r: _last_loss(tuning.constant(TUNING_SEED, r)))
    peak = min(RATES, key=lambda r: _last_loss(tuning.one_cycle(TUNING_SEED, r)))
    curves: dict[str, list[Curve]] = {arm: [] for arm in ARMS}
    forecast = []
    for seed in range(seeds):
        path = folder / f"plain-{seed}.zarr"
        plain, averaged = run.plain(seed, path, jump_points)
        curves["plain"].append(plain)
        curves["averaging"].append(averaged)
        curves["jumps"].append(run.jumps(seed, forecaster, jump_points))
        curves["line jumps"].append(run.jumps(seed, LinearFit(), jump_points))
        curves["tuned rate"].append(run.constant(seed, rate))
        curves["one-cycle"].append(run.one_cycle(seed, peak))
        points = len(jump_points)
        measured = evaluate_history(forecaster, History(path), points=points, by=["t"])
        forecast.append(measured[:-1])
    by_point = [overall(list(group)) for group in zip(*forecast, strict=True)]
    named = [
        Errors(first.group, e.count, e.forecaster, e.last_value, e.linear_fit, "t")
        for first, e in zip(forecast[0], by_point, strict=True)
    ]
    return DemoResult(steps, jump_points, rate, peak, curves, [*named, overall(named)])


def _last_loss(curve: Curve) -> float:
    """The loss that tuning goes by: a run that diverged is worse than any other."""
    return curve.loss[-1] if math.isfinite(curve.loss[-1]) else math.inf


@dataclass(frozen=True)
class _Run:
    """The arms: each from the same initial weights and batches for one seed."""

    task: Task
    steps: int
    tick: Callable[[], object]

    def _train(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        seed: int,
        *calls: Callable[[], object],
    ) -> Curve:
        every = max(self.steps // EVALUATIONS, 1)
        return train(
            network,
            optimizer,
            self.task,
            steps=self.steps,
            seed=seed,
            evaluate_every=every,
            after_step=[*calls, self.tick],
        )

    def plain(self, seed: int, path: Path, jump_points: list[int]) -> tuple[Curve, Curve]:
        """Constant rate, recorded at the steps that judge a forecast; and its moving average."""
        network = target_network(seed)
        optimizer = torch.optim.SGD(network.parameters(), lr=LEARNING_RATE)
        truth = Steps.of(context_steps(jump_points, (2.0,)).ravel().tolist())
        schedule = Union((Jump(tuple(jump_points)), truth))
        average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(AVERAGING))
        averaged, every = Curve(), max(self.steps // EVALUATIONS, 1)
        averaged.add(0, average, self.task)
        step = 0

        def update() -> None:
            nonlocal step
            step += 1
            average.update_parameters(network)
            if step % every == 0 or step == self.steps:
                averaged.add(step, average, self.task)

        with Recorder(network, path, schedule, overwrite=True).attach(optimizer):
            return self._train(network, optimizer, seed, update), averaged

    def jumps(self, seed: int, forecaster: Forecaster, jump_points: list[int]) -> Curve:
        """Constant rate, with jumps."""
        network = target_network(seed)
        optimizer = torch.optim.SGD(network.parameters(), lr=LEARNING_RATE)
        with Jumper(optimizer, forecaster, jump_points, guard=None):  # as in the paper
            return self._train(network, optimizer, seed)

    def constant(self, seed: int, rate: float) -> Curve:
        """Another constant rate."""
        network = target_network(seed)
        return self._train(network, torch.optim.SGD(network.parameters(), lr=rate), seed)

    def one_cycle(self, seed: int, peak: float) -> Curve:
        """A one-cycle schedule over the same steps."""
        network = target_network(seed)
        optimizer = torch.optim.SGD(network.parameters(), lr=LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=peak, total_steps=self.steps + 1, cycle_momentum=False
        )
        return self._train(network, optimizer, seed, schedule.step)


@contextmanager
def _counted(progress: Progress, what: str, total: int) -> Iterator[Callable[[], None]]:
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if done % 20 == 0 or done == total:
            progress(what, done, total)

    progress(what, 0, total)
    yield tick
