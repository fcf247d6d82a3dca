"""Where tasks run: threads, processes, one after the other, or on a Dask cluster by its address."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

from dask.system import CPU_COUNT

from weightcast.store.errors import UsageError

LOCAL = ("threads", "processes", "synchronous")
PROTOCOLS = ("tcp", "tls", "ucx")
Progress = Callable[[str, int, int], None]
R = TypeVar("R")


class Workers(ABC):
    """What runs tasks; `workers` makes them.

    Attributes
    ----------
    scheduler : str
        One of `LOCAL`, or the address of a cluster.
    """

    def __init__(self, scheduler: str) -> None:
        self.scheduler = scheduler

    @property
    @abstractmethod
    def count(self) -> int:
        """Number of workers; of a cluster the number of its threads, at this moment."""

    def run(
        self,
        what: str,
        function: Callable[..., R],
        tasks: Sequence[tuple[Any, ...]],
        progress: Progress | None = None,
        *,
        common: object = None,
    ) -> list[R]:
        """Call ``function(*task)`` for each task, and wait for all of them.

        When it returns or raises, none of these calls runs any more; after an error, the local
        workers have ended.

        Parameters
        ----------
        what : str
            What the tasks do, for `progress` and for messages.
        function : callable
            At the top of a module that every worker can import.
        tasks : sequence of tuples
            Small arguments; any number of tasks.
        progress : callable, optional
            Called here with (what, done, total): with done = 0 first, then after each task.
        common : object, optional
            The first argument of all calls, ``function(common, *task)``, if it is not None. A
            cluster gets it once; a worker process unpickles it once.

        Returns
        -------
        list
            The results, in the order of the tasks.

        Raises
        ------
        SchedulerError
            If the workers cannot finish: a process killed, a cluster gone.
        Exception
            Whatever a task raises; the tasks that wait are cancelled.
        """
        done = 0

        def finished() -> None:
            nonlocal done
            done += 1
            if progress:
                progress(what, done, len(tasks))

        if progress:
            progress(what, 0, len(tasks))
        return self._run(what, function, tasks, common, finished)

    @abstractmethod
    def _run(
        self,
        what: str,
        function: Callable[..., R],
        tasks: Sequence[tuple[Any, ...]],
        common: object,
        finished: Callable[[], None],
    ) -> list[R]:
        """Run the tasks, and call `finished` after each."""


@contextmanager
def workers(scheduler: str = "threads", count: int | None = None) -> Iterator[Workers]:
    """Workers that stay for several passes: one pool, or one client, for all of them.

    Parameters
    ----------
    scheduler : str
        "threads", "processes", "synchronous" (the calling thread, for debugging), or the address
        of a Dask scheduler, such as "tcp://host:8786".
    count : int, optional
        Number of threads or processes; by default, the cores that this process may use.

    Yields
    ------
    Workers

    Raises
    ------
    UsageError
        If the scheduler is unknown, or the count is below 1 or given for a cluster.
    SchedulerError
        If the cluster does not answer, or cannot do the work.
    MissingExtraError
        If a cluster is asked for and distributed is not installed.

    Examples
    --------
    >>> with workers("threads", 2) as few:
    ...     few.run("square", pow, [(1, 2), (2, 2), (3, 2)])
    [1, 4, 9]
    """
    check_scheduler(scheduler, count)
    if scheduler in LOCAL:
        from weightcast.store.pools import local_workers

        with local_workers(scheduler, count or cores()) as here:
            yield here
    else:
        from weightcast.store.cluster import cluster_workers

        with cluster_workers(scheduler) as there:
            yield there


def check_scheduler(scheduler: str, count: int | None = None) -> None:
    """Check a choice of scheduler and number of workers; nothing is contacted.

    Raises
    ------
    UsageError
        If the scheduler is unknown, or the count is below 1 or given for a cluster.

    Examples
    --------
    >>> check_scheduler("tcp://host:8786")
    >>> check_scheduler("magic")
    Traceback (most recent call last):
    weightcast.store.errors.UsageError: scheduler must be one of threads, processes, ...
    """
    if scheduler not in LOCAL and not _is_address(scheduler):
        raise UsageError(
            f"scheduler must be one of {', '.join(LOCAL)}, or the address of a Dask scheduler such "
            f"as tcp://host:8786: got {scheduler!r}"
        )
    if count is not None and count < 1:
        raise UsageError(f"workers must be at least 1: got {count}")
    if count is not None and scheduler not in LOCAL:
        raise UsageError(
            f"a cluster has its own workers: leave out workers = {count} with {scheduler}"
        )


def _is_address(text: str) -> bool:
    """Whether this is protocol://host:port, of a protocol that Dask knows."""
    try:
        parts = urlsplit(text)
        complete = bool(parts.hostname and parts.port)
    except ValueError:  # a port that is no number
        return False
    return complete and text == f"{parts.scheme}://{parts.netloc}" and parts.scheme in PROTOCOLS


def cores() -> int:
    """Cores that this process may use: of the machine, its affinity, and a container's limit."""
    if not hasattr(os, "sched_getaffinity"):  # macOS
        return int(CPU_COUNT)
    return min(CPU_COUNT, len(os.sched_getaffinity(0)))
