"""Tasks and whole jobs on Dask clusters: made here, and started from the command line."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scheduling_tasks as at_work
from cluster_processes import Processes
from distributed import Client, LocalCluster
from distributed.versions import VersionMismatchWarning
from scheduling_jobs import job
from store_reference import Recorded, files, left_in, refuses, wandering
from support import eventually

from weightcast.cli.main import main
from weightcast.store import (
    MissingExtraError,
    NonFiniteError,
    SchedulerError,
    build_dataset,
    client,
    cluster,
)
from weightcast.store.scheduling import Workers, workers

# A module of the standard library, but of another Python.
PLATFORM = """\
import importlib.util, sysconfig
from pathlib import Path
_place = Path(sysconfig.get_path("stdlib")) / "platform.py"
exec(compile(_place.read_text(), str(_place), "exec"))
python_version_tuple = lambda: ("2", "7", "18")
"""


@pytest.fixture(scope="module")
def local() -> Iterator[Any]:
    """A cluster whose size tests change: worker processes, with nannies that start them again."""
    options = {"threads_per_worker": 1, "dashboard_address": "127.0.0.1:0", "silence_logs": 60}
    with LocalCluster(n_workers=0, processes=True, **options) as cluster:
        yield cluster


@pytest.fixture(scope="module", params=[1, 2, 4])
def some(local: Any, request: pytest.FixtureRequest) -> Iterator[Workers]:
    """One, two and four workers of one cluster."""
    with scaled(local, request.param) as started:
        yield started


@contextmanager
def scaled(cluster: Any, count: int) -> Iterator[Workers]:
    cluster.scale(count)
    cluster.wait_for_workers(count, timeout=60)
    with workers(cluster.scheduler_address) as started:
        assert eventually(lambda: started.count == count)
        yield started


def record(into: list[Any]) -> Any:
    """A progress callback that keeps what it was told, and in which thread."""
    return lambda *told: into.append((*told, threading.get_ident()))


# ---- results


def test_results_are_those_of_a_loop(some: Workers) -> None:
    odd = [0, 1, "a", ("a", 0), (abs, -1), [0, 1], {"a": (len, "b")}, None, 0.5]
    tasks = [(), (1,), *((value, value) for value in odd)]
    for common in (None, 7, ("a", 0)):
        first = () if common is None else (common,)
        expected = [at_work.collect(*first, *task) for task in tasks]
        assert some.run("collect", at_work.collect, tasks, common=common) == expected
    assert some.run("nothing", abs, []) == []


def test_many_calls_keep_their_order(some: Workers) -> None:
    """More calls than Dask is given tasks."""
    tasks = [(i, 7) for i in range(1003)]
    told: list[Any] = []
    here = threading.get_ident()
    assert some.run("divide", divmod, tasks, record(told)) == [divmod(*task) for task in tasks]
    assert told == [("divide", done, 1003, here) for done in range(1004)]


def test_all_workers_work(some: Workers) -> None:
    for common in (None, "shared"):
        function = at_work.where if common is None else at_work.where_with
        for each in (2, 10):  # Dask spreads a few tasks by another rule than many
            places = some.run("look", function, [()] * each * some.count, common=common)
            assert len(set(places)) == some.count


def test_each_worker_unpickles_once_what_all_calls_share(some: Workers, tmp_path: Path) -> None:
    common = at_work.Common(str(tmp_path), 10)
    results = some.run("add", at_work.add, [(i,) for i in range(50)], common=common)
    assert results == [10 + i for i in range(50)]
    by_process = [path.name.partition(".")[0] for path in tmp_path.iterdir()]
    assert len(set(by_process)) == some.count
    assert len(by_process) <= 2 * some.count


# ---- errors


@pytest.fixture
def two(local: Any) -> Iterator[Workers]:
    with scaled(local, 2) as started:
        yield started


def test_an_error_of_a_task_arrives_and_cancels_what_waits(two: Workers, tmp_path: Path) -> None:
    tasks = [(3, str(tmp_path), i) for i in range(1000)]
    told: list[Any] = []
    with refuses(NonFiniteError, "weights must be finite: 3"):
        two.run("check", at_work.fail_at, tasks, record(told))
    called = len(list(tmp_path.iterdir()))
    assert 4 <= called < 500
    assert len(told) < 500
    with pytest.raises(ZeroDivisionError):
        two.run("divide", divmod, [(1, 1), (1, 0)])
    assert two.run("divide", divmod, [(7, 2)]) == [(3, 1)]  # the same workers go on
    assert len(list(tmp_path.iterdir())) == called


def test_workers_go_on_after_errors_among_results_that_arrive(two: Workers) -> None:
    """A client of Dask that is cancelled while it gathers never gathers again."""
    for _ in range(40):
        with pytest.raises(ZeroDivisionError):
            two.run("divide", divmod, [(1, 1)] * 30 + [(1, 0)] + [(1, 1)] * 200)
        assert two.run("divide", divmod, [(7, 2)] * 20) == [(3, 1)] * 20


def test_after_an_error_nothing_runs_any_more(two: Workers, tmp_path: Path) -> None:
    with refuses(NonFiniteError, "finite"):
        two.run("check", at_work.fail_beside_a_slow_one, [(str(tmp_path), i) for i in (0, 1)])
    assert (tmp_path / "ended").exists()


def test_an_error_of_the_progress_callback_ends_the_job(two: Workers, tmp_path: Path) -> None:
    def refuse(what: str, done: int, total: int) -> None:
        if done:
            raise KeyError(what)

    with pytest.raises(KeyError, match="wait"):
        two.run("wait", at_work.wait_a_while, [(str(tmp_path), i) for i in range(100)], refuse)
    assert len(list(tmp_path.iterdir())) < 10


# ---- a cluster from the command line


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """A scheduler; each test that needs workers starts its own."""
    processes = Processes(tmp_path_factory.mktemp("scheduler"))
    yield processes
    processes.end()


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """A scheduler and two workers."""
    processes = Processes(tmp_path_factory.mktemp("cluster"))
    processes.worker()
    processes.worker()
    with workers(processes.address) as started:
        assert eventually(lambda: started.count == 2)
    yield processes
    processes.end()


@contextmanager
def started(
    processes: Processes, count: int, path: Path | None = None
) -> Iterator[tuple[Workers, list[int]]]:
    """More workers, for one test, and their processes."""
    more = [processes.worker(path) for _ in range(count)]
    try:
        with workers(processes.address) as some:
            assert eventually(lambda: some.count == count)
            yield some, [process.pid for process in more]
    finally:
        processes.end(*more)


def test_a_cluster_from_the_command_line(real: Processes, tmp_path: Path) -> None:
    for _ in range(2):  # each with a client of its own
        with workers(real.address) as started:
            assert (started.scheduler, started.count) == (real.address, 2)
            assert started.run("divide", divmod, [(i, 7) for i in range(100)]) == [
                divmod(i, 7) for i in range(100)
            ]
            here = {worker.pid for worker in real.started[1:]}
            assert {process for process, _ in started.run("look", at_work.where, [()] * 20)} == here


def test_ctrl_c_stops_quickly_and_quietly(real: Processes, tmp_path: Path) -> None:
    with job(tmp_path, real.address) as (process, calls):
        os.killpg(process.pid, signal.SIGINT)
        assert process.communicate(timeout=30) == ("interrupted\n", "")
    called = len(list(calls.iterdir()))
    assert called < 100
    with workers(real.address) as started:  # and the workers do not go on with it
        started.run("look", at_work.where, [()] * 4)
    assert len(list(calls.iterdir())) == called


def test_what_distributed_logs_of_others_is_not_lost(
    real: Processes, caplog: pytest.LogCaptureFixture
) -> None:
    loggers = [logging.getLogger(name) for name in ("distributed.client", "distributed.core")]
    filters = [list(logger.filters) for logger in loggers]
    for logger in loggers:
        logger.addHandler(caplog.handler)
    with workers(real.address) as started:
        loggers[0].error("of mine")
        started.run("divide", divmod, [(1, 2)])
    assert [logger.filters for logger in loggers] == filters
    loggers[1].error("afterwards")
    for logger in loggers:
        logger.removeHandler(caplog.handler)
    assert set(caplog.messages) == {"of mine", "afterwards"}


def test_a_scheduler_that_dies(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    try:
        processes.worker()
        with job(tmp_path, processes.address) as (process, _):
            processes.end(processes.scheduler)
            out, err = process.communicate(timeout=60)
    finally:
        processes.end()
    assert out.startswith("weightcast.store.errors.SchedulerError: ")
    assert processes.address in out
    assert (out.count("\n"), err) == (1, "")


def test_what_a_killed_worker_had_is_done_by_others(bare: Processes, tmp_path: Path) -> None:
    told: list[Any] = []
    common = at_work.Common(str(tmp_path), 0)
    tasks = [(str(tmp_path), i, 50) for i in range(200)]
    with started(bare, 2) as (some, _):
        results = some.run("square", at_work.die_once_with, tasks, record(told), common=common)
    assert (tmp_path / "killed").exists()
    assert results == [i * i for i in range(200)]
    assert [done for _, done, *_ in told] == list(range(201))


def test_a_task_that_kills_its_workers(bare: Processes) -> None:
    with started(bare, 3) as (some, _), refuses(SchedulerError, bare.address, "died"):
        some.run("die", at_work.die, [()])


def test_all_workers_gone(bare: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "GONE_SECONDS", 0.5)
    monkeypatch.setattr(cluster, "WATCH_SECONDS", 0.1)
    worker = bare.worker()

    def kill(what: str, done: int, total: int) -> None:
        if done == 3:
            bare.end(worker)

    words = (bare.address, "no worker", "dask worker")
    with refuses(SchedulerError, *words), workers(bare.address) as some:
        some.run("wait", at_work.wait_a_while, [(str(tmp_path), i) for i in range(100)], kill)


# ---- what is no such cluster


def test_a_cluster_without_workers(bare: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "WORKER_SECONDS", 0.5)
    with refuses(SchedulerError, bare.address, "no worker", "dask worker"), workers(bare.address):
        pytest.fail("started")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            {"weightcast/__init__.py": "raise ImportError('none here')"},
            ["cannot import weightcast", "none here"],
        ),
        (
            {"weightcast-0.0.9.dist-info/METADATA": "Name: weightcast\nVersion: 0.0.9\n"},
            ["has weightcast 0.0.9 on Python 3."],
        ),
        ({"platform.py": PLATFORM}, ["has weightcast ", "on Python 2.7"]),
    ],
    ids=["no weightcast", "another weightcast", "another Python"],
)
def test_a_worker_that_cannot_do_the_work(
    bare: Processes, tmp_path: Path, files: dict[str, str], words: list[str]
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    worker = bare.worker(tmp_path)
    try:
        with (
            refuses(SchedulerError, bare.address, "tcp://127.0.0.1:", "install", *words),
            workers(bare.address),
        ):
            pytest.fail("started")
    finally:
        bare.end(worker)


def test_other_versions_that_do_not_matter_are_no_warning(bare: Processes, tmp_path: Path) -> None:
    """Dask would print a table of all libraries."""
    (tmp_path / "toolz-0.0.9.dist-info").mkdir()
    (tmp_path / "toolz-0.0.9.dist-info" / "METADATA").write_text("Name: toolz\nVersion: 0.0.9\n")
    with started(bare, 1, tmp_path):
        with workers(bare.address) as some:  # only now the scheduler knows of it
            assert some.run("divide", divmod, [(7, 2)]) == [(3, 1)]
        with pytest.warns(VersionMismatchWarning, match="toolz"):
            Client(bare.address, set_as_default=False).close()


def test_a_scheduler_that_cannot_do_the_work(tmp_path: Path) -> None:
    (tmp_path / "fake" / "weightcast").mkdir(parents=True)
    (tmp_path / "fake" / "weightcast" / "__init__.py").write_text("raise ImportError('none here')")
    processes = Processes(tmp_path, tmp_path / "fake")
    try:
        processes.worker()
        words = ("the scheduler", processes.address, "cannot import weightcast", "none here")
        with refuses(SchedulerError, *words), workers(processes.address):
            pytest.fail("started")
    finally:
        processes.end()


@pytest.fixture
def foreign(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of something that accepts connections and says this; None says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        kept: list[socket.socket] = []

        def serve() -> None:
            with suppress(OSError):
                while True:
                    kept.append(server.accept()[0])
                    if request.param is not None:
                        kept[-1].sendall(request.param)
                        kept[-1].shutdown(socket.SHUT_RDWR)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connection in kept:
            connection.close()


ANSWERS = [None, b"", b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n", bytes(99)]


@pytest.mark.parametrize("foreign", ANSWERS, indirect=True)
def test_an_address_of_something_else(foreign: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "CONNECT_SECONDS", 0.5)
    with refuses(SchedulerError, foreign, "no Dask scheduler", "dask worker"), workers(foreign):
        pytest.fail("started")


def test_ctrl_c_while_nothing_answers(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, ExitStack() as kept:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        asked = job(tmp_path, address, lambda: kept.enter_context(server.accept()[0]))
        with asked as (process, _):
            os.killpg(process.pid, signal.SIGINT)
            assert process.communicate(timeout=20) == ("interrupted\n", "")


def test_an_address_where_nothing_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "CONNECT_SECONDS", 0.5)
    for address in ("tcp://127.0.0.1:1", "tcp://nowhere.invalid:8786", "tls://127.0.0.1:1"):
        with refuses(SchedulerError, address, "dask scheduler"), workers(address):
            pytest.fail("started")


@pytest.mark.parametrize("foreign", [None, b"SSH-2.0-OpenSSH_9.6\r\n"], indirect=True)
def test_nothing_else_is_printed(foreign: str, tmp_path: Path) -> None:
    with job(tmp_path, foreign) as (process, _):
        out, err = process.communicate(timeout=30)
    said = f"weightcast.store.errors.SchedulerError: no Dask scheduler answers at {foreign}"
    assert out.startswith(said)
    assert (out.count("\n"), err) == (1, "")


def test_without_distributed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        refuses(MissingExtraError, "weightcast[cluster]", "tcp://localhost:8786"),
        workers("tcp://localhost:8786"),
    ):
        pytest.fail("started")


# ---- whole jobs


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of which half never move: ties at zero, in 20 chunks along the weights."""
    walk = wandering(100, 60)
    weights = np.where(np.arange(100) % 2, walk.weights, walk.weights[0])
    recorded = Recorded(walk.table, walk.steps, weights)
    return recorded.write(tmp_path_factory.mktemp("history") / "run.zarr", width=5)


