"""The jobs of ``weightcast reproduce``, done while a user looks on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from weightcast.experiments.jobs import Place
    from weightcast.experiments.reproducing import AnyJob


def do(jobs: Sequence[AnyJob], place: Place, workers: int) -> list[str]:
    """Do the jobs; what failed, in a line each."""
    from contextlib import closing

    from weightcast.cli.reproduce_bars import shown
    from weightcast.experiments.reproducing import reproduce

    if not jobs:
        return []
    failures, done = [], 0
    try:
        with shown(jobs, workers) as show, closing(reproduce(jobs, place, workers)) as events:
            for event in events:
                show(event)
                done += event.state == "done"
                if event.state == "failed":
                    failures.append(f"{jobs[event.job].label} failed: {event.text}")
    except KeyboardInterrupt:
        raise _Interrupted(
            f"interrupted, {done} of {len(jobs)} done: the same command goes on in "
            f"{place.folder}, with a run that was begun from its last checkpoint, of "
            "every half minute"
        ) from None
    return failures


class _Interrupted(click.ClickException):
    exit_code = 130
