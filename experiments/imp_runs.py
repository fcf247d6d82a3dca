"""Rounds of pruning with rewinding, as a job that starts from the dense run.

::

    Dense --> dense-seedN.zarr, .json
                 |  prune 20 %
                 v
    Chain:    mask-01 --rewind to k, train--> round-01.json, mask-02 --rewind, train--> ...
                 |                                              |
    controls:    +-- new weights, or as many at random          +-- ...

What is there is not done again: a chain goes on with the next round, and a run from its checkpoint.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from weightcast.apply.masking import Held, hold
from weightcast.apply.pruning import density, prune, random_mask, save_mask
from weightcast.apply.rewinding import load_mask, rewind
from weightcast.experiments.arm_run import Run
from weightcast.experiments.batches import seed_of
from weightcast.experiments.building import network_of
from weightcast.experiments.experiment import Arm
from weightcast.experiments.imp_dense import FOLDER, Dense, ImpJob, checkpoint_of, trained
from weightcast.experiments.imp_protocols import FRACTION
from weightcast.experiments.kept import keep, kept
from weightcast.store import NonFiniteError
from weightcast.store.ring import lock

if TYPE_CHECKING:
    import torch

    from weightcast.experiments.jobs import Place
    from weightcast.experiments.loading import Data
    from weightcast.experiments.queueing import Progress
    from weightcast.experiments.study import StudyJob

Way = Literal["rewind", "random re-init", "random pruning"]
_LOOK = 1.0  # seconds between looks at what another process does


@dataclass(frozen=True)
class Chain(ImpJob):
    """Rounds of pruning: each starts from the masks that the one before has left.

    Attributes
    ----------
    way : {"rewind", "random re-init", "random pruning"}
        "rewind": prune what was trained, put the rest back to `step`, train from there. The
        controls have the masks of that chain: "random re-init" trains new initial weights from the
        first step, "random pruning" rewinds as many weights of each tensor, drawn anew.
    step : int
    rounds : int
    """

    way: Way
    step: int
    rounds: int

    @property
    def name(self) -> str:
        """Of the line in tables and pictures."""
        return f"{self.way} {self.step}"

    @property
    def label(self) -> str:
        """Name for a reader."""
        return f"{FOLDER}, {self.protocol.experiment.folder}, {self.name}, seed {self.seed}"

    @property
    def begins(self) -> int:
        """The step that its runs begin at."""
        return 0 if self.way == "random re-init" else self.step

    @property
    def steps(self) -> int:
        """Of a round."""
        return self.protocol.experiment.steps - self.begins

    @property
    def seconds(self) -> float:
        """Roughly, on one core."""
        return self.protocol.step_seconds * self.steps * self.rounds

    @property
    def own(self) -> tuple[str, str, int, tuple[int, ...]]:
        """What all jobs of a network and seed have in common."""
        return self.network, self.budget, self.seed, self.recorded

    @property
    def needs(self) -> tuple[StudyJob, ...]:
        """The dense run; of the controls the chain whose masks they have."""
        dense = Dense(*self.own)
        return (dense,) if self.way == "rewind" else (dense, self._masked)

    @property
    def _masked(self) -> Chain:
        """The chain that makes the masks."""
        return Chain(*self.own, "rewind", self.step, self.rounds)

    def made(self, data: Mapping[str, Data]) -> dict[str, Any]:
        """What the numbers of the last round depend on."""
        return self._made(data[self.protocol.experiment.data], self.rounds)

    def _made(self, data: Data, number: int) -> dict[str, Any]:
        own = self.made_by(self.name, data)
        return {**own, "fraction": FRACTION, "rewind": self.step, "round": number}

    def place_of(self, folder: Path) -> Path:
        """Its folder: a file of numbers for each round, and of the chain that makes them, masks."""
        return self.home(folder) / f"{self.way.replace(' ', '-')}-{self.step}-seed{self.seed}"

    def result(self, folder: Path) -> Path:
        """The file of the last round."""
        return self.place_of(folder) / f"round-{self.rounds:02}.json"

    def perform(self, place: Place, progress: Progress) -> None:
        """Do the rounds that are not done.

        A chain with more rounds or fewer has the same folder: of both, one does a round, while the
        other waits for it.

        Raises
        ------
        NonFiniteError
            If the dense run, or a round that another one goes on from, diverged.
        """
        data = place.data(self.protocol.experiment.data)
        total = self.rounds * self.steps
        for number in range(1, self.rounds + 1):
            before = (number - 1) * self.steps - self.begins

            def told(done: int, _: int, before: int = before) -> None:
                progress(before + done, total)

            with _alone(self.place_of(place.folder)):
                self._round(number, data, place, told)

    def _round(self, number: int, data: Data, place: Place, progress: Progress) -> None:
        home, made = self.place_of(place.folder), self._made(data, number)
        path = home / f"round-{number:02}.json"
        if kept(path, made) is not None:
            return
        mask = self._mask(number, place.folder)
        begin = partial(self._begin, number, self.protocol.judged(data), place)

        def masked(run: Run, _: bool) -> Held:
            return hold(run.network, mask, run.optimizer)

        run, numbers = trained(begin, masked, checkpoint_of(path), made, progress)
        if self.way == "rewind" and not numbers["diverged"]:
            # before the numbers, which say that the round is done
            after = prune(run.network, FRACTION, mask=mask)
            save_mask(after, home / _file(number + 1), overwrite=True)
        about = {"line": self.name, "seed": self.seed, "round": number, "remaining": density(mask)}
        keep(path, made, {**about, **numbers})
        checkpoint_of(path).unlink(missing_ok=True)

    def left(self, number: int, folder: Path) -> Mapping[str, torch.Tensor]:
        """The mask that a chain which makes masks has left for a round.

        Raises
        ------
        NonFiniteError
            If the round before diverged, so that there is none.
        """
        home = self.place_of(folder)
        before = kept(home / f"round-{number - 1:02}.json") or {}
        if diverged := before.get("diverged"):
            raise NonFiniteError(
                f"{self.label} has no mask for round {number}, as round {number - 1} diverged "
                f"({diverged}): ask for no more than {number - 1} rounds, or for fewer seeds"
            )
        return load_mask(home / _file(number))

    def _mask(self, number: int, folder: Path) -> Mapping[str, torch.Tensor]:
        """That a round trains with."""
        if self.way == "rewind" and number == 1:
            last, path = self.protocol.experiment.steps, self.place_of(folder) / _file(number)
            Dense(*self.own).require(last, folder)
            save_mask(prune(self.history(folder), FRACTION, step=last), path, overwrite=True)
        mask = self._masked.left(number, folder)
        if self.way == "random pruning":
            return random_mask(mask, seed_of(self.seed, number, 4))
        return mask

    def _begin(self, number: int, data: Data, place: Place) -> Run:
        """A round's run before its first step, all its weights still there."""
        entry = self.protocol.experiment
        run = Run.begin(entry, Arm(self.name), self.seed, data, device=place.device)
        if self.way == "random re-init":
            other = network_of(entry, data.classes, seed_of(self.seed, number, 3))
            run.network.load_state_dict(other.state_dict())
        else:
            rewind(run.network, self.history(place.folder), self.step)
        go_on(run, self.begins)
        return run


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Make a folder that others wait for meanwhile; wait for one that is at it already."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    while (descriptor := lock(path, create=True)) is None:
        time.sleep(_LOOK)
    try:
        yield
    finally:
        path.unlink()  # before it is let go, so that it is no other's
        os.close(descriptor)


def _file(number: int) -> str:
    """Of the mask that a round trains with."""
    return f"mask-{number:02}.safetensors"


def go_on(run: Run, step: int) -> None:
    """Let a run that has not begun take the batches and learning rates from `step` on."""
    updates = run.experiment.updates
    run.step = run.schedule.last_epoch = step
    for group in run.optimizer.param_groups:
        group["lr"] = updates.lr * updates.rate.factor(step)
