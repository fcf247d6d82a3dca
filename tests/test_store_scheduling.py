"""Tasks on threads, processes and the calling thread, beside a plain loop."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import scheduling_tasks as at_work
from hypothesis import given, settings
from hypothesis import strategies as st
from scheduling_jobs import alive, job, workers_of
from store_reference import refuses
from support import eventually

from weightcast.store import NonFiniteError, SchedulerError, UsageError, WeightcastError, errors
from weightcast.store.scheduling import Workers, check_scheduler, workers

LOCAL = ("threads", "processes", "synchronous")
# What Dask's graphs would take for tasks, or for keys of tasks, if it looked into arguments.
ODD = st.sampled_from([0, 1, "a", ("a", 0), (abs, -1), [0, 1], {"a": (len, "b")}, None, 0.5])
TASKS = st.lists(st.lists(ODD, max_size=3).map(tuple), max_size=12)


@pytest.fixture(scope="module", params=LOCAL)
def pool(request: pytest.FixtureRequest) -> Iterator[Workers]:
    """Two workers of each kind, for all tests in which no task fails."""
    with workers(request.param, 2) as started:
        yield started


def record(into: list[Any]) -> Any:
    """A progress callback that keeps what it was told, and in which thread."""
    return lambda *told: into.append((*told, threading.get_ident()))


# ---- results


@settings(max_examples=30)
@given(tasks=TASKS, common=ODD)
def test_results_are_those_of_a_loop(pool: Workers, tasks: list[Any], common: object) -> None:
    first = () if common is None else (common,)
    expected = [at_work.collect(*first, *task) for task in tasks]
    assert pool.run("collect", at_work.collect, tasks, common=common) == expected


def test_many_tasks_keep_their_order(pool: Workers) -> None:
    """More than Dask is given at a time."""
    tasks = [(i, 7) for i in range(4200)]
    assert pool.run("divide", divmod, tasks) == [divmod(*task) for task in tasks]


@pytest.mark.parametrize("count", [0, 1, 5])
def test_progress_comes_after_each_task_in_the_callers_thread(pool: Workers, count: int) -> None:
    told: list[Any] = []
    pool.run("negate", abs, [(i,) for i in range(count)], record(told))
    here = threading.get_ident()
    assert told == [("negate", done, count, here) for done in range(count + 1)]


def test_the_same_workers_do_all_passes(pool: Workers) -> None:
    passes = [set(pool.run("look", at_work.where, [()] * 12)) for _ in range(3)]
    places = set[Any]().union(*passes)
    assert len(places) == pool.count == (1 if pool.scheduler == "synchronous" else 2)
    here = {process == os.getpid() for process, _ in places}
    assert here == {pool.scheduler != "processes"}


def test_each_process_unpickles_once_what_all_calls_share(pool: Workers, tmp_path: Path) -> None:
    for value in (10, 20):
        common = at_work.Common(str(tmp_path), value)
        results = pool.run("add", at_work.add, [(i,) for i in range(50)], common=common)
        assert results == [value + i for i in range(50)]
    by_process = [path.name.partition(".")[0] for path in tmp_path.iterdir()]
    if pool.scheduler == "processes":
        assert sorted(by_process) == sorted(2 * list(set(by_process)))
        assert by_process
    else:
        assert not by_process


def test_workers_are_as_many_as_the_cores_of_this_process() -> None:
    kept = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(kept)})
        with workers() as started:
            assert (started.scheduler, started.count) == ("threads", 1)
    finally:
        os.sched_setaffinity(0, kept)
    with workers("threads", 5) as started:
        assert started.count == 5
    with workers("synchronous", 5) as started:
        assert started.count == 1


# ---- choices


@pytest.mark.parametrize(
    "scheduler",
    [
        *("", "thread", "dask", "Threads", "8786", "localhost:8786", "http://host:8786", "tcp:"),
        *(
            "tcp://",
            "tcp://host",
            "tcp://:8786",
            "tcp://host:port",
            "tcp://host:99999",
            "inproc://a",
        ),
        *("tcp://host:8786/", "tcp://host:8786 ", " tcp://host:8786", "TCP://host:8786"),
    ],
)
def test_a_scheduler_that_is_none_is_refused(scheduler: str) -> None:
    words = ("threads, processes, synchronous", "tcp://host:8786", repr(scheduler))
    with refuses(UsageError, *words):
        check_scheduler(scheduler)
    with refuses(UsageError, *words), workers(scheduler):
        pytest.fail("started")


@pytest.mark.parametrize("scheduler", [*LOCAL, "tcp://host:8786"])
@pytest.mark.parametrize("count", [0, -1])
def test_a_count_below_one_is_refused(scheduler: str, count: int) -> None:
    with refuses(UsageError, "at least 1", count):
        check_scheduler(scheduler, count)


def test_a_cluster_has_its_own_workers() -> None:
    for address in ("tcp://host:8786", "tls://10.0.0.1:8786", "ucx://[::1]:8786"):
        check_scheduler(address)
        with refuses(UsageError, address, "its own workers"):
            check_scheduler(address, 2)


# ---- errors


@pytest.mark.parametrize("scheduler", LOCAL)
def test_an_error_of_a_task_arrives_and_cancels_what_waits(scheduler: str, tmp_path: Path) -> None:
    tasks = [(3, str(tmp_path), i) for i in range(300)]
    told: list[Any] = []
    with refuses(NonFiniteError, "weights must be finite: 3"), workers(scheduler, 1) as started:
        started.run("check", at_work.fail_at, tasks, record(told))
    assert {path.name for path in tmp_path.iterdir()} == {"0", "1", "2", "3"}  # in their order
    assert [done for _, done, *_ in told] == [0, 1, 2, 3]


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_after_an_error_nothing_runs_any_more(scheduler: str, tmp_path: Path) -> None:
    with workers(scheduler, 2) as started:
        with refuses(NonFiniteError, "finite"):
            started.run(
                "check", at_work.fail_beside_a_slow_one, [(str(tmp_path), i) for i in (0, 1)]
            )
        assert (tmp_path / "ended").exists()


def test_an_error_of_the_progress_callback_ends_the_job(pool: Workers) -> None:
    def refuse(what: str, done: int, total: int) -> None:
        raise KeyError(what)

    with pytest.raises(KeyError, match="count"):
        pool.run("count", abs, [(1,)], refuse)
    assert pool.run("count", abs, [(-1,)]) == [1]  # it had not started


def test_a_worker_process_that_is_killed(tmp_path: Path) -> None:
    tasks = [(str(tmp_path), i, 5) for i in range(20)]
    words = ("'square'", "killed, or out of memory", "fewer workers")
    with refuses(SchedulerError, *words), workers("processes", 2) as started:
        started.run("square", at_work.die_once, tasks)


@pytest.mark.parametrize("leaf", [e for e in vars(errors).values() if isinstance(e, type)])
def test_errors_travel(leaf: type[Exception]) -> None:
    """Between processes and machines, an error is the same error."""
    error = leaf("weights must be finite: got nan")
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is leaf
    assert str(back) == str(error) == "weights must be finite: got nan"
    assert issubclass(leaf, WeightcastError | Warning)


# ---- the life of processes


@pytest.mark.parametrize("scheduler", LOCAL)
def test_ctrl_c_stops_quickly_and_quietly(tmp_path: Path, scheduler: str) -> None:
    with job(tmp_path, scheduler) as (process, calls):
        os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to all processes of the job
        assert process.communicate(timeout=20) == ("interrupted\n", "")
        assert len(list(calls.iterdir())) < 100
        assert not any(map(alive, workers_of(calls)))


def test_worker_processes_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    with job(tmp_path, "processes") as (process, calls):
        assert process.pid not in workers_of(calls)
        process.kill()
        assert eventually(lambda: not any(map(alive, workers_of(calls))))


def test_an_error_is_one_line_also_without_tblib(tmp_path: Path) -> None:
    """Without it, Dask puts the traceback of the worker into the message."""
    (tmp_path / "tblib.py").write_text("raise ImportError('no tblib')")
    (tmp_path / "scheduling_tasks.py").write_text(
        "from weightcast.store import SamplingError\n"
        "def wait_a_while(*_):\n    raise SamplingError('too few candidates')\n"
    )
    with job(tmp_path, "processes") as (process, _):
        said = "weightcast.store.errors.SamplingError: too few candidates\n"
        assert process.communicate(timeout=20) == (said, "")
