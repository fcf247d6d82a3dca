"""How far ``weightcast reproduce`` is: bars on a terminal, else a line now and then."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from weightcast.cli.console import echo

if TYPE_CHECKING:
    from weightcast.experiments.pacing import Pace
    from weightcast.experiments.queueing import Event
    from weightcast.experiments.reproducing import AnyJob

EVERY = 60.0  # seconds between lines


@contextmanager
def shown(jobs: Sequence[AnyJob], workers: int) -> Iterator[Callable[[Event], None]]:
    """Show on stderr what happens to jobs; yields a function to call with each event."""
    from rich.console import Console

    from weightcast.experiments.pacing import Pace

    pace, console = Pace(jobs, workers), Console(stderr=True)
    if not console.is_terminal:
        lines = _Lines(jobs, pace)
        yield lines.hear
        return
    with _Bars(jobs, pace, console) as bars:
        yield bars.hear


class _Told:
    """What is said of all jobs."""

    def __init__(self, jobs: Sequence[AnyJob], pace: Pace) -> None:
        self.jobs, self.pace, self.ended = jobs, pace, 0

    def notice(self, event: Event) -> None:
        self.pace.hear(event)
        self.ended += event.state != "running"

    def __str__(self) -> str:
        from weightcast.experiments.pacing import duration

        count = f"{self.ended} of {len(self.jobs)}"
        return f"{count}, {duration(self.pace.left)} left" if self.pace.left else count


class _Lines:
    def __init__(self, jobs: Sequence[AnyJob], pace: Pace) -> None:
        from time import monotonic

        self.told, self.clock, self.at = _Told(jobs, pace), monotonic, monotonic()

    def hear(self, event: Event) -> None:
        self.told.notice(event)
        label = self.told.jobs[event.job].label
        if event.state != "running":
            echo(f"{label}: {event.state} ({self.told})", err=True)
        elif self.clock() - self.at > EVERY and event.total:
            echo(f"{label}: {event.done:,} of {event.total:,} ({self.told})", err=True)
        else:
            return
        self.at = self.clock()


class _Bars:
    """A bar for each job that runs, and one for all."""

    def __init__(self, jobs: Sequence[AnyJob], pace: Pace, console: Any) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        layout = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[told]}", markup=False),
        )
        self.told = _Told(jobs, pace)
        self.bars = Progress(*layout, console=console)
        self.whole = self.bars.add_task("all", total=1.0, told=str(self.told))
        self.by_job: dict[int, Any] = {}

    def __enter__(self) -> _Bars:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def hear(self, event: Event) -> None:
        self.told.notice(event)
        if event.state != "running":
            if event.job in self.by_job:
                self.bars.remove_task(self.by_job.pop(event.job))
        elif event.job not in self.by_job:
            label = self.told.jobs[event.job].label
            self.by_job[event.job] = self.bars.add_task(label, total=None, told="starting")
        elif event.total:
            place = f"{event.done:,} of {event.total:,}"
            bar = self.by_job[event.job]
            self.bars.update(bar, completed=event.done, total=event.total, told=place)
        self.bars.update(self.whole, completed=self.told.pace.done, told=str(self.told))
