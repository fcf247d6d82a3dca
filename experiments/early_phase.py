"""``weightcast reproduce early-phase``: what a network must have at step k to train well."""

from __future__ import annotations

from weightcast.experiments.early_phase_document import TITLE, facts, tables, write_document
from weightcast.experiments.early_phase_runs import FOLDER, StartRun, runs_of
from weightcast.experiments.imp_protocols import PROTOCOLS, Protocol
from weightcast.experiments.study import Request, Study
from weightcast.store import UsageError

NETWORKS = tuple(dict.fromkeys(network for network, _ in PROTOCOLS))
STEPS = (500, 2000)  # the paper's


def plan(request: Request) -> list[StartRun]:
    """The runs of a request: every start, dense and sparse, at each step, seed by seed.

    Raises
    ------
    UsageError
        If there is no such network, or a run cannot begin at a step.

    Examples
    --------
    >>> runs = plan(Request(seeds=3, rewind=(500,)))
    >>> len(runs), runs[-1].label
    (75, 'early-phase, lenet, sparse, step 500, rotation, sparse, seed 2')
    """
    runs = []
    for network in request.networks or NETWORKS[:1]:
        if network not in NETWORKS:
            raise UsageError(f"network must be one of {', '.join(NETWORKS)}: got {network!r}")
        steps = _steps(request, PROTOCOLS[network, request.budget])
        for seed in range(request.seeds):
            runs += runs_of(network, request.budget, seed, steps)
    return runs


def _steps(request: Request, protocol: Protocol) -> tuple[int, ...]:
    length = protocol.experiment.steps
    own = STEPS if request.budget == "paper" else protocol.rewind[-1:]
    steps = request.rewind or own
    for step in steps:
        if not 0 < step < length:
            raise UsageError(
                f"a step to begin at must be from 1 to {length - 1:,}, as the run of "
                f"{protocol.experiment.folder} has {length:,} steps: got {step}"
            )
        if steps.count(step) > 1:
            raise UsageError(f"steps to begin at must be distinct: got {step} more than once")
    return steps


STUDY = Study(
    name=FOLDER,
    title=TITLE,
    paper="Frankle, Schwab and Morcos 2020",
    networks=NETWORKS,
    options=frozenset({"network", "rewind"}),
    plan=plan,
    tables=tables,
    facts=facts,
    document=write_document,
)
