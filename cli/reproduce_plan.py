"""What ``weightcast reproduce --dry-run`` shows: what is done, what was begun, what is to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from weightcast.cli.console import echo, print_json, print_table

if TYPE_CHECKING:
    from weightcast.experiments.jobs import Place
    from weightcast.experiments.reproducing import AnyJob
    from weightcast.experiments.sources import Found

Progress = Sequence[tuple[int, int]]  # done, total of each job


def print_plan(
    jobs: Sequence[AnyJob], place: Place, found: Found, workers: int, *, as_json: bool
) -> int:
    """Show what there is to do: a row a job, or where there are many groups of jobs, a group."""
    from weightcast.experiments.pacing import seconds_of
    from weightcast.experiments.planned import progress_of, state_of

    progress = [progress_of(job, place, found.data) for job in jobs]
    if (data := str(found)) != "":
        echo(f"{data}\n", err=as_json)
    if as_json:
        keys = ("job", "state", "done", "of", "seconds")
        rows = [
            (job.label, state_of(job, *far).split(",")[0], *far, seconds_of(job))
            for job, far in zip(jobs, progress, strict=True)
        ]
        print_json([dict(zip(keys, row, strict=True)) for row in rows])
        return 0
    groups = list(dict.fromkeys(map(_group, jobs)))
    if len([group for group in groups if group != "forecasters"]) > 1:
        _print_groups(groups, jobs, progress, f"Results in {place.folder}")
    else:
        _print_jobs(jobs, progress, f"Results in {place.folder}")
    left = sum(done < total for done, total in progress)
    cores = f"{workers} cores" if workers > 1 else "one core"
    about = f", {_time(jobs, progress, workers)} on {cores}" if left else ""
    click.echo(f"{left} of {len(jobs)} to do{about}")
    return 0


def _print_jobs(jobs: Sequence[AnyJob], progress: Progress, title: str) -> None:
    from weightcast.experiments.planned import state_of

    rows = [
        (job.label, state_of(job, *far), _time([job], [far]))
        for job, far in zip(jobs, progress, strict=True)
    ]
    print_table(("run", "", "time"), rows, title, words=("",), wrapped=("run",))


def _print_groups(
    groups: Sequence[str], jobs: Sequence[AnyJob], progress: Progress, title: str
) -> None:
    rows = []
    for group in groups:
        own = [place for place, job in enumerate(jobs) if _group(job) == group]
        far = [progress[place] for place in own]
        left = sum(done < total for done, total in far)
        rows.append((group, f"{left} of {len(own)}", _time([jobs[place] for place in own], far)))
    print_table(("experiment", "to do", "time"), rows, title)


def _group(job: AnyJob) -> str:
    """The experiment or study of a job."""
    return job.label.split(",")[0]


def _time(jobs: Sequence[AnyJob], progress: Progress, workers: int = 1) -> str:
    """About how long the rest takes."""
    from weightcast.experiments.pacing import Pace, duration
    from weightcast.experiments.queueing import Event

    pace = Pace(jobs, workers)
    for place, (done, total) in enumerate(progress):
        pace.hear(Event(place, "running", done, total))
    return duration(pace.left) if any(done < total for done, total in progress) else ""
