"""What ``weightcast reproduce`` could run, and what it would."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from weightcast.cli.console import echo, print_json, print_table

if TYPE_CHECKING:
    from pathlib import Path

    from weightcast.experiments.experiment import Experiment
    from weightcast.experiments.reproducing import AnyJob
    from weightcast.experiments.study import Request, Study


def print_catalogue(
    experiments: Sequence[Experiment],
    studies: Iterable[Study],
    request: Request,
    *,
    as_json: bool,
) -> int:
    """Show the experiments and the studies."""
    rows = [_experiment(e, request.seeds) for e in experiments]
    others = [_study(study, request) for study in studies]
    if as_json:
        print_json([{**row, "seconds": round(row["seconds"])} for row in (*rows, *others)])
        return 0
    _print_experiments(rows, request.seeds)
    _print_studies(others)
    return 0


def _print_experiments(rows: Sequence[dict[str, Any]], seeds: int) -> None:
    from weightcast.experiments.pacing import duration

    columns = ("name", "title", "paper", "data", "steps", "jumps at", "arms", "time")
    cells = [
        (
            *(row[key] for key in ("name", "title", "paper", "data")),
            f"{row['steps']:,}",
            ", ".join(map(str, row["jumps"])),
            len(row["arms"]),
            duration(row["seconds"]),
        )
        for row in rows
    ]
    heading = f"Experiments. Time: on one core, for {seeds} seeds"
    print_table(columns, cells, heading, words=("title", "paper", "data"))


def _print_studies(rows: Sequence[dict[str, Any]]) -> None:
    from weightcast.experiments.pacing import duration

    columns = ("study", "title", "paper", "time, first network", "options")
    cells = [
        (
            *(row[key] for key in ("name", "title", "paper")),
            duration(row["seconds"]),
            ", ".join(f"--{option}" for option in row["options"]),
        )
        for row in rows
    ]
    print_table(columns, cells, "Studies", words=("title", "paper", "options"))
    for row in rows:
        echo(f"  networks of {row['name']}: {', '.join(row['networks'])}")


def _experiment(e: Experiment, seeds: int) -> dict[str, Any]:
    from weightcast.experiments.jobs import jobs_of
    from weightcast.experiments.pacing import seconds_of
    from weightcast.experiments.reproducing import plan

    return {
        "name": e.name,
        "title": e.title,
        "paper": e.paper,
        "data": e.data,
        "steps": e.steps,
        "jumps": next((arm.jumps for arm in e.arms if arm.jumps), ()),
        "arms": [arm.name for arm in e.arms],
        "seconds": sum(map(seconds_of, jobs_of(plan([e], seeds)))),
    }


def _study(study: Study, request: Request) -> dict[str, Any]:
    from weightcast.experiments.study import with_needs

    return {
        "name": study.name,
        "title": study.title,
        "paper": study.paper,
        "networks": list(study.networks),
        "options": sorted(study.options),
        "seconds": sum(job.seconds for job in with_needs(study.plan(request))),
    }


def print_plan(
    jobs: Sequence[AnyJob], left: Sequence[AnyJob], folder: Path, workers: int, *, as_json: bool
) -> int:
    """Show what there is to do."""
    from weightcast.experiments.pacing import Pace, duration, seconds_of

    states = ["to do" if job in left else "done" for job in jobs]
    if as_json:
        shown = zip(jobs, states, strict=True)
        print_json([{"job": j.label, "state": s, "seconds": seconds_of(j)} for j, s in shown])
        return 0
    rows = [
        (job.label, state, duration(seconds_of(job)) if state == "to do" else "")
        for job, state in zip(jobs, states, strict=True)
    ]
    print_table(("run", "", "time"), rows, f"Results in {folder}")
    cores = f"{workers} cores" if workers > 1 else "one core"
    about = f", {duration(Pace(left, workers).left)} on {cores}" if left else ""
    click.echo(f"{len(left)} of {len(jobs)} to do{about}")
    return 0
