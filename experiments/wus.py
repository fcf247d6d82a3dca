"""Weight-update skipping (WUS), run again beside runs that cost the same."""

from __future__ import annotations

from collections.abc import Sequence

from weightcast.experiments.study import Request, Study, StudyJob
from weightcast.experiments.wus_document import facts, tables, write_document
from weightcast.experiments.wus_runs import WusRun
from weightcast.experiments.wus_settings import ARMS, settings
from weightcast.store import UsageError

_SETTINGS = settings()
NETWORKS = tuple(dict.fromkeys(name for name, _ in _SETTINGS))


def plan(request: Request) -> Sequence[StudyJob]:
    """Jobs, seed by seed, so that what is there early can be compared.

    Raises
    ------
    UsageError
        If a network is unknown, or there are no seeds.

    Examples
    --------
    >>> [job.label for job in plan(Request(networks=("vgg11",), seeds=1, budget="quick"))][:2]
    ['wus, vgg11-quick, plain, seed 0', 'wus, vgg11-quick, WUS, seed 0']
    """
    names = request.networks or NETWORKS[:1]
    if request.seeds < 1:
        raise UsageError(f"seeds must be at least 1: got {request.seeds}")
    for name in names:
        if name not in NETWORKS:
            raise UsageError(f"network must be one of {', '.join(NETWORKS)}: got {name!r:.60}")
    chosen = [_SETTINGS[name, request.budget] for name in names]
    return [WusRun(s, arm, seed) for s in chosen for seed in range(request.seeds) for arm in ARMS]


STUDY = Study(
    name="wus",
    title="Skipping weight updates while training gains little",
    paper="Safayenikoo and Akturk 2020",
    networks=NETWORKS,
    options=frozenset({"network"}),
    plan=plan,
    tables=tables,
    facts=facts,
    document=write_document,
)
