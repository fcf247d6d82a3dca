"""Runs of the study of weight-update skipping: training that is timed, and may skip updates.

::

    WUS + LR, seed 0 --its cost--> shorter + LR, seed 0
    every run --> RESULTS/wus/SETTING/ARM-seedN.json
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch

from weightcast.experiments.batches import seed_of
from weightcast.experiments.checkpoints import resume
from weightcast.experiments.digits import Task
from weightcast.experiments.jobs import Place
from weightcast.experiments.kept import keep, kept, required
from weightcast.experiments.loading import Data
from weightcast.experiments.pictures import Pictures
from weightcast.experiments.queueing import Progress
from weightcast.experiments.results import file_name
from weightcast.experiments.running import recorder_of, to_its_end
from weightcast.experiments.study import StudyJob
from weightcast.experiments.wus_settings import SHORTER, Setting
from weightcast.experiments.wus_timed import TimedRun, in_full_steps, steps_at_cost
from weightcast.predictor import one_thread
from weightcast.store import FormatError, OutputExistsError

FOLDER = "wus"
SNAPSHOTS = 20  # of the run that is recorded
RECORDED = ("*bias", "0.weight")  # of its parameters: all would take gigabytes
RULE = ("threshold", "window", "longest")  # what only arms that skip depend on
_HELD_SEED = 8


@dataclass(frozen=True)
class WusRun(StudyJob):
    """Train an arm with a seed.

    Attributes
    ----------
    setting : Setting
    arm : str
        Of `wus_settings.ARMS`.
    seed : int
    """

    setting: Setting
    arm: str
    seed: int

    @property
    def label(self) -> str:
        """Name for a reader."""
        return f"wus, {self.setting.folder}, {self.arm}, seed {self.seed}"

    @property
    def kind(self) -> str:
        """Runs of a setting take about as long as each other."""
        return f"wus, {self.setting.folder}"

    @property
    def seconds(self) -> float:
        """Evaluations take a third of a step an image."""
        setting = self.setting
        times = setting.steps // setting.evaluate_every
        evaluated = setting.tests + (setting.held_out if "WUS" in self.arm else 0)
        steps = setting.steps + times * evaluated / setting.batch / 3
        return setting.step_seconds * steps

    @property
    def needs(self) -> tuple[StudyJob, ...]:
        """The run whose cost it must have."""
        return (replace(self, arm=SHORTER[self.arm]),) if self.arm in SHORTER else ()

    @property
    def data(self) -> set[str]:
        """Names of the data sets that it needs."""
        return {self.setting.data}

    def made(self, data: Mapping[str, Data]) -> dict[str, Any]:
        """What its numbers depend on but for code."""
        setting = {k: v for k, v in asdict(self.setting).items() if k != "step_seconds"}
        if "WUS" not in self.arm:
            setting = {k: v for k, v in setting.items() if k not in RULE}
        files = data[self.setting.data].sha256
        return {"setting": setting, "arm": self.arm, "seed": self.seed, "data": files}

    def result(self, folder: Path) -> Path:
        """Its file, which is there when it is done."""
        return folder / FOLDER / self.setting.folder / file_name(self.arm, self.seed)

    def perform(self, place: Place, progress: Progress) -> None:
        """Train to the end, or from the last checkpoint on; or take what is there.

        Raises
        ------
        OutputExistsError
            If there is a result that was made otherwise, or is as long as another run costs.
        FormatError
            If the data set has too few images.
        """
        whole = place.data(self.setting.data)
        path, made = self.result(place.folder), self.made({self.setting.data: whole})
        found, steps = kept(path, made), self._steps(place.folder)
        if found is not None:
            _refuse_other_length(path, found, steps)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        checkpoint = path.parent / f".{file_name(self.arm, self.seed, '.pt')}"
        parts, of_this = (
            Parts.of(whole, self.setting),
            {**made, "steps": steps, "device": place.device},
        )
        experiment = self.setting.experiment(self.arm, steps)
        with one_thread(), torch.random.fork_rng(devices=[]), ExitStack() as stack:

            def begin() -> TimedRun:
                arm = experiment.arms[0]
                run = TimedRun.begin(experiment, arm, self.seed, parts.data, device=place.device)
                return cast(TimedRun, run)

            target = path.with_suffix(".zarr") if "WUS" in self.arm and self.seed == 0 else None
            begun, resumed = resume(begin, checkpoint, of_this, target)
            run = cast(TimedRun, begun)
            if "WUS" in self.arm:
                history = None
                if target is not None:
                    every = f"every:{max(run.experiment.steps // SNAPSHOTS, 1)}"
                    recorder = recorder_of(run, target, resumed, every, include=RECORDED)
                    history = stack.enter_context(recorder)
                stack.enter_context(run.skip(self.setting.rule, parts.held, history))
            diverged = to_its_end(run, checkpoint, of_this, progress)
            keep(path, made, {**run.numbers(), "diverged": diverged, "device": place.device})
        checkpoint.unlink(missing_ok=True)

    def _steps(self, folder: Path) -> int | None:
        """How many full steps cost what the run did that this one is compared with."""
        for need in self.needs:
            return steps_at_cost(in_full_steps(required(need.result(folder))))
        return None


def _refuse_other_length(path: Path, found: Mapping[str, Any], steps: int | None) -> None:
    if steps is not None and found.get("steps") != steps:
        raise OutputExistsError(
            f"{path} has {found.get('steps')} steps, and the run whose cost it must have costs "
            f"{steps}: remove the file to run it again"
        )


@dataclass(frozen=True)
class Parts:
    """A data set, divided for a setting: the same way for all seeds.

    Attributes
    ----------
    data : Data
        Some training images, and the first test images.
    held : tuple of images and int64 Tensor
        Training images that are not trained on, and their labels.
    """

    data: Data
    held: tuple[Any, torch.Tensor]

    @classmethod
    def of(cls, data: Data, setting: Setting) -> Parts:
        """Divide.

        Raises
        ------
        FormatError
            If there are too few images.
        """
        task, wanted = data.task, setting.held_out + setting.images
        if len(task.train_y) < wanted or len(task.validation_y) < setting.tests:
            raise FormatError(
                f"{setting.name} takes {wanted:,} training and {setting.tests:,} test images: "
                f"there are {data.about}"
            )
        generator = torch.Generator().manual_seed(seed_of(_HELD_SEED))
        order = torch.randperm(len(task.train_y), generator=generator)
        held, trained = order[: setting.held_out], order[setting.held_out : wanted]
        train: Any = Pictures(task.train_x, torch.Tensor.contiguous, trained)
        first: Any = Pictures(
            task.validation_x, torch.Tensor.contiguous, torch.arange(setting.tests)
        )
        part = Task(train, task.train_y[trained], first, task.validation_y[: setting.tests])
        judging = Pictures(task.train_x, data.plain, held), task.train_y[held]
        return cls(replace(data, task=part), judging)
