"""A run from its first step to its last, or from where it stopped: checkpoints, history, result.

::

    .ARM-seedN.pt   checkpoint, every half minute   --finished-->  ARM-seedN.json
    ARM-seedN.zarr  weight history, if recorded
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from weightcast.apply import Jumper
from weightcast.experiments.arm_run import Run
from weightcast.experiments.experiment import Arm, Experiment
from weightcast.experiments.forecasters import forecaster_for
from weightcast.experiments.results import RunResult, file_name, read_result, write_result
from weightcast.predictor import one_thread
from weightcast.recorder import Recorder
from weightcast.store import NonFiniteError, OutputExistsError, UsageError
from weightcast.store.output import replacing

if TYPE_CHECKING:
    from weightcast.experiments.loading import Data

Progress = Callable[[int, int], None]

PEAKS = (1, 3, 10, 30)  # of a one-cycle schedule, in learning rates of the paper
TUNING = 10  # peaks are tried at so many times fewer steps
TUNING_SEED = 101
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
        "arm": {**asdict(arm), "jumps": list(arm.jumps)},
        "seed": seed,
        "peak": peak,
        "data": {"about": data.about, "sha256": data.sha256},
        "budget": experiment.budget,
        "steps": experiment.steps,
        "versions": {name: version(name) for name in ("weightcast", "torch")},
        **({} if device == "cpu" else {"device": device}),
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
    differ = [
        k for k in sorted({*made, *result.made}) if _essence(made, k) != _essence(result.made, k)
    ]
    if differ:
        raise OutputExistsError(
            f"{path} was made with another {' and '.join(differ)}: give another results folder, "
            "or remove the file to run it again"
        )
    return result


def _essence(made: Mapping[str, Any], key: str) -> object:
    """What must not differ: versions may, and of data the words that describe it."""
    if key == "versions":
        return None
    return made.get("data", {}).get("sha256") if key == "data" else made.get(key)


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
    made = made_of(experiment, arm, seed, data, peak, device)
    path = place / file_name(arm.name, seed)
    if (found := finished(path, made)) is not None:
        progress(experiment.steps, experiment.steps)
        return found
    with one_thread(), torch.random.fork_rng(devices=[]), ExitStack() as stack:
        forecaster = forecaster_for(arm.forecaster, folder) if arm.jumps else None
        options: Any = {"forecaster": forecaster, "peak": peak, "device": device}
        begin = partial(Run.begin, experiment, arm, seed, data, **options)
        checkpoint = place / f".{file_name(arm.name, seed, '.pt')}"
        run, resumed = resume(begin, checkpoint, made)
        if record:
            stack.enter_context(recorder_of(run, path.with_suffix(".zarr"), resumed))
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
            with replacing(checkpoint) as temporary:
                torch.save({"made": made, **run.state()}, temporary)
            saved = time.monotonic()
    return ""


def resume(begin: Callable[[], Run], checkpoint: Path, made: dict[str, Any]) -> tuple[Run, bool]:
    """Go on from a checkpoint, if there is one of this very run; or begin anew."""
    run = begin()
    try:
        state = torch.load(checkpoint, weights_only=True, map_location="cpu")
        if state.pop("made") == made:
            run.load_state(state)
            return run, True
    except FileNotFoundError:
        pass
    except Exception:  # damaged, or of other code: torch raises errors of many kinds
        checkpoint.unlink()
        return begin(), False  # what was begun may have half of the checkpoint
    return run, False


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
    options = options if resumed and path.exists() else {"overwrite": True}
    schedule = schedule or f"every:{max(run.experiment.steps // SNAPSHOTS, 1)}"
    recorder = Recorder(run.network, path, schedule, include=include, **options)
    inner = run.optimizer.optimizer if isinstance(run.optimizer, Jumper) else run.optimizer
    return recorder.attach(inner)


def result_of(run: Run, made: dict[str, Any], diverged: str) -> RunResult:
    """What a finished run measured."""
    jumper = run.optimizer if isinstance(run.optimizer, Jumper) else None
    events = [str(event) for event in jumper.events] if jumper else []
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


def tuned_peak(
    experiment: Experiment,
    *,
    data: Data,
    folder: str | Path,
    device: str = "cpu",
    progress: Progress = lambda done, total: None,
) -> float:
    """The peak of a one-cycle schedule that trains best at a tenth of the length.

    Parameters
    ----------
    experiment : Experiment
    data : Data
        A fifth of its training images judges; those that judge the arms are not looked at.
    folder : str or Path
        As of `run_arm`; what was tried is kept there.
    device : str
    progress : callable, optional
        Called with (done, total), in steps.

    Returns
    -------
    float
        Learning rate, of `PEAKS` times the paper's: the one with the lowest loss at the end.

    Raises
    ------
    UsageError
        If training diverges with each.
    """
    short = replace(
        experiment.shortened(max(experiment.steps // TUNING, 1)),
        budget=f"{experiment.budget}-tuning",
    )
    short = replace(short, averaged=False)
    part = data.for_tuning()
    losses = {}
    for tried, peak in enumerate(peak * experiment.updates.lr for peak in PEAKS):

        def told(done: int, total: int, tried: int = tried) -> None:
            progress(tried * total + done, len(PEAKS) * total)

        arm = Arm(f"peak {peak:g}", schedule="one-cycle")
        options: Any = {"data": part, "folder": folder, "peak": peak, "device": device}
        result = run_arm(short, arm, TUNING_SEED, **options, progress=told)
        loss = result.traces[arm.name].loss[-1]
        losses[peak] = loss if math.isfinite(loss) else math.inf
    best = min(losses, key=losses.__getitem__)
    if math.isinf(losses[best]):
        raise UsageError(
            f"{experiment.name} diverges with every peak tried, "
            f"{', '.join(f'{p:g}' for p in losses)}: give its optimizer a lower learning rate"
        )
    return best