@pytest.fixture(scope="module")
def expected(history: Path) -> dict[str, bytes]:
    """The dataset that the calling thread builds."""
    path = history.with_name("data.zarr")
    build_dataset(history, path, 600, scheduler="synchronous")
    return files(path)


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_a_dataset_from_this_machine(
    history: Path, expected: Any, tmp_path: Path, scheduler: str
) -> None:
    build_dataset(history, tmp_path / "data.zarr", 600, scheduler=scheduler, workers=2)
    assert files(tmp_path / "data.zarr") == expected


def test_a_dataset_from_a_cluster(
    history: Path, expected: Any, tmp_path: Path, some: Workers
) -> None:
    build_dataset(history, tmp_path / "data.zarr", 600, scheduler=some.scheduler)
    assert files(tmp_path / "data.zarr") == expected


def test_a_dataset_where_workers_are_killed(
    history: Path, expected: Any, tmp_path: Path, bare: Processes
) -> None:
    """One at the beginning of the first pass, others in the middle of later ones."""
    stages: list[str] = []

    def kill_one(what: str, done: int, total: int) -> None:
        if what not in stages and done == 3 * len(stages):
            stages.append(what)
            os.kill(victims.pop(), signal.SIGKILL)

    with started(bare, 5) as (_, victims):
        build_dataset(
            history, tmp_path / "data.zarr", 600, scheduler=bare.address, progress=kill_one
        )
    assert len(stages) == 4
    assert files(tmp_path / "data.zarr") == expected
    assert left_in(tmp_path) == ["data.zarr"]


