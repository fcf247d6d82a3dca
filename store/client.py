"""A client of a Dask cluster, in an event loop and a thread of its own.

So no call can hang for ever, also where something else than a scheduler answers, and what
distributed logs of our client is told from what it logs of others.
"""

from __future__ import annotations

import asyncio
import logging
import platform
import threading
import warnings
from collections.abc import Awaitable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from importlib import metadata
from types import ModuleType
from typing import Any, TypeVar

from weightcast.store.errors import MissingExtraError, SchedulerError

CONNECT_SECONDS = 7.0  # for a scheduler to answer
WORKER_SECONDS = 9.0  # for its first worker to be there
CLOSE_SECONDS = 5.0
THREAD = "weightcast cluster"
NOISY = ("distributed", "tornado", "asyncio")
R = TypeVar("R")


class Connection:
    """A client that is connected; `connected` makes it.

    Attributes
    ----------
    address : str
        Of the scheduler.
    client : distributed.Client
        An asynchronous one: use it in coroutines that `call` runs.
    loop : asyncio.AbstractEventLoop
    """

    def __init__(self, address: str, client: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.address, self.client, self.loop = address, client, loop

    def call(self, work: Coroutine[Any, Any, R], seconds: float | None = None) -> R:
        """Run a coroutine in the client's thread, and wait for it here."""
        return _call(self.loop, work, seconds)

    async def threads(self) -> int:
        """Threads of all workers that are there now."""
        return sum((await self.client.nthreads()).values())


@contextmanager
def connected(address: str) -> Iterator[Connection]:
    """A connection to a cluster that has a worker, and whose workers can run this package.

    Parameters
    ----------
    address : str
        Of its scheduler, such as "tcp://host:8786".

    Raises
    ------
    SchedulerError
        If nothing answers there, no worker is there, or Python or this package differ there.
    MissingExtraError
        If distributed is not installed.
    """
    try:
        import distributed
    except ImportError as error:
        raise MissingExtraError(
            f"the cluster at {address} needs distributed: pip install 'weightcast[cluster]'; "
            f"{line(error)}"
        ) from error
    with _event_loop() as loop, _quiet():
        connection = Connection(address, _open(loop, distributed, address), loop)
        try:
            connection.call(_check(connection))
            yield connection
        finally:
            with suppress(Exception):  # of a scheduler that is gone
                connection.call(connection.client.close(), CLOSE_SECONDS)


def _open(loop: asyncio.AbstractEventLoop, distributed: ModuleType, address: str) -> Any:
    async def connect() -> Any:
        client = distributed.Client(
            address, timeout=CONNECT_SECONDS, set_as_default=False, asynchronous=True
        )
        try:
            async with asyncio.timeout(CONNECT_SECONDS + 1):  # the client's own may not work
                return await client
        except BaseException:
            with suppress(Exception):  # half open, as it is
                await asyncio.wait_for(client.close(), 1)
            raise

    try:
        with warnings.catch_warnings():  # what must be the same there is checked below
            warnings.simplefilter("ignore", distributed.versions.VersionMismatchWarning)
            return _call(loop, connect())
    except Exception as error:
        told = isinstance(error, OSError | ImportError | TypeError | ValueError)
        reason = line(error) if told else "what is there speaks another protocol"
        raise SchedulerError(
            f"no Dask scheduler answers at {address} ({reason}): start one with `dask scheduler`, "
            f"and its workers with `dask worker {address}`"
        ) from error


async def _check(connection: Connection) -> None:
    address, client = connection.address, connection.client
    try:
        async with asyncio.timeout(WORKER_SECONDS):
            while not await connection.threads():
                await asyncio.sleep(0.1)
    except TimeoutError as error:
        raise SchedulerError(
            f"the cluster at {address} has no worker: start some with `dask worker {address}`"
        ) from error
    found = {"the scheduler": await _answer(client.run_on_scheduler(_versions))}
    found |= await client.run(_versions, on_error="return")
    for where, versions in found.items():
        if isinstance(versions, BaseException):
            raise SchedulerError(
                f"{where} of the cluster at {address} cannot import weightcast ({line(versions)}): "
                f"install {_versions()} there"
            )
        if versions != _versions():
            raise SchedulerError(
                f"{where} of the cluster at {address} has {versions}: install {_versions()} "
                "there, as it is here"
            )


def _versions() -> str:
    python = ".".join(platform.python_version_tuple()[:2])
    return f"weightcast {metadata.version('weightcast')} on Python {python}"


async def _answer(answer: Awaitable[R]) -> R | Exception:
    try:
        return await answer
    except Exception as error:
        return error


def line(error: BaseException) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def _event_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop that runs in a thread of its own."""
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        stop = asyncio.Event()
        started.set_result((asyncio.get_running_loop(), stop))
        await stop.wait()
        if others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others, timeout=1)  # a client that was interrupted closes

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name=THREAD, daemon=True)
    thread.start()
    loop, stop = started.result()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(CLOSE_SECONDS)


def _call(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, R], seconds: float | None = None
) -> R:
    future = asyncio.run_coroutine_threadsafe(work, loop)
    try:
        return future.result(seconds)
    finally:
        future.cancel()


@contextmanager
def _quiet() -> Iterator[None]:
    """Drop what is logged in our client's thread: what matters of it becomes an error of ours."""

    def is_others(record: logging.LogRecord) -> bool:
        return record.threadName != THREAD

    names = [n for n in logging.root.manager.loggerDict if n.partition(".")[0] in NOISY]
    loggers = [logging.getLogger(name) for name in names]
    for logger in loggers:
        logger.addFilter(is_others)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_others)
