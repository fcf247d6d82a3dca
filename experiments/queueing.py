"""Jobs in worker processes, one at a time each: none stops another, and all end with the caller."""

from __future__ import annotations

import signal
import sys
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context, resource_tracker
from pathlib import Path
from typing import Any, Literal, TypeVar

from weightcast.store import WeightcastError
from weightcast.store.pools import end_with_parent

Job = TypeVar("Job")
Progress = Callable[[int, int], None]
Call = Callable[[Any, Progress], object]

CONTEXT: Any = get_context("spawn")  # a forked copy of a process with torch's threads may hang
_EVERY = 0.2  # seconds between a job's reports


@dataclass(frozen=True)
class Event:
    """What happened to a job.

    Attributes
    ----------
    job : int
        Its place among the jobs.
    state : {"running", "done", "failed"}
    done, total : int
        How far it is; 0 of 0 when it starts.
    text : str
        Why it failed, in one line.
    """

    job: int
    state: Literal["running", "done", "failed"]
    done: int = 0
    total: int = 0
    text: str = ""


def work(
    call: Call, jobs: Sequence[Job], needs: Sequence[Sequence[int]], workers: int
) -> Generator[Event]:
    """Do jobs, the first ones first, in up to so many processes.

    Parameters
    ----------
    call : callable
        Does a job in a worker: called with it, and what to call with (done, total) meanwhile.
        Both it and the jobs are pickled.
    jobs : sequence
    needs : sequence of sequences of int
        For each job, those that must be done before it. If one fails, so does the job.
    workers : int

    Yields
    ------
    Event
        As they come. Whoever stops taking them ends the workers, in the middle of what they do.
    """
    waiting, done, failed = list(range(len(jobs))), set[int](), set[int]()
    crew: list[_Worker] = []
    try:
        while waiting or any(worker.busy for worker in crew):
            for job in [job for job in waiting if failed.intersection(needs[job])]:
                waiting.remove(job)
                failed.add(job)
                yield Event(job, "failed", text="what it needs failed")
            for job in [job for job in waiting if done.issuperset(needs[job])]:
                if (worker := _idle(crew, workers, call)) is None:
                    break
                waiting.remove(job)
                worker.begin(job, jobs[job])
                yield Event(job, "running")
            for event in _heard(crew):
                if event.state != "running":
                    (done if event.state == "done" else failed).add(event.job)
                yield event
    finally:
        for worker in crew:
            worker.end()
        for worker in crew:
            worker.process.join()


class _Worker:
    """A worker process, and our end of the pipe to it."""

    def __init__(self, call: Call) -> None:
        self.pipe, theirs = CONTEXT.Pipe()
        self.process = CONTEXT.Process(target=_serve, args=(theirs, call))
        # Ctrl-C is for the parent: a process inherits the signals that are blocked as it starts.
        # The first start would start Python's resource tracker too, which ends by unblocking them.
        resource_tracker.ensure_running()
        kept = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, kept)
        theirs.close()  # so that ours ends when the process does
        self.job: int | None = None

    @property
    def busy(self) -> bool:
        return self.job is not None

    def begin(self, place: int, job: object) -> None:
        self.job = place
        with suppress(OSError):  # it is dead, as the next `hear` finds
            self.pipe.send((place, job))

    def end(self) -> None:
        """Let it end; in the middle of a job, make it."""
        if self.busy:
            self.process.terminate()
        else:
            with suppress(OSError):
                self.pipe.send(None)

    def hear(self) -> Event:
        assert self.job is not None  # noqa: S101 - only busy workers are listened to
        try:
            event: Event = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode
            text = f"its process ended with exit code {code}: killed, or out of memory?"
            event = Event(self.job, "failed", text=text)
        if event.state != "running":
            self.job = None
        return event


def _idle(crew: list[_Worker], workers: int, call: Call) -> _Worker | None:
    """A worker for another job; a new one if there may be more, or one is dead."""
    crew[:] = [worker for worker in crew if worker.busy or worker.process.is_alive()]
    for worker in crew:
        if not worker.busy:
            return worker
    if len(crew) == workers:
        return None
    crew.append(_Worker(call))
    return crew[-1]


def _heard(crew: list[_Worker]) -> list[Event]:
    """What busy workers report, at least one thing if there are any."""
    by_pipe = {worker.pipe: worker for worker in crew if worker.busy}
    ready = connection.wait(list(by_pipe)) if by_pipe else []
    return [by_pipe[pipe].hear() for pipe in ready]


def _serve(pipe: connection.Connection, call: Call) -> None:
    """A worker's life: it ends when it is told to, or with its parent."""
    end_with_parent()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # files are closed, and recorders
    while (given := pipe.recv()) is not None:
        place, job = given
        try:
            call(job, _reporter(pipe, place))
        except Exception as error:
            pipe.send(Event(place, "failed", text=_told(error)))
        else:
            pipe.send(Event(place, "done"))


def _reporter(pipe: connection.Connection, place: int) -> Progress:
    """What a job calls with (done, total), as often as it likes."""
    told = 0.0

    def report(done: int, total: int) -> None:
        nonlocal told
        if (now := time.monotonic()) - told >= _EVERY:
            told = now
            pipe.send(Event(place, "running", done, total))

    return report


def _told(error: Exception) -> str:
    """An error in one line: with its place in the code where it is not one of ours."""
    text = " ".join(str(error).split())
    if isinstance(error, WeightcastError | OSError):
        return text
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {text} ({Path(place.filename).name}:{place.lineno})"
