"""Tasks on this machine: threads, processes, or one after the other, by Dask's schedulers."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import (
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from contextlib import contextmanager
from functools import lru_cache, partial
from multiprocessing import connection, parent_process
from typing import Any, TypeVar

import dask.local
import dask.multiprocessing
import dask.threaded

from weightcast.store.errors import SchedulerError
from weightcast.store.scheduling import Workers

BATCH = 4096  # tasks that Dask knows of at a time: its graph has about 1 kB of each
GET: dict[str, Callable[..., Any]] = {
    "threads": dask.threaded.get,
    "processes": dask.multiprocessing.get,
    "synchronous": dask.local.get_sync,
}
R = TypeVar("R")


@contextmanager
def local_workers(scheduler: str, count: int) -> Iterator[Workers]:
    """Workers on this machine: see `weightcast.store.scheduling.workers`."""
    if scheduler == "synchronous":
        yield _LocalWorkers(scheduler, None)
    elif scheduler == "threads":
        with ThreadPoolExecutor(count) as threads:
            yield _LocalWorkers(scheduler, threads, count)
    else:
        context = dask.multiprocessing.get_context()
        with _Processes(count, context, initializer=end_with_parent) as processes:
            yield _LocalWorkers(scheduler, processes, count)


class _LocalWorkers(Workers):
    def __init__(self, scheduler: str, pool: Executor | None, count: int = 1) -> None:
        super().__init__(scheduler)
        self._pool, self._count = pool, count

    @property
    def count(self) -> int:
        return self._count

    def _run(
        self,
        what: str,
        function: Callable[..., R],
        tasks: Sequence[tuple[Any, ...]],
        common: object,
        finished: Callable[[], None],
    ) -> list[R]:
        if common is not None and self.scheduler == "processes":
            call: Callable[..., R] = partial(_call_with, pickle.dumps(common), function)
        else:
            call = function if common is None else partial(function, common)
        results: list[R] = []
        try:
            for first in range(0, len(tasks), BATCH):
                results += self._compute(call, tasks[first : first + BATCH], finished)
        except BaseException as error:
            self._end()
            if isinstance(error, BrokenExecutor):
                raise _worker_died(what) from error
            if isinstance(error, dask.multiprocessing.RemoteException):
                raise error.exception from error  # as it was raised: Dask adds a traceback to it
            raise
        return results

    def _compute(
        self,
        call: Callable[..., R],
        tasks: Sequence[tuple[Any, ...]],
        finished: Callable[[], None],
    ) -> tuple[R, ...]:
        get = GET[self.scheduler]
        # Calls without arguments, for Dask would look for keys of other tasks in them. Keys fall,
        # for it begins with the last: neighbours on the disk are read one after the other.
        graph = {f"{-i % BATCH:04}": (partial(call, *task),) for i, task in enumerate(tasks, 1)}
        done: tuple[R, ...] = get(
            graph,
            list(graph),
            pool=self._pool,
            callbacks=[(None, None, None, lambda *_: finished(), None)],
            optimize_graph=False,
            chunksize=1,
        )
        return done

    def _end(self) -> None:
        """Cancel what waits; wait for what runs, which may be writing files of this job."""
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)


def _worker_died(what: str) -> SchedulerError:
    return SchedulerError(
        f"a worker process ended in the middle of {what!r}: killed, or out of memory? Try fewer "
        "workers; a script must call this under if __name__ == '__main__'"
    )


class _Processes(ProcessPoolExecutor):
    """Processes that leave Ctrl-C to their parent, from their start on."""

    def submit(self, call: Callable[..., Any], /, *values: Any, **named: Any) -> Future[Any]:
        """Submit; here processes start, and they inherit the signals that are blocked."""
        kept = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            return super().submit(call, *values, **named)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, kept)


def end_with_parent() -> None:
    """End this process with its parent also when that is killed: nobody would tell it."""
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


_unpickled = lru_cache(maxsize=1)(pickle.loads)


def _call_with(common: bytes, function: Callable[..., R], *task: Any) -> R:
    """Call with what all tasks of a pass have in common, which a process unpickles once."""
    return function(_unpickled(common), *task)
