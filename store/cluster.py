"""Tasks on a Dask cluster, by the address of its scheduler."""

from __future__ import annotations

import asyncio
import pickle
import queue
import threading
import uuid
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from weightcast.store.client import Connection, connected, line
from weightcast.store.errors import SchedulerError
from weightcast.store.scheduling import Workers

GONE_SECONDS = 60.0  # without any worker in the middle of a job: a nanny needs a few to start one
END_SECONDS = 10.0  # for calls that run to end, after an error
WATCH_SECONDS = 1.0
SPREAD_SECONDS = 5.0  # to copy what calls share; Dask tries for 30 s to reach a worker that is gone
GROUPS = 256  # Dask takes 1 to 3 ms and some kB for each of its tasks: more calls go into groups,
GROUPS_A_THREAD = 32  # of which there are enough for all threads to end at about the same time
R = TypeVar("R")
Answer = tuple[int, list[Any], BaseException | None]


@contextmanager
def cluster_workers(address: str) -> Iterator[Workers]:
    """Workers of a cluster: see `weightcast.store.scheduling.workers`."""
    with connected(address) as connection:
        yield _ClusterWorkers(connection)


class _ClusterWorkers(Workers):
    def __init__(self, connection: Connection) -> None:
        super().__init__(connection.address)
        self._connection = connection

    @property
    def count(self) -> int:
        return self._connection.call(self._connection.threads())

    def _run(
        self,
        what: str,
        function: Callable[..., R],
        tasks: Sequence[tuple[Any, ...]],
        common: object,
        finished: Callable[[], None],
    ) -> list[R]:
        size = max(1, len(tasks) // max(GROUPS, GROUPS_A_THREAD * self.count))
        name = uuid.uuid4().hex
        groups = [_Group(name, function, tasks[i : i + size]) for i in range(0, len(tasks), size)]
        results: list[list[R]] = [[]] * len(groups)
        answers: queue.SimpleQueue[Answer | None] = queue.SimpleQueue()
        futures: dict[int, Any] = {}  # of this job: what ends late must not touch the next one's
        job = asyncio.run_coroutine_threadsafe(
            self._watched(self._execute(groups, common, futures, answers.put)),
            self._connection.loop,
        )
        job.add_done_callback(lambda _: answers.put(None))
        try:
            while (answer := answers.get()) is not None:
                index, results[index], error = answer
                if error is not None:
                    raise error
                for _ in results[index]:
                    finished()
            job.result()
        except BaseException as error:
            job.cancel()
            with suppress(Exception):
                self._connection.call(self._end(name, futures), END_SECONDS)
            if _is_of_dask(error):
                raise self._gave_up(error) from error
            raise
        return [result for group in results for result in group]

    async def _execute(
        self,
        groups: Sequence[_Group],
        common: object,
        futures: dict[int, Any],
        put: Callable[[Answer], None],
    ) -> None:
        """Submit the groups, and put the answer of each as it comes."""
        client = self._connection.client
        shared: dict[str, Any] = {}
        if common is not None:  # a task of its own: made again if all who have it are lost
            shared["common"] = client.submit(pickle.loads, pickle.dumps(common), pure=False)
            with suppress(Exception):  # Dask sends tasks to where their arguments are: everywhere
                async with asyncio.timeout(SPREAD_SECONDS):
                    await client.replicate([shared["common"]])
        submitted = client.map(_call_all, groups, key="weightcast", pure=False, **shared)
        futures.update(enumerate(submitted))
        del submitted  # the cluster forgets what nothing refers to
        # Not `asyncio.gather`, which would cancel them with this: a client of Dask that is
        # cancelled while it gathers never gathers again. `_end` cancels their futures instead.
        if waiting := [asyncio.create_task(_answer(futures, i, put)) for i in futures]:
            await asyncio.wait(waiting)

    async def _watched(self, work: Coroutine[Any, Any, None]) -> None:
        """Work until it is done, or until all workers have been gone for too long."""
        both = [asyncio.create_task(work), asyncio.create_task(self._watch())]
        try:
            done, _ = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            done.pop().result()
        except SchedulerError:
            raise
        except Exception as error:  # whatever Dask raises: of tasks none comes this way
            raise self._gave_up(error) from error
        finally:
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)

    def _gave_up(self, error: BaseException) -> SchedulerError:
        return SchedulerError(f"the cluster at {self.scheduler} gave up: {line(error)}")

    async def _watch(self) -> None:
        gone = 0.0
        while gone < GONE_SECONDS:
            await asyncio.sleep(WATCH_SECONDS)
            async with asyncio.timeout(GONE_SECONDS):
                here = await self._connection.threads()
            gone = 0.0 if here else gone + WATCH_SECONDS
        raise SchedulerError(
            f"the cluster at {self.scheduler} has had no worker for {GONE_SECONDS:.0f} s: look at "
            f"what they logged, and start others with `dask worker {self.scheduler}`"
        )

    async def _end(self, name: str, futures: dict[int, Any]) -> None:
        """Cancel what waits; wait for what runs, which may be writing files of this job."""
        client = self._connection.client
        await client.cancel(list(futures.values()))
        while sum((await client.run(_end_job, name, on_error="ignore")).values()):
            await asyncio.sleep(0.05)


async def _answer(futures: dict[int, Any], index: int, put: Callable[[Answer], None]) -> None:
    """Put the answer of a group, and let the cluster forget it."""
    try:
        put((index, await futures[index], None))
    except Exception as error:
        put((index, [], error))
    del futures[index]


def _is_of_dask(error: BaseException) -> bool:
    """Whether Dask raised it, and not a task."""
    if isinstance(error, ImportError) and (error.name or "").startswith("weightcast"):
        return True  # on a worker that came later, and lacks this package
    return type(error).__module__.startswith("distributed.")


# ---- on the workers


@dataclass(frozen=True)
class _Group:
    """Some calls of a job; Dask would look for keys of other tasks in a plain tuple."""

    job: str
    function: Callable[..., Any]
    tasks: Sequence[tuple[Any, ...]]


_lock = threading.Lock()
_running: Counter[str] = Counter()  # groups of each job, in this process
_ended: deque[str] = deque(maxlen=100)


def _call_all(group: _Group, common: object = None) -> list[Any]:
    """The result of each call of a group; what is missing nobody waits for."""
    first = () if common is None else (common,)
    results: list[Any] = []
    with _lock:
        _running[group.job] += 1
    try:
        for task in group.tasks:
            if group.job in _ended:
                break
            results.append(group.function(*first, *task))
    finally:
        with _lock:
            _running.subtract([group.job])
            if not _running[group.job]:
                del _running[group.job]
    return results


def _end_job(name: str) -> int:
    """Start no more calls of a job in this process; how many groups still run."""
    with _lock:
        _ended.append(name)
        return _running[name]
