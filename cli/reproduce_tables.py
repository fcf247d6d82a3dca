"""What ``weightcast reproduce`` could run, and what it would."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from weightcast.cli.console import print_json, print_table

if TYPE_CHECKING:
    from pathlib import Path

    from weightcast.experiments.experiment import Experiment
    from weightcast.experiments.jobs import Run


def print_catalogue(experiments: Sequence[Experiment], seeds: int, *, as_json: bool) -> int:
    """Show the experiments."""
    from weightcast.experiments.jobs import jobs_of
    from weightcast.experiments.pacing import duration, seconds_of
    from weightcast.experiments.reproducing import plan

    rows: list[dict[str, Any]] = []
    for e in experiments:
        jumps = next((arm.jumps for arm in e.arms if arm.jumps), ())
        facts = {"name": e.name, "title": e.title, "paper": e.paper, "data": e.data}
        seconds = sum(map(seconds_of, jobs_of(plan([e], seeds))))
        arms = [arm.name for arm in e.arms]
        rows.append({**facts, "steps": e.steps, "jumps": jumps, "arms": arms, "seconds": seconds})
    if as_json:
        print_json([{**row, "seconds": round(row["seconds"])} for row in rows])
        return 0
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
    print_table(columns, cells, f"Time: on one core, for {seeds} seeds")
    return 0


def print_plan(runs: Sequence[Run], folder: Path, workers: int, *, as_json: bool) -> int:
    """Show what there is to do."""
    from weightcast.experiments.jobs import jobs_of
    from weightcast.experiments.pacing import Pace, duration, seconds_of

    left = jobs_of(runs, folder)
    jobs = [job for job in jobs_of(runs) if job in left or job in runs]
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
