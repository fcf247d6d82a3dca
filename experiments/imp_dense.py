"""The dense run of pruning with rewinding, as a job; and what the jobs of a network share.

All results are in ``RESULTS/imp/NETWORK/``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from weightcast.experiments.arm_run import Run
from weightcast.experiments.checkpoints import resume
from weightcast.experiments.experiment import Arm
from weightcast.experiments.imp_protocols import PROTOCOLS, Protocol
from weightcast.experiments.kept import RECORDED, keep, kept, required
from weightcast.experiments.running import made_of, recorder_of, to_its_end
from weightcast.experiments.study import StudyJob
from weightcast.predictor import one_thread
from weightcast.recorder import Recorder
from weightcast.store import History, NonFiniteError

if TYPE_CHECKING:
    from weightcast.experiments.jobs import Place
    from weightcast.experiments.loading import Data
    from weightcast.experiments.queueing import Progress

FOLDER = "imp"
DENSE = "dense"  # the line of the whole network


@dataclass(frozen=True)
class ImpJob(StudyJob):
    """What the jobs of a network have in common.

    Attributes
    ----------
    network, budget : str
        Of `imp_protocols.PROTOCOLS`.
    seed : int
        Of the initial weights and the batches.
    recorded : tuple of int
        Steps that the history of the dense run has, beside its last.
    """

    network: str
    budget: str
    seed: int
    recorded: tuple[int, ...]

    @property
    def protocol(self) -> Protocol:
        """How it is trained."""
        return PROTOCOLS[self.network, self.budget]

    @property
    def kind(self) -> str:
        """Jobs of a kind take proportionally as long as each other."""
        return f"{FOLDER}, {self.protocol.experiment.folder}"

    @property
    def data(self) -> set[str]:
        """Names of the data sets that it needs."""
        return {self.protocol.experiment.data}

    def home(self, folder: Path) -> Path:
        """Folder of the network's results."""
        return folder / FOLDER / self.protocol.experiment.folder

    def history(self, folder: Path) -> Path:
        """Of the dense run."""
        return self.home(folder) / f"{DENSE}-seed{self.seed}.zarr"

    def made_by(self, name: str, data: Data) -> dict[str, Any]:
        """What the numbers of a run depend on."""
        made = made_of(self.protocol.experiment, Arm(name), self.seed, data, None)
        del made["versions"]
        made["data"] = data.sha256  # and not in which words it is described
        return {**made, "tests": self.protocol.tests}


@dataclass(frozen=True)
class Dense(ImpJob):
    """Train the whole network, and record the steps to rewind to, and the last."""

    @property
    def label(self) -> str:
        """Name for a reader."""
        return f"{FOLDER}, {self.protocol.experiment.folder}, {DENSE}, seed {self.seed}"

    @property
    def seconds(self) -> float:
        """Roughly, on one core."""
        return self.protocol.step_seconds * self.protocol.experiment.steps

    def made(self, data: Mapping[str, Data]) -> dict[str, Any]:
        """What its numbers, and its history, depend on."""
        own = self.made_by(DENSE, data[self.protocol.experiment.data])
        return {**own, RECORDED: list(self.recorded)}

    def result(self, folder: Path) -> Path:
        """Its file."""
        return self.home(folder) / f"{DENSE}-seed{self.seed}.json"

    def perform(self, place: Place, progress: Progress) -> None:
        """Do it, as far as it is not done."""
        entry, path = self.protocol.experiment, self.result(place.folder)
        data = place.data(entry.data)
        made = self.made({entry.data: data})
        if kept(path, made) is not None:
            return
        data = self.protocol.judged(data)
        begin = partial(Run.begin, entry, Arm(DENSE), self.seed, data, device=place.device)
        points = [step for step in self.recorded if step] + [entry.steps]  # 0 always is recorded
        schedule = f"steps:{','.join(map(str, points))}"
        history = self.history(place.folder)

        def recorded(run: Run, resumed: bool) -> Recorder:
            return recorder_of(run, history, resumed, schedule)

        _, numbers = trained(begin, recorded, checkpoint_of(path), made, progress, history)
        about = {"line": DENSE, "seed": self.seed, "round": 0, "remaining": 1.0}
        keep(
            path, made, {**about, **numbers, "experiment": made["experiment"], "about": data.about}
        )
        checkpoint_of(path).unlink(missing_ok=True)

    def require(self, step: int, folder: Path) -> None:
        """Check that training got as far as a step that others take up.

        Raises
        ------
        NonFiniteError
            If it diverged before.
        """
        diverged = required(self.result(folder))["diverged"]
        if diverged and step not in History(self.history(folder)).steps:
            raise NonFiniteError(
                f"{self.label} has no step {step:,} to go on from ({diverged}): "
                "leave this seed out, and ask for fewer"
            )


def trained(
    begin: Callable[[], Run],
    around: Callable[[Run, bool], AbstractContextManager[object]],
    checkpoint: Path,
    made: dict[str, Any],
    progress: Progress,
    history: Path | None = None,
) -> tuple[Run, dict[str, Any]]:
    """A run at its end, and its numbers.

    What `around` gives, of the run and whether it goes on from a checkpoint, is entered for it. It
    does so only if `history` is there, where one is given.
    """
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    with one_thread(), torch.random.fork_rng(devices=[]):
        run, resumed = resume(begin, checkpoint, made, history)
        with around(run, resumed):
            diverged = to_its_end(run, checkpoint, made, progress)
    trace = run.traces[run.arm.name]
    numbers = {"steps": trace.steps, "accuracy": trace.accuracy, "loss": trace.loss}
    device = next(run.network.parameters()).device.type
    return run, {**numbers, "seconds": run.seconds, "diverged": diverged, "device": device}


def checkpoint_of(path: Path) -> Path:
    """Of the run whose numbers go to `path`."""
    return path.with_name(f".{path.stem}.pt")
