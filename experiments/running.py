"""A run from its first step to its last, or from where it stopped: checkpoints, history, result.

::

    .ARM-seedN.pt   checkpoint, every half minute   --finished-->  ARM-seedN.json
    ARM-seedN.zarr  weight history, if recorded
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from weightcast.apply import Jumper
from weightcast.experiments.agreement import NETWORK, device_name, differing
from weightcast.experiments.arm_run import Run
from weightcast.experiments.building import network_digest
from weightcast.experiments.checkpoints import resume, save_checkpoint
from weightcast.experiments.experiment import Arm, Experiment
from weightcast.experiments.forecasters import forecaster_for, identity, known_digest
from weightcast.experiments.results import RunResult, file_name, others, read_result, write_result
from weightcast.predictor import one_thread
from weightcast.recorder import Recorder
from weightcast.store import NonFiniteError, OutputExistsError

if TYPE_CHECKING:
    from weightcast.experiments.loading import Data

Progress = Callable[[int, int], None]

SNAPSHOTS = 100  # of a recorded run
_CHECKPOINT = 30.0  # seconds
_ADVANCE = 100  # steps between reports
_FREE = {"name", "title", "paper", "arms", "claims", "figures", "notes"}  # do not change a run
_FREE |= {"targets", "quick_steps", "quick_batch"}


def made_of(
    experiment: Experiment, arm: Arm, seed: int, data: Data, peak: float | None, device: str = "cpu"
) -> dict[str, Any]:
    """What a run's numbers depend on but for code, as JSON; and the versions, which may differ."""
    entry = {k: v for k, v in asdict(experiment).items() if k not in _FREE}
    return {
        "experiment": entry,
        "arm": {**asdict(arm), "jumps": list(arm.jumps), "forecaster": identity(arm.forecaster)},
        "seed": seed,
        "peak": peak,
        "data": {"about": data.about, "sha256": data.sha256},
        "budget": experiment.budget,
        "steps": experiment.steps,
        "versions": {name: version(name) for name in ("weightcast", "torch")},
        **({} if device_name(device) == "cpu" else {"device": device_name(device)}),
    }


def finished(path: Path, made: dict[str, Any]) -> RunResult | None:
    """The result at `path`, if it is there and was made so.

    Raises
    ------
    OutputExistsError
        If it was made otherwise: it is not ours to replace.
    FormatError
        If the file is damaged.
    """
    if not path.exists():
        return None
    result = read_result(path)
    if differ := differing(made, result.made):
        raise OutputExistsError(
            f"{path} was made with {others(differ)}: give another results folder, "
            "or remove the file to run it again"
        )
    return result


def run_arm(
    experiment: Experiment,
    arm: Arm,
    seed: int,
    *,
    data: Data,
    folder: str | Path,
    peak: float | None = None,
    record: bool = False,
    device: str = "cpu",
    progress: Progress = lambda done, total: None,
) -> RunResult:
    """Train an arm to its end, and write what it measured.

    Parameters
    ----------
    experiment : Experiment
    arm : Arm
    seed : int
    data : Data
    folder : str or Path
        Of all results; those of this experiment stand in a folder of its name.
    peak : float, optional
        Highest learning rate of a one-cycle schedule.
    record : bool
        Keep the run's weight history beside its result.
    device : str
        Where it trains.
    progress : callable, optional
        Called with (done, total), in steps.

    Returns
    -------
    RunResult
        At once where it is there already. A run that was stopped goes on from its checkpoint. One
        whose weights or whose forecast are not finite any more stops, as its last event says, and
        its curve goes on level.

    Raises
    ------
    OutputExistsError
        If there is a result of another protocol or data.

    Notes
    -----
    Torch has one thread, so that the number of cores does not change the weights.
    """
    place = Path(folder, experiment.folder)
    place.mkdir(parents=True, exist_ok=True)
    peak = peak if arm.schedule == "one-cycle" else None
    made = made_of(experiment, arm, seed, data, peak, device) | known_digest(arm, folder)
    made[NETWORK] = network_digest(experiment, data.classes)
    path = place / file_name(arm.name, seed)
    if (found := finished(path, made)) is not None:
        progress(experiment.steps, experiment.steps)
        return found
    with one_thread(), torch.random.fork_rng(devices=[]), ExitStack() as stack:
        forecaster = forecaster_for(arm.forecaster, folder) if arm.jumps else None
        options: Any = {"forecaster": forecaster, "peak": peak, "device": device}
        begin = partial(Run.begin, experiment, arm, seed, data, **options)
        checkpoint = place / f".{file_name(arm.name, seed, '.pt')}"
        history = path.with_suffix(".zarr") if record else None
        run, resumed = resume(begin, checkpoint, made, history)
        if history is not None:
            stack.enter_context(recorder_of(run, history, resumed))
        diverged = to_its_end(run, checkpoint, made, progress)
    result = result_of(run, made, diverged)
    write_result(result, path)
    checkpoint.unlink(missing_ok=True)
    return result


def to_its_end(run: Run, checkpoint: Path, made: dict[str, Any], progress: Progress) -> str:
    """Train, evaluate and save checkpoints to the last step; or say where it diverged, and how."""
    total, every = run.experiment.steps, run.experiment.evaluate_every
    if run.step == 0:
        run.measure()
    saved = time.monotonic()
    while run.step < total:
        end = ""
        try:
            run.advance(min(every - run.step % every, _ADVANCE, total - run.step))
        except NonFiniteError:
            end = "the forecast is not finite"
        if run.diverged():
            end = "weights are not finite"
        if run.step % every == 0 or run.step == total or end:
            run.measure()
        if end:
            run.stay()
            return f"step {run.step}: training diverged: {end}"
        progress(run.step, total)
        if time.monotonic() - saved > _CHECKPOINT and run.step < total:
            save_checkpoint(run, made, checkpoint)
            saved = time.monotonic()
    return ""


def recorder_of(
    run: Run,
    path: Path,
    resumed: bool,
    schedule: str | None = None,
    include: Sequence[str] = (),
) -> Recorder:
    """A recorder of the run, attached after its jumps; its history goes on if the run does.

    By default it records a hundred snapshots, evenly spaced, of all parameters.
    """
    options: dict[str, Any] = {"resume": True, "start_step": run.step}
    options = options if resumed else {"overwrite": True}
    schedule = schedule or f"every:{max(run.experiment.steps // SNAPSHOTS, 1)}"
    recorder = Recorder(run.network, path, schedule, include=include, **options)
    inner = run.optimizer.optimizer if isinstance(run.optimizer, Jumper) else run.optimizer
    return recorder.attach(inner)


def result_of(run: Run, made: dict[str, Any], diverged: str) -> RunResult:
    """What a finished run measured."""
    jumper = run.optimizer if isinstance(run.optimizer, Jumper) else None
    events = run.notes + [str(event) for event in (jumper.events if jumper else ())]
    events += [diverged] if diverged else []
    undone = (
        {event.jump for event in jumper.events if event.kind == "rolled back"} if jumper else {}
    )
    return RunResult(
        experiment=run.experiment.name,
        arm=run.arm.name,
        seed=run.seed,
        made=made,
        traces=run.traces,
        jumps=[t for t in jumper.jumped if t not in undone] if jumper else [],
        events=events,
        seconds=run.seconds,
        forecast_seconds=jumper.summary().seconds if jumper else 0.0,
        peak=made["peak"],
    )