def test_a_dataset_from_the_command_line(
    history: Path,
    expected: Any,
    tmp_path: Path,
    real: Processes,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    line = ["dataset", "build", str(history), "-o", "data.zarr", "--samples", "600", "--scheduler"]
    assert main([*line, real.address]) == 0
    assert files(tmp_path / "data.zarr") == expected
    capfd.readouterr()
    assert main([*line, real.address, "--overwrite", "--workers", "2"]) == 2
    assert main([*line, "tcp://nowhere", "--overwrite"]) == 2
    monkeypatch.setattr(client, "CONNECT_SECONDS", 0.5)
    assert main([*line, "tcp://127.0.0.1:1", "--overwrite"]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    for message, words in zip(
        err.splitlines(), ("its own workers", "tcp://nowhere", "dask scheduler"), strict=True
    ):
        assert words in message
    assert files(tmp_path / "data.zarr") == expected
    assert left_in(tmp_path) == ["data.zarr"]


def test_relative_paths_are_those_of_the_caller(
    history: Path, expected: Any, tmp_path: Path, real: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workers stand in another folder."""
    shutil.copytree(history, tmp_path / "run.zarr")
    monkeypatch.chdir(tmp_path)
    build_dataset("run.zarr", "data.zarr", 600, scheduler=real.address)
    assert files(tmp_path / "data.zarr") == expected


def test_a_dataset_that_cannot_be_built_leaves_nothing(tmp_path: Path, two: Workers) -> None:
    recorded = wandering(100, 60)
    recorded.weights[:, 77] = np.nan
    history = recorded.write(tmp_path / "run.zarr", width=5)
    with refuses(NonFiniteError, "w[77]", history):
        build_dataset(history, tmp_path / "data.zarr", 600, scheduler=two.scheduler)
    assert left_in(tmp_path) == ["run.zarr"]
