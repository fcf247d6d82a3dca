"""The runs of the study of the early phase: one start, dense or sparse, trained to the end.

::

    imp: dense-seedN.zarr --steps 0 and k--> start --train from k to the end--> its numbers
         mask of the chain that rewinds to k --^ (sparse)

All in ``RESULTS/early-phase/NETWORK/``; how networks are trained is `imp_protocols`'.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weightcast.apply.masking import hold
from weightcast.apply.pruning import density
from weightcast.experiments.arm_run import Run
from weightcast.experiments.early_phase_starts import STARTS, Begun, Mask, Start, begin
from weightcast.experiments.experiment import Arm, Experiment
from weightcast.experiments.imp_dense import Dense, checkpoint_of, trained
from weightcast.experiments.imp_protocols import FRACTION, PROTOCOLS
from weightcast.experiments.imp_runs import Chain, go_on
from weightcast.experiments.kept import keep, kept
from weightcast.experiments.results import file_name
from weightcast.experiments.study import StudyJob

if TYPE_CHECKING:
    from weightcast.experiments.jobs import Place
    from weightcast.experiments.loading import Data
    from weightcast.experiments.queueing import Progress

FOLDER = "early-phase"
ROUND = 8  # of pruning, whose masks sparse networks have: 0.8^8 = 16.8 % of the weights
EVALUATIONS = 4  # of a run, and one before it begins


@dataclass(frozen=True)
class StartRun(StudyJob):
    """Train from a start at step k to the end.

    Attributes
    ----------
    dense : Dense
        The dense run, of the study of magnitude pruning, whose weights and protocol it takes up.
    start : Start
    k : int
        The step that it begins at.
    sparse : bool
        Whether it has the mask of the chain of pruning that rewinds to k.
    """

    dense: Dense
    start: Start
    k: int
    sparse: bool

    @property
    def experiment(self) -> Experiment:
        """The dense run's, with few evaluations."""
        entry = self.dense.protocol.experiment
        return replace(entry, evaluate_every=max(entry.steps // EVALUATIONS, 1))

    @property
    def name(self) -> str:
        """Of its file, without the seed."""
        kind = "sparse" if self.sparse else "dense"
        return f"{kind} {self.k} {self.start.name}"

    @property
    def label(self) -> str:
        """Name for a reader."""
        kind = "sparse" if self.sparse else "dense"
        where = f"{FOLDER}, {self.experiment.folder}, {kind}"
        return f"{where}, step {self.k}, {self.start.name}, seed {self.dense.seed}"

    @property
    def kind(self) -> str:
        """Jobs of a kind take proportionally as long as each other."""
        return f"{FOLDER}, {self.experiment.folder}"

    @property
    def seconds(self) -> float:
        """Roughly, on one core."""
        steps = self.experiment.steps - (0 if self.start.trains else self.k)
        return self.dense.protocol.step_seconds * steps

    @property
    def needs(self) -> tuple[StudyJob, ...]:
        """The dense run; of a sparse network, the rounds of pruning before its own."""
        return (self.dense, self.chain) if self.sparse else (self.dense,)

    @property
    def round(self) -> int:
        """Of pruning, whose mask a sparse network has."""
        return min(ROUND, self.dense.protocol.rounds)

    @property
    def chain(self) -> Chain:
        """The rounds that leave the mask: the last of them prunes for the next one."""
        dense = self.dense
        own = (dense.network, dense.budget, dense.seed, dense.recorded)
        return Chain(*own, "rewind", self.k, self.round - 1)

    @property
    def data(self) -> set[str]:
        """Names of the data sets that it needs."""
        return self.dense.data

    def made(self, data: Mapping[str, Data]) -> dict[str, Any]:
        """What its numbers depend on."""
        made = {**self.dense.made(data), "start": asdict(self.start), "k": self.k}
        del made["recorded steps"]  # it takes up two of them, whichever others there are
        made["experiment"]["evaluate_every"] = self.experiment.evaluate_every
        pruned = {"fraction": FRACTION, "round": self.round} if self.sparse else None
        return {**made, "arm": self.name, "pruned": pruned}

    def result(self, folder: Path) -> Path:
        """Its file."""
        return folder / FOLDER / self.experiment.folder / file_name(self.name, self.dense.seed)

    def perform(self, place: Place, progress: Progress) -> None:
        """Do it, as far as it is not done."""
        path, data = self.result(place.folder), place.data(self.experiment.data)
        made = self.made({self.experiment.data: data})
        if kept(path, made) is not None:
            return
        self.dense.require(self.k, place.folder)
        mask = self.chain.left(self.round, place.folder) if self.sparse else None
        begun: list[Begun] = []

        def at_k() -> Run:
            run, did = self._begin(data, mask, place)
            begun.append(did)
            return run

        def around(run: Run, resumed: bool) -> AbstractContextManager[object]:
            held = nullcontext() if mask is None else hold(run.network, mask, run.optimizer)
            if not resumed:
                run.measure()
            return held

        _, numbers = trained(at_k, around, checkpoint_of(path), made, progress)
        own = {
            "start": self.start.name,
            "k": self.k,
            "sparse": self.sparse,
            "seed": self.dense.seed,
            "remaining": density(mask) if mask is not None else 1.0,
            "about": data.about,
        }
        keep(path, made, {**own, **asdict(begun[-1]), **numbers})
        checkpoint_of(path).unlink(missing_ok=True)

    def _begin(self, data: Data, mask: Mask | None, place: Place) -> tuple[Run, Begun]:
        """The run at step k, its mask not held yet, and what its start did to the weights."""
        judged = self.dense.protocol.judged(data)
        arm, seed = Arm(self.name), self.dense.seed
        run = Run.begin(self.experiment, arm, seed, judged, device=place.device)
        begun = begin(run, self.start, self.k, self.dense.history(place.folder), mask)
        go_on(run, self.k)
        return run, begun


def runs_of(network: str, budget: str, seed: int, steps: tuple[int, ...]) -> list[StartRun]:
    """All runs of a seed that begin at some steps.

    Examples
    --------
    >>> runs = runs_of("lenet", "paper", 0, (500,))
    >>> len(runs), runs[0].label
    (25, 'early-phase, lenet, dense, step 500, rewound, seed 0')
    """
    recorded = tuple(sorted({0, *PROTOCOLS[network, budget].rewind, *steps}))
    dense = Dense(network, budget, seed, recorded)
    return [
        StartRun(dense, start, k, sparse)
        for k in steps
        for sparse in (False, True)
        for start in STARTS
        if sparse or not start.held
    ]
