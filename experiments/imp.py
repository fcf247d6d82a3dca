"""``weightcast reproduce imp``: iterative magnitude pruning with rewinding."""

from __future__ import annotations

from weightcast.experiments.imp_dense import FOLDER
from weightcast.experiments.imp_document import TITLE, facts, tables, write_document
from weightcast.experiments.imp_protocols import PAPER, PROTOCOLS, Protocol
from weightcast.experiments.imp_runs import Chain, Way
from weightcast.experiments.study import Request, Study
from weightcast.store import UsageError

NETWORKS = tuple(dict.fromkeys(network for network, _ in PROTOCOLS))
CONTROLS: tuple[Way, ...] = ("random re-init", "random pruning")
MOST_ROUNDS = 50  # of 10,000 weights, one would remain


def plan(request: Request) -> list[Chain]:
    """The chains of a request, seed by seed: a line for each step to rewind to, and the controls.

    Raises
    ------
    UsageError
        If there is no such network, or a step or the number of rounds cannot be.

    Examples
    --------
    >>> [chain.name for chain in plan(Request(seeds=1, rewind=(0, 400)))]
    ['rewind 0', 'rewind 400', 'random re-init 400', 'random pruning 400']
    """
    chains = []
    for network in request.networks or NETWORKS[:1]:
        if network not in NETWORKS:
            raise UsageError(f"network must be one of {', '.join(NETWORKS)}: got {network!r}")
        protocol = PROTOCOLS[network, request.budget]
        steps, rounds = _steps(request, protocol), _rounds(request, protocol)
        nearest = min(steps, key=lambda step: abs(step - protocol.control))
        recorded = tuple(sorted({0, *protocol.rewind, *steps}))
        lines: list[tuple[Way, int]] = [("rewind", step) for step in steps]
        lines += [(control, nearest) for control in CONTROLS]
        chains += [
            Chain(network, request.budget, seed, recorded, *line, rounds)
            for seed in range(request.seeds)
            for line in lines
        ]
    return chains


def _steps(request: Request, protocol: Protocol) -> tuple[int, ...]:
    steps, length = request.rewind or protocol.rewind, protocol.experiment.steps
    for step in steps:
        if not 0 <= step < length:
            raise UsageError(
                f"a step to rewind to must be from 0 to {length - 1:,}, as the run of "
                f"{protocol.experiment.folder} has {length:,} steps: got {step}"
            )
        if steps.count(step) > 1:
            raise UsageError(f"steps to rewind to must be distinct: got {step} more than once")
    return steps


def _rounds(request: Request, protocol: Protocol) -> int:
    rounds = protocol.rounds if request.rounds is None else request.rounds
    if not 1 <= rounds <= MOST_ROUNDS:
        raise UsageError(f"rounds of pruning must be from 1 to {MOST_ROUNDS}: got {rounds}")
    return rounds


STUDY = Study(
    name=FOLDER,
    title=TITLE,
    paper=PAPER,
    networks=NETWORKS,
    options=frozenset({"network", "rewind", "rounds"}),
    plan=plan,
    tables=tables,
    facts=facts,
    document=write_document,
)
